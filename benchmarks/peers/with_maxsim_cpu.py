"""maxsim-cpu: MaxSim in Rust over libxsmm or a BLAS. It takes a list of float32 arrays."""

from __future__ import annotations

from collections.abc import Callable

import maxsim_cpu
import numpy as np
from numpy.typing import NDArray

from rerank_engine.packed import Packed


def maxsim(query: NDArray[np.float32], documents: Packed) -> Callable[[], NDArray[np.float32]]:
    rows = [np.ascontiguousarray(row) for row in documents]
    return lambda: maxsim_cpu.maxsim_scores_variable(query, rows)
