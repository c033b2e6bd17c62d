"""What holds one shard of a collection, in a process of its own or in this one: an index over a range of its documents."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpus import Corpus, Document
from ..errors import InputError, ShardUnavailable
from ..indexes import BM25Index, TokenIndex, VectorIndex, token_search
from ..indexes.folder import content_of
from ..indexes.queries import Terms, run
from ..indexes.token_members import fingerprint
from ..indexes.token_probe import by_centroids, found_at
from ..limits import limited
from ..ops.bm25 import BM25Parameters, Searcher
from ..ops.residual import centroid_scores
from ..ops.topk import topk
from ..selection import Selection, mask_of
from .scatter import Failure

BM25, VECTORS, TOKENS = "bm25", "vectors", "tokens"
OPEN: dict[str, Any] = {BM25: BM25Index.open, VECTORS: VectorIndex.open, TOKENS: TokenIndex.open}
SEARCHERS = 8  # with the counts of a collection and parameters of BM25, that are kept
Index = BM25Index | VectorIndex | TokenIndex
Chosen = tuple[Selection | None, Selection | None]  # what a query allows and denies, of a shard's own rows
Groups = Sequence[tuple[Chosen, list[int]]]  # the queries of a batch, by their places, that may find the same
Work = tuple[int, int]  # of the whole collection, see `token_search.work_of`
Vectors = NDArray[np.float32]


def kind_of(index: object) -> str:
    """Raises InputError for what cannot be a shard."""
    for kind, made in ((BM25, BM25Index), (VECTORS, VectorIndex), (TOKENS, TokenIndex)):
        if isinstance(index, made):
            return kind
    raise InputError("shard", got=type(index).__name__, expected="a BM25Index, VectorIndex or TokenIndex")


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """To one query: rows int64 [m] of the whole collection and scores float32 [m], best first; cut int32 [m], the tokens that an encoder
    cut off, if one did; reached: how many of the rows that may be found it got to, `of` of them."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    cut: NDArray[np.int32] | None
    reached: int
    of: int


@dataclass(frozen=True, slots=True, eq=False)
class Near:
    """What the lists of centroids gave for one query: rows int64 [m] of the collection and their approximate scores float32 [m], the best
    ones, tokens int64 [m] of each; found: how many there were; whole: whether all of them were looked at."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    tokens: NDArray[np.int64]
    found: int
    whole: bool


class Shard:
    """An index and where its rows lie in the collection: its row r is row base + r there. Its methods are what a coordinator asks."""

    def __init__(
        self, index: Index | str | Path, base: int = 0, *, kind: str | None = None, threads: int | None = 1, **options: Any
    ) -> None:
        """index: or where it lies, opened with `options`, as an index of this kind. content: tells it from what is written there later."""
        self.content = content_of(Path(index)) if isinstance(index, (str, Path)) else None
        self.index: Any = OPEN[str(kind)](index, **options) if isinstance(index, (str, Path)) else index
        self.kind, self.base, self.threads = kind_of(self.index), base, threads
        self._searchers, self._lock = dict[Any, Searcher](), threading.Lock()

    def answer(self, method: str, arguments: tuple[Any, ...], expected: str | None = None, seconds: float = math.inf) -> Any:
        """What a method returns, or a Failure. expected: the content that is asked; ShardUnavailable where this is another."""
        if expected is not None and self.content is not None and expected != self.content:
            what, hint = "a shard that holds something else than its collection says", "Was it written again? Start all of them anew."
            return Failure(ShardUnavailable(what, got=self.content, expected=expected, hint=hint))
        try:
            with nullcontext() if seconds == math.inf else limited(deadline_ms=1e3 * max(0.0, seconds)):
                return getattr(self, method)(*arguments)
        except Exception as error:
            return Failure(error)

    def about(self) -> dict[str, Any]:
        """{"kind", "rows": deleted ones included, "base", "documents", "made": what has to be the same of all shards, "tokens"}"""
        index = self.index
        told: dict[str, Any] = {"kind": self.kind, "rows": len(index.corpus), "base": self.base, "documents": len(index.corpus)}
        if isinstance(index, BM25Index):
            searcher = index.searcher
            made: dict[str, Any] = {"analyzer": index.analyzer.config, "parameters": asdict(index.parameters)}
            return told | {"documents": searcher.n_docs, "tokens": searcher.n_tokens, "made": made}
        if isinstance(index, VectorIndex):
            made = {name: getattr(index, name) for name in ("metric", "dim", "given_dim", "keep", "scores_exact")}
            return told | {"made": {**made, "encoder": index.made_by}}
        live = token_search.live_rows(index._members)
        tokens = index.n_tokens if live is None else int(token_search.lengths_of(index._members, np.flatnonzero(live)).sum())
        made = {"storage": index.storage, "dim": index.dim, "codec": fingerprint(index.codec), "encoder": index.made_by}
        return told | {"documents": len(index), "tokens": tokens, "made": made}

    def codec(self) -> Any:
        """Of residual codes, None for others."""
        return self.index.codec

    def read(self, rows: Sequence[int], named: Sequence[int] = ()) -> tuple[list[Document], list[str]]:
        """By rows of the collection: the documents of some, the ids alone of others."""
        corpus = self.index.corpus
        return [corpus[row - self.base] for row in rows], [corpus.id_of(row - self.base) for row in named]

    def find(self, ids: Sequence[str]) -> dict[str, int]:
        """The rows in the collection of those ids that are here."""
        corpus = self.index.corpus
        return {doc_id: self.base + int(corpus.row(doc_id)) for doc_id in ids if doc_id in corpus}

    def known(self, chosen: Sequence[Chosen]) -> list[int]:
        """How many of the ids in each `allow` are here."""
        corpus = self.index.corpus
        return [sum(doc_id in corpus for doc_id in allow) if isinstance(allow, list) else 0 for allow, _ in chosen]

    def weigh(self, chosen: Sequence[Chosen]) -> list[tuple[int, int]]:
        """Of each, in an index of tokens: (documents that may be found, their tokens)."""
        out, n = [], len(self.index.corpus)
        for own in chosen:
            wanted = self._wanted(own)
            rows = np.arange(n) if wanted is None else np.flatnonzero(wanted)
            out.append((len(rows), int(token_search.lengths_of(self.index._members, rows).sum())))
        return out

    def _mask(self, chosen: Chosen) -> NDArray[np.bool_] | None:
        allow, deny = chosen
        if allow is None and deny is None:
            return None
        corpus: Corpus = self.index.corpus
        mask = np.ones(len(corpus), bool) if allow is None else mask_of("Query: allow", allow, corpus, strict=False)
        return mask if deny is None else mask & ~mask_of("Query: deny", deny, corpus, strict=False)

    # BM25

    def frequencies(self, terms: Sequence[Any]) -> list[int]:
        found: list[int] = self.index.document_frequency(terms)
        return found

    def lexical(
        self,
        batch: Sequence[Terms],
        groups: Groups,
        k: int,
        collection: tuple[int, int],
        df: Sequence[NDArray[np.int64]],
        parameters: Mapping[str, Any],
        floors: NDArray[np.float32],
    ) -> list[Answer]:
        """collection: (documents, tokens) of it; df: of each query's terms in it; parameters: of BM25; floors float32 [queries]."""
        members, searcher, n = self.index._members, self._searcher(collection, parameters), len(self.index.corpus)
        out = dict[int, Answer]()
        for own, places in groups:
            told = np.concatenate([np.empty(0, np.int64), *(df[i] for i in places)])
            hits, reached = run(members, searcher, [batch[i] for i in places], k, self._mask(own), self.threads, told, floors[places])
            out |= {i: self._answer(rows, scores, None, at, n) for i, (rows, scores), at in zip(places, hits, reached)}
        return [out[i] for i in range(len(batch))]

    def _searcher(self, collection: tuple[int, int], parameters: Mapping[str, Any]) -> Searcher:
        key, index = (collection, tuple(sorted(parameters.items()))), self.index
        with self._lock:
            if key not in self._searchers:
                if len(self._searchers) >= SEARCHERS:
                    self._searchers = {}
                parts = [member.part for member in index._members]
                self._searchers[key] = Searcher(parts, BM25Parameters(**parameters), index.backend, collection)
            return self._searchers[key]

    # Vectors

    def nearest(self, vectors: Vectors, groups: Groups, k: int) -> list[Answer]:
        """vectors float32 [queries, dim], as they are compared."""
        index, masks = self.index, list[Any]([None] * len(vectors))
        for own, places in groups:
            mask = self._mask(own)
            for i in places:
                masks[i] = mask
        hits, reached = index.search_reached(vectors, k, filters=masks, threads=self.threads)
        of, cut = [len(index.corpus) if mask is None else int(mask.sum()) for mask in masks], index.truncated_tokens
        return [self._answer(rows, scores, cut[rows], n, most) for (rows, scores), n, most in zip(hits, reached, of)]

    # Tokens

    def tokens(self, asked: Sequence[tuple[Vectors, Chosen, Work]], k: int, precision: str) -> list[Answer]:
        """(query float32 [q, dim], what it may find, the work) each: all of that, scored."""
        out = []
        for query, own, work in asked:
            wanted = self._wanted(own)
            out.append(self._scored(query, None if wanted is None else np.flatnonzero(wanted), k, work, precision, None))
        return out

    def near(self, asked: Sequence[tuple[Vectors, Chosen, int, int]]) -> list[Near]:
        """(query, what it may find, probe, n) each: the n best by centroids, of the documents that the lists of `probe` centroids a query
        token hold."""
        members, out = self.index._members, []
        bases = np.cumsum([0, *(member.n_rows for member in members)]).tolist()
        for query, own, probe, n in asked:
            table = centroid_scores(query, self.index.codec.centroids, num_threads=self.threads)
            found, _ = found_at(members, table, len(query), probe, self._wanted(own))
            scores = by_centroids(members, table, found, self.threads)
            rows = np.concatenate([np.empty(0, np.int64), *(part + base for part, base in zip(found, bases))])
            there = ~np.isnan(scores)
            best, scores = topk(scores[there], n, ids=rows[there])
            out.append(Near(best + self.base, scores, token_search.lengths_of(members, best), len(rows), bool(there.all())))
        return out

    def exact(self, asked: Sequence[tuple[Vectors, NDArray[np.int64], Work]], k: int, precision: str) -> list[Answer]:
        """(query, rows of the collection, the work) each: these rows, scored."""
        out = []
        for query, rows, work in asked:
            table = centroid_scores(query, self.index.codec.centroids, num_threads=self.threads)
            out.append(self._scored(query, np.sort(rows) - self.base, k, work, precision, table))
        return out

    def _scored(self, query: Vectors, rows: NDArray[np.int64] | None, k: int, work: Work, precision: str, table: Any) -> Answer:
        options: dict[str, Any] = {"num_threads": self.threads, "precision": precision, "centroids": table, "whole": work}
        scores = token_search.score(self.index._members, query, rows, **options)
        rows = np.arange(len(scores)) if rows is None else rows
        found, late = scores > -np.inf, np.isnan(scores)
        best, values = topk(scores[found], k, ids=rows[found])
        return self._answer(best, values, self.index.truncated_tokens[best], len(scores) - int(late.sum()), len(scores))

    def _wanted(self, own: Chosen) -> NDArray[np.bool_] | None:
        """bool [rows]: which a query of tokens may find; None: all."""
        mask, live = self._mask(own), token_search.live_rows(self.index._members)
        return live if mask is None else mask if live is None else mask & live

    def _answer(self, rows: NDArray[np.int64], scores: NDArray[np.float32], cut: NDArray[np.int32] | None, reached: int, of: int) -> Answer:
        return Answer(rows + self.base, scores, cut, reached, of)


class Here:
    """A replica in this process: a thread of `pool` for each question."""

    def __init__(self, shard: Shard, pool: ThreadPoolExecutor, name: str = "here") -> None:
        self.shard, self.name, self._pool = shard, name, pool

    def ask(self, method: str, arguments: tuple[Any, ...], expected: str | None, seconds: float) -> Future[Any]:
        return self._pool.submit(self._answer, method, arguments, expected, seconds, time.monotonic())

    def _answer(self, method: str, arguments: tuple[Any, ...], expected: str | None, seconds: float, sent: float) -> Any:
        return self.shard.answer(method, arguments, expected, seconds - (time.monotonic() - sent))

    def forget(self, future: Future[Any]) -> None:
        future.cancel()
