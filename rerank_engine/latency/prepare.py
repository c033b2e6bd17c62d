"""What each row of the latency table runs: its index, its model, its candidates, and the parts that are timed by themselves.

A row's function yields ways to do its work, the first being the row itself. What it makes is let go when the row is done; models stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..codec import ResidualCodec, ResidualTokens
from ..core import Query, Ranking, Rescore, Stage, Top
from ..corpus import Corpus
from ..demo.pipeline import ENCODER, RERANKER
from ..indexes import TokenIndex, VectorIndex
from ..indexes.documents import NumberedCorpus
from ..indexes.vector_faiss import has_faiss
from ..packed import Packed
from ..progress import Progress
from ..runtimes import load
from ..runtimes.pairs import PairTokenizer
from ..stages import BM25, BiEncoder, ColBERT, CrossEncoder, Dense, MaxSim
from . import facts, workload
from .rows import LatencyRow
from .timing import Clock, Pace

T = TypeVar("T")
LATE = "answerai-colbert-small-v1"
TOKENS = 150  # wordpieces of a passage on average, from 100 to 200
FOUND, SHOWN = 100, 10  # documents that a first stage finds, that a re-ranker hands out
COPIES = 10  # of each document in a store of codes: more than caches hold, as a collection is


class NotMeasured(Exception):
    """Why a row cannot be measured here."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured. corpus: documents of collections that are searched; queries: at most, a round; rounds: at least, where time
    allows; least, seconds: of timing a way to do a row's work, about; total: seconds of all rows, about; centroids: of residual codes, None
    for as many as ColBERT takes; variants: whether other kinds of index are measured beside a row's own."""

    corpus: int
    queries: int
    rounds: int
    least: float
    seconds: float
    total: float
    centroids: int | None
    variants: bool


@dataclass(frozen=True, eq=False)
class Prepared:
    """One way to do a row's work.

    run, parts: called with the place of a query; rest: what the time that the parts leave goes into; warm_up: called before, and takes
    1 / warm_up_share of a query's time; None: a query; told: what results say of it; threads: None for those of the run.
    """

    name: str
    queries: Sequence[str]
    run: Callable[[int], Ranking]
    parts: Mapping[str, Callable[[int], object]]
    told: Mapping[str, Any]
    warm_up: Callable[[], object] | None = None
    warm_up_share: float = 1.0
    rest: str = "the rest"
    threads: int | None = None


@dataclass(eq=False)
class Shared:
    """What rows share: how much is measured, how work is shown, the time since it was made, and the models, loaded when the first row needs
    them."""

    effort: Effort
    bars: Callable[[str], AbstractContextManager[Progress]]
    clock: Clock
    begin: float = field(init=False)
    queries: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.begin, self.queries = self.clock.wall(), workload.queries(self.effort.queries)

    @cached_property
    def pace(self) -> Pace:
        return Pace(self.clock)

    def seconds_left(self) -> float:
        return self.effort.total - (self.clock.wall() - self.begin)

    @contextmanager
    def making(self, what: str) -> Iterator[Progress]:
        """A bar for work before anything is timed. Raises NotMeasured when a tenth is done and all would take more time than is left."""
        begin, left = self.clock.wall(), self.seconds_left()
        with self.bars(what) as progress:

            def told(done: int, total: int) -> None:
                progress(done, total)
                needed = (self.clock.wall() - begin) * total / max(done, 1)
                if 10 * done >= total > done and needed > left:
                    raise NotMeasured(f"{total:,} {what} take about {needed:.0f} s here, and this run has {max(left, 0):.0f} s left")

            yield told

    @cached_property
    def encoder(self) -> BiEncoder:
        return _of(BiEncoder, load(ENCODER))

    @cached_property
    def reranker(self) -> CrossEncoder:
        return forgetful(_of(CrossEncoder, load(RERANKER)))

    @cached_property
    def late(self) -> ColBERT:
        return _of(ColBERT, load(LATE))


def _of(kind: type[T], model: object) -> T:
    if not isinstance(model, kind):
        raise NotMeasured(f"{model!r} is no {kind.__name__}")
    return model


def forgetful(model: CrossEncoder) -> CrossEncoder:
    """The same network, remembering no tokens of texts: each call is as one with texts not seen before."""
    pairs = PairTokenizer(model.tokenizer, cache_bytes=0)
    return CrossEncoder(model.runtime, model.tokenizer, name=model.model, pairs=pairs)


def passages(n: int) -> Corpus:
    return Corpus.from_texts(workload.passages(n, TOKENS))


def bm25(row: LatencyRow, shared: Shared) -> Iterator[Prepared]:
    n = shared.effort.corpus
    _require_memory(n, 1300)
    data = workload.lexical(n, TOKENS, len(shared.queries))
    index, analyze, queries = data.index(), data.analyze, data.queries
    del data
    terms = [analyze(query) for query in queries]
    settings = {"postings": index.n_postings, "terms_a_query": round(float(np.mean([len(found) for found in terms])), 2)}
    yield from (_bm25(f"{row.name}, k = {k}", BM25(index, k=k), queries, analyze, terms, settings) for k in (FOUND, 1000))


def _bm25(
    name: str,
    stage: BM25,
    queries: Sequence[str],
    analyze: Callable[[str], list[int]],
    terms: Sequence[list[int]],
    settings: Mapping[str, Any],
) -> Prepared:
    index, k = stage.index, stage.k
    return Prepared(
        name=name,
        queries=queries,
        run=lambda i: stage(queries[i]),
        parts={"analysis": lambda i: analyze(queries[i]), "search": lambda i: index.search([terms[i]], k)},
        told=told_of(stage, "cpu", str(index.parameters), documents=len(index.corpus), tokens=TOKENS, k=k, **settings),
        threads=1,
    )


def dense(row: LatencyRow, shared: Shared) -> Iterator[Prepared]:
    encoder, n, queries = shared.encoder, shared.effort.corpus, shared.queries
    _require_memory(n, 5000)
    corpus, asked, vectors = NumberedCorpus(n), encoder.encode(queries, queries=True), workload.vectors(n)
    exact = VectorIndex(corpus, vectors)
    right = [set(rows.tolist()) for rows, _ in exact.search(asked, FOUND)]
    kinds = ("ivf", "sq8", "exact") if has_faiss() else ("exact",)
    for kind in kinds if shared.effort.variants else kinds[:1]:
        index = exact if kind == "exact" else VectorIndex.from_vectors(corpus, vectors, kind=kind)
        found = [set(rows.tolist()) for rows, _ in index.search(asked, FOUND)]
        recall = float(np.mean([len(own & best) / len(best) for own, best in zip(found, right)]))
        settings = {"index": kind, **index.effort(FOUND), "k": FOUND, "recall": round(recall, 4), "dim": index.dim}
        yield _dense(f"{row.name}, {kind}", Dense(index, encoder, k=FOUND), queries, asked, settings)


def _dense(name: str, stage: Dense, queries: Sequence[str], asked: NDArray[np.float32], settings: Mapping[str, Any]) -> Prepared:
    encoder, index = stage.encoder, stage.index
    assert isinstance(encoder, BiEncoder)
    return Prepared(
        name=name,
        queries=queries,
        run=lambda i: stage(queries[i]),
        parts={
            "query encoding": lambda i: encoder.encode([queries[i]], queries=True),
            "search": lambda i: index.search(asked[i : i + 1], FOUND),
        },
        told=told_of(stage, encoder.runtime.device, encoder.model, documents=len(index.corpus), tokens=TOKENS, **settings),
    )


def cross_encoder(row: LatencyRow, shared: Shared) -> Iterator[Prepared]:
    """The candidates come with the request, as texts that are tokenised in it. Query i has those from i * n on."""
    model, corpus, queries, n = shared.reranker, passages(1000), shared.queries, row.documents
    stage = Rescore(model, depth=n)
    pipeline = stage >> Top(SHOWN)

    def candidates(i: int, depth: int = n) -> Ranking:
        return Ranking.in_order(corpus, (i * n + np.arange(depth)) % len(corpus))

    read = model.count_tokens([Query(queries[0])], [candidates(0)])[0]
    few = min(n, 100)
    yield Prepared(
        name=row.name,
        queries=queries,
        run=lambda i: pipeline(queries[i], candidates(i)),
        parts={"tokenisation": lambda i: model.count_tokens([Query(queries[i])], [candidates(i)])},
        rest="network",
        warm_up=lambda: pipeline(queries[0], candidates(0, few)),
        warm_up_share=n / few,
        told=told_of(stage, model.runtime.device, model.model, documents=n, tokens=TOKENS, tokens_a_pair=round(float(read.mean()), 1)),
    )


def late(row: LatencyRow, shared: Shared) -> Iterator[Prepared]:
    """The candidates' token vectors are stored: as residual codes of 2 bits, with COPIES of each document in memory, of which a query has
    row.documents at random; then as float16, of which no more is stored than they are: that alone is more than caches hold."""
    model, corpus, queries, n = shared.late, passages(row.documents), shared.queries, row.documents
    asked = model.encode_queries(queries)
    with shared.making("passages to encode") as progress:
        whole = TokenIndex.build(corpus, model, storage="float16", progress=progress)
    packed = _copied(whole, shared.effort.centroids)
    for index in (packed, whole) if shared.effort.variants else (packed,):
        told = index.stats()
        settings = {name: told[name] for name in ("storage", "dim", "centroids")}
        settings |= {"bytes_per_token": round(told["bytes_per_token"], 1), "stored_tokens": round(told["tokens"] / len(index.corpus), 1)}
        yield _late(f"{row.name}, {index.storage}", index, n, model, queries, asked, settings)


def _copied(whole: TokenIndex, centroids: int | None) -> TokenIndex:
    """The documents of an index in 2-bit codes, COPIES times one after the other: document i is i % len(whole.corpus) of them."""
    tokens = Packed.from_rows([whole.tokens(i) for i in range(len(whole.corpus))], np.float32)
    codes = ResidualTokens.encode(tokens, ResidualCodec.train(tokens.values, 2, centroids))
    offsets = np.concatenate([[0], np.cumsum(np.tile(codes.lengths, COPIES))])
    norms, ids = np.tile(codes.inverse_norms, COPIES), np.tile(codes.centroid_ids, COPIES)
    stored = ResidualTokens(codes.codec, ids, np.tile(codes.residuals, (COPIES, 1)), norms, offsets)
    return TokenIndex.from_residual_tokens(stored, Corpus.from_texts(whole.corpus.texts() * COPIES))


def _late(
    name: str,
    index: TokenIndex,
    n: int,
    model: ColBERT,
    queries: Sequence[str],
    asked: Sequence[NDArray[np.float32]],
    settings: Mapping[str, Any],
) -> Prepared:
    corpus = index.corpus
    stage = Rescore(MaxSim(index, model), depth=n)
    pipeline = stage >> Top(SHOWN)
    # as a first stage would hand them over
    found = [np.random.default_rng(i).choice(len(corpus), n, replace=False) for i in range(len(queries))]
    told = told_of(stage, model.runtime.device, model.model, documents=n, tokens=TOKENS, stored_documents=len(corpus), **settings)
    return Prepared(
        name=name,
        queries=queries,
        run=lambda i: pipeline(queries[i], Ranking.in_order(corpus, found[i])),
        parts={"query encoding": lambda i: model.encode_queries([queries[i]]), "MaxSim": lambda i: index.score(asked[i], found[i])},
        told=told,
    )


Ways = Mapping[str, Callable[[LatencyRow, Shared], Iterator[Prepared]]]  # by the row's name


def told_of(stage: Stage, device: str, model: str, *, documents: int, tokens: int, **settings: Any) -> dict[str, Any]:
    return {"documents": documents, "tokens": tokens, "backend": stage.backend, "device": device, "model": model, "settings": settings}


def _require_memory(documents: int, bytes_each: int) -> None:
    """Raises NotMeasured where less is free than the row takes."""
    needed, free = documents * bytes_each, facts.free_memory()
    if needed > free:
        raise NotMeasured(f"{documents:,} documents take {needed / 1e9:.1f} GB of memory here, of which {free / 1e9:.1f} are free")
