from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_engine import limits as limits_module
from rerank_engine.errors import Cancelled, InputError
from rerank_engine.limits import limited
from rerank_engine.packed import Packed
from rerank_engine.runtimes.batching import Cost, run_batched, run_tokens, run_until
from rerank_engine.runtimes.tokenize import Tokens

sequences = st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.booleans()), max_size=30)
repeatable = settings(derandomize=True, deadline=None, max_examples=200)


class Recorder:
    """A runtime that keeps what it was given. "sum" [n] depends on each token, place and segment; "states" is [n, longest, 2]."""

    name, device, outputs = "fake", "cpu", ("sum", "states")

    def __init__(self, batch_sensitive: bool = False, device: str = "cpu") -> None:
        self.batch_sensitive, self.device, self.batches, self.attended = batch_sensitive, device, [], []

    def run(self, ids, types, output, attended=None):
        assert len(ids) == len(types) and (ids.offsets == types.offsets).all()
        self.batches.append([(tuple(i.tolist()), tuple(t.tolist())) for i, t in zip(ids, types)])
        if attended is not None:
            self.attended.append(attended.tolist())
        if output == "sum":
            return np.array([value(i, t) for i, t in zip(ids, types)], np.float32)
        out = np.full((len(ids), ids.lengths.max(), 2), np.nan, np.float32)  # a reduce that reads padding gives NaN
        for row, tokens in enumerate(ids):
            out[row, : len(tokens), 0], out[row, : len(tokens), 1] = tokens, 1
        return out


def value(ids, types) -> np.float32:
    return np.float32((np.asarray(ids) * (np.arange(len(ids)) + 1) ** 2).sum() + 1000 * np.sum(types) + 0.5)


def tokens_of(rows) -> Tokens:
    ids = [np.array(row, np.int64) for row, _ in rows]
    types = [np.full(len(row), int(segment), np.int64) for row, segment in rows]
    return Tokens(Packed.from_rows(ids, np.int64), Packed.from_rows(types, np.int64), np.zeros(len(ids), np.int32))


@repeatable
@given(sequences, st.integers(1, 40), st.booleans())
def test_every_distinct_sequence_runs_once_and_the_order_comes_back(rows, budget, sensitive):
    runtime = Recorder(sensitive)
    tokens = tokens_of(rows)
    got = run_batched(runtime, tokens, "sum", budget=budget)
    assert got.dtype == np.float32
    assert got.tolist() == [value(ids, [segment] * len(ids)) for ids, segment in rows]
    ran = [sequence for batch in runtime.batches for sequence in batch]
    assert len(ran) == len(set(ran)) and set(ran) == {(tuple(ids), (int(segment),) * len(ids)) for ids, segment in rows}
    lengths = [len(ids) for ids, _ in ran]
    assert lengths == sorted(lengths, reverse=True), "longest first: memory is found to be too small at once"
    for batch in runtime.batches:
        assert len(batch) == 1 or (not sensitive and len(batch) * max(len(ids) for ids, _ in batch) <= budget)


@repeatable
@given(sequences.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(range(len(rows))))), st.integers(1, 40))
def test_which_sequences_share_a_batch_does_not_depend_on_the_order(case, budget):
    rows, order = case
    one, other = Recorder(), Recorder()
    first = run_batched(one, tokens_of(rows), "sum", budget=budget)
    second = run_batched(other, tokens_of([rows[i] for i in order]), "sum", budget=budget)
    assert one.batches == other.batches
    assert second.tobytes() == first[list(order)].tobytes()


def test_duplicates_share_one_run_and_segments_tell_apart():
    runtime = Recorder()
    rows = [([1, 2], False), ([1, 2], True), ([1, 2], False), ([1, 2, 3], False), ([1, 2], True)]
    got = run_batched(runtime, tokens_of(rows), "sum")
    assert sum(map(len, runtime.batches)) == 3
    assert got[0] == got[2] != got[1] == got[4]


def test_ids_and_segments_are_not_confused():
    """Four sequences whose tokens and segments, put behind one another, are made of the same numbers."""
    ids = Packed.from_rows([[1, 0], [1], [0, 1], [0]], np.int64)
    types = Packed.from_rows([[0, 1], [0], [1, 0], [1]], np.int64)
    runtime = Recorder()
    got = run_batched(runtime, Tokens(ids, types, np.zeros(4, np.int32)), "sum")
    assert sum(map(len, runtime.batches)) == 4
    assert got.tolist() == [value(i, t) for i, t in zip(ids, types)]


def test_a_batch_sensitive_runtime_gets_one_sequence_a_call_whatever_the_budget():
    runtime = Recorder(batch_sensitive=True)
    run_batched(runtime, tokens_of([([i], False) for i in range(7)]), "sum", budget=1000)
    assert [len(batch) for batch in runtime.batches] == [1] * 7


def test_the_default_cost_follows_the_device_and_a_runtimes_own_comes_first():
    rows = [([*range(7), i], False) for i in range(2000)]
    sizes = {}
    for device in ("cpu", "cuda", "other"):
        runtime = Recorder(device=device)
        run_batched(runtime, tokens_of(rows), "sum")
        sizes[device] = max(map(len, runtime.batches))
    assert sizes == {"cpu": 64, "cuda": 2000, "other": 64}, "512 tokens a call, 16,384, 512"
    runtime = Recorder(device="cuda")
    runtime.cost = Cost(call=1, padded=False, ragged=True, most=80)
    run_batched(runtime, tokens_of(rows), "sum")
    assert {len(batch) for batch in runtime.batches} == {10}


def test_a_call_is_made_of_what_costs_least():
    """A long sequence does not drag short ones to its length where padding costs more than a call, and does where a call costs more."""
    rows = [([1] * 30, False), *(([i, 2], False) for i in range(4))]
    for call, sizes in ((1, [1, 4]), (1000, [5])):
        runtime = Recorder()
        runtime.cost = Cost(call=call, most=1000)
        run_batched(runtime, tokens_of(rows), "sum")
        assert [len(batch) for batch in runtime.batches] == sizes


@repeatable
@given(sequences.filter(bool), st.integers(1, 40))
def test_reduce_sees_the_lengths_and_its_rows_come_back_in_order(rows, budget):
    def mean(states, lengths):
        return np.stack([state[:n].mean(0) for state, n in zip(states, lengths)])

    got = run_batched(Recorder(), tokens_of(rows), "states", mean, budget=budget)
    assert got.shape == (len(rows), 2)
    assert (got[:, 0] == [np.float32(np.array(ids, np.float32).mean()) for ids, _ in rows]).all() and (got[:, 1] == 1).all()


def test_progress_reaches_the_total():
    seen = []
    rows = [([i % 5, 1], False) for i in range(20)] + [([1, 2, 3], False)]
    run_batched(Recorder(), tokens_of(rows), "sum", budget=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 6), (3, 6), (5, 6), (6, 6)], "one of 3 tokens, then two of 2 tokens a time"


def test_no_sequences_no_call():
    runtime = Recorder()
    got = run_batched(runtime, tokens_of([]), "sum", progress=lambda done, total: pytest.fail("nothing to report"))
    assert got.shape == (0,) and got.dtype == np.float32 and runtime.batches == []


def states_of(ids) -> list[list[float]]:
    return [[2 * token, 2] for token in ids]


@repeatable
@given(sequences, st.integers(1, 40), st.booleans())
def test_token_outputs_come_without_padding_in_the_order_given(rows, budget, sensitive):
    runtime = Recorder(sensitive)
    got = run_tokens(runtime, tokens_of(rows), "states", lambda states: 2 * states, budget=budget)
    assert [states.tolist() for states in got] == [states_of(ids) for ids, _ in rows]
    ran = [sequence for batch in runtime.batches for sequence in batch]
    assert len(ran) == len(set(ran)) == len({(tuple(ids), segment) for ids, segment in rows})
    for batch in runtime.batches:
        assert len(batch) == 1 or (not sensitive and len(batch) * max(len(ids) for ids, _ in batch) <= budget)


@repeatable
@given(sequences.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(range(len(rows))))), st.integers(1, 40))
def test_which_sequences_share_a_batch_of_tokens_does_not_depend_on_the_order(case, budget):
    rows, order = case
    one, other = Recorder(), Recorder()
    run_tokens(one, tokens_of(rows), "states", lambda states: states, budget=budget)
    run_tokens(other, tokens_of([rows[i] for i in order]), "states", lambda states: states, budget=budget)
    assert one.batches == other.batches


def test_sequences_that_differ_in_what_is_attended_are_told_apart():
    runtime = Recorder()
    rows, attended = [([1, 2, 3], False)] * 3 + [([1, 2], False)], np.array([2, 3, 2, 1])
    got = run_tokens(runtime, tokens_of(rows), "states", lambda states: states, attended=attended)
    assert sum(map(len, runtime.batches)) == 3 and sorted(n for batch in runtime.attended for n in batch) == [1, 2, 3]
    assert [len(states) for states in got] == [3, 3, 3, 2]


def test_no_sequences_no_call_for_tokens():
    runtime = Recorder()
    assert run_tokens(runtime, tokens_of([]), "states", lambda states: states) == [] and runtime.batches == []


def test_progress_of_tokens_reaches_the_total():
    seen = []
    rows = [([i % 5, 1], False) for i in range(20)] + [([1, 2, 3], False)]
    report = lambda done, total: seen.append((done, total))  # noqa: E731
    run_tokens(Recorder(), tokens_of(rows), "states", lambda states: states, budget=4, progress=report)
    assert seen == [(1, 6), (3, 6), (5, 6), (6, 6)]


class Clock:
    """Stands in for `time` in limits: it moves when a test or a call says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(limits_module, "time", made)
    return made


class Slow(Recorder):
    """Each call takes a second of the clock."""

    def __init__(self, clock) -> None:
        super().__init__()
        self.clock, self.cost = clock, Cost(most=1)

    def run(self, ids, types, output, attended=None):
        self.clock.now += 1
        return super().run(ids, types, output, attended)


SIX = [([i] * length, False) for i, length in enumerate((2, 5, 3, 1, 6, 4))]


def test_without_limits_run_until_is_run_batched(clock):
    values, ran = run_until(Slow(clock), tokens_of(SIX), "sum", priority=np.arange(6))
    assert values.tolist() == run_batched(Recorder(), tokens_of(SIX), "sum").tolist() and ran.tolist() == [True] * 6
    runtime = Slow(clock)
    run_until(runtime, tokens_of(SIX), "sum", priority=np.arange(6))
    assert [len(batch[0][0]) for batch in runtime.batches] == [6, 5, 4, 3, 2, 1], "without a deadline the priority is not looked at"


def test_a_deadline_ends_between_two_calls_and_tells_what_was_run(clock):
    with limited(deadline_ms=2500):
        values, ran = run_until(Slow(clock), tokens_of(SIX), "sum")
    assert ran.tolist() == [False, True, False, False, True, True], "the three longest: the third began in time and is finished"
    assert np.isnan(values).tolist() == (~ran).tolist()
    assert values[ran].tolist() == run_batched(Recorder(), tokens_of(SIX), "sum")[ran].tolist()


def test_a_lower_priority_number_goes_first_when_time_is_short(clock):
    runtime = Slow(clock)
    with limited(deadline_ms=2500):
        _, ran = run_until(runtime, tokens_of(SIX), "sum", priority=np.array([1, 9, 1, 0, 9, 5]))
    assert ran.tolist() == [True, False, True, True, False, False]
    assert [len(batch[0][0]) for batch in runtime.batches] == [1, 3, 2], "longest first within one number"


@pytest.mark.parametrize("turns", [(7, 5, 2, 5), (2, 5, 7, 5)])
def test_equal_sequences_run_at_the_first_of_their_turns_and_waves_share_no_call(clock, turns):
    runtime = Recorder()
    rows = [([1], False), ([2], False), ([1], False), ([3], False)]
    with limited(deadline_ms=10):
        values, ran = run_until(runtime, tokens_of(rows), "sum", priority=np.array(turns))
    assert runtime.batches == [[((1,), (0,))], [((2,), (0,)), ((3,), (0,))]] and ran.all() and values[0] == values[2]


def test_one_call_is_made_in_any_time_but_none_when_it_is_up_at_entry(clock):
    with limited(deadline_ms=1):
        clock.now += 0.0005
        assert run_until(Slow(clock), tokens_of(SIX), "sum")[1].sum() == 1
        runtime = Slow(clock)
        values, ran = run_until(runtime, tokens_of(SIX), "sum")
    assert runtime.batches == [] and np.isnan(values).all() and values.shape == (6,) and not ran.any()


def test_time_that_runs_out_between_the_entry_and_the_first_call(clock):
    def unwanted() -> bool:
        clock.now += 0.0006
        return False

    with limited(deadline_ms=1, cancelled=unwanted):
        assert run_until(Slow(clock), tokens_of(SIX), "sum")[1].sum() == 1


def test_batched_runs_look_at_no_deadline(clock):
    with limited(deadline_ms=0):
        assert run_batched(Slow(clock), tokens_of(SIX), "sum").tolist() == run_batched(Recorder(), tokens_of(SIX), "sum").tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_cancelled_work_stops_before_the_next_call(workers):
    runtime = Recorder()
    runtime.cost, runtime.workers = Cost(most=1), workers
    with limited(cancelled=lambda: len(runtime.batches) >= 2):
        for call in (run_batched, run_until):
            runtime.batches.clear()
            with pytest.raises(Cancelled):
                call(runtime, tokens_of(SIX), "sum")
            assert 2 <= len(runtime.batches) <= 1 + workers
        runtime.batches.clear()
        with pytest.raises(Cancelled):
            run_tokens(runtime, tokens_of(SIX), "states", lambda states: states)


def test_progress_comes_from_the_context_unless_it_is_handed_in():
    context, own = [], []
    with limited(progress=lambda done, total: context.append((done, total))):
        run_batched(Recorder(), tokens_of(SIX[:1]), "sum")
        run_batched(Recorder(), tokens_of(SIX[:2]), "sum", budget=1, progress=lambda done, total: own.append((done, total)))
    assert context == [(1, 1)] and own == [(1, 2), (2, 2)]


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("workers", [1, 3])
def test_calls_tell_of_tokens_and_of_the_padding_that_was_computed(padded, workers):
    runtime, told = Recorder(), []
    runtime.cost, runtime.workers = Cost(padded=padded, most=100, ragged=not padded, call=1e6), workers
    with limited(calls=lambda tokens, computed: told.append((tokens, computed))):
        run_batched(runtime, tokens_of([*SIX, SIX[0]]), "sum")  # the last one again is no work
    blocks = [[len(ids) for ids, _ in batch] for batch in runtime.batches]
    assert sorted(told) == sorted((sum(row), len(row) * max(row) if padded else sum(row)) for row in blocks)
    assert not padded or workers > 1 or sum(computed - tokens for tokens, computed in told) > 0


@pytest.mark.parametrize("bad", [np.zeros(5, np.int64), np.zeros(6), np.zeros((6, 1), np.int64)])
def test_a_priority_of_another_shape_is_refused(bad):
    with pytest.raises(InputError, match=r"priority.*integers \[6\]"):
        run_until(Recorder(), tokens_of(SIX), "sum", priority=bad)


class Together(Recorder):
    """Two calls must be under way at once: the first waits for the second."""

    workers = 2

    def __init__(self) -> None:
        super().__init__()
        self.barrier, self.threads = threading.Barrier(2, timeout=20), set()

    def run(self, ids, types, output, attended=None):
        self.threads.add(threading.current_thread())
        self.barrier.wait()
        return super().run(ids, types, output, attended)


def test_workers_run_calls_at_the_same_time_and_the_order_comes_back():
    runtime, seen = Together(), []
    got = run_batched(runtime, tokens_of(SIX), "sum", budget=1, progress=lambda *at: seen.append((at, threading.current_thread())))
    assert got.tolist() == run_batched(Recorder(), tokens_of(SIX), "sum").tolist()
    assert len(runtime.threads) == 2 and threading.main_thread() not in runtime.threads
    assert [at for at, _ in seen] == [(i, 6) for i in range(1, 7)] and {thread for _, thread in seen} == {threading.main_thread()}


def test_few_sequences_are_shared_out_over_the_workers():
    """One call would be cheapest, and would leave a worker idle."""
    runtime = Together()
    runtime.cost = Cost(call=1000, most=1000)
    run_batched(runtime, tokens_of([([i, 1, 1], False) for i in range(4)]), "sum")
    assert [len(batch) for batch in runtime.batches] == [1] * 4


def test_a_call_that_fails_stops_the_rest_and_is_raised():
    class Fails(Recorder):
        workers, cost = 2, Cost(most=1)

        def run(self, ids, types, output, attended=None):
            if len(ids.values) == 5:
                raise OSError("the second call")
            return super().run(ids, types, output, attended)

    runtime, before = Fails(), threading.active_count()
    with pytest.raises(OSError, match="the second call"):
        run_batched(runtime, tokens_of(SIX), "sum")
    assert len(runtime.batches) < 5 and threading.active_count() == before


def test_a_deadline_holds_for_workers_too(clock):
    runtime = Slow(clock)
    runtime.workers = 2
    with limited(deadline_ms=500):
        values, ran = run_until(runtime, tokens_of(SIX), "sum")
    assert 1 <= ran.sum() <= 2 and ran[4] and (np.isnan(values) == ~ran).all()


@pytest.mark.parametrize(("low", "high"), [(0, 9), (0, 300), (0, 70_000), (-3, 3), (0, 1 << 40)])
def test_tokens_of_any_size_come_as_int64_in_the_order_of_their_int64_contents(low, high):
    ids = Packed.from_rows([np.random.default_rng(i).integers(low, high, 1 + i % 4) for i in range(40)])
    types, runtime = Packed(ids.values % 2, ids.offsets), Recorder()
    got = run_batched(runtime, Tokens(ids, types, np.zeros(40, np.int32)), "sum", budget=7)
    want = {i.tobytes() + t.tobytes(): (tuple(i.tolist()), tuple(t.tolist())) for i, t in zip(ids, types)}
    assert [row for batch in runtime.batches for row in batch] == [want[key] for key in sorted(want, key=lambda key: (-len(key), key))]
    assert got.tolist() == [value(i, t) for i, t in zip(ids, types)]
