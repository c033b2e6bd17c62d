"""The peers of the latency table's rows, and scaling curves, of results/<machine>/<date>.json (render.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# axes of scaling curves -> what is along them, and what the terms of their cost models count
AXES = {
    "candidates": ("candidates", {"per_document_ms": "candidate"}),
    "length": ("tokens a document", {"per_token_ms": "token", "per_square_ms": "token²"}),
    "corpus": ("documents of the corpus", {"per_corpus_ms": "document"}),
    "batch": ("queries a batch", {"per_document_ms": "query"}),
    "threads": ("threads", {"per_document_ms": "1 / threads"}),
}


def peers(data: Any, about: str) -> str:
    """A line for each peer of a row, then for those that were not measured why."""
    found = [r for r in data["micro"] if "row" in r]
    lines = [
        "| row | peer | ours, ms | theirs, ms | times as long | spread | apart from the reference: ours, theirs |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in (r for r in found if r["verified"]):
        apart = f"{100 * r['overlap']:.1f} % of the right documents" if "overlap" in r else ", ".join(f"{x:.2g}" for x in r["difference"])
        name = f"{r['peer']} ({r['version']})"
        numbers = f"{r['ours']:.4g} | {r['theirs']:.4g} | **{r['ratio']:.1f}x** | {r['spread'][0]:.1f}-{r['spread'][1]:.1f}"
        lines.append(f"| {r['row']}: {r['case']} | {name} | {numbers} | {apart} |")
    how = "Processor time of a query on one thread, medians; the same input files, answers checked first, sides in turns"
    missing = [f"- {r['row']}, {r['case']}, {r['peer']}: {r['why']}." for r in found if not r["verified"]]
    return "\n".join([*lines, "", f"{how} (`make bench`). {source(data)}.", *(["", "Not measured:", "", *missing] if missing else [])])


def scaling(data: Any, about: str) -> str:
    """A line for each curve: from where to where, and its cost model."""
    lines = ["| along | stage | from | to | cost model, ms | error |", "|---|---|---|---|---|---|"]
    for r in data.get("scaling", ()):
        ends = [f"{x:,.0f}: {quartiles[1]:.3g} ms" for x, quartiles in (list(zip(r["x"], r["wall_ms"]))[i] for i in (0, -1))]
        lines.append(f"| {r['axis']} | {r['stage']} | {' | '.join(ends)} | {formula(r)} | {100 * r['model']['error']:.0f} % |")
    how = "Wall-clock time of a call, medians, one thread (up to all in the last lines); error: of the fit, root mean square, relative"
    return "\n".join([*lines, "", f"{how} (`python -m benchmarks.scaling_curves`). {source(data)}."])


def formula(row: dict[str, Any]) -> str:
    """ "0.12 + 0.0065 a candidate" """
    words = AXES[row["axis"]][1] | row.get("units", {})
    terms = [
        f"{row['model'][key]:.3g} {'· ' if set('/^') & set(word) else 'a '}{word}" for key, word in words.items() if row["model"].get(key)
    ]
    return " + ".join([f"{row['model']['fixed_ms']:.3g}", *terms])


def plot(data: Any, path: Path) -> None:
    """A panel for each axis: points with quartiles, and the fitted cost model as a line. Nothing, where no curves were measured."""
    from matplotlib.figure import Figure

    found = data.get("scaling", ())
    axes = [axis for axis in AXES if any(r["axis"] == axis for r in found)]
    if not axes:
        return
    figure = Figure(figsize=(4.6 * len(axes), 4.2), layout="constrained")
    for panel, axis in zip(figure.subplots(1, len(axes), squeeze=False)[0], axes):
        for r in (r for r in found if r["axis"] == axis):
            low, middle, high = zip(*r["wall_ms"])
            whiskers = [[m - q for m, q in zip(middle, low)], [q - m for m, q in zip(middle, high)]]
            drawn = panel.errorbar(r["x"], middle, whiskers, fmt="o", markersize=4, label=r["stage"])
            panel.plot(r["x"], r["predicted_ms"], color=drawn[0].get_color(), linewidth=1)
        panel.set(xscale="log", yscale="log", xlabel=AXES[axis][0], ylabel="ms" if axis == axes[0] else "")
        ticks = next(r["x"] for r in found if r["axis"] == axis)
        panel.set_xticks(ticks, [f"{x:,.0f}" for x in ticks], rotation=30)
        panel.set_xticks([], minor=True)
        panel.legend(fontsize=7)
        panel.grid(True, which="major", alpha=0.3)
    figure.savefig(path, dpi=110)


def source(data: Any) -> str:
    """ "2026-11-27, 07a703f, AMD EPYC (avx512vnni), load 0.1 before and 1.2 after" """
    facts = data["facts"]
    load = f"load {data['load_before']} before and {data['load_after']} after"
    return ", ".join(filter(None, (facts["date"], facts["git"], facts["machine"]["processor"], load)))
