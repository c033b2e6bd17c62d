"""Features of candidates: what stages and indexes know of a query and a document, as named columns of numbers.

    features = [Incoming(), Lexical(index), ScoreOf(cross_encoder, "cross"), Metadata("clicks", log=True), Supplied("pagerank", ranks)]

A feature that is not known is NaN, which trees send to a side of its own; `default` puts a number in its place. Nothing here is fitted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timezone
from math import nan
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core import LOWEST, Query, Ranking, Scorer
from ..corpus import rows_in
from ..errors import InputError
from ..indexes.inverted import BM25Index
from ..ops import checks
from ..text import Analyzer, AnalyzerLike
from ..trace import step_labels
from .matrix import FeatureMatrix, Qrels, require_names

Values = NDArray[np.float32]
FIELDS = ("passage", "title", "text")
LARGEST = -LOWEST
YEARS = (-62135596800.0, 253402300800.0)  # seconds of the years 1 to 9999, which dates have


class Feature(ABC):
    """Columns for every candidate. A new one implements `names` and `values`."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of its columns."""

    @abstractmethod
    def values(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Values]:
        """Per ranking float32 [n, columns], a row for each document in its order. The whole batch is handed over, to be batched well."""


@final
@dataclass(frozen=True)
class Incoming(Feature):
    """score: what the stage in front gave, NaN where it had nothing to compare. reciprocal_rank: 1 / rank, from 1."""

    names = ("score", "reciprocal_rank")

    def values(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Values]:
        return [np.stack([_compared(r.scores), (1 / np.arange(1, len(r) + 1)).astype(np.float32)], axis=1) for r in rankings]


@final
@dataclass(frozen=True)
class StageRank(Feature):
    """1 / rank after a stage further in front, by its label in the trace ("BM25", "Dense#2"); 0 where that stage had not this document.

    Such as the branches of a Fuse, in a pipeline. Raises InputError for a label that the trace lacks.
    """

    stage: str

    @property
    def names(self) -> tuple[str, ...]:
        return (f"reciprocal_rank:{self.stage}",)

    def values(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Values]:
        return [self._of(ranking) for ranking in rankings]

    def _of(self, ranking: Ranking) -> Values:
        steps = dict(zip(step_labels(ranking.trace), ranking.trace))
        if self.stage not in steps:
            got = f"a trace with {', '.join(steps) or 'no stage'}"
            raise InputError("StageRank", got=got, expected=f"'{self.stage}'", hint="Run it in a pipeline, behind that stage.")
        rank = {row: i for i, row in enumerate(steps[self.stage].ids.tolist(), 1)}
        return np.array([[1 / rank[row] if row in rank else 0.0] for row in ranking.ids.tolist()], np.float32).reshape(-1, 1)


@final
@dataclass(frozen=True)
class Column(Feature):
    """A column of the ranking that comes in, such as Fuse(explain=True)'s "fuse:BM25" or MMR's "mmr". default: where there is no such
    column; None: that raises InputError."""

    column: str
    default: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.column,)

    def values(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Values]:
        out = []
        for ranking in rankings:
            if self.column not in ranking.columns and self.default is None:
                expected = "one of " + ", ".join(ranking.columns) if ranking.columns else "a ranking with columns"
                raise InputError("Column", got=f"'{self.column}'", expected=expected, hint="default= allows for its absence.")
            found = ranking.columns.get(self.column, np.full(len(ranking), self.default))
            out.append(np.asarray(found, np.float32)[:, None])
        return out


@final
class Lexical(Feature):
    """Of a BM25Index, over the documents or over one field of theirs: bm25; coverage, the share of the query's distinct terms that the
    document holds (coordination); length, its terms. With `name` "title": "title:bm25", ...

    An index per field is made of a corpus of that field, with the documents' ids. Candidates of another corpus are found by their ids
    (UnknownIdError). No text is read: the index knows. Query.terms are searched in place of the text's; must, allow and deny are not.
    """

    def __init__(self, index: BM25Index, name: str = "") -> None:
        checks.instance("Lexical: index", index, BM25Index)
        self.index, self.name = index, name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.name}:{column}" if self.name else column for column in ("bm25", "coverage", "length"))

    def values(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Values]:
        positive = self.index if self.index.parameters.variant == "lucene" else self.index.with_parameters(variant="lucene")
        return [self._of(query, ranking, positive) for query, ranking in zip(queries, rankings)]

    def _of(self, query: Query, ranking: Ranking, positive: BM25Index) -> Values:
        """positive: the same index with a variant by which every document that holds a term scores above 0."""
        out, index = np.zeros((len(ranking), 3), np.float32), self.index
        if not len(ranking):
            return out
        rows = rows_in(index.corpus, ranking.corpus, ranking.ids, f"Lexical {self.name}".rstrip(), "documents that the index holds")
        place = {row: i for i, row in enumerate(rows.tolist())}
        terms = list(query.terms if query.terms is not None else dict.fromkeys(index.analyzer(query.text)))
        [(found, scores)] = index.search([replace(query, allow=rows, deny=None, must=())], len(rows))
        out[[place[row] for row in found.tolist()], 0] = scores
        each = positive.search([Query("", terms={term: 1.0}, allow=rows) for term in terms], len(rows)) if terms else []
        for holding, _ in each:
            out[[place[row] for row in holding.tolist()], 1] += np.float32(1)
        out[:, 1] /= max(len(terms), 1)
        out[:, 2] = index.document_lengths(rows)
        return out

    def __repr__(self) -> str:
        return f"Lexical({self.index!r}{', ' * bool(self.name)}{self.name})"


@final
class Words(Feature):
    """Without an index, for documents that came with the request: coverage and length as of Lexical, and query_length, the query's terms.

    analyzer: see rerank_engine.text. field: "passage" (title and text), "title" or "text". With `name` "title": "title:coverage", ...
    """

    def __init__(self, analyzer: AnalyzerLike = "english", field: str = "passage", name: str = "") -> None:
        self.analyzer, self.field, self.name = Analyzer(analyzer), checks.one_of("Words: field", field, FIELDS), name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.name}:{column}" if self.name else column for column in ("coverage", "length", "query_length"))

    def values(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Values]:
        return [self._of(query, ranking) for query, ranking in zip(queries, rankings)]

    def _of(self, query: Query, ranking: Ranking) -> Values:
        asked = list(self.analyzer(query.text))
        distinct, rows = set(asked), []
        for document in ranking.documents:
            terms = list(self.analyzer(getattr(document, self.field)))
            rows.append((len(distinct.intersection(terms)) / max(len(distinct), 1), len(terms), len(asked)))
        return np.array(rows, np.float32).reshape(-1, 3)

    def __repr__(self) -> str:
        return f"Words({self.analyzer.name}, {self.field}{', ' * bool(self.name)}{self.name})"


@final
class ScoreOf(Feature):
    """The score of any scorer: a cross-encoder, MaxSim, Similarity (dense), one of yours. NaN where it had nothing to compare: -inf, or
    the lowest float32, as of blank documents.

    name: of the column; of the scorer's class by default.
    """

    def __init__(self, scorer: Scorer, name: str | None = None) -> None:
        checks.instance("ScoreOf: scorer", scorer, Scorer)
        self.scorer, self.names = scorer, (scorer.name if name is None else name,)

    names: tuple[str, ...] = ()

    def values(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Values]:
        scores = [np.asarray(entry.values, np.float32) for entry in self.scorer.score(queries, rankings)]
        return [_compared(values)[:, None] for values in scores]

    def __repr__(self) -> str:
        return f"ScoreOf({self.scorer!r}, {self.names[0]})"


def _compared(scores: Values) -> Values:
    """NaN for the scores that only say "nothing to compare", as blank documents have them; kept, they would be a feature's whole scale."""
    return np.where(scores <= LOWEST / 2, np.float32(nan), scores)


@final
@dataclass(frozen=True)
class Metadata(Feature):
    """A number among the documents' metadata: clicks, a price, a rating. default: of documents without it (None counts as absent).

    log: ln(1 + x) of numbers from 0, and a column of another name, "clicks:log", since a model of one is none of the other. true and false
    are 1 and 0. Raises InputError for anything else under that name.
    """

    field: str
    default: float = nan
    log: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (f"{self.field}:log" if self.log else self.field,)

    def values(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Values]:
        return [np.array([self._of(d) for d in ranking.documents], np.float32).reshape(-1, 1) for ranking in rankings]

    def _of(self, document: Any) -> float:
        value = document.metadata.get(self.field)
        if value is None:
            return self.default
        number = _number(f"Metadata: '{self.field}' of document '{document.id}'", value)
        if self.log and number < 0:
            raise InputError(f"Metadata: '{self.field}' of document '{document.id}'", got=value, expected="a number from 0")
        return float(np.log1p(number)) if self.log else number


def _number(what: str, value: Any) -> float:
    """One that float32 holds; NaN is not known. Raises InputError."""
    if not isinstance(value, (int, float, np.integer, np.floating, np.bool_)):
        raise InputError(what, got=value, expected="a number")
    if not (np.isnan(value) if isinstance(value, (float, np.floating)) else False) and not -LARGEST <= value <= LARGEST:
        raise InputError(what, got="a number beyond float32", expected=f"one up to {LARGEST:.3g}")
    return float(value)


@final
@dataclass(frozen=True)
class Freshness(Feature):
    """2^(-age / half_life): 1 for a document of now, 0.5 after `half_life` days; 1 for one of the future.

    field: of the metadata, an ISO 8601 text, a date or datetime, or seconds since 1970; without a zone it is UTC. now: the same kinds; a
    given time, so that the same ranking comes out again. default: of documents without it. Raises InputError.
    The column's name holds the half-life, "freshness:day:half_life=30": a model of one is none of another.
    """

    field: str
    now: Any
    half_life: float = 30.0
    default: float = nan

    def __post_init__(self) -> None:
        if not checks.finite_number("Freshness: half_life", self.half_life, 0) > 0:
            raise InputError("Freshness: half_life", got=self.half_life, expected="days, more than 0")
        _seconds("Freshness: now", self.now)

    @property
    def names(self) -> tuple[str, ...]:
        return (f"freshness:{self.field}:half_life={self.half_life:.12g}",)

    def values(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Values]:
        now = _seconds("Freshness: now", self.now)
        return [np.array([self._of(d, now) for d in ranking.documents], np.float32).reshape(-1, 1) for ranking in rankings]

    def _of(self, document: Any, now: float) -> float:
        value = document.metadata.get(self.field)
        if value is None:
            return self.default
        age = now - _seconds(f"Freshness: '{self.field}' of document '{document.id}'", value)
        return float(2.0 ** (-max(age, 0.0) / (86400 * self.half_life)))


def _seconds(what: str, value: Any) -> float:
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    except ValueError as error:
        raise InputError(what, got=value, expected="ISO 8601, such as 2026-01-31 or 2026-01-31T12:00:00Z") from error
    seconds = checks.finite_number(what, value)
    if not YEARS[0] <= seconds <= YEARS[1]:
        raise InputError(what, got=value, expected="seconds since 1970, up to the year 9999", hint="Milliseconds are divided by 1000.")
    return seconds


@final
class Supplied(Feature):
    """Numbers that you have: PageRank, clicks, prices. values: an array [documents of the corpus], by row, or a mapping from ids.

    default: of documents that a mapping lacks (None counts as absent). Raises InputError for an array of another corpus' length, and for
    what is no number that float32 holds.
    """

    names: tuple[str, ...] = ()

    def __init__(self, name: str, values: ArrayLike | Mapping[str, float], default: float = nan) -> None:
        self.names, self.default = require_names("Supplied: name", [name]), default
        self._by_id: dict[str, float] | None = None
        self._by_row: Values = np.empty(0, np.float32)
        if isinstance(values, Mapping):
            told = ((doc_id, value) for doc_id, value in values.items() if value is not None)
            self._by_id = {doc_id: _number(f"Supplied: '{name}' of document '{doc_id}'", value) for doc_id, value in told}
        else:
            self._by_row = _column(f"Supplied: '{name}'", values)
        if self._by_row.ndim != 1:
            raise InputError("Supplied: values", got=f"shape {list(self._by_row.shape)}", expected="[documents], or a mapping from ids")

    def values(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Values]:
        return [self._of(ranking)[:, None] for ranking in rankings]

    def _of(self, ranking: Ranking) -> Values:
        if self._by_id is not None:
            return np.array([self._by_id.get(doc_id, self.default) for doc_id in ranking.doc_ids], np.float32)
        if len(ranking) and len(self._by_row) != len(ranking.corpus):
            got, expected = f"{len(self._by_row)} values", f"one for each of the corpus' {len(ranking.corpus)} documents"
            raise InputError(f"Supplied: '{self.names[0]}'", got=got, expected=expected, hint="A mapping from ids fits any corpus.")
        return self._by_row[ranking.ids]

    def __repr__(self) -> str:
        return f"Supplied({self.names[0]})"


def _column(what: str, values: ArrayLike) -> Values:
    """float32 as it is, or numbers that float32 holds. Raises InputError."""
    try:
        given = np.asarray(values)
        told = given if given.dtype == np.float32 else np.asarray(given, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(what, got=str(error), expected="numbers") from error
    if (np.isfinite(told) & (np.abs(told) > LARGEST)).any():
        raise InputError(what, got="a number beyond float32", expected=f"numbers up to {LARGEST:.3g}")
    return told.astype(np.float32, copy=False)


def require_features(features: Sequence[Feature]) -> tuple[Feature, ...]:
    """Raises InputError for what is no feature, for none at all, and for a name that two of them give."""
    told = tuple(features) if isinstance(features, (list, tuple)) else (features,)
    for one in told:
        checks.instance("features", one, Feature)
    if not told:
        raise InputError("features", got="none", expected="at least one")
    require_names("features", [name for one in told for name in one.names])
    return told


def extract(features: Sequence[Feature], queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Values]:
    """Per ranking float32 [n, all columns]. Raises InputError for a feature that answers in another shape."""
    parts = [one.values(queries, rankings) for one in features]
    for one, answered in zip(features, parts):
        shapes = [values.shape for values in answered]
        if shapes != [(len(ranking), len(one.names)) for ranking in rankings]:
            raise InputError(f"{type(one).__name__}.values", got=f"shapes {shapes[:3]}", expected="a row per document, a column per name")
    return [np.concatenate(columns, axis=1).astype(np.float32) for columns in zip(*parts)]


def feature_matrix(
    features: Sequence[Feature], queries: Sequence[str | Query], rankings: Sequence[Ranking], qrels: Qrels | None = None
) -> FeatureMatrix:
    """The features of every candidate of every query. qrels: query id -> document id -> relevance; what they leave out, and below 0, is 0.

    Queries need ids for qrels. Raises InputError.
    """
    told = require_features(features)
    batch = [query if isinstance(query, Query) else Query(query) for query in queries]
    if len(batch) != len(rankings):
        raise InputError("feature_matrix", got=f"{len(batch)} queries and {len(rankings)} rankings", expected="one ranking per query")
    if qrels is not None and any(query.id is None for query in batch):
        raise InputError("feature_matrix: queries", got="one without an id", expected="Query(text, id), by which qrels knows them")
    parts, names = extract(told, batch, rankings), tuple(name for one in told for name in one.names)
    documents = [ranking.doc_ids for ranking in rankings]
    labels = None
    if qrels is not None:
        judged = [qrels.get(str(query.id), {}) for query in batch]
        labels = np.array([max(of.get(doc, 0), 0) for of, docs in zip(judged, documents) for doc in docs], np.int64)
    values = np.concatenate(parts) if parts else np.empty((0, len(names)), np.float32)
    offsets = np.concatenate([[0], np.cumsum([len(docs) for docs in documents])]).astype(np.int64)
    ids = tuple(str(i) if query.id is None else query.id for i, query in enumerate(batch))
    return FeatureMatrix(names, values, offsets, labels, ids, tuple(doc for docs in documents for doc in docs))
