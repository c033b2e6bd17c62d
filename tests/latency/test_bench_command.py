"""`rerank-engine bench`: the shape that others read, files, comparison, and errors before any work."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from rerank_engine import cli
from rerank_engine.latency import measure, moved, results
from rerank_engine.latency.prepare import NotMeasured


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of LLM listwise cannot be measured."""

    def none(row: object, shared: object) -> Any:
        raise NotMeasured("no language model")
        yield

    monkeypatch.setitem(measure.PREPARE, "llm-listwise@20", none)


def test_rows_have_the_shape_that_others_read(capsys: pytest.CaptureFixture[str], tmp_path: Path, no_model: None) -> None:
    out = tmp_path / "new" / "results.json"
    assert cli.main(["bench", "--quick", "--rows", "bm25,llm-listwise@20", "--threads", "1", "--out", str(out), "--json"]) == 0
    bm25, llm = json.loads(capsys.readouterr().out)
    assert bm25["row"] == "bm25"
    assert bm25["published_ms"] == [1, 10]
    assert 0 < bm25["p50_ms"] <= bm25["p95_ms"] <= bm25["p99_ms"]
    assert bm25["cpu_ms"] > 0
    assert bm25["verdict"] in ("better", "in range", "worse")
    assert (bm25["backend"], bm25["device"], bm25["threads"], bm25["documents"]) == ("cpp", "cpu", 1, 100_000)
    assert set(bm25["parts"]) == {"analysis", "search", "the rest"}
    assert (llm["verdict"], llm["p50_ms"], llm["backend"]) == ("not measured", None, None)
    assert "language model" in llm["why"]
    written = results.load(out)
    assert written["rows"] == [bm25, llm]
    assert written["threads"] == 1

    slowed = copy.deepcopy(written)
    for way in (slowed["rows"][0], slowed["rows"][0]["parts"]["search"]):
        way |= {key: [3 * x for x in way[key]] if isinstance(way[key], list) else 3 * way[key] for key in ("p50_ms", "spread_ms")}
    results.save(tmp_path / "slowed.json", slowed)
    assert cli.main(["bench", "--compare", str(out), str(tmp_path / "slowed.json")]) == 0
    said = capsys.readouterr().out
    assert said.count("slower") == 2
    assert "2 of" in said
    assert cli.main(["bench", "--compare", str(out), str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["moved"] == []


def test_a_ratio_to_nothing_is_left_out(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"what": "a way", "metric": "cpu_ms", "before": 0.0, "after": 1.0, "ratio": None, "change": "slower"}
    monkeypatch.setattr(moved, "compare", lambda a, b: {"moved": [entry], "compared": 1, "unlike": []})
    monkeypatch.setattr(results, "load", lambda path: {})
    assert cli.main(["bench", "--compare", "a", "b"]) == 0
    assert "a way" in capsys.readouterr().out


def test_a_table_is_printed(capsys: pytest.CaptureFixture[str], no_model: None) -> None:
    assert cli.main(["bench", "--quick", "--rows", "bm25,llm-listwise@20"]) == 0
    said = capsys.readouterr().out
    for word in ("bm25", "1-10", "not measured", "language model", "analysis", "threads, load"):
        assert word in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rows", "bm26"], "bm26"),
        (["--threads", "0"], "threads"),
        (["--threads", "1000"], "threads"),
        (["--out", "."], "a folder"),
        (["--out", "/dev/null/results.json"], "can be made"),
        (["--compare", "none.json", "none.json"], "none.json"),
        (["--compare", "a", "b", "--quick"], "two files alone"),
    ],
)
def test_errors_come_before_the_work(capsys: pytest.CaptureFixture[str], options: list[str], said: Any) -> None:
    assert cli.main(["bench", *options]) == 2
    assert said in capsys.readouterr().err
