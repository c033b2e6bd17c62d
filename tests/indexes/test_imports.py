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
from rerank_engine.indexes.imports import read_colbert, read_index, read_plaid, write_colbert
from rerank_engine.indexes.torch_file import read_torch, write_torch

DATA = Path(__file__).parent / "data"
IDS = "plaid_ids_to_documents_ids.pkl"
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


def test_parts_that_are_not_there(colbert):
    edited = json.loads((colbert / "metadata.json").read_text())
    del edited["num_embeddings"]
    (colbert / "metadata.json").write_text(json.dumps(edited))
    assert read_index(colbert).notes == ()
    (colbert / "centroids.pt").unlink()
    with pytest.raises(FileFormatError, match=r"centroids\.pt"):
        read_index(colbert)


def test_centroid_ids_beyond_the_codec(tokens):
    """A cast to uint16 would make 5 of 65541."""
    ids = tokens.centroid_ids.astype(np.int32)
    corpus = rr.Corpus.from_texts(["x"] * len(tokens))
    for wrong in (65541, 16, -1):
        bad = ids.copy()
        bad[7] = wrong
        with pytest.raises(InputError, match=r"centroid ids from .*expected 0 to 15"):
            rr.TokenIndex.from_residual_tokens(
                ResidualTokens(tokens.codec, bad, tokens.residuals, tokens.inverse_norms, tokens.offsets), corpus
            )
    wide = ResidualTokens(tokens.codec, ids, tokens.residuals, tokens.inverse_norms, tokens.offsets)
    query = np.eye(3, 16, dtype=np.float32)
    assert np.array_equal(rr.TokenIndex.from_residual_tokens(wide, corpus).score(query), rr.ops.residual_maxsim(query, tokens))


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


def test_files_are_on_disk_before_the_folder_appears(tmp_path, tokens, monkeypatch):
    synced, replace, fsync = set(), os.replace, os.fsync

    def synchronize(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def appear(temporary, folder):
        assert {path.stat().st_ino for path in (*Path(temporary).iterdir(), Path(temporary))} <= synced
        replace(temporary, folder)

    monkeypatch.setattr(os, "fsync", synchronize)
    monkeypatch.setattr(os, "replace", appear)
    write_colbert(tmp_path / "x", tokens)
    assert (tmp_path / "x").stat().st_ino in synced and tmp_path.stat().st_ino in synced


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
    (pylate / IDS).write_bytes(HOSTILE[name])
    with pytest.raises(UnsafeModelError):
        read_plaid(pylate)
    assert len(read_plaid(pylate, ids=False).tokens) == 20
    assert not (tmp_path / "hacked").exists()


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


def test_nothing_of_a_size_that_the_files_do_not_have_is_allocated(pylate, colbert, monkeypatch):
    """Sizes are compared with the files' first: memory is often given without being there."""
    lengths = json.dumps([2_000_000_000] * 3)
    (colbert / "doclens.0.json").write_text(lengths)
    (pylate / "fast_plaid_index" / "doclens.0.json").write_text(lengths)
    monkeypatch.setattr(np, "empty", lambda *args, **options: pytest.fail("allocated"))
    for read, folder in ((read_colbert, colbert), (read_plaid, pylate)):
        with pytest.raises(
            FileFormatError, match=r"residuals\S*: got \d+ bytes; expected \d+ at least, for the tokens that doclens\.\d\.json counts"
        ):
            read(folder)
    header = b"{'descr': '<f2', 'fortran_order': False, 'shape': (99999999, 16), }"
    (pylate / "fast_plaid_index" / "centroids.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))
    monkeypatch.setattr(np, "fromfile", lambda *args: pytest.fail("read"))
    with pytest.raises(FileFormatError, match=r"centroids\.npy: got 64 bytes for float16 \[99999999, 16\]"):
        read_plaid(pylate)


def test_bits_that_the_metadata_of_fast_plaid_tells_otherwise(pylate):
    edit(pylate / "fast_plaid_index" / "metadata.json", nbits=2)
    with pytest.raises(FileFormatError, match=r"nbits 2; expected 4, as bucket_weights\.npy has"):
        read_plaid(pylate)


def test_manifests_that_do_not_fit(pylate):
    manifest = pylate / "fast_plaid_index" / "merged_codes.manifest.json"
    for rows in (-1, 1.5, 10**30, "x", 0, 140):
        manifest.write_text(json.dumps({"0.codes.npy": {"rows": rows}}))
        with pytest.raises(FileFormatError):
            read_plaid(pylate)


@pytest.mark.parametrize("seed", range(8))
def test_damage_anywhere_is_refused_or_harmless(colbert, pylate, seed):
    rng = np.random.default_rng(seed)
    for read, folder in ((read_colbert, colbert), (read_plaid, pylate)):
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            good = file.read_bytes()
            cut = good[: int(rng.integers(0, len(good)))]
            flipped = bytearray(good)
            ends = bytearray(good)
            for place in rng.integers(0, min(len(good), 1500), 3):
                flipped[place] = rng.integers(0, 256)
            # Anywhere, and at the end, where an archive lists its entries
            for place in (int(rng.integers(0, len(good))), *(-rng.integers(1, min(len(good), 700) + 1, 2))):
                ends[place] = rng.integers(0, 256)
            for bad in (cut, bytes(flipped), bytes(ends), good + good):
                file.write_bytes(bad)
                with contextlib.suppress(*REFUSED):
                    read(folder).tokens.decode()
            file.write_bytes(good)
        assert len(read(folder).tokens) == 20


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
