"""Costs: the non-negative fit against brute force, what a fit finds of what was put in, and files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from rerank_engine.errors import FileFormatError, InputError
from rerank_engine.planning.costs import Costs, StageCost, Work, default_path, fit, nonnegative, this_machine

WORKLOAD = {"query_tokens": 12.0, "token_cv": 0.5, "shared": 0.1, "query_cv": 0.3}


def by_brute_force(a: np.ndarray, y: np.ndarray) -> float:
    """The smallest |a x - y| over every choice of columns whose least squares are not negative."""
    best = float(np.linalg.norm(y))
    for n in range(1, a.shape[1] + 1):
        for chosen in itertools.combinations(range(a.shape[1]), n):
            x = np.linalg.lstsq(a[:, chosen], y, rcond=None)[0]
            if (x >= 0).all():
                best = min(best, float(np.linalg.norm(a[:, chosen] @ x - y)))
    return best


@pytest.mark.parametrize("seed", range(30))
def test_nonnegative_least_squares_are_those_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, y = rng.standard_normal((12, 4)) * [1, 1e3, 1e-3, 1], rng.standard_normal(12)
    x = nonnegative(a, y)
    assert (x >= 0).all()
    assert np.linalg.norm(a @ x - y) == pytest.approx(by_brute_force(a, y), rel=1e-9)


def test_nonnegative_of_dependent_and_empty_columns() -> None:
    a = np.array([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0], [3.0, 3.0, 0.0]])
    assert a @ nonnegative(a, np.array([2.0, 4.0, 6.0])) == pytest.approx([2, 4, 6])
    assert nonnegative(-a, np.array([1.0, 1.0, 1.0])).tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="finite"):
        nonnegative([[np.nan]], [1.0])


def runs(rng: np.random.Generator, noise: float) -> list[list[tuple[Work, float]]]:
    """ms = 2 + 0.5 n + 0.01 T, times lognormal noise, at six sizes."""
    settings = []
    for n, tokens in itertools.product((5, 20, 60), (60, 150)):
        work = [Work(document=n, token=n * tokens * float(rng.uniform(0.8, 1.2))) for _ in range(30)]
        settings.append([(own, (2 + 0.5 * own.document + 0.01 * own.token) * float(np.exp(noise * rng.standard_normal()))) for own in work])
    return settings


def test_a_fit_finds_what_was_put_in() -> None:
    cost = fit("cross", ("fixed", "document", "token", "square"), runs(np.random.default_rng(0), 0.0), backend="b", threads=1)
    assert (cost.fixed_ms, cost.per_document_ms, cost.per_token_ms) == pytest.approx((2, 0.5, 0.01), rel=1e-6)
    assert cost.per_square_ms == pytest.approx(0, abs=1e-9)
    assert (cost.spread, cost.error, cost.runs) == (pytest.approx(1), pytest.approx(0, abs=1e-9), 180)
    assert cost.ms(Work(document=10, token=1000)) == pytest.approx(17)


def test_the_spread_and_the_error_tell_of_noise() -> None:
    cost = fit("cross", ("fixed", "document", "token"), runs(np.random.default_rng(1), 0.2), backend="b", threads=1)
    assert cost.spread == pytest.approx(np.exp(1.645 * 0.2), rel=0.1)
    assert 0.01 < cost.error < 0.1
    assert cost.ms(Work(document=20, token=2000)) == pytest.approx(32, rel=0.1)


def test_a_run_that_was_interrupted_does_not_move_the_fit() -> None:
    settings = runs(np.random.default_rng(2), 0.02)
    settings[0][0] = (settings[0][0][0], 100 * settings[0][0][1])
    cost = fit("cross", ("fixed", "document", "token"), settings, backend="b", threads=1)
    assert cost.ms(Work(document=20, token=2000)) == pytest.approx(32, rel=0.03)


@pytest.mark.parametrize("settings", [[], [[]], [[(Work(), 0.0)]], [[(Work(), float("nan"))]]])
def test_a_fit_of_nothing_is_refused(settings: list[list[tuple[Work, float]]]) -> None:
    with pytest.raises(InputError, match="fit of bm25"):
        fit("bm25", ("fixed",), settings, backend="b", threads=1)


def costs(machine: dict[str, object] | None = None) -> Costs:
    return Costs((StageCost("bm25", "", "", "cpp", 1, fixed_ms=0.5, spread=1.5, error=0.1),), machine or this_machine(), WORKLOAD)


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    path = costs().save(tmp_path / "new" / "costs.json")
    found = Costs.load(path)
    assert (found.stages, found.machine, found.workload) == (costs().stages, costs().machine, WORKLOAD)
    assert [p.name for p in path.parent.iterdir()] == ["costs.json"]
    assert found.find("bm25") == costs().stages[0]
    assert found.find("bm25", "int8") is None
    assert found.find("dense") is None


def test_the_default_lies_in_the_config_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_path() == tmp_path / "rerank_engine" / "costs.json"
    with pytest.raises(InputError, match="rerank-engine calibrate"):
        Costs.load()
    costs().save()
    assert Costs.load().stages == costs().stages
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert default_path() == Path.home() / ".config" / "rerank_engine" / "costs.json"


def test_costs_of_another_machine_are_refused_unless_asked_for(tmp_path: Path) -> None:
    path = costs({**this_machine(), "cpus": 96}).save(tmp_path / "costs.json")
    with pytest.raises(InputError, match=r"96 processors.*--any-machine"):
        Costs.load(path)
    assert Costs.load(path, any_machine=True).machine["cpus"] == 96


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"stages": [{"stage": "bm25"}]},
        {"stages": [{**costs().to_dict()["stages"][0], "fixed_ms": -1.0}]},
        {"stages": [{**costs().to_dict()["stages"][0], "spread": "much"}]},
        {"stages": 3},
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({**costs().to_dict(), **change}))
    with pytest.raises(FileFormatError):
        Costs.load(path)
    path.write_text("{")
    with pytest.raises(FileFormatError):
        Costs.load(path)
