"""What a service asks of its pipelines: how many documents, how long, how long the questions, and how much all that varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core import Query, Ranking
from ..errors import InputError
from ..ops.checks import finite_number

SPECIAL = 3  # tokens that a pair has beside its two texts: [CLS] query [SEP] document [SEP]


class Tokenizes(Protocol):
    """What counts tokens: `rerank_engine.runtimes.tokenize.Tokenizer`."""

    def plain(self, texts: Sequence[str]) -> Any: ...


@dataclass(frozen=True, slots=True)
class Shape:
    """corpus_size: documents searched; tokens: of a passage, query_tokens: of a query, both means of word pieces without special tokens.

    token_cv: standard deviation of a passage's tokens / mean. shared: the share of that variance which the passages of a query's list have
    in common (the intraclass correlation): 0, lists are drawn at random; 1, a list's passages are all equally long. query_cv: as token_cv,
    of queries. limit: the longest input of a model.
    """

    corpus_size: int
    tokens: float
    query_tokens: float
    token_cv: float
    shared: float
    query_cv: float
    limit: int = 512

    def __post_init__(self) -> None:
        for name, least in (("corpus_size", 1), ("tokens", 1), ("query_tokens", 1), ("token_cv", 0), ("shared", 0), ("query_cv", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not np.isfinite(value) or value < least:
                raise InputError(f"plan: {name}", got=value, expected=f"a number of at least {least}")

    def list_cv(self, documents: float) -> float:
        """Standard deviation / mean of the mean length of so many documents of one query."""
        return float(self.token_cv * np.sqrt(self.shared + (1 - self.shared) / max(documents, 1.0)))


def variation(query_lengths: NDArray[np.int64], list_lengths: Sequence[NDArray[np.int64]]) -> dict[str, float]:
    """{"tokens", "query_tokens", "token_cv", "shared", "query_cv"} of the lengths of queries and of the passages of their lists.

    tokens: of lists, not of the corpus: retrievers do not draw at random. shared: by the one-way analysis of variance of lists cut to one
    length n: between / (between + within), between = variance of the lists' means - within / n. Raises InputError for fewer than
    two lists of two.
    """
    lists = [row for row in list_lengths if len(row) >= 2]
    if len(lists) < 2:
        raise InputError("variation", got=f"{len(lists)} lists of at least two documents", expected="two or more")
    n = int(np.median([len(row) for row in lists]))
    rows = np.array([row[:n] for row in lists if len(row) >= n], np.float64)
    within = float(rows.var(axis=1, ddof=1).mean())
    between = max(float(rows.mean(axis=1).var(ddof=1)) - within / n, 0.0) if len(rows) > 1 else 0.0
    mean = float(rows.mean())
    return {
        "tokens": mean,
        "query_tokens": float(query_lengths.mean()),
        "token_cv": float(np.sqrt(within + between)) / mean,
        "shared": between / (within + between) if within + between else 0.0,
        "query_cv": float(query_lengths.std() / query_lengths.mean()),
    }


def shape_of(tokenizer: Tokenizes, queries: Sequence[str | Query], lists: Sequence[Ranking], *, depth: int = 50) -> Shape:
    """The shape of a service as its own queries and their lists have it: of a first stage, the best `depth` of each. Raises InputError."""
    texts = [query.text if isinstance(query, Query) else query for query in queries]
    told = variation(lengths(tokenizer, texts), [lengths(tokenizer, row.corpus.texts(row.ids[:depth])) for row in lists])
    return shape_from(len(lists[0].corpus), told["tokens"], told)


def lengths(tokenizer: Tokenizes, texts: Sequence[str]) -> NDArray[np.int64]:
    """int64 [n]: word pieces of each text, without special tokens."""
    return np.array([len(row) for row in tokenizer.plain(texts)], np.int64)


def shape_from(corpus_size: float, tokens: float, workload: Mapping[str, float], query_tokens: float | None = None) -> Shape:
    """With what calibration saw of passages and questions for all that is not told."""
    if missing := [name for name in ("query_tokens", "token_cv", "shared", "query_cv") if name not in workload]:
        raise InputError("costs: workload", got=f"none of {', '.join(missing)}", expected="them", hint="Run: rerank-engine calibrate")
    asked = workload["query_tokens"] if query_tokens is None else query_tokens
    return Shape(
        round(finite_number("plan: corpus_size", corpus_size)),
        tokens,
        asked,
        workload["token_cv"],
        workload["shared"],
        workload["query_cv"],
    )
