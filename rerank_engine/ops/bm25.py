"""BM25 and its variants: exact top-k over segments of postings.

    score(q, d) = sum over the query's terms t of  weight(t) * idf(t) * f(tf(t, d), |d|)        B = 1 - b + b |d| / mean |d|

    variant     idf(t)                               f(tf, |d|)
    lucene      ln(1 + (N - df + 0.5) / (df + 0.5))  tf / (tf + k1 B)
    robertson   ln((N - df + 0.5) / (df + 0.5)), 0 where that is negative (df > N / 2)    as lucene
    atire       ln(N / df)                           (k1 + 1) tf / (tf + k1 B)
    bm25l       ln((N + 1) / (df + 0.5))             (k1 + 1) (c + delta) / (k1 + c + delta),  c = tf / B
    bm25+       ln((N + 1) / df)                     delta + (k1 + 1) tf / (tf + k1 B)
    impact      1                                    tf / k1

N: documents; df: documents with the term; |d|: tokens. bm25l and bm25+ do not give 0 for tf = 0: a document that holds some of the terms
gets the rest's f(0) too. lucene leaves out the constant factor k1 + 1, which changes no order. Source: Kamphuis, de Vries, Boytsov and Lin,
"Which BM25 Do You Mean?", ECIR 2020; Robertson and Zaragoza 2009; Lv and Zhai 2011 for bm25l and bm25+.
impact is no BM25 but an inner product with learned weights that are kept as counts, tf = round(k1 weight): k1 is their scale, b is unused.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
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
from .postings import Postings, Segment, check_ids, damaged
from .topk import Hits, topk_reference

VARIANTS = {"lucene": 0.0, "robertson": 0.0, "atire": 0.0, "bm25l": 0.5, "bm25+": 1.0, "impact": 0.0}  # with the default delta
_NOTHING, _NO_WEIGHTS = np.empty(0, np.uint8), np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class BM25Parameters:
    """variant, k1 from 0 to 1e6, b from 0 to 1, delta (bm25l: 0.5, bm25+: 1 by default). bm25l and impact need k1 > 0."""

    variant: str = "lucene"
    k1: float = 1.2
    b: float = 0.75
    delta: float | None = None

    def __post_init__(self) -> None:
        checks.one_of("bm25: variant", self.variant, tuple(VARIANTS))
        for name, high in (("k1", 1e6), ("b", 1), ("delta", 1e6)):
            value = getattr(self, name)
            object.__setattr__(
                self, name, VARIANTS[self.variant] if value is None else checks.finite_number(f"bm25: {name}", value, 0, high)
            )
        if self.variant in ("bm25l", "impact") and self.k1 == 0:
            raise InputError("bm25: k1", got=0, expected=f"a number above 0 for {self.variant}, whose formula divides by it")

    def __str__(self) -> str:
        if self.variant == "impact":
            return f"impact, scale={self.k1:g}"
        delta = f", delta={self.delta:g}" if VARIANTS[self.variant] else ""
        return f"{self.variant}, k1={self.k1:g}, b={self.b:g}{delta}"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A segment, with the rows that are deleted: bool [n], or None, and per term how many of them hold it: int32 [n_terms]."""

    segment: Segment
    dead: NDArray[np.bool_] | None = None
    dead_df: NDArray[np.int32] | None = None

    @property
    def dead_bits(self) -> NDArray[np.uint8]:
        """A bit for each row, the first in the lowest; empty where no row is deleted."""
        return np.empty(0, np.uint8) if self.dead is None else np.packbits(self.dead, bitorder="little")

    @property
    def dead_counts(self) -> NDArray[np.int32]:
        return np.empty(0, np.int32) if self.dead_df is None else self.dead_df

    def document_frequency(self, terms: NDArray[Any]) -> NDArray[np.int64]:
        """int64 [n]: how many live documents hold each term id."""
        df = self.segment.document_frequency(terms)
        return df if self.dead_df is None else df - self.dead_df[terms]


class Searcher:
    """Scores queries over parts that are one corpus: N, df and the mean length are of all live documents together, so that the ranking is
    that of one segment with the same documents in the same order. Rows count on from part to part, deleted ones included.

    collection: (documents, tokens) of a collection that the parts are a shard of, whose N and mean length count instead; searches are then
    told `df`, too.
    """

    def __init__(
        self, parts: Sequence[Part], parameters: BM25Parameters, backend: str = "auto", collection: tuple[int, int] | None = None
    ) -> None:
        self.parts, self.parameters, self.backend = tuple(parts), parameters, choose("bm25", backend)
        self.n_rows = sum(len(part.segment) for part in self.parts)
        live = [part.segment.lengths if part.dead is None else part.segment.lengths[~part.dead] for part in self.parts]
        self.n_docs = sum(len(lengths) for lengths in live)
        self.n_tokens = int(sum(int(lengths.sum(dtype=np.int64)) for lengths in live))
        if collection is not None:
            self.n_docs, self.n_tokens = collection
        self._run = implementation("bm25", self.backend)
        self.native: Any = None
        if self.backend == "cpp":
            from .. import _native

            sources = [(part.segment.native, part.dead_bits, part.dead_counts) for part in self.parts]
            p = parameters
            self.native = _native.Searcher(sources, p.variant, p.k1, p.b, float(p.delta or 0), self.n_docs, self.n_tokens)

    def search(
        self,
        terms: NDArray[np.int32],
        offsets: NDArray[np.int64],
        k: int,
        *,
        weights: NDArray[np.float32] | None = None,
        required: NDArray[np.bool_] | None = None,
        filter: NDArray[np.bool_] | None = None,
        threads: int | None = 1,
    ) -> list[Hits]:
        """terms int32 [parts, total]: ids in each part, -1 where it does not know the term; query q is [offsets[q], offsets[q + 1]).

        weights float32 [total], default 1. required bool [total]: documents without the term are left out. filter bool [n_rows]: rows that
        may be returned. Per query (rows int64 [m], scores float32 [m]). Raises NonFiniteError, FileFormatError for a damaged index.
        """
        return self.search_reached(terms, offsets, k, weights, required, filter, threads)[0]

    def search_reached(
        self,
        terms: NDArray[np.int32],
        offsets: NDArray[np.int64],
        k: int,
        weights: NDArray[np.float32] | None = None,
        required: NDArray[np.bool_] | None = None,
        filter: NDArray[np.bool_] | None = None,
        threads: int | None = 1,
        seconds: float = math.inf,
        df: NDArray[np.int64] | None = None,
        floors: NDArray[np.float32] | None = None,
    ) -> tuple[list[Hits], list[int]]:
        """`search` for as many seconds, and how many rows each query got to: its hits are those of the first so many.

        df int64 [total]: documents of the collection with each term; a repeated term that these parts do not know stands once, with its
        weight. floors float32 [queries]: documents that score less need not be among the hits.
        """
        if filter is not None and filter.shape != (self.n_rows,):
            raise InputError("bm25: filter", got=f"shape {list(filter.shape)}", expected=f"a bool for each of the {self.n_rows} rows")
        if not self.parts:
            return [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in offsets[1:]], [0 for _ in offsets[1:]]
        threads = 1 if threads == 1 else resolve_threads(threads)
        try:
            found: tuple[list[Hits], list[int]] = self._run(
                self, terms, offsets, weights, required, filter, min(k, max(self.n_rows, 1)), threads, seconds, df, floors
            )
        except OverflowError as error:
            raise checks.overflow("bm25: scores") from error
        except RuntimeError as error:
            raise damaged(error) from error
        return found

    def explain(self, terms: NDArray[np.int32], row: int) -> tuple[int, list[tuple[int, int, float, float]]]:
        """Of one row: its length, and per term (tf, df, idf, f(tf, length)). terms int32 [parts, n]."""
        bases = np.cumsum([0, *(len(part.segment) for part in self.parts)])
        own = int(np.searchsorted(bases, row, "right")) - 1
        segment, local = self.parts[own].segment, row - int(bases[own])
        p, length = self.parameters, int(segment.lengths[local])
        norm = 1 - p.b + p.b * length / (self.n_tokens / self.n_docs if self.n_tokens else 1.0)
        out = []
        for ids in terms.T.tolist():
            df = sum(part.document_frequency(np.array([t])).item() for part, t in zip(self.parts, ids) if t >= 0)
            tf = segment.frequency(ids[own], local) if ids[own] >= 0 else 0
            out.append((tf, df, _idf(p.variant, self.n_docs, df) if df else 0.0, _f(p, tf, norm)))
        return length, out


def bm25(
    queries: Packed,
    segments: Segment | Sequence[Segment],
    k: int,
    *,
    weights: ArrayLike | None = None,
    required: ArrayLike | None = None,
    filter: ArrayLike | None = None,
    parameters: BM25Parameters | None = None,
    threads: int | None = 1,
    backend: str = "auto",
) -> list[Hits]:
    """The k best documents of each query by the formula above. Segments that share their term ids are one corpus.

    queries: Packed of int32 term ids; a repeated term counts as often as it stands. weights float32 and required bool [total], filter bool
    [n_docs]: see `Searcher.search`. Returns per query (rows int64 [m], scores float32 [m]), score descending, then row ascending; only
    documents with at least one of the query's terms, so m <= k, and m = 0 for a query without known terms. Scores are float64 sums in
    the order of the query, rounded once: they do not depend on `threads` nor on how documents are spread over segments.
    Raises InputError (k < 1, a term id outside the index), NonFiniteError (weights, a sum beyond float32).
    """
    parts = [Part(s) for s in ([segments] if isinstance(segments, Segment) else segments)]
    if not parts:
        raise InputError("bm25: segments", got="none", expected="at least one")
    k = checks.count("bm25: k", k)
    terms = checks.integers("bm25: query terms", queries.values, np.int32)
    check_ids("bm25: query terms", terms, max(part.segment.n_terms for part in parts))
    w = None if weights is None else checks.floats("bm25: weights", weights, 1)
    must = None if required is None else np.ascontiguousarray(required, bool)
    for name, column in (("weights", w), ("required", must)):
        if column is not None and column.shape != terms.shape:
            raise InputError(f"bm25: {name}", got=f"{column.size} entries", expected=f"one for each of the {len(terms)} query terms")
    ids = np.stack([np.where(terms < part.segment.n_terms, terms, np.int32(-1)) for part in parts])
    rows = None if filter is None else np.asarray(filter, bool)
    searcher = Searcher(parts, parameters or BM25Parameters(), backend)
    return searcher.search(ids, queries.offsets, k, weights=w, required=must, filter=rows, threads=threads)


def bm25_cpp(
    searcher: Searcher,
    terms: NDArray[np.int32],
    offsets: NDArray[np.int64],
    weights: NDArray[np.float32] | None,
    required: NDArray[np.bool_] | None,
    filter: NDArray[np.bool_] | None,
    k: int,
    threads: int,
    seconds: float = math.inf,
    df: NDArray[np.int64] | None = None,
    floors: NDArray[np.float32] | None = None,
) -> tuple[list[Hits], list[int]]:
    w = _NO_WEIGHTS if weights is None else weights
    must = _NOTHING if required is None else required.view(np.uint8)
    allowed = _NOTHING if filter is None else np.packbits(filter, bitorder="little")
    told = np.empty(0, np.int64) if df is None else df
    least = _NO_WEIGHTS if floors is None else floors
    *hits, reached = searcher.native.search(terms.reshape(-1), w, must, offsets, allowed, k, threads, seconds, told, least)
    return unpack(*hits), reached.tolist()


def bm25_reference(
    searcher: Searcher,
    terms: NDArray[np.int32],
    offsets: NDArray[np.int64],
    weights: NDArray[np.float32] | None,
    required: NDArray[np.bool_] | None,
    filter: NDArray[np.bool_] | None,
    k: int,
    threads: int,
    seconds: float = math.inf,
    df: NDArray[np.int64] | None = None,
    floors: NDArray[np.float32] | None = None,
) -> tuple[list[Hits], list[int]]:
    """Document by document in float64 from tf, df and lengths, with dicts and loops. The time is looked at before each query; floors are
    not: they only spare work."""
    end = time.monotonic() + seconds
    lists = [part.segment.postings() for part in searcher.parts]
    lengths = np.concatenate([part.segment.lengths for part in searcher.parts]).tolist()
    mean = searcher.n_tokens / searcher.n_docs if searcher.n_tokens else 1.0
    out, reached = list[Hits](), list[int]()
    for first, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist()):
        reached.append(0 if time.monotonic() >= end else searcher.n_rows)
        if not reached[-1]:
            out.append((np.empty(0, np.int64), np.empty(0, np.float32)))
            continue
        query: dict[tuple[int, ...], list[Any]] = {}  # a term by its ids, or its place -> [its ids, weight, required, df], repeats merged
        for i in range(first, stop):
            ids = tuple(terms[:, i].tolist())
            entry = query.setdefault(ids if max(ids) >= 0 else (-2, i), [ids, 0.0, False, None if df is None else int(df[i])])
            entry[1] += 1.0 if weights is None else float(weights[i])
            entry[2] = entry[2] or (required is not None and bool(required[i]))
        constant, sums, held = 0.0, dict[int, float](), list[set[int]]()
        for ids, weight, must, total in query.values():
            found = _documents_with(searcher, lists, ids)
            if must:
                held.append(set(found))
            if not (total := len(found) if total is None else total):
                continue
            idf, absent = _idf(searcher.parameters.variant, searcher.n_docs, total), _f(searcher.parameters, 0, 1.0)
            constant += weight * idf * absent
            for row, tf in found.items():
                norm = 1 - searcher.parameters.b + searcher.parameters.b * lengths[row] / mean
                sums[row] = sums.get(row, 0.0) + weight * idf * (_f(searcher.parameters, tf, norm) - absent)
        for rows in held:
            sums = {row: score for row, score in sums.items() if row in rows}
        if filter is not None:
            sums = {row: score for row, score in sums.items() if filter[row]}
        scores = checks.narrow([score + constant for score in sums.values()])
        out.append(topk_reference(scores, np.array(list(sums), np.int64), k))
    return out, reached


def _documents_with(searcher: Searcher, lists: Sequence[Postings], ids: tuple[int, ...]) -> dict[int, int]:
    """The live documents that hold a term, by row, with its frequency. ids: the term's id in each part, or -1."""
    found, base = dict[int, int](), 0
    for part, postings, t in zip(searcher.parts, lists, ids):
        if t >= 0:
            places = slice(postings.term_offsets[t], postings.term_offsets[t + 1])
            for row, tf in zip(postings.rows[places].tolist(), postings.counts[places].tolist()):
                if part.dead is None or not part.dead[row]:
                    found[base + row] = tf
        base += len(part.segment)
    return found


def _idf(variant: str, n: int, df: int) -> float:
    match variant:
        case "lucene":
            return math.log1p((n - df + 0.5) / (df + 0.5))
        case "robertson":
            return max(0.0, math.log((n - df + 0.5) / (df + 0.5)))
        case "atire":
            return math.log(n / df)
        case "bm25l":
            return math.log((n + 1) / (df + 0.5))
        case "impact":
            return 1.0
        case _:
            return math.log((n + 1) / df)


def _f(p: BM25Parameters, tf: int, norm: float) -> float:
    """f(tf, |d|) of the table, with norm = B."""
    if p.variant == "impact":
        return tf / p.k1
    if p.variant == "bm25l":
        c = tf / norm
        return (p.k1 + 1) * (c + p.delta) / (p.k1 + c + p.delta)  # type: ignore[operator]
    share = tf / (tf + p.k1 * norm) if tf else 0.0
    if p.variant == "bm25+":
        return p.delta + (p.k1 + 1) * share  # type: ignore[operator]
    return share * (p.k1 + 1) if p.variant == "atire" else share
