"""Where a plan goes: shards, replicas, machines, memory and cost of a corpus that one machine does not hold, from what stages cost here.

The corpus is cut into shards of equal size, and the pipeline planned for a shard's documents, of what the engine does over shards: BM25,
dense retrieval, late interaction and their fusion, then cross-encoders. The front encodes the query, once, and asks every shard; what
they find is one index's ranking, bit for bit, so the measured quality holds. One re-ranker runs the cross-encoder on the best of all.
Machines of the shards hold k of them each (`memory`: all their files) and split their processors among them; others hold models.

The fewest shards are taken with which a plan keeps to the budget and its memory to the machine; of the plans that do, the best of which
there is a fleet whose simulated p95 keeps to the budget; then about the fewest machines of it (`sizing`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any

from ..errors import InputError
from ..ops.checks import finite_number
from ..progress import Progress
from .assumed import Assumed, Machine
from .capacity import Capacity
from .costs import Costs
from .memory import memory_of
from .plan import Candidate, Plan, extrapolated, plan
from .quality import Chain, Curves
from .shape import Shape
from .sizing import HALF, WAVE_MS, Fleet, Sizing, Tries, lack, on_shards, threads_of

SHARDS = 10_000  # at most
MORE = 6  # numbers of shards that are simulated, where the first with which a plan keeps to memory and budget is too slow with all of them


@dataclass(frozen=True)
class Placement:
    """plan: of one shard's documents, with what is placed as `chosen`. shape: of the whole corpus. memory: bytes of a copy of the corpus by
    index. fleet: None where one machine holds all: then `capacity` says how many of it. extrapolated: what was calibrated on fewer
    documents than a shard has. passed_over: what is better and within the budget by itself: its quality, and why it was not taken."""

    plan: Plan
    shape: Shape
    qps: float
    shards: int
    machine: Machine
    memory: Mapping[str, float]
    fleet: Fleet | None
    capacity: Capacity | None
    extrapolated: tuple[str, ...]
    assumptions: tuple[str, ...]
    passed_over: tuple[str, ...] = ()

    @property
    def machines(self) -> int:
        if self.fleet is not None:
            return self.fleet.machines
        return 0 if self.capacity is None else self.capacity.machines

    @property
    def copies(self) -> int:
        """Of the corpus."""
        return self.machines if self.fleet is None else self.fleet.shard_replicas

    @property
    def cost_hour(self) -> float | None:
        return None if self.machine.price_hour is None else self.machines * self.machine.price_hour

    def to_dict(self) -> dict[str, Any]:
        """As `rerank-engine plan --json` prints it, below "placement"."""
        hour = self.cost_hour
        told: dict[str, Any] = {
            "predicted": True,
            "name": self.plan.chosen.chain.name,
            "shards": self.shards,
            "documents_a_shard": self.plan.shape.corpus_size,
            "machines": self.machines,
            "memory_bytes": {name: round(size) for name, size in self.memory.items()},
            "memory_bytes_all_copies": round(self.copies * sum(self.memory.values())),
            "cost_hour": None if hour is None else round(hour, 4),
            "cost_million_queries": None if hour is None else round(hour / (self.qps * 3600) * 1e6, 4),
            "machine": {"memory_bytes": self.machine.memory, "processors": self.machine.processors, "price_hour": self.machine.price_hour},
            "extrapolated": list(self.extrapolated),
            "passed_over": list(self.passed_over),
            "assumptions": list(self.assumptions),
        }
        if self.fleet is not None:
            names = ("held", "shard_replicas", "rerankers", "front_machines", "shard_machines", "reranker_machines")
            told |= {name: getattr(self.fleet, name) for name in names}
            told |= {
                "response": dict(self.fleet.response),
                "response_upper": dict(self.fleet.upper),
                **({} if self.fleet.gone is None else {"response_one_gone": dict(self.fleet.gone)}),
                "shard_without_replica": self.fleet.bare,
            }
        return told


def place(
    shape: Shape,
    *,
    qps: float,
    p95_ms: float,
    costs: Costs,
    quality: Curves | None = None,
    device: str = "cpu",
    machine: Machine | None = None,
    assumed: Assumed | None = None,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> Placement:
    """shape: of the whole corpus; the rest as for `plan`. batch_tokens: of `capacity`, where one machine holds all. progress: gets the
    answers of shards that were simulated, and 0, for nobody knows of how many. Raises InputError, also where no number of shards makes a
    plan fit."""
    if finite_number("placement: qps", qps) <= 0:
        raise InputError("placement: qps", got=qps, expected="queries a second above 0")
    there, known = machine or Machine.here(), assumed or Assumed()
    curves, why = quality or Curves.load(), f"more than the {known.shard_size:,} documents of a shard"
    if shape.corpus_size <= known.shard_size:
        one = _on_one(shape, qps, p95_ms, costs, curves, device, there, known, batch_tokens)
        if isinstance(one, Placement):
            return one
        why = one
    if device != "cpu":
        got, expected = (
            f"{device}, and {shape.corpus_size:,} documents for one machine: {why}",
            "cpu for shards: GPUs of a fleet are not placed",
        )
        raise InputError("placement: device", got=got, expected=expected)
    return _over_shards(shape, qps, p95_ms, costs, curves, there, known, why, Tries(progress))


class _Passed:
    """Why configurations were not taken. late: what retrieves alike -> how far the upper end of the interval lay above the p95 where its
    shards were late, the least, and why: shards of what lies as far are late, too, whatever comes after them."""

    def __init__(self, shape: Shape, costs: Costs, machine: Machine, known: Assumed, device: str = "cpu") -> None:
        self.given, self.why = (shape, costs, machine, known, device), dict[Chain, tuple[Candidate, str]]()
        self.late = dict[tuple[str, ...], tuple[float, str]]()

    def able(self, candidate: Candidate) -> bool:
        """Whether it may be tried."""
        if candidate.chain not in self.why:
            why, (least, late) = lack(candidate, *self.given), self.late.get(candidate.chain.first, (inf, ""))
            if not why and candidate.sure_p95 / candidate.latency.p95 >= least:
                why = f"'{candidate.chain.name}': as {late}"
            if why:
                self.why[candidate.chain] = candidate, why
        return candidate.chain not in self.why

    def failed(self, sizing: Sizing) -> None:
        candidate = sizing.candidate
        self.why[candidate.chain] = candidate, sizing.why
        if sizing.late:
            share = candidate.sure_p95 / candidate.latency.p95
            self.late[candidate.chain.first] = min(self.late.get(candidate.chain.first, (inf, "")), (share, sizing.why))

    def smallest(self, p95_ms: float) -> str:
        """Of what keeps to the budget; "" where nothing does."""
        within = [(sum(memory_of(each, self.given[0]).values()), why) for each, why in self.why.values() if each.sure_p95 <= p95_ms]
        return min(within)[1] if within else ""

    def better(self, chosen: Candidate, p95_ms: float) -> tuple[str, ...]:
        """Than what was chosen, within the budget; the best first."""
        found = [(each.quality.value, why) for each, why in self.why.values() if each.sure_p95 <= p95_ms]
        return tuple(f"{value:.4f}: {why}" for value, why in sorted(found, reverse=True) if value > chosen.quality.value)


def _on_one(
    shape: Shape, qps: float, p95_ms: float, costs: Costs, curves: Curves, device: str, machine: Machine, known: Assumed, tokens: int | None
) -> Placement | str:
    """Where one machine holds all: the best plan that it holds; else why there is none."""
    passed = _Passed(shape, costs, machine, known, device)
    try:
        own = plan(p95_ms=p95_ms, shape=shape, quality=curves, costs=costs, device=device, able=passed.able)
    except InputError as error:
        return passed.smallest(p95_ms) or str(error)
    needed = threads_of(list(own.chosen.latency.parts), costs) if device == "cpu" else machine.processors
    capacity = own.capacity(qps, processes=machine.processors // needed, **({} if tokens is None else {"batch_tokens": tokens}))
    memory, beyond = memory_of(own.chosen, shape), extrapolated(own.chosen, costs, shape)
    better = passed.better(own.chosen, p95_ms)
    return Placement(own, shape, qps, 1, machine, memory, None, capacity, beyond, capacity.assumptions, better)


def _over_shards(
    shape: Shape, qps: float, p95_ms: float, costs: Costs, curves: Curves, machine: Machine, known: Assumed, why: str, tries: Tries
) -> Placement:
    able, simulated, before = curves.only(on_shards), 0, inf
    shards, least = 1, max(2, ceil(shape.corpus_size / known.shard_size))
    for shards in _counts(least, shape.corpus_size):
        own, tried = replace(shape, corpus_size=ceil(shape.corpus_size / shards)), list[Sizing]()
        passed = _Passed(own, costs, machine, known)
        while True:  # the best; where no fleet of it keeps to the budget, the next one
            try:
                made = plan(p95_ms=p95_ms, shape=own, quality=able, costs=costs, able=passed.able)
            except InputError as error:
                why = tried[-1].why if tried else passed.smallest(p95_ms) or str(error)  # more shards have fewer documents
                break
            sizing = Sizing(made, made.chosen, costs, qps, shards, machine, known, tries)
            if (fleet := sizing.fleet()) is not None:
                memory, beyond = memory_of(made.chosen, shape), extrapolated(made.chosen, costs, own)
                better = passed.better(made.chosen, p95_ms)
                return Placement(made, shape, qps, shards, machine, memory, fleet, None, beyond, assumptions(sizing), better)
            passed.failed(sizing)
            tried.append(sizing)
        if not tried:
            continue
        quickest, simulated = min(tried, key=lambda each: each.alone_p95), simulated + 1
        why = quickest.why
        if simulated == MORE or (before < inf and quickest.alone_p95 > 0.99 * before):
            why += "; more shards did not help"
            break
        before = quickest.alone_p95
    got = f"{shape.corpus_size:,} documents, in up to {shards:,} shards: {why}"
    raise InputError("placement", got=got, expected="a plan over shards that machines hold and that answers in time")


def _counts(least: int, documents: int) -> Iterator[int]:
    """Numbers of shards to try: the least, then always a quarter more, up to SHARDS, while a shard has a thousand documents."""
    shards = least
    while shards == least or (shards <= SHARDS and documents / shards >= 1000):
        yield shards
        shards = max(shards + 1, round(1.25 * shards))


def assumptions(sizing: Sizing) -> tuple[str, ...]:
    known, machine, spare = sizing.assumed, sizing.machine, sizing.spare
    return (
        f"arrivals: Poisson, {sizing.qps:g} queries a second on average; {sizing.queries:,} simulated, {sizing.seconds:,.1f} s",
        "the machines suffice for the upper end of the interval of a plan's times"
        + (", one of each kind gone all the time" if spare else ""),
        f"a machine: {machine.memory / 1e9:,.0f} GB, of which indexes take {known.filled:.0%} at most, and {machine.processors} processors "
        "as fast as those that were calibrated, however many are busy; what models take is left out",
        f"a shard: at most {known.shard_size:,} documents, all of its files in memory; every query asks every shard, and shards know "
        "the statistics of all, so that their lists are one index's, bit for bit, and the measured quality holds",
        "only what the engine does over shards: BM25, dense retrieval, late interaction, their fusion, then cross-encoders",
        "the query is encoded once, in front, and lists are joined there; several ways to retrieve take a shard one after the other",
        "a shard's time: the plan's for its documents, lognormal; long queries are long everywhere, noise is each try's own",
        f"a question goes to the least busy replica of a shard; re-rankers work in waves of {WAVE_MS:g} ms shared by all that wait, a "
        "query goes to the less busy of two drawn at random",
        f"stragglers: {known.straggling[0]:.1%} of tries take {known.straggling[1]:g} times as long",
        f"a shard is asked again, at another replica, after the {known.hedge[0]:.0%} quantile of the last answers: at most "
        f"{known.hedge[1]:.0%} more tries, and in any case after a third of its time",
        f"a machine fails every {known.failures[0]:g} hours and is back after {known.failures[1]:g} minutes; in the time simulated hardly "
        "any does, and its shards die each by itself: failures count by what is gone all the time, and by the time without a replica",
        f"an answer without the shards that took longer than {HALF * sizing.plan.budget_ms:g} ms, half of the budget, is partial: "
        f"{known.partial:.1%} of all may be",
        f"the network: {known.hop_ms:g} ms from machine to machine; counts of terms and texts are fetched in no time",
        "no cache, no bursts, no updates; bytes by the formulas of planning/memory.py; one price for all machines",
    )
