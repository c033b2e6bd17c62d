"""Bulk re-ranking on Ray: the bytes of the local pool, whatever is killed: actors at random moments, or the whole command."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from bulk_jobs import BUNDLED, N, in_here, job, write_files, write_real_files

from rerank_engine import bulk, cluster
from rerank_engine.errors import InputError, MissingDependency, RerankError, UnsupportedModelError
from rerank_engine.runtimes.files import resolve

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
DEPTH = 40


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def real(tmp_path: Path) -> Callable[[int], tuple[dict[str, str], bytes]]:
    """Files of n parts for the bundled model, with what two processes of this machine make of them."""
    try:
        resolve(BUNDLED)
    except MissingDependency as error:
        pytest.skip(str(error))

    def made(n: int) -> tuple[dict[str, str], bytes]:
        found = write_real_files(tmp_path, n, DEPTH)
        bulk.rerank_run(job(found, tmp_path / "right", part=1, depth=DEPTH), workers=2, threads=1)
        return found, (tmp_path / "right" / "run.trec").read_bytes()

    return made


def children(pid: int) -> list[int]:
    told = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in told.split()]


def actors(driver: int) -> list[int]:
    """The processes that hold a model, of the Ray that this process has started: another one may run on this machine."""
    return [pid for raylet in children(driver) for pid in children(raylet) if b"_Actor" in cmdline(pid)]


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def written(out: Path) -> dict[str, tuple[int, int]]:
    """What would change if a part were written again."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("part-*.json")}


def in_thread(asked: bulk.Job, told: list[Any]) -> threading.Thread:
    def run() -> None:
        try:
            told.append(bulk.rerank_run(asked, workers=2, threads=1, each=cluster.on_ray))
        except Exception as error:
            told.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_the_same_bytes_as_in_one_process(files, tmp_path):
    bulk.rerank_run(job(files, tmp_path / "right"), each=in_here)
    told = bulk.rerank_run(job(files, tmp_path / "out"), workers=2, each=cluster.on_ray)
    assert (tmp_path / "out" / "run.trec").read_bytes() == (tmp_path / "right" / "run.trec").read_bytes()
    assert told["queries"] == N and sorted(row["part"] for row in told["parts_told"]) == list(range(6))
    assert set(told["parts_told"][0]) == {"part", "queries", "process", "pairs", "seconds"}


@pytest.mark.slow
def test_killed_actors_lose_nothing_and_repeat_no_finished_part(real, tmp_path, thorough):
    kills = 20 if thorough else 4
    files, right = real(4 * kills)
    out, told, chance, seen, killed = tmp_path / "out", list[Any](), random.Random(0), dict[str, tuple[int, int]](), 0
    thread, wanted, due = in_thread(job(files, out, part=1, depth=DEPTH), told), 1, 0.0
    while thread.is_alive():
        time.sleep(0.01)
        seen = {**written(out), **seen}
        if killed < kills and len(seen) >= wanted:  # a part more than at the last kill
            due = due or time.monotonic() + chance.uniform(0, 0.8)
            if time.monotonic() >= due and (found := actors(os.getpid())):
                os.kill(chance.choice(found), signal.SIGKILL)
                killed, wanted, due = killed + 1, len(seen) + 1, 0.0
    thread.join()
    if isinstance(told[0], Exception):
        raise told[0]
    assert killed == kills and (out / "run.trec").read_bytes() == right
    assert written(out) == seen and len(seen) == 4 * kills
    assert sorted(row["part"] for row in told[0]["parts_told"]) == list(range(4 * kills))


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(real, tmp_path):
    files, right = real(12)
    out, paths = tmp_path / "out", [files[name] for name in ("run", "queries", "corpus")]
    command = [sys.executable, "-m", "rerank_engine.cli", "rerank-run", paths[0], "--queries", paths[1], "--corpus", paths[2], "--json"]
    command += ["--out", str(out), "--part", "1", "--depth", str(DEPTH), "--workers", "2", "--ray"]
    how: dict[str, Any] = {"env": {**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": os.pathsep.join(sys.path)}, "text": True}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **how) as parent:
        end = time.monotonic() + 120
        while len(written(out)) < 3:
            assert time.monotonic() < end and parent.poll() is None
            time.sleep(0.01)
        left = [*children(parent.pid), *actors(parent.pid)]
        parent.kill()
    assert len(left) > 2
    while any(cmdline(pid) for pid in left):
        assert time.monotonic() < end, [cmdline(pid) for pid in left]
        time.sleep(0.1)
    seen = written(out)
    assert 3 <= len(seen) < 12 and not (out / "run.trec").exists()
    done = subprocess.run(command, capture_output=True, check=True, timeout=200, **how)
    told = json.loads(done.stdout)  # and nothing else is printed there
    assert told["done_before"] == len(seen) and len(told["parts_told"]) == 12 - len(seen)
    assert (out / "run.trec").read_bytes() == right and written(out).items() >= seen.items()


@pytest.mark.parametrize(("options", "error"), [({"prompt": "nope"}, InputError), ({}, UnsupportedModelError)])
def test_a_model_that_does_not_load_says_why(files, tmp_path, options, error):
    with pytest.raises(error, match="prompt"):
        bulk.rerank_run(job(files, tmp_path, options=options), workers=2, threads=1, each=cluster.on_ray)
    assert not list(tmp_path.glob("part-*"))


@pytest.mark.slow
def test_actors_that_die_again_and_again_end_the_job(real, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "RESTARTS", 1)
    told = list[Any]()
    thread = in_thread(job(real(4)[0], tmp_path / "out", part=1, depth=DEPTH), told)
    while thread.is_alive():
        for pid in actors(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
    thread.join()
    assert isinstance(told[0], RerankError) and "Memory may be short" in str(told[0])


def test_batches_of_arrow_in_map_batches(ray, tmp_path):
    try:
        resolve(BUNDLED)
    except MissingDependency as error:
        pytest.skip(str(error))
    import pyarrow

    texts: Sequence[str | None] = ["Fleas bite dogs.", "A flea bath helps.", None, "A rose."]
    data = ray.data.from_arrow(pyarrow.table({"query": ["flea bath"] * 4, "document": texts})).repartition(2)
    data.context.enable_progress_bars = False
    found = data.map_batches(lambda batch: bulk.score_batches([batch], BUNDLED), batch_format="pyarrow").take_all()
    [right] = bulk.score_batches([{"query": ["flea bath"] * 4, "document": texts}], BUNDLED)
    assert {row["document"]: row["score"] for row in found} == pytest.approx(dict(zip(texts, right["score"].tolist())))
