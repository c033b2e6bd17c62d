"""What opening a saved index costs a fresh process: `python -m benchmarks.open_cost PEER FOLDER` prints wall ms and resident bytes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import peers

STATUS = Path("/proc/self/status")


def resident(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(name: str, folder: Path) -> dict[str, float]:
    peer = peers.load(name)
    if peer is None:
        raise SystemExit(1)
    before = resident("VmRSS")
    start = time.perf_counter()
    peer.open(folder)
    ms = (time.perf_counter() - start) * 1e3
    return {"wall_ms": ms, "rss_bytes": resident("VmRSS") - before, "peak_bytes": max(0, resident("VmHWM") - before)}


def in_a_process(name: str, folder: Path, times: int) -> dict[str, float] | None:
    """Medians over so many processes, or None where the system does not tell a process its memory."""
    if not STATUS.is_file():
        return None
    command = [sys.executable, "-m", "benchmarks.open_cost", name, str(folder)]
    root = Path(__file__).resolve().parents[1]
    found = [json.loads(subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE).stdout) for _ in range(times)]
    return {key: float(np.median([one[key] for one in found])) for key in found[0]}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
