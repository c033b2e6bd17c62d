"""Feedback for late interaction: what the best documents of a first search speak of becomes further vectors of the query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from ..codec import nearest
from ..core import LOWEST, Query, Ranking, Stage
from ..errors import InputError
from ..indexes.token_search import live_rows
from ..indexes.tokens import TokenIndex
from ..kmeans import kmeans
from ..limits import limits
from ..ops import checks
from ..ops.topk import topk
from ..trace import reach
from .colbert import ColBERT
from .feedback import or_first
from .late import LateInteraction, rows_of

_NEAREST = 10  # tokens that tell what a cluster is of, as in pyterrier_colbert


@dataclass(frozen=True, slots=True, eq=False)
class Expansion:
    """What feedback adds to a query, the largest weight first: vectors float32 [e, dim], cluster means, shorter than unit length; tokens
    int64 [e]: what they are of, by the encoder's vocabulary; weights float32 [e]: beta * sigma."""

    vectors: NDArray[np.float32]
    tokens: NDArray[np.int64]
    weights: NDArray[np.float32]


@final
class ColBERTPRF(Stage):
    """Searches, adds the most telling vectors of the best documents to the query, and searches again, or re-ranks what it found.

        C           the means of `clusters` clusters of the token vectors of the fb_docs best documents
        t(c)        of the 10 feedback tokens nearest to c the most frequent one, of equal ones the nearer
        sigma(t)    ln((N + 1) / (df(t) + 1)), df: the documents that have the token
        score(d)    sum over query tokens i of max_j <q_i, d_j> + beta * sum over c in C of sigma(t(c)) * max_j <c, d_j>, of which only the
                    fb_embs of largest sigma count

    (Wang, Macdonald, Tonellotto and Ounis, ICTIR 2021, equations 3 to 5, whose defaults these are.) Of given clusters, sigma, the vote with
    its ties, the order, the weights and the sum are those of pyterrier_colbert. Not equal to it:

        df and N    there of all documents, by token ids that it stores. A TokenIndex has none: they are read from texts by the encoder's
                    tokenizer, of `df_documents` of the documents that have tokens and are not deleted, at even distances (of all, if they
                    are fewer), once per state of the index. The lists of its centroids would give a df too, but a common word has many
                    centroids and would look rare, and plain vectors have none
        t(c)        there of the 10 nearest tokens of the whole index, special ones among them, which then have no vote; here of the 10
                    nearest of the feedback's that have a sigma above 0, which leaves out those of every document, such as [CLS]
        clusters    there scikit-learn's k-means of documents filled up with zeros; here spherical k-means of a fixed start without them,
                    then plain means
        maxima      there at least 0 for documents that are filled up

    It helps where a need has many relevant documents, and hurts where a question has one: sigma counts a vector of the feedback many
    times as much as one of the query, a smaller beta less so.
    retriever: asked twice; its k is what comes out. rerank=True: its first list is scored again instead of a second search. incoming=True:
    the list that comes in gives the feedback in place of the first search, `... >> ColBERTPRF(late, incoming=True)`, and with rerank=True
    is what is scored again; documents of another corpus are found by their ids. A query whose list is empty is searched as it is. The facts
    of its step: those of the search, and {"added": vectors}. Where a deadline comes before that is done, the list that gave the feedback is
    the answer: its fb_docs documents where the retriever may probe, which finds others for another k, else k.
    """

    def __init__(
        self,
        retriever: LateInteraction,
        *,
        fb_docs: int = 3,
        clusters: int = 24,
        fb_embs: int = 10,
        beta: float = 1.0,
        rerank: bool = False,
        incoming: bool = False,
        df_documents: int = 10_000,
    ) -> None:
        checks.instance("ColBERTPRF: retriever", retriever, LateInteraction)
        counts = {"fb_docs": fb_docs, "clusters": clusters, "fb_embs": fb_embs, "df_documents": df_documents}
        self.fb_docs, self.clusters, self.fb_embs, self.df_documents = (checks.count(f"ColBERTPRF: {n}", v) for n, v in counts.items())
        if fb_embs > clusters:
            raise InputError("ColBERTPRF: fb_embs", got=fb_embs, expected=f"at most clusters, {clusters}")
        self.beta = checks.finite_number("ColBERTPRF: beta", beta, 0, 1e6)
        self.retriever, self.rerank, self.incoming = retriever, rerank, incoming
        self.retrieves, self.backend = not incoming, retriever.backend
        self._known: tuple[object, NDArray[np.float64]] | None = None  # members of the index, and sigma of each token in that state

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        retriever = self.retriever.of(self.retriever.index.snapshot(), self.retriever.k)  # the same for both searches
        vectors, first = retriever.encode(queries), rankings
        if first is None or not self.incoming:
            scans = retriever.probe is None or retriever.index.codec is None  # then the first of a long list are those of a short one
            k = max(self.fb_docs, retriever.k) if scans and limits().deadline is not None else self.fb_docs
            first = (retriever if self.rerank else retriever.of(retriever.index, k)).search(queries, vectors)
        kept = first if self.incoming else [ranking.head(retriever.k) for ranking in first]
        added = [
            self._expanded(retriever.index, ranking) if own is not None and not limits().out_of_time() else None
            for own, ranking in zip(vectors, first)
        ]
        if limits().out_of_time():
            return or_first(None, kept)
        new = [None if own is None or more is None else with_expansion(own, more) for own, more in zip(vectors, added)]
        if self.rerank:
            done = [self._rescored(retriever, ranking, own) for ranking, own in zip(first, new)]
        else:
            done = retriever.search(queries, new)
        told = [0 if more is None else len(more.weights) for more in added]
        return or_first([ranking._with(facts={**ranking.facts, "added": n}) for ranking, n in zip(done, told)], kept)

    def late(self, rankings: Sequence[Ranking]) -> list[Ranking] | None:
        return list(rankings) if self.incoming else None

    def expand(self, rankings: Sequence[Ranking]) -> list[Expansion]:
        """What each list's best documents would add to its query. Raises UnknownIdError for documents that the index lacks."""
        index = self.retriever.index.snapshot()
        return [self._expanded(index, ranking) for ranking in rankings]

    def _expanded(self, index: TokenIndex, ranking: Ranking) -> Expansion:
        rows = rows_of(index, ranking.head(self.fb_docs))
        vectors = np.concatenate([np.empty((0, index.dim), np.float32), *(index.tokens(int(row)) for row in rows)])
        ids = np.concatenate([np.empty(0, np.int64), *token_ids(self.retriever.encoder, index.corpus.texts(rows))])
        if len(ids) != len(vectors):
            hint = "Was the index built with this model and these settings, and are the texts with it?"
            raise InputError("ColBERTPRF", got=f"{len(vectors)} vectors for {len(ids)} tokens", expected="one a token", hint=hint)
        nothing = Expansion(vectors[:0], ids[:0], np.empty(0, np.float32))
        if not len(ids) or limits().out_of_time():
            return nothing
        means = means_of(vectors, min(self.clusters, len(vectors)))
        if limits().out_of_time():
            return nothing
        sigma = self._sigma(index, ids)
        telling = np.flatnonzero(sigma > 0)
        chosen = telling[[voted(ids[telling], vectors[telling] @ mean) for mean in means]] if len(telling) else telling
        best = np.lexsort((np.arange(len(chosen)), -sigma[chosen]))[: self.fb_embs]
        weights = (self.beta * sigma[chosen[best]]).astype(np.float32)
        return Expansion(means[best], ids[chosen[best]], weights)

    def _sigma(self, index: TokenIndex, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """ln((N + 1) / (df + 1)) of tokens, which are counted once for a state of the index."""
        known, members, encoder = self._known, index._members, self.retriever.encoder
        if known is None or known[0] is not members:
            there = np.concatenate([np.empty(0, bool), *(np.diff(member.offsets) > 0 for member in members)])
            live = live_rows(members)
            rows = np.flatnonzero(there if live is None else there & live)
            n = min(self.df_documents, len(rows))
            rows, counts = rows[np.linspace(0, len(rows) - 1, n).astype(np.int64)], np.zeros(encoder.tokenizer.vocabulary_size)
            for at in range(0, n, 8):
                if limits().out_of_time():  # nobody uses it: `apply` looks again
                    return np.zeros(len(ids))
                for own in token_ids(encoder, index.corpus.texts(rows[at : at + 8])):
                    counts[np.unique(own)] += 1
            known = self._known = members, np.log((n + 1) / (counts + 1))
        return known[1][ids]

    def _rescored(self, retriever: LateInteraction, ranking: Ranking, vectors: NDArray[np.float32] | None) -> Ranking:
        if vectors is None or not len(ranking):
            return ranking.head(0)
        rows = rows_of(retriever.index, ranking)
        scores = np.maximum(retriever.index.score(vectors, rows, **retriever.options), np.float32(LOWEST))
        if np.isnan(scores).any():
            return ranking._with(facts=reach(0, 1))  # for the first list to take its place
        order = np.lexsort((ranking.ids, -scores.astype(np.float64)))[: retriever.k]
        columns = {name: column[order] for name, column in ranking.columns.items()}
        columns["truncated_tokens"] = retriever.index.truncated_tokens[rows[order]]
        return ranking._with(ids=ranking.ids[order], scores=scores[order], scale="maxsim", columns=columns)

    def __repr__(self) -> str:
        how = "".join(f", {name}" for name in ("rerank", "incoming") if getattr(self, name))
        sizes = f"fb_docs={self.fb_docs}, clusters={self.clusters}, fb_embs={self.fb_embs}, beta={self.beta:g}"
        return f"ColBERTPRF({self.retriever!r}, {sizes}{how})"


def with_expansion(query: NDArray[np.float32], added: Expansion) -> NDArray[np.float32]:
    """float32 [q + e, dim]. A weight w of a query vector is w times the vector: the maximum of products commutes with a factor above 0."""
    return np.concatenate([query, added.vectors * added.weights[:, None]])


def token_ids(encoder: ColBERT, texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Of each text the tokens that `encoder.encode_documents` gives vectors of."""
    rows, there = [np.empty(0, np.int64)] * len(texts), [i for i, text in enumerate(texts) if text.strip()]
    tokens = list(encoder._document_tokens([texts[i] for i in there]).ids) if there else []
    for i, ids in zip(there, tokens):
        rows[i] = ids[~np.isin(ids, encoder._skipped)]
    return rows


def means_of(vectors: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """float32 [at most k, dim]: the means of the clusters of vectors float32 [n, dim], always the same for the same vectors, in time."""
    centroids = kmeans(vectors, k, iterations=20, backend="numpy", seconds=limits().left())
    if limits().out_of_time():  # nobody uses them: `apply` looks again
        return centroids
    owner = nearest(vectors, centroids)
    groups = [vectors[owner == cluster] for cluster in np.unique(owner)]
    return np.array([group.astype(np.float64).mean(0) for group in groups]).astype(np.float32)


def voted(ids: NDArray[np.int64], products: NDArray[np.float32]) -> int:
    """The place of the token that a cluster is of: the most frequent id of the 10 of largest product, of equal ones the nearer."""
    near = topk(products, _NEAREST)[0]
    _, first, counts = np.unique(ids[near], return_index=True, return_counts=True)
    return int(near[first[np.lexsort((first, -counts))[0]]])
