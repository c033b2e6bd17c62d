"""The algebra: stages compose, single equals batch, the trace tells what happened, and a malformed ranking cannot be made."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine.errors import Cancelled, InputError, NonFiniteError, UnknownIdError
from rerank_engine.limits import limits

TEXTS = ["red apple pie", "green apple", "red car", "blue sky over the sea", "apple apple apple"]
CORPUS = rr.Corpus.from_texts(TEXTS, ids=list("abcde"))


class Lengths(rr.Scorer):
    """Scores a document by the length of its text times the length of the query."""

    backend = "test"

    def score(self, queries: Sequence[rr.Query], rankings: Sequence[rr.Ranking]) -> list[rr.Scores]:
        return [
            rr.Scores(np.array([len(t) * len(q.text) for t in r.corpus.texts(r.ids)], np.float32), "length", {"n": r.ids.astype(np.int32)})
            for q, r in zip(queries, rankings)
        ]


class Fixed(rr.Scorer):
    def __init__(self, *values: float) -> None:
        self.values = values

    def score(self, queries: Sequence[rr.Query], rankings: Sequence[rr.Ranking]) -> list[rr.Scores]:
        return [rr.Scores(np.array(self.values, np.float32)) for _ in rankings]


def test_pipeline_composes_and_traces() -> None:
    bm25 = rr.BM25(rr.BM25Index.build(CORPUS), k=4)
    pipeline = bm25 >> rr.Rescore(Lengths(), depth=2) >> rr.Top(2)
    ranking = pipeline("red apple")
    assert len(pipeline.stages) == 3
    assert pipeline.retrieves
    assert [step.name for step in ranking.trace] == ["BM25", "Lengths", "Top"]
    assert [(step.n_in, step.n_out) for step in ranking.trace] == [(0, 4), (4, 4), (4, 2)]
    assert [step.backend for step in ranking.trace] == [bm25.backend, "test", "numpy"]
    assert all(step.ms >= 0 for step in ranking.trace)
    assert (
        repr(pipeline)
        == f"BM25(k=4, lucene, k1=1.2, b=0.75, {bm25.backend}) >> Rescore({ranking.trace[1].stage[8:-10]}, depth=2) >> Top(2)"
    )
    assert ranking.stage_ranks(int(ranking.ids[0])) == {"BM25": 1, "Lengths": 1, "Top": 1}
    assert set(ranking.trace[0].to_dict()) == {"stage", "name", "backend", "n_in", "n_out", "ms"}


def test_batch_equals_single() -> None:
    index = rr.BM25Index.build(CORPUS)
    pipeline = rr.Fuse(rr.BM25(index), rr.BM25(index, k=2)) >> rr.Rescore(Lengths(), depth=3) >> rr.Top(4)
    queries = ["apple", "red car", "nothing known", "", "sea"]
    for query, ranking in zip(queries, pipeline.run(queries)):
        single = pipeline(query)
        assert np.array_equal(single.ids, ranking.ids)
        assert np.array_equal(single.scores, ranking.scores)
    assert pipeline.run([]) == []
    assert len(pipeline("nothing known")) == 0


def test_rescore_keeps_the_tail_in_its_old_order_below_the_head() -> None:
    ranking = (rr.Rescore(Fixed(1.0, 5.0, -3.0), depth=3))("q", rr.Ranking.in_order(CORPUS, [4, 3, 2, 1, 0]))
    assert ranking.ids.tolist() == [3, 4, 2, 1, 0]
    assert ranking.scores[:3].tolist() == [5, 1, -3]
    assert (np.diff(ranking.scores) < 0).all()
    assert ranking.scores[-1] > -3.001


@pytest.mark.parametrize("low", [-3.4e38, -1e30, -1.0, 0.0, 1e-30, 1e30])
def test_tail_scores_are_finite_and_fall_at_any_magnitude(low: float) -> None:
    ranking = rr.Rescore(Fixed(low), depth=1)("q", CORPUS)
    assert np.isfinite(ranking.scores).all()
    assert ranking.ids.tolist() == [0, 1, 2, 3, 4]
    assert (ranking.scores[1:] < np.float32(low)).all() or low < -3e38


def test_rescore_ties_go_to_the_lower_row_and_columns_follow() -> None:
    ranking = rr.Rescore(Fixed(1, 1, 1, 2, 1), depth=5)("q", rr.Ranking.in_order(CORPUS, [4, 2, 0, 1, 3]))
    assert ranking.ids.tolist() == [1, 0, 2, 3, 4]
    ranking = rr.Rescore(Lengths(), depth=3)("q", CORPUS)
    assert ranking.columns["n"].tolist()[:3] == ranking.ids.tolist()[:3]
    assert ranking.columns["n"].tolist()[3:] == [0, 0]
    assert ranking.scale == "length"


def test_minus_infinity_ranks_last_and_nan_raises() -> None:
    ranking = rr.Rescore(Fixed(-np.inf, 0, 1, 2, 3))("q", CORPUS)
    assert ranking.ids.tolist()[-1] == 0
    assert np.isfinite(ranking.scores).all()
    for bad in (np.nan, np.inf):
        with pytest.raises(NonFiniteError, match="document 'c'"):
            rr.Rescore(Fixed(0, 0, bad, 0, 0))("q", CORPUS)
    with pytest.raises(InputError, match="got 1 scores"):
        rr.Rescore(Fixed(0))("q", CORPUS)


def test_fusion_traces_its_branches_and_sums_of_time() -> None:
    index = rr.BM25Index.build(CORPUS)
    fused = rr.Fuse(rr.BM25(index, k=3) >> rr.Top(2), rr.BM25(index, k=1)) >> rr.Top(5)
    ranking = fused("apple")
    assert [step.name for step in ranking.trace] == ["BM25", "Top", "BM25", "Fuse", "Top"]
    best = int(ranking.ids[0])
    assert ranking.stage_ranks(best) == {"BM25": 1, "Top": 1, "BM25#2": 1, "Fuse": 1, "Top#2": 1}
    assert ranking.scores[0] == np.float32(2 / 61)
    assert ranking.scale == "rrf"


def test_fusion_over_reranked_candidates_keeps_one_past() -> None:
    fused = rr.Fuse(rr.Rescore(Lengths()), rr.Top(2))
    assert not fused.retrieves
    ranking = (rr.BM25(rr.BM25Index.build(CORPUS)) >> fused)("apple")
    assert [step.name for step in ranking.trace] == ["BM25", "Lengths", "Top", "Fuse"]


def test_lists_over_other_corpora_are_joined_by_id() -> None:
    turned = rr.Corpus.from_texts(TEXTS[::-1], ids=list("edcba"))
    one, other = rr.BM25(rr.BM25Index.build(CORPUS), k=3), rr.BM25(rr.BM25Index.build(turned), k=2) >> rr.Rescore(Lengths())
    assert one("apple pie").doc_ids == ["a", "e", "b"] and other("apple pie").doc_ids == ["e", "a"]  # the longest first
    fused = rr.Fuse(one, other)("apple pie")
    both = np.float32(1 / 61 + 1 / 62)
    assert fused.corpus is CORPUS and fused.doc_ids == ["a", "e", "b"]  # a tie, and then the row of the first one's corpus
    assert fused.scores.tolist() == [both, both, np.float32(1 / 63)]
    assert [fused.stage_ranks(CORPUS.row(doc_id))["Lengths"] for doc_id in "ea"] == [1, 2]
    short = rr.BM25(rr.BM25Index.build(rr.Corpus.from_texts(TEXTS[:1], ids=["a"])))
    with pytest.raises(UnknownIdError, match="documents that the first branch has"):
        rr.Fuse(short, one)("apple")
    dropped = rr.Fuse(short, one >> rr.Top(1))("apple pie")  # what only stood in a step is left out there, and no error
    assert dropped.doc_ids == ["a"] and [step.ids.tolist() for step in dropped.trace] == [[0], [0], [0], [0]]
    assert dropped.trace[-1].facts["branches"] == [1, 2]


def test_candidates_may_be_texts_a_corpus_or_a_ranking() -> None:
    stage = rr.Rescore(Lengths())
    for candidates in (TEXTS, CORPUS, rr.Ranking.in_order(CORPUS)):
        assert stage("q", candidates).ids.tolist() == [3, 4, 0, 1, 2]
    assert len(stage("q", [])) == 0


def test_ranking_sorted_uses_the_rule_of_the_engine() -> None:
    ranking = rr.Ranking.sorted(CORPUS, [4, 1, 3], [0.5, 0.5, 0.9])
    assert ranking.doc_ids == ["d", "b", "e"]
    assert ranking.head(1).documents[0].text == TEXTS[3]
    assert "best 'd'" in repr(ranking)
    assert len(rr.Ranking.sorted(CORPUS, [], [])) == 0


@pytest.mark.parametrize(
    ("ids", "scores", "error"),
    [
        (np.array([0, 1]), np.array([1.0, 2.0], np.float32), InputError),
        (np.array([0, 0]), np.array([1.0, 1.0], np.float32), InputError),
        (np.array([0, 9]), np.array([1.0, 1.0], np.float32), InputError),
        (np.array([-1]), np.array([1.0], np.float32), InputError),
        (np.array([0]), np.array([np.nan], np.float32), NonFiniteError),
        (np.array([0]), np.array([1.0]), InputError),
        (np.array([0.0]), np.array([1.0], np.float32), InputError),
        (np.array([0, 1]), np.array([1.0], np.float32), InputError),
        (np.array(0), np.array(1.0, np.float32), InputError),
        ([0], [1.0], InputError),
    ],
)
def test_malformed_rankings_are_refused(ids: np.ndarray, scores: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error):
        rr.Ranking(ids, scores, CORPUS)


def test_scores_may_fall_further_than_a_float32_reaches() -> None:
    assert len(rr.Ranking(np.array([0, 1]), np.array([3e38, -3e38], np.float32), CORPUS)) == 2


def test_a_trusted_ranking_is_what_the_checked_one_is() -> None:
    columns = {"n": np.arange(3)}
    checked = rr.Ranking(np.array([2, 0, 1]), np.array([3, 2, 1], np.float32), CORPUS, "x", columns, notes={4: "dropped"})
    trusted = rr.Ranking._trusted(checked.ids, checked.scores, CORPUS, "x", columns, notes={4: "dropped"})
    for name in rr.Ranking.__slots__:
        one, two = getattr(checked, name), getattr(trusted, name)
        assert type(one) is type(two)
        assert (
            {k: v.tolist() for k, v in one.items()} == {k: v.tolist() for k, v in two.items()} if name == "columns" else np.all(one == two)
        )
    for array in (trusted.ids, trusted.scores, trusted.columns["n"]):
        assert not array.flags.writeable
    assert columns["n"].flags.writeable
    assert trusted.head(2).columns["n"].tolist() == [0, 1] and len(trusted.head(0)) == 0


class Notes(rr.Stage):
    def apply(self, queries: Sequence[rr.Query], rankings: Sequence[rr.Ranking] | None) -> list[rr.Ranking]:
        assert rankings is not None
        return [rr.Ranking(r.ids, r.scores, r.corpus, notes={int(r.ids[-1]): f"last for {q.text}"}) for q, r in zip(queries, rankings)]


def test_notes_move_into_the_step() -> None:
    ranking = (Notes() >> rr.Top(3) >> Notes())("q", CORPUS)
    assert [dict(step.notes) for step in ranking.trace] == [{4: "last for q"}, {}, {2: "last for q"}]
    assert ranking.notes == {} and ranking.explain(4) == {"Notes": "last for q"} and ranking.explain(2) == {"Notes#2": "last for q"}
    assert ranking.trace[0].to_dict()["notes"] == {"4": "last for q"} and "notes" not in ranking.trace[1].to_dict()


def test_fusion_tells_what_each_branch_adds() -> None:
    index = rr.BM25Index.build(CORPUS)
    fused = rr.Fuse(rr.BM25(index, k=3), rr.BM25(index, k=1), weights=[1, 0.5], explain=True)("apple")
    first, second = fused.columns["fuse:BM25"], fused.columns["fuse:BM25#2"]
    assert first.tolist() == [1 / 61, 1 / 62, 1 / 63] and second.tolist() == [0.5 / 61, 0, 0]
    assert (first + second).astype(np.float32).tolist() == fused.scores.tolist()
    inner = rr.Fuse(rr.BM25(index, k=3), rr.BM25(index, k=1), explain=True)
    nested = rr.Fuse(inner, rr.BM25(index, k=2), explain=True)("apple")
    assert set(nested.columns) == {"fuse:BM25", "fuse:BM25#2", "fuse:Fuse", "fuse:BM25#3"}
    assert nested.columns["fuse:BM25#3"].tolist() == [1 / 61, 1 / 62, 0]
    mnz = rr.Fuse(rr.BM25(index, k=3), rr.BM25(index, k=1), method="mnz", norm="min-max", explain=True)("apple")
    assert mnz.scale == "mnz of min-max" and mnz.scores[0] == 2 and mnz.columns["fuse:BM25"][0] == 2


def test_misuse_of_stages_is_explained() -> None:
    with pytest.raises(InputError, match=r"Fuse\(a, b\)"):
        rr.Top(3) >> rr.BM25(rr.BM25Index.build(CORPUS))
    with pytest.raises(InputError, match=r"Rescore\(scorer\)"):
        Lengths() >> rr.Top(3)
    with pytest.raises(InputError, match="Put a retriever in front"):
        rr.Rescore(Lengths()).run(["q"])
    with pytest.raises(InputError, match="call the stage"):
        rr.Top(1).run("q")
    with pytest.raises(InputError, match="one ranking per query"):
        rr.Top(1).run(["q", "r"], [rr.Ranking.in_order(CORPUS)])
    with pytest.raises(InputError, match=r"Rescore\(scorer\)"):
        rr.Top(1) >> Lengths()  # type: ignore[operator]
    with pytest.raises(InputError, match="a Scorer"):
        rr.Rescore("model")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least two"):
        rr.Fuse(rr.Top(1))
    with pytest.raises(InputError, match="a string"):
        rr.Query(None)  # type: ignore[arg-type]
    with pytest.raises(UnknownIdError, match="row 7"):
        CORPUS[7]


class Answers(rr.Stage):
    """Gives back whatever it was made with."""

    retrieves = True

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def apply(self, queries: Sequence[rr.Query], rankings: Sequence[rr.Ranking] | None) -> list[rr.Ranking]:
        return self.answer  # type: ignore[return-value]


class Says(rr.Scorer):
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def score(self, queries: Sequence[rr.Query], rankings: Sequence[rr.Ranking]) -> list[rr.Scores]:
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize("answer", [None, [], [None, None], [rr.Ranking.in_order(CORPUS)], [rr.Ranking.in_order(CORPUS)] * 3])
def test_a_stage_or_scorer_that_loses_a_query_is_found_out(answer: object) -> None:
    with pytest.raises(InputError, match=r"Answers.apply: .* each of the 2 queries"):
        Answers(answer).run(["a", "b"])
    with pytest.raises(InputError, match=r"Says.score: .* each of the 2 rankings"):
        rr.Rescore(Says(answer)).run(["a", "b"], [rr.Ranking.in_order(CORPUS)] * 2)


def test_scores_take_any_numbers_and_refuse_other_shapes() -> None:
    assert rr.Scores([1, 2], columns={"n": [3, 4]}).columns["n"].tolist() == [3, 4]  # type: ignore[arg-type, dict-item]
    for values, columns in (([[1.0]], {}), (["a"], {}), ([1.0], {"n": [1, 2]}), ([1.0], {"n": [[1]]})):
        with pytest.raises(InputError, match="Scores"):
            rr.Scores(values, columns=columns)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="column 'n'"):
        rr.Ranking(np.array([0]), np.array([1], np.float32), CORPUS, columns={"n": np.zeros(7)})


def test_a_ranking_cannot_be_changed_afterwards() -> None:
    ranking = rr.Rescore(Lengths())("q", CORPUS)
    for array in (ranking.ids, ranking.scores, ranking.columns["n"], ranking.trace[0].ids):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_columns_outlive_later_stages() -> None:
    """What one stage knew of a document, another that has not seen it does not wipe out."""
    first = rr.Rescore(Lengths(), depth=5) >> rr.Top(5)
    again = (first >> rr.Rescore(Lengths(), depth=1))("q", CORPUS)
    assert again.columns["n"].tolist() == again.ids.tolist()
    fused = rr.Fuse(first, rr.Top(5))("q", CORPUS)
    assert fused.columns["n"].tolist() == fused.ids.tolist()


def test_fusion_joins_columns_by_document() -> None:
    def made(ids: list[int], **columns: list[float]) -> rr.Ranking:
        falling = np.arange(len(ids), 0, -1).astype(np.float32)
        return rr.Ranking(np.array(ids), falling, CORPUS, columns={name: np.array(c) for name, c in columns.items()})

    one, two = made([0, 1, 2], x=[-1.0, -5, 2], y=[1, 2, 3]), made([3, 2, 1], x=[-7.0, -3, -4])
    fused = rr.Fuse(Answers([one]), Answers([two]))("q")
    assert dict(zip(fused.ids.tolist(), fused.columns["x"].tolist())) == {0: -1, 1: -4, 2: 2, 3: -7}  # the largest, also below 0
    assert dict(zip(fused.ids.tolist(), fused.columns["y"].tolist())) == {0: 1, 1: 2, 2: 3, 3: 0}


class Meets(rr.Stage):
    """Waits for another branch, then keeps what came in, or fails."""

    def __init__(self, barrier: threading.Barrier, error: str = "") -> None:
        self.barrier, self.error = barrier, error

    def apply(self, queries: Sequence[rr.Query], rankings: Sequence[rr.Ranking] | None) -> list[rr.Ranking]:
        limits().check()
        self.barrier.wait(20)
        time.sleep(0.05)
        if self.error:
            raise InputError(self.error, got="a", expected="b")
        return list(rankings or [])


def test_branches_run_at_the_same_time_under_the_callers_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank_engine.stages.fusion.available_cpus", lambda: 2)
    barrier = threading.Barrier(3)
    ranking = rr.Fuse(*(Meets(barrier) for _ in range(3)))("q", CORPUS)
    assert ranking.ids.tolist() == list(range(5))
    steps = ranking.trace
    assert [step.name for step in steps] == ["Meets", "Meets", "Meets", "Fuse"]
    assert steps[3].ms > 0  # its own time, though the branches' sum is above the whole
    with pytest.raises(InputError, match="first"):  # the first of those that fail, whichever came first
        rr.Fuse(Meets(barrier), Meets(barrier, "first"), Meets(barrier, "second"))("q", CORPUS)
    with rr.limited(cancelled=lambda: True), pytest.raises(Cancelled):
        rr.Fuse(rr.Top(1), Meets(threading.Barrier(1)))("q", CORPUS)
    one_by_one = rr.Fuse(Meets(threading.Barrier(1)), Meets(threading.Barrier(1)), concurrent=False)
    assert not one_by_one.concurrent and one_by_one("q", CORPUS).ids.tolist() == list(range(5))


def test_rerank_says_its_scale_and_refuses_what_it_cannot_mean() -> None:
    assert [r.scale for r in rr.rerank("q", TEXTS, Lengths())] == ["length"] * 5
    with pytest.raises(InputError, match="scale 'length'"):
        rr.rerank("q", TEXTS, Lengths(), activation="sigmoid")
    with pytest.raises(InputError, match="another corpus"):
        rr.rerank("apple", TEXTS, rr.BM25(rr.BM25Index.build(CORPUS)))
    for model in (5, rr.BM25Index.build(CORPUS)):
        with pytest.raises(InputError, match="model: got"):
            rr.rerank("q", TEXTS, model)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="got None"):
        rr.rerank(None, TEXTS, Lengths())  # type: ignore[arg-type]


class Hurried(rr.Scorer):
    """Scores the documents that it reaches; -inf for the others, and says which."""

    def __init__(self, *values: float | None) -> None:
        self.values = values

    def score(self, queries: Sequence[rr.Query], rankings: Sequence[rr.Ranking]) -> list[rr.Scores]:
        values = np.array([-np.inf if v is None else v for v in self.values], np.float32)
        return [rr.Scores(values, "logit", {"scored": np.array([v is not None for v in self.values])}) for _ in rankings]


def test_what_was_not_scored_in_time_stands_in_its_old_order_before_the_tail() -> None:
    candidates = rr.Ranking.in_order(CORPUS, [4, 2, 0, 1, 3])
    ranking = rr.Rescore(Hurried(None, 1.0, None, 7.0), depth=4)("q", candidates)
    assert ranking.ids.tolist() == [1, 2, 4, 0, 3]
    assert ranking.columns["scored"].tolist() == [True, True, False, False, False]
    assert ranking.scores[:2].tolist() == [7, 1] and (np.diff(ranking.scores) < 0).all() and ranking.scores[-1] > 0.999


def test_nothing_scored_in_time_leaves_the_old_order() -> None:
    candidates = rr.Ranking.in_order(CORPUS, [4, 2, 0, 1, 3])
    ranking = rr.Rescore(Hurried(None, None), depth=2)("q", candidates)
    assert ranking.ids.tolist() == [4, 2, 0, 1, 3] and not ranking.columns["scored"].any() and (np.diff(ranking.scores) < 0).all()
    everything = rr.Rescore(Hurried(1.0, 2.0), depth=2)("q", candidates)
    assert everything.ids.tolist() == [2, 4, 0, 1, 3] and everything.columns["scored"].tolist() == [True, True, False, False, False]


def test_a_second_scorer_does_not_take_the_tail_for_scored() -> None:
    stages = rr.Rescore(Hurried(1.0, 2.0, 3.0, 4.0, 5.0)) >> rr.Rescore(Hurried(9.0), depth=1)
    assert stages("q", CORPUS).columns["scored"].tolist() == [True, False, False, False, False]


def test_scored_is_the_last_scorers_word_and_nothing_read_is_only_an_order() -> None:
    class Late(rr.Scorer):
        def score(self, queries, rankings):  # type: ignore[no-untyped-def]
            n = len(rankings[0])
            return [rr.Scores(np.full(n, -np.inf, np.float32), "logit", {"scored": np.zeros(n, bool)})]

    class All(rr.Scorer):
        def score(self, queries, rankings):  # type: ignore[no-untyped-def]
            return [rr.Scores(np.arange(len(rankings[0]), dtype=np.float32), "logit")]

    late = (rr.Rescore(Late()))("q", ["a", "b", "c"])
    assert late.scale == "rank" and late.doc_ids == ["0", "1", "2"] and not late.columns["scored"].any()
    both = (rr.Rescore(Late()) >> rr.Rescore(All(), depth=2))("q", ["a", "b", "c"])
    assert both.columns["scored"].tolist() == [True, True, False] and both.scale == "logit"
    results = rr.rerank("q", ["a", "b"], Late(), activation="sigmoid")
    assert [r.scored for r in results] == [False, False] and results[0].scale == "rank"
