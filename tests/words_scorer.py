"""A scorer whose answers prove which document they are of, and that can be slow, wait, or fail."""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Event

import numpy as np

from rerank_engine.core import Query, Ranking, Scorer, Scores


class Words(Scorer):
    """The number in a document's text, or how many of its words the query has; `ms` a document. A text "broken" fails, "nan" is one."""

    model = "words"

    def __init__(self, ms: float = 0.0, scale: str = "logit") -> None:
        self.ms, self.scale = ms, scale
        self.waves = list[list[str]]()
        self.held = Event()
        self.held.set()

    def score(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Scores]:
        rows = [ranking.corpus.texts(ranking.ids) for ranking in rankings]
        self.waves.append([text for row in rows for text in row])
        self.held.wait(10)
        if self.ms:
            time.sleep(self.ms * sum(map(len, rows)) / 1e3)
        if any("broken" in row for row in rows):
            raise RuntimeError("a secret of the model's")
        return [Scores(np.array([self.one(query.text, text) for text in row], np.float32), self.scale) for query, row in zip(queries, rows)]

    def one(self, query: str, text: str) -> float:
        if text == "nan":
            return float("nan")
        return float(text) if text.replace(".", "").isdigit() else float(len(set(query.split()) & set(text.split())))
