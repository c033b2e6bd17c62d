"""numkong: MaxSim of vectors that it packs itself, approximate by design: in bytes where the processor multiplies them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numkong
import numpy as np
from numpy.typing import NDArray

from rerank_engine.packed import Packed

ERROR = 1.0


def maxsim(query: NDArray[np.float32], documents: Packed) -> Callable[[], NDArray[np.float64]]:
    packed = [numkong.maxsim_pack(np.ascontiguousarray(row), dtype="f32") for row in documents]

    def run() -> NDArray[np.float64]:
        asked = numkong.maxsim_pack(query, dtype="f32")
        found: NDArray[np.float64] = len(query) - np.array([numkong.maxsim_packed(asked, row) for row in packed])
        return found

    return run


@contextmanager
def only_avx2() -> Iterator[None]:
    """Without the instruction sets beyond AVX2."""
    wider = [name for name, there in numkong.get_capabilities().items() if there and name not in ("serial", "haswell")]
    for name in wider:
        numkong.disable_capability(name)
    try:
        yield
    finally:
        for name in wider:
            numkong.enable_capability(name)
