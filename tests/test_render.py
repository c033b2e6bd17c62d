"""Figures reach the documents only from committed results, and writing them twice changes nothing."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("benchmarks") is None:
    sys.path.append(str(ROOT))
RESULTS = sorted(path for path in (ROOT / "benchmarks" / "results").iterdir() if path.is_dir())


@pytest.fixture
def render(tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("render_under_test", ROOT / "benchmarks" / "render.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in {document for document, _, _ in module.PLACES.values()}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    module.ROOT = tmp_path  # type: ignore[attr-defined]
    return module


def test_documents_show_a_committed_result(render: ModuleType) -> None:
    texts = {name: (ROOT / name).read_text() for name in {document for document, _, _ in render.PLACES.values()}}
    for _ in range(2):  # the second time changes nothing
        assert [render.main(str(folder)) for folder in RESULTS] == [0] * len(RESULTS)
        assert {name: (render.ROOT / name).read_text() for name in texts} == texts


def test_a_missing_marker_is_an_error(render: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    (render.ROOT / "README.md").write_text("no markers here")
    assert render.main(str(ROOT / "benchmarks" / "results" / "epyc-2core")) == 1
    assert "README.md" in capsys.readouterr().err


def test_the_placement_is_what_the_command_prints(tmp_path: Path) -> None:
    """A small one: the committed result is of the same function, minutes long."""
    tables = importlib.import_module("benchmarks.fleet_tables")
    options = "--p95 500 --corpus-size 1e5 --tokens 60 --qps 5 --machine-memory 64e9 --machine-processors 8"
    data = tables.placed(ROOT / "benchmarks" / "results" / "amd-epyc-avx512vnni-2core" / "costs.json", options)
    text = tables.example(data, "a machine")
    assert text.startswith(f"```\n$ rerank-engine plan {options}\n") and text.endswith("calibrated on a machine.")
    assert "for 5 queries a second" in text and "utilisation" in text


def test_committed_placements_are_of_the_example() -> None:
    tables = importlib.import_module("benchmarks.fleet_tables")
    for path in (ROOT / "benchmarks" / "results").glob("*/placement.json"):
        assert json.loads(path.read_text())["options"] == tables.EXAMPLE


def test_the_readme_holds_no_figure_of_quality_outside_the_markers() -> None:
    outside = re.sub(r"<!-- BEGIN ([\w-]+) -->.*?<!-- END \1 -->", "", (ROOT / "README.md").read_text(), flags=re.S)
    assert not re.search(r"\b0\.\d{3,}\b|\b\d+(\.\d+)?x\b", outside)
    assert json.loads((ROOT / "benchmarks" / "results" / "epyc-2core" / "quality.json").read_text())["demo"]["questions"] == 50
