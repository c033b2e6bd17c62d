"""The schedules against brute force, and what a perfect model makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from rerank_engine.llm.schedules import all_pairs, bubble, heap, rounds_of, sliding, tournament, windows


def run(schedule, order, answer):
    """(rounds, groups asked) with a model answer(items) -> permutation."""
    rounds = asked = 0
    answers = None
    while True:
        try:
            groups = next(schedule) if answers is None else schedule.send(answers)
        except StopIteration:
            return rounds, asked
        rounds, asked = rounds + 1, asked + len(groups)
        assert all(len(set(group.tolist())) == len(group) > 0 for group in groups)
        answers = [answer(order[group]) for group in groups]
        assert sorted(order.tolist()) == list(range(len(order)))


def perfect(items):
    return np.argsort(items)


def brute(n, window, step, answer):
    """As rank_llm goes: from the back, until a window begins at 0."""
    items, end = list(range(n)), n
    while n:
        start = max(0, end - window)
        part = np.array(items[start:end])
        items[start:end] = part[answer(part)].tolist()
        if start == 0:
            break
        end -= step
    return items


def scrambled(items):
    """Some fixed order that depends on what is asked."""
    return np.random.default_rng(np.append(items, len(items))).permutation(len(items))


@pytest.mark.parametrize("n", range(61))
def test_sliding_windows_are_those_of_brute_force(n):
    for window in range(1, 21):
        for step in range(1, min(window, 10) + 1):
            order = np.arange(n)
            run(sliding(order, window, step), order, scrambled)
            assert order.tolist() == brute(n, window, step, scrambled), (window, step)
            covered = {place for start, end in windows(n, window, step) for place in range(start, end)}
            assert covered == set(range(n))


def test_a_perfect_model_brings_window_minus_step_to_the_front_in_one_pass():
    rng = np.random.default_rng(0)
    for n in range(1, 61):
        for window in range(2, 21, 3):
            for step in range(1, window):
                truth = rng.permutation(n)
                order = np.arange(n)
                run(sliding(order, window, step), order, lambda items, truth=truth: np.argsort(truth[items]))
                best = min(n, window - step if n > window else n)
                assert truth[order][:best].tolist() == list(range(best)), (n, window, step)


def test_the_usual_numbers():
    """100 documents, windows of 20, 10 apart: 9 windows, and the best 10 in front after one pass, 20 after two."""
    assert len(windows(100, 20, 10)) == 9 and windows(25, 20, 10) == [(5, 25), (0, 15)] and windows(0, 20, 10) == []
    truth = np.random.default_rng(1).permutation(100)
    for passes in (1, 2):
        order = np.arange(100)
        assert run(sliding(order, 20, 10, passes), order, lambda items: np.argsort(truth[items])) == (9 * passes, 9 * passes)
        assert truth[order][: 10 * passes].tolist() == list(range(10 * passes))


@pytest.mark.parametrize("n", [0, 1, 2, 5, 20, 21, 39, 40, 41, 100, 137])
@pytest.mark.parametrize(("window", "step"), [(20, 10), (20, 1), (20, 19), (3, 1), (2, 1)])
def test_tournaments_find_the_best_and_take_few_rounds(n, window, step):
    truth = np.random.default_rng(n).permutation(n)
    order = np.arange(n)
    rounds, _ = run(tournament(order, window, step), order, lambda items: np.argsort(truth[items]))
    best = min(n, window - step if n > window else n)
    assert truth[order][:best].tolist() == list(range(best))
    if (window, step, n) == (20, 10, 100):
        assert rounds == 4  # 100, 50, 30, 20
    order = np.arange(n)
    run(tournament(order, window, step), order, lambda items: np.arange(len(items)))
    assert sorted(order.tolist()) == list(range(n))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 20, 33])
@pytest.mark.parametrize("ways", [2, 3, 4, 7])
@pytest.mark.parametrize("top", [1, 3, 50])
def test_heaps_and_bubbles_find_the_best_in_order(n, ways, top):
    truth = np.random.default_rng(n).permutation(n)
    for make, pairwise in ((heap, False), (heap, True), (bubble, False), (bubble, True)):
        order = np.arange(n)
        run(make(order, ways, top, pairwise), order, lambda items: np.argsort(truth[items]))
        assert truth[order][:top].tolist() == list(range(min(n, top)))
        assert make is bubble or (np.diff(order[top:]) > 0).all(), "the rest keeps its order"


def test_a_heap_asks_less_than_bubbles():
    """Theory for 100 documents, the best 10: bubbles pass the list ten times, a heap is built once and mended ten times."""
    truth, counts = np.random.default_rng(0).permutation(100), {}
    for name, make in (("heap", heap), ("bubble", bubble)):
        order = np.arange(100)
        counts[name] = run(make(order, 4, 10), order, lambda items: np.argsort(truth[items]))[1]
    assert counts["heap"] <= 34 * 2 + 9 * 5 and counts["bubble"] == sum(-(-(99 - done) // 3) for done in range(10))


def test_all_pairs():
    order = np.arange(5)
    truth = np.array([3, 1, 4, 0, 2])
    rounds, asked = run(all_pairs(order), order, lambda items: np.argsort(truth[items]))
    assert (rounds, asked) == (1, 10) and truth[order].tolist() == [0, 1, 2, 3, 4]
    order = np.arange(4)
    run(all_pairs(order), order, lambda items: np.zeros(1, np.int64))  # nothing but ties
    assert order.tolist() == [0, 1, 2, 3]


def test_rounds_are_counted_without_a_model():
    order = np.arange(100)
    assert sum(len(groups) for groups in rounds_of(sliding(order, 20, 10))) == 9 and order.tolist() == list(range(100))
