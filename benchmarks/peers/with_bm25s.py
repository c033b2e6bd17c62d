"""bm25s over token ids. Its numba backend runs a compiled loop over a float32 array of all documents' scores and a heap.

Given as its authors advise for speed: the numba backend, ids instead of strings, no progress bar, n_threads=1 for the serial function
(the parallel one costs a numba thread pool a call), compiled before it is timed. Its numpy backend is numpy's alone (n_threads=0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np

from benchmarks.corpora import Collection
from benchmarks.peers.base import K1, B, Peer


class Bm25s(Peer):
    backend = "numpy"
    index: bm25s.BM25

    def form(self, collection: Collection) -> Any:
        # Lists of Python integers, one object a term: what it takes, and kinder to its caches than an object a token.
        shared = np.arange(collection.n_terms).astype(object)
        documents = [shared[row].tolist() for row in collection.documents]
        return documents, {f"t{term}": term for term in range(collection.n_terms)}

    def build(self, documents: Any) -> None:
        self.index = bm25s.BM25(method="lucene", k1=K1, b=B, backend=self.backend)
        self.index.index(documents, create_empty_token=False, show_progress=False)

    def save(self, folder: Path) -> None:
        self.index.save(str(folder), show_progress=False)

    def open(self, folder: Path, mapped: bool = True) -> None:
        self.index = bm25s.BM25.load(str(folder), mmap=mapped, backend=self.backend)

    def size(self, folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.glob("*.npy"))

    def search(self, asked: list[int], k: int) -> Any:
        return self.index.retrieve([asked], k=k, show_progress=False, n_threads=0)

    def answer(self, found: Any) -> Any:
        return super().answer((found.documents[0], found.scores[0]))

    def batch(self, asked: Sequence[list[int]], k: int, threads: int) -> Any:
        return self.index.retrieve(list(asked), k=k, show_progress=False, n_threads=threads)


class Numpy(Bm25s):
    index_of = "bm25s-numba"


class Numba(Bm25s):
    backend = "numba"

    def __init__(self) -> None:
        import numba  # noqa: F401  its absence is found here, not at the first query

    def search(self, asked: list[int], k: int) -> Any:
        return self.index.retrieve([asked], k=k, show_progress=False, n_threads=1)

    def native(self, asked: list[int], k: int) -> Callable[[], Any]:
        from bm25s.numba.retrieve_utils import _retrieve_internal_jitted_serial as compiled

        index, scores = self.index, self.index.scores
        arguments = {
            "query_pointers": np.array([0, len(asked)], index.int_dtype),
            "query_tokens_ids_flat": np.array(asked, index.int_dtype),
            "k": k,
            "sorted": True,
            "dtype": np.dtype(index.dtype),
            "int_dtype": np.dtype(index.int_dtype),
            "data": scores["data"],
            "indptr": scores["indptr"],
            "indices": scores["indices"],
            "num_docs": scores["num_docs"],
            "nonoccurrence_array": index.nonoccurrence_array,
            "weight_mask": None,
        }
        return lambda: compiled(**arguments)
