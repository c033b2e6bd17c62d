"""The trace: what each stage did to one query's list, how long it took, and what it left undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What one stage did to one query's list. `ms` is wall time of the batch divided by its queries, without the steps inside the stage."""

    stage: str  # repr
    name: str
    backend: str
    n_in: int
    n_out: int
    ms: float
    ids: NDArray[np.int64]  # rows after the stage, best first
    notes: Mapping[int, str] = field(default_factory=dict)  # row -> what the stage did to that document, also to one it dropped
    facts: Mapping[str, Any] = field(default_factory=dict)  # what the stage tells of its work: {"certified": True, ...}

    @property
    def finished(self) -> bool:
        """False: a deadline cut the stage short, or it was skipped; facts["reached"] then says how many documents it got to."""
        return bool(self.facts.get("finished", True))

    def to_dict(self) -> dict[str, Any]:
        notes = {"notes": {str(row): note for row, note in self.notes.items()}} if self.notes else {}
        return {
            "stage": self.stage,
            "name": self.name,
            "backend": self.backend,
            "n_in": self.n_in,
            "n_out": self.n_out,
            "ms": round(self.ms, 3),
            **notes,
            **({"facts": dict(self.facts)} if self.facts else {}),
        }


def reach(reached: int, of: int) -> dict[str, Any]:
    """Facts of a stage that got to `reached` of so many documents before the deadline: none where that is all of them."""
    return {} if reached >= of else {"finished": False, "reached": int(reached)}


def step_labels(trace: Sequence[Step]) -> list[str]:
    """The names of the steps, told apart: BM25, BM25#2, ..."""
    seen: dict[str, int] = {}
    labels = []
    for step in trace:
        seen[step.name] = seen.get(step.name, 0) + 1
        labels.append(step.name if seen[step.name] == 1 else f"{step.name}#{seen[step.name]}")
    return labels


def wall(inside: Sequence[Step], facts: Mapping[str, Any]) -> float:
    """ms of the steps inside a stage: their sum, or that of the longest branch of a fusion whose branches ran side by side."""
    counts = facts.get("branches", ()) if facts.get("concurrent") else ()
    if not counts or sum(counts) != len(inside):
        return sum(step.ms for step in inside)
    ends = np.cumsum([0, *counts]).tolist()
    return max(sum(step.ms for step in inside[start:end]) for start, end in pairwise(ends))
