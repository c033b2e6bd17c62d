"""Feedback for dense retrieval: the query's vector moves towards those of the best documents of a first search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from ..core import Query, Ranking, Stage
from ..errors import NonFiniteError
from ..indexes.vector_encoder import TextEncoder, encode, name_of, require_encoder
from ..limits import limits, pieces
from ..ops import checks
from .dense import Dense, rows_of
from .feedback import or_first

METHODS = ("rocchio", "average")


@final
class VectorPRF(Stage):
    """Searches, makes a new query vector of the query's q and those of the best documents d_1 .. d_n, n <= fb_docs, and searches again.

        rocchio   alpha q + beta mean(d_1 .. d_n)
        average   mean(q, d_1 .. d_n): alpha = 1 / (n + 1), beta = n / (n + 1)

    encoder: a model that was trained to read the query with its feedback (ANCE-PRF, Yu, Xiong and Callan, CIKM 2021; see TextEncoder)
    gives the new vector instead: of the text "query SEP d_1 SEP ... d_n" with `separator` for SEP, cut at its end where it is too long for
    the model.

    retriever: the Dense stage that is asked twice; its k is what comes out; without `encoder`, its index must keep its vectors.
    incoming=True: the list that comes in gives the feedback, not a first search: `... >> VectorPRF(dense, incoming=True)`; documents of
    another corpus are found by their ids (UnknownIdError). Scores are on the index's scale: inner products with the new vector, which has
    no unit length unless the index sees to it. A query that finds nothing, and with incoming=True one whose list is empty, is searched as
    it is. Where a deadline comes before the second search is done, the first list, or the one that came in, is the answer: its k documents
    if the index is exact, else the fb_docs that gave the feedback, since a kind of faiss finds others for another k.

    Source: Li, Mourad, Zhuang, Koopman and Zuccon, "Pseudo Relevance Feedback with Deep Language Models and Dense Retrievers", TOIS 2023,
    equations 1 to 3; the defaults are pyterrier_dr's.
    """

    def __init__(
        self,
        retriever: Dense,
        *,
        method: str = "rocchio",
        fb_docs: int = 3,
        alpha: float = 1.0,
        beta: float = 0.2,
        encoder: TextEncoder | None = None,
        separator: str = " [SEP] ",
        incoming: bool = False,
    ) -> None:
        checks.instance("VectorPRF: retriever", retriever, Dense)
        checks.instance("VectorPRF: separator", separator, str)
        if encoder is None:
            retriever.index.require_vectors("VectorPRF")
        else:
            require_encoder("VectorPRF", encoder)
        self.retriever, self.encoder, self.separator, self.incoming = retriever, encoder, separator, incoming
        self.method, self.fb_docs = checks.one_of("VectorPRF: method", method, METHODS), checks.count("VectorPRF: fb_docs", fb_docs)
        self.alpha, self.beta = (checks.finite_number(f"VectorPRF: {name}", value, 0) for name, value in (("alpha", alpha), ("beta", beta)))
        self.retrieves, self.backend = not incoming, retriever.backend

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        dense = self.retriever
        places = [i for i, query in enumerate(queries) if query.text.strip()]
        nothing = dense.ranking(np.empty(0, np.int64), np.empty(0, np.float32), scale=dense.index.scale)
        found = dict(zip(places, self._found([queries[i] for i in places], None if rankings is None else [rankings[i] for i in places])))
        return [found.get(i, nothing) for i in range(len(queries))]

    def _found(self, asked: Sequence[Query], incoming: Sequence[Ranking] | None) -> list[Ranking]:
        """For queries that are not blank."""
        dense, own = self.retriever, self.retriever.encode(asked)
        if incoming is None or not self.incoming:
            whole = limits().deadline is not None and dense.index.kind == "exact"  # the first of its k are the fb_docs
            first = dense.found(asked, own, max(self.fb_docs, dense.k) if whole else self.fb_docs)
        else:
            first = list(incoming)
        kept = first if self.incoming else [ranking.head(dense.k) for ranking in first]
        if limits().out_of_time():
            return or_first(None, kept)
        feedback = [rows_of("VectorPRF", dense.index, ranking.head(self.fb_docs)) for ranking in first]
        moved = self._moved(asked, own, feedback)
        return or_first(dense.found(asked, moved, dense.k, scale=dense.index.scale), kept)

    def late(self, rankings: Sequence[Ranking]) -> list[Ranking] | None:
        return list(rankings) if self.incoming else None

    def _moved(self, queries: Sequence[Query], own: NDArray[np.float32], feedback: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """float32 [queries, dim]; none where time was up before the encoder had read the feedback."""
        index, out = self.retriever.index, own.copy()
        fed = [i for i, rows in enumerate(feedback) if len(rows)]
        if self.encoder is not None:
            texts = [self.separator.join([queries[i].text, *index.corpus.texts(feedback[i])]) for i in fed]
            if fed:
                parts = [encode("VectorPRF", self.encoder, texts[part]) for part in pieces(len(fed), 1)]
                if sum(map(len, parts)) < len(fed):
                    return out[:0]  # time is up
                out[fed] = index.prepared(np.concatenate(parts))
            return out
        for i in fed:
            documents = index.vectors_of(feedback[i]).astype(np.float64)
            n = len(documents)
            alpha, beta = (1 / (n + 1), n / (n + 1)) if self.method == "average" else (self.alpha, self.beta)
            with np.errstate(over="ignore"):
                out[i] = alpha * own[i].astype(np.float64) + beta * documents.mean(0)
        if not np.isfinite(out).all():
            raise NonFiniteError("VectorPRF", got="a vector beyond float32", expected="finite numbers")
        return out

    def __repr__(self) -> str:
        how = f"{self.method}, alpha={self.alpha:g}, beta={self.beta:g}" if self.method == "rocchio" else self.method
        how = how if self.encoder is None else name_of(self.encoder)
        return f"VectorPRF({self.retriever!r}, {how}, fb_docs={self.fb_docs}{', incoming' if self.incoming else ''})"
