"""Requests that a replica died with: all of them are tried again, except the one that did it.

The first death proves nothing of the requests that the replica had. From then on they are suspects, and a suspect is tried again when no
other one is: whoever has a second replica die under it did it. Its body is remembered, and refused wherever it comes again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
PAUSE_S, MOST_PAUSE_S = 0.1, 2.0  # before a request is tried again, and twice as long each time: Serve has to see that a replica is gone
TRIED_S = 300.0  # from the first death on; then it is 503
KEPT_S = 600.0  # that a body which ends processes is refused


class Died(Exception):
    """The replica that had the request is gone, with the answer or without. replica: which process ended, "" where that is not known."""

    def __init__(self, message: str, replica: str = "") -> None:
        super().__init__(message)
        self.replica = replica


class Deadly(Exception):
    """The request ended each process that read it."""


class Deaths:
    """Of one model's replicas, as one front sees them."""

    def __init__(self) -> None:
        self._suspect, self._deadly = asyncio.Lock(), dict[bytes, float]()  # body -> until when

    async def survived(self, body: bytes, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` gives; it is called again where it raises Died. Raises Deadly, what `ask` raises, and Died after TRIED_S of it."""
        own = hashlib.blake2b(body, digest_size=16).digest()
        self._refuse(own)
        try:
            return await ask()
        except Died as error:
            seen, end = {error.replica}, time.monotonic() + TRIED_S
        async with self._suspect:
            pause = PAUSE_S
            while True:
                await asyncio.sleep(pause)
                pause = min(2 * pause, MOST_PAUSE_S)
                self._refuse(own)
                try:
                    return await ask()
                except Died as error:
                    if error.replica and error.replica not in seen:  # not one that was dead before it came
                        self._deadly[own] = time.monotonic() + KEPT_S
                    elif time.monotonic() > end:
                        raise
                    self._refuse(own)

    def _refuse(self, own: bytes) -> None:
        now = time.monotonic()
        self._deadly = {body: until for body, until in self._deadly.items() if until > now}
        if own in self._deadly:
            raise Deadly("it ended the process that read it, twice, and is not tried again")
