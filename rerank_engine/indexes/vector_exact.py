"""Inner products with vectors that lie in memory or in a mapped file: exact search, and the exact scores of rows found otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..limits import limits
from ..ops.topk import Hits, topk

Vectors = NDArray[np.float32] | NDArray[np.float16]
BLOCK = 1 << 22  # numbers that are copied or converted at a time
TABLE = 1 << 24  # scores of a batch that are held at a time
_BATCH = 16  # queries from which one matrix product and a second look cost less than a product a row
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


def products(vectors: Vectors, query: NDArray[np.float32], rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """float32 [m]: the inner product of each row (None: of all) with a query float32 [dim]; of the first of them, where the deadline of
    `limits()` comes before it has multiplied all.

    One product a row, so that it depends neither on the batch nor on the row: a matrix product sums the last rows of a block in another
    order, and equal documents would not tie.
    """
    n, step = len(vectors) if rows is None else len(rows), max(1, BLOCK // max(1, vectors.shape[1]))
    out, until = np.empty(n, np.float32), limits()
    with np.errstate(over="ignore", invalid="ignore"):  # topk refuses what is not finite
        for at in range(0, n, step):
            if until.out_of_time():
                return out[:at]
            block = vectors[at : at + step] if rows is None else vectors[rows[at : at + step]]
            out[at : at + step] = np.matmul(block.astype(np.float32, copy=False)[:, None, :], query[:, None])[:, 0, 0]
    return out


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


def search(
    vectors: Vectors, queries: NDArray[np.float32], k: int, rows: Sequence[NDArray[np.int64] | None], length: Callable[[], float]
) -> tuple[list[Hits], list[int]]:
    """Per query the k best of its rows (None: of all) by `products`, and how many rows it got to before the deadline of `limits()`: its
    hits are of these; of a query of a batch, all or none. length(): of the longest vector, asked for a batch alone.

    A batch first takes one matrix product of all. What is further below the k-th best there than twice what rounding explains is not among
    the k best by `products`; only the others are multiplied again.
    """
    found = list[tuple[Hits, int]]()
    if len(queries) < _BATCH or not float(np.abs(queries).max()) * vectors.shape[1] * length() < 1e37:  # beyond, a sum may be infinite
        for query, chosen in zip(queries, rows):
            scores = products(vectors, query, chosen)
            found.append((best_of(scores, k, chosen), len(scores)))
        return [hits for hits, _ in found], [n for _, n in found]
    room, step, until = rounding(queries, vectors, length), max(_BATCH, TABLE // len(vectors)), limits()
    nothing = topk(np.empty(0, np.float32), k), 0
    for first in range(0, len(queries), step):
        batch = queries[first : first + step]
        table = np.empty((len(batch), len(vectors)), np.float32)
        at = 0
        for block in blocks(vectors):
            if until.out_of_time():
                break
            np.matmul(batch, block.T, out=table[:, at : at + len(block)])
            at += len(block)
        for i, near in enumerate(table, first):
            late = until.out_of_time()  # so it is where the table is not whole
            found.append(nothing if late else _by_products(vectors, queries[i], near, k, rows[i], 2 * room[i]))
    return [hits for hits, _ in found], [n for _, n in found]


def _by_products(
    vectors: Vectors, query: NDArray[np.float32], near: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None, room: float
) -> tuple[Hits, int]:
    """(the k best, rows looked at) by `products`, none where time is up. near float32 [n]: what they are of all rows within room / 2."""
    near = near if rows is None else near[rows]
    best = topk(near, k)[1]
    places = np.flatnonzero(near >= best[-1] - room) if len(best) else np.empty(0, np.int64)
    left = places if rows is None else rows[places]
    scores = products(vectors, query, left)
    whole = len(scores) == len(left)
    return best_of(scores if whole else scores[:0], k, left), len(near) if whole else 0


def best_of(scores: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None) -> Hits:
    """The k best of the first rows, which have scores."""
    return topk(scores, k, ids=None if rows is None else rows[: len(scores)])
