"""Duplicates: the best-ranked document of each group stays."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import final

import numpy as np

from ..core import Query, Ranking, Stage
from ..errors import InputError
from ..indexes.vectors import VectorIndex
from ..limits import limits
from ..ops import checks
from ..trace import reach
from .select import vectors_of

Like = list[tuple[int, float] | None]
"""For each place: None, or the better place that it repeats and how alike the two are. Of the first places, where time is up."""

LEAST = 10  # documents that are compared whatever the time
METHODS = {"text": None, "shingles": 0.8, "cosine": 0.95}
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # written without spaces: each sign is a word here
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


def normal(text: str) -> str:
    """What two equal texts share: compatibility forms, case and runs of white space do not count."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(text: str, size: int) -> set[str]:
    """The runs of `size` words of a text, with blanks between; all its words as one run if it has fewer."""
    words = _WORD.findall(normal(text))
    return {" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1))}


@final
class Dedup(Stage):
    """Leaves out documents that repeat a better-ranked one that stays.

        text      the same passage (title and text) but for case, white space and Unicode's compatibility forms
        shingles  Jaccard similarity of the passages' word shingles, |A & B| / |A | B|, of at least `threshold` (default 0.8)
        cosine    cosine of the vectors in `index` of at least `threshold` (default 0.95)

    After a deadline it compares the first 10 alone, and what it did not get to stays, behind the others.
    size: words in a shingle. A document is compared with those that stay only, so a chain of ever less alike documents is not one group.
    Scores and scale stay. Column duplicates int32: how many documents were left out for this one. What was left out, for which document
    and how alike they were stands in the trace (`ranking.explain(row)`).
    """

    def __init__(self, method: str = "text", threshold: float | None = None, *, size: int = 3, index: VectorIndex | None = None) -> None:
        self.method = checks.one_of("Dedup: method", method, tuple(METHODS))
        if method == "text" and threshold is not None:
            raise InputError("Dedup: threshold", got=threshold, expected="none with 'text'", hint="Ask for 'shingles' or 'cosine'.")
        given = METHODS[method] if threshold is None else threshold
        self.threshold = 1.0 if given is None else checks.finite_number("Dedup: threshold", given, 1e-6, 1)
        self.size, self.index = checks.count("Dedup: size", size), index
        if method == "cosine":
            checks.instance("Dedup: index", index, VectorIndex)

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        assert rankings is not None
        find: Callable[[Ranking], Like] = {"text": _same_text, "shingles": self._shingles, "cosine": self._cosine}[self.method]
        name = {"text": "same text", "shingles": "Jaccard", "cosine": "cosine"}[self.method]
        out = []
        for ranking in rankings:
            like = find(ranking)
            reached = len(like)
            like += [None] * (len(ranking) - reached)
            stay = np.array([place for place, found in enumerate(like) if found is None], np.int64)
            times = Counter(found[0] for found in like if found is not None)
            notes = {}
            for row, found in zip(ranking.ids.tolist(), like):
                if found is not None:
                    how = name if self.method == "text" else f"{name} {found[1]:.3f}"
                    notes[row] = f"duplicate of '{ranking.corpus[int(ranking.ids[found[0]])].id}' ({how})"
            kept = ranking._pick(stay, notes=notes)
            counted = np.array([times[place] for place in stay.tolist()], np.int32)
            out.append(kept._with(columns={**kept.columns, "duplicates": counted}, facts=reach(reached, len(ranking))))
        return out

    def _shingles(self, ranking: Ranking) -> Like:
        sets = list[set[str]]()
        holders: dict[str, list[int]] = defaultdict(list)  # shingle -> places that stay and hold it
        like: Like = []
        for place, text in enumerate(ranking.corpus.texts(ranking.ids)):
            if _late(place):
                break
            own = shingles(text, self.size)
            sets.append(own)
            shared = Counter(other for shingle in own for other in holders.get(shingle, ()))
            alike = [(n / (len(own) + len(sets[other]) - n), -other) for other, n in shared.items()]
            best, other = max(alike, default=(0.0, 0))
            if alike and best >= self.threshold:
                like.append((-other, best))
                continue
            like.append(None)
            for shingle in own:
                holders[shingle].append(place)
        return like

    def _cosine(self, ranking: Ranking) -> Like:
        assert self.index is not None
        vectors = vectors_of("Dedup", ranking, self.index).astype(np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)
        like: Like = []
        stay: list[int] = []
        for place in range(len(vectors)):
            if _late(place):
                break
            alike = vectors[stay] @ vectors[place] if stay else np.zeros(0)
            best = int(alike.argmax()) if stay else 0
            if stay and alike[best] >= self.threshold - 1e-12:  # a document is as good as equal to itself
                like.append((stay[best], float(alike[best])))
            else:
                like.append(None)
                stay.append(place)
        return like

    def __repr__(self) -> str:
        if self.method == "text":
            return "Dedup('text')"
        size = f", size={self.size}" if self.method == "shingles" else ""
        return f"Dedup({self.method!r}, {self.threshold:g}{size})"


def _same_text(ranking: Ranking) -> Like:
    first: dict[str, int] = {}
    like: Like = []
    for place, text in enumerate(ranking.corpus.texts(ranking.ids)):
        if _late(place):
            break
        better = first.setdefault(normal(text), place)
        like.append(None if better == place else (better, 1.0))
    return like


def _late(place: int) -> bool:
    """Whether what stands from here on is left as it is. The first ones are compared whatever the time: they are what is shown."""
    return place >= LEAST and limits().out_of_time()
