"""Rank fusion as a stage."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ..backends import choose
from ..core import Pipeline, Query, Ranking, Stage
from ..errors import InputError
from ..ops import checks
from ..ops.fuse import METHODS, NORMS, fuse


def _joined(ids: NDArray[np.int64], rankings: Sequence[Ranking]) -> dict[str, NDArray[Any]]:
    """The branches' columns by row: the largest entry where several have one, 0 where none has."""
    columns: dict[str, NDArray[Any]] = {}
    place = {row: i for i, row in enumerate(ids.tolist())}
    for ranking in rankings:
        kept = [(i, place[row]) for i, row in enumerate(ranking.ids.tolist()) if row in place] if ranking.columns else []
        source, target = np.array(kept, np.int64).reshape(-1, 2).T
        for name, column in ranking.columns.items():
            joined = columns.setdefault(name, np.zeros(len(ids), column.dtype))
            joined[target] = np.maximum(joined[target], column[source])
    return columns


@final
class Fuse(Stage):
    """Runs its branches on the same queries and fuses their lists; the formulas are those of rr.ops.fuse.

    method "rrf" (with k, default) or "sum" (with norm "min-max", "z-score" or "none"); weights: one per branch. top: documents kept.
    The branches' steps stand in the trace before the fusion's own; their columns are joined by document.
    """

    def __init__(
        self,
        *branches: Stage,
        method: str = "rrf",
        k: float = 60,
        weights: Sequence[float] | None = None,
        norm: str = "none",
        top: int | None = None,
    ) -> None:
        if len(branches) < 2:
            raise InputError("Fuse", got=f"{len(branches)} branches", expected="at least two")
        self.branches = tuple(Pipeline(branch) for branch in branches)
        self.method, self.norm = checks.one_of("Fuse: method", method, METHODS), checks.one_of("Fuse: norm", norm, NORMS)
        self.k, self.top = checks.finite_number("Fuse: k", k, 0), None if top is None else checks.count("Fuse: top", top)
        self.weights = None if weights is None else [checks.finite_number("Fuse: weights", w) for w in weights]
        if self.weights is not None and len(self.weights) != len(branches):
            raise InputError("Fuse: weights", got=f"{len(self.weights)} weights", expected=f"one for each of the {len(branches)} branches")
        self.retrieves = all(branch.retrieves for branch in self.branches)
        self.backend = choose("fuse")

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        past = [0] * len(queries) if rankings is None else [len(ranking.trace) for ranking in rankings]
        lists = list(zip(*(branch.run(queries, rankings) for branch in self.branches)))
        for row in lists:
            if any(ranking.corpus is not row[0].corpus for ranking in row):
                raise InputError(
                    "Fuse", got="branches over different corpora", expected="one corpus for all, since lists are joined by row"
                )
        pairs = [[(ranking.ids, ranking.scores) for ranking in row] for row in lists]
        fused = fuse(pairs, method=self.method, k=self.k, weights=self.weights, norm=self.norm, top=self.top, backend=self.backend)
        scale = "rrf" if self.method == "rrf" else f"sum of {self.norm}"
        out = []
        for (ids, scores), row, seen in zip(fused, lists, past):
            trace = (*row[0].trace, *chain.from_iterable(ranking.trace[seen:] for ranking in row[1:]))
            out.append(Ranking(ids, scores, row[0].corpus, scale, _joined(ids, row), trace))
        return out

    def __repr__(self) -> str:
        how = f"k={self.k:g}" if self.method == "rrf" else f"norm={self.norm}"
        weights = "" if self.weights is None else f", weights={self.weights}"
        return f"Fuse({', '.join(map(repr, self.branches))}, {self.method}, {how}{weights}, {self.backend})"
