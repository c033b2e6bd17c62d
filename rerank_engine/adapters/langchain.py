"""LangChain: a document compressor, a cross-encoder, and a retriever. Needs langchain-core."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ..core import Stage
from ..errors import InputError
from ..ops.checks import count
from .scoring import missing, ordered, pair_scores, require_model

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun, Callbacks
    from langchain_core.cross_encoders import BaseCrossEncoder
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.retrievers import BaseRetriever
    from pydantic import ConfigDict, field_validator
except ImportError as error:
    raise missing("langchain", "langchain-core", error) from error


class RerankCompressor(BaseDocumentCompressor):
    """Orders documents for the query, for ContextualCompressionRetriever and chains.

    model: a name or folder for `rr.load`, a loaded scorer, or a stage that re-orders; None: ms-marco-MiniLM-L-12-v2. top_n: None keeps all.
    activation: "sigmoid" of logits, or "none". The documents that come back are copies, their score in metadata["relevance_score"].
    """

    model: Any = None
    top_n: int | None = 3
    activation: str = "none"
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    @field_validator("model")
    @classmethod
    def _known(cls, model: Any) -> Any:
        return require_model("RerankCompressor", model)

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None) -> Sequence[Document]:
        found = []
        for result in ordered(self.model, query, [document.page_content for document in documents], self.top_n, self.activation):
            document = copy.deepcopy(documents[result.index])
            document.metadata["relevance_score"] = result.score
            found.append(document)
        return found


class PairScorer(BaseCrossEncoder):
    """Scores of (query, document) pairs, for CrossEncoderReranker. model, activation: as for RerankCompressor, but no stage."""

    def __init__(self, model: Any = None, *, activation: str = "none") -> None:
        self.model, self.activation = require_model("PairScorer", model), activation

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        return [float(value) for value in pair_scores(self.model, [(query, text) for query, text in text_pairs], self.activation)]


class PipelineRetriever(BaseRetriever):
    """Documents that a pipeline of this package finds: pipeline: a stage that retrieves; k: the best so many, None for all;
    `invoke(query, k=)` has its own.

    Each Document has the corpus document's id and metadata, the score in metadata["relevance_score"].
    """

    pipeline: Any
    k: int | None = None
    model_config = ConfigDict(arbitrary_types_allowed=True)

    @field_validator("pipeline")
    @classmethod
    def _retrieves(cls, pipeline: Any) -> Any:
        if not isinstance(pipeline, Stage) or not pipeline.retrieves:
            raise InputError("PipelineRetriever: pipeline", got=repr(pipeline), expected="a stage that retrieves, such as rr.BM25(index)")
        return pipeline

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: Any = ...) -> list[Document]:
        k = self.k if k is ... else k
        most = None if k is None else count("PipelineRetriever: k", k)
        ranking = self.pipeline(query)
        kept = ranking if most is None else ranking.head(most)
        return [
            Document(page_content=found.passage, id=found.id, metadata={**copy.deepcopy(dict(found.metadata)), "relevance_score": score})
            for found, score in zip(kept.documents, kept.scores.tolist())
        ]
