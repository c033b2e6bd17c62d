"""Where a plan goes: shards, replicas, machines, memory and cost of a corpus that one machine does not hold, from what stages cost here.

The corpus is cut into shards of equal size, and the pipeline planned for a shard's documents. A query goes to every shard at once; each
retrieves, and re-scores by what is stored with its documents (vectors, late interaction). Then one re-ranker runs the cross-encoder on
the best of all. Machines of the first kind hold k shards each (`memory`: all their files) and split their processors among them; those of
the second hold models.

The fewest shards are taken with which a plan keeps to the budget and its memory to the machine; of the plans that do, the best; then the
fewest machines whose simulated p95 (`fleet`), with one machine of each kind gone all the time, keeps to the budget.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil, expm1, log1p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpus import available_cpus
from ..errors import InputError
from ..ops.checks import count, finite_number
from .capacity import FILL, Capacity
from .costs import Costs
from .fleet import Outcome, Passage, Tier, passing, simulate, spread_of
from .memory import memory_of
from .plan import Candidate, Plan, plan
from .quality import Curves
from .shape import Shape
from .work import Latency, Part, latency_of

TRIES, LEAST, QUERIES = 100_000, 1_500, 20_000  # simulated: answers of shards, and queries at least and at most
MOST = 4096  # machines of a kind
IDLE = 0.2  # share of its time that a shard's replica works: with still more replicas hardly anybody waits less
WAVE_MS = 50.0  # of the server: what a re-ranker does at a time


@dataclass(frozen=True, slots=True)
class Machine:
    """memory: bytes; price_hour: in any currency, None: not told."""

    memory: float
    processors: int
    price_hour: float | None = None

    @classmethod
    def here(cls, price_hour: float | None = None) -> Machine:
        """This one: its memory, and the processors that this process may use."""
        return cls(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), available_cpus(), price_hour)


@dataclass(frozen=True, slots=True)
class Assumed:
    """What nobody measured. shard_size: documents of a shard at most. redundancy: replicas of everything at least. filled: share of the
    memory that indexes may take. hop_ms: the network from machine to machine, one way. straggling: (share of tries, times longer); hedge:
    (quantile of the last answers after which a shard is asked again, most such tries, as a share). failures: (hours between two of a
    machine, minutes of repair). partial: the share of answers without a shard that is put up with."""

    shard_size: int = 16_000_000
    redundancy: int = 2
    filled: float = 0.8
    hop_ms: float = 0.5
    straggling: tuple[float, float] = (0.01, 5.0)
    hedge: tuple[float, float] = (0.95, 0.05)
    failures: tuple[float, float] = (720.0, 10.0)
    partial: float = 0.001

    def __post_init__(self) -> None:
        count("placement: shard_size", self.shard_size)
        count("placement: redundancy", self.redundancy)
        finite_number("placement: filled", self.filled, 0.01, 1)
        finite_number("placement: partial", self.partial, 0, 1)
        if min(self.failures) <= 0:
            raise InputError("placement: failures", got=self.failures, expected="hours and minutes above 0")


@dataclass(frozen=True, slots=True)
class Fleet:
    """held: shards on a machine; shard_replicas of each; rerankers: processes, 0 without a cross-encoder; machines of both kinds. p50, p95,
    p99 ms and the share of partial answers: simulated, `gone` with a machine of each kind gone all the time. bare: how often, as a share
    of the time, some shard has no replica."""

    held: int
    shard_replicas: int
    rerankers: int
    shard_machines: int
    reranker_machines: int
    response: Mapping[str, float]
    gone: Mapping[str, float]
    bare: float

    @property
    def machines(self) -> int:
        return self.shard_machines + self.reranker_machines


@dataclass(frozen=True)
class Placement:
    """plan: of one shard's documents, with what is placed as `chosen`. shape: of the whole corpus. memory: bytes of a copy of the corpus by
    index. fleet: None where one machine holds all: then `capacity` says how many of it. extrapolated: what was calibrated on fewer
    documents than a shard has."""

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
            "assumptions": list(self.assumptions),
        }
        if self.fleet is not None:
            names = ("held", "shard_replicas", "rerankers", "shard_machines", "reranker_machines")
            told |= {name: getattr(self.fleet, name) for name in names}
            told |= {
                "response": dict(self.fleet.response),
                "response_one_gone": dict(self.fleet.gone),
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
) -> Placement:
    """shape: of the whole corpus; the rest as for `plan`. batch_tokens: of `capacity`, where one machine holds all. Raises InputError, also
    where no number of shards makes a plan fit."""
    if finite_number("placement: qps", qps) <= 0:
        raise InputError("placement: qps", got=qps, expected="queries a second above 0")
    there, known = machine or Machine.here(), assumed or Assumed()
    if there.memory <= 0 or there.processors < 1 or (there.price_hour or 0) < 0:
        raise InputError("placement: machine", got=there, expected="memory, processors and a price that are no less than nothing")
    told: InputError | None = None
    for shards in _counts(ceil(shape.corpus_size / known.shard_size), shape.corpus_size):
        own = replace(shape, corpus_size=ceil(shape.corpus_size / shards))
        try:
            made = plan(p95_ms=p95_ms, shape=own, quality=quality, costs=costs, device=device)
        except InputError as error:  # more shards have fewer documents
            told = error
            continue
        search = _Search(made, costs, shape, qps, shards, there, known)
        if shards == 1 and sum(memory_of(made.chosen, shape).values()) <= there.memory * known.filled:
            needed = made.capacity(qps, **({} if batch_tokens is None else {"batch_tokens": batch_tokens}))
            return search.placed(made.chosen, None, needed)
        for candidate in reversed([each for each in made.frontier if each.sure_p95 <= p95_ms]):
            if shards > 1 and (fleet := search.fleet(candidate)) is not None:
                return search.placed(candidate, fleet, None)
        told = InputError("placement", got=f"{shards} shards", expected="a plan that this machine holds and that answers in time")
    raise told or InputError("placement", got="no number of shards", expected="one that a plan fits")


def _counts(least: int, documents: int) -> Iterator[int]:
    """Numbers of shards to try: the least, then always a quarter more, while a shard has a thousand documents."""
    shards = max(least, 1)
    while shards == max(least, 1) or documents / shards >= 1000:
        yield shards
        shards = max(shards + 1, round(1.25 * shards))


def shard_part(part: Part) -> bool:
    """Whether a stage runs beside the index: all but the cross-encoder."""
    return part.stage != "cross"


class _Search:
    """The fewest machines of one plan."""

    def __init__(self, made: Plan, costs: Costs, shape: Shape, qps: float, shards: int, machine: Machine, assumed: Assumed) -> None:
        self.plan, self.costs, self.shape, self.qps, self.shards = made, costs, shape, qps, shards
        self.machine, self.assumed, self.spare = machine, assumed, assumed.redundancy > 1
        self.queries = int(np.clip(TRIES // shards, LEAST, QUERIES))

    def fleet(self, candidate: Candidate) -> Fleet | None:
        """None where a machine cannot hold a shard, or nothing keeps to the budget however many there are."""
        size, room = sum(memory_of(candidate, self.plan.shape).values()), self.machine.memory * self.assumed.filled
        self.parts = candidate.latency.parts
        threads = self._threads([part for part in self.parts if shard_part(part)])
        most = min(int(room // size), self.machine.processors // threads, self.shards)
        if most < 1:
            return None
        self._draw(candidate)
        if not self._alone():
            return None
        best = None
        for held in sorted({ceil(most / 2**i) for i in range(most.bit_length())}, reverse=True):
            made = self._with(held, max(1, self.machine.processors // (threads * held)), best.machines if best else MOST)
            best = made or best
        return best

    def _threads(self, parts: list[Part]) -> int:
        """Processors that a query takes at a time: of its stages the most; a GPU is one."""
        if self.plan.device != "cpu":
            return self.machine.processors if any(part.tokens for part in parts) else 1
        return max((cost.threads for part in parts if (cost := self.costs.find(part.stage)) is not None), default=1)

    def _draw(self, candidate: Candidate) -> None:
        """Arrivals, and each query's work in both tiers: long ones are long in both."""
        rng = np.random.default_rng(0)
        self.fill = max(self.queries // 10, min(2 * self.queries, int(FILL * self.qps * candidate.latency.p95 / 1e3)))
        n = self.fill + self.queries
        self.arrivals = np.cumsum(rng.exponential(1e3 / self.qps, n))
        long, self.work = rng.standard_normal(n), list[NDArray[np.float64]]()
        self.kinds = [own for own in ([p for p in self.parts if shard_part(p)], [p for p in self.parts if not shard_part(p)]) if own]
        self.noise = []
        for parts in self.kinds:
            told: Latency = latency_of(parts)
            tail = float(np.hypot(sum(p.length for p in parts), sum(p.query for p in parts)))
            own = float(np.sqrt(sum(p.noise**2 for p in parts)))
            self.work.append(np.asarray(told.p50 * np.exp(spread_of(1 + tail / told.p50) * long), np.float64))
            self.noise.append(1 + own / told.p50)

    def _tier(self, replicas: int, servers: int, held: int, gone: bool) -> Tier:
        known, hours = self.assumed, self.assumed.failures
        return Tier(
            "shards", shards=self.shards, replicas=replicas, servers=servers, noise=self.noise[0], straggling=known.straggling,
            hedge=known.hedge, failures=(3600 * hours[0], 60 * hours[1]), down=(1, held) if gone else (0, 0),
            deadline_ms=self.plan.budget_ms + 2 * known.hop_ms, hop_ms=known.hop_ms,
        )  # fmt: skip

    def _rerankers(self, machines: int, each: int, gone: bool) -> Tier:
        known, hours = self.assumed, self.assumed.failures
        return Tier(
            "re-rankers", replicas=machines * each, wave_ms=WAVE_MS, noise=self.noise[1], straggling=known.straggling,
            failures=(3600 * hours[0], 60 * hours[1]), down=(each, 1) if gone else (0, 0), hop_ms=known.hop_ms,
        )  # fmt: skip

    def _alone(self) -> bool:
        """Whether a query keeps to the budget when it is the only one."""
        some = min(1000, len(self.arrivals))
        tiers = [self._tier(2, 1, 1, False), *([self._rerankers(2, 1, False)] if len(self.work) > 1 else [])]
        told = simulate(1e6 * np.arange(some, dtype=np.float64), tiers, [own[:some] for own in self.work])
        return told.percentile(95) <= self.plan.budget_ms

    def _with(self, held: int, servers: int, most: int) -> Fleet | None:
        """The fewest replicas where a machine holds so many shards, by bisection; None where that takes `most` machines or more."""
        busy, places = self.qps * float(self.work[0].mean()) / 1e3 / servers, ceil(self.shards / held)
        low = max(self.assumed.redundancy, int(busy) + 1) - 1
        high, some = max(low + 1, min(ceil(busy / IDLE), (most - 1) // places)), self.queries

        def first(replicas: int, n: int) -> Passage:
            return passing(self.arrivals[:n], self.work[0][:n], self._tier(replicas, servers, held, self.spare))

        if (low + 1) * places >= most or not self._kept(first(high, some), some // 10):
            return None
        while high - low > 1:  # the first queries tell enough, for the work of shards is short
            middle = (low + high) // 2
            low, high = (low, middle) if self._kept(first(middle, some), some // 10) else (middle, high)
        for replicas in range(high, high + 3):
            whole = first(replicas, len(self.arrivals))
            if self._kept(whole, self.fill) and (machines := self._models(whole)) is not None:
                return self._told(held, servers, replicas, machines) if replicas * places + machines < most else None
        return None

    def _kept(self, first: Passage, fill: int) -> bool:
        """Whether re-rankers that nobody waits for would do."""
        n = len(first.done)
        took = first.done - self.arrivals[:n] + (self.work[1][:n] + 2 * self.assumed.hop_ms if len(self.work) > 1 else 0.0)
        within = np.percentile(took[fill:], 95) <= self.plan.budget_ms
        return bool(within and first.partial[fill:].mean() <= self.assumed.partial)

    def _models(self, first: Passage) -> int | None:
        """The fewest machines of re-rankers, 0 without any; by bisection."""
        if len(self.work) == 1:
            return 0
        each = self._each()

        def keeps(machines: int) -> bool:
            took = passing(first.done, self.work[1], self._rerankers(machines, each, self.spare), seed=1).done - self.arrivals
            return bool(np.percentile(took[self.fill :], 95) <= self.plan.budget_ms)

        low = max(self.assumed.redundancy, int(self.qps * float(self.work[1].mean()) / 1e3 / each) + 1) - 1
        high = low + 1
        while not keeps(high):
            if high > MOST:
                return None
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if keeps(middle) else (middle, high)
        return high

    def _each(self) -> int:
        """Re-rankers of a machine."""
        return max(1, self.machine.processors // self._threads(self.kinds[1]))

    def _told(self, held: int, servers: int, replicas: int, machines: int) -> Fleet:
        def run(gone: bool) -> Outcome:
            tiers = [self._tier(replicas, servers, held, gone)]
            if machines:
                tiers.append(self._rerankers(machines, self._each(), gone))
            return simulate(self.arrivals, tiers, self.work, fill=self.fill)

        response, gone = (_figures(run(gone)) for gone in (False, self.spare))
        hours, minutes = self.assumed.failures
        down = minutes / 60 / (hours + minutes / 60)
        bare = -expm1(ceil(self.shards / held) * log1p(-(down**replicas)))
        rerankers = machines * self._each() if machines else 0
        return Fleet(held, replicas, rerankers, ceil(self.shards / held) * replicas, machines, response, gone, bare)

    def placed(self, candidate: Candidate, fleet: Fleet | None, needed: Capacity | None) -> Placement:
        sizes = [cost for part in candidate.latency.parts if (cost := self.costs.find(part.stage)) is not None]
        beyond = tuple(
            f"{cost.stage}: calibrated on at most {cost.searched:,} documents"
            for cost in sizes
            if cost.per_corpus_ms + cost.searched and cost.searched < self.plan.shape.corpus_size
        )
        lines = needed.assumptions if needed is not None else ()
        if fleet is not None:
            lines = assumptions(self, fleet)
        memory = memory_of(candidate, self.shape)
        return Placement(
            replace(self.plan, chosen=candidate), self.shape, self.qps, self.shards, self.machine, memory, fleet, needed, beyond, lines
        )


def _figures(told: Outcome) -> dict[str, float]:
    """Rounded, as they are printed."""
    found = {f"p{q}_ms": round(told.percentile(q), 1) for q in (50, 95, 99)}
    tiers = zip(("shards", "rerankers"), told.tiers)
    return {**found, "partial": round(told.partial, 6), **{f"busy_{name}": round(tier.utilisation, 3) for name, tier in tiers}} | {
        "asked_again": round(told.tiers[0].hedged, 4), "extra_work": round(told.tiers[0].extra, 4)
    }  # fmt: skip


def assumptions(search: _Search, fleet: Fleet) -> tuple[str, ...]:
    known, machine = search.assumed, search.machine
    return (
        f"arrivals: Poisson, {search.qps:g} queries a second on average; {search.queries:,} simulated",
        f"a machine: {machine.memory / 1e9:,.0f} GB, of which indexes take {known.filled:.0%} at most, and {machine.processors} processors "
        "as fast as those that were calibrated, however many are busy",
        f"a shard: at most {known.shard_size:,} documents, all of its files in memory; every query asks every shard, and shards know "
        "the statistics of all, so that their lists are one index's",
        "what reads stored vectors or tokens runs at the shards, each on its own first documents; a cross-encoder on the best of all",
        "each shard encodes the query itself, for every stage that reads its vectors",
        "a shard's time: the plan's for its documents, lognormal; long queries are long everywhere, noise is each try's own",
        "a query goes to the less busy of two replicas drawn at random; "
        f"re-rankers work in waves of {WAVE_MS:g} ms shared by all that wait",
        f"stragglers: {known.straggling[0]:.1%} of tries take {known.straggling[1]:g} times as long",
        f"a shard is asked again, at another replica, after the {known.hedge[0]:.0%} quantile of its last answers: at most "
        f"{known.hedge[1]:.0%} more tries",
        f"a machine fails every {known.failures[0]:g} hours and is back after {known.failures[1]:g} minutes; what it held is sent again at "
        "once" + ("; the machines suffice with one of each kind gone all the time" if search.spare else ""),
        f"an answer without the shards that took longer than {search.plan.budget_ms:g} ms is partial: {known.partial:.1%} of all may be",
        f"the network: {known.hop_ms:g} ms from machine to machine; what stands before the shards and joins their lists takes no time",
        "no cache, no bursts, no updates; bytes by the formulas of planning/memory.py; one price for all machines",
    )
