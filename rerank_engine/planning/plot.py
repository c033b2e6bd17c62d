"""The picture of a plan: what each millisecond of p95 buys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..pictures import new_figure, write

if TYPE_CHECKING:
    from .plan import Plan

LINE, CHOSEN, BEYOND, INK = "#3d5a80", "#2a7f62", "#8d99ae", "#222831"


def draw(plan: Plan, path: str | Path) -> None:
    """Writes the frontier, expected nDCG@10 over p95 with its interval. Raises MissingDependency, InputError."""
    figure = new_figure("Plan.plot", (10, 6))
    axes = figure.subplots()
    x, y = [each.latency.p95 for each in plan.frontier], [each.quality.value for each in plan.frontier]
    axes.step(x, y, where="post", color=LINE, lw=1.2, zorder=1)
    for each in plan.frontier:
        colour = CHOSEN if each.chain == plan.chosen.chain else LINE if each.sure_p95 <= plan.budget_ms else BEYOND
        low, high = each.latency.p95_95
        axes.plot([low, high], [each.quality.value] * 2, color=colour, lw=2, alpha=0.4)
        axes.plot(each.latency.p95, each.quality.value, "o" if each.quality.measured else "D", color=colour, ms=6, mfc=colour)
        axes.annotate(
            each.chain.name, (each.latency.p95, each.quality.value), (6, -10), textcoords="offset points", fontsize=7.5, color=INK
        )
    axes.axvline(plan.budget_ms, color=INK, lw=0.8, ls="--")
    axes.set_xscale("log")
    axes.set_xlabel("p95, ms (line: 95 % interval; dashes: the budget)" + (f", predicted for {plan.device}" if plan.predicted else ""))
    axes.set_ylabel("expected nDCG@10 (diamonds: between measured depths)")
    axes.set_title(
        f"{plan.shape.corpus_size:,} documents, {plan.shape.tokens:.0f} tokens; quality: {', '.join(plan.collections)}", fontsize=10
    )
    axes.spines[["top", "right"]].set_visible(False)
    write(figure, "Plan.plot", path)
