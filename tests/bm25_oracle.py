"""BM25 a second time, for the tests of the op: every token of every query against every document, by the formula, in float64 numpy.

It shares nothing with rerank_engine/ops/bm25.py: no postings, no constants taken out of the sum, no merged repeats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tolerances import allowed

from rerank_engine.ops.bm25 import BM25Parameters
from rerank_engine.packed import Packed


class Oracle:
    def __init__(self, documents: Packed) -> None:
        self.n = len(documents)
        owner = np.repeat(np.arange(self.n), documents.lengths)
        order = np.argsort(documents.values, kind="stable")
        self._tokens, self._owner = documents.values[order], owner[order]
        self.lengths = documents.lengths.astype(np.float64)
        self.mean = self.lengths.mean() or 1.0

    def tf(self, term: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The documents that hold a term, ascending, and how often each does."""
        owners = self._owner[slice(*np.searchsorted(self._tokens, np.array([term, term + 1], self._tokens.dtype)))]
        first = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]][: len(owners)])
        return owners[first], np.diff(first, append=len(owners)).astype(np.float64)

    def scores(self, p: BM25Parameters, terms: Any, weights: Any = None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(score of every document, which of them hold any of the terms)."""
        total, held = np.zeros(self.n), np.zeros(self.n, bool)
        norm = 1 - p.b + p.b * self.lengths / self.mean
        for term, weight in zip(terms, np.ones(len(terms)) if weights is None else np.asarray(weights, np.float32).astype(np.float64)):
            rows, tf = self.tf(term)
            if len(rows):
                f = np.full(self.n, self._f(p, np.zeros(1), np.ones(1))[0])
                f[rows] = self._f(p, tf, norm[rows])
                total += weight * self._idf(p, len(rows)) * f
                held[rows] = True
        return total, held

    def _idf(self, p: BM25Parameters, df: int) -> Any:
        n = self.n
        return {
            "lucene": lambda: np.log(1 + (n - df + 0.5) / (df + 0.5)),
            "robertson": lambda: max(0, np.log((n - df + 0.5) / (df + 0.5))),
            "atire": lambda: np.log(n / df),
            "bm25l": lambda: np.log((n + 1) / (df + 0.5)),
            "bm25+": lambda: np.log((n + 1) / df),
            "impact": lambda: 1.0,
        }[p.variant]()

    @staticmethod
    def _f(p: BM25Parameters, tf: NDArray[np.float64], norm: NDArray[np.float64]) -> NDArray[np.float64]:
        k1, delta = p.k1, p.delta or 0.0
        if p.variant == "impact":
            return tf / k1
        if p.variant == "bm25l":
            c = tf / norm
            return (k1 + 1) * (c + delta) / (k1 + c + delta)
        share = np.divide(tf, tf + k1 * norm, out=np.zeros(len(tf)), where=tf > 0)
        return {"atire": (k1 + 1) * share, "bm25+": delta + (k1 + 1) * share}.get(p.variant, share)

    def best(
        self, p: BM25Parameters, terms: Any, k: int, weights: Any = None, required: Any = None, filter: Any = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(rows, float64 scores) of the k best in the order of the engine: by float32 score falling, then by row."""
        total, held = self.scores(p, terms, weights)
        for term, must in zip(terms, [] if required is None else required):
            if must:
                held[np.setdiff1d(np.arange(self.n), self.tf(term)[0])] = False
        if filter is not None:
            held &= filter
        rows = np.flatnonzero(held)
        narrow = total[rows].astype(np.float32)
        if k < len(rows):  # all that reach the k-th score
            keep = narrow >= np.partition(narrow, len(rows) - k)[len(rows) - k]
            rows, narrow = rows[keep], narrow[keep]
        order = np.lexsort((rows, -narrow))[:k]
        return rows[order], total[rows[order]]


def assert_ranking(got: Any, want: tuple[NDArray[np.int64], NDArray[np.float64]]) -> None:
    """Scores are the oracle's sums rounded to float32 (see TABLE); a row may stand elsewhere only among scores that near.

    `want` may be longer than `got`: the oracle's ranking further down.
    """
    rows, scores = got
    assert rows.dtype == np.int64 and scores.dtype == np.float32 and rows.shape == scores.shape
    assert len(set(rows.tolist())) == len(rows)
    want_rows, want_scores = want[0], want[1].astype(np.float32)
    n = len(rows)
    assert n <= len(want_rows)
    near = allowed("bm25", want_scores)
    assert (np.abs(scores.astype(np.float64) - want_scores[:n]) <= near[:n]).all(), "a score is off"
    fall = np.diff(scores)
    assert ((fall < 0) | ((fall == 0) & (np.diff(rows) > 0))).all(), "not in the order of the engine"
    of = dict(zip(want_rows.tolist(), want_scores.tolist()))
    for i in np.flatnonzero(rows != want_rows[:n]).tolist():
        assert abs(of.get(int(rows[i]), float(want_scores[-1])) - float(want_scores[i])) <= 2 * near[i], f"row {rows[i]} at place {i}"


def corpus(rng: np.random.Generator, n_docs: int, n_terms: int, mean_length: float) -> Packed:
    """Documents as in nature: Zipf's law, lengths that differ widely (some 0), half of each document's tokens from one of 50 topics."""
    lengths = np.minimum(rng.lognormal(np.log(mean_length) - 0.3, 0.8, n_docs), 40 * mean_length).astype(np.int64)
    lengths[rng.random(n_docs) < 0.002] = 0
    total = int(lengths.sum())
    p = 1 / np.arange(1, n_terms + 1) ** 1.05
    tokens = rng.choice(n_terms, total, p=p / p.sum())
    shift = np.repeat(rng.integers(0, 50, n_docs) * 97 + 100, lengths)
    topical = rng.random(total) < 0.5
    tokens[topical] = (tokens[topical] // 2 + shift[topical]) % n_terms
    return Packed(tokens.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]))


def queries_for(rng: np.random.Generator, documents: Packed, n_terms: int, n: int) -> list[list[int]]:
    """1 to 8 terms: from one document, among the most frequent, anywhere; now and then one twice."""
    out = []
    for q in range(n):
        size = int(rng.integers(1, 9))
        document = documents[int(rng.integers(len(documents)))]
        drawn = [
            rng.choice(document, size) if q % 4 < 2 and len(document) else rng.integers(0, n_terms, size),
            rng.integers(0, 12, size),
            rng.integers(0, n_terms, size),
        ]
        which = rng.integers(0, 3 if q % 4 else 1, size)
        terms = [int(drawn[w][i]) for i, w in enumerate(which)]
        out.append(terms + terms[:1] * (q % 10 == 0))
    return out
