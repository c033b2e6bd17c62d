"""Asking shards: deadlines, second tries, failures, by replicas whose answers the test holds in its hand."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

import pytest

from rerank_engine.errors import Cancelled, InputError, RerankError, ShardUnavailable
from rerank_engine.limits import limited
from rerank_engine.sharding import scatter
from rerank_engine.sharding.scatter import KNOWN, TRIES, Failure, Scatter


class Scripted:
    """Answers by a function of (call's number, method, arguments) -> (seconds, value), an exception being the future's; None: never."""

    def __init__(self, name, script):
        self.name, self.script, self.calls, self.forgotten = name, script, [], []

    def forget(self, future):
        self.forgotten.append(future)

    def ask(self, method, arguments, expected, seconds):
        self.calls.append((method, arguments))
        future = Future()
        seconds, value = self.script(len(self.calls) - 1, method, arguments)
        if seconds is not None:
            done = future.set_exception if isinstance(value, Exception) else future.set_result
            threading.Timer(seconds, done, [value]).start() if seconds else done(value)
        return future


def at_once(value):
    return lambda number, method, arguments: (0, value(arguments[0]) if callable(value) else value)


def never(number, method, arguments):
    return None, None


def soon(seconds):
    return time.monotonic() + seconds


def test_every_shard_is_asked_with_its_own_arguments():
    scattered = Scatter([[Scripted("a", at_once(lambda x: x * 2))], [Scripted("b", at_once(lambda x: x * 3))]])
    told = scattered.gather("m", lambda shard: (shard + 1,))
    assert told.values == {0: 2, 1: 6}
    assert (told.missing, told.hedged, told.retried) == ({}, 0, 0)
    assert scattered.gather("m", lambda shard: (shard + 1,), shards=[1]).values == {1: 6}


def test_what_has_not_answered_by_the_deadline_is_missing_and_the_rest_is_not():
    scattered = Scatter([[Scripted("a", at_once(1))], [Scripted("b", never)]])
    begun = time.monotonic()
    told = scattered.gather("m", lambda _: (), until=soon(0.1))
    assert 0.1 <= time.monotonic() - begun < 5
    assert told.values == {0: 1}
    assert told.missing == {1: "no answer in time"}


def test_a_deadline_that_has_passed_asks_nobody_and_names_all():
    replica = Scripted("a", never)
    told = Scatter([[replica]] * 3).gather("m", lambda _: (), until=soon(-1))
    assert set(told.missing) == {0, 1, 2} and not replica.calls


def test_what_nobody_waits_for_is_forgotten():
    replica = Scripted("a", never)
    Scatter([[replica]]).gather("m", lambda _: (), until=soon(0.05))
    assert len(replica.forgotten) == 1


def test_a_caller_that_wants_no_answer_is_not_kept():
    with pytest.raises(Cancelled), limited(cancelled=lambda: True):
        Scatter([[Scripted("a", never)]]).gather("m", lambda _: ())


def test_shards_are_told_how_long_they_have_and_what_they_should_hold():
    seen = []

    class Told(Scripted):
        def ask(self, method, arguments, expected, seconds):
            seen.append((expected, seconds))
            return super().ask(method, arguments, expected, seconds)

    scattered = Scatter([[Told("a", at_once(1))]], prints=["abc"])
    scattered.gather("m", lambda _: ())
    with limited(deadline_ms=10_000):
        scattered.gather("m", lambda _: ())
    assert seen[0] == ("abc", float("inf"))
    assert seen[1][0] == "abc" and 5 < seen[1][1] <= 10 - scatter.MARGIN_S


def test_no_more_is_asked_once_there_is_enough():
    shards = [[Scripted("a", at_once(1))], [Scripted("b", never)]]
    told = Scatter(shards).gather("m", lambda _: (), until=soon(60), enough=lambda values: len(values) > 0)
    assert told.values == {0: 1}


def test_without_a_deadline_patience_ends():
    told = Scatter([[Scripted("a", never)]], patience_s=0.05).gather("m", lambda _: ())
    assert told.missing == {0: "no answer in time"}


def test_a_replica_that_dies_is_followed_by_another_at_once():
    dead, alive = Scripted("dead", lambda *_: (0, ConnectionError("gone"))), Scripted("alive", at_once(7))
    scattered = Scatter([[dead, alive]])
    for _ in range(20):
        told = scattered.gather("m", lambda _: (), until=soon(5))
        assert told.values == {0: 7}
    assert len(dead.calls) < 20, "a replica that fails again and again is not asked each time"


def test_the_only_replica_is_asked_again_until_it_is_back():
    back = Scripted("x", lambda number, *_: (0, ConnectionError("gone")) if number < 3 else (0, "back"))
    told = Scatter([[back]]).gather("m", lambda _: (), until=soon(5))
    assert told.values == {0: "back"}
    assert told.retried == 3


def test_a_shard_that_stays_dead_is_missing_with_the_reason():
    told = Scatter([[Scripted("x", lambda *_: (0, ConnectionError("gone")))]]).gather("m", lambda _: (), until=soon(0.2))
    assert told.missing == {0: "x: gone"}


def test_a_question_that_is_wrong_raises():
    wrong = Scripted("x", at_once(Failure(InputError("k", got=0, expected="more"))))
    with pytest.raises(InputError, match="expected more"):
        Scatter([[wrong], [Scripted("y", never)]]).gather("m", lambda _: ())


def test_what_a_replica_cannot_answer_is_asked_of_each_once_and_nobody_else_suffers():
    broken = [Scripted(name, lambda _n, _m, a: (0, Failure(RerankError("a damaged index")) if a[0] else 1)) for name in "xy"]
    scattered = Scatter([broken, [Scripted("z", at_once(1))]], patience_s=60)
    told = scattered.gather("m", lambda _: (True,))
    assert list(told.missing) == [0] and "a damaged index" in told.missing[0] and told.values == {1: 1}
    assert [len(replica.calls) for replica in broken] == [1, 1]
    assert all(state.down_until == 0 for state in scattered._states[0])
    assert scattered.gather("m", lambda _: (False,)).values == {0: 1, 1: 1}


def test_a_replica_that_holds_another_shard_is_given_up_before_patience_ends(monkeypatch):
    monkeypatch.setattr(scatter, "PAUSE_S", 0.001)
    other = Scripted("x", at_once(Failure(ShardUnavailable("another"))))
    told = Scatter([[other], [Scripted("y", at_once(1))]], patience_s=60).gather("m", lambda _: ())
    assert told.missing == {0: "x: another"} and told.values == {1: 1}
    assert len(other.calls) == TRIES


def test_a_shard_that_fails_does_not_keep_the_place_of_others():
    dead = Scripted("x", lambda *_: (0, ConnectionError("gone")))
    told = Scatter([[dead], [Scripted("y", at_once(1))], [Scripted("z", at_once(2))]]).gather("m", lambda _: (), until=soon(0.5), at_once=1)
    assert told.values == {1: 1, 2: 2} and list(told.missing) == [0]


def test_a_silent_replica_is_not_the_end_of_it():
    """Nothing is known of how long answers take; after a third of the time the other replica is asked."""
    for _ in range(5):
        told = Scatter([[Scripted("silent", never), Scripted("alive", at_once(1))]], extra=0).gather("m", lambda _: (), until=soon(0.9))
        assert told.values == {0: 1}


def test_the_replica_with_least_to_do_is_asked():
    stuck, free = Scripted("stuck", never), Scripted("free", at_once(1))
    scattered = Scatter([[stuck, free]], hedge=None)
    while not stuck.calls:
        scattered.gather("m", lambda _: (), until=soon(0.05))
    for _ in range(50):
        assert scattered.gather("m", lambda _: (), until=soon(5)).values == {0: 1}
    assert len(stuck.calls) == 1


def learned(scattered):
    for _ in range(KNOWN):
        scattered.gather("m", lambda _: ())


def test_a_slow_answer_is_overtaken_by_a_second_try():
    slow = {"now": False}
    first = Scripted("a", lambda *_: (0.5, "late") if slow["now"] else (0.001, "a"))
    second = Scripted("b", lambda *_: (0.001, "b"))
    scattered = Scatter([[first, second]])
    learned(scattered)
    slow["now"] = True
    told = []
    while not any(one.hedged for one in told):
        begun = time.monotonic()
        told.append(scattered.gather("m", lambda _: (), until=soon(5)))
        assert time.monotonic() - begun < 0.4
    assert told[-1].values == {0: "b"}
    time.sleep(0.6)  # the late answer comes, and is nobody's
    assert scattered.gather("m", lambda _: (), until=soon(5)).values[0] in ("b", "late")


def test_second_tries_are_a_share_of_the_questions():
    slow = {"now": False}
    scattered = Scatter([[Scripted(name, lambda *_: (0.03, 1) if slow["now"] else (0, 1)) for name in "ab"]], extra=0.1)
    learned(scattered)
    slow["now"] = True
    hedged = sum(scattered.gather("m", lambda _: (), until=soon(5)).hedged for _ in range(40))
    assert 0 < hedged <= scatter.SAVED + 0.1 * 80
    more = sum(scattered.gather("m", lambda _: (), until=soon(5)).hedged for _ in range(60))
    assert more <= 0.1 * 120 + 2, "what was saved up in good times is spent"


def test_without_answers_to_go_by_and_without_another_replica_nothing_is_hedged():
    alone = Scatter([[Scripted("a", lambda *_: (0.001, 1))]])
    learned(alone)
    assert alone.gather("m", lambda _: ()).hedged == 0
    fresh = Scatter([[Scripted("a", lambda *_: (0.05, 1)), Scripted("b", lambda *_: (0.05, 1))]])
    assert fresh.gather("m", lambda _: ()).hedged == 0


def test_so_many_are_asked_at_a_time_and_each_answer_is_told_before_the_next_is_asked():
    seen, open_ = [], []

    class Watched(Scripted):
        def ask(self, method, arguments, expected, seconds):
            open_.append(self.name)
            assert len(open_) <= 2
            return super().ask(method, arguments, expected, seconds)

    shards = [[Watched(str(i), lambda *_: (0.01, None))] for i in range(6)]

    def each(shard, value):
        open_.remove(str(shard))
        seen.append(shard)

    told = Scatter(shards).gather("m", lambda shard: (len(seen),), at_once=2, each=each)
    assert sorted(seen) == list(range(6)) == sorted(told.values)
    assert [row[0].calls[0][1][0] for row in shards] == [0, 0, 1, 2, 3, 4]


def test_many_threads_share_one():
    shards = [[Scripted(name, lambda number, m, a: (0.001 if number % 7 else 0, a[0])) for name in "ab"] for _ in range(3)]
    scattered, wrong = Scatter(shards), []

    def ask(n):
        for i in range(50):
            told = scattered.gather("m", lambda shard, i=i: ((n, i, shard),))
            wrong.extend(shard for shard in range(3) if told.values[shard] != (n, i, shard))

    threads = [threading.Thread(target=ask, args=[n]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    time.sleep(0.05)
    assert all(state.busy == 0 for row in scattered._states for state in row)


@pytest.mark.parametrize("shards", [[], [[]]])
def test_shards_without_replicas_are_refused(shards):
    with pytest.raises(InputError, match="one replica of each"):
        Scatter(shards)


def test_a_question_that_cannot_be_made_raises_and_leaves_nothing_busy():
    scattered = Scatter([[Scripted("a", at_once(1))]])

    def make(_):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        scattered.gather("m", make)
    assert scattered._states[0][0].busy == 0
