"""The one table of numeric tolerances, and the two comparisons that read it. No test holds a tolerance of its own.

Policy: the error against the float64 reference is at most twice the error of the naive computation in the same dtype, plus a tiny absolute
term. The naive computation is the plain loop in that dtype; its error is a fact about the op and its sizes, so the table states twice that
error, relative to the largest intermediate value (`scale`: a sum whose terms cancel cannot be better than its terms). tests/ops measures
the naive error of mmr and inner and fails when its entry is not about twice of it.

    topk   scores are copied: exact
    fuse   sums in float64, rounded once to float32: half a unit in the last place, twice
    bm25   as fuse; down to the smallest weights that float32 has
    centroid  as fuse
    mmr    a float32 dot product of up to 384 terms, summed in one go
    inner  as mmr, of vectors of length 1 (`scale`: the product of their lengths)
    maxsim, per query token of length 1 and document tokens of length 1 (`scale`: the sum of the query tokens' lengths times the longest
           document token): a float32 dot product of up to 384 terms; float16 and int8 hold what they hold, the products are the same, but
           for int8 products of 15-bit queries. residual: the same after decoding; sums of int16 and of bytes by the issue's own bounds

Order: equal, unless the scores concerned tie within the tolerance of their op.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

HALF_ULP = 2.0**-24  # of float32, relative


@dataclass(frozen=True)
class Tolerance:
    relative: float
    absolute: float


TABLE: dict[tuple[str, str], Tolerance] = {
    ("topk", "float32"): Tolerance(0.0, 0.0),
    ("fuse", "float32"): Tolerance(2 * HALF_ULP, 1e-30),
    ("bm25", "float32"): Tolerance(2 * HALF_ULP, 2e-45),
    ("mmr", "float32"): Tolerance(2 * 4 * HALF_ULP, 1e-30),
    ("inner", "float32"): Tolerance(2 * 1.5 * HALF_ULP, 1e-30),
    ("maxsim", "float32"): Tolerance(2 * 4 * HALF_ULP, 1e-30),
    ("maxsim", "int8"): Tolerance(3e-4, 1e-30),
    ("centroid", "float32"): Tolerance(2 * HALF_ULP, 1e-30),
    ("residual", "float32"): Tolerance(2 * 8 * HALF_ULP, 1e-30),
    ("residual", "int16"): Tolerance(0.0, 2e-3),
    ("residual", "uint8"): Tolerance(0.0, 2e-2),
}


def allowed(op: str, want: Any, scale: float = 0.0, dtype: Any = np.float32) -> np.ndarray:
    """float64, shape of `want`: how far each value may be off."""
    tolerance = TABLE[op, np.dtype(dtype).name]
    return tolerance.relative * np.maximum(np.abs(np.asarray(want, np.float64)), scale) + tolerance.absolute


def assert_close(op: str, got: Any, want: Any, scale: float = 0.0) -> None:
    """`got` (in the op's output dtype) is finite and within the tolerance of `want` (the float64 reference)."""
    got, want = np.asarray(got), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"{op}: shape {got.shape}, expected {want.shape}"
    assert np.isfinite(got).all(), f"{op}: non-finite values"
    error = np.abs(got.astype(np.float64) - want)
    over = error > allowed(op, want, scale, got.dtype)
    assert not over.any(), f"{op}: off by up to {error[over].max():g}: got {got[over][:5]}, expected {want[over][:5]}"


def assert_same_order(got_ids: Any, got_scores: Any, want_ids: Any, want_scores: Any, op: str, scale: float = 0.0) -> None:
    """One ranking against the reference's: same scores place by place, and an id may stand elsewhere only among ties within tolerance.

    `want` may be longer than `got` (the reference uncut): then an id at the cut may be any of those that tie there.
    """
    got_ids, got_scores = np.asarray(got_ids), np.asarray(got_scores)
    n = len(got_ids)
    assert len(got_scores) == n <= len(want_ids), f"{op}: {n} results, expected up to {len(want_ids)}"
    want = np.asarray(want_scores, np.float64)
    assert_close(op, got_scores, want[:n], scale)
    fall = np.diff(got_scores.astype(np.float64))
    ties_rise = np.array([a <= b for a, b in zip(got_ids.tolist(), got_ids[1:].tolist())], bool)
    assert ((fall < 0) | ((fall == 0) & ties_rise)).all(), f"{op}: not in score descending, id ascending order"
    left: dict[int, list[float]] = defaultdict(list)
    for doc, score in zip(np.asarray(want_ids).tolist(), want.tolist()):
        left[doc].append(score)
    for place, doc in enumerate(got_ids.tolist()):
        if not left[doc] and len(want) == n:  # both are cut: it may tie with the last one
            assert_close(op, got_scores[place], want[-1], scale)
        else:
            assert left[doc], f"{op}: id {doc} at place {place} is not expected, or not so often"
            near = min(left[doc], key=lambda score: abs(score - float(got_scores[place])))
            left[doc].remove(near)
            assert_close(op, got_scores[place], near, scale)
