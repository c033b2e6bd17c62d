"""Dense retrieval: texts as single vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from ..core import Query, Ranking, Stage
from ..corpus import rows_in
from ..cpus import resolve_threads
from ..errors import InputError, UnsupportedModelError
from ..indexes.vector_encoder import TextEncoder, backend_of, encode, name_of, normalizes, require_encoder
from ..indexes.vectors import VectorIndex
from ..limits import pieces
from ..ops import checks
from ..progress import Progress
from ..runtimes.base import Runtime, check_finite, describe, weights_of
from ..runtimes.batching import run_batched
from ..runtimes.tokenize import Tokenizer
from ..trace import reach

if TYPE_CHECKING:
    from ..sharding.index import ShardedIndex

POOLED, TOKENS = ("sentence_embedding", "pooled_embedding"), ("last_hidden_state", "token_embeddings")


@final
class BiEncoder:
    """A text encoder: pooling "cls" (the first token's state) or "mean" (over the tokens), then unit length if `normalize`.

    The prompts are put in front of queries and documents. Made by `rr.load`.
    """

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer,
        *,
        name: str,
        pooling: str | None,
        normalize: bool = True,
        query_prompt: str = "",
        document_prompt: str = "",
    ) -> None:
        for option, value, kind in (
            ("normalize", normalize, bool),
            ("query_prompt", query_prompt, str),
            ("document_prompt", document_prompt, str),
        ):
            checks.instance(f"model '{name}': {option}", value, kind)
        self.runtime, self.tokenizer, self.name = runtime, tokenizer, name
        self.normalize, self.query_prompt, self.document_prompt = normalize, query_prompt, document_prompt
        self.output = next((output for output in (*POOLED, *TOKENS) if output in runtime.outputs), "")
        if not self.output:
            expected = "one of " + ", ".join((*POOLED, *TOKENS))
            raise UnsupportedModelError(f"model '{name}': outputs", got=", ".join(runtime.outputs), expected=expected)
        if self.output in TOKENS and pooling is None:
            hint = "Its files do not say (1_Pooling/config.json); pass pooling= as its model card has it."
            raise InputError(f"model '{name}': pooling", got="none", expected="'cls' or 'mean'", hint=hint)
        self.pooling = "model" if self.output in POOLED else checks.one_of("pooling", str(pooling), ("cls", "mean"))
        self.model, self.backend = name, describe(runtime)

    @cached_property
    def fingerprint(self) -> str | None:
        """Hex digits that stand for how documents become vectors: the network's file, tokenizer, prompt, lengths, pooling. An index keeps
        it, and refuses other ones: another file of the same model, such as a quantised one, counts as another. None where the runtime does
        not tell its network's hash."""
        weights = weights_of(self.runtime)
        read = (weights, self.output, self.pooling, self.normalize, self.document_prompt, self.tokenizer.max_length)
        return hashlib.sha256(self.tokenizer.content + repr(read).encode()).hexdigest()[:16] if weights else None

    def encode(self, texts: Sequence[str], *, queries: bool = False, progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 [n, dim], one row a text; see `encode_counted`."""
        return self.encode_counted(texts, queries=queries, progress=progress)[0]

    def encode_counted(
        self, texts: Sequence[str], *, queries: bool = False, progress: Progress | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """(vectors float32 [n, dim], dropped int32 [n]): dropped counts the tokens that a document longer than the model lost at its end.

        A query that long raises QueryTooLongError: queries are never cut. An empty text is encoded as the model's special tokens.
        Raises InputError (not strings), NonFiniteError.
        """
        if isinstance(texts, str):
            raise InputError("BiEncoder.encode: texts", got="one string", expected="a sequence of strings", hint="Pass [text].")
        if len(texts) == 0:  # the width of the vectors is known once the model has run
            return self.encode([""])[:0], np.zeros(0, np.int32)
        tokens = self.tokenizer.encode(texts, queries=queries, prompt=self.query_prompt if queries else self.document_prompt)
        vectors = run_batched(self.runtime, tokens, self.output, self._pool, progress=progress)
        check_finite(vectors, self.name)
        return vectors.reshape(len(texts), -1), tokens.dropped

    def _pool(self, states: NDArray[np.float32], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        if self.pooling == "cls":
            states = states[:, 0]
        elif self.pooling == "mean":
            mask = np.arange(states.shape[1]) < lengths[:, None]
            states = (states * mask[..., None]).sum(1, dtype=np.float32) / lengths[:, None].astype(np.float32)
        if self.normalize:
            states = states / np.maximum(np.linalg.norm(states, axis=-1, keepdims=True), 1e-12)
        return states.astype(np.float32, copy=False)

    def __repr__(self) -> str:
        return f"BiEncoder({self.name}, {self.backend}, {self.pooling}{', normalized' if self.normalize else ''})"


def metric_of(index: VectorIndex | ShardedIndex, encoder: TextEncoder) -> str:
    """What the product of a query's vector and a document's is: "cosine" where the index brings them to unit length, or the encoder does
    and the index compares them whole; else "inner product"."""
    return "cosine" if normalizes(encoder) and index.dim == index.given_dim else index.metric


def rows_of(what: str, index: VectorIndex, ranking: Ranking) -> NDArray[np.int64]:
    """Where the index has a ranking's documents, int64 [n]; those of another corpus by their ids. Raises UnknownIdError."""
    expected = "candidates that the index holds; those of another corpus are found by their ids"
    return rows_in(index.corpus, ranking.corpus, ranking.ids, what, expected)


@final
class Dense(Stage):
    """The k nearest documents by inner product, or the cosine (see `metric_of`). A blank query finds nothing.

    Exactly, or as well as a kind of faiss finds them (see VectorIndex; `index.with_search(nprobe=..., ef=..., rescore=...)` asks for more
    or less). encoder: what made the index's vectors (see TextEncoder). threads: of the search; None for what this process may use. The
    scale is "approximate ..." where scores come from compressed vectors. The column truncated_tokens says what the encoder cut off each
    document. The facts of its step: {"index": the kind, and what a search without a filter looks at}. Raises InputError for another
    encoder than the index was made with, as far as both say what they are.
    """

    retrieves = True

    def __init__(self, index: VectorIndex, encoder: TextEncoder, k: int = 1000, *, threads: int | None = None) -> None:
        checks.instance("Dense: index", index, VectorIndex)
        require_encoder("Dense", encoder)
        index.require_encoder("Dense", encoder)
        self.index, self.encoder, self.k, self.backend = index, encoder, checks.count("Dense: k", k), backend_of(encoder)
        self.threads = None if threads is None else resolve_threads(threads)

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        asked = [query for query in queries if query.text.strip()]
        found = iter(self.found(asked, self.encode(asked), self.k))
        nothing = self.ranking(np.empty(0, np.int64), np.empty(0, np.float32))
        return [next(found) if query.text.strip() else nothing for query in queries]

    def encode(self, queries: Sequence[Query]) -> NDArray[np.float32]:
        """float32 [queries, dim of the index]: their vectors as they are compared with documents; of the first ones that time allows."""
        rows = [np.empty((0, self.index.dim), np.float32)]
        for part in pieces(len(queries), 1):
            texts = [query.text for query in queries[part]]
            rows.append(self.index.prepared(encode("Dense", self.encoder, texts, queries=True)))
        return rows[1] if len(rows) == 2 else np.concatenate(rows)

    def found(self, queries: Sequence[Query], vectors: NDArray[np.float32], k: int, *, scale: str | None = None) -> list[Ranking]:
        """The k best for each vector float32 [queries or fewer, dim] among the documents that its query allows; queries without one were
        not encoded in time. scale: as of `ranking`."""
        filters = [query.allowed(self.index.corpus) for query in queries[: len(vectors)]]
        hits, reached = self.index.search_reached(vectors, k, filters=filters, threads=self.threads)
        most = [len(self.index.corpus) if mask is None else int(mask.sum()) for mask in filters]
        out = [self.ranking(*one, scale=scale, told=reach(n, of)) for one, n, of in zip(hits, reached, most)]
        late = self.ranking(np.empty(0, np.int64), np.empty(0, np.float32), scale=scale, told=reach(0, 1))
        return [*out, *[late] * (len(queries) - len(out))]

    def ranking(
        self, rows: NDArray[np.int64], scores: NDArray[np.float32], *, scale: str | None = None, told: Mapping[str, Any] | None = None
    ) -> Ranking:
        """What the index found. scale: for vectors that are not the encoder's. told: facts beside those of the index."""
        index = self.index
        scale = index.scale.replace(index.metric, metric_of(index, self.encoder)) if scale is None else scale
        columns, facts = {"truncated_tokens": index.truncated_tokens[rows]}, {"index": index.kind, **index.effort(self.k), **(told or {})}
        return Ranking._trusted(rows, scores, index.corpus, scale, columns, facts=facts)

    def __repr__(self) -> str:
        kind = self.index.kind if self.index.kind == "exact" else f"{self.index.kind} {self.index.effort(self.k)}"
        return f"Dense(k={self.k}, {kind}, {name_of(self.encoder)}, {self.backend})"
