"""Extractors: each column by hand, from what stages and indexes give."""

from __future__ import annotations

from datetime import date, datetime, timezone

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine import core, errors
from rerank_engine.learning import (
    Column,
    Feature,
    Freshness,
    Incoming,
    Lexical,
    Metadata,
    ScoreOf,
    StageRank,
    Supplied,
    Words,
    feature_matrix,
)

TEXTS = ["radio waves cross the ocean", "the ocean is deep, the ocean is wide", "fleas bite dogs", ""]
TITLES = ["Radio", "Ocean", "Fleas", "Nothing"]
METADATA = [{"clicks": 9, "day": "2026-01-31"}, {"clicks": 0, "day": "2026-01-01T00:00:00Z"}, {"clicks": None}, {"clicks": True, "day": 0}]
CORPUS = rr.Corpus.from_texts(TEXTS, ids=["a", "b", "c", "d"], titles=TITLES, metadata=METADATA)


def columns(feature: Feature, query: str | rr.Query = "radio ocean", ranking: rr.Ranking | None = None) -> dict[str, list[float]]:
    ranking = rr.Ranking.in_order(CORPUS) if ranking is None else ranking
    [values] = feature.values([query if isinstance(query, rr.Query) else rr.Query(query)], [ranking])
    assert values.dtype == np.float32 and values.shape == (len(ranking), len(feature.names))
    return dict(zip(feature.names, values.T.tolist()))


def test_what_came_in():
    ranking = rr.Ranking.sorted(CORPUS, [2, 0, 1], [0.5, 3.0, 1.0])
    assert columns(Incoming(), ranking=ranking) == {"score": [3, 1, 0.5], "reciprocal_rank": pytest.approx([1, 1 / 2, 1 / 3])}
    assert columns(Incoming(), ranking=ranking.head(0)) == {"score": [], "reciprocal_rank": []}


def test_lexical_is_what_the_index_finds():
    index = rr.BM25Index.build(CORPUS)
    for variant in ("lucene", "robertson", "bm25+"):
        chosen = index.with_parameters(variant=variant)
        ranking = rr.Ranking.in_order(CORPUS, [3, 1, 0, 2])
        found = columns(Lexical(chosen), "radio oceans, and radio!", ranking)
        scores = {row: score for row, score in zip(*(array.tolist() for array in chosen.search(["radio oceans, and radio!"], 9)[0]))}
        assert found["bm25"] == [scores.get(row, 0.0) for row in (3, 1, 0, 2)] and found["coverage"] == [0, 0.5, 1, 0]
        assert found["length"] == [chosen.explain("x", doc_id)["length"] for doc_id in "dbac"]
    weighted = rr.Query("ignored", terms={"ocean": 2.0}, must=("fleas",), deny=["a"])
    assert columns(Lexical(index), weighted)["bm25"][0] == pytest.approx(2 * index.explain("ocean", "a")["score"])
    assert columns(Lexical(index), "")["coverage"] == [0, 0, 0, 0]
    assert columns(Lexical(index), ranking=rr.Ranking.in_order(CORPUS, []))["bm25"] == []


def test_an_index_of_a_field_and_of_another_corpus():
    titles = rr.BM25Index.build(rr.Corpus.from_texts(TITLES[::-1], ids=["d", "c", "b", "a"]))
    found = columns(Lexical(titles, "title"))
    assert list(found) == ["title:bm25", "title:coverage", "title:length"]
    assert found["title:coverage"] == [0.5, 0.5, 0, 0] and found["title:bm25"][0] > 0 and found["title:length"] == [1, 1, 1, 1]
    with pytest.raises(errors.UnknownIdError, match="Lexical"):
        columns(Lexical(titles), ranking=rr.Ranking.in_order(rr.Corpus.from_texts(["x"])))


def test_words_need_no_index():
    found = columns(Words(), "radio ocean ocean")
    assert found == {"coverage": [1, 0.5, 0, 0], "length": [5, 5, 4, 1], "query_length": [3] * 4}
    assert columns(Words(field="title", name="title"))["title:coverage"] == [0.5, 0.5, 0, 0]
    assert columns(Words(field="text"), "")["coverage"] == [0] * 4
    with pytest.raises(errors.InputError, match="one of passage, title, text"):
        Words(field="body")


def test_numbers_of_documents():
    nan = pytest.approx(np.nan, nan_ok=True)
    assert columns(Metadata("clicks")) == {"clicks": [9, 0, nan, 1]}
    assert columns(Metadata("clicks", default=-1, log=True))["clicks:log"] == pytest.approx([np.log(10), 0, -1, np.log(2)])
    for value, log in (("many", False), ([1], False), (-1, True)):
        one = rr.Ranking.in_order(rr.Corpus.from_texts(["x"], metadata=[{"n": value}]))
        with pytest.raises(errors.InputError, match="'n' of document '0'"):
            columns(Metadata("n", log=log), ranking=one)
    assert columns(Supplied("pagerank", [0.1, 0.2, 0.3, 0.4]), ranking=rr.Ranking.in_order(CORPUS, [2, 0]))["pagerank"] == pytest.approx(
        [0.3, 0.1]
    )
    assert columns(Supplied("pagerank", {"a": 1.0, "c": 2.0}, default=0))["pagerank"] == [1, 0, 2, 0]
    assert columns(Supplied("pagerank", {"a": 1.0}))["pagerank"] == [1, nan, nan, nan]
    with pytest.raises(errors.InputError, match="one for each of the corpus' 4 documents"):
        columns(Supplied("pagerank", [1.0]))
    with pytest.raises(errors.InputError, match="shape"):
        Supplied("pagerank", [[1.0]])
    assert columns(Supplied("pagerank", {"a": None, "b": True, "c": np.float32(2)}, default=7.0))["pagerank"] == [7, 1, 2, 7]


@pytest.mark.parametrize(
    "value", [10**400, -(10**5000), 1e300, np.float64(-1e300), np.inf, "x", [1], {}], ids=lambda value: type(value).__name__
)
def test_numbers_that_are_none_or_too_large(value):
    one = rr.Ranking.in_order(rr.Corpus.from_texts(["x"], metadata=[{"n": value}]))
    for log in (False, True):
        with pytest.raises(errors.InputError, match="'n' of document '0'"):
            columns(Metadata("n", log=log), ranking=one)
    with pytest.raises(errors.InputError, match="'n' of document '0'"):
        Supplied("n", {"0": value})
    if value != np.inf:
        with pytest.raises(errors.InputError, match="Supplied"):
            Supplied("n", [value])


def test_a_setting_is_part_of_the_name():
    assert Metadata("clicks").names == ("clicks",) and Metadata("clicks", log=True).names == ("clicks:log",)
    assert Freshness("day", 0, half_life=7).names != Freshness("day", 0, half_life=7.5).names == ("freshness:day:half_life=7.5",)
    both = feature_matrix([Metadata("clicks"), Metadata("clicks", log=True)], ["q"], [rr.Ranking.in_order(CORPUS)])
    assert both.names == ("clicks", "clicks:log")


def test_freshness_halves():
    for now in (
        "2026-01-31",
        date(2026, 1, 31),
        datetime(2026, 1, 31, tzinfo=timezone.utc),
        datetime(2026, 1, 31).replace(tzinfo=timezone.utc).timestamp(),
    ):
        found = columns(Freshness("day", now, half_life=30, default=0.25))["freshness:day:half_life=30"]
        assert found == pytest.approx([1, 0.5, 0.25, 0.0], abs=1e-6)
    assert columns(Freshness("day", "2020-01-01"))["freshness:day:half_life=30"][0] == 1  # of the future
    for wrong in ({"now": "soon"}, {"now": "2026-01-01", "half_life": 0}, {"now": None}, {"now": 1_769_817_600_000}):
        with pytest.raises(errors.InputError, match="Freshness"):
            Freshness("day", **wrong)
    with pytest.raises(errors.InputError, match="document '0'"):
        columns(Freshness("day", 0), ranking=rr.Ranking.in_order(rr.Corpus.from_texts(["x"], metadata=[{"day": "yesterday"}])))


class Length(rr.Scorer):
    def score(self, queries, rankings):
        return [rr.Scores([len(t) or -np.inf for t in r.corpus.texts(r.ids)]) for r in rankings]


class Blank(rr.Scorer):
    def score(self, queries, rankings):
        return [rr.Scores(np.full(len(r), -np.inf)) for r in rankings]


def test_scores_of_any_scorer():
    assert columns(ScoreOf(Length()))["Length"][:2] == [len(f"{title} {text}") for title, text in zip(TITLES, TEXTS)][:2]
    assert np.isnan(columns(ScoreOf(Blank(), "cross"))["cross"]).all()
    with pytest.raises(errors.InputError, match="Scorer"):
        ScoreOf("cross")


class Lowest(rr.Scorer):
    """As cross-encoders do of blank documents."""

    def score(self, queries, rankings):
        return [rr.Scores([len(t.strip()) or core.LOWEST for t in r.corpus.texts(r.ids)]) for r in rankings]


def test_a_blank_document_is_not_known_rather_than_lowest():
    corpus = rr.Corpus.from_texts(["ocean", " ", "sea"])
    nan = pytest.approx(np.nan, nan_ok=True)
    assert columns(ScoreOf(Lowest(), "cross"), ranking=rr.Ranking.in_order(corpus))["cross"] == [5, nan, 3]
    for scorer in (Lowest(), Blank()):
        came = rr.Rescore(scorer, depth=3)("q", corpus)
        assert columns(Incoming(), ranking=came)["score"] == ([5, 3, nan] if isinstance(scorer, Lowest) else [nan] * 3)


def test_by_products_of_stages():
    index = rr.BM25Index.build(CORPUS)
    fused = rr.Fuse(rr.BM25(index), rr.BM25(index.with_parameters(k1=0.5)) >> rr.Top(1), explain=True)("radio ocean")
    assert columns(StageRank("BM25"), ranking=fused)["reciprocal_rank:BM25"] == [1, 0.5]
    assert columns(StageRank("Top"), ranking=fused)["reciprocal_rank:Top"] == [1, 0]
    assert columns(Column("fuse:BM25"), ranking=fused)["fuse:BM25"] == pytest.approx([1 / 61, 1 / 62])
    assert columns(Column("fuse:none", default=-1.0), ranking=fused)["fuse:none"] == [-1, -1]
    with pytest.raises(errors.InputError, match="fuse:BM25"):
        columns(Column("fuse:none"), ranking=fused)
    with pytest.raises(errors.InputError, match="a trace with BM25"):
        columns(StageRank("Dense"), ranking=fused)


def test_a_matrix_with_labels():
    index = rr.BM25Index.build(CORPUS)
    queries = [rr.Query("radio ocean", "q1"), rr.Query("fleas", "q2"), rr.Query("zebra", "q3")]
    rankings = rr.BM25(index).run(queries)
    made = feature_matrix([Incoming(), Metadata("clicks", default=0)], queries, rankings, {"q1": {"b": 2, "a": -1}, "q2": {"c": 1}})
    assert made.names == ("score", "reciprocal_rank", "clicks") and made.query_ids == ("q1", "q2", "q3")
    assert made.doc_ids == ("a", "b", "c") and made.labels.tolist() == [0, 2, 1] and made.offsets.tolist() == [0, 2, 3, 3]
    assert made.column("score").tolist() == np.concatenate([r.scores for r in rankings]).tolist()
    assert feature_matrix([Incoming()], ["radio"], rankings[:1]).labels is None
    assert len(feature_matrix([Incoming()], [], [])) == 0
    for given, batch, text in (
        ([], queries, "at least one"),
        ([Length()], queries, "a Feature"),
        ([Incoming(), Incoming()], queries, "twice"),
        ([Incoming()], queries[:1], "one ranking per query"),
        ([Incoming()], ["a", "b", "c"], "without an id"),
    ):
        with pytest.raises(errors.InputError, match=text):
            feature_matrix(given, batch, rankings, {})


def test_a_feature_of_ones_own():
    class Year(Feature):
        names = ("year",)

        def values(self, queries, rankings):
            return [np.array([[2026]] * self.n) for _ in rankings]

    year = Year()
    for n, right in ((4, True), (3, False)):
        year.n = n
        if right:
            assert feature_matrix([year], ["x"], [rr.Ranking.in_order(CORPUS)]).values.tolist() == [[2026]] * 4
        else:
            with pytest.raises(errors.InputError, match=r"Year\.values"):
                feature_matrix([year], ["x"], [rr.Ranking.in_order(CORPUS)])
