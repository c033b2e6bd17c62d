from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from counting import counting_fixture  # noqa: F401
from models import cross, words, write_model

import rerank_engine as rr
from rerank_engine.core import LOWEST, Scorer, Scores
from rerank_engine.errors import InputError, NonFiniteError
from rerank_engine.stages.bound import Bound

N, QUERIES = 40, 30
CORPUS = rr.Corpus.from_texts([f"d{i}" for i in range(N)])
RNG = np.random.default_rng(2)
CHEAP = RNG.normal(0, 1, (QUERIES, N)).astype(np.float32)
FULL = (6 * CHEAP + RNG.normal(0, 2, (QUERIES, N)) + RNG.normal(0, 3, (QUERIES, 1))).astype(np.float32)
ASKED = [rr.Query(f"q{i}", str(i)) for i in range(QUERIES)]
LISTS = [rr.Ranking.in_order(CORPUS, np.random.default_rng(i).permutation(N)) for i in range(QUERIES)]
FIXED = Bound(6.0, 0.0, 0.0, 9.0, 2.0, threshold=2.0, k=5, delta=0.1, loss="share", wave=4, queries=9)


class Table(Scorer):
    """Scores from a table [query, row]; keeps what it was asked."""

    def __init__(self, table: np.ndarray, name: str = "table", **columns: np.ndarray) -> None:
        self.table, self.backend, self.columns, self.calls = table, name, columns, list[list[list[int]]]()

    def score(self, queries, rankings):
        self.calls.append([ranking.ids.tolist() for ranking in rankings])
        rows = [(int(query.text[1:]), ranking.ids) for query, ranking in zip(queries, rankings)]
        return [
            Scores(self.table[q, ids], "logit", {k: v[ids] for k, v in self.columns.items()}, {"tokens": 10 * len(ids)}) for q, ids in rows
        ]


def expected(q: int, order: list[int], m: int) -> list[int]:
    """The first m of the cheap order by their full scores, the rest behind them as they stood."""
    return [*sorted(order[:m], key=lambda row: (-FULL[q, row], row)), *order[m:]]


def by_cheap(q: int) -> list[int]:
    return np.lexsort((np.arange(N), -CHEAP[q].astype(np.float64))).tolist()


@pytest.mark.parametrize(("keep", "m"), [(None, N), (0.25, 10), (7, 7), (1.0, N), (100, N), (0.001, 1), ([0.25], 10)])
def test_a_fixed_cut(keep, m):
    full = Table(FULL)
    out = rr.Cascade([Table(CHEAP), full], keep=keep).run(ASKED, LISTS)
    for q, ranking in enumerate(out):
        assert ranking.ids.tolist() == expected(q, by_cheap(q), m)
        assert ranking.columns["scored"].tolist() == [True] * m + [False] * (N - m)
        assert ranking.scores[:m].tolist() == FULL[q, ranking.ids[:m]].tolist() and ranking.scale == "logit"
        assert ranking.facts == {"settled": True if m == N else None, "scored": m, "of": N, "tokens": 10 * (N + m)}
        rr.Ranking(ranking.ids, ranking.scores, CORPUS)
    assert len(full.calls) == 1, "all queries in one call"


def test_one_scorer_alone_takes_the_incoming_order():
    out = rr.Cascade([Table(FULL)], keep=0.2).run(ASKED, LISTS)
    assert [r.ids.tolist() for r in out] == [expected(q, LISTS[q].ids.tolist(), 8) for q in range(QUERIES)]


def test_three_scorers_and_a_depth():
    middle = (CHEAP + 0.5 * np.random.default_rng(9).normal(0, 1, CHEAP.shape)).astype(np.float32)
    cheap, mid, full = Table(CHEAP), Table(middle), Table(FULL)
    out = rr.Cascade([cheap, mid, full], keep=[0.5, 4], depth=30).run(ASKED, LISTS)
    for q, ranking in enumerate(out):
        head, tail = LISTS[q].ids[:30].tolist(), LISTS[q].ids[30:].tolist()
        first = [row for row in by_cheap(q) if row in head]
        second = sorted(first[:15], key=lambda row: (-middle[q, row], row))
        assert ranking.ids.tolist() == [*expected(q, second, 4), *first[15:], *tail]
        assert ranking.facts["scored"] == 4 and ranking.facts["of"] == 30 and ranking.facts["tokens"] == 10 * (30 + 15 + 4)
    assert [len(row) for row in cheap.calls[0]] == [30] * QUERIES and [len(row) for row in mid.calls[0]] == [15] * QUERIES


@pytest.mark.parametrize("keep", [None, 0.3])
def test_waves_stop_where_the_bound_says(keep):
    full, bound = Table(FULL), FIXED
    out = rr.Cascade([Table(CHEAP), full], bound=bound, keep=keep).run(ASKED, LISTS)
    most, seen = N if keep is None else 12, set()
    for q, ranking in enumerate(out):
        order = by_cheap(q)
        stop = bound.stop(CHEAP[q, order], FULL[q, order].astype(np.float64))
        m = min(stop, most)
        assert ranking.ids.tolist() == expected(q, order, m) and ranking.facts["scored"] == m
        asked = bound.settled(CHEAP[q, order], FULL[q, order[:m]].astype(np.float64))  # also at the budget, between two stops
        assert ranking.facts["settled"] is asked and (asked or stop > most)
        seen.add(m)
    assert len(seen) > (2 if keep is None else 1), "each query stops for itself"
    assert [len(row) for row in full.calls[0]] == [5] * QUERIES and all(max(map(len, call)) <= 4 for call in full.calls[1:])
    assert sum(len(row) for call in full.calls for row in call) == sum(r.facts["scored"] for r in out)


def test_fit_and_report_say_what_running_does():
    cascade = rr.Cascade([Table(CHEAP), Table(FULL)])
    fitted = cascade.fit(ASKED, LISTS, delta=0.15, k=5, wave=3)
    lists = [(CHEAP[q, by_cheap(q)], FULL[q, by_cheap(q)]) for q in range(QUERIES)]
    assert fitted.bound == Bound.fit([c for c, _ in lists], [s for _, s in lists], delta=0.15, k=5, wave=3) and cascade.bound is None
    qrels = {str(q): {f"{row}": int(FULL[q, row] > 8) for row in range(N)} for q in range(QUERIES)}
    qrels = {q: {CORPUS[int(row)].id: grade for row, grade in rows.items()} for q, rows in qrels.items()}
    rows = cascade.report(ASKED, LISTS, qrels, keeps=(0.25, 1.0), deltas=(0.15,), k=5, wave=3)
    assert [row["setting"] for row in rows] == ["full", "cheap order", "keep=0.25", "keep=1", "delta=0.15"]

    def value(rankings):
        run = {str(q): {d: -float(i) for i, d in enumerate(ranking.doc_ids)} for q, ranking in enumerate(rankings)}
        return rr.evaluate(qrels, run, ["nDCG@10"])["nDCG@10"]

    assert rows[2]["value"] == value(rr.Cascade([Table(CHEAP), Table(FULL)], keep=0.25).run(ASKED, LISTS))
    assert rows[0]["value"] == rows[3]["value"] == value(rr.Cascade([Table(FULL)]).run(ASKED, LISTS)) and rows[3]["lost"] == 0
    assert rows[2]["lost"] == rows[0]["value"] - rows[2]["value"] and rows[0]["share"] == 1 and rows[0]["missed"] == 0
    # report counts a document as a token where the last scorer has no count_tokens; the cheap scorer tells 10 a document
    assert rows[2]["tokens"] == QUERIES * (10 + 10 * N) and rows[0]["of"] == QUERIES * N
    part = np.random.default_rng(0).permutation(QUERIES) % 5
    for q in (0, 7, 29):  # the fold of a query is judged by a bound that has not seen it
        others = [lists[i] for i in range(QUERIES) if part[i] != part[q]]
        bound = Bound.fit([c for c, _ in others], [s for _, s in others], delta=0.15, k=5, wave=3)
        alone = rr.Cascade([Table(CHEAP), Table(FULL)], bound=bound).run([ASKED[q]], [LISTS[q]])[0]
        assert alone.facts["scored"] == bound.stop(*lists[q])


def test_columns_of_the_last_scorer_go_to_what_it_read():
    cut = np.arange(N, dtype=np.int32)
    incoming = LISTS[0]._with(columns={"seen": np.arange(N), "truncated_tokens": np.full(N, -1, np.int32)})
    ranking = rr.Cascade([Table(CHEAP, truncated_tokens=cut + 1000), Table(FULL, truncated_tokens=cut, chunks=cut)], keep=6).run(
        [ASKED[0]], [incoming]
    )[0]
    assert ranking.columns["truncated_tokens"][:6].tolist() == ranking.ids[:6].tolist()
    assert (ranking.columns["truncated_tokens"][6:] == -1).all(), "not what a cheap scorer cut"
    assert ranking.columns["chunks"][:6].tolist() == ranking.ids[:6].tolist() and not ranking.columns["chunks"][6:].any()
    place = {row: at for at, row in enumerate(incoming.ids.tolist())}
    assert ranking.columns["seen"].tolist() == [place[row] for row in ranking.ids.tolist()]


def test_a_deadline_leaves_the_order_that_came_in(tmp_path):
    model = rr.load(write_model(tmp_path, cross()), device="cpu")
    texts = [words(i, 3 + i % 20) for i in range(20)]
    cheap = Table(np.arange(20, dtype=np.float32)[None])
    ranking = rr.Cascade([cheap, model], bound=FIXED)("q0", texts, deadline_ms=0)
    assert ranking.ids.tolist() == list(range(20)) and not ranking.columns["scored"].any()
    facts = {"settled": False, "scored": 0, "of": 20, "finished": False, "reached": 0}
    assert ranking.trace[-1].facts == facts and ranking.unfinished == ranking.trace[-1:]
    with rr.limited(cancelled=lambda: True), pytest.raises(rr.errors.Cancelled):
        rr.Cascade([cheap, model])("q0", texts)


@pytest.mark.parametrize("seconds", [1, 5, 7, 9, 20, 21])
def test_a_deadline_in_the_middle(counting, seconds):
    """Each document takes the made-up network a second. Two lists of 10, in waves of 5, 4 and 1 of each."""
    texts = [words(7 * i, 2 + i) for i in range(10)]
    queries, lists = [rr.Query("w0"), rr.Query("w1")], [rr.Ranking.in_order(rr.Corpus.from_texts(texts))] * 2
    full = [rr.Rescore(counting())(query, ranking) for query, ranking in zip(queries, lists)]
    cascade = rr.Cascade([Table(CHEAP[:, :10]), counting()], bound=replace(FIXED, threshold=1e9))
    with rr.limited(deadline_ms=1e3 * seconds):
        out = cascade.run(queries, lists)
    assert sum(ranking.facts["scored"] for ranking in out) == min(seconds, 20)
    for q, ranking in enumerate(out):
        order, n = np.lexsort((np.arange(10), -CHEAP[q, :10])).tolist(), ranking.facts["scored"]
        whole = max(stop for stop in (0, 5, 9, 10) if stop <= n)
        read, rest = ranking.ids[:n].tolist(), ranking.ids[n:].tolist()
        assert set(order[:whole]) <= set(read) <= set(order[: {0: 5, 5: 9}.get(whole, 10)])
        assert rest == [row for row in order if row not in read] and ranking.columns["scored"].tolist() == [True] * n + [False] * (10 - n)
        score = dict(zip(full[q].ids.tolist(), full[q].scores.tolist()))
        assert ranking.scores[:n].tolist() == sorted((score[row] for row in read), reverse=True)
        assert ranking.facts["settled"] is (n == 10)


def test_all_of_it_is_plain_re_ranking_with_ties_and_tails():
    tied = np.round(FULL / 8).astype(np.float32)
    for depth in (100, 25):
        for scorers in ([Table(tied)], [Table(CHEAP), Table(tied)], [Table(tied), Table(CHEAP), Table(tied)]):
            out, plain = rr.Cascade(scorers, depth=depth).run(ASKED, LISTS), rr.Rescore(Table(tied), depth).run(ASKED, LISTS)
            for ours, theirs in zip(out, plain):
                assert ours.ids.tolist() == theirs.ids.tolist() and ours.scores.tobytes() == theirs.scores.tobytes()
    assert len(np.unique(tied[0])) < N / 2


def test_what_an_earlier_stage_scored_is_not_what_this_one_did():
    before = [ranking._with(columns={"scored": np.ones(N, bool)}) for ranking in LISTS]
    out = rr.Cascade([Table(CHEAP), Table(FULL)], keep=3).run(ASKED, before)
    assert all(ranking.columns["scored"].tolist() == [True] * 3 + [False] * (N - 3) for ranking in out)


def test_lists_that_do_not_match_their_queries():
    cascade = rr.Cascade([Table(CHEAP), Table(FULL)])
    for queries, lists in ((ASKED, LISTS[:3]), (ASKED[0], LISTS[:1]), ("q0", LISTS[:1])):
        for call in (cascade.fit, lambda *given: cascade.report(*given, {"0": {"0": 1}})):
            with pytest.raises(InputError, match="one ranking for each"):
                call(queries, lists)


def test_a_fit_has_no_deadline(counting):
    texts = [words(7 * i, 2 + i) for i in range(12)]
    lists = [rr.Ranking.in_order(rr.Corpus.from_texts(texts))] * 10
    with rr.limited(deadline_ms=30e3), pytest.raises(InputError, match="without a deadline"):
        rr.Cascade([counting()]).fit([f"w{i}" for i in range(10)], lists)


def test_a_cross_encoder_and_its_short_form(tmp_path):
    model = rr.load(write_model(tmp_path, cross()), device="cpu")
    texts = [words(7 * i, 3 + i % 20) for i in range(20)]
    short, full = (rr.Rescore(scorer)("w1 w2", texts) for scorer in (model.shortened(3), model))
    ranking = rr.Cascade([model.shortened(3), model], keep=0.5)("w1 w2", texts)
    assert set(ranking.ids[:10].tolist()) == set(short.ids[:10].tolist()) and ranking.ids[10:].tolist() == short.ids[10:].tolist()
    score = dict(zip(full.ids.tolist(), full.scores.tolist()))
    assert ranking.scores[:10].tolist() == sorted((score[row] for row in ranking.ids[:10].tolist()), reverse=True)
    read = sum(5 + 3 + i % 20 for i in ranking.ids[:10].tolist())
    assert ranking.trace[-1].facts["tokens"] == 20 * 8 + read


def test_nothing_to_rank_and_blank_documents(tmp_path):
    assert rr.Cascade([Table(CHEAP), Table(FULL)], bound=FIXED)("q0", []).facts == {}
    empty = rr.Cascade([Table(CHEAP), Table(FULL)], keep=3).run([ASKED[0], ASKED[1]], [rr.Ranking.in_order(CORPUS, []), LISTS[1]])
    assert len(empty[0]) == 0 and empty[0].facts["settled"] is True and empty[1].facts["scored"] == 3
    blank = FULL.copy()
    blank[:, 1::3] = -np.inf
    for ranking in rr.Cascade([Table(CHEAP), Table(blank)], bound=FIXED).run(ASKED, LISTS):
        assert np.isfinite(ranking.scores).all() and ranking.scores[-1] >= LOWEST
    with pytest.raises(NonFiniteError, match="score of document"):
        rr.Cascade([Table(CHEAP), Table(np.full_like(FULL, np.nan))]).run(ASKED[:1], LISTS[:1])


@pytest.mark.parametrize("keep", [0, 0.0, -1, 1.5, float("nan"), "half", True, [0.5, 0.5], []])
def test_a_keep_that_is_none(keep):
    with pytest.raises(InputError):
        rr.Cascade([Table(CHEAP), Table(FULL)], keep=keep)


def test_what_else_it_refuses():
    for scorers in ([], Table(FULL), [rr.Top(3)], None):
        with pytest.raises(InputError):
            rr.Cascade(scorers)
    with pytest.raises(InputError):
        rr.Cascade([Table(FULL)], bound=0.1)
    with pytest.raises(InputError):
        rr.Cascade([Table(FULL)], depth=0)
    cascade = rr.Cascade([Table(CHEAP), Table(FULL)])
    with pytest.raises(InputError, match="judged"):
        cascade.report([rr.Query("q0")], LISTS[:1], {"0": {"0": 1}})
    with pytest.raises(InputError, match="folds"):
        cascade.report(ASKED[:3], LISTS[:3], {str(q): {"0": 1} for q in range(3)}, folds=5)
    assert "keep=[0.4]" in repr(rr.Cascade([Table(FULL)], keep=0.4))


def test_a_report_that_cannot_be_made_scores_nothing():
    class Never(rr.Scorer):
        def score(self, queries, rankings):
            raise AssertionError("scored in vain")

    cascade, qrels = rr.Cascade([Table(CHEAP), Never()]), {query.id: {"0": 1} for query in ASKED}
    with pytest.raises(InputError, match=r"Cascade.report: delta: got 0.001.*deltas=\(\)"):
        cascade.report(ASKED, LISTS, qrels, deltas=(0.001,), folds=2)
