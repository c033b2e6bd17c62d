"""RM3 against its formula, written out again, and by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import corpus

import rerank_engine as rr
from rerank_engine.errors import InputError
from rerank_engine.stages.feedback import alphanumeric_terms, anserini_terms

ALL = lambda term, df, n: True  # noqa: E731
INDEX = rr.BM25Index.build(corpus(400), analyzer="simple")
QUERIES = ["w3 w9", "w30", "w12 w12 w25 w31 zebra", "w0", "w39 w38 w37 w36"]


def expected(stage: rr.RM3, query: rr.Query, ranking: rr.Ranking) -> dict[str, float]:
    """The docstring's formula, term by term."""
    index = stage.retriever.index
    counts = [Counter(index.analyzer(document.passage)) for document in ranking.documents[: stage.fb_docs]]
    relevance: dict[str, float] = {}
    for count, score in zip(counts, ranking.scores.tolist()):
        passed = [t for t in count if stage.term_filter(t, index.document_frequency([t])[0], len(index))]
        top = sorted(passed, key=lambda t: (-count[t], t))[: stage.fb_terms]
        for t in top:
            relevance[t] = relevance.get(t, 0) + score * count[t] / sum(count[u] for u in top)
    best = sorted(relevance, key=lambda t: (-relevance[t], t))[: stage.fb_terms]
    total = sum(relevance[t] for t in best)
    original = Counter(index.analyzer(query.text))
    share = stage.original_weight if best else 1.0
    weights = {t: share * n / sum(original.values()) for t, n in original.items()}
    for t in best:
        weights[t] = weights.get(t, 0.0) + (1 - share) * relevance[t] / total
    return weights


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"term_filter": ALL},
        {"fb_docs": 3, "fb_terms": 4, "original_weight": 0.2, "term_filter": alphanumeric_terms},
        {"original_weight": 0.0, "term_filter": ALL},
        {"original_weight": 1.0, "term_filter": ALL},
        {"fb_docs": 1, "fb_terms": 1, "term_filter": ALL},
        {"fb_docs": 1000, "fb_terms": 1000, "term_filter": ALL},
        {"term_filter": lambda term, df, n: term in ("w7", "w30")},
    ],
    ids=str,
)
def test_it_is_the_formula(options: dict[str, Any]) -> None:
    bm25 = rr.BM25(INDEX, k=20)
    stage = rr.RM3(bm25, **options)
    queries = [rr.Query(text) for text in QUERIES]
    first = bm25.with_k(stage.fb_docs).run(queries)
    terms = stage.expand(queries, first)
    for query, ranking, got in zip(queries, first, terms):
        assert got == pytest.approx(expected(stage, query, ranking), rel=1e-12)
        assert list(got) == sorted(got, key=lambda t: (-got[t], t))
        assert sum(got.values()) == pytest.approx(1)
    want = bm25.run([rr.Query("", terms=weights) for weights in terms])
    for got_list, want_list in zip(stage.run(queries), want):
        assert got_list.ids.tolist() == want_list.ids.tolist()
        assert (got_list.scores == want_list.scores).all()


def test_by_hand() -> None:
    index = rr.BM25Index.build(rr.Corpus.from_texts(["red red apple", "red pie", "blue sky", "apple pie"]), analyzer="simple")
    stage = rr.RM3(rr.BM25(index), fb_docs=2, fb_terms=2, original_weight=0.6, term_filter=ALL)
    first = rr.BM25(index, k=2)("red")
    (a, b), ids = first.scores.astype(np.float64).tolist(), first.ids.tolist()
    assert ids == [0, 1]
    red, pie, apple = a * 2 / 3 + b / 2, b / 2, a / 3
    second, name = max((apple, "apple"), (pie, "pie"))
    got = stage.expand([rr.Query("red")], [first])[0]
    assert got == pytest.approx({"red": 0.6 + 0.4 * red / (red + second), name: 0.4 * second / (red + second)})


def test_forward_lists_and_analysing_again_give_the_same(tmp_path: Path) -> None:
    rr.BM25Index.build(corpus(400), analyzer="simple", forward=True).save(tmp_path / "x")
    folder = rr.BM25Index.create(tmp_path / "folder", analyzer="simple", forward=True)
    for begin in range(0, 400, 100):
        folder.add(list(corpus(400))[begin : begin + 100])
    for index in (rr.BM25Index.open(tmp_path / "x"), folder):
        for incoming in (False, True):
            plain, forward = (rr.RM3(rr.BM25(i, k=50), term_filter=ALL, incoming=incoming) for i in (INDEX, index))
            for text in QUERIES:
                a = (rr.BM25(INDEX, k=7) >> plain)(text) if incoming else plain(text)
                b = (rr.BM25(index, k=7) >> forward)(text) if incoming else forward(text)
                assert a.doc_ids == b.doc_ids
                assert (a.scores == b.scores).all()


def test_the_incoming_list_gives_the_feedback() -> None:
    bm25 = rr.BM25(INDEX, k=10)
    stage = rr.RM3(bm25, incoming=True, term_filter=ALL)
    assert not stage.retrieves
    reverse = rr.Ranking.in_order(INDEX.corpus, bm25("w3 w9").ids[::-1])
    weights = stage.expand([rr.Query("w3 w9")], [reverse])[0]
    assert weights == pytest.approx(expected(stage, rr.Query("w3 w9"), reverse))
    assert (stage("w3 w9", reverse).scores == bm25(rr.Query("", terms=weights)).scores).all()
    with pytest.raises(InputError, match="another corpus"):
        stage("w3", rr.Ranking.in_order(corpus(400), [1, 2]))
    with pytest.raises(InputError, match="candidates"):
        stage("w3")
    nothing = rr.Ranking.in_order(INDEX.corpus, [])
    assert stage("w3 w9", nothing).ids.tolist() == bm25("w3 w9").ids.tolist()


def test_nothing_to_go_on() -> None:
    bm25 = rr.BM25(INDEX, k=10)
    assert [len(ranking) for ranking in rr.RM3(bm25).run(["", "zebra", "!"])] == [0, 0, 0]
    nobody = rr.RM3(bm25, term_filter=lambda term, df, n: False)
    for text in QUERIES:
        assert nobody(text).ids.tolist() == bm25(text).ids.tolist()
    assert rr.RM3(bm25).run([]) == []
    stage = rr.RM3(rr.BM25(rr.BM25Index.build(rr.Corpus.from_texts(["a", "", "b"]), analyzer="simple")), term_filter=ALL)
    assert stage("a").doc_ids == ["0"]


def test_the_filters_of_the_first_search_hold_in_the_second() -> None:
    """A document that only feedback's terms would find stays out too."""
    texts = ["red apple core", "red apple seed", "core seed", "core", "red plum", "seed core apple red"]
    index = rr.BM25Index.build(rr.Corpus.from_texts(texts), analyzer="simple")
    stage = rr.RM3(rr.BM25(index, k=10), term_filter=ALL)
    assert {"2", "3"} <= set(stage("apple").doc_ids)
    assert set(stage(rr.Query("apple", must=("red",))).doc_ids) == {"0", "1", "4", "5"}
    assert set(stage(rr.Query("apple", deny=["3", "0"])).doc_ids) == {"1", "2", "4", "5"}
    assert set(stage(rr.Query("apple", allow=["1", "2"])).doc_ids) == {"1", "2"}
    [denied] = stage.expand([rr.Query("apple", deny=["0", "2", "3", "5"])], [rr.BM25(index)(rr.Query("apple", deny=["0", "2", "3", "5"]))])
    assert "core" not in denied  # and gives no terms
    [weights] = stage.expand([rr.Query("apple", must=("red",))], [rr.BM25(index)(rr.Query("apple", must=("red",)))])
    assert weights == stage.expand([rr.Query("apple red")], [rr.BM25(index)(rr.Query("apple", must=("red",)))])[0]
    assert stage(rr.Query("apple", must=("red",))).scores.max() < 1  # no term weighs more than the whole query


def test_weights_that_the_query_brings() -> None:
    bm25 = rr.BM25(INDEX, k=10)
    stage = rr.RM3(bm25, term_filter=lambda term, df, n: False)
    query = rr.Query("ignored", terms={"w3": 3.0, "w9": 1.0})
    assert stage.expand([query], [bm25(query)])[0] == pytest.approx({"w3": 0.75, "w9": 0.25})
    assert stage(query).ids.tolist() == bm25(query).ids.tolist()
    with_terms = rr.RM3(bm25, term_filter=ALL, original_weight=0.5)
    assert with_terms.expand([query], [bm25(query)])[0]["w3"] >= 0.375
    assert len(with_terms(rr.Query("w3", terms={}))) == 0


def test_term_filters() -> None:
    for term, df, anserini, alphanumeric in [
        ("ab1", 10, True, True),
        ("a", 10, False, False),
        ("a" * 20, 10, True, True),
        ("a" * 21, 10, False, False),
        ("ab", 11, False, False),
        ("été", 1, False, True),
        ("北京", 1, False, True),
        ("a-b", 1, False, False),
        ("Ab", 1, False, True),
        ("", 1, False, False),
    ]:
        assert anserini_terms(term, df, 100) is anserini
        assert alphanumeric_terms(term, df, 100) is alphanumeric


def test_wrong_arguments() -> None:
    bm25 = rr.BM25(INDEX)
    wrong = ({"fb_docs": 0}, {"fb_terms": 0}, {"original_weight": 1.1}, {"original_weight": float("nan")}, {"term_filter": "all"})
    for options in wrong:
        with pytest.raises(InputError, match="RM3: " + next(iter(options))):
            rr.RM3(bm25, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="RM3: retriever"):
        rr.RM3(INDEX)  # type: ignore[arg-type]
    ids = rr.BM25Index.from_tokens([[1, 2], [1]], forward=True)
    with pytest.raises(InputError, match="terms are integers"):
        rr.RM3(rr.BM25(ids))(rr.Query("1"))
    assert "fb_docs=10" in repr(rr.RM3(bm25))
