"""Whether one run is better than another: means, paired differences over the same queries, their tests and intervals.

All of it is per measure, over the n queries of the judgments, with d_q = value of the run - value of the baseline for query q:

    test="randomization"  Fisher's: without a difference each d_q may have either sign. p = the share of sign patterns whose |mean| is at
                          least the one seen: all 2^n up to EXACT queries that differ, else (1 + hits) / (1 + samples) by Monte Carlo
                          (Smucker, Allan & Carterette, CIKM 2007; the 1s: Phipson & Smyth, 2010)
    test="t"              Student's, paired and two-sided: t = mean(d) / (sd(d) / sqrt(n)), n - 1 degrees of freedom
    correction            over the runs compared under one measure: "holm" (step-down), "bonferroni", or None
    interval              of the mean difference: percentile bootstrap over queries, BOOTSTRAP resamples (Sakai, SIGIR 2006)

Random numbers come from the seed alone, so that a comparison repeats bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, NonFiniteError
from ..ops.checks import count, finite_number, instance, one_of
from .measures import Measure, Qrels, Run, evaluate_queries, numbers

EXACT = 16  # queries that differ, up to which every pattern of signs is tried: 65,536 of them
BOOTSTRAP = 10_000
TIE = 1e-9  # a difference of this size and below is none: summation order, not quality
_AT_ONCE = 1 << 20  # float64 or bool entries of one step: 8 MB, however many queries and samples there are
TESTS, CORRECTIONS = ("randomization", "t"), ("holm", "bonferroni")
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One run under one measure. What compares it with the baseline is None for the baseline itself.

    mean over the queries; difference = mean - the baseline's; low, high: its confidence interval; p: the test's; p_corrected: the same if
    nothing is corrected; wins, ties, losses: queries where the run is better, the same (within 1e-9) or worse.
    """

    run: str
    measure: str
    queries: int
    mean: float
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_corrected: float | None = None
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None


@dataclass(frozen=True, repr=False)
class Comparison:
    """What `compare` found. rows: by measure, then by run. differences: measure -> run -> query -> value of the run - the baseline's.

    lower: the measures of which less is better, for whose rows a win is a query with a lower value.
    """

    baseline: str
    test: str
    correction: str | None
    confidence: float
    rows: tuple[Row, ...]
    differences: Mapping[str, Mapping[str, Mapping[str, float]]]
    lower: tuple[str, ...] = ()

    def row(self, run: str, measure: str) -> Row:
        """Raises InputError for one that was not compared."""
        for row in self.rows:
            if (row.run, row.measure) == (run, measure):
                return row
        raise InputError("Comparison.row", got=f"{run!r}, {measure!r}", expected="a run and a measure that were compared")

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and cells, as text: `-` where the baseline has nothing to be compared with."""
        header = ["measure", "run", "mean", "difference", f"{100 * self.confidence:g} % interval", "p", "p corrected", "win/tie/loss"]
        return header, [_cells(row, " (lower is better)" if row.measure in self.lower else "") for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON, the per-query differences too."""
        told = {name: getattr(self, name) for name in ("baseline", "test", "correction", "confidence")} | {"lower": list(self.lower)}
        return {
            **told,
            "rows": [dict(vars(row)) for row in self.rows],
            "differences": {m: dict(runs) for m, runs in self.differences.items()},
        }

    def __repr__(self) -> str:
        how = f"{self.test} test" + (f", {self.correction}" if self.correction else "")
        header, rows = self.table()
        widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (header, *rows)]
        return "\n".join(
            [f"Comparison with {self.baseline} over {max((row.queries for row in self.rows), default=0)} queries ({how})", *lines]
        )


def _cells(row: Row, mark: str) -> list[str]:
    name = row.measure + mark
    if row.difference is None:
        return [name, row.run, f"{row.mean:.4f}", *"-----"]
    interval = f"{row.low:+.4f} to {row.high:+.4f}"
    counts = f"{row.wins}/{row.ties}/{row.losses}"
    return [name, row.run, f"{row.mean:.4f}", f"{row.difference:+.4f}", interval, _p(row.p), _p(row.p_corrected), counts]


def _p(value: float | None) -> str:
    assert value is not None  # it stands beside a difference
    return f"{value:.4f}" if value >= 5e-5 else "<0.0001"


def compare(
    qrels: Qrels,
    runs: Mapping[str, Run],
    measures: Sequence[Measure | str],
    baseline: str | None = None,
    test: str = "randomization",
    correction: str | None = "holm",
    samples: int = 100_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Comparison:
    """Compares each run with the baseline (default: the first run) over the queries of `qrels`. A query that a run lacks counts 0 there.

    samples: sign patterns of the randomization test where it is not exact. Memory stays at some megabytes for any number of them.
    Raises InputError (fewer than two runs or two queries, an unknown baseline, test or correction, a confidence not between 0
    and 1), and as `evaluate_queries` does.
    """
    _check(runs, baseline, test, correction, samples, seed, confidence)
    values = {name: evaluate_queries(qrels, run, measures) for name, run in runs.items()}
    return compare_values(values, baseline, test, correction, samples, seed, confidence)


def compare_values(
    values: Mapping[str, Mapping[str, Mapping[str, float]]],
    baseline: str | None = None,
    test: str = "randomization",
    correction: str | None = "holm",
    samples: int = 100_000,
    seed: int = 0,
    confidence: float = 0.95,
    lower: Collection[str] = (),
) -> Comparison:
    """`compare` for values that are there: run -> measure -> query -> value, of the same measures and queries for all runs.

    lower: measures of which less is better. Raises NonFiniteError for NaN, infinity, and values whose squares are beyond float64.
    """
    _check(values, baseline, test, correction, samples, seed, confidence)
    base = next(iter(values)) if baseline is None else baseline
    for name, found in values.items():
        if {measure: set(of) for measure, of in found.items()} != {measure: set(of) for measure, of in values[base].items()}:
            raise InputError(f"compare: values of {name!r}", got="other measures or queries", expected=f"those of {base!r}")
    rows: list[Row] = []
    differences: dict[str, dict[str, dict[str, float]]] = {}
    for measure, of_base in values[base].items():
        if len(queries := list(of_base)) < 2:
            raise InputError(f"compare: {measure}", got=f"{len(queries)} queries", expected="two at least: one difference has no spread")
        by_run = {name: _numbers(f"{measure} of {name!r}", [found[measure][q] for q in queries]) for name, found in values.items()}
        others = {name: _finite(f"{measure} of {name!r}", seen - by_run[base]) for name, seen in by_run.items() if name != base}
        ps = [student_t(d) if test == "t" else randomization(d, samples, seed) for d in others.values()]
        told = {name: _compared(d, confidence, seed, measure in lower) for name, d in others.items()}
        for name, p, corrected in zip(others, ps, correct(ps, correction)):
            told[name] |= {"p": p, "p_corrected": corrected}
        rows += [Row(name, measure, len(seen), math.fsum(seen) / len(seen), **told.get(name, {})) for name, seen in by_run.items()]
        differences[measure] = {name: dict(zip(queries, d.tolist())) for name, d in others.items()}
    return Comparison(base, test, correction, confidence, tuple(rows), differences, tuple(m for m in differences if m in lower))


def _numbers(what: str, values: Sequence[float]) -> Values:
    return _finite(what, numbers(f"compare: {what}", values, np.float64))


def _finite(what: str, values: Values) -> Values:
    """float64 [n], if they and the sum of their squares, of which the tests are made, are finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = float(values @ values)
    if not np.isfinite(squares):
        got = "values beyond float64" if np.isfinite(values).all() else "NaN or infinity"
        raise NonFiniteError(f"compare: {what}", got=got, expected="finite values")
    return values


def _check(
    runs: Mapping[str, Any], baseline: str | None, test: str, correction: str | None, samples: int, seed: int, confidence: float
) -> None:
    instance("compare: runs", runs, Mapping)
    if len(runs) < 2:
        raise InputError("compare: runs", got=f"{len(runs)}", expected="two at least, as {name: run}")
    if baseline is not None and baseline not in runs:
        raise InputError("compare: baseline", got=baseline, expected="one of " + ", ".join(map(repr, runs)))
    one_of("compare: test", test, TESTS)
    if correction is not None:
        one_of("compare: correction", correction, CORRECTIONS)
    count("compare: samples", samples)
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError("compare: seed", got=seed, expected="an integer of at least 0")
    if finite_number("compare: confidence", confidence, 0.0, 1.0) in (0.0, 1.0):
        raise InputError("compare: confidence", got=confidence, expected="a share between 0 and 1, such as 0.95")


def _compared(d: Values, confidence: float, seed: int, lower: bool) -> dict[str, Any]:
    low, high = bootstrap(d, confidence, seed)
    better = -d if lower else d
    wins, losses = int(np.count_nonzero(better > TIE)), int(np.count_nonzero(better < -TIE))
    return {
        "difference": math.fsum(d) / len(d),
        "low": low,
        "high": high,
        "wins": wins,
        "ties": len(d) - wins - losses,
        "losses": losses,
    }


def randomization(d: Values, samples: int = 100_000, seed: int = 0) -> float:
    """The two-sided p of the sign-flip test for paired differences d float64 [n]; 1 when none of them differs."""
    moved = d[np.abs(d) > TIE]  # the sign of a zero changes nothing
    n = len(moved)
    limit = abs(math.fsum(moved)) - 1e-12 * math.fsum(np.abs(moved))  # a sum that only rounding makes smaller is as great
    if n <= EXACT:
        signs = 1.0 - 2.0 * (np.arange(1 << n)[:, None] >> np.arange(n) & 1)
        return float(np.mean(np.abs(signs @ moved) >= limit))
    rng, hits = np.random.default_rng(seed), 0
    for at in range(0, samples, step := max(1, _AT_ONCE // n)):
        flips = rng.integers(0, 2, (min(step, samples - at), n), dtype=np.int8)
        hits += int(np.count_nonzero(np.abs(moved.sum() - 2.0 * (flips @ moved)) >= limit))
    return (1 + hits) / (1 + samples)


def student_t(d: Values) -> float:
    """The two-sided p of Student's paired test for differences d float64 [n], n >= 2; 1 when all are zero, 0 when all are alike."""
    n, mean = len(d), math.fsum(d) / len(d)
    spread = math.sqrt(math.fsum((d - mean) ** 2) / (n - 1) / n)
    if spread <= TIE * max(abs(mean), TIE):
        return 1.0 if abs(mean) <= TIE else 0.0
    return beta_share((n - 1) / (n - 1 + (mean / spread) ** 2), (n - 1) / 2, 0.5)


def beta_share(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22), evaluated as Lentz proposed."""
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1) / (a + b + 2):  # there the fraction of the mirrored function converges faster
        return 1.0 - beta_share(1.0 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x) - math.log(a) - (math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))
    c, inverse = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1))
    fraction = inverse
    for m in range(1, 1000):
        for term in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            inverse, c = 1.0 / (1.0 + term * inverse), 1.0 + term / c
            fraction *= inverse * c
        if abs(inverse * c - 1.0) < 1e-15:
            break
    return math.exp(log_front) * fraction


def correct(ps: Sequence[float], method: str | None) -> list[float]:
    """p values made larger for that there are several of them, at most 1. Holm's keep the order of the uncorrected ones."""
    if method is None:
        return list(ps)
    if method == "bonferroni":
        return [min(1.0, len(ps) * p) for p in ps]
    out, largest = [0.0] * len(ps), 0.0
    for passed, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - passed) * ps[i]))
        out[i] = largest
    return out


def bootstrap(d: Values, confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """The percentile interval of the mean of d float64 [n]."""
    rng, n = np.random.default_rng(seed), len(d)
    means = np.empty(BOOTSTRAP)
    for at in range(0, BOOTSTRAP, step := max(1, _AT_ONCE // n)):
        chosen = rng.integers(0, n, (min(step, BOOTSTRAP - at), n))
        means[at : at + step] = d[chosen].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
