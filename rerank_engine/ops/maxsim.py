"""MaxSim, the score of late interaction (ColBERT): every query token meets its best match among a document's tokens."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import implementation
from ..cpus import resolve_threads
from ..errors import InputError
from . import checks
from .device import maxsim_on_device
from .tensors import DeviceTokens
from .tokens import PackedTokens, TokenSpans, array, batch_of, of_queries, picked, query_tokens, refuse_non_finite
from .tokens import documents as token_documents


def maxsim(
    query: Any,
    documents: Any,
    rows: Any = None,
    *,
    scales: ArrayLike | None = None,
    document_mask: ArrayLike | None = None,
    query_mask: ArrayLike | None = None,
    query_weights: ArrayLike | None = None,
    num_threads: int | None = None,
    seconds: float = math.inf,
    backend: str = "auto",
) -> Any:
    """score(d) = sum over query tokens i of weight_i * max over the tokens j of d of <query_i, token_j>

    (Khattab and Zaharia, SIGIR 2020, equation 3). The maximum starts at -inf, so negative similarities count; what is masked takes no part.
    A document without tokens scores -inf. No padding, no copy of the candidates, no matrix of similarities.

    query: float [q, dim]; or a batch, a Packed of query tokens [total, dim] or a list of arrays [q, dim].
    documents: a Packed (values float32 or float16 [total, dim], or int8 with `scales` float32 [total]); or a list of arrays
        [length, dim]; or padded [n, longest, dim] with document_mask bool [n, longest]. Any array on the CPU will do (numpy, DLPack);
        other floats and arrays that are not contiguous are converted, which copies all of them. Or DeviceTokens, on a device.
    rows: integers [m], the documents to score, in any order, twice if need be; None for all. For a batch: one such array for all queries,
        or a list with one for each.
    query_mask: bool [q], False: the token does not count. query_weights: float [q], 1 by default. Both of one query only.
    num_threads: None for what this process may use (affinity, cgroup quota); 1 starts no thread. The scores are the same bit by bit.
    seconds: how long it may take, of one query over arrays on the CPU; the score of what it did not get to then is NaN.
    Returns float32 [m]; for a batch a list of them. Products and their maxima are float32, the sum over query tokens is rounded once.
    Of DeviceTokens, tensors on their device, where the query has their type first and the sum is float32 (docs/gpu.md).
    Raises InputError and NonFiniteError (NaN or infinity in the query or a scored document, products beyond float32).
    """
    if isinstance(documents, DeviceTokens):
        if scales is not None or document_mask is not None:
            raise InputError("maxsim", got="scales or a document_mask for tokens on a device", expected="DeviceTokens, which hold them")
        run = implementation("maxsim", backend, documents.device.type)
        return maxsim_on_device(query, documents, rows, query_mask, query_weights, run)
    threads, docs = resolve_threads(num_threads), token_documents("maxsim", documents, scales, document_mask)
    run = implementation("maxsim", backend)
    if (batch := batch_of(query)) is not None:
        if query_mask is not None or query_weights is not None:
            raise InputError("maxsim", got="a mask or weights for a batch of queries", expected="a batch of the query tokens that count")
        asked = of_queries("maxsim", rows, len(batch))
        return [_one(run, q, docs, row, None, None, threads, math.inf) for q, row in zip(batch, asked)]
    return _one(run, query, docs, rows, query_mask, query_weights, threads, seconds)


def _one(
    run: Any, query: Any, store: PackedTokens | TokenSpans, rows: Any, mask: Any, weights: Any, threads: int, seconds: float
) -> NDArray[np.float32]:
    q, w = query_tokens("maxsim", query, mask, weights)
    if store.dim and q.shape[1] != store.dim:
        raise InputError("maxsim: query", got=f"dimension {q.shape[1]}", expected=f"{store.dim}, as the documents have")
    docs = store.pick(chosen := picked("maxsim", rows, len(store)))
    if not docs.lengths.any():
        return np.full(len(docs), -np.inf, np.float32)
    scores, bad = run(q, w, docs, threads, seconds)
    if bad < len(docs):
        refuse_non_finite("maxsim", docs, int(bad), chosen)
    out: NDArray[np.float32] = scores
    return out


def matches(query: Any, tokens: Any) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Where the score comes from: for each query token the document token it meets, the first of equal ones, and their similarity.

    query: float [q, dim]; tokens: float [length, dim] of one document, at least one. Returns (places int64 [q], similarities float32 [q]),
    similarities that `maxsim` adds up, but for the order of their float32 sums. Raises InputError, NonFiniteError.
    """
    q, d = (checks.floats(f"matches: {name}", array(name, given), 2) for name, given in (("query", query), ("tokens", tokens)))
    if not len(d) or q.shape[1] != d.shape[1]:
        raise InputError("matches: tokens", got=f"shape {list(d.shape)}", expected=f"[at least 1, {q.shape[1]}]")
    with np.errstate(over="ignore", invalid="ignore"):
        similarities = np.stack([d @ token for token in q]) if len(q) else np.empty((0, len(d)), np.float32)
    if not np.isfinite(similarities).all():
        raise checks.overflow("matches: products of tokens")
    places = similarities.argmax(1)
    return places, similarities[np.arange(len(q)), places]


def quantize_int8(tokens: Any) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(values int8 [total, dim], scales float32 [total]) with values * scale near tokens: scale = max |x| / 127 of each token.

    A value is off by half a scale at most. A token of zeros has scale 0. Raises InputError, NonFiniteError.
    """
    x = checks.floats("quantize_int8: tokens", array("tokens", tokens), 2)
    scales = (np.abs(x).max(1, initial=0) / np.float32(127)).astype(np.float32)
    steps = np.divide(x, scales[:, None], out=np.zeros_like(x), where=scales[:, None] > 0)
    return np.clip(np.rint(steps), -127, 127).astype(np.int8), scales


def maxsim_reference(
    query: NDArray[np.float32], weights: NDArray[np.float32], docs: TokenSpans, threads: int, seconds: float = math.inf
) -> tuple[NDArray[np.float32], int]:
    """(scores, the first document that is not finite, or how many there are)"""
    q, scores, end = query.astype(np.float64), np.full(len(docs), -np.inf, np.float32), time.monotonic() + seconds
    for i in range(len(docs)):
        if time.monotonic() >= end:
            scores[i:] = np.nan
            break
        if docs.lengths[i]:
            with np.errstate(all="ignore"):  # found below
                similarities = q @ docs.document(i).astype(np.float64).T
                score = np.float32((weights.astype(np.float64) * similarities.max(1)).sum())
                finite = np.isfinite(similarities.astype(np.float32)).all() and np.isfinite(score)
            if not finite:
                return scores, i
            scores[i] = score
    return scores, len(docs)


def maxsim_cpp(
    query: NDArray[np.float32], weights: NDArray[np.float32], docs: TokenSpans, threads: int, seconds: float = math.inf
) -> tuple[NDArray[np.float32], int]:
    from .. import _native

    if isinstance(docs.values, list):
        return _native.maxsim_list(query, weights, docs.values, threads, seconds=seconds)
    return _native.maxsim(query, weights, docs.values, docs.scales, docs.starts, docs.lengths, threads, seconds=seconds)
