"""A collection in shards, searched as one index: the same ids and float32 scores, bit for bit, as long as all shards answer."""

from __future__ import annotations

import copy
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core import Query
from ..errors import FileFormatError, InputError, ShardUnavailable, UnknownIdError
from ..indexes.queries import Terms, distinct, terms_of
from ..indexes.token_probe import Plan, Probe, planned, require, wider
from ..indexes.token_search import work_of
from ..indexes.vector_build import prepared
from ..limits import limits
from ..ops import checks
from ..ops.bm25 import BM25Parameters
from ..ops.residual import PRECISIONS
from ..ops.topk import topk
from ..text import Analyzer, AnalyzerLike
from . import manifest
from .corpus import ShardedCorpus
from .scatter import PATIENCE_S, Gathered, Replica, Scatter
from .shard import BM25, TOKENS, VECTORS, Answer, Chosen, Here, Near, Shard

MARGIN_S = 0.005  # before the deadline that a shard stops, so that its answer comes in time
KNOWN_TERMS = 1_000_000  # whose frequencies are remembered


@dataclass(frozen=True, eq=False)
class Found:
    """For one query: rows int64 [m] of the collection, scores float32 [m], best first; cut int32 [m]: tokens that an encoder cut off the
    document. reached: documents that were looked at, `of` of them; missing: why a shard's are not among them; hedged, retried: questions
    asked twice, and again."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    cut: NDArray[np.int32]
    reached: int
    of: int
    missing: Mapping[int, str] = field(default_factory=dict)
    hedged: int = 0
    retried: int = 0
    plan: Plan | None = None

    @property
    def partial(self) -> bool:
        return bool(self.missing) or self.reached < self.of


class ShardedIndex:
    """Document ranges of one collection, each a BM25Index, VectorIndex or TokenIndex, in this process or in others.

        ShardedIndex.open(folder)               what `sharding.split` or `join` wrote, each shard searched by a thread of this process
        on_ray.shards_on_ray(folder, ...)       each in an actor, with replicas

    BM25 counts N, df and the mean length over the whole collection, tokens in residual codes share the codec, so that a ranking is that of
    one index. Searches keep to the deadline of `rr.limited`: what a shard does not answer by then is missing, and `Found.missing` says so.
    hedge, extra, patience_s: see Scatter. at_once: shards that are asked at a time; those asked later are told what score the k-th best
    has already, and skip what is below, which pays where shards share processors. One object serves any number of threads.
    """

    def __init__(
        self,
        shards: Sequence[Sequence[Replica]],
        *,
        analyzer: AnalyzerLike | None = None,
        hedge: float | None = 0.95,
        extra: float = 0.1,
        patience_s: float = PATIENCE_S,
        at_once: int | None = None,
    ) -> None:
        self.scatter = Scatter(shards, hedge=hedge, extra=extra, patience_s=patience_s)
        self.at_once = None if at_once is None else checks.count("ShardedIndex: at_once", at_once)
        told = self._all("about")
        first, base = told[0], 0
        for number, about in enumerate(told):
            for name, got, expected in (("kind", about["kind"], first["kind"]), ("settings", about["made"], first["made"]),
                                        ("first row", about["base"], base)):  # fmt: skip
                if got != expected:
                    raise InputError(f"shard {number}: {name}", got=repr(got), expected=f"{expected!r}, as of one collection")
            base += about["rows"]
        self.kind, self.made = str(first["kind"]), first["made"]
        self.documents, self.tokens = (sum(about.get(name, 0) for about in told) for name in ("documents", "tokens"))
        self.rows = [about["rows"] for about in told]
        self.corpus = ShardedCorpus(self.scatter, self.rows)
        self.codec = self._one("codec") if self.kind == TOKENS else None
        self._df = dict[Any, int]()
        if self.kind == BM25:
            self.analyzer = Analyzer.from_config(self.made["analyzer"], analyzer)
            self.parameters = BM25Parameters(**self.made["parameters"])

    @classmethod
    def open(cls, folder: str | Path, *, threads: int | None = None, analyzer: AnalyzerLike | None = None, **options: Any) -> ShardedIndex:
        """In this process. threads: that search shards at the same time; None: as many as there are shards or processors. options: as for
        ShardedIndex. Raises FileFormatError, InputError."""
        kind, places = manifest.places(folder)
        pool = ThreadPoolExecutor(threads or min(len(places), os.cpu_count() or 1), "rerank-shard")
        given: dict[str, Any] = {"analyzer": analyzer} if kind == BM25 and analyzer is not None else {}
        shards = [Shard(place.path, place.base, kind=kind, **given) for place in places]
        require_rows(places, [len(shard.index.corpus) for shard in shards])
        return cls([[Here(shard, pool)] for shard in shards], analyzer=analyzer, **options)

    def with_parameters(self, **changes: Any) -> ShardedIndex:
        """The same shards, searched with another BM25 variant, k1, b or delta. Raises InputError."""
        self._require(BM25, "with_parameters")
        other = copy.copy(self)
        fresh: dict[str, Any] = {"delta": None} if "variant" in changes else {}
        other.parameters = replace(self.parameters, **{**fresh, **changes})
        return other

    def __len__(self) -> int:
        """The number of documents, without deleted ones."""
        return int(self.documents)

    @property
    def made_by(self) -> Mapping[str, str] | None:
        """{"model", "fingerprint"} of the encoder of vectors or tokens, where that said what it is."""
        found: Mapping[str, str] | None = self.made.get("encoder")
        return found

    @property
    def dim(self) -> int:
        """Of vectors and tokens."""
        return int(self.made["dim"])

    @property
    def given_dim(self) -> int:
        """Of vectors as the encoder gives them."""
        return int(self.made.get("given_dim", self.dim))

    @property
    def metric(self) -> str:
        """Of vectors."""
        return str(self.made["metric"])

    @property
    def scale(self) -> str:
        """Of vectors: the metric; "approximate ..." where scores are those of compressed ones."""
        return self.metric if self.made["scores_exact"] else f"approximate {self.metric}"

    # Searching

    def search(self, queries: Sequence[str | Query | Sequence[Any]], k: int) -> list[Found]:
        """By BM25: texts, Queries or sequences of terms, as BM25Index.search takes them. Raises InputError."""
        self._require(BM25, "search")
        if isinstance(queries, (str, Query)):
            raise InputError("ShardedIndex.search: queries", got="one query", expected="a sequence of them", hint="Pass [query].")
        k, batch = checks.count("ShardedIndex.search: k", k), [distinct(terms_of(query, self.analyzer)) for query in queries]
        chosen, _, weighed = self._chosen(queries)
        known, counted = self._frequencies(batch)
        before = [weighed, counted]
        df = [np.array([known[term] for term in terms], np.int64) for terms, _, _ in batch]
        parameters = {name: getattr(self.parameters, name) for name in ("variant", "k1", "b", "delta")}
        best = [np.empty(0, np.float32)] * len(batch)
        floors = np.full(len(batch), -np.inf, np.float32)

        def make(shard: int) -> tuple[Any, ...]:
            whole = (self.documents, self.tokens)
            return batch, self._own(chosen, shard), k, whole, df, parameters, floors.copy(), seconds()

        def rise(shard: int, answers: list[Answer]) -> None:
            for i, answer in enumerate(answers):
                best[i] = -np.sort(-np.concatenate([best[i], answer.scores]))[:k]
                floors[i] = best[i][-1] if len(best[i]) == k else -np.inf

        told = self._gather("lexical", make, each=rise if self.at_once else None)
        return [self._merged(told, [told.values[s][i] for s in sorted(told.values)], k, before) for i in range(len(batch))]

    def search_vectors(self, vectors: ArrayLike, k: int, *, filters: Sequence[Query] | None = None) -> list[Found]:
        """By inner product or cosine: float [q, dim], as VectorIndex.search. filters: whose allow and deny hold. Raises InputError."""
        self._require(VECTORS, "search_vectors")
        k, given = checks.count("ShardedIndex.search_vectors: k", k), checks.floats("ShardedIndex.search_vectors", vectors, 2)
        if given.shape[1] not in (self.dim, self.given_dim):
            raise InputError("ShardedIndex.search_vectors", got=f"dimension {given.shape[1]}", expected=f"{self.given_dim}")
        chosen, _, weighed = self._chosen(_filters(filters, len(given)))
        asked = prepared(given, self.dim, self.metric)
        told = self._gather("nearest", lambda shard: (asked, self._own(chosen, shard), k, seconds()))
        return [self._merged(told, [told.values[s][i] for s in sorted(told.values)], k, [weighed]) for i in range(len(given))]

    def search_tokens(
        self,
        queries: Sequence[ArrayLike],
        k: int,
        *,
        filters: Sequence[Query] | None = None,
        probe: Probe = "auto",
        candidates: int | None = None,
        precision: str = "auto",
    ) -> list[Found]:
        """By MaxSim: float [q, dim] each, as TokenIndex.search, with its options. Raises InputError."""
        self._require(TOKENS, "search_tokens")
        what = "ShardedIndex.search_tokens"
        require(what, str(self.made["storage"]), self.codec, k, probe, candidates)
        checks.one_of(f"{what}: precision", precision, tuple(PRECISIONS))
        given = [checks.floats(f"{what}: query", query, 2) for query in queries]
        for query in given:
            if query.shape[1] != self.dim or not len(query):
                raise InputError(f"{what}: query", got=f"{list(query.shape)}", expected=f"[at least 1, {self.dim}]")
        chosen, sizes, weighed = self._chosen(_filters(filters, len(given)))
        out = []
        for query, own, (rows, tokens) in zip(given, chosen, sizes):
            way, most = planned(self.codec, rows, tokens, len(query), k, probe, candidates)
            if way is None or self.codec is None:
                work = work_of(self.codec, tokens, False)

                def make(shard: int, query: Any = query, own: Chosen = own, work: tuple[int, int] = work) -> tuple[Any, ...]:
                    return query, self._own([own], shard)[0], k, work, precision, seconds()

                told = self._gather("tokens", make)
                answers = [told.values[shard] for shard in sorted(told.values)]
                out.append(self._merged(told, answers, k, [weighed], Plan(None, rows, rows)))
            else:
                out.append(self._probed(query, own, k, way, most, rows, precision, weighed))
        return out

    def _probed(
        self, query: NDArray[np.float32], own: Chosen, k: int, way: int, most: int, n: int, precision: str, weighed: Gathered
    ) -> Found:
        """By the lists of centroids: the documents nearest by these in the whole collection, then their scores."""
        assert self.codec is not None
        while True:
            asked = functools.partial(self._near, query, own, way, most)
            told = self._gather("near", asked, until=half())
            near: dict[int, Near] = told.values
            found = sum(one.found for one in near.values())
            if found >= min(k, n) or way >= len(self.codec.centroids) or told.missing:
                break
            way = wider(way, len(self.codec.centroids))
        joined = [np.concatenate([np.empty(0, dtype), *(getattr(one, name) for one in near.values())])
                  for name, dtype in (("rows", np.int64), ("scores", np.float32), ("tokens", np.int64))]  # fmt: skip
        rows, lengths = joined[0], joined[2]
        if found > most:
            kept = np.isin(rows, topk(joined[1], most, ids=rows)[0])
            rows, lengths = rows[kept], lengths[kept]
        shards = np.searchsorted(np.cumsum(self.rows), rows, "right")
        work = work_of(self.codec, int(lengths.sum()), True)
        picks = {int(shard): rows[shards == shard] for shard in np.unique(shards)}
        scored = self._gather("exact", lambda shard: (query, picks[shard], k, work, precision, seconds()), shards=picks)
        answers, whole = list(scored.values.values()), all(one.whole for one in near.values()) and not told.missing | scored.missing
        plan = Plan(way, len(rows), found, reached=None if whole else 0)
        return self._merged(scored, answers, k, [weighed, told], plan, of=len(rows))

    def _near(self, query: NDArray[np.float32], own: Chosen, way: int, most: int, shard: int) -> tuple[Any, ...]:
        return query, self._own([own], shard)[0], way, most, seconds() / 2

    # What they share

    def _gather(self, method: str, make: Callable[[int], tuple[Any, ...]], **options: Any) -> Gathered:
        return self.scatter.gather(method, make, at_once=self.at_once, **{"until": limits().deadline, **options})

    def _all(self, method: str) -> list[Any]:
        """What every shard says. Raises ShardUnavailable."""
        told = self.scatter.gather(method, lambda _: ())
        for shard, why in told.missing.items():
            raise ShardUnavailable(f"shard {shard} of {len(self.scatter)}", got=why, expected="an answer")
        return [told.values[shard] for shard in range(len(self.scatter))]

    def _one(self, method: str) -> Any:
        told = self.scatter.gather(method, lambda _: (), shards=[0])
        if told.missing:
            raise ShardUnavailable("shard 0", got=told.missing[0], expected="an answer")
        return told.values[0]

    def _frequencies(self, batch: Sequence[Terms]) -> tuple[Mapping[Any, int], Gathered]:
        """In how many documents of the collection terms stand, and how the shards were asked. What is known of all shards is not asked
        again."""
        terms = list(dict.fromkeys(term for asked, _, _ in batch for term in asked))
        known = self._df
        held = {term: known[term] for term in terms if term in known}
        new = [term for term in terms if term not in held]
        if not new:
            return held, Gathered()
        told = self._gather("frequencies", lambda _: (new,), until=half())
        sums = np.sum([np.zeros(len(new), np.int64), *(np.array(counts, np.int64) for counts in told.values.values())], axis=0)
        found = dict(zip(new, sums.tolist()))
        if not told.missing and len(known) < KNOWN_TERMS:
            known.update(found)
        elif not told.missing:
            self._df = found
        return {**held, **found}, told

    def _chosen(self, queries: Sequence[Any]) -> tuple[list[Chosen], list[tuple[int, int]], Gathered]:
        """Of each query: what it may find, (documents, tokens) of that; and how shards were asked. Raises InputError, UnknownIdError for
        an id in `allow` that no shard has."""
        n, chosen = len(self.corpus), list[Chosen]()
        for query in queries:
            allow, deny = (query.allow, query.deny) if isinstance(query, Query) else (None, None)
            chosen.append((_selection("allow", allow, n), _selection("deny", deny, n)))
        sizes = [(self.documents, self.tokens)] * len(chosen)
        places = [i for i, (allow, deny) in enumerate(chosen) if allow is not None or deny is not None]
        if not places:
            return chosen, sizes, Gathered()
        told = self._gather("weigh", lambda shard: (self._own([chosen[i] for i in places], shard),), until=half())
        for at, i in enumerate(places):
            rows, tokens, known = (sum(weighed[at][part] for weighed in told.values.values()) for part in range(3))
            sizes[i], allow = (rows, tokens), chosen[i][0]
            if isinstance(allow, list) and known < len(allow) and not told.missing:
                got, expected = f"{len(allow) - known} ids that no shard has", f"ids of the {self.documents} documents"
                raise UnknownIdError("Query: allow", got=got, expected=expected)
        return chosen, sizes, told

    def _own(self, chosen: Sequence[Chosen], shard: int) -> list[Chosen]:
        """By a shard's own rows; ids are looked for by each."""
        start = sum(self.rows[:shard])

        def cut(one: Any) -> Any:
            if not isinstance(one, np.ndarray):
                return one
            if one.dtype == bool:
                return one[start : start + self.rows[shard]]
            return one[(one >= start) & (one < start + self.rows[shard])] - start

        return [(cut(allow), cut(deny)) for allow, deny in chosen]

    def _merged(
        self, told: Gathered, answers: Sequence[Answer], k: int, before: Sequence[Gathered], plan: Plan | None = None, of: int | None = None
    ) -> Found:
        """The k best of all. before: of the questions that came first."""
        rows = np.concatenate([np.empty(0, np.int64), *(answer.rows for answer in answers)])
        scores = np.concatenate([np.empty(0, np.float32), *(answer.scores for answer in answers)])
        cut = np.concatenate([np.empty(0, np.int32), *(np.zeros(len(a.rows), np.int32) if a.cut is None else a.cut for a in answers)])
        places, best = topk(scores, k, ids=rows)
        order = np.argsort(rows)
        at = order[np.searchsorted(rows[order], places)]
        missing = {shard: why for one in (*before, told) for shard, why in one.missing.items()}
        gone = sum(self.rows[shard] for shard in told.missing)
        total = sum(answer.of for answer in answers) + gone if of is None else of
        hedged, retried = (sum(getattr(one, name) for one in (*before, told)) for name in ("hedged", "retried"))
        return Found(places, best, cut[at], sum(answer.reached for answer in answers), total, missing, hedged, retried, plan)

    def _require(self, kind: str, verb: str) -> None:
        if self.kind != kind:
            method = {BM25: "search", VECTORS: "search_vectors", TOKENS: "search_tokens"}[self.kind]
            raise InputError(f"ShardedIndex.{verb}", got=f"shards of {self.kind}", expected=kind, hint=f"They are searched by {method}.")

    def __repr__(self) -> str:
        return f"ShardedIndex({len(self)} documents in {len(self.rows)} shards, {self.kind})"


def seconds() -> float:
    """That a shard has from now on."""
    return max(0.0, limits().left() - MARGIN_S)


def half() -> float | None:
    """When half of the time is over, for a question that another follows: a shard that is gone must not take all of it."""
    end = limits().deadline
    return None if end is None else (time.monotonic() + end) / 2


def require_rows(places: Sequence[manifest.Place], rows: Sequence[int]) -> None:
    """Raises FileFormatError for a shard that has changed since its manifest was written: rows behind it would be others."""
    for place, got in zip(places, rows):
        if got != place.rows:
            hint = "Write the manifest again: sharding.join."
            raise FileFormatError(place.path, got=f"{got} rows", expected=f"{place.rows}, as {manifest.FILE} says", hint=hint)


def _selection(name: str, chosen: Any, n: int) -> list[str] | NDArray[Any] | None:
    """Ids, each once, or an array of rows or of a bool a row. Raises InputError."""
    if chosen is None:
        return None
    array = np.asarray(chosen) if isinstance(chosen, np.ndarray) else np.array(list(chosen)) if len(chosen) else None
    if array is None or array.dtype.kind == "U":
        return list(dict.fromkeys(map(str, chosen)))
    right = array.ndim == 1 and (len(array) == n if array.dtype == bool else array.dtype.kind in "iu")
    if not right or (array.dtype != bool and len(array) and not 0 <= int(array.min()) <= int(array.max()) < n):
        raise InputError(
            f"Query: {name}", got=f"{array.dtype} {list(array.shape)}", expected=f"ids, rows from 0 to {n - 1}, or a bool a row"
        )
    return array


def _filters(filters: Sequence[Query] | None, n: int) -> Sequence[Any]:
    if filters is not None and len(filters) != n:
        raise InputError("ShardedIndex: filters", got=f"{len(filters)} queries", expected=f"{n}, one a vector")
    return [None] * n if filters is None else filters
