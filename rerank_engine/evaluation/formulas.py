"""The formulas of `measures`, over matrices of whole numbers: all queries of a measure at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, NonFiniteError

if TYPE_CHECKING:
    from .measures import Measure

Grades = NDArray[np.integer[Any]]
Values = NDArray[np.float64]
ERR_GRADE = 4  # the highest grade; gdeval.pl's MAX_JUDGMENT


def values_of(measure: Measure, ranked: Grades, judged: Grades) -> Values:
    """float64 [queries]. ranked: relevance in rank order, [queries, retrieved]; judged: all judgments, [queries, judged]; 0 behind the end.

    Not for Judged. Raises InputError (ERR: a grade above 4), NonFiniteError (exponential gains beyond float64).
    """
    top = ranked[:, : measure.cutoff]
    if measure.name == "nDCG":
        got, ideal = _dcg(measure, top), _dcg(measure, np.sort(judged, axis=1)[:, ::-1][:, : measure.cutoff])
        share: Values = np.divide(got, ideal, out=np.zeros(len(got)), where=ideal > 0)
        return share
    if measure.name == "ERR":
        return _err(top, judged)
    if measure.name == "RBP":
        return _rbp(measure, top)
    assert measure.rel is not None, f"{measure} has a formula of its own"
    hits = top >= measure.rel
    n_hits: NDArray[np.int64] = np.count_nonzero(hits, axis=1)
    if measure.name == "Success":
        return (n_hits > 0).astype(np.float64)
    if measure.name == "P":
        assert measure.cutoff is not None  # every way to a measure saw to it
        return np.divide(n_hits, measure.cutoff, dtype=np.float64)
    if measure.name == "MRR":
        first = hits.argmax(axis=1) if hits.shape[1] else n_hits
        return np.where(n_hits > 0, 1.0 / (first + 1), 0.0)
    n_relevant: NDArray[np.int64] = np.maximum(np.count_nonzero(judged >= measure.rel, axis=1), 1)
    if measure.name == "Recall":
        return np.divide(n_hits, n_relevant, dtype=np.float64)
    query, rank = np.nonzero(hits)  # by query, then by rank: the relevant documents are few
    ordinal = np.arange(1, len(rank) + 1) - np.repeat(np.cumsum(n_hits) - n_hits, n_hits)
    precisions: Values = np.bincount(query, ordinal / (rank + 1), minlength=len(hits)) / n_relevant
    return precisions


def padded(rows: Sequence[Sequence[int] | NDArray[np.int64]]) -> NDArray[np.int64]:
    """A matrix of them, 0 behind the end of the shorter ones."""
    out = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def _dcg(measure: Measure, relevance: Grades) -> Values:
    gains = np.maximum(relevance, 0).astype(np.float64)
    if measure.gain == "exponential":
        with np.errstate(over="ignore"):
            gains = np.exp2(gains) - 1
    dcg: Values = np.sum(gains / np.log2(np.arange(2, gains.shape[1] + 2)), axis=1)
    if not np.isfinite(dcg).all():
        raise NonFiniteError(str(measure), got=f"relevance {relevance.max()}", expected="grades below 1000", hint="Use gain='linear'.")
    return dcg


def _err(relevance: Grades, judged: Grades) -> Values:
    highest = max(int(grades.max(initial=0)) for grades in (relevance, judged))
    if highest > ERR_GRADE:
        raise InputError("ERR", got=f"relevance {highest}", expected=f"grades to {ERR_GRADE}, as TREC's gdeval.pl takes them")
    stops: Values = (np.exp2(np.maximum(relevance, 0).astype(np.float64)) - 1) / 2**ERR_GRADE
    reached = np.ones_like(stops)
    np.cumprod(1 - stops[:, :-1], axis=1, out=reached[:, 1:])
    err: Values = np.sum(stops * reached / np.arange(1, stops.shape[1] + 1), axis=1)
    return err


def _rbp(measure: Measure, relevance: Grades) -> Values:
    assert measure.p is not None
    gains = np.maximum(relevance, 0) if measure.rel is None else relevance >= measure.rel
    rbp: Values = (1 - measure.p) * (gains @ measure.p ** np.arange(relevance.shape[1], dtype=np.float64))
    return rbp
