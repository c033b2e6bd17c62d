"""Text to tokens. Truncation cuts the document and never the query, and every token it drops is counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptModelError, InputError, MissingDependency, QueryTooLongError
from ..packed import Packed


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

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> Tokens:
        """(query, document) pairs by the tokenizer's own template. Only the document is cut; QueryTooLongError if none of it fits."""
        return self._encode(list(pairs), segment=1, cut=True)

    def _encode(self, inputs: list[Any], segment: int, cut: bool, marker: int | None = None, limit: int | None = None) -> Tokens:
        most = (limit or self.max_length) - (marker is not None)
        try:
            encodings = self._tokenizer.encode_batch(inputs)
        except Exception as error:  # not a string, or a lone surrogate: the package does not say which input
            self._explain(inputs, error)
            raise
        ids, types, dropped = [], [], np.zeros(len(inputs), np.int32)
        for i, encoding in enumerate(encodings):
            row = np.array([encoding.ids, encoding.type_ids], dtype=np.int64)
            if not row.size:
                hint = "Its tokenizer.json adds no special tokens, so an empty text leaves nothing to run."
                raise InputError(f"text of input {i}", got="no token", expected="at least one", hint=hint)
            if (excess := row.shape[1] - most) > 0:
                places = np.flatnonzero([s == segment for s in encoding.sequence_ids])
                if not cut or excess >= len(places):
                    taken = row.shape[1] - (len(places) if cut else 0)
                    raise QueryTooLongError(
                        f"query of input {i}",
                        got=f"{taken} tokens with the model's special tokens ('{_start(inputs[i])}')",
                        expected=f"{'fewer than' if cut else 'at most'} {most}, the model's limit",
                        hint="Queries are never cut: shorten it, or use a model with a longer input.",
                    )
                row = np.delete(row, places[len(places) - excess :], axis=1)
                dropped[i] = excess
            if marker is not None:
                row = np.insert(row, 1, [marker, 0], axis=1)
            ids.append(row[0])
            types.append(row[1])
        return Tokens(Packed.from_rows(ids, np.int64), Packed.from_rows(types, np.int64), dropped)

    def _explain(self, inputs: list[Any], error: Exception) -> None:
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


def _start(entry: str | tuple[str, str]) -> str:
    text = entry if isinstance(entry, str) else entry[0]
    return text if len(text) <= 60 else text[:59] + "…"
