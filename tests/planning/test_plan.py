"""Plans from given costs and qualities: what is chosen, what it says of itself, and that it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine.errors import InputError
from rerank_engine.planning import Chain, Costs, Curves, Parts, Shape, StageCost, plan
from rerank_engine.planning.costs import Work, this_machine
from rerank_engine.planning.devices import facts
from rerank_engine.planning.quality import Rerank
from rerank_engine.planning.work import KEEP, late_work, latency_of, parts_of, work_of

SHAPE = Shape(10_000, 100.0, 10.0, 0.4, 0.2, 0.3)
MODEL = "ms-marco-MiniLM-L-12-v2"


def cost(stage: str, precision: str = "", spread: float = 1.2, error: float = 0.02, **terms: float) -> StageCost:
    model = {"bm25": "", "fuse": "", "cross": MODEL}.get(stage, "bge-small-en-v1.5")
    return StageCost(stage, model, precision, "cpp", 2, spread=spread, error=error, **terms)


COSTS = Costs(
    (
        cost("bm25", fixed_ms=0.5),
        cost("dense", fixed_ms=5, per_query_token_ms=0.1),
        cost("splade", fixed_ms=5),
        cost("late", "2bit", fixed_ms=6, per_token_ms=1e-5),
        cost("vectors", fixed_ms=5, per_document_ms=0.01),
        cost("maxsim", "2bit", fixed_ms=6, per_document_ms=0.02),
        cost("maxsim", "float16", fixed_ms=6, per_document_ms=0.03),
        cost("cross", "int8", fixed_ms=1, per_document_ms=1, per_token_ms=0.1),
        cost("fuse", fixed_ms=0.2, per_branch_ms=0.9),
    ),
    this_machine(),
    {"query_tokens": 10.0, "token_cv": 0.4, "shared": 0.2, "query_cv": 0.3},
)


def row(method: str, value: float) -> dict[str, Any]:
    return {"collection": "a", "method": method, "queries": 9, "ndcg@10": value, "ndcg@10_95": [value - 0.02, value + 0.02]}


QUALITY = [
    row("BM25", 0.40),
    row("dense", 0.50),
    row("SPLADE", 0.45),
    row("hybrid", 0.55),
    row("vectors@100", 0.52),
    row("late interaction@100, 2 bits", 0.53),
    row("late interaction@100, float16", 0.54),
    row("cross-encoder@20", 0.56),
    row("cross-encoder@100", 0.62),
    row("cascade@100", 0.61),
    row("hybrid, cross-encoder@50", 0.64),
    row("hybrid, late interaction@100, 2 bits, cross-encoder@20", 0.63),
    row("ColBERTPRF", 0.99),  # nobody builds it here
    row("late interaction@1000, float16", 0.58),
]


def made(p95_ms: float, rows: list[dict[str, Any]] = QUALITY, **options: Any) -> Any:
    return plan(p95_ms=p95_ms, shape=SHAPE, quality=Curves(rows), costs=COSTS, **options)


def test_a_tiny_budget_buys_bm25_alone_and_too_tiny_a_one_nothing() -> None:
    assert made(5).chosen.chain == Chain(("bm25",))
    with pytest.raises(InputError, match=r"the quickest, 'BM25', needs up to 0\.6"):
        made(0.5)
    for bad in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="p95_ms"):
            made(bad)


def test_quality_never_falls_and_the_budget_is_kept_as_budgets_grow() -> None:
    before = 0.0
    for budget in np.geomspace(1, 20_000, 60):
        chosen = made(float(budget)).chosen
        assert chosen.quality.value >= before
        assert chosen.latency.p95 <= chosen.sure_p95 <= budget
        before = chosen.quality.value
    assert before == 0.64


def test_the_best_that_fits_is_chosen_by_exhaustion() -> None:
    for budget in (8.0, 20.0, 100.0, 400.0, 1500.0):
        own = made(budget)
        within = [each for each in own.frontier if each.sure_p95 <= budget]
        assert own.chosen.quality.value == max(each.quality.value for each in within)
        assert own.given_up == tuple(each for each in own.frontier if each.sure_p95 > budget)
        assert all(each.quality.value > own.chosen.quality.value for each in own.given_up)
        values = [(each.sure_p95, each.quality.value) for each in own.frontier]
        assert values == sorted(values)
        assert len({value for _, value in values}) == len(values)


def test_the_time_of_a_chain_is_that_of_its_stages() -> None:
    chain = Chain(("bm25", "dense"), (Rerank("cross", 50, "int8"),))
    parts = parts_of(chain, SHAPE, COSTS)
    assert parts is not None
    told = {part.stage: part.ms for part in parts}
    assert told == pytest.approx({"bm25": 0.45, "dense": 5.4, "fuse": 0.2, "cross": 1 + 50 + 0.1 * 50 * 113})
    latency = latency_of(parts)
    assert latency.p50 == pytest.approx(sum(told.values()))
    assert latency.p50 < latency.p95 < 1.5 * latency.p50
    assert latency.p50_95[0] < latency.p50 < latency.p50_95[1]
    assert latency.p95_95[0] < latency.p95 < latency.p95_95[1]


def test_a_cascade_costs_its_vectors_and_a_share_of_the_cross_encoder() -> None:
    parts = parts_of(Chain(("bm25",), (Rerank("cascade", 100, "int8"),)), SHAPE, COSTS)
    assert parts is not None
    read = round(100 * KEEP)
    assert [(part.stage, part.ms) for part in parts[1:]] == [("vectors", 6.0), ("cross", pytest.approx(1 + read + 0.1 * read * 113))]


def test_p95_adds_noise_as_squares_and_lengths_as_sums() -> None:
    still = Shape(10_000, 100.0, 10.0, 0.0, 0.0, 0.0)
    parts = parts_of(Chain(("bm25",), (Rerank("vectors", 100),)), still, COSTS)
    assert parts is not None
    assert latency_of(parts).p95 == pytest.approx(6.5 + np.hypot(0.2 * 0.5, 0.2 * 6))
    varied = parts_of(Chain(("bm25",), (Rerank("cross", 50, "int8"),)), SHAPE, COSTS)
    assert varied is not None
    cv = 0.4 * np.sqrt(0.2 + 0.8 / 50)
    assert varied[1].length == pytest.approx(0.1 * 50 * 100 * 1.645 * cv)


def test_wider_intervals_leave_more_margin() -> None:
    loose = Costs(tuple(cost(c.stage, c.precision, 1.2, 0.3, **_terms(c)) for c in COSTS.stages), COSTS.machine, COSTS.workload)
    for budget in (10.0, 100.0, 500.0):
        wide = plan(p95_ms=budget, shape=SHAPE, quality=Curves(QUALITY), costs=loose)
        assert wide.chosen.latency.p95 < 0.65 * budget
        assert wide.chosen.quality.value <= made(budget).chosen.quality.value


def _terms(c: StageCost) -> dict[str, float]:
    return {name: getattr(c, name) for name in ("fixed_ms", "per_query_token_ms", "per_document_ms", "per_token_ms", "per_branch_ms")}


def test_what_has_no_quality_or_no_cost_is_not_proposed() -> None:
    names = [each.chain.name for each in made(20_000, QUALITY[:1]).frontier]
    assert names == ["BM25"]
    without = Costs(tuple(c for c in COSTS.stages if c.stage != "cross"), COSTS.machine, COSTS.workload)
    best = plan(p95_ms=20_000, shape=SHAPE, quality=Curves(QUALITY), costs=without).chosen
    assert best.chain.rerankers == (Rerank("maxsim", 1000, "float16"),)
    with pytest.raises(InputError, match="no configuration"):
        plan(p95_ms=10, shape=SHAPE, quality=Curves([row("cascade@100", 0.5)]), costs=without)


def test_a_re_ranker_that_harms_is_left_out() -> None:
    rows = [row("BM25", 0.7), row("cross-encoder@20", 0.6), row("cross-encoder@100", 0.5)]
    assert made(20_000, rows).chosen.chain == Chain(("bm25",))


def test_interpolated_depths_are_proposed_and_marked() -> None:
    own = made(700)
    between = [each for each in own.frontier if not each.quality.measured]
    assert between
    assert all(each.chain not in Curves(QUALITY).chains for each in between)
    assert all(each.to_dict()["measured"] is False for each in between)
    assert all(each.chain.rerankers[-1].depth <= 1000 for each in between)


def test_to_dict_has_the_shape_that_others_read() -> None:
    told = made(100).to_dict()
    assert {"stages", "predicted_p50_ms", "predicted_p95_ms", "expected", "given_up", "predicted"} <= set(told)
    assert set(told["expected"]) >= {"ndcg@10"}
    assert told["predicted"] is False
    assert sum(stage["ms"] for stage in told["stages"]) == pytest.approx(told["predicted_p50_ms"], abs=0.01)
    assert all(row["gain"] > 0 for row in told["given_up"])


def test_what_a_cross_encoder_does_not_read_is_told() -> None:
    long = Shape(10_000, 700.0, 10.0, 0.4, 0.2, 0.3)
    own = plan(p95_ms=5000, shape=long, quality=Curves(QUALITY), costs=COSTS)
    assert own.chosen.chain.rerankers and own.cut_tokens == own.to_dict()["cut_tokens"] == 700 + 10 + 3 - 512
    assert plan(p95_ms=10, shape=long, quality=Curves(QUALITY), costs=COSTS).cut_tokens == 0  # no model reads pairs
    assert made(5000).cut_tokens == 0  # nothing is longer


def test_shapes_by_arguments_and_their_errors() -> None:
    told = plan(p95_ms=50, corpus_size=1e6, tokens=150, quality=Curves(QUALITY), costs=COSTS)
    assert told.shape == Shape(1_000_000, 150, 10.0, 0.4, 0.2, 0.3)
    assert plan(p95_ms=50, corpus_size=1e6, tokens=150, query_tokens=30, quality=Curves(QUALITY), costs=COSTS).shape.query_tokens == 30
    for options in ({}, {"tokens": 150}, {"corpus_size": 10}, {"corpus_size": 0, "tokens": 1}, {"shape": SHAPE, "tokens": 3}):
        with pytest.raises(InputError, match="plan"):
            plan(p95_ms=50, quality=Curves(QUALITY), costs=COSTS, **options)  # type: ignore[arg-type]


def test_a_gpu_is_predicted_and_says_so() -> None:
    told = made(1000, device="h100")
    assert told.predicted
    assert told.to_dict()["predicted"] is True
    here, there = made(1000), told
    cross = next(part for part in parts_of(Chain(("bm25",), (Rerank("cross", 100, "int8"),)), SHAPE, COSTS) or [] if part.stage == "cross")
    on = [part for part in there.frontier[-1].latency.parts if part.stage == "cross"]
    assert on
    assert on[0].ms < cross.ms
    assert here.chosen.quality.value <= there.chosen.quality.value
    with pytest.raises(InputError, match="cpu, or one of"):
        made(1000, device="abacus")


def test_a_slower_card_is_slower() -> None:
    cards = facts()["cards"]
    assert cards["L4"] < cards["H100 SXM"]
    slow, fast = (made(20_000, device=name).chosen.latency.p50 for name in ("L4", "H100"))
    assert slow > fast


def test_late_interaction_probes_where_the_index_would() -> None:
    few, many = late_work(1000, 100, 10), late_work(1_000_000, 100, 10)
    assert few.token == 1000 * 100
    assert many.token == 4000 * 100
    assert many.corpus > few.corpus
    assert work_of("cross", Shape(10, 600.0, 10.0, 0.1, 0, 0), 5).token == 5 * 512  # cut at the model's limit


PASSAGES = ["the cat sat on the mat", "a dog barked at the cat", "rain fell on the roof", "the mat is red"]


def test_a_plan_of_parts_runs() -> None:
    corpus = rr.Corpus.from_texts(PASSAGES)
    parts = Parts(bm25=rr.BM25Index.build(corpus))
    own = plan(parts, p95_ms=100, tokens=6, quality=Curves(QUALITY), costs=COSTS)
    assert own.shape.corpus_size == 4
    assert [each.chain.name for each in own.frontier] == ["BM25"]  # nothing else can be built
    assert own.pipeline()("cat").doc_ids[:2] == ["0", "1"]
    with pytest.raises(InputError, match="parts"):
        made(5).pipeline()
    with pytest.raises(InputError, match="nothing for dense"):
        parts.pipeline(Chain(("bm25", "dense")))
    with pytest.raises(InputError, match="no index"):
        _ = Parts().corpus_size


def test_the_picture_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made(100).plot(tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="path"):
        made(100).plot(tmp_path / "frontier.strange")


def test_work_counts_nothing_twice() -> None:
    assert work_of("vectors", SHAPE, 100) == Work(10, 100, 10_000)
    assert work_of("dense", SHAPE) == Work(10, corpus=0.01)
