"""Machines for a load: against queueing theory, and by what must hold of any answer."""

from __future__ import annotations

import numpy as np
import pytest

from rerank_engine.errors import InputError
from rerank_engine.planning.capacity import Service, capacity, simulated


def test_one_machine_without_batches_waits_as_theory_says() -> None:
    """M/D/1 at load 0.5: the mean response is service * (1 + load / (2 (1 - load))) = 1.5 services (Pollaczek and Khinchine)."""
    rng = np.random.default_rng(0)
    arrivals = np.cumsum(rng.exponential(20.0, 50_000))
    service = Service(10.0, 10.0, 0.0, 1.0)
    p50, p95, load, batch = simulated(arrivals, np.full(50_000, 10.0), service, 1, 1, 5_000)
    waits, free = [], 0.0  # Lindley's recursion
    for at in arrivals:
        free = max(free, at) + 10.0
        waits.append(free - at)
    assert (p50, p95) == pytest.approx(tuple(np.percentile(waits[5_000:], [50, 95])))
    assert np.mean(waits) == pytest.approx(15, rel=0.05)
    assert load == pytest.approx(0.5, rel=0.03)
    assert batch == 1


def test_batches_pay_the_fixed_part_once() -> None:
    arrivals = np.zeros(8)
    service = Service(10.0, 10.0, 8.0, 1.0)
    _, p95, _, batch = simulated(arrivals, np.full(8, 10.0), service, 1, 4, 0)
    assert batch == 4
    assert p95 == pytest.approx(np.percentile([16.0] * 4 + [32.0] * 4, 95))  # 8 + 4 * 2, twice


def test_the_fewest_machines_that_keep_the_target() -> None:
    service = Service(20.0, 26.0, 2.0, 500.0)
    found = capacity(service, qps=200, target_ms=60)
    assert found.enough
    assert found.response_p95_ms <= 60
    assert found.machines >= 3  # 200 * 18 ms of work that no batch saves
    assert 0 < found.utilisation <= 1
    more = capacity(service, qps=800, target_ms=60)
    assert more.machines > found.machines
    tighter = capacity(service, qps=200, target_ms=30)
    assert tighter.machines > found.machines
    assert found == capacity(service, qps=200, target_ms=60)  # the same draws
    assert len(found.assumptions) >= 6
    assert found.to_dict()["machines"] == found.machines


def test_a_plan_that_fills_its_target_alone_says_so() -> None:
    found = capacity(Service(100.0, 150.0, 0.0, 1.0), qps=5, target_ms=120)
    assert not found.enough
    assert found.response_p95_ms == pytest.approx(150, rel=0.05)


def test_a_queue_that_grows_for_ever_is_never_enough() -> None:
    """1.01 machines' worth of work on one machine keeps to a wide target for a long time, and then no more."""
    found = capacity(Service(10.0, 10.0, 0.0, 1.0), qps=101, target_ms=20_000, batch_tokens=1)
    assert found.machines == 2
    assert found.utilisation == pytest.approx(0.505, rel=0.03)


def test_without_a_model_queries_are_answered_one_by_one() -> None:
    assert capacity(Service(1.0, 1.2, 0.5, 0.0), qps=500, target_ms=20).mean_batch == 1


@pytest.mark.parametrize("bad", [{"qps": 0}, {"qps": -1}, {"target_ms": 0}, {"batch_tokens": 0}, {"qps": float("nan")}])
def test_numbers_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match="capacity"):
        capacity(Service(1.0, 2.0, 0.0, 1.0), **{"qps": 10, "target_ms": 10, **bad})  # type: ignore[arg-type]
