from __future__ import annotations

import json

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine.errors import InputError
from rerank_engine.stages.rules import predicate

METADATA = [
    {"lang": "en", "year": 1999, "tags": ["a", "b"]},
    {"lang": "de", "year": 2010},
    {"lang": "en", "year": "unknown", "tags": []},
    {"year": 2020, "tags": "abc", "stock": 0},
    {"lang": "fr", "stock": None},
]
CORPUS = rr.Corpus.from_texts(["zero", "one", "two", "three", "four"], ids=list("abcde"), titles=["T", "", "", "", ""], metadata=METADATA)
RANKING = rr.Ranking.sorted(CORPUS, range(5), [5, 4, 3, 2, 1], scale="bm25")
EN = {"field": "lang", "eq": "en"}


@pytest.mark.parametrize(
    ("when", "matching"),
    [
        (EN, "ac"),
        ({"field": "lang", "in": ["de", "fr"]}, "be"),
        ({"field": "year", "range": [2000, None]}, "bd"),
        ({"field": "year", "range": [1999, 2010]}, "ab"),
        ({"field": "year", "range": [None, None]}, "abcd"),
        ({"field": "stock", "exists": True}, "de"),
        ({"field": "stock", "exists": False}, "abc"),
        ({"field": "stock", "eq": 0}, "d"),
        ({"field": "stock", "eq": None}, "e"),
        ({"field": "tags", "contains": "b"}, "ad"),
        ({"field": "_id", "in": ["c", "z"]}, "c"),
        ({"field": "_title", "eq": "T"}, "a"),
        ({"field": "_text", "contains": "o"}, "abce"),
        ({"not": EN}, "bde"),
        ({"all": [EN, {"field": "tags", "contains": "a"}]}, "a"),
        ({"any": [EN, {"field": "year", "eq": 2010}]}, "abc"),
        ({"all": []}, "abcde"),
        ({"any": []}, ""),
        (lambda document: document.id > "c", "de"),
    ],
)
def test_conditions(when, matching):
    test, text = predicate(when)
    assert "".join(document.id for document in CORPUS if test(document)) == matching
    assert isinstance(text, str)


def test_boost_and_add_keep_the_scale():
    got = rr.Rules({"when": EN, "boost": 0.5}, {"when": {"field": "_id", "eq": "e"}, "add": 2.5, "name": "house brand"})("q", RANKING)
    assert got.doc_ids == list("beadc") and got.scores.tolist() == [4, 3.5, 2.5, 2, 1.5] and got.scale == "bm25"
    assert got.explain(0) == {"Rules": "boost x0.5: lang eq 'en'"}
    assert got.explain(4) == {"Rules": "add +2.5: house brand"} and got.explain(1) == {}


def test_a_boost_lifts_a_negative_score():
    logits = rr.Ranking.sorted(CORPUS, [0, 1, 2], [1, -2, -4], scale="logit")
    got = rr.Rules({"when": {"field": "_id", "in": ["b", "c"]}, "boost": 1.5})("q", logits)
    assert got.scores.tolist() == [1, -1, -2]
    assert rr.Rules({"when": {"field": "_id", "eq": "b"}, "boost": 0.5})("q", logits).scores.tolist() == [1, -3, -4]


def test_ties_after_a_boost_keep_the_order_that_came_in():
    ranking = rr.Ranking(np.array([3, 1, 0]), np.array([3, 2, 1], np.float32), CORPUS)
    got = rr.Rules({"when": {"field": "_id", "in": ["b", "d"]}, "boost": 0}, {"when": {"field": "_id", "eq": "a"}, "add": -1})("q", ranking)
    assert got.ids.tolist() == [3, 1, 0] and got.scores.tolist() == [0, 0, 0]


def test_scores_stay_finite():
    ranking = rr.Ranking.sorted(CORPUS, [0, 1], [3e38, -3e38])
    got = rr.Rules({"when": {"all": []}, "boost": 1e300})("q", ranking)
    assert np.isfinite(got.scores).all() and got.ids.tolist() == [0, 1]


def test_filters():
    drop = rr.Rules({"when": EN, "filter": "drop"})("q", RANKING)
    assert drop.doc_ids == list("bde") and drop.scores.tolist() == [4, 2, 1]
    assert drop.explain(0) == {"Rules": "dropped: lang eq 'en'"}
    keep = rr.Rules({"when": EN, "filter": "keep"}, {"when": {"field": "_id", "eq": "a"}, "filter": "drop"})("q", RANKING)
    assert keep.doc_ids == ["c"]
    assert keep.explain(1) == {"Rules": "dropped, not: lang eq 'en'"} and keep.explain(0) == {"Rules": "dropped: _id eq 'a'"}
    nothing = rr.Rules({"when": {"any": []}, "filter": "keep"})("q", RANKING)
    assert len(nothing) == 0 and set(nothing.trace[-1].notes) == {0, 1, 2, 3, 4}
    assert len(rr.Rules({"when": EN, "pin": 1})("q", RANKING.head(0))) == 0


def test_bury_and_pin_give_an_order():
    rules = [
        {"when": EN, "pin": 2},
        {"when": {"field": "_id", "in": ["a", "b"]}, "bury": True},
        {"when": {"field": "_id", "eq": "e"}, "boost": 2.5},
    ]
    for given in (rules, rules[::-1], json.loads(json.dumps(rules))):  # the order of actions is fixed, whatever the order of the rules
        got = rr.Rules(*given)("q", RANKING)
        # boosted: a 5, b 4, c 3, e 2.5, d 2; buried: c e d a b; a and c pinned at 2 and 3: from the order c .. a
        assert got.doc_ids == ["e", "c", "a", "d", "b"]
        assert got.scale == "rank" and got.scores.tolist() == [5, 4, 3, 2, 1]
        assert got.columns["boosted"].tolist() == [2.5, 3, 5, 2, 4]
    assert got.explain(0) == {"Rules": "buried: _id in ['a', 'b']; pinned at 3: lang eq 'en'"}


def test_pins_do_not_push_each_other_out():
    ids = {letter: {"field": "_id", "eq": letter} for letter in "abcde"}
    assert rr.Rules({"when": ids["e"], "pin": 1}, {"when": ids["d"], "pin": 1})("q", RANKING).doc_ids == list("edabc")
    assert rr.Rules({"when": ids["a"], "pin": 99}, {"when": ids["b"], "pin": 3})("q", RANKING).doc_ids == list("cdbea")
    assert rr.Rules({"when": ids["a"], "pin": 2}, {"when": ids["a"], "pin": 4})("q", RANKING).doc_ids == list("bacde")
    both = rr.Rules({"when": ids["a"], "pin": 1}, {"when": ids["a"], "filter": "drop"})("q", RANKING)
    assert both.doc_ids == list("bcde")


def test_rules_stand_in_a_pipeline_and_its_trace():
    pipeline = rr.Dedup() >> rr.Rules({"when": EN, "bury": True}) >> rr.Top(2) >> rr.Rules({"when": EN, "boost": 2})
    got = pipeline("q", RANKING)
    assert got.doc_ids == ["b", "d"]
    assert got.explain(0) == {"Rules": "buried: lang eq 'en'"} and [step.name for step in got.trace] == ["Dedup", "Rules", "Top", "Rules"]
    assert "bury True: lang eq 'en'" in repr(pipeline)
    batch = pipeline.run(["q", "r"], [RANKING, RANKING.head(1)])
    assert [one.doc_ids for one in batch] == [["b", "d"], ["a"]]


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ([], "no rule"),
        (["boost"], "when"),
        ([{"when": EN}], "one of filter"),
        ([{"when": EN, "boost": 1, "pin": 1}], "one of filter"),
        ([{"when": EN, "boots": 1}], "one of filter"),
        ([{"when": EN, "boost": -1}], "Rules: boost"),
        ([{"when": EN, "boost": float("inf")}], "Rules: boost"),
        ([{"when": EN, "add": "1"}], "Rules: add"),
        ([{"when": EN, "pin": 0}], "Rules: pin"),
        ([{"when": EN, "bury": False}], "Rules: bury"),
        ([{"when": EN, "filter": "out"}], "keep, drop"),
        ([{"boost": 1}], "Rules: when"),
        ([{"when": "lang", "boost": 1}], "Rules: when"),
        ([{"when": {"field": "lang"}, "boost": 1}], "Rules: when"),
        ([{"when": {"eq": 1}, "boost": 1}], "Rules: when"),
        ([{"when": {"field": "x", "eq": 1, "in": [1]}, "boost": 1}], "Rules: when"),
        ([{"when": {"field": "x", "like": 1}, "boost": 1}], "Rules: when"),
        ([{"when": {"field": "x", "in": "abc"}, "boost": 1}], "'in' of field 'x'"),
        ([{"when": {"field": "x", "range": [1]}, "boost": 1}], "low, high"),
        ([{"when": {"field": "x", "exists": "yes"}, "boost": 1}], "true or false"),
        ([{"when": {"any": [{"field": 3, "eq": 1}]}, "boost": 1}], "Rules: when"),
    ],
)
def test_wrong_rules(rules, text):
    with pytest.raises(InputError, match=text):
        rr.Rules(*rules)
