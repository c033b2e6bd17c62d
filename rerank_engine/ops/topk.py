"""Top-k: THE order of the engine, score descending, then id ascending."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import implementation
from ..errors import InputError
from . import checks

Hits = tuple[NDArray[np.int64], NDArray[np.float32]]


def topk(scores: ArrayLike, k: int, *, ids: ArrayLike | None = None, backend: str = "auto") -> Hits:
    """The k best of `scores`: (ids int64 [m], scores float32 [m]) with m = min(k, n), score descending, then id ascending.

    scores: float32 [n]; ids: int64 [n], or None for the positions 0..n-1. Scores are compared as float32.
    Raises NonFiniteError for NaN or infinity, InputError for k < 1 or ids of another length.
    """
    s = checks.floats("topk: scores", scores, 1)
    i = np.empty(0, np.int64) if ids is None else checks.integers("topk: ids", ids)
    if ids is not None and len(i) != len(s):
        raise InputError("topk: ids", got=f"{len(i)} ids", expected=f"one for each of the {len(s)} scores")
    hits: Hits = implementation("topk", backend)(s, i, min(checks.count("topk: k", k), max(len(s), 1)))
    return hits


def topk_reference(scores: NDArray[np.float32], ids: NDArray[np.int64], k: int) -> Hits:
    """An empty `ids` stands for the positions."""
    ids = ids if len(ids) else np.arange(len(scores))
    order = np.lexsort((ids, -scores.astype(np.float64)))[:k]
    return ids[order], scores[order]


def topk_cpp(scores: NDArray[np.float32], ids: NDArray[np.int64], k: int) -> Any:
    from .. import _native

    return _native.topk(scores, ids, k)
