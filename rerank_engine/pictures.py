"""Figures by matplotlib, where it is installed: made, and written to a file."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from .errors import InputError, MissingDependency


def new_figure(what: str, size: tuple[float, float]) -> Any:
    """An empty figure, inches. what: who draws, for errors. Raises MissingDependency."""
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":  # it is there, and broken
            raise
        raise MissingDependency(f"{what}: matplotlib is not installed", hint="pip install matplotlib") from error
    return figures.Figure(figsize=size, layout="constrained")


def write(figure: Any, what: str, path: str | Path) -> None:
    """The ending says the format. Raises InputError."""
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: an ending that matplotlib does not write
        raise InputError(f"{what}: path {path}", got=str(error), expected="a file to write that ends in .png, .svg or .pdf") from error
