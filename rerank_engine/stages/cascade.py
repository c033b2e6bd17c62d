"""Doing less: cheap scorers put the candidates in order, the expensive one reads them in waves, and stops when the top is settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ..core import LOWEST, Query, Ranking, Rescore, Scorer, Stage, stacked, with_tail
from ..errors import InputError
from ..limits import limits
from ..ops.checks import count, finite_number, instance
from ..trace import reach
from .bound import Bound

Keep = int | float | None


@dataclass(eq=False)
class _Work:
    """One query's list on its way. order int64 [n]: places in the head, best first by the cheap scorers; cheap [n]: what the last of them
    said, or the incoming scores; most: how many may be read."""

    query: Query
    head: Ranking
    order: NDArray[np.int64]
    cheap: NDArray[np.float64]
    most: int
    tokens: int = 0  # that the networks were given, of scorers that tell it
    scores: list[float] = field(default_factory=list)  # of the first places of `order`; NaN for one that was not read in time
    waves: list[tuple[int, dict[str, NDArray[Any]]]] = field(default_factory=list)  # documents of each, and their columns
    scale: str = "rank"
    settled: bool | None = None
    stopped: bool = False
    late: bool = False  # stopped by a deadline


@final
class Cascade(Stage):
    """The first `depth` documents by several scorers, the cheapest first: `Cascade([similarity, model.shortened(64), model], keep=0.4)`.

    Each scorer orders what the one before it passed on; the last, expensive one gives the scores. With one scorer alone the incoming order
    is the cheap one. keep: what each may read of the candidates, for the scorers but the first (of one alone: for it), a share of them
    (0.4) or a number (40); one value is the last scorer's. bound, of `fit`: the last scorer reads `bound.wave` documents at a time in the
    cheap order, and stops when the bound holds the top k for settled: **a statistical statement about queries like those of the fit**, no
    certificate as CertifiedMaxSim's. `keep` then is the most that it reads.

    Documents that the last scorer did not read keep the cheap order behind those it did, with synthetic scores just below; the column
    `scored` tells them apart. The facts of its step:
    {"settled": True: all was read or the bound says so; False: the budget or a deadline came first; None: cut without a bound,
    "scored": documents read by the last scorer, "of": those of the head, "tokens": what networks were given, where their scorers tell it}.
    Raises InputError and what the scorers do.
    """

    def __init__(
        self, scorers: Sequence[Scorer], *, keep: Keep | Sequence[Keep] = None, bound: Bound | None = None, depth: int = 100
    ) -> None:
        if not isinstance(scorers, (list, tuple)) or not scorers or not all(isinstance(scorer, Scorer) for scorer in scorers):
            raise InputError("Cascade: scorers", got=repr(scorers), expected="a list of at least one Scorer, the cheapest first")
        self.scorers, self.depth = tuple(scorers), count("Cascade: depth", depth)
        self.keep = _require_keep(keep, max(len(scorers) - 1, 1))
        if bound is not None:
            instance("Cascade: bound", bound, Bound)
        self.bound = bound
        self.backend = "+".join(dict.fromkeys(scorer.backend for scorer in scorers))

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        assert rankings is not None
        works = self._ordered(queries, rankings, self.keep[-1])
        while active := [work for work in works if not work.stopped]:
            self._wave(active)
        return [self._merged(work, ranking) for work, ranking in zip(works, rankings)]

    def late(self, rankings: Sequence[Ranking]) -> list[Ranking]:
        facts = [{"settled": len(ranking) == 0, "scored": 0, "of": min(len(ranking), self.depth)} for ranking in rankings]
        passed = Rescore(self.scorers[-1], self.depth).late(rankings)
        return [ranking._with(facts=told) for ranking, told in zip(passed, facts)]

    def fit(self, queries: Sequence[str | Query], rankings: Sequence[Ranking], **options: Any) -> Cascade:
        """This cascade with a bound that is learnt from queries whose candidates are all scored here; no judgments are needed.

        options: k, delta, loss and wave of `Bound.fit`. The last scorer's `keep` is left out of it: it stays a budget on top. Raises as
        Bound.fit does.
        """
        works = self._ordered(_asked(queries, rankings), rankings, None)
        scores = self._all_scores(works)
        bound = Bound.fit([work.cheap[: work.most] for work in works], scores, **options)
        return Cascade(self.scorers, keep=self.keep, bound=bound, depth=self.depth)

    def _ordered(self, queries: Sequence[Query], rankings: Sequence[Ranking], last: Keep) -> list[_Work]:
        """What the cheap scorers make of the heads; `last`: the keep of the last scorer."""
        heads = [ranking.head(self.depth) for ranking in rankings]
        works = [_Work(query, head, np.arange(len(head)), head.scores.astype(np.float64), len(head)) for query, head in zip(queries, heads)]
        for i, scorer in enumerate(self.scorers[:-1]):
            if i:
                for work in works:
                    work.most = _kept(self.keep[i - 1], len(work.order), work.most)
            stage = Rescore(scorer, self.depth)
            for work, done in zip(works, stage.apply([work.query for work in works], [_part(work, 0, work.most) for work in works])):
                places = _places(work.head, done.ids)
                work.order = np.concatenate([places, work.order[work.most :]])
                work.cheap = done.scores.astype(np.float64)
                work.tokens += int(done.facts.get("tokens", 0))
        for work in works:
            work.most = _kept(last, len(work.order), work.most)
            work.stopped = work.most == 0
        return works

    def _wave(self, works: list[_Work]) -> None:
        """The next documents of each list are read by the last scorer, all lists at once."""
        limits().check()
        starts = [len(work.scores) for work in works]
        ends = [min(self._next(start), work.most) for start, work in zip(starts, works)]
        parts = [_part(work, start, end) for work, start, end in zip(works, starts, ends)]
        stage = Rescore(self.scorers[-1], max(map(len, parts)))
        for work, part, end, done in zip(works, parts, ends, stage.apply([work.query for work in works], parts)):
            at = _places(done, part.ids)  # where each document of the part now stands
            scores = done.scores.astype(np.float64)
            if (read := done.columns.get("scored")) is not None:
                scores[~read] = np.nan
            work.scores += scores[at].tolist()
            work.waves.append((len(part), {name: column[at] for name, column in done.columns.items()}))
            work.scale = work.scale if np.isnan(scores).all() else done.scale
            work.tokens += int(done.facts.get("tokens", 0))
            self._judge(work, end)

    def _next(self, start: int) -> int:
        """How far the wave from `start` goes: to the next of the bound's stops, or to the end."""
        if self.bound is None:
            return self.depth
        return start + self.bound.wave if start else self.bound.k

    def _judge(self, work: _Work, end: int) -> None:
        if np.isnan(work.scores).any():
            work.settled, work.stopped, work.late = False, True, True
        elif end == len(work.order) or (self.bound is not None and self.bound.settled(work.cheap, np.array(work.scores))):
            work.settled, work.stopped = True, True
        elif end >= work.most or limits().out_of_time():
            work.settled, work.stopped = (None if self.bound is None and end >= work.most else False), True
            work.late = end < work.most

    def _merged(self, work: _Work, ranking: Ranking) -> Ranking:
        values = np.array(work.scores, np.float64)
        read = np.flatnonzero(~np.isnan(values))
        best = read[np.lexsort((work.head.ids[work.order[read]], -values[read]))]
        rest = np.setdiff1d(np.arange(len(work.order)), read)
        places = np.concatenate([work.order[best], work.order[rest], np.arange(len(work.order), len(ranking))])
        scores = with_tail(values[best].astype(np.float32), len(places) - len(best))
        columns = {name: column[places] for name, column in ranking.columns.items()}
        for name, column in stacked(work.waves).items():
            known = columns[name][len(best) :] if name in columns else np.zeros(len(places) - len(best), column.dtype)
            columns[name] = np.concatenate([column[best], known])
        columns["scored"] = np.arange(len(places)) < len(best)
        facts: dict[str, Any] = {"settled": work.settled if len(work.order) else True, "scored": len(best), "of": len(work.order)}
        if work.tokens:
            facts["tokens"] = work.tokens
        if work.late:
            facts |= reach(len(best), len(best) + 1)
        scale = work.scale if len(best) or not len(work.order) else "rank"  # nothing was read in time
        return ranking._with(ids=ranking.ids[places], scores=scores, scale=scale, columns=columns, facts=facts, notes={})

    def _all_scores(self, works: list[_Work]) -> list[NDArray[np.float64]]:
        """The last scorer's scores of whole heads, in the cheap order, float64 [n] each. A deadline has no place here."""
        parts = [_part(work, 0, len(work.order)) for work in works]
        told = self.scorers[-1].score([work.query for work in works], parts) if works else []
        scores = [np.maximum(entry.values, LOWEST).astype(np.float64) for entry in told]
        late = any("scored" in entry.columns and not entry.columns["scored"].all() for entry in told)
        if late or not all(np.isfinite(row).all() and len(row) == len(work.order) for row, work in zip(scores, works)):
            raise InputError("Cascade: scores", got="missing ones, NaN or infinity", expected="one for every candidate, without a deadline")
        return scores

    def report(
        self,
        queries: Sequence[Query],
        rankings: Sequence[Ranking],
        qrels: Mapping[str, Mapping[str, int]],
        *,
        keeps: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5),
        deltas: Sequence[float] = (0.05, 0.1, 0.15, 0.2),
        measure: str = "nDCG@10",
        folds: int = 5,
        seed: int = 0,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """What is lost and what is saved on judged queries, a row a setting: {"setting", "value": the measure's mean, "full": that of
        scoring all, "lost": full - value, "tokens": what networks were given, "of": by scoring all with the last scorer, "share":
        tokens / of, "missed": the mean share of the full top k not read, "complete": the share of queries of which nothing was missed}.

        Everything is scored once, then each setting replayed: keep, a fixed cut, and delta, a bound which for each of `folds` parts of the
        queries is fitted on the others. A scorer without `count_tokens` counts a token a document. options: k, loss, wave of `Bound.fit`.
        Raises InputError.
        """
        from .cascade_report import cascade_report, require_enough

        asked = _asked(queries, rankings)
        require_enough([query.id for query in asked if query.id in qrels], deltas, folds)
        works = self._ordered(asked, rankings, None)
        counter = getattr(self.scorers[-1], "count_tokens", None)
        parts = [_part(work, 0, len(work.order)) for work in works]
        lengths = counter([work.query for work in works], parts) if counter else [np.ones(len(part), np.int64) for part in parts]
        scored = self._all_scores(works)
        lists = [
            (work.query.id, part.doc_ids, part.ids, work.cheap[: work.most], scores, tokens, work.tokens)
            for work, part, scores, tokens in zip(works, parts, scored, lengths)
        ]
        return cascade_report(lists, qrels, keeps=keeps, deltas=deltas, measure=measure, folds=folds, seed=seed, options=options)

    def __repr__(self) -> str:
        told = [f"keep={list(self.keep)}"] if any(keep is not None for keep in self.keep) else []
        told += [f"delta={self.bound.delta:g}"] if self.bound else []
        return f"Cascade([{', '.join(map(repr, self.scorers))}], {', '.join([*told, f'depth={self.depth}'])})"


def _asked(queries: Sequence[str | Query], rankings: Sequence[Ranking]) -> list[Query]:
    if isinstance(queries, (str, Query)) or len(queries) != len(rankings):
        got = f"{1 if isinstance(queries, (str, Query)) else len(queries)} queries and {len(rankings)} rankings"
        raise InputError("Cascade", got=got, expected="a sequence of queries, and one ranking for each")
    return [query if isinstance(query, Query) else Query(query) for query in queries]


def _require_keep(keep: Keep | Sequence[Keep], n: int) -> tuple[Keep, ...]:
    values: tuple[Any, ...] = tuple(keep) if isinstance(keep, (list, tuple)) else (*[None] * (n - 1), keep)
    if len(values) != n:
        raise InputError("Cascade: keep", got=f"{len(values)} values", expected=f"{n}: one for each scorer but the first, or one number")
    for value in values:
        if isinstance(value, (float, np.floating)):
            if not finite_number("Cascade: keep", float(value), 0, 1) > 0:
                raise InputError("Cascade: keep", got=value, expected="a share above 0, or a number of documents of at least 1")
        elif value is not None:
            count("Cascade: keep", value)
    return values


def _kept(keep: Keep, n: int, most: int) -> int:
    """How many of n documents: a share is rounded up, and never more than came so far."""
    if keep is None:
        return most
    return min(most, int(np.ceil(keep * n - 1e-9)) if isinstance(keep, (float, np.floating)) else int(keep))


def _part(work: _Work, start: int, end: int) -> Ranking:
    """Places start to end of the cheap order, as candidates."""
    return Ranking.in_order(work.head.corpus, work.head.ids[work.order[start:end]])


def _places(ranking: Ranking, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where these documents stand in it."""
    by_row = np.argsort(ranking.ids)
    return by_row[np.searchsorted(ranking.ids[by_row], ids)]
