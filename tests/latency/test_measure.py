"""Rows of the latency table: by ways and a clock of the test's own, and by the real ones over small data."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ticks import Ticks

from rerank_engine import cli
from rerank_engine.cpus import available_cpus
from rerank_engine.errors import InputError, MissingDependency, UnsupportedModelError
from rerank_engine.indexes.vector_faiss import has_faiss
from rerank_engine.latency import ROWS, LatencyRow, listwise, measure, prepare, results
from rerank_engine.latency.prepare import Effort, NotMeasured, Prepared, Shared, Ways
from rerank_engine.runtimes.files import resolve

BM25, ANN, CROSS, SLOWEST, LATE, LLM = ROWS
SMALL = Effort(corpus=2000, queries=3, rounds=2, least=0.01, seconds=0.01, total=600, centroids=16, variants=True)


def way(ticks: Ticks, ms: Sequence[float], **options: Any) -> Prepared:
    """Queries that take these ms; half of it is the part "search"."""
    return Prepared(
        name="a way",
        queries=[f"question {i}" for i in range(len(ms))],
        run=lambda i: ticks.spend(ms[i], 2 * ms[i]),  # type: ignore[arg-type, return-value]
        parts={"search": lambda i: ticks.spend(ms[i] / 2, ms[i])},
        told={"documents": 7, "tokens": 150, "backend": "cpp", "device": "cpu", "model": "m", "settings": {}},
        **options,
    )


def ways_of(make: Callable[[LatencyRow], Iterator[Prepared]]) -> Ways:
    return {row.name: lambda row, shared: make(row) for row in ROWS}


def test_a_row_has_its_numbers_parts_and_verdict() -> None:
    ticks = Ticks()
    found = measure.bench([CROSS], quick=True, clock=ticks.clock, ways=ways_of(lambda row: iter([way(ticks, [80.0, 60.0, 160.0])])))
    results.check(found)
    row = found["rows"][0]
    assert (row["row"], row["verdict"], row["p50_ms"], row["cpu_ms"], row["documents"]) == ("cross-encoder@100", "better", 80, 160, 7)
    assert row["parts"]["search"]["p50_ms"] == row["parts"]["the rest"]["p50_ms"] == 40
    assert row["queries"] == 3
    assert row["rounds"] == int(measure.QUICK.least / 0.24)
    assert row["calls"] == 3 * row["rounds"]
    assert row["spread_ms"] == [80, 80]
    assert "variants" not in row
    assert found["quick"] is True
    assert row["threads"] == found["threads"] == available_cpus()


def test_further_ways_are_variants() -> None:
    ticks = Ticks()
    ways = ways_of(lambda row: iter([way(ticks, [20.0], threads=1), way(ticks, [30.0])]))
    row = measure.bench([BM25], quick=True, clock=ticks.clock, ways=ways)["rows"][0]
    assert (row["verdict"], row["threads"]) == ("worse", 1)
    assert [variant["p50_ms"] for variant in row["variants"]] == [30.0]


@pytest.mark.parametrize("error", [NotMeasured("no memory"), MissingDependency("no model")])
def test_what_cannot_be_measured_says_why_and_stops_no_other_row(error: Exception) -> None:
    ticks = Ticks()

    def make(row: LatencyRow) -> Iterator[Prepared]:
        if row is ANN:
            raise error
        yield way(ticks, [5.0])

    found = measure.bench(quick=True, clock=ticks.clock, ways=ways_of(make))
    results.check(found)
    assert [row["row"] for row in found["rows"]] == [row.name for row in ROWS]
    assert [row["verdict"] for row in found["rows"]] == ["in range", "not measured", "better", "better", "better", "better"]
    assert found["rows"][1]["why"] == str(error)


@pytest.mark.parametrize(
    "error", [MemoryError("9 GB"), RuntimeError("network"), OSError("disk"), UnsupportedModelError("model", got="a", expected="b")]
)
def test_whatever_fails_has_its_name_and_takes_neither_other_rows_nor_ways_with_it(error: Exception) -> None:
    ticks = Ticks()

    def make(row: LatencyRow) -> Iterator[Prepared]:
        if row is ANN:
            yield way(ticks, [20.0])
        if row in (ANN, CROSS):
            raise error
        yield way(ticks, [5.0])

    found = measure.bench(quick=True, clock=ticks.clock, ways=ways_of(make))
    results.check(found)
    assert [row["verdict"] for row in found["rows"]] == ["in range", "in range", "not measured", "better", "better", "better"]
    assert all(found["rows"][i]["why"].startswith(type(error).__name__) for i in (1, 2))


def test_slow_rows_get_fewer_calls_and_never_more_time_than_is_left() -> None:
    ticks, seconds = Ticks(), measure.QUICK.seconds
    some = way(ticks, [1e3 * seconds / 4] * 50)
    row = measure.bench([CROSS], quick=True, clock=ticks.clock, ways=ways_of(lambda row: iter([some])))["rows"][0]
    assert (row["queries"], row["rounds"]) == (1, 4)
    few = way(ticks, [1e3 * seconds * 2])
    row = measure.bench([CROSS], quick=True, clock=ticks.clock, ways=ways_of(lambda row: iter([few])))["rows"][0]
    assert row["calls"] == 2
    none = way(ticks, [1.0], warm_up=lambda: ticks.spend(2000), warm_up_share=100.0)
    row = measure.bench([CROSS], quick=True, clock=ticks.clock, ways=ways_of(lambda row: iter([none])))["rows"][0]
    assert "about 200 s" in row["why"]


def test_the_slowest_row_is_measured_last() -> None:
    ticks, order = Ticks(), list[str]()

    def make(row: LatencyRow) -> Iterator[Prepared]:
        order.append(row.name)
        yield way(ticks, [1.0])

    measure.bench(quick=True, clock=ticks.clock, ways=ways_of(make))
    assert order[-1] == SLOWEST.name
    assert sorted(order) == sorted(row.name for row in ROWS)


def test_a_slowed_kernel_is_flagged_and_an_equal_one_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The hook: a kernel of the test's own, whose calls vary by 4 %, three times as slow in one round, and then half as long again."""

    def run(slower: float, seed: int) -> Path:
        ticks, rng, calls = Ticks(), np.random.default_rng(seed), iter(range(10**9))

        def kernel(i: int) -> None:
            disturbed = 3 if 30 <= next(calls) % 150 < 60 else 1  # a round of five
            ms = slower * (1 + i % 3) * rng.uniform(0.98, 1.02) * disturbed
            ticks.spend(ms, ms)

        def make(row: LatencyRow) -> Iterator[Prepared]:
            yield replace(way(ticks, [1.0] * 30), run=kernel, parts={"kernel": kernel})  # type: ignore[arg-type]

        results.save(path := tmp_path / f"{seed}.json", measure.bench([LATE], quick=True, clock=ticks.clock, ways=ways_of(make)))
        return path

    def compare(*paths: Path) -> list[dict[str, Any]]:
        assert cli.main(["bench", "--compare", *map(str, paths), "--json"]) == 0
        return list(json.loads(capsys.readouterr().out)["moved"])

    before = run(1.0, 0)
    assert max(results.load(before)["rows"][0]["spread_ms"]) < 2.2
    assert compare(before, run(1.0, 1)) == []
    found = compare(before, run(1.5, 2))
    assert {(m["what"], m["metric"], m["change"]) for m in found} == {
        (what, metric, "slower") for what in ("a way", "a way: kernel") for metric in ("p50_ms", "cpu_ms")
    }
    assert all(m["ratio"] == pytest.approx(1.5, rel=0.05) for m in found)


def test_rows_are_taken_by_name_in_the_tables_order() -> None:
    assert measure.rows_named(None) == list(ROWS)
    assert measure.rows_named(["llm-listwise@20", "bm25"]) == [BM25, LLM]
    with pytest.raises(InputError, match="bm26"):
        measure.rows_named(["bm26"])


# With the real indexes and models, over little


@pytest.fixture
def shared() -> Shared:
    return Shared(SMALL, measure.no_bars, Ticks().clock)


@pytest.fixture
def models() -> None:
    try:
        resolve(prepare.LATE)
    except MissingDependency as error:
        pytest.skip(str(error))


def test_bm25_ranks_texts_and_its_parts_are_the_same_work(shared: Shared) -> None:
    first, second = prepare.bm25(BM25, shared)
    assert len(first.run(0)) == 100 < len(second.run(0)) <= 1000
    rows, scores = first.parts["search"](0)[0]  # type: ignore[index]
    ranking = first.run(0)
    np.testing.assert_array_equal(rows, ranking.ids)
    np.testing.assert_array_equal(scores, ranking.scores)
    assert first.told["documents"] == 2000
    assert first.threads == 1


@pytest.mark.usefixtures("models")
def test_dense_retrieval_states_its_recall(shared: Shared) -> None:
    ways = list(prepare.dense(ANN, shared))
    told = {one.told["settings"]["index"]: one.told["settings"]["recall"] for one in ways}
    assert list(told) == (["ivf", "sq8", "exact"] if has_faiss() else ["exact"])
    assert told["exact"] == 1
    assert min(told.values()) > 0.7
    for one in ways:
        assert len(one.run(0)) == 100
        np.testing.assert_allclose(one.parts["search"](0)[0][1], one.run(0).scores, rtol=1e-6)  # type: ignore[index]


@pytest.mark.usefixtures("models")
def test_a_cross_encoder_gets_other_candidates_for_each_query(shared: Shared) -> None:
    (made,) = prepare.cross_encoder(replace(CROSS, documents=3), shared)
    first, second = (made.run(i) for i in (0, 1))
    assert set(first.ids.tolist()) == {0, 1, 2}
    assert set(second.ids.tolist()) == {3, 4, 5}
    assert made.told["settings"]["tokens_a_pair"] > 100
    assert shared.reranker._pairs.cached_bytes == 0  # type: ignore[union-attr]
    assert made.warm_up is not None
    assert len(made.warm_up()) == 3  # type: ignore[arg-type]


@pytest.mark.usefixtures("models")
def test_late_interaction_scores_codes_and_whole_vectors_alike(shared: Shared) -> None:
    codes, whole = prepare.late(replace(LATE, documents=12), shared)
    assert [one.told["settings"]["storage"] for one in (codes, whole)] == ["2bit", "float16"]
    assert [one.told["settings"]["stored_documents"] for one in (codes, whole)] == [12 * prepare.COPIES, 12]
    tops = [one.run(0) for one in (codes, whole)]
    assert all(len(set(top.ids.tolist())) == 10 for top in tops)
    exact = dict(zip(tops[1].ids.tolist(), tops[1].scores.tolist()))
    pairs = [(score, exact[i % 12]) for i, score in zip(tops[0].ids.tolist(), tops[0].scores.tolist()) if i % 12 in exact]
    np.testing.assert_allclose(*zip(*pairs), rtol=0.05)
    assert np.max(codes.parts["MaxSim"](0)) == pytest.approx(tops[0].scores[0], rel=1e-5)  # type: ignore[call-overload]


def test_work_before_the_timing_stops_when_it_would_outlast_the_run() -> None:
    ticks = Ticks()
    shared = Shared(replace(SMALL, total=10), measure.no_bars, ticks.clock)
    with shared.making("passages") as progress:  # 100 take 9 s
        for done in (5, 10, 50, 100):
            ticks.spend(9e3 * done / 100 - 1e3 * ticks.wall_s)
            progress(done, 100)
    with (
        pytest.raises(NotMeasured, match="100 passages take about 9 s here, and this run has 1 s left"),
        shared.making("passages") as progress,
    ):
        ticks.spend(450)
        progress(5, 100)
        ticks.spend(450)
        progress(10, 100)


def test_too_many_documents_for_the_memory_are_not_tried(shared: Shared) -> None:
    big = replace(shared.effort, corpus=10**12)
    with pytest.raises(NotMeasured, match="GB"):
        next(prepare.bm25(BM25, Shared(big, measure.no_bars, Ticks().clock)))


def test_listwise_is_measured_behind_a_stand_in_and_by_a_tiny_model(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each is, is said; the stand-in's stated time is in the time of a call."""
    pytest.importorskip("httpx", reason="httpx is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.setattr(listwise, "SECONDS", 0.05)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for prepared in listwise.listwise(LLM, shared):
            ranking = prepared.run(0)
            found.append((prepared.told["model"], ranking.trace[0].facts))
            assert sorted(ranking.ids.tolist()) == list(range(20)) and prepared.told["settings"]["prompts"] == 1
            for part in prepared.parts.values():
                part(0)
    (stand_in, first), (tiny, second) = found
    assert stand_in == "a stand-in that answers after 0.05 s" and first["ok"] == 1
    assert tiny.startswith("random weights") and second["calls"] == 1 and second["completion_tokens"] > 0
