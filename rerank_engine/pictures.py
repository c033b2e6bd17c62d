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


def check(what: str, path: str | Path) -> None:
    """Before long work: whether `write` will do. Raises MissingDependency, InputError."""
    kinds, target = new_figure(what, (1, 1)).canvas.get_supported_filetypes(), Path(path)
    if target.suffix[1:].lower() not in kinds or target.is_dir() or not target.parent.is_dir():
        raise InputError(f"{what}: path", got=str(target), expected="a file in a folder that exists, which ends in .png, .svg or .pdf")


def write(figure: Any, what: str, path: str | Path) -> None:
    """The ending says the format. Raises InputError."""
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: an ending that matplotlib does not write
        raise InputError(f"{what}: path {path}", got=str(error), expected="a file to write that ends in .png, .svg or .pdf") from error
