"""The encoder of late interaction: texts as one vector a token, in the formats of colbert-ai and PyLate."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import chain
from typing import final

import numpy as np
from numpy.typing import NDArray

from ..backends import choose
from ..core import LOWEST, WAVE, Query, Ranking, Scorer, Scores
from ..corpus import Document
from ..errors import InputError, NonFiniteError, UnknownIdError, UnsupportedModelError
from ..limits import pieces
from ..ops.maxsim import maxsim
from ..packed import Packed
from ..progress import Progress
from ..runtimes.base import Runtime, describe
from ..runtimes.batching import run_tokens, run_tokens_until
from ..runtimes.late_config import LateConfig
from ..runtimes.projection import Projection
from ..runtimes.tokenize import Tokenizer, Tokens
from .dense import TOKENS
from .explain import Explanation, Piece, explained

_DOCUMENTS = 4096  # distinct texts whose token vectors are held at a time: 250 MB for a hundred tokens of 128 dimensions


def states_output(runtime: Runtime, name: str) -> str:
    """The network's output that has a vector for each token."""
    known = [output for output in TOKENS if output in runtime.outputs]
    if not known and len(runtime.outputs) != 1:
        raise UnsupportedModelError(f"model '{name}': outputs", got=", ".join(runtime.outputs), expected="one of " + ", ".join(TOKENS))
    return (known or list(runtime.outputs))[0]


def states_width(runtime: Runtime, tokenizer: Tokenizer, name: str) -> int:
    """The dimension of the network's token vectors, found by running it once."""
    tokens = tokenizer.encode(["a"])
    states = runtime.run(tokens.ids, tokens.types, output := states_output(runtime, name))
    if states.ndim != 3:
        raise UnsupportedModelError(f"model '{name}': {output}", got=f"{list(states.shape)}", expected="[texts, tokens, dimensions]")
    return int(states.shape[2])


@final
class ColBERT(Scorer):
    """A late-interaction model: encodes texts into token vectors of unit length, and scores the texts of a request with them.

    A marker token stands behind the first; a query is filled up to query_length with [MASK] where the model was trained so, and these
    count as query tokens; a document leaves out the tokens of the skip-list and is cut at document_length, which the column
    truncated_tokens counts. A query is never cut: one longer than query_length, which is the budget of the filling and not the model's
    limit, is not filled up (colbert-ai and PyLate cut it). Blank documents have nothing to compare: no vectors, the lowest float32.
    Under a deadline texts are encoded from each list's top.
    config: how texts are read; projections: what is put behind the network, in turn; dim: of the vectors. Made by `rr.load`.

    Source: Khattab and Zaharia, SIGIR 2020; Santhanam et al., NAACL 2022; as colbert-ai and PyLate encode.
    """

    timely = True

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer,
        config: LateConfig,
        *,
        name: str,
        projections: Sequence[Projection] = (),
        mask_token: str = "[MASK]",
        unknown_token: str | None = None,
    ) -> None:
        self.runtime, self.tokenizer, self.config, self.model = runtime, tokenizer, config, name
        self.projections, self.mask_token, self.output = tuple(projections), mask_token, states_output(runtime, name)
        self._query_marker, self._document_marker = (self._token(word) for word in (config.query_prefix, config.document_prefix))
        self._mask = self._token(mask_token) if config.expand else None
        find = tokenizer.first_token if config.skip_first else tokenizer.token_id
        unknown = None if unknown_token is None else tokenizer.token_id(unknown_token)
        skipped = (unknown if (found := find(word)) is None else found for word in config.skiplist)  # an unknown one: as PyLate does
        self._skipped = np.array(sorted({token for token in skipped if token is not None}), np.int64)
        self._document_length = min(config.document_length, tokenizer.max_length)
        self.dim = len(self.projections[-1].weight) if self.projections else states_width(runtime, tokenizer, name)
        self.backend = f"{describe(runtime)}+{choose('maxsim')}"

    @cached_property
    def fingerprint(self) -> str:
        """Hex digits that stand for how documents become vectors: tokenizer, markers, lengths, skip-list, projections. Not for the weights
        of the network, so that an index built in one precision is searched in another. An index keeps it, and refuses other ones."""
        read = (self.config.document_prefix, self._document_length, self._skipped.tolist(), self.config.lower, self.dim)
        digest = hashlib.sha256(self.tokenizer.content + repr(read).encode())
        for projection in self.projections:
            digest.update(repr(projection.activation).encode())
            for array in (projection.weight, projection.bias, projection.residual):
                digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def _token(self, word: str) -> int | None:
        if not word:
            return None
        if (found := self.tokenizer.token_id(word)) is None:
            hint = "Its tokenizer.json belongs to another model, or was saved before the markers were added."
            raise UnsupportedModelError(
                f"model '{self.model}'", got=f"a tokenizer without '{word}'", expected="the model's markers", hint=hint
            )
        return found

    def encode_queries(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Per query float32 [tokens, dim], of unit length. A blank one has its special tokens only: what scores and explains refuses it.

        Raises InputError, QueryTooLongError (longer than the model), NonFiniteError.
        """
        _require_texts("ColBERT.encode_queries", texts)
        tokens, attended = self._query_tokens(texts), None
        if self.config.expand:
            attended = tokens.ids.lengths
            tokens = self._filled(tokens)
            attended = tokens.ids.lengths if self.config.attend else attended
        vectors = run_tokens(self.runtime, tokens, self.output, self._vectors, attended=attended)
        self._check_finite(vectors)
        return vectors

    def _query_tokens(self, texts: Sequence[str]) -> Tokens:
        return self.tokenizer.encode([self._read(text) for text in texts], queries=True, marker=self._query_marker)

    def _filled(self, tokens: Tokens) -> Tokens:
        most = min(self.config.query_length, self.tokenizer.max_length)

        def fill(rows: Packed, value: int) -> Packed:
            return Packed.from_rows([np.concatenate([row, np.full(max(0, most - len(row)), value, np.int64)]) for row in rows], np.int64)

        assert self._mask is not None
        return Tokens(fill(tokens.ids, self._mask), fill(tokens.types, 0), tokens.dropped)

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> tuple[Packed, NDArray[np.int32]]:
        """(tokens: a Packed float32 [total, dim] of unit length, dropped int32 [n]: the tokens that did not fit).

        A blank text has no tokens. progress(done, total) counts distinct texts. Raises InputError, NonFiniteError.
        """
        _require_texts("ColBERT.encode_documents", texts)
        run = partial(run_tokens, progress=progress)
        rows, dropped = self._document_rows(texts, lambda tokens: run(self.runtime, tokens, self.output, self._vectors))
        return self._packed(rows), dropped

    def _packed(self, rows: Sequence[NDArray[np.float32] | None]) -> Packed:
        """None counts as no tokens."""
        nothing = np.empty((0, self.dim), np.float32)
        return Packed.from_rows([nothing if row is None else row for row in rows]) if rows else Packed(nothing, np.zeros(1, np.int64))

    def _document_rows(
        self, texts: Sequence[str], run: Callable[[Tokens], Sequence[NDArray[np.float32] | None]]
    ) -> tuple[list[NDArray[np.float32] | None], NDArray[np.int32]]:
        """(vectors of each text, None for those that `run` left; tokens cut off)"""
        rows: list[NDArray[np.float32] | None] = [np.empty((0, self.dim), np.float32)] * len(texts)
        dropped, there = np.zeros(len(texts), np.int32), [i for i, text in enumerate(texts) if text.strip()]
        if there:
            tokens = self._document_tokens([texts[i] for i in there])
            vectors = run(tokens)
            self._check_finite(vectors, there)
            for i, ids, row in zip(there, tokens.ids, vectors):
                rows[i] = None if row is None else row[~np.isin(ids, self._skipped)]
            dropped[there] = tokens.dropped
        return rows, dropped

    def _document_tokens(self, texts: Sequence[str]) -> Tokens:
        inputs = [self._read(text) for text in texts]
        return self.tokenizer.encode(inputs, marker=self._document_marker, limit=self._document_length)

    def _read(self, text: str) -> str:
        return text.strip().lower() if self.config.lower else text.strip()

    def _vectors(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        with np.errstate(all="ignore"):  # what is not finite is found in the end, and named by its input
            for projection in self.projections:
                states = projection(states)
            norms = np.sqrt(np.einsum("td,td->t", states, states))[:, None]
            return np.ascontiguousarray(states / np.maximum(norms, np.float32(1e-12)), np.float32)

    def _check_finite(self, vectors: Sequence[NDArray[np.float32] | None], places: Sequence[int] | None = None) -> None:
        for i, row in enumerate(vectors):
            if row is not None and not np.isfinite(row).all():
                hint = "The model's weights or its precision are at fault; try the float32 file."
                what = f"{self.model}: output of input {i if places is None else places[i]}"
                raise NonFiniteError(what, got="NaN or infinity", expected="finite numbers", hint=hint)

    def score(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Scores]:
        require_queries("ColBERT", queries)
        asked = [vectors for part in pieces(len(queries), 1) for vectors in self.encode_queries([query.text for query in queries[part]])]
        values = [np.full(len(ranking), np.nan, np.float32) for ranking in rankings]
        truncated = [np.zeros(len(ranking), np.int32) for ranking in rankings]
        for part in pieces(max(map(len, rankings[: len(asked)]), default=0), max(1, WAVE // max(len(rankings), 1))):
            wave = self._scored(asked, [ranking._pick(part) for ranking in rankings])
            for scores, cut, (found, dropped) in zip(values, truncated, wave):
                scores[part], cut[part] = found, dropped
        told = zip(rankings, values, truncated)
        return [Scores.in_time(scores, len(ranking), "maxsim", {"truncated_tokens": cut}) for ranking, scores, cut in told]

    def _scored(
        self, asked: Sequence[NDArray[np.float32]], rankings: Sequence[Ranking]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.int32]]]:
        """(scores, NaN for texts that were not encoded in time; tokens cut off) of each ranking that has a query."""
        texts = [ranking.corpus.texts(ranking.ids) for ranking in rankings[: len(asked)]]
        numbers = {text: i for i, text in enumerate(dict.fromkeys(chain.from_iterable(_by_place(texts))))}
        own = [np.array([numbers[text] for text in row], np.int64) for row in texts]
        values = [np.empty(len(row), np.float32) for row in texts]
        truncated, distinct = np.zeros(len(numbers), np.int32), list(numbers)
        for at in range(0, len(distinct), _DOCUMENTS):  # each text is encoded once, and no more than these are held
            rows, truncated[at : at + _DOCUMENTS] = self._document_rows(distinct[at : at + _DOCUMENTS], self._run_until)
            documents, late = self._packed(rows), np.array([row is None for row in rows])
            for query, numbered, scores in zip(asked, own, values):
                here = np.flatnonzero((numbered >= at) & (numbered < at + _DOCUMENTS))
                if len(here):
                    scores[here] = np.maximum(maxsim(query, documents, numbered[here] - at), np.float32(LOWEST))
                    scores[here[late[numbered[here] - at]]] = np.nan
        return [(scores, truncated[row]) for row, scores in zip(own, values)]

    def _run_until(self, tokens: Tokens) -> list[NDArray[np.float32] | None]:
        """In time, and in this order where time is short: a text after the other, or as many as make a good call."""
        wave = 1 if self.runtime.batch_sensitive else WAVE
        return run_tokens_until(self.runtime, tokens, self.output, self._vectors, np.arange(len(tokens.ids)) // wave)

    def explain(self, query: str, document: str | Document | Ranking, row: int | None = None, *, special: bool = False) -> Explanation:
        """Which document token each query token met, where it stands in the text, and what that adds to the score.

        document: a text or a Document; or a Ranking, and `row` one of its ids. special: the spans and heat maps count special tokens of the
        query too. Raises InputError, UnknownIdError.
        """
        found = chosen("ColBERT.explain", document, row)
        return self.explain_by(query, found.passage if isinstance(found, Document) else found, special=special)

    def explain_by(self, query: str, text: str, vectors: NDArray[np.float32] | None = None, *, special: bool = False) -> Explanation:
        """As `explain`, by the vectors of the text's tokens that an index has, float32 [tokens, dim]."""
        for name, given in (("query", query), ("text", text)):
            if not isinstance(given, str) or not given.strip():
                raise InputError(f"ColBERT.explain: {name}", got=given, expected="a text")
        found = self.encode_queries([query])[0]
        vectors = self.encode_documents([text])[0][0] if vectors is None else vectors
        asked = self._pieces(query, self.config.query_prefix, None)
        asked += [(self.mask_token, 0, 0)] * (len(found) - len(asked))
        kept = ~np.isin(self._document_tokens([text]).ids[0], self._skipped)
        document = [piece for piece, keep in zip(self._pieces(text, self.config.document_prefix, self._document_length), kept) if keep]
        if len(document) != len(vectors):
            hint = "Was the index built with this model and these settings?"
            raise InputError("ColBERT.explain", got=f"{len(vectors)} vectors for {len(document)} tokens", expected="one a token", hint=hint)
        return explained(query, text, asked, document, found, vectors, special)

    def _pieces(self, text: str, marker: str, limit: int | None) -> list[Piece]:
        """The tokens of a text and their code points in it, without blanks around them but with the marks that a tokenizer strips."""
        base, stripped = len(text) - len(text.lstrip()), text.strip()
        # Lower case may have more code points than the letter it is made of.
        origin = np.repeat(np.arange(len(stripped)), [len(c.lower()) if self.config.lower else 1 for c in stripped]) + base
        out, following = list[Piece](), len(text)
        for token, start, end in reversed(self.tokenizer.spans(self._read(text), marker=marker, limit=limit)):
            if start < end:
                start, end = int(origin[start]), int(origin[end - 1]) + 1
                start += len(text[start:end]) - len(text[start:end].lstrip())
                end = start + len(text[start:end].rstrip())
                while end < following and unicodedata.category(text[end]).startswith("M"):
                    end += 1
                following = start
            out.append((token, start, end) if start < end else (token, 0, 0))
        return out[::-1]

    def __repr__(self) -> str:
        return f"ColBERT({self.model}, {self.backend}, dim {self.dim})"


def chosen(what: str, document: str | Document | Ranking, row: int | None) -> str | Document:
    """What a call of `explain` means: a document of a ranking, or what was given in its place."""
    if not isinstance(document, Ranking):
        if row is not None:
            raise InputError(f"{what}: row", got=f"{row!r} without a Ranking", expected="a row only for a Ranking")
        return document
    if isinstance(row, bool) or not isinstance(row, (int, np.integer)) or not (document.ids == row).any():
        raise UnknownIdError(f"{what}: row", got=row, expected="a row that the ranking holds")
    return document.corpus[int(row)]


def _by_place(rows: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """The first of each row, then the second, and so on."""
    return ([row[place] for row in rows if place < len(row)] for place in range(max(map(len, rows), default=0)))


def _require_texts(what: str, texts: Sequence[str]) -> None:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"{what}: texts", got="one string" if isinstance(texts, str) else "not only strings", expected="a sequence of strings"
        )


def require_queries(what: str, queries: Sequence[Query]) -> None:
    for i, query in enumerate(queries):
        if not query.text.strip():
            raise InputError(f"{what}: query {i}", got="an empty text", expected="a query to compare with")
