"""Where a plan goes: what one machine holds is as it was, what it does not is cut, held and answered in time by the fewest."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import ceil, inf, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rerank_engine as rr
from rerank_engine.cli import main, number
from rerank_engine.errors import InputError
from rerank_engine.latency.workload import lexical, passages
from rerank_engine.planning import Assumed, Costs, Curves, Machine, Placement, Shape, StageCost, place, plan
from rerank_engine.planning.costs import this_machine
from rerank_engine.planning.memory import ROW, bytes_of, memory_of
from rerank_engine.planning.placement import _Passed
from rerank_engine.planning.plan import candidates
from rerank_engine.planning.sizing import on_shards, tiers_of
from rerank_engine.sharding.scatter import Scatter

ROOT = Path(__file__).resolve().parents[2]
MODEL = "ms-marco-MiniLM-L-12-v2"
COSTS = Costs(
    (
        StageCost("bm25", "", "", "cpp", 1, fixed_ms=0.2, per_corpus_ms=0.02, spread=1.3, error=0.02, searched=200_000),
        StageCost("dense", "bge-small-en-v1.5", "", "cpp", 2, fixed_ms=4, per_corpus_ms=60, spread=1.1, error=0.02, searched=50_000),
        StageCost("vectors", "bge-small-en-v1.5", "", "cpp", 2, fixed_ms=5, per_document_ms=0.01, spread=1.1, error=0.02),
        StageCost("cross", MODEL, "int8", "cpp", 2, fixed_ms=1, per_token_ms=0.05, spread=1.1, error=0.02),
    ),
    this_machine(),
    {"query_tokens": 10.0, "token_cv": 0.4, "shared": 0.2, "query_cv": 0.3},
)
QUALITY = [
    {"collection": "a", "method": method, "queries": 9, "ndcg@10": value, "ndcg@10_95": [value - 0.02, value + 0.02]}
    for method, value in (("BM25", 0.4), ("dense", 0.5), ("vectors@100", 0.52), ("cross-encoder@20", 0.6))
]
SHAPE = Shape(300_000_000, 60.0, 10.0, 0.4, 0.2, 0.3)
MACHINE = Machine(64e9, 16, 1.5)
KNOWN = Assumed(shard_size=50_000_000)


@pytest.fixture(autouse=True)
def few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough to tell: a test is no plan."""
    monkeypatch.setattr("rerank_engine.planning.sizing.LEAST", 1_000)
    monkeypatch.setattr("rerank_engine.planning.sizing.TRIES", 10_000)


def placed(shape: Shape = SHAPE, qps: float = 50, p95_ms: float = 250, **options: Any) -> Placement:
    given = {"machine": MACHINE, "assumed": KNOWN, **options}
    return place(shape, qps=qps, p95_ms=p95_ms, costs=COSTS, quality=Curves(QUALITY), **given)


def test_what_one_machine_holds_is_planned_as_before() -> None:
    small = replace(SHAPE, corpus_size=100_000)
    own = placed(small)
    made = plan(p95_ms=250, shape=small, quality=Curves(QUALITY), costs=COSTS)
    assert own.fleet is None and own.shards == 1
    assert own.capacity == made.capacity(50, processes=8)  # two threads each, of 16 processors
    assert own.plan.chosen == made.chosen
    assert own.machines == own.capacity.machines
    assert own.cost_hour == pytest.approx(1.5 * own.machines)
    assert not own.extrapolated


def test_what_it_does_not_is_cut_and_kept_to_the_budget() -> None:
    own = placed()
    fleet = own.fleet
    assert fleet is not None and own.capacity is None
    assert own.shards == 6 and own.plan.shape.corpus_size == 50_000_000  # 50 million each at most
    assert own.plan.chosen.chain.name == "BM25, cross-encoder@20"
    shard = sum(own.memory.values()) / own.shards
    assert fleet.held * shard <= 0.8 * MACHINE.memory
    assert fleet.shard_machines == ceil(own.shards / fleet.held) * fleet.shard_replicas
    assert fleet.shard_replicas >= 2 and fleet.reranker_machines >= 2
    assert fleet.rerankers == fleet.reranker_machines * 8  # two threads each, of 16 processors
    assert fleet.gone is not None and fleet.front_machines == 0
    for side in (fleet.response, fleet.upper, fleet.gone):
        assert side["p50_ms"] < side["p95_ms"] < side["p99_ms"]
        assert side["partial"] <= 0.001
    assert fleet.response["p95_ms"] < fleet.upper["p95_ms"] < 250 and fleet.gone["p95_ms"] <= 250.05  # to the rounding
    assert own.to_dict()["cost_hour"] == pytest.approx(1.5 * own.machines)
    assert own.to_dict()["cost_million_queries"] == pytest.approx(1.5 * own.machines / (50 * 3600) * 1e6, rel=1e-3)
    assert own.extrapolated == ("bm25: calibrated on at most 200,000 documents",)


def test_the_pipeline_is_that_of_a_shard_not_of_the_whole() -> None:
    with pytest.raises(InputError, match="needs up to"):
        plan(p95_ms=100, shape=replace(SHAPE, corpus_size=10**14), quality=Curves(QUALITY), costs=COSTS)
    whole = Shape(1_000_000, 60.0, 10.0, 0.4, 0.2, 0.3)
    by_dense = [row for row in QUALITY if row["method"] == "dense"]
    own = place(whole, qps=5, p95_ms=60, costs=COSTS, quality=Curves(by_dense), machine=MACHINE, assumed=KNOWN)
    assert own.shards > 1  # a million vectors take 60 ms here
    assert own.plan.chosen.chain.name == "dense"
    assert own.plan.chosen.sure_p95 <= 60
    assert own.fleet is not None and own.fleet.front_machines >= 2  # that encode


def test_more_processors_are_fewer_machines_where_one_holds_all() -> None:
    small = replace(SHAPE, corpus_size=100_000)
    few, many = (placed(small, qps=400, machine=replace(MACHINE, processors=n)) for n in (2, 16))
    assert few.machines > 3 * many.machines


def test_over_shards_is_placed_what_the_engine_does_there() -> None:
    names = {"BM25": True, "hybrid": True, "late interaction, cross-encoder@5": True, "hybrid, cross-encoder@5": True, "SPLADE": False}
    names |= {"BM25, vectors@10": False, "BM25, cascade@10": False, "hybrid of four": False, "dense, late interaction@9": False}
    for name, able in names.items():
        chain = rr.planning.quality.parse(name)
        assert chain is not None and on_shards(chain) is able, name
    lesser = [row for row in QUALITY if "cross" not in row["method"]]
    own = place(SHAPE, qps=50, p95_ms=250, costs=COSTS, quality=Curves(lesser), machine=MACHINE, assumed=KNOWN)
    assert own.plan.chosen.chain.name == "BM25"  # not vectors@100, which is better


def test_the_query_is_encoded_once_in_front() -> None:
    cost = COSTS.find("dense")
    assert cost is not None
    by_dense = Curves([row for row in QUALITY if row["method"] == "dense"])
    made = plan(p95_ms=9e9, shape=replace(SHAPE, corpus_size=10**6), quality=by_dense, costs=COSTS)
    tiers = tiers_of(made.chosen, COSTS)
    assert sum(part.ms for part in tiers["front"]) == pytest.approx(4)
    assert sum(part.ms for part in tiers["shards"]) == pytest.approx(60)


def test_without_redundancy_nothing_is_gone() -> None:
    own = placed(assumed=replace(KNOWN, redundancy=1))
    assert own.fleet is not None and own.fleet.gone is None
    assert "response_one_gone" not in own.to_dict() and "response_one_gone" in placed().to_dict()


def test_more_than_a_shard_is_a_fleet_though_one_machine_holds_it() -> None:
    own = placed(replace(SHAPE, corpus_size=2_000_000), assumed=replace(KNOWN, shard_size=1_000_000))
    assert own.fleet is not None and own.shards == 2
    assert sum(own.memory.values()) < 0.8 * MACHINE.memory


def test_costs_that_do_not_say_how_much_was_searched() -> None:
    silent = replace(COSTS, stages=tuple(replace(cost, searched=0) for cost in COSTS.stages))
    own = place(SHAPE, qps=50, p95_ms=250, costs=silent, quality=Curves(QUALITY), machine=MACHINE, assumed=KNOWN)
    assert own.extrapolated == ("bm25: calibrated on a number of documents that its costs do not say",)


def test_the_search_ends_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = replace(COSTS, stages=(replace(COSTS.stages[0], fixed_ms=200.0, spread=1.0), *COSTS.stages[1:]))
    by_bm25 = Curves([row for row in QUALITY if row["method"] == "BM25"])
    with pytest.raises(InputError, match=r"300,000,000 documents, in up to [\d,]+ shards: 'BM25': .*more shards did not help"):
        place(SHAPE, qps=5, p95_ms=260, costs=slow, quality=by_bm25, machine=MACHINE, assumed=KNOWN)
    monkeypatch.setattr("rerank_engine.planning.sizing.ALL_TRIES", 100)
    with pytest.raises(InputError, match="100 simulated answers"):
        placed()


def test_more_is_asked_more_machines_answer() -> None:
    few, many = placed(qps=20), placed(qps=400)
    assert many.machines > few.machines
    spare = placed(assumed=replace(KNOWN, redundancy=3))
    assert spare.fleet is not None and spare.fleet.shard_replicas >= 3 and spare.fleet.reranker_machines >= 3
    tight = placed(machine=replace(MACHINE, memory=25e9))
    assert tight.fleet is not None and tight.fleet.held <= 1
    assert tight.fleet.shard_machines >= tight.shards * 2
    assert placed().to_dict() == placed().to_dict()


def test_memory_and_time_ask_for_more_shards() -> None:
    own = placed(machine=replace(MACHINE, memory=8e9))
    assert own.shards > 6  # 50 million passages do not fit
    assert sum(own.memory.values()) / own.shards <= 0.8 * 8e9


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"qps": 0}, "qps"), ({"qps": float("nan")}, "qps"), ({"p95_ms": 0.1}, "300,000,000 documents.*needs up to"),
        ({"machine": Machine(1e4, 16)}, "a machine has"),
        ({"device": "H100"}, "device"),
    ],
)  # fmt: skip
def test_what_cannot_be_placed_is_refused(bad: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        placed(**bad)


def test_fewer_processors_than_threads_are_named() -> None:
    rows = Curves([row for row in QUALITY if row["method"] == "dense"])
    for documents in (1_000, 2_000_000):
        with pytest.raises(InputError, match="calibrated on 2 threads, a machine has 1 processors"):
            place(
                replace(SHAPE, corpus_size=documents), qps=5, p95_ms=200, costs=COSTS, quality=rows, machine=Machine(64e9, 1), assumed=KNOWN
            )


def test_assumptions_are_numbers_that_can_be() -> None:
    none = {"shard_size": 0}, {"redundancy": 0}, {"filled": 2}, {"failures": (0, 1)}, {"partial": -1}, {"failures": (inf, 1)}
    for bad in (*none, {"hedge": (-0.1, 0.5)}):
        with pytest.raises(InputError, match="placement"):
            Assumed(**bad)  # type: ignore[arg-type]
    for field, pair, said in (
        (
            "straggling",
            (2.0, 5),
            r"straggling \(--stragglers\), its first number, the share of tries: got 2.0; expected a share from 0 to 1",
        ),
        (
            "straggling",
            (0.1, 0.5),
            r"--stragglers\), its second number, how many .* they take: got 0.5; expected a finite number of at least 1",
        ),
        (
            "hedge",
            (0.9, 1.5),
            r"hedge \(--hedge\), its second number, the share of second tries at most: got 1.5; expected a share from 0 to 1",
        ),
        ("hedge", (nan, 0.1), r"--hedge\), its first number, the quantile of the last answers: got nan; expected a share"),
        ("failures", (0, 10), r"failures \(--failures\), its first number, hours .*: got 0; expected a finite number above 0"),
        ("failures", (720, -1.0), r"its second number, minutes of repair: got -1.0; expected a finite number above 0"),
        ("failures", (720,), r"--failures\): got \(720,\); expected hours between two of a machine and minutes of repair"),
        ("hedge", 0.9, r"--hedge\): got 0.9; expected the quantile"),
    ):
        with pytest.raises(InputError, match=f"^placement: .*{said}"):
            Assumed(**{field: pair})  # type: ignore[arg-type]
    for memory, processors, price in ((0, 1, None), (nan, 1, None), (inf, 1, None), (1e9, 0, None), (1e9, 1, nan), (1e9, 1, -1)):
        with pytest.raises(InputError, match="machine"):
            Machine(memory, processors, price)


def test_second_tries_are_those_of_the_engine() -> None:
    scatter = Scatter([["a replica"]])  # type: ignore[list-item]
    assert Assumed().hedge == (scatter.hedge, scatter.extra)


def test_bytes_are_those_of_real_indexes(tmp_path: Path) -> None:
    index = lexical(20_000, 60).index()
    index.save(tmp_path / "bm25")
    postings = rr.BM25Index.check(tmp_path / "bm25")["postings"] / 20_000
    measured = json.loads((ROOT / "benchmarks" / "results" / "epyc-2core" / "bm25.json").read_text())
    [each] = [row["bytes_per_posting"][0] for row in measured if row.get("of_ours") == "with impact codes" and row["peer"] == "tantivy"]
    assert bytes_of("bm25", 60) - ROW == pytest.approx(each * postings, rel=0.1)
    texts = passages(200, 60)
    assert bytes_of("texts", 60) == pytest.approx(sum(len(text.encode()) for text in texts) / 200, rel=0.25)
    for storage, stage in (("2bit", "maxsim"), ("float16", "maxsim")):
        assert bytes_of(stage, 60, storage) == 60 * (384 / 4 + 6 if storage == "2bit" else 768)
    assert bytes_of("dense", 60) == bytes_of("vectors", 60) == 4 * 384
    assert bytes_of("cross", 60) == bytes_of("fuse", 60) == 0


def test_an_index_that_two_stages_read_is_held_once() -> None:
    own = placed(Shape(1_000, 60.0, 10.0, 0.4, 0.2, 0.3))
    chosen = replace(own.plan.chosen, chain=rr.planning.Chain(("dense",), (rr.planning.quality.Rerank("vectors", 100),)))
    assert set(memory_of(chosen, SHAPE)) == {"texts", "vectors"}
    both = replace(chosen, chain=rr.planning.Chain(("late",), (rr.planning.quality.Rerank("maxsim", 100, "2bit"),)))
    assert set(memory_of(both, SHAPE)) == {"texts", "late"}


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., int]:
    COSTS.save(tmp_path / "costs.json")
    (tmp_path / "quality.json").write_text(json.dumps(QUALITY))

    def run(*more: str) -> int:
        files = ("--costs", str(tmp_path / "costs.json"), "--quality", str(tmp_path / "quality.json"))
        return main(["plan", "--p95", "250", "--tokens", "60", *files, *more])

    return run


@pytest.mark.parametrize(("option", "text"), [("--machine-memory", "256GB"), ("--corpus-size", "1,5"), ("--corpus-size", "1e6 documents")])
def test_numbers_that_are_none_are_told_by_one_that_is(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], option: str, text: str
) -> None:
    with pytest.raises(SystemExit):
        command("--corpus-size", "3e8", option, text)
    assert f"argument {option}: invalid float value: '{text}'; expected a number such as 1e6 or 256e9" in capsys.readouterr().err


def test_thousands_may_be_parted(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for documents in ("1e5", "100_000", "100,000"):
        assert command("--corpus-size", documents, "--json") == 0
        told.append(json.loads(capsys.readouterr().out)["name"])
    assert len(set(told)) == 1
    assert [number(text) for text in ("1,234,567.5", "-1,000", "1_000_000", "256e9")] == [1234567.5, -1000, 1e6, 256e9]


def test_the_command_prints_the_fleet_and_what_it_assumed(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--corpus-size", "3e8", "--qps", "50", "--machine-memory", "64e9", "--machine-processors", "16", "--machine-price", "1.5")
    assert command(*options, "--shard-size", "5e7") == 0
    text = capsys.readouterr().out
    for words in ("predicted, not measured", "6, each of 50,000,000 documents", "one of each kind gone", "beyond what was calibrated",
                  "one of 6 shards", "a million queries", "assumed:", "stragglers", "fails every 720 hours"):  # fmt: skip
        assert words in text
    options += (
        "--shard-size",
        "5e7",
        "--json",
        "--batch-tokens",
        "5000",
        "--stragglers",
        "0",
        "1",
        "--failures",
        "100",
        "5",
        "--hedge",
        "0.9",
        "0.02",
    )
    assert command(*options) == 0
    printed = capsys.readouterr()
    assert "not used, as the corpus is in shards: --batch-tokens" in printed.err
    told = json.loads(printed.out)
    assert told["placement"]["shards"] == 6 and told["placement"]["predicted"] and "capacity" not in told
    assert told["name"] == told["placement"]["name"]
    assert any("100 hours" in line for line in told["placement"]["assumptions"])


def test_the_command_says_of_a_small_corpus_what_it_said(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--corpus-size", "1e5", "--qps", "20", "--machine-memory", "64e9", "--batch-tokens", "5000") == 0
    text = capsys.readouterr().out
    assert "machine" in text and "for 20 queries a second" in text and "5,000 tokens of models" in text and "the fleet" not in text
    assert command("--corpus-size", "1e5", "--qps", "20", "--machine-memory", "64e9", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["capacity"]["machines"] == told["placement"]["machines"] and told["placement"]["shards"] == 1
    assert command("--corpus-size", "1e5", "--qps", "20", "--machine-memory", "64e9", "--redundancy", "3", "--hop-ms", "1") == 0
    assert "not used, as one machine holds all: --redundancy, --hop-ms" in capsys.readouterr().err
    for option, bad in (("--machine-memory", "0"), ("--machine-processors", "0"), ("--shard-size", "nan"), ("--machine-price", "nan")):
        assert command("--corpus-size", "1e5", "--qps", "20", option, bad) != 0
        assert "got" in capsys.readouterr().err
    assert command("--corpus-size", "1e5", "--machine-price", "2") != 0
    assert "--qps with it" in capsys.readouterr().err


def test_a_picture_that_cannot_be_is_said_before_the_search(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("rerank_engine.planning.placement.Sizing", None)  # the search would fail
    for path in ("frontier.strange", "no/folder/frontier.png"):
        assert command("--corpus-size", "3e8", "--qps", "50", "--plot", str(tmp_path / path)) == 2
        assert path in capsys.readouterr().err


def test_the_search_tells_how_far_it_is() -> None:
    told = list[tuple[int, int]]()
    placed(progress=lambda done, total: told.append((done, total)))
    assert len(told) > 2 and told == sorted(told) and {total for _, total in told} == {0}


BETTER = Curves([{**row, "ndcg@10": 0.62} if row["method"] == "dense" else row for row in QUALITY if row["method"] != "vectors@100"])


def test_what_a_machine_does_not_hold_hides_nothing_that_it_does() -> None:
    """Dense retrieval is better and quicker than a cross-encoder here, which therefore is on no frontier with it."""
    small = Shape(1_000_000, 60.0, 10.0, 0.4, 0.2, 0.3)
    given: dict[str, Any] = {"qps": 5, "p95_ms": 250, "costs": COSTS, "quality": BETTER, "assumed": KNOWN}
    assert place(small, machine=MACHINE, **given).plan.chosen.chain.name == "dense"
    own = place(small, machine=replace(MACHINE, memory=1e9), **given)
    assert own.fleet is None and own.plan.chosen.chain.name == "BM25, cross-encoder@20"
    assert own.passed_over == ("0.6200: 'dense' of 1,000,000 documents takes 1.81 GB, a machine has 0.8",)
    assert "dense" not in [each.chain.name for each in own.plan.frontier]


def test_shards_that_are_late_hide_nothing_that_is_not() -> None:
    shape = Shape(20_000_000, 60.0, 10.0, 0.4, 0.2, 0.3)
    own = place(shape, qps=5, p95_ms=250, costs=COSTS, quality=BETTER, machine=MACHINE, assumed=replace(KNOWN, shard_size=2_000_000))
    assert own.shards == 10 and own.plan.chosen.chain.name == "BM25, cross-encoder@20" and own.fleet is not None
    assert own.passed_over[0].startswith("0.6200: 'dense': ") and "half of the budget" in own.passed_over[0]
    assert own.to_dict()["passed_over"] == list(own.passed_over)
    assert placed().passed_over == ()


def test_shards_that_are_late_by_one_interval_are_not_by_a_narrower_one() -> None:
    """What is uncertain of the cross-encoder widens the times of shards, too."""
    costs = replace(COSTS, stages=(COSTS.stages[0], replace(COSTS.stages[3], error=0.45)))
    shape = replace(SHAPE, corpus_size=100_000)
    found = candidates(Curves(QUALITY), costs, shape)
    found.sort(key=lambda each: each.sure_p95 / each.latency.p95)
    passed = _Passed(shape, costs, MACHINE, KNOWN)
    assert len(found) > 3 and all(map(passed.able, found))
    late = len(found) // 2
    passed.failed(SimpleNamespace(candidate=found[late], why="late", late=True))  # type: ignore[arg-type]
    assert [passed.able(each) for each in found] == [True] * late + [False] * (len(found) - late)
    assert [passed.why[each.chain][1] for each in found[late:]] == [
        "late",
        *(f"'{each.chain.name}': as late" for each in found[late + 1 :]),
    ]
    slow = found[0]
    passed.failed(SimpleNamespace(candidate=slow, why="slow", late=False))  # type: ignore[arg-type]
    assert [passed.able(each) for each in found[:late]] == [False] + [True] * (late - 1)
    assert passed.better(found[1], inf)[-1].endswith(": slow") or slow.quality.value <= found[1].quality.value


def test_too_little_of_everything_is_told_by_time() -> None:
    for documents in (1_500, 1_000_000):
        with pytest.raises(InputError, match="the quickest, 'BM25', needs up to"):
            place(replace(SHAPE, corpus_size=documents), qps=5, p95_ms=0.01, costs=COSTS, quality=Curves(QUALITY), machine=Machine(1e3, 16))
