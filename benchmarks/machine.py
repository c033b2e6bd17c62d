"""What figures were measured on: `python -m benchmarks.machine > benchmarks/results/<machine>/machine.json`."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import date
from importlib.metadata import distributions, version
from typing import Any

from rerank_engine import _native
from rerank_engine.cpus import available_cpus

VERSIONS = (
    "rerank-engine",
    "onnxruntime",
    "numpy",
    "tokenizers",
    "torch",
    "triton",
    "maxsim-cpu",
    "numkong",
    "pylate",
    "colbert-ai",
    "late-interaction-kernels",
    "flash-maxsim",
    "transformers",
    "sentence-transformers",
    "optimum-onnx",
    "openvino",
)


def facts() -> dict[str, Any]:
    """{"date", "git", "machine", "versions"}, of what is installed."""
    installed = {distribution.name for distribution in distributions()}
    versions = {name: version(name) for name in VERSIONS if name in installed}
    sha = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    named = f"{processor()} ({_native.usable_isas()[-1]})"
    machine = {"processor": named, "system": platform.platform(terse=True), "threads": available_cpus()}
    if "torch" in installed:
        import torch

        if torch.cuda.is_available():
            machine["gpu"] = torch.cuda.get_device_name()
    return {"date": date.today().isoformat(), "git": sha, "machine": machine, "versions": versions}


def processor() -> str:
    """The processor's name as Linux tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    print(json.dumps(facts(), indent=1))
