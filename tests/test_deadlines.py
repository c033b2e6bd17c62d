"""Deadlines: whatever the moment at which time runs out, an answer is well-formed and says what was left undone.

The clock is the limits' own, and moves by a step each time that it is looked at: so every place that looks is, for some deadline, where
time runs out. The seconds that are left for loops in C++ are as few.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from late_models import write_pylate
from models import cross, words, write_model
from sparse_models import sparse_encoder

import rerank_engine as rr
from rerank_engine.errors import Cancelled, InputError
from rerank_engine.limits import Limits, limited, pieces
from rerank_engine.stages.bound import Bound
from rerank_engine.trace import reach

N, STEP = 70, 1e-6
TEXTS = [words(7 * i % 53, 2 + i % 19) + (" w1 w2" if i % 3 else "") for i in range(N)]


class Hashed:
    """A text encoder: every word has a vector of its own."""

    name, backend, normalize = "hashed", "numpy", True

    def encode(self, texts: Sequence[str], *, queries: bool = False) -> np.ndarray:
        rows = [
            np.sum([np.random.default_rng(int(word[1:]) + 1).normal(size=16) for word in text.split()] or [np.ones(16)], 0)
            for text in texts
        ]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32).reshape(len(texts), 16)


class Odd(rr.Scorer):
    """A scorer of one's own that knows of no deadline, and how often it was asked for how many."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def score(self, queries: Sequence[rr.Query], rankings: Sequence[rr.Ranking]) -> list[rr.Scores]:
        self.asked.append([len(ranking) for ranking in rankings])
        return [rr.Scores(row.ids * 37 % 41, "odd", {"row": row.ids.copy()}, {"read": len(row), "by": "odd"}) for row in rankings]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], rr.Stage]]:
    """Pipelines by name."""
    folder, corpus = tmp_path_factory.mktemp("models"), rr.Corpus.from_texts(TEXTS)
    reader = rr.load(write_model(folder / "cross", cross()), device="cpu", threads=1)
    colbert: Any = rr.load(write_pylate(folder / "late"), device="cpu", threads=1)
    bare = rr.stages.ColBERT(colbert.runtime, colbert.tokenizer, colbert.config, name="bare")  # four dimensions: a byte of codes
    sparse = sparse_encoder(folder / "sparse")
    parts = rr.BM25Index.create(folder / "bm25")
    for at in range(0, N, 30):
        parts.add([corpus[row] for row in range(at, min(at + 30, N))])
        parts.commit()
    bm25, vectors, encoder = rr.BM25(parts, 50), rr.VectorIndex(corpus, Hashed().encode(TEXTS)), Hashed()
    dense, tokens = rr.Dense(vectors, encoder, 40), rr.TokenIndex.build(corpus, colbert)
    codes = rr.TokenIndex.build(corpus, bare, storage="2bit", n_centroids=16)
    late, probed = rr.LateInteraction(tokens, colbert, 40), rr.LateInteraction(codes, bare, 10, probe=2, candidates=20)
    splade = rr.SPLADE(rr.ImpactIndex.build(corpus, sparse), sparse, 40)
    for stage in (probed, rr.ColBERTPRF(probed), rr.ColBERTPRF(late)):
        stage("w1 w2")  # what is made once
    similarity = rr.Similarity(vectors, encoder)
    made = {
        "lexical": lambda: bm25 >> rr.Rescore(reader, 30) >> rr.MMR(vectors, 20) >> rr.Top(10),
        "feedback": lambda: rr.RM3(bm25) >> rr.Rescore(Odd(), 30) >> rr.Dedup("shingles", 0.5) >> rr.Top(15),
        "incoming": lambda: bm25 >> rr.RM3(bm25, incoming=True) >> rr.VectorPRF(dense, incoming=True) >> rr.ColBERTPRF(late, incoming=True),
        "dense": lambda: rr.VectorPRF(dense) >> rr.Rescore(similarity, 20) >> rr.MMR(encoder, 15, relevance="query"),
        "late": lambda: late >> rr.Rescore(colbert, 25) >> rr.CertifiedMaxSim(tokens, colbert, 12) >> rr.LostInTheMiddle(),
        "codes": lambda: rr.ColBERTPRF(probed, rerank=True) >> rr.Rescore(rr.MaxSim(codes, bare), 40) >> rr.CertifiedMaxSim(codes, bare, 5),
        "sparse": lambda: splade >> rr.Cascade([similarity, Odd(), reader], keep=[0.8, 0.5], depth=30) >> rr.Activate() >> rr.Top(9),
        "fused": lambda: rr.Fuse(bm25 >> rr.Rescore(Odd(), 20), dense, late, concurrent=False) >> rr.Rescore(reader, 10) >> rr.Activate(),
        "probed": lambda: probed >> rr.Top(10),
        "expanded": lambda: rr.ColBERTPRF(probed) >> rr.Top(10),
        "scanned": lambda: rr.ColBERTPRF(late) >> rr.Top(40),
        "moved": lambda: rr.VectorPRF(dense) >> rr.Top(40),
        "encoded": lambda: dense >> rr.MMR(encoder, 15),
        "threads": lambda: rr.Fuse(bm25, dense, probed) >> rr.Rules({"when": {"field": "_id", "in": ["1", "3"]}, "pin": 1}) >> rr.Top(20),
    }
    if rr.indexes.vector_faiss.has_faiss():
        flat = rr.VectorIndex.from_vectors(corpus, Hashed().encode(TEXTS), kind="flat")
        made["faiss"] = lambda: rr.Dense(flat, encoder, 30) >> rr.Rescore(Odd(), 20)
        made["moved by faiss"] = lambda: rr.VectorPRF(rr.Dense(flat, encoder, 30))
    return made


NAMES = ["lexical", "feedback", "incoming", "dense", "late", "codes", "sparse", "fused", "threads", "probed", "expanded", "encoded"]


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = itertools.count()
    monkeypatch.setattr("rerank_engine.limits.time", SimpleNamespace(monotonic=lambda: STEP * next(looks)))


@pytest.fixture
def deciding(ticking: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops in C++ do all or nothing, by that clock, and not what microseconds allow."""
    monkeypatch.setattr(Limits, "left", lambda self: 0.0 if self.out_of_time() else 3600.0)


def well_formed(ranking: rr.Ranking) -> None:
    rr.Ranking(ranking.ids, ranking.scores, ranking.corpus, columns=ranking.columns)  # rows, scores, columns: it looks at all of them
    for before, step in zip(ranking.trace, ranking.trace[1:]):
        if re.match(r"Rescore|Cascade", step.stage):
            assert sorted(before.ids.tolist()) == sorted(step.ids.tolist()), "a candidate was lost"
        if step.stage.startswith("Rescore") and not step.finished:
            place = {row: at for at, row in enumerate(before.ids.tolist())}
            rest = [place[row] for row in step.ids.tolist()[step.facts["reached"] :]]
            assert rest == sorted(rest), "what was not reached changed its order"
    assert all(step.facts["reached"] >= 0 for step in ranking.unfinished)


@pytest.mark.parametrize("name", NAMES)
@settings(derandomize=True, deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(looks=st.integers(0, 60), batch=st.sampled_from([1, 3]))
def test_an_answer_is_well_formed_whenever_time_runs_out(name: str, looks: int, batch: int, stages: Any, ticking: None) -> None:
    queries = ["w1 w2 w9", "w20 w3", "w40"][:batch]
    for ranking in stages[name]().run(queries, deadline_ms=1e3 * STEP * looks):
        well_formed(ranking)
        assert looks or ranking.unfinished, "no time at all, and nothing left undone"


@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_owns_to_nothing_did_all_its_work(name: str, stages: Any, deciding: None) -> None:
    queries, pipeline = ["w1 w2 w9", "w20 w3"], stages[name]()
    free, cut = pipeline.run(queries), set[bool]()
    for looks in range(0, 150, 2):
        for whole, timed in zip(free, pipeline.run(queries, deadline_ms=1e3 * STEP * looks)):
            for want, step in zip(whole.trace, timed.trace):
                if not step.finished:
                    break
                assert step.ids.tolist() == want.ids.tolist(), (looks, step.stage)
            else:
                assert timed.scale == whole.scale and np.allclose(timed.scores, whole.scores, rtol=1e-6)
            cut.add(bool(timed.unfinished))
    assert cut == {True, False}


@pytest.mark.parametrize("name", NAMES)
def test_time_enough_changes_nothing(name: str, stages: Any) -> None:
    """Nor does no time limit at all leave a mark."""
    queries = ["w1 w2 w9", "w20 w3"]
    for free, timed in zip(stages[name]().run(queries), stages[name]().run(queries, deadline_ms=3.6e6)):
        assert free.ids.tolist() == timed.ids.tolist() and free.scale == timed.scale and not free.unfinished and not timed.unfinished
        assert np.allclose(free.scores, timed.scores, rtol=1e-6)
        assert all("reached" not in step.facts and "finished" not in step.facts for step in (*free.trace, *timed.trace))


@pytest.mark.parametrize("name", NAMES)
def test_a_deadline_that_has_passed(name: str, stages: Any) -> None:
    """No model is asked; retrievers found nothing, and say so; what gives the answer its form runs."""
    ranking = stages[name]()("w1 w2", deadline_ms=0)
    well_formed(ranking)
    assert len(ranking) == 0 and ranking.trace[0] in ranking.unfinished and ranking.trace[0].facts["reached"] == 0


def test_faiss_goes_on_for_whole_queries(stages: Any, ticking: None) -> None:
    if "faiss" not in stages:
        pytest.skip("no faiss")
    found = set()
    for looks in range(40):
        rankings = stages["faiss"]().run([f"w{i}" for i in range(5)], deadline_ms=1e3 * STEP * looks)
        for ranking in rankings:
            well_formed(ranking)
        found.add(sum(ranking.trace[0].n_out == 30 for ranking in rankings))
    assert found & {1, 2, 3, 4} and max(found) == 5


def test_re_scoring_stages_are_skipped_and_cut_offs_are_not() -> None:
    scorer, ranking = Odd(), rr.Ranking.in_order(rr.Corpus.from_texts(TEXTS))
    out = (rr.Rescore(scorer) >> rr.Top(5))("w1", ranking, deadline_ms=0)
    assert not scorer.asked and out.ids.tolist() == [0, 1, 2, 3, 4] and out.scores.tolist() == ranking.scores[:5].tolist()
    assert [step.name for step in out.unfinished] == ["Odd"] and out.trace[0].facts == {"finished": False, "reached": 0}
    assert not out.columns["scored"].any() and out.trace[0].to_dict()["facts"] == {"finished": False, "reached": 0}


def test_any_scorer_is_asked_from_the_top_for_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a second a document. Waves of 8, then twice as many as long as they take half of the time left at most."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("rerank_engine.limits.time", SimpleNamespace(monotonic=lambda: clock.now))

    class Seconds(Odd):
        def score(self, queries: Sequence[rr.Query], rankings: Sequence[rr.Ranking]) -> list[rr.Scores]:
            clock.now += sum(map(len, rankings))
            return super().score(queries, rankings)

    ranking = rr.Ranking.in_order(rr.Corpus.from_texts(TEXTS))
    for seconds, waves in ((1, [8]), (20, [8, 6, 3, 1, 1, 1]), (30, [8, 11, 5, 3, 1, 1, 1]), (100, [8, 16, 32, 14])):
        clock.now, scorer = 0.0, Seconds()
        out = rr.Rescore(scorer, 70)("w1", ranking, deadline_ms=1e3 * seconds)
        n = sum(waves)
        assert [wave for [wave] in scorer.asked] == waves
        assert out.columns["scored"].tolist() == [True] * n + [False] * (70 - n) and out.ids[n:].tolist() == list(range(n, 70))
        assert sorted(out.ids[:n].tolist()) == list(range(n)) and out.columns["row"][:n].tolist() == out.ids[:n].tolist()
        facts = {"read": n, "by": "odd", **reach(n, 70)}
        assert out.trace[-1].facts == facts and out.trace[-1].finished == (n == 70)
    clock.now, scorer = 0.0, Seconds()
    out = rr.Rescore(scorer, 70).run(["w1", "w2"], [ranking.head(3), ranking.head(40)], deadline_ms=12e3)
    assert scorer.asked == [[3, 4], [1], [2], [1], [1]] and out[0].columns["scored"].all() and out[1].columns["scored"].sum() == 9


def test_feedback_falls_back_on_the_list_that_gave_it(stages: Any, ticking: None) -> None:
    """Somewhere between the first search and the second time runs out, and the answer is the first list, whole."""
    index = rr.BM25Index.build(rr.Corpus.from_texts(TEXTS))
    plain, found = rr.BM25(index, 50)("w1 w2"), list[list[int]]()
    for looks in range(1, 30):
        ranking = rr.RM3(rr.BM25(index, 50))("w1 w2", deadline_ms=1e3 * STEP * looks)
        if len(ranking) and ranking.unfinished:
            found.append(ranking.ids.tolist())
    assert found and plain.ids.tolist() in found


@pytest.mark.parametrize(("name", "n"), [("scanned", 40), ("expanded", 3), ("moved", 40), ("moved by faiss", 3)])
def test_feedback_of_an_index_that_approximates_falls_back_on_few(name: str, n: int, stages: Any, deciding: None) -> None:
    """Another k would find other documents there, and the answer would depend on the deadline."""
    if name not in stages:
        pytest.skip("no faiss")
    pipeline = stages[name]()
    found = [pipeline("w1 w2", deadline_ms=1e3 * STEP * looks) for looks in range(60)]
    assert {len(ranking) for ranking in found if ranking.unfinished} == {0, n}


@pytest.mark.parametrize("name", ["feedback", "scanned", "moved"])
def test_a_short_answer_has_as_much_feedback(name: str, stages: Any, deciding: None) -> None:
    """k below fb_docs: time enough changes nothing, and the list that takes the answer's place is no longer than it."""
    stage = stages[name]().stages[0]
    given = stage.retriever
    few = (
        given.of(given.index, 2)
        if name == "scanned"
        else given.with_k(2)
        if name == "feedback"
        else rr.Dense(given.index, given.encoder, 2)
    )
    stage = type(stage)(few, fb_docs=9)
    free, found = stage("w1 w2"), [stage("w1 w2", deadline_ms=1e3 * STEP * looks) for looks in range(80)]
    assert {len(ranking) for ranking in found} == {0, 2} and not found[-1].unfinished
    for ranking in found:
        assert ranking.unfinished or np.allclose(ranking.scores, free.scores, rtol=1e-6)


def test_a_batch_of_exact_searches_is_of_the_first_rows_by_their_filters(deciding: None) -> None:
    rows = Hashed().encode(TEXTS)
    index, queries = rr.VectorIndex(rr.Corpus.from_texts(TEXTS), rows), rows[:20]
    filters, mixed = [None, np.arange(N) % 2 == 0] * 10, 0
    free = index.search(queries, 5, filters=filters)
    for looks in range(80):
        with limited(deadline_ms=1e3 * STEP * looks):
            hits, reached = index.search_reached(queries, 5, filters=filters)
        for (ids, scores), (want, exact), n, mask in zip(hits, free, reached, filters):
            assert n in (0, N if mask is None else 35)
            assert ids.tolist() == (want.tolist() if n else []) and scores.tolist() == (exact.tolist() if n else [])
        mixed += 0 < sum(n > 0 for n in reached) < len(queries)
    assert mixed


def test_mmr_picks_nothing_where_not_all_was_encoded(deciding: None) -> None:
    ranking = rr.Ranking.in_order(rr.Corpus.from_texts(TEXTS))
    whole, sizes = rr.MMR(Hashed(), 15)("w1", ranking), set()
    for looks in range(80):
        out = rr.MMR(Hashed(), 15)("w1", ranking, deadline_ms=1e3 * STEP * looks)
        if out.unfinished:
            assert out.ids.tolist() == list(range(15)) and not out.columns["mmr"].any() and out.trace[-1].facts["reached"] == 0
        else:
            assert out.ids.tolist() == whole.ids.tolist()
        sizes.add(bool(out.unfinished))
    assert sizes == {True, False}


class Moody(rr.Scorer):
    """Has a column `odd` of the first documents it is asked for alone, and one `even` of the others."""

    def score(self, queries: Sequence[rr.Query], rankings: Sequence[rr.Ranking]) -> list[rr.Scores]:
        return [rr.Scores(-row.ids, "mood", {"even" if 0 not in row.ids else "odd": row.ids + 1}) for row in rankings]


def test_columns_of_some_waves_and_of_stages_before(deciding: None) -> None:
    corpus = rr.Corpus.from_texts(TEXTS)
    first = rr.Ranking(np.arange(N), np.arange(N, 0, -1).astype(np.float32), corpus, columns={"even": -np.arange(N), "odd": -np.arange(N)})
    read = set()
    for looks in range(30):
        out = rr.Rescore(Moody(), 60)("w1", first, deadline_ms=1e3 * STEP * looks)
        scored, ids = out.columns["scored"], out.ids
        if n := int(scored.sum()):
            assert out.columns["odd"].tolist() == [row + 1 if row < 8 else 0 if row < n else -row for row in ids.tolist()]
            if n > 8:
                assert out.columns["even"].tolist() == [0 if row < 8 else row + 1 if row < n else -row for row in ids.tolist()]
        read.add(n)
    assert read == {0, 8, 24, 56, 60}


def test_an_empty_head_has_the_scorers_scale(ticking: None) -> None:
    corpus = rr.Corpus.from_texts(TEXTS)
    nothing, some = rr.Ranking.in_order(corpus, []), rr.Ranking.in_order(corpus, [3, 4])
    stage = rr.Rescore(Odd())
    for rankings in ([nothing], [some, nothing]):
        free, timed = (stage.run(["w1"] * len(rankings), rankings, **options)[-1] for options in ({}, {"deadline_ms": 1e3}))
        assert timed.scale == free.scale == "odd" and set(timed.columns) - {"scored"} == set(free.columns) == {"row"}
    assert stage.run(["w1"], [nothing], deadline_ms=0)[0].scale == "rank"


def test_a_cascade_that_was_cut_between_two_waves_keeps_the_scale(deciding: None) -> None:
    """And the columns that it has of some of them."""
    ranking, found = rr.Ranking.in_order(rr.Corpus.from_texts(TEXTS)), set[int]()
    never = Bound(1.0, 0.0, 0.0, 1.0, 1.0, threshold=1e6, k=8, delta=0.1, loss="share", wave=8, queries=9)
    cascade = rr.Cascade([Moody()], bound=never, depth=60)
    for looks in range(80):
        out = cascade("w1", ranking, deadline_ms=1e3 * STEP * looks)
        n = out.trace[-1].facts["scored"]
        assert out.scale == ("mood" if n else "rank") and out.trace[-1].facts["settled"] is (n == 60)
        assert "even" not in out.columns or out.columns["even"].tolist() == [row + 1 if 8 <= row < n else 0 for row in out.ids.tolist()]
        found.add(n)
    assert len(found) > 3


def test_what_a_stage_lets_pass_is_looked_at() -> None:
    class Loses(rr.Stage):
        def apply(self, queries: Sequence[rr.Query], rankings: Sequence[rr.Ranking] | None) -> list[rr.Ranking]:
            return list(rankings or ())

        def late(self, rankings: Sequence[rr.Ranking]) -> list[rr.Ranking]:
            return list(rankings)[1:]

    with pytest.raises(InputError, match=r"Loses\.late"):
        Loses()("w1", ["a"], deadline_ms=0)


def test_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    def sizes(n: int, first: int, most: int | None = None) -> list[int]:
        return [part.stop - part.start for part in pieces(n, first, most)]

    assert sizes(10, 3) == [10] and sizes(10, 3, 4) == [4, 4, 2] and sizes(0, 3) == []
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("rerank_engine.limits.time", SimpleNamespace(monotonic=lambda: clock.now))
    with limited(deadline_ms=100e3):
        assert sizes(10, 3) == [3, 6, 1] and sizes(10, 3, 4) == [3, 4, 3], "a clock that stands still"
        spent = []
        for part in pieces(100, 10):
            clock.now += 3 * (part.stop - part.start)
            spent.append(part.stop)
        assert spent == [10, 21, 27, 30, 31, 32, 33, 34], "3 s apiece; the last second is for one that is not done in time"
        assert sizes(10, 3) == []
    with limited(deadline_ms=1e3, cancelled=lambda: True), pytest.raises(Cancelled):
        sizes(3, 3)


@pytest.mark.parametrize("deadline", [-1, float("nan"), "1"])
def test_a_bad_deadline(deadline: Any) -> None:
    for call in (lambda: rr.Top(1)("q", ["a"], deadline_ms=deadline), lambda: rr.Top(1).run(["q"], None, deadline_ms=deadline)):
        with pytest.raises(InputError, match="deadline_ms"):
            call()


def test_the_tighter_deadline_counts_and_ends_with_the_call() -> None:
    scorer, ranking = Odd(), rr.Ranking.in_order(rr.Corpus.from_texts(TEXTS))
    stage = rr.Rescore(scorer)
    with rr.limited(deadline_ms=0):
        assert stage("w1", ranking, deadline_ms=1e6).unfinished
    assert stage.run(["w1"], [ranking], deadline_ms=0)[0].facts["finished"] is False
    assert not scorer.asked and not stage("w1", ranking).unfinished


def test_the_example_of_the_page_works() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "deadlines.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("10 ['Careful']\n{'finished': False, 'reached': "), done.stderr
