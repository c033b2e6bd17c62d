"""The prompts that models were trained or published with, and how passages go into one: cleaned, named, cut to fit.

What stands in a document is data. Line ends, control characters, known markers of chat formats and what looks like one of the prompt's
identifiers are taken out of passages and query, passages are bounded in words, and what comes back is read for identifiers alone
(llm.parse). A passage may still praise itself, or speak of a format that nobody thought of: that is for the model to see through.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..ops.checks import count as count_of
from ..ops.checks import one_of
from .parse import identifiers_of

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
Count = Callable[[str], int]  # tokens of a text

LEAST = 8  # tokens of a passage: below, there is nothing to judge
RAW = 8  # times its letters, of a passage that is looked at before it is cleaned: blanks and controls go
LETTERS_A_WORD = 12  # beyond so many times its words a passage is cut, for languages without spaces
PER_MESSAGE = 8  # tokens that a message's frame may take
_HOLE = re.compile(r"\{(num|query|id|passage)\}")
# Controls, halves of surrogates, private use, and what is not seen: but for the joiners U+200C and U+200D, which scripts need.
_UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ue000-\uf8ff\ufeff"
    r"\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_NAMED = re.compile(r"[\[\uff3b\u3010\u3014][\s\u200c\u200d]*(\d+|[A-Za-z])[\s\u200c\u200d]*[\]\uff3d\u3011\u3015]")
_TURN = re.compile(r"\b(USER|ASSISTANT|SYSTEM|HUMAN|Human|Assistant)\s*[:\uff1a]")
_LABEL = re.compile(r"(?i)\b(passage)\s+([A-Za-z])\s*[:\uff1a]")  # as setwise and pairwise prompts name theirs
_MARKER = re.compile(
    r"<[|\uff5c]([^<>|\uff5c]{0,40})[|\uff5c]>|<(/?(?:s|bos|eos|pad|unk|mask|think|thinking|reasoning|start_of_turn|end_of_turn))>"
    r"|\[(/?[A-Z][A-Z_]{2,30})\]|<<(/?SYS)>>"
)


@dataclass(frozen=True)
class Template:
    """A prompt with the holes {num}, {query}, {id} and {passage}. identifiers: "numbers" or "letters" (26 passages at most).

    As one message: opening, a passage a line, closing. With turns, a conversation: opening and its answer, each passage and its answer,
    closing. words: of a passage, at most.
    """

    system: str
    opening: str
    passage: str
    closing: str
    identifiers: str = "numbers"
    turns: tuple[str, str] | None = None  # answers to the opening and to a passage
    words: int = 300

    def __post_init__(self) -> None:
        count_of("Template: words", self.words)
        one_of("Template: identifiers", self.identifiers, ("numbers", "letters"))
        whole = self.opening + self.closing
        for hole, text in (("{query}", whole), ("{id}", self.passage), ("{passage}", self.passage)):
            if hole not in text:
                raise InputError("Template", got=f"no {hole}", expected="{query} in opening or closing, {id} and {passage} in passage")

    def messages(self, query: str, passages: Sequence[str]) -> list[Message]:
        told = {"num": str(len(passages)), "query": query}
        names = identifiers_of(len(passages), self.identifiers)
        rows = [_filled(self.passage, {**told, "id": name, "passage": text}) for name, text in zip(names, passages, strict=True)]
        opening, closing = _filled(self.opening, told), _filled(self.closing, told)
        out = [_message("system", self.system)] if self.system else []
        if self.turns is None:
            return [*out, _message("user", "".join([opening, *rows, closing]))]
        out += [_message("user", opening), _message("assistant", self.turns[0])]
        for name, row in zip(names, rows):
            out += [_message("user", row), _message("assistant", _filled(self.turns[1], {**told, "id": name}))]
        return [*out, _message("user", closing)]


def _filled(text: str, told: Mapping[str, str]) -> str:
    """In one go: a hole that a query or a passage brings along stays text."""
    return _HOLE.sub(lambda hole: told.get(hole[1], hole[0]), text)


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


_RANK = "Rank the {num} passages above based on their relevance to the search query."
_ALL = "All the passages should be included and listed using identifiers, in descending order of relevance."
_ONLY = "Answer concisely and directly and only respond with the ranking results, do not say any word or explain."
_LLM = "You are RankLLM, an intelligent assistant that can rank passages based on their relevancy to the query"
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to "
    "the user's questions."
)


def _single(system: str, kind: str, example: str, only: str, identifiers: str = "numbers") -> Template:
    opening = f"I will provide you with {{num}} passages, each indicated by {kind} identifier []. "
    opening += "Rank the passages based on their relevance to the search query: {query}.\n\n"
    closing = f"Search Query: {{query}}.\n{_RANK} {_ALL} The output format should be [] > [], e.g., {example}, {only}"
    return Template(system, opening, "[{id}] {passage}\n", closing, identifiers)


# RankGPT: Sun et al., EMNLP 2023. RankVicuna, RankZephyr: Pradeep et al., 2023. FIRST: Reddy et al., EMNLP 2024. As rank_llm has them.
TEMPLATES: dict[str, Template] = {
    "rankgpt": Template(
        "You are RankGPT, an intelligent assistant that can rank passages based on their relevancy to the query.",
        "I will provide you with {num} passages, each indicated by number identifier []. \n"
        "Rank the passages based on their relevance to query: {query}.",
        "[{id}] {passage}",
        f"Search Query: {{query}}. \n{_RANK} The passages should be listed in descending order using identifiers. The most relevant "
        "passages should be listed first. The output format should be [] > [], e.g., [1] > [2]. Only response the ranking results, "
        "do not say any word or explain.",
        turns=("Okay, please provide the passages.", "Received passage [{id}]."),
    ),
    "rankvicuna": _single(_VICUNA, "a numerical", "[4] > [2]", "Only respond with the ranking results, do not say any word or explain."),
    "rankzephyr": _single(_LLM, "a numerical", "[2] > [1]", _ONLY),
    "first": _single(_LLM, "an alphabetical", "[B] > [A]", _ONLY, "letters"),
}
# Zhuang et al., SIGIR 2024, and Qin et al., NAACL 2024.
SETWISE = Template(
    "",
    'Given a query "{query}", which of the following passages is the most relevant one to the query?\n\n',
    'Passage {id}: "{passage}"\n\n',
    "Output only the passage label of the most relevant passage:",
    "letters",
)
PAIRWISE = Template(
    "",
    'Given a query "{query}", which of the following two passages is more relevant to the query?\n\n',
    'Passage {id}: "{passage}"\n\n',
    "Output Passage A or Passage B:",
    "letters",
)


def template_of(what: str, template: str | Template) -> Template:
    """By its name, or it itself. Raises InputError."""
    found = template if isinstance(template, Template) else TEMPLATES.get(template)
    if found is None:
        raise InputError(what, got=template, expected="a Template or one of " + ", ".join(TEMPLATES))
    return found


@functools.lru_cache(maxsize=16_384)
def clean(text: str, reserved: tuple[str, ...] = (), quoted: bool = False) -> str:
    """One line, without controls, markers of chat formats, turns of a conversation, and names as this prompt has them; those keep their
    words: "[3]" -> "(3)". reserved: further texts that have to go. quoted: passages stand in double quotes behind 'Passage B:'."""
    text = _UNSEEN.sub(" ", text)
    for word in reserved:
        text = text.replace(word, f"({word.strip('<>[]|')})")
    text = _MARKER.sub(lambda found: f"({next((group for group in found.groups() if group), '')})", text)
    text = _TURN.sub(r"\1 -", _NAMED.sub(r"(\1)", text))
    return " ".join((_LABEL.sub(r"\1 \2 -", text).replace('"', "'") if quoted else text).split())


def estimated_tokens(text: str) -> int:
    """Tokens where the model's tokenizer is not at hand: a third of the bytes of UTF-8, more than most count for most languages."""
    return -(-len(text.encode()) // 3)


def tokens_of(messages: Sequence[Message], count: Count) -> int:
    return sum(count(message["content"]) + PER_MESSAGE for message in messages)


def fitted(
    template: Template, query: str, passages: Sequence[str], room: int | None, count: Count, reserved: tuple[str, ...] = ()
) -> list[Message]:
    """The messages for these passages, in at most `room` tokens: the longest passages lose their ends, all down to one length; the query
    loses nothing. None: words alone bound them. Raises InputError where fewer than 8 tokens would be left to a passage."""
    most, quoted = template.words, '"' in template.passage
    query = clean(query, reserved, quoted)
    whole = [clean(text[: RAW * LETTERS_A_WORD * most], reserved, quoted)[: LETTERS_A_WORD * most] for text in passages]
    texts = [" ".join(text.split(" ")[:most]) for text in whole]
    made = template.messages(query, texts)
    if room is None or tokens_of(made, count) <= room:
        return made
    lengths = [count(text) for text in texts]
    frame = tokens_of(template.messages(query, [""] * len(texts)), count)
    each = _level(lengths, room - frame)
    while each >= LEAST:
        made = template.messages(query, [_cut(text, each, count) if n > each else text for text, n in zip(texts, lengths)])
        over = tokens_of(made, count) - room
        if over <= 0:
            return made
        each -= -(-over // len(texts))  # a tokenizer counts parts otherwise than the whole
    got = f"room for {max(each, 0)} tokens of each of {len(texts)} passages beside a query of {count(query)}"
    hint = "Take a smaller window, or a model that reads more."
    raise InputError("a prompt", got=got, expected=f"at least {LEAST}", hint=hint)


def _level(lengths: Sequence[int], room: int) -> int:
    """The longest length to which all can be cut so that together they fit: water-filling from the shortest."""
    left = room
    for done, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - done)
        if length > share:
            return share
        left -= length
    return max(lengths, default=0)


def _cut(text: str, most: int, count: Count) -> str:
    """The longest beginning, in whole words where there are any, of at most so many tokens."""
    words = text.split(" ")
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(" ".join(words[:middle])) <= most else (low, middle - 1)
    if low:
        return " ".join(words[:low])
    low, high = 0, len(text)  # a language without spaces
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(text[:middle]) <= most else (low, middle - 1)
    return text[:low]
