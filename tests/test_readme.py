"""The README's Python examples run as they stand, and print what they should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rerank_engine.errors import MissingDependency
from rerank_engine.runtimes.files import resolve

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)
EXPECTED = ("A flea bath helps.", "Marconi sent radio waves", "['d1'] 2.77", "['0', '2']", "'nDCG@10'")


def test_every_example_has_its_answer() -> None:
    assert len(EXAMPLES) == len(EXPECTED)


@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_example_runs(number: int) -> None:
    if "rerank(" in EXAMPLES[number] or "rr.load" in EXAMPLES[number]:
        try:
            resolve("ms-marco-MiniLM-L-12-v2")
        except MissingDependency as error:
            pytest.skip(str(error))
    done = subprocess.run([sys.executable, "-W", "error", "-c", EXAMPLES[number]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert EXPECTED[number] in done.stdout.splitlines()[0]


def test_the_example_of_a_stage_and_a_scorer_works() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "architecture.md").read_text()
    code = (
        re.findall(r"```python\n(.*?)```", text, re.S)[0]
        + """
corpus = rr.Corpus.from_texts(["an old short text", "two words", "the new one"], metadata=[{"year": 1}, {"year": 9}, {"year": 5}])
print((rr.Rescore(Newest()) >> DropShort())("q", corpus).doc_ids)
"""
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.stdout == "['2', '0']\n", done.stderr


def test_the_example_of_a_gpu_works() -> None:
    pytest.importorskip("torch", reason="the example is of tensors")
    text = (Path(__file__).resolve().parents[1] / "docs" / "gpu.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[:3] == ["torch.Size([2])", "torch.Size([2])", "torch.Size([3])"], done.stderr
    assert lines[3].startswith("DeviceCodes(3 documents, 277 tokens on")


def test_the_example_of_cross_encoders_works() -> None:
    pytest.importorskip("onnxruntime", reason="the example runs a real model")
    text = (Path(__file__).resolve().parents[1] / "docs" / "cross-encoder.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 6 and "'scored': 1, 'of': 2" in lines[3], done.stderr


def test_commands_named_exist() -> None:
    from rerank_engine.cli import parser

    help_text = parser().format_help()
    for command in set(re.findall(r"^rerank-engine (\w+)", README, re.M)):
        assert re.search(rf"^\s+{command}\b", help_text, re.M), command
