"""Every example of the page on learning to rank runs as it stands and prints what it should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "learning-to-rank.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)
EXPECTED = (
    r"FeatureMatrix\(4 queries, \d+ rows, 6 features\) [a-z_]+\n\{'clicks': \d+\}\n"
    r"'radio waves': every score begins with .*\n  1\. .*\n +[-+]\d.*  [a-z_]+ = .*\n.*\n",
    r"\[3\. 0\. 1\. 9\.\]\n",
)


@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_example_runs(number: int) -> None:
    assert len(EXAMPLES) == len(EXPECTED)
    if "LTR.train" in EXAMPLES[number]:
        pytest.importorskip("lightgbm", reason="the example trains")
    done = subprocess.run([sys.executable, "-W", "error", "-c", EXAMPLES[number]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(EXPECTED[number], done.stdout), done.stdout
