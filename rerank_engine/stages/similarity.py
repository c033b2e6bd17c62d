"""Candidates by vectors that an index holds: the cheapest model there is, since documents were encoded before."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import final

import numpy as np

from ..core import Query, Ranking, Scorer, Scores
from ..cpus import resolve_threads
from ..errors import InputError, NonFiniteError
from ..indexes.vector_encoder import TextEncoder, backend_of, encode, name_of, require_encoder
from ..indexes.vector_exact import products
from ..indexes.vectors import VectorIndex
from ..limits import pieces
from ..ops import checks
from .dense import metric_of, rows_of


@final
class Similarity(Scorer):
    """score(query, document) = the inner product of their vectors, float32, or the cosine (see `metric_of`).

    index: one that keeps its vectors. encoder: what made them (see TextEncoder). Candidates of another corpus are found by their ids
    (UnknownIdError). The column truncated_tokens says what the encoder cut off. threads: of the products; None for what this process may
    use. Raises InputError (a blank query, another dimension), NonFiniteError.
    """

    timely = True

    def __init__(self, index: VectorIndex, encoder: TextEncoder, *, threads: int | None = None) -> None:
        checks.instance("Similarity: index", index, VectorIndex)
        require_encoder("Similarity", encoder)
        index.require_vectors("Similarity")
        index.require_encoder("Similarity", encoder)
        self.index, self.encoder, self.backend = index, encoder, backend_of(encoder)
        self.threads = None if threads is None else resolve_threads(threads)

    def score(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Scores]:
        index, out = self.index, []
        asked = [query.text for query, ranking in zip(queries, rankings) if len(ranking)]
        if any(not text.strip() for text in asked):
            raise InputError("Similarity: query", got="an empty text", expected="a query to compare with")
        encoded = [index.prepared(encode("Similarity", self.encoder, asked[part], queries=True)) for part in pieces(len(asked), 1)]
        vectors = chain.from_iterable(encoded)
        scale = metric_of(index, self.encoder)
        for ranking in rankings:
            rows = rows_of("Similarity", index, ranking)
            values = np.zeros(0, np.float32)
            if len(rows) and (query := next(vectors, None)) is not None:
                values = products(index.vectors, query[None], rows, self.threads)[0]
                if not np.isfinite(values).all():
                    raise NonFiniteError("Similarity", got="a product beyond float32", expected="finite ones")
            out.append(Scores.in_time(values, len(rows), scale, {"truncated_tokens": index.truncated_tokens[rows]}))
        return out

    def __repr__(self) -> str:
        return f"Similarity({name_of(self.encoder)}, {self.backend})"
