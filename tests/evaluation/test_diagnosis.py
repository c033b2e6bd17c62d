"""Where relevant documents are lost: worked by hand, told by traces and by runs, and sums that must hold for any pipeline."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rerank_engine.core import Pipeline, Query, Ranking, Rescore, Scorer, Scores, Stage, Top
from rerank_engine.corpus import Corpus
from rerank_engine.errors import InputError, MissingDependency
from rerank_engine.evaluation import Diagnosis, diagnose, diagnose_runs, evaluate_queries
from rerank_engine.stages import Fuse

LETTERS = "abcdefghij"
CORPUS = Corpus.from_texts(list(LETTERS), ids=list(LETTERS))


class Found(Stage):
    """A retriever that finds what it is told to, for every query."""

    retrieves = True

    def __init__(self, letters: str) -> None:
        self.letters = letters

    def apply(self, queries, rankings):  # type: ignore[no-untyped-def]
        rows = [CORPUS.row(letter) for letter in self.letters]
        return [Ranking.in_order(CORPUS, rows) for _ in queries]


class Other(Found):
    """Of another name."""

    __init__ = Found.__init__
    apply = Found.apply


class Late(Found):
    """Of a third name."""

    __init__ = Found.__init__
    apply = Found.apply


class Alphabet(Scorer):
    """The later in the alphabet, the better."""

    def score(self, queries, rankings):  # type: ignore[no-untyped-def]
        return [Scores(r.ids.astype(np.float32)) for r in rankings]


def found(pipeline: Stage, qrels: dict[str, dict[str, int]], **options: object) -> Diagnosis:
    queries = [Query("x", query) for query in qrels]
    return diagnose(qrels, Pipeline(pipeline).run(queries), queries, **options)  # type: ignore[arg-type]


def test_a_fusion_a_reranker_and_a_cut_by_hand() -> None:
    pipeline = Fuse(Found("abcd"), Other("cefg"), top=5) >> Rescore(Alphabet()) >> Top(3)
    # RRF: c e a b f d g in the order of rows at ties, so that d and g fall behind the top of 5; by the alphabet: f e c | b a
    qrels = {"q": {"a": 1, "c": 2, "d": 1, "e": 0, "f": 1, "h": 1, "missing": 1}}
    told = found(pipeline, qrels, measure="nDCG@2", depths=(1, 2, 9))
    assert [s.stage for s in told.stages] == ["Found", "Other", "Fuse", "Alphabet", "Top"]
    assert told.queries["q"].fates == {
        "a": "cut at Top",
        "c": "ranked below 2",
        "d": "cut at Fuse",
        "f": "delivered",
        "h": "not retrieved",
        "missing": "not in the corpus",
    }
    assert told.queries["q"].first_relevant == (1, 1, 1, 1, 1)
    assert [s.retrieves for s in told.stages] == [True, True, True, False, False]
    ideal = 2 + 1 / np.log2(3)
    assert told.ceilings["Found"] == pytest.approx((1 / ideal, 1 / ideal, 1.0)) and told.ceilings["Other"] == pytest.approx(
        (2 / ideal, 2 / ideal, 1)
    )
    assert told.stages[-1].value == pytest.approx(1 / ideal) and [s.relevant for s in told.stages] == [3, 2, 3, 3, 2]
    assert sum(told.fates.values()) == told.relevant == 6
    again = found(pipeline, qrels, measure="MRR(rel=2)")
    assert (again.relevant, again.rel, again.queries["q"].first_relevant[-1], again.fates["delivered"]) == (1, 2, 3, 1)


def test_what_a_branch_lost_is_not_blamed_on_its_neighbour() -> None:
    pipeline = Fuse(Found("abc"), Other("defg") >> Rescore(Alphabet()) >> Top(2), top=3)
    told = found(pipeline, {"q": {"c": 1, "d": 1, "g": 1}}, measure="nDCG@10")
    assert told.queries["q"].fates == {"c": "cut at Fuse", "d": "cut at Top", "g": "delivered"}
    nested = found(Fuse(Found("ab"), Fuse(Found("cd"), Found("ef")), top=4) >> Top(2), {"q": {"a": 1, "b": 1, "f": 1}})
    assert nested.queries["q"].fates["f"] == "cut at Fuse#2" and [s.retrieves for s in nested.stages] == [True] * 5 + [False]


def fates(pipeline: Stage, relevant: str) -> dict[str, str]:
    return dict(found(pipeline, {"q": dict.fromkeys(relevant, 1)}, measure="nDCG@10").queries["q"].fates)


def test_a_branch_whose_documents_the_others_hold_is_no_fusion() -> None:
    pipeline = Fuse(Found("abcd"), Other("cefg"), Late("ea"), top=3) >> Top(2)  # RRF: e and a, then c; the rest is cut by the fusion
    told = found(pipeline, {"q": dict.fromkeys("bdgc", 1)}, measure="nDCG@10")
    assert [s.stage for s in told.stages] == ["Found", "Other", "Late", "Fuse", "Top"]
    assert told.queries["q"].fates == {"b": "cut at Fuse", "d": "cut at Fuse", "g": "cut at Fuse", "c": "cut at Top"}
    late_cuts = Fuse(Found("abcd"), Late("dcb") >> Top(1), top=2)
    assert fates(late_cuts, "bc") == {"b": "cut at Fuse", "c": "cut at Fuse"}, "its other branch handed them on"
    assert fates(Fuse(Found("a"), Late("bc") >> Top(1)), "c") == {"c": "cut at Top"}


def test_nested_fusions_and_lists_that_several_branches_took() -> None:
    inner = Fuse(Other("cd"), Late("ef"), Found("ce"), top=2)  # keeps c and e
    pipeline = Fuse(Found("ab"), inner, Late("bc"), top=2) >> Top(1)  # b and c, of two branches each
    assert fates(pipeline, "adfebc") == {
        "a": "cut at Fuse#2",
        "d": "cut at Fuse",
        "f": "cut at Fuse",
        "e": "cut at Fuse#2",
        "b": "delivered",
        "c": "cut at Top",
    }
    reranked = Found("abcdef") >> Fuse(Rescore(Alphabet()) >> Top(2), Top(3), top=3)  # f e and a b c; RRF keeps a, f, and b of b and e
    assert fates(reranked, "dce") == {"d": "cut at Top", "c": "cut at Fuse", "e": "cut at Fuse"}
    beside = Found("abc") >> Fuse(Other("gh"), Top(1))
    assert fates(beside, "cg") == {"c": "cut at Top", "g": "delivered"}, "a retriever beside it cuts nothing"


class Own(Stage):
    """A user's own fusion: the first documents of each branch, its steps in the trace, no facts of them."""

    retrieves = True

    def __init__(self, *branches: Stage, facts: dict[str, object] | None = None) -> None:
        self.branches, self.facts = [Pipeline(branch) for branch in branches], facts or {}

    def apply(self, queries, rankings):  # type: ignore[no-untyped-def]
        lists = [branch.run(queries) for branch in self.branches]
        rows = [list(dict.fromkeys(int(r.ids[0]) for r in row)) for row in zip(*lists)]
        traces = [sum((r.trace for r in row), ()) for row in zip(*lists)]
        return [replace(Ranking.in_order(CORPUS, ids), trace=trace, facts=self.facts) for ids, trace in zip(rows, traces)]


@pytest.mark.parametrize("facts", [{}, {"branches": "two"}, {"branches": [0, 2]}, {"branches": [1, 40]}])
def test_a_fusion_of_ones_own_takes_all_lists_before_it(facts: dict[str, object]) -> None:
    pipeline = Own(Found("abc"), Other("ba") >> Top(1), Late("cd"), facts=facts) >> Top(2)  # a b c, then a b
    assert fates(pipeline, "abcd") == {"a": "delivered", "b": "delivered", "c": "cut at Top#2", "d": "cut at Own"}
    assert fates(Own(Found("abc") >> Rescore(Alphabet())), "ab") == {"a": "cut at Own", "b": "cut at Own"}
    assert fates(Fuse(Own(Found("ab"), Other("cd")), Late("e"), top=2), "bc") == {"b": "cut at Own", "c": "cut at Fuse"}


def test_candidates_without_a_trace_and_queries_without_a_ranking() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"b": 1}, "q3": {"c": 0}}
    told = diagnose(qrels, {"q1": Ranking.in_order(CORPUS), "q9": Ranking.in_order(CORPUS)}, depths=(5,))
    assert [s.stage for s in told.stages] == ["ranking"] and told.stages[0].value == pytest.approx(1 / 3)
    assert told.queries["q2"].fates == {"b": "not retrieved"} and told.queries["q3"].fates == {}
    assert told.stages[0].first_relevant is None and told.stages[0].with_relevant == 1
    judged = diagnose({"q1": {"b": 1}, "q2": {"a": 0}, "q3": {}}, {"q1": Ranking.in_order(CORPUS), "q2": Ranking.in_order(CORPUS)})
    assert judged.stages[0].first_relevant == 2.0, "queries without a relevant document say nothing about the rank of one"
    assert diagnose({"q1": {"b": 0}}, {"q1": Ranking.in_order(CORPUS)}).stages[0].first_relevant is None
    taken = diagnose({"q1": {"a": 1, "e": 1}}, {"q1": Top(8)("x", CORPUS).take([0, 1])})  # cut by hand, behind the trace
    assert [s.stage for s in taken.stages] == ["Top", "ranking"] and taken.queries["q1"].fates["e"] == "cut at ranking"


def test_runs_are_stages_in_their_order() -> None:
    qrels = {"q1": {"a": 1, "b": 1, "z": 2}, "q2": {"c": 1}}
    first = {"q1": {"a": 3.0, "b": 2.0, "x": 1.0}, "q2": {"d": 1.0}}
    final = {"q1": {"x": 3.0, "b": 2.0}}
    told = diagnose_runs(qrels, {"bm25": first, "cross": final}, measure="nDCG@1", depths=(1, 10))
    assert told.queries["q1"].fates == {"a": "cut at cross", "b": "ranked below 1", "z": "not retrieved"}
    assert told.queries["q1"].first_relevant == (1, 2) and told.queries["q2"].first_relevant == (None, None)
    assert list(told.ceilings) == ["bm25"] and told.ceilings["bm25"] == (0.25, 0.25)
    assert dict(told.fates) == {"not retrieved": 2, "cut at cross": 1, "ranked below 1": 1, "delivered": 0}
    both = diagnose_runs(qrels, {"bm25": first, "dense": {"q1": {"z": 1.0}}})
    assert [s.retrieves for s in both.stages] == [True, True], "it brings a document of its own"


@pytest.mark.parametrize("seed", range(5))
def test_sums_hold_for_random_pipelines(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corpus = Corpus.from_texts([str(i) for i in range(60)])
    qrels = {f"q{q}": {str(d): int(rng.integers(0, 3)) for d in rng.permutation(70)[:20]} for q in range(300)}  # some are in no corpus
    queries = [Query("x", query) for query in qrels]

    class Drawn(Stage):
        retrieves = True

        def apply(self, queries, rankings):  # type: ignore[no-untyped-def]
            return [Ranking.in_order(corpus, rng.permutation(60)[: rng.integers(0, 30)]) for _ in queries]

    rankings = (Fuse(Drawn(), Drawn(), top=20, concurrent=False) >> Rescore(Alphabet(), 15) >> Top(12)).run(queries)
    told = diagnose(qrels, rankings, queries, depths=(1, 5, 100))
    assert sum(told.fates.values()) == told.relevant == sum(r > 0 for judged in qrels.values() for r in judged.values())
    for i, stage in enumerate(told.stages):
        run = {q.id: {corpus[row].id: -float(p) for p, row in enumerate(r.trace[i].ids.tolist())} for q, r in zip(queries, rankings)}
        values = evaluate_queries(qrels, run, ["nDCG@10"])["nDCG@10"]
        assert [told.queries[q].values[i] for q in qrels] == pytest.approx(list(values.values()))
        assert stage.relevant == sum(qrels[q].get(d, 0) > 0 for q, scores in run.items() for d in scores)
    for name, at in (("Drawn", 0), ("Drawn#2", 1), ("Fuse", 2)):
        assert list(told.ceilings[name]) == sorted(told.ceilings[name]) and told.ceilings[name][-1] >= told.stages[at].value
    assert told.ceilings["Fuse"][-1] >= told.stages[-1].value, "no order of what was retrieved is better than the best one"
    kept = sum(n for fate, n in told.fates.items() if fate in ("delivered", "ranked below 10"))
    assert kept == told.stages[-1].relevant


def test_what_it_prints_and_hands_over() -> None:
    told = found(Found("abcde") >> Top(2), {"q1": {"b": 1, "e": 1}, "q2": {"j": 2}})
    text = repr(told)
    assert "2 queries with 3 relevant documents" in text and "cut at Top" in text and "33.3 %" in text
    plain = json.loads(json.dumps(told.to_dict()))
    assert plain["fates"] == {"not retrieved": 1, "cut at Top": 1, "delivered": 1} and "per_query" not in plain
    assert plain["ceilings"]["Found"]["10"] == pytest.approx(0.5) and plain["stages"][0]["stage"] == "Found"
    assert json.loads(json.dumps(told.to_dict(per_query=True)))["per_query"]["q1"]["fates"] == {"b": "delivered", "e": "cut at Top"}


def test_a_picture_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name="matplotlib")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingDependency, match="pip install matplotlib"):
        found(Found("ab"), {"q": {"a": 1}}).plot(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_a_broken_matplotlib_is_not_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        found(Found("ab"), {"q": {"a": 1}}).plot(tmp_path / "x.png")


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture is matplotlib's")
    told = found(Fuse(Found("abcd"), Other("efg"), top=5) >> Top(2), {"q1": {"a": 1, "g": 1}, "q2": {"j": 2}, "q3": {"c": 0}})
    told.plot(tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    told.plot(tmp_path / "x.svg")
    drawn = (tmp_path / "x.svg").read_text()
    assert "<svg" in drawn and "Where the relevant documents went" in drawn.replace("<!-- ", "")
    diagnose_runs({"q": {"a": 0}}, {"nothing is relevant": {"q": {"a": 1.0}}}).plot(tmp_path / "y.png")
    for path in (tmp_path / "x.doc", tmp_path / "no" / "x.png"):
        with pytest.raises(InputError, match="a file to write"):
            told.plot(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": "Judged@10"}, "Judged"),
        ({"measure": "R(rel=2)@10", "rel": 1}, "rel: got 1; expected 2"),
        ({"rel": 0}, "rel: got 0"),
        ({"depths": (0,)}, "depths: got 0"),
        ({"queries": None}, "no queries"),
        ({"queries": [Query("x", "q"), Query("y", "q")]}, "2 queries; expected 1"),
        ({"queries": [Query("x")]}, "or none"),
        ({"queries": [Query("x", "other")]}, "no ranking of a query"),
        ({"qrels": {}}, "no queries"),
        ({"depths": 10}, "depths: got 10"),
        ({"depths": "10"}, "depths: got 10"),
        ({"rankings": {"q": {"a": 1.0}}}, "got dict; expected Rankings.*diagnose_runs"),
        ({"rankings": 5}, "rankings: got int"),
        ({"queries": ["x"]}, "Query objects"),
        ({"qrels": {"q": {"a": 0.5}}}, "relevances of query 'q': got float64"),
        ({"qrels": {"q": {"a": "1"}}}, "relevances of query 'q'"),
    ],
)
def test_what_is_refused(options: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"qrels": {"q": {"a": 1}}, "rankings": [Ranking.in_order(CORPUS)], "queries": [Query("x", "q")]}
    with pytest.raises(InputError, match=message):
        diagnose(**{**arguments, **options})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one pipeline"):
        diagnose({"q": {"a": 1}, "r": {"a": 1}}, {"q": Top(2)("x", CORPUS), "r": Ranking.in_order(CORPUS)})
    for grade in (0.5, "1"):
        with pytest.raises(InputError, match="relevances of query 'q'"):
            diagnose_runs({"q": {"a": grade}}, {"run": {"q": {"a": 1.0}}})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="runs: got none"):
        diagnose_runs({"q": {"a": 1}}, {})
