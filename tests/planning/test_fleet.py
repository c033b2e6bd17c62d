"""The simulation of a fleet: against queueing theory where it has closed forms, by brute force and by what must always hold where not."""

from __future__ import annotations

from math import factorial, inf
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rerank_engine.core import Query, Scorer
from rerank_engine.corpus import Corpus
from rerank_engine.errors import InputError
from rerank_engine.planning import Tier, simulate
from rerank_engine.planning.fleet import _Ask, _Passing, _Try, lognormal, passing
from rerank_engine.serve.scheduler import Job, Scheduler

N = 40_000
Floats = NDArray[np.float64]


def poisson(every_ms: float, n: int = N, seed: int = 0) -> Floats:
    return np.cumsum(np.random.default_rng(seed).exponential(every_ms, n))


def exponential(mean: float, n: int = N, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).exponential(mean, n)


def responses(tier: Tier, work: Floats, every_ms: float, fill: int = 4_000) -> Floats:
    return simulate(poisson(every_ms, len(work)), [tier], [work], fill=fill).responses


def test_m_m_1_answers_after_exponential_times() -> None:
    """Mean 1 / (mu - lambda), and quantile q at -ln(1 - q) times it."""
    told = responses(Tier("t"), exponential(10), 20)
    assert told.mean() == pytest.approx(20, rel=0.05)
    for q in (50, 95):
        assert np.percentile(told, q) == pytest.approx(-np.log(1 - q / 100) * 20, rel=0.05)


def test_m_d_1_waits_as_pollaczek_and_khinchine_say() -> None:
    for load in (0.3, 0.5, 0.8):
        told = responses(Tier("t"), np.full(N, 10.0), 10 / load)
        assert told.mean() == pytest.approx(10 * (1 + load / (2 * (1 - load))), rel=0.05)


@pytest.mark.parametrize("servers", [2, 5])
def test_m_m_c_of_one_queue_waits_as_erlang_says(servers: int) -> None:
    load = 0.7
    a = servers * load
    last = a**servers / factorial(servers) / (1 - load)
    waits = last / (sum(a**k / factorial(k) for k in range(servers)) + last)
    told = responses(Tier("t", servers=servers), exponential(10), 10 / a)
    assert told.mean() == pytest.approx(10 + waits * 10 / (servers * (1 - load)), rel=0.05)


def test_two_choices_lie_between_one_queue_and_blind_chance() -> None:
    work = exponential(10)
    one_queue = responses(Tier("t", servers=8), work, 10 / (8 * 0.8)).mean()
    two = responses(Tier("t", replicas=8), work, 10 / (8 * 0.8)).mean()
    assert one_queue < two < 10 / (1 - 0.8) / 1.5  # blind chance: eight M/M/1


def test_a_query_takes_as_long_as_the_slowest_of_its_shards() -> None:
    """Unloaded: P(max <= x) = F(x)^S, so the quantile q is that of one shard at q^(1/S)."""
    n, shards, ratio = 4_000, 20, 1.6
    told = simulate(np.arange(n) * 1e4, [Tier("t", shards=shards, noise=ratio)], [np.full(n, 10.0)]).responses
    one = lognormal(10, 10 * ratio, 400_000, np.random.default_rng(5))
    for q in (0.5, 0.95):
        assert np.quantile(told, q) == pytest.approx(np.quantile(one, q ** (1 / shards)), rel=0.03)


def test_tiers_follow_one_another_and_hops_add_up() -> None:
    tiers = [Tier("a", shards=3, hop_ms=1.0), Tier("b", replicas=2, hop_ms=0.25)]
    told = simulate(np.arange(50) * 100.0, tiers, [np.full(50, 5.0), np.full(50, 7.0)])
    assert told.responses == pytest.approx(np.full(50, 5 + 2 + 7 + 0.5))
    assert told.tiers[0].utilisation == pytest.approx(5 / 100, rel=0.05)
    assert told.partial == 0


def test_utilisation_is_the_load_that_is_offered() -> None:
    told = simulate(poisson(10), [Tier("t", shards=2, replicas=3)], [exponential(12)])
    assert told.tiers[0].utilisation == pytest.approx(12 / 10 / 3, rel=0.03)


def test_waves_are_shared_and_a_short_request_leaves_early() -> None:
    tier = Tier("t", wave_ms=50)
    told = simulate(np.array([0.0, 1.0]), [tier], [np.array([100.0, 10.0])]).responses
    assert told == pytest.approx([110, 99])  # 50 of the first; 10 + 40; 10 of the first
    alone = simulate(np.array([0.0, 1.0]), [Tier("t")], [np.array([100.0, 10.0])]).responses
    assert alone == pytest.approx([100, 109])


class Unused(Scorer):
    def score(self, queries: Any, rankings: Any) -> Any:
        raise AssertionError


def test_waves_are_dealt_as_the_server_deals_them() -> None:
    """Documents of one token, a token a ms, waves of 60: as many of each request in each wave."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        lengths = rng.integers(1, 120, 5).tolist()
        real = object.__new__(Scheduler)
        real.scorer, real.wave_ms, real.wave_tokens, real._pace, real._clocks = Unused(), 60.0, 10_000, 1000.0, {}
        real._jobs = [Job(Query("q"), Corpus.from_texts(["a"] * n), np.ones(n, np.int64)) for n in lengths]
        ours = _Passing(Tier("t", wave_ms=60, piece_ms=1), 0)
        station = ours.shards[0][0]
        tries = [_Try(_Ask(i, 0), station, 0.0, float(n), 0.0, False) for i, n in enumerate(lengths)]
        station.queue.extend(tries)
        while station.queue:
            left = [one.left for one in tries]
            ours._deal(station)
            given = {share.job: share.rows.stop - share.rows.start for share in real._deal()}
            assert [a - b.left for a, b in zip(left, tries)] == pytest.approx([given.get(job, 0) for job in real._jobs])


def test_waves_hold_whole_documents() -> None:
    """Documents of 20 ms, waves of 50: 60 of the first; all 40 of the second and 20 of the first, for 10 that are left; 20 of the first."""
    arrivals, work = np.array([0.0, 1.0]), [np.array([100.0, 40.0])]
    assert simulate(arrivals, [Tier("t", wave_ms=50, piece_ms=20)], work).responses == pytest.approx([140, 119])
    assert simulate(arrivals, [Tier("t", wave_ms=50)], work).responses == pytest.approx([140, 99])


def test_crowded_replicas_slow_each_other_while_both_are_busy() -> None:
    tier = Tier("t", replicas=2, crowding=1.5)
    assert simulate(np.array([0.0, 5.0]), [tier], [np.array([10.0, 10.0])]).responses == pytest.approx([12.5, 12.5])
    assert simulate(np.array([0.0, 50.0]), [tier], [np.array([10.0, 10.0])]).responses == pytest.approx([10, 10])


def test_hops_take_processors_of_a_shared_machine() -> None:
    """Two waves and two hops of 3 ms on two processors: half speed for 3 ms, so 11.5 in place of 10, and the hops there and back."""
    tier = Tier("t", replicas=2, hop_ms=3, processors=2)
    work = np.array([10.0, 10.0])
    assert simulate(np.zeros(2), [tier], [work]).responses == pytest.approx([17.5, 17.5])
    assert simulate(np.zeros(2), [Tier("t", replicas=2, hop_ms=3, processors=4)], [work]).responses == pytest.approx([16, 16])
    assert simulate(np.array([0.0, 100.0]), [tier], [work]).responses == pytest.approx([16, 16])


def test_second_tries_by_brute_force() -> None:
    """Unloaded, work 10, a tenth of the tries 30 times as long, asked again after the median, which is 10: 10, or 20, or 300 if both."""
    n = 5_000
    tier = Tier("t", replicas=2, straggling=(0.1, 30.0), hedge=(0.5, 1.0))
    told = simulate(np.arange(n) * 1e4, [tier], [np.full(n, 10.0)], fill=200)
    values, counts = np.unique(told.responses.round(6), return_counts=True)
    assert values.tolist() == [10, 20, 300]
    assert counts / counts.sum() == pytest.approx([0.9, 0.09, 0.01], abs=0.01)
    assert told.tiers[0].hedged == pytest.approx(0.1, abs=0.01)


def test_second_tries_help_against_stragglers_and_keep_to_their_share() -> None:
    work, slow = lognormal(10, 15, N, np.random.default_rng(2)), {"replicas": 3, "straggling": (0.02, 20.0)}
    without = simulate(poisson(30), [Tier("t", **slow)], [work])
    helped = simulate(poisson(30), [Tier("t", **slow, hedge=(0.95, 0.05))], [work])
    assert helped.percentile(99) < 0.7 * without.percentile(99)
    assert 0.01 < helped.tiers[0].hedged <= 0.05 * 1.05 + 0.001
    assert 0 < helped.tiers[0].extra < 0.4
    none = simulate(poisson(30), [Tier("t", **slow, hedge=(0.95, 0.0))], [work])
    assert none.tiers[0].hedged == 0
    assert (none.responses == without.responses).all()


def test_what_is_late_is_asked_again_in_any_case() -> None:
    """Unloaded, work 10, a tenth of the tries 30 times as long, asked again after a third of 60: 10, or 20 + 10, or 60 if both."""
    n = 5_000
    tier = Tier("t", replicas=2, straggling=(0.1, 30.0), deadline_ms=60, late=1 / 3)
    told = simulate(np.arange(n) * 1e4, [tier], [np.full(n, 10.0)])
    values, counts = np.unique(told.responses.round(6), return_counts=True)
    assert values.tolist() == [10, 30, 60]
    assert counts / counts.sum() == pytest.approx([0.9, 0.09, 0.01], abs=0.01)
    assert told.partial == pytest.approx(0.01, abs=0.01)
    share = Tier("t", replicas=2, straggling=(0.1, 30.0), deadline_ms=60, late=1 / 3, hedge=(0.5, 0.0))
    assert (simulate(np.arange(n) * 1e4, [share], [np.full(n, 10.0)]).responses == told.responses).all()


def test_the_least_of_all_waits_less_than_the_less_of_two() -> None:
    work = exponential(10)
    two, least = (responses(Tier("t", replicas=8, least=least), work, 10 / (8 * 0.8)).mean() for least in (False, True))
    assert responses(Tier("t", servers=8), work, 10 / (8 * 0.8)).mean() < least < 0.95 * two


def test_machines_that_are_gone_are_not_idle() -> None:
    told = simulate(poisson(10), [Tier("t", shards=2, replicas=3, down=(1, 2))], [exponential(12)])
    assert told.tiers[0].utilisation == pytest.approx(12 / 10 / 2, rel=0.03)


def test_a_shard_without_replicas_makes_answers_partial_as_often_as_chance_says() -> None:
    """Work that takes next to no time: the share of partial answers is 1 - (1 - u^R)^S, u = repair / (between + repair)."""
    n, shards, replicas, down = 40_000, 3, 2, 0.2
    tier = Tier("t", shards=shards, replicas=replicas, failures=(0.8, 0.2), deadline_ms=1e-3)
    told = simulate(np.arange(n) * 200.0, [tier], [np.full(n, 1e-6)])
    assert told.partial == pytest.approx(1 - (1 - down**replicas) ** shards, rel=0.1)


def test_what_dies_with_a_replica_is_sent_again() -> None:
    work = exponential(10, 8_000)
    arrivals = poisson(8, 8_000)
    told = passing(arrivals, work, Tier("t", replicas=3, failures=(1.0, 0.1), wave_ms=50))
    assert told.resent > 10
    assert not told.partial.any()
    assert (told.done - arrivals >= work * (1 - 1e-9) - 1e-6).all()
    again = passing(arrivals, work, Tier("t", replicas=3, failures=(1.0, 0.1), wave_ms=50))
    assert (told.done == again.done).all()
    other = passing(arrivals, work, Tier("t", replicas=3, failures=(1.0, 0.1), wave_ms=50), seed=1)
    assert not (told.done == other.done).all()


def test_a_deadline_bounds_answers_and_says_that_they_are_partial() -> None:
    tier = Tier("t", shards=2, deadline_ms=30, hop_ms=1, straggling=(0.2, 10.0))
    told = simulate(poisson(20, 5_000), [tier], [np.full(5_000, 8.0)])
    assert told.responses.max() <= 30 + 1e-6
    late = told.tiers[0].partial
    assert 0.2 < late.mean() < 1
    assert (told.responses[late] == pytest.approx(30)) and (told.responses[~late] < 30).all()


@pytest.mark.parametrize("options", [{}, {"wave_ms": 50.0}, {"batch": 4, "fixed": 0.5}, {"hedge": (0.9, 0.05), "straggling": (0.01, 5.0)}])
def test_more_replicas_never_answer_later_nor_does_less_load(options: dict[str, Any]) -> None:
    work, before = exponential(10, 20_000), inf
    for replicas in (2, 3, 5, 9):
        own = np.percentile(responses(Tier("t", replicas=replicas, **options), work, 7), 95)
        assert own <= 1.02 * before
        before = own
    busy, idle = (np.percentile(responses(Tier("t", replicas=3, **options), work, every), 95) for every in (5, 20))
    assert idle < busy


def test_a_replica_that_is_gone_costs_time() -> None:
    work = exponential(10, 20_000)
    whole, less = (responses(Tier("t", shards=4, replicas=2, down=down), work, 9).mean() for down in ((0, 0), (1, 1)))
    assert less > whole


@pytest.mark.parametrize(
    "bad",
    [
        {"replicas": 0}, {"noise": 0.5}, {"fixed": 2}, {"wave_ms": 0}, {"deadline_ms": 1, "hop_ms": 1}, {"wave_ms": 50, "servers": 2},
        {"down": (1, 1)}, {"straggling": (2, 1)}, {"hedge": (1.5, 0.1)}, {"failures": (0, 1)}, {"crowding": 0.5},
        {"processors": 0}, {"hedge": (-0.1, 0.5)}, {"hedge": (0.5, float("nan"))}, {"failures": (inf, 1)}, {"straggling": (0.1, inf)},
        {"late": 2}, {"piece_ms": -1},
    ],
)  # fmt: skip
def test_tiers_that_cannot_be_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="the tier"):
        Tier("the tier", **bad)


def test_arrivals_and_work_that_are_none_are_refused() -> None:
    for arrivals, work in (([], []), ([1.0], [1.0, 2.0]), ([np.nan], [1.0]), ([1.0], [-1.0])):
        with pytest.raises(InputError, match="t: got arrivals"):
            passing(np.array(arrivals), np.array(work), Tier("t"))
    with pytest.raises(InputError, match="simulate"):
        simulate(np.zeros(3), [], [])
    with pytest.raises(InputError, match="fill 3"):
        simulate(np.zeros(3), [Tier("t")], [np.ones(3)], fill=3)
