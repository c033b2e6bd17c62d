"""In which groups a language model is shown a list, and what becomes of its answers: sliding windows, tournaments, heaps, bubbles, pairs.

A schedule is a generator over a list `order` (int64, best first), which it changes in place, so that it is a valid order whenever the
caller stops. It yields a round: groups of places of `order` that can be asked at the same time; it is sent, for each group, an order of it
(int64 permutation, best first; of two also [0] alone, a tie).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]
Schedule = Generator[list[Places], Sequence[Places], None]


def windows(n: int, window: int, step: int) -> list[tuple[int, int]]:
    """(start, end) of the windows over a list of n, from its back to its front; the last one begins at 0."""
    out, start, end = list[tuple[int, int]](), n - window, n
    while n:
        out.append((max(start, 0), end))
        if start <= 0:
            break
        start, end = start - step, end - step
    return out


def sliding(order: Places, window: int, step: int, passes: int = 1) -> Schedule:
    """RankGPT's (Sun et al., EMNLP 2023): windows from the back to the front, each `step` before the last, `passes` times. One pass of a
    perfect model brings the best window - step to the front."""
    for _ in range(passes):
        for start, end in windows(len(order), window, step):
            yield from _settled(order, [np.arange(start, end)])


def tournament(order: Places, window: int, step: int) -> Schedule:
    """Rounds of groups of `window` side by side, of which the best window - step go on, until one group is left; log rounds in place of
    windows one after the other. Who goes out earlier stands behind who goes out later; of one round by place in the group, then as before.

    A perfect model puts the best window - step in front, as with sliding windows."""
    left = np.arange(len(order))
    keep = window - step
    while len(left):
        count = -(-len(left) // window)
        groups = [left[i::count] for i in range(count)]  # strong and weak ones are dealt to all groups,
        if count > 1 and max(map(len, groups)) <= keep:  # unless then nobody would go out
            groups = [left[i : i + window] for i in range(0, len(left), window)]
        asked = [order[group] for group in groups]
        found = yield groups
        ranked = [items[places] for items, places in zip(asked, found, strict=True)]
        longest = max(map(len, ranked))
        merged = [items[place] for place in range(longest) for items in ranked if place < len(items)]
        order[: len(left)] = merged
        if count == 1:
            return
        left = left[: sum(min(keep, len(items)) for items in ranked)]


def heap(order: Places, ways: int, top: int, pairwise: bool = False) -> Schedule:
    """The best `top` in front by a heap whose nodes have ways - 1 children (setwise: Zhuang et al., SIGIR 2024): a node and its children
    are one question, or with `pairwise` a question for each two. The rest keeps its order."""
    n, tree = len(order), order.copy()

    def sink(node: int, size: int) -> Schedule:
        while (first := (ways - 1) * node + 1) < size:
            group = [node, *range(first, min(first + ways - 1, size))]
            best = yield from _best([int(tree[place]) for place in group], pairwise, order)
            if (winner := group[best]) == node:
                return
            tree[node], tree[winner], node = tree[winner], tree[node], winner

    for node in range((n - 2) // (ways - 1), -1, -1) if n > 1 else ():
        yield from sink(node, n)
    for at, size in zip(range(min(top, n)), range(n, 0, -1)):
        _bring(order, int(tree[0]), at)
        if at + 1 < min(top, n):
            tree[0] = tree[size - 1]
            yield from sink(0, size - 1)


def bubble(order: Places, ways: int, top: int, pairwise: bool = False) -> Schedule:
    """The best `top` in front by as many passes of windows of `ways` from the back, each of which carries its best on."""
    for done in range(min(top, len(order) - 1)):
        at = len(order) - 1
        while at > done:
            start = max(done, at - ways + 1)
            best = yield from _best([int(item) for item in order[start : at + 1]], pairwise, order)
            _bring(order, int(order[start + best]), start)
            at = start


def all_pairs(order: Places) -> Schedule:
    """Every two, all at the same time (Qin et al., NAACL 2024): by wins, half a one where the answer is a tie; ties as before."""
    n = len(order)
    pairs = [np.array(pair, np.int64) for pair in combinations(range(n), 2)]
    if not pairs:
        return
    found = yield pairs
    wins = np.zeros(n)
    for pair, places in zip(pairs, found, strict=True):
        if len(places) == 1:  # a tie
            wins[pair] += 0.5
        else:
            wins[pair[places[0]]] += 1
    order[:] = order[np.lexsort((np.arange(n), -wins))]


def _settled(order: Places, groups: list[Places]) -> Schedule:
    found = yield groups
    for group, places in zip(groups, found, strict=True):
        order[group] = order[group][places]


def _best(items: Sequence[int], pairwise: bool, order: Places) -> Generator[list[Places], Sequence[Places], int]:
    """Which of these items, as a place among them, wins: by one question, or by one for each after the champion so far. They are shown as
    they stand in `order`, and of a tie the first wins, so that answers that say nothing change nothing."""
    where = np.argsort(order)
    standing = sorted(range(len(items)), key=lambda place: where[items[place]])
    if not pairwise:
        (found,) = yield [where[[items[place] for place in standing]]]
        return standing[int(found[0])]
    champion = standing[0]
    for rival in standing[1:]:
        (found,) = yield [where[[items[champion], items[rival]]]]
        if int(found[0]) == 1:
            champion = rival
    return champion


def _bring(order: Places, item: int, to: int) -> None:
    """Moves an item forward; those between fall back by one."""
    at = int(np.flatnonzero(order == item)[0])
    order[to : at + 1] = np.roll(order[to : at + 1], 1)


def rounds_of(schedule: Schedule) -> Iterator[list[Places]]:
    """The rounds that it asks where every answer leaves the order as it is."""
    answers: Sequence[Places] | None = None
    while True:
        try:
            groups = next(schedule) if answers is None else schedule.send(answers)
        except StopIteration:
            return
        yield groups
        answers = [np.arange(len(group)) for group in groups]
