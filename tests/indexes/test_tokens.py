"""TokenIndex: built, saved, opened, imported, searched; a file that is streamed is the file that is saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from token_words import DIM, QUERY, Words, codec_for, corpus, document, vectors

import rerank_engine as rr
from rerank_engine.errors import DuplicateIdError, FileFormatError, InputError, UnknownIdError
from rerank_engine.indexes.token_members import STORAGES


@pytest.mark.parametrize("storage", STORAGES)
def test_build_save_open(tmp_path: Path, storage: str) -> None:
    documents, encoder, codec, seen = corpus(), Words(), codec_for(storage), []
    index = rr.TokenIndex.build(documents, encoder, storage=storage, codec=codec, progress=lambda done, n: seen.append((done, n)))
    assert (
        len(index) == 300
        and index.storage == storage
        and index.dim == DIM
        and encoder.batches == [256, 44]
        and seen == [(256, 300), (300, 300)]
    )
    index.save(tmp_path / "a")
    streamed = rr.TokenIndex.build(documents, Words(), storage=storage, codec=codec, path=tmp_path / "b")
    rr.TokenIndex.from_embeddings(
        documents, (vectors(t)[:12] for t in documents.texts()), storage=storage, codec=codec, path=tmp_path / "c"
    )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]  # nothing of the streaming is left
    opened = rr.TokenIndex.open(tmp_path / "a")
    want = index.score(QUERY)
    for other in (opened, streamed, rr.TokenIndex.open(tmp_path / "c"), rr.TokenIndex.open(tmp_path / "a", in_memory=True, verify=True)):
        assert (other.score(QUERY) == want).all() and other.corpus[7] == documents[7]
    assert (opened.truncated_tokens == [max(0, len(t.split()) - 12) for t in documents.texts()]).all()
    told = rr.TokenIndex.check(tmp_path / "a")
    assert told["documents"] == 300 and told["tokens"] == index.n_tokens and told["storage"] == storage and told["deleted"] == 0
    assert f"{storage}" in repr(opened) and "bytes a token" in repr(opened)


@pytest.mark.parametrize("storage", STORAGES)
def test_scores_are_those_of_the_stored_tokens(storage: str) -> None:
    documents = corpus(80)
    index = rr.TokenIndex.build(documents, Words(), storage=storage, codec=codec_for(storage))
    decoded = [index.tokens(row) for row in range(80)]
    exact = [vectors(text)[:12] for text in documents.texts()]
    near = {"float32": 0, "float16": 1e-3, "int8": 1e-2, "4bit": 0.5, "2bit": 0.9, "1bit": 1.3}[storage]
    assert max(float(np.abs(a - b).max(initial=0)) for a, b in zip(decoded, exact)) <= near
    want, got = rr.ops.maxsim(QUERY, decoded), index.score(QUERY, precision="float32")
    assert np.allclose(got[want > -9], want[want > -9], atol=2e-4) and (np.isneginf(got) == np.isneginf(want)).all()
    rows = [70, 3, 3, 0]
    assert (index.score(QUERY, rows) == index.score(QUERY)[rows]).all()
    mask = np.array([1, 0, 1, 1, 0], bool)
    assert (index.score(QUERY, query_mask=mask) == index.score(QUERY[mask])).all()
    [(ids, scores)] = index.search([QUERY], 10)
    every = index.score(QUERY)
    order = np.lexsort((np.arange(80), -every.astype(np.float64)))[:10]
    assert ids.tolist() == order.tolist() and (scores == every[order]).all()
    allowed = np.arange(80) % 3 == 0
    [(ids, _)] = index.search([QUERY], 100, filters=[allowed])
    assert set(ids.tolist()) == {i for i in range(0, 80, 3) if every[i] > -np.inf}
    top, exact_scores = index.top(QUERY, 7), index.score(QUERY, precision="float32")
    order = np.lexsort((np.arange(80), -exact_scores.astype(np.float64)))[:7]
    assert top.rows.tolist() == order.tolist() and (top.scores == exact_scores[order]).all()


def test_training_a_codec_on_the_way() -> None:
    index = rr.TokenIndex.build(corpus(120), Words(), storage="2bit")
    assert index.codec is not None and index.codec.nbits == 2
    again = rr.TokenIndex.build(corpus(120), Words(), storage="2bit")
    assert (again.codec.centroids == index.codec.centroids).all() and (again.score(QUERY) == index.score(QUERY)).all()
    other = rr.TokenIndex.from_embeddings(corpus(120), [vectors(t) for t in corpus(120).texts()], storage="1bit", n_centroids=9)
    assert len(other.codec.centroids) == 9


@pytest.mark.parametrize("storage", STORAGES)
def test_a_folder_takes_additions_and_deletions(tmp_path: Path, storage: str) -> None:
    codec, documents = codec_for(storage), corpus(60)
    index = rr.TokenIndex.create(tmp_path / "f", Words(), dim=DIM, storage=storage, codec=codec)
    assert len(index) == 0 and index.search([QUERY], 3)[0][0].size == 0
    index.add(documents[i] for i in range(30))
    index.commit()
    index.add([documents[i] for i in range(30, 60)])
    index.delete(["d3", "d40"])
    assert len(rr.TokenIndex.open(tmp_path / "f")) == 30  # nothing is there before the commit
    index.commit()
    opened = rr.TokenIndex.open(tmp_path / "f", encoder=Words())
    assert len(opened) == 58 and "d3" not in opened.corpus and "d40" not in opened.corpus
    kept = [documents[i] for i in range(60) if i not in (3, 40)]
    fresh = rr.TokenIndex.build(rr.Corpus(kept), Words(), storage=storage, codec=codec)
    found = {opened.corpus[r].id: s for r, s in zip(*opened.search([QUERY], 99)[0])}
    assert found == {fresh.corpus[r].id: s for r, s in zip(*fresh.search([QUERY], 99)[0])}
    assert [opened.corpus[r].id for r in opened.top(QUERY, 5).rows] == [fresh.corpus[r].id for r in fresh.top(QUERY, 5).rows]
    opened.save(tmp_path / "saved")
    fresh.save(tmp_path / "fresh")
    assert (tmp_path / "saved").read_bytes() == (tmp_path / "fresh").read_bytes()
    before = opened.snapshot()
    opened.update([rr.Document("d5", "w1 w2"), rr.Document("new", "w3")])
    assert opened.corpus[opened.corpus.row("d5")].text == "w1 w2" and len(opened) == 59 and len(before) == 58 and "new" not in before.corpus
    opened.rollback()
    assert len(opened) == 58 and opened.corpus[opened.corpus.row("d5")].text == documents[5].text
    assert rr.TokenIndex.check(tmp_path / "f")["documents"] == 58


def test_embeddings_can_be_added(tmp_path: Path) -> None:
    index = rr.TokenIndex.create(tmp_path / "f", dim=DIM)
    index.add_embeddings([document(i) for i in range(3)], [vectors(document(i).text) for i in range(3)])
    index.commit()
    with pytest.raises(InputError, match="no encoder"):
        index.add([document(9)])
    with pytest.raises(DuplicateIdError, match="d1"):
        index.add_embeddings([document(9), document(1)], [vectors("w1")] * 2)
    with pytest.raises(InputError, match="one row a document"):
        index.add_embeddings([document(9)], [])
    with pytest.raises(InputError, match="dimension 3"):
        index.add_embeddings([document(9)], [np.ones((1, 3), np.float32)])
    with pytest.raises(UnknownIdError):
        index.delete(["d0", "nobody"])
    assert len(index) == 3 and len(rr.TokenIndex.open(tmp_path / "f")) == 3


class Wrong:
    def __init__(self, tokens: Any) -> None:
        self.tokens = tokens

    def encode_documents(self, texts: Sequence[str], *, progress: Any = None) -> tuple[rr.Packed, np.ndarray]:
        return rr.Packed.from_rows([self.tokens] * len(texts)), np.zeros(len(texts), np.int32)


def test_bad_input_leaves_nothing_behind(tmp_path: Path) -> None:
    documents, one = corpus(3), np.ones((1, DIM), np.float32) / 4
    cases: list[tuple[dict[str, Any], Any, str]] = [
        ({"storage": "3bit"}, Words(), "storage"),
        ({}, Wrong(np.full((1, DIM), np.nan, np.float32)), "tokens"),
        ({"storage": "float16"}, Wrong(one * 1e6), "65504"),
        ({"storage": "2bit", "codec": codec_for("2bit")}, Wrong(one * 2), "unit length"),
        ({"storage": "2bit", "codec": codec_for("4bit")}, Words(), "codec"),
        ({"storage": "float32", "codec": codec_for("4bit")}, Words(), "codec"),
        ({}, Wrong(np.empty((0, DIM), np.float32)), "no token"),
    ]
    for options, encoder, match in cases:
        with pytest.raises(InputError, match=match):
            rr.TokenIndex.build(documents, encoder, path=tmp_path / "x", **options)
    for n in (2, 4):
        with pytest.raises(InputError, match="embeddings of"):
            rr.TokenIndex.from_embeddings(documents, [one] * n, path=tmp_path / "x")
    with pytest.raises(InputError, match="iterator"):
        rr.TokenIndex.from_embeddings(documents, iter([one] * 3), storage="1bit")
    with pytest.raises(InputError, match="empty corpus"):
        rr.TokenIndex.build(rr.Corpus([]), Words())
    with pytest.raises(InputError, match="codec"):
        rr.TokenIndex.create(tmp_path / "f", dim=DIM, storage="2bit")
    with pytest.raises(InputError, match="row 3"):
        rr.TokenIndex.build(documents, Wrong(one)).tokens(3)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_token_index_is_refused(tmp_path: Path) -> None:
    rr.BM25Index.build(corpus(3)).save(tmp_path / "bm25")
    for path in ("bm25", "nothing"):
        with pytest.raises(FileFormatError):
            rr.TokenIndex.open(tmp_path / path)
    rr.TokenIndex.build(corpus(3), Words()).save(tmp_path / "tokens")
    with pytest.raises(FileFormatError, match="token-segment"):
        rr.BM25Index.open(tmp_path / "tokens")


def test_streaming_keeps_memory_bounded(tmp_path: Path) -> None:
    """80 MB of tokens go to a file while a few batches of them are held."""
    import tracemalloc

    n, rows = 5000, 32
    documents = rr.Corpus.from_texts(["x"] * n)

    def embeddings() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for _ in range(n):
            x = rng.normal(size=(rows, 128)).astype(np.float32)
            yield x / np.linalg.norm(x, axis=1, keepdims=True)

    tracemalloc.start()
    try:
        index = rr.TokenIndex.from_embeddings(documents, embeddings(), storage="float32", path=tmp_path / "x")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert index.nbytes > 80e6 and peak < 0.4 * index.nbytes
