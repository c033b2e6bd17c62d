"""Every Python example of the page on seq2seq models runs as it stands, with small random models in the folders that it names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from t5_models import write_t5

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "seq2seq.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)
EXPECTED = ("logit 0\n3 duo sym-sum 6\n", "['cats', 'fleas'] ['BM25', 'MonoT5', 'DuoT5']\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page")
    for name in ("monot5", "duot5"):
        (path / name).mkdir()
        write_t5(path / name)
    return path


@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_example_runs(folder: Path, number: int) -> None:
    assert len(EXAMPLES) == len(EXPECTED)
    found = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-W", "error", "-c", EXAMPLES[number]]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": found}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == EXPECTED[number]


def test_the_page_names_every_prompt_and_aggregation() -> None:
    from rerank_engine.runtimes.t5_prompts import PROMPTS
    from rerank_engine.stages.seq2seq import AGGREGATIONS

    for name in (*PROMPTS, *AGGREGATIONS):
        assert f'"{name}"' in PAGE, name
