"""Calls timed one by one: wall and processor time, their percentiles, and how far these move from round to round."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..ops.checks import count
from ..progress import Progress

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds. cpu: of all threads of this process."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """float64 [rounds, inputs] of each call, in ms. cpu_ms: processor time of all threads, which may exceed wall time."""

    wall_ms: NDArray[np.float64]
    cpu_ms: NDArray[np.float64]

    @property
    def p50(self) -> float:
        return float(np.percentile(self.wall_ms, 50))

    @property
    def p95(self) -> float:
        return float(np.percentile(self.wall_ms, 95))

    @property
    def p99(self) -> float:
        return float(np.percentile(self.wall_ms, 99))

    @property
    def cpu(self) -> float:
        """Median of processor time."""
        return float(np.percentile(self.cpu_ms, 50))

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles of the rounds' medians, ms: one disturbed round widens them little. Of one round both are its median."""
        return _spread(self.wall_ms)

    @property
    def cpu_spread(self) -> tuple[float, float]:
        return _spread(self.cpu_ms)

    @property
    def n(self) -> int:
        """Calls timed."""
        return self.wall_ms.size

    @property
    def rounds(self) -> int:
        return len(self.wall_ms)


def _spread(ms: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(np.median(ms, axis=1), [25, 75])
    return float(low), float(high)


def timed(
    call: Callable[[T], object],
    inputs: Sequence[T],
    rounds: int = 3,
    warm_up: int = 1,
    *,
    clock: Clock | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Samples:
    """Each input once a round, one after the other. warm_up: calls before, not timed. stop: asked between rounds whether to leave out the
    rest of them. The garbage collector rests meanwhile.

    Raises InputError for no inputs or no round.
    """
    if not len(inputs):
        raise InputError("timed: inputs", got="none", expected="at least one")
    clock, ms = Clock() if clock is None else clock, np.empty((2, count("timed: rounds", rounds), len(inputs)))
    for i in range(warm_up):
        call(inputs[i % len(inputs)])
    collecting = gc.isenabled()
    gc.disable()
    done = 0
    try:
        while done < rounds and not (done and stop()):
            for i, each in enumerate(inputs):
                wall, cpu = clock.wall(), clock.cpu()
                call(each)
                ms[1, done, i] = 1e3 * (clock.cpu() - cpu)
                ms[0, done, i] = 1e3 * (clock.wall() - wall)
                if progress:
                    progress(done * len(inputs) + i + 1, rounds * len(inputs))
            done += 1
    finally:
        if collecting:
            gc.enable()
    return Samples(ms[0, :done], ms[1, :done])


class Pace:
    """How quick the machine is at the moment: ms of a small job of numpy's alone, a product of matrices and a sum over memory.

    What else runs on a shared machine moves it as it moves what is measured; two runs an hour apart differ by that before anything else.
    """

    def __init__(self, clock: Clock) -> None:
        rng = np.random.default_rng(0)
        self._clock, self._square = clock, rng.normal(size=(320, 320)).astype(np.float32)
        self._long = np.ones(8 << 20, np.float32)  # 32 MB: more than one core's caches

    def ms(self, times: int = 40) -> float:
        """The lower quartile of so many: what a machine does when nothing interrupts it for a millisecond."""
        return round(float(np.percentile(timed(self._job, range(times), 1, warm_up=2, clock=self._clock).wall_ms, 25)), 4)

    def _job(self, _: int) -> None:
        self._square @ self._square
        self._long.sum()


def percentiles(samples: Samples) -> dict[str, Any]:
    """What a row of results says of samples: the keys p50_ms, p95_ms, p99_ms, cpu_ms, spread_ms, cpu_spread_ms, calls and rounds."""
    return {
        "p50_ms": round(samples.p50, 4),
        "p95_ms": round(samples.p95, 4),
        "p99_ms": round(samples.p99, 4),
        "cpu_ms": round(samples.cpu, 4),
        "spread_ms": [round(x, 4) for x in samples.spread],
        "cpu_spread_ms": [round(x, 4) for x in samples.cpu_spread],
        "calls": samples.n,
        "rounds": samples.rounds,
    }
