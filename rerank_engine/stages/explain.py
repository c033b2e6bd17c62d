"""Why a document scored as it did in late interaction: which tokens met, and where they stand in the text."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ops.maxsim import matches

Piece = tuple[str, int, int]  # a token, and the code points of the text that it covers: (0, 0) for one that is not of the text


@dataclass(frozen=True, slots=True)
class Match:
    """A query token and the document token it met; start, end: that one's code points in the text, 0 and 0 for a special token."""

    query_token: str
    token: str
    start: int
    end: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """score = the sum of the matches' similarities. relevant_spans: [{"start", "end", "score"}, ...] in code points of the text, the
    highest score first: matched tokens that stand next to each other as one, with the sum of what they add."""

    query: str
    text: str
    score: float
    matches: tuple[Match, ...]
    relevant_spans: tuple[dict[str, Any], ...]

    def weights(self) -> NDArray[np.float64]:
        """float64 [len(text)]: what each code point's token adds to the score."""
        out = np.zeros(len(self.text))
        for match in self.matches:
            out[match.start : match.end] += max(match.similarity, 0.0)
        return out

    def to_dict(self) -> dict[str, Any]:
        rows = [{name: getattr(match, name) for name in Match.__slots__} for match in self.matches]
        return {"query": self.query, "text": self.text, "score": self.score, "matches": rows, "relevant_spans": list(self.relevant_spans)}

    def to_html(self) -> str:
        """A heat map of the text: the more a token adds, the darker its ground. Everything is escaped; nothing is loaded from elsewhere."""
        parts = []
        for start, end, strength, weight in _runs(self.weights()):
            piece = html.escape(self.text[start:end])
            style = f"background:rgba(255,140,0,{strength:.2f})"
            parts.append(f'<span style="{style}" title="{weight:.3f}">{piece}</span>' if weight else piece)
        body = "".join(parts).replace("\n", "<br>")
        return f'<div class="late-interaction"><p><b>{html.escape(self.query)}</b> {self.score:.3f}</p><p>{body}</p></div>'

    def to_terminal(self) -> str:
        """The same with the 256 colours of a terminal. Control characters of the text are left out."""
        shades, parts = (230, 229, 222, 221, 220, 214, 208), []
        for start, end, strength, weight in _runs(self.weights()):
            piece = "".join(c if c.isprintable() or c in "\n\u200d" else " " for c in self.text[start:end])
            shade = shades[min(int(strength * len(shades)), len(shades) - 1)]
            parts.append(f"\x1b[30;48;5;{shade}m{piece}\x1b[0m" if weight else piece)
        return "".join(parts)


def _runs(weights: NDArray[np.float64]) -> list[tuple[int, int, float, float]]:
    """(start, end, weight as a share of the largest, weight) of neighbouring code points of equal weight."""
    if not len(weights):
        return []
    cuts = [0, *(np.flatnonzero(np.diff(weights)) + 1).tolist(), len(weights)]
    largest = max(float(weights.max()), 1e-12)
    return [(a, b, float(weights[a]) / largest, float(weights[a])) for a, b in pairwise(cuts)]


def explained(
    query: str, text: str, asked: Sequence[Piece], document: Sequence[Piece], vectors: NDArray[np.float32], tokens: NDArray[np.float32]
) -> Explanation:
    """asked, document: the tokens behind the rows of vectors float32 [q, dim] and tokens float32 [n, dim]."""
    places, similarities = matches(vectors, tokens)
    met_by = zip(asked, (document[place] for place in places.tolist()), similarities.tolist())
    found = tuple(Match(asking[0], token, start, end, float(s)) for asking, (token, start, end), s in met_by)
    gains = np.bincount(places, similarities, minlength=len(document))
    met = np.bincount(places, minlength=len(document)) > 0
    spans: list[dict[str, Any]] = []
    for start, end, gain in sorted((*document[place][1:], float(gains[place])) for place in np.flatnonzero(met).tolist()):
        if end <= start:
            continue
        # Tokens of one character share its span; between neighbours there is nothing but blanks.
        if spans and not text[spans[-1]["end"] : start].strip():
            spans[-1] = {"start": spans[-1]["start"], "end": max(end, spans[-1]["end"]), "score": spans[-1]["score"] + gain}
        else:
            spans.append({"start": start, "end": end, "score": gain})
    spans.sort(key=lambda span: (-span["score"], span["start"]))
    return Explanation(query, text, float(similarities.astype(np.float64).sum()), found, tuple(spans))
