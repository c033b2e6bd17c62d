"""VectorPRF against its formulas, written out again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from models import words, write_encoder

import rerank_engine as rr
from rerank_engine.errors import InputError, UnknownIdError
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


def test_indexes_opened_from_files_combine(dense: Dense, tmp_path: Path) -> None:
    dense.index.save(tmp_path / "index")
    stage = VectorPRF(dense, fb_docs=2, beta=2.0, incoming=True)
    opened = VectorPRF(Dense(rr.VectorIndex.open(tmp_path / "index"), dense.encoder, k=7), fb_docs=2, beta=2.0, incoming=True)
    assert (dense >> opened)(QUERIES[0]).ids.tolist() == (dense >> stage)(QUERIES[0]).ids.tolist()
    with pytest.raises(UnknownIdError, match=r"VectorPRF: got .*the id 'new'"):
        stage.run([QUERIES[0]], [rr.Ranking.in_order(rr.Corpus.from_texts(["w1"], ids=["new"]))])


class Given:
    """An encoder of one's own, and all that it needs: the vector of every text is told."""

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self.vectors, self.asked = vectors, list[tuple[str, bool]]()

    def encode(self, texts: Sequence[str], *, queries: bool = False) -> np.ndarray:
        self.asked += [(text, queries) for text in texts]
        return np.array([self.vectors[text] for text in texts], np.float32)


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, [0.75, 1.350000023841858, -2.174999952316284]),  # VectorPrf()
        ({"alpha": 0.4, "beta": 0.6, "fb_docs": 5}, [-0.15000000596046448, 0.3349999785423279, -1.4000000953674316]),  # VectorPrf(..., k=5)
        ({"method": "average"}, [0.1875, 0.6875, -1.15625]),  # AveragePrf()
        ({"method": "average", "fb_docs": 4}, [-0.22499999403953552, 0.15000000596046448, -1.2999999523162842]),  # AveragePrf(k=4)
    ],
    ids=str,
)
def test_the_new_vector_is_pyterrier_s(options: dict, theirs: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """What pyterrier-dr 0.8.1 (its prf.py) made of the query and of these six documents in the order of their products with it.

    Its sums are float32, ours float64 that are rounded once.
    """
    query = [0.75, 1.25, -2.0]
    documents = [[1.25, -0.125, 0.125], [0.5, -0.875, 2.0], [-1.875, -0.875, -0.5], [0.25, -0.375, -1.5], [-1.875, -2.0, -1.875],
                 [-1.5, 2.0, -1.25]]  # fmt: skip
    index = rr.VectorIndex(rr.Corpus.from_texts(list("abcdef")), documents)
    assert index.search([query], 6)[0][0].tolist() == [5, 3, 0, 4, 2, 1]
    dense, made = Dense(index, Given({"q": query})), []
    found = Dense.found

    def watched(self: Dense, queries: list, vectors: np.ndarray, k: int, **options: object) -> list:
        made.append(vectors)
        return found(self, queries, vectors, k, **options)

    monkeypatch.setattr(Dense, "found", watched)
    VectorPRF(dense, **options)("q")
    assert np.abs(made[-1] - np.array([theirs])).max() <= 2e-7


def test_an_encoder_of_one_s_own_reads_the_feedback() -> None:
    index = rr.VectorIndex(rr.Corpus.from_texts(["a", "b", "c"]), np.eye(3))
    reader = Given({"q [SEP] b": [0.0, 0.0, 1.0]})
    stage = VectorPRF(Dense(index, Given({"q": [0.0, 1.0, 0.5]}), k=1), encoder=reader, fb_docs=1)
    assert stage("q").doc_ids == ["2"] and reader.asked == [("q [SEP] b", False)] and "Given" in repr(stage)


def test_the_scale_is_the_index_s() -> None:
    pytest.importorskip("faiss")
    corpus = rr.Corpus.from_texts(["a", "b", "c"])
    for metric in ("inner product", "cosine"):
        index = rr.VectorIndex.from_vectors(corpus, np.eye(3), kind="sq8", metric=metric)
        for one, scale in ((index, metric), (index.with_search(rescore=0), f"approximate {metric}")):
            assert VectorPRF(Dense(one, Given({"q": [0.0, 1.0, 0.5]})))("q").scale == scale


def test_an_index_without_vectors_is_refused_at_once_unless_a_model_reads() -> None:
    pytest.importorskip("faiss")
    index = rr.VectorIndex.from_vectors(rr.Corpus.from_texts(["a", "b"]), np.eye(2), kind="flat", keep=None)
    dense = Dense(index, Given({"q": [0.0, 1.0]}), k=1)
    with pytest.raises(InputError, match=r"VectorPRF: got an index of keep=None.*keep='float16'"):
        VectorPRF(dense)
    assert VectorPRF(dense, encoder=Given({"q [SEP] b": [1.0, 0.0]}), fb_docs=1)("q").doc_ids == ["0"]


def test_feedback_of_another_corpus_is_found_by_id(dense: Dense) -> None:
    turned = rr.Corpus.from_texts(TEXTS[::-1], ids=[str(i) for i in range(len(TEXTS))][::-1])
    stage = VectorPRF(dense, incoming=True, fb_docs=2)
    [there] = stage.run([QUERIES[0]], [rr.Ranking.in_order(turned, np.array([8, 34]))])
    [here] = stage.run([QUERIES[0]], [rr.Ranking.in_order(dense.index.corpus, np.array([31, 5]))])
    assert there.ids.tolist() == here.ids.tolist()
