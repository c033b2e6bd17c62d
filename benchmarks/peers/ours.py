"""Ours: the one module of the benchmarks that knows the engine's lexical API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpora import Collection
from benchmarks.peers.base import K1, B, Peer
from rerank_engine import BM25Index
from rerank_engine.ops import Segment
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
            name: Segment.build(self.documents, n_terms, codes=codes).nbytes
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
