"""PyLate's rank.rerank, given a list of torch tensors. It sorts, so its scores are put back in their places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from pylate import rank

from rerank_engine.packed import Packed


def maxsim(query: NDArray[np.float32], documents: Packed) -> Callable[[], NDArray[np.float64]]:
    torch.set_num_threads(1)
    rows, names = [torch.from_numpy(np.ascontiguousarray(row)) for row in documents], list(range(len(documents)))

    def run() -> NDArray[np.float64]:
        asked = [torch.from_numpy(query)]
        done = rank.rerank(documents_ids=[names], queries_embeddings=asked, documents_embeddings=[rows])[0]
        out = np.empty(len(names))
        out[[row["id"] for row in done]] = [row["score"] for row in done]
        return out

    return run
