"""What stages cost on a machine: linear models of milliseconds a query, fitted by `rerank-engine calibrate`, kept as a small JSON.

    ms = fixed + query_token * q + document * n + token * T + square * S + corpus * C + branch * B

q tokens of the query; n documents that are scored; T their tokens together (of pairs: with the query's), S the sum of their squares; C
what is searched (see `work.work_of`); B ms of the branches of a fusion, whose n are the entries of all lists but the first. Coefficients
are never negative: more work never costs less.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..cpus import available_cpus
from ..errors import FileFormatError, InputError
from ..latency.facts import processor

SCHEMA = 1
TERMS = ("fixed", "query_token", "document", "token", "square", "corpus", "branch")
Setting = Sequence[tuple["Work", float]]  # runs at one size: what was asked, the ms that it took
_FAR = 4.0  # a run this many times off the fit was interrupted, or interrupted others: it is left out of a second fit


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage is asked to do for one query: the quantities of the module's formula."""

    query_token: float = 0.0
    document: float = 0.0
    token: float = 0.0
    square: float = 0.0
    corpus: float = 0.0
    branch: float = 0.0

    def row(self, terms: Sequence[str] = TERMS) -> NDArray[np.float64]:
        """float64 [terms]: their quantities, 1 for "fixed"."""
        return np.array([1.0 if term == "fixed" else getattr(self, term) for term in terms])


@dataclass(frozen=True, slots=True)
class StageCost:
    """The cost of one stage. `*_ms` are the coefficients of the module's formula.

    spread: the 95th percentile of measured / predicted over single runs, at least 1. error: the relative standard error of a prediction:
    how far the settings' medians lie from it, root mean square, and what the scatter of single runs adds. runs: that it was fitted on;
    searched: documents of the largest collection among them, 0 where none is searched or nobody says.
    """

    stage: str
    model: str
    precision: str
    backend: str
    threads: int
    fixed_ms: float = 0.0
    per_query_token_ms: float = 0.0
    per_document_ms: float = 0.0
    per_token_ms: float = 0.0
    per_square_ms: float = 0.0
    per_corpus_ms: float = 0.0
    per_branch_ms: float = 0.0
    spread: float = 1.0
    error: float = 0.0
    runs: int = 0
    searched: int = 0

    def ms(self, work: Work) -> float:
        """The typical time (p50) of one query."""
        return float(self.coefficients @ work.row())

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """float64 [7], in the order of TERMS."""
        return np.array([getattr(self, _field(term)) for term in TERMS])


def _field(term: str) -> str:
    return "fixed_ms" if term == "fixed" else f"per_{term}_ms"


def nonnegative(a: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """x >= 0 that minimises |a x - y|. a float [n, k], y float [n]. The active set method of Lawson and Hanson, Solving Least Squares
    Problems, 1974, chapter 23; columns are scaled to unit length first, so that units do not decide what is zero. Raises InputError."""
    rows, target = np.array(a, np.float64), np.array(y, np.float64)
    if rows.ndim != 2 or target.shape != (len(rows),) or not (np.isfinite(rows).all() and np.isfinite(target).all()):
        raise InputError("nonnegative", got=f"a {list(rows.shape)}, y {list(target.shape)}", expected="finite a [n, k] and y [n]")
    scale = np.linalg.norm(rows, axis=0)
    scale[scale == 0] = 1.0
    rows /= scale
    x, free = np.zeros(rows.shape[1]), np.zeros(rows.shape[1], np.bool_)
    tolerance = 1e-10 * max(1.0, float(np.abs(rows.T @ target).max(initial=0.0)))
    for _ in range(3 * len(x) + 10):
        slope = rows.T @ (target - rows @ x)
        if free.all() or slope[~free].max() <= tolerance:
            break
        free[np.flatnonzero(~free)[np.argmax(slope[~free])]] = True
        while True:
            trial = np.zeros_like(x)
            trial[free] = np.linalg.lstsq(rows[:, free], target, rcond=None)[0]
            falling = free & (trial <= 0)
            if not falling.any():
                x = trial
                break
            step = float(np.min(x[falling] / np.maximum(x[falling] - trial[falling], 1e-300)))
            x = np.maximum(x + step * (trial - x), 0.0)
            free = free & (x > 1e-14)
    return np.asarray(x / scale, np.float64)


def fit(
    stage: str,
    terms: Sequence[str],
    settings: Sequence[Setting],
    *,
    backend: str,
    threads: int,
    model: str = "",
    precision: str = "",
    searched: int = 0,
) -> StageCost:
    """From runs: of each setting (documents, lengths, size) some. Relative errors are minimised, and the coefficients scaled so that as
    many runs lie above as below. Raises InputError for no runs or times that are not above 0."""
    runs = [run for setting in settings for run in setting]
    if not runs or not all(np.isfinite(ms) and ms > 0 for _, ms in runs):
        raise InputError(f"fit of {stage}", got=f"{len(runs)} runs", expected="runs with times above 0")
    found = _coefficients(terms, runs)
    ratios = [np.array([ms / max(float(found @ work.row(terms)), 1e-9) for work, ms in setting]) for setting in settings if setting]
    misfit = float(np.sqrt(np.mean([(np.median(own) - 1) ** 2 for own in ratios])))
    every = np.concatenate(ratios)
    low, high = np.percentile(every, [16, 84])
    error = float(np.hypot(misfit, 1.25 * (high - low) / 2 / np.sqrt(len(every))))
    values = {_field(term): float(value) for term, value in zip(terms, found)}
    spread = max(1.0, float(np.percentile(every, 95)))
    return StageCost(stage, model, precision, backend, threads, **values, spread=spread, error=error, runs=len(every), searched=searched)


def _coefficients(terms: Sequence[str], runs: Setting) -> NDArray[np.float64]:
    rows, ms = np.array([work.row(terms) for work, _ in runs]), np.array([ms for _, ms in runs])
    kept, ratios, found = np.ones(len(ms), np.bool_), ms, ms
    for _ in range(2):
        found = nonnegative(rows[kept] / ms[kept, None], np.ones(int(kept.sum())))
        ratios = ms / np.maximum(rows @ found, 1e-9)
        near = (ratios < _FAR) & (ratios > 1 / _FAR)
        kept = near if near.any() else kept
    return np.asarray(found * float(np.median(ratios[kept])), np.float64)


@dataclass(frozen=True)
class Costs:
    """The costs of a machine. machine: {"processor", "isa", "cpus"}; workload: what calibration saw of passages and questions, the defaults
    of a Shape; drift: by what share the machine's own pace changed meanwhile, the same for all stages; predicted: of a GPU that nobody
    measured here."""

    stages: tuple[StageCost, ...]
    machine: Mapping[str, Any]
    workload: Mapping[str, float] = field(default_factory=dict)
    made: str = ""
    drift: float = 0.0
    predicted: bool = False

    def find(self, stage: str, precision: str = "") -> StageCost | None:
        """The cost of a stage, None where it was not calibrated. precision "": any."""
        return next((cost for cost in self.stages if cost.stage == stage and precision in ("", cost.precision)), None)

    def to_dict(self) -> dict[str, Any]:
        """As the file has it."""
        made = self.made or date.today().isoformat()
        head = {"schema": SCHEMA, "made": made, "drift": self.drift, "machine": dict(self.machine), "workload": dict(self.workload)}
        return {**head, "stages": [asdict(cost) for cost in self.stages]}

    def save(self, path: str | Path | None = None) -> Path:
        """Writes the file, all or nothing; by default the user's (`default_path`)."""
        target = default_path() if path is None else Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f".{target.name}.{os.getpid()}")
        new.write_text(json.dumps(self.to_dict(), indent=1) + "\n")
        new.replace(target)
        return target

    @classmethod
    def load(cls, path: str | Path | None = None, *, any_machine: bool = False) -> Costs:
        """Raises InputError where there is no such file, or it is of another machine and not `any_machine`; FileFormatError."""
        source = default_path() if path is None else Path(path)
        if not source.is_file():
            raise InputError("costs", got=f"no file {source}", expected="costs of this machine", hint="Run: rerank-engine calibrate")
        try:
            told = json.loads(source.read_text())
            if told["schema"] != SCHEMA:
                raise FileFormatError(
                    str(source), got=f"schema {told['schema']}", expected=f"{SCHEMA}", hint="Run: rerank-engine calibrate"
                )
            costs = cls(tuple(_cost(row) for row in told["stages"]), told["machine"], told["workload"], told["made"], float(told["drift"]))
        except (ValueError, KeyError, TypeError) as error:
            raise FileFormatError(str(source), got=repr(error), expected="what rerank-engine calibrate writes") from error
        here = this_machine()
        if not any_machine and dict(costs.machine) != here:
            hint = "Run rerank-engine calibrate here, or take them all the same: any_machine=True, --any-machine."
            raise InputError(str(source), got=f"costs of {_told(costs.machine)}", expected=f"those of {_told(here)}", hint=hint)
        return costs


def _cost(row: Mapping[str, Any]) -> StageCost:
    cost = StageCost(**row)
    numbers = [getattr(cost, each.name) for each in fields(cost) if each.name.endswith("_ms") or each.name in ("spread", "error")]
    if not all(isinstance(value, (int, float)) and np.isfinite(value) and value >= 0 for value in numbers):
        raise ValueError(f"a cost of {cost.stage} that is no number of at least 0")
    return cost


def _told(machine: Mapping[str, Any]) -> str:
    return f"{machine.get('processor')} ({machine.get('isa')}, {machine.get('cpus')} processors)"


def default_path() -> Path:
    """$XDG_CONFIG_HOME/rerank_engine/costs.json, by default below ~/.config."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "rerank_engine" / "costs.json"


def this_machine() -> dict[str, Any]:
    """What costs belong to: the processor, the instruction set that is used, how many processors this process may use."""
    from .. import _native

    return {"processor": processor(), "isa": _native.usable_isas()[-1], "cpus": available_cpus()}
