"""BM25 in float64 straight from the documents, for a handful of queries: what answers are held against. It knows nothing of the engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpora import Collection
from benchmarks.harness import same_ranking
from benchmarks.peers.base import K1, Answer, B


class Oracle:
    """score(q, d) = sum over the query's terms of ln(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * len / mean len))"""

    def __init__(self, collection: Collection, queries: Sequence[Sequence[int]]) -> None:
        tokens, offsets = collection.documents.values, collection.documents.offsets
        wanted = np.zeros(collection.n_terms, bool)
        wanted[[term for query in queries for term in query]] = True
        places = np.flatnonzero(wanted[tokens])
        n, lengths = len(collection.documents), np.diff(offsets)
        owners = np.searchsorted(offsets, places, side="right") - 1
        pairs, tf = np.unique(tokens[places].astype(np.int64) * n + owners, return_counts=True)
        terms, rows = pairs // n, pairs % n
        df = np.bincount(terms, minlength=collection.n_terms)
        impacts = np.log1p((n - df + 0.5) / (df + 0.5))[terms] * tf / (tf + K1 * (1 - B + B * lengths / lengths.mean())[rows])
        cuts = np.concatenate([[0], np.cumsum(df)])
        parts = {t: slice(cuts[t], cuts[t + 1]) for t in np.flatnonzero(wanted).tolist()}
        self.n, self.postings = n, {t: (rows[part], impacts[part]) for t, part in parts.items()}

    def scores(self, query: Sequence[int]) -> NDArray[np.float64]:
        """float64 [documents]"""
        sums = np.zeros(self.n)
        for term in query:
            rows, impacts = self.postings[term]
            sums[rows] += impacts
        return sums


def best(scores: NDArray[np.float64], k: int) -> Answer:
    """The k best that match, score descending, then row ascending."""
    rows = np.flatnonzero(scores)
    if len(rows) > k:
        rows = rows[scores[rows] >= np.partition(scores[rows], -k)[-k]]
    rows = rows[np.lexsort((rows, -scores[rows]))][:k]
    return rows.astype(np.int64), scores[rows]


def is_exact(answer: Answer, scores: NDArray[np.float64], k: int, *, ordered: bool, rtol: float = 1e-5) -> bool:
    """The best scores place by place, each the score of the document it stands beside. ordered: and the documents in our order, but for
    ties within `rtol`. Documents that match nothing, which some libraries fill up with, are not looked at."""
    want = best(scores, k)
    rows, got = (values[: len(want[0])] for values in answer)
    if len(rows) != len(want[0]) or len(set(rows.tolist())) != len(rows):
        return False
    right = np.allclose(got, want[1], rtol=rtol, atol=1e-7) and np.allclose(got, scores[rows], rtol=rtol, atol=1e-7)
    return bool(right and (not ordered or (len(answer[0]) == len(rows) and same_ranking((rows, got), want, rtol))))


def overlap(answer: Answer, scores: NDArray[np.float64], k: int, rtol: float = 1e-6) -> float:
    """The share of the k best documents that the answer has; one that ties with the last of them counts as one of them."""
    want = best(scores, k)
    rows = np.unique(answer[0])
    return min(1.0, float((scores[rows] >= want[1][-1] * (1 - rtol)).sum() / len(want[0])))
