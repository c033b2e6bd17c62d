"""What a language model answered, read as an order: any text gives a permutation, and what was wrong with it is counted.

Rules, in this order: what is thought aloud (`<think>...</think>`) is not read; of a text with words in it, or of a numbered list,
identifiers in square brackets, where there are any; else numbers anywhere, as rank_llm reads them (letters: only of a text of nothing but
letters); from 1 or A; the first mention counts; those that are not mentioned follow in the order in which they were asked. So a text in
which nothing can be read leaves the order as it was, and reading what was read gives the same again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TAG = "(?:think|thinking|reasoning)"
_THOUGHTS = [  # whole ones; what a prompt has opened and the answer closes; what was cut before its end
    re.compile(pattern, re.DOTALL | re.IGNORECASE) for pattern in (rf"<{_TAG}>.*?</{_TAG}>", rf"\A.*</{_TAG}>", rf"<{_TAG}>.*\Z")
]
_LISTED = re.compile(r"\s*[0-9]+[.)][^\[\]\n]*\[([0-9]+|[A-Z])\][^\[\]\n]*")
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_NUMBER, _LETTER = re.compile(r"[0-9]+"), re.compile(r"(?<![A-Za-z])[A-Z](?![A-Za-z])")
_WORDS = re.compile(r"[^\W\d_]+")
_CLEAN = {"numbers": re.compile(r"\[[0-9]+\](\s*>\s*\[[0-9]+\])*"), "letters": re.compile(r"\[[A-Z]\](\s*>\s*\[[A-Z]\])*")}
_REFUSAL = re.compile(
    r"\b(sorry|apologi[sz]e|unable to|can ?not|can['\u2019]t|won['\u2019]t|not able to|as an ai|against (my|the) (policy|guidelines))\b",
    re.IGNORECASE,
)
LONGEST = 2000  # characters of an answer in which a choice is looked for
DIGITS = 9  # a longer number is nobody's identifier


@dataclass(frozen=True, eq=False)
class Order:
    """order: int64 [n], places of the window, best first. repeated: identifiers named again; invented: that no passage has; missing: that
    were not named. kind: "ok", exactly "[2] > [1]" with all of them; "malformed", another form, or with one of these faults;
    "unreadable", without an identifier; "refused", that with the words of a refusal."""

    order: NDArray[np.int64]
    kind: str
    repeated: int = 0
    invented: int = 0
    missing: int = 0


def identifiers_of(n: int, kind: str) -> list[str]:
    """What n passages are called: "numbers", from 1, or "letters", from A, 26 at most."""
    return [str(i + 1) for i in range(n)] if kind == "numbers" else list(LETTERS[:n])


def read_order(text: str, n: int, identifiers: str = "numbers") -> Order:
    """The order of n passages that a text names. Never raises."""
    text = _answer(text)
    named = _named(text, identifiers)
    inside = [place for place in named if 0 <= place < n]
    order = list(dict.fromkeys(inside))
    missing = [place for place in range(n) if place not in set(order)]
    counts = {"repeated": len(inside) - len(order), "invented": len(named) - len(inside), "missing": len(missing)}
    if not any(counts.values()) and _CLEAN[identifiers].fullmatch(text):
        kind = "ok"
    else:
        kind = "malformed" if order else "refused" if _REFUSAL.search(text) else "unreadable"
    return Order(np.array(order + missing, np.int64), kind, **counts)


def read_choice(text: str, n: int) -> Order:
    """Which of the passages A, B, ... a text picks: an order with that one first and the rest as they were.

    The letters behind "passage", else those in brackets, else capitals that stand alone (A and I are words, unless nothing else is there).
    One letter is a choice; two are none. "ok" is the letter, with or without "Passage", brackets and quotes.
    """
    text = _answer(text)[:LONGEST]
    found = re.findall(r"(?i:passage)[\s:(\[\"'*]{0,3}([A-Za-z])(?![A-Za-z])", text) or re.findall(r"\[([A-Za-z])\]", text)
    found = found or re.findall(r"(?<![A-Za-z])(?<![A-Za-z]['\u2019])[B-HJ-Z](?![A-Za-z]|['\u2019][A-Za-z])", text)
    if not found and re.fullmatch(r"[\s\"'*(]{0,5}[AaIi][\s\"'*).:]{0,5}", text):
        found = [text.strip(" \t\n\"'*().:")]
    letters = {letter.upper() for letter in found}
    place = LETTERS.index(letters.pop()) if len(letters) == 1 else -1
    if not 0 <= place < n:
        kind = "malformed" if found else "refused" if _REFUSAL.search(text) else "unreadable"
        return Order(np.arange(n), kind, invented=int(place >= n), missing=n)
    clean = re.fullmatch(r"[\s\"'*(\[]{0,5}((?i:passage)\s{1,3})?[\s\"'*(\[]{0,5}[A-Za-z][\s\"'*)\].:]{0,5}", text) is not None
    return Order(np.array([place, *(i for i in range(n) if i != place)], np.int64), "ok" if clean else "malformed")


def order_by(logprobs: Sequence[tuple[str, float]], n: int, identifiers: str = "letters") -> Order:
    """The order of the identifiers among a model's likeliest next tokens: falling, ties as asked; those that are not there follow.

    FIRST (Reddy et al., EMNLP 2024): the first identifier's distribution ranks all passages.
    """
    names = {name: place for place, name in enumerate(identifiers_of(n, identifiers))}
    best: dict[int, float] = {}
    for token, value in logprobs:
        place = names.get(token.strip().strip("[]"))
        if place is not None:
            best[place] = max(value, best.get(place, -np.inf))
    order = sorted(best, key=lambda place: (-best[place], place))
    missing = [place for place in range(n) if place not in best]
    kind = "ok" if not missing else "malformed" if order else "unreadable"
    return Order(np.array(order + missing, np.int64), kind, missing=len(missing))


def written(order: Sequence[int], identifiers: str = "numbers") -> str:
    """An order as models are asked to write it: "[2] > [1]"."""
    names = identifiers_of(max(order, default=-1) + 1, identifiers)
    return " > ".join(f"[{names[place]}]" for place in order)


def _answer(text: str) -> str:
    for thought in _THOUGHTS:
        text = thought.sub(" ", text)
    return text.strip()


def _named(text: str, identifiers: str) -> list[int]:
    """Places, from 0, of all identifiers in a text; -1 for what is one's form and nobody's."""
    numbers = identifiers == "numbers"
    one = _NUMBER if numbers else _LETTER
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and all(_LISTED.fullmatch(line) for line in lines):  # "1. [3]": the list's own numbers are not meant
        text = " ".join(_LISTED.sub(r"[\1]", line) for line in lines)
    found = [name for group in _BRACKETS.findall(text) for name in one.findall(group)]
    words = _WORDS.findall(re.sub(r"(?i)passages?", " ", _BRACKETS.sub(" ", text)))
    if not found or not words:
        found = one.findall(text) if numbers or all(len(word) == 1 for word in words) else []
    if not numbers:
        return [LETTERS.index(letter) for letter in found]
    return [int(number) - 1 if len(number) <= DIGITS else -1 for number in found]
