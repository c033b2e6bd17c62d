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
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import numpy as np

from ..errors import InputError
from ..ops.checks import count, finite_number

PATIENCE_S = 30.0  # of a question without a deadline, for shards that fail: as long as a machine takes to come back
TRIES = 5  # of a replica that answers with an error, before its shard is given up
PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0  # before a replica that failed is asked again, doubled each time
KNOWN = 64  # answers from which on it is known how long most take
LOOKED_AT = 1024  # of the last ones


class Replica(Protocol):
    """A process, or a thread, that holds a shard."""

    @property
    def name(self) -> str: ...
    def ask(self, method: str, arguments: tuple[Any, ...]) -> Future[Any]:
        """What `shard.answer(method, arguments)` returns there; a replica that is gone is the future's exception."""


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
    future: Future[Any] | None = None


@dataclass(eq=False)
class _Asked:
    """A shard that has not answered yet."""

    shard: int
    tries: list[_Try] = field(default_factory=list)
    again: float = math.inf  # when it is asked again
    hedge: float = math.inf  # when another replica is asked, too
    failed: int = 0
    errors: int = 0  # of them by an answer that is an error
    why: str = "no answer in time"


class Scatter:
    """shards: the replicas of each. hedge: the share of answers that come sooner than a second try is made; None for none. extra: the share
    of questions that may be asked twice. One for all threads of a process."""

    def __init__(
        self, shards: Sequence[Sequence[Replica]], *, hedge: float | None = 0.95, extra: float = 0.1, patience_s: float = PATIENCE_S
    ) -> None:
        if not shards or not all(shards):
            raise InputError("shards", got=f"{len(shards)} shards, not all with a replica", expected="one replica of each at least")
        self.hedge = None if hedge is None else finite_number("shards: hedge", hedge, 0, 1)
        self.extra, self.patience_s = finite_number("shards: extra", extra, 0, 1), finite_number("shards: patience_s", patience_s, 0)
        self._states = [[_State(replica) for replica in replicas] for replicas in shards]
        self._took: dict[str, deque[float]] = {}
        self._lock, self._asked, self._hedged = threading.Lock(), 0, 0

    def __len__(self) -> int:
        return len(self._states)

    def gather(
        self,
        method: str,
        make: Callable[[int], tuple[Any, ...]],
        *,
        shards: Iterable[int] | None = None,
        until: float | None = None,
        at_once: int | None = None,
        each: Callable[[int, Any], None] | None = None,
    ) -> Gathered:
        """Asks these shards (None: all). make(shard): the arguments, made when it is asked; each(shard, value): told of an answer at once.
        until: a time of `time.monotonic()`; None: until all have answered, or `patience_s` from now. at_once: shards asked at a time.

        Raises InputError where a shard says that the question is wrong, and what `make` and `each` raise.
        """
        waiting = deque(range(len(self)) if shards is None else shards)
        most = len(waiting) if at_once is None else count("shards: at_once", at_once)
        end = time.monotonic() + self.patience_s if until is None else until
        told, open_, done = Gathered(), dict[int, _Asked](), SimpleQueue[_Try]()
        while waiting or open_:
            while waiting and len(open_) < most:
                asked = _Asked(waiting.popleft())
                open_[asked.shard] = asked
                self._send(asked, method, make, done)
            now = time.monotonic()
            if now >= end:
                told.missing |= {shard: asked.why for shard, asked in open_.items()} | dict.fromkeys(waiting, "not asked in time")
                break
            soonest = min((min(asked.again, asked.hedge) for asked in open_.values()), default=end)
            try:
                tried = done.get(timeout=max(0.0, min(soonest, end) - now))
            except Empty:
                self._timers(open_, method, make, done, told)
                continue
            self._taken(tried, open_, method, told, each)
        return told

    def _send(self, asked: _Asked, method: str, make: Callable[[int], tuple[Any, ...]], done: SimpleQueue[_Try]) -> bool:
        """To the replica that has least to do, if there is one that is not down and not asked already."""
        now, taken = time.monotonic(), {id(one.state) for one in asked.tries}
        with self._lock:
            states = [state for state in self._states[asked.shard] if id(state) not in taken]
            up = [state for state in states if state.down_until <= now]
            asked.again = math.inf
            if not up:
                if not asked.tries:
                    asked.again = min((state.down_until for state in states), default=math.inf)
                return False
            least = min(state.busy for state in up)
            state = random.choice([state for state in up if state.busy == least])
            state.busy += 1
            self._asked += 1
        tried = _Try(asked.shard, state, now)
        asked.tries.append(tried)
        asked.hedge = now + self._patience(method) if len(states) > 1 else math.inf
        try:
            future = state.replica.ask(method, make(asked.shard))
        except BaseException:
            with self._lock:
                state.busy -= 1
            raise
        tried.future = future
        future.add_done_callback(lambda _: self._back(tried, done))
        return True

    def _back(self, tried: _Try, done: SimpleQueue[_Try]) -> None:
        with self._lock:
            tried.state.busy -= 1
        done.put(tried)

    def _patience(self, method: str) -> float:
        """Seconds after which a second try is made; infinity where that is not known yet, or enough are made."""
        with self._lock:
            took = self._took.get(method, ())
            if self.hedge is None or len(took) < KNOWN or self._hedged >= self.extra * self._asked:
                return math.inf
            return float(np.quantile(np.array(took), self.hedge))

    def _timers(
        self,
        open_: dict[int, _Asked],
        method: str,
        make: Callable[[int], tuple[Any, ...]],
        done: SimpleQueue[_Try],
        told: Gathered,
    ) -> None:
        now = time.monotonic()
        for asked in open_.values():
            if asked.again <= now:
                told.retried += self._send(asked, method, make, done)
            elif asked.hedge <= now:
                if self._send(asked, method, make, done):
                    told.hedged += 1
                    with self._lock:
                        self._hedged += 1
                asked.hedge = math.inf  # one second try, no third

    def _taken(self, tried: _Try, open_: dict[int, _Asked], method: str, told: Gathered, each: Callable[[int, Any], None] | None) -> None:
        """What a try brought: the first answer counts, a failure is tried again, on another replica at once."""
        future, state, asked = tried.future, tried.state, open_.get(tried.shard)
        assert future is not None
        error: BaseException | None = future.exception() if not future.cancelled() else InputError("cancelled")
        value = None if error is not None else future.result()
        answered = error is None and not isinstance(value, Failure)
        now = time.monotonic()
        with self._lock:
            state.broken = 0 if answered else state.broken + 1
            state.down_until = 0.0 if answered else now + min(LONGEST_PAUSE_S, PAUSE_S * 2 ** min(10, state.broken - 1))
            if answered:
                self._took.setdefault(method, deque(maxlen=LOOKED_AT)).append(now - tried.begun)
        if asked is None:  # another replica was first
            return
        if answered:
            del open_[tried.shard]
            told.values[tried.shard] = value
            if each is not None:
                each(tried.shard, value)
            return
        if isinstance(value, Failure):
            if isinstance(value.error, InputError):
                raise value.error
            asked.errors += 1
        asked.why = f"{state.replica.name}: {value.error if isinstance(value, Failure) else error or 'gone'}"
        asked.failed += 1
        asked.tries.remove(tried)
        if asked.errors >= TRIES * len(self._states[tried.shard]):
            del open_[tried.shard]
            told.missing[tried.shard] = asked.why
        elif not asked.tries:
            asked.again = now  # of the replicas that are up; else when the first may be asked again
