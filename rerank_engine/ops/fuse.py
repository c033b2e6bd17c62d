"""Rank fusion: several result lists of one query into one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import implementation
from ..cpus import resolve_threads
from ..errors import InputError
from ..packed import Packed
from . import checks
from .topk import Hits, topk_reference

METHODS = ("rrf", "sum")
NORMS = ("none", "min-max", "z-score")


def fuse(
    queries: Sequence[Sequence[tuple[ArrayLike, ArrayLike]]],
    *,
    method: str = "rrf",
    k: float = 60,
    weights: Sequence[float] | None = None,
    norm: str = "none",
    top: int | None = None,
    threads: int | None = 1,
    backend: str = "auto",
) -> list[Hits]:
    """Fuses the lists of each query; every query has the same number L of lists, each a pair (ids, scores), best first.

    rrf  score(d) = sum_l w_l / (k + rank_l(d)), ranks from 1, k = 60 (Cormack, Clarke and Buettcher, SIGIR 2009, eq. 1).
    sum  score(d) = sum_l w_l * norm_l(s_l(d)), with norm_l over list l:
         none     s
         min-max  (s - min) / max(max - min, 1e-9)
         z-score  (s - mean) / max(standard deviation, 1e-9), population standard deviation
    A document absent from a list adds 0; one that stands twice in a list counts at its better place. Sums are float64 in the order of the
    lists, rounded once to float32; then score descending, id ascending. `sum` equals ranx's `wsum` after its norm of that name; so a list
    without spread (one document, or all scores equal) adds 0 under min-max and z-score.

    queries: ids int64 [n], scores float32 [n] per list; rrf ignores the scores. weights: [L], default 1. top: hits kept, None = all.
    Returns per query (ids int64 [m], scores float32 [m]); a query whose lists are all empty gives an empty result.
    Raises InputError (method, norm, weights, ragged L, ids and scores of different length), NonFiniteError (NaN scores, a sum beyond
    float32).
    """
    checks.one_of("fuse: method", method, METHODS)
    checks.one_of("fuse: norm", norm, NORMS)
    k = checks.finite_number("fuse: k", k, 0)
    keep = 0 if top is None else checks.count("fuse: top", top)
    if not len(queries):
        return []
    n_lists = len(queries[0])
    if n_lists == 0 or any(len(lists) != n_lists for lists in queries):
        raise InputError(
            "fuse: queries", got=f"{sorted({len(q) for q in queries})} lists", expected="the same number of lists, 1 or more, for each"
        )
    w = [1.0] * n_lists if weights is None else [checks.finite_number("fuse: weights", x) for x in weights]
    if len(w) != n_lists:
        raise InputError("fuse: weights", got=f"{len(w)} weights", expected=f"one for each of the {n_lists} lists")
    ids, scores = [], []
    for lists in queries:
        for pair in lists:
            i = checks.integers("fuse: ids", pair[0])
            s = checks.floats("fuse: scores", pair[1], 1)
            if len(i) != len(s):
                raise InputError("fuse: scores", got=f"{len(s)} scores", expected=f"one for each of the {len(i)} ids")
            ids.append(i)
            scores.append(s)
    packed = Packed.from_rows(ids, np.int64)
    flat = np.concatenate(scores)
    run = implementation("fuse", backend)
    try:
        result: list[Hits] = run(packed, flat, np.array(w), method, norm, k, keep, resolve_threads(threads))
    except OverflowError as error:
        raise checks.overflow("fuse: scores") from error
    return result


def fuse_reference(
    ids: Packed, scores: NDArray[np.float32], weights: NDArray[np.float64], method: str, norm: str, k: float, top: int, threads: int
) -> list[Hits]:
    """Dictionaries and float64. List l of query q is row q * L + l of `ids`."""
    values = Packed(scores.astype(np.float64), ids.offsets)
    n_lists = len(weights)
    out = []
    for q in range(len(ids) // n_lists):
        sums: dict[int, float] = {}
        for l, weight in enumerate(weights):  # noqa: E741
            row = q * n_lists + l
            with np.errstate(over="ignore", invalid="ignore"):  # refused by narrow
                contribution = weight / (k + 1 + np.arange(len(ids[row]))) if method == "rrf" else weight * _normalised(values[row], norm)
            first = dict(zip(ids[row][::-1].tolist(), contribution[::-1].tolist()))
            for doc, value in first.items():
                sums[doc] = sums.get(doc, 0.0) + value
        docs = np.array(list(sums), np.int64)
        out.append(topk_reference(checks.narrow(list(sums.values())), docs, top or len(docs)))
    return out


def _normalised(scores: NDArray[np.float64], norm: str) -> NDArray[np.float64]:
    if norm == "none" or not len(scores):
        return scores
    shift, scale = (scores.min(), np.ptp(scores)) if norm == "min-max" else (scores.mean(), scores.std())
    normalised: NDArray[np.float64] = (scores - shift) / max(float(scale), 1e-9)
    return normalised


def fuse_cpp(
    ids: Packed, scores: NDArray[np.float32], weights: NDArray[np.float64], method: str, norm: str, k: float, top: int, threads: int
) -> list[Any]:
    from .. import _native

    hits = _native.fuse(ids.values, scores, ids.offsets, weights, method, norm, k, top, threads)
    return unpack(*hits)


def unpack(offsets: NDArray[np.int64], ids: NDArray[np.int64], scores: NDArray[np.float32]) -> list[Hits]:
    """The packed hits of a batch as one (ids, scores) view per query."""
    return [(ids[a:b], scores[a:b]) for a, b in pairwise(offsets.tolist())]
