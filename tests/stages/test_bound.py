from __future__ import annotations

import json

import numpy as np
import pytest

from rerank_engine.core import LOWEST
from rerank_engine.errors import FileFormatError, InputError
from rerank_engine.stages.bound import Bound, lost_by


def sample(seed: int, n: int = 60, noise: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """(cheap, expensive scores in the cheap order): a level of the query's own, 8 times the cheap score, and noise."""
    rng = np.random.default_rng(seed)
    cheap = np.sort(rng.normal(0, 1, n))[::-1]
    return cheap, rng.normal(0, 3) + 8 * cheap + rng.normal(0, noise, n)


def fitted(first: int, count: int, **options) -> Bound:
    lists = [sample(seed) for seed in range(first, first + count)]
    return Bound.fit([c for c, _ in lists], [s for _, s in lists], **options)


@pytest.mark.parametrize(("loss", "delta"), [("share", 0.05), ("share", 0.2), ("any", 0.1), ("any", 0.3)])
def test_the_promise_is_kept_over_new_queries(loss, delta):
    """Conformal risk control: the expected loss over fits and queries is at most delta. 20 fits on 100 queries, each tried on 50 others."""
    lost, read = [], []
    for fit in range(20):
        bound = fitted(1000 * fit, 100, k=5, delta=delta, loss=loss, wave=3)
        for seed in range(1000 * fit + 500, 1000 * fit + 550):
            cheap, scores = sample(seed)
            stop = bound.stop(cheap, scores)
            lost.append(lost_by(loss, scores, stop, 5))
            read.append(stop / len(scores))
    assert np.mean(lost) <= delta + 0.02, "three deviations of the mean above, at the least"
    assert np.mean(lost) > delta / 4 and np.mean(read) < 0.7, "and it does save"


def test_a_smaller_delta_reads_more():
    deltas = [0.02, 0.05, 0.1, 0.2, 0.4]
    bounds = [fitted(0, 100, k=5, delta=delta) for delta in deltas]
    stops = [sum(bound.stop(*sample(seed)) for seed in range(200, 300)) for bound in bounds]
    assert stops == sorted(stops, reverse=True) and stops[0] > stops[-1]
    assert [bound.threshold for bound in bounds] == sorted((bound.threshold for bound in bounds), reverse=True)


def test_the_threshold_is_the_smallest_that_keeps_delta():
    lists = [sample(seed) for seed in range(60)]
    bound = Bound.fit([c for c, _ in lists], [s for _, s in lists], k=5, delta=0.1, wave=4)

    def risk(threshold: float) -> float:
        total = 0.0
        for cheap, scores in lists:
            stops, margins = bound.path(cheap, scores)
            total += lost_by("share", scores, stops[int(np.argmax(margins >= threshold))], 5)
        return (total + 1) / 61

    below = max(m for c, s in lists for m in bound.path(c, s)[1].tolist() if m < bound.threshold)
    assert risk(bound.threshold) <= 0.1 < risk(below)


def test_margin_by_its_formula():
    bound = Bound(slope=2.0, log_rank=-1.0, mean=0.5, variance=4.0, sd=2.0, threshold=0.0, k=2, delta=0.1, loss="any", wave=1, queries=9)
    cheap, scores = np.array([3.0, 2.5, 1.0, 0.0]), np.array([4.0, 5.0])
    predicted = 2 * (cheap - 3) - np.log([1, 2, 3, 4])
    level = (0.5 / 4 + (scores - predicted[:2]).sum() / 4) / (1 / 4 + 2 / 4)  # the posterior mean of a normal level
    assert bound.margin(cheap, scores) == pytest.approx((4.0 - level - predicted[2:].max()) / 2)
    assert bound.margin(cheap, scores[:1]) == -np.inf and bound.margin(cheap, np.ones(4)) == np.inf
    assert bound.stops(4) == [2, 3, 4] and bound.stops(1) == [1] and bound.stops(0) == [0]
    assert bound.margin(cheap, np.array([4.0, LOWEST])) < -1e30, "a blank document in the top k: all else may still beat it"


def test_losses():
    scores = np.array([1.0, 5.0, 3.0, 5.0, 0.0])  # the three best: places 1, 3, 2
    assert [lost_by("share", scores, m, 3) for m in range(6)] == pytest.approx([1, 1, 2 / 3, 1 / 3, 0, 0])
    assert [lost_by("any", scores, m, 3) for m in range(6)] == [1, 1, 1, 1, 0, 0]
    assert lost_by("share", np.zeros(0), 0, 3) == 0 and lost_by("share", np.ones(2), 1, 10) == 0.5


def test_what_a_fit_refuses():
    lists = [sample(seed) for seed in range(20)]
    cheap, scores = [c for c, _ in lists], [s for _, s in lists]
    with pytest.raises(InputError, match="got 20; expected at least 99, 1 / delta - 1"):
        Bound.fit(cheap, scores, delta=0.01)
    with pytest.raises(InputError, match="even where all that is kept is scored"):
        Bound.fit([c[:8] for c in cheap], scores, delta=0.1)
    assert Bound.fit([c[:50] for c in cheap], scores, delta=0.2).queries == 20, "a cut that loses little is within the bound"
    for bad in ({"k": 0}, {"delta": 2.0}, {"delta": 0.0}, {"loss": "all"}, {"wave": 0}):
        with pytest.raises(InputError):
            Bound.fit(cheap, scores, **bad)
    for c, s in (([], []), (cheap, scores[:3]), (cheap, [np.full(60, np.nan)] * 20), ([np.zeros(0)] * 20, [np.zeros(0)] * 20)):
        with pytest.raises(InputError):
            Bound.fit(c, s)


def test_scores_without_noise_or_spread():
    exact = [np.linspace(1, 0, 30) + i for i in range(20)]
    bound = Bound.fit(exact, exact, k=5)
    assert {bound.stop(row, row) for row in exact} == {5}
    flat = [np.zeros(30)] * 20
    assert Bound.fit(flat, flat, k=5).stop(flat[0], flat[0]) <= 30
    blank = [np.where(np.arange(30) % 7 == 3, LOWEST, row) for row in exact]
    assert np.isfinite(Bound.fit(exact, blank, k=5).sd)


def test_saved_and_loaded(tmp_path):
    bound, path = fitted(0, 30), tmp_path / "bound.json"
    bound.save(path)
    assert Bound.load(path) == bound
    told = json.loads(path.read_text())
    for change in (
        {"sd": 0},
        {"sd": "x"},
        {"threshold": None},
        {"k": 0},
        {"loss": "none"},
        {"kind": "calibration"},
        {"mean": float("nan")},
    ):
        path.write_text(json.dumps({**told, **change}))
        with pytest.raises(FileFormatError):
            Bound.load(path)
    del told["slope"]
    path.write_text(json.dumps(told))
    with pytest.raises(FileFormatError):
        Bound.load(path)
