"""What the scoring kernels share: documents by row, tiles of a query, maxima that keep NaN, and the sum over query tokens.

A pick is a row to score, with its query. Row -1 is padding and scores -inf, as a document without tokens does. Any other row that does not
exist scores NaN, and so does a NaN in a query or a document: nothing is checked on the host, and nothing is read out of bounds.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def span(offsets_ptr, row, n_documents):
    """(first token int64, number of tokens int32) of a document, which has fewer than 2^31 values; none where there is no such row"""
    known = (row >= 0) & (row < n_documents)
    lo = tl.load(offsets_ptr + row, mask=known, other=0)
    return lo, (tl.load(offsets_ptr + row + 1, mask=known, other=0) - lo).to(tl.int32)


@triton.jit
def of_nothing(row, n_documents):
    """What a pick without tokens scores."""
    return tl.where((row >= -1) & (row < n_documents), float("-inf"), float("nan"))


@triton.jit
def query_tile(ptr, n, stride, cols, DIM: tl.constexpr, BQ: tl.constexpr, TALL: tl.constexpr):
    """The first BQ query tokens, 0 behind the n-th and behind the last column: [cols, BQ] if TALL, else [BQ, cols]."""
    i = tl.arange(0, BQ)
    if TALL:
        return tl.load(ptr + i[None, :] * stride + cols[:, None], mask=(i[None, :] < n) & (cols[:, None] < DIM), other=0)
    else:
        return tl.load(ptr + i[:, None] * stride + cols[None, :], mask=(i[:, None] < n) & (cols[None, :] < DIM), other=0)


@triton.jit
def token_tile(ptr, row, cols, DIM: tl.constexpr, MASKED: tl.constexpr):
    if MASKED:
        return tl.load(ptr + row[:, None] * DIM + cols[None, :], mask=cols[None, :] < DIM, other=0)
    else:
        return tl.load(ptr + row[:, None] * DIM + cols[None, :])


@triton.jit
def reduced(m, AXIS: tl.constexpr):
    """The maximum along an axis, NaN if there is one."""
    bad = tl.max((m != m).to(tl.int32), AXIS)
    return tl.where(bad > 0, float("nan"), tl.max(m, AXIS))


@triton.jit
def weighed(best, weights_ptr, at, n, BQ: tl.constexpr, WEIGHTED: tl.constexpr):
    """The sum over the query tokens from `at` on, n of them at most; a token of weight 0 takes no part, whatever it is."""
    i = tl.arange(0, BQ)
    if WEIGHTED:
        w = tl.load(weights_ptr + at + i, mask=i < n, other=0)
        return tl.sum(tl.where(w != 0, best, 0.0) * w)  # 0 * -inf would be NaN
    else:
        return tl.sum(tl.where(i < n, best, 0.0))


@triton.jit
def query_span(q_offsets_ptr, pairs_ptr, pick, n_query, PAIRS: tl.constexpr):
    """(first token, number of tokens) of a pick's query"""
    if PAIRS:
        query = tl.load(pairs_ptr + pick).to(tl.int64)
        q_lo = tl.load(q_offsets_ptr + query)
        return q_lo, (tl.load(q_offsets_ptr + query + 1) - q_lo).to(tl.int32)
    else:
        return tl.zeros([], tl.int64), n_query
