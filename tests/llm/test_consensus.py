from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from rerank_engine.errors import InputError
from rerank_engine.llm import consensus
from rerank_engine.llm.consensus import borda, kemeny


def distance(order, orders) -> int:
    """The sum of Kendall tau distances, pair by pair."""
    total = 0
    for other in orders:
        place = {item: i for i, item in enumerate(other)}
        total += sum(place[order[i]] > place[order[j]] for i in range(len(order)) for j in range(i + 1, len(order)))
    return total


def test_borda():
    assert borda([[2, 0, 1], [2, 1, 0]]).tolist() == [2, 0, 1]
    assert borda([[0, 1], [1, 0]]).tolist() == [0, 1]


@pytest.mark.parametrize("n", range(7))
@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_kemeny_has_the_fewest_inversions_of_all_orders(n, k):
    rng = np.random.default_rng(10 * n + k)
    for _ in range(5):
        orders = [rng.permutation(n).tolist() for _ in range(k)]
        found = kemeny(np.array(orders, np.int64).reshape(k, n)).tolist()
        assert sorted(found) == list(range(n))
        assert distance(found, orders) == min(distance(order, orders) for order in permutations(range(n)))


def test_longer_ones_are_no_worse_than_bordas_and_near_the_best(monkeypatch):
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = rng.permutation(9)
        orders = np.array([truth[np.argsort(np.arange(9) + rng.normal(0, 2, 9))] for _ in range(5)])
        best = distance(kemeny(orders).tolist(), orders.tolist())
        monkeypatch.setattr(consensus, "EXACT", 0)
        moved = distance(kemeny(orders).tolist(), orders.tolist())
        monkeypatch.undo()
        assert best <= moved <= distance(borda(orders).tolist(), orders.tolist()) and moved <= 1.1 * best + 1
    assert sorted(kemeny([rng.permutation(40) for _ in range(5)]).tolist()) == list(range(40))


@pytest.mark.parametrize("wrong", [[], [[0, 0]], [[1, 2]], [0, 1], [[0.0, 1.0]]])
def test_what_is_no_permutation_is_refused(wrong):
    for make in (borda, kemeny):
        with pytest.raises(InputError, match="permutation"):
            make(wrong)
