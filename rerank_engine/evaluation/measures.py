"""Measures of a run against relevance judgments, equal to trec_eval's (as pytrec_eval-terrier 0.5.11 and ir_measures compute them).

A query's documents are ordered by `trec_order`. With r_i the judged relevance at rank i (unjudged: 0), i from 1 to the cutoff or the end,
h_i = [r_i >= rel], and R the number of judged documents with relevance >= rel, retrieved or not:

    nDCG     DCG / DCG of all judged documents, best first;  DCG = sum_i g(r_i) / log2(i + 1)
             g(r) = max(r, 0), or 2^max(r, 0) - 1 with gain="exponential" (Burges et al., ICML 2005)
    MRR      1 / (the first i with h_i)
    Recall   sum_i h_i / R
    P        sum_i h_i / cutoff, also where fewer were retrieved
    MAP      sum_i h_i * (h_1 + ... + h_i) / i / R;  R is not cut, so that MAP@k is trec_eval's map_cut_k
    Success  1 if any h_i, else 0
    Judged   the share of the documents at ranks 1 to cutoff, or to the end where that comes first, that were judged at all
    RBP      (1 - p) * sum_i p^(i - 1) * h_i with rel; without it max(r_i, 0) stands for h_i, so that grades above 1 can exceed 1.
             p = 0.8 by default (Moffat & Zobel, TOIS 2008)
    ERR      sum_i s_i / i * (1 - s_1) * ... * (1 - s_(i-1)), with s_i = (2^max(r_i, 0) - 1) / 2^4: grades to 4, as in gdeval.pl, which is
             TREC's (Chapelle et al., CIKM 2009)

A query without any relevant document, or one that the run lacks, counts 0. Queries that only the run has are ignored.
Differences to ir_measures: its RR@k (not its RR) comes from MS MARCO's script and its Judged is its own, and both break ties by document id
ascending; its RBP without rel shares the weight of tied ranks out. Here all measures see one order. gdeval prints five decimals.
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
from ..ops.checks import finite_number
from .formulas import padded, values_of

Qrels = Mapping[str, Mapping[str, int]]
"""Query id -> document id -> relevance."""
Run = Mapping[str, Mapping[str, float]]
"""Query id -> document id -> score, higher is better."""

GAINS = ("linear", "exponential")
_TAKES = {
    "nDCG": ("gain",),
    "MRR": ("rel",),
    "Recall": ("rel",),
    "P": ("rel",),
    "MAP": ("rel",),
    "Success": ("rel",),
    "Judged": (),
    "RBP": ("p", "rel"),
    "ERR": (),
}
_NAMES = {name.lower(): name for name in _TAKES} | {"rr": "MRR", "r": "Recall", "ap": "MAP"}
_KNOWN = "nDCG, MRR (RR), Recall (R), P, MAP (AP), Success, Judged, RBP or ERR"
_NEED_CUTOFF = ("Recall", "P", "Success")
_DCG = {"log2": "linear", "exp-log2": "exponential"}  # how ir_measures spells the gains
_FORM = re.compile(r"\s*(?P<name>\w+)\s*(\((?P<parameters>[^()]*)\))?\s*(@\s*(?P<cutoff>-?[0-9]{1,9}))?\s*")
_PARAMETER = re.compile(r"""\s*(?P<key>\w+)\s*=\s*['"]?(?P<value>[-.\w]+)['"]?\s*""")


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
    """One measure: `nDCG @ 10`, `MAP`, `Recall(rel=2) @ 100`, `RBP(p=0.9)`. `str()` gives what `parse_measure` reads.

    cutoff: ranks that count, None = all (Recall, P and Success need one). rel: the least relevance of a relevant document, 1 or more as in
    trec_eval, 1 by default; RBP's is None by default, and grades then count as they are. gain: nDCG's, "linear" (default) or "exponential".
    p: RBP's persistence, above 0 and below 1, 0.8 by default. Raises InputError for any other value, and for what a measure does not take.
    """

    name: str
    cutoff: int | None = None
    rel: int | None = None
    gain: str | None = None
    p: float | None = None

    def __post_init__(self) -> None:
        if self.name not in _TAKES:
            raise InputError("measure", got=self.name, expected=_KNOWN)
        takes, put = _TAKES[self.name], object.__setattr__
        for key in ("rel", "gain", "p"):
            if getattr(self, key) is not None and key not in takes:
                expected = " or ".join(takes) or "no parameter"
                raise InputError(f"{self.name}: {key}", got=getattr(self, key), expected=expected, hint=f"Leave {key} out.")
        if self.cutoff is not None:
            put(self, "cutoff", _positive(f"{self.name}: cutoff", self.cutoff))
        if self.rel is not None:
            put(self, "rel", _positive(f"{self.name}: rel", self.rel))
        if self.gain is not None and self.gain not in GAINS:
            raise InputError(f"{self.name}: gain", got=self.gain, expected="one of " + ", ".join(GAINS))
        if self.p is not None:
            put(self, "p", finite_number(f"{self.name}: p", self.p, 0.0, 1.0))
            if self.p in (0.0, 1.0):
                raise InputError(f"{self.name}: p", got=self.p, expected="a number between 0 and 1, without them")
        for key, default in (("rel", 1), ("gain", "linear"), ("p", 0.8)):  # a default that is spelled out is the same measure
            if key in takes and getattr(self, key) is None and (self.name, key) != ("RBP", "rel"):
                put(self, key, default)

    def __call__(self, *, rel: int | None = None, gain: str | None = None, p: float | None = None) -> Measure:
        given = {key: value for key, value in (("rel", rel), ("gain", gain), ("p", p)) if value is not None}
        return replace(self, **given)  # type: ignore[arg-type]

    def __matmul__(self, cutoff: int) -> Measure:
        return replace(self, cutoff=_positive(f"{self.name}: cutoff", cutoff))

    def __str__(self) -> str:
        plain = Measure(self.name)
        differ = [f"{key}={getattr(self, key)!r}" for key in _TAKES[self.name] if getattr(self, key) != getattr(plain, key)]
        cutoff = f"@{self.cutoff}" if self.cutoff is not None else ""
        return self.name + (f"({','.join(differ)})" if differ else "") + cutoff


nDCG = Measure("nDCG")
MRR = RR = Measure("MRR")
Recall = R = Measure("Recall")
P = Measure("P")
MAP = AP = Measure("MAP")
Success = Measure("Success")
Judged = Measure("Judged")
RBP = Measure("RBP")
ERR = Measure("ERR")


def parse_measure(text: str) -> Measure:
    """The measure that a text such as "nDCG@10", "RR", "ap@100", "R(rel=2)@100" or "RBP(p=0.9,rel=2)" names; names in any letter case.

    ir_measures' own spelling is read too: nDCG(dcg='exp-log2') is nDCG(gain='exponential'). Raises InputError.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise InputError("measure", got=text, expected="a form such as nDCG@10, MRR, Recall(rel=2)@100 or nDCG(gain='exponential')@10")
    name, parameters, cutoff = match.group("name", "parameters", "cutoff")
    if name.lower() not in _NAMES:
        raise InputError("unknown measure", got=text, expected=_KNOWN)
    name = _NAMES[name.lower()]
    return _complete(Measure(name, int(cutoff) if cutoff else None, **_parameters(text, parameters)))


def _parameters(text: str, written: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in [] if written is None else written.split(","):
        match = _PARAMETER.fullmatch(part)
        key, value = match.group("key", "value") if match else (part.strip(), "")
        if key == "dcg" and value in _DCG:
            key, value = "gain", _DCG[value]
        if key not in ("rel", "gain", "p") or key in found:
            raise InputError(f"measure {text}", got=f"the parameter {key!r}", expected="rel, gain (nDCG) or p (RBP), each once")
        if key == "rel" and not re.fullmatch("-?[0-9]{1,9}", value):
            raise InputError(f"measure {text}: rel", got=value, expected="an integer of at least 1")
        try:
            found[key] = int(value) if key == "rel" else float(value) if key == "p" else value
        except ValueError:
            raise InputError(f"measure {text}: p", got=value, expected="a number between 0 and 1") from None
    return found


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
        judged = [numbers(f"qrels: the relevances of query {query!r}", qrels[query].values(), np.int64) for query in part]
        orders = [trec_order(query, run.get(query, {})) for query in part]
        ranked = [[qrels[query].get(document, 0) for document in order] for query, order in zip(part, orders)]
        gains, pool = padded(ranked), padded(judged)
        for name, measure in chosen.items():
            if measure.name == "Judged":
                found = [_judged(order[: measure.cutoff], qrels[query]) for query, order in zip(part, orders)]
            else:
                found = values_of(measure, gains, pool).tolist()
            values[name].update(zip(part, found))
    return values


def _judged(documents: Sequence[str], judgments: Mapping[str, int]) -> float:
    return sum(document in judgments for document in documents) / len(documents) if documents else 0.0


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
    exact = numbers(f"run: the scores of query {query!r}", [scores[document] for document in documents], np.float64)
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
    differ, unknown measure, Judged), NonFiniteError (exponential gains beyond float64).
    """
    chosen = _chosen(measures)
    if any(measure.name == "Judged" for measure in chosen.values()):
        raise InputError("evaluate_gains", got="Judged", expected="other measures", hint="A gain of 0 may be judged or not: use evaluate.")
    ranked, pool = (_matrix(name, array) for name, array in (("gains", gains), ("judged", judged)))
    if len(ranked) != len(pool):
        raise InputError("evaluate_gains: judged", got=f"{len(pool)} queries", expected=f"{len(ranked)}, as gains have")
    return {name: values_of(measure, ranked, pool) for name, measure in chosen.items()}


def _chosen(measures: Sequence[Measure | str]) -> dict[str, Measure]:
    if isinstance(measures, (str, Measure)):
        raise InputError("measures", got=str(measures), expected="a list of measures", hint=f"Write [{str(measures)!r}].")
    return {str(measure): measure_of(measure) for measure in measures}


def measure_of(measure: Measure | str) -> Measure:
    """A measure that is complete, from itself or from its name. Raises InputError."""
    return _complete(parse_measure(measure) if isinstance(measure, str) else measure)


def _matrix(name: str, array: ArrayLike) -> NDArray[np.integer[Any]]:
    matrix = np.asarray(array)
    if matrix.ndim != 2 or matrix.dtype.kind not in "iu":
        raise InputError(f"evaluate_gains: {name}", got=f"{matrix.dtype} {list(matrix.shape)}", expected="integers [queries, n]")
    return matrix


def _complete(measure: Measure) -> Measure:
    if measure.cutoff is None and measure.name in _NEED_CUTOFF:
        raise InputError(f"measure {measure}", got="no cutoff", expected=f"one, such as {measure}@10")
    return measure


def numbers(what: str, values: Iterable[Any], dtype: type[np.int64] | type[np.float64]) -> NDArray[Any]:
    """`values` as `dtype`, refused where numpy would have to read text, cut a fraction off or turn None into NaN."""
    array = np.array(list(values))
    if array.size and not np.can_cast(array.dtype, dtype):
        raise InputError(what, got=f"{array.dtype} values", expected="integers" if dtype is np.int64 else "numbers")
    return array.astype(dtype)
