"""What holds one shard of a collection, in a process of its own or in this one: an index over a range of its documents."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpus import Corpus, Document
from ..errors import InputError
from ..indexes import BM25Index, TokenIndex, VectorIndex, token_search
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
Index = BM25Index | VectorIndex | TokenIndex
Chosen = tuple[Selection | None, Selection | None]  # what a query allows and denies, of a shard's own rows


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
    """An index and where its rows lie in the collection: its row r is row base + r there. Its methods are what a coordinator asks; seconds:
    how long they may take."""

    def __init__(
        self, index: Index | str | Path, base: int = 0, *, kind: str | None = None, threads: int | None = 1, **options: Any
    ) -> None:
        """index: or where it lies, opened with `options`, as an index of this kind."""
        self.index: Any = OPEN[str(kind)](index, **options) if isinstance(index, (str, Path)) else index
        self.kind, self.base, self.threads = kind_of(self.index), base, threads
        self._searcher: tuple[Any, Searcher] | None = None

    def answer(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """What a method returns, or a Failure."""
        try:
            return getattr(self, method)(*arguments)
        except Exception as error:
            return Failure(error)

    def about(self) -> dict[str, Any]:
        """{"kind", "rows": deleted ones included, "base", "documents", "made": what has to be the same of all shards, ...}"""
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

    def find(self, doc_id: str) -> int | None:
        """The row of an id in the collection, None where it is not here."""
        corpus = self.index.corpus
        return self.base + int(corpus.row(doc_id)) if doc_id in corpus else None

    def fingerprint(self) -> str:
        """A hash of the documents' ids in their order."""
        digest = hashlib.blake2b(digest_size=16)
        for row in range(len(self.index.corpus)):
            data = self.index.corpus.id_of(row).encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()

    def weigh(self, chosen: Sequence[Chosen]) -> list[tuple[int, int, int]]:
        """Of each: (documents that may be found, their tokens or 0, how many of the ids in `allow` are here)."""
        out = []
        for allow, deny in chosen:
            mask, known = self._mask((allow, deny)), 0
            if allow is not None and not isinstance(allow, np.ndarray):
                known = sum(isinstance(doc_id, str) and doc_id in self.index.corpus for doc_id in allow)
            if isinstance(self.index, TokenIndex):
                wanted, n = self._wanted((allow, deny)), len(self.index.corpus)
                rows = np.arange(n) if wanted is None else np.flatnonzero(wanted)
                out.append((len(rows), int(token_search.lengths_of(self.index._members, rows).sum()), known))
            else:
                out.append((len(self.index.corpus) if mask is None else int(mask.sum()), 0, known))
        return out

    def _mask(self, chosen: Chosen) -> NDArray[np.bool_] | None:
        allow, deny = chosen
        if allow is None and deny is None:
            return None
        corpus: Corpus = self.index.corpus
        mask = np.ones(len(corpus), bool) if allow is None else _of("allow", allow, corpus)
        return mask if deny is None else mask & ~_of("deny", deny, corpus)

    # BM25

    def frequencies(self, terms: Sequence[Any]) -> list[int]:
        found: list[int] = self.index.document_frequency(terms)
        return found

    def lexical(
        self,
        batch: Sequence[Terms],
        chosen: Sequence[Chosen],
        k: int,
        collection: tuple[int, int],
        df: Sequence[NDArray[np.int64]],
        parameters: Mapping[str, Any],
        floors: NDArray[np.float32],
        seconds: float,
    ) -> list[Answer]:
        """collection: (documents, tokens) of it; df: of each query's terms in it; parameters: of BM25; floors float32 [queries]."""
        members, searcher, masks = self.index._members, self._searcher_of(collection, parameters), [self._mask(own) for own in chosen]
        groups = [[i] for i in range(len(batch))] if any(mask is not None for mask in masks) else [list(range(len(batch)))]
        out = list[Answer]()
        with _within(seconds):
            for places in groups:
                told = np.concatenate([np.empty(0, np.int64), *(df[i] for i in places)])
                asked, mask = [batch[i] for i in places], masks[places[0]] if places else None
                hits, reached = run(members, searcher, asked, k, mask, self.threads, told, floors[places])
                out += [self._answer(rows, scores, None, n, len(self.index.corpus)) for (rows, scores), n in zip(hits, reached)]
        return out

    def _searcher_of(self, collection: tuple[int, int], parameters: Mapping[str, Any]) -> Searcher:
        key, index = (collection, tuple(sorted(parameters.items()))), self.index
        if self._searcher is None or self._searcher[0] != key:
            parts = [member.part for member in index._members]
            self._searcher = key, Searcher(parts, BM25Parameters(**parameters), index.backend, collection)
        return self._searcher[1]

    # Vectors

    def nearest(self, vectors: NDArray[np.float32], chosen: Sequence[Chosen], k: int, seconds: float) -> list[Answer]:
        """vectors float32 [queries, dim], as they are compared."""
        index, masks = self.index, [self._mask(own) for own in chosen]
        with _within(seconds):
            hits, reached = index.search_reached(vectors, k, filters=masks, threads=self.threads)
        of = [len(index.corpus) if mask is None else int(mask.sum()) for mask in masks]
        cut = index.truncated_tokens
        return [self._answer(rows, scores, cut[rows], n, most) for (rows, scores), n, most in zip(hits, reached, of)]

    # Tokens

    def tokens(self, query: NDArray[np.float32], own: Chosen, k: int, work: tuple[int, int], precision: str, seconds: float) -> Answer:
        """Every document that may be found, scored. work: of the whole collection, see `token_search.work_of`."""
        wanted = self._wanted(own)
        with _within(seconds):
            return self._scored(query, None if wanted is None else np.flatnonzero(wanted), k, work, precision, None)

    def near(self, query: NDArray[np.float32], own: Chosen, probe: int, n: int, seconds: float) -> Near:
        """The n best by centroids, of the documents that the lists of `probe` centroids a query token hold."""
        members, wanted = self.index._members, self._wanted(own)
        with _within(seconds):
            table = centroid_scores(query, self.index.codec.centroids, num_threads=self.threads)
            found, _ = found_at(members, table, len(query), probe, wanted)
            scores = by_centroids(members, table, found, self.threads)
        bases = np.cumsum([0, *(member.n_rows for member in members)]).tolist()
        rows = np.concatenate([np.empty(0, np.int64), *(part + base for part, base in zip(found, bases))])
        there = ~np.isnan(scores)
        best, scores = topk(scores[there], n, ids=rows[there])
        return Near(best + self.base, scores, token_search.lengths_of(members, best), len(rows), bool(there.all()))

    def exact(
        self, query: NDArray[np.float32], rows: NDArray[np.int64], k: int, work: tuple[int, int], precision: str, seconds: float
    ) -> Answer:
        """These rows of the collection, scored."""
        with _within(seconds):
            table = centroid_scores(query, self.index.codec.centroids, num_threads=self.threads)
            return self._scored(query, np.sort(rows) - self.base, k, work, precision, table)

    def _scored(self, query: Any, rows: NDArray[np.int64] | None, k: int, work: tuple[int, int], precision: str, table: Any) -> Answer:
        options: dict[str, Any] = {"num_threads": self.threads, "precision": precision, "centroids": table, "whole": work}
        scores = token_search.score(self.index._members, query, rows, **options)
        rows = np.arange(len(scores)) if rows is None else rows
        found, late = scores > -np.inf, np.isnan(scores)
        hits = topk(scores[found], k, ids=rows[found])
        return self._answer(*hits, self.index.truncated_tokens[hits[0]], len(scores) - int(late.sum()), len(scores))

    def _wanted(self, own: Chosen) -> NDArray[np.bool_] | None:
        """bool [rows]: which a query of tokens may find; None: all."""
        mask, live = self._mask(own), token_search.live_rows(self.index._members)
        return live if mask is None else mask if live is None else mask & live

    def _answer(self, rows: NDArray[np.int64], scores: NDArray[np.float32], cut: NDArray[np.int32] | None, reached: int, of: int) -> Answer:
        return Answer(rows + self.base, scores, cut, reached, of)


def _of(name: str, chosen: Selection, corpus: Corpus) -> NDArray[np.bool_]:
    return mask_of(f"Query: {name}", chosen, corpus, strict=False)


def _within(seconds: float) -> AbstractContextManager[Any]:
    return nullcontext() if seconds == math.inf else limited(deadline_ms=1e3 * max(0.0, seconds))


class Here:
    """A replica in this process: a thread of `pool` for each question."""

    def __init__(self, shard: Shard, pool: ThreadPoolExecutor, name: str = "here") -> None:
        self.shard, self.name, self._pool = shard, name, pool

    def ask(self, method: str, arguments: tuple[Any, ...]) -> Future[Any]:
        return self._pool.submit(self.shard.answer, method, arguments)
