"""bench_fleet fits what it says from calls without load, and tells a simulation that holds from one that does not."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

if importlib.util.find_spec("benchmarks") is None:
    sys.path.append(str(Path(__file__).resolve().parents[1]))


@pytest.fixture
def bench() -> ModuleType:
    for needed in ("httpx", "uvicorn"):
        pytest.importorskip(needed, reason="bench_fleet asks servers")
    return importlib.import_module("benchmarks.bench_fleet")


def test_the_fit_is_what_calls_without_load_say(bench: ModuleType) -> None:
    rng, work = np.random.default_rng(0), np.linspace(20, 80, bench.POOL)
    told = bench.Slices()
    for i in range(bench.POOL):
        told.alone += [(i, 5 + work[i] * factor) for factor in (0.9, 1.0, 1.0, 1.2)]
    told.blank = (5 + rng.normal(0, 0.1, 100)).tolist()
    fitted = bench.alone(told, 50.0)
    assert fitted.hop == pytest.approx(5, abs=0.05)
    assert fitted.work == pytest.approx(work, abs=0.1)
    assert np.unique(fitted.scatter.round(2)).tolist() == [0.9, 1.0, 1.2]


@pytest.mark.parametrize("crowding", [1.0, 1.3])
def test_crowding_is_what_more_requests_than_are_answered_say(bench: ModuleType, crowding: float) -> None:
    free = bench.Fit(50.0, 5.0, np.linspace(20, 80, bench.POOL), np.array([0.9, 1.0, 1.1]))
    over = bench.fresh_slices(1.5 * 2 / 0.05, 8.0, 3)
    over = [(arrivals, asked, ms) for (arrivals, asked, _), [ms] in zip(over, bench.simulated(replace(free, crowding=crowding), over, 1))]
    assert free.crowded(over).crowding == pytest.approx(crowding, abs=0.02)
    assert bench.capacity(over) == pytest.approx(2e3 / (50 * crowding + 2 * 2.5), rel=0.05)  # two processors; hops take one, too


def test_what_no_crowding_explains_ends_the_run(bench: ModuleType) -> None:
    free = bench.Fit(50.0, 5.0, np.full(bench.POOL, 50.0), np.ones(1))
    with pytest.raises(SystemExit, match="something else is wrong"):
        free.crowded([(np.linspace(0, 1, 20), np.zeros(20, np.int64), np.full(20, 60_000.0))])


def test_a_simulation_that_does_not_hold_is_told(bench: ModuleType) -> None:
    fitted = bench.Fit(50.0, 5.0, np.linspace(20, 80, bench.POOL), np.ones(3), 1.2)
    told, rate = bench.Slices(foreign=[0.01], over=[(np.zeros(2), np.zeros(2, np.int64), np.full(2, 60.0))]), 15.0
    made = bench.fresh_slices(rate, 20.0, 6)
    for (arrivals, asked, _), [ms] in zip(made, bench.simulated(fitted, made, 1)):
        told.loaded[0.5].append((arrivals, asked, ms))
    good = bench.row(0.5, fitted, told, "simulated", rate, 20.0)
    assert good["verified"] and abs(good["off"][1]) < 0.05 and abs(good["pooled_off"][1]) < 0.05
    assert good["requests"] == sum(len(asked) for _, asked, _ in made)
    slower = bench.Fit(50.0, 5.0, 1.5 * fitted.work, np.ones(3), 1.2)
    bad = bench.row(0.5, slower, told, "simulated", rate, 20.0)
    assert not bad["verified"] and bad["pooled_off"][1] > 0.15


def test_slices_have_draws_of_their_own_and_samples_as_large_as_measured(bench: ModuleType) -> None:
    fitted = bench.Fit(50.0, 5.0, np.full(bench.POOL, 40.0), np.array([0.5, 1.0, 2.0]), 1.0)
    slices = [(np.arange(30.0), np.zeros(30, np.int64), np.zeros(30))] * 2
    made = bench.simulated(fitted, slices, 3)
    assert [[len(ms) for ms in draws] for draws in made] == [[30] * 3] * 2
    flat = [tuple(ms.round(6)) for draws in made for ms in draws]
    assert len(set(flat)) == 6
    each = [np.percentile(np.concatenate([made[0][d], made[1][d]]), 95) for d in range(3)]
    assert bench.pooled(made)[1] == pytest.approx(np.mean(each))
