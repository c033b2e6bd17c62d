"""Cross-encoders: query and document read together by one model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core import LOWEST, Query, Ranking, Scorer, Scores
from ..errors import InputError, UnsupportedModelError
from ..progress import Progress
from ..runtimes.base import Runtime, check_finite, describe
from ..runtimes.batching import run_batched
from ..runtimes.tokenize import Tokenizer


def sigmoid(logits: ArrayLike) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)) in float64: logits keep their order well past where float32 would tie at 1 (about 17; float64: about 37)."""
    x = np.asarray(logits, dtype=np.float64)
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


@final
class CrossEncoder(Scorer):
    """score(query, document) = the model's logit, float32; higher is better, of no fixed range. `sigmoid` makes it a probability.

    A document that does not fit is cut at its end and the column `truncated_tokens` says by how much; the query is never cut.
    label: which logit to take, for a model with several. Made by `rr.load`.
    """

    def __init__(self, runtime: Runtime, tokenizer: Tokenizer, *, name: str, label: int | None = None) -> None:
        if label is not None and (isinstance(label, bool) or not isinstance(label, int) or label < 0):
            raise InputError("label", got=label, expected="the number of a label, from 0")
        self.runtime, self.tokenizer, self.model, self.label = runtime, tokenizer, name, label
        if "logits" not in runtime.outputs:
            hint = "Its classification head is missing: export it for the task text-classification."
            raise UnsupportedModelError(f"model '{name}': outputs", got=", ".join(runtime.outputs), expected="logits", hint=hint)
        self.backend = describe(runtime)

    def predict(self, pairs: Sequence[tuple[str, str]], *, progress: Progress | None = None) -> Scores:
        """Logits float32 [n] of (query, document) pairs, in their order, with the column truncated_tokens int32 [n].

        A blank document has nothing to compare: it is not run and gets the lowest float32 (models rank it anywhere, even first). Raises
        InputError (an empty query, not strings), QueryTooLongError, NonFiniteError (NaN logits), UnsupportedModelError (several labels
        and no `label`).
        """
        for i, pair in enumerate(pairs):
            if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise InputError(f"CrossEncoder.predict: pair {i}", got=pair, expected="a tuple of two strings, (query, document)")
            if not pair[0].strip():
                raise InputError(f"CrossEncoder.predict: query of pair {i}", got="an empty text", expected="a query to compare with")
        values, dropped = np.full(len(pairs), LOWEST, np.float32), np.zeros(len(pairs), np.int32)
        if rows := [i for i, (_, document) in enumerate(pairs) if document.strip()]:
            tokens = self.tokenizer.encode_pairs([pairs[i] for i in rows])
            values[rows] = run_batched(self.runtime, tokens, "logits", self._column, progress=progress)
            dropped[rows] = tokens.dropped
        check_finite(values, self.model)
        return Scores(values, "logit", {"truncated_tokens": dropped})

    def score(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Scores]:
        pairs = [[(query.text, text) for text in ranking.corpus.texts(ranking.ids)] for query, ranking in zip(queries, rankings)]
        scores = self.predict(list(chain.from_iterable(pairs)))
        ends = np.cumsum([0, *(len(row) for row in pairs)]).tolist()
        cut = scores.columns["truncated_tokens"]
        return [Scores(scores.values[a:b], "logit", {"truncated_tokens": cut[a:b]}) for a, b in pairwise(ends)]

    def _column(self, logits: NDArray[np.float32], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """The label's column of logits [b, labels], or [b] of a single one."""
        if logits.ndim > 2:
            got = f"logits {list(logits.shape)}, one per token"
            raise UnsupportedModelError(f"model '{self.model}'", got=got, expected="logits per pair: [pairs, labels]")
        rows = logits.reshape(len(lengths), -1)
        n = rows.shape[1]
        if self.label is None and n != 1:
            hint = "Pass label= to rr.load: the number of the label that means relevant."
            raise UnsupportedModelError(f"model '{self.model}'", got=f"{n} labels", expected="one, a score", hint=hint)
        if self.label is not None and self.label >= n:
            raise InputError("label", got=self.label, expected=f"a label from 0 to {n - 1}")
        return np.ascontiguousarray(rows[:, self.label or 0])

    def __repr__(self) -> str:
        return f"CrossEncoder({self.model}, {self.backend})"
