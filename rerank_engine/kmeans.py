"""k-means on token vectors, for the centroids of the residual codec: faiss where it is installed, else Lloyd's algorithm on BLAS."""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray

from .backends import try_import
from .errors import BackendUnavailable, InputError
from .ops import checks
from .progress import Progress

POINTS_PER_CENTROID = 256  # more points do not move the centroids by much


def kmeans(
    points: NDArray[np.float32],
    k: int,
    *,
    iterations: int = 8,
    seed: int = 0,
    backend: str = "auto",
    progress: Progress | None = None,
    seconds: float = math.inf,
) -> NDArray[np.float32]:
    """Centroids float32 [k, dim] of unit length, which maximise the sum over points of the largest <point, centroid> (spherical k-means).

    points: float32 [n, dim], n >= k; of more than 256 k a sample is taken. The same seed gives the same centroids on the same machine.
    seconds: how long backend "numpy" may take; it makes fewer iterations then. Raises InputError, and BackendUnavailable for faiss where it
    is not installed.
    """
    if not 0 < k <= len(points):
        raise InputError("kmeans: k", got=k, expected=f"1 to {len(points)}, the number of points")
    checks.one_of("kmeans: backend", backend, ("auto", "faiss", "numpy"))
    missing = try_import("faiss") if backend != "numpy" else None
    if backend == "faiss" and missing:
        raise BackendUnavailable(f"kmeans: backend 'faiss' asked for, but {missing}", hint="pip install faiss-cpu, or backend='numpy'.")
    generator = np.random.default_rng(seed)
    if len(points) > POINTS_PER_CENTROID * k:
        points = points[np.sort(generator.choice(len(points), POINTS_PER_CENTROID * k, replace=False))]
    if backend == "numpy" or missing:
        return _lloyd(points, k, iterations, generator, progress, seconds)
    import faiss

    run = faiss.Kmeans(
        points.shape[1], k, niter=iterations, seed=seed + 1, spherical=True, min_points_per_centroid=1, max_points_per_centroid=1 << 30
    )
    run.train(points)
    return _unit(np.ascontiguousarray(run.centroids, np.float32))


def _lloyd(
    points: NDArray[np.float32], k: int, iterations: int, generator: np.random.Generator, progress: Progress | None, seconds: float
) -> NDArray[np.float32]:
    centroids = _unit(points[np.sort(generator.choice(len(points), k, replace=False))])
    step, end = max(1, (1 << 22) // k), time.monotonic() + seconds
    for done in range(1, iterations + 1):
        if time.monotonic() >= end:
            break
        owner, closeness, sums = np.empty(len(points), np.int64), np.empty(len(points), np.float32), np.zeros_like(centroids)
        for at in range(0, len(points), step):
            products = points[at : at + step] @ centroids.T
            owner[at : at + step] = products.argmax(1)
            closeness[at : at + step] = products.max(1)
            order = np.argsort(owner[at : at + step], kind="stable")
            owned, starts = np.unique(owner[at : at + step][order], return_index=True)
            sums[owned] += np.add.reduceat(points[at : at + step][order], starts, axis=0)
        empty = np.setdiff1d(np.arange(k), owner)
        fresh = np.where(np.isin(np.arange(k), empty)[:, None], centroids, sums)
        if len(empty):  # the points that are worst off start clusters of their own
            fresh[empty] = points[np.argsort(closeness, kind="stable")[: len(empty)]]
        centroids = _unit(fresh)
        if progress:
            progress(done, iterations)
    return centroids


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
    return unit
