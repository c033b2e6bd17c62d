"""What `calibrate` times stages on: models, passages, questions, lists, and the work of each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..codec import ResidualCodec, ResidualTokens
from ..core import Pipeline, Query, Ranking, Rescore, Stage
from ..corpus import Corpus
from ..errors import BackendUnavailable, MissingDependency, ModelError
from ..indexes import BM25Index
from ..latency.timing import Clock, timed
from ..latency.workload import passages, queries
from ..packed import Packed
from ..runtimes import load
from ..runtimes.base import Runtime
from ..stages import BM25, SparseEncoder
from .costs import Setting, Work
from .shape import Shape, lengths, variation
from .work import work_of

ABSENT = (MissingDependency, ModelError, BackendUnavailable)
LENGTHS = (60, 150, 300)  # tokens of passages
DISTINCT = 60  # passages of each length; larger collections repeat them
VARIED = 300  # real passages that collections for learned sparse search repeat: lists are as long as the terms' frequency says
ASKED, SEEN = 50, 20  # questions and places of their lists that tell how much lengths vary


@dataclass(eq=False)
class Bed:
    """names: which model of each kind; clock: injected by tests."""

    threads: int
    quick: bool
    names: Mapping[str, str]
    clock: Clock
    models: dict[tuple[str, str], Any] = field(default_factory=dict)

    def model(self, kind: str, precision: str = "auto") -> Any:
        if (kind, precision) not in self.models:
            self.models[kind, precision] = load(self.names[kind], device="cpu", threads=self.threads, precision=precision)
        return self.models[kind, precision]

    @cached_property
    def tokenizer(self) -> Any:
        """Of whichever model is there: lengths are told in its word pieces."""
        for kind in self.names:
            with suppress(*ABSENT):
                return self.model(kind).tokenizer
        raise MissingDependency("calibrate: no model is installed to count tokens with", hint="pip install rerank-engine[demo]")

    @cached_property
    def queries(self) -> list[Query]:
        return [Query(text) for text in queries(10 if self.quick else 20)]

    @cached_property
    def asked(self) -> NDArray[np.int64]:
        """int64 [queries]: their tokens."""
        return np.maximum(lengths(self.tokenizer, [query.text for query in self.queries]), 1)

    @cached_property
    def short(self) -> list[Query]:
        """The second halves of their words: what people type into a search box."""
        return [Query(" ".join(words[len(words) // 2 :])) for words in (query.text.split() for query in self.queries)]

    @cached_property
    def corpus(self) -> Corpus:
        """DISTINCT passages of each of LENGTHS, one group after the other."""
        return Corpus.from_texts([text for tokens in LENGTHS for text in passages(DISTINCT, tokens)])

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """int64 [passages]: their tokens."""
        return lengths(self.tokenizer, self.corpus.texts())

    @cached_property
    def late_tokens(self) -> tuple[Packed, ResidualTokens]:
        """Of `corpus` by the late-interaction model: as they are, and in 2-bit codes."""
        rows = self.model("late").encode_documents(self.corpus.texts())[0]
        return rows, ResidualTokens.encode(rows, ResidualCodec.train(rows.values, 2, 512 if self.quick else 2048, iterations=1))

    @cached_property
    def sparse(self) -> SparseEncoder:
        """Encodes documents, each distinct one once."""
        encoder = self.model("splade")
        return SparseEncoder(cast(Runtime, Remembered(encoder.runtime)), encoder.tokenizer, name=encoder.model)

    def repeated(self, group: int, n: int) -> NDArray[np.int64]:
        """int64 [n]: rows of the passages of a group, over and over."""
        return group * DISTINCT + np.arange(n) % DISTINCT

    def lists(self, group: int, depth: int, n: int) -> list[Ranking]:
        """n lists of passages of a group at random."""
        rng = np.random.default_rng([group, depth])
        return [Ranking.in_order(self.corpus, group * DISTINCT + rng.permutation(DISTINCT)[:depth]) for _ in range(n)]

    def searches(self, stage: str, made: Stage, n: int, tokens: float, rounds: int = 3, short: bool = False) -> Setting:
        """Runs of a retriever over n documents of so many tokens, by the questions or their short forms."""
        queries = self.short if short else self.queries
        asked = np.maximum(lengths(self.tokenizer, [query.text for query in queries]), 1)
        work = [work_of(stage, Shape(n, tokens, float(q), 0.0, 0.0, 0.0)) for q in asked]
        return self.runs(made, work, rounds=rounds, queries=queries)

    def runs(
        self,
        stage: Stage,
        work: Sequence[Work],
        lists: Sequence[Ranking] | None = None,
        rounds: int = 3,
        queries: Sequence[Query] | None = None,
    ) -> Setting:
        """Runs of a stage on the first queries, with the work of each. lists: what a re-ranker is given, one a query."""
        pipeline, asked = Pipeline(stage), self.queries if queries is None else queries

        def run(i: int) -> object:
            return pipeline.run([asked[i]], None if lists is None else [lists[i]])

        ms = timed(run, range(len(work)), rounds, min(2, len(work)), clock=self.clock).wall_ms
        return [(own, float(value)) for row in ms for own, value in zip(work, row)]

    def pace(self) -> float:
        """The median ms of a small job of this machine's, the same at every call: to be taken before and after what is measured."""
        work = [Work()] * len(self.queries)
        try:
            runs = self.runs(Rescore(self.model("cross"), 5), work, self.lists(0, 5, len(work)), rounds=1)
        except ABSENT:
            runs = self.runs(BM25(BM25Index.build(self.corpus)), work)
        return float(np.median([ms for _, ms in runs]))

    def workload(self) -> dict[str, float]:
        """How lengths vary in what ships with the package: real questions, and the real passages that BM25 finds for them."""
        corpus = Corpus.from_texts(real_passages())
        asked = queries(ASKED)
        found = BM25(BM25Index.build(corpus), k=SEEN).run(asked)
        return variation(lengths(self.tokenizer, asked), [lengths(self.tokenizer, row.corpus.texts(row.ids)) for row in found])


def real_passages() -> list[str]:
    """The demo's passages as they are, of their own lengths."""
    from ..demo import DATA
    from ..evaluation import load_beir

    return load_beir(DATA).corpus.texts()


class Remembered:
    """A runtime that runs each distinct sequence once, for collections that repeat a few passages."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._known = runtime, dict[bytes, NDArray[np.float32]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def run(self, ids: Packed, types: Packed, output: str, attended: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        keys = [row.tobytes() for row in ids]
        if fresh := [i for i, key in enumerate(keys) if key not in self._known]:
            rows = np.array(fresh)
            made = self._runtime.run(ids.take(rows), types.take(rows), output, attended if attended is None else attended[rows])
            self._known |= zip((keys[i] for i in fresh), made)
        return np.stack([self._known[key] for key in keys])


def rows_taken(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(places int64 [total] of the values of these rows, their own offsets)"""
    taken = Packed(np.arange(offsets[-1]), offsets).take(rows)
    return taken.values, taken.offsets
