"""What moved beyond noise, and what cannot be compared."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rerank_engine.latency.moved import compare

NUMBERS = {"p50_ms": 1.0, "cpu_ms": 0.9, "spread_ms": [0.9, 1.1], "cpu_spread_ms": [0.85, 0.95]}
WAY = {"way": "bm25", **NUMBERS, "parts": {"search": dict(NUMBERS), "the rest": {"p50_ms": 0.1}}, "documents": 1000, "threads": 1}
MICRO = {"bench": "mmr", "case": "1000x384", "peer": "langchain", "metric": "cpu_ms", "ratio": 4.0, "spread": [3.8, 4.2], "verified": True}
ABSENT = {"bench": "mmr", "case": "1000x384", "peer": "other", "metric": "cpu_ms", "ratio": None, "spread": None, "verified": False}
FOUND: dict[str, Any] = {
    "facts": {"date": "2026-11-27", "machine": {"processor": "AMD EPYC", "threads": 2}},
    **{"load_before": 0.5, "threads": 2},
    "rows": [
        {"row": "bm25", "verdict": "in range", **WAY, "variants": [{**WAY, "way": "bm25, k = 1000"}]},
        {"row": "llm-listwise@20", "verdict": "not measured", "why": "no model"},
    ],
    "micro": [MICRO, ABSENT],
}


def scaled(way: dict[str, Any], by: float, keys: tuple[str, ...] = ("p50_ms", "spread_ms")) -> None:
    for key in keys:
        way[key] = [x * by for x in way[key]] if isinstance(way[key], list) else way[key] * by


def test_nothing_moved_between_equal_results() -> None:
    assert compare(FOUND, FOUND) == {"moved": [], "compared": 2 * 4 + 1, "unlike": []}


@pytest.mark.parametrize(("by", "change"), [(1.3, None), (1.4, "slower"), (1 / 1.3, None), (1 / 1.4, "faster")])
def test_a_number_moves_when_the_spreads_are_a_tenth_apart(by: float, change: str | None) -> None:
    """The spreads reach from 0.9 to 1.1, a factor of 1.22, and the tenth makes it 1.34."""
    other = json.loads(json.dumps(FOUND))
    scaled(other["rows"][0]["variants"][0]["parts"]["search"], by)
    found = compare(FOUND, other)["moved"]
    assert [(m["what"], m["metric"], m["change"]) for m in found] == ([("bm25, k = 1000: search", "p50_ms", change)] if change else [])


def test_a_ratio_that_falls_is_slower() -> None:
    other = json.loads(json.dumps(FOUND))
    scaled(other["micro"][0], 0.5, ("ratio", "spread"))
    (found,) = compare(FOUND, other)["moved"]
    assert (found["what"], found["change"], found["ratio"]) == ("mmr 1000x384 against langchain", "slower", 0.5)
    (found,) = compare(other, FOUND)["moved"]
    assert found["change"] == "faster"


def test_what_is_unlike_is_said_and_not_compared() -> None:
    other = json.loads(json.dumps(FOUND))
    other["rows"][0]["documents"] = 5
    scaled(other["rows"][0], 10)
    other["rows"][0]["variants"][0]["way"] = "bm25, k = 7"
    other["facts"]["machine"]["processor"] = "Xeon"
    found = compare(FOUND, other)
    assert (found["moved"], found["compared"]) == ([], 1)
    assert [line.split(":")[0] for line in found["unlike"]] == ["the machines differ", *["not compared"] * 3]
    assert "documents 1000 and 5" in found["unlike"][-1]


@pytest.mark.parametrize(
    ("settings", "differing"),
    [
        ({"k": 100, "recall": 0.955}, None),
        ({"k": 100, "recall": 0.93}, "recall 0.95 and 0.93"),
        ({"k": 100}, "recall 0.95 and None"),
        ({"k": 10, "recall": 0.95}, "k 100 and 10"),
        ({"k": 100, "recall": 0.95, "nprobe": 4}, "nprobe None and 4"),
    ],
)
def test_other_settings_are_not_compared(settings: dict[str, Any], differing: str | None) -> None:
    one, other = (json.loads(json.dumps(FOUND)) for _ in range(2))
    one["rows"][0]["settings"], other["rows"][0]["settings"] = {"k": 100, "recall": 0.95}, settings
    found = compare(one, other)
    assert found["unlike"] == ([f"not compared: bm25 ({differing})"] if differing else [])
    assert found["compared"] == (5 if differing else 9)


def test_micro_rows_that_vanish_fail_or_are_of_another_version_are_said() -> None:
    one, other = (json.loads(json.dumps(FOUND)) for _ in range(2))
    one["micro"] = [{**MICRO, "peer": peer, "version": "1"} for peer in ("a", "b", "c", "d")]
    other["micro"] = [{**MICRO, "peer": "a", "version": "2"}, {**ABSENT, "peer": "b"}, {**MICRO, "peer": "d", "version": "1"}]
    found = compare(one, other)
    assert found["compared"] == 2 * 4 + 1
    assert found["unlike"] == [
        "not compared: mmr 1000x384 against a (version 1 and 2)",
        "not compared: mmr 1000x384 against b was measured in one of them alone",
        "not compared: mmr 1000x384 against c is in one of them alone",
    ]
    assert compare(one, {**other, "micro": []})["unlike"] == ["not compared: micro rows, which are in one of them alone"]


def test_one_round_alone_is_said() -> None:
    other = json.loads(json.dumps(FOUND))
    other["rows"][0]["rounds"] = 1
    assert compare(FOUND, other)["unlike"] == ["one round alone, so how far it moves by itself is not known: bm25"]


def test_a_busy_machine_is_said() -> None:
    (line,) = compare(FOUND, {**FOUND, "load_before": 3.5})["unlike"]
    assert "a load of 3.5" in line


@pytest.mark.parametrize(("paces", "changed"), [(([3.0, 3.1], [3.0, 3.2]), True), (([3.0, 3.0], [4.5, 3.0]), False), (([], []), True)])
def test_what_the_machine_itself_moved_by_is_not_told_from_noise(paces: tuple[list[float], list[float]], changed: bool) -> None:
    one, other = (json.loads(json.dumps(FOUND)) for _ in range(2))
    scaled(other["rows"][0], 1.6)
    for result, pace in zip((one, other), paces):
        if pace:
            result["rows"][0]["pace_ms"] = pace
    found = compare(one, other)
    assert [m["what"] for m in found["moved"]] == ["bm25"] * changed
    assert [line.split(":")[0] for line in found["unlike"]] == ["the machine's own pace moved by 50%, and less than that is not told"] * (
        not changed
    )


def test_a_few_microseconds_are_no_move() -> None:
    one, other = (json.loads(json.dumps(FOUND)) for _ in range(2))
    for result, by in ((one, 0.004), (other, 0.008)):
        for key in ("p50_ms", "spread_ms", "cpu_ms", "cpu_spread_ms"):
            scaled(result["rows"][0]["parts"]["search"], by, (key,))
    assert compare(one, other)["moved"] == []
