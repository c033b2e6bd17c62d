"""Stages that choose and order by more than the score: MMR and LostInTheMiddle (see also dedup.py and rules.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import choose
from ..core import Query, Ranking, Stage
from ..errors import InputError
from ..indexes.vector_encoder import TextEncoder, encode, require_encoder
from ..indexes.vectors import VectorIndex
from ..limits import limits, pieces
from ..ops import checks
from ..ops.mmr import mmr
from ..ops.topk import Hits
from ..trace import reach
from .dense import rows_of

RELEVANCE = ("min-max", "score", "query")


def reordered(ranking: Ranking, places: ArrayLike, **columns: NDArray[Any]) -> Ranking:
    """The documents at these distinct places in this order, with synthetic scores n, n-1, ..., 1, the scale "rank" and further columns."""
    at = np.asarray(places, np.int64)
    chosen = ranking._pick(at, scores=np.arange(len(at), 0, -1).astype(np.float32), scale="rank")
    return chosen._with(columns={**chosen.columns, **columns})


def vectors_of(what: str, ranking: Ranking, index: VectorIndex) -> NDArray[np.float32]:
    """The vectors of a ranking's documents, float32 [n, dim]; those of another corpus are found by their ids. Raises UnknownIdError."""
    return index.vectors_of(rows_of(what, index, ranking))


@final
class MMR(Stage):
    """Picks n documents (None: orders all) that are relevant and unlike each other: maximal marginal relevance, exactly; see rr.ops.mmr.

    vectors: a VectorIndex that holds the candidates and keeps its vectors, or an encoder (see TextEncoder) that encodes them on the spot,
    for documents that came with the request. Candidates of another corpus than the index's are found by their ids (UnknownIdError).
    lambda_: 1 is relevance alone, 0 diversity alone. relevance, on the scale of the vectors' products:
        min-max  the scores that came in, stretched to 0..1; all 1 where they are equal (default: fits any stage in front)
        score    the scores that came in, as they are
        query    the product with the encoded query; needs `encoder`, unless `vectors` is one
    The answer carries an order: synthetic scores, scale "rank". Column mmr float32: each document's value when it was picked. After a
    deadline the rest follows in its old order, with 0 in that column; that is all of them where an encoder had not encoded every one.
    """

    def __init__(
        self,
        vectors: VectorIndex | TextEncoder,
        n: int | None = None,
        *,
        lambda_: float = 0.5,
        relevance: str = "min-max",
        encoder: TextEncoder | None = None,
    ) -> None:
        if isinstance(vectors, VectorIndex):
            vectors.require_vectors("MMR")
        elif not hasattr(vectors, "encode"):
            raise InputError("MMR: vectors", got=type(vectors).__name__, expected="a VectorIndex or an encoder")
        else:
            require_encoder("MMR", vectors)
        self.vectors, self.n = vectors, None if n is None else checks.count("MMR: n", n)
        self.lambda_ = checks.finite_number("MMR: lambda_", lambda_, 0, 1)
        self.relevance = checks.one_of("MMR: relevance", relevance, RELEVANCE)
        self.encoder = vectors if encoder is None and not isinstance(vectors, VectorIndex) else encoder
        if relevance == "query" and self.encoder is None:
            raise InputError("MMR: encoder", got="none", expected="the encoder that encodes queries")
        if self.encoder is not None:
            require_encoder("MMR", self.encoder)
            if isinstance(vectors, VectorIndex):
                vectors.require_encoder("MMR", self.encoder)
        self.backend = choose("mmr")

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        assert rankings is not None
        out = []
        for query, ranking in zip(queries, rankings):
            if len(ranking) == 0:
                out.append(reordered(ranking, [], mmr=np.empty(0, np.float32)))
                continue
            picks, values = self._picks(query, ranking)
            wanted = min(self.n or len(ranking), len(ranking))
            rest = np.setdiff1d(np.arange(len(ranking)), picks)[: wanted - len(picks)] if len(picks) < wanted else picks[:0]
            made = reordered(ranking, np.concatenate([picks, rest]), mmr=np.pad(values, (0, len(rest))))
            out.append(made._with(facts=reach(len(picks), wanted)))
        return out

    def late(self, rankings: Sequence[Ranking]) -> list[Ranking]:
        heads = [ranking.head(self.n or len(ranking)) for ranking in rankings]
        return [reordered(head, np.arange(len(head)), mmr=np.zeros(len(head), np.float32)) for head in heads]

    def _picks(self, query: Query, ranking: Ranking) -> Hits:
        """(places int64 [m], values float32 [m]), as many as time allows."""
        nothing = np.empty(0, np.int64), np.empty(0, np.float32)
        if limits().out_of_time():
            return nothing
        relevance, asked = self._relevance(query, ranking)
        vectors = self._encode(ranking)
        if len(vectors) < len(ranking):
            return nothing
        options: dict[str, Any] = {"query": asked, "lambda_": self.lambda_, "backend": self.backend, "seconds": limits().left()}
        return mmr(relevance, vectors, self.n or len(ranking), **options)

    def _encode(self, ranking: Ranking) -> NDArray[np.float32]:
        """float32 [n, dim]; fewer where time was up before an encoder had read all documents."""
        if isinstance(self.vectors, VectorIndex):
            return vectors_of("MMR", ranking, self.vectors)
        texts, rows = ranking.corpus.texts(ranking.ids), list[NDArray[np.float32]]()
        for part in pieces(len(texts), 1):
            rows.append(encode("MMR", self.vectors, texts[part]))
        return np.concatenate(rows) if rows else np.empty((0, 1), np.float32)

    def _relevance(self, query: Query, ranking: Ranking) -> tuple[NDArray[Any] | None, NDArray[np.float32] | None]:
        """(relevance of each document, None), or (None, the query's vector)."""
        if self.relevance == "query":
            assert self.encoder is not None
            asked = encode("MMR", self.encoder, [query.text], queries=True)
            return None, (self.vectors.prepared(asked) if isinstance(self.vectors, VectorIndex) else asked)[0]
        if self.relevance == "score":
            return ranking.scores, None
        best, least = float(ranking.scores[0]), float(ranking.scores[-1])
        stretched = (ranking.scores.astype(np.float64) - least) / (best - least) if best > least else np.ones(len(ranking), np.float32)
        return stretched, None

    def __repr__(self) -> str:
        return f"MMR({self.vectors!r}, n={self.n}, lambda_={self.lambda_:g}, relevance={self.relevance!r}, {self.backend})"


@final
class LostInTheMiddle(Stage):
    """The best documents at both ends, the least in the middle, where language models overlook them (Liu et al., TACL 2024).

    Ranks 1 3 5 ... 6 4 2. top_k: documents kept. words: after the document with which the passages together reach so many words
    (whitespace-separated), no further one is taken. Equal to Haystack's LostInTheMiddleRanker with `top_k` and `word_count_threshold`.
    The answer carries an order: synthetic scores, scale "rank".
    """

    def __init__(self, top_k: int | None = None, words: int | None = None) -> None:
        self.top_k = None if top_k is None else checks.count("LostInTheMiddle: top_k", top_k)
        self.words = None if words is None else checks.count("LostInTheMiddle: words", words)

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        assert rankings is not None
        out = []
        for ranking in rankings:
            n = len(ranking) if self.top_k is None else min(self.top_k, len(ranking))
            if self.words is not None and n > 1:
                total = np.cumsum([len(text.split()) for text in ranking.corpus.texts(ranking.ids[:n])])
                n = min(n, int(np.searchsorted(total, self.words)) + 1)
            out.append(reordered(ranking, [*range(0, n, 2), *reversed(range(1, n, 2))]))
        return out

    def __repr__(self) -> str:
        return f"LostInTheMiddle(top_k={self.top_k}, words={self.words})"
