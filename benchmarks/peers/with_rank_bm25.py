"""rank_bm25: Python loops over every document, so for a small collection alone. Its idf is Robertson's with a floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rank_bm25 import BM25Okapi

from benchmarks.corpora import Collection
from benchmarks.peers.base import K1, B, Peer


class RankBM25(Peer):
    exact = False

    def form(self, collection: Collection) -> list[list[int]]:
        return [row.tolist() for row in collection.documents]

    def build(self, documents: list[list[int]]) -> None:
        self.index = BM25Okapi(documents, k1=K1, b=B)

    def save(self, folder: Path) -> None:
        """It cannot."""

    def search(self, asked: list[int], k: int) -> Any:
        scores = self.index.get_scores(asked)
        best = np.argpartition(-scores, k - 1)[:k]  # faster than its own get_top_n, which sorts all
        best = best[np.argsort(-scores[best])]
        return best, scores[best]
