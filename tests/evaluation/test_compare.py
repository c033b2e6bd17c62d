"""Tests of differences: by hand, against scipy where it is installed, and what they must not say of runs that do not differ."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from rerank_engine.errors import InputError, NonFiniteError
from rerank_engine.evaluation import compare, compare_values, evaluate, evaluate_queries
from rerank_engine.evaluation.compare import EXACT, beta_share, bootstrap, correct, randomization, student_t


def runs_of(n: int, seed: int = 0) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, dict[str, float]]]]:
    """n queries with 12 documents each, and three runs: noise, better, worse."""
    rng = np.random.default_rng(seed)
    qrels = {f"q{q}": {f"d{d}": int(rng.integers(0, 3)) for d in range(12)} for q in range(n)}
    runs = {
        name: {q: {d: r * pull + float(rng.normal()) for d, r in judged.items()} for q, judged in qrels.items()}
        for name, pull in (("noise", 0.0), ("better", 1.5), ("worse", -1.0))
    }
    return qrels, runs


def test_rows_are_means_differences_and_counts() -> None:
    qrels = {f"q{i}": {"a": 1} for i in range(4)}
    ahead, behind = {"a": 2.0, "b": 1.0}, {"a": 1.0, "b": 2.0}
    runs = {"base": {"q0": ahead, "q1": behind, "q2": behind}, "other": {"q0": behind, "q1": ahead, "q2": ahead, "q3": ahead}}
    found = compare(qrels, runs, ["MRR", "P@1"])
    assert (found.baseline, found.rows[0].queries) == ("base", 4) and [(row.measure, row.run) for row in found.rows] == [
        ("MRR", "base"), ("MRR", "other"), ("P@1", "base"), ("P@1", "other"),
    ]  # fmt: skip
    assert found.rows[0].mean == evaluate(qrels, runs["base"], ["MRR"])["MRR"] and found.rows[0].difference is found.rows[0].p is None
    row = found.row("other", "P@1")
    assert (row.mean, row.difference, row.wins, row.ties, row.losses) == (0.75, 0.5, 3, 0, 1)
    assert found.differences["P@1"]["other"] == {"q0": -1.0, "q1": 1.0, "q2": 1.0, "q3": 1.0}
    assert row.p == 10 / 16  # of 16 patterns of signs, |sum| >= 2 in all but the six of sum 0
    assert row.low is not None and row.high is not None and -1 <= row.low < 0.5 < row.high <= 1
    assert json.loads(json.dumps(found.to_dict()))["rows"][3]["wins"] == 3
    text = repr(found)
    assert "base over 4 queries" in text and "3/0/1" in text and text.count("\n") == 5
    with pytest.raises(InputError, match="row: got 'x'"):
        found.row("x", "MRR")


def test_another_baseline_turns_the_sign() -> None:
    qrels, runs = runs_of(30)
    one, two = compare(qrels, runs, ["nDCG@5"], test="t"), compare(qrels, runs, ["nDCG@5"], baseline="better", test="t")
    a, b = one.row("better", "nDCG@5"), two.row("noise", "nDCG@5")
    assert a.difference == pytest.approx(-b.difference) and (a.wins, a.losses) == (b.losses, b.wins) and a.p == pytest.approx(b.p)  # type: ignore[operator]


@pytest.mark.parametrize("test", ["t", "randomization"])
def test_it_finds_what_differs_and_nothing_in_noise(test: str) -> None:
    qrels, runs = runs_of(60)
    runs["again"] = {q: dict(scores) for q, scores in runs["noise"].items()}
    found = compare(qrels, runs, ["nDCG@10"], test=test, samples=5000)
    better, worse, again = (found.row(name, "nDCG@10") for name in ("better", "worse", "again"))
    assert better.p_corrected < 0.001 and better.low > 0 and worse.p_corrected < 0.01 and worse.high < 0  # type: ignore[operator]
    assert (again.p, again.p_corrected, again.ties, again.low, again.high) == (1.0, 1.0, 60, 0.0, 0.0)
    assert found.to_dict() == compare(qrels, runs, ["nDCG@10"], test=test, samples=5000).to_dict(), "the seed decides"


def test_null_differences_are_called_significant_as_often_as_they_should_be() -> None:
    rng = np.random.default_rng(5)
    for test in (lambda d: randomization(d, 400), student_t):
        share = np.mean([test(rng.normal(size=25)) < 0.1 for _ in range(400)])
        assert 0.05 < share < 0.15


def test_randomization_is_exact_for_few_and_close_for_many() -> None:
    rng = np.random.default_rng(3)
    d = np.round(rng.normal(0.2, 1, 10), 2)
    patterns = [abs(sum(s * x for s, x in zip(signs, d))) for signs in itertools.product((1, -1), repeat=10)]
    exact = np.mean([value >= abs(d.sum()) - 1e-9 for value in patterns])
    assert randomization(d) == exact == randomization(np.concatenate([d, np.zeros(50)])), "queries that do not differ change nothing"
    many = np.concatenate([d, rng.normal(0, 1e-3, EXACT)])  # so small that the p is nearly the same, but too many for every pattern
    assert randomization(many, 200_000) == pytest.approx(exact, abs=0.02)
    assert randomization(np.array([0.1, 0.2, -0.3])) == 1.0 == randomization(np.tile([0.1, 0.2, -0.3], 9), 500), (
        "sums of 0, but for rounding"
    )
    assert randomization(np.zeros(5)) == 1.0 and randomization(np.ones(40), 1000) == 1 / 1001


def test_student_t_by_hand() -> None:
    assert student_t(np.array([1.0, 2.0, 3.0])) == pytest.approx(1 - math.sqrt(12 / 14), abs=1e-12)  # t = sqrt(12), 2 degrees of freedom
    assert student_t(np.array([1.0, -1.0])) == 1.0
    assert student_t(np.zeros(4)) == 1.0 and student_t(np.full(4, 0.25)) == 0.0


def test_the_beta_function_where_it_is_known() -> None:
    for x in (0.0, 1e-9, 0.3, 0.5, 0.999, 1.0):
        assert beta_share(x, 1, 1) == pytest.approx(x, abs=1e-15)
        assert beta_share(x, 3, 1) == pytest.approx(x**3, abs=1e-15)
        assert beta_share(x, 0.5, 0.5) == pytest.approx(2 / math.pi * math.asin(math.sqrt(x)), abs=1e-14)
        assert beta_share(x, 700, 0.5) + beta_share(1 - x, 0.5, 700) == pytest.approx(1, abs=1e-13)


def test_corrections() -> None:
    assert correct([0.01, 0.04, 0.03, 0.5], "holm") == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert correct([0.01, 0.04, 0.03, 0.5], "bonferroni") == pytest.approx([0.04, 0.16, 0.12, 1.0])
    assert correct([0.6, 0.4], "holm") == [0.8, 0.8] and correct([0.3, 0.2], None) == [0.3, 0.2] and correct([], "holm") == []


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(60):
        low, high = bootstrap(rng.normal(0.3, 1, 50), 0.9)
        held += low <= 0.3 <= high
    assert 46 <= held <= 60
    narrow, wide = bootstrap(rng.normal(size=50), 0.5), bootstrap(rng.normal(size=50), 0.99)
    assert narrow[1] - narrow[0] < wide[1] - wide[0] and bootstrap(np.full(9, 0.5)) == (0.5, 0.5)


@pytest.mark.parametrize("n", [2, 3, 10, 43, 300])
def test_equal_to_scipy(n: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy, a peer, is not installed")
    rng = np.random.default_rng(n)
    for shift in (0.0, 0.1, 1.0, 5.0):
        a, b = rng.normal(size=n), rng.normal(size=n) + shift
        assert student_t(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-10, abs=1e-300)
    if n <= 10:
        peer = stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert randomization(a - b) == pytest.approx(peer.pvalue, abs=1e-12)
    ps = rng.random(n)
    assert correct(ps.tolist(), "bonferroni") == pytest.approx(np.minimum(ps * n, 1).tolist())
    special = pytest.importorskip("scipy.special")
    for x, a_, b_ in itertools.product((1e-12, 0.01, 0.5, 0.99), (0.5, 1, 21, 594.5), (0.5, 2.0)):
        assert beta_share(x, a_, b_) == pytest.approx(special.betainc(a_, b_, x), rel=1e-11, abs=1e-300)


def test_differences_are_those_of_the_measures() -> None:
    qrels, runs = runs_of(300)  # more than one part of the evaluation
    found = compare(qrels, runs, ["nDCG@3"], test="t").differences["nDCG@3"]["worse"]
    a, b = (evaluate_queries(qrels, runs[name], ["nDCG@3"])["nDCG@3"] for name in ("noise", "worse"))
    assert found == {q: b[q] - a[q] for q in qrels}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": {"one": {}}}, "runs: got 1"),
        ({"baseline": "x"}, "baseline: got x; expected one of 'noise'"),
        ({"test": "anova"}, "one of randomization, t"),
        ({"correction": "none"}, "one of holm, bonferroni"),
        ({"samples": 0}, "samples: got 0"),
        ({"seed": "1"}, "seed"),
        ({"seed": -1}, "seed: got -1"),
        ({"seed": True}, "seed: got True"),
        ({"confidence": 95}, "confidence: got 95"),
        ({"confidence": 1.0}, "confidence: got 1.0"),
        ({"qrels": {"q0": {"d0": 1}}}, "MRR: got 1 queries; expected two"),
        ({"measures": ["x"]}, "unknown measure"),
    ],
)
def test_what_is_refused(changes: dict[str, object], message: str) -> None:
    qrels, runs = runs_of(3)
    arguments: dict[str, object] = {"qrels": qrels, "runs": runs, "measures": ["MRR"], **changes}
    with pytest.raises(InputError, match=message):
        compare(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("test", ["t", "randomization"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e308])
def test_non_finite_numbers_neither_enter_nor_leave(bad: float, test: str) -> None:
    fine = {"m": {"q1": 0.5, "q2": 0.25}}
    for values in ({"a": fine, "b": {"m": {"q1": 1.0, "q2": bad}}}, {"a": {"m": {"q1": bad, "q2": -bad}}, "b": fine}):
        with pytest.raises(NonFiniteError, match=r"compare: m of '[ab]'"):
            compare_values(values, test=test)
    with pytest.raises(InputError, match="m of 'b': got"):
        compare_values({"a": fine, "b": {"m": {"q1": "1", "q2": 0.0}}})  # type: ignore[dict-item]


def test_where_less_is_better_a_win_is_a_lower_value() -> None:
    values = {"a": {"up": {"q1": 0.5, "q2": 0.5, "q3": 0.1}, "down": {"q1": 0.5, "q2": 0.5, "q3": 0.1}}}
    values["b"] = {name: {"q1": 0.0, "q2": 0.0, "q3": 0.1} for name in ("up", "down")}
    found = compare_values(values, lower=("down",))
    up, down = found.row("b", "up"), found.row("b", "down")
    assert (up.wins, up.ties, up.losses) == (0, 1, 2) and (down.wins, down.ties, down.losses) == (2, 1, 0)
    assert up.difference == down.difference == pytest.approx(-1 / 3) and up.p == down.p
    assert "down (lower is better)" in repr(found) and "up (lower" not in repr(found) and found.to_dict()["lower"] == ["down"]
