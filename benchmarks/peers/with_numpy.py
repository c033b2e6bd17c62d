"""numpy: MaxSim as one writes it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rerank_engine.packed import Packed


def loop(query: NDArray[np.float32], documents: Packed) -> Callable[[], NDArray[np.float32]]:
    rows = [np.ascontiguousarray(row) for row in documents]
    return lambda: np.array([(row @ query.T).max(0).sum() for row in rows])


def reduceat(query: NDArray[np.float32], documents: Packed) -> Callable[[], NDArray[np.float32]]:
    values, offsets = documents.values, documents.offsets
    return lambda: np.maximum.reduceat(values @ query.T, offsets[:-1]).sum(1)
