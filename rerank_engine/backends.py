"""The two choices of the engine in literal tables: which *backend* runs an op, and which *runtime* runs a model.

`"auto"` takes the first backend whose requirement holds. A backend asked for by name never falls back: it raises BackendUnavailable and
says what is available. Requirements are found by trying (a library that imports may still not run), and a broken install is not a missing
one: an ImportError inside our own module is raised, not reported as "not available".
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from .errors import BackendUnavailable

# Fastest first; every op ends with its reference, which needs only numpy.
OPS: dict[str, dict[str, str]] = {
    "bm25": {"cpp": "rerank_engine.ops.bm25:bm25_cpp", "reference": "rerank_engine.ops.bm25:bm25_reference"},
    "centroid": {
        "triton": "rerank_engine.ops.device_codes:centroid_triton",
        "torch": "rerank_engine.ops.device_codes:centroid_torch",
        "cpp": "rerank_engine.ops.centroid:centroid_cpp",
        "reference": "rerank_engine.ops.centroid:centroid_reference",
    },
    "fuse": {"cpp": "rerank_engine.ops.fuse:fuse_cpp", "reference": "rerank_engine.ops.fuse:fuse_reference"},
    "inner": {"cpp": "rerank_engine.ops.inner:inner_cpp", "reference": "rerank_engine.ops.inner:inner_reference"},
    "maxsim": {
        "triton": "rerank_engine.ops.device:maxsim_triton",
        "torch": "rerank_engine.ops.device:maxsim_torch",
        "cpp": "rerank_engine.ops.maxsim:maxsim_cpp",
        "reference": "rerank_engine.ops.maxsim:maxsim_reference",
    },
    "mmr": {"cpp": "rerank_engine.ops.mmr:mmr_cpp", "reference": "rerank_engine.ops.mmr:mmr_reference"},
    "residual": {
        "triton": "rerank_engine.ops.device_codes:residual_triton",
        "torch": "rerank_engine.ops.device_codes:residual_torch",
        "cpp": "rerank_engine.ops.residual:residual_cpp",
        "reference": "rerank_engine.ops.residual:residual_reference",
    },
    "topk": {"cpp": "rerank_engine.ops.topk:topk_cpp", "reference": "rerank_engine.ops.topk:topk_reference"},
    "trees": {"cpp": "rerank_engine.ops.trees:trees_cpp", "reference": "rerank_engine.ops.trees:trees_reference"},
}

# They score torch tensors where these lie; the others take arrays of numpy.
ON_TENSORS = ("triton", "torch")

# runtime -> the devices it can be asked for, and what finds out whether it runs there
RUNTIMES: dict[str, dict[str, str]] = {
    "onnx": {"cpu": "rerank_engine.runtimes.onnx:probe", "cuda": "rerank_engine.runtimes.onnx:probe"},
    "torch": {"cpu": "rerank_engine.runtimes.network:probe_torch", "cuda": "rerank_engine.runtimes.network:probe_torch"},
    "tensorrt": {"cuda": "rerank_engine.runtimes.network:probe_tensorrt"},
}


def _always() -> str | None:
    return None


@functools.cache
def _native_built() -> str | None:
    """The C++ module. When it is there but broken, its own ImportError is raised."""
    if importlib.util.find_spec("rerank_engine._native") is None:
        return "the C++ module rerank_engine._native is not built: run `pip install .` (or `pip install -e .`) with a C++20 compiler"
    importlib.import_module("rerank_engine._native")
    return None


def _cuda_and_triton() -> str | None:
    """torch with a CUDA device that our kernels are compiled for, and triton; or Triton's interpreter, when it was asked for."""
    for package in ("torch", "triton"):
        if (reason := try_import(package)) is not None:
            return reason
    import torch
    from rerank_kernels.launch import interpreting

    if interpreting():
        return None
    if not torch.cuda.is_available():
        return "no CUDA device (torch.cuda.is_available() is False)"
    from rerank_kernels.config import LIKE, TARGETS

    major, minor = torch.cuda.get_device_capability()
    if f"sm_{major}{minor}" not in {**TARGETS, **LIKE}:
        return f"the device is sm_{major}{minor}; the kernels are built and checked for {', '.join(TARGETS)}"
    return None


# backend -> None, or why it cannot run here
NEEDS: dict[str, Callable[[], str | None]] = {
    "triton": _cuda_and_triton,
    "torch": lambda: try_import("torch"),
    "cpp": _native_built,
    "reference": _always,
}


def try_import(package: str) -> str | None:
    """None if `import package` works, else why not. Catches every Exception: faiss-gpu, for one, raises RuntimeError."""
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name == package.split(".")[0]:
            return f"{package} is not installed"
        return f"import {package} failed: {error}"
    except Exception as error:
        return f"import {package} failed: {type(error).__name__}: {error}"
    return None


def choose(op: str, backend: str = "auto", device: str | None = None) -> str:
    """The name of the backend that will run `op`. device: the type of the device of the torch tensors it gets, None for arrays of numpy.

    Raises BackendUnavailable when a named one cannot. "auto" never takes Triton's interpreter.
    """
    table = OPS[op]
    if backend == "auto":
        return next(name for name in table if _refusal(name, device) is None and not (name == "triton" and _interpreting()))
    reason = _refusal(backend, device) if backend in table else "it has no such backend"
    if reason is not None:
        available = ", ".join(name for name in table if _refusal(name, device) is None)
        hint = " Tensors on a device: DeviceTokens.of(documents, 'cuda')." if device is None and backend in ON_TENSORS else ""
        raise BackendUnavailable(f"{op}: backend '{backend}' asked for, but {reason}", hint=f"Available here: {available}.{hint}")
    return backend


def _refusal(name: str, device: str | None) -> str | None:
    """Why a backend does not run for what lies there, or None."""
    if (name in ON_TENSORS) != (device is not None):
        return "the documents are arrays of numpy" if device is None else f"the documents are tensors on {device}"
    if name == "triton" and device not in ("cuda", "cpu"):
        return f"Triton does not run on {device}"
    reason = NEEDS[name]()
    if reason is None and name == "triton" and device == "cpu" and not _interpreting():
        return "the documents are tensors on the CPU, where Triton runs in its interpreter alone (TRITON_INTERPRET=1)"
    return reason


def _interpreting() -> bool:
    """Whether Triton runs in its interpreter, where it is there at all."""
    if NEEDS["triton"]() is not None:
        return False
    from rerank_kernels.launch import interpreting

    return bool(interpreting())


def implementation(op: str, backend: str = "auto", device: str | None = None) -> Callable[..., Any]:
    """The function that runs `op` on the chosen backend."""
    return _load(OPS[op][choose(op, backend, device)])


@functools.cache
def _load(target: str) -> Callable[..., Any]:
    """The function that "module:name" names."""
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def report() -> list[dict[str, object]]:
    """One row for each op x backend, requirement, runtime x device and optional library, found by trying each of them.

    Row: {"kind": "op" | "backend" | "runtime" | "library" | "cpu", "name", "variant", "ok": bool, "reason": str, "detail": str}.
    """
    rows: list[dict[str, object]] = []

    def add(kind: str, name: str, variant: str, reason: str | None, detail: str = "") -> None:
        rows.append({"kind": kind, "name": name, "variant": variant, "ok": reason is None, "reason": reason or "", "detail": detail})

    reasons = {name: need() for name, need in NEEDS.items()}
    for op, table in OPS.items():
        for backend in table:
            add("op", op, backend, reasons[backend])
    for backend, reason in reasons.items():
        add("backend", backend, "", reason)
    for runtime, devices in RUNTIMES.items():
        for device, target in devices.items():
            reason, detail = _load(target)(device)
            add("runtime", runtime, device, reason, detail)
    for package, use in LIBRARIES.items():
        add("library", package, "", try_import(package), use)
    add("library", "one onnxruntime", "", _both_onnxruntimes(), "onnxruntime and onnxruntime-gpu exclude each other")
    if reasons["cpp"] is None:
        from . import _native
        from .cpus import available_cpus

        add("cpu", "instruction sets", _native.best_isa(), None, f"usable: {', '.join(_native.usable_isas())}")
        from .ops.selfcheck import self_check

        for isa, wrong in self_check().items():
            add("cpu", "self-check", isa, wrong, "late interaction, every storage and path, against the references")
        add("cpu", "threads", str(available_cpus()), None, "from affinity and the cgroup's quota")
    return rows


LIBRARIES = {
    "Stemmer": "default text analysis",
    "onnxruntime": "runs ONNX models",
    "tokenizers": "tokenises for models",
    "huggingface_hub": "loads models by hub name",
    "torch": "scores tensors on a device",
    "triton": "GPU kernels",
    "faiss": "approximate vector search",
    "lightgbm": "trains learning to rank (its models, and XGBoost's, run without it)",
}


def _both_onnxruntimes() -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = " and ".join(f"{package} {version(package)}" for package in ("onnxruntime", "onnxruntime-gpu"))
    except PackageNotFoundError:
        return None
    return f"both {found} are installed and overwrite each other's files: uninstall both, then install one"
