"""The pipeline that a latency budget buys: of all configurations whose quality is known, the best one that keeps to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import Pipeline
from ..errors import InputError
from ..ops.checks import finite_number, instance
from .capacity import BATCH_TOKENS, Capacity, Service, capacity
from .costs import Costs
from .devices import costs_on
from .parts import Parts
from .quality import MEASURE, Chain, Curves, Estimate
from .shape import SPECIAL, Shape, shape_from
from .work import Latency, latency_of, parts_of

DEPTHS = (5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200, 300, 500, 1000)
_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration: what it takes and what it is worth."""

    chain: Chain
    latency: Latency
    quality: Estimate

    @property
    def sure_p95(self) -> float:
        """The upper end of the interval of its p95, ms: what a budget is held against."""
        return self.latency.p95_95[1]

    def to_dict(self) -> dict[str, Any]:
        latency, quality = self.latency, self.quality
        return {
            "name": self.chain.name,
            "p50_ms": round(latency.p50, 3),
            "p50_ms_95": [round(x, 3) for x in latency.p50_95],
            "p95_ms": round(latency.p95, 3),
            "p95_ms_95": [round(x, 3) for x in latency.p95_95],
            MEASURE: round(quality.value, 4),
            f"{MEASURE}_95": [round(quality.low, 4), round(quality.high, 4)],
            "measured": quality.measured,
        }


@dataclass(frozen=True, eq=False)
class Plan:
    """chosen: the best candidate within the budget; frontier: those that no cheaper one equals in quality, the cheapest first; given_up:
    those of the frontier beyond the budget. predicted: True where the latencies are those of a device that was not measured."""

    chosen: Candidate
    frontier: tuple[Candidate, ...]
    budget_ms: float
    shape: Shape
    collections: tuple[str, ...]
    predicted: bool
    device: str
    parts: Parts | None

    @property
    def given_up(self) -> tuple[Candidate, ...]:
        return tuple(each for each in self.frontier if each.sure_p95 > self.budget_ms)

    @property
    def cut_tokens(self) -> float:
        """Of a passage of mean length, what a cross-encoder does not read; 0 where the plan has none."""
        shape, reads = self.shape, any(each.kind in ("cross", "cascade") for each in self.chosen.chain.rerankers)
        return max(0.0, shape.tokens + shape.query_tokens + SPECIAL - shape.limit) if reads else 0.0

    def pipeline(self, parts: Parts | None = None) -> Pipeline:
        """Ready to run. parts: by default those that the plan was made for. Raises InputError."""
        held = self.parts if parts is None else parts
        if held is None:
            raise InputError("Plan.pipeline: parts", got="none", expected="Parts: the indexes and models to build it of")
        return held.pipeline(self.chosen.chain)

    def to_dict(self) -> dict[str, Any]:
        """As `rerank-engine plan --json` prints it."""
        chosen, latency = self.chosen, self.chosen.latency
        told = chosen.to_dict()
        gained = [(each.to_dict(), each.quality.value - chosen.quality.value) for each in self.given_up]
        return {
            "name": told["name"],
            "stages": [{"stage": part.stage, "ms": round(part.ms, 3)} for part in latency.parts],
            "budget_p95_ms": self.budget_ms,
            "predicted_p50_ms": told["p50_ms"],
            "predicted_p50_ms_95": told["p50_ms_95"],
            "predicted_p95_ms": told["p95_ms"],
            "predicted_p95_ms_95": told["p95_ms_95"],
            "expected": {MEASURE: told[MEASURE], f"{MEASURE}_95": told[f"{MEASURE}_95"], "measured": told["measured"]},
            "given_up": [{**row, "gain": round(gain, 4)} for row, gain in gained],
            "frontier": [each.to_dict() for each in self.frontier],
            "collections": list(self.collections),
            "device": self.device,
            "predicted": self.predicted,
            "cut_tokens": round(self.cut_tokens, 1),
        }

    def capacity(self, qps: float, *, batch_tokens: int = BATCH_TOKENS, processes: int = 1) -> Capacity:
        """Machines, of so many processes, for so many queries a second, the budget kept at p95 with waiting: `planning.capacity`. Raises
        InputError."""
        latency, fixed, tokens = self.chosen.latency, 0.0, 0.0
        for part in latency.parts:
            fixed += part.fixed
            tokens += part.tokens
        service = Service(latency.p50, latency.p95, fixed, tokens)
        return capacity(service, qps=qps, target_ms=self.budget_ms, batch_tokens=batch_tokens, processes=processes)

    def plot(self, path: str | Path) -> None:
        """The frontier as a picture. Raises MissingDependency (matplotlib), InputError."""
        from .plot import draw

        draw(self, path)


def plan(
    parts: Parts | None = None,
    *,
    p95_ms: float,
    corpus_size: float | None = None,
    tokens: float | None = None,
    query_tokens: float | None = None,
    shape: Shape | None = None,
    quality: str | Path | Curves | None = None,
    costs: str | Path | Costs | None = None,
    device: str = "cpu",
    able: Callable[[Candidate], bool] | None = None,
) -> Plan:
    """The best expected nDCG@10 whose p95, with the margin of its interval, keeps to `p95_ms`; of equals the quickest.

    parts: what there is; None: anything that was calibrated. corpus_size, tokens: documents, and word pieces of a passage; query_tokens: by
    default what calibration saw; or a whole shape (`shape_of` measures one). quality: a file of rows of benchmarks.quality_table, by
    default the table that ships with the package. costs: a file of `rerank-engine calibrate`, by default the user's. device: "cpu", or a
    GPU by name, whose models' times are predicted by its data sheet (`predicted`). able: says of each configuration whether there may be
    one; None: of all. Raises InputError: also where not even the quickest fits.
    """
    budget = finite_number("plan: p95_ms", p95_ms)
    if budget <= 0:
        raise InputError("plan: p95_ms", got=p95_ms, expected="milliseconds above 0")
    if parts is not None:
        instance("plan: parts", parts, Parts)
    known = costs if isinstance(costs, Costs) else Costs.load(costs)
    asked = _shape(parts, corpus_size, tokens, query_tokens, shape, known)
    held = known if device == "cpu" else costs_on(device, known)
    curves = quality if isinstance(quality, Curves) else Curves.load(quality)
    found = candidates(curves, held, asked, parts)
    if not found:
        hint = "Calibrate with the models of these parts, or pass quality rows of what they make."
        raise InputError("plan", got="no configuration", expected="one with a cost and a measured quality that can be built", hint=hint)
    if able is not None and any(each.sure_p95 <= budget for each in found):
        found = [each for each in found if able(each)]
        if not found:
            raise InputError("plan: able", got="no configuration that may be", expected="one")
    fitting = [each for each in found if each.sure_p95 <= budget]
    if not fitting:
        quickest = min(found, key=lambda each: each.sure_p95)
        most = f"{quickest.sure_p95:.3g} ms at p95, by the upper end of its interval"
        got = f"{budget:g} ms; the quickest, '{quickest.chain.name}', needs up to {most}"
        raise InputError("plan: p95_ms", got=got, expected="a budget that something keeps to")
    chosen = max(fitting, key=_rank)
    return Plan(chosen, frontier(found), budget, asked, curves.collections, held.predicted, device, parts)


def _rank(candidate: Candidate) -> tuple[float, float]:
    return candidate.quality.value, -candidate.sure_p95


def _shape(
    parts: Parts | None, corpus_size: float | None, tokens: float | None, query_tokens: float | None, shape: Shape | None, costs: Costs
) -> Shape:
    if shape is not None:
        if any(value is not None for value in (corpus_size, tokens, query_tokens)):
            raise InputError("plan: shape", got="a shape and corpus_size, tokens or query_tokens", expected="one or the other")
        return shape
    size = corpus_size if corpus_size is not None or parts is None else parts.corpus_size
    if size is None or tokens is None:
        missing = [name for name, value in (("corpus_size", size), ("tokens", tokens)) if value is None]
        raise InputError("plan", got=f"no {' and no '.join(missing)}", expected="both, or a shape", hint="shape_of measures one.")
    return shape_from(size, tokens, costs.workload, query_tokens)


def candidates(curves: Curves, costs: Costs, shape: Shape, parts: Parts | None = None) -> list[Candidate]:
    """Every configuration that has a quality, measured or interpolated over depth, and costs, and that `parts` can build."""
    found: list[Candidate] = []
    for chain in _chains(curves):
        estimate = curves.of(chain)
        if estimate is None or (parts is not None and not parts.builds(chain)):
            continue
        times = parts_of(chain, shape, costs)
        if times is not None:
            if parts is not None:
                _require_models(parts, costs, [part.stage for part in times])
            found.append(Candidate(chain, latency_of(times, costs.drift), estimate))
    return found


def _chains(curves: Curves) -> list[Chain]:
    """What was measured, and between the measured depths of a chain's last re-ranker some more."""
    chains = dict.fromkeys(curves.chains)
    for chain in curves.chains:
        if chain.rerankers:
            chains |= dict.fromkeys(chain.at(depth) for depth in DEPTHS if depth < chain.rerankers[-1].depth)
    return list(chains)


def _require_models(parts: Parts, costs: Costs, stages: Sequence[str]) -> None:
    """Costs of one model, or on so many threads, say nothing of another."""
    for stage in stages:
        cost, model = costs.find(stage), parts.model_of(stage)
        if cost is not None and model is not None and cost.model and cost.model != model:
            kind = {"vectors": "dense", "maxsim": "late"}.get(stage, stage)
            hint = f"Run: rerank-engine calibrate --model {kind}={model}"
            raise InputError(f"plan: costs of {stage}", got=f"those of '{cost.model}'", expected=f"those of '{model}'", hint=hint)
        threads = parts.threads_of(stage)
        if cost is not None and threads is not None and cost.model and cost.threads != threads:
            hint = f"Run: rerank-engine calibrate --threads {threads}"
            raise InputError(f"plan: costs of {stage}", got=f"those of {cost.threads} threads", expected=f"those of {threads}", hint=hint)


def extrapolated(candidate: Candidate, costs: Costs, shape: Shape) -> tuple[str, ...]:
    """What searches more documents than it was calibrated on."""
    found = []
    for cost in [own for part in candidate.latency.parts if (own := costs.find(part.stage)) is not None]:
        if cost.per_corpus_ms + cost.searched and cost.searched < shape.corpus_size:
            how = f"at most {cost.searched:,} documents" if cost.searched else "a number of documents that its costs do not say"
            found.append(f"{cost.stage}: calibrated on {how}")
    return tuple(found)


def frontier(found: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those that no quicker one equals in quality, the quickest first."""
    kept: list[Candidate] = []
    for each in sorted(found, key=lambda own: (own.sure_p95, -own.quality.value)):
        if not kept or each.quality.value > kept[-1].quality.value + _SAME:
            kept.append(each)
    return tuple(kept)
