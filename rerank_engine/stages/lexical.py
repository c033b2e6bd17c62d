"""Lexical retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from ..core import Query, Ranking, Stage
from ..indexes.inverted import BM25Index
from ..ops import checks
from ..trace import reach


@final
class BM25(Stage):
    """The k best documents by BM25. Documents without any of the query's terms are left out, so a list may be shorter than k, or empty.

    At a deadline: those of the rows that it got to, which facts["reached"] counts.
    """

    retrieves = True

    def __init__(self, index: BM25Index, k: int = 1000, *, threads: int | None = 1) -> None:
        checks.instance("BM25: index", index, BM25Index)
        self.index, self.k, self.threads, self.backend = index, checks.count("BM25: k", k), threads, index.backend

    def with_k(self, k: int) -> BM25:
        """The same stage with another k."""
        return BM25(self.index, k, threads=self.threads)

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        hits, corpus, reached = self.index.retrieve(queries, self.k, threads=self.threads)
        facts = [reach(n, len(corpus)) for n in reached]
        return [Ranking._trusted(ids, scores, corpus, "bm25", facts=told) for (ids, scores), told in zip(hits, facts)]

    def __repr__(self) -> str:
        return f"BM25(k={self.k}, {self.index.parameters}, {self.backend})"
