"""Ours, as each job asks for it. Of the benchmarks the one module that knows the engine's lexical API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpora import Collection
from benchmarks.cross import Score
from benchmarks.cross_models import NAME, Models
from benchmarks.peers.base import K1, B, Peer
from rerank_engine import BM25Index, CrossEncoder, VectorIndex, load, ops
from rerank_engine.codec import ResidualTokens
from rerank_engine.indexes.documents import NumberedCorpus
from rerank_engine.latency.prepare import forgetful
from rerank_engine.learning import TreeModel
from rerank_engine.packed import Packed

FILE = "index.bm25"


class Ours(Peer):
    index: BM25Index
    documents: Packed

    def form(self, collection: Collection) -> Packed:
        return collection.documents

    def build(self, documents: Packed) -> None:
        self.documents = documents
        self.index = BM25Index.from_tokens(documents, k1=K1, b=B)

    def save(self, folder: Path) -> None:
        self.index.save(folder / FILE)

    def open(self, folder: Path, mapped: bool = True) -> None:
        self.index = BM25Index.open(folder / FILE, in_memory=not mapped)

    def sizes(self) -> dict[str, int]:
        """Bytes of the postings, their dictionary and the lengths, without and with the impact codes."""
        n_terms = int(self.documents.values.max()) + 1
        return {
            name: ops.Segment.build(self.documents, n_terms, codes=codes).nbytes
            for name, codes in (("postings", False), ("with impact codes", True))
        }

    def search(self, asked: list[int], k: int) -> Any:
        return self.index.search([asked], k)[0]

    def batch(self, asked: Sequence[list[int]], k: int, threads: int) -> Any:
        return self.index.search(asked, k, threads=threads)

    def native(self, asked: list[int], k: int) -> Callable[[], Any]:
        terms, offsets = np.array(asked, np.int32), np.array([0, len(asked)], np.int64)
        weights, nothing, searcher = np.ones(len(asked), np.float32), np.empty(0, np.uint8), self.index.searcher.native
        return lambda: searcher.search(terms, weights, nothing, offsets, nothing, k, 1)


def maxsim(query: NDArray[np.float32], documents: Packed) -> Callable[[], NDArray[np.float32]]:
    return lambda: ops.maxsim(query, documents, num_threads=1)


def residual(query: NDArray[np.float32], tokens: ResidualTokens) -> Callable[[], NDArray[np.float32]]:
    return lambda: ops.residual_maxsim(query, tokens, num_threads=1)


def fuse(queries: NDArray[np.int64]) -> Callable[[], Any]:
    return lambda: ops.fuse(queries)


def mmr(query: NDArray[np.float32], vectors: NDArray[np.float32], k: int, lambda_: float) -> Callable[[], list[int]]:
    return lambda: ops.mmr(None, vectors, k, query=query, lambda_=lambda_)[0].tolist()


def ltr(text: str, documents: NDArray[Any]) -> Callable[[], Any]:
    model = TreeModel.parse(text)
    return lambda: model.score(documents)


def flat(vectors: NDArray[np.float32]) -> Callable[[NDArray[np.float32], int], Any]:
    index = VectorIndex(NumberedCorpus(len(vectors)), vectors)
    return lambda query, k: index.search(query[None], k, threads=1)[0]


def float32(models: Models) -> Score:
    return _cross(models.fp32)


def int8(models: Models) -> Score:
    """As it is published."""
    return _cross(NAME)


def _cross(model: str | Path) -> Score:
    found = load(model, threads=1, device="cpu")
    assert isinstance(found, CrossEncoder)
    model = forgetful(found)  # each call tokenises, as the peers' do
    return lambda pairs: model.predict(pairs).values
