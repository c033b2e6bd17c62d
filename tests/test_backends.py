"""What can run here is found by trying, and a named backend never falls back."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from rerank_engine import backends, ops
from rerank_engine.errors import BackendUnavailable


def test_report_has_every_choice_and_is_right_here() -> None:
    rows = {(row["kind"], row["name"], row["variant"]): row for row in backends.report()}
    for op, table in backends.OPS.items():
        for backend in table:
            assert rows["op", op, backend]["ok"] == (backends.NEEDS[backend]() is None)
    for runtime, devices in backends.RUNTIMES.items():
        for device in devices:
            assert ("runtime", runtime, device) in rows
    assert all(row["ok"] or row["reason"] for row in rows.values())
    onnx = rows["runtime", "onnx", "cpu"]
    assert onnx["ok"] == ("onnxruntime" in sys.modules)
    assert rows["op", "bm25", "reference"]["ok"]


def test_a_provider_that_is_listed_but_does_not_come_up_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])

    class FellBack:
        def __init__(self, *args: object, **kwargs: object) -> None: ...

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

        def run(self, *args: object) -> None: ...

    monkeypatch.setattr(ort, "InferenceSession", FellBack)
    row = next(r for r in backends.report() if (r["name"], r["variant"]) == ("onnx", "cuda"))
    assert not row["ok"]
    assert "came up on CPUExecutionProvider" in str(row["reason"])


def test_a_library_that_raises_on_import_is_reported_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "faiss":
                raise RuntimeError("libcublas.so.12 is missing")

    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert "libcublas.so.12" in str(backends.try_import("faiss"))


def test_missing_inside_a_library_is_not_called_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "halfway":
                raise ModuleNotFoundError("No module named 'dependency'", name="dependency")

    monkeypatch.setattr(sys, "meta_path", [Half(), *sys.meta_path])
    assert backends.try_import("halfway") == "import halfway failed: No module named 'dependency'"
    assert backends.try_import("no_such_package_at_all") == "no_such_package_at_all is not installed"


def test_named_backend_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.NEEDS, "cpp", lambda: "it was taken away")
    with pytest.raises(BackendUnavailable, match=r"'cpp' asked for, but it was taken away. Available here: reference"):
        ops.topk([1.0], 1, backend="cpp")
    with pytest.raises(BackendUnavailable, match="no such backend"):
        ops.topk([1.0], 1, backend="cuda")
    assert backends.choose("topk") == "reference"


def test_a_broken_native_module_is_raised_not_reported_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    backends._native_built.cache_clear()

    def broken(name: str) -> types.ModuleType:
        raise ImportError("undefined symbol: _ZN6rerank4topk")

    monkeypatch.setattr(backends.importlib, "import_module", broken)
    with pytest.raises(ImportError, match="undefined symbol"):
        backends.choose("topk")
    backends._native_built.cache_clear()


def test_triton_asks_for_a_device_that_the_kernels_are_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def cuda(available: bool, capability: tuple[int, int]) -> types.SimpleNamespace:
        return types.SimpleNamespace(is_available=lambda: available, get_device_capability=lambda: capability)

    torch = types.ModuleType("torch")
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "triton", types.ModuleType("triton"))
    launch = types.ModuleType("rerank_kernels.launch")
    launch.interpreting = lambda: False  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rerank_kernels.launch", launch)
    for state, expected in ((cuda(False, (0, 0)), "no CUDA device"), (cuda(True, (7, 5)), "sm_75"), (cuda(True, (8, 6)), "None")):
        torch.cuda = state  # type: ignore[attr-defined]
        assert expected in str(backends.NEEDS["triton"]())


def test_every_instruction_set_passes_its_self_check_and_a_wrong_kernel_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank_engine import _native
    from rerank_engine.ops.selfcheck import self_check

    assert self_check() == dict.fromkeys(_native.usable_isas())
    rows = [row for row in backends.report() if row["name"] == "self-check"]
    assert [row["variant"] for row in rows] == _native.usable_isas() and all(row["ok"] for row in rows)
    right = _native.maxsim
    monkeypatch.setattr(
        _native, "maxsim", lambda *args: (right(*args)[0] + np.float32(0.01), 4) if args[-1] == "baseline" else right(*args)
    )
    assert "float32 is off by 0.01" in str(self_check()["baseline"])
