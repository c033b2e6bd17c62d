"""The work of many requests through one scorer, a wave of documents at a time: shared fairly, bounded by tokens, nothing behind a long one.

A wave holds about `wave_ms` of work at the pace measured so far. Its places are dealt by start-time fair queueing (Goyal, Vin and Cheng,
SIGCOMM 1996) among the jobs of the best priority: each has a tag, the tokens that it was given so far, and the lowest goes first; a new job
starts at the tag of what was dealt last. So one that comes behind a thousand documents is in the next wave, and none starves.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..core import LOWEST, Query, Ranking, Scorer, Scores
from ..corpus import Corpus
from ..errors import Cancelled, ModelError, NonFiniteError, RerankError
from ..limits import limited

FIRST_WAVE = 2048  # tokens, before the pace is known
PACE_HALF_LIFE = 8  # waves
BACK_MS = 20.0  # that a whole list is back before its deadline


class Overloaded(RerankError):
    """More waits than is done in the time that callers may wait, or the server is stopping: `stopping` says which. retry_after: seconds."""

    def __init__(self, what: str, *, retry_after: float, stopping: bool = False, got: str = "") -> None:
        self.retry_after, self.stopping = max(1, math.ceil(retry_after)), stopping
        super().__init__(what, got=got or "no room", expected="less work at a time", hint=f"Try again in {self.retry_after} s.")


@dataclass(eq=False)
class Job:
    """One request. costs: int64 [n], tokens that each document costs. until: a time of time.monotonic() for scorers of whole lists; others
    are done wave by wave. values: -inf, scored False, where it was not got to.

    done: resolved with the job itself, or with what its scoring raised. waited, worked: seconds in the queue before the first wave, and of
    waves by its share of their tokens.
    """

    query: Query
    corpus: Corpus
    costs: NDArray[np.int64]
    priority: int = 0
    scale: str = "score"
    until: float | None = None
    tokens: int = 0
    waited: float = 0.0
    worked: float = 0.0
    done: Future[Job] = field(default_factory=Future)
    _next: int = 0  # the first document that no wave has had yet
    _answered: int = 0  # documents that waves have brought back
    _tag: float = 0.0
    _came: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        n = len(self.corpus)
        self.values, self.scored = np.full(n, -np.inf, np.float32), np.zeros(n, bool)
        self.truncated = np.zeros(n, np.int32)
        self.costs = np.maximum(self.costs, 1)  # a blank document is no work, but takes a place

    @property
    def left(self) -> int:
        """Tokens that no wave has had yet."""
        return int(self.costs[self._next :].sum())


@dataclass(frozen=True, slots=True, eq=False)
class _Share:
    """A job's documents of one wave."""

    job: Job
    rows: slice

    @property
    def tokens(self) -> int:
        return int(self.job.costs[self.rows].sum())


class Scheduler:
    """wave_ms: work of a wave, the longest that a new request waits for one to end; wave_tokens: at most in one; wait_ms: how much work may
    wait in all, at the pace of the machine; calls: see `Limits`. One thread runs the scorer; every method may be called from any thread.

    A scorer of whole lists gets one at a time, from as many threads as its `concurrency` says: one that waits for another machine does not
    hold up the others."""

    def __init__(
        self,
        scorer: Scorer,
        *,
        wave_ms: float = 50.0,
        wave_tokens: int = 16_384,
        wait_ms: float = 5_000.0,
        told: Callable[..., None] | None = None,
        calls: Callable[[int, int], None] | None = None,
    ) -> None:
        self.scorer, self.wave_ms, self.wave_tokens, self.wait_ms, self._calls = scorer, wave_ms, wave_tokens, wait_ms, calls
        self._told = told or (lambda **_: None)
        self._jobs, self._clocks, self._pace, self._waves = list[Job](), dict[int, float](), 0.0, 0
        self._reserved, self._closing, self._ended, self._ends = 0, False, False, math.inf
        self.worked = 0.0  # seconds of waves so far, a thread
        self._changed = threading.Condition()
        side_by_side = int(getattr(scorer, "concurrency", 1)) if scorer.whole else 1
        self._threads = [threading.Thread(target=self._work, name=f"rerank-waves-{i}", daemon=True) for i in range(side_by_side)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Tokens that were let in and no wave has had yet."""
        with self._changed:
            return self._waiting()

    def _waiting(self) -> int:
        return self._reserved + sum(job.left for job in self._jobs)

    @property
    def pace(self) -> float:
        """Tokens a second, of all threads; 0 before the first wave."""
        return self._pace * len(self._threads)

    @property
    def over(self) -> bool:
        """The time that `refuse` left has passed."""
        return time.monotonic() >= self._ends

    def admit(self, tokens: int) -> None:
        """Keeps a place for so many tokens, until `submit` or `release` takes it. Raises Overloaded where too many wait already; a request
        that is longer than the queue alone has a place when nothing else waits."""
        with self._changed:
            waiting = self._waiting()
            if self._closing:
                raise stopping()
            if waiting and self._pace and waiting + tokens > self.pace * self.wait_ms / 1e3:
                over = waiting / self.pace
                raise Overloaded("too much waits here", retry_after=over / 2, got=f"{waiting} tokens, {over:.1f} s of work")
            self._reserved += tokens

    def release(self, tokens: int) -> None:
        """Gives back a place that `admit` kept."""
        with self._changed:
            self._reserved -= tokens
            self._changed.notify_all()

    def submit(self, job: Job, reserved: int) -> None:
        """Queues a job whose place `admit` has kept. Its `done` is resolved later, in the scheduler's thread."""
        with self._changed:
            self._reserved -= reserved
            if self._ended or self.over:
                self._changed.notify_all()
                raise stopping()
            job._tag, job._came = self._clocks.get(job.priority, 0.0), time.monotonic()
            if len(job.costs):
                self._jobs.append(job)
            else:
                job.done.set_result(job)
            self._changed.notify_all()

    def drop(self, job: Job) -> None:
        """Forgets a job: its caller has gone, or takes what is there, which no longer changes then. What a running wave has of it is not
        waited for, and stopped between two calls of the network if nobody else is in that wave."""
        with self._changed:
            self._jobs = [one for one in self._jobs if one is not job]
            job.done.cancel()

    def refuse(self, after_s: float = 8.0) -> None:
        """Takes nothing more in; what waits is done for so long, then it is refused."""
        with self._changed:
            self._closing, self._ends = True, min(self._ends, time.monotonic() + after_s)
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the threads, once what waits is done or `refuse` has had its time."""
        self.refuse()
        for thread in self._threads:
            thread.join()

    # In the scheduler's threads.

    def _work(self) -> None:
        while True:
            with self._changed:
                while not any(job._next < len(job.costs) for job in self._jobs) and not self._over():
                    self._changed.wait(max(0.0, self._ends - time.monotonic()) if self._closing else None)
                if self._over():
                    self._ended = True
                    for job in self._jobs:
                        if not job.done.done():
                            job.done.set_exception(stopping())
                    self._jobs = []
                    self._changed.notify_all()
                    return
                wave = self._deal()
            try:
                self._run(wave)
            except Exception as error:  # a fault of ours: it fails its wave, and the thread goes on
                with self._changed:
                    self._jobs = [job for job in self._jobs if job not in [share.job for share in wave]]
                    for share in wave:
                        if not share.job.done.done():
                            share.job.done.set_exception(_broken(error))

    def _run(self, wave: Sequence[_Share]) -> None:
        start = time.monotonic()
        answers = self._score(wave)
        took, tokens = time.monotonic() - start, sum(share.tokens for share in wave)
        with self._changed:
            self.worked += took / len(self._threads)
            if not any(isinstance(answer, BaseException) for answer in answers):  # before anybody hears of the wave
                self._keep_pace(sum(_distinct(share) for share in wave), took)
            for share, answer in zip(wave, answers, strict=True):
                self._take(share, answer, start, took * share.tokens / tokens)
            self._changed.notify_all()

    def _over(self) -> bool:
        """Stopping, with all done, also what `admit` let in and is not here yet, or no time left."""
        return self._closing and ((not self._jobs and self._reserved <= 0) or self.over)

    def _deal(self) -> tuple[_Share, ...]:
        """The next wave: a document at least, of a scorer of whole lists one list."""
        left = [job for job in self._jobs if job._next < len(job.costs)]
        first = min(job.priority for job in left)
        jobs, whole = [job for job in left if job.priority == first], self.scorer.whole
        known = self._pace * self.wave_ms / 1e3 if self._pace else FIRST_WAVE
        budget = 1.0 if whole else max(1.0, min(self.wave_tokens, known))
        part, begun = max(1.0, budget / len(jobs)), dict[Job, int]()
        while budget > 0 and jobs:
            job = min(jobs, key=lambda one: one._tag)  # of equal ones the first that came
            self._clocks[first] = job._tag
            begun.setdefault(job, job._next)
            given, most = 0.0, math.inf if whole else min(part, budget)
            while given < most and job._next < len(job.costs):
                given += max(1, int(job.costs[job._next]))
                job._next += 1
            budget -= given
            job._tag += given
            if job._next == len(job.costs):
                jobs.remove(job)
        return tuple(_Share(job, slice(start, job._next)) for job, start in begun.items())

    def _score(self, wave: Sequence[_Share]) -> list[Scores | BaseException]:
        """What the scorer says of each share; an error that several share is looked for in each alone, so that it hits nobody else."""
        rankings = [Ranking.in_order(share.job.corpus, np.arange(share.rows.start, share.rows.stop)) for share in wave]
        unwanted = partial(self._unwanted, wave)
        try:
            with limited(cancelled=unwanted, calls=self._calls, deadline_ms=_left(wave, self.scorer.whole)):
                answers = self.scorer.score([share.job.query for share in wave], rankings)
            return [_right(answer, share) for answer, share in zip(answers, wave, strict=True)]
        except Cancelled as error:
            return [error] * len(wave)
        except Exception as error:  # whatever a model raises: it is the request's answer, and this thread goes on
            if len(wave) > 1:
                return [answer for share in wave for answer in self._score([share])]
            return [error if isinstance(error, RerankError) else _broken(error)]

    def _unwanted(self, wave: Sequence[_Share]) -> bool:
        return self.over or all(share.job.done.done() for share in wave)

    def _take(self, share: _Share, answer: Scores | BaseException, start: float, took: float) -> None:
        """Puts a share's scores in their places, and resolves its job where it is complete or failed. took: its part of the wave's time."""
        job, rows = share.job, share.rows
        if job.done.done():
            return
        if rows.start == 0:
            job.waited = start - job._came
        elif isinstance(answer, Scores) and answer.scale != job.scale:
            answer = ModelError("the model", got=f"scores on two scales, '{job.scale}' and '{answer.scale}'", expected="one")
        if isinstance(answer, BaseException):
            self._jobs = [one for one in self._jobs if one is not job]
            job.done.set_exception(answer if not isinstance(answer, Cancelled) else stopping())
            return
        job.worked += took
        job._answered += rows.stop - rows.start
        job.values[rows], job.scored[rows], job.scale = answer.values, answer.columns.get("scored", True), answer.scale
        job.truncated[rows] = answer.columns.get("truncated_tokens", 0)
        job.tokens += int(answer.facts.get("tokens", share.tokens))
        if job._answered == len(job.costs):
            self._jobs = [one for one in self._jobs if one is not job]
            job.done.set_result(job)

    def _keep_pace(self, tokens: int, took: float) -> None:
        """A geometric mean that forgets; no single wave moves it more than fourfold."""
        self._waves += 1
        own = tokens / max(took, 1e-6)
        if self._pace:
            own = min(max(own, self._pace / 4), self._pace * 4)
        weight = max(1 / self._waves, 1 - 0.5 ** (1 / PACE_HALF_LIFE))
        self._pace = own if not self._pace else math.exp((1 - weight) * math.log(self._pace) + weight * math.log(own))
        self._told(tokens=tokens, seconds=took)


def stopping() -> Overloaded:
    """What is told of a request that comes, or is not done, as the server ends."""
    return Overloaded("this server is stopping", retry_after=1, stopping=True, got="a request that it will not finish")


def _left(wave: Sequence[_Share], whole: bool) -> float | None:
    """ms that a whole list may take: it has to be back before its caller's time is over."""
    until = wave[0].job.until
    return None if not whole or until is None else max(0.0, 1e3 * (until - time.monotonic()) - BACK_MS)


def _distinct(share: _Share) -> int:
    """Its tokens, equal texts counted once: models run them once."""
    texts = share.job.corpus.texts(np.arange(share.rows.start, share.rows.stop))
    return int(sum(dict(zip(texts, share.job.costs[share.rows].tolist())).values()))


def _broken(error: Exception) -> ModelError:
    """What callers are told of an error that is not of this package: its kind alone."""
    made = ModelError("the model failed", got=type(error).__name__, expected="scores")
    made.__cause__ = error
    return made


def _right(answer: Scores, share: _Share) -> Scores:
    """One score a document. -inf, nothing to compare, becomes the lowest number; NaN and infinity raise: they have no place in an order."""
    if len(answer.values) != share.rows.stop - share.rows.start:
        raise ModelError("the model", got=f"{len(answer.values)} scores", expected=f"{share.rows.stop - share.rows.start}")
    if not (answer.values < np.inf).all():
        raise NonFiniteError("the model's scores", got="NaN or infinity", expected="finite numbers")
    return Scores(np.maximum(answer.values, LOWEST), answer.scale, answer.columns, answer.facts)
