"""Rank fusion: several result lists of one query into one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import implementation
from ..cpus import resolve_threads
from ..errors import InputError
from . import checks
from .topk import Hits, topk_reference

METHODS = ("rrf", "sum", "mnz")
NORMS = ("none", "min-max", "z-score")


class Explained(NamedTuple):
    """The hits of one query with what each list had to do with them.

    contributions float64 [m, L]: what list l adds to the score; they sum to it before it is rounded. places int32 [m, L]: where the
    document stands in list l from 0, -1 where it does not; its contribution is then 0.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    contributions: NDArray[np.float64]
    places: NDArray[np.int32]


def fuse(
    queries: Sequence[Sequence[Any]] | NDArray[np.integer[Any]],
    scores: ArrayLike | None = None,
    *,
    method: str = "rrf",
    k: float = 60,
    weights: Sequence[float] | None = None,
    norm: str = "none",
    top: int | None = None,
    threads: int | None = 1,
    backend: str = "auto",
) -> list[Hits]:
    """Fuses the lists of each query; every query has the same number L of lists, best first.

    rrf  score(d) = sum_l w_l / (k + rank_l(d)), ranks from 1, k = 60 (Cormack, Clarke and Buettcher, SIGIR 2009, eq. 1).
    sum  score(d) = sum_l w_l * norm_l(s_l(d)), CombSUM (Fox and Shaw, TREC-2), with norm_l over list l:
         none     s
         min-max  (s - min) / max(max - min, 1e-9)
         z-score  (s - mean) / max(standard deviation, 1e-9), population standard deviation
    mnz  the sum times the number of lists that hold d, CombMNZ (ibid.)
    A document absent from a list adds 0; one that stands twice in a list counts at its better place. Sums are float64 in the order of the
    lists, rounded once to float32; then score descending, id ascending. `sum` and `mnz` equal ranx's `wsum` and `mnz` after its norm of
    that name; so a list without spread (one document, or all scores equal) adds 0 under min-max and z-score.

    queries: for each query its lists, each a pair (ids, scores) of int64 [n] and float32 [n], or, for rrf, an array of ids alone;
      or all at once, int64 [queries, L, depth], with `scores` float32 of that shape (not needed for rrf).
    weights: [L], default 1. top: hits kept, None = all.
    Returns per query (ids int64 [m], scores float32 [m]); a query whose lists are all empty gives an empty result.
    Raises InputError (method, norm, weights, ragged L, ids and scores of different length), NonFiniteError (NaN scores, a sum beyond
    float32).
    """
    return _fuse(queries, scores, explain=False, method=method, k=k, weights=weights, norm=norm, top=top, threads=threads, backend=backend)


def fuse_explained(queries: Any, scores: ArrayLike | None = None, **options: Any) -> list[Explained]:
    """Takes what `fuse` takes, and tells with each hit which list adds what to its score."""
    return _fuse(queries, scores, explain=True, **options)


def _fuse(
    queries: Any,
    scores: ArrayLike | None,
    *,
    explain: bool,
    method: str = "rrf",
    k: float = 60,
    weights: Sequence[float] | None = None,
    norm: str = "none",
    top: int | None = None,
    threads: int | None = 1,
    backend: str = "auto",
) -> list[Any]:
    checks.one_of("fuse: method", method, METHODS)
    checks.one_of("fuse: norm", norm, NORMS)
    k = checks.finite_number("fuse: k", k, 0)
    keep = 0 if top is None else checks.count("fuse: top", top)
    stacked = isinstance(queries, np.ndarray) and queries.dtype.kind in "iu"
    if not stacked and scores is not None:
        raise InputError("fuse: scores", got="scores beside lists", expected="them in the pairs (ids, scores), or an array of ids")
    if not len(queries):
        return []
    ids, given, n_lists = _stacked(queries, scores) if stacked else _listed(queries)
    if method != "rrf" and not given:
        raise InputError("fuse: scores", got="ids alone", expected=f"scores for each of them, which '{method}' sums")
    w = [1.0] * n_lists if weights is None else [checks.finite_number("fuse: weights", x) for x in weights]
    if len(w) != n_lists:
        raise InputError("fuse: weights", got=f"{len(w)} weights", expected=f"one for each of the {n_lists} lists")
    run = implementation("fuse", backend)
    try:
        result: list[Any] = run(ids, given, np.array(w), method, norm, k, keep, resolve_threads(threads), explain)
    except OverflowError as error:
        for one in given:
            checks.all_finite("fuse: scores", one)
        raise checks.overflow("fuse: scores") from error
    return result


Lists = tuple[list[NDArray[np.int64]], list[NDArray[np.float32]], int]


def _stacked(ids: NDArray[Any], scores: ArrayLike | None) -> Lists:
    """(ids of each list, scores of each list or nothing, L) of one array [queries, L, depth]."""
    if ids.ndim != 3 or ids.shape[1] == 0:
        raise InputError("fuse: queries", got=f"ids of shape {list(ids.shape)}", expected="[queries, lists, depth] with 1 list or more")
    n_queries, n_lists, depth = ids.shape
    rows = list(checks.integers("fuse: ids", ids.reshape(-1)).reshape(n_queries * n_lists, depth))
    if scores is None:
        return rows, [], n_lists
    if np.shape(scores) != ids.shape:
        raise InputError("fuse: scores", got=f"shape {list(np.shape(scores))}", expected=f"{list(ids.shape)}, as the ids have")
    flat = checks.floats("fuse: scores", np.asarray(scores).reshape(n_queries * n_lists, depth), 2, finite=False)
    return rows, list(flat), n_lists


def _listed(queries: Sequence[Sequence[Any]]) -> Lists:
    """The same of lists of arrays, which are looked at one by one only if their dtypes must be converted."""
    n_lists = len(queries[0])
    if n_lists == 0 or any(len(lists) != n_lists for lists in queries):
        raise InputError(
            "fuse: queries", got=f"{sorted({len(q) for q in queries})} lists", expected="the same number of lists, 1 or more, for each"
        )
    every = [one for lists in queries for one in lists]
    alone = sum(isinstance(one, np.ndarray) and one.ndim == 1 for one in every)
    if alone not in (0, len(every)) or not (alone or all(len(one) == 2 for one in every)):
        raise InputError("fuse: queries", got="lists of several forms", expected="pairs (ids, scores), or arrays of ids alone, throughout")
    ids, scores = (every, []) if alone else ([one[0] for one in every], [one[1] for one in every])
    if not all(_ready(i, np.int64) for i in ids):
        ids = [checks.integers("fuse: ids", i) for i in ids]
    if not all(_ready(s, np.float32) for s in scores):
        scores = [checks.floats("fuse: scores", s, 1) for s in scores]
    for i, s in zip(ids, scores):
        if len(i) != len(s):
            raise InputError("fuse: scores", got=f"{len(s)} scores", expected=f"one for each of the {len(i)} ids")
    return ids, scores, n_lists


def _ready(array: Any, dtype: type[np.int64] | type[np.float32]) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == dtype and array.ndim == 1 and array.flags.c_contiguous and array.flags.aligned


def fuse_reference(
    ids: list[NDArray[np.int64]],
    scores: list[NDArray[np.float32]],
    weights: NDArray[np.float64],
    method: str,
    norm: str,
    k: float,
    top: int,
    threads: int,
    explain: bool,
) -> list[Any]:
    """Dictionaries and float64. List l of query q is q * L + l."""
    for given in scores:
        checks.narrow(given)
    n_lists = len(weights)
    out: list[Any] = []
    for first in range(0, len(ids), n_lists):
        terms: dict[int, dict[int, tuple[float, int]]] = {}  # document -> list -> what it adds, and its place
        for l, weight in enumerate(weights):  # noqa: E741
            docs = ids[first + l].tolist()
            with np.errstate(over="ignore", invalid="ignore"):  # refused by narrow
                if method == "rrf":
                    addends = weight / (k + 1 + np.arange(len(docs)))
                else:
                    addends = weight * _normalised(scores[first + l].astype(np.float64), norm)
            for place, (doc, addend) in enumerate(zip(docs, addends.tolist())):
                terms.setdefault(doc, {}).setdefault(l, (addend, place))
        times = {doc: len(term) if method == "mnz" else 1 for doc, term in terms.items()}
        sums = [sum(addend for addend, _ in term.values()) * times[doc] for doc, term in terms.items()]
        best, fused = topk_reference(checks.narrow(sums), np.array(list(terms), np.int64), top or len(terms))
        if explain:
            cells = [[terms[doc].get(l, (0.0, -1)) for l in range(n_lists)] for doc in best.tolist()]  # noqa: E741
            added = np.array([[addend * times[doc] for addend, _ in row] for doc, row in zip(best.tolist(), cells)])
            places = np.array([[place for _, place in row] for row in cells], np.int32)
            out.append(Explained(best, fused, added.reshape(-1, n_lists), places.reshape(-1, n_lists)))
        else:
            out.append((best, fused))
    return out


def _normalised(scores: NDArray[np.float64], norm: str) -> NDArray[np.float64]:
    if norm == "none" or not len(scores):
        return scores
    shift, scale = (scores.min(), np.ptp(scores)) if norm == "min-max" else (scores.mean(), scores.std())
    normalised: NDArray[np.float64] = (scores - shift) / max(float(scale), 1e-9)
    return normalised


def fuse_cpp(
    ids: list[NDArray[np.int64]],
    scores: list[NDArray[np.float32]],
    weights: NDArray[np.float64],
    method: str,
    norm: str,
    k: float,
    top: int,
    threads: int,
    explain: bool,
) -> list[Any]:
    from .. import _native

    if not explain:
        return unpack(*_native.fuse(ids, scores, weights, method, norm, k, top, threads))
    offsets, docs, fused, added, places = _native.fuse_explained(ids, scores, weights, method, norm, k, top, threads)
    added, places = added.reshape(-1, len(weights)), places.reshape(-1, len(weights))
    return [Explained(docs[a:b], fused[a:b], added[a:b], places[a:b]) for a, b in pairwise(offsets.tolist())]


def unpack(offsets: NDArray[np.int64], ids: NDArray[np.int64], scores: NDArray[np.float32]) -> list[Hits]:
    """The packed hits of a batch as one (ids, scores) view per query."""
    return [(ids[a:b], scores[a:b]) for a, b in pairwise(offsets.tolist())]
