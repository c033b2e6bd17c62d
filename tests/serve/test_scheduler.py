from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine.errors import ModelError, NonFiniteError
from rerank_engine.limits import limits

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

from words_scorer import Words

from rerank_engine.serve.scheduler import Job, Overloaded, Scheduler


def job(texts: list[str], cost: int = 10, **how: int) -> Job:
    return Job(rr.Query("q"), rr.Corpus.from_texts(texts), np.full(len(texts), cost, np.int64), **how)


def numbers(n: int, start: int = 0) -> list[str]:
    return [str(start + i) for i in range(n)]


@pytest.fixture
def scorer():
    return Words()


@pytest.fixture
def scheduler(scorer):
    made = Scheduler(scorer, wave_tokens=100)
    yield made
    scorer.held.set()
    made.close()


def submitted(scheduler, *jobs):
    for one in jobs:
        scheduler.submit(one, 0)
    return jobs


def started(scorer, waves: int = 1) -> None:
    """Until so many waves have begun."""
    end = time.monotonic() + 10
    while len(scorer.waves) < waves:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_every_document_gets_its_own_score_whatever_shares_its_waves(scheduler):
    jobs = submitted(scheduler, *(job(numbers(1 + 7 * i, 1000 * i)) for i in range(20)))
    for i, one in enumerate(jobs):
        done = one.done.result(10)
        assert done.values.tolist() == [1000 * i + k for k in range(1 + 7 * i)]
        assert done.scored.all() and done.scale == "logit"


def test_a_short_job_behind_a_long_one_is_in_the_next_wave(scheduler, scorer):
    scorer.held.clear()
    (long,) = submitted(scheduler, job(numbers(1000)))
    started(scorer)
    short = job(["7777"])
    submitted(scheduler, short)
    scorer.held.set()
    assert short.done.result(10).values.tolist() == [7777]
    assert "7777" in scorer.waves[1]
    assert long.done.result(10).scored.all()


def test_waves_are_shared_evenly_and_nobody_starves(scheduler, scorer):
    scorer.held.clear()
    submitted(scheduler, job(["0"]))
    started(scorer)
    jobs = submitted(scheduler, *(job(numbers(50, 100 * (i + 1))) for i in range(5)))
    scorer.held.set()
    for one in jobs:
        one.done.result(10)
    for wave in scorer.waves[1:-2]:
        owners = [int(text) // 100 for text in wave]
        assert {owners.count(owner) for owner in range(1, 6)} == {2}  # ten documents of 10 tokens, of five jobs


def test_a_stream_of_short_jobs_does_not_stop_a_long_one(scheduler, scorer):
    (long,) = submitted(scheduler, job(numbers(200)))
    for _ in range(2000):
        submitted(scheduler, job(["1"]))
        if long.done.done():
            break
        time.sleep(0.0005)
    assert long.done.result(0.1).scored.all()


def test_a_better_priority_goes_first(scheduler, scorer):
    scorer.held.clear()
    submitted(scheduler, job(["0"]))
    started(scorer)
    submitted(scheduler, job(numbers(10, 100), priority=5), job(numbers(10, 200), priority=0))
    scorer.held.set()
    started(scorer, 3)
    assert [int(wave[0]) // 100 for wave in scorer.waves[1:3]] == [2, 1]


def test_an_error_hits_the_job_that_brings_it_alone(scheduler, scorer):
    scorer.held.clear()
    submitted(scheduler, job(["0"]))
    started(scorer)
    good, bad, nan = submitted(scheduler, job(["1", "2"]), job(["broken"]), job(["3", "nan"]))
    scorer.held.set()
    assert good.done.result(10).values.tolist() == [1, 2]
    with pytest.raises(ModelError):
        bad.done.result(10)
    with pytest.raises(NonFiniteError):
        nan.done.result(10)
    assert submitted(scheduler, job(["5"]))[0].done.result(10).values.tolist() == [5]  # the thread lives


def test_what_has_nothing_to_compare_is_last_and_finite(scheduler, scorer, monkeypatch):
    monkeypatch.setattr(scorer, "one", lambda query, text: -np.inf)
    assert np.isfinite(submitted(scheduler, job(["x"]))[0].done.result(10).values).all()


def test_a_job_that_is_dropped_frees_its_place_at_once(scheduler, scorer):
    scorer.held.clear()
    (long,) = submitted(scheduler, job(numbers(1000)))
    started(scorer)
    assert scheduler.waiting > 7000
    start = time.monotonic()
    scheduler.drop(long)
    assert scheduler.waiting == 0 and time.monotonic() - start < 0.05
    before = long.scored.copy()
    scorer.held.set()
    submitted(scheduler, job(["1"]))[0].done.result(10)
    assert (long.scored == before).all()  # what was taken of it no longer changes
    assert long.done.cancelled()


def test_admission_counts_tokens_and_says_when_to_come_again(scorer):
    scorer.ms = 1
    scheduler = Scheduler(scorer, wave_ms=20, wait_ms=100)
    submitted(scheduler, job(numbers(50)))[0].done.result(10)
    assert 5_000 < scheduler.pace < 11_000  # 10 tokens a millisecond
    scheduler.admit(1_000_000)  # longer than the queue, but nothing else waits
    with pytest.raises(Overloaded) as error:
        scheduler.admit(1)
    assert error.value.retry_after >= 50 and not error.value.stopping
    scheduler.release(1_000_000)
    scheduler.admit(100)
    scheduler.release(100)
    assert scheduler.waiting == 0
    scheduler.close()


def test_waves_last_about_as_long_as_asked(scorer):
    scorer.ms = 1
    scheduler = Scheduler(scorer, wave_ms=20)
    submitted(scheduler, job(numbers(600)))[0].done.result(20)
    scheduler.close()
    assert 10 <= np.median([len(wave) for wave in scorer.waves[5:-1]]) <= 24


def test_a_stop_finishes_what_is_in_and_takes_nothing_more(scorer):
    scheduler = Scheduler(scorer, wave_tokens=100)
    scorer.held.clear()
    (long,) = submitted(scheduler, job(numbers(200)))
    started(scorer)
    scheduler.refuse(10)
    with pytest.raises(Overloaded) as error:
        scheduler.admit(1)
    assert error.value.stopping
    scorer.held.set()
    scheduler.close()
    assert long.done.result(0).scored.all()


def test_a_stop_refuses_what_is_not_done_in_time(scorer):
    scorer.ms = 5
    scheduler = Scheduler(scorer, wave_ms=10)
    (long,) = submitted(scheduler, job(numbers(2000)))
    started(scorer)
    start = time.monotonic()
    scheduler.refuse(0.1)
    with pytest.raises(Overloaded):
        long.done.result(5)
    assert time.monotonic() - start < 2
    with pytest.raises(Overloaded):
        scheduler.submit(job(["1"]), 0)
    scheduler.close()


def test_jobs_from_many_threads_lose_nothing(scheduler):
    found, lock = dict[int, list[float]](), threading.Lock()

    def ask(i: int) -> None:
        for k in range(20):
            one = job(numbers(1 + (i + k) % 9, 10_000 * i + 100 * k))
            scheduler.submit(one, 0)
            values = one.done.result(20).values.tolist()
            with lock:
                found[100 * i + k] = values
            assert values == [10_000 * i + 100 * k + j for j in range(1 + (i + k) % 9)]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16 * 20


def test_blank_and_equal_documents_do_not_move_the_pace(scorer):
    scorer.ms = 1
    scheduler = Scheduler(scorer, wave_ms=20)
    submitted(scheduler, job(numbers(100)))[0].done.result(10)
    before = scheduler.pace
    for _ in range(20):
        submitted(scheduler, job(["0"], cost=0))[0].done.result(10)
    assert scheduler.pace > before / 100
    scorer.ms = 0
    submitted(scheduler, job(["7"] * 3000))[0].done.result(10)  # run once by a model
    assert scheduler.pace < 20 * before
    scheduler.close()


def test_failures_do_not_count_as_work(scheduler, scorer):
    scorer.ms = 1
    submitted(scheduler, job(numbers(100)))[0].done.result(10)
    before = scheduler.pace
    for _ in range(10):
        with pytest.raises(ModelError):
            submitted(scheduler, job(["broken"] * 50, cost=10_000))[0].done.result(10)
    assert scheduler.pace == before


def test_priorities_have_clocks_of_their_own(scheduler, scorer):
    scorer.held.clear()
    submitted(scheduler, job(numbers(300), priority=5))
    started(scorer)
    submitted(scheduler, job(numbers(200, 1000)))
    scorer.ms = 0.5
    scorer.held.set()
    started(scorer, 8)
    late = job(["7777"], priority=5)
    scheduler.submit(late, 0)
    late.done.result(10)
    better = [i for i, wave in enumerate(scorer.waves) if "1199" in wave]
    assert "7777" in scorer.waves[better[0] + 1]  # the first wave of its class after the others were done


def test_what_a_scorer_did_not_get_to_is_told(scheduler, scorer, monkeypatch):
    def partly(queries, rankings):
        return [
            rr.Scores(np.where(np.arange(len(row)) % 2, -np.inf, 5.0), "logit", {"scored": np.arange(len(row)) % 2 == 0})
            for row in rankings
        ]

    monkeypatch.setattr(scorer, "score", partly)
    done = submitted(scheduler, job(numbers(4)))[0].done.result(10)
    assert done.scored.tolist() == [True, False, True, False]


def test_scores_of_two_scales_are_refused(scheduler, scorer, monkeypatch):
    scales = iter(["logit", "relevance"] * 100)
    monkeypatch.setattr(scorer, "score", lambda queries, rankings: [rr.Scores(np.zeros(len(row)), next(scales)) for row in rankings])
    with pytest.raises(ModelError, match="two scales"):
        submitted(scheduler, job(numbers(500)))[0].done.result(10)


@pytest.fixture
def whole():
    """A scheduler of a scorer of whole lists, three at a time."""
    scorer = Words()
    scorer.whole, scorer.concurrency = True, 3
    made = Scheduler(scorer, wave_tokens=100)
    yield made
    scorer.held.set()
    made.close()


def test_lists_that_must_stay_whole_are_not_cut_and_run_side_by_side(whole):
    whole.scorer.held.clear()
    jobs = submitted(whole, *(job(numbers(50 + i, 100 * i)) for i in range(7)))
    started(whole.scorer, 3)
    time.sleep(0.02)
    assert len(whole.scorer.waves) == 3
    whole.scorer.held.set()
    for i, one in enumerate(jobs):
        assert one.done.result(10).values.tolist() == [100 * i + k for k in range(50 + i)]
    assert sorted(map(len, whole.scorer.waves)) == [50 + i for i in range(7)]


def test_a_whole_list_that_fails_is_nobody_elses_business_and_runs_once(whole):
    bad, *good = submitted(whole, job(["1", "broken"]), *(job(numbers(3, 10 * i)) for i in range(5)))
    with pytest.raises(ModelError):
        bad.done.result(10)
    assert all(one.done.result(10).scored.all() for one in good)
    assert len(whole.scorer.waves) == 6


def test_a_whole_list_is_told_its_deadline(whole, monkeypatch):
    told = []
    monkeypatch.setattr(whole.scorer, "score", lambda queries, rankings: told.append(limits().left()) or Words().score(queries, rankings))
    one = job(numbers(3))
    one.until = time.monotonic() + 5
    submitted(whole, one)
    one.done.result(10)
    assert 4 < told[0] < 5


def test_a_stop_ends_all_threads_of_whole_lists(whole):
    jobs = submitted(whole, *(job(numbers(3)) for _ in range(9)))
    whole.close()
    assert all(one.done.result(1).scored.all() for one in jobs) and not any(thread.is_alive() for thread in whole._threads)


def test_a_wave_has_a_document_however_short_it_is_to_be(scorer):
    made = Scheduler(scorer, wave_ms=0.0, wave_tokens=1)
    (one,) = submitted(made, job(numbers(5)))
    assert one.done.result(10).scored.all() and max(map(len, scorer.waves[1:])) == 1
    made.close()


def test_a_stop_waits_for_what_was_let_in_and_is_not_here_yet(scorer):
    scheduler = Scheduler(scorer)
    scheduler.admit(10)
    scheduler.refuse(10)
    time.sleep(0.05)
    (late,) = (job(["5"]),)
    scheduler.submit(late, 10)
    assert late.done.result(5).values.tolist() == [5]
    scheduler.close()
    with pytest.raises(Overloaded):
        scheduler.submit(job(["1"]), 0)


def test_cancelling_at_any_moment_leaves_the_thread_alive(scheduler):
    for i in range(3000):
        one = job([str(i)])
        scheduler.submit(one, 0)
        if i % 3:
            scheduler.drop(one)
    assert submitted(scheduler, job(["5"]))[0].done.result(10).values.tolist() == [5]
