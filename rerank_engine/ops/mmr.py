"""Maximal marginal relevance: a greedy choice of results that are relevant and unlike those already chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import implementation
from ..errors import InputError
from . import checks
from .topk import Hits


def mmr(relevance: ArrayLike, vectors: ArrayLike, k: int, *, lambda_: float = 0.5, backend: str = "auto") -> Hits:
    """Picks min(k, n) documents one by one, each time the d that maximises, over those left,

        lambda_ * relevance(d) - (1 - lambda_) * max_{s picked} <vector(d), vector(s)>          (the max over nothing is 0)

    (Carbonell and Goldstein, SIGIR 1998). Ties go to the lower row. With unit vectors the product is the cosine.

    relevance: float32 [n]; vectors: float32 [n, dim]; lambda_ from 0 (diversity only) to 1 (relevance only).
    Returns (rows int64 [m] in the order picked, value float32 [m] of each at the moment it was picked; not necessarily falling).
    Raises InputError (shapes, k < 1, lambda_ outside [0, 1]) and NonFiniteError
    (also for a product beyond float32 that the choice depends on; at lambda_ = 1 it depends on none).
    """
    r = checks.floats("mmr: relevance", relevance, 1)
    v = checks.floats("mmr: vectors", vectors, 2, finite=False)
    if len(v) != len(r):
        raise InputError("mmr: vectors", got=f"{len(v)} rows", expected=f"one for each of the {len(r)} relevances")
    k = checks.count("mmr: k", k)
    lambda_ = checks.finite_number("mmr: lambda_", lambda_, 0, 1)
    if min(k, len(r)) < 2 or lambda_ == 1:  # else every vector meets the first pick, and what is not finite shows in the product
        checks.all_finite("mmr: vectors", v)
    run = implementation("mmr", backend)
    try:
        hits: Hits = run(r, v, min(k, max(len(r), 1)), lambda_)
    except OverflowError as error:
        checks.all_finite("mmr: vectors", v)
        raise checks.overflow("mmr: products of vectors") from error
    return hits


def mmr_reference(relevance: NDArray[np.float32], vectors: NDArray[np.float32], k: int, lambda_: float) -> Hits:
    r, v = relevance.astype(np.float64), vectors.astype(np.float64)
    left, picked, values = list(range(len(r))), list[int](), list[float]()
    for _ in range(min(k, len(r))):
        products = [[float(v[d] @ v[s]) for s in picked] if lambda_ < 1 else [] for d in left]
        checks.narrow([product for row in products for product in row])  # a float32 backend could not hold them
        value = [lambda_ * r[d] - (1 - lambda_) * max(row, default=0.0) for d, row in zip(left, products)]
        best = int(np.argmax(value))
        values.append(value[best])
        picked.append(left.pop(best))
    return np.array(picked, np.int64), np.array(values, np.float32)


def mmr_cpp(relevance: NDArray[np.float32], vectors: NDArray[np.float32], k: int, lambda_: float) -> Any:
    from .. import _native

    return _native.mmr(relevance, vectors, k, lambda_)
