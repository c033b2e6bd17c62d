"""What a language model answered, read as an order: any text gives a permutation, and what was wrong with it is counted.

Rules, in this order: what is thought aloud (`<think>...</think>`) is not read; of a text with words in it, identifiers in square brackets,
where there are any; else numbers anywhere, as rank_llm reads them (letters: only of a text of nothing but letters); from 1 or A; the first
mention counts; those that are not mentioned follow in the order in which they were asked. So a text in which nothing can be read leaves
the order as it was, and reading what was read gives the same again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_NUMBER, _LETTER = re.compile(r"[0-9]+"), re.compile(r"(?<![A-Za-z])[A-Z](?![A-Za-z])")
_WORDS = re.compile(r"[^\W\d_]+")
_CLEAN = {"numbers": re.compile(r"\[[0-9]+\](\s*>\s*\[[0-9]+\])*"), "letters": re.compile(r"\[[A-Z]\](\s*>\s*\[[A-Z]\])*")}
_REFUSAL = re.compile(
    r"\b(sorry|apologi[sz]e|unable to|can ?not|can['\u2019]t|won['\u2019]t|not able to|as an ai|against (my|the) (policy|guidelines))\b",
    re.IGNORECASE,
)
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
    text = _THOUGHT.sub(" ", text).strip()
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

    "Passage B", "[B]", "B" or a text that begins with "B" and a sign; "ok" is the letter alone, with or without "Passage" and brackets.
    """
    text = _THOUGHT.sub(" ", text).strip()
    found = re.search(r"[Pp]assage\s*\[?([A-Z])(?![A-Za-z])|\[([A-Z])\]|^\W*([A-Z])(?=\W*$|[.:,)\]\"'])", text)
    letter = next((group for group in found.groups() if group), "") if found else ""
    place = LETTERS.index(letter) if letter else -1
    clean = re.fullmatch(r"\W*([Pp]assage\s*)?\W*[A-Z]\W*", text) is not None
    if not 0 <= place < n:
        kind = "malformed" if letter else "refused" if _REFUSAL.search(text) else "unreadable"
        return Order(np.arange(n), kind, invented=int(bool(letter)), missing=n)
    rest = [i for i in range(n) if i != place]
    return Order(np.array([place, *rest], np.int64), "ok" if clean else "malformed")


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


def _named(text: str, identifiers: str) -> list[int]:
    """Places, from 0, of all identifiers in a text; -1 for what is one's form and nobody's."""
    numbers = identifiers == "numbers"
    one = _NUMBER if numbers else _LETTER
    found = [name for group in _BRACKETS.findall(text) for name in one.findall(group)]
    words = _WORDS.findall(re.sub(r"(?i)passages?", " ", _BRACKETS.sub(" ", text)))
    if not found or not words:
        found = one.findall(text) if numbers or all(len(word) == 1 for word in words) else []
    if not numbers:
        return [LETTERS.index(letter) for letter in found]
    return [int(number) - 1 if len(number) <= DIGITS else -1 for number in found]
