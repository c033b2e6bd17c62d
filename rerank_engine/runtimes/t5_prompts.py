"""How a T5 is asked: a text around a query and one document or two, and the tokens whose logits are the answer.

The texts are those that the models were trained with; another wording gives other scores.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..packed import Packed
from .pairs import PROBES, PairTokens, refuse
from .tokenize import Tokenizer, Tokens, no_token, query_too_long

TRUE_FALSE, YES_NO, RANKING = ("▁true", "▁false"), ("▁yes", "▁no"), ("<extra_id_10>",)
_FIELD = re.compile(r"\{(query|document|first|second)\}")
Texts = tuple[str, ...]  # (query, document) or (query, first, second)


@dataclass(frozen=True)
class T5Prompt:
    """template: a text with {query} and {document}, or {query}, {first} and {second}, in any order. answers: tokens as the tokenizer's
    vocabulary writes them: two, of which the first means relevant (logit = first - second), or one (its logit). None: ▁true and ▁false of a
    T5, ▁yes and ▁no of an mT5, which is how each was trained. Raises InputError."""

    template: str
    answers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        fields = sorted(_FIELD.findall(self.template)) if isinstance(self.template, str) else []
        if fields not in (["document", "query"], ["first", "query", "second"]):
            expected = "{query} and {document}, or {query}, {first} and {second}, each once"
            raise InputError("T5Prompt: template", got=self.template, expected=expected)
        if self.answers is not None:
            told = tuple(self.answers) if isinstance(self.answers, (tuple, list)) else ()
            if not 1 <= len(set(told)) == len(told) <= 2 or not all(isinstance(answer, str) for answer in told):
                raise InputError("T5Prompt: answers", got=self.answers, expected="a token or two different ones, in a tuple")
            object.__setattr__(self, "answers", told)

    @property
    def parts(self) -> list[str]:
        """Texts and names of fields by turns: a text first and last, which may be empty."""
        return _FIELD.split(self.template)

    @property
    def documents(self) -> tuple[str, ...]:
        """The names of the fields of documents."""
        return ("document",) if "{document}" in self.template else ("first", "second")

    def text(self, texts: Texts) -> str:
        """What the model reads of (query, document) or (query, first, second), before its tokenizer adds </s>."""
        named = dict(zip(("query", *self.documents), texts))
        return "".join(named[part] if i % 2 else part for i, part in enumerate(self.parts))

    def tokens(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """The numbers of its answers. Raises InputError for one that is no token of the tokenizer."""
        found = []
        for answer in self.answers or ():
            number = tokenizer.token_id(answer)
            if number is None:
                spaced = f"▁{answer}"
                hint = f"'{spaced}' is one." if tokenizer.token_id(spaced) is not None else "Pass answers=, tokens of its vocabulary."
                raise InputError("answers", got=f"'{answer}', which is no token of the model's tokenizer", expected="tokens", hint=hint)
            found.append(number)
        return tuple(found)


PROMPTS = {
    # Nogueira, Jiang, Pradeep, Lin 2020, "Document Ranking with a Pretrained Sequence-to-Sequence Model"
    "monot5": T5Prompt("Query: {query} Document: {document} Relevant:"),
    # Zhuang et al. 2022, "RankT5: Fine-Tuning T5 for Text Ranking with Ranking Losses": encoder and decoder
    "rankt5": T5Prompt("Query: {query} Document: {document}", RANKING),
    # Pradeep, Nogueira, Lin 2021, "The Expando-Mono-Duo Design Pattern for Text Ranking with Pretrained Sequence-to-Sequence Models"
    "duot5": T5Prompt("Query: {query} Document0: {first} Document1: {second} Relevant:"),
}


def t5_prompt(name: str | T5Prompt, answers: Sequence[str] | None, multilingual: bool) -> T5Prompt:
    """A prompt, or one of PROMPTS by its name, with these answers, or those of the model's kind where it has none. Raises InputError."""
    if not isinstance(name, T5Prompt) and (not isinstance(name, str) or name not in PROMPTS):
        raise InputError("prompt", got=name, expected="a T5Prompt, or one of " + ", ".join(PROMPTS))
    prompt = name if isinstance(name, T5Prompt) else PROMPTS[name]
    if answers is not None:
        if isinstance(answers, str) or not isinstance(answers, Sequence):
            raise InputError("answers", got=answers, expected="tokens in a tuple, such as ('▁yes', '▁no')")
        wanted = len(prompt.answers) if prompt.answers is not None else None if isinstance(name, T5Prompt) else 2
        if wanted is not None and len(answers) != wanted:
            raise InputError("answers", got=answers, expected=f"as many as the prompt's: {wanted}")
        return replace(prompt, answers=tuple(answers))
    return prompt if prompt.answers is not None else replace(prompt, answers=YES_NO if multilingual else TRUE_FALSE)


class TemplateTokenizer:
    """Texts to tokens by a T5Prompt: the tokens of the filled-in text, exactly, with the special ones that the tokenizer adds.

    joins: the parts of such a text, tokenised apart, make the same tokens (tried with what is hard to split): then each text is tokenised
    once, however many pairs it stands in. Else, and where a text is empty or has a space at an end, the filled-in text is, as a whole.
    What is too long are always the documents, which lose their last tokens: two of them share the room evenly, and what one does not need
    is the other's, whichever stands first. The query and the template are never cut.
    """

    concatenates = False  # no document in passages

    def __init__(self, tokenizer: Tokenizer, prompt: T5Prompt) -> None:
        self.tokenizer, self.prompt = tokenizer, prompt
        self._order = [("query", *prompt.documents).index(field) for field in prompt.parts[1::2]]
        end = tokenizer.raw("")
        self._fixed = tokenizer.plain([part.strip() for part in prompt.parts[0::2]])
        self._fixed[-1] = np.concatenate((self._fixed[-1], np.array(end, np.int32)))
        self.joins = self._tried()

    def encode(
        self, pairs: Sequence[tuple[str, str]], *, long: str = "truncate", window: int | None = None, stride: int | None = None
    ) -> PairTokens:
        """Of a prompt with one document, as PairTokenizer.encode. long: "truncate" or "error". Raises InputError, QueryTooLongError."""
        tokens, dropped = self.encode_texts(pairs, long=long)
        return PairTokens(tokens, np.arange(len(pairs)), dropped[:, 0], np.ones(len(pairs), np.int32))

    def encode_texts(self, texts: Sequence[Texts], *, long: str = "truncate") -> tuple[Tokens, NDArray[np.int32]]:
        """(tokens, int32 [n, documents]: how many of each document were cut off). Raises InputError, QueryTooLongError."""
        if long not in ("truncate", "error"):
            raise InputError("long", got=long, expected="truncate or error, of a model with a prompt")
        width = len(self.prompt.documents)
        if not len(texts):
            none = Packed(np.empty(0, np.int64), np.zeros(1, np.int64))
            return Tokens(none, none, np.empty(0, np.int32)), np.zeros((0, width), np.int32)
        apart = [self.joins and all(text and text == text.strip().strip("▁") for text in entry if isinstance(text, str)) for entry in texts]
        rows, dropped = list[NDArray[np.int64]](), np.zeros((len(texts), width), np.int32)
        parts = [(self._joined, np.flatnonzero(apart)), (self._whole, np.flatnonzero(~np.array(apart)))]
        for made, at in parts:
            if len(at):
                own, dropped[at] = made(texts, at.tolist())
                rows += own
        order = np.argsort(np.concatenate([at for _, at in parts]))
        rows = [rows[i] for i in order]
        if long == "error":
            refuse(dropped.sum(1, dtype=np.int32))
        packed = Packed.from_rows(rows, np.int64)
        return Tokens(packed, Packed(np.zeros_like(packed.values), packed.offsets), dropped.sum(1, dtype=np.int32)), dropped

    def _joined(self, texts: Sequence[Texts], at: list[int]) -> tuple[list[NDArray[np.int64]], NDArray[np.int32]]:
        entries = [texts[i] for i in at]
        distinct = list(dict.fromkeys(text for entry in entries for text in entry))
        known = dict(zip(distinct, self._plain(texts, distinct)))
        sizes = np.array([[len(known[text]) for text in entry] for entry in entries], np.int64)
        kept = self._kept(texts, at, sizes[:, 1:], sum(map(len, self._fixed)) + sizes[:, 0])
        rows = []
        for entry, lengths in zip(entries, kept.tolist()):
            own = [known[entry[0]], *(known[text][:length] for text, length in zip(entry[1:], lengths))]
            parts = [self._fixed[0]]
            for field, behind in zip(self._order, self._fixed[1:]):
                parts += [own[field], behind]
            rows.append(np.concatenate(parts).astype(np.int64))
        return rows, (sizes[:, 1:] - kept).astype(np.int32)

    def _plain(self, texts: Sequence[Texts], distinct: list[str]) -> list[NDArray[np.int32]]:
        try:
            return self.tokenizer.plain(distinct)
        except Exception as error:  # not a string, or a lone surrogate: the package does not say which input
            self.tokenizer.explain(texts, error)
            raise

    def _whole(self, texts: Sequence[Texts], at: list[int]) -> tuple[list[NDArray[np.int64]], NDArray[np.int32]]:
        try:
            encoded = self.tokenizer.with_spans([self.prompt.text(texts[i]) for i in at])
        except Exception as error:
            self.tokenizer.explain(texts, error)
            raise
        owners = [self._owners(texts[i], spans) for i, (_, spans) in zip(at, encoded)]
        fields = range(1, len(self.prompt.documents) + 1)
        sizes = np.array([[int((owner == field).sum()) for field in fields] for owner in owners], np.int64)
        kept = self._kept(texts, at, sizes, np.array([len(ids) for ids, _ in encoded]) - sizes.sum(1))
        rows = []
        for (ids, _), owner, lengths in zip(encoded, owners, kept.tolist()):
            cut = [np.flatnonzero(owner == field)[length:] for field, length in zip(fields, lengths)]
            rows.append(np.delete(ids, np.concatenate(cut)))
        return rows, (sizes - kept).astype(np.int32)

    def _owners(self, texts: Texts, spans: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [tokens]: the field that each token of the filled-in text is of, -1 for the template's. A token's span may begin with the
        space before it, so it is where one ends that says whose it is."""
        parts, owner = self.prompt.parts, np.full(len(spans), -1)
        lengths = [len(texts[self._order[i // 2]]) if i % 2 else len(part) for i, part in enumerate(parts)]
        ends = np.cumsum([0, *lengths]).tolist()
        for i, (start, end) in enumerate(pairwise(ends)):
            if i % 2:
                owner[(spans[:, 1] > start) & (spans[:, 0] < end)] = self._order[i // 2]
        return owner

    def _kept(self, texts: Sequence[Texts], at: list[int], sizes: NDArray[np.int64], used: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [n, documents]: tokens of each document that stay, of the texts `at`; used int64 [n]: all others. Raises InputError,
        QueryTooLongError."""
        most, width = self.tokenizer.max_length, sizes.shape[1]
        room, total = most - used, sizes.sum(1)
        if (none := np.flatnonzero(used + total == 0)).size:
            raise no_token(at[none[0]])
        if (bad := np.flatnonzero((total > room) & (room < width))).size:
            i = at[bad[0]]
            raise query_too_long(i, texts[i], int(used[bad[0]]), most - width + 1)
        others = total[:, None] - sizes
        kept: NDArray[np.int64] = np.minimum(sizes, np.maximum(room[:, None] // width, room[:, None] - others))
        return kept

    def _tried(self) -> bool:
        """Whether joining makes the tokens of the whole, for texts that are hard to split and lengths that fit."""
        probes = [(query.strip(), document.strip()) for query, document in PROBES if query and document]
        texts: list[Texts] = [(a, *([b, a][: len(self.prompt.documents)])) for pair in probes for a, b in (pair, pair[::-1])]
        known = {text: self.tokenizer.plain([text])[0] for entry in texts for text in entry}
        for entry, (ids, _) in zip(texts, self.tokenizer.with_spans([self.prompt.text(entry) for entry in texts])):
            parts = [self._fixed[0]]
            for field, behind in zip(self._order, self._fixed[1:]):
                parts += [known[entry[field]], behind]
            if np.concatenate(parts).tolist() != ids.tolist():
                return False
        return True

    def __repr__(self) -> str:
        return f"TemplateTokenizer({self.prompt.template!r}, {'joined' if self.joins else 'encoded whole'})"
