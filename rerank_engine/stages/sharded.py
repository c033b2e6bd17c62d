"""Retrieval from a collection in shards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ..core import Query, Ranking, Stage
from ..errors import InputError
from ..indexes.token_build import require_maker
from ..indexes.token_probe import Probe
from ..indexes.vector_encoder import encode, name_of, require_encoder
from ..limits import limited, limits, pieces
from ..ops import checks
from ..sharding.corpus import Read
from ..sharding.index import ShardedIndex
from ..sharding.late import Found
from ..sharding.shard import BM25, TOKENS, VECTORS
from ..trace import reach
from .colbert import ColBERT
from .dense import metric_of
from .late import encoded_in_time


@final
class Sharded(Stage):
    """The k best documents of a ShardedIndex: what BM25, Dense or LateInteraction finds in one index of the same documents.

    encoder: of vectors or tokens, what made them. probe, candidates, precision: of tokens, as for LateInteraction. documents: how many of
    each list come with their texts, which the stages behind read; others are asked of the shards when they are read.

    shard_ms: what a shard may take to answer; None: half of the time to the deadline of `rr.limited`, so that the stages behind have the
    rest, and without a deadline as long as the index' patience. Where shards do not answer, the list is that of the others, and the facts
    of the step say so: {"finished": False, "missing": {shard: why}}, "approximate" for shards whose counts are not in the scores,
    "stopped" for those that time cut short;
    {"hedged", "retried"} where questions were asked twice, or again.
    """

    retrieves = True

    def __init__(
        self,
        index: ShardedIndex,
        k: int = 1000,
        *,
        encoder: Any = None,
        documents: int = 100,
        shard_ms: float | None = None,
        probe: Probe = "auto",
        candidates: int | None = None,
        precision: str = "auto",
    ) -> None:
        checks.instance("Sharded: index", index, ShardedIndex)
        self.index, self.k, self.encoder = index, checks.count("Sharded: k", k), encoder
        self.documents = checks.count("Sharded: documents", documents)
        self.shard_ms = None if shard_ms is None else checks.finite_number("Sharded: shard_ms", shard_ms, 0)
        self.probe, self.candidates, self.precision = probe, candidates, precision
        if index.kind == BM25:
            if encoder is not None:
                raise InputError("Sharded: encoder", got=type(encoder).__name__, expected="none: these shards are of BM25")
            return
        if index.kind == TOKENS:
            checks.instance("Sharded: encoder", encoder, ColBERT)
        else:
            require_encoder("Sharded", encoder)
        require_maker("Sharded", index.made_by, index.given_dim, encoder)

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        index, out = self.index, list[Found | None]([None] * len(queries))  # None: nothing was asked, or time was up before it was
        places = [i for i, query in enumerate(queries) if index.kind == BM25 or query.text.strip()]
        asked = [queries[i] for i in places]
        vectors = self._encoded(asked)
        with self._time():
            for i, one in zip(places, self._found(asked, vectors)):
                out[i] = one
        with self._time():
            read = [row for one in out if one is not None for row in one.rows[: self.documents].tolist()]
            named = [row for one in out if one is not None for row in one.rows[self.documents :].tolist()]
            held = index.corpus.fetch(read, named)
        return [self._ranking(one, query, held) for one, query in zip(out, queries)]

    @contextmanager
    def _time(self) -> Iterator[None]:
        left = limits().left() / 2
        own = left if self.shard_ms is None else min(left, self.shard_ms / 1e3)
        with limited(deadline_ms=1e3 * own) if own < math.inf else nullcontext():
            yield

    def _encoded(self, queries: Sequence[Query]) -> Any:
        """Vectors of the first queries, of as many as time allows."""
        index, texts = self.index, [query.text for query in queries]
        if index.kind == BM25:
            return None
        if index.kind == TOKENS:
            return encoded_in_time(self.encoder, texts)
        rows = [encode("Sharded", self.encoder, texts[part], queries=True) for part in pieces(len(texts), 1)]
        return np.concatenate([np.empty((0, index.given_dim), np.float32), *rows])

    def _found(self, queries: Sequence[Query], vectors: Any) -> list[Found]:
        if self.index.kind == BM25:
            return self.index.search(queries, self.k)
        asked = queries[: len(vectors)]
        if self.index.kind == VECTORS:
            return self.index.search_vectors(vectors, self.k, filters=asked)
        options: dict[str, Any] = {"probe": self.probe, "candidates": self.candidates, "precision": self.precision}
        return self.index.search_tokens(vectors, self.k, filters=asked, **options)

    def _ranking(self, found: Found | None, query: Query, held: Read) -> Ranking:
        if found is None:
            late = reach(0, 1) if limits().out_of_time() and query.text.strip() else {}
            return self._made(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int32), late)
        missing, corpus = dict(found.missing), self.index.corpus
        there = np.ones(len(found.rows), bool)
        if held.missing and not limits().out_of_time():  # of shards that have gone since; where all time is gone, nothing reads them
            there = np.array([row in held.documents or row in held.names for row in found.rows.tolist()], bool)
            missing |= {shard: held.missing.get(shard, "") for shard in map(corpus.shard_of, found.rows[~there].tolist())}
        facts: dict[str, Any] = {"shards": len(self.index.rows)} | ({} if found.plan is None else found.plan.facts)
        facts |= {name: getattr(found, name) for name in ("hedged", "retried") if getattr(found, name)}
        facts |= reach(found.reached, found.of) | ({"stopped": list(found.stopped)} if found.stopped else {})
        for name, told in (("missing", missing), ("approximate", found.approximate)):
            facts |= {"finished": False, name: {str(shard): why for shard, why in sorted(told.items())}} if told else {}
        return self._made(found.rows[there], found.scores[there], found.cut[there], facts)

    def _made(self, rows: NDArray[np.int64], scores: NDArray[np.float32], cut: NDArray[np.int32], facts: dict[str, Any]) -> Ranking:
        columns = {} if self.index.kind == BM25 else {"truncated_tokens": cut}
        return Ranking._trusted(rows, scores, self.index.corpus, self._scale, columns, facts=facts)

    @property
    def _scale(self) -> str:
        index = self.index
        if index.kind == VECTORS:
            return index.scale.replace(index.metric, metric_of(index, self.encoder))
        return "bm25" if index.kind == BM25 else "maxsim"

    def __repr__(self) -> str:
        model = f", {name_of(self.encoder)}" if self.encoder is not None else f", {self.index.parameters}"
        return f"Sharded(k={self.k}, {self.index.kind} in {len(self.index.rows)} shards{model})"
