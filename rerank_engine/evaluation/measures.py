"""Measures of a run against relevance judgments, equal to trec_eval's (as pytrec_eval-terrier 0.5.11 and ir_measures compute them).

A query's documents are ordered by `trec_order`. With r_i the judged relevance at rank i (unjudged: 0), i from 1 to the cutoff or the end,
h_i = [r_i >= rel], and R the number of judged documents with relevance >= rel, retrieved or not:

    nDCG    DCG / DCG of all judged documents, best first;  DCG = sum_i g(r_i) / log2(i + 1)
            g(r) = max(r, 0), or 2^max(r, 0) - 1 with gain="exponential" (Burges et al., ICML 2005)
    MRR     1 / (the first i with h_i)
    Recall  sum_i h_i / R
    P       sum_i h_i / cutoff, also where fewer were retrieved
    MAP     sum_i h_i * (h_1 + ... + h_i) / i / R;  R is not cut, so that MAP@k is trec_eval's map_cut_k

A query without any relevant document, or one that the run lacks, counts 0. Queries that only the run has are ignored.
One difference to ir_measures: its RR@k (not its RR) comes from MS MARCO's script, which breaks ties by document id ascending. Here all
measures see one order.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, NonFiniteError

Qrels = Mapping[str, Mapping[str, int]]
"""Query id -> document id -> relevance."""
Run = Mapping[str, Mapping[str, float]]
"""Query id -> document id -> score, higher is better."""

GAINS = ("linear", "exponential")
_NAMES = {"ndcg": "nDCG", "mrr": "MRR", "rr": "MRR", "recall": "Recall", "r": "Recall", "p": "P", "map": "MAP", "ap": "MAP"}
_KNOWN = "nDCG, MRR (RR), Recall (R), P or MAP (AP)"
_FORM = re.compile(
    r"""\s*(?P<name>\w+)\s*(\(\s*(?P<key>\w+)\s*=\s*['"]?(?P<value>-?\w+)['"]?\s*\))?\s*(@\s*(?P<cutoff>-?[0-9]{1,9}))?\s*"""
)


def _positive(what: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise InputError(what, got=repr(value), expected="an integer of at least 1")
    return number


@dataclass(frozen=True)
class Measure:
    """One measure: `nDCG @ 10`, `MAP`, `Recall(rel=2) @ 100`, `nDCG(gain="exponential") @ 10`. `str()` gives what `parse_measure` reads.

    cutoff: ranks that count, None = all (Recall and P need one). rel: the least relevance of a relevant document, 1 or more as in
    trec_eval; not for nDCG. gain: "linear" or "exponential"; only for nDCG. Raises InputError for any other value.
    """

    name: str
    cutoff: int | None = None
    rel: int = 1
    gain: str = "linear"

    def __post_init__(self) -> None:
        if self.name not in _NAMES.values():
            raise InputError("measure", got=self.name, expected=_KNOWN)
        if self.cutoff is not None:
            object.__setattr__(self, "cutoff", _positive(f"{self.name}: cutoff", self.cutoff))
        object.__setattr__(self, "rel", _positive(f"{self.name}: rel", self.rel))
        if self.gain not in GAINS:
            raise InputError(f"{self.name}: gain", got=self.gain, expected="one of " + ", ".join(GAINS))
        if self.name == "nDCG" and self.rel != 1:
            raise InputError("nDCG: rel", got=self.rel, expected="no rel", hint="Leave it out: every grade counts.")
        if self.name != "nDCG" and self.gain != "linear":
            raise InputError(f"{self.name}: gain", got=self.gain, expected="no gain", hint="Leave it out, or ask for nDCG.")

    def __call__(self, *, rel: int | None = None, gain: str | None = None) -> Measure:
        return replace(self, rel=self.rel if rel is None else rel, gain=self.gain if gain is None else gain)

    def __matmul__(self, cutoff: int) -> Measure:
        return replace(self, cutoff=_positive(f"{self.name}: cutoff", cutoff))

    def __str__(self) -> str:
        rel = f"(rel={self.rel})" if self.rel != 1 else ""
        gain = f"(gain={self.gain!r})" if self.gain != "linear" else ""
        cutoff = f"@{self.cutoff}" if self.cutoff is not None else ""
        return self.name + rel + gain + cutoff


nDCG = Measure("nDCG")
MRR = Measure("MRR")
Recall = R = Measure("Recall")
P = Measure("P")
MAP = AP = Measure("MAP")


def parse_measure(text: str) -> Measure:
    """The measure that a text such as "nDCG@10", "RR", "ap@100" or "R(rel=2)@100" names; upper and lower case are the same in names."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise InputError("measure", got=text, expected="a form such as nDCG@10, MRR, Recall(rel=2)@100 or nDCG(gain='exponential')@10")
    name, key, value, cutoff = match.group("name", "key", "value", "cutoff")
    if name.lower() not in _NAMES:
        raise InputError("unknown measure", got=text, expected=_KNOWN)
    measure = Measure(_NAMES[name.lower()], int(cutoff) if cutoff else None)
    if key == "gain":
        measure = measure(gain=value)
    elif key == "rel":
        if not re.fullmatch("-?[0-9]{1,9}", value):
            raise InputError(f"measure {text}: rel", got=value, expected="an integer of at least 1")
        measure = measure(rel=int(value))
    elif key is not None:
        raise InputError(f"measure {text}", got=f"the parameter {key!r}", expected="rel (MRR, Recall, P, MAP) or gain (nDCG)")
    return _complete(measure)


def evaluate(qrels: Qrels, run: Run, measures: Sequence[Measure | str]) -> dict[str, float]:
    """The mean of each measure over the queries of `qrels`, keyed by `str(measure)`: a text stays the key that it was given as.

    Raises as `evaluate_queries` does.
    """
    return {name: math.fsum(values.values()) / len(values) for name, values in evaluate_queries(qrels, run, measures).items()}


def evaluate_queries(qrels: Qrels, run: Run, measures: Sequence[Measure | str]) -> dict[str, dict[str, float]]:
    """Measure -> query -> value, for every query of `qrels` in its order; keys as in `evaluate`.

    Raises InputError (no qrels, unknown measure, ids that are not str, relevance or scores that are not numbers) and NonFiniteError (a NaN
    or infinite score of a query in `qrels`).
    """
    chosen = _chosen(measures)
    if not qrels:
        raise InputError("qrels", got="no queries", expected="judgments of at least one query, since the result is a mean over them")
    values: dict[str, dict[str, float]] = {name: {} for name in chosen}
    queries = list(qrels)
    for start in range(0, len(queries), 256):  # at once, but not so many that the zeros behind short lists fill the memory
        part = queries[start : start + 256]
        judged = [_numbers(f"qrels: the relevances of query {query!r}", qrels[query].values(), np.int64) for query in part]
        ranked = [[qrels[query].get(document, 0) for document in trec_order(query, run.get(query, {}))] for query in part]
        gains, pool = _padded(ranked), _padded(judged)
        for name, measure in chosen.items():
            values[name].update(zip(part, _values(measure, gains, pool).tolist()))
    return values


def _padded(rows: Sequence[Sequence[int] | NDArray[np.int64]]) -> NDArray[np.int64]:
    out = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def trec_order(query: str, scores: Mapping[str, float]) -> list[str]:
    """Document ids, best first, as trec_eval orders them: score descending compared as float32, then document id descending.

    trec_eval 9 and pytrec_eval hold scores as float32, so those that differ only beyond it tie (trec_eval 10 went over to float64). Ids
    compare as C's strcmp compares their UTF-8 bytes, which is how Python compares str: UTF-8 keeps the order of code points.
    `query` is for messages only. Raises InputError and NonFiniteError.
    """
    if not all(isinstance(document, str) for document in scores):
        wrong = next(document for document in scores if not isinstance(document, str))
        raise InputError(f"run: document id of query {query!r}", got=repr(wrong), expected="str", hint="Convert the ids with str().")
    documents = sorted(scores, reverse=True)
    exact = _numbers(f"run: the scores of query {query!r}", [scores[document] for document in documents], np.float64)
    if not np.isfinite(exact).all():
        bad = documents[int(np.flatnonzero(~np.isfinite(exact))[0])]
        raise NonFiniteError(f"run: score of document {bad!r} for query {query!r}", got=scores[bad], expected="a finite number")
    with np.errstate(over="ignore"):
        compared = exact.astype(np.float32)
    return [documents[i] for i in np.argsort(-compared, kind="stable")]


def evaluate_gains(gains: ArrayLike, judged: ArrayLike, measures: Sequence[Measure | str]) -> dict[str, NDArray[np.float64]]:
    """Measure -> value of each query, float64 [queries], from matrices that are ready: no ids, no dictionaries, no sorting of runs.

    gains: integers [queries, depth], the judged relevance of what was retrieved, best first; 0 for what is unjudged, and behind the end
    of a shorter list. judged: integers [queries, judgments], all relevances judged for the query, retrieved or not, in any order; 0 behind
    the end. Keys as in `evaluate`, which gives the same values. Raises InputError (not integers, not matrices, numbers of queries that
    differ, unknown measure), NonFiniteError (exponential gains beyond float64).
    """
    chosen = _chosen(measures)
    ranked, pool = (_matrix(name, array) for name, array in (("gains", gains), ("judged", judged)))
    if len(ranked) != len(pool):
        raise InputError("evaluate_gains: judged", got=f"{len(pool)} queries", expected=f"{len(ranked)}, as gains have")
    return {name: _values(measure, ranked, pool) for name, measure in chosen.items()}


def _chosen(measures: Sequence[Measure | str]) -> dict[str, Measure]:
    if isinstance(measures, (str, Measure)):
        raise InputError("measures", got=str(measures), expected="a list of measures", hint=f"Write [{str(measures)!r}].")
    return {str(measure): _complete(parse_measure(measure) if isinstance(measure, str) else measure) for measure in measures}


def _matrix(name: str, array: ArrayLike) -> NDArray[np.integer[Any]]:
    matrix = np.asarray(array)
    if matrix.ndim != 2 or matrix.dtype.kind not in "iu":
        raise InputError(f"evaluate_gains: {name}", got=f"{matrix.dtype} {list(matrix.shape)}", expected="integers [queries, n]")
    return matrix


def _values(measure: Measure, ranked: NDArray[np.integer[Any]], judged: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """The values of all queries. ranked: relevance in rank order, [queries, retrieved]; judged: all judgments, [queries, judged]."""
    if measure.name == "nDCG":
        got, ideal = _dcg(measure, ranked), _dcg(measure, np.sort(judged, axis=1)[:, ::-1])
        share: NDArray[np.float64] = np.divide(got, ideal, out=np.zeros(len(got)), where=ideal > 0)
        return share
    hits = ranked[:, : measure.cutoff] >= measure.rel
    n_hits: NDArray[np.int64] = np.count_nonzero(hits, axis=1)
    if measure.name == "P":
        assert measure.cutoff is not None  # _complete saw to it
        return np.divide(n_hits, measure.cutoff, dtype=np.float64)
    if measure.name == "MRR":
        first = hits.argmax(axis=1) if hits.shape[1] else n_hits
        return np.where(n_hits > 0, 1.0 / (first + 1), 0.0)
    n_relevant: NDArray[np.int64] = np.maximum(np.count_nonzero(judged >= measure.rel, axis=1), 1)
    if measure.name == "Recall":
        return np.divide(n_hits, n_relevant, dtype=np.float64)
    query, rank = np.nonzero(hits)  # by query, then by rank: the relevant documents are few
    ordinal = np.arange(1, len(rank) + 1) - np.repeat(np.cumsum(n_hits) - n_hits, n_hits)
    precisions: NDArray[np.float64] = np.bincount(query, ordinal / (rank + 1), minlength=len(hits)) / n_relevant
    return precisions


def _dcg(measure: Measure, relevance: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    gains = np.maximum(relevance[:, : measure.cutoff], 0).astype(np.float64)
    if measure.gain == "exponential":
        with np.errstate(over="ignore"):
            gains = np.exp2(gains) - 1
    dcg: NDArray[np.float64] = np.sum(gains / np.log2(np.arange(2, gains.shape[1] + 2)), axis=1)
    if not np.isfinite(dcg).all():
        raise NonFiniteError(str(measure), got=f"relevance {relevance.max()}", expected="grades below 1000", hint="Use gain='linear'.")
    return dcg


def _complete(measure: Measure) -> Measure:
    if measure.cutoff is None and measure.name in ("Recall", "P"):
        raise InputError(f"measure {measure}", got="no cutoff", expected=f"one, such as {measure}@10")
    return measure


def _numbers(what: str, values: Iterable[Any], dtype: type[np.int64] | type[np.float64]) -> NDArray[Any]:
    """`values` as `dtype`, refused where numpy would have to read text, cut a fraction off or turn None into NaN."""
    array = np.array(list(values))
    if array.size and not np.can_cast(array.dtype, dtype):
        raise InputError(what, got=f"{array.dtype} values", expected="integers" if dtype is np.int64 else "numbers")
    return array.astype(dtype)
