"""The file that an index or a segment of one lies in: named arrays and a few numbers, checksummed, mapped read-only.

    0    header, 64 bytes: magic, format version, byte-order mark, file size, place and CRC-32 of the table, CRC-32 of the header
    64   sections, each at a multiple of 64, zeros between them
    end  table: JSON {"kind", "meta", "sections": [{"name", "dtype", "offset", "bytes", "crc32"}, ...]}

Little-endian. A file is written beside its place, synced, and renamed over it: a reader or a crash meets the old file or the new one.
`open_file` checks the header, the table and every section's bounds before it maps anything; `verify=True` reads and checks every byte.
A file that is cut short while it is mapped makes the process end with SIGBUS, as with any mapped file: replace files, do not rewrite them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import secrets
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import FileFormatError, InputError
from ..progress import Progress

MAGIC, VERSION, BYTE_ORDER, ALIGN = b"RERANKIX", 1, 0x01020304, 64
HEADER = struct.Struct("<8sIIQQQI16xI")  # magic, version, byte order, file size, table offset, table bytes, table crc, header crc
DTYPES = frozenset(("|u1", "|i1", "<u2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4"))
_CHUNK = 1 << 22  # bytes that are checked between two calls of progress


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """What a file holds. The arrays look into it: read-only, read from disk when they are touched. verify: reads every byte of it, and
    raises FileFormatError for one that changed."""

    kind: str
    meta: Mapping[str, Any]
    sections: Mapping[str, NDArray[Any]]
    verify: Callable[[], None]


class Writer:
    """`with Writer(path, kind) as file: file.add(name, dtype, chunks); file.meta = {...}`. When the block ends well, the file appears."""

    def __init__(self, path: str | Path, kind: str) -> None:
        self.path, self.kind, self.meta = Path(path), kind, dict[str, Any]()
        self._table: list[dict[str, Any]] = []
        self._temporary: Path
        self._file: BinaryIO

    def __enter__(self) -> Writer:
        try:
            if self.path.is_dir():
                raise IsADirectoryError("a folder")
            self._temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}.tmp")
            self._file = open(self._temporary, "xb")
        except (OSError, ValueError) as error:  # ValueError: no name at all, or NUL in it
            raise InputError(f"index file {self.path}", got=str(error), expected="a place that can be written") from error
        self._file.write(bytes(HEADER.size))
        return self

    def add(self, name: str, dtype: Any, chunks: Iterable[ArrayLike]) -> None:
        """A section from pieces that follow one another, so that it need not be in memory as a whole."""
        kind = np.dtype(dtype).str
        assert kind in DTYPES and all(section["name"] != name for section in self._table)
        self._align()
        offset, crc = self._file.tell(), 0
        for chunk in chunks:
            data = np.ascontiguousarray(chunk, dtype).view(np.uint8).data
            crc = zlib.crc32(data, crc)
            self._file.write(data)
        self._table.append({"name": name, "dtype": kind, "offset": offset, "bytes": self._file.tell() - offset, "crc32": crc})

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._finish()
                os.replace(self._temporary, self.path)
                sync_folder(self.path.parent)
        finally:
            with contextlib.suppress(OSError):  # closing writes what is left, which may fail again
                self._file.close()
            self._temporary.unlink(missing_ok=True)  # it is there only if something went wrong

    def _finish(self) -> None:
        self._align()
        offset = self._file.tell()
        table = json.dumps({"kind": self.kind, "meta": self.meta, "sections": self._table}, ensure_ascii=True).encode()
        self._file.write(table)
        head = HEADER.pack(MAGIC, VERSION, BYTE_ORDER, offset + len(table), offset, len(table), zlib.crc32(table), 0)[:-4]
        self._file.seek(0)
        self._file.write(head + struct.pack("<I", zlib.crc32(head)))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _align(self) -> None:
        self._file.write(bytes(-self._file.tell() % ALIGN))


def sync_folder(folder: Path) -> None:
    """Makes a rename in a folder last through a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_file(path: str | Path, kind: str, *, verify: bool = False, in_memory: bool = False, progress: Progress | None = None) -> Stored:
    """Maps a file of this kind (in_memory: reads it instead). Raises FileFormatError for anything that is not as it was written."""
    path = Path(path)
    data = _bytes_of(path, in_memory)
    table = _table(path, data)
    if table["kind"] != kind:
        raise FileFormatError(str(path), got=f"a file of kind '{table['kind']}'", expected=f"'{kind}'")
    sections, end = {}, HEADER.size
    for entry in table["sections"]:
        name, offset, size = entry["name"], entry["offset"], entry["bytes"]
        fits = end <= offset < end + ALIGN and offset % ALIGN == 0 and 0 <= size <= table["offset"] - offset
        if not fits or entry["dtype"] not in DTYPES or size % np.dtype(entry["dtype"]).itemsize or name in sections:
            raise _damaged(path, f"the section '{name}' does not lie where the table says")
        sections[name] = np.frombuffer(data, entry["dtype"], size // np.dtype(entry["dtype"]).itemsize, offset)
        end = offset + size
    if not end <= table["offset"] < end + ALIGN:
        raise _damaged(path, "its table does not lie behind its sections")
    if verify:
        _verify(path, data, table, progress)
    return Stored(kind, table["meta"], sections, partial(_verify, path, data, table, None))


def require_sound(members: Iterable[Any]) -> None:
    """Verifies the files that members lie in, before what they hold is copied under new checksums."""
    for member in members:
        if member.verify is not None:
            member.verify()


def kind_of(path: str | Path) -> str:
    """The kind of an index file, from its header and table. Raises FileFormatError for what is none."""
    return str(_table(Path(path), _bytes_of(Path(path), False))["kind"])


def content_of_file(path: Path) -> str:
    """Hex digits that tell the content of an index file from another's, by its sections' checksums. Raises FileFormatError."""
    table = json.dumps(_table(path, _bytes_of(path, False)), sort_keys=True)
    return hashlib.blake2b(table.encode(), digest_size=16).hexdigest()


def _bytes_of(path: Path, in_memory: bool) -> Any:
    try:
        if in_memory:
            return path.read_bytes()
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < HEADER.size:
                raise _damaged(path, "it is shorter than a header")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise FileFormatError(str(path), got=str(error), expected="an index file that can be read") from error


def _table(path: Path, data: Any) -> dict[str, Any]:
    """Header and table, checked; the types of the table's entries too."""
    if len(data) < HEADER.size:
        raise _damaged(path, "it is shorter than a header")
    head = bytes(data[: HEADER.size])
    magic, version, order, size, offset, length, crc, head_crc = HEADER.unpack(head)
    if magic != MAGIC:
        raise FileFormatError(str(path), got="another kind of file", expected="an index file of rerank_engine")
    if zlib.crc32(head[:-4]) != head_crc:
        raise _damaged(path, "its header's checksum is wrong")
    if order != BYTE_ORDER or version != VERSION:
        got = f"format {version}" if order == BYTE_ORDER else "another byte order"
        raise FileFormatError(str(path), got=got, expected=f"format {VERSION}, little-endian", hint="Build the index again.")
    if size != len(data) or offset > size or length != size - offset:
        raise _damaged(path, f"it has {len(data)} bytes where {size} were written")
    raw = bytes(data[offset:])
    if zlib.crc32(raw) != crc:
        raise _damaged(path, "its table's checksum is wrong")
    try:
        table = json.loads(raw)
        types = {"name": str, "dtype": str, "offset": int, "bytes": int, "crc32": int}
        right = isinstance(table["kind"], str) and isinstance(table["meta"], dict)
        if not right or not all(type(entry[key]) is kind for entry in table["sections"] for key, kind in types.items()):
            raise TypeError("entries of the wrong type")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, f"its table cannot be read ({error})") from error
    return {**table, "offset": offset}


def _verify(path: Path, data: Any, table: Mapping[str, Any], progress: Progress | None) -> None:
    """Every byte: the sections by their checksums, what lies between them by being 0."""
    view, end = memoryview(data), HEADER.size
    for entry in [*table["sections"], {"offset": table["offset"], "bytes": 0, "crc32": 0, "name": "table"}]:
        start, stop = entry["offset"], entry["offset"] + entry["bytes"]
        if any(view[end:start]):
            raise _damaged(path, f"there is something between sections, before '{entry['name']}'")
        crc = 0
        for at in range(start, stop, _CHUNK):
            crc = zlib.crc32(view[at : min(at + _CHUNK, stop)], crc)
            if progress:
                progress(min(at + _CHUNK, stop), len(data))
        if crc != entry["crc32"]:
            raise _damaged(path, f"the checksum of section '{entry['name']}' is wrong")
        end = stop
    if progress:
        progress(len(data), len(data))


def _damaged(path: Path, what: str) -> FileFormatError:
    return FileFormatError(str(path), got=f"a damaged file: {what}", expected="an index file as it was written", hint="Build it again.")
