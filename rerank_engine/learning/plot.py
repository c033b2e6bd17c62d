"""The picture of what a model goes by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError
from ..ops import checks
from ..pictures import new_figure, write


def draw_importance(importance: Mapping[str, float], label: str, path: str | Path, top: int) -> None:
    """Writes a bar chart of the `top` first entries. Raises MissingDependency (matplotlib), InputError."""
    shown = dict(list(importance.items())[: checks.count("plot_importance: top", top)])
    if not shown:
        raise InputError("plot_importance", got="no feature", expected="at least one")
    figure = new_figure("plot_importance", (7, 1.2 + 0.28 * len(shown)))
    axes = figure.subplots()
    axes.barh(range(len(shown)), list(shown.values()), color="#3d5a80", height=0.7)
    axes.set_yticks(range(len(shown)), list(shown), fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(label, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.set_title("What the model goes by", loc="left", fontsize=11)
    write(figure, "plot_importance", path)
