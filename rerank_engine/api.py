"""`rr.rerank`: one call, nothing to set up."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .core import Query, Ranking, Rescore, Scorer, Stage
from .corpus import Corpus, Document
from .errors import InputError, UnsupportedModelError
from .ops.checks import count, one_of
from .runtimes.load import load
from .stages.cross import sigmoid

DEFAULT_MODEL = "ms-marco-MiniLM-L-12-v2"


@dataclass(frozen=True, slots=True)
class Result:
    """index: the document's place in the input; scale: what the score is ("logit", "probability", ...).

    truncated_tokens: what the model's limit cut off the document. scored: False for one that was not reached before the deadline of
    `rr.limited`; its score then only keeps it in its old place, behind the others.
    """

    index: int
    score: float
    document: Document
    scale: str = "score"
    truncated_tokens: int = 0
    scored: bool = True


def rerank(
    query: str,
    documents: Sequence[str] | Corpus,
    model: str | Path | Scorer | Stage | None = None,
    top_n: int | None = None,
    *,
    activation: str = "none",
) -> list[Result]:
    """Orders documents for a query, best first.

    model: a name or folder for `rr.load` (the one named last is kept loaded), a loaded model, or any stage; None means
    ms-marco-MiniLM-L-12-v2, which the extra [demo] brings. top_n: None keeps all.
    activation: "none" gives the model's own scores (logits for a cross-encoder, sums of similarities for ColBERT), "sigmoid" maps logits
    into [0, 1] after the ranking.
    No documents give []. Raises what `rr.load` and the model raise, and InputError.
    """
    keep = None if top_n is None else count("top_n", top_n)
    one_of("activation", activation, ("none", "sigmoid"))
    Query(query)
    if isinstance(documents, str):
        raise InputError("documents", got="one string", expected="a sequence of strings", hint="Pass [text].")
    corpus = documents if isinstance(documents, Corpus) else Corpus.from_texts(documents)
    if model is None or isinstance(model, (str, Path)):
        model = named_model(DEFAULT_MODEL if model is None else str(model))
    if not isinstance(model, (Scorer, Stage)):
        raise InputError("model", got=type(model).__name__, expected="a name, a folder, a loaded scorer or a stage")
    if len(corpus) == 0:
        return []
    stage = Rescore(model, depth=len(corpus)) if isinstance(model, Scorer) else model
    ranking: Ranking = stage(query, corpus)
    if ranking.corpus is not corpus:
        hint = "Leave the documents to its index: call stage(query)."
        raise InputError(
            "model", got="a stage that retrieves from another corpus", expected="one that re-orders these documents", hint=hint
        )
    scores, scale = ranking.scores.astype(np.float64), ranking.scale
    scored = ranking.columns.get("scored", np.ones(len(ranking), bool))
    if activation == "sigmoid" and scored.any():
        if scale != "logit":
            raise InputError("activation='sigmoid'", got=f"scores on the scale '{scale}'", expected="logits")
        scores, scale = sigmoid(scores), "probability"
    cut = ranking.columns.get("truncated_tokens", np.zeros(len(ranking), np.int32))
    rows = zip(ranking.ids.tolist(), scores.tolist(), cut.tolist(), scored.tolist())
    return [Result(row, score, corpus[row], scale, dropped, read) for row, score, dropped, read in rows][:keep]


def named_model(name: str) -> Scorer:
    """Loads a model once for all threads, and keeps the one named last."""
    with _loading:
        return _named_model(name)


_loading = threading.Lock()


@functools.lru_cache(maxsize=1)
def _named_model(name: str) -> Scorer:
    model = load(name)
    if not isinstance(model, Scorer):
        hint = "Use one of these, or build a pipeline: rr.Dense(index, encoder)."
        expected = "a cross-encoder or a ColBERT model"
        raise UnsupportedModelError(f"model '{name}'", got="a bi-encoder, without a classification head", expected=expected, hint=hint)
    return model
