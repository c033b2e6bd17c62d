"""What the stages of a chain are asked to do for one query of a Shape, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..indexes.token_probe import LEAST, PER_RESULT, PROBE
from .costs import Costs, StageCost, Work
from .quality import Chain, Rerank
from .shape import SPECIAL, Shape

K = 1000  # documents that a first stage passes on, as quality was measured
KEEP = 0.3  # what the last scorer of a cascade reads
TAIL = 1.645  # standard deviations from the mean to the 95th percentile, of a normal distribution
SURE = 1.96  # of the two-sided 95 % interval
ENCODED = ("dense", "splade", "late")  # retrievers whose model reads the query before an index is searched
MARKERS = 3  # tokens that a late-interaction query has beside its text
_CODE_BYTES = 96  # of a token's residual codes: 2 bits of 384 dimensions
_DIM = 384


@dataclass(frozen=True, slots=True)
class Part:
    """The time of one stage, ms: typical (p50); what its 95th percentile adds by the machine's noise, by lists of long passages, and by
    long queries; the standard error of the typical time, by the fit; what of ms a batch of queries pays once; tokens that a model reads;
    what of ms, and of query, a model takes for the query alone before anything stored is read."""

    stage: str
    ms: float
    noise: float = 0.0
    length: float = 0.0
    query: float = 0.0
    error: float = 0.0
    fixed: float = 0.0
    tokens: float = 0.0
    encode: tuple[float, float] = (0.0, 0.0)

    def scaled(self, by: float) -> Part:
        times = {name: by * getattr(self, name) for name in ("ms", "noise", "length", "query", "error", "fixed")}
        return replace(self, **times, encode=(by * self.encode[0], by * self.encode[1]))

    def halves(self) -> tuple[Part, Part]:
        """The query's encoding, and what reads the index; noise and error are as their times."""
        (own, query), share = self.encode, self.encode[0] / self.ms if self.ms else 0.0
        first = replace(self.scaled(share), ms=own, query=query, encode=(own, query))
        return first, replace(self.scaled(1 - share), ms=self.ms - own, query=max(self.query - query, 0.0), encode=(0.0, 0.0))


@dataclass(frozen=True, slots=True)
class Latency:
    """p50, p95 of a chain, ms, and 95 % intervals of both by the error of the fits.

        p50 = sum of the stages' typical times
        p95 = p50 + sqrt(sum of noise^2 + (sum of length)^2 + (sum of query)^2)

    The noise of two stages is independent; a query whose passages, or whose own text, are long has them long for all stages.
    """

    p50: float
    p95: float
    p50_95: tuple[float, float]
    p95_95: tuple[float, float]
    parts: tuple[Part, ...]


def latency_of(parts: Sequence[Part], drift: float = 0.0) -> Latency:
    """drift: see Costs; it is the same for all stages, while the errors of their fits are independent."""
    p50 = sum(part.ms for part in parts)
    noise = sum(part.noise**2 for part in parts)
    tail = float(np.sqrt(noise + sum(part.length for part in parts) ** 2 + sum(part.query for part in parts) ** 2))
    half = SURE * float(np.sqrt(sum(part.error**2 for part in parts) + (drift * p50) ** 2))
    share = half / p50 if p50 else 0.0
    p95 = p50 + tail
    return Latency(p50, p95, (max(p50 - half, 0.0), p50 + half), (max(p95 * (1 - share), 0.0), p95 * (1 + share)), tuple(parts))


def parts_of(chain: Chain, shape: Shape, costs: Costs) -> list[Part] | None:
    """The stages' times, None where one was not calibrated."""
    branches = [_part(costs.find(name), name, shape) for name in chain.first]
    if any(part is None for part in branches):
        return None
    parts = [part for part in branches if part is not None]
    if len(parts) > 1:
        fuse = costs.find("fuse")
        if fuse is None:
            return None
        own = fuse.ms(Work(document=(len(parts) - 1) * min(K, shape.corpus_size)))
        inside = [part.scaled(fuse.per_branch_ms) for part in parts]
        whole = own + sum(part.ms for part in inside)
        parts = [*inside, Part("fuse", own, whole * (fuse.spread - 1), error=whole * fuse.error)]
    for rerank in chain.rerankers:
        for kind, depth in _scored(rerank):
            part = _part(costs.find(kind, rerank.precision if kind == rerank.kind or kind == "cross" else ""), kind, shape, depth)
            if part is None:
                return None
            parts.append(part)
    return parts


def _scored(rerank: Rerank) -> list[tuple[str, int]]:
    """(scorer, documents that it reads)"""
    if rerank.kind == "cascade":
        return [("vectors", rerank.depth), ("cross", int(np.ceil(KEEP * rerank.depth - 1e-9)))]
    return [(rerank.kind, rerank.depth)]


def _part(cost: StageCost | None, stage: str, shape: Shape, depth: int = 0) -> Part | None:
    if cost is None:
        return None
    documents = float(min(depth, shape.corpus_size))
    work = work_of(stage, shape, documents)
    ms = cost.ms(work)
    longer = replace(shape, tokens=shape.tokens * (1 + TAIL * shape.list_cv(documents))) if documents else shape
    length = cost.ms(work_of(stage, longer, documents)) - ms
    asked = replace(shape, query_tokens=shape.query_tokens * (1 + TAIL * shape.query_cv))
    query = cost.ms(work_of(stage, asked, documents)) - ms
    read = 0.0 if not cost.model else work.token if stage == "cross" else shape.query_tokens
    encode = (0.0, 0.0)
    if cost.model and stage in ENCODED:
        encode = (cost.ms(Work(shape.query_tokens)), cost.per_query_token_ms * (asked.query_tokens - shape.query_tokens))
    return Part(stage, ms, ms * (cost.spread - 1), max(length, 0.0), max(query, 0.0), ms * cost.error, cost.fixed_ms, read, encode)


def work_of(stage: str, shape: Shape, documents: float = 0.0) -> Work:
    """What one query of this shape asks of a stage. documents: that a re-ranker scores. corpus is, in millions, for bm25 the
    query's tokens * (documents * their tokens) ^ 0.4 (what is left of postings when blocks are skipped grows about so), for dense and
    splade the documents, for late what `late_work` says."""
    q, n, millions = shape.query_tokens, shape.corpus_size, shape.corpus_size / 1e6
    if stage == "bm25":
        return Work(query_token=q, corpus=float(q * (millions * shape.tokens) ** 0.4))
    if stage in ("dense", "splade"):
        return Work(query_token=q, corpus=millions)
    if stage == "late":
        return late_work(n, shape.tokens, q)
    if stage == "cross":
        length = min(shape.tokens + q + SPECIAL, shape.limit)
        spread = (shape.token_cv * shape.tokens) ** 2 if length < shape.limit else 0.0
        return Work(q, documents, documents * length, documents * (length**2 + spread))
    return Work(q, documents, documents * shape.tokens)


def late_work(rows: int, tokens: float, query_tokens: float, centroids: int | None = None) -> Work:
    """Of late interaction over 2-bit codes, probed where `token_probe.planned` says so: token, those scored exactly; corpus, in millions,
    what its other parts cost by its own constants: tokens scored by their centroids (5 each), products of centroids (1 a value).

    centroids: by default as many as a codec of so many tokens is trained with.
    """
    n = centroids or 1 << int(np.log2(16 * np.sqrt(rows * tokens)))
    wanted, vectors = max(LEAST, PER_RESULT * K), query_tokens + MARKERS
    share = min(1.0, vectors * PROBE * tokens / n)
    blocks = -(-vectors // 32)
    table = n * _DIM * blocks / 1e6
    by_centroid = share * rows * tokens * blocks * 5.0
    probing = by_centroid + wanted * tokens * blocks * _CODE_BYTES + vectors * n * 2.0
    if rows > wanted and 2 * probing < rows * tokens * blocks * _CODE_BYTES:
        return Work(query_tokens, token=wanted * tokens * blocks, corpus=table + by_centroid / 1e6)
    return Work(query_tokens, token=rows * tokens * blocks, corpus=table)
