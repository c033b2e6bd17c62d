"""Peers in processes of their own: what is right is timed, what is wrong, absent or broken has a row that says so, and the rest goes on."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("benchmarks") is None:
    sys.path.append(str(ROOT))

from benchmarks import harness, jobs, peer_tables, rows  # noqa: E402
from benchmarks.peers import ENTRIES, OURS, Entry, turns  # noqa: E402
from rerank_engine.latency import ROWS  # noqa: E402

MINE = Entry(OURS, "maxsim", "ours:maxsim", "numpy", 1e-5)
SAME = Entry("same", "maxsim", "with_numpy:reduceat", "numpy", 1e-4)


def job(folder: Path) -> jobs.MaxSim:
    return jobs.MaxSim("toy", documents=20, rounds=3, least_ms=0.5, root=str(folder))


def measured(folder: Path, monkeypatch: pytest.MonkeyPatch, *entries: Entry) -> dict[str, Any]:
    monkeypatch.setattr(turns, "of", lambda kind: list(entries))
    return {row["peer"]: row for row in turns.measured(job(folder))}


def test_only_what_answers_rightly_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(
        tmp_path,
        monkeypatch,
        MINE,
        SAME,
        Entry("wrong", "maxsim", "with_numpy:loop", "numpy", 1e-12),
        Entry("absent", "maxsim", "with_numpy:loop", "numpy", 1e-4, ".venv-that-nobody-made"),
        Entry("without its library", "maxsim", "with_of_no_library:loop", "numpy", 1e-4),
        Entry("broken", "maxsim", "ours:flat", "numpy", 1e-4),
        Entry("unasked", "maxsim", "with_numpy:loop", "numpy", 1e-4, default=False),
    )
    right = found.pop("same")
    assert right["verified"] and right["timings"] == 3 and right["ratio"] > 0 and right["spread"][0] <= right["spread"][1]
    assert right["version"] == f"numpy {np.__version__}" and right["difference"][1] < 1e-4
    assert set(found) == {"wrong", "absent", "without its library", "broken"}
    assert all(row["ratio"] is None and not row["verified"] for row in found.values())
    assert "its answer is wrong" in found["wrong"]["why"] and "not installed" in found["without its library"]["why"]
    assert "nobody-made" in found["absent"]["why"] and "TypeError" in found["broken"]["why"]
    assert "not measured: its answer" in harness.table(list(found.values()))


def test_ours_must_be_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Entry(OURS, "maxsim", "ours:maxsim", "numpy", 1e-12)
    with pytest.raises(turns.NotMeasured, match="ours is not measured"):
        measured(tmp_path, monkeypatch, wrong, SAME)
    failed = list[str]()
    (row,) = rows.done(job(tmp_path), None, 1, failed)
    assert row["peer"] == "all" and not row["verified"] and "ours is not measured" in row["why"] and failed == ["toy"]


def test_ours_that_fails_when_it_is_timed_ends_its_job_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time = turns.Side.time
    monkeypatch.setattr(turns.Side, "time", lambda side, numbers: "it fell over" if side.entry.name == OURS else time(side, numbers))
    with pytest.raises(turns.NotMeasured, match="it fell over"):
        measured(tmp_path, monkeypatch, MINE, SAME)


def test_an_approximate_peer_must_rank_as_the_reference_does() -> None:
    want = np.linspace(-11, 8, 100)
    near = Entry("approximate", "int8", "", "", 25.0, best=0.8)
    assert jobs._scored(near, want + np.random.default_rng(0).uniform(-0.1, 0.1, 100), want).right
    shuffled = jobs._scored(near, np.random.default_rng(0).permutation(want), want)
    assert not shuffled.right and shuffled.overlap and shuffled.error > 0.2
    for entry in ENTRIES:
        assert entry.error < 1 or entry.best >= 0.8


def test_a_process_that_ends_is_told(tmp_path: Path) -> None:
    turns.written(job(tmp_path))
    side = turns.Side(MINE, job(tmp_path))
    side.process.kill()
    with pytest.raises(turns.NotMeasured):
        side.ask("time", numbers=[0])


def test_input_is_written_once_and_again_for_another_job(tmp_path: Path) -> None:
    turns.written(job(tmp_path))
    file = tmp_path / "toy" / "tokens.npz"
    made = file.stat().st_mtime_ns
    turns.written(job(tmp_path))
    assert file.stat().st_mtime_ns == made
    turns.written(jobs.MaxSim("toy", documents=21, root=str(tmp_path)))
    assert len(np.load(file)["offsets"]) == 22


def test_every_row_of_the_latency_table_has_peers_or_a_reason() -> None:
    for row in ROWS:
        for quick in (False, True):
            found = rows.jobs_of(row.name, quick)
            assert found or row.name in rows.WITHOUT
            assert all(any(e.kind == one.kind and e.name != OURS and e.default for e in ENTRIES) for one in found)
    assert {e.kind for e in ENTRIES if e.default} == {one.kind for name in rows.NAMES for one in rows.jobs_of(name, True)}


def test_every_entry_has_its_own_small_module() -> None:
    for entry in ENTRIES:
        module, _, name = entry.made_by.partition(":")
        text = (ROOT / "benchmarks" / "peers" / f"{module}.py").read_text()
        assert f"def {name}(" in text or f"class {name}(" in text


def test_tables_and_pictures_of_results(tmp_path: Path) -> None:
    right = harness.row("maxsim", "toy", "same", "cpu_ms", 1.0, 2.0, [1.9, 2.1], version="numpy 2", difference=[0.0, 1e-6], row="colbert")
    wrong = {**turns.unmeasured("maxsim", "toy", "other", "not installed"), "row": "colbert"}
    about: dict[str, Any] = {"load_before": 0.1, "load_after": 0.2, "facts": {"date": "today", "git": None, "machine": {"processor": "P"}}}
    text = peer_tables.peers({**about, "micro": [right, wrong]}, "")
    assert "| colbert: toy | same (numpy 2) | 1 | 2 | **2.0x** | 1.9-2.1 | 0, 1e-06 |" in text and "other: not installed." in text
    curve: dict[str, Any] = {"axis": "corpus", "stage": "BM25", "x": [1000.0, 1e6], "wall_ms": [[1, 2, 3], [4, 5, 6]]}
    curve |= {"predicted_ms": [1.0, 2.0]}
    curve["model"] = {"fixed_ms": 0.5, "per_corpus_ms": 1e-5, "error": 0.04}
    expected = "| corpus | BM25 | 1,000: 2 ms | 1,000,000: 5 ms | 0.5 + 1e-05 a document | 4 % |"
    assert expected in peer_tables.scaling({**about, "scaling": [curve]}, "")
    peer_tables.plot({"scaling": [curve]}, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
