"""How a TokenIndex is made: from texts and from vectors, with a codec of its own, in little memory; and what is refused before any work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import QUERIES, corpus
from tokens_of_words import LONGEST, STORAGES, WORD_DIM, Words, codec_of, ranked_tokens, vectors

import rerank_engine as rr
from rerank_engine.codec import ResidualCodec
from rerank_engine.errors import InputError, NonFiniteError
from rerank_engine.indexes import TokenIndex, token_build
from rerank_engine.packed import Packed

TESTS = Path(__file__).resolve().parents[1]
NEAR = {"float32": 0.0, "float16": 2**-11, "int8": 0.5 / 127, "4bit": 0.5, "2bit": 0.9, "1bit": 1.3}  # of a number of a unit vector
BYTES = {"float32": 32, "float16": 16, "int8": 12, "4bit": 10, "2bit": 8, "1bit": 7}  # of a token of 8 dimensions


@pytest.mark.parametrize("storage", STORAGES)
def test_every_way_to_build_makes_one_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
    monkeypatch.setattr(token_build, "BATCH", 7)
    documents, codec, seen = corpus(40), codec_of(storage), list[tuple[int, int]]()
    index = TokenIndex.build(documents, Words(), storage=storage, codec=codec, progress=lambda *told: seen.append(told))
    assert seen == [(7, 40), (14, 40), (21, 40), (28, 40), (35, 40), (40, 40)]
    index.save(tmp_path / "saved")
    TokenIndex.build(documents, Words(), storage=storage, codec=codec, path=tmp_path / "streamed")
    assert (tmp_path / "saved").read_bytes() == (tmp_path / "streamed").read_bytes()
    rows = [vectors(text)[:LONGEST] for text in documents.texts()]
    for i, given in enumerate((rows, iter(rows), Packed.from_rows(rows), [row.astype(np.float64) for row in rows])):
        made = TokenIndex.from_embeddings(documents, given, storage=storage, codec=codec, path=tmp_path / str(i) if i % 2 else None)
        assert ranked_tokens(made, QUERIES) == ranked_tokens(index, QUERIES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3", "saved", "streamed"]
    opened = TokenIndex.open(tmp_path / "saved")
    held = TokenIndex.open(tmp_path / "saved", in_memory=True, verify=True)
    assert ranked_tokens(held, QUERIES) == ranked_tokens(opened, QUERIES) == ranked_tokens(index, QUERIES)
    assert opened.truncated_tokens.tolist() == [max(0, len(text.split()) - LONGEST) for text in documents.texts()]
    assert opened.truncated_tokens.max() > 0
    for row, exact in enumerate(rows):
        assert opened.tokens(row).shape == exact.shape
        assert np.abs(opened.tokens(row) - exact).max(initial=0) <= NEAR[storage]
    stats = opened.stats()
    assert stats["bytes"] == BYTES[storage] * sum(map(len, rows)) + 8 * 41 == opened.nbytes
    assert (stats["documents"], stats["tokens"], stats["segments"], stats["centroids"]) == (40, sum(map(len, rows)), 1, 6 if codec else 0)
    for said in (storage, f"{stats['bytes_per_token']:.1f} bytes a token", f"{stats['bytes_per_document']:.0f} a document"):
        assert said in repr(opened)


class Named(Words):
    """An encoder that says what it is."""

    def __init__(self, fingerprint: str, dim: int = WORD_DIM) -> None:
        super().__init__()
        self.model, self.fingerprint, self.dim = "m", fingerprint, dim


@pytest.mark.parametrize("storage", ["float16", "2bit"])
def test_an_index_knows_what_made_it(tmp_path: Path, storage: str) -> None:
    ours, other, codec = Named("a"), Named("b"), codec_of(storage)
    kept = {"model": "m", "fingerprint": "a"}
    TokenIndex.build(corpus(5), ours, storage=storage, codec=codec).save(tmp_path / "saved")
    TokenIndex.build(corpus(5), ours, storage=storage, codec=codec, path=tmp_path / "streamed")
    assert (tmp_path / "saved").read_bytes() == (tmp_path / "streamed").read_bytes()
    folder = TokenIndex.create(tmp_path / "folder", dim=WORD_DIM, storage=storage, codec=codec)
    folder.encoder = ours
    folder.add(corpus(5))
    folder.commit()
    for name in ("saved", "streamed", "folder"):
        assert TokenIndex.open(tmp_path / name).made_by == kept
        for wrong, said in ((other, "'m' \\(b\\).*'m' \\(a\\), which made the index"), (Named("a", 3), "dimension 3")):
            with pytest.raises(InputError, match=said):
                TokenIndex.open(tmp_path / name, encoder=wrong)
        index = TokenIndex.open(tmp_path / name, encoder=Words())  # which does not say
        index.encoder = other
        with pytest.raises(InputError, match="which made the index"):
            index.add([rr.Document("new", "w1")])
        assert len(index) == 5 and other.batches == []
    assert TokenIndex.from_embeddings(corpus(1), [vectors("w1")]).made_by is None
    empty = TokenIndex.create(tmp_path / "empty", dim=WORD_DIM)
    empty.encoder = ours
    with pytest.raises(InputError):
        empty.add([rr.Document("x", "w1"), "text"])  # type: ignore[list-item]
    assert empty.made_by is None
    empty.add([rr.Document("x", "w1")])
    assert empty.made_by == kept
    empty.rollback()
    assert empty.made_by is None and len(empty) == 0


def test_what_a_crash_left_of_create_is_no_obstacle(tmp_path: Path) -> None:
    """The codec is there, the manifest is not. A file of that name that is none of ours stays."""
    TokenIndex.create(tmp_path / "f", storage="2bit", codec=codec_of("2bit"))
    (tmp_path / "f" / "manifest.json").unlink()
    index = TokenIndex.create(tmp_path / "f", Words(), dim=WORD_DIM, storage="float32")
    index.add(corpus(3))
    index.commit()
    assert TokenIndex.open(tmp_path / "f", verify=True).storage == "float32"
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "codec").write_text("mine")
    with pytest.raises(InputError, match="something that is there"):
        TokenIndex.create(tmp_path / "g", dim=WORD_DIM)
    assert (tmp_path / "g" / "codec").read_text() == "mine"


@pytest.mark.parametrize("storage", STORAGES)
def test_certified_tops_are_the_first_of_all(storage: str) -> None:
    """Of many documents and query tokens, so that documents are dropped; through an index of two segments, with deletions."""
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(40)]
    texts = [" ".join(rng.choice(words, rng.integers(0, 30))) for _ in range(700)]
    index = TokenIndex.build(
        rr.Corpus.from_texts(texts[:400], ids=[f"a{i}" for i in range(400)]), Words(), storage=storage, codec=codec_of(storage)
    )
    index.add(rr.Document(f"b{i}", text) for i, text in enumerate(texts[400:]))
    index.delete([f"a{i}" for i in range(0, 400, 7)])
    query = np.concatenate([vectors(" ".join(rng.choice(words, 48))), 0.2 * vectors("w1 w2 w3")])
    every = index.score(query, precision="float32")
    every[np.arange(0, 400, 7)] = -np.inf
    for k in (1, 10):
        got = index.top(query, k)
        want = np.lexsort((np.arange(700), -every.astype(np.float64)))[:k]
        assert got.rows.tolist() == want.tolist() and got.scores.tobytes() == every[want].tobytes()
        allowed = rng.random(700) < 0.5
        [(rows, scores)] = index.search([query], 700, filters=[allowed], precision="float32")  # a filter together with deletions
        assert set(rows.tolist()) == set(np.flatnonzero(allowed & (every > -np.inf)).tolist())
        assert scores.tobytes() == every[rows].tobytes()


@pytest.mark.parametrize("storage", STORAGES)
def test_scores_and_searches_are_those_of_the_op(storage: str) -> None:
    index = TokenIndex.build(corpus(60), Words(), storage=storage, codec=codec_of(storage))
    query, decoded = vectors("w0 w4 w5 w11"), [index.tokens(row) for row in range(60)]
    want, every = rr.ops.maxsim(query, decoded), index.score(query)
    there = want > -np.inf
    assert (np.isneginf(every) == ~there).all()
    assert np.abs(every[there] - want[there]).max() <= 2e-3
    assert (index.score(query, [50, 3, 3, 0]) == index.score(query, np.array([50, 3, 0]))[[0, 1, 1, 2]]).all()
    mask, weights = np.array([1, 0, 1, 1], bool), np.array([1, 2, 0.5, -1], np.float32)
    assert index.score(query, query_mask=mask).tobytes() == index.score(query[mask]).tobytes()
    got, exact = (a[there] for a in (index.score(query, query_weights=weights), rr.ops.maxsim(query, decoded, query_weights=weights)))
    assert np.abs(got - exact).max() <= 4e-3
    allowed = np.arange(60) % 3 == 0
    for kept, filters in ((there, None), (there & allowed, [allowed]), (there, [None])):
        [(rows, scores)] = index.search([query], 1000, filters=filters)
        chosen = np.flatnonzero(kept)
        assert rows.tolist() == chosen[np.lexsort((chosen, -every[chosen].astype(np.float64)))].tolist()
        assert (scores == every[rows]).all()
    assert index.search([], 3) == []


def test_bad_questions() -> None:
    index, query = TokenIndex.build(corpus(5), Words()), vectors("w0")
    cases: list[tuple[Any, str]] = [
        (lambda: index.search([query], 0), "k"),
        (lambda: index.search(query, 3), r"Pass \[query\]"),
        (lambda: index.search([query], 3, filters=[]), "0 filters"),
        (lambda: index.search([query], 3, filters=[np.ones(4, bool)]), r"bool \[5\]"),
        (lambda: index.search([query], 3, filters=[np.ones(5, int)]), r"bool \[5\]"),  # type: ignore[list-item]
        (lambda: index.score(query[:, :3]), "dimension 3"),
        (lambda: index.score(query[0]), "shape"),
        (lambda: index.score(query, [5]), "row 5"),
        (lambda: index.score(query, [-1]), "row -1"),
        (lambda: index.score(query, [0.5]), "dtype float64"),
        (lambda: index.tokens(5), "row 5"),
        (lambda: index.tokens(0.5), "dtype float64"),  # type: ignore[arg-type]
        (lambda: index.score(query, precision="best"), "precision") if index.codec else (lambda: index.top(query, 0), "k"),
        (lambda: index.score(query * np.nan), "query"),
        (lambda: index.score([query]), "a batch"),
        (lambda: index.search([[query]], 2), "a batch"),
    ]
    for call, said in cases:
        with pytest.raises(InputError, match=said):
            call()


class Counted(Words):
    def encode_documents(self, texts: Sequence[str], *, progress: Any = None) -> tuple[rr.Packed, np.ndarray]:
        raise AssertionError("nothing is to be encoded")


def test_what_can_be_refused_is_refused_before_any_work(tmp_path: Path) -> None:
    documents, path = corpus(3), tmp_path / "x"
    unlike = rr.Corpus([rr.Document("a", "w0", metadata={"x": {1}})])
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (documents, {"storage": "3bit"}, "one of float32, float16"),
        (documents, {"storage": "2bit", "codec": codec_of("4bit")}, "2 bits"),
        (documents, {"storage": "float32", "codec": codec_of("4bit")}, "none for float32"),
        (documents, {"storage": "2bit", "codec": "codec"}, "ResidualCodec"),
        (documents, {"path": tmp_path}, "a folder"),
        (documents, {"path": tmp_path / "no" / "x"}, "no such folder"),
        (unlike, {"path": path}, "metadata of document 'a'"),
        (rr.Corpus([]), {}, "empty corpus"),
        (["text"], {}, "a Corpus"),
    ]
    for given, options, said in cases:
        with pytest.raises(InputError, match=said):
            TokenIndex.build(given, Counted(), **options)
        with pytest.raises(InputError, match=said):
            TokenIndex.from_embeddings(given, iter([]), **options)
    for encoder in (None, "model", vectors):
        with pytest.raises(InputError, match="encode_documents"):
            TokenIndex.build(documents, encoder)  # type: ignore[arg-type]
    for wrong in (5, None, "text"):
        with pytest.raises(InputError, match="a Packed, or arrays"):
            TokenIndex.from_embeddings(documents, wrong, path=path)
    with pytest.raises(InputError, match="an iterator and no codec"):
        TokenIndex.from_embeddings(documents, iter([vectors("w0")] * 3), storage="1bit")
    for options, said in (({"storage": "2bit"}, "codec"), ({}, "dimension"), ({"dim": 0}, "dim"), ({"storage": "x", "dim": 8}, "storage")):
        with pytest.raises(InputError, match=said):
            TokenIndex.create(tmp_path / "folder", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [None, "x"])
def test_tokens_that_cannot_be_indexed_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    monkeypatch.setattr(token_build, "BATCH", 2)
    documents, good = corpus(5), [vectors("w0 w1")] * 5
    options = {"path": tmp_path / path} if path else {}
    cases: list[tuple[list[Any], str, type[Exception], str]] = [
        ([*good[:4], vectors("w0") * np.nan], "float32", NonFiniteError, "nan"),
        ([*good[:4], vectors("w0") * 1e6], "float16", InputError, "65504"),
        ([*good[:4], vectors("w0") * 2], "2bit", InputError, "unit length"),
        ([*good[:4], vectors("w0")[:, :4]], "int8", InputError, "dimension 4"),
        ([good[0], vectors("w0")[:, :4], *good[:3]], "int8", InputError, r"dimensions \[4, 8\]"),
        ([*good[:4], vectors("w0")[0]], "float16", InputError, r"shape \[8\]"),
        ([*good[:4], np.array([["a"]])], "float16", InputError, "dtype"),
        ([np.empty((0, 8))] * 5, "float16", InputError, "no token in any document"),
        (good[:4], "float16", InputError, "embeddings of 4 documents"),
        ([*good, *good], "float16", InputError, "embeddings of (more than 5|10) documents"),
    ]
    for rows, storage, error, said in cases:
        for given in (rows, iter(rows)):
            with pytest.raises(error, match=said):
                TokenIndex.from_embeddings(documents, given, storage=storage, codec=codec_of(storage), **options)
    assert list(tmp_path.iterdir()) == []


def test_documents_without_tokens_may_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_build, "BATCH", 2)
    rows = [np.empty((0, 8)), [], np.empty(0), vectors("w3 w4"), [], vectors("w5"), []]
    for path in (None, tmp_path / "x"):
        index = TokenIndex.from_embeddings(corpus(7), iter(rows), path=path)
        assert [len(index.tokens(row)) for row in range(7)] == [0, 0, 0, 2, 0, 1, 0]
        assert np.isneginf(index.score(vectors("w0"))).tolist() == [True, True, True, False, True, False, True]
        assert index.search([vectors("w5")], 9)[0][0].tolist()[0] == 5


def test_a_codec_is_trained_on_a_sample_that_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = rr.Corpus.from_texts([" ".join(f"w{(i + j) % 40}" for j in range(10)) for i in range(400)])
    whole, encoder = TokenIndex.build(documents, Words(), storage="2bit"), Words()
    assert whole.codec is not None
    again = TokenIndex.build(documents, Words(), storage="2bit")
    assert ranked_tokens(again, QUERIES) == ranked_tokens(whole, QUERIES)
    monkeypatch.setattr(token_build, "BATCH", 10)
    monkeypatch.setattr(token_build, "SAMPLE", 250 * WORD_DIM)
    seen = list[tuple[int, int | None]]()
    train = ResidualCodec.train

    def told(tokens: Any, *args: Any, n_tokens: int | None = None, **options: Any) -> ResidualCodec:
        seen.append((len(tokens), n_tokens))
        return train(tokens, *args, n_tokens=n_tokens, **options)

    monkeypatch.setattr(ResidualCodec, "train", told)
    calls = list[tuple[int, int]]()
    sampled = TokenIndex.build(documents, encoder, storage="2bit", progress=lambda *counts: calls.append(counts))
    assert encoder.batches[:3] == [10, 10, 10] and sum(encoder.batches) == 400  # the sample is not encoded twice
    assert calls == sorted(calls) and calls[0] == (10, 400) and calls[-1] == (400, 400)
    same = TokenIndex.build(documents, Words(), storage="2bit", codec=sampled.codec)
    assert ranked_tokens(same, QUERIES) == ranked_tokens(sampled, QUERIES)
    assert same.truncated_tokens.tolist() == sampled.truncated_tokens.tolist()
    rows = [vectors(text) for text in documents.texts()]
    few = TokenIndex.from_embeddings(documents, rows, storage="4bit", n_centroids=5)
    TokenIndex.from_embeddings(documents, Packed.from_rows(rows), storage="1bit")
    assert seen == [(300, 4000)] * 3
    assert few.codec is not None
    assert len(few.codec.centroids) == 5
    with pytest.raises(InputError, match="unit length"):
        TokenIndex.from_embeddings(documents, [2 * row for row in rows], storage="2bit")
    with pytest.raises(InputError, match="none in the documents"):
        TokenIndex.from_embeddings(corpus(2), [[], []], storage="2bit")


# Peak of what the process owned (without pages of mapped files, which the system takes back), in KiB, above what it began with.
BUILD = """
import json, sys
from pathlib import Path
import numpy as np
import rerank_engine as rr
from rerank_engine.indexes import TokenIndex
from rerank_engine.codec import ResidualCodec

def own():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))

n, storage, way = int(sys.argv[2]), sys.argv[3], sys.argv[4]
peak = 0
class Encoder:
    rng = np.random.default_rng(0)
    def encode_documents(self, texts, *, progress=None):
        global peak
        x = self.rng.normal(size=(len(texts) * 40, 64)).astype(np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        peak = max(peak, own())
        return rr.Packed(x, np.arange(0, len(x) + 1, 40)), np.zeros(len(texts), np.int32)
encoder, codec = Encoder(), None
if storage == "2bit":
    codec = ResidualCodec.train(encoder.encode_documents([""] * 20)[0].values, 2, 16, backend="numpy")
TokenIndex.build(rr.Corpus.from_texts(["x"] * 300), encoder, storage=storage, codec=codec, path=sys.argv[1] + "/warm")
documents, start, peak = rr.Corpus.from_texts(["x"] * n), own(), 0
if way == "file":
    index = TokenIndex.build(documents, encoder, storage=storage, codec=codec, path=sys.argv[1] + "/x")
else:
    index = TokenIndex.create(sys.argv[1] + "/x", encoder, dim=64, storage=storage, codec=codec)
    index.add(documents)
    index.commit()
print(json.dumps({"own": max(peak, own()) - start, "tokens": index.nbytes // 1024, "documents": len(index)}))
"""


@pytest.mark.parametrize(("storage", "way"), [("float32", "file"), ("2bit", "file"), ("float16", "folder")])
def test_a_streamed_build_holds_a_part_of_its_tokens(tmp_path: Path, storage: str, way: str) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc to ask for this process' memory")
    told, sizes = list[dict[str, int]](), (1500, 24000 if storage == "2bit" else 6000)  # several times what an allocator may keep
    for n in sizes:
        folder = tmp_path / str(n)
        folder.mkdir()
        done = subprocess.run([sys.executable, "-c", BUILD, str(folder), str(n), storage, way], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        told.append(json.loads(done.stdout))
    few, many = told
    assert (few["documents"], many["documents"]) == sizes
    assert many["own"] - few["own"] < 0.4 * (many["tokens"] - few["tokens"])


# A mapped file of 40 MB: opened, and one document scored. The resident pages of files, in KiB.
OPEN = """
import sys
from pathlib import Path
import numpy as np
from rerank_engine.indexes import TokenIndex

def mapped():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))

query = np.eye(4, 64, dtype=np.float32)
TokenIndex.open(sys.argv[1]).score(query, [0])
before = mapped()
index = TokenIndex.open(sys.argv[2])
opened = mapped()
index.score(query, [0, 900])
print(opened - before, mapped() - before, index.nbytes // 1024)
"""


def test_opening_and_scoring_read_only_what_is_asked_for(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc to ask for this process' memory")
    rows = np.random.default_rng(0).normal(size=(160, 64)).astype(np.float32)
    for n in (10, 1000):
        documents = rr.Corpus.from_texts(["x"] * n)
        TokenIndex.from_embeddings(documents, [rows] * n, storage="float32", path=tmp_path / str(n))
    done = subprocess.run([sys.executable, "-c", OPEN, str(tmp_path / "10"), str(tmp_path / "1000")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    opened, scored, size = map(int, done.stdout.split())
    assert size > 40_000
    assert opened < 0.1 * size
    assert scored < 0.2 * size
