"""AnswerDotAI's `rerankers`: a ranker whose `rank` gives its RankedResults. Needs rerankers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from .scoring import Model, missing, ordered, pair_scores, require_model

try:
    from rerankers.documents import Document
    from rerankers.models.ranker import BaseRanker
    from rerankers.results import RankedResults, Result
    from rerankers.utils import prep_docs
except ImportError as error:
    raise missing("rerankers", "rerankers", error) from error


class Reranker(BaseRanker):
    """model: a name or folder for `rr.load`, a loaded scorer, or a stage that re-orders; None: ms-marco-MiniLM-L-12-v2."""

    ranking_type = "pointwise"

    def __init__(self, model: Model = None, *, activation: str = "none", verbose: int = 0) -> None:
        self.model, self.activation, self.verbose = require_model("Reranker", model), activation, verbose

    def rank(
        self,
        query: str,
        docs: str | Sequence[str] | Document | Sequence[Document],
        doc_ids: Sequence[str] | Sequence[int] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> RankedResults:
        given = prep_docs(docs, doc_ids, metadata)
        found = ordered(self.model, query, [document.text for document in given], None, self.activation)
        results = [Result(document=given[result.index], score=result.score, rank=place) for place, result in enumerate(found, 1)]
        return RankedResults(results=results, query=query, has_scores=True)

    async def rank_async(self, query: str, docs: Any, doc_ids: Any = None, metadata: Any = None) -> RankedResults:
        return await asyncio.to_thread(self.rank, query, docs, doc_ids, metadata)

    def score(self, query: str, doc: str) -> float:
        if not isinstance(doc, str):
            raise InputError("Reranker.score: doc", got=type(doc).__name__, expected="a text")
        return float(pair_scores(self.model, [(query, doc)], self.activation)[0])
