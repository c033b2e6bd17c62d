"""A process that does one job for one library: `python -m benchmarks.peers.worker`, in the environment that the library needs.

It takes a JSON line at a time on standard input and answers each with one:

    {"do": "load", "entry": {...}, "kind": "MaxSim", "job": {...}}   of registry.py; class and arguments   -> {"version": of the library}
    {"do": "answer", "number": 0, "file": PATH}   writes its answer there (.npz)      -> {}
    {"do": "time", "numbers": [0, 1]}                                                 -> {"cpu_ms": [...], "wall_ms": [...]}

or with {"missing": why}, where the library is not installed, or {"error": why}. cpu_ms: processor time of all threads of this process.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import jobs
from benchmarks.peers import Entry


class Worker:
    entry: Entry
    job: jobs.Job
    call: Callable[[int], Any]

    def __init__(self) -> None:
        self.times: dict[int, int] = {}

    def load(self, entry: dict[str, Any], kind: str, job: dict[str, Any]) -> dict[str, Any]:
        self.entry, self.job = Entry(**entry), getattr(jobs, kind)(**job)
        self.call = self.job.side(self.entry)
        return {"version": importlib.metadata.version(self.entry.package)}

    def answer(self, number: int, file: str) -> dict[str, Any]:
        np.savez(file, *self.job.arrays(self.entry, self.call(number)))
        return {}

    def time(self, numbers: list[int]) -> dict[str, Any]:
        ms: dict[str, list[float]] = {"cpu_ms": [], "wall_ms": []}
        for number in numbers:
            times = self._times(number)
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(times):
                self.call(number)
            ms["cpu_ms"].append((time.process_time() - cpu) * 1e3 / times)
            ms["wall_ms"].append((time.perf_counter() - wall) * 1e3 / times)
        return {**ms}

    def _times(self, number: int) -> int:
        """How often a call is repeated in one timing; found once, by a call that also warms up."""
        if self.job.least_ms <= 0:
            return 1
        if number not in self.times:
            begin = time.perf_counter()
            self.call(number)
            self.times[number] = max(1, round(self.job.least_ms / 1e3 / max(time.perf_counter() - begin, 1e-7)))
        return self.times[number]


def main() -> None:
    worker = Worker()
    gc.disable()  # as timeit does: a collection would hit one side by chance
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # whatever a library prints
        for line in sys.stdin:
            told = json.loads(line)
            try:
                reply = getattr(worker, told.pop("do"))(**told)
            except ModuleNotFoundError as error:
                reply = {"missing": str(error)}
            except Exception as error:  # a peer may fail in any way: the others go on
                reply = {"error": f"{type(error).__name__}: {error}"[:500]}
            print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    main()
