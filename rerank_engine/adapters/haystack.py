"""Haystack: a ranker component. Needs haystack-ai."""

# Haystack reads the types of `run` as they stand: no `from __future__ import annotations` here.
import asyncio
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from .scoring import missing, name_of, ordered, require_model, scorer_of

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError as error:
    raise missing("haystack", "haystack-ai", error) from error


@component
class RerankRanker:
    """Orders documents for the query, by their content behind the fields of `meta_fields_to_embed`.

    model: a name or folder for `rr.load`, a loaded scorer, or a stage that re-orders; None: ms-marco-MiniLM-L-12-v2. A pipeline that is
    written down takes a name. top_k: None keeps all. score_threshold: leaves out what scores below. Documents that come back are copies.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        top_k: int | None = 10,
        activation: str = "none",
        score_threshold: float | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
    ) -> None:
        if top_k is not None and top_k <= 0:
            raise ValueError(f"top_k must be > 0, but got {top_k}")
        self.model, self.top_k, self.activation = require_model("RerankRanker", model), top_k, activation
        self.score_threshold, self.meta_fields_to_embed = score_threshold, list(meta_fields_to_embed or ())
        self.embedding_separator = embedding_separator

    def warm_up(self) -> None:
        """Loads the model, if it is a name."""
        if self.model is None or isinstance(self.model, (str, Path)):
            scorer_of(self.model)

    def to_dict(self) -> dict[str, Any]:
        told: dict[str, Any] = default_to_dict(
            self,
            model=name_of(self.model),
            top_k=self.top_k,
            activation=self.activation,
            score_threshold=self.score_threshold,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
        )
        return told

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "RerankRanker":
        made: RerankRanker = default_from_dict(cls, data)
        return made

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """{"documents": the best, with their scores}. top_k: in place of the component's. Raises ValueError for one below 1."""
        if top_k is not None and top_k <= 0:
            raise ValueError(f"top_k must be > 0, but got {top_k}")
        found = ordered(self.model, query, [self._text(document) for document in documents], top_k or self.top_k, self.activation)
        kept = [result for result in found if self.score_threshold is None or result.score >= self.score_threshold]
        return {"documents": [self._scored(documents[result.index], result.score) for result in kept]}

    @component.output_types(documents=list[Document])
    async def run_async(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """`run`, in a thread."""
        return await asyncio.to_thread(self.run, query, documents, top_k)

    @staticmethod
    def _scored(document: Document, score: float) -> Document:
        found: Document = replace(document, score=score, meta=copy.deepcopy(document.meta))
        return found

    def _text(self, document: Document) -> str:
        fields = [str(document.meta[name]) for name in self.meta_fields_to_embed if document.meta.get(name)]
        return self.embedding_separator.join([*fields, document.content or ""])
