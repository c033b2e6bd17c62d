"""The picture of a diagnosis: where the relevant documents went, what each retriever could reach at most, how soon the first one comes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..pictures import new_figure, write

if TYPE_CHECKING:
    from .diagnosis import Diagnosis

GOOD, BAD, ALL, INK = "#2a7f62", "#c8553d", "#8d99ae", "#222831"
LINES = ("#3d5a80", "#ee8434", "#7b2d8b", "#2a9d8f", "#b56576", "#6d6875")


def draw(diagnosis: Diagnosis, path: str | Path) -> None:
    """Writes one figure of three panels; the ending says the format. Raises MissingDependency (matplotlib), InputError."""
    figure = new_figure("Diagnosis.plot", (15, 4.8))
    flow, ceiling, first = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    _flow(diagnosis, flow)
    _ceilings(diagnosis, ceiling)
    _first_relevant(diagnosis, first)
    for axes in (flow, ceiling, first):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(11)
        axes.tick_params(labelsize=9)
    figure.suptitle(f"{len(diagnosis.queries):,} queries, {diagnosis.relevant:,} relevant documents", fontsize=12, color=INK)
    write(figure, "Diagnosis.plot", path)


def _flow(diagnosis: Diagnosis, axes: Any) -> None:
    """From all relevant documents, loss by loss, to what is delivered."""
    total = max(diagnosis.relevant, 1)
    losses = {fate: n for fate, n in diagnosis.fates.items() if fate != "delivered"}
    names = ["relevant, judged", *losses, "delivered"]
    left = diagnosis.relevant
    for place, name in enumerate(names):
        n = diagnosis.relevant if place == 0 else diagnosis.fates[name]
        if name in losses:
            left -= n
        start, color = (left, BAD) if name in losses else (0, ALL if place == 0 else GOOD)
        axes.barh(place, n, left=start, color=color, height=0.7)
        inside = start + n > 0.8 * total and n < 0.5 * total  # no room on the right: the number stands on the left of the bar
        x, side = (start, "right") if inside else (start + n, "left")
        axes.text(x, place, f"  {n:,} ({100 * n / total:.0f} %)  ", va="center", ha=side, fontsize=9, color=INK)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.28 * total)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_title("Where the relevant documents went", loc="left")


def _ceilings(diagnosis: Diagnosis, axes: Any) -> None:
    """What a perfect order of the first documents reaches, and what the pipeline does reach."""
    for (name, values), color in zip(diagnosis.ceilings.items(), _colors(len(diagnosis.ceilings))):
        axes.plot(diagnosis.depths, values, marker="o", color=color, label=f"{name}, perfectly ordered")
    final = diagnosis.stages[-1]
    axes.axhline(final.value, color=GOOD, linestyle="--", label=f"the pipeline: {final.value:.3f}")
    axes.set_xscale("log")
    axes.set_xticks(diagnosis.depths, [f"{depth:,}" for depth in diagnosis.depths])
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("documents given to the re-ranker", fontsize=9)
    axes.set_ylabel(diagnosis.measure, fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.set_title("The most that a re-ranker could reach", loc="left")


def _first_relevant(diagnosis: Diagnosis, axes: Any) -> None:
    """The share of queries with a relevant document among the first r, for each step that differs from the one before."""
    ranks = [[query.first_relevant[i] for query in diagnosis.queries.values()] for i in range(len(diagnosis.stages))]
    shown = [i for i in range(len(ranks)) if i == 0 or ranks[i] != ranks[i - 1]]
    longest = max([rank for of in ranks for rank in of if rank is not None], default=1)
    for i, color in zip(shown, _colors(len(shown))):
        found = np.sort([rank for rank in ranks[i] if rank is not None])
        at = np.unique(np.concatenate([[1], found, [max(longest, 10)]])).astype(int)
        share = np.searchsorted(found, at, side="right") / len(ranks[i])
        axes.step(at, share, where="post", color=color, label=f"after {diagnosis.stages[i].stage}")
    axes.set_xscale("log")
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 1000) if tick <= max(longest, 10)]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("rank of the first relevant document, or better", fontsize=9)
    axes.set_ylabel("share of the queries", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.set_title("How soon the first relevant document comes", loc="left")


def _colors(n: int) -> list[str]:
    return [LINES[i % len(LINES)] for i in range(n)]
