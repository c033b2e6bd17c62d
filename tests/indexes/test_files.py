"""The container: what is written comes back; every damaged byte is seen; a write that fails leaves nothing and loses nothing."""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import cuts, flips

from rerank_engine.errors import FileFormatError, InputError
from rerank_engine.indexes import files
from rerank_engine.indexes.files import ALIGN, DTYPES, HEADER, MAGIC, VERSION, Writer, open_file

XORS = (0x01, 0x80, 0xFF, 0x20)
ARRAYS = {dtype: np.arange(7).astype(dtype) for dtype in sorted(DTYPES)}


def small(path: Path, meta: dict[str, Any] | None = None) -> bytes:
    with Writer(path, "test") as file:
        file.add("a", np.uint8, [np.arange(5)])
        file.add("empty", "<u4", [])
        file.add("b", "<f4", [[1.5], [2.5, 3.5]])
        file.meta = meta or {"n": 1}
    return path.read_bytes()


@pytest.mark.parametrize("in_memory", [False, True])
def test_round_trip(tmp_path: Path, in_memory: bool) -> None:
    with Writer(tmp_path / "x", "kind") as file:
        for name, array in ARRAYS.items():
            file.add(name, array.dtype, [array[:3], array[3:3], array[3:]])
        file.add("nothing", np.int64, [])
        file.add("nothing of one piece", np.float32, [np.empty(0, np.float32)])
        file.meta = {"text": "é\ud800", "number": 1.1, "none": None, "deep": [[{}]]}
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    stored = open_file(tmp_path / "x", "kind", verify=True, in_memory=in_memory)
    assert stored.meta == {"text": "é\ud800", "number": 1.1, "none": None, "deep": [[{}]]}
    assert list(stored.sections) == [*ARRAYS, "nothing", "nothing of one piece"]
    for name, array in ARRAYS.items():
        assert stored.sections[name].dtype == array.dtype
        np.testing.assert_array_equal(stored.sections[name], array)
        assert not stored.sections[name].flags.writeable
        assert in_memory or stored.sections[name].ctypes.data % ALIGN == 0
    assert stored.sections["nothing"].shape == (0,)
    assert stored.sections["nothing"].dtype == np.int64


def test_a_file_without_sections(tmp_path: Path) -> None:
    with Writer(tmp_path / "x", "kind"):
        pass
    stored = open_file(tmp_path / "x", "kind", verify=True)
    assert (dict(stored.sections), stored.meta) == ({}, {})


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    data, path = small(tmp_path / "x"), tmp_path / "x"
    table = struct.unpack_from("<Q", data, 24)[0]
    for at, _ in flips(path, XORS):
        with pytest.raises(FileFormatError):
            open_file(path, "test", verify=True)
        if at < HEADER.size or at >= table:  # found by opening alone
            with pytest.raises(FileFormatError):
                open_file(path, "test")
    assert open_file(path, "test", verify=True).meta == {"n": 1}


def test_every_other_length_is_found(tmp_path: Path) -> None:
    small(tmp_path / "x")
    for _ in cuts(tmp_path / "x"):
        for in_memory in (False, True):
            with pytest.raises(FileFormatError):
                open_file(tmp_path / "x", "test", in_memory=in_memory)
    assert open_file(tmp_path / "x", "test", verify=True).meta == {"n": 1}


def sealed(body: bytes, table: object, *, order: int = 0x01020304, version: int = VERSION, offset: int | None = None) -> bytes:
    """A file with this table, and checksums that are right."""
    raw = table if isinstance(table, bytes) else json.dumps(table).encode()
    at = HEADER.size + len(body) if offset is None else offset
    size = HEADER.size + len(body) + len(raw)
    head = HEADER.pack(MAGIC, version, order, size, at, len(raw), zlib.crc32(raw), 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head)) + body + raw


def entry(**other: Any) -> dict[str, Any]:
    return {"name": "a", "dtype": "<u4", "offset": 64, "bytes": 8, "crc32": zlib.crc32(bytes(8)), **other}


def table(*entries: Any, **other: Any) -> dict[str, Any]:
    return {"kind": "test", "meta": {}, "sections": list(entries), **other}


HOSTILE: dict[str, Any] = {
    "outside": table(entry(offset=128)),
    "far outside": table(entry(offset=2**62)),
    "beyond any integer": table(entry(offset=10**30)),
    "negative": table(entry(offset=-64)),
    "in the header": table(entry(offset=0)),
    "not aligned": table(entry(offset=68)),
    "too long": table(entry(bytes=2**40)),
    "over the table": table(entry(bytes=68)),
    "negative length": table(entry(bytes=-8)),
    "half an element": table(entry(bytes=7)),
    "overlapping": table(entry(), entry(name="b")),
    "the same name twice": table(entry(bytes=0), entry(bytes=8)),
    "a gap": table(entry(offset=64, bytes=0, crc32=0)),
    "unknown dtype": table(entry(dtype="<c8")),
    "object dtype": table(entry(dtype="|O")),
    "other byte order": table(entry(dtype=">u4")),
    "dtype with a shape": table(entry(dtype="(1000000,)u4")),
    "offset a float": table(entry(offset=64.0)),
    "offset a bool": table(entry(offset=True)),
    "offset a string": table(entry(offset="64")),
    "name a list": table(entry(name=["a"])),
    "name null": table(entry(name=None)),
    "entry without a name": table({"dtype": "<u4", "offset": 64, "bytes": 8, "crc32": 0}),
    "entry a number": table(5),
    "sections a number": table(sections=5) | {"sections": 5},
    "sections a string": {"kind": "test", "meta": {}, "sections": "abc"},
    "sections an object": {"kind": "test", "meta": {}, "sections": {"a": 1}},
    "no sections": {"kind": "test", "meta": {}},
    "no kind": {"meta": {}, "sections": []},
    "kind a number": table(kind=5),
    "meta a list": table(entry(), meta=[]),
    "a list": [],
    "a number": b"5",
    "nothing": b"",
    "no JSON": b"{",
    "not UTF-8": b'{"kind": "\xff"}',
    "NUL": b"\0\0\0\0",
    "deep": b"[" * 200_000 + b"]" * 200_000,
    "deep meta": b'{"kind": "test", "sections": [], "meta": {"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}}",
    "a number of 10,000 digits": b'{"kind": "test", "meta": {}, "sections": [], "x": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_tables_with_right_checksums(tmp_path: Path, case: str) -> None:
    (tmp_path / "x").write_bytes(sealed(bytes(64), HOSTILE[case]))
    for in_memory in (False, True):
        with pytest.raises(FileFormatError, match="x: got a damaged file"):
            open_file(tmp_path / "x", "test", in_memory=in_memory)


def test_hostile_headers_with_right_checksums(tmp_path: Path) -> None:
    path, good = tmp_path / "x", table(entry(bytes=64, crc32=zlib.crc32(bytes(64))))
    path.write_bytes(sealed(bytes(64), good))
    assert open_file(path, "test", verify=True).sections["a"].tolist() == [0] * 16
    for data, message in [
        (sealed(bytes(64), good, version=VERSION + 1), f"format {VERSION + 1}; expected format {VERSION}.*Build the index again"),
        (sealed(bytes(64), good, order=0x04030201), "another byte order"),
        (sealed(bytes(64), good, offset=0), "bytes where"),
        (sealed(bytes(64), good, offset=2**63), "bytes where"),
        (b"PK\x03\x04" + bytes(100), "another kind of file"),
        (b"", "shorter than a header"),
        (bytes(63), "shorter than a header"),
    ]:
        path.write_bytes(data)
        with pytest.raises(FileFormatError, match=message):
            open_file(path, "test")
    path.write_bytes(sealed(bytes(63) + b"\1", table(entry())))
    with pytest.raises(FileFormatError, match="between sections, before 'table'"):
        open_file(path, "test", verify=True)


def test_other_kinds_and_paths(tmp_path: Path) -> None:
    small(tmp_path / "x")
    with pytest.raises(FileFormatError, match="kind 'test'; expected 'other'"):
        open_file(tmp_path / "x", "other")
    for path, message in [(tmp_path, "Is a directory"), (tmp_path / "none", "No such file"), (tmp_path / "x" / "y", "Not a dir")]:
        for in_memory in (False, True):
            with pytest.raises(FileFormatError, match=message):
                open_file(path, "test", in_memory=in_memory)
    with pytest.raises(FileFormatError, match="null byte"):
        open_file("a\0b", "test")


def test_verify_reports_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_CHUNK", 100)
    with Writer(tmp_path / "x", "test") as file:
        file.add("a", np.uint8, [np.zeros(250)])
    seen: list[tuple[int, int]] = []
    open_file(tmp_path / "x", "test", verify=True, progress=lambda done, total: seen.append((done, total)))
    size = (tmp_path / "x").stat().st_size
    assert seen == [(164, size), (264, size), (314, size), (size, size)]


def raising(pieces: int) -> Iterator[Any]:
    yield from [np.zeros(10)] * pieces
    raise RuntimeError("from the source")


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for before in (None, small):
        data = before(path) if before else None
        for fail in (lambda file: file.add("a", np.uint8, raising(3)), lambda file: file.add("a", np.uint8, raising(0))):
            with pytest.raises(RuntimeError, match="from the source"), Writer(path, "test") as file:
                fail(file)
        with pytest.raises(TypeError), Writer(path, "test") as file:
            file.meta = {"x": {1}}  # no JSON: found at the end
        with pytest.raises(KeyboardInterrupt), Writer(path, "test"):
            raise KeyboardInterrupt
        assert [p.name for p in tmp_path.iterdir()] == (["x"] if before else [])
        assert data is None or path.read_bytes() == data


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_disk_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    before = small(tmp_path / "x")

    def fail(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    broken: Callable[[], None] = {
        "write": lambda: monkeypatch.setattr(files, "open", lambda *args: Full(open(*args)), raising=False),  # noqa: SIM115
        "fsync": lambda: monkeypatch.setattr(os, "fsync", fail),
        "replace": lambda: monkeypatch.setattr(os, "replace", fail),
    }[call]
    broken()
    with pytest.raises(OSError, match="No space"):
        small(tmp_path / "x", {"other": 1})
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == before


class Full:
    """A file on a disk that has no place after 70 bytes."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        if self._file.tell() + len(data) > 70:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "x", "", "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="a place that can be written"), Writer(path, "test"):
            raise AssertionError("the block runs")
    assert list(tmp_path.iterdir()) == []


def test_readers_of_a_replaced_file_keep_the_old_one(tmp_path: Path) -> None:
    small(tmp_path / "x")
    old = open_file(tmp_path / "x", "test")
    with Writer(tmp_path / "x", "test") as file:
        file.add("a", np.uint8, [[9] * 5])
    assert old.sections["a"].tolist() == [0, 1, 2, 3, 4]
    assert open_file(tmp_path / "x", "test", verify=True).sections["a"].tolist() == [9] * 5
