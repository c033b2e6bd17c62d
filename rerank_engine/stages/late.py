"""Late interaction over an index: query and document as one vector a token, compared by MaxSim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ..backends import choose
from ..core import LOWEST, Query, Ranking, Scorer, Scores, Stage, with_tail
from ..corpus import Document, rows_in
from ..errors import InputError, UnknownIdError
from ..indexes.token_probe import Probe, planned, require
from ..indexes.tokens import TokenIndex
from ..limits import limits, pieces
from ..ops import checks
from ..ops.certified import CertifiedTop
from ..ops.residual import PRECISIONS
from ..runtimes.base import describe
from ..trace import reach
from .colbert import ColBERT, chosen, require_queries
from .explain import Explanation


@final
class MaxSim(Scorer):
    """Scores candidates by the tokens that an index holds: `Rescore(MaxSim(index, encoder), depth=1000)`.

    encoder: what the index was built with. Candidates of another corpus are found by their ids; a document without tokens gets the lowest
    float32. precision: of residual codes, see rr.ops.residual_maxsim. The column truncated_tokens says what the encoder cut off.
    """

    timely = True

    def __init__(self, index: TokenIndex, encoder: ColBERT, *, precision: str = "auto", num_threads: int | None = None) -> None:
        checks.instance("MaxSim: index", index, TokenIndex)
        checks.instance("MaxSim: encoder", encoder, ColBERT)
        index.require_encoder("MaxSim", encoder)
        checks.one_of("MaxSim: precision", precision, tuple(PRECISIONS))
        self.index, self.encoder, self.precision, self.num_threads = index, encoder, precision, num_threads
        self.backend = f"{describe(encoder.runtime)}+{choose('residual' if index.codec is not None else 'maxsim')}"

    def score(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Scores]:
        require_queries("MaxSim", queries)
        index = self.index.snapshot()
        truncated, out = index.truncated_tokens, []
        encoded = encoded_in_time(self.encoder, [query.text for query in queries])
        for query, ranking in zip_longest(encoded, rankings):
            rows, values = rows_of(index, ranking), np.empty(0, np.float32)
            if query is not None:
                values = index.score(query, rows, precision=self.precision, num_threads=self.num_threads)
            out.append(Scores.in_time(np.maximum(values, LOWEST), len(rows), "maxsim", {"truncated_tokens": truncated[rows]}))
        return out

    def explain(self, query: str, document: str | Document | Ranking, row: int | None = None, *, special: bool = False) -> Explanation:
        """As `ColBERT.explain`, by the tokens of the index. document: an id, or a Document that has it; or a
        Ranking, and `row` one of its ids. Raises InputError, UnknownIdError.
        """
        found = chosen("MaxSim.explain", document, row)
        doc_id = found.id if isinstance(found, Document) else found
        if not isinstance(doc_id, str):
            raise InputError("MaxSim.explain: document", got=type(doc_id).__name__, expected="an id, a Document or a Ranking")
        index = self.index.snapshot()
        at = row_of(index, doc_id)
        return self.encoder.explain_by(query, index.corpus[at].passage, index.tokens(at), special=special)

    def __repr__(self) -> str:
        return f"MaxSim({self.index.storage}, {self.encoder.model}, {self.backend})"


def encoded_in_time(encoder: ColBERT, texts: Sequence[str]) -> list[NDArray[np.float32]]:
    """Vectors of the first queries, of as many as time allows."""
    return [vectors for part in pieces(len(texts), 1) for vectors in encoder.encode_queries(texts[part])]


def rows_of(index: TokenIndex, ranking: Ranking) -> NDArray[np.int64]:
    """Where the index has a ranking's documents. Raises UnknownIdError for one that it lacks."""
    return rows_in(index.corpus, ranking.corpus, ranking.ids, *_LACKS)


def row_of(index: TokenIndex, doc_id: str) -> int:
    """The row of an id. Raises UnknownIdError."""
    if doc_id not in index.corpus:
        what, expected, hint = _LACKS
        raise UnknownIdError(what, got=f"the id '{doc_id}'", expected=expected, hint=hint)
    return index.corpus.row(doc_id)


_LACKS = (
    "token index",
    "the id of a document that it holds",
    "Every candidate must be in it: add the document to the token index, or retrieve from what it holds.",
)


@final
class LateInteraction(Stage):
    """The k best documents of a token index. A blank query finds nothing.

    probe: centroids of residual codes looked at a query token, whose documents are the candidates (see indexes.token_probe); None: every
    document is scored; "auto": what costs less, which for few documents, or for many results, is all of them. candidates: scored exactly
    where centroids are looked at; None: 4 k, at least 128. The facts of its step: {"probe": int or None, "found": documents that the
    centroids gave, "candidates": scored exactly, "exhaustive": bool}.
    """

    retrieves = True

    def __init__(
        self,
        index: TokenIndex,
        encoder: ColBERT,
        k: int = 1000,
        *,
        probe: Probe = "auto",
        candidates: int | None = None,
        precision: str = "auto",
        num_threads: int | None = None,
    ) -> None:
        self._scorer = MaxSim(index, encoder, precision=precision, num_threads=num_threads)
        self.index, self.encoder, self.k, self.backend = index, encoder, checks.count("LateInteraction: k", k), self._scorer.backend
        require("LateInteraction", index.storage, index.codec, k, probe, candidates)
        self.probe, self.candidates = probe, candidates

    def of(self, index: TokenIndex, k: int) -> LateInteraction:
        """The same stage over another state of its index, with another k."""
        most = None if self.candidates is None else max(self.candidates, k)
        return LateInteraction(index, self.encoder, k, probe=self.probe, candidates=most, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        return {"precision": self._scorer.precision, "num_threads": self._scorer.num_threads}

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        return self.search(queries, self.encode(queries))

    def encode(self, queries: Sequence[Query]) -> list[NDArray[np.float32] | None]:
        """Vectors float32 [q, dim] of each query; None for a blank one, and for those that time did not allow."""
        vectors = iter(encoded_in_time(self.encoder, [query.text for query in queries if query.text.strip()]))
        return [next(vectors, None) if query.text.strip() else None for query in queries]

    def search(self, queries: Sequence[Query], vectors: Sequence[NDArray[np.float32] | None]) -> list[Ranking]:
        """As `run`, by vectors float32 [q, dim] in place of the queries' texts; None, or no vector, finds nothing. Raises InputError."""
        index = self.index.snapshot()
        places = [i for i, own in enumerate(vectors) if own is not None and len(own)]
        filters = [queries[i].allowed(index.corpus) for i in places]
        asked, options = [vectors[i] for i in places], {"filters": filters, "candidates": self.candidates, **self.options}
        found = index.search_explained(asked, self.k, probe=self.probe, **options)
        told, cut, out = dict(zip(places, found)), index.truncated_tokens, []
        late = limits().out_of_time()
        nothing = (np.empty(0, np.int64), np.empty(0, np.float32)), None
        for i, query in enumerate(queries):
            (ids, scores), plan = told.get(i, nothing)
            facts = plan.facts if plan is not None else reach(0, 1) if late and query.text.strip() else {}
            out.append(Ranking._trusted(ids, scores, index.corpus, "maxsim", {"truncated_tokens": cut[ids]}, facts=facts))
        return out

    def explain(self, query: str, document: str | Document | Ranking, row: int | None = None, *, special: bool = False) -> Explanation:
        """As `MaxSim.explain`."""
        return self._scorer.explain(query, document, row, special=special)

    def __repr__(self) -> str:
        told = self.index.stats()
        chosen = planned(self.index.codec, told["documents"], told["tokens"], 32, self.k, self.probe, self.candidates)[0]
        way = "exhaustive" if chosen is None else f"probe={chosen}"
        return f"LateInteraction(k={self.k}, {way}, {self.index.storage}, {self.encoder.model}, {self.backend})"


@final
class CertifiedMaxSim(Stage):
    """The k best candidates by an index, without scoring all of them in full.

    The same, ties and documents without tokens included, as Rescore(MaxSim(index, encoder, precision="float32")) >> Top(k) gives where its
    depth takes in all candidates: residual codes are scored at float32. The facts of its step: {"certified": whether
    any was left out, "work_saved": ...}, see rr.ops.certified_top. After a deadline the candidates that were scored in full come first, the
    others follow in their old order, and nothing is certified.
    """

    def __init__(self, index: TokenIndex, encoder: ColBERT, k: int = 10, *, num_threads: int | None = None) -> None:
        self._scorer = MaxSim(index, encoder, num_threads=num_threads)
        self.index, self.encoder, self.k, self.backend = index, encoder, checks.count("CertifiedMaxSim: k", k), self._scorer.backend

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        assert rankings is not None
        require_queries("CertifiedMaxSim", queries)
        index = self.index.snapshot()
        truncated, out = index.truncated_tokens, []
        for query, ranking in zip_longest(encoded_in_time(self.encoder, [query.text for query in queries]), rankings):
            if query is None:
                out += self.late([ranking])
                continue
            rows = rows_of(index, ranking)
            found = self._found(index, query, rows, ties=ranking.corpus is not index.corpus)
            by_row = np.argsort(rows)
            at = by_row[np.searchsorted(rows[by_row], found.rows)]
            if found.reached is not None:
                out.append(self._cut_short(ranking, at, found, truncated[rows]))
                continue
            rest = np.setdiff1d(np.arange(len(rows)), at)  # documents without tokens come last, if all others are there
            at = at[np.lexsort((ranking.ids[at], -found.scores.astype(np.float64)))][: self.k]
            scores = found.scores[: len(at)]  # its order but for ties
            if len(at) < self.k:
                rest = rest[np.argsort(ranking.ids[rest])][: self.k - len(at)]
                at, scores = np.concatenate([at, rest]), np.concatenate([scores, np.full(len(rest), LOWEST, np.float32)])
            columns = {"truncated_tokens": truncated[rows[at]]}
            columns = {**{name: column[at] for name, column in ranking.columns.items()}, **columns}
            out.append(ranking._with(ids=ranking.ids[at], scores=scores, scale="maxsim", columns=columns, facts=found.facts))
        return out

    def late(self, rankings: Sequence[Ranking]) -> list[Ranking]:
        return [ranking.head(self.k)._with(facts=reach(0, 1)) for ranking in rankings]

    def _cut_short(self, ranking: Ranking, at: NDArray[np.int64], found: CertifiedTop, truncated: NDArray[np.int32]) -> Ranking:
        """at: places of what was scored in full, best first."""
        if not len(at):
            return self.late([ranking])[0]
        places = np.concatenate([at, np.setdiff1d(np.arange(len(ranking)), at)])
        scores = with_tail(found.scores, len(ranking) - len(at))
        columns = {**{name: column[places] for name, column in ranking.columns.items()}, "truncated_tokens": truncated[places]}
        facts = {**found.facts, **reach(len(at), len(ranking) + 1)}
        made = ranking._with(ids=ranking.ids[places], scores=scores, scale="maxsim", columns=columns, facts=facts)
        return made.head(self.k)

    def _found(self, index: TokenIndex, query: NDArray[np.float32], rows: NDArray[np.int64], ties: bool) -> CertifiedTop:
        """The k best rows, and with `ties` all that tie with the last of them: another corpus has them in another order."""
        k, work, approximated = self.k + ties, 0.0, 0
        while True:
            found = index.top(query, k, rows, num_threads=self._scorer.num_threads)
            work, approximated = work + 1 - found.work_saved, approximated + found.approximated
            if found.reached is not None or not ties or len(found.rows) < k or found.scores[-1] < found.scores[self.k - 1]:
                return replace(found, work_saved=max(0.0, 1 - work), approximated=approximated)
            k *= 2

    def explain(self, query: str, document: str | Document | Ranking, row: int | None = None, *, special: bool = False) -> Explanation:
        """As `MaxSim.explain`."""
        return self._scorer.explain(query, document, row, special=special)

    def __repr__(self) -> str:
        return f"CertifiedMaxSim(k={self.k}, {self.index.storage}, {self.encoder.model}, {self.backend})"
