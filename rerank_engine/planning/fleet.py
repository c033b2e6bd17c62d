"""A fleet as a discrete-event simulation: queries through tiers of replicas, with waiting, stragglers, second tries and failures.

A query passes its tiers one after the other. A tier has S shards, all of which it asks at once: its time is that of the last one. Each
shard has R replicas, stations with one queue and c servers; a query goes to that of two drawn at random which has less unanswered
(Mitzenmacher, The Power of Two Choices, 2001), or of all. A server takes what waits in one of three ways:

    one at a time     in the order of arrival (batch 1)
    batches           up to `batch` queries, answered together after  max of their fixed parts + sum of the rest
    waves             about `wave_ms` of work in pieces of `piece_ms`, dealt among all that wait by start-time fair queueing, as
                      serve/scheduler.py deals documents: each has its part of the wave, rounded up to whole ones

Times are ms. An answer that is late is asked for again at another replica (`hedge`, `late`), as sharding/scatter.py asks: after a
quantile of the last answers' times, while such tries keep to their share of all, of which SAVED may be saved up, or after a share of the
time to the deadline in any case; the first of both counts, the other is taken out of its queue, or worked to its end where it has
begun. A replica that dies loses what it holds, which is sent again at once, or once a replica is back. Past the deadline of a tier a
query goes on without the shards that are missing: its answer is partial.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..ops.checks import count, finite_number
from ..sharding.scatter import AFRESH, KNOWN, LOOKED_AT, SAVED
from .work import TAIL

_NONE = 1e-9  # ms of work that are none
_LAST = 1 << 60  # more events than there ever are


@dataclass(frozen=True, slots=True)
class Tier:
    """replicas: of each shard; servers: of a replica. fixed: the share of a query's work that a batch pays once. noise: the 95th
    percentile of what replicas differ by, over its median, lognormal, drawn for each try. straggling: (share of tries, how many
    times longer). hedge: (quantile, most second tries as a share of all); late: the share of deadline_ms after which there is one in any
    case, 1: never. least: whether the least loaded of all replicas is asked, not of two. piece_ms: of a wave what is not split, a
    document. failures: (mean seconds between two of a replica, mean seconds of repair), exponential;
    down: (replicas that are never there, in how many shards). hop_ms: of the network, there and
    again back. crowding: how many times longer work takes while all other replicas of the tier are busy too, as on one machine;
    linear in their share. processors: of the one machine that the whole tier shares, hops too: each takes one while it lasts, and
    where more is active than there are, all work slows down."""

    name: str
    shards: int = 1
    replicas: int = 1
    servers: int = 1
    batch: int = 1
    wave_ms: float = inf
    piece_ms: float = 0.0
    fixed: float = 0.0
    noise: float = 1.0
    straggling: tuple[float, float] = (0.0, 1.0)
    hedge: tuple[float, float] | None = None
    late: float = 1.0
    least: bool = False
    failures: tuple[float, float] | None = None
    down: tuple[int, int] = (0, 0)
    deadline_ms: float = inf
    hop_ms: float = 0.0
    crowding: float = 1.0
    processors: float = inf

    def __post_init__(self) -> None:
        for name in ("shards", "replicas", "servers", "batch"):
            count(f"{self.name}: {name}", getattr(self, name))
        least = {"fixed": 0, "noise": 1, "hop_ms": 0, "crowding": 1, "piece_ms": 0}
        for name, low in least.items():
            finite_number(f"{self.name}: {name}", getattr(self, name), low)
        shares = {"fixed": [self.fixed], "straggling": self.straggling[:1], "hedge": self.hedge or (), "late": [self.late]}
        positive = {
            "processors": [self.processors], "wave_ms": [self.wave_ms], "deadline_ms": [self.deadline_ms - 2 * self.hop_ms],
            "straggling": self.straggling[1:], "failures": self.failures or (),
        }  # fmt: skip
        bad = [name for name, own in shares.items() if not all(0 <= share <= 1 for share in own)]
        bad += [name for name, own in positive.items() if not all(value > 0 for value in own)]
        bad += [name for name in ("straggling", "failures") if inf in (getattr(self, name) or ())]
        if bad:
            got = ", ".join(f"{name}={getattr(self, name)}" for name in dict.fromkeys(bad))
            raise InputError(self.name, got=got, expected="shares from 0 to 1; times and factors above 0, a deadline beyond the hops")
        if self.wave_ms < inf and self.servers > 1:
            raise InputError(self.name, got=f"waves by {self.servers} servers of one queue", expected="one server a replica")
        if self.down[0] >= self.replicas and self.down[1] and self.deadline_ms == inf:
            raise InputError(self.name, got=f"{self.down[0]} of {self.replicas} replicas down", expected="one left, or a deadline")


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """How queries came through a tier. done float64 [queries]: ms at which each left; partial bool [queries]. utilisation: work over the
    servers' time from the first arrival to the last, without those that are `down`, at most 1; mean_batch: tries a batch or wave;
    hedged: second tries / answers asked for; extra: their share of all work; resent: tries of replicas that died."""

    done: NDArray[np.float64]
    partial: NDArray[np.bool_]
    utilisation: float
    mean_batch: float
    hedged: float
    extra: float
    resent: int


def passing(arrivals: NDArray[np.float64], work: NDArray[np.float64], tier: Tier, *, seed: int = 0) -> Passage:
    """arrivals, work float64 [queries]: ms at which each comes, in any order, and that each takes at a replica when it is alone, before
    noise. The same seed gives the same. Raises InputError."""
    if arrivals.ndim != 1 or arrivals.shape != work.shape or not len(work):
        raise InputError(tier.name, got=f"arrivals {list(arrivals.shape)}, work {list(work.shape)}", expected="two of one length")
    if not (np.isfinite(arrivals).all() and np.isfinite(work).all() and work.min() >= 0):
        raise InputError(tier.name, got="arrivals or work that are no times", expected="finite numbers, work of at least 0")
    return _Passing(tier, seed).run(arrivals, work)


def lognormal(p50: float, p95: float, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """float64 [n]: p50 * exp(sigma z), sigma = ln(p95 / p50) / 1.645; a p95 below p50 counts as p50."""
    return np.asarray(p50 * np.exp(spread_of(p95 / p50) * rng.standard_normal(n)), np.float64)


def spread_of(ratio: float) -> float:
    """Of a lognormal whose 95th percentile is `ratio` times its median: the standard deviation of its logarithm."""
    return log(max(ratio, 1.0)) / TAIL


class _Ask:
    """What a query asks of one shard, and the tries that are not back."""

    __slots__ = ("answered", "query", "shard", "tries")

    def __init__(self, query: int, shard: int) -> None:
        self.query, self.shard, self.answered, self.tries = query, shard, False, list[_Try]()


class _Try:
    """One at a station. left, fixed: ms; tag: work that it was given so far, of waves."""

    __slots__ = ("ask", "fixed", "left", "second", "sent", "station", "tag")

    def __init__(self, ask: _Ask, station: _Station, sent: float, left: float, fixed: float, second: bool) -> None:
        self.ask, self.station, self.sent, self.left, self.fixed, self.second, self.tag = (
            ask,
            station,
            sent,
            left,
            fixed,
            second,
            station.clock,
        )


class _Station:
    """A replica. load: tries that it was sent and has not answered; clock: the tag of what was dealt last."""

    __slots__ = ("clock", "load", "queue", "running", "shard", "up")

    def __init__(self, shard: int) -> None:
        self.shard, self.up, self.load, self.clock = shard, True, 0, 0.0
        self.queue, self.running = deque[_Try](), list[_Wave]()


class _Wave:
    """What a server works on. tries: those that are done at its end; left: ms, at `rate` since `since`; turn: which end event is meant."""

    __slots__ = ("began", "left", "rate", "since", "station", "tries", "turn")

    def __init__(self, station: _Station, tries: list[_Try], left: float, now: float) -> None:
        self.station, self.tries, self.left, self.began, self.since, self.rate, self.turn = station, tries, left, now, now, 1.0, 0


class _Passing:
    """The state of one simulation. Events are (ms, number, what to call, with what), in the order of time, then of making."""

    def __init__(self, tier: Tier, seed: int) -> None:
        self.tier, self.random, self.sigma = tier, random.Random(seed), spread_of(tier.noise)
        self.events, self.made = list[tuple[float, int, Callable[[float, Any], None], Any]](), 0
        self.shards = [[_Station(shard) for _ in range(tier.replicas)] for shard in range(tier.shards)]
        self.there = [list(shard) for shard in self.shards]  # the stations of each that are up
        self.parked, self.running = [list[_Ask]() for _ in range(tier.shards)], dict[_Wave, None]()
        self.touched = list[_Station]()  # that were sent something now
        self.seen, self.answers, self.delay, self.saved = deque[float](maxlen=LOOKED_AT), 0, inf, 0.0
        self.third = tier.late * (tier.deadline_ms - 2 * tier.hop_ms) if tier.late < 1 else inf
        self.busy = self.spent = self.extra = 0.0
        self.asked = self.hopping = self.seconds = self.resent = self.waves = self.dealt = 0

    def run(self, arrivals: NDArray[np.float64], work: NDArray[np.float64]) -> Passage:
        n, order = len(arrivals), np.argsort(arrivals, kind="stable").tolist()
        times = arrivals[order].tolist()
        self.work, self.missing, self.open = work.tolist(), [self.tier.shards] * n, n
        self.done, self.partial = np.zeros(n), np.zeros(n, np.bool_)
        replicas, shards = self.tier.down
        for station in [one for shard in self.shards[:shards] for one in shard[:replicas]]:
            self._leave(station)
        self._first_failures(times[0])
        at, events = 0, self.events
        while self.open:
            if at < n and (not events or times[at] <= events[0][0]):
                now = times[at]
                self._arrive(now, order[at])
                at += 1
            else:
                now, _, call, what = heapq.heappop(events)
                call(now, what)
            if at == n or times[at] > now:  # all that come at one time may share a batch
                for station in self.touched:
                    self._begin(now, station)
                self.touched.clear()
        servers = self.tier.servers * (self.tier.shards * self.tier.replicas - replicas * min(shards, self.tier.shards))
        busy = min(1.0, self.busy / (max(servers, 1) * max(times[-1] - times[0], _NONE)))
        batch, extra = self.dealt / max(self.waves, 1), self.extra / max(self.spent, _NONE)
        return Passage(self.done, self.partial, busy, batch, self.seconds / self.asked, extra, self.resent)

    def _at(self, when: float, call: Callable[[float, Any], None], what: Any, last: bool = False) -> None:
        """last: after all else of the same moment, so that an answer which comes just then has come."""
        self.made += 1
        heapq.heappush(self.events, (when, self.made + _LAST * last, call, what))

    def _hop(self, now: float, more: int = 1) -> None:
        """A hop takes a processor of a shared machine from the waves, for as long as it lasts."""
        if self.tier.processors < inf and self.tier.hop_ms:
            self.hopping += more
            self._pace(now)
            if more > 0:
                self._at(now + self.tier.hop_ms, self._hop, -1)

    # A query: asked of all shards, answered or given up.

    def _arrive(self, now: float, query: int) -> None:
        asks, tier = [_Ask(query, shard) for shard in range(self.tier.shards)], self.tier
        self.asked += len(asks)
        self._hop(now)
        for ask in asks:
            self._send(now, ask)
        if tier.deadline_ms < inf:
            self._at(now + tier.deadline_ms - 2 * tier.hop_ms, self._give_up, asks, last=True)
        if (soonest := min(self.delay, self.third)) < inf and tier.replicas > 1:
            self._at(now + soonest, self._try_again, (now, asks), last=True)

    def _send(self, now: float, ask: _Ask, second: bool = False) -> None:
        """To a replica that is there and has little to do, a second try to another than the first. Where none is, a first try waits."""
        there = self.there[ask.shard]
        if second:
            there = [one for one in there if all(one is not other.station for other in ask.tries)]
        if not there:
            if not second:
                self.parked[ask.shard].append(ask)
            return
        station = there[0] if len(there) == 1 else self._less_loaded(there)
        ms, tier = self.work[ask.query], self.tier
        if self.sigma:
            ms *= self.random.lognormvariate(0.0, self.sigma)
        if tier.straggling[0] and self.random.random() < tier.straggling[0]:
            ms *= tier.straggling[1]
        made = _Try(ask, station, now, ms * (1 - tier.fixed), ms * tier.fixed, second)
        self.seconds += second
        self.saved = min(SAVED, self.saved + (tier.hedge[1] if tier.hedge else 0.0))
        ask.tries.append(made)
        station.queue.append(made)
        station.load += 1
        self.touched.append(station)

    def _less_loaded(self, there: list[_Station]) -> _Station:
        """Of two drawn at random, of equal ones the first drawn; or of all, of equal ones any."""
        if self.tier.least:
            load = min(one.load for one in there)
            return self.random.choice([one for one in there if one.load == load])
        i, j = int(self.random.random() * len(there)), int(self.random.random() * (len(there) - 1))
        one, other = there[i], there[j + (j >= i)]
        return other if other.load < one.load else one

    def _try_again(self, now: float, what: tuple[float, list[_Ask]]) -> None:
        """What may not be asked again now is when it is late."""
        began, asks = what
        late, waits = now >= began + self.third, False
        for ask in asks:
            if ask.answered or len(ask.tries) != 1:
                continue
            if late or self.saved >= 1:
                self.saved -= not late
                self._send(now, ask, second=True)
            else:
                waits = True
        if waits and self.third < inf:
            self._at(began + self.third, self._try_again, what, last=True)

    def _answered(self, now: float, done: _Try) -> None:
        ask = done.ask
        ask.tries.remove(done)
        if ask.answered:
            return
        self.answers += 1
        if self.tier.hedge:
            self.seen.append(now - done.sent)
            if self.answers == KNOWN or (self.answers > KNOWN and self.answers % AFRESH == 0):
                self.delay = float(np.quantile(self.seen, self.tier.hedge[0]))
        self._settle(now, ask)

    def _give_up(self, now: float, asks: list[_Ask]) -> None:
        for ask in asks:
            if not ask.answered:
                self.partial[ask.query] = True
                self._settle(now, ask)

    def _settle(self, now: float, ask: _Ask) -> None:
        """Answered, or not waited for any more: what still queues for it goes out."""
        ask.answered = True
        for late in [one for one in ask.tries if one in one.station.queue]:
            late.station.queue.remove(late)
            late.station.load -= 1
            ask.tries.remove(late)
        self.missing[ask.query] -= 1
        if not self.missing[ask.query]:
            self.open -= 1
            self.done[ask.query] = now + 2 * self.tier.hop_ms
            self._hop(now)

    # A station: what waits becomes waves, one a server.

    def _begin(self, now: float, station: _Station) -> None:
        while station.up and station.queue and len(station.running) < self.tier.servers:
            tries, ms = self._batch(station) if self.tier.wave_ms == inf else self._deal(station)
            wave = _Wave(station, tries, ms, now)
            station.running.append(wave)
            self.waves += 1
            self._pace(now, wave)

    def _batch(self, station: _Station) -> tuple[list[_Try], float]:
        tries = [station.queue.popleft() for _ in range(min(self.tier.batch, len(station.queue)))]
        for one in tries:
            self._spend(one, one.left)
        return tries, max(one.fixed for one in tries) + sum(one.left for one in tries)

    def _deal(self, station: _Station) -> tuple[list[_Try], float]:
        """The next wave: parts of `wave_ms`, of whole pieces, for the lowest tag first; who begins pays the fixed part."""
        waiting, done, begun, piece = list(station.queue), list[_Try](), set[_Try](), self.tier.piece_ms
        budget, part, ms = self.tier.wave_ms, self.tier.wave_ms / len(waiting), 0.0
        while budget > _NONE and waiting:
            one = min(waiting, key=lambda each: each.tag)
            station.clock = one.tag
            given = min(part, budget)
            given = min(one.left, piece * ceil(given / piece - _NONE) if piece else given)
            begun.add(one)
            self._spend(one, given)
            one.left, one.tag, budget, ms = one.left - given, one.tag + given, budget - given, ms + given
            if one.left <= _NONE:
                waiting.remove(one)
                station.queue.remove(one)
                done.append(one)
        fixed = max(one.fixed for one in begun)
        for one in begun:
            one.fixed = 0.0
        self.dealt += len(begun) - len(done)
        return done, fixed + ms

    def _spend(self, one: _Try, ms: float) -> None:
        self.spent += ms
        self.extra += ms * one.second

    def _pace(self, now: float, begun: _Wave | None = None) -> None:
        """Ends of waves by how crowded the tier is; a wave that begins or ends moves those of all others."""
        if begun is not None:
            self.running[begun] = None
            self.dealt += len(begun.tries)
        if self.tier.crowding == 1.0 and self.tier.processors == inf:
            if begun is not None:
                self._at(now + begun.left, self._end, (begun, 0))
            return
        others = max(self.tier.shards * self.tier.replicas * self.tier.servers - 1, 1)
        rate = 1 / (1 + (self.tier.crowding - 1) * (len(self.running) - 1) / others)
        rate *= min(1.0, self.tier.processors / max(len(self.running) + self.hopping, 1))
        for wave in self.running:
            wave.left -= (now - wave.since) * wave.rate
            wave.since, wave.rate, wave.turn = now, rate, wave.turn + 1
            self._at(now + max(wave.left, 0.0) / rate, self._end, (wave, wave.turn))

    def _end(self, now: float, what: tuple[_Wave, int]) -> None:
        wave, turn = what
        if turn != wave.turn:
            return
        self._stop(now, wave)
        for one in wave.tries:
            wave.station.load -= 1
            self._answered(now, one)
        self._begin(now, wave.station)
        self._pace(now)

    def _stop(self, now: float, wave: _Wave) -> None:
        self.busy += now - wave.began
        wave.turn = -1
        wave.station.running.remove(wave)
        del self.running[wave]

    # A replica dies and comes back.

    def _first_failures(self, now: float) -> None:
        """As if replicas had died and come back for ever: each is down at the start with probability repair / (between + repair)."""
        if self.tier.failures is None:
            return
        between, repair = self.tier.failures
        for station in [one for shard in self.shards for one in shard if one.up]:
            if self.random.random() < repair / (between + repair):
                self._leave(station)
                self._at(now + 1e3 * self.random.expovariate(1 / repair), self._repair, station)
            else:
                self._at(now + 1e3 * self.random.expovariate(1 / between), self._die, station)

    def _leave(self, station: _Station) -> None:
        station.up = False
        self.there[station.shard].remove(station)

    def _die(self, now: float, station: _Station) -> None:
        assert self.tier.failures is not None
        self._leave(station)
        lost = list(dict.fromkeys([*(one for wave in station.running for one in wave.tries), *station.queue]))
        for wave in list(station.running):
            self._stop(now, wave)
        self._pace(now)
        station.queue.clear()
        station.load = 0
        for one in lost:
            one.ask.tries.remove(one)
            if not one.ask.answered and not one.ask.tries:
                self.resent += 1
                self._send(now, one.ask)
        self._at(now + 1e3 * self.random.expovariate(1 / self.tier.failures[1]), self._repair, station)

    def _repair(self, now: float, station: _Station) -> None:
        assert self.tier.failures is not None
        station.up = True
        self.there[station.shard].append(station)
        self._at(now + 1e3 * self.random.expovariate(1 / self.tier.failures[0]), self._die, station)
        waiting, self.parked[station.shard] = self.parked[station.shard], []
        for ask in waiting:
            if not ask.answered:
                self._send(now, ask)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """responses float64 [queries]: ms, in the order of arrival, without those that fill the queues. partial: share of the answers."""

    responses: NDArray[np.float64]
    partial: float
    tiers: tuple[Passage, ...]

    def percentile(self, q: float) -> float:
        return float(np.percentile(self.responses, q))


def simulate(
    arrivals: NDArray[np.float64], tiers: Sequence[Tier], work: Sequence[NDArray[np.float64]], *, fill: int = 0, seed: int = 0
) -> Outcome:
    """Queries through the tiers one after the other. work: float64 [queries] of each tier, see `passing`; the first `fill` queries only
    fill the queues. Raises InputError."""
    if not tiers or len(tiers) != len(work) or not 0 <= fill < len(arrivals):
        raise InputError(
            "simulate", got=f"{len(tiers)} tiers, {len(work)} of work, fill {fill}", expected="as many, and queries beyond fill"
        )
    passed, at, partial = list[Passage](), np.asarray(arrivals, np.float64), np.zeros(len(arrivals), np.bool_)
    for number, (tier, own) in enumerate(zip(tiers, work)):
        passed.append(passing(at, np.asarray(own, np.float64), tier, seed=seed + number))
        at, partial = passed[-1].done, partial | passed[-1].partial
    return Outcome((at - arrivals)[fill:], float(partial[fill:].mean()), tuple(passed))
