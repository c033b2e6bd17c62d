"""langchain-core's maximal_marginal_relevance: given a list of vectors as its signature asks, and given one array, which spares it a copy
at every pick."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from numpy.typing import NDArray

Call = Callable[[], list[int]]


def mmr(query: NDArray[np.float32], vectors: NDArray[np.float32], k: int, lambda_: float) -> Call:
    rows = list(vectors)
    return lambda: maximal_marginal_relevance(query, rows, lambda_mult=lambda_, k=k)


def mmr_of_array(query: NDArray[np.float32], vectors: NDArray[np.float32], k: int, lambda_: float) -> Call:
    return lambda: maximal_marginal_relevance(query, vectors, lambda_mult=lambda_, k=k)  # type: ignore[arg-type]
