"""The index of impacts: scores within the bound that it states, the order of the impacts exactly, whatever happened to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from damage import cuts, flips
from models import words
from sparse_models import LONGEST, WIDTH, sparse_encoder

import rerank_engine as rr
from rerank_engine.backends import NEEDS
from rerank_engine.errors import DuplicateIdError, FileFormatError, InputError, UnknownIdError
from rerank_engine.indexes import members
from rerank_engine.indexes.impacts import ImpactIndex
from rerank_engine.stages.splade import SparseEncoder

needs_cpp = pytest.mark.skipif(NEEDS["cpp"]() is not None, reason="files are read and written by the C++ core")
BACKENDS = [name for name in ("cpp", "reference") if NEEDS[name]() is None]
QUERIES = ["w1", "w2 w3 w40", words(0, 8), "w59"]


def document(number: int, version: int = 0) -> rr.Document:
    rng = np.random.default_rng([number, version])
    return rr.Document(f"d{number}", " ".join(f"w{w}" for w in rng.integers(0, 60, rng.integers(0, LONGEST + 4))))


def corpus(n: int) -> rr.Corpus:
    return rr.Corpus(document(i) for i in range(n))


@pytest.fixture
def encoder(tmp_path: Path) -> SparseEncoder:
    return sparse_encoder(tmp_path / "encoder")


def dense(encoder: SparseEncoder, texts: list[str], queries: bool = False) -> np.ndarray:
    """float64 [n, WIDTH]"""
    out = np.zeros((len(texts), WIDTH))
    for row, (ids, weights) in zip(out, encoder.encode(texts, queries)):
        row[ids] = weights
    return out


def expected(documents: np.ndarray, query: np.ndarray, k: int, live: np.ndarray | None = None) -> tuple[list[int], list[float]]:
    scores = (documents @ query).astype(np.float32)
    order = np.lexsort((np.arange(len(scores)), -scores)).tolist()
    order = [row for row in order if ((documents[row] > 0) & (query > 0)).any() and (live is None or live[row])][:k]
    return order, scores[order].tolist()


def assert_exact(index: ImpactIndex, encoder: SparseEncoder, documents: np.ndarray, live: np.ndarray | None = None) -> None:
    for query, (rows, scores) in zip(dense(encoder, QUERIES, True), index.search(encoder.encode(QUERIES, True), 30)):
        assert (rows.tolist(), scores.tolist()) == expected(documents, query, 30, live)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [0.9, 4.0, 64.0, 200.0])
def test_scores_are_within_the_stated_bound_and_in_the_order_of_the_impacts(encoder: SparseEncoder, backend: str, scale: float) -> None:
    """At a scale of 200 impacts outgrow a byte; at 0.9 many round to nothing. 600 documents make blocks, and rows of codes."""
    n = 600 if backend == "cpp" else 80
    seen: list[tuple[int, int]] = []
    index = ImpactIndex.build(corpus(n), encoder, scale=scale, backend=backend, progress=lambda done, total: seen.append((done, total)))
    weights = dense(encoder, [document(i).text for i in range(n)])
    impacts = np.rint(weights * scale)
    assert seen == [(n, n)] and len(index) == n and index.n_postings == (impacts > 0).sum() and index.scale == scale
    assert (impacts.max() > 255) == (scale == 200)
    if scale in (4.0, 64.0):  # a division by them is exact
        assert_exact(index, encoder, impacts / scale)
    for query, (rows, scores) in zip(dense(encoder, QUERIES, True), index.search(encoder.encode(QUERIES, True), n)):
        bound = query.sum() / (2 * scale) + 1e-5
        assert (np.abs(scores - (weights @ query)[rows]) <= bound).all()
        missed = np.setdiff1d(np.arange(n), rows)
        assert ((weights @ query)[missed] <= bound).all()
        np.testing.assert_allclose(scores, (impacts @ query)[rows] / scale, rtol=1e-6)


def test_pruned_documents_and_what_was_cut(encoder: SparseEncoder) -> None:
    index = ImpactIndex.build(corpus(40), encoder, top_terms=5, threshold=0.5)
    found, dropped = encoder.encode_counted([document(i).text for i in range(40)], top_terms=5, threshold=0.5)
    assert index.n_postings == sum(len(ids) for ids, _ in found) and dropped.any()
    assert index.truncated_tokens.tolist() == dropped.tolist()


@needs_cpp
def test_saved_and_opened_it_is_the_same_index(encoder: SparseEncoder, tmp_path: Path) -> None:
    built = ImpactIndex.build(corpus(200), encoder, threshold=0.25)
    built.save(tmp_path / "x")
    for options in ({}, {"in_memory": True}, {"verify": True}, {"encoder": encoder}):
        index = ImpactIndex.open(tmp_path / "x", **options)
        assert repr(index) == repr(built) and index.made_by == built.made_by == {"model": "table-0", "fingerprint": encoder.fingerprint}
        assert index.truncated_tokens.tolist() == built.truncated_tokens.tolist() and list(index.corpus) == list(built.corpus)
        asked = encoder.encode(QUERIES, True)
        for a, b in zip(index.search(asked, 50), built.search(asked, 50)):
            assert a[0].tolist() == b[0].tolist() and a[1].tobytes() == b[1].tobytes()
        assert index.explain(asked[0], "d7") == built.explain(asked[0], "d7")
    assert ImpactIndex.check(tmp_path / "x")["documents"] == 200
    index.add([document(200)])  # the last was opened with its encoder; it prunes as the index was built
    assert index.n_postings == built.n_postings + len(encoder.encode([document(200).text], threshold=0.25)[0][0])
    index.save(tmp_path / "y")
    fresh = ImpactIndex.build(corpus(201), encoder, threshold=0.25)
    fresh.save(tmp_path / "z")
    assert (tmp_path / "y").read_bytes() == (tmp_path / "z").read_bytes()


@needs_cpp
def test_a_folder_takes_changes(encoder: SparseEncoder, tmp_path: Path) -> None:
    """Several segments, deleted and replaced documents: always exactly the impacts of those that are there."""
    index = ImpactIndex.create(tmp_path / "f", encoder, scale=8)
    assert index.add(corpus(150)) == 150
    index.commit()
    index.add([document(i) for i in range(150, 170)])
    index.delete([f"d{i}" for i in range(0, 60, 7)])
    index.update([document(3, 1), document(500)])
    index.commit()
    for opened in (index, ImpactIndex.open(tmp_path / "f", encoder=encoder)):
        rows = [opened.corpus[row] for row in range(len(opened.corpus))]
        live = np.array([doc.id in opened.corpus and opened.corpus.row(doc.id) == row for row, doc in enumerate(rows)])
        assert live.sum() == len(opened) == 150 + 20 - 9 + 1
        assert_exact(opened, encoder, dense(encoder, [doc.text for doc in rows]), live)
        want = encoder.encode_counted([doc.text for doc in rows])[1]
        assert opened.truncated_tokens.tolist() == want.tolist()
    index.delete(["d500"])
    index.rollback()
    assert "d500" in index.corpus
    index.merge()
    assert len(index.corpus) == len(index) and index.truncated_tokens.shape == (len(index),)
    assert_exact(index, encoder, dense(encoder, [doc.text for doc in index.corpus]))
    with pytest.raises(DuplicateIdError):
        index.add([document(1)])


@needs_cpp
def test_another_encoder_is_refused(encoder: SparseEncoder, tmp_path: Path) -> None:
    ImpactIndex.build(corpus(9), encoder).save(tmp_path / "x")
    other = sparse_encoder(tmp_path / "other", 1)
    with pytest.raises(InputError, match=r"table-1.*expected 'table-0'"):
        ImpactIndex.open(tmp_path / "x", encoder=other)
    index = ImpactIndex.open(tmp_path / "x")
    for change in (index.add, index.update):
        with pytest.raises(InputError, match="without its encoder"):
            change([document(10)])
    index.delete(["d1"])
    assert len(index) == 8


@needs_cpp
def test_other_kinds_of_index_are_refused(tmp_path: Path) -> None:
    rr.BM25Index.build(corpus(5)).save(tmp_path / "bm25")
    rr.BM25Index.from_tokens([[0, 0, 1], [1]], variant="impact", k1=64).save(tmp_path / "plain")
    (tmp_path / "text").write_text("no index")
    for name in ("bm25", "plain", "text", "nothing"):
        with pytest.raises(FileFormatError, match=name):
            ImpactIndex.open(tmp_path / name)
        with pytest.raises(FileFormatError, match=name):
            ImpactIndex.check(tmp_path / name)


@needs_cpp
def test_bm25_refuses_an_index_of_impacts_and_leaves_it_whole(encoder: SparseEncoder, tmp_path: Path) -> None:
    ImpactIndex.build(corpus(3), encoder).save(tmp_path / "file")
    ImpactIndex.create(tmp_path / "empty", encoder).commit()
    for name in ("file", "empty"):
        for wrong in (rr.BM25Index.open, rr.BM25Index.check):
            with pytest.raises(FileFormatError, match=r"got an index of impacts; expected an index of texts\. ImpactIndex\.open"):
                wrong(tmp_path / name)
        assert ImpactIndex.check(tmp_path / name)["documents"] == len(ImpactIndex.open(tmp_path / name, encoder=encoder))
    index = ImpactIndex.open(tmp_path / "empty", encoder=encoder)
    assert index.add([document(1)]) == 1


@needs_cpp
@pytest.mark.parametrize(
    "change",
    [
        {"codes": None},
        {"codes": "yes"},
        {"forward": None},
        {"forward": True},
        {"analyzer": None},
        {"analyzer": {"scheme": 1, "analyzer": "english"}},
        {"parameters": {"variant": "impact", "k1": 64.0, "b": 0.5, "delta": 0.0}},
        {"parameters": {"variant": "impact", "k1": 64.0, "b": 0.0, "delta": 1.0}},
        {"impacts": None},
        {"impacts": {"encoder": "x", "top_terms": None, "threshold": 0.0}},
        {"impacts": {"encoder": None, "top_terms": "5", "threshold": 0.0}},
    ],
)
def test_settings_that_no_index_of_impacts_has(encoder: SparseEncoder, tmp_path: Path, change: dict) -> None:
    index = ImpactIndex.build(corpus(3), encoder)._index
    settings = {name: value for name, value in {**index._settings(), **change}.items() if value is not None}
    members.write(tmp_path / "x", index._members[0], settings)
    with pytest.raises(FileFormatError, match="an index that is not of impacts, or is damaged"):
        ImpactIndex.open(tmp_path / "x")


@needs_cpp
def test_check_finds_every_changed_byte_and_every_other_length(encoder: SparseEncoder, tmp_path: Path) -> None:
    path = tmp_path / "x"
    ImpactIndex.build(corpus(3), encoder, top_terms=4).save(path)

    def found() -> str:
        try:
            ImpactIndex.check(path)
        except FileFormatError as error:
            return str(error)
        return ""

    assert found() == ""
    for at, mask in flips(path, (0xFF,)):
        assert found() != "", f"byte {at} ^ {mask}"
    for length in cuts(path):
        if length % 7 == 0 or length > path.stat().st_size - 200:
            assert found() != "", f"{length} bytes"
    assert found() == ""


def test_wrong_input(encoder: SparseEncoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="empty corpus"):
        ImpactIndex.build(rr.Corpus.from_texts([]), encoder)
    with pytest.raises(InputError, match="ImpactIndex: encoder"):
        ImpactIndex.build(corpus(2), None)  # type: ignore[arg-type]
    for options in ({"scale": 0}, {"scale": np.inf}, {"top_terms": 0}, {"threshold": -1}):
        with pytest.raises(InputError, match=next(iter(options))):
            ImpactIndex.build(corpus(2), encoder, **options)
    index = ImpactIndex.build(corpus(20), encoder)
    one = encoder.encode(["w1"], True)[0]
    with pytest.raises(InputError, match="filters"):
        index.search([one], 3, filters=[])
    for ids, weights in ((one[0][:-1], one[1]), (np.array([1, 1]), np.array([1.0, 2.0], np.float32))):
        with pytest.raises(InputError, match="distinct terms, a weight each"):
            index.search([(ids, weights)], 3)
    assert index.search([one, one], 3, filters=[None, rr.Query("", allow=["d1"])])[0][0].tolist() == index.search([one], 3)[0][0].tolist()
    with pytest.raises(InputError, match=r"ImpactIndex\.search: filters"):
        index.search([one], 3, filters=["d1"])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"ImpactIndex\.search: weights"):
        index.search([(one[0], np.array(["x"] * len(one[0])))], 3)
    with pytest.raises(InputError, match=r"ImpactIndex\.add"):
        index.add([1])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"ImpactIndex\.search: k"):
        index.search([one], 0)
    with pytest.raises(UnknownIdError):
        index.explain(one, "nobody")
    assert [rows.size for rows, _ in index.search([(np.array([10**6]), np.array([1.0], np.float32)), (one[0][:0], one[1][:0])], 3)] == [
        0,
        0,
    ]
    assert index.search([], 3) == []
