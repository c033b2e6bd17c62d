"""Types of the C++ module (csrc/bindings.cpp)."""

from collections.abc import Sequence
from typing import Any

from numpy import float32, float64, int32, int64, uint8, uint32
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
def mmr(relevance: NDArray[float32], vectors: NDArray[float32], k: int, lambda_: float, isa: str = "", seconds: float = ...) -> Hits: ...
def mmr_for_query(
    query: NDArray[float32], vectors: NDArray[float32], k: int, lambda_: float, isa: str = "", seconds: float = ...
) -> Hits: ...
def inner_products(
    queries: NDArray[float32], vectors: NDArray[Any], rows: NDArray[int64] | None, threads: int, isa: str = "", seconds: float = ...
) -> tuple[NDArray[float32], int]: ...
def maxsim(
    query: NDArray[float32],
    weights: NDArray[float32],
    values: NDArray[Any],
    scales: NDArray[float32],
    starts: NDArray[int64],
    lengths: NDArray[int64],
    threads: int,
    isa: str = "",
    seconds: float = ...,
) -> tuple[NDArray[float32], int]: ...
def maxsim_more(
    query: NDArray[float32],
    weights: NDArray[float32],
    values: NDArray[Any],
    scales: NDArray[float32],
    starts: NDArray[int64],
    lengths: NDArray[int64],
    before: NDArray[float64],
    threads: int,
    seconds: float = ...,
) -> tuple[NDArray[float64], int]: ...
def maxsim_list(
    query: NDArray[float32], weights: NDArray[float32], documents: list[NDArray[Any]], threads: int, isa: str = "", seconds: float = ...
) -> tuple[NDArray[float32], int]: ...
def residual_maxsim(
    query: NDArray[float32],
    weights: NDArray[float32],
    centroids: NDArray[float32],
    bucket_weights: NDArray[float32],
    radius: float,
    centroid_ids: NDArray[Any],
    residuals: NDArray[uint8],
    inverse_norms: NDArray[float32],
    starts: NDArray[int64],
    lengths: NDArray[int64],
    centroid_scores: NDArray[float32] | None,
    path: str,
    threads: int,
    isa: str = "",
    seconds: float = ...,
    whole_tokens: int = 0,
    whole_products: int = 0,
) -> tuple[NDArray[float32], int, NDArray[float32], str, int, int]: ...
def centroid_maxsim(
    table: NDArray[float32],
    weights: NDArray[float32],
    centroid_ids: NDArray[Any],
    starts: NDArray[int64],
    lengths: NDArray[int64],
    threads: int,
    seconds: float = ...,
) -> tuple[NDArray[float32], int]: ...
def centroid_scores(query: NDArray[float32], centroids: NDArray[float32], threads: int, isa: str = "") -> NDArray[float32]: ...

class Segment:
    def __init__(self, sections: dict[str, NDArray[Any]], meta: dict[str, Any]) -> None: ...
    def decode(self) -> tuple[NDArray[int64], NDArray[uint32], NDArray[uint32]]: ...
    def frequency(self, term: int, row: int) -> int: ...
    def forward(self, rows: NDArray[int64]) -> tuple[NDArray[int64], NDArray[uint32], NDArray[uint32]]: ...
    def dead_frequencies(self, dead: NDArray[uint8]) -> NDArray[int32]: ...

class Trees:
    def __init__(self, arrays: dict[str, NDArray[Any]], n_features: int, base: float, divisor: float, narrow: bool) -> None: ...
    def score(self, features: NDArray[Any], threads: int = ..., isa: str = ...) -> NDArray[float64]: ...

class Strings:
    def __init__(self, bytes: NDArray[uint8], offsets: NDArray[int64], order: NDArray[uint32]) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> str: ...
    def find(self, text: str) -> int: ...
    def find_all(self, texts: list[str]) -> NDArray[int32]: ...

class Merge:
    def __init__(
        self,
        inputs: Sequence[tuple[Segment, NDArray[uint8], NDArray[uint32]]],
        n_terms: int,
        k1: float,
        b: float,
        codes: bool,
        forward: bool,
    ) -> None: ...
    def step(self, bytes: int) -> NDArray[uint8] | None: ...
    def finish(self) -> dict[str, dict[str, Any]]: ...

class Searcher:
    def __init__(
        self,
        sources: list[tuple[Segment, NDArray[uint8], NDArray[int32]]],
        variant: str,
        k1: float,
        b: float,
        delta: float,
        n_docs: int,
        n_tokens: int,
    ) -> None: ...
    def search(
        self,
        terms: NDArray[int32],
        weights: NDArray[float32],
        required: NDArray[uint8],
        offsets: NDArray[int64],
        filter: NDArray[uint8],
        k: int,
        threads: int,
        seconds: float = ...,
        df: NDArray[int64] = ...,
        floors: NDArray[float32] = ...,
    ) -> tuple[NDArray[int64], NDArray[int64], NDArray[float32], NDArray[int64]]: ...

def write_segment(
    tokens: NDArray[int32],
    offsets: NDArray[int64],
    n_terms: int,
    k1: float,
    b: float,
    codes: bool,
    forward: bool,
    counts: NDArray[uint32] = ...,
) -> dict[str, dict[str, Any]]: ...
def merge_strings(
    tables: Sequence[Strings], used: Sequence[NDArray[uint8]]
) -> tuple[NDArray[uint8], NDArray[int64], list[NDArray[uint32]]]: ...
