"""Times by a clock of the test's own: what is timed, what is not, and what is said of it."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from ticks import Ticks

from rerank_engine.errors import InputError
from rerank_engine.latency.timing import Samples, percentiles, timed


def test_each_input_is_timed_once_a_round_behind_the_warm_up() -> None:
    ticks, seen = Ticks(), list[int]()

    def call(ms: int) -> None:
        seen.append(ms)
        ticks.spend(ms, 2 * ms)

    done = list[tuple[int, int]]()
    samples = timed(call, [3, 1, 2], rounds=2, warm_up=4, clock=ticks.clock, progress=lambda a, b: done.append((a, b)))
    assert seen == [3, 1, 2, 3, *[3, 1, 2] * 2]
    np.testing.assert_allclose(samples.wall_ms, [[3, 1, 2]] * 2)
    np.testing.assert_allclose(samples.cpu_ms, [[6, 2, 4]] * 2)
    assert done == [(i, 6) for i in range(1, 7)]


def test_percentiles_and_spread_are_numpys() -> None:
    wall = np.random.default_rng(0).exponential(size=(4, 50))
    samples = Samples(wall, 2 * wall)
    assert (samples.p50, samples.p95, samples.p99) == tuple(np.percentile(wall, [50, 95, 99]))
    assert samples.cpu == pytest.approx(2 * samples.p50)
    medians = np.median(wall, axis=1)
    assert samples.spread == tuple(np.percentile(medians, [25, 75]))
    told = percentiles(samples)
    assert told["calls"] == 200
    assert told["rounds"] == 4
    assert told["cpu_spread_ms"] == pytest.approx([2 * x for x in samples.spread], abs=1e-4)


def test_one_disturbed_round_leaves_the_spread_narrow() -> None:
    wall = np.tile([[1.0], [1.02], [0.98], [3.0], [1.01]], (1, 7))
    assert Samples(wall, wall).spread == pytest.approx((1.0, 1.02))


def test_rounds_end_when_it_is_told_to_stop_and_one_is_always_done() -> None:
    ticks = Ticks()
    samples = timed(ticks.spend, [10.0, 20.0], rounds=5, warm_up=0, clock=ticks.clock, stop=lambda: ticks.wall_s >= 0.06)
    np.testing.assert_allclose(samples.wall_ms, [[10, 20]] * 2)
    assert timed(ticks.spend, [1.0], rounds=5, warm_up=0, clock=ticks.clock, stop=lambda: True).rounds == 1


def test_the_garbage_collector_rests_meanwhile_also_where_a_call_fails() -> None:
    states = list[bool]()
    timed(lambda _: states.append(gc.isenabled()), [1], rounds=1, warm_up=0)
    assert states == [False]
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        timed(lambda x: 1 / x, [0], warm_up=0)
    assert gc.isenabled()


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(InputError, match="inputs"):
        timed(print, [])
    with pytest.raises(InputError, match="rounds"):
        timed(print, [1], rounds=0)
