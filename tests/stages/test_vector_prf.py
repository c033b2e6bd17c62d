"""VectorPRF against its formulas, written out again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models import words, write_encoder

import rerank_engine as rr
from rerank_engine.errors import InputError
from rerank_engine.ops.topk import topk
from rerank_engine.stages.dense import BiEncoder, Dense
from rerank_engine.stages.vector_prf import VectorPRF

TEXTS = [words(3 + i % 5, 7 * i + 1) for i in range(40)]
QUERIES = ["w1 w2 w3", "w9", "w20 w4"]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Dense:
    encoder = rr.load(write_encoder(tmp_path_factory.mktemp("encoder"), "mean", normalize=True), device="cpu")
    return Dense(rr.VectorIndex.build(rr.Corpus.from_texts(TEXTS), encoder), encoder, k=7)


def moved(dense: Dense, query: str, rows: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    q = dense.encoder.encode([query], queries=True)[0].astype(np.float64)
    return (alpha * q + beta * sum(dense.index.vectors[row].astype(np.float64) for row in rows) / len(rows)).astype(np.float32)


@pytest.mark.parametrize(
    ("options", "n", "alpha", "beta"),
    [
        ({}, 3, 1.0, 0.2),
        ({"method": "rocchio", "alpha": 0.4, "beta": 0.6, "fb_docs": 5}, 5, 0.4, 0.6),
        ({"method": "average", "fb_docs": 4}, 4, 1 / 5, 4 / 5),
        ({"method": "average", "fb_docs": 100}, 40, 1 / 41, 40 / 41),
        ({"alpha": 0.0, "beta": 1.0, "fb_docs": 1}, 1, 0.0, 1.0),
    ],
    ids=str,
)
def test_it_is_the_formula(dense: Dense, options: dict, n: int, alpha: float, beta: float) -> None:
    found = VectorPRF(dense, **options).run(QUERIES)
    for query, ranking in zip(QUERIES, found):
        first = Dense(dense.index, dense.encoder, k=n)(query)
        vector = moved(dense, query, first.ids, alpha, beta)
        rows, scores = topk(np.matmul(dense.index.vectors[:, None, :], vector[:, None])[:, 0, 0], 7)
        assert ranking.ids.tolist() == rows.tolist() and ranking.scale == "inner product"
        assert np.abs(ranking.scores - scores).max() <= 1e-6


def test_feedback_may_come_in_and_filters_hold(dense: Dense) -> None:
    stage = VectorPRF(dense, fb_docs=2, alpha=0.5, beta=2.0, incoming=True)
    assert not stage.retrieves
    incoming = rr.Ranking.in_order(dense.index.corpus, np.array([31, 5, 8]))
    [ranking] = stage.run([rr.Query(QUERIES[0], allow=["0", "5", "31", "8"])], [incoming])
    vector = moved(dense, QUERIES[0], np.array([31, 5]), 0.5, 2.0)
    rows = np.array([0, 5, 8, 31])
    expected = topk(np.matmul(dense.index.vectors[rows][:, None, :], vector[:, None])[:, 0, 0], 7, ids=rows)[0]
    assert ranking.ids.tolist() == expected.tolist()
    allowed = rr.Query(QUERIES[1], allow=["3", "4"])
    assert sorted(VectorPRF(dense)(allowed).ids.tolist()) == [3, 4]
    assert (dense >> stage)(QUERIES[0]).ids.tolist() == VectorPRF(dense, fb_docs=2, alpha=0.5, beta=2.0)(QUERIES[0]).ids.tolist()


def test_without_feedback_the_query_is_searched_as_it_is(dense: Dense) -> None:
    nothing = rr.Ranking.in_order(dense.index.corpus, np.empty(0, np.int64))
    [blank, plain] = VectorPRF(dense, incoming=True).run([" ", QUERIES[2]], [nothing, nothing])
    assert len(blank) == 0 and plain.ids.tolist() == dense(QUERIES[2]).ids.tolist()
    assert [len(ranking) for ranking in VectorPRF(dense).run(["", QUERIES[0], "  "])] == [0, 7, 0]


def test_a_model_may_read_the_feedback(dense: Dense, tmp_path: Path) -> None:
    """As ANCE-PRF: the query and the texts of its feedback, in their order, joined by the separator."""
    reader = rr.load(write_encoder(tmp_path, "cls", normalize=True), device="cpu")
    assert isinstance(reader, BiEncoder)
    stage = VectorPRF(dense, encoder=reader, separator=" w7 ", fb_docs=2)
    first = dense(QUERIES[0])
    text = " w7 ".join([QUERIES[0], *(document.passage for document in first.documents[:2])])
    expected = dense.index.search(reader.encode([text]), 7)[0]
    assert stage(QUERIES[0]).ids.tolist() == expected[0].tolist()
    assert reader.name in repr(stage)


def test_what_it_refuses(dense: Dense) -> None:
    for options, message in (
        ({"method": "mean"}, "one of rocchio, average"),
        ({"fb_docs": 0}, "fb_docs"),
        ({"alpha": -1.0}, "alpha"),
        ({"beta": float("nan")}, "beta"),
        ({"encoder": "ance"}, "one with encode"),
    ):
        with pytest.raises(InputError, match=message):
            VectorPRF(dense, **options)
    with pytest.raises(InputError, match="Dense"):
        VectorPRF(rr.BM25(rr.BM25Index.build(dense.index.corpus)))  # type: ignore[arg-type]
    other = rr.Ranking.in_order(rr.Corpus.from_texts(TEXTS, ids=[f"x{i}" for i in range(len(TEXTS))]))
    with pytest.raises(InputError, match="the id 'x0'"):
        VectorPRF(dense, incoming=True).run([QUERIES[0]], [other])


def test_feedback_of_another_corpus_is_found_by_id(dense: Dense) -> None:
    turned = rr.Corpus.from_texts(TEXTS[::-1], ids=[str(i) for i in range(len(TEXTS))][::-1])
    stage = VectorPRF(dense, incoming=True, fb_docs=2)
    [there] = stage.run([QUERIES[0]], [rr.Ranking.in_order(turned, np.array([8, 34]))])
    [here] = stage.run([QUERIES[0]], [rr.Ranking.in_order(dense.index.corpus, np.array([31, 5]))])
    assert there.ids.tolist() == here.ids.tolist()
