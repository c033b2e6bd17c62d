"""BM25: postings of a tokenised corpus, and exact top-k over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import choose, implementation
from ..cpus import resolve_threads
from ..errors import InputError
from ..packed import Packed
from . import checks
from .fuse import unpack
from .topk import Hits, topk_reference


@dataclass(frozen=True, slots=True, eq=False)
class Postings:
    """The documents of each term, with the finished BM25 contribution of each (term, document) pair.

    term_offsets int64 [n_terms + 1]: term t owns [term_offsets[t], term_offsets[t + 1]) of
    rows int32 [n_postings], ascending within a term, counts int32 [n_postings] (tf) and impacts float32 [n_postings]:

        impact(t, d) = idf(t) * tf / (tf + k1 * (1 - b + b * len(d) / mean len)),   idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5))

    N = number of documents, df = documents with the term, len = number of tokens (Robertson and Zaragoza, "The Probabilistic Relevance
    Framework", 2009, with Lucene's idf, never negative, and without the constant factor k1 + 1, which changes no order).
    """

    term_offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    counts: NDArray[np.int32]
    lengths: NDArray[np.int64]
    impacts: NDArray[np.float32]
    k1: float
    b: float

    @classmethod
    def build(cls, documents: Packed, n_terms: int, *, k1: float = 1.2, b: float = 0.75, backend: str = "auto") -> Postings:
        """documents: int32 term ids of each document, each id in [0, n_terms). Raises InputError for an empty corpus, an id outside,
        n_terms < 0, k1 < 0 or b outside [0, 1]."""
        k1, b = check_parameters(k1, b)
        if isinstance(n_terms, bool) or not isinstance(n_terms, (int, np.integer)) or n_terms < 0:
            raise InputError("bm25: n_terms", got=n_terms, expected="an integer of at least 0")
        if len(documents) == 0:
            raise InputError("bm25: documents", got="an empty corpus", expected="at least one document")
        if len(documents) > np.iinfo(np.int32).max:
            raise InputError("bm25: documents", got=f"{len(documents)} documents", expected="fewer than 2^31", hint="Shard the corpus.")
        tokens = checks.integers("bm25: document tokens", documents.values, np.int32)
        _check_range("bm25: document tokens", tokens, n_terms)
        make = _postings_cpp if choose("bm25", backend) == "cpp" else _postings_reference
        term_offsets, rows, counts = make(tokens, documents.offsets, n_terms)
        lengths = documents.lengths
        df = np.diff(term_offsets).astype(np.float64)
        idf = np.log1p((len(documents) - df + 0.5) / (df + 0.5))
        norm = k1 * (1 - b + b * lengths / max(float(lengths.mean()), 1e-300))
        impacts = (np.repeat(idf, np.diff(term_offsets)) * counts / (counts + norm[rows])).astype(np.float32)
        return cls(term_offsets, rows, counts, lengths, impacts, k1, b)

    @property
    def n_terms(self) -> int:
        return len(self.term_offsets) - 1

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.lengths)


def bm25(
    queries: Packed, index: Postings, k: int, *, weights: ArrayLike | None = None, threads: int | None = 1, backend: str = "auto"
) -> list[Hits]:
    """The k best documents of each query: score(q, d) = sum over the query's terms of weight * impact(term, d).

    queries: Packed of int32 term ids; a repeated term counts as often as it stands. weights: float32 [total], default 1.
    Returns per query (rows int64 [m], scores float32 [m]), score descending, then row ascending; only documents with at least one of the
    query's terms, so m <= k, and m = 0 for a query without known terms. The answer does not depend on `threads`.
    Raises InputError (k < 1, a term id outside the index), NonFiniteError (weights, a sum beyond float32).
    """
    k = checks.count("bm25: k", k)
    terms = checks.integers("bm25: query terms", queries.values, np.int32)
    _check_range("bm25: query terms", terms, index.n_terms)
    w = np.ones(len(terms), np.float32) if weights is None else checks.floats("bm25: weights", weights, 1)
    if len(w) != len(terms):
        raise InputError("bm25: weights", got=f"{len(w)} weights", expected=f"one for each of the {len(terms)} query terms")
    run = implementation("bm25", backend)
    try:
        hits: list[Hits] = run(index, Packed(terms, queries.offsets), w, min(k, len(index)), resolve_threads(threads))
    except OverflowError as error:
        raise checks.overflow("bm25: scores") from error
    return hits


def check_parameters(k1: float, b: float) -> tuple[float, float]:
    return checks.finite_number("bm25: k1", k1, 0, 1e6), checks.finite_number("bm25: b", b, 0, 1)


def _check_range(name: str, ids: NDArray[Any], end: int) -> None:
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= end):
        raise InputError(name, got=f"ids from {ids.min()} to {ids.max()}", expected=f"term ids from 0 to {end - 1}")


def bm25_reference(index: Postings, queries: Packed, weights: NDArray[np.float32], k: int, threads: int) -> list[Hits]:
    """float64 sums over the postings, from tf and lengths and not from the stored impacts."""
    norm = index.k1 * (1 - index.b + index.b * index.lengths / max(float(index.lengths.mean()), 1e-300))
    out = []
    for terms, ws in zip(queries, Packed(weights, queries.offsets)):
        sums: dict[int, float] = {}
        for t, w in zip(terms.tolist(), ws.tolist()):
            begin, end = index.term_offsets[t], index.term_offsets[t + 1]
            df = end - begin
            idf = np.log1p((len(index) - df + 0.5) / (df + 0.5))
            for row, tf in zip(index.rows[begin:end].tolist(), index.counts[begin:end].tolist()):
                sums[row] = sums.get(row, 0.0) + w * idf * tf / (tf + norm[row])
        rows = np.array(list(sums), np.int64)
        out.append(topk_reference(checks.narrow(list(sums.values())), rows, k))
    return out


def bm25_cpp(index: Postings, queries: Packed, weights: NDArray[np.float32], k: int, threads: int) -> list[Hits]:
    from .. import _native

    args = (queries.values, weights, queries.offsets, k, threads)
    return unpack(*_native.bm25(index.term_offsets, index.rows, index.impacts, len(index), *args))


def _postings_reference(
    tokens: NDArray[np.int32], offsets: NDArray[np.int64], n_terms: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    pairs, counts = np.unique(np.stack([tokens, owner]), axis=1, return_counts=True)
    term_offsets = np.zeros(n_terms + 1, np.int64)
    np.cumsum(np.bincount(pairs[0], minlength=n_terms), out=term_offsets[1:])
    return term_offsets, pairs[1].astype(np.int32), counts.astype(np.int32)


def _postings_cpp(tokens: NDArray[np.int32], offsets: NDArray[np.int64], n_terms: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    from .. import _native

    return _native.build_postings(tokens, offsets, n_terms)
