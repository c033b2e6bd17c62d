"""Timing of searches as they come: each query once a side, the sides taking turns block by block, never the best of repeats."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 25  # queries that a side answers before the next side's turn: enough for its own caches, few enough for noise to hit all alike
Times = NDArray[np.float64]


def single_pass(sides: dict[str, Callable[[int], Any]], n: int, budget_s: float) -> dict[str, Times]:
    """ms of processor time of the whole process for each of n queries (`side(i)` answers the i-th), per side.

    A side that has used up `budget_s` stops, and has fewer: a slow peer does not hold up the others.
    """
    spent: dict[str, list[int]] = {name: [] for name in sides}
    names = list(sides)
    for number, begin in enumerate(range(0, n, BLOCK)):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            search, times = sides[name], spent[name]
            if sum(times) > budget_s * 1e9:
                continue
            for i in range(begin, min(begin + BLOCK, n)):
                start = time.process_time_ns()
                search(i)
                times.append(time.process_time_ns() - start)
    return {name: np.array(times) / 1e6 for name, times in spent.items()}


def compared(ours: Times, theirs: Times) -> dict[str, Any]:
    """p50, p95 and the quartiles of the ratio query by query, over the queries that both have answered."""
    n = min(len(ours), len(theirs))
    ours, theirs = ours[:n], theirs[:n]
    return {
        "ours": float(np.median(ours)),
        "theirs": float(np.median(theirs)),
        "spread": np.percentile(theirs / ours, [25, 75]).tolist(),
        "ours_p95": round(float(np.percentile(ours, 95)), 6),
        "theirs_p95": round(float(np.percentile(theirs, 95)), 6),
        "queries": n,
    }


def in_turns(sides: dict[str, Callable[[Sequence[Any]], Any]], chunks: Sequence[Sequence[Any]]) -> dict[str, Times]:
    """Wall-clock ms a query of each side on each chunk of queries, in turns. For threads, where processor time says nothing."""
    spent: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number, chunk in enumerate(chunks):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            sides[name](chunk)
            spent[name].append((time.perf_counter() - start) * 1e3 / len(chunk))
    return {name: np.array(times) for name, times in spent.items()}


def linear_cost(ms: Times, *causes: NDArray[Any], bins: int = 24) -> tuple[list[float], float]:
    """Least squares of ms = c0 + c1 * cause1 + ..., through the medians of bins of like cause: a disturbed query does not bend it.

    Returns the coefficients and the share of the bins' variance that they explain (R squared).
    """
    order = np.lexsort(causes)
    parts = [part for part in np.array_split(order, bins) if len(part)]
    y = np.array([np.median(ms[part]) for part in parts])
    x = np.array([[1.0, *(np.median(cause[part]) for cause in causes)] for part in parts])
    scale = np.abs(x).max(axis=0)  # or the 1 would drown beside a million documents
    weights = 1 / np.maximum(y, y.max() * 1e-3)  # relative errors: noise grows with the time
    solved = np.linalg.lstsq(x / scale * weights[:, None], y * weights, rcond=None)[0] / scale
    left = ((y - x @ solved) ** 2).sum() / max(((y - y.mean()) ** 2).sum(), 1e-30)
    return solved.tolist(), float(1 - left)
