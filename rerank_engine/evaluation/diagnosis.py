"""Why a pipeline is not better: what its first stage can reach at most, and where each relevant document was lost.

For every query of the judgments, with the relevant documents (relevance >= rel) as the unit, from the trace that a pipeline writes:

    ceiling         the measure, if the first `depth` documents of a retrieving step stood in the best order there is: no re-ranker of them
                    can reach more. The ideal still counts all judged documents
    fate            of each relevant document, the first that holds: "not in the corpus", "not retrieved" (no step held it), "cut at STEP"
                    (the last step that took in a list with it), "ranked below k" (k = the measure's cutoff), "delivered"
    first relevant  its rank after each step, from 1; None where no relevant document is in the list
    value           the measure after each step

A step retrieves if it takes no list in, as a fusion of retrievers does, or if its list holds what no step before it held. Which list a step
took in: a fusion's, the last ones of its branches, of which its facts say how many of the steps before it each has ("branches"; a nested
fusion's steps count among them); what came before a fusion is taken in by its branches. Any other step continues the latest list. Where a
stage of another kind runs several retrievers without that fact, the last step that takes no list in joins all lists before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core import Query, Ranking, step_labels
from ..errors import InputError
from ..ops.checks import count, instance
from .formulas import padded, values_of
from .measures import Measure, Qrels, Run, measure_of, numbers, trec_order

Rows = NDArray[np.int64]
DEPTHS = (10, 20, 50, 100, 1000)
ABSENT, UNRETRIEVED, DELIVERED = "not in the corpus", "not retrieved", "delivered"


class _Judged(NamedTuple):
    """Judgments of one query: rows int64 [n], rising, negative for what no corpus holds; their grades and document ids."""

    rows: Rows
    grades: Rows
    names: list[str]

    def gains(self, ids: Rows) -> Rows:
        if not len(self.rows):
            return np.zeros(len(ids), np.int64)
        at = np.minimum(np.searchsorted(self.rows, ids), len(self.rows) - 1)
        return np.where(self.rows[at] == ids, self.grades[at], 0)


class _Step(NamedTuple):
    """One step: its label, whether it took a list in, how many of the steps before it each branch has, and its list for every query."""

    label: str
    takes: bool
    branches: tuple[int, ...]
    lists: list[Rows]  # rows best first


@dataclass(frozen=True)
class StageDiagnosis:
    """One step over all queries. value: the mean of the measure after it; documents: the mean length of its lists.

    relevant: relevant documents in its lists; with_relevant: queries that have one there; first_relevant: the median rank of the first one
    over the queries for which a relevant document is judged, None where half of them or more have none in the list.
    """

    stage: str
    retrieves: bool
    value: float
    relevant: int
    documents: float
    with_relevant: int
    first_relevant: float | None


@dataclass(frozen=True)
class QueryDiagnosis:
    """One query. fates: relevant document -> what became of it; first_relevant and values: an entry per step."""

    fates: Mapping[str, str]
    first_relevant: tuple[int | None, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What `diagnose` found. ceilings: retrieving step -> value at each depth; fates: fate -> how many of the relevant."""

    measure: str
    rel: int
    relevant: int
    depths: tuple[int, ...]
    stages: tuple[StageDiagnosis, ...]
    ceilings: Mapping[str, tuple[float, ...]]
    fates: Mapping[str, int]
    queries: Mapping[str, QueryDiagnosis]

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        """Header and cells of three tables, as text: the steps, the ceilings, the fates."""
        steps = [
            [s.stage, f"{s.value:.4f}", f"{s.documents:.1f}", str(s.relevant), str(s.with_relevant), _rank(s.first_relevant)]
            for s in self.stages
        ]
        header = ["stage", self.measure, "documents", "relevant", "queries with one", "median rank of the first"]
        ceilings = [[name, *(f"{value:.4f}" for value in values)] for name, values in self.ceilings.items()]
        fates = [[name, str(n), f"{100 * n / max(self.relevant, 1):.1f} %"] for name, n in self.fates.items()]
        return [
            (header, steps),
            ([f"{self.measure} of a perfect order of the first", *map(str, self.depths)], ceilings),
            ([f"relevant documents ({self.relevant})", "number", "share"], fates),
        ]

    def to_dict(self, per_query: bool = False) -> dict[str, Any]:
        """For JSON. per_query adds every query's fates, ranks and values, the latter two in the order of the stages."""
        queries = {"per_query": {q: dict(vars(found)) for q, found in self.queries.items()}} if per_query else {}
        return {
            "measure": self.measure,
            "rel": self.rel,
            "queries": len(self.queries),
            "relevant": self.relevant,
            "stages": [dict(vars(stage)) for stage in self.stages],
            "ceilings": {name: dict(zip(map(str, self.depths), values)) for name, values in self.ceilings.items()},
            "fates": dict(self.fates),
            **queries,
        }

    def plot(self, path: str | Path) -> None:
        """Draws it into one file (.png, .svg, .pdf). Raises MissingDependency without matplotlib, InputError for what cannot be written."""
        from .diagnosis_plot import draw

        draw(self, path)

    def __repr__(self) -> str:
        lines = [f"Diagnosis of {len(self.queries)} queries with {self.relevant} relevant documents (relevance >= {self.rel})"]
        for header, rows in self.tables():
            widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
            lines += ["", *("  ".join(c.ljust(width) for c, width in zip(row, widths)).rstrip() for row in (header, *rows))]
        return "\n".join(lines)


def _rank(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def diagnose(
    qrels: Qrels,
    rankings: Mapping[str, Ranking] | Sequence[Ranking],
    queries: Sequence[Query] | None = None,
    depths: Sequence[int] = DEPTHS,
    measure: Measure | str = "nDCG@10",
    rel: int | None = None,
) -> Diagnosis:
    """From what a pipeline gave. rankings: by query id, or in the order of `queries`, which then have ids.

    As in `evaluate`, the queries are those of `qrels`: one without a ranking counts 0, and all its documents as not retrieved; rankings of
    others are ignored. A ranking without a trace is one step, "ranking". rel: the measure's own by default, 1 where it has none.
    Raises InputError (no queries, queries without ids or in another number, rankings of another kind, relevances that are no integers,
    traces that differ, Judged).
    """
    given = _by_query(rankings, queries)
    chosen, least = _checked(qrels, depths, measure, rel)
    names = list(qrels)
    known = [given[query] for query in names if query in given]
    if not known:
        raise InputError("diagnose", got="no ranking of a query that is judged", expected="the same query ids in both")
    shapes = [_shape(ranking) for ranking in known]
    labels = [label for label, *_ in shapes[0]]
    for shape in shapes:
        if (others := [label for label, *_ in shape]) != labels:
            raise InputError("diagnose: traces", got=f"{labels} and {others}", expected="rankings of one pipeline")
    by_query, empty = dict(zip((q for q in names if q in given), shapes)), np.zeros(0, np.int64)
    steps = [
        _Step(label, any(shape[i][1] for shape in shapes), branches, [by_query[q][i][3] if q in by_query else empty for q in names])
        for i, (label, _, branches, _) in enumerate(shapes[0])
    ]
    return _diagnosis(names, [_judgments(q, qrels[q], given.get(q)) for q in names], steps, tuple(depths), chosen, least)


def diagnose_runs(
    qrels: Qrels,
    runs: Mapping[str, Run],
    depths: Sequence[int] = DEPTHS,
    measure: Measure | str = "nDCG@10",
    rel: int | None = None,
) -> Diagnosis:
    """From runs in the order of their stages: the first retrieves, each other one takes in the one before it. Otherwise as `diagnose`."""
    instance("diagnose_runs: runs", runs, Mapping)
    if not runs:
        raise InputError("diagnose_runs: runs", got="none", expected="one at least, as {name: run}")
    chosen, least = _checked(qrels, depths, measure, rel)
    names = list(qrels)
    numbers: list[dict[str, int]] = [{document: row for row, document in enumerate(qrels[query])} for query in names]
    steps = []
    for i, (label, run) in enumerate(runs.items()):
        orders = (trec_order(query, run.get(query, {})) for query in names)
        rows = [np.array([of.setdefault(d, len(of)) for d in order], np.int64) for of, order in zip(numbers, orders)]
        steps.append(_Step(label, i > 0, (), rows))
    judged = [_Judged(np.arange(len(qrels[q])), _grades(q, qrels[q]), list(qrels[q])) for q in names]
    return _diagnosis(names, judged, steps, tuple(depths), chosen, least)


def _checked(qrels: Qrels, depths: Sequence[int], measure: Measure | str, rel: int | None) -> tuple[Measure, int]:
    if not qrels:
        raise InputError("diagnose: qrels", got="no queries", expected="judgments of at least one query")
    if isinstance(depths, str) or not isinstance(depths, Iterable):
        raise InputError("diagnose: depths", got=depths, expected=f"several of them, such as {DEPTHS}")
    for depth in depths:
        count("diagnose: depths", depth)
    chosen = measure_of(measure)
    if chosen.name == "Judged":
        raise InputError("diagnose: measure", got="Judged", expected="a measure of what is relevant, such as nDCG@10")
    least = (chosen.rel or 1) if rel is None else count("diagnose: rel", rel)
    if chosen.rel not in (None, least):
        raise InputError("diagnose: rel", got=rel, expected=f"{chosen.rel}, as in {chosen}")
    return chosen, least


def _by_query(rankings: Mapping[str, Ranking] | Sequence[Ranking], queries: Sequence[Query] | None) -> dict[str, Ranking]:
    if isinstance(rankings, str) or not isinstance(rankings, (Mapping, Sequence)):
        raise InputError("diagnose: rankings", got=type(rankings).__name__, expected="Rankings by query id, or one for each query")
    for ranking in rankings.values() if isinstance(rankings, Mapping) else rankings:
        if not isinstance(ranking, Ranking):
            hint = "For runs, scores by document id, there is diagnose_runs."
            raise InputError("diagnose: rankings", got=type(ranking).__name__, expected="Rankings of a pipeline", hint=hint)
    if isinstance(rankings, Mapping):
        return dict(rankings)
    if queries is None or len(queries) != len(rankings):
        got = "no queries" if queries is None else f"{len(queries)} queries"
        raise InputError("diagnose: queries", got=got, expected=f"{len(rankings)}, one for each ranking, or rankings by query id")
    if not all(isinstance(query, Query) for query in queries):
        raise InputError("diagnose: queries", got="something else", expected="Query objects with ids")
    found = {query.id: ranking for query, ranking in zip(queries, rankings) if query.id is not None}
    if len(found) != len(queries):
        raise InputError("diagnose: queries", got="an id twice, or none", expected="queries with distinct ids")
    return found


def _shape(ranking: Ranking) -> list[tuple[str, bool, tuple[int, ...], Rows]]:
    """(label, whether it took a list in, the steps of each of its branches, its rows) for each step."""
    found = [
        (label, step.n_in > 0, _branches(step.facts.get("branches")), step.ids)
        for label, step in zip(step_labels(ranking.trace), ranking.trace)
    ]
    if not found or not np.array_equal(found[-1][3], ranking.ids):
        found.append(("ranking", bool(found), (), ranking.ids))
    return found


def _branches(told: Any) -> tuple[int, ...]:
    """A fusion's fact; () for what other stages may call so."""
    if isinstance(told, (list, tuple)) and all(isinstance(n, int) and n > 0 for n in told):
        return tuple(told)
    return ()


def _grades(query: str, judged: Mapping[str, int]) -> Rows:
    return numbers(f"qrels: the relevances of query {query!r}", judged.values(), np.int64)


def _judgments(query: str, judged: Mapping[str, int], ranking: Ranking | None) -> _Judged:
    names = list(judged)
    if ranking is None:  # rows that no list holds: there is none
        rows = list(range(len(names)))
    else:
        rows = [ranking.corpus.row(d) if d in ranking.corpus else -1 - i for i, d in enumerate(names)]
    order = np.argsort(np.array(rows, np.int64), kind="stable")
    return _Judged(np.array(rows, np.int64)[order], _grades(query, judged)[order], [names[i] for i in order])


def _diagnosis(
    names: list[str], judged: list[_Judged], steps: list[_Step], depths: tuple[int, ...], measure: Measure, rel: int
) -> Diagnosis:
    gains = [[of.gains(ids) for of, ids in zip(judged, step.lists)] for step in steps]
    pools = [of.grades for of in judged]
    values = [_measured(measure, rows, pools) for rows in gains]
    firsts = [[_first(row, rel) for row in rows] for rows in gains]
    retrieves = _retrieves(steps)
    ceilings = {}
    for step, rows, source in zip(steps, gains, retrieves):
        if source:
            best = ([np.sort(row[:depth])[::-1] for row in rows] for depth in depths)
            ceilings[step.label] = tuple(_mean(_measured(measure, perfect, pools)) for perfect in best)
    takers, k, labels = _takers(steps, retrieves), measure.cutoff, [step.label for step in steps]
    fates = [_fates(of, [step.lists[q] for step in steps], labels, takers, k, rel) for q, of in enumerate(judged)]
    order = [ABSENT, UNRETRIEVED, *(f"cut at {label}" for label in labels), f"ranked below {k}", DELIVERED]
    held = [fate for query in fates for fate in query.values()]
    counts = {fate: held.count(fate) for fate in order}
    stages = tuple(
        StageDiagnosis(
            step.label,
            source,
            _mean(value),
            int(sum(np.count_nonzero(row >= rel) for row in rows)),
            float(np.mean([len(row) for row in rows])),
            sum(rank is not None for rank in first),
            _median([rank for rank, of in zip(first, fates) if of]),
        )
        for step, source, value, rows, first in zip(steps, retrieves, values, gains, firsts)
    )
    per_query = {
        name: QueryDiagnosis(fates[q], tuple(first[q] for first in firsts), tuple(float(value[q]) for value in values))
        for q, name in enumerate(names)
    }
    told = {fate: n for fate, n in counts.items() if n or fate in (UNRETRIEVED, DELIVERED)}
    return Diagnosis(str(measure), rel, len(held), depths, stages, ceilings, told, per_query)


def _measured(measure: Measure, gains: Sequence[Rows], pools: Sequence[Rows]) -> NDArray[np.float64]:
    """The value of each query. In parts, so that the zeros behind short lists do not fill the memory."""
    parts = (slice(at, at + 256) for at in range(0, len(gains), 256))
    return np.concatenate([values_of(measure, padded(gains[part]), padded(pools[part])) for part in parts])


def _mean(values: NDArray[np.float64]) -> float:
    return math.fsum(values) / len(values)


def _first(gains: Rows, rel: int) -> int | None:
    hits = np.flatnonzero(gains >= rel)
    return int(hits[0]) + 1 if len(hits) else None


def _median(ranks: Sequence[int | None]) -> float | None:
    if not ranks:
        return None
    with np.errstate(invalid="ignore"):
        median = float(np.median([np.inf if rank is None else rank for rank in ranks]))
    return median if np.isfinite(median) else None


def _retrieves(steps: Sequence[_Step]) -> list[bool]:
    seen: list[set[int]] = [set() for _ in steps[0].lists]
    found = []
    for step in steps:
        news = False
        for known, ids in zip(seen, step.lists):
            before = len(known)
            known.update(ids.tolist())
            news = news or len(known) > before
        found.append(not step.takes or news)
    return found


def _takers(steps: Sequence[_Step], retrieves: Sequence[bool]) -> list[int]:
    """For each step the one that took its list in; the last one where none did; len(steps) for the last one itself."""
    takers: dict[int, int] = {}
    _chain(steps, 0, len(steps), None, retrieves, takers)
    last = len(steps) - 1
    return [takers.get(at, last) for at in range(last)] + [last + 1]


def _chain(steps: Sequence[_Step], start: int, end: int, came: int | None, retrieves: Sequence[bool], takers: dict[int, int]) -> None:
    """steps[start:end], which follow one another and were given the list of the step `came`: who takes which list in."""
    parts: list[tuple[int, tuple[int, ...]]] = []  # the steps that are not inside another one, last first, and their branches
    at = end - 1
    while at >= start:
        branches = steps[at].branches if sum(steps[at].branches) <= at - start else ()
        parts.append((at, branches))
        at -= 1 + sum(branches)
    lists = [] if came is None else [came]
    last_source = max((at for at, _ in parts if not steps[at].takes), default=-1)
    for at, branches in reversed(parts):
        ends = [at - sum(branches[i:]) for i in range(len(branches) + 1)]
        for first, behind in sorted(pairwise(ends), key=lambda branch: retrieves[branch[0]]):  # who re-orders a list takes it first
            _chain(steps, first, behind, lists[-1] if lists else None, retrieves, takers)
            takers[behind - 1] = at
        joins_all = at == last_source and not branches
        joined = lists[-1:] if steps[at].takes else lists if joins_all else []
        for before in joined:
            takers.setdefault(before, at)
        lists = [*lists[: len(lists) - len(joined)], at]


def _fates(judged: _Judged, lists: Sequence[Rows], labels: Sequence[str], takers: Sequence[int], k: int | None, rel: int) -> dict[str, str]:
    relevant = np.flatnonzero(judged.grades >= rel)
    taken = np.full(len(relevant), -1)  # the last step that took in a list with it; len(lists): it came through
    for ids, taker in zip(lists, takers):
        held = np.isin(judged.rows[relevant], ids)
        taken[held] = np.maximum(taken[held], taker)
    rank = {row: place for place, row in enumerate(lists[-1].tolist(), 1)}
    fates = {}
    for i, at in zip(relevant.tolist(), taken.tolist()):
        row = int(judged.rows[i])
        if at < 0:
            fate = ABSENT if row < 0 else UNRETRIEVED
        elif at < len(lists):
            fate = f"cut at {labels[at]}"
        else:
            fate = DELIVERED if k is None or rank[row] <= k else f"ranked below {k}"
        fates[judged.names[i]] = fate
    return fates
