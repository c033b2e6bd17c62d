"""The tables of docs/learning-to-rank.md."""

from __future__ import annotations

from typing import Any

CASES = {
    "1000-docs": "100 trees of 31 leaves, the test documents' features",
    "1000-docs-dense": "the same trees, no feature 0",
    "63-leaves": "100 trees of 63 leaves",
    "255-leaves": "100 trees of 255 leaves",
    "1000-docs-xgboost": "100 trees of up to 31 leaves, by XGBoost",
}


def speed(data: Any, about: str) -> str:
    """Times and ratios of a full run of bench_trees."""
    lines = [
        "| 1,000 documents x 301 features | peer | ours, ms | theirs, ms | times faster | middle half of the rounds |",
        "|---|---|---|---|---|---|",
    ]
    floors = {r["case"]: r for r in data if r["peer"] == "floor"}
    for r in data:
        if r["peer"] != "floor":
            spread = f"{r['spread'][0]:.1f}-{r['spread'][1]:.1f}"
            lines.append(f"| {CASES[r['case']]} | {r['peer']} | {r['ours']:.3g} | {r['theirs']:.3g} | **{r['ratio']:.1f}x** | {spread} |")
    shares = ", ".join(f"{100 * r['ratio']:.0f} % for {CASES[case]}" for case, r in floors.items())
    how = "CPU time of one thread, every answer checked to 1e-6 first, sides in turns (`python -m benchmarks.bench_trees`)"
    return "\n".join([*lines, "", f"Share of the floor that bench_trees states: {shares}.", "", f"{how}, {about}."])


def quality(data: Any, about: str) -> str:
    """nDCG of given features, then of made ones against BM25."""
    given = [r for r in data if "ndcg@1" in r]
    lines = [f"| ltr-lightgbm, {given[0]['queries']} test queries | nDCG@1 | @3 | @5 | @10 |", "|---|---|---|---|---|"]
    lines += [f"| {r['model']} | {' | '.join(f'{r[name]:.4f}' for name in ('ndcg@1', 'ndcg@3', 'ndcg@5', 'ndcg@10'))} |" for r in given]
    apart = max(r.get("largest_difference_to_predict", 0.0) for r in given)
    lines += ["", f"Largest difference between our scores and LightGBM's predict, of that model on all test rows: {apart:g}.", ""]
    lines += ["| BM25's first 100, re-ordered | features | queries | nDCG@10 | change | 95 % interval |", "|---|---|---|---|---|---|"]
    for r in data:
        if "change" in r:
            change = "" if r["model"] == "BM25" else f"{r['change']:+.4f} | {r['interval'][0]:+.4f} to {r['interval'][1]:+.4f}"
            lines.append(f"| {r['collection']}: {r['model']} | {r['features']} | {r['queries']} | {r['ndcg@10']:.4f} | {change or ' | '} |")
    how = "Trained on one half of the queries, tested on the other, both ways round; the interval is of the difference to BM25"
    return "\n".join([*lines, "", f"{how} (`python -m benchmarks.quality_ltr`), {about}."])
