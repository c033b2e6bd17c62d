"""Dense retrieval: texts as single vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from ..core import Query, Ranking, Stage
from ..errors import InputError, UnsupportedModelError
from ..indexes.vectors import VectorIndex
from ..ops import checks
from ..progress import Progress
from ..runtimes.base import Runtime, check_finite, describe
from ..runtimes.batching import run_batched
from ..runtimes.tokenize import Tokenizer

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
        self.backend = describe(runtime)

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


@final
class Dense(Stage):
    """The k nearest documents by inner product, exactly; the cosine for an encoder that normalizes. A blank query finds nothing.

    The column truncated_tokens says what the encoder cut off each document.
    """

    retrieves = True

    def __init__(self, index: VectorIndex, encoder: BiEncoder, k: int = 1000) -> None:
        checks.instance("Dense: index", index, VectorIndex)
        checks.instance("Dense: encoder", encoder, BiEncoder)
        self.index, self.encoder, self.k, self.backend = index, encoder, checks.count("Dense: k", k), encoder.backend

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        asked = [query for query in queries if query.text.strip()]
        filters = [query.allowed(self.index.corpus) for query in asked]
        vectors = self.encoder.encode([query.text for query in asked], queries=True) if asked else None
        found = iter(() if vectors is None else self.index.search(vectors, self.k, filters=filters))
        nothing = np.empty(0, np.int64), np.empty(0, np.float32)
        scale = "cosine" if self.encoder.normalize else "inner product"
        hits = [next(found) if query.text.strip() else nothing for query in queries]
        cut = self.index.truncated_tokens
        return [Ranking._trusted(ids, scores, self.index.corpus, scale, {"truncated_tokens": cut[ids]}) for ids, scores in hits]

    def __repr__(self) -> str:
        return f"Dense(k={self.k}, {self.encoder.name}, {self.backend})"
