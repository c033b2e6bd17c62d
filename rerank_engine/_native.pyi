"""Types of the C++ module (csrc/bindings.cpp)."""

from numpy import float32, float64, int32, int64
from numpy.typing import NDArray

Hits = tuple[NDArray[int64], NDArray[float32]]
PackedHits = tuple[NDArray[int64], NDArray[int64], NDArray[float32]]

def best_isa() -> str: ...
def usable_isas() -> list[str]: ...
def topk(scores: NDArray[float32], ids: NDArray[int64], k: int) -> Hits: ...
def fuse(
    ids: list[NDArray[int64]],
    scores: list[NDArray[float32]],
    weights: NDArray[float64],
    method: str,
    norm: str,
    k: float,
    top: int,
    threads: int,
) -> PackedHits: ...
def fuse_explained(
    ids: list[NDArray[int64]],
    scores: list[NDArray[float32]],
    weights: NDArray[float64],
    method: str,
    norm: str,
    k: float,
    top: int,
    threads: int,
) -> tuple[NDArray[int64], NDArray[int64], NDArray[float32], NDArray[float64], NDArray[int32]]: ...
def mmr(relevance: NDArray[float32], vectors: NDArray[float32], k: int, lambda_: float, isa: str = "") -> Hits: ...
def mmr_for_query(query: NDArray[float32], vectors: NDArray[float32], k: int, lambda_: float, isa: str = "") -> Hits: ...
def build_postings(
    tokens: NDArray[int32], offsets: NDArray[int64], n_terms: int
) -> tuple[NDArray[int64], NDArray[int32], NDArray[int32]]: ...
def bm25(
    term_offsets: NDArray[int64],
    rows: NDArray[int32],
    impacts: NDArray[float32],
    n_rows: int,
    terms: NDArray[int32],
    weights: NDArray[float32],
    query_offsets: NDArray[int64],
    k: int,
    threads: int,
) -> PackedHits: ...
