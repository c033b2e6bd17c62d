"""The call of FlagEmbedding's FlagReranker over this package's models. Needs no FlagEmbedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from .scoring import Model, pair_scores, require_model, scorer_of


class FlagReranker:
    """model_name_or_path: for `rr.load`, or a loaded scorer. normalize: whether `compute_score` gives sigmoids unless it is told."""

    def __init__(self, model_name_or_path: Model = None, *, normalize: bool = False, **options: Any) -> None:
        if unknown := sorted(set(options) - {"use_fp16", "use_bf16", "batch_size"}):
            hint = "Load the model with rr.load and pass it."
            raise InputError("FlagReranker", got=", ".join(unknown), expected="arguments that this package has", hint=hint)
        self.model, self.normalize = scorer_of(require_model("FlagReranker", model_name_or_path)), normalize

    def compute_score(self, sentence_pairs: Sequence[Any], batch_size: int | None = None, normalize: bool | None = None) -> list[float]:
        """A score for each pair, also where there is one alone, as FlagEmbedding gives it."""
        single = len(sentence_pairs) == 2 and isinstance(sentence_pairs[0], str)
        pairs = [(query, text) for query, text in ([sentence_pairs] if single else sentence_pairs)]
        chosen = self.normalize if normalize is None else normalize
        return [float(score) for score in pair_scores(self.model, pairs, "sigmoid" if chosen else "none")]
