"""One question to every shard of a collection: by a deadline, with a second try where a shard is slow and others where it fails.

Hedged requests as in Dean and Barroso, "The Tail at Scale", CACM 2013: what has not answered within the time that most answers took is
asked of another replica too, and the first answer counts.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import numpy as np

from ..errors import InputError, ShardUnavailable
from ..limits import limits
from ..ops.checks import count, finite_number

PATIENCE_S = 30.0  # of a question without a deadline, for shards that fail: as long as a machine takes to come back
TRIES = 5  # of a replica that says that it holds another shard, or none, before the shard is given up
PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0  # before a replica that failed is asked again, doubled each time
KNOWN, LOOKED_AT, AFRESH = 64, 1024, 32  # answers: from which on it is known how long most take, of the last ones, looked at every so many
HEDGE, EXTRA, LATE = 0.95, 0.1, 1 / 3  # by default, see Scatter; of the time to its end after which a shard is asked again in any case
SAVED = 10.0  # second tries that may be saved up for one bad moment
MARGIN_S, MARGIN = 0.005, 0.1  # before the end that a shard stops, so that its answer comes in time; at most this share of its time
LOOK_S = 0.05  # between two looks at whether the caller still wants an answer


class Replica(Protocol):
    """A process, or a thread, that holds a shard."""

    @property
    def name(self) -> str: ...
    def ask(self, method: str, arguments: tuple[Any, ...], expected: str | None, seconds: float) -> Future[Any]:
        """What `shard.answer(...)` returns there; a replica that is gone is the future's exception."""

    def forget(self, future: Future[Any]) -> None:
        """Nobody wants the answer any more: it need not be begun."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a shard raised, as its answer."""

    error: Exception


@dataclass
class Gathered:
    """values: by shard. missing: why a shard is not among them. hedged, retried: questions asked twice, and again after a failure."""

    values: dict[int, Any] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)
    hedged: int = 0
    retried: int = 0


@dataclass(eq=False)
class _State:
    """Of a replica. broken: failures since its last answer."""

    replica: Replica
    busy: int = 0
    broken: int = 0
    down_until: float = 0.0


@dataclass(eq=False)
class _Try:
    shard: int
    state: _State
    begun: float
    future: Future[Any]


@dataclass(eq=False)
class _Asked:
    """A shard that has not answered yet."""

    shard: int
    tries: list[_Try] = field(default_factory=list)
    again: float = math.inf  # when it is asked again
    hedge: float = math.inf  # when another replica is asked, too
    wrong: list[_State] = field(default_factory=list)  # replicas that answered with an error, and are not asked again
    refused: int = 0  # answers of replicas that do not hold the shard
    why: str = "no answer in time"


class Scatter:
    """shards: the replicas of each. hedge: the share of answers that come sooner than a second try is made; None for none. extra: second
    tries a question, on average, a few saved up; beside them, what has had a third of its time is always asked twice. One for all threads.

    prints: what tells a shard's content from another's; a replica that holds something else counts as gone.
    """

    def __init__(
        self,
        shards: Sequence[Sequence[Replica]],
        *,
        hedge: float | None = HEDGE,
        extra: float = EXTRA,
        patience_s: float = PATIENCE_S,
        prints: Sequence[str | None] | None = None,
    ) -> None:
        if not shards or not all(shards):
            raise InputError("shards", got=f"{len(shards)} shards, not all with a replica", expected="one replica of each at least")
        self.hedge = None if hedge is None else finite_number("shards: hedge", hedge, 0, 1)
        self.extra, self.patience_s = finite_number("shards: extra", extra, 0, 1), finite_number("shards: patience_s", patience_s, 0)
        self.prints = [None] * len(shards) if prints is None else list(prints)
        self._states = [[_State(replica) for replica in replicas] for replicas in shards]
        self._took = dict[str, deque[float]]()
        self._slow = dict[str, tuple[int, float]]()  # of a method: (answers so far, what most took)
        self._lock, self._saved = threading.Lock(), 0.0

    def __len__(self) -> int:
        return len(self._states)

    def end(self) -> float:
        """When a question that is asked now is given up: a time of `time.monotonic()`."""
        deadline = limits().deadline
        return time.monotonic() + self.patience_s if deadline is None else deadline

    def gather(
        self,
        method: str,
        make: Callable[[int], tuple[Any, ...]],
        *,
        shards: Iterable[int] | None = None,
        until: float | None = None,
        at_once: int | None = None,
        each: Callable[[int, Any], None] | None = None,
        enough: Callable[[Mapping[int, Any]], bool] | None = None,
    ) -> Gathered:
        """Asks these shards (None: all). make(shard): the arguments, made when it is asked; each(shard, value): told of an answer at once.
        until: a time of `time.monotonic()`; None: as `end`. at_once: shards asked at a time. enough(values): the rest is not needed.

        Raises InputError where a shard says that the question is wrong, ShardUnavailable where all of them fail otherwise than by time,
        Cancelled, and what `make` and `each` raise.
        """
        waiting = deque(range(len(self)) if shards is None else shards)
        run = _Run(self, method, make, self.end() if until is None else until)
        most = len(waiting) if at_once is None else count("shards: at_once", at_once)
        try:
            while waiting or run.open:
                limits().check()
                now = time.monotonic()
                if now >= run.end or (enough is not None and enough(run.told.values)):
                    break
                while waiting and sum(bool(asked.tries) for asked in run.open.values()) < most:
                    run.begin(waiting.popleft())
                tried = run.next()
                if tried is not None and run.taken(tried) and each is not None:
                    each(tried.shard, run.told.values[tried.shard])
            if run.given_up and not run.told.values and not run.open and not waiting:
                why = next(iter(run.told.missing.values()))
                raise ShardUnavailable(f"all {run.given_up} shards asked for '{method}'", got=why, expected="an answer")
            run.told.missing |= {shard: asked.why for shard, asked in run.open.items()} | dict.fromkeys(waiting, "not asked in time")
            return run.told
        finally:
            run.leave()

    def send(self, shard: int, tried: Iterable[_State], method: str, arguments: tuple[Any, ...], end: float) -> tuple[_State, Any] | float:
        """To the replica that has least to do of those that are up: its state, and what was sent. If there is none, when one may be."""
        now, others = time.monotonic(), set(map(id, tried))
        with self._lock:
            states = [state for state in self._states[shard] if id(state) not in others]
            up = [state for state in states if state.down_until <= now]
            if not up:
                return min((state.down_until for state in states), default=math.inf)
            least = min(state.busy for state in up)
            state = random.choice([state for state in up if state.busy == least])
            state.busy += 1
            self._saved = min(SAVED, self._saved + self.extra)
        try:
            left = max(0.0, end - now)
            seconds = left - min(MARGIN_S, MARGIN * left) if limits().deadline is not None else math.inf
            return state, state.replica.ask(method, arguments, self.prints[shard], seconds)
        except BaseException:
            with self._lock:
                state.busy -= 1
            raise

    def back(self, state: _State) -> None:
        with self._lock:
            state.busy -= 1

    def others(self, shard: int) -> int:
        return len(self._states[shard]) - 1

    def may_hedge(self) -> bool:
        with self._lock:
            if self._saved < 1:
                return False
            self._saved -= 1
            return True

    def most_take(self, method: str) -> float:
        """Seconds that an answer takes at most, but for 1 - hedge of them; infinity where that is not known."""
        return math.inf if self.hedge is None else self._slow.get(method, (0, math.inf))[1]

    def tell(self, tried: _Try, method: str, alive: bool, answered: bool) -> None:
        """Of a replica: whether it lives, and, if it answered, how long that took."""
        now, state = time.monotonic(), tried.state
        with self._lock:
            state.broken = 0 if alive else state.broken + 1
            state.down_until = 0.0 if alive else now + min(LONGEST_PAUSE_S, PAUSE_S * 2 ** min(10, state.broken - 1))
            if not answered:
                return
            took = self._took.setdefault(method, deque(maxlen=LOOKED_AT))
            took.append(now - tried.begun)
            n = self._slow.get(method, (0, 0.0))[0] + 1
            known = self._slow.get(method, (0, math.inf))[1]
            if n >= KNOWN and self.hedge is not None and (n == KNOWN or n % AFRESH == 0):
                known = float(np.quantile(np.array(took), self.hedge))
            self._slow[method] = n, known


class _Run:
    """One question under way."""

    def __init__(self, scatter: Scatter, method: str, make: Callable[[int], tuple[Any, ...]], end: float) -> None:
        self.scatter, self.method, self.make, self.end = scatter, method, make, end
        self.told, self.open, self.done = Gathered(), dict[int, _Asked](), SimpleQueue[_Try]()
        self.sent, self.given_up = list[_Try](), 0

    def begin(self, shard: int) -> None:
        self.open[shard] = _Asked(shard)
        self._send(self.open[shard])

    def next(self) -> _Try | None:
        """The next try that came back; None: it is time for something else, which is done."""
        soonest = min((min(asked.again, asked.hedge) for asked in self.open.values()), default=self.end)
        wait = min(soonest, self.end) - time.monotonic()
        if limits().cancelled is not None:
            wait = min(wait, LOOK_S)
        try:
            return self.done.get(timeout=max(0.0, wait))
        except Empty:
            self._timers(time.monotonic())
            return None

    def taken(self, tried: _Try) -> bool:
        """Whether a try brought an answer: the first counts, a failure is tried again, on another replica at once."""
        asked, error = self.open.get(tried.shard), CancelledError() if tried.future.cancelled() else tried.future.exception()
        value = tried.future.result() if error is None else None
        failed = value.error if isinstance(value, Failure) else None
        answered = error is None and failed is None
        alive = error is None and not isinstance(failed, ShardUnavailable)
        self.scatter.tell(tried, self.method, alive, answered)
        if asked is None:  # another replica was first
            return False
        if answered:
            del self.open[tried.shard]
            self.told.values[tried.shard] = value
            return True
        if isinstance(failed, InputError):
            raise failed
        asked.why = f"{tried.state.replica.name}: {failed or error or 'gone'}"
        asked.tries.remove(tried)
        asked.refused += isinstance(failed, ShardUnavailable)
        if alive:  # it would say the same again
            asked.wrong.append(tried.state)
        self._go_on(asked)
        return False

    def _go_on(self, asked: _Asked) -> None:
        """After a failure: again, by a replica that is up, or when the first may be asked again; or no more."""
        replicas = 1 + self.scatter.others(asked.shard)
        if asked.tries:
            return
        if len(asked.wrong) == replicas or asked.refused >= TRIES * replicas:
            del self.open[asked.shard]
            self.told.missing[asked.shard] = asked.why
            self.given_up += 1
        else:
            asked.again = time.monotonic()

    def _timers(self, now: float) -> None:
        for asked in self.open.values():
            if asked.again <= now:
                self.told.retried += self._send(asked)
            elif asked.hedge <= now:
                third = self._third(asked.tries[0].begun)
                if now >= third or self.scatter.may_hedge():
                    self.told.hedged += self._send(asked)
                    asked.hedge = math.inf  # one second try, no third
                else:
                    asked.hedge = third

    def _third(self, begun: float) -> float:
        return begun + LATE * (self.end - begun)

    def _send(self, asked: _Asked) -> bool:
        held = [one.state for one in asked.tries]
        sent = self.scatter.send(asked.shard, [*held, *asked.wrong], self.method, self.make(asked.shard), self.end)
        if not isinstance(sent, tuple):
            asked.again = sent if not asked.tries else math.inf
            return False
        tried = _Try(asked.shard, sent[0], time.monotonic(), sent[1])
        asked.tries.append(tried)
        self.sent.append(tried)
        asked.again = math.inf
        if self.scatter.others(asked.shard):
            asked.hedge = min(tried.begun + self.scatter.most_take(self.method), self._third(tried.begun))
        tried.future.add_done_callback(lambda _: self._came(tried))
        return True

    def _came(self, tried: _Try) -> None:
        self.scatter.back(tried.state)
        self.done.put(tried)

    def leave(self) -> None:
        """What is not wanted any more need not be begun."""
        for tried in self.sent:
            if not tried.future.done():
                tried.state.replica.forget(tried.future)
