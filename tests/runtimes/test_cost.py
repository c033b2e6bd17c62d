from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_engine.errors import InputError
from rerank_engine.runtimes.cost import COSTS, Cost, cheapest, default_cost, greedy

repeatable = settings(derandomize=True, deadline=None, max_examples=150)
numbers = st.integers(0, 20).map(float)
costs = st.builds(Cost, call=numbers, token=numbers, square=numbers, padded=st.booleans(), ragged=st.booleans(), most=st.integers(1, 60))
falling = st.lists(st.integers(0, 12), max_size=9).map(lambda lengths: np.array(sorted(lengths, reverse=True), np.int64))


def by_hand(lengths: list[int], cost: Cost) -> float:
    """The formula of a call, sequence by sequence."""
    longest, total = max(lengths), cost.call
    for length in lengths:
        total += cost.token * (longest if cost.padded else length)
        total += cost.square * (length if cost.ragged else longest) ** 2
    return total


def fits(lengths: np.ndarray, cost: Cost) -> bool:
    never_padded = cost.ragged and not cost.padded
    return len(lengths) == 1 or (lengths.sum() if never_padded else len(lengths) * max(int(lengths[0]), 1)) <= cost.most


def total_of(cuts: list[tuple[int, int]], lengths: np.ndarray, cost: Cost) -> float:
    return sum(by_hand(lengths[start:end].tolist(), cost) for start, end in cuts)


def all_cuts(n: int):
    for bits in range(1 << (n - 1)):
        yield list(pairwise([0, *(i + 1 for i in range(n - 1) if bits >> i & 1), n]))


@repeatable
@given(falling, costs)
def test_no_cut_costs_less(lengths, cost):
    got = cheapest(lengths, cost)
    if not len(lengths):
        assert got == []
        return
    assert [got[0][0], *(end for _, end in got)] == [0, *(start for start, _ in got[1:]), len(lengths)]
    assert all(start < end and fits(lengths[start:end], cost) for start, end in got), "calls keep to `most`"
    allowed = [cuts for cuts in all_cuts(len(lengths)) if all(fits(lengths[a:b], cost) for a, b in cuts)]
    assert total_of(got, lengths, cost) == min(total_of(cuts, lengths, cost) for cuts in allowed)


@repeatable
@given(falling.filter(len), costs)
def test_the_cost_of_a_call_is_its_formula(lengths, cost):
    assert cost.of(lengths) == by_hand(lengths.tolist(), cost)
    assert cost.size(lengths) == (lengths.sum() if cost.ragged and not cost.padded else len(lengths) * lengths.max())


def test_nothing_costs_nothing():
    none = np.array([], np.int64)
    assert Cost(call=5).of(none) == 0 and Cost().size(none) == 0 and cheapest(none, Cost()) == []


def test_cuts_by_hand():
    lengths = np.array([10, 10, 2, 2])
    assert cheapest(lengths, Cost(call=0)) == [(0, 2), (2, 4)], "padding costs 16 tokens, a call nothing; of equals the larger call"
    assert cheapest(lengths, Cost(call=15)) == [(0, 2), (2, 4)]
    assert cheapest(lengths, Cost(call=17)) == [(0, 4)]
    assert cheapest(lengths, Cost(call=1, padded=False, ragged=True)) == [(0, 4)], "nothing is padded, so one call is cheapest"
    assert cheapest(lengths, Cost(call=1, padded=False, square=1)) == [(0, 2), (2, 4)], "attention pads"
    assert cheapest(lengths, Cost(call=1, padded=False, ragged=True, most=12)) == [(0, 1), (1, 3), (3, 4)]


def test_a_sequence_longer_than_a_call_may_be_runs_alone():
    for ragged in (False, True):
        cost = Cost(call=99, padded=not ragged, ragged=ragged, most=8)
        assert cheapest(np.array([100]), cost) == [(0, 1)]
        assert cheapest(np.array([100, 90, 4, 4]), cost) == [(0, 1), (1, 2), (2, 4)]


@pytest.mark.parametrize("cost", [*COSTS.values(), Cost(call=64, padded=False, ragged=True, square=1e-4, most=4096), Cost(most=1)])
@pytest.mark.parametrize("longest", [1, 40, 512])
def test_many_sequences_are_all_in_one_call_each(cost, longest):
    lengths = np.sort(np.random.default_rng(longest).integers(0, longest + 1, 10_000))[::-1]
    got = cheapest(lengths, cost)
    assert [got[0][0], *(end for _, end in got)] == [0, *(start for start, _ in got[1:]), 10_000]
    assert all(fits(lengths[start:end], cost) for start, end in got)
    cut = greedy(lengths, cost.most)
    assert sum(cost.of(lengths[a:b]) for a, b in got) <= sum(cost.of(lengths[a:b]) for a, b in cut) * (1 + 1e-9)


@repeatable
@given(st.lists(st.integers(0, 600), max_size=60), st.integers(0, 2000))
def test_greedy_runs_keep_to_the_bound(lengths, most):
    ordered = np.array(sorted(lengths, reverse=True), np.int64)
    runs = greedy(ordered, most)
    assert [row for start, end in runs for row in range(start, end)] == list(range(len(ordered)))
    for start, end in runs:
        assert end - start == 1 or (end - start) * int(ordered[start]) <= most
    for start, end in runs[:-1]:  # and none is smaller than it must be
        assert (end - start + 1) * max(int(ordered[start]), 1) > most


def test_greedy_by_hand():
    assert greedy(np.array([5, 4, 4, 2, 1, 1]), 8) == [(0, 1), (1, 3), (3, 6)]
    assert greedy(np.array([100, 3]), 8) == [(0, 1), (1, 2)]
    assert greedy(np.array([3, 3, 3]), 0) == [(0, 1), (1, 2), (2, 3)]
    assert greedy(np.array([0, 0, 0]), 2) == [(0, 2), (2, 3)]
    assert greedy(np.array([], np.int64), 8) == []


@pytest.mark.parametrize("name", ["call", "token", "square"])
@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_bad_costs(name, bad):
    with pytest.raises(InputError, match=name):
        Cost(**{name: bad})


@pytest.mark.parametrize("bad", [0, -5, True, 8.0])
def test_a_bad_bound(bad):
    with pytest.raises(InputError, match="most"):
        Cost(most=bad)


def test_the_table():
    assert default_cost("onnx", "cuda:1") is COSTS["onnx", "cuda"] and default_cost("onnx", "cpu") is COSTS["onnx", "cpu"]
    assert default_cost("theirs", "cuda") is COSTS["", "cuda"] and default_cost("theirs", "tpu") is COSTS["", "cpu"]
