from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine import Packed
from rerank_engine.codec import ResidualCodec, ResidualTokens
from rerank_engine.errors import FileFormatError, InputError, UnsafeModelError
from rerank_engine.indexes import exports
from rerank_engine.indexes.imports import read_colbert, read_index, read_npy, read_plaid, write_colbert
from rerank_engine.indexes.torch_file import read_pickle_of_values, read_torch, write_torch

DATA = Path(__file__).parent / "data"
REFUSED = (FileFormatError, UnsafeModelError)
CODEC = ("centroids", "bucket_cutoffs", "bucket_weights")
STORED = ("centroid_ids", "residuals", "inverse_norms", "offsets")


@pytest.fixture
def colbert(tmp_path):
    return Path(shutil.copytree(DATA / "colbert", tmp_path / "colbert"))


@pytest.fixture
def pylate(tmp_path):
    return Path(shutil.copytree(DATA / "pylate", tmp_path / "pylate"))


@pytest.fixture
def tokens():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(120, 16)).astype(np.float32)
    offsets = np.sort(np.concatenate([[0, 0, 120, 120], rng.integers(0, 120, 20)]))
    return ResidualTokens.encode(Packed(values, offsets), ResidualCodec.train(values, 2, 16, backend="numpy"))


def sums(tokens):
    decoded = tokens.decode()
    return np.add.reduceat(decoded.values, decoded.offsets[:-1], axis=0)


def same(one, other):
    for name in STORED:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for name in CODEC:
        assert np.array_equal(getattr(one.codec, name), getattr(other.codec, name)), name


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_folder_that_colbert_ai_wrote():
    found = read_colbert(DATA / "colbert")
    assert (len(found.tokens), len(found.tokens.centroid_ids), found.tokens.codec.nbits, found.tokens.codec.dim) == (20, 359, 2, 16)
    assert found.ids is None and found.notes == ()
    assert np.allclose(sums(found.tokens), np.load(DATA / "colbert" / "documents.npy"), atol=1e-5)


def test_a_folder_of_fast_plaid_in_pylate():
    found = read_plaid(DATA / "pylate")
    assert (len(found.tokens), found.tokens.codec.nbits, found.ids) == (20, 4, [f"doc-{i}" for i in range(20)])
    assert np.allclose(sums(found.tokens), np.load(DATA / "pylate" / "documents.npy"), atol=1e-5)
    inner = read_plaid(DATA / "pylate" / "fast_plaid_index")
    same(inner.tokens, found.tokens)
    assert inner.ids == found.ids and read_plaid(DATA / "pylate", ids=False).ids is None


def shard(folder, chunk, start, stop, *, keep=False):
    """A chunk's own files with the header that Rust writes: `<u1` and a comma at the end of the shape."""
    for name in ("codes", "residuals"):
        rows = np.load(folder / f"merged_{name}.npy")[start:stop]
        shape = ",".join(map(str, rows.shape)) + ","
        header = f"{{'descr': '<{rows.dtype.kind}{rows.dtype.itemsize}', 'fortran_order': False, 'shape': ({shape}), }}".ljust(117) + "\n"
        data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + rows.tobytes()
        (folder / f"{chunk}.{name}.npy").write_bytes(data)


def test_chunks_of_fast_plaid_in_files_of_their_own(pylate):
    whole, folder = read_plaid(pylate).tokens, pylate / "fast_plaid_index"
    shard(folder, 1, 139, 359)  # staged by an update, not yet merged
    same(read_plaid(pylate).tokens, whole)
    shard(folder, 0, 0, 139)
    for file in folder.glob("merged_*"):
        file.unlink()
    same(read_plaid(pylate).tokens, whole)
    (folder / "0.codes.npy").unlink()
    with pytest.raises(FileFormatError, match=r"0\.codes\.npy"):
        read_plaid(pylate)


def test_a_chunk_that_a_deletion_has_rewritten_leaves_the_places_of_the_others(pylate):
    """The manifest still counts the rows that the first chunk has in the merged file."""
    whole, folder = read_plaid(pylate).tokens, pylate / "fast_plaid_index"
    shard(folder, 0, 22, 139)  # without its first document
    lengths = json.loads((folder / "doclens.0.json").read_text())
    (folder / "doclens.0.json").write_text(json.dumps(lengths[1:]))
    found = read_plaid(pylate, ids=False)
    assert len(found.tokens) == 19 and found.notes == ("metadata.json counts 359 tokens, the chunks hold 337",)
    assert np.array_equal(found.tokens.residuals, whole.residuals[22:])
    with pytest.raises(FileFormatError, match="number"):
        read_plaid(pylate)  # an id more than documents


def pickled(program):
    """In the archive of torch.save."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", bytes(4096))
    return file.getvalue()


def test_ids(pylate, colbert):
    def ids(text):
        return b"\x80\x02}(" + text + b"u."

    ten = b"".join(b"K" + bytes([row]) + b"K" + bytes([row + 100]) for row in range(19))
    (colbert / "plaid_ids_to_documents_ids.pkl").write_bytes(ids(ten + b"K\x13X\x01\x00\x00\x00x"))
    assert read_colbert(colbert).ids == [*map(str, range(100, 119)), "x"] and read_colbert(colbert, ids=False).ids is None
    (colbert / "plaid_ids_to_documents_ids.pkl").write_bytes(ids(ten))
    with pytest.raises(FileFormatError, match="has tokens"):
        read_colbert(colbert)
    last = json.loads((colbert / "doclens.2.json").read_text())
    (colbert / "doclens.2.json").write_text(json.dumps([*last[:-2], sum(last[-2:]), 0]))  # a passage that was removed has no tokens
    found = read_colbert(colbert)
    assert len(found.tokens) == len(found.ids) == 19 and found.notes == ("1 deleted documents are left out",)
    for wrong in (b"\x80\x02].", ids(b"K\x00K\x00K\x20K\x00"), ids(b"K\x00]"), ids(b"X\x01\x00\x00\x00xK\x00"), b"", b"junk"):
        (pylate / "plaid_ids_to_documents_ids.pkl").write_bytes(wrong)
        with pytest.raises(FileFormatError):
            read_plaid(pylate)
    (pylate / "plaid_ids_to_documents_ids.pkl").unlink()
    (pylate / "plaid_ids_to_documents_ids.sqlite").touch()
    assert read_plaid(pylate / "fast_plaid_index").notes == ("plaid_ids_to_documents_ids.sqlite is not read: the documents are numbered",)


@pytest.mark.parametrize("chunk", [1, 7, 25_000])
def test_write_and_read(tmp_path, tokens, monkeypatch, chunk):
    monkeypatch.setattr(exports, "DOCUMENTS_PER_CHUNK", chunk)
    for name in ("one", "two"):
        write_colbert(tmp_path / name, tokens, config={"checkpoint": "a/b", "dim": 3})
    same(read_colbert(tmp_path / "one").tokens, tokens)
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    config = {"checkpoint": "a/b", "dim": 16, "nbits": 2}
    assert json.loads((tmp_path / "one" / "metadata.json").read_text())["config"] == config
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one", "two"]


def test_what_colbert_ai_wrote_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "DOCUMENTS_PER_CHUNK", 8)
    found = read_colbert(DATA / "colbert")
    write_colbert(tmp_path / "again", found.tokens)
    same(read_colbert(tmp_path / "again").tokens, found.tokens)
    for name in ("0.codes", "1.residuals", "centroids", "buckets", "ivf.pid"):
        one, other = (read_torch(folder / f"{name}.pt") for folder in (DATA / "colbert", tmp_path / "again"))
        for left, right in zip(*(value if isinstance(value, tuple) else (value,) for value in (one, other))):
            assert np.array_equal(left, right) and left.dtype == right.dtype, name
    for name in ("doclens.0.json", "2.metadata.json"):
        assert json.loads((tmp_path / "again" / name).read_text()) == json.loads((DATA / "colbert" / name).read_text())


def test_no_documents_and_no_place(tmp_path, tokens):
    nothing = ResidualTokens(
        tokens.codec, np.empty(0, np.uint16), np.empty((0, 4), np.uint8), np.empty(0, np.float32), np.zeros(1, np.int64)
    )
    write_colbert(tmp_path / "empty", nothing)
    assert len(read_colbert(tmp_path / "empty").tokens) == 0
    for path, config in (
        (tmp_path / "empty", None),
        (tmp_path / "a" / "b", None),
        (tmp_path / "c", {"x": object()}),
        (tmp_path / "d\0", None),
    ):
        with pytest.raises(InputError, match="write_colbert"):
            write_colbert(path, tokens, config=config)
    with pytest.raises(InputError, match="ResidualTokens"):
        write_colbert(tmp_path / "e", None)
    assert [file.name for file in tmp_path.iterdir()] == ["empty"]


HOSTILE = {
    "os.system": b"cos\nsystem\n(X\x0c\x00\x00\x00touch hackedtR.",
    "posix.system": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch hacked\x85R.",
    "builtins.exec": b"\x80\x02cbuiltins\nexec\nX\x04\x00\x00\x00passq\x00\x85R.",
    "inst": b"(X\x0c\x00\x00\x00touch hackedios\nsystem\n.",
    "obj": b"(cos\nsystem\nX\x0c\x00\x00\x00touch hackedo.",
    "newobj": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "build": b"\x80\x02ccollections\nOrderedDict\n)R}b.",
    "reduce a value": b"\x80\x02K\x01)R.",
    "ordered with arguments": b"\x80\x02ccollections\nOrderedDict\n]\x85R.",
    "a storage as a function": b"\x80\x02ctorch\nFloatStorage\nK\x05\x85R.",
    "extension": b"\x80\x02\x82\x01.",
    "attribute of a name": b"\x80\x04\x8c\x05torch\x8c\x0dFloatStorage.\x93.",
    "persistent": b"Pos\n.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_and_does_not_run(colbert, pylate, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for file in ("centroids.pt", "buckets.pt", "1.codes.pt", "2.residuals.pt"):
        kept = (colbert / file).read_bytes()
        (colbert / file).write_bytes(pickled(HOSTILE[name]))
        with pytest.raises(UnsafeModelError, match="not run"):
            read_colbert(colbert)
        (colbert / file).write_bytes(kept)
    (pylate / "plaid_ids_to_documents_ids.pkl").write_bytes(HOSTILE[name])
    with pytest.raises(UnsafeModelError):
        read_plaid(pylate)
    assert len(read_plaid(pylate, ids=False).tokens) == 20
    assert not (tmp_path / "hacked").exists()


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


def test_big_endian_tensors(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (("data.pkl", tensor()), ("byteorder", b"big"), ("data/0", struct.pack(">2f", 1.5, -2))):
            archive.writestr(f"x/{name}", data)
    (tmp_path / "x.pt").write_bytes(file.getvalue())
    assert read_torch(tmp_path / "x.pt").tolist() == [1.5, -2]


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("metadata.json", {"num_chunks": 4}),
        ("metadata.json", {"num_chunks": -1}),
        ("metadata.json", {"num_chunks": True}),
        ("metadata.json", {"num_chunks": None}),
        ("metadata.json", {"config": {"dim": 128}}),
        ("metadata.json", {"config": {"nbits": 1}}),
        ("doclens.0.json", b"[1, 2]"),
        ("doclens.0.json", b"[1e400]"),
        ("doclens.0.json", b"[-1, 160]"),
        ("doclens.0.json", b"{}"),
        ("doclens.0.json", b"[2000000000, 2000000000, 2000000000]"),
        ("doclens.0.json", b"[" * 100_000),
        ("doclens.0.json", b"\xff"),
        ("metadata.json", b"[]"),
        ("0.codes.pt", np.full(139, 256, np.int32)),
        ("0.codes.pt", np.full(139, -1, np.int32)),
        ("0.codes.pt", np.zeros(139, np.float32)),
        ("0.residuals.pt", np.zeros((139, 4), np.int32)),
        ("0.residuals.pt", np.zeros((139, 5), np.uint8)),
        ("0.residuals.pt", (np.zeros((139, 4), np.uint8),)),
        ("centroids.pt", np.zeros((256, 8), np.float32)),
        ("centroids.pt", np.full((256, 16), np.nan, np.float32)),
        ("centroids.pt", np.zeros((256, 16), np.int32)),
        ("buckets.pt", np.zeros(4, np.float32)),
        ("buckets.pt", (np.zeros(3, np.float32), np.zeros(5, np.float32))),
    ],
)
def test_parts_that_do_not_fit(colbert, file, values):
    if isinstance(values, bytes):
        (colbert / file).write_bytes(values)
    elif isinstance(values, dict):
        edit(colbert / file, **values)
    else:
        write_torch(colbert / file, values)
    with pytest.raises(FileFormatError):
        read_colbert(colbert)


@pytest.mark.parametrize("name", ["centroids", "bucket_cutoffs", "bucket_weights", "merged_codes", "merged_residuals"])
def test_arrays_that_do_not_fit(pylate, name):
    file = pylate / "fast_plaid_index" / f"{name}.npy"
    good = np.load(file)
    for wrong in (good[:-1], good.astype(complex), np.asfortranarray(np.vstack([good] * 2).T), np.array([None]), np.zeros(())):
        np.save(file, wrong, allow_pickle=True)
        with pytest.raises(FileFormatError):
            read_plaid(pylate)
    for shape in ("(999999999999, 16)", "(-1, 16)", "('a',)", "(1e9,)", "[" * 3000, "(2,) * 10**9"):
        header = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}, }}".ljust(100) + "\n"
        file.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(4096))
        with pytest.raises(FileFormatError):
            read_plaid(pylate)
    file.unlink()
    with pytest.raises(FileFormatError):
        read_plaid(pylate)


def test_manifests_that_do_not_fit(pylate):
    manifest = pylate / "fast_plaid_index" / "merged_codes.manifest.json"
    for rows in (-1, 1.5, 10**30, "x", 0, 140):
        manifest.write_text(json.dumps({"0.codes.npy": {"rows": rows}}))
        with pytest.raises(FileFormatError):
            read_plaid(pylate)


@pytest.mark.parametrize("seed", range(6))
def test_damage_anywhere_is_refused_or_harmless(colbert, pylate, seed):
    rng = np.random.default_rng(seed)
    for read, folder in ((read_colbert, colbert), (read_plaid, pylate)):
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            good = file.read_bytes()
            cut = good[: int(rng.integers(0, len(good)))]
            flipped = bytearray(good)
            for place in rng.integers(0, min(len(good), 1500), 3):
                flipped[place] = rng.integers(0, 256)
            for bad in (cut, bytes(flipped), good + good):
                file.write_bytes(bad)
                with contextlib.suppress(*REFUSED):
                    read(folder).tokens.decode()
            file.write_bytes(good)
        assert len(read(folder).tokens) == 20


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


def test_peers_torch_reads_a_written_folder(tmp_path, tokens):
    torch = pytest.importorskip("torch")
    write_colbert(tmp_path / "x", tokens)
    loaded = {file.name: torch.load(file, weights_only=True) for file in (tmp_path / "x").glob("*.pt")}
    assert sorted(loaded) == ["0.codes.pt", "0.residuals.pt", "avg_residual.pt", "buckets.pt", "centroids.pt", "ivf.pid.pt"]
    assert loaded["0.codes.pt"].dtype == torch.int32 and np.array_equal(loaded["0.residuals.pt"].numpy(), tokens.residuals)
    ivf, sizes = loaded["ivf.pid.pt"]
    assert ivf.dtype == torch.int32 and sizes.dtype == torch.int64
    pieces = np.split(ivf.numpy(), np.cumsum(sizes.numpy()))
    documents = np.repeat(np.arange(len(tokens)), tokens.lengths)
    for centroid in range(16):
        assert pieces[centroid].tolist() == sorted(set(documents[tokens.centroid_ids == centroid].tolist()))


def test_an_index_of_an_imported_folder(tmp_path):
    query = np.eye(3, 16, dtype=np.float32)
    for folder in (DATA / "colbert", DATA / "pylate"):
        found = read_index(folder)
        index = rr.TokenIndex.import_folder(folder)
        assert len(index) == 20 and index.storage == f"{found.tokens.codec.nbits}bit"
        assert index.corpus.ids == (found.ids or [str(i) for i in range(20)])
        assert (index.score(query) == rr.ops.residual_maxsim(query, found.tokens)).all()
        index.save(tmp_path / "saved")
        assert (rr.TokenIndex.open(tmp_path / "saved").score(query) == index.score(query)).all()
    named = rr.TokenIndex.import_folder(DATA / "colbert", rr.Corpus.from_texts([f"text {i}" for i in range(20)]))
    assert named.corpus[3].text == "text 3"
