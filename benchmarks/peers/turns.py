"""Sides in processes of their own, verified, then timed in turns, input by input; rows as harness.py makes them.

A side that is not installed, answers wrongly, fails or hangs has a row that says so, with no numbers, and the others go on.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import cross
from benchmarks.harness import ONE_THREAD, Row, note, row
from benchmarks.jobs import Arrays, Checked, Job
from benchmarks.peers import HERE, OURS, Entry, of
from rerank_engine.backends import OPS, choose

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 1800.0  # to load, which may build an index of a million documents
Times = NDArray[np.float64]
ENVIRONMENT = {**ONE_THREAD, "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


class NotMeasured(Exception):
    """Why a side has no numbers."""


class Side:
    """A worker process and what it has told."""

    def __init__(self, entry: Entry, job: Job) -> None:
        python = Path(sys.executable) if entry.venv == HERE else ROOT / entry.venv / "bin" / "python"
        if not python.exists():
            raise NotMeasured(f"{entry.venv} is not there: `make bench` makes it")
        self.entry, self.job = entry, job
        self.cpu_ms: list[float] = []
        self.wall_ms: list[float] = []
        self.error, self.overlap = 0.0, 1.0
        command = [str(python), "-m", "benchmarks.peers.worker"]
        environment = {**os.environ, **ENVIRONMENT, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.version = self.ask("load", entry=asdict(entry), kind=type(job).__name__, job=asdict(job))["version"]

    def ask(self, do: str, **told: Any) -> dict[str, Any]:
        """Raises NotMeasured for whatever keeps it from answering; the process is then ended."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write((json.dumps({"do": do, **told}) + "\n").encode())
            if not select.select([self.process.stdout], [], [], PATIENCE_S)[0]:
                raise NotMeasured(f"no answer within {PATIENCE_S:.0f} s")
            reply: dict[str, Any] = json.loads(self.process.stdout.readline() or '{"error": "its process ended"}')
            if why := reply.get("missing"):
                raise NotMeasured(f"{self.entry.package} is not installed ({why})")
            if why := reply.get("error"):
                raise NotMeasured(str(why))
        except (NotMeasured, OSError) as error:
            self.end()
            raise NotMeasured(str(error)) from error
        return reply

    def verify(self) -> None:
        """Raises NotMeasured for a wrong answer."""
        for number in range(self.job.checked):
            checked = self.job.check(self.entry, number, self.answer(number))
            self._note(checked)
            if not checked.right:
                self.end()
                found = f"{100 * (1 - checked.error):.1f} % of the right documents" if checked.overlap else f"{checked.error:.3g} off"
                raise NotMeasured(f"its answer is wrong: {found}")

    def _note(self, checked: Checked) -> None:
        if checked.overlap:
            self.overlap = min(self.overlap, 1 - checked.error)
        else:
            self.error = max(self.error, checked.error)

    def answer(self, number: int) -> Arrays:
        with tempfile.NamedTemporaryFile(suffix=".npz") as file:
            self.ask("answer", number=number, file=file.name)
            with np.load(file.name) as stored:
                return [stored[name] for name in stored.files]

    def time(self, numbers: Sequence[int]) -> str | None:
        """Adds times of these inputs; why not, where it failed."""
        try:
            found = self.ask("time", numbers=list(numbers))
        except NotMeasured as error:
            return str(error)
        self.cpu_ms += found["cpu_ms"]
        self.wall_ms += found["wall_ms"]
        return None

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def measured(job: Job, names: Sequence[str] | None = None, budget_s: float = 60.0) -> Iterator[Row]:
    """Rows of the peers of a job (names: of these; None: of those that are timed unasked). A side that has used up `budget_s` of processor
    time has no further turns, and its ratios are over the inputs that both have answered. Raises NotMeasured where ours has none:
    there is nothing then to hold a peer's against."""
    written(job)
    entries = [e for e in of(job.kind) if e.name == OURS or (e.default if names is None else e.name in names)]
    sides: dict[str, Side] = {}
    try:
        for entry in entries:
            ready = verified(entry, job)
            if isinstance(ready, Side):
                sides[entry.name] = ready
            elif entry.name == OURS:
                raise NotMeasured(f"ours is not measured: {ready}")
            else:
                yield not_measured(job, entry.name, ready)
        yield from _timed(job, sides, budget_s)
    finally:
        for side in sides.values():
            side.end()


def verified(entry: Entry, job: Job) -> Side | str:
    """A side that answers rightly; why there is none."""
    try:
        side = Side(entry, job)
        side.verify()
    except NotMeasured as error:
        return str(error)
    return side


def _timed(job: Job, sides: dict[str, Side], budget_s: float) -> Iterator[Row]:
    numbers = list(range(job.numbers)) * job.rounds
    for turn, begin in enumerate(range(0, len(numbers), job.block)):
        block = numbers[begin : begin + job.block]
        for name in list(cross.turns(list(sides), turn)):
            side = sides[name]
            if sum(side.cpu_ms) > budget_s * 1e3:
                continue
            if (why := side.time(block)) is not None:
                if name == OURS:
                    raise NotMeasured(f"ours is not measured: {why}")
                del sides[name]
                yield not_measured(job, name, why)
    ours = sides.pop(OURS)
    for side in sides.values():
        yield _row(job, ours, side)


def _row(job: Job, ours: Side, theirs: Side) -> Row:
    n = min(len(ours.cpu_ms), len(theirs.cpu_ms))
    a, b = np.array(ours.cpu_ms[:n]), np.array(theirs.cpu_ms[:n])
    more: dict[str, Any] = {
        "p95": [round(float(np.percentile(x, 95)), 6) for x in (a, b)],
        "wall_ms": [round(float(np.median(x[:n])), 6) for x in (ours.wall_ms, theirs.wall_ms)],
        "difference": [float(f"{side.error:.2g}") for side in (ours, theirs)],
        "timings": n,
        "version": f"{theirs.entry.package} {theirs.version}",
    }
    if theirs.overlap < 1:
        more["overlap"] = round(theirs.overlap, 4)
    backend = choose(job.kind) if job.kind in OPS else "as loaded by default"
    spread = np.percentile(b / a, [25, 75]).tolist()
    return row(job.kind, job.case, theirs.entry.name, "cpu_ms", float(np.median(a)), float(np.median(b)), spread, backend, **more)


def not_measured(job: Job, peer: str, why: str) -> Row:
    note(f"{job.case} against {peer}: not measured: {why}")
    return unmeasured(job.kind, job.case, peer, why)


def unmeasured(bench: str, case: str, peer: str, why: str) -> Row:
    """A row without numbers that says why."""
    numbers = dict.fromkeys(("ours", "theirs", "ratio", "spread"))
    return {"bench": bench, "case": case, "peer": peer, "metric": "cpu_ms", **numbers, "verified": False, "why": why}


def written(job: Job) -> None:
    """Writes the input files of a job, whole or not at all, unless they are there."""
    folder, told = job.folder, json.dumps(job.input, sort_keys=True)
    if (folder / "job.json").is_file() and (folder / "job.json").read_text() == told:
        return
    note(f"{job.case}: its input goes to {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    job.write()
    (folder / "job.json").write_text(told)
