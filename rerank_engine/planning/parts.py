"""What a caller has to build pipelines of: indexes and models; and the pipeline of a chain, made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..core import Pipeline, Rescore, Stage
from ..errors import InputError
from ..indexes import BM25Index, ImpactIndex, TokenIndex, VectorIndex
from ..stages import (
    BM25,
    SPLADE,
    BiEncoder,
    Cascade,
    ColBERT,
    CrossEncoder,
    Dense,
    Fuse,
    LateInteraction,
    MaxSim,
    Similarity,
    SparseEncoder,
)
from .quality import Chain, Rerank
from .work import KEEP, K


@dataclass(frozen=True, eq=False)
class Parts:
    """Indexes of one corpus, with the models that made them; None for what is not there.

    codes: a TokenIndex of residual codes, for late-interaction retrieval and re-scoring; tokens: one of another storage, for re-scoring.
    cross: the cross-encoder as its file has it; cross_float32: the same at float32.
    """

    bm25: BM25Index | None = None
    vectors: VectorIndex | None = None
    bi_encoder: BiEncoder | None = None
    impacts: ImpactIndex | None = None
    sparse_encoder: SparseEncoder | None = None
    codes: TokenIndex | None = None
    tokens: TokenIndex | None = None
    colbert: ColBERT | None = None
    cross: CrossEncoder | None = None
    cross_float32: CrossEncoder | None = None

    def __post_init__(self) -> None:
        if self.codes is not None and self.codes.codec is None:
            raise InputError("Parts: codes", got=f"an index of {self.codes.storage}", expected="residual codes", hint="Pass it as tokens.")

    @property
    def corpus_size(self) -> int:
        """Documents of the first index. Raises InputError where there is none."""
        for index in (self.bm25, self.vectors, self.impacts, self.codes, self.tokens):
            if index is not None:
                return len(index.corpus)
        raise InputError("Parts", got="no index", expected="at least one, to retrieve from")

    def builds(self, chain: Chain) -> bool:
        return all(self._first(name) is not None for name in chain.first) and all(self._rerank(own) is not None for own in chain.rerankers)

    def pipeline(self, chain: Chain) -> Pipeline:
        """The pipeline of a chain. Raises InputError for one that these parts do not make."""
        stages = [self._first(name) for name in chain.first]
        rerankers = [self._rerank(own) for own in chain.rerankers]
        if any(made is None for made in (*stages, *rerankers)):
            missing = [
                name for name, made in zip((*chain.first, *(own.kind for own in chain.rerankers)), (*stages, *rerankers)) if made is None
            ]
            raise InputError("Parts", got=f"nothing for {', '.join(missing)}", expected=f"what '{chain.name}' is made of")
        first = [made() for made in stages if made is not None]
        stage = first[0] if len(first) == 1 else Fuse(*first, top=K)
        return Pipeline(stage, *(made() for made in rerankers if made is not None))

    def _first(self, name: str) -> Callable[[], Stage] | None:
        bm25, vectors, impacts, codes = self.bm25, self.vectors, self.impacts, self.codes
        bi_encoder, sparse, colbert = self.bi_encoder, self.sparse_encoder, self.colbert
        if name == "bm25" and bm25 is not None:
            return lambda: BM25(bm25, k=K)
        if name == "dense" and vectors is not None and bi_encoder is not None:
            return lambda: Dense(vectors, bi_encoder, k=K, threads=self.threads_of("dense"))
        if name == "splade" and impacts is not None and sparse is not None:
            return lambda: SPLADE(impacts, sparse, k=K)
        if name == "late" and codes is not None and colbert is not None:
            return lambda: LateInteraction(codes, colbert, k=K)
        return None

    def _rerank(self, rerank: Rerank) -> Callable[[], Stage] | None:
        depth, vectors, bi_encoder, colbert = rerank.depth, self.vectors, self.bi_encoder, self.colbert
        similar = vectors is not None and vectors.keep is not None and bi_encoder is not None

        def similarity() -> Similarity:
            return Similarity(_there(vectors), _there(bi_encoder), threads=self.threads_of("vectors"))

        if rerank.kind == "vectors":
            return (lambda: Rescore(similarity(), depth)) if similar else None
        if rerank.kind == "maxsim":
            index = next((own for own in (self.codes, self.tokens) if own is not None and own.storage == rerank.precision), None)
            return (lambda: Rescore(MaxSim(_there(index), _there(colbert)), depth)) if index is not None and colbert is not None else None
        given = [own for own in (self.cross, self.cross_float32) if own is not None]
        model = next((own for own in given if rerank.precision in ("", precision_of(own))), None)
        if model is None:
            return None
        if rerank.kind == "cascade":
            return (lambda: Cascade([similarity(), _there(model)], keep=KEEP, depth=depth)) if similar else None
        return lambda: Rescore(_there(model), depth)

    def model_of(self, stage: str) -> str | None:
        """The name of the model that a stage of these parts runs."""
        model = self._model(stage)
        return None if model is None else str(model.model)

    def threads_of(self, stage: str) -> int | None:
        """Those of its model's runtime on a CPU, where that tells."""
        runtime = getattr(self._model(stage), "runtime", None)
        threads = getattr(runtime, "threads", None) if getattr(runtime, "device", "") == "cpu" else None
        return threads if isinstance(threads, int) else None

    def _model(self, stage: str) -> Any:
        held: dict[str, Any] = {"dense": self.bi_encoder, "vectors": self.bi_encoder, "splade": self.sparse_encoder, "late": self.colbert}
        return (held | {"maxsim": self.colbert, "cross": self.cross or self.cross_float32}).get(stage)


def _there(part: Any) -> Any:
    assert part is not None
    return part


def precision_of(model: CrossEncoder) -> str:
    """ "int8" for a dynamically quantised file as it stands, else "float32"."""
    return "int8" if model.runtime.batch_sensitive else "float32"
