"""The processor's limits, measured in the run that they are compared with: peak.cpp, compiled here."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import harness
from rerank_engine import _native

HERE = Path(__file__).parent
ACCUMULATORS = 12


def library() -> ctypes.CDLL:
    folder = HERE.parent / "build" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "peak.so"
    compiler = os.environ.get("CXX", "c++")
    subprocess.run([compiler, "-O3", "-std=c++20", "-fPIC", "-shared", str(HERE / "peak.cpp"), "-o", str(made)], check=True)
    return ctypes.CDLL(str(made))


def fma(flops: float) -> tuple[str, Callable[[], object]]:
    """(its name, a call that does this many float32 operations as fast as one thread can): of the instruction sets that are there, the
    best."""
    lib, rng = library(), np.random.default_rng(0)
    sets = [(name, width) for name, width in (("avx2", 8), ("avx512", 16)) if name in _native.usable_isas()]
    if not sets:
        raise SystemExit("the peak is measured on x86-64 with AVX2")
    calls = {}
    for name, width in sets:
        values = rng.uniform(0.5, 1.5, ACCUMULATORS * width + 2).astype(np.float32)
        values[-2:] = 0.999999, 1e-6
        n = ctypes.c_int64(round(flops / (2 * ACCUMULATORS * width)))
        function, address = getattr(lib, f"fma_{name}"), values.ctypes.data_as(ctypes.c_void_p)
        calls[name] = lambda function=function, address=address, n=n, values=values: (function(address, n), values)
    best = min(calls, key=lambda name: min(harness.cpu_ms(calls[name]) for _ in range(5)))
    return best, calls[best]


def read(n_bytes: int) -> Callable[[], object]:
    """A call that reads a block of memory of this size, to 256 bytes, as fast as one thread can."""
    lib = library()
    lib.read_all.restype = ctypes.c_float
    values = np.ones(n_bytes // 256 * 64, np.float32)
    address, n = values.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(len(values))
    return lambda: (lib.read_all(address, n), values)


def read_gb_per_s(n_bytes: int) -> float:
    """Median rate of that."""
    call, times = read(n_bytes), max(1, (1 << 27) // n_bytes)
    return n_bytes // 256 * 256 / 1e6 / float(np.median([harness.cpu_ms(call, times) for _ in range(9)]))
