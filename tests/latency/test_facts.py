"""What figures were measured on, and a process that keeps to some of its processors."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from rerank_engine.cpus import available_cpus
from rerank_engine.errors import InputError
from rerank_engine.latency import facts


def test_facts_say_what_ran() -> None:
    told = facts.facts()
    assert json.loads(json.dumps(told)) == told
    assert told["machine"]["threads"] == available_cpus()
    assert told["machine"]["isa"] in told["machine"]["processor"]
    assert told["machine"]["memory_gb"] > 0
    assert "numpy" in told["versions"]
    checkout = (Path(facts.__file__).resolve().parents[2] / ".git").exists()
    assert bool(told["git"]) == checkout


def test_a_pinned_process_keeps_to_its_processors_with_all_its_threads() -> None:
    before, stop, other = os.sched_getaffinity(0), threading.Event(), list[int]()
    thread = threading.Thread(target=lambda: (other.append(threading.get_native_id()), stop.wait()))
    thread.start()
    while not other:
        pass
    try:
        with facts.pinned(1) as threads:
            assert threads == available_cpus() == 1
            assert os.sched_getaffinity(other[0]) == os.sched_getaffinity(0)
        assert os.sched_getaffinity(0) == os.sched_getaffinity(other[0]) == before
        with facts.pinned(None) as threads:
            assert threads == available_cpus()
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("threads", [0, 1000])
def test_no_more_processors_than_there_are(threads: int) -> None:
    with pytest.raises(InputError, match="threads"), facts.pinned(threads):
        pass


def test_free_memory_is_what_the_tightest_limit_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "CGROUP_ROOT", tmp_path)
    assert facts.free_memory() > 0
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert facts.free_memory() == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert facts.free_memory() > 2000
