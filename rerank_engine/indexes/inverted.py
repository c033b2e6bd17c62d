"""The inverted index behind BM25: vocabulary, analyzer and postings of a corpus."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..backends import choose
from ..corpus import Corpus, require_documents
from ..ops.bm25 import Postings, bm25, check_parameters
from ..ops.topk import Hits
from ..packed import Packed
from ..progress import Progress
from ..text import Analyzer, AnalyzerLike


class BM25Index:
    """`BM25Index.build(corpus)`; held in memory. `search` takes texts, analysed as the documents were."""

    def __init__(self, corpus: Corpus, analyzer: Analyzer, vocabulary: dict[str, int], postings: Postings, backend: str) -> None:
        self.corpus, self.analyzer, self.vocabulary, self.postings, self.backend = corpus, analyzer, vocabulary, postings, backend

    @classmethod
    def build(
        cls,
        corpus: Corpus,
        *,
        analyzer: AnalyzerLike = "english",
        k1: float = 1.2,
        b: float = 0.75,
        backend: str = "auto",
        progress: Progress | None = None,
    ) -> BM25Index:
        """Analyses every passage (title and text). progress(done, total) is called every 1,000 documents and at the end.

        Raises InputError for an empty corpus, k1 < 0 or b outside [0, 1].
        """
        require_documents("BM25Index.build", corpus)
        k1, b = check_parameters(k1, b)  # now, not after the analysis
        backend = choose("bm25", backend)
        analyze, vocabulary, rows = Analyzer(analyzer), dict[str, int](), list[NDArray[np.int32]]()
        for done, document in enumerate(corpus, 1):
            terms = analyze(document.passage)
            rows.append(np.fromiter((vocabulary.setdefault(t, len(vocabulary)) for t in terms), np.int32, len(terms)))
            if progress and (done % 1000 == 0 or done == len(corpus)):
                progress(done, len(corpus))
        postings = Postings.build(Packed.from_rows(rows, np.int32), len(vocabulary), k1=k1, b=b, backend=backend)
        return cls(corpus, analyze, vocabulary, postings, backend)

    def search(self, texts: Sequence[str], k: int, *, threads: int | None = 1) -> list[Hits]:
        """Per text (rows int64 [m], scores float32 [m]), m <= k; a text without known terms finds nothing."""
        known = [[self.vocabulary[t] for t in self.analyzer(text) if t in self.vocabulary] for text in texts]
        return bm25(Packed.from_rows(known, np.int32), self.postings, k, threads=threads, backend=self.backend)

    def __repr__(self) -> str:
        p = self.postings
        return f"BM25Index({len(p)} documents, {p.n_terms} terms, {len(p.rows)} postings, {self.analyzer.name}, k1={p.k1:g}, b={p.b:g})"
