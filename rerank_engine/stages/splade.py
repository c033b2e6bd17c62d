"""Sparse neural retrieval: texts as weights of the words of a vocabulary, also of words that they do not hold (SPLADE)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from ..core import Query, Ranking, Stage
from ..errors import InputError, UnsupportedModelError
from ..limits import pieces
from ..ops import checks
from ..progress import Progress
from ..runtimes.base import Runtime, check_finite, describe, weights_of
from ..runtimes.batching import run_rows
from ..runtimes.tokenize import Tokenizer
from ..trace import reach

if TYPE_CHECKING:
    from ..indexes.impacts import ImpactIndex

Sparse = tuple[NDArray[np.int32], NDArray[np.float32]]


@final
class SparseEncoder:
    """Weights of the vocabulary by a masked-LM head, over all of a text's tokens i, the special ones included (as naver's and
    sentence-transformers' SPLADE have it):

        w[t] = max over i of log(1 + max(logit[i, t], 0))        Formal et al. 2021, arXiv:2109.10086, equation 6

    A model's SpladePooling may say otherwise: see `runtimes.encoder.Architecture`. The prompts are put in front of queries and documents.
    Made by `rr.load`.
    """

    def __init__(self, runtime: Runtime, tokenizer: Tokenizer, *, name: str, query_prompt: str = "", document_prompt: str = "") -> None:
        for option, value in (("query_prompt", query_prompt), ("document_prompt", document_prompt)):
            checks.instance(f"model '{name}': {option}", value, str)
        if "weights" not in runtime.outputs:
            raise UnsupportedModelError(f"model '{name}': outputs", got=", ".join(runtime.outputs) or "none", expected="weights")
        self.runtime, self.tokenizer, self.model = runtime, tokenizer, name
        self.query_prompt, self.document_prompt, self.backend = query_prompt, document_prompt, describe(runtime)

    @cached_property
    def fingerprint(self) -> str:
        """Hex digits that stand for how documents become weights: network, tokenizer, prompt, longest input. Not for the precision that it
        runs in. An index keeps it, and refuses other ones."""
        weights, network = weights_of(self.runtime), getattr(self.runtime, "architecture", None)
        pooled = () if network is None else (network.pooling, network.saturations)
        read = (weights, *pooled, self.document_prompt, self.tokenizer.max_length)
        return hashlib.sha256(self.tokenizer.content + repr(read).encode()).hexdigest()[:16]

    def encode(
        self,
        texts: Sequence[str],
        queries: bool = False,
        progress: Progress | None = None,
        *,
        top_terms: int | None = None,
        threshold: float = 0.0,
    ) -> list[Sparse]:
        """(term ids int32 [m] ascending, weights float32 [m] above 0) of each text; see `encode_counted`."""
        return self.encode_counted(texts, queries, progress, top_terms=top_terms, threshold=threshold)[0]

    def encode_counted(
        self,
        texts: Sequence[str],
        queries: bool = False,
        progress: Progress | None = None,
        *,
        top_terms: int | None = None,
        threshold: float = 0.0,
    ) -> tuple[list[Sparse], NDArray[np.int32]]:
        """(what `encode` gives, dropped int32 [n]): dropped counts the tokens that a document longer than the model lost at its end.

        A query that long raises QueryTooLongError: queries are never cut. top_terms: the heaviest alone, of equal ones those of lower
        numbers; threshold: weights above it alone. Raises InputError (not strings, pruning out of range), NonFiniteError.
        """
        if isinstance(texts, str):
            raise InputError("SparseEncoder.encode: texts", got="one string", expected="a sequence of strings", hint="Pass [text].")
        most = None if top_terms is None else checks.count("SparseEncoder.encode: top_terms", top_terms)
        least = checks.finite_number("SparseEncoder.encode: threshold", threshold, 0)
        tokens = self.tokenizer.encode(texts, queries=queries, prompt=self.query_prompt if queries else self.document_prompt)

        def kept(row: NDArray[np.float32]) -> Sparse:
            check_finite(row[None], self.model)
            ids = np.flatnonzero(row > least)
            if most is not None and len(ids) > most:
                ids = np.sort(ids[np.argsort(-row[ids], kind="stable")[:most]])
            return ids.astype(np.int32), row[ids]

        return run_rows(self.runtime, tokens, "weights", kept, progress=progress), tokens.dropped

    def tokens(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> list[str]:
        """Term ids as words: entries of the vocabulary, "##ing" for the rest of a word."""
        return [self.tokenizer.token(int(i)) for i in ids]

    def explain(self, text: str, *, queries: bool = False) -> dict[str, float]:
        """The weights of a text by word, the heaviest first."""
        [(ids, weights)] = self.encode([text], queries)
        order = np.argsort(-weights, kind="stable")
        return dict(zip(self.tokens(ids[order]), weights[order].tolist()))

    def __repr__(self) -> str:
        return f"SparseEncoder({self.model}, {self.backend})"


@final
class SPLADE(Stage):
    """The k best documents by the inner product of a query's weights with the documents' impacts. A blank query finds nothing, and so do
    documents without any of its terms.

    top_terms: the heaviest terms of a query alone. The column truncated_tokens says what the encoder cut off each document. `terms` and
    `must` of a query are for lexical stages; its `allow` and `deny` hold here too. Raises InputError for another encoder than the index'.
    """

    retrieves = True

    def __init__(
        self, index: ImpactIndex, encoder: SparseEncoder, k: int = 1000, *, top_terms: int | None = None, threads: int | None = 1
    ) -> None:
        from ..indexes.impacts import ImpactIndex

        checks.instance("SPLADE: index", index, ImpactIndex)
        checks.instance("SPLADE: encoder", encoder, SparseEncoder)
        index.require_encoder("SPLADE", encoder)
        self.index, self.encoder, self.k, self.threads = index, encoder, checks.count("SPLADE: k", k), threads
        self.top_terms = None if top_terms is None else checks.count("SPLADE: top_terms", top_terms)
        self.backend = f"{encoder.backend}+{index.backend}"

    def with_k(self, k: int) -> SPLADE:
        """The same stage with another k."""
        return SPLADE(self.index, self.encoder, k, top_terms=self.top_terms, threads=self.threads)

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        asked = [query for query in queries if query.text.strip()]
        texts, encoded = [query.text for query in asked], list[Sparse]()
        for part in pieces(len(texts), 1):
            encoded += self.encoder.encode(texts[part], queries=True, top_terms=self.top_terms)
        late, given = len(asked) - len(encoded), iter(encoded)
        nothing = np.empty(0, np.int32), np.empty(0, np.float32)
        weighted = [next(given, nothing) if query.text.strip() else nothing for query in queries]
        index = self.index.snapshot()  # what is cut off stands in the rows that were searched
        hits, reached = index.search_reached(weighted, self.k, filters=queries, threads=self.threads)
        cut, n, out = index.truncated_tokens, len(index.corpus), list[Ranking]()
        for (ids, scores), rows in zip(hits, reached):
            out.append(Ranking._trusted(ids, scores, index.corpus, "splade", {"truncated_tokens": cut[ids]}, facts=reach(rows, n)))
        for i in [i for i, query in enumerate(queries) if query.text.strip()][len(asked) - late :]:
            out[i] = out[i]._with(facts=reach(0, n))  # not encoded in time
        return out

    def explain(self, query: str | Query, doc_id: str) -> dict[str, Any]:
        """Where a document's score comes from: {"id", "score", "terms": [{"term", "query", "document", "score"}, ...]}: the words in both,
        the largest product first; score = the query's weight * the document's. Raises UnknownIdError."""
        text = query.text if isinstance(query, Query) else query
        found = self.encoder.encode([text], queries=True, top_terms=self.top_terms) if text.strip() else []
        told = self.index.explain(found[0] if found else (np.empty(0, np.int32), np.empty(0, np.float32)), doc_id)
        return {**told, "terms": [{**row, "term": self.encoder.tokenizer.token(row["term"])} for row in told["terms"]]}

    def __repr__(self) -> str:
        return f"SPLADE(k={self.k}, {self.encoder.model}, {self.index.parameters}, {self.backend})"
