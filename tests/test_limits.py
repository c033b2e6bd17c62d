from __future__ import annotations

import threading
import time

import pytest

import rerank_engine as rr
from rerank_engine.errors import Cancelled, InputError
from rerank_engine.limits import Limits, limited, limits


def test_no_limits_by_default():
    assert limits() == Limits(None, None, None)
    assert not limits().out_of_time()
    limits().check()


def test_a_deadline_is_a_time_from_now_and_ends_with_the_block():
    before = time.monotonic()
    with limited(deadline_ms=60_000) as own:
        assert own is limits() and before + 60 <= own.deadline <= time.monotonic() + 60
        assert not own.out_of_time()
    assert limits() == Limits()
    with limited(deadline_ms=0) as own:
        assert own.out_of_time()


def test_the_block_ends_when_it_raises():
    with pytest.raises(KeyError), limited(deadline_ms=0):
        raise KeyError
    assert limits() == Limits()


def test_the_earlier_deadline_stays_in_force():
    with limited(deadline_ms=1000) as outer:
        with limited(deadline_ms=60_000) as inner:
            assert inner.deadline == outer.deadline
        with limited(deadline_ms=0) as inner:
            assert inner.deadline < outer.deadline and inner.out_of_time()
        assert limits() is outer and not outer.out_of_time()


def test_what_an_inner_block_does_not_ask_for_is_the_outers():
    one, other, report = (lambda: False), (lambda: False), (lambda done, total: None)
    with limited(deadline_ms=60_000, cancelled=one, progress=report) as outer:
        with limited() as inner:
            assert inner == outer
        with limited(cancelled=other) as inner:
            assert inner == Limits(outer.deadline, other, report)


def test_check_asks_the_caller_each_time():
    answers = iter([False, True])
    with limited(cancelled=lambda: next(answers)) as own:
        own.check()
        with pytest.raises(Cancelled):
            own.check()


def test_limits_belong_to_their_thread():
    seen = []
    with limited(deadline_ms=0):
        thread = threading.Thread(target=lambda: seen.append(limits()))
        thread.start()
        thread.join()
    assert seen == [Limits()]


@pytest.mark.parametrize("deadline", [-1, -0.5, float("nan"), True, "5", [1]])
def test_a_bad_deadline(deadline):
    with pytest.raises(InputError, match="deadline_ms"), limited(deadline_ms=deadline):
        pytest.fail("never entered")
    assert limits() == Limits()


@pytest.mark.parametrize("name", ["cancelled", "progress", "calls"])
def test_what_is_not_callable(name):
    with pytest.raises(InputError, match=name), limited(**{name: 5}):
        pytest.fail("never entered")


def test_it_is_public():
    assert rr.limited is limited
