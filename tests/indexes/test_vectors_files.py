"""Files of a VectorIndex: what is written is what is read, damage is found, and faiss's reader never sees damaged bytes."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from damage import cuts, flips

import rerank_engine as rr
from rerank_engine.errors import FileFormatError, InputError, NonFiniteError, RerankError
from rerank_engine.indexes import files, vector_faiss

N, DIM = 260, 4
rng = np.random.default_rng(0)
VECTORS = rng.standard_normal((N, DIM)).astype(np.float32)
QUERIES = rng.standard_normal((3, DIM)).astype(np.float32)
CORPUS = rr.Corpus.from_texts(
    [f"text {i}" for i in range(N)], ids=[f"d{i}" for i in range(N)], titles=["t", *[""] * (N - 1)], metadata=[{"a": i} for i in range(N)]
)
SMALL = rr.Corpus.from_texts(["w0 w1", "", "w2 é"], titles=["t", "", ""], metadata=[{"a": 1}, {}, {}])
ALL = [("exact", "float32"), ("exact", "float16"), *((kind, keep) for kind in vector_faiss.KINDS for keep in ("float32", None))]


def made(kind: str, keep: str | None = "float32", **options) -> rr.VectorIndex:
    if kind != "exact":
        pytest.importorskip("faiss")
    return rr.VectorIndex.from_vectors(CORPUS, VECTORS, np.arange(N) % 3, kind=kind, keep=keep, **options)


def answers(index: rr.VectorIndex) -> list:
    return [(rows.tolist(), scores.tobytes()) for rows, scores in index.search(QUERIES, 20)]


@pytest.mark.parametrize(("kind", "keep"), ALL)
def test_what_is_written_is_read(tmp_path, kind, keep):
    index = made(kind, keep, metric="cosine", dim=3)
    index.made_by = {"model": "m", "fingerprint": "f"}
    index.save(tmp_path / "a")
    for options in ({}, {"verify": True}, {"in_memory": True}):
        again = rr.VectorIndex.open(tmp_path / "a", **options)
        assert answers(again) == answers(index) and repr(again) == repr(index) and again.made_by == index.made_by
        assert (again.kind, again.keep, again.metric, again.dim, again.given_dim) == (kind, keep, "cosine", 3, 4)
        assert list(again.corpus) == list(CORPUS) and (again.truncated_tokens == index.truncated_tokens).all()
    again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert files.kind_of(tmp_path / "a") == "vector-index"
    told = rr.VectorIndex.check(tmp_path / "a")
    assert told == {
        "path": str(tmp_path / "a"), "documents": N, "dim": 3, "kind": kind, "metric": "cosine", "keep": keep,
        "bytes": (tmp_path / "a").stat().st_size,
    }  # fmt: skip
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["a", "b"]


def test_kept_vectors_are_mapped(tmp_path):
    made("exact").save(tmp_path / "a")
    vectors = rr.VectorIndex.open(tmp_path / "a").vectors
    assert not vectors.flags.owndata and not vectors.flags.writeable and (vectors == VECTORS).all()


def small(path: Path, kind: str) -> Path:
    if kind != "exact":
        pytest.importorskip("faiss")
    rr.VectorIndex.from_vectors(SMALL, VECTORS[:3], kind=kind).save(path)
    return path


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_check_finds_every_changed_byte_and_every_other_length(tmp_path, kind, thorough, monkeypatch):
    path = small(tmp_path / "index", kind)
    for at, mask in flips(path, (0x01, 0x80, 0xFF) if thorough else (0xFF,)):
        with pytest.raises(FileFormatError, match="index"):
            rr.VectorIndex.check(path)
            raise AssertionError(f"byte {at} ^ {mask}")
    for _ in cuts(path):
        with pytest.raises(FileFormatError, match="index"):
            rr.VectorIndex.open(path)
    assert rr.VectorIndex.check(path)["documents"] == 3
    path.unlink()
    with pytest.raises(FileFormatError, match="No such file"):
        rr.VectorIndex.open(path)


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_without_a_check_a_damaged_file_answers_or_raises(tmp_path, kind, monkeypatch):
    path, seen = small(tmp_path / "index", kind), set()
    monkeypatch.setattr("os.fsync", lambda _: None)
    for at, mask in flips(path, (0xFF,)):
        try:
            index = rr.VectorIndex.open(path)
            index.search(QUERIES, 2)
            index.vectors_of([0, 2])
            list(index.corpus)
            if at % 8 == 0:
                index.save(tmp_path / "saved")
        except RerankError as error:  # noqa: PERF203
            seen.add(type(error).__name__)
        except Exception as error:
            raise RuntimeError(f"byte {at} ^ {mask}") from error
    assert seen >= {"FileFormatError"}


def test_faiss_never_reads_bytes_whose_checksum_is_wrong(tmp_path, monkeypatch):
    faiss = pytest.importorskip("faiss")
    path, read = small(tmp_path / "index", "hnsw"), []

    def deserialize(data):
        read.append(bytes(data))
        raise RuntimeError("not this one")

    monkeypatch.setattr(faiss, "deserialize_index", deserialize)
    monkeypatch.setattr(faiss, "read_index", lambda *rest: read.append(b"a file"))
    table = files._table(path, path.read_bytes())
    section = next(entry for entry in table["sections"] if entry["name"] == "faiss")
    data = bytearray(path.read_bytes())
    for at in range(section["offset"], section["offset"] + section["bytes"], 7):
        data[at] ^= 0x10
        path.write_bytes(data)
        data[at] ^= 0x10
        with pytest.raises(FileFormatError, match="the checksum of faiss's bytes is wrong"):
            rr.VectorIndex.open(path)
    assert not read
    path.write_bytes(data)
    with pytest.raises(FileFormatError):
        rr.VectorIndex.open(path)
    assert read == [bytes(data[section["offset"] : section["offset"] + section["bytes"]])], "what was checked is what is read"


def rewritten(path: Path, change) -> None:
    """The file with another meta and right checksums."""
    stored = files.open_file(path, "vector-index", in_memory=True)
    with files.Writer(path, stored.kind) as file:
        for name, section in stored.sections.items():
            file.add(name, section.dtype, [section])
        file.meta = json.loads(json.dumps(stored.meta))
        change(file.meta)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(metric="l2"), lambda m: m.update(dim=0), lambda m: m.update(dim=True), lambda m: m.update(dim=5),
        lambda m: m.update(given_dim=2), lambda m: m.pop("kind"), lambda m: m.update(kind="tree"), lambda m: m.update(kind=[]),
        lambda m: m.update(keep=None), lambda m: m.update(keep="float16"), lambda m: m.update(encoder={"model": 3}),
        lambda m: m.update(encoder=7), lambda m: m.update(built=[]), lambda m: m.update(built={"links": "a"}), lambda m: m.update(built={}),
        lambda m: m.update(faiss_crc32=None), lambda m: m.update(kind="flat", built={}), lambda m: m.update(kind="ivf", built={"nlist": 1}),
    ],
)  # fmt: skip
def test_a_file_that_contradicts_itself(tmp_path, change):
    path = small(tmp_path / "index", "hnsw")
    rewritten(path, change)
    with pytest.raises(FileFormatError):
        index = rr.VectorIndex.open(path)
        assert index.kind == "hnsw" and index.keep is None, "keep=None leaves a section that nobody asks for"
        raise FileFormatError("as good as none kept")


def test_other_files(tmp_path):
    rr.BM25Index.build(SMALL).save(tmp_path / "bm25")
    with pytest.raises(FileFormatError, match="a file of kind 'bm25-segment'; expected 'vector-index'"):
        rr.VectorIndex.open(tmp_path / "bm25")
    (tmp_path / "text").write_text("hello" * 100)
    for name in ("text", "none", ""):
        with pytest.raises(FileFormatError):
            rr.VectorIndex.check(tmp_path / name)
    path = small(tmp_path / "index", "exact")
    data = bytearray(path.read_bytes())
    data[8:12] = struct.pack("<I", 9)
    data[60:64] = struct.pack("<I", zlib.crc32(data[:60]))
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="format 9; expected format 1"):
        rr.VectorIndex.open(path)


def test_a_damaged_file_is_not_saved_again(tmp_path):
    path = small(tmp_path / "index", "exact")
    index, data = rr.VectorIndex.open(path), bytearray(path.read_bytes())
    data[70] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="checksum"):
        index.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_places_that_cannot_be_written(tmp_path):
    index = rr.VectorIndex(SMALL, VECTORS[:3])
    for place in (tmp_path, tmp_path / "none" / "index"):
        with pytest.raises(InputError, match="a place that can be written"):
            index.save(place)
    odd = rr.Corpus.from_texts(["a"], metadata=[{"x": object()}])
    with pytest.raises(InputError, match="metadata"):
        rr.VectorIndex(odd, VECTORS[:1]).save(tmp_path / "index")


def test_metrics_and_dimensions():
    vectors = np.array([[3, 4, 9], [0, 0, 5], [1, 0, -7], [0.6, 0.8, 1]], np.float32)
    index = rr.VectorIndex(rr.Corpus.from_texts(list("abcd")), vectors, metric="cosine", dim=2)
    unit = np.array([[0.6, 0.8], [0, 0], [1, 0], [0.6, 0.8]], np.float32)
    assert (index.vectors == unit).all() and (index.dim, index.given_dim, index.metric) == (2, 3, "cosine")
    for query in ([[2, 0, 99]], [[2, 0]]):
        ((rows, scores),) = index.search(query, 4)
        assert rows.tolist() == [2, 0, 3, 1] and scores.tolist() == [1, *[np.float32(0.6)] * 2, 0]
    with pytest.raises(InputError, match="dimension 4; expected 3"):
        index.search(np.ones((1, 4)), 1)
    plain = rr.VectorIndex(index.corpus, vectors, dim=2)
    assert (plain.vectors == vectors[:, :2]).all() and plain.search([[1, 0, 9]], 1)[0][1].tolist() == [3]
    assert "cosine, the first 2 of 3" in repr(index)
    with pytest.raises(InputError, match="3 counts; expected one for each of the 4"):
        rr.VectorIndex(index.corpus, vectors, np.zeros(3, np.int32))
    with pytest.raises(InputError, match="dimension 0"):
        rr.VectorIndex(index.corpus, np.empty((4, 0)))


def test_float16_keeps_what_it_can():
    index = made("exact", "float16")
    assert index.vectors.dtype == np.float16 and index.vectors_of([1]).dtype == np.float32
    want = rr.VectorIndex(CORPUS, VECTORS.astype(np.float16).astype(np.float32))
    assert answers(index) == answers(want)
    with pytest.raises(InputError, match="65504"):
        rr.VectorIndex.from_vectors(SMALL, np.full((3, 2), 1e5), keep="float16")
    with pytest.raises(NonFiniteError):
        rr.VectorIndex.from_vectors(SMALL, np.full((3, 2), np.nan), keep="float16")
