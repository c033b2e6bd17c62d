"""Late interaction over an index: query and document as one vector a token, compared by MaxSim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ..backends import choose
from ..core import LOWEST, Query, Ranking, Scorer, Scores, Stage
from ..indexes.tokens import TokenIndex
from ..ops import checks
from ..runtimes.base import describe
from .colbert import ColBERT, require_queries, text_of
from .explain import Explanation


@final
class MaxSim(Scorer):
    """Scores candidates by the tokens that an index holds: `Rescore(MaxSim(index, encoder), depth=1000)`.

    encoder: what the index was built with. Candidates of another corpus are found by their ids; a document without tokens gets the lowest
    float32. precision: of residual codes, see rr.ops.residual_maxsim. The column truncated_tokens says what the encoder cut off.
    """

    def __init__(self, index: TokenIndex, encoder: ColBERT, *, precision: str = "auto", num_threads: int | None = 1) -> None:
        checks.instance("MaxSim: index", index, TokenIndex)
        checks.instance("MaxSim: encoder", encoder, ColBERT)
        self.index, self.encoder, self.precision, self.num_threads = index, encoder, precision, num_threads
        self.backend = f"{describe(encoder.runtime)}+{choose('residual' if index.codec is not None else 'maxsim')}"

    def score(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Scores]:
        require_queries("MaxSim", queries)
        index = self.index.snapshot()
        truncated, out = index.truncated_tokens, []
        for query, ranking in zip(self.encoder.encode_queries([query.text for query in queries]), rankings):
            rows = rows_of(index, ranking)
            values = index.score(query, rows, precision=self.precision, num_threads=self.num_threads)
            out.append(Scores(np.maximum(values, LOWEST), "maxsim", {"truncated_tokens": truncated[rows]}))
        return out

    def explain(self, query: str, document: str | Ranking, row: int | None = None) -> Explanation:
        """As `ColBERT.explain`, by the tokens of the index. document: an id; or a Ranking, and `row` one of its ids.

        Raises InputError, UnknownIdError.
        """
        if isinstance(document, Ranking):
            text_of("MaxSim.explain", document, row)
            document = document.corpus[int(row or 0)].id
        index = self.index.snapshot()
        at = index.corpus.row(document)
        return self.encoder.explain_by(query, index.corpus[at].passage, index.tokens(at))

    def __repr__(self) -> str:
        return f"MaxSim({self.index.storage}, {self.encoder.model}, {self.backend})"


def rows_of(index: TokenIndex, ranking: Ranking) -> NDArray[np.int64]:
    """Where the index has a ranking's documents. Raises UnknownIdError for one that it lacks."""
    if ranking.corpus is index.corpus:
        return ranking.ids
    return np.array([index.corpus.row(doc_id) for doc_id in ranking.doc_ids], np.int64)


@final
class LateInteraction(Stage):
    """The k best documents of a token index, every one of them scored. A blank query finds nothing."""

    retrieves = True

    def __init__(self, index: TokenIndex, encoder: ColBERT, k: int = 1000, *, precision: str = "auto", num_threads: int | None = 1) -> None:
        self._scorer = MaxSim(index, encoder, precision=precision, num_threads=num_threads)
        self.index, self.encoder, self.k, self.backend = index, encoder, checks.count("LateInteraction: k", k), self._scorer.backend

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        index, scorer = self.index.snapshot(), self._scorer
        asked = [query for query in queries if query.text.strip()]
        vectors: list[Any] = self.encoder.encode_queries([query.text for query in asked]) if asked else []
        filters = [query.allowed(index.corpus) for query in asked]
        found = iter(index.search(vectors, self.k, filters=filters, num_threads=scorer.num_threads, precision=scorer.precision))
        nothing = np.empty(0, np.int64), np.empty(0, np.float32)
        cut, out = index.truncated_tokens, []
        for query in queries:
            ids, scores = next(found) if query.text.strip() else nothing
            out.append(Ranking._trusted(ids, scores, index.corpus, "maxsim", {"truncated_tokens": cut[ids]}))
        return out

    def explain(self, query: str, doc_id: str) -> Explanation:
        """As `MaxSim.explain`."""
        return self._scorer.explain(query, doc_id)

    def __repr__(self) -> str:
        return f"LateInteraction(k={self.k}, {self.index.storage}, {self.encoder.model}, {self.backend})"


@final
class CertifiedMaxSim(Stage):
    """The k best candidates by an index, the same as Rescore(MaxSim(index, encoder)) >> Top(k) gives, without scoring all of them in full.

    The facts of its step say so: {"certified": True, "work_saved": ...}, see rr.ops.certified_top. Residual codes are scored at float32.
    """

    def __init__(self, index: TokenIndex, encoder: ColBERT, k: int = 10, *, num_threads: int | None = 1) -> None:
        self._scorer = MaxSim(index, encoder, num_threads=num_threads)
        self.index, self.encoder, self.k, self.backend = index, encoder, checks.count("CertifiedMaxSim: k", k), self._scorer.backend

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        assert rankings is not None
        require_queries("CertifiedMaxSim", queries)
        index = self.index.snapshot()
        truncated, out = index.truncated_tokens, []
        for query, ranking in zip(self.encoder.encode_queries([query.text for query in queries]), rankings):
            rows = rows_of(index, ranking)
            found = index.top(query, self.k, rows, num_threads=self._scorer.num_threads)
            ids, scores = found.rows, found.scores
            if len(ids) < min(self.k, len(ranking)):  # documents without tokens come last
                rest = np.setdiff1d(rows, ids)[: min(self.k, len(ranking)) - len(ids)]
                ids, scores = np.concatenate([ids, rest]), np.concatenate([scores, np.full(len(rest), LOWEST, np.float32)])
            places = {row: place for place, row in enumerate(rows.tolist())}
            at = np.array([places[row] for row in ids.tolist()], np.int64)
            columns = {**{name: column[at] for name, column in ranking.columns.items()}, "truncated_tokens": truncated[ids]}
            out.append(ranking._with(ids=ranking.ids[at], scores=scores, scale="maxsim", columns=columns, facts=found.facts))
        return out

    def __repr__(self) -> str:
        return f"CertifiedMaxSim(k={self.k}, {self.index.storage}, {self.encoder.model}, {self.backend})"
