"""Why a document scored as it did in late interaction: which tokens met, and where they stand in the text."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ops.maxsim import matches

Piece = tuple[str, int, int]  # a token, and the code points of the text that it covers: (0, 0) for one that is not of the text


@dataclass(frozen=True, slots=True)
class Match:
    """A query token and the document token it met.

    start, end: the code points of the document's token in the text; query_start, query_end: of the query's in the query. 0 and 0: it is not
    of that text, but a special token such as [CLS], [MASK] or a marker. shown: relevant_spans and heat maps count it.
    """

    query_token: str
    token: str
    start: int
    end: int
    similarity: float
    query_start: int = 0
    query_end: int = 0
    shown: bool = True


@dataclass(frozen=True, slots=True)
class Explanation:
    """score = the sum of the matches' similarities = the sum of the spans' scores + special_score.

    matches: one for every query token. relevant_spans: [{"start", "end", "score"}, ...] in code points of the text, the highest first:
    tokens met by words of the query that stand next to each other as one, with the sum of what they add. special_score: what other matches
    add, whose query token stands for no word of the query (special tokens, punctuation) or which met no word of the text. Where
    `special=True` was asked for, the spans count every token of the text that was met, and special_score is of those that met none.
    """

    query: str
    text: str
    score: float
    matches: tuple[Match, ...]
    relevant_spans: tuple[dict[str, Any], ...]
    special_score: float = 0.0

    def weights(self) -> NDArray[np.float64]:
        """float64 [len(text)]: what each code point's token adds to the score, by the matches that are shown; a negative part counts 0."""
        out = np.zeros(len(self.text))
        for match in self.matches:
            if match.shown:
                out[match.start : match.end] += max(match.similarity, 0.0)
        return out

    def to_dict(self) -> dict[str, Any]:
        rows = [{name: getattr(match, name) for name in Match.__slots__} for match in self.matches]
        told = {"query": self.query, "text": self.text, "score": self.score, "matches": rows}
        return {**told, "relevant_spans": list(self.relevant_spans), "special_score": self.special_score}

    def to_html(self) -> str:
        """A heat map of the text, to stand in a page (`page` makes one): the more a token adds, the darker its ground, from the least that
        any adds to the most. Everything is escaped, control characters are left out, nothing is loaded from elsewhere."""
        parts = []
        for start, end, strength, weight in _runs(self.weights()):
            piece = html.escape(_printable(self.text[start:end]))
            style = f"background:rgba(255,140,0,{0.2 + 0.8 * strength:.2f})"
            parts.append(f'<span style="{style}" title="{weight:.3f}">{piece}</span>' if weight else piece)
        body, query = "".join(parts).replace("\n", "<br>"), html.escape(_printable(self.query))
        return f'<div class="late-interaction"><p><b>{query}</b> {self.score:.3f}</p><p>{body}</p><p>{self._rest()}</p></div>'

    def to_terminal(self, color: bool = True) -> str:
        """The same with the 256 colours of a terminal; color=False: [in brackets], however much a token adds. The rest on the last line."""
        shades, parts = (230, 229, 222, 221, 220, 214, 208), []
        for start, end, strength, weight in _runs(self.weights()):
            piece = _printable(self.text[start:end])
            if weight:
                piece = f"\x1b[30;48;5;{shades[round(strength * (len(shades) - 1))]}m{piece}\x1b[0m" if color else f"[{piece}]"
            parts.append(piece)
        return "".join([*parts, "\n", self._rest()])

    def _rest(self) -> str:
        share = f" ({self.special_score / self.score:.0%})" if 0 <= self.special_score <= self.score and self.score else ""
        return f"special tokens and punctuation, not shown: {self.special_score:.3f} of {self.score:.3f}{share}"


def page(title: str, explanations: Iterable[tuple[str, Explanation]]) -> str:
    """A small complete HTML page, to be written as UTF-8: a heat map for each (heading, explanation)."""
    head = html.escape(_printable(title))
    maps = "\n".join(f"<h2>{html.escape(_printable(heading))}</h2>\n{told.to_html()}" for heading, told in explanations)
    return f"""<!doctype html>
<html>
<head><meta charset="utf-8"><title>{head}</title></head>
<body style="font-family:sans-serif;line-height:1.5;max-width:60em;margin:2em auto">
<h1>{head}</h1>
<p>The darker its ground, the more a word adds to the score.</p>
{maps or "<p>Nothing was found.</p>"}
</body>
</html>
"""


def _printable(text: str) -> str:
    """Without what could steer a terminal or be refused in HTML; the joiners that emoji and some scripts need stay."""
    return "".join(c if c.isprintable() or c in "\n\u200c\u200d" else " " for c in text)


def _runs(weights: NDArray[np.float64]) -> list[tuple[int, int, float, float]]:
    """(start, end, strength, weight) of neighbouring code points of equal weight. strength: 0 for the lowest weight above 0, 1 for the
    highest; 1 for all if they are one."""
    if not len(weights):
        return []
    cuts = [0, *(np.flatnonzero(np.diff(weights)) + 1).tolist(), len(weights)]
    low, high = float(weights[weights > 0].min(initial=np.inf)), float(weights.max())
    strength = (weights - low) / (high - low) if high - low > 1e-6 else np.ones(len(weights))
    return [(a, b, float(strength[a]), float(weights[a])) for a, b in pairwise(cuts)]


def _is_word(text: str, start: int, end: int) -> bool:
    """Whether a token is of the text and more than punctuation, which says little and is what documents leave out."""
    return any(not unicodedata.category(c).startswith("P") for c in text[start:end])


def explained(
    query: str,
    text: str,
    asked: Sequence[Piece],
    document: Sequence[Piece],
    vectors: NDArray[np.float32],
    tokens: NDArray[np.float32],
    special: bool = False,
) -> Explanation:
    """asked, document: the tokens behind the rows of vectors float32 [q, dim] and tokens float32 [n, dim]. special: see Explanation."""
    places, similarities = matches(vectors, tokens)
    found, gains = list[Match](), dict[int, float]()
    for (asking, first, last), place, similarity in zip(asked, places.tolist(), similarities.tolist()):
        token, start, end = document[place]
        shown = start < end and (special or (_is_word(query, first, last) and _is_word(text, start, end)))
        found.append(Match(asking, token, start, end, similarity, first, last, shown))
        if shown:
            gains[place] = gains.get(place, 0.0) + similarity
    spans: list[dict[str, Any]] = []
    for start, end, gain in sorted((*document[place][1:], gain) for place, gain in gains.items()):
        # Tokens of one character share its span; between neighbours there is nothing but blanks.
        if spans and not text[spans[-1]["end"] : start].strip():
            spans[-1] = {"start": spans[-1]["start"], "end": max(end, spans[-1]["end"]), "score": spans[-1]["score"] + gain}
        else:
            spans.append({"start": start, "end": end, "score": gain})
    spans.sort(key=lambda span: (-span["score"], span["start"]))
    rest = sum(match.similarity for match in found if not match.shown)
    return Explanation(query, text, float(similarities.astype(np.float64).sum()), tuple(found), tuple(spans), float(rest))
