"""Every example of the page on evaluation runs as it stands and prints what it should; every option that it names exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rerank_engine.cli import parser

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)
EXPECTED = (
    (r"\{'nDCG@10': 0\.667, 'MRR@10': 0\.667, 'Judged@10': 0\.389\}", r"Comparison with first over 3 queries", r"nDCG@10 +final .* 2/1/0"),
    (r"Diagnosis of 3 queries with 4 relevant documents", r"not retrieved +1 ", r"cut at Top +2 ", r"delivered +1 "),
    (r"0\.0 1\.0\n0\.333",),
)


@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_example_runs(number: int) -> None:
    assert len(EXAMPLES) == len(EXPECTED)
    done = subprocess.run([sys.executable, "-W", "error", "-c", EXAMPLES[number]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for pattern in EXPECTED[number]:
        assert re.search(pattern, done.stdout), done.stdout


def test_options_named_exist() -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["eval", "--help"])
    named = set(re.findall(r"(?<![\w-])--[a-z-]+", PAGE))
    known = {option for action in parser()._subparsers._group_actions[0].choices["eval"]._actions for option in action.option_strings}  # type: ignore[union-attr]
    assert named <= known and {"--compare", "--diagnose", "--plot"} <= named
