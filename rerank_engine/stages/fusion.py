"""Rank fusion as a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from itertools import chain, count
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ..backends import choose
from ..core import Pipeline, Query, Ranking, Stage
from ..corpus import Corpus, aligned, rows_in
from ..cpus import available_cpus
from ..errors import InputError
from ..ops import checks
from ..ops.fuse import METHODS, NORMS, fuse, fuse_explained


def _joined(places: NDArray[np.int32], rankings: Sequence[Ranking]) -> dict[str, NDArray[Any]]:
    """The branches' columns, document by document: the largest entry where several have one, 0 where none has. places int32 [n, L]."""
    columns: dict[str, NDArray[Any]] = {}
    known: dict[str, NDArray[np.bool_]] = {}
    for ranking, place in zip(rankings, places.T):
        if not ranking.columns:
            continue
        held = place >= 0
        at = place[held]
        for name, column in ranking.columns.items():
            found = column[at]
            if name not in columns:
                columns[name], known[name] = np.zeros(len(place), column.dtype), np.zeros(len(place), bool)
            else:
                found = np.where(known[name][held], np.maximum(columns[name][held], found), found)
            columns[name][held] = found
            known[name] |= held
    return columns


def over(corpus: Corpus, ranking: Ranking, past: int) -> Ranking:
    """The list with the rows that another corpus has for its documents, found by their ids; its steps too, but the first `past`, which are
    of what came in: there, documents that the corpus lacks are left out. Raises UnknownIdError for one in the list itself."""
    own = ranking.corpus
    if aligned(corpus, own):
        return ranking if own is corpus else ranking._with(corpus=corpus)
    hint = "The first branch's index must hold every document that the others find; best all are made of one corpus."
    rows = rows_in(corpus, own, ranking.ids, "Fuse: another branch", "documents that the first branch has", hint)
    steps = []
    for step in ranking.trace[past:]:
        known = {row: corpus.row(doc_id) for row in (*step.ids.tolist(), *step.notes) if (doc_id := own.id_of(row)) in corpus}
        ids = np.array([known[row] for row in step.ids.tolist() if row in known], np.int64)
        steps.append(replace(step, ids=ids, notes={known[row]: note for row, note in step.notes.items() if row in known}))
    return ranking._with(ids=rows, corpus=corpus, trace=(*ranking.trace[:past], *steps))


@final
class Fuse(Stage):
    """Runs its branches on the same queries at the same time and fuses their lists; the formulas are those of rr.ops.fuse.

    concurrent: each branch after the first in a thread of its own, where this process has more than one processor; False: one after the
    other. The answer is the same. Of several branches that fail, the first one's error is raised, when all have ended.
    method "rrf" (with k, default), "sum" or "mnz" (with norm "min-max", "z-score" or "none"); weights: one per branch. top: documents kept.
    Lists over other corpora than the first one's, such as those of indexes opened from files, are joined by the documents' ids.
    The branches' steps stand in the trace before the fusion's own, whose facts say how many each has ("branches") and whether they ran at
    the same time ("concurrent"; progress is then reported from several threads). Their columns are joined by document.
    explain=True adds a float64 column per branch, "fuse:BM25", "fuse:Dense", ... (after the branch's last stage; "fuse:BM25#2" for a second
    one): what the branch adds to the score, 0 where it does not hold the document. They sum to the score before it is rounded.
    """

    def __init__(
        self,
        *branches: Stage,
        method: str = "rrf",
        k: float = 60,
        weights: Sequence[float] | None = None,
        norm: str = "none",
        top: int | None = None,
        explain: bool = False,
        concurrent: bool = True,
    ) -> None:
        if len(branches) < 2 or isinstance(branches[0], (list, tuple)):
            got = "a list" if branches and isinstance(branches[0], (list, tuple)) else f"{len(branches)} branches"
            raise InputError("Fuse", got=got, expected="at least two stages", hint="Write Fuse(a, b).")
        self.branches = tuple(Pipeline(branch) for branch in branches)
        self.method, self.norm = checks.one_of("Fuse: method", method, METHODS), checks.one_of("Fuse: norm", norm, NORMS)
        self.k, self.top = checks.finite_number("Fuse: k", k, 0), None if top is None else checks.count("Fuse: top", top)
        self.weights = None if weights is None else [checks.finite_number("Fuse: weights", w) for w in weights]
        if self.weights is not None and len(self.weights) != len(branches):
            raise InputError("Fuse: weights", got=f"{len(self.weights)} weights", expected=f"one for each of the {len(branches)} branches")
        self.retrieves = all(branch.retrieves for branch in self.branches)
        self.backend, self.explain = choose("fuse"), explain
        checks.instance("Fuse: concurrent", concurrent, bool)
        self.concurrent = concurrent and available_cpus() > 1

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        past = [0] * len(queries) if rankings is None else [len(ranking.trace) for ranking in rankings]
        lists = list(zip(*self._branches(queries, rankings)))
        lists = [(row[0], *(over(row[0].corpus, ranking, seen) for ranking in row[1:])) for row, seen in zip(lists, past)]
        pairs = [[(ranking.ids, ranking.scores) for ranking in row] for row in lists]
        told = self.explain or any(ranking.columns for row in lists for ranking in row)
        run: Callable[..., list[Any]] = fuse_explained if told else fuse
        fused = run(pairs, method=self.method, k=self.k, weights=self.weights, norm=self.norm, top=self.top, backend=self.backend)
        scale = "rrf" if self.method == "rrf" else f"{self.method} of {self.norm}"
        out = []
        for hits, row, seen in zip(fused, lists, past):
            columns = _joined(hits.places, row) if told else {}
            if self.explain:
                columns |= zip(self._labels(columns), hits.contributions.T)
            facts = {"branches": [len(ranking.trace) - seen for ranking in row], "concurrent": self.concurrent}
            trace = (*row[0].trace, *chain.from_iterable(ranking.trace[seen:] for ranking in row[1:]))
            out.append(Ranking._trusted(hits[0], hits[1], row[0].corpus, scale, columns, trace, facts=facts))
        return out

    def _branches(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[list[Ranking]]:
        """The lists of each branch. The caller's limits hold in all threads."""
        first, others = self.branches[0], self.branches[1:]
        if not self.concurrent:
            return [branch.apply(queries, rankings) for branch in self.branches]
        with ThreadPoolExecutor(len(others), "rerank-fuse") as pool:
            waiting = [pool.submit(copy_context().run, branch.apply, queries, rankings) for branch in others]
            return [first.apply(queries, rankings), *(done.result() for done in waiting)]

    def _labels(self, taken: Iterable[str]) -> list[str]:
        """The names of the contributions' columns, told apart, also from those of a fusion among the branches."""
        labels = list(taken)
        for branch in self.branches:
            name = f"fuse:{branch.stages[-1].name}"
            numbered = (f"{name}#{number}" for number in count(2))
            labels.append(name if name not in labels else next(other for other in numbered if other not in labels))
        return labels[-len(self.branches) :]

    def __repr__(self) -> str:
        how = f"k={self.k:g}" if self.method == "rrf" else f"norm={self.norm}"
        weights = "" if self.weights is None else f", weights={self.weights}"
        return f"Fuse({', '.join(map(repr, self.branches))}, {self.method}, {how}{weights}, {self.backend})"
