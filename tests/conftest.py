"""What the tests share. Nothing heavy is imported here: a test that needs torch or a peer asks for it itself."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from pathlib import Path

import pytest


def _cuda_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


# Triton reads it once, when it is imported. Without a driver the kernels' tests run in its interpreter.
if not _cuda_driver():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Models that tests load leave nothing in the user's cache.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="rerank-engine-tests-")

import rerank_engine  # noqa: E402
from rerank_engine.backends import NEEDS, ON_TENSORS, OPS  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="more of what is tried at random: kills, damaged files, series of updates")


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("thorough"))


def backends(op: str) -> list[str]:
    """The backends of `op` that can run here on arrays of numpy: `@pytest.mark.parametrize("backend", backends("topk"))`."""
    return [name for name in OPS[op] if name not in ON_TENSORS and NEEDS[name]() is None]


@pytest.fixture
def shared_data() -> Path:
    """The folder of real collections beside the checkout. It is not part of the repository, so tests of it skip without it."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder shared/data beside the checkout: the real collections are not here")
    return folder


@pytest.fixture
def without_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the references can run: `auto` must take them, and an attempt to import the C++ module fails."""
    for name in NEEDS:
        if name != "reference":
            monkeypatch.setitem(NEEDS, name, lambda: "this test took it away")
    monkeypatch.setitem(sys.modules, "rerank_engine._native", None)
    monkeypatch.delattr(rerank_engine, "_native", raising=False)
