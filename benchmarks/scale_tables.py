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


def bulk(data: Any, about: str) -> str:
    """One and two workers on processes and on Ray, then what a part and the start cost."""
    rows = {r["case"]: r for r in data}
    lines = ["| | 1 worker, pairs/s | 2 workers | speed-up | by CPU time | a blank part, ms | start, s |", "|---|" + "---|" * 6]
    for side, label, key in (("processes", "processes", "theirs"), ("ray", "Ray", "ours")):
        if (r := rows.get(side)) is not None:
            beside = [f"{rows[case][key]:.{digits}f}" if case in rows else "" for case, digits in (("part", 1), ("start", 1))]
            rates = f"{1 / r['theirs']:.0f} | {1 / r['ours']:.0f} | {r['ratio']:.2f}x | {r['cpu_ratio']:.2f}x"
            lines.append(f"| {label} | {rates} | {' | '.join(beside)} |")
    r = rows["processes"]
    what = f"{r['model']}, a thread a worker, the first {r['depth']} of BM25 for {r['collection']}'s questions, a question a part"
    how = f"medians of {r['rounds']} rounds in turns, load {r['load'][0]:.1f} before; the same bytes from all"
    ray = f"; Ray itself starts in {rows['start']['ray_init_s']:.1f} s" if "start" in rows else ""
    return "\n".join([*lines, "", f"{what}; {how}{ray} (`python -m benchmarks.bench_bulk`), {about}."])
