"""The core, to be read first: Query, Ranking, Stage, Scorer, Pipeline, and the stages that need nothing else (Rescore, Top).

Everything that ranks is a `Stage`: rankings in, rankings out, a batch of queries at a time. A retriever ignores what comes in, fusion owns
its branches, a `Pipeline` is itself a Stage. Concrete stages are final; they share by functions.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .corpus import Corpus, Document
from .errors import InputError, NonFiniteError
from .limits import limited, limits, pieces
from .ops.checks import count
from .ops.topk import topk
from .selection import Selection, mask_of
from .trace import Step as Step
from .trace import reach, wall
from .trace import step_labels as step_labels

LOWEST = float(np.finfo(np.float32).min)
WAVE = 8  # documents, of all queries together, that a scorer is asked for first where there is a deadline


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """A query; an empty text is allowed and finds nothing.

    terms   for lexical stages: analysed terms with weights, searched instead of the text's own
    must    for lexical stages: texts all of whose terms a document has to hold; they score as if they stood in the text
    allow   for retrievers: the documents that may be found; deny: those that may not. External ids, rows (integers) or a bool per row
    """

    text: str
    id: str | None = None
    terms: Mapping[str, float] | None = None
    must: tuple[str, ...] = ()
    allow: Selection | None = field(default=None, repr=False)
    deny: Selection | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InputError("Query: text", got=self.text, expected="a string")
        if not isinstance(self.id, (str, type(None))):
            raise InputError("Query: id", got=self.id, expected="a string or None")
        if not isinstance(self.must, (tuple, list)) or not all(isinstance(text, str) for text in self.must):
            raise InputError("Query: must", got=self.must, expected="a tuple of strings")
        object.__setattr__(self, "must", tuple(self.must))
        terms, numbers = {} if self.terms is None else self.terms, (int, float, np.integer, np.floating)
        if not isinstance(terms, Mapping) or not all(isinstance(weight, numbers) for weight in terms.values()):
            raise InputError("Query: terms", got=self.terms, expected="a mapping from terms to weights")
        for name in ("allow", "deny"):
            chosen = getattr(self, name)
            if isinstance(chosen, (str, bytes)) or not isinstance(chosen, (Collection, type(None))):
                got = "one string" if isinstance(chosen, (str, bytes)) else type(chosen).__name__
                raise InputError(f"Query: {name}", got=got, expected="a collection of ids")

    def allowed(self, corpus: Corpus) -> NDArray[np.bool_] | None:
        """bool [rows]: what allow and deny leave of a corpus; None: all of it. Raises UnknownIdError for an id that `allow` makes up."""
        if self.allow is None and self.deny is None:
            return None
        mask = np.ones(len(corpus), bool) if self.allow is None else mask_of("Query: allow", self.allow, corpus, strict=True)
        return mask if self.deny is None else mask & ~mask_of("Query: deny", self.deny, corpus, strict=False)


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """One query's list, best first.

    ids int64 [n]: distinct rows of `corpus`; scores float32 [n]: finite, never rising. scale: what the scores are ("bm25", "cosine", "rrf",
    "logit", ...; "rank" for synthetic scores that only carry an order). columns: further arrays [n], such as truncated_tokens.
    trace: the steps that led here. notes: row -> what the stage that made this did to that document, facts: what it tells of its work; a
    Pipeline moves both into its Step.
    Raises InputError, NonFiniteError.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    corpus: Corpus
    scale: str = "score"
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    trace: tuple[Step, ...] = ()
    notes: Mapping[int, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, dtype in (("ids", np.int64), ("scores", np.float32)):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1 or array.shape != self.ids.shape:
                got = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
                expected = "ids int64 [n] and scores float32 [n]"
                raise InputError(f"Ranking: {name}", got=got, expected=expected, hint="Ranking.sorted converts and sorts.")
            object.__setattr__(self, name, _read_only(array))
        object.__setattr__(self, "columns", _columns("Ranking", self.columns, len(self.ids)))
        if not np.isfinite(self.scores).all():
            raise NonFiniteError("Ranking: scores", got="NaN or infinity", expected="finite scores")
        if (self.scores[1:] > self.scores[:-1]).any():
            raise InputError("Ranking: scores", got="a rising score", expected="best first", hint="Ranking.sorted sorts.")
        if len(self.ids) and not (self.ids.min() >= 0 and self.ids.max() < len(self.corpus)):
            raise InputError("Ranking: ids", got=f"{self.ids.min()} to {self.ids.max()}", expected=f"rows from 0 to {len(self.corpus) - 1}")
        rows = np.sort(self.ids)
        if (rows[1:] == rows[:-1]).any():
            raise InputError("Ranking: ids", got="a row twice", expected="distinct rows")

    @classmethod
    def _trusted(
        cls,
        ids: NDArray[np.int64],
        scores: NDArray[np.float32],
        corpus: Corpus,
        scale: str = "score",
        columns: Mapping[str, NDArray[Any]] | None = None,
        trace: tuple[Step, ...] = (),
        notes: Mapping[int, str] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Ranking:
        """Internal: without the checks, a tenth of the time, for stages of the library whose answer cannot break the rules above."""
        made, put = object.__new__(cls), object.__setattr__
        put(made, "ids", _read_only(ids))
        put(made, "scores", _read_only(scores))
        put(made, "corpus", corpus)
        put(made, "scale", scale)
        put(made, "columns", {name: _read_only(column) for name, column in columns.items()} if columns else {})
        put(made, "trace", trace)
        put(made, "notes", notes or {})
        put(made, "facts", facts or {})
        return made

    def _with(self, **changes: Any) -> Ranking:
        """Internal: a copy with other values, without the checks."""
        return Ranking._trusted(**{name: changes.get(name, getattr(self, name)) for name in Ranking.__slots__})

    @classmethod
    def sorted(cls, corpus: Corpus, ids: ArrayLike, scores: ArrayLike, *, scale: str = "score") -> Ranking:
        """From ids and scores in any order: score descending, then row ascending."""
        n = len(np.atleast_1d(ids))
        return cls(*topk(scores, max(n, 1), ids=ids), corpus, scale)

    @classmethod
    def in_order(cls, corpus: Corpus, ids: ArrayLike | None = None) -> Ranking:
        """Keeps a given order (all rows of the corpus by default), with synthetic scores n, n-1, ..., 1 and the scale "rank"."""
        rows = np.arange(len(corpus), dtype=np.int64) if ids is None else np.asarray(ids, dtype=np.int64)
        return cls(rows, np.arange(len(rows), 0, -1).astype(np.float32), corpus, "rank")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, places: ArrayLike | slice) -> Ranking:
        """The documents at these places (0 is the best), which must rise, with their scores and columns."""
        at = places if isinstance(places, slice) else np.asarray(places, dtype=np.int64)
        return replace(self, ids=self.ids[at], scores=self.scores[at], columns={k: v[at] for k, v in self.columns.items()})

    def _pick(self, places: NDArray[np.int64] | slice, **changes: Any) -> Ranking:
        """Internal: `take` without the checks, in any order where `changes` brings the scores for it."""
        columns = {name: column[places] for name, column in self.columns.items()}
        return self._with(**{"ids": self.ids[places], "scores": self.scores[places], "columns": columns, **changes})

    def head(self, n: int) -> Ranking:
        """The best n."""
        return self._pick(slice(max(n, 0)))

    @property
    def doc_ids(self) -> list[str]:
        """External ids, best first."""
        return self.corpus.ids_of(self.ids)

    @property
    def documents(self) -> list[Document]:
        return self.corpus.read(self.ids.tolist())

    def stage_ranks(self, row: int) -> dict[str, int]:
        """Where a document stood after each stage that held it, from 1: {"BM25": 4, "Dense": 1, "Fuse": 2, ...}."""
        ranks: dict[str, int] = {}
        for label, step in zip(step_labels(self.trace), self.trace):
            if len(found := np.flatnonzero(step.ids == row)):
                ranks[label] = int(found[0]) + 1
        return ranks

    def explain(self, row: int) -> dict[str, str]:
        """What the stages noted of a document, also one that was dropped: {"Dedup": "duplicate of 'd4' (Jaccard 0.92)", ...}."""
        return {label: step.notes[row] for label, step in zip(step_labels(self.trace), self.trace) if row in step.notes}

    @property
    def unfinished(self) -> tuple[Step, ...]:
        """The steps that a deadline cut short or skipped; none where all was done."""
        return tuple(step for step in self.trace if not step.finished)

    def __repr__(self) -> str:
        best = f", best {self.doc_ids[0]!r} {self.scores[0]:.4g}" if len(self) else ""
        return f"Ranking({len(self)} of {len(self.corpus)} documents, {self.scale}{best})"


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


def _columns(what: str, columns: Mapping[str, ArrayLike], n: int) -> dict[str, NDArray[Any]]:
    out = {name: _read_only(np.asarray(column)) for name, column in columns.items()}
    for name, column in out.items():
        if column.shape != (n,):
            raise InputError(f"{what}: column '{name}'", got=f"shape {list(column.shape)}", expected=f"[{n}], an entry per document")
    return out


def _check_answer(what: str, answer: object, kind: type, n: int, per: str) -> None:
    """A stage or scorer that answers too little would lose queries without a word."""
    if not isinstance(answer, list) or len(answer) != n or not all(isinstance(entry, kind) for entry in answer):
        got = f"{len(answer)} entries" if isinstance(answer, list) else type(answer).__name__
        raise InputError(what, got=got, expected=f"a list with {kind.__name__} for each of the {n} {per}")


class Stage(ABC):
    """Ranking in, ranking out. A new stage implements `apply`; callers use `run` (a batch) or call the stage (one query)."""

    retrieves: bool = False  # True: needs no candidates
    backend: str = "numpy"  # what runs it: shown by repr, trace and benchmarks

    @property
    def name(self) -> str:
        return type(self).__name__

    @abstractmethod
    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        """One ranking per query; `rankings` is None only where `retrieves`. The trace is the Pipeline's business."""

    def late(self, rankings: Sequence[Ranking]) -> list[Ranking] | None:
        """What passes, with its facts, where the deadline came before the stage's turn; None: it runs all the same, the form needs it."""
        return None

    @final
    def run(
        self, queries: Sequence[str | Query], rankings: Sequence[Ranking] | None = None, *, deadline_ms: float | None = None
    ) -> list[Ranking]:
        """Ranks a batch. rankings: one list of candidates per query, not needed by stages that retrieve. deadline_ms: from now on, as by
        `rr.limited`; what was not done by then is told by the trace (`Ranking.unfinished`). Raises InputError."""
        if deadline_ms is not None:
            with limited(deadline_ms=deadline_ms):
                return self.run(queries, rankings)
        if isinstance(queries, (str, Query)):
            hint = "For one query call the stage."
            raise InputError(f"{self.name}.run: queries", got="one query", expected="a sequence of them", hint=hint)
        batch = [q if isinstance(q, Query) else Query(q) for q in queries]
        if rankings is None and not self.retrieves:
            hint = "Put a retriever in front, or pass rankings."
            raise InputError(f"{self.name} re-orders candidates", got="none", expected="one Ranking per query", hint=hint)
        if rankings is not None and len(rankings) != len(batch):
            raise InputError(f"{self.name}.run", got=f"{len(batch)} queries and {len(rankings)} rankings", expected="one ranking per query")
        done = self.apply(batch, rankings) if batch else []
        _check_answer(f"{self.name}.apply", done, Ranking, len(batch), "queries")
        return done

    @final
    def __call__(
        self, query: str | Query, candidates: Ranking | Corpus | Sequence[str] | None = None, *, deadline_ms: float | None = None
    ) -> Ranking:
        """One query. candidates: a Ranking, or a Corpus or texts that stand in their given order. deadline_ms: as for `run`."""
        if deadline_ms is not None:
            with limited(deadline_ms=deadline_ms):
                return self(query, candidates)
        if candidates is not None and not isinstance(candidates, Ranking):
            candidates = Ranking.in_order(candidates if isinstance(candidates, Corpus) else Corpus.from_texts(candidates))
        return Pipeline(self).run([query], None if candidates is None else [candidates])[0]

    @final
    def __rshift__(self, other: Stage) -> Pipeline:
        return Pipeline(self, other)

    def __repr__(self) -> str:
        return self.name


@final
class Pipeline(Stage):
    """Stages one after the other; `a >> b >> c` is Pipeline(a, b, c). Writes the trace. `Stage.late`: after a deadline."""

    def __init__(self, *stages: Stage) -> None:
        self.stages: tuple[Stage, ...] = ()
        for stage in stages:
            if isinstance(stage, Pipeline):
                self.stages += stage.stages
            elif isinstance(stage, Stage):
                self.stages += (stage,)
            else:
                hint = "Wrap it: Rescore(scorer)." if isinstance(stage, Scorer) else ""
                raise InputError("Pipeline", got=type(stage).__name__, expected="stages", hint=hint)
        if not self.stages:
            raise InputError("Pipeline", got="no stage", expected="at least one")
        for stage in self.stages[1:]:
            if stage.retrieves:
                got, hint = f"{stage.name}, which retrieves and would throw the list before it away", "To join two lists: Fuse(a, b)."
                raise InputError("Pipeline", got=got, expected="retrievers in the first place only", hint=hint)
        self.retrieves = self.stages[0].retrieves
        self.backend = "+".join(dict.fromkeys(stage.backend for stage in self.stages))

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        for stage in self.stages:
            start = time.perf_counter()
            passed = stage.late([one._with(facts={}, notes={}) for one in rankings]) if rankings and limits().out_of_time() else None
            if passed is None:
                done = stage.run(queries, rankings)
            else:
                _check_answer(f"{stage.name}.late", passed, Ranking, len(queries), "queries")
                done = [one._with(facts={**one.facts, **reach(0, 1)}) for one in passed]
            ms = 1e3 * (time.perf_counter() - start) / len(queries)
            named = (repr(stage), stage.name, stage.backend)
            rankings = [_traced(named, None if rankings is None else rankings[i], out, ms) for i, out in enumerate(done)]
        return list(rankings or [])

    def __repr__(self) -> str:
        return " >> ".join(map(repr, self.stages))


def _traced(named: tuple[str, str, str], before: Ranking | None, after: Ranking, ms: float) -> Ranking:
    """Appends the stage's step, behind the steps that ran inside it (the branches of a fusion). named: its repr, name and backend."""
    past = before.trace if before is not None else ()
    inside = after.trace[len(past) :] if after.trace[: len(past)] == past else after.trace
    own = max(0.0, ms - wall(inside, after.facts))
    step = Step(*named, len(before) if before is not None else 0, len(after), own, after.ids, after.notes, after.facts)
    return Ranking._trusted(after.ids, after.scores, after.corpus, after.scale, after.columns, (*past, *inside, step))


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a scorer says of one ranking: values float32 [n] in its order, higher is better; scale, columns and facts as in Ranking.

    Any sequence of numbers is taken. Raises InputError for another shape and for columns that have no n entries.
    """

    values: NDArray[np.float32]
    scale: str = "score"
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.ndim != 1 or (values.dtype.kind not in "fiu" and values.size):
            raise InputError("Scores: values", got=f"{values.dtype} {list(values.shape)}", expected="numbers [n]")
        with np.errstate(over="ignore"):  # infinity is Rescore's to refuse, by the document's name
            object.__setattr__(self, "values", values.astype(np.float32))
        object.__setattr__(self, "columns", _columns("Scores", self.columns, len(values)))

    @classmethod
    def in_time(cls, values: NDArray[np.float32], n: int, scale: str, columns: Mapping[str, NDArray[Any]]) -> Scores:
        """Of a scorer that looks at `limits()`: values of the first of n documents, NaN where it did not get to one."""
        if limits().deadline is None:
            return cls(values, scale, columns)
        whole = np.pad(values, (0, n - len(values)), constant_values=np.nan)
        read = ~np.isnan(whole)
        return cls(np.where(read, whole, -np.inf), scale, {**columns, "scored": read})


class Scorer(ABC):
    """A pointwise model: a score for each (query, document) pair. `Rescore(scorer)` makes it a stage."""

    backend: str = "numpy"
    timely: bool = False  # True: `score` looks at `limits()` itself, and its column `scored` says what it reached
    whole: bool = False  # True: a server hands it whole lists: scores of their parts might not compare

    @property
    def name(self) -> str:
        return type(self).__name__

    @abstractmethod
    def score(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Scores]:
        """Scores for every document of every ranking, in the rankings' order. The whole batch is handed over, to be batched well."""

    def __rshift__(self, other: Stage) -> Pipeline:
        raise InputError(">>", got=f"{self.name}, a scorer", expected="stages", hint="Wrap it: Rescore(scorer) >> ...")

    def __repr__(self) -> str:
        return self.name


@final
class Rescore(Stage):
    """Re-orders the first `depth` documents by the scorer; the rest keep their old order, with synthetic scores just below the head's.

    A score of -inf (nothing to compare) becomes the lowest float32 and ranks last; NaN and +inf raise NonFiniteError.

    Under a deadline the head is read from the top, any scorer being asked for a few documents at a time (see limits.pieces). What it did
    not reach keeps its old order behind what it did, and the column `scored` tells them apart; old scores stay where it reached nothing.
    """

    def __init__(self, scorer: Scorer, depth: int = 100) -> None:
        if not isinstance(scorer, Scorer):
            raise InputError("Rescore", got=type(scorer).__name__, expected="a Scorer, such as rr.load('ms-marco-MiniLM-L-12-v2')")
        self.scorer, self.depth = scorer, count("Rescore: depth", depth)

    @property
    def name(self) -> str:
        return self.scorer.name

    @property
    def backend(self) -> str:  # type: ignore[override]
        return self.scorer.backend

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        assert rankings is not None
        heads = [ranking.head(self.depth) for ranking in rankings]
        whole = self.scorer.timely or limits().deadline is None
        scores = self._score(queries, heads) if whole else self._in_waves(queries, heads)
        return [self._merge(ranking, entry) for ranking, entry in zip(rankings, scores)]

    def late(self, rankings: Sequence[Ranking]) -> list[Ranking]:
        return [ranking._with(columns={**ranking.columns, "scored": np.zeros(len(ranking), bool)}) for ranking in rankings]

    def _score(self, queries: Sequence[Query], heads: Sequence[Ranking]) -> list[Scores]:
        scores = self.scorer.score(queries, heads)
        _check_answer(f"{self.name}.score", scores, Scores, len(heads), "rankings")
        for entry, head in zip(scores, heads):
            if len(entry.values) != len(head):
                raise InputError(f"{self.name}.score", got=f"{len(entry.values)} scores", expected=f"{len(head)}, one for each document")
        return scores

    def _in_waves(self, queries: Sequence[Query], heads: Sequence[Ranking]) -> list[Scores]:
        told: list[list[Scores]] = [[] for _ in heads]
        for part in pieces(max([1, *map(len, heads)]), max(1, WAVE // max(1, len(heads)))):  # an empty head tells its scale and columns
            here = [i for i, head in enumerate(heads) if len(head) > part.start or not part.start]
            wave = self._score([queries[i] for i in here], [heads[i]._pick(part) for i in here])
            for i, entry in zip(here, wave):
                told[i].append(entry)
        return [_joined(entries, head) for entries, head in zip(told, heads)]

    def _merge(self, ranking: Ranking, scores: Scores) -> Ranking:
        n, values = min(len(ranking), self.depth), scores.values
        if (bad := np.flatnonzero(np.isnan(values) | (values == np.inf))).size:
            doc = ranking.corpus[int(ranking.ids[bad[0]])].id
            raise NonFiniteError(f"{self.name}: score of document '{doc}'", got=f"{values[bad[0]]}", expected="a finite score")
        values = np.maximum(values, LOWEST)
        scored = np.asarray(scores.columns.get("scored", np.ones(n, bool)), bool)  # False: time was up before its turn
        read, unread = np.flatnonzero(scored), np.flatnonzero(~scored)
        order = read[np.lexsort((ranking.ids[read], -values[read].astype(np.float64)))]
        if not len(order) and n:  # nothing was reached in time
            return self.late([ranking])[0]._with(facts=reach(0, n))
        places = np.concatenate([order, unread, np.arange(n, len(ranking))])
        columns = {name: column[places] for name, column in ranking.columns.items()}
        for name, column in scores.columns.items():  # the rest keeps what was known of it, but not that another scorer had scored it
            keeps = name in columns and name != "scored"
            known = columns[name][len(order) :] if keeps else np.zeros(len(ranking) - n, column.dtype)
            columns[name] = np.concatenate([column[places[: len(ranking) - len(known)]], known])
        if "scored" in columns and "scored" not in scores.columns:
            columns["scored"] = np.arange(len(ranking)) < n
        made = with_tail(values[order], len(ranking) - len(order))
        facts = {**scores.facts, **reach(len(order), n)}
        return ranking._with(ids=ranking.ids[places], scores=made, scale=scores.scale, columns=columns, facts=facts)

    def __repr__(self) -> str:
        return f"Rescore({self.scorer!r}, depth={self.depth})"


def _joined(entries: Sequence[Scores], head: Ranking) -> Scores:
    """What a scorer said of the first documents of a head, wave by wave; numbers among its facts add up."""
    rest = len(head) - sum(len(entry.values) for entry in entries)
    facts: dict[str, Any] = {}
    for entry in entries:
        for name, fact in entry.facts.items():
            adds = name in facts and isinstance(fact, (int, float)) and not isinstance(fact, bool)
            facts[name] = facts[name] + fact if adds else fact
    waves = [*((len(entry.values), entry.columns) for entry in entries), (rest, {})]
    columns = {"scored": np.arange(len(head)) < len(head) - rest, **stacked(waves)}
    values = np.concatenate([*(entry.values for entry in entries), np.full(rest, -np.inf, np.float32)])
    return Scores(values, entries[0].scale if entries else head.scale, columns, facts)


def stacked(waves: Sequence[tuple[int, Mapping[str, NDArray[Any]]]]) -> dict[str, NDArray[Any]]:
    """The columns of waves of so many documents, one behind the other; zeros for a wave that has not got one."""
    kinds = {name: column.dtype for _, columns in waves for name, column in columns.items()}
    return {name: np.concatenate([columns.get(name, np.zeros(n, kind)) for n, columns in waves]) for name, kind in kinds.items()}


def with_tail(head: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """Falling scores float32, and behind them n synthetic ones just below, for documents that only keep their order."""
    floor = float(head[-1]) if len(head) else 0.0
    below = floor - (1 + np.arange(n)) * max(abs(floor), 1.0) * 2.0**-20
    return np.concatenate([head, np.maximum(below, LOWEST).astype(np.float32)])


@final
class Top(Stage):
    """Keeps the best n."""

    def __init__(self, n: int) -> None:
        self.n = count("Top: n", n)

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        assert rankings is not None
        return [ranking.head(self.n) for ranking in rankings]

    def __repr__(self) -> str:
        return f"Top({self.n})"
