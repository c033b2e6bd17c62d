"""The tables of docs/scale.md."""

from __future__ import annotations

from typing import Any


def shards(data: Any, about: str) -> str:
    """What sharding costs, what the running threshold spares, what the hop to an actor costs."""
    found = {(r["case"], r["peer"]): r for r in data}
    lines = [
        "| 1,000,000 documents, CPU ms a query | one index | all shards at once | one after the other, with the k-th best score |",
        "|---|---|---|---|",
    ]
    for case in dict.fromkeys(r["case"] for r in data if r["peer"] == "one index"):
        one, together = found[case, "one index"], found[case, "all at once"]
        lines.append(f"| {case} | {one['theirs']:.3g} | {together['theirs']:.3g} | {together['ours']:.3g} |")
    hops = [r for r in data if r["peer"] == "on Ray"]
    if hops:
        lines += ["", "| 100,000 documents, wall ms a query, p50 | in actors of Ray | by threads of this process |", "|---|---|---|"]
        lines += [f"| {r['case']} | {r['ours']:.3g} | {r['theirs']:.3g} |" for r in hops]
    how = "nat: natural queries, freq: queries of very frequent words, the k best. Every answer is checked bit for bit first"
    return "\n".join([*lines, "", f"{how} (`python -m benchmarks.bench_shards`), {about}."])
