"""Inner products of queries with many vectors: exact dense scores."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import implementation
from ..cpus import resolve_threads
from ..errors import InputError, NonFiniteError
from . import checks
from .tokens import array, picked

Vectors = NDArray[np.float32] | NDArray[np.float16]
BLOCK = 1 << 22  # numbers that the reference converts at a time


def inner_products(
    queries: ArrayLike,
    vectors: ArrayLike,
    rows: ArrayLike | None = None,
    *,
    num_threads: int | None = None,
    seconds: float = math.inf,
    backend: str = "auto",
) -> NDArray[np.float32]:
    """out[i, j] = <query i, vector of rows[j]>

    queries: float [q, dim]. vectors: float32 or float16 [n, dim], as they are if contiguous; other numbers become float32, and what is not
    contiguous is copied. rows: integers [m], in any order, twice if need be; None for all.
    num_threads: None for what this process may use. seconds: how long it may take.
    Returns float32 [q, m]; where `seconds` did not suffice, the columns of the first rows alone. Sums are float32, in an order that depends
    on nothing but the backend and its instruction set: a query has the same products, bit by bit, in any batch, for any rows and number of
    threads, and equal vectors have equal ones. Raises InputError, NonFiniteError (NaN or infinity in what is read; products, or sums on the
    way to them, beyond float32).
    """
    q = checks.floats("inner_products: queries", array("inner_products: queries", queries), 2)
    held = array("inner_products: vectors", vectors)
    if held.dtype == np.float16 and held.ndim == 2:
        held = checks.contiguous(held)
    else:
        held = checks.floats("inner_products: vectors", held, 2, finite=False)
    if q.shape[1] != held.shape[1]:
        raise InputError("inner_products: queries", got=f"dimension {q.shape[1]}", expected=f"{held.shape[1]}, as the vectors have")
    chosen, threads = picked("inner_products", rows, len(held)), resolve_threads(num_threads)
    if not len(q):
        return np.empty((0, len(held) if chosen is None else len(chosen)), np.float32)
    products, done = implementation("inner", backend)(q, held, chosen, threads, seconds)
    found: NDArray[np.float32] = products[:, :done]
    if not np.isfinite(found).all():
        query, at = np.argwhere(~np.isfinite(found))[0].tolist()
        got = f"{found[query, at]} for query {query} and row {at if chosen is None else chosen[at]}"
        raise NonFiniteError("inner_products", got=got, expected="finite vectors, and sums of products within float32")
    return found


def inner_reference(
    queries: NDArray[np.float32], vectors: Vectors, rows: NDArray[np.int64] | None, threads: int, seconds: float = math.inf
) -> tuple[NDArray[np.float32], int]:
    """(products, how many of the first rows have them). One product of float64 a row, rounded once: a matrix product sums the last rows of
    a block in another order, and equal vectors would not tie."""
    n, step, end = len(vectors) if rows is None else len(rows), max(1, BLOCK // max(1, vectors.shape[1])), time.monotonic() + seconds
    out, wide = np.empty((len(queries), n), np.float32), queries.astype(np.float64)
    for at in range(0, n, step):
        if not time.monotonic() < end:
            return out, at
        block = (vectors[at : at + step] if rows is None else vectors[rows[at : at + step]]).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # found by who asked
            for query, own in zip(wide, out):
                own[at : at + step] = np.matmul(block[:, None, :], query[:, None])[:, 0, 0]
    return out, n


def inner_cpp(
    queries: NDArray[np.float32], vectors: Vectors, rows: NDArray[np.int64] | None, threads: int, seconds: float = math.inf
) -> Any:
    from .. import _native

    return _native.inner_products(queries, vectors, rows, threads, seconds=seconds)
