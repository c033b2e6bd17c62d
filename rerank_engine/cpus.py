"""How many threads this process may use, so that a library never sizes a pool to the host: affinity and the cgroup's quota decide."""

from __future__ import annotations

import functools
import math
import os
import time
from pathlib import Path

from .errors import InputError

CGROUP_ROOT = Path("/sys/fs/cgroup")
MOST_THREADS = 1024  # a slip of the keyboard must not take the machine down


def available_cpus() -> int:
    """Processors this process may run on: min(affinity, cgroup CPU quota rounded up), at least 1."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(int(time.monotonic()))
    return max(1, cpus if quota is None else min(cpus, math.ceil(quota)))


def resolve_threads(threads: int | None) -> int:
    """`None` -> available_cpus(); a number is taken as it is. Raises InputError below 1 or above MOST_THREADS."""
    if threads is None:
        return available_cpus()
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise InputError("threads", got=threads, expected=f"an integer from 1 to {MOST_THREADS}, or None for what this process may use")
    return threads


@functools.lru_cache(maxsize=1)
def _quota(second: int) -> float | None:
    """This process's, read once a second: that takes longer than a short op."""
    return cgroup_quota(CGROUP_ROOT, Path("/proc/self/cgroup"))


def cgroup_quota(root: Path, membership: Path) -> float | None:
    """The tightest CPU quota, in processors, among this process's cgroup and its parents (version 2 and 1), or None without one."""
    quotas = []
    for line in _lines(membership):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":  # version 2
            quotas += [_v2(folder) for folder in _upwards(root, path)]
        elif "cpu" in controllers.split(","):
            quotas += [_v1(folder) for base in (root / "cpu", root / controllers) for folder in _upwards(base, path)]
    found = [q for q in quotas if q is not None]
    return min(found) if found else None


def _upwards(root: Path, path: str) -> list[Path]:
    """The folder of a cgroup and of all its parents. Inside a container the path may not exist: then the root alone tells."""
    parts = [p for p in path.split("/") if p and p != ".."]
    return [root.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]


def _v2(folder: Path) -> float | None:
    fields = " ".join(_lines(folder / "cpu.max")).split()
    return _ratio(fields[0], fields[1]) if len(fields) == 2 else None


def _v1(folder: Path) -> float | None:
    return _ratio(" ".join(_lines(folder / "cpu.cfs_quota_us")), " ".join(_lines(folder / "cpu.cfs_period_us")))


def _ratio(quota: str, period: str) -> float | None:
    try:
        q, p = int(quota), int(period)
    except ValueError:  # "max", or no such file
        return None
    return q / p if q > 0 and p > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().split("\n")
    except OSError:
        return []
