"""Maximal marginal relevance: a greedy choice of results that are relevant and unlike those already chosen."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import implementation
from ..errors import InputError
from . import checks
from .topk import Hits


def mmr(
    relevance: ArrayLike | None,
    vectors: ArrayLike,
    k: int,
    *,
    query: ArrayLike | None = None,
    lambda_: float = 0.5,
    seconds: float = math.inf,
    backend: str = "auto",
) -> Hits:
    """Picks min(k, n) documents one by one, each time the d that maximises, over those left,

        lambda_ * relevance(d) - (1 - lambda_) * max_{s picked} <vector(d), vector(s)>          (the max over nothing is 0)

    (Carbonell and Goldstein, SIGIR 1998). Ties go to the lower row. With unit vectors the product is the cosine.

    relevance: float32 [n], or None: then it is the product <query, vector(d)>, taken in the pass over the vectors that the first pick needs
    anyway. query: float32 [dim], or None. vectors: float32 [n, dim]; lambda_ from 0 (diversity only) to 1 (relevance only).
    seconds: how long it may take; then it stops between two picks, with fewer of them.
    Returns (rows int64 [m] in the order picked, value float32 [m] of each at the moment it was picked; not necessarily falling).
    Raises InputError (shapes, relevance and query both or neither, k < 1, lambda_ outside [0, 1]) and NonFiniteError
    (also for a product beyond float32 that the choice depends on; at lambda_ = 1 it depends on none between documents).
    """
    if (relevance is None) == (query is None):
        got = "neither" if query is None else "both"
        raise InputError("mmr: relevance and query", got=got, expected="one of them")
    # What is not finite shows in the products, which saves a look at every value.
    what, given = ("mmr: query", query) if relevance is None else ("mmr: relevance", relevance)
    r = checks.floats(what, given, 1, finite=False)
    v = checks.floats("mmr: vectors", vectors, 2, finite=False)
    if relevance is None and v.shape[1] != len(r):
        raise InputError("mmr: vectors", got=f"dimension {v.shape[1]}", expected=f"{len(r)}, as the query has")
    if relevance is not None and len(v) != len(r):
        raise InputError("mmr: vectors", got=f"{len(v)} rows", expected=f"one for each of the {len(r)} relevances")
    k = checks.count("mmr: k", k)
    lambda_ = checks.finite_number("mmr: lambda_", lambda_, 0, 1)
    if len(v) < 2 or k < 2 or lambda_ == 1:  # else every vector meets the first pick
        checks.all_finite(what, r)
        checks.all_finite("mmr: vectors", v)
    run = implementation("mmr", backend)
    try:
        hits: Hits = run(r, v, min(k, max(len(v), 1)), lambda_, relevance is None, seconds)
    except OverflowError as error:
        checks.all_finite(what, r)
        checks.all_finite("mmr: vectors", v)
        raise checks.overflow("mmr: products of vectors") from error
    return hits


def mmr_reference(
    given: NDArray[np.float32], vectors: NDArray[np.float32], k: int, lambda_: float, by_query: bool, seconds: float = math.inf
) -> Hits:
    """given: the query if `by_query`, else the relevance."""
    v, end = vectors.astype(np.float64), time.monotonic() + seconds
    with np.errstate(invalid="ignore"):  # refused by narrow
        r = np.array([float(row @ given.astype(np.float64)) for row in v]) if by_query else given.astype(np.float64)
        checks.narrow(r)
        left, picked, values = list(range(len(r))), list[int](), list[float]()
        for _ in range(min(k, len(r))):
            if time.monotonic() >= end:
                break
            products = [[float(v[d] @ v[s]) for s in picked] if lambda_ < 1 else [] for d in left]
            checks.narrow([product for row in products for product in row])  # a float32 backend could not hold them
            value = [lambda_ * r[d] - (1 - lambda_) * max(row, default=0.0) for d, row in zip(left, products)]
            best = int(np.argmax(value))
            values.append(value[best])
            picked.append(left.pop(best))
    return np.array(picked, np.int64), np.array(values, np.float32)


def mmr_cpp(
    given: NDArray[np.float32], vectors: NDArray[np.float32], k: int, lambda_: float, by_query: bool, seconds: float = math.inf
) -> Any:
    from .. import _native

    return (_native.mmr_for_query if by_query else _native.mmr)(given, vectors, k, lambda_, seconds=seconds)
