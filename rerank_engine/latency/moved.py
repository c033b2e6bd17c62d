"""Two files of results compared: what moved by more than the noise of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .rows import NOT_MEASURED

FLOOR = 0.1  # of a value: what two runs may differ by beyond their spreads, as they do from one hour to the next on a shared machine
SPREADS = {"p50_ms": "spread_ms", "cpu_ms": "cpu_spread_ms"}
ALIKE = ("documents", "tokens", "threads", "device", "model")  # of two ways to be compared


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """{"moved": [...], "compared": how many numbers, "unlike": [what was not compared, and why]} of results as `results.load` reads.

    A number moved where its two spreads are apart by more than 10 %: {"what", "metric", "before", "after", "ratio": after / before,
    "change": "slower" | "faster"}. Of rows, their variants and parts: wall and processor time, by the medians of rounds; of micro rows: the
    ratio to the peer in the same run, which a busier machine moves least.
    """
    moved, unlike, compared = [], [*_other_machine(before, after), *_busy(before, after)], 0
    old, new = (dict(_ways(result)) for result in (before, after))
    unlike += [f"not compared: {name} is in one of them alone" for name in sorted(set(old) ^ set(new))]
    for name in (name for name in old if name in new):
        if differing := [key for key in ALIKE if old[name].get(key) != new[name].get(key)]:
            told = ", ".join(f"{key} {old[name].get(key)} and {new[name].get(key)}" for key in differing)
            unlike.append(f"not compared: {name} ({told})")
            continue
        for what, one, other in _numbers(name, old[name], new[name]):
            for metric, spread in SPREADS.items():
                compared += 1
                moved += _moved(what, metric, one[metric], other[metric], one[spread], other[spread])
    ratios = [{(r["bench"], r["case"], r["peer"], r["metric"]): r for r in result["micro"] if r["verified"]} for result in (before, after)]
    for key in (key for key in ratios[0] if key in ratios[1]):
        one, other = (found[key] for found in ratios)
        compared += 1
        what = f"{one['bench']} {one['case']} against {one['peer']}"
        moved += _moved(what, f"{one['metric']} ratio", one["ratio"], other["ratio"], one["spread"], other["spread"], rising="faster")
    return {"moved": moved, "compared": compared, "unlike": unlike}


def _other_machine(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    one, other = (result["facts"]["machine"] for result in (before, after))
    keys = [key for key in ("processor", "gpu", "threads") if one.get(key) != other.get(key)]
    return [f"the machines differ: {key} {one.get(key)} and {other.get(key)}" for key in keys]


def _busy(*results: Mapping[str, Any]) -> list[str]:
    """A load of half the threads before anything ran: the figures are those of a busy machine."""
    return [
        f"the machine was busy: a load of {result['load_before']:g} before {result['threads']} threads ran, {result['facts']['date']}"
        for result in results
        if result["load_before"] > result["threads"] / 2
    ]


def _ways(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for row in result["rows"]:
        if row["verdict"] != NOT_MEASURED:
            yield from ((way["way"], way) for way in (row, *row.get("variants", ())))


def _numbers(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """A way and its parts, as far as both have a spread."""
    yield name, one, other
    for part, ms in one["parts"].items():
        if part in other["parts"] and "spread_ms" in ms and "spread_ms" in other["parts"][part]:
            yield f"{name}: {part}", ms, other["parts"][part]


def _moved(what: str, metric: str, a: float, b: float, spread: Any, other: Any, *, rising: str = "slower") -> list[dict[str, Any]]:
    """One entry, or none for noise. rising: what a number that rises says."""
    falling = "faster" if rising == "slower" else "slower"
    up, down = min(other) > max(spread) * (1 + FLOOR), min(spread) > max(other) * (1 + FLOOR)
    if not (up or down):
        return []
    change = rising if up else falling
    return [{"what": what, "metric": metric, "before": a, "after": b, "ratio": round(b / a, 3) if a else None, "change": change}]
