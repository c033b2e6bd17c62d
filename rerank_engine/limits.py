"""How long work may take, and how it tells of itself, for everything that runs inside a `with`: pipelines, stages and models alike.

    with rr.limited(deadline_ms=150):
        ranking = pipeline("a query")     # what was not done in time is told by `ranking.unfinished`

A context of the caller's, not a setting of the library: it ends with the `with`, and threads and tasks each have their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from numbers import Real

from .errors import Cancelled, InputError
from .progress import Progress


@dataclass(frozen=True, slots=True)
class Limits:
    """deadline: a time of `time.monotonic()`, None for none. cancelled: says whether the work is still wanted. progress(done, total).
    calls(tokens, computed): told of each call of a network, how many tokens it was for and how many with the padding that it computed."""

    deadline: float | None = None
    cancelled: Callable[[], bool] | None = None
    progress: Progress | None = None
    calls: Callable[[int, int], None] | None = None

    def out_of_time(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def left(self) -> float:
        """Seconds to the deadline, 0 once it has passed, infinity without one."""
        return math.inf if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def check(self) -> None:
        """Raises Cancelled when the caller wants no answer any more."""
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("the work was cancelled by its caller")


_NONE = Limits()
_CURRENT: ContextVar[Limits] = ContextVar("rerank_engine_limits", default=_NONE)


def limits() -> Limits:
    """Those of the innermost `with limited(...)`; none by default."""
    return _CURRENT.get()


@contextmanager
def limited(
    *,
    deadline_ms: float | None = None,
    cancelled: Callable[[], bool] | None = None,
    progress: Progress | None = None,
    calls: Callable[[int, int], None] | None = None,
) -> Iterator[Limits]:
    """Limits for what runs inside, see `Limits`. deadline_ms: from now on; an outer deadline that comes first stays in force, and so does
    what an outer `with` asks for and this one does not.

    At the deadline models stop between two calls of the network: a call that has begun is finished. Raises InputError.
    """
    if deadline_ms is not None and (isinstance(deadline_ms, bool) or not isinstance(deadline_ms, Real) or not deadline_ms >= 0):
        raise InputError("limited: deadline_ms", got=deadline_ms, expected="milliseconds from now, 0 or more, or None")
    for name, call in (("cancelled", cancelled), ("progress", progress), ("calls", calls)):
        if call is not None and not callable(call):
            raise InputError(f"limited: {name}", got=call, expected="a callable or None")
    outer = limits()
    own = None if deadline_ms is None else time.monotonic() + float(deadline_ms) / 1e3
    ends = [end for end in (own, outer.deadline) if end is not None]
    token = _CURRENT.set(Limits(min(ends, default=None), cancelled or outer.cancelled, progress or outer.progress, calls or outer.calls))
    try:
        yield limits()
    finally:
        _CURRENT.reset(token)


def pieces(n: int, first: int, most: int | None = None) -> Iterator[slice]:
    """Slices of n things to work on in their order, for as long as time allows: all of them without a deadline.

    first: things in the first piece under a deadline. Each further one has twice as many at most, and no more than what the one before took
    says to be done in half of the time that is left, 1 at least: unless things cost twice as much as those before, the deadline is overrun
    by one of them alone. most: in a piece, also without a deadline. Raises Cancelled.
    """
    most, at, size, now = n if most is None else most, 0, first, limits()
    if now.deadline is None:
        size = most
    while at < n and not now.out_of_time():
        now.check()
        begin, end = now.left(), min(n, at + min(size, most))
        yield slice(at, end)
        spent, left, at = begin - now.left(), now.left(), end
        if now.deadline is not None:
            size = max(1, 2 * size if spent <= 0 else int(min(2 * size, size * left / spent / 2)))
