"""What all adapters do: a model, a scorer or a stage orders texts or scores pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..api import DEFAULT_MODEL, Result, named_model
from ..api import rerank as rerank
from ..core import LOWEST, Query, Ranking, Scorer, Stage
from ..corpus import Corpus
from ..errors import InputError, MissingDependency
from ..stages.cross import sigmoid
from ..stages.seq2seq import READERS

Model = str | Path | Scorer | Stage | None


def missing(framework: str, package: str, error: ImportError) -> MissingDependency:
    """What is raised where a module's framework cannot be imported."""
    return MissingDependency(f"rerank_engine.adapters.{framework}: {error}", hint=f"pip install {package}")


def require_model(what: str, model: object) -> Any:
    """A name, a folder, a loaded scorer or a stage, or None. Raises InputError; nothing is loaded."""
    if model is not None and not isinstance(model, (str, Path, Scorer, Stage)):
        raise InputError(f"{what}: model", got=type(model).__name__, expected="a name, a folder, a loaded scorer or a stage")
    return model


def name_of(model: Model) -> str:
    """For what a framework writes down: a name or folder as it is. Raises InputError for a loaded one, which has no file to read again."""
    if model is None or isinstance(model, (str, Path)):
        return DEFAULT_MODEL if model is None else str(model)
    raise InputError("to_dict: model", got=repr(model), expected="a name or a folder", hint="Make the component with a model's name.")


def scorer_of(model: Model) -> Scorer:
    """The scorer itself; a name is loaded once and kept. Raises InputError for a stage, which orders lists and scores no pairs."""
    if isinstance(model, Stage):
        raise InputError("model", got=repr(model), expected="a scorer or a model's name", hint="A stage scores no single pairs.")
    return model if isinstance(model, Scorer) else named_model(name_of(model))


def pair_scores(model: Model, pairs: Sequence[tuple[str, str]], activation: str = "none") -> NDArray[np.float64]:
    """float64 [n]: the score of each (query, document) pair, in their order. activation: "sigmoid" of logits, or "none"."""
    scorer, scale = scorer_of(model), "logit"
    if isinstance(scorer, READERS):
        values = scorer.predict(list(pairs)).values.astype(np.float64)
    else:
        values, places = np.empty(len(pairs), np.float64), dict[str, list[int]]()
        for i, (query, _) in enumerate(pairs):
            places.setdefault(query, []).append(i)
        queries, rows = list(places), list(places.values())
        lists = [Ranking.in_order(Corpus.from_texts([pairs[i][1] for i in own])) for own in rows]
        for own, scores in zip(rows, scorer.score([Query(query) for query in queries], lists) if queries else ()):
            values[own], scale = np.maximum(scores.values, LOWEST), scores.scale
    if activation == "none":
        return values
    if scale != "logit":
        raise InputError(f"activation='{activation}'", got=f"scores on the scale '{scale}'", expected="logits")
    return sigmoid(values)


def ordered(model: Model, query: str, texts: Sequence[str], top: int | None, activation: str = "none") -> list[Result]:
    """The texts, best first; `index` is a text's place among them. No texts give []."""
    return rerank(query, texts, model, top, activation=activation) if len(texts) else []
