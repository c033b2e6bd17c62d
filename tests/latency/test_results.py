"""Files of results: whole or not at all, and refused where they are not what they should be."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from rerank_engine.errors import FileFormatError, InputError
from rerank_engine.latency import ROWS, results, verdict

WAY = {
    "way": "bm25, k = 100",
    **{"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 2.5, "cpu_ms": 0.9, "spread_ms": [0.9, 1.1], "cpu_spread_ms": [0.8, 1.0], "calls": 10},
    "parts": {"search": {"p50_ms": 0.9, "cpu_ms": 0.9, "spread_ms": [0.8, 1.0], "cpu_spread_ms": [0.8, 1.0]}, "the rest": {"p50_ms": 0.1}},
    **{"documents": 1000, "tokens": 150, "threads": 1, "device": "cpu", "model": "lucene", "backend": "cpp", "settings": {"k": 100}},
}
FOUND: dict[str, Any] = {
    "schema": 1,
    "facts": {"date": "2026-11-27", "git": None, "machine": {"processor": "AMD EPYC (avx512vnni)", "threads": 2}, "versions": {}},
    **{"load_before": 0.1, "load_after": 1.0, "threads": 2, "quick": True, "micro": []},
    "rows": [
        {"row": "bm25", "label": "BM25", "published_ms": [1, 10], "verdict": "in range", **WAY},
        {"row": "llm-listwise@20", "label": "LLM", "published_ms": [2000, 10_000], "verdict": "not measured", "why": "no model"},
    ],
}


def changed(*path: Any, value: Any) -> dict[str, Any]:
    made = at = copy.deepcopy(FOUND)
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return made


def test_what_is_saved_is_loaded_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = results.place(tmp_path, FOUND["facts"])
    assert path == tmp_path / "amd-epyc-avx512vnni-2core" / "2026-11-27.json"
    results.save(path, FOUND)
    results.save(path, changed("threads", value=1))  # over the first
    assert results.load(path) == changed("threads", value=1)
    assert list(path.parent.iterdir()) == [path]
    gpu = {**FOUND["facts"], "machine": {**FOUND["facts"]["machine"], "gpu": "NVIDIA H200"}}
    assert results.place("x", gpu) == Path("x/nvidia-h200/2026-11-27.json")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("schema",), 2, "schema 2"),
        (("rows",), None, "rows None"),
        (("facts",), [], "facts"),
        (("rows", 0, "verdict"), "good", "'good'"),
        (("rows", 0, "p95_ms"), float("nan"), "p95_ms"),
        (("rows", 0, "cpu_ms"), None, "cpu_ms"),
        (("rows", 0, "way"), None, "way"),
        (("rows", 1, "why"), "", "no reason"),
        (("rows", 1), 3, "an object"),
        (("micro",), [{"bench": "topk"}], "without case"),
    ],
)
def test_other_files_are_refused_before_anything_is_written(tmp_path: Path, path: tuple[Any, ...], value: Any, said: str) -> None:
    with pytest.raises(FileFormatError, match=said):
        results.save(tmp_path / "new" / "file.json", changed(*path, value=value))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can be made and written to"):
        results.require_place(tmp_path / "file" / "results.json")
    path = tmp_path / "new" / "results.json"
    assert results.require_place(path) == path
    assert not list(path.parent.iterdir())


def test_files_that_cannot_be_read_say_which(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text(json.dumps(FOUND)[:-20])
    for name in ("half.json", "none.json"):
        with pytest.raises(FileFormatError, match=name):
            results.load(tmp_path / name)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(FileFormatError, match="JSON object"):
        results.load(tmp_path / "list.json")
    with pytest.raises(InputError, match="a folder"):
        results.save(tmp_path, FOUND)


def test_a_verdict_is_where_the_median_lies() -> None:
    row = next(row for row in ROWS if row.name == "colbert-maxsim@1000")
    low, high = row.published_ms
    assert [verdict(row, ms) for ms in (low - 0.1, low, high, high + 0.1)] == ["better", "in range", "in range", "worse"]
    assert verdict(row, None) == "not measured"


def test_the_table_is_the_fields() -> None:
    assert {row.name: row.published_ms for row in ROWS} == {
        "bm25": (1, 10),
        "bi-encoder-ann": (10, 100),
        "cross-encoder@100": (100, 1000),
        "cross-encoder@1000": (1000, 5000),
        "colbert-maxsim@1000": (50, 200),
        "llm-listwise@20": (2000, 10_000),
    }
