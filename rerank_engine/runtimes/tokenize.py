"""Text to tokens. Truncation cuts the document and never the query, and every token it drops is counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptModelError, InputError, MissingDependency, QueryTooLongError
from ..packed import Packed

PIECE = 1 << 16  # characters of a long text that are tokenised at a time, where the tokenizer allows it


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """ids and types: int64 tokens and segment numbers of n sequences; dropped int32 [n]: tokens cut off each document."""

    ids: Packed
    types: Packed
    dropped: NDArray[np.int32]


class Tokenizer:
    """A model's tokenizer.json. Padding and truncation that the file itself asks for are switched off: it would pad all to one length.

    max_length: tokens of a sequence with its special tokens, at most.
    Raises CorruptModelError for a file that does not parse, MissingDependency without the package tokenizers.
    """

    def __init__(self, path: Path, max_length: int) -> None:
        try:
            import tokenizers
        except ModuleNotFoundError as error:
            raise MissingDependency(
                "models need the package tokenizers", hint="pip install onnxruntime tokenizers protobuf (the extra [cpu])."
            ) from error
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises plain Exception
            raise CorruptModelError(str(path), got=f"a file that does not parse ({error})", expected="a tokenizer.json") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.max_length, self._path = max_length, path

    @property
    def vocabulary_size(self) -> int:
        """One more than the highest token: the embeddings that the model needs."""
        return max(self._tokenizer.get_vocab().values(), default=-1) + 1

    @property
    def content(self) -> bytes:
        """What of its file decides what it makes of a text, the same for every version of the package."""
        told = json.loads(self._path.read_text(encoding="utf-8"))
        return json.dumps({key: told[key] for key in told if key not in ("padding", "truncation")}, sort_keys=True).encode()

    def token_id(self, token: str) -> int | None:
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def token(self, token_id: int) -> str:
        """A token as the vocabulary writes it; "[7]" for a number that it leaves out."""
        found: str | None = self._tokenizer.id_to_token(token_id)
        return f"[{token_id}]" if found is None else found

    def encode(
        self, texts: Sequence[str], *, queries: bool = False, prompt: str = "", marker: int | None = None, limit: int | None = None
    ) -> Tokens:
        """Single texts, `prompt` before each. A document that is too long loses its end; a query raises QueryTooLongError.

        marker: a token that is put behind the first one. limit: tokens of a document with all others, if that is less than max_length.
        """
        for i, text in enumerate(texts):
            if not isinstance(text, str):  # the package would take two strings in a list for a pair
                raise InputError(f"text of input {i}", got=type(text).__name__, expected="a string")
        inputs = [prompt + text for text in texts] if prompt else list(texts)
        return self._encode(inputs, segment=0, cut=not queries, marker=marker, limit=limit)

    def first_token(self, text: str) -> int | None:
        """The first token of a text without special tokens; None for a text without tokens."""
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return found[0] if found else None

    def spans(self, text: str, *, marker: str = "", limit: int | None = None) -> list[tuple[str, int, int]]:
        """(token, start, end) of each token that `encode` makes of a text, by the text's code points; (token, 0, 0) if it is not of the
        text."""
        encoding = self._tokenizer.encode(text)
        spans = [span if segment == 0 else (0, 0) for span, segment in zip(encoding.offsets, encoding.sequence_ids)]
        rows = [(token, *span) for token, span in zip(encoding.tokens, spans)]
        excess = len(rows) + bool(marker) - (limit or self.max_length)
        if excess > 0:
            places = [i for i, segment in enumerate(encoding.sequence_ids) if segment == 0]
            cut = set(places[len(places) - excess :])
            rows = [row for i, row in enumerate(rows) if i not in cut]
        return [*rows[:1], (marker, 0, 0), *rows[1:]] if marker else rows

    def plain(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """The tokens of each text, without special tokens. A very long text is taken in pieces where that cannot change a token: the
        package holds some hundred bytes for each token of what it is given at once. Raises what the package raises: see `explain`."""
        encode = getattr(self._tokenizer, "encode_batch_fast", self._tokenizer.encode_batch)  # fast: no offsets, which nobody reads here
        long = {i for i, text in enumerate(texts) if len(text) > 2 * PIECE and self._words_alone}
        short = encode([text for i, text in enumerate(texts) if i not in long], add_special_tokens=False)
        rest = iter(short)
        return [self._in_pieces(text, encode) if i in long else np.array(next(rest).ids, np.int32) for i, text in enumerate(texts)]

    def with_starts(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """(tokens, the place in the text where each begins) without special tokens that the template adds. Raises InputError."""
        try:
            encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        except Exception as error:
            self.explain(texts, error)
            raise
        return [(np.array(e.ids, np.int64), np.array([start for start, _ in e.offsets], np.int64)) for e in encodings]

    def with_spans(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """(tokens, int64 [tokens, 2]: where each begins and ends in the text) with the special tokens that the template adds, whose span is
        (0, 0). Raises what the package raises: see `explain`."""
        encodings = self._tokenizer.encode_batch(list(texts))
        return [(np.array(e.ids, np.int64), np.array(e.offsets, np.int64).reshape(-1, 2)) for e in encodings]

    def raw(self, text: str) -> list[int]:
        """The tokens of one text as the template makes them, nothing cut."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def _in_pieces(self, text: str, encode: Any) -> NDArray[np.int32]:
        pieces, start = [], 0
        while start < len(text):
            end = text.find(" ", start + PIECE)
            end = len(text) if end < 0 else end
            pieces.append(text[start:end])
            start = end
        groups = (encode(pieces[i : i + 16], add_special_tokens=False) for i in range(0, len(pieces), 16))
        return np.concatenate([np.array(encoding.ids, np.int32) for group in groups for encoding in group])

    @cached_property
    def _words_alone(self) -> bool:
        """True when a text cut before a space has the tokens of its two parts: BERT's normaliser and pre-tokenizer look at no two words at
        once, and no token that is matched in the raw text holds a space."""
        kinds = [type(part).__name__ for part in (self._tokenizer.normalizer, self._tokenizer.pre_tokenizer, self._tokenizer.model)]
        added = self._tokenizer.get_added_tokens_decoder().values()
        return kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"] and not any(" " in token.content for token in added)

    def raw_pair(self, query: str, document: str) -> tuple[list[int], list[int], list[int]]:
        """(ids, types, whose: 0 the query's, 1 the document's, -1 special) of a pair as the template makes it, nothing cut."""
        encoding = self._tokenizer.encode(query, document)
        return encoding.ids, encoding.type_ids, [-1 if segment is None else segment for segment in encoding.sequence_ids]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> Tokens:
        """(query, document) pairs by the tokenizer's own template. Only the document is cut; QueryTooLongError if none of it fits."""
        return self._encode(list(pairs), segment=1, cut=True)

    def _encode(self, inputs: list[Any], segment: int, cut: bool, marker: int | None = None, limit: int | None = None) -> Tokens:
        most = (limit or self.max_length) - (marker is not None)
        try:
            encodings = self._tokenizer.encode_batch(inputs)
        except Exception as error:  # not a string, or a lone surrogate: the package does not say which input
            self.explain(inputs, error)
            raise
        ids, types, dropped = [], [], np.zeros(len(inputs), np.int32)
        for i, encoding in enumerate(encodings):
            row = np.array([encoding.ids, encoding.type_ids], dtype=np.int64)
            if not row.size:
                raise no_token(i)
            if (excess := row.shape[1] - most) > 0:
                places = np.flatnonzero([s == segment for s in encoding.sequence_ids])
                if not cut or excess >= len(places):
                    raise query_too_long(i, inputs[i], row.shape[1] - (len(places) if cut else 0), most, cut)
                row = np.delete(row, places[len(places) - excess :], axis=1)
                dropped[i] = excess
            if marker is not None:
                row = np.insert(row, 1, [marker, 0], axis=1)
            ids.append(row[0])
            types.append(row[1])
        return Tokens(Packed.from_rows(ids, np.int64), Packed.from_rows(types, np.int64), dropped)

    def explain(self, inputs: Sequence[Any], error: Exception) -> None:
        """Raises InputError for the first of the texts, or pairs of texts, that the package cannot have taken."""
        for i, entry in enumerate(inputs):
            for text in entry if isinstance(entry, tuple) else (entry,):
                if not isinstance(text, str):
                    raise InputError(f"text of input {i}", got=type(text).__name__, expected="a string") from error
                try:
                    text.encode()
                except UnicodeEncodeError as broken:
                    hint = "text.encode('utf-8', 'replace').decode() mends it."
                    raise InputError(
                        f"text of input {i}", got=f"a lone surrogate at {broken.start}", expected="valid Unicode", hint=hint
                    ) from error


def no_token(i: int) -> InputError:
    hint = "Its tokenizer.json adds no special tokens, so an empty text leaves nothing to run."
    return InputError(f"text of input {i}", got="no token", expected="at least one", hint=hint)


def query_too_long(i: int, entry: str | tuple[str, ...], taken: int, most: int, cut: bool = True) -> QueryTooLongError:
    """taken: the query's tokens with the special ones; cut: there is a document, of which a token must fit."""
    return QueryTooLongError(
        f"query of input {i}",
        got=f"{taken} tokens with the model's special tokens ('{_start(entry)}')",
        expected=f"{'fewer than' if cut else 'at most'} {most}, the model's limit",
        hint="Queries are never cut: shorten it, or use a model with a longer input.",
    )


def _start(entry: str | tuple[str, ...]) -> str:
    text = entry if isinstance(entry, str) else entry[0]
    return text if len(text) <= 60 else text[:59] + "…"
