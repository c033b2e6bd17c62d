"""LlamaIndex: a node postprocessor. Needs llama-index-core."""

from __future__ import annotations

from typing import Any

from .scoring import missing, ordered, require_model

try:
    from llama_index.core.bridge.pydantic import ConfigDict, Field, field_validator
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
except ImportError as error:
    raise missing("llama_index", "llama-index-core", error) from error

dispatcher = get_dispatcher(__name__)


class RerankPostprocessor(BaseNodePostprocessor):
    """Orders nodes for the query, by their text with the metadata that is meant for embedding.

    model: a name or folder for `rr.load`, a loaded scorer, or a stage that re-orders; None: ms-marco-MiniLM-L-12-v2. top_n: None keeps all.
    keep_retrieval_score: the score that a node came with goes into metadata["retrieval_score"]. Nodes that come back are copies.
    """

    model: Any = Field(default=None, description="A model's name or folder, a loaded scorer, or a stage.")
    top_n: int | None = Field(default=2, description="Nodes that come back.")
    activation: str = Field(default="none", description="'sigmoid' of logits, or 'none'.")
    keep_retrieval_score: bool = Field(default=False, description="Whether the retrieval score is kept in metadata.")
    model_config = ConfigDict(arbitrary_types_allowed=True)

    @field_validator("model")
    @classmethod
    def _known(cls, model: Any) -> Any:
        return require_model("RerankPostprocessor", model)

    @classmethod
    def class_name(cls) -> str:
        return "RerankPostprocessor"

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("Missing query bundle in extra info.")
        name = str(getattr(self.model, "model", self.model))
        dispatcher.event(ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=self.top_n or len(nodes), model_name=name))
        texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        found = []
        for result in ordered(self.model, query_bundle.query_str, texts, self.top_n, self.activation):
            node = nodes[result.index].node.model_copy(deep=True)
            if self.keep_retrieval_score:
                node.metadata["retrieval_score"] = nodes[result.index].score
            found.append(NodeWithScore(node=node, score=result.score))
        dispatcher.event(ReRankEndEvent(nodes=found))
        return found
