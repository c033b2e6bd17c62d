"""faiss by itself: IndexFlatIP, which scores every vector."""

from __future__ import annotations

from collections.abc import Callable

import faiss
import numpy as np
from numpy.typing import NDArray

Found = tuple[NDArray[np.int64], NDArray[np.float32]]


def flat(vectors: NDArray[np.float32]) -> Callable[[NDArray[np.float32], int], Found]:
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)

    def search(query: NDArray[np.float32], k: int) -> Found:
        scores, rows = index.search(query[None], k)
        return rows[0], scores[0]

    return search
