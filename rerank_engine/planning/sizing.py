"""The machines of one plan over so many shards: about the fewest whose simulated p95 keeps to the budget.

Three tiers one after the other: the front encodes the query and joins the lists of what retrieves, the shards search, the re-rankers run
the cross-encoder. What the fewest are is told by bisection over simulations of the upper end of the plan's interval, with one machine of
each kind gone all the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count as numbers
from math import ceil, expm1, inf, log1p

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..progress import Progress
from ..sharding.scatter import LATE
from .assumed import Assumed, Machine
from .costs import Costs
from .fleet import Outcome, Passage, Tier, passing, simulate, spread_of
from .memory import memory_of
from .plan import Candidate, Plan
from .quality import Chain
from .shape import Shape
from .work import Part, latency_of

TRIES, LEAST, QUERIES = 100_000, 1_500, 20_000  # simulated: answers of shards, and queries at least and at most
ALONE = (100, 1_000)  # queries at least and at most that nobody waits for
ALL_TRIES = 30_000_000  # answers of shards that the whole search simulates: some minutes
MOST = 4096  # machines of a kind
IDLE = 0.2  # share of its time that a shard's replica works: with still more replicas hardly anybody waits less
RARELY = 0.25  # of its time that a re-ranker works: with still more of them hardly anybody waits less
FRONT_BUSY = 0.5  # share of their time that machines of the front work at most
FILL = 5  # of the slowest answers, whose time fills the queues
WAVE_MS = 50.0  # of the server: what a re-ranker does at a time
HALF = 0.5  # of the budget that shards have (`stages.Sharded`)
KINDS = ("front", "shards", "rerankers")
Floats = NDArray[np.float64]


def on_shards(chain: Chain) -> bool:
    """Whether the engine runs it over shards: retrieval that `Sharded` does, then cross-encoders, which read texts alone."""
    return {*chain.first} <= {"bm25", "dense", "late"} and all(own.kind == "cross" for own in chain.rerankers)


def threads_of(parts: list[Part], costs: Costs) -> int:
    """Processors that a query takes at a time: of its stages the most."""
    return max((cost.threads for part in parts if (cost := costs.find(part.stage)) is not None), default=1)


def tiers_of(candidate: Candidate, costs: Costs) -> dict[str, list[Part]]:
    """KINDS -> its parts, of those that have any. Branches of a fusion are taken as one after the other: at a shard all of them work."""
    first, fuse = candidate.chain.first, costs.find("fuse")
    beside = fuse.per_branch_ms if fuse is not None and len(first) > 1 and fuse.per_branch_ms else 1.0
    found: dict[str, list[Part]] = {kind: [] for kind in KINDS}
    for part in candidate.latency.parts:
        if part.stage == "fuse" and fuse is not None:  # the noise of its branches is theirs
            found["front"].append(replace(part, noise=part.ms * (fuse.spread - 1), error=part.ms * fuse.error))
        elif part.stage == "cross":
            found["rerankers"].append(part)
        else:
            encode, search = part.scaled(1 / beside).halves()
            found["front"] += [encode] if encode.ms else []
            found["shards"].append(search)
    return {kind: own for kind, own in found.items() if own}


def lack(candidate: Candidate, shape: Shape, costs: Costs, machine: Machine, assumed: Assumed, device: str = "cpu") -> str:
    """Why a machine does not hold all that a configuration reads of so many documents; "" where it does."""
    room, size = machine.memory * assumed.filled, sum(memory_of(candidate, shape).values())
    threads = threads_of(list(candidate.latency.parts), costs) if device == "cpu" else 1
    if size > room:
        documents = f"'{candidate.chain.name}' of {shape.corpus_size:,} documents"
        return f"{documents} takes {size / 1e9:,.3g} GB, a machine has {room / 1e9:,.3g}"
    if threads > machine.processors:
        return f"'{candidate.chain.name}': stages were calibrated on {threads} threads, a machine has {machine.processors} processors"
    return ""


@dataclass(frozen=True, slots=True)
class Fleet:
    """held: shards on a machine; shard_replicas of each; rerankers: processes, 0 without a cross-encoder; machines of the three kinds.
    p50, p95, p99 ms and the share of partial answers, simulated: `response` of the plan's own times, `upper` of the upper end of their
    interval, `gone` of that with a machine of each kind gone all the time, None without redundancy. bare: how often, as a share of the
    time, some shard has no replica."""

    held: int
    shard_replicas: int
    rerankers: int
    front_machines: int
    shard_machines: int
    reranker_machines: int
    response: Mapping[str, float]
    upper: Mapping[str, float]
    gone: Mapping[str, float] | None
    bare: float

    @property
    def machines(self) -> int:
        return self.front_machines + self.shard_machines + self.reranker_machines


class Tries:
    """Answers of shards that may still be simulated."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.left, self.progress = ALL_TRIES, progress

    def spend(self, n: int) -> None:
        self.left -= n
        if self.progress is not None:
            self.progress(ALL_TRIES - self.left, 0)
        if self.left < 0:
            got, hint = f"{ALL_TRIES:,} simulated answers of shards, and no fleet yet", "A larger budget or larger shards are found sooner."
            raise InputError("placement", got=got, expected="a fleet by then", hint=hint)


class Sizing:
    """Of one candidate of a plan for a shard's documents. queries: simulated, after `fill` that fill the queues; seconds: that they take.
    why: what kept it from being a fleet; late: it is the shards, whatever comes after them; alone_p95: ms, of the upper end, when nobody
    else asks, infinite where answers lack shards."""

    def __init__(
        self, made: Plan, candidate: Candidate, costs: Costs, qps: float, shards: int, machine: Machine, assumed: Assumed, tries: Tries
    ) -> None:
        self.plan, self.qps, self.shards, self.machine, self.assumed, self.tries = made, qps, shards, machine, assumed, tries
        self.candidate, self.spare, self.why, self.alone_p95 = candidate, assumed.redundancy > 1, "", inf
        self.late = False
        self.size = sum(memory_of(candidate, made.shape).values())
        self.parts = tiers_of(candidate, costs)
        self.threads = {kind: threads_of(own, costs) for kind, own in self.parts.items()}
        self.queries = int(np.clip(TRIES // shards, LEAST, QUERIES))

    def fleet(self) -> Fleet | None:
        """None where nothing keeps to the budget however many there are."""
        self._draw()
        if not self._alone() or not self._ever():
            return None
        threads, best = self.threads["shards"], None
        most = min(int(self.machine.memory * self.assumed.filled // self.size), self.machine.processors // threads, self.shards)
        for held in sorted({ceil(most / 2**i) for i in range(most.bit_length())}, reverse=True):
            made = self._with(held, max(1, self.machine.processors // (threads * held)), best)
            best = made or best
        if best is None:
            self._no("no number of machines keeps to the budget")
        return None if best is None else self._told(*best)

    def _no(self, why: str) -> None:
        self.why = f"'{self.candidate.chain.name}': {why}"

    def _draw(self) -> None:
        """Arrivals, and each query's work in every tier: long ones are long in all."""
        rng, latency = np.random.default_rng(0), self.candidate.latency
        self.fill = max(self.queries // 10, min(2 * self.queries, int(FILL * self.qps * latency.p95 / 1e3)))
        n = self.fill + self.queries
        self.arrivals = np.cumsum(rng.exponential(1e3 / self.qps, n))
        self.seconds = float(self.arrivals[-1] - self.arrivals[self.fill]) / 1e3
        long, self.sure = rng.standard_normal(n), self.candidate.sure_p95 / latency.p95
        self.work, self.noise = dict[str, Floats](), dict[str, float]()
        for kind, parts in self.parts.items():
            told = latency_of(parts)
            tail = float(np.hypot(sum(p.length for p in parts), sum(p.query for p in parts)))
            own = float(np.sqrt(sum(p.noise**2 for p in parts)))
            self.work[kind] = np.asarray(told.p50 * np.exp(spread_of(1 + tail / told.p50) * long), np.float64)
            self.noise[kind] = 1 + own / told.p50
        self.most_work = {kind: self.sure * own for kind, own in self.work.items()}
        self.fronts, self.entered = 0, self.arrivals
        if "front" in self.work:
            busy = self.qps * float(self.most_work["front"].mean()) / 1e3 / self._each("front")
            self.fronts = max(self.assumed.redundancy, ceil(busy / FRONT_BUSY) + self.spare)
            self.entered = passing(self.arrivals, self.most_work["front"], self._front(self.spare)).done

    def _each(self, kind: str) -> int:
        """Queries that a machine which holds no shard works on at a time."""
        return max(1, self.machine.processors // self.threads[kind])

    def _front(self, gone: bool, replicas: int | None = None) -> Tier:
        there, down = replicas or self.fronts, (1, 1) if gone else (0, 0)
        return Tier("front", replicas=there, servers=self._each("front"), noise=self.noise["front"], down=down)

    def _shards(self, replicas: int, servers: int, held: int, gone: bool) -> Tier:
        known, hours = self.assumed, self.assumed.failures
        return Tier(
            "shards", shards=self.shards, replicas=replicas, servers=servers, noise=self.noise["shards"], straggling=known.straggling,
            hedge=known.hedge, late=LATE, least=True, failures=(3600 * hours[0], 60 * hours[1]), down=(1, held) if gone else (0, 0),
            deadline_ms=HALF * self.plan.budget_ms, hop_ms=known.hop_ms,
        )  # fmt: skip

    def _rerankers(self, machines: int, gone: bool) -> Tier:
        known, hours, each = self.assumed, self.assumed.failures, self._each("rerankers")
        documents = sum(own.depth for own in self.candidate.chain.rerankers)
        return Tier(
            "re-rankers", replicas=machines * each, wave_ms=WAVE_MS, piece_ms=float(self.work["rerankers"].mean()) / documents,
            noise=self.noise["rerankers"], straggling=known.straggling, failures=(3600 * hours[0], 60 * hours[1]),
            down=(each, 1) if gone else (0, 0), hop_ms=known.hop_ms,
        )  # fmt: skip

    def _alone(self) -> bool:
        """Whether a query keeps to the budget when it is the only one."""
        some = min(len(self.arrivals), int(np.clip(TRIES // self.shards, *ALONE)))
        self.tries.spend(some * self.shards)
        tiers = [self._front(False, 2)] if self.fronts else []
        tiers.append(self._shards(2, 1, 1, False))
        tiers += [self._rerankers(2, False)] if "rerankers" in self.work else []
        work = [own[:some] for own in self.most_work.values()]
        told = simulate(1e6 * np.arange(some, dtype=np.float64), tiers, work)
        if told.partial > max(self.assumed.partial, 2 / some):
            late = f"lack a shard that takes longer than the {HALF * self.plan.budget_ms:g} ms, half of the budget, that shards have"
            self._no(f"{told.partial:.1%} of answers {late}, with nobody else asking")
            self.late = True
            return False
        self.alone_p95 = told.percentile(95)
        if self.alone_p95 > self.plan.budget_ms:
            self._no(f"{self.alone_p95:.4g} ms at p95 with nobody else asking, by the upper end of its interval")
        return not self.why

    def _ever(self) -> bool:
        """Whether machines of one shard each, and re-rankers, that are hardly ever busy keep to the budget."""
        servers = self._each("shards")
        busy = self.qps * float(self.most_work["shards"].mean()) / 1e3 / servers
        whole = self._first(max(self.assumed.redundancy, ceil(busy / IDLE)) + 1, servers, 1, len(self.arrivals))
        if not self._kept(whole, self.fill) or self._models(whole) is None:
            self._no("too slow even with machines that are hardly ever busy" + (", one of each gone" if self.spare else ""))
        return not self.why

    def _with(self, held: int, servers: int, best: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
        """(held, servers, replicas, re-ranker machines) where a machine holds so many shards, if those are fewer machines than the best
        so far; by bisection over the replicas, then with one more at a time while that may still be fewer."""
        places, least = ceil(self.shards / held), self._least_models()
        most = MOST if best is None else ceil(self.shards / best[0]) * best[2] + best[3]
        busy = self.qps * float(self.most_work["shards"].mean()) / 1e3 / servers
        low = max(self.assumed.redundancy, int(busy) + 1) - 1
        high, some = max(low + 2, min(ceil(busy / IDLE), (most - 1) // places)), self.queries
        if (low + 1) * places >= most or not self._kept(self._first(high, servers, held, some), some // 10):
            return None
        while high - low > 1:  # the first queries tell enough, for the work of shards is short
            middle = (low + high) // 2
            low, high = (low, middle) if self._kept(self._first(middle, servers, held, some), some // 10) else (middle, high)
        found = None
        for replicas in numbers(high):
            if replicas * places + least >= most or (found is None and replicas > high + 2):
                return found
            whole = self._first(replicas, servers, held, len(self.arrivals))
            machines = self._models(whole) if self._kept(whole, self.fill) else None
            if machines is not None and replicas * places + machines < most:
                found, most = (held, servers, replicas, machines), replicas * places + machines
        return found

    def _first(self, replicas: int, servers: int, held: int, n: int) -> Passage:
        self.tries.spend(n * self.shards)
        return passing(self.entered[:n], self.most_work["shards"][:n], self._shards(replicas, servers, held, self.spare), seed=1)

    def _kept(self, first: Passage, fill: int) -> bool:
        """Whether re-rankers that nobody waits for would do."""
        n = len(first.done)
        took = first.done - self.arrivals[:n]
        if "rerankers" in self.work:
            took = took + self.most_work["rerankers"][:n] + 2 * self.assumed.hop_ms
        within = np.percentile(took[fill:], 95) <= self.plan.budget_ms
        return bool(within and first.partial[fill:].mean() <= self.assumed.partial)

    def _least_models(self) -> int:
        """Machines of re-rankers that are not busy all the time."""
        if "rerankers" not in self.work:
            return 0
        busy = self.qps * float(self.most_work["rerankers"].mean()) / 1e3 / self._each("rerankers")
        return max(self.assumed.redundancy, int(busy) + 1)

    def _models(self, first: Passage) -> int | None:
        """The fewest machines of re-rankers, 0 without any; by bisection."""
        if "rerankers" not in self.work:
            return 0

        def keeps(machines: int) -> bool:
            self.tries.spend(len(first.done))
            took = passing(first.done, self.most_work["rerankers"], self._rerankers(machines, self.spare), seed=2).done - self.arrivals
            return bool(np.percentile(took[self.fill :], 95) <= self.plan.budget_ms)

        low = self._least_models() - 1
        high = max(low + 1, ceil(low / RARELY)) + self.spare
        if high > MOST or not keeps(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if keeps(middle) else (middle, high)
        return high

    def _told(self, held: int, servers: int, replicas: int, machines: int) -> Fleet:
        def run(work: Mapping[str, Floats], gone: bool) -> dict[str, float]:
            tiers = [self._front(gone)] if self.fronts else []
            tiers.append(self._shards(replicas, servers, held, gone))
            tiers += [self._rerankers(machines, gone)] if machines else []
            seed = 0 if self.fronts else 1  # of each tier the same as above
            return _figures(simulate(self.arrivals, tiers, list(work.values()), fill=self.fill, seed=seed), list(work))

        hours, minutes = self.assumed.failures
        down, places = minutes / 60 / (hours + minutes / 60), ceil(self.shards / held)
        bare = -expm1(places * log1p(-(down**replicas)))
        rerankers = machines * self._each("rerankers") if machines else 0
        gone = run(self.most_work, True) if self.spare else None
        response, upper = run(self.work, False), run(self.most_work, False)
        return Fleet(held, replicas, rerankers, self.fronts, places * replicas, machines, response, upper, gone, bare)


def _figures(told: Outcome, kinds: list[str]) -> dict[str, float]:
    """Rounded, as they are printed."""
    found = {f"p{q}_ms": round(told.percentile(q), 1) for q in (50, 95, 99)}
    shards = told.tiers[kinds.index("shards")]
    busy = {f"busy_{kind}": round(tier.utilisation, 3) for kind, tier in zip(kinds, told.tiers)}
    return {
        **found,
        "partial": round(told.partial, 6),
        **busy,
        "asked_again": round(shards.hedged, 4),
        "extra_work": round(shards.extra, 4),
    }
