"""Inner products with vectors that lie in memory or in a mapped file: exact search, and the exact scores of rows found otherwise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..backends import implementation
from ..cpus import resolve_threads
from ..errors import InputError, NonFiniteError
from ..limits import limits
from ..ops.inner import BLOCK, Vectors
from ..ops.topk import Hits, topk

BATCH = 256  # queries that share a pass
TABLE = 1 << 24  # scores of a pass that are held at a time
FREE = 7.0  # queries that are multiplied with a vector in the time that reading it from memory takes
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
    """`inner_products`, finite or not; of the first rows, where the deadline of `limits()` comes before it has multiplied all."""
    found, done = implementation("inner")(queries, vectors, rows, resolve_threads(threads), limits().left())
    scores: NDArray[np.float32] = found[:, :done]
    return scores


def search(
    vectors: Vectors, queries: NDArray[np.float32], k: int, rows: Sequence[NDArray[np.int64] | None], threads: int | None = None,
    names: Sequence[int] | None = None,
) -> tuple[list[Hits], list[int]]:  # fmt: skip
    """Per query the k best of its rows, ascending (None: of all), and how many of the first ones it got to before the deadline of
    `limits()`: its hits are of these. Queries of the same rows share a pass over the vectors, BATCH at a time; so do all, each for its own
    rows, where that costs less than passes apart. names: of the queries in errors; None: their places."""
    n, alike, found = len(vectors), dict[bytes, list[int]](), dict[int, tuple[Hits, int]]()
    for i, chosen in enumerate(rows):
        key = b"" if chosen is None or len(rows) == 1 else hashlib.blake2b(chosen.data, digest_size=16).digest()
        alike.setdefault(key, []).append(i)
    groups = list(alike.values())
    apart = sum(_cost(n if (chosen := rows[own[0]]) is None else len(chosen), len(own)) for own in groups)
    together = len(groups) > 1 and _cost(n, len(queries)) < apart
    for own in [list(range(len(queries)))] if together else groups:
        for first in range(0, len(own), BATCH):
            places = own[first : first + BATCH]
            shared = None if together else rows[places[0]]
            picked = [rows[i] if together else None for i in places]
            called = places if names is None else [names[i] for i in places]
            found |= zip(places, _best(vectors, queries[places], k, shared, picked, called, threads))
    return [found[i][0] for i in range(len(rows))], [found[i][1] for i in range(len(rows))]


def _cost(rows: int, queries: int) -> float:
    """Of a pass, in vectors that are read: so many queries cost no more than reading does."""
    return rows * max(1.0, queries / FREE)


def _best(
    vectors: Vectors, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None, picked: Sequence[NDArray[np.int64] | None],
    names: Sequence[int], threads: int | None,
) -> list[tuple[Hits, int]]:  # fmt: skip
    """Per query the k best, and how many rows it got to, of the rows that all share (None: all), or of those that are `picked` of all.
    names: of the queries, for errors."""
    n, width = len(vectors) if rows is None else len(rows), max(1, TABLE // len(queries))
    found = [(topk(np.empty(0, np.float32), k), 0)] * len(queries)
    for at in range(0, n, width):
        end = min(at + width, n)
        scores = products(vectors[at:end] if rows is None else vectors, queries, None if rows is None else rows[at:end], threads)
        done = at + scores.shape[1]
        for i, (own, chosen) in enumerate(zip(scores, picked)):
            (before, best), seen = found[i]
            ids = rows if chosen is None else chosen
            first, last = (at, done) if chosen is None else np.searchsorted(chosen, (at, done)).tolist()
            places, top = best_of(own if chosen is None else own[chosen[first:last] - at], k, f"query {names[i]}")
            places = places + first if ids is None else ids[places + first]
            hits = topk(np.concatenate([best, top]), k, ids=np.concatenate([before, places])) if at else (places, top)
            found[i] = hits, seen + last - first
        if done < end:
            break
    return found


def best_of(scores: NDArray[np.float32], k: int, what: str, rows: NDArray[np.int64] | None = None) -> Hits:
    """`topk` of the first rows, which have scores. Raises NonFiniteError in the name of a search for `what`."""
    try:
        return topk(scores, k, ids=None if rows is None else rows[: len(scores)])
    except NonFiniteError as error:
        got = f"a product of {scores[~np.isfinite(scores)][0]}"
        hint = "Vectors of about unit length have finite ones; VectorIndex.check(path) looks for damage."
        raise NonFiniteError(f"VectorIndex.search: {what}", got=got, expected="products within float32", hint=hint) from error
