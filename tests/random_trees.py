"""Ensembles of trees at random, and rows that meet every case of a node."""

from __future__ import annotations

from typing import Any

import numpy as np

from rerank_engine.ops.trees import CATEGORICAL, Ensemble

GRID = np.array([-2.5, -1.0, -1e-35, 0.0, 1e-36, 0.5, 1.0, 1.0 + 2**-23, 3.25, 1e38])


def ensemble(
    rng: np.random.Generator, leaves: list[int], n_features: int = 6, *, chain: bool = False, kinds: str = "all", **more: Any
) -> Ensemble:
    """A tree of each number of leaves; thresholds of a small grid, so that values equal them. kinds: "all", or "plain" nodes alone."""
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in ("feature", "threshold", "left", "right", "leaves", "flags", "cover")}
    set_words = [rng.integers(0, 2**32, size=n, dtype=np.uint32) for n in (0, 1, 3)]
    for n in leaves:
        left, right = np.empty(n - 1, np.int32), np.empty(n - 1, np.int32)
        open_ends: list[tuple[np.ndarray, int]] = []
        for node in range(n - 1):
            if node:
                array, at = open_ends.pop(-1 if chain else int(rng.integers(len(open_ends))))
                array[at] = node
            open_ends += [(left, node), (right, node)]
        for leaf, (array, at) in zip(rng.permutation(n).tolist(), open_ends):
            array[at] = ~leaf
        flags = np.zeros(n - 1, np.int64)
        threshold = rng.choice(GRID, n - 1) if n > 1 else np.empty(0)
        if kinds == "all" and n > 1:
            flags = rng.integers(0, 3, n - 1) << 2 | rng.integers(0, 2, n - 1) << 1
            categorical = rng.random(n - 1) < 0.2
            flags[categorical] = CATEGORICAL
            threshold[categorical] = rng.integers(0, len(set_words), np.count_nonzero(categorical))
        arrays["feature"].append(rng.integers(0, n_features, n - 1))
        arrays["threshold"].append(threshold)
        arrays["left"].append(left)
        arrays["right"].append(right)
        arrays["leaves"].append(rng.normal(size=n))
        arrays["flags"].append(flags)
        arrays["cover"].append(rng.integers(1, 100, n))
    joined = {name: np.concatenate(parts) if parts else np.empty(0) for name, parts in arrays.items()}
    joined["leaf_cover"] = joined.pop("cover")
    offsets = [np.concatenate([[0], np.cumsum([n - less for n in leaves])]).astype(np.int64) for less in (1, 0)]
    sets = {"set_offsets": np.array([0, 0, 1, 4], np.int64), "sets": np.concatenate(set_words)}
    return Ensemble(n_features, *offsets, **joined, **sets, **more)  # type: ignore[arg-type]


def rows(rng: np.random.Generator, n: int, n_features: int = 6, dtype: Any = np.float64) -> np.ndarray:
    """Values on the grid and beside it, whole numbers for categories, NaN, both infinities, both zeros."""
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-36, 31, 32, 95.7, 96, -0.5, -1, 3e9, 1e30, 1.0 + 2**-40])
    pool = np.concatenate([GRID, np.nextafter(GRID, np.inf), np.nextafter(GRID, -np.inf), special, rng.normal(size=20)])
    return rng.choice(pool, (n, n_features)).astype(dtype)
