"""Two files of results compared: what moved by more than the noise of both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .rows import NOT_MEASURED

FLOOR = 0.1  # of a value: what two runs may differ by beyond their spreads, as they do from one hour to the next on a shared machine
LEAST_MS = 0.01  # what caches and the clock itself move a number by
SPREADS = {"p50_ms": "spread_ms", "cpu_ms": "cpu_spread_ms"}
ALIKE = ("documents", "tokens", "threads", "device", "backend", "model")  # of two ways to be compared, and their settings
MICRO_ALIKE = ("version", "backend", "threads")  # of two micro rows
RECALL = 0.01  # what two recalls may differ by: an approximate index is not built alike twice


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """{"moved": [...], "compared": how many numbers, "unlike": [what was not compared, and why]} of results as `results.load` reads.

    A number moved where its two spreads are apart by more than 10 %, by 0.01 ms at least, and by more than the machine's own pace moved
    around both (`timing.Pace`), which `unlike` says where it is above 10 %: {"what", "metric", "before", "after", "ratio": after / before,
    "change": "slower" | "faster"}. Of rows, their variants and parts: wall and processor time, by the medians of rounds; of micro rows: the
    ratio to the peer in the same run, which a busier machine moves least. What one round alone says has no spread, which `unlike` says.
    """
    moved, unlike, compared = [], [*_other_machine(before, after), *_busy(before, after)], 0
    old, new = (dict(_ways(result)) for result in (before, after))
    unlike += [f"not compared: {name} is in one of them alone" for name in sorted(set(old) ^ set(new))]
    for name in (name for name in old if name in new):
        if differing := [*_differing(old[name], new[name], ALIKE), *_settings(old[name], new[name])]:
            unlike.append(f"not compared: {name} ({', '.join(differing)})")
            continue
        if 1 in (old[name].get("rounds"), new[name].get("rounds")):
            unlike.append(f"one round alone, so how far it moves by itself is not known: {name}")
        shift = _shift(old[name], new[name])
        if shift > FLOOR:
            unlike.append(f"the machine's own pace moved by {shift:.0%}, and less than that is not told: {name}")
        for what, one, other in _numbers(name, old[name], new[name]):
            for metric, spread in SPREADS.items():
                compared += 1
                if abs(one[metric] - other[metric]) >= LEAST_MS:
                    moved += _moved(what, metric, one[metric], other[metric], one[spread], other[spread], floor=max(FLOOR, shift))
    pairs, lacking = _micro(before, after)
    for one, other in pairs:
        ratio = f"{one['metric']} ratio"
        moved += _moved(_called(one), ratio, one["ratio"], other["ratio"], one["spread"], other["spread"], rising="faster")
    return {"moved": moved, "compared": compared + len(pairs), "unlike": unlike + lacking}


def _differing(one: Mapping[str, Any], other: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    return [f"{key} {one.get(key)} and {other.get(key)}" for key in keys if one.get(key) != other.get(key)]


def _settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    a, b = one.get("settings", {}), other.get("settings", {})
    near = {"recall"} if abs(a.get("recall", 0) - b.get("recall", 0)) <= RECALL and ("recall" in a) == ("recall" in b) else set()
    return _differing(a, b, [key for key in {**a, **b} if key not in near])


def _micro(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[tuple[Any, Any]], list[str]]:
    """The micro rows that both results verified, of the same peer, in pairs; and what is not among them, why."""
    old, new = ({(r["bench"], r["case"], r["peer"], r["metric"]): r for r in result["micro"]} for result in (before, after))
    if not (old and new):
        return [], ["not compared: micro rows, which are in one of them alone"] * bool(old or new)
    pairs, unlike = list[tuple[Any, Any]](), list[str]()
    for key in {**old, **new}:
        one, other = old.get(key), new.get(key)
        if one is None or other is None:
            unlike.append(f"not compared: {_called(one or other)} is in one of them alone")
        elif one["verified"] != other["verified"]:
            unlike.append(f"not compared: {_called(one)} was measured in one of them alone")
        elif one["verified"]:
            if differing := _differing(one, other, MICRO_ALIKE):
                unlike.append(f"not compared: {_called(one)} ({', '.join(differing)})")
            else:
                pairs.append((one, other))
    return pairs, unlike


def _called(row: Any) -> str:
    return f"{row['bench']} {row['case']} against {row['peer']}"


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


def _shift(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """By what share the machine's pace moved around two ways; 0 where files do not say."""
    paces = [*one.get("pace_ms", ()), *other.get("pace_ms", ())]
    return max(paces) / min(paces) - 1 if paces and min(paces) > 0 else 0.0


def _numbers(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """A way and its parts, as far as both have a spread."""
    yield name, one, other
    for part, ms in one["parts"].items():
        if part in other["parts"] and "spread_ms" in ms and "spread_ms" in other["parts"][part]:
            yield f"{name}: {part}", ms, other["parts"][part]


def _moved(
    what: str, metric: str, a: float, b: float, spread: Any, other: Any, *, rising: str = "slower", floor: float = FLOOR
) -> list[dict[str, Any]]:
    """One entry, or none for noise. rising: what a number that rises says."""
    falling = "faster" if rising == "slower" else "slower"
    up, down = min(other) > max(spread) * (1 + floor), min(spread) > max(other) * (1 + floor)
    if not (up or down):
        return []
    change = rising if up else falling
    return [{"what": what, "metric": metric, "before": a, "after": b, "ratio": round(b / a, 3) if a else None, "change": change}]
