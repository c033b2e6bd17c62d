"""Candidates by vectors that an index holds: the cheapest model there is, since documents were encoded before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from ..core import Query, Ranking, Scorer, Scores
from ..errors import InputError, NonFiniteError
from ..indexes.vector_exact import products
from ..indexes.vectors import VectorIndex
from ..ops import checks
from .dense import BiEncoder


@final
class Similarity(Scorer):
    """score(query, document) = the inner product of their vectors, float32 (the cosine, for an encoder that normalizes).

    encoder: what the index was built with. Candidates of another corpus are found by their ids (UnknownIdError). The column
    truncated_tokens says what the encoder cut off. Raises InputError (a blank query, another dimension), NonFiniteError.
    """

    def __init__(self, index: VectorIndex, encoder: BiEncoder) -> None:
        checks.instance("Similarity: index", index, VectorIndex)
        checks.instance("Similarity: encoder", encoder, BiEncoder)
        index.require_encoder("Similarity", encoder)
        self.index, self.encoder, self.backend = index, encoder, encoder.backend

    def score(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Scores]:
        index, out = self.index, []
        asked = [query.text for query, ranking in zip(queries, rankings) if len(ranking)]
        if any(not text.strip() for text in asked):
            raise InputError("Similarity: query", got="an empty text", expected="a query to compare with")
        vectors = iter(list(self.encoder.encode(asked, queries=True)) if asked else [])
        scale = "cosine" if self.encoder.normalize else index.metric
        for ranking in rankings:
            own = ranking.corpus is index.corpus
            rows = ranking.ids if own else np.array([index.corpus.row(doc_id) for doc_id in ranking.doc_ids], np.int64)
            values = np.zeros(0, np.float32)
            if len(rows):
                vector = index.prepared(next(vectors)[None])[0]
                values = products(index.vectors, vector, rows)
                if not np.isfinite(values).all():
                    raise NonFiniteError("Similarity", got="a product beyond float32", expected="finite ones")
            out.append(Scores(values, scale, {"truncated_tokens": index.truncated_tokens[rows]}))
        return out

    def __repr__(self) -> str:
        return f"Similarity({self.encoder.name}, {self.backend})"
