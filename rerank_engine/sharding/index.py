"""A collection in shards, searched as one index: the same ids and float32 scores, bit for bit, as long as all shards answer."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core import Query
from ..cpus import available_cpus
from ..errors import InputError, ShardUnavailable, UnknownIdError
from ..indexes.queries import Terms, distinct, terms_of
from ..indexes.token_probe import Plan, Probe, planned, require
from ..indexes.token_search import work_of
from ..indexes.vector_build import prepared
from ..ops import checks
from ..ops.bm25 import BM25Parameters
from ..ops.residual import PRECISIONS
from ..ops.topk import topk
from ..text import Analyzer, AnalyzerLike
from . import manifest
from .corpus import ShardedCorpus
from .late import Found, Late, LateSearch, half
from .scatter import EXTRA, HEDGE, PATIENCE_S, Gathered, Replica, Scatter
from .shard import BM25, TOKENS, VECTORS, Answer, Chosen, Groups, Here, Shard

START_S = 120.0  # for shards to be opened, and their processes to begin
KNOWN_TERMS = 1_000_000  # whose frequencies are remembered


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
        places: Sequence[manifest.Place] | None = None,
        analyzer: AnalyzerLike | None = None,
        hedge: float | None = HEDGE,
        extra: float = EXTRA,
        patience_s: float = PATIENCE_S,
        start_s: float = START_S,
        at_once: int | None = None,
    ) -> None:
        """places: of the shards, where they lie in files: a replica that holds something else is refused. start_s: for them to begin."""
        prints = None if places is None else [place.content for place in places]
        self.scatter = Scatter(shards, hedge=hedge, extra=extra, patience_s=patience_s, prints=prints)
        self.at_once = None if at_once is None else checks.count("ShardedIndex: at_once", at_once)
        told = self._all("about", start_s)
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
        self.corpus = ShardedCorpus(self.scatter, self.rows, None if places is None else [place.ids for place in places])
        self.codec = self._all("codec", start_s, [0])[0] if self.kind == TOKENS else None
        self._df = dict[Any, int]()
        self._pool: ThreadPoolExecutor | None = None
        if self.kind == BM25:
            self.analyzer = Analyzer.from_config(self.made["analyzer"], analyzer)
            self.parameters = BM25Parameters(**self.made["parameters"])

    @classmethod
    def open(cls, folder: str | Path, *, threads: int | None = None, analyzer: AnalyzerLike | None = None, **options: Any) -> ShardedIndex:
        """In this process. threads: that search shards at the same time; None: as many as there are shards or processors. options: as for
        ShardedIndex. Raises FileFormatError, InputError."""
        kind, places = manifest.places(folder)
        most = checks.count("ShardedIndex.open: threads", threads) if threads is not None else min(len(places), available_cpus())
        given: dict[str, Any] = {"analyzer": analyzer} if kind == BM25 and analyzer is not None else {}
        for place in places:
            manifest.require_unchanged(place)
        shards = [Shard(place.path, place.base, kind=kind, **given) for place in places]
        pool = ThreadPoolExecutor(most, "rerank-shard")
        made = cls([[Here(shard, pool)] for shard in shards], places=places, analyzer=analyzer, **options)
        made._pool = pool
        return made

    def close(self) -> None:
        """Ends the threads of `open`; what is under way is finished. Actors end with their process, or by `stop_shards`."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

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
        chosen, end = self._chosen(queries), self.scatter.end()
        known, counted = self._frequencies(batch, end)
        df = [np.array([known[term] for term in terms], np.int64) for terms, _, _ in batch]
        parameters, whole = asdict(self.parameters), (self.documents, self.tokens)
        best = [np.empty(0, np.float32)] * len(batch)
        floors = np.full(len(batch), -np.inf, np.float32)

        def make(shard: int) -> tuple[Any, ...]:
            return batch, self._groups(chosen, shard), k, whole, df, parameters, floors.copy()

        def rise(shard: int, answers: list[Answer]) -> None:
            for i, answer in enumerate(answers):
                best[i] = -np.sort(-np.concatenate([best[i], answer.scores]))[:k]
                floors[i] = best[i][-1] if len(best[i]) == k else -np.inf

        told = self.gather("lexical", make, end, each=rise if self.at_once else None)
        self._require_known(chosen, end)
        return [self.merged(told, i, k, before=counted) for i in range(len(batch))]

    def search_vectors(self, vectors: ArrayLike, k: int, *, filters: Sequence[Query] | None = None) -> list[Found]:
        """By inner product or cosine: float [q, dim], as VectorIndex.search. filters: whose allow and deny hold. Raises InputError."""
        self._require(VECTORS, "search_vectors")
        k, given = checks.count("ShardedIndex.search_vectors: k", k), checks.floats("ShardedIndex.search_vectors", vectors, 2)
        if given.shape[1] not in (self.dim, self.given_dim):
            raise InputError("ShardedIndex.search_vectors", got=f"dimension {given.shape[1]}", expected=f"{self.given_dim}")
        chosen, asked, end = self._chosen(_filters(filters, len(given))), prepared(given, self.dim, self.metric), self.scatter.end()
        told = self.gather("nearest", lambda shard: (asked, self._groups(chosen, shard), k), end)
        self._require_known(chosen, end)
        return [self.merged(told, i, k) for i in range(len(given))]

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
        chosen, end = self._chosen(_filters(filters, len(given))), self.scatter.end()
        sizes, weighed = self._sizes(chosen, end)
        asked = list[Late]()
        for query, own, (rows, tokens) in zip(given, chosen, sizes):
            way, most = planned(self.codec, rows, tokens, len(query), k, probe, candidates)
            asked.append(Late(query, own, rows, way, most, work=work_of(self.codec, tokens, False)))
        search = LateSearch(self, k, precision, weighed, end)
        out = search.exhaustive([one for one in asked if one.way is None]) | search.probed([one for one in asked if one.way is not None])
        self._require_known(chosen, end)
        return [out[id(one)] for one in asked]

    # What they share

    def gather(self, method: str, make: Callable[[int], tuple[Any, ...]], until: float, **options: Any) -> Gathered:
        return self.scatter.gather(method, make, until=until, at_once=self.at_once, **options)

    def _all(self, method: str, seconds: float, shards: Sequence[int] | None = None) -> list[Any]:
        """What every shard says, or these. Raises ShardUnavailable."""
        told = self.scatter.gather(method, lambda _: (), shards=shards, until=time.monotonic() + seconds)
        for shard, why in told.missing.items():
            hint = "Actors wait for as many processors, and as much memory, as were set aside for each."
            raise ShardUnavailable(f"shard {shard} of {len(self.scatter)}", got=why, expected="an answer", hint=hint)
        return [told.values[shard] for shard in sorted(told.values)]

    def _frequencies(self, batch: Sequence[Terms], end: float) -> tuple[Mapping[Any, int], Gathered]:
        """In how many documents of the collection terms stand, and how the shards were asked. What is known of all shards is not asked
        again."""
        terms = list(dict.fromkeys(term for asked, _, _ in batch for term in asked))
        known = self._df
        held = {term: known[term] for term in terms if term in known}
        new = [term for term in terms if term not in held]
        if not new:
            return held, Gathered()
        told = self.gather("frequencies", lambda _: (new,), half(end))
        sums = np.sum([np.zeros(len(new), np.int64), *(np.array(counts, np.int64) for counts in told.values.values())], axis=0)
        found = dict(zip(new, sums.tolist()))
        if not told.missing and len(known) < KNOWN_TERMS:
            known.update(found)
        elif not told.missing:
            self._df = found
        return {**held, **found}, told

    def _chosen(self, queries: Sequence[Any]) -> list[Chosen]:
        """Of each query what it may find; one object for those that were given one. Raises InputError."""
        n, seen, out = len(self.corpus), dict[int, Any](), list[Chosen]()
        for query in queries:
            both = []
            for name in ("allow", "deny"):
                given = getattr(query, name) if isinstance(query, Query) else None
                if given is not None and id(given) not in seen:
                    seen[id(given)] = _selection(name, given, n)
                both.append(None if given is None else seen[id(given)])
            out.append((both[0], both[1]))
        return out

    def _sizes(self, chosen: Sequence[Chosen], end: float) -> tuple[list[tuple[int, int]], Gathered]:
        """(documents, tokens) that each query may find, and how the shards were asked."""
        sizes, groups = [(self.documents, self.tokens)] * len(chosen), _grouped(chosen)
        narrowed = [(own, places) for own, places in groups if any(one is not None for one in own)]
        if not narrowed:
            return sizes, Gathered()
        told = self.gather("weigh", lambda shard: ([self.cut(own, shard) for own, _ in narrowed],), half(end))
        for at, (_, places) in enumerate(narrowed):
            rows, tokens = (sum(weighed[at][part] for weighed in told.values.values()) for part in range(2))
            for i in places:
                sizes[i] = rows, tokens
        return sizes, told

    def _require_known(self, chosen: Sequence[Chosen], end: float) -> None:
        """Raises UnknownIdError for an id in `allow` that no shard has, as far as all of them say."""
        listed = [own for own, _ in _grouped(chosen) if isinstance(own[0], list) and own[0]]
        if not listed:
            return
        told = self.gather("known", lambda _: (listed,), end)
        for at, (allow, _) in enumerate(listed):
            known = sum(counts[at] for counts in told.values.values())
            if not told.missing and isinstance(allow, list) and known < len(allow):
                got, expected = f"{len(allow) - known} ids that no shard has", f"ids of the {self.documents} documents"
                raise UnknownIdError("Query: allow", got=got, expected=expected)

    def _groups(self, chosen: Sequence[Chosen], shard: int) -> Groups:
        return [(self.cut(own, shard), places) for own, places in _grouped(chosen)]

    def cut(self, own: Chosen, shard: int) -> Chosen:
        """By a shard's own rows; ids are looked for by each."""
        start = sum(self.rows[:shard])

        def cut(one: Any) -> Any:
            if not isinstance(one, np.ndarray):
                return one
            if one.dtype == bool:
                return one[start : start + self.rows[shard]]
            return one[(one >= start) & (one < start + self.rows[shard])] - start

        return cut(own[0]), cut(own[1])

    def merged(self, told: Gathered, i: int, k: int, *, before: Gathered | None = None, plan: Plan | None = None) -> Found:
        """Of the i-th query of a batch."""
        answers = {shard: told.values[shard][i] for shard in sorted(told.values)}
        gone = sum(self.rows[shard] for shard in told.missing)
        return self.joined(told, answers, k, before or Gathered(), plan, sum(answer.of for answer in answers.values()) + gone)

    def joined(self, told: Gathered, by_shard: Mapping[int, Answer], k: int, before: Gathered, plan: Plan | None, of: int) -> Found:
        """The k best of all. before: of the questions for counts that came first."""
        answers, stopped = list(by_shard.values()), tuple(shard for shard, one in by_shard.items() if one.reached < one.of)
        rows = np.concatenate([np.empty(0, np.int64), *(answer.rows for answer in answers)])
        scores = np.concatenate([np.empty(0, np.float32), *(answer.scores for answer in answers)])
        cut = np.concatenate([np.empty(0, np.int32), *(np.zeros(len(a.rows), np.int32) if a.cut is None else a.cut for a in answers)])
        places, best = topk(scores, k, ids=rows)
        order = np.argsort(rows)
        at, reached = order[np.searchsorted(rows[order], places)], sum(answer.reached for answer in answers)
        hedged, retried = before.hedged + told.hedged, before.retried + told.retried
        return Found(places, best, cut[at], reached, of, told.missing, before.missing, stopped, hedged, retried, plan)

    def _require(self, kind: str, verb: str) -> None:
        if self.kind != kind:
            method = {BM25: "search", VECTORS: "search_vectors", TOKENS: "search_tokens"}[self.kind]
            raise InputError(f"ShardedIndex.{verb}", got=f"shards of {self.kind}", expected=kind, hint=f"They are searched by {method}.")

    def __repr__(self) -> str:
        return f"ShardedIndex({len(self)} documents in {len(self.rows)} shards, {self.kind})"


def _grouped(chosen: Sequence[Chosen]) -> list[tuple[Chosen, list[int]]]:
    """The queries' places, those that may find the same together."""
    groups = dict[tuple[int, int], tuple[Chosen, list[int]]]()
    for place, own in enumerate(chosen):
        groups.setdefault((id(own[0]), id(own[1])), (own, []))[1].append(place)
    return list(groups.values())


def _selection(name: str, chosen: Any, n: int) -> list[str] | NDArray[Any] | None:
    """Ids, each once, or an array of rows or of a bool a row. Raises InputError."""
    if chosen is None:
        return None
    if not isinstance(chosen, np.ndarray) and all(isinstance(one, str) for one in chosen):
        return list(dict.fromkeys(chosen))
    if not isinstance(chosen, np.ndarray) and any(isinstance(one, str) for one in chosen):
        raise InputError(f"Query: {name}", got=f"{list(chosen)!r}", expected="ids, which are strings, rows, or a bool a row")
    array = np.asarray(chosen if isinstance(chosen, np.ndarray) else list(chosen))
    if array.dtype.kind == "U" and array.ndim == 1:
        return list(dict.fromkeys(array.tolist()))
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
