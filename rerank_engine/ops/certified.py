"""The k best documents of a list by MaxSim, certified: the same as if every document had been scored, for less work."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..cpus import resolve_threads
from ..errors import InputError
from ..limits import Limits
from ..packed import Packed
from . import checks
from .residual import residual_maxsim, residual_maxsim_explained
from .tokens import PackedTokens, documents, picked, query_tokens, ranges, refuse_non_finite
from .topk import topk

_SLICE = 16  # query tokens that are scored before documents are dropped
_SAMPLE = 8  # one document of so many tells whether any would be
_WORTH = 0.75  # the share of the sample that the bound must leave alive at most


@dataclass(frozen=True, slots=True, eq=False)
class CertifiedTop:
    """rows int64 [m], scores float32 [m]: bit for bit the first of all documents scored. certified: documents were dropped, and none
    of them can be among these, by a bound on its score that holds whatever its tokens are; False: all were scored in full.

    reached: where time was up before that was so, how many documents were scored in full; rows and scores are then all of these.
    work_saved: the share of products of a query token with a document token that were never computed. approximated: tokens that were scored
    by tables of their codes instead, which costs a fraction of a product.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    certified: bool
    work_saved: float
    approximated: int
    reached: int | None = None

    @property
    def facts(self) -> dict[str, Any]:
        return {"certified": self.certified, "work_saved": round(self.work_saved, 4), "approximated_tokens": self.approximated}


def token_norms(tokens: Any, scales: ArrayLike | None = None) -> NDArray[np.float32]:
    """float32 [n]: the length of the longest token of each document, or a little more; what `certified_top` bounds their scores by.

    tokens: a Packed, of int8 with scales. Raises InputError.
    """
    given = documents("token_norms", tokens, scales, None)
    if not isinstance(given, PackedTokens):
        raise InputError("token_norms: tokens", got=type(tokens).__name__, expected="a Packed")
    out, spans = np.zeros(len(given), np.float32), given.pick(None)
    for i in np.flatnonzero(spans.lengths).tolist():
        decoded = spans.document(i)
        longest = np.sqrt(np.einsum("td,td->t", decoded, decoded, dtype=np.float64).max())
        out[i] = np.nextafter(np.float32(longest * (1 + 2**-10)), np.float32(np.inf))  # for the rounding of products, int8's among them
    return out


def certified_top(
    query: Any,
    tokens: Any,
    k: int,
    rows: ArrayLike | None = None,
    *,
    norms: ArrayLike | None = None,
    scales: ArrayLike | None = None,
    query_mask: ArrayLike | None = None,
    query_weights: ArrayLike | None = None,
    num_threads: int | None = None,
    seconds: float = math.inf,
) -> CertifiedTop:
    """The k best of the rows by `maxsim`, or by `residual_maxsim` at float32, ties by row; a row counts once.

    Residual codes are scored by tables, whose error has a bound e: only documents with score + e >= the k-th best exact score are decoded.
    Other tokens are scored by 16 query tokens at a time; what the rest can add is at most sum over it of |weight_i| |q_i| * norm, by
    Cauchy and Schwarz; a document is dropped once that cannot lift it to the k-th best. Where a sample of the rows says that this would
    drop few, for fewer than 8 k rows, and for at most 16 query tokens, all are scored in one go. Both compare with room for the rounding
    of float32 sums.

    query float [q, dim]; tokens: a Packed (int8 with scales) or ResidualTokens. norms: what `token_norms` returned, one a document of
    tokens; computed for the rows where it is not given, which costs about as much as it saves. seconds: how long it may take. Raises
    InputError, NonFiniteError.
    """
    from ..codec import ResidualTokens  # which needs this package

    k = checks.count("certified_top: k", k)
    q, w = query_tokens("certified_top", query, query_mask, query_weights)
    store = tokens if isinstance(tokens, ResidualTokens) else documents("certified_top", tokens, scales, None)
    if not isinstance(store, (ResidualTokens, PackedTokens)):
        raise InputError("certified_top: tokens", got=type(tokens).__name__, expected="a Packed or ResidualTokens")
    dim = store.codec.dim if isinstance(store, ResidualTokens) else store.dim
    if len(store) and q.shape[1] != dim:
        raise InputError("certified_top: query", got=f"dimension {q.shape[1]}", expected=f"{dim}, as the documents have")
    until, asked = Limits(time.monotonic() + seconds), picked("certified_top", rows, len(store))
    chosen = np.arange(len(store)) if asked is None else np.unique(asked)
    lengths = ranges(store.offsets, chosen)[1]
    chosen, lengths = chosen[lengths > 0], lengths[lengths > 0]
    if isinstance(store, ResidualTokens):
        return _of_codes(q, w, store, chosen, lengths, k, num_threads, until)
    if norms is None:
        spans = store.pick(chosen)
        if isinstance(spans.values, list):
            raise InputError("certified_top: tokens", got="a list", expected="a Packed")
        parts = Packed.from_rows([spans.document(i) for i in range(len(spans))]) if len(spans) else Packed.from_rows([], np.float32)
        longest = token_norms(parts) if len(spans) else np.empty(0, np.float32)
    else:
        given = checks.floats("certified_top: norms", norms, 1)
        if len(given) != len(store) or (given < 0).any():
            raise InputError("certified_top: norms", got=f"{len(given)} norms", expected=f"{len(store)}, one a document, of at least 0")
        longest = given[chosen]
    return _of_vectors(q, w, store, chosen, lengths, longest, k, num_threads, until)


def _of_codes(q: Any, w: Any, store: Any, rows: Any, lengths: Any, k: int, threads: int | None, until: Limits) -> CertifiedTop:
    options = {"query_weights": w, "num_threads": threads}
    near = residual_maxsim_explained(q, store, rows, precision="int16", seconds=until.left(), **options)
    total, decoded = int(lengths.sum()), near.path == "decode"
    if decoded or len(rows) <= k:
        scores = near.scores if decoded else residual_maxsim(q, store, rows, precision="float32", seconds=until.left(), **options)
        if np.isnan(scores).any():
            return _cut_short(rows, scores)
        return CertifiedTop(*topk(scores, k, ids=rows), False, 0.0, 0 if decoded else total)
    if np.isnan(near.scores).any():
        return _cut_short(rows[:0], near.scores[:0])
    low, high = near.scores.astype(np.float64) - near.bounds, near.scores.astype(np.float64) + near.bounds
    low[~np.isfinite(low)] = -np.inf  # a bound that is no number bounds nothing
    left = np.flatnonzero(~(high < np.partition(low, len(low) - k)[len(low) - k]))
    scores = residual_maxsim(q, store, rows[left], precision="float32", seconds=until.left(), **options)
    if np.isnan(scores).any():
        return _cut_short(rows[left], scores)
    return CertifiedTop(*topk(scores, k, ids=rows[left]), True, 1 - float(lengths[left].sum()) / max(total, 1), total)


def _cut_short(rows: NDArray[np.int64], scores: NDArray[np.float32]) -> CertifiedTop:
    """Of rows of which some have scores, and NaN those that time did not allow."""
    there = ~np.isnan(scores)
    return CertifiedTop(*topk(scores[there], max(len(rows), 1), ids=rows[there]), False, 0.0, 0, int(there.sum()))


def _of_vectors(
    q: Any, w: Any, store: Any, rows: Any, lengths: Any, norms: Any, k: int, threads: int | None, until: Limits
) -> CertifiedTop:
    from .. import _native

    products, totals, n, late = 0, np.zeros(len(rows)), len(q), False

    def add(first: int, stop: int, places: Any) -> None:
        """The maxima of the query tokens from first to stop, on top of what `totals` has of those before; NaN where time was up."""
        nonlocal products, late
        spans = store.pick(rows[places])
        part = q[first:stop], w[first:stop], spans.values, spans.scales, spans.starts, spans.lengths
        totals[places], bad = _native.maxsim_more(*part, totals[places], resolve_threads(threads), until.left())
        if bad < len(places):
            refuse_non_finite("certified_top", spans, int(bad), rows[places])
        products += (stop - first) * int(lengths[places].sum())
        late = late or bool(np.isnan(totals[places]).any())

    most = np.abs(w.astype(np.float64)) * np.sqrt((q.astype(np.float64) ** 2).sum(1))  # what a query token adds to a document of norm 1
    room = (q.shape[1] + 32) * 2.0**-23 * most.sum() * norms  # float32 sums, of what is compared and of what it is compared with

    def hopeful(places: Any, before: Any, scored: int, whole: Any) -> NDArray[np.bool_]:
        """Which may reach the k-th best of those scored in full, by their totals of the first `scored` query tokens."""
        reached = np.partition(totals[whole], len(whole) - k)[len(whole) - k]
        return np.asarray(before + most[scored:].sum() * norms[places] + room[places] >= reached)

    # Documents scored in full, and the others. A sample tells first whether the bound would drop any: two passes cost more than one.
    whole = np.arange(0, len(rows), _SAMPLE) if len(rows) >= _SAMPLE * k and n > _SLICE else np.arange(len(rows))
    alive = np.setdiff1d(np.arange(len(rows)), whole)
    step = max(n, 1)
    if len(alive):
        add(0, _SLICE, whole)
        half = totals[whole]
        add(_SLICE, n, whole)
        step = _SLICE if hopeful(whole, half, _SLICE, whole).mean() < _WORTH else n
    else:
        add(0, n, whole)
    for first in range(0, n if len(alive) else 0, step):
        stop = min(first + step, n)
        alive = alive[:0] if late else alive  # time is up: none of them is scored in full
        add(first, stop, alive)
        if stop < n and not late:
            best = alive[np.argpartition(-totals[alive], k - 1)[:k]] if len(alive) > k else alive
            add(stop, n, best)
            alive, whole = np.setdiff1d(alive, best), np.concatenate([whole, best])
            alive = alive[hopeful(alive, totals[alive], stop, whole)]
    whole = np.sort(np.concatenate([whole, alive]))
    with np.errstate(over="ignore"):
        scores = totals[whole].astype(np.float32)
    if late:
        return _cut_short(rows[whole], scores)
    if not np.isfinite(scores).all():
        raise checks.overflow("certified_top: sums over query tokens")
    saved = 1 - products / total if (total := n * int(lengths.sum())) else 0.0
    return CertifiedTop(*topk(scores, k, ids=rows[whole]), len(whole) < len(rows), saved, 0)
