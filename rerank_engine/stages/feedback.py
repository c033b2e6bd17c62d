"""Feedback: the best documents of a first search say what to search for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import final

import numpy as np

from ..core import Query, Ranking, Stage
from ..errors import InputError
from ..indexes.inverted import BM25Index
from ..limits import limits, pieces
from ..ops import checks
from ..trace import reach
from .lexical import BM25

TermFilter = Callable[[str, int, int], bool]
_PLAIN = re.compile(r"[a-z0-9]{2,20}")


def anserini_terms(term: str, df: int, n_docs: int) -> bool:
    """Anserini's choice of feedback terms: 2 to 20 characters a-z and 0-9, in at most a tenth of the documents."""
    return _PLAIN.fullmatch(term) is not None and df <= 0.1 * n_docs


def alphanumeric_terms(term: str, df: int, n_docs: int) -> bool:
    """The same for every script: 2 to 20 letters and digits, in at most a tenth of the documents. No difference for a-z and 0-9."""
    return 2 <= len(term) <= 20 and term.isalnum() and df <= 0.1 * n_docs


@final
class RM3(Stage):
    """Relevance feedback by RM3: searches, adds the terms of the best documents to the query, and searches again.

        P(t | D)    tf(t, D) / sum of tf over the fb_terms most frequent terms of D that term_filter lets pass; 0 for the other terms
        P(t | R)    sum over the fb_docs best documents of score(D) * P(t | D); the fb_terms largest, scaled to sum to 1
        weight(t)   original_weight * (tf of t in the query / its length) + (1 - original_weight) * P(t | R)

    It helps where a need has many relevant documents, and hurts where a question has one (docs/lexical-quality.md). Where a deadline comes
    before the second search is done, the first one's list, or the one that came in, is the answer.
    retriever: the BM25 stage that is asked twice; its k is what comes out. incoming=True: the list that comes in gives the feedback, not a
    first search: `... >> RM3(bm25, incoming=True)`. term_filter(term, df, n_docs) -> bool. Terms that tie go by the term, ascending
    (Anserini leaves it to a hash table). An index built with forward=True has the terms at hand; otherwise texts are analysed again.
    Source: Abdul-Jaleel et al., "UMass at TREC 2004"; as in Anserini's Rm3Reranker, whose defaults these are, but that it lets only a-z and
    0-9 pass (term_filter=anserini_terms): that would leave nothing of most languages.
    """

    backend = "cpp"

    def __init__(
        self,
        retriever: BM25,
        *,
        fb_docs: int = 10,
        fb_terms: int = 10,
        original_weight: float = 0.5,
        term_filter: TermFilter = alphanumeric_terms,
        incoming: bool = False,
    ) -> None:
        checks.instance("RM3: retriever", retriever, BM25)
        self.retriever, self.fb_docs, self.fb_terms = (
            retriever,
            checks.count("RM3: fb_docs", fb_docs),
            checks.count("RM3: fb_terms", fb_terms),
        )
        self.original_weight = checks.finite_number("RM3: original_weight", original_weight, 0, 1)
        if not callable(term_filter):
            raise InputError("RM3: term_filter", got=term_filter, expected="a function of (term, df, n_docs)")
        self.term_filter, self.incoming, self.retrieves, self.backend = term_filter, incoming, not incoming, retriever.backend

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        retriever = BM25(self.retriever.index.snapshot(), self.retriever.k, threads=self.retriever.threads)  # the same for both searches
        if rankings is None or not self.incoming:
            timed = limits().deadline is not None  # the first of a long list, which may have to do, are those of a short one
            first = retriever.with_k(max(self.fb_docs, retriever.k) if timed else self.fb_docs).run(queries)
        else:
            first = list(rankings)
        kept = first if self.incoming else [ranking.head(retriever.k) for ranking in first]
        expanded = list[Query]()
        for part in pieces(len(queries), 1):
            for query, ranking in zip(queries[part], first[part]):
                expanded.append(replace(query, terms=self._expanded(retriever.index, query, ranking)))
        return or_first(retriever.run(expanded) if len(expanded) == len(queries) else None, kept)

    def late(self, rankings: Sequence[Ranking]) -> list[Ranking] | None:
        return list(rankings) if self.incoming else None

    def expand(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[dict[str, float]]:
        """The new query of each: analysed terms with their weights, heaviest first."""
        return [self._expanded(self.retriever.index, query, ranking) for query, ranking in zip(queries, rankings)]

    def _expanded(self, index: BM25Index, query: Query, ranking: Ranking) -> dict[str, float]:
        original: dict[str, float] = {}
        for term, weight in ((t, 1.0) for t in index.analyzer(query.text)) if query.terms is None else query.terms.items():
            original[term] = original.get(term, 0.0) + weight
        for term in (term for text in query.must for term in index.analyzer(text)):
            original.setdefault(term, 1.0)  # as if it stood in the text
        if ranking.corpus is not index.corpus and len(ranking):
            raise InputError("RM3", got="a list over another corpus", expected="one over the corpus of the retriever's index")
        model = self._relevance_model(index, ranking)
        total, share = sum(original.values()), self.original_weight if model else 1.0
        weights = {term: share * weight / total for term, weight in original.items()} if total > 0 else {}
        for term, p in model.items():
            weights[term] = weights.get(term, 0.0) + (1 - share) * p
        return _heaviest(weights, len(weights))

    def _relevance_model(self, index: BM25Index, ranking: Ranking) -> dict[str, float]:
        head = ranking.head(self.fb_docs)
        documents = index.document_terms(head.ids)
        candidates = sorted({term for document in documents for term in document})
        if any(not isinstance(term, str) for term in candidates):
            raise InputError("RM3", got="an index whose terms are integers", expected="one whose terms are strings")
        df, n_docs = dict(zip(candidates, index.document_frequency(candidates))), len(index)
        if len(head) and float(head.scores[-1]) < 0:
            got, hint = f"a score of {head.scores[-1]:g}", "Logits may be negative: apply a sigmoid first, or let RM3 search itself."
            raise InputError("RM3: feedback", got=got, expected="scores of at least 0, since they weigh the documents", hint=hint)
        model: dict[str, float] = {}
        for document, score in zip(documents, head.scores.astype(np.float64).tolist()):
            kept = _heaviest({t: tf for t, tf in document.items() if self.term_filter(t, df[t], n_docs)}, self.fb_terms)
            length = sum(kept.values())
            for term, tf in kept.items():
                model[term] = model.get(term, 0.0) + score * tf / length
        model = _heaviest(model, self.fb_terms)
        total = sum(model.values())
        return {term: weight / total for term, weight in model.items()} if total > 0 else {}

    def __repr__(self) -> str:
        incoming = ", incoming" if self.incoming else ""
        return (
            f"RM3({self.retriever!r}, fb_docs={self.fb_docs}, fb_terms={self.fb_terms}, original_weight={self.original_weight:g}{incoming})"
        )


def or_first(second: Sequence[Ranking] | None, first: Sequence[Ranking]) -> list[Ranking]:
    """What a second search found; where a deadline cut it short, or there was none, the list that gave the feedback."""
    if second is None:
        return [ranking._with(facts=reach(0, 1), notes={}) for ranking in first]
    return [
        after if after.facts.get("finished", True) else before._with(facts={**reach(0, 1), "reached": after.facts["reached"]}, notes={})
        for before, after in zip(first, second)
    ]


def _heaviest(weights: Mapping[str, float], n: int) -> dict[str, float]:
    return dict(sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:n])
