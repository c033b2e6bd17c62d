"""Calibration by a clock of ours: what stages took is what is fitted; and the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine import cli
from rerank_engine.errors import InputError, MissingDependency
from rerank_engine.latency.timing import Clock
from rerank_engine.planning import Costs, StageCost, calibrate, shape_of
from rerank_engine.planning.bed import Bed
from rerank_engine.planning.calibrate import MODELS, _bm25
from rerank_engine.planning.costs import this_machine
from rerank_engine.planning.shape import variation
from rerank_engine.runtimes.files import resolve


@pytest.fixture
def models() -> None:
    try:
        resolve(MODELS["cross"])
    except MissingDependency as error:
        pytest.skip(str(error))


class Ticks:
    """A clock on which whatever happens between two looks takes 3 ms."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.003
        return self.now


@pytest.mark.usefixtures("models")
def test_what_a_stage_takes_by_the_clock_is_what_is_fitted() -> None:
    bed = Bed(1, True, MODELS, Clock(wall=Ticks(), cpu=Ticks()))
    [cost] = _bm25(bed)
    assert cost.stage == "bm25"
    assert cost.fixed_ms == pytest.approx(3)
    assert (cost.per_query_token_ms, cost.per_corpus_ms) == pytest.approx((0, 0), abs=1e-6)
    assert (cost.spread, cost.error) == pytest.approx((1, 0), abs=1e-6)


@pytest.mark.usefixtures("models")
def test_the_workload_tells_how_lengths_vary() -> None:
    told = Bed(1, True, MODELS, Clock()).workload()
    assert 50 < told["tokens"] < 300
    assert 5 < told["query_tokens"] < 30
    assert 0 < told["token_cv"] < 2
    assert 0 <= told["shared"] < 1


def test_unknown_models_are_refused() -> None:
    with pytest.raises(InputError, match="hyperdense"):
        calibrate(models={"hyperdense": "x"})


def test_variation_tells_lists_from_noise() -> None:
    rng = np.random.default_rng(0)
    alone = variation(np.array([5, 10, 15]), [rng.integers(50, 150, 40) for _ in range(200)])
    assert alone["shared"] < 0.05
    assert alone["token_cv"] == pytest.approx(100 / np.sqrt(12) / 100, rel=0.05)
    assert (alone["query_tokens"], alone["query_cv"]) == pytest.approx((10, np.sqrt(50 / 3) / 10))
    alike = variation(np.array([5, 10, 15]), [np.full(40, n) for n in rng.integers(50, 150, 200)])
    assert alike["shared"] == pytest.approx(1)
    with pytest.raises(InputError, match="two or more"):
        variation(np.array([1]), [np.array([3])])


class Words:
    """A tokenizer of words."""

    def plain(self, texts: list[str]) -> list[list[str]]:
        return [text.split() for text in texts]


def test_a_shape_is_counted_from_queries_and_lists() -> None:
    corpus = rr.Corpus.from_texts(["a b c", "a b c d e", "a", "x y z"])
    lists = [rr.Ranking.in_order(corpus, [0, 1]), rr.Ranking.in_order(corpus, [0, 1])]
    shape = shape_of(Words(), ["a b", rr.Query("a b c d")], lists)
    assert (shape.corpus_size, shape.tokens, shape.query_tokens) == (4, 4.0, 3.0)


def run(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    assert cli.main([*args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def costs(tmp_path: Path) -> str:
    stages = (
        StageCost("bm25", "", "", "cpp", 1, fixed_ms=0.5),
        StageCost("cross", MODELS["cross"], "int8", "onnx", 2, fixed_ms=1, per_token_ms=0.1, error=0.05, spread=1.1),
    )
    told = {"query_tokens": 10.0, "token_cv": 0.4, "shared": 0.2, "query_cv": 0.3}
    return str(Costs(stages, this_machine(), told).save(tmp_path / "costs.json"))


def test_the_command_plans(capsys: pytest.CaptureFixture[str], costs: str) -> None:
    asked = ("plan", "--corpus-size", "1e6", "--tokens", "150", "--costs", costs)
    told = run(capsys, *asked, "--p95", "5")
    assert told["name"] == "BM25"
    assert told["predicted"] is False
    assert told["given_up"]
    assert run(capsys, *asked, "--p95", "5", "--device", "H100")["predicted"] is True
    assert run(capsys, *asked, "--p95", "50", "--qps", "200")["capacity"]["machines"] >= 1
    assert cli.main([*asked, "--p95", "5000", "--qps", "2", "--collection", "trec-dl19-pool"]) == 0
    shown = capsys.readouterr().out
    assert "BM25, cross-encoder@100" in shown
    assert "assumed:" in shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--p95", "0.1"), "the quickest, 'BM25'"),
        (("--p95", "5", "--device", "abacus"), "one of"),
        (("--p95", "5", "--batch-tokens", "5"), "--qps"),
        (("--p95", "5", "--quality", "nowhere.json"), "nowhere.json"),
        (("--p95", "5", "--collection", "nowhere"), "trec-dl19-pool"),
    ],
)
def test_what_cannot_be_planned_says_why(capsys: pytest.CaptureFixture[str], costs: str, more: tuple[str, ...], message: str) -> None:
    assert cli.main(["plan", "--corpus-size", "1e6", "--tokens", "150", "--costs", costs, *more]) == 2
    assert message in capsys.readouterr().err


def test_costs_that_are_not_there_and_models_without_a_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    costs = str(tmp_path / "none.json")
    assert cli.main(["plan", "--p95", "5", "--corpus-size", "10", "--tokens", "150", "--costs", costs]) == 2
    assert "rerank-engine calibrate" in capsys.readouterr().err
    assert cli.main(["calibrate", "--model", "cross"]) == 2
    assert "KIND=NAME" in capsys.readouterr().err
