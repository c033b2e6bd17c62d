"""One order from several: Borda's mean places, and Kemeny's order with the fewest inversions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError

EXACT = 10  # items up to which Kemeny's order is found by looking at all; beyond, by moves that help


def borda(orders: ArrayLike) -> NDArray[np.int64]:
    """orders: int [k, n], k permutations of 0..n-1, best first. int64 [n]: by mean place, ties by number. Raises InputError."""
    places = _places(orders)
    return np.lexsort((np.arange(places.shape[1]), places.sum(axis=0))).astype(np.int64)


def kemeny(orders: ArrayLike) -> NDArray[np.int64]:
    """int64 [n]: an order with the least sum of Kendall tau distances to the k given ones (Kemeny 1959; for rerankers Tang et al., NAACL
    2024, permutation self-consistency). Exact for 10 items or fewer, over subsets; beyond, Borda's order improved by moving one item at a
    time while that lowers the sum. Ties: the order that begins with lower numbers, or Borda's. Raises InputError."""
    places = _places(orders)
    n = places.shape[1]
    before = (places[:, :, None] < places[:, None, :]).sum(axis=0)  # [i, j]: how many orders have i before j
    return _exact(before) if n <= EXACT else _moved(before, borda(orders))


def _exact(before: NDArray[np.int64]) -> NDArray[np.int64]:
    """Least cost of placing a set of items last, by subsets: cost[S] = min over its first item i of pairs that i stands before wrongly."""
    n = len(before)
    cost, first = np.zeros(1 << n, np.int64), np.zeros(1 << n, np.int64)
    for items in range(1, 1 << n):
        members = [i for i in range(n) if items >> i & 1]
        told = [cost[items ^ 1 << i] + sum(int(before[j, i]) for j in members) for i in members]
        best = int(np.argmin(told))
        cost[items], first[items] = told[best], members[best]
    order, items = [], (1 << n) - 1
    while items:
        order.append(int(first[items]))
        items ^= 1 << order[-1]
    return np.array(order, np.int64)


def _moved(before: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Takes each item where it costs least, until none moves. The sum falls with each move, so it ends."""
    order, moving = order.copy(), True
    while moving:
        moving = False
        for item in order.tolist():
            at = int(np.flatnonzero(order == item)[0])
            rest = np.delete(order, at)
            # Placed before rest[k:]: wrong against those of them that most orders have before it, and so for those in front.
            behind = np.concatenate([[0], np.cumsum(before[item, rest])])  # orders that have it before one in front of it
            ahead = np.concatenate([np.cumsum(before[rest, item][::-1])[::-1], [0]])
            cost = behind + ahead
            if cost.min() < cost[at]:
                order, moving = np.insert(rest, int(np.argmin(cost)), item), True
    return order


def _places(orders: ArrayLike) -> NDArray[np.int64]:
    """[k, n]: where each item stands in each order."""
    given = np.asarray(orders)
    expected = "k permutations of 0..n-1, int [k, n]"
    if given.ndim != 2 or given.dtype.kind not in "iu" or not len(given):
        raise InputError("orders", got=f"{given.dtype} {list(given.shape)}", expected=expected)
    if (np.sort(given, axis=1) != np.arange(given.shape[1])).any():
        raise InputError("orders", got="an order that is no permutation", expected=expected)
    return np.argsort(given, axis=1)
