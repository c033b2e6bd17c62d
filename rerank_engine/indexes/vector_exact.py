"""Inner products with vectors that lie in memory or in a mapped file: exact search, and the exact scores of rows found otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..limits import limits
from ..ops.inner import BLOCK, Vectors, inner_products
from ..ops.topk import Hits, topk

TABLE = 1 << 24  # scores of a batch that are held at a time
_UNIT = 2.0**-20  # how far from 1 a length may be that rounding alone explains


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [n, dim], each row of length 1; rows that are so within rounding stay as they are, rows of zeros stay zero."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    off = (np.abs(norms - 1) > _UNIT) & (norms > 0)
    return vectors if not off.any() else (vectors / np.where(off, norms, 1)).astype(np.float32)


def stored(vectors: NDArray[np.float32], keep: str) -> Vectors:
    """As "float32" or "float16". Raises InputError for numbers that float16 cannot hold."""
    if keep == "float32":
        return vectors
    with np.errstate(over="ignore"):
        half = vectors.astype(np.float16)
    if not np.isfinite(half).all():
        raise InputError("VectorIndex: float16", got="a value beyond 65504", expected="vectors of about unit length, or keep='float32'")
    return half


def blocks(vectors: Vectors) -> Iterator[NDArray[np.float32]]:
    """The rows in their order, float32, BLOCK numbers at a time."""
    step = max(1, BLOCK // max(1, vectors.shape[1]))
    return (vectors[at : at + step].astype(np.float32, copy=False) for at in range(0, len(vectors), step))


def longest(vectors: Vectors) -> float:
    """The length of the longest row; NaN or infinity where a row has such."""
    return float(np.sqrt(max((float(np.einsum("nd,nd->n", b, b, dtype=np.float64).max()) for b in blocks(vectors)), default=0.0)))


def rounding(queries: NDArray[np.float32], vectors: Vectors, length: Callable[[], float]) -> NDArray[np.float64]:
    """float64 [q]: how far two float32 sums of one inner product may be apart, whatever their order: 2 d u |q| |v| (1 + d u), d the
    dimension and u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 3.1); where float16 is kept, also one of them over what
    was rounded to it. length(): of the longest vector."""
    dim, longest = vectors.shape[1], length()
    norms: NDArray[np.float64] = np.linalg.norm(queries.astype(np.float64), axis=1)
    room: NDArray[np.float64] = 2.1 * dim * 2.0**-24 * norms * longest + dim * float(np.finfo(np.float32).tiny)
    return room if vectors.dtype == np.float32 else room + norms * (longest * 2.0**-10 + dim * 2.0**-24)


def products(
    vectors: Vectors, queries: NDArray[np.float32], rows: NDArray[np.int64] | None, threads: int | None = None
) -> NDArray[np.float32]:
    """`inner_products`; of the first rows, where the deadline of `limits()` comes before it has multiplied all."""
    return inner_products(queries, vectors, rows, num_threads=threads, seconds=limits().left())


def search(
    vectors: Vectors, queries: NDArray[np.float32], k: int, rows: Sequence[NDArray[np.int64] | None], threads: int | None = None
) -> tuple[list[Hits], list[int]]:
    """Per query the k best of its rows (None: of all), and how many of the first ones it got to before the deadline of `limits()`: its hits
    are of these. Queries of the same rows (the same array, or None) share one pass over the vectors."""
    alike, found = dict[int, list[int]](), dict[int, tuple[Hits, int]]()
    for i, chosen in enumerate(rows):
        alike.setdefault(id(chosen), []).append(i)
    for places in alike.values():
        chosen = rows[places[0]]
        step = max(1, TABLE // max(1, len(vectors) if chosen is None else len(chosen)))
        for first in range(0, len(places), step):
            batch = places[first : first + step]
            scores = products(vectors, queries[batch], chosen, threads)
            found |= {i: (best_of(own, k, chosen), len(own)) for i, own in zip(batch, scores)}
    return [found[i][0] for i in range(len(rows))], [found[i][1] for i in range(len(rows))]


def best_of(scores: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None) -> Hits:
    """The k best of the first rows, which have scores."""
    return topk(scores, k, ids=None if rows is None else rows[: len(scores)])
