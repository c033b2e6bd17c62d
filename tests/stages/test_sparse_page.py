"""Every example of the page on learned sparse retrieval runs as it stands and prints what it should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rerank_engine.errors import MissingDependency
from rerank_engine.runtimes.files import resolve

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sparse.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)
EXPECTED = ("True True\nfleas?\n5\n", "fleas\nTrue\nTrue\n", r"1 splade-tiny \['a'\]\n1\n")


@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_example_runs(number: int) -> None:
    assert len(EXAMPLES) == len(EXPECTED)
    try:
        resolve("splade-tiny")
    except MissingDependency as error:
        pytest.skip(f"the page's model is not here: {error}")
    pytest.importorskip("onnx", reason="the page's model runs by a packed graph, which the package onnx writes")
    done = subprocess.run([sys.executable, "-W", "error", "-c", EXAMPLES[number]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(EXPECTED[number], done.stdout), done.stdout
