"""ranx: rank fusion of its own runs, whose building is not timed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import ranx
from numpy.typing import NDArray

Hits = tuple[NDArray[np.int64], NDArray[np.float64]]


def fuse(queries: NDArray[np.int64]) -> Callable[[], ranx.Run]:
    """queries int64 [batch, lists, n]: ids by rank."""
    scores = len(queries[0][0]) - np.arange(len(queries[0][0]), dtype=np.float64)
    runs = [ranx.Run({str(q): dict(zip(map(str, lists[i]), scores)) for q, lists in enumerate(queries)}) for i in range(len(queries[0]))]
    return lambda: ranx.fuse(runs, norm=None, method="rrf", params={"k": 60})


def answer(found: ranx.Run) -> list[Hits]:
    """(ids, scores) of each query, best first."""
    of_query = [found.run[name] for name in sorted(found.run, key=int)]  # it sorts them as strings
    ranked = [sorted(((int(i), s) for i, s in hits.items()), key=lambda hit: (-hit[1], hit[0])) for hits in of_query]
    return [(np.array([i for i, _ in hits], np.int64), np.array([s for _, s in hits])) for hits in ranked]
