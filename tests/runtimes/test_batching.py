from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_engine.packed import Packed
from rerank_engine.runtimes.batching import TOKEN_BUDGET, plan, run_batched, run_tokens
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
@given(st.lists(st.integers(0, 600), max_size=60), st.integers(0, 2000))
def test_plan_keeps_to_the_budget(lengths, budget):
    falling = np.array(sorted(lengths, reverse=True), np.int64)
    batches = plan(falling, budget)
    assert [row for batch in batches for row in batch.tolist()] == list(range(len(falling)))
    for batch in batches:
        cost = len(batch) * int(falling[batch].max())
        assert len(batch) == 1 or cost <= budget
    for batch in batches[:-1]:  # and no batch is smaller than it must be
        assert (len(batch) + 1) * max(int(falling[batch[0]]), 1) > budget


def test_plan_by_hand():
    assert [batch.tolist() for batch in plan(np.array([5, 4, 4, 2, 1, 1]), 8)] == [[0], [1, 2], [3, 4, 5]]
    assert [batch.tolist() for batch in plan(np.array([100, 3]), 8)] == [[0], [1]]
    assert [batch.tolist() for batch in plan(np.array([3, 3, 3]), 0)] == [[0], [1], [2]]
    assert [batch.tolist() for batch in plan(np.array([0, 0, 0]), 2)] == [[0, 1], [2]]
    assert plan(np.array([], np.int64), 8) == []


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


@pytest.mark.parametrize(("device", "budget"), [("cpu", TOKEN_BUDGET["cpu"]), ("cuda", TOKEN_BUDGET["cuda"]), ("other", 512)])
def test_the_default_budget_follows_the_device(device, budget):
    runtime = Recorder(device=device)
    run_batched(runtime, tokens_of([([*range(7), i], False) for i in range(budget // 8 + 3)]), "sum")
    assert [len(batch) for batch in runtime.batches] == [budget // 8, 3]


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
