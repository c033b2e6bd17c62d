"""Files of torch and pickles, read as data."""

from __future__ import annotations

import copy
import io
import os
import pickle  # noqa: TID251  # what is read here without it
import struct
import zipfile

import numpy as np
import pytest

from rerank_engine.errors import FileFormatError, InputError, UnsafeModelError
from rerank_engine.indexes.imports import read_colbert, read_npy, read_plaid
from rerank_engine.indexes.torch_file import read_pickle_of_values, read_torch, write_torch

REFUSED = (FileFormatError, UnsafeModelError)
HUGE = b"\x8a\x20" + b"\xff" * 31 + b"\x7f"  # an integer of 255 bits


def pickled(program):
    """In the archive of torch.save."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", bytes(4096))
    return file.getvalue()


def test_numpy_values_that_are_neither_are_more_than_data(tmp_path):
    path = tmp_path / "x.pkl"
    record = np.array([(1,)], [("a", "i4")])
    for value in (
        np.float64(1),
        np.array([1]),
        np.bool_(True),
        np.datetime64("2020"),
        np.void(b"abc"),
        record[0],
        record.dtype,
        {1: record},
    ):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(REFUSED):
            pytest.fail(repr(read_pickle_of_values(path)))
    good = pickle.dumps(np.int64(5))
    path.write_bytes(good)
    assert read_pickle_of_values(path) == 5
    for old, new in ((b"i8", b"i4"), (b"i8", b"f8"), (b"i8", b"i9"), (b"\x8c\x01<", b"\x8c\x01?"), (b"i8\x94\x89", b"i8\x94\x88")):
        assert old in good
        path.write_bytes(good.replace(old, new))
        if new.endswith(b"\x88"):  # an argument that says nothing
            assert read_pickle_of_values(path) == 5
            continue
        with pytest.raises(REFUSED):
            pytest.fail(f"{new!r}: {read_pickle_of_values(path)!r}")
    path.write_bytes(pickle.dumps(np.str_("a")).replace(b"a\0\0\0", b"\0\xd8\0\0"))  # a lone surrogate
    with pytest.raises(FileFormatError):
        read_pickle_of_values(path)


def tensor(offset=b"K\x00", size=b"K\x02\x85", stride=b"K\x01\x85", key=b"X\x01\x00\x00\x000", length=b"K\x02", kind=b"FloatStorage"):
    storage = b"(X\x07\x00\x00\x00storagectorch\n" + kind + b"\n" + key + b"X\x03\x00\x00\x00cpu" + length + b"tQ"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + size + stride + b"\x89ccollections\nOrderedDict\n)RtR."


def test_tensors_within_their_storage_alone(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(pickled(tensor()))
    assert read_torch(path).tolist() == [0, 0]
    wrong = {
        "beyond": tensor(size=b"K\x03\x85"),
        "offset": tensor(offset=b"K\x01"),
        "negative offset": tensor(offset=b"J\xff\xff\xff\xff"),
        "stride": tensor(stride=b"K\x02\x85"),
        "huge dimensions": tensor(size=b"(" + HUGE * 8 + b"t", stride=b"(" + b"K\x00" * 8 + b"t"),
        "dimensions beyond 62 bits": tensor(size=b"(K\x00\x8a\x08" + bytes(7) + b"\x40t", stride=b"(K\x01K\x01t"),
        "negative stride": tensor(stride=b"J\xff\xff\xff\xff\x85"),
        "huge": tensor(size=b"\x8a\x08" + b"\xff" * 7 + b"\x7f\x85"),
        "repeated": tensor(size=b"J\xff\xff\xff\x7f\x85", stride=b"K\x00\x85"),
        "huge and empty": tensor(size=b"(K\x00\x8a\x08" + b"\xff" * 7 + b"\x7fJ\xff\xff\xff\x7ft", stride=b"(K\x01K\x01K\x01t"),
        "huge stride": tensor(size=b"K\x01\x85", stride=b"\x8a\x09" + b"\xff" * 8 + b"\x00\x85"),
        "size is no number": tensor(size=b"N\x85"),
        "size is true": tensor(size=b"\x88\x85"),
        "size is no tuple": tensor(size=b"K\x02"),
        "nine dimensions": tensor(size=b"(" + b"K\x01" * 9 + b"t", stride=b"(" + b"K\x01" * 9 + b"t"),
        "other storage": tensor(key=b"X\x01\x00\x00\x001"),
        "no key": tensor(key=b"K\x00"),
        "long storage": tensor(length=b"M\x01\x04"),
        "negative storage": tensor(length=b"J\xff\xff\xff\xff"),
        "a name alone": b"\x80\x02ctorch\nFloatStorage\n.",
        "nothing": b"\x80\x02.",
        "two things": b"K\x01K\x02.",
        "mark": b"(.",
        "no end": b"\x80\x02K\x01",
        "a key that is a tuple": b"\x80\x02})K\x01s.",
        "memo": b"h\x05.",
        "too few": b"\x80\x02\x86.",
        "append to a tuple": b"\x80\x02)K\x01a.",
    }
    for name, program in wrong.items():
        path.write_bytes(pickled(program))
        with pytest.raises(FileFormatError):
            pytest.fail(f"{name}: {read_torch(path)!r}")


def test_archives_that_are_none(tmp_path):
    path = tmp_path / "x.pt"
    good = pickled(tensor())

    def archive(**entries):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", entries.pop("compression", zipfile.ZIP_STORED)) as into:
            for name, data in entries.items():
                into.writestr(name.replace("_", "/", 1).replace("_", "."), data)
        return file.getvalue()

    cases = [
        b"",
        b"PK",
        good[:-30],
        good[30:],
        archive(a="x"),
        archive(a_data_pkl=tensor()),
        archive(a_data_pkl=b"K\x01.", b_data_pkl=b"K\x01."),
    ]
    cases += [
        archive(a_data_pkl=b"K\x01.", a_byteorder=b"middle"),
        archive(a_data_pkl=b"K\x01." + bytes(9), compression=zipfile.ZIP_DEFLATED),
    ]
    with pytest.warns(UserWarning, match="Duplicate"):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as into:
            into.writestr("a/data.pkl", b"K\x01.")
            into.writestr("a/data.pkl", b"K\x02.")
    for case in [*cases, file.getvalue(), b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."]:  # the last: torch before 1.6
        path.write_bytes(case)
        with pytest.raises(FileFormatError, match=r"x\.pt"):
            read_torch(path)
    path.write_bytes(archive(a_data_pkl=b"\x80\x02(K\x01\x88NG?\xf0\x00\x00\x00\x00\x00\x00X\x01\x00\x00\x00xt."))
    assert read_torch(path) == (1, True, None, 1.0, "x")
    for wrong in (tmp_path, tmp_path / "none", tmp_path / "x\0"):
        for read in (read_torch, read_pickle_of_values, read_colbert, read_plaid):
            with pytest.raises(FileFormatError):
                read(wrong)
    os.mkfifo(tmp_path / "pipe")
    for read in (read_torch, read_pickle_of_values, read_npy):
        with pytest.raises(FileFormatError):
            read(tmp_path / "pipe")
    with pytest.raises(InputError, match="complex64"):
        write_torch(tmp_path / "y.pt", np.zeros(2, np.complex64))
    assert not (tmp_path / "y.pt").exists()


def test_entries_that_share_their_bytes(tmp_path):
    """A small archive could name the same bytes a thousand times, and would take a thousand times its size."""
    path = tmp_path / "x.pt"
    path.write_bytes(pickled(b"\x80\x02(" + tensor(key=b"X\x01\x00\x00\x000")[2:-1] * 2 + b"t."))
    assert [values.tolist() for values in read_torch(path)] == [[0, 0], [0, 0]]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", tensor(key=b"X\x02\x00\x00\x0010"))
        archive.writestr("archive/data/10", bytes(100_000))
        for key in range(11, 19):
            archive.filelist.append(entry := copy.copy(archive.filelist[1]))
            entry.filename = f"archive/data/{key}"
            archive.NameToInfo[entry.filename] = entry
    with pytest.raises(FileFormatError, match=r"got entries of 900\d+ bytes in a file of 10\d+;"):
        read_torch(path)
    path.write_bytes(whole := pickled(tensor()))
    size = struct.pack("<I", 4096)
    path.write_bytes(whole[: -len(whole) // 2] + whole[-len(whole) // 2 :].replace(size, struct.pack("<I", 1 << 20)))  # in the list alone
    with pytest.raises(FileFormatError):
        read_torch(path)


def test_names_of_torch_are_for_its_archives(tmp_path):
    path = tmp_path / "x.pkl"
    for program in (b"\x80\x02ctorch\nFloatStorage\n.", b"\x80\x02]ctorch\nFloatStorage\na.", b"\x80\x02ccollections\nOrderedDict\n)R."):
        path.write_bytes(program)
        with pytest.raises(UnsafeModelError, match="asks for"):
            read_pickle_of_values(path)
    (tmp_path / "x.pt").write_bytes(pickled(pickle.dumps(np.int64(5))))
    with pytest.raises(UnsafeModelError, match="asks for 'numpy"):
        read_torch(tmp_path / "x.pt")


def test_huge_integers_are_refused_at_once(tmp_path):
    huge = b"\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02" + huge + b".")
    (tmp_path / "x.pt").write_bytes(pickled(tensor(size=b"(" + huge * 8 + b"t", stride=b"(" + b"K\x00" * 8 + b"t")))
    for read, name in ((read_pickle_of_values, "x.pkl"), (read_torch, "x.pt")):
        with pytest.raises(FileFormatError, match="an integer of 799999 bits"):
            read(tmp_path / name)


def test_big_endian_tensors(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (("data.pkl", tensor()), ("byteorder", b"big"), ("data/0", struct.pack(">2f", 1.5, -2))):
            archive.writestr(f"x/{name}", data)
    (tmp_path / "x.pt").write_bytes(file.getvalue())
    assert read_torch(tmp_path / "x.pt").tolist() == [1.5, -2]


def test_peers_torch_reads_what_is_written_and_the_other_way_round(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = (
        np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32),
        np.arange(7),
        np.empty((0, 3), np.uint8),
        np.ones(2, np.float16),
    )
    write_torch(tmp_path / "x.pt", arrays)
    for one, other in zip(torch.load(tmp_path / "x.pt", weights_only=True), arrays, strict=True):
        assert np.array_equal(one.numpy(), other) and one.numpy().dtype == other.dtype
    whole = torch.arange(1000, dtype=torch.int32)
    value = (
        torch.randn(4, 6).t(),
        whole[10:20],
        torch.tensor(2.5),
        torch.ones(3, dtype=torch.bool),
        {"a": [1, 2.5, None, "x"]},
        torch.zeros(2).double(),
    )
    torch.save(value, tmp_path / "y.pt")
    for one, other in zip(read_torch(tmp_path / "y.pt"), value, strict=True):
        assert np.array_equal(one, other.numpy()) if torch.is_tensor(other) else one == other
    for odd in (
        torch.zeros(3).to_sparse(),
        torch.nn.Linear(2, 2),
        torch.nn.Parameter(torch.zeros(2)),
        np.zeros(2),
        torch.float32,
        torch.device("cpu"),
    ):
        torch.save(odd, tmp_path / "z.pt")
        with pytest.raises(UnsafeModelError):
            read_torch(tmp_path / "z.pt")
    torch.save(torch.zeros(2), tmp_path / "z.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(FileFormatError, match=r"torch 1\.6"):
        read_torch(tmp_path / "z.pt")
