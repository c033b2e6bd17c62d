"""The latency table reaches the documents from the newest file of results, and its picture is the same every time."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
if importlib.util.find_spec("benchmarks") is None:
    sys.path.append(str(ROOT))

from benchmarks import latency_tables, render, suite  # noqa: E402
from rerank_engine.latency import results  # noqa: E402

NUMBERS = {"p50_ms": 1.234, "p95_ms": 1500.0, "p99_ms": 2000.0, "cpu_ms": 0.5, "spread_ms": [1.2, 1.3], "cpu_spread_ms": [0.4, 0.6]}
WAY = {**NUMBERS, "calls": 1000, "rounds": 5, "parts": {"search": {"p50_ms": 1.1}}, "settings": {"k": 1000, "recall": 0.97}}
FACTS = {
    "date": "2026-11-27",
    "git": "abc1234",
    "machine": {"processor": "AMD EPYC (avx2)", "threads": 2},
    "versions": {"faiss-cpu": "1.9"},
}
ABOUT = {"label": "BM25", "published_ms": [1, 10], "published_on": "not said", "verdict": "in range", "way": "bm25, k = 100", **WAY}
RAN = {"documents": 1_000_000, "model": "lucene", "backend": "cpp", "device": "cpu", "threads": 1}
RANGE = {"published_ms": [2000, 10_000], "published_on": "GPT-4", "documents": 20}
FOUND: dict[str, Any] = {
    **{"schema": 1, "facts": FACTS, "load_before": 0.1, "load_after": 1.0, "threads": 2, "quick": False, "micro": []},
    "rows": [
        {"row": "bm25", **ABOUT, **RAN, "variants": [{**WAY, "way": "bm25, k = 1000"}]},
        {"row": "llm-listwise@20", "label": "LLM", **RANGE, "verdict": "not measured", "why": "no model"},
    ],
}


def test_a_row_has_the_published_range_ours_and_what_ran() -> None:
    text = latency_tables.overview(FOUND, "")
    assert "| BM25 | 1 ms to 10 ms | 1.23 ms / 1.5 s | in range | 1,000,000 | lucene, cpp on cpu | 1 |" in text
    assert "| LLM | 2 s to 10 s (GPT-4) | | not measured | 20 | no model | |" in text
    assert "`rerank-engine bench`, 2026-11-27, abc1234, faiss-cpu 1.9, AMD EPYC (avx2), 2 threads, load 0.1 before and 1.0 after." in text


def test_details_have_a_line_for_each_way_and_the_picture_of_this_machine() -> None:
    text = latency_tables.details(FOUND, "")
    line = "1.23 ms | 1.2 ms to 1.3 ms | 1.5 s | 2 s | 0.5 ms | 1,000 | search 1.1 ms | k 1,000, recall 0.97 |"
    assert f"| bm25, k = 100 | {line}" in text
    assert f"| bm25, k = 1000 | {line}" in text
    assert "not measured: no model" in text
    assert "results/amd-epyc-avx2-2core/latency.png" in text


def test_far_percentiles_of_few_calls_and_the_spread_of_one_round_are_left_out() -> None:
    few = {**FOUND, "rows": [{**FOUND["rows"][0], "calls": 19, "rounds": 1, "why": "no time"}]}
    assert "| bm25, further ways | not measured: no time |" in latency_tables.details(few, "")
    assert "| 1.23 ms | in range |" in latency_tables.overview(few, "")
    assert "| bm25, k = 100 | 1.23 ms | one round |  |  | 0.5 ms | 19 |" in latency_tables.details(few, "")


def test_a_plans_table_says_what_was_kept() -> None:
    row = {
        "theirs": 50.0,
        "plan": "bm25, cross-encoder@20",
        "ours": 41.25,
        "expected": {"ndcg@10": 0.6125},
        "ndcg@10": 0.6011,
        "p50_off": -0.05,
    }
    row |= {
        "predicted_p50_ms": 30.0,
        "predicted_p95_ms": 44.0,
        "realised_p50_ms": 28.5,
        "collection": "scifact",
        "queries": 300,
        "threads": 2,
    }
    none = {"case": "p95<=5", "why": "nothing is so quick"}
    text = latency_tables.plan([row, none, {"ours": 1, "theirs": 2, "within_20_percent": 1}], "today")
    assert "| 5 ms | none: nothing is so quick | | | | |" in text
    assert "| 50 ms | bm25, cross-encoder@20 | 30 ms / 44 ms | 28.5 ms / 41.2 ms | -5 % | 0.6125 / 0.6011 |" in text
    assert "1 of 2 budgets were kept at p95; 1 of 1 p50 lie within 20 % of the predicted one. scifact, 300 queries" in text
    assert text.endswith("today.")


def write(folder: Path, name: str, **changed: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({**FOUND, **changed}))


def test_looks_are_not_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(render, "ROOT", tmp_path)
    folder = tmp_path / "results"
    write(folder, "2026-12-03.json", quick=True)
    write(folder, "2026-12-04.json", rows=[])
    assert render.main(str(folder)) == 1
    assert "2026-12-04.json is a look" in capsys.readouterr().err
    write(folder, "2026-12-02.json")
    assert render.last(str(folder), render.DATED) == folder / "2026-12-02.json"
    for number in (2, 10):
        write(folder, f"2026-12-02-{number}.json")
    assert render.last(str(folder), render.DATED) == folder / "2026-12-02-10.json"


def test_a_missing_marker_writes_nothing_and_dated_results_say_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "ROOT", tmp_path)
    monkeypatch.setattr(render, "PLACES", {name: render.PLACES[name] for name in ("latency", "latency-details")})
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("<!-- BEGIN latency -->\n<!-- END latency -->\n")
    (tmp_path / "docs" / "latency.md").write_text("no marker")
    write(tmp_path / "results", "2026-12-02.json", facts={**FACTS, "versions": {"onnxruntime": "1.2"}})
    assert render.main(str(tmp_path / "results")) == 1
    assert "BM25" not in (tmp_path / "README.md").read_text()
    assert render.machine(str(tmp_path / "results")) == "2026-11-27, onnxruntime 1.2, AMD EPYC (avx2)"


def test_a_second_run_of_a_day_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for _ in range(3):
        path = suite.unused(tmp_path / "2026-12-02.json")
        path.write_text("")
        names.append(path.name)
    assert names == ["2026-12-02.json", "2026-12-02-2.json", "2026-12-02-3.json"]
    for options in (["--quick"], ["--parts", "table"]):
        monkeypatch.setattr(sys, "argv", ["suite", *options])
        with pytest.raises(SystemExit):
            suite.main()


def test_the_newest_results_are_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(render, "ROOT", tmp_path)
    monkeypatch.setattr(render, "PLACES", {name: render.PLACES[name] for name in ("latency", "latency-details")})
    monkeypatch.setattr(render, "PLOTS", {"latency.png": render.PLOTS["latency.png"]})
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("a\n<!-- BEGIN latency -->\nold\n<!-- END latency -->\nb\n")
    (tmp_path / "docs" / "latency.md").write_text("<!-- BEGIN latency-details -->\n<!-- END latency-details -->\n")
    folder = tmp_path / "results"
    folder.mkdir()
    for day, label in (("2026-11-27", "older"), ("2026-12-01", "newer")):
        found = {**FOUND, "rows": [{**FOUND["rows"][0], "label": label}, FOUND["rows"][1]]}
        (folder / f"{day}.json").write_text(json.dumps(found))
    written = []
    for _ in range(2):
        assert render.main(str(folder), plots=True) == 0
        written.append(((tmp_path / "README.md").read_text(), (folder / "latency.png").read_bytes()))
    text, picture = written[0]
    assert written[1] == written[0]
    assert "| newer |" in text
    assert "older" not in text
    assert text.startswith("a\n")
    assert text.endswith("b\n")
    assert picture.startswith(b"\x89PNG")


def test_rows_are_amended_in_a_copy_of_the_newest_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured before stays as it was, in its own file too."""
    row = {"row": "llm-listwise@20", "label": "LLM", **RANGE, "verdict": "not measured", "why": "no model"}
    other = {**row, "row": "bm25", "why": "another"}
    micro = {**dict.fromkeys(("bench", "case", "peer", "metric", "ours", "theirs", "ratio", "spread", "verified")), "row": "ltr"}
    kept = {**micro, "row": "bm25"}
    whole = {
        "schema": 1, "facts": {"date": "2026-01-01", "git": "old", "machine": {"processor": "p", "threads": 2}}, "load_before": 0.0,
        "load_after": 0.0, "threads": 2, "quick": False, "rows": [other, row], "micro": [kept, micro],
    }  # fmt: skip
    now = {**whole["facts"], "git": "new", "date": "2026-01-02"}
    place = results.place(tmp_path / "benchmarks" / "results", now)
    results.save(place.with_name("2026-01-01.json"), whole)
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(suite.facts, "facts", lambda: now)
    monkeypatch.setattr(suite, "table", lambda path, quick, names: ({"rows": [{**row, "why": f"measured: {names}"}]}, 0))
    monkeypatch.setattr(suite, "told_by", lambda command: ([{**micro, "case": command[-1]}], 0))
    assert suite.amend(["llm-listwise@20", "ltr"]) == 0
    made = results.load(place)
    assert [one["why"] for one in made["rows"]] == ["another", "measured: ['llm-listwise@20']"]
    assert made["micro"] == [kept, {**micro, "case": "llm-listwise@20,ltr"}]
    assert made["amended"] == dict.fromkeys(("llm-listwise@20", "ltr"), "2026-01-02, new") and made["facts"]["git"] == "old"
    assert results.load(place.with_name("2026-01-01.json")) == whole
