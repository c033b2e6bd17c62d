"""What ours and peers are asked to do for a row of the latency table: the same input files, answers that are checked, calls that are timed.

A job writes its input into a folder once. Each side runs in a process of its own (peers/worker.py), reads it there, and answers it by
number: query 0, 1, ..., or the same again where there is one input.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import bench_trees, corpora, cross, cross_models, harness, late, lexical, oracle
from benchmarks.bench_mmr import greedy
from benchmarks.peers import OURS, Entry
from rerank_engine import BM25Index, Corpus
from rerank_engine.codec import ResidualCodec, ResidualTokens
from rerank_engine.demo import DATA
from rerank_engine.evaluation import load_beir
from rerank_engine.latency import workload
from rerank_engine.learning import TreeModel
from rerank_engine.ops import fuse
from rerank_engine.packed import Packed

Arrays = list[NDArray[Any]]
CACHE = corpora.CACHE
WORKLOAD = hashlib.sha256(Path(workload.__file__).read_bytes()).hexdigest()[:12]  # of other text, other input files


@dataclass(frozen=True)
class Checked:
    """error: the largest of a score, or the share of the right documents that is missing where `overlap`. right: whether it is timed."""

    right: bool
    error: float
    overlap: bool = False


@dataclass
class Job:
    """case: its name in rows. kind: of the peers that can do it. numbers: of inputs; checked: how many of them are held against the
    reference; rounds: how often all are timed; block: how many a side answers before the next side's turn; least_ms: a timing lasts at
    least so long, by repeating the call. root: the folder of input files."""

    case: str
    kind: str
    numbers: int = 1
    checked: int = 1
    rounds: int = 11
    block: int = 1
    least_ms: float = 5.0
    root: str = str(CACHE / "jobs")

    @property
    def folder(self) -> Path:
        return Path(self.root) / self.case

    @property
    def input(self) -> dict[str, Any]:
        """What the input files depend on."""
        return {**asdict(self), "workload": WORKLOAD}

    def write(self) -> None:
        """Into `folder`, which is there."""
        raise NotImplementedError

    def side(self, entry: Entry) -> Callable[[int], Any]:
        """In the worker: what answers by number."""
        raise NotImplementedError

    def arrays(self, entry: Entry, answer: Any) -> Arrays:
        """In the worker: what a side gave, as arrays."""
        return [np.asarray(answer)]

    def check(self, entry: Entry, number: int, given: Arrays) -> Checked:
        """In the parent: against the reference."""
        raise NotImplementedError


@dataclass
class Lexical(Job):
    """The k best of the row's collection (`workload.lexical`) for its questions."""

    kind: str = "bm25"
    documents: int = 1_000_000
    k: int = 1000

    @property
    def folder(self) -> Path:
        return Path(self.root) / f"lexical-{self.documents}"

    @property
    def input(self) -> dict[str, Any]:
        return {"documents": self.documents, "numbers": self.numbers, "workload": WORKLOAD}

    def collection(self) -> corpora.Collection:
        return corpora.read(self.folder)

    def write(self) -> None:
        data = workload.lexical(self.documents, n_queries=self.numbers)
        values, offsets, n_terms = data.documents.values, data.documents.offsets, int(data.documents.values.max()) + 1
        df = corpora.document_frequencies(values, offsets, n_terms)
        asked = [sorted(set(data.analyze(text))) for text in data.queries]
        for name, array in (("tokens", values), ("offsets", offsets), ("df", df)):
            np.save(self.folder / f"{name}.npy", array)
        (self.folder / "queries.json").write_text(json.dumps({"real": asked}))

    def side(self, entry: Entry) -> Callable[[int], Any]:
        collection, peer = self.collection(), entry.make()()
        peer.name = entry.name
        lexical.prepare(peer, collection, self.folder / f"{entry.name}-{version(entry.package)}")
        asked = [peer.ask(query) for query in collection.queries["real"]]
        self._peer = peer
        return lambda number: peer.search(asked[number], self.k)

    def arrays(self, entry: Entry, answer: Any) -> Arrays:
        return list(self._peer.answer(answer))

    @cached_property
    def _reference(self) -> tuple[list[list[int]], oracle.Oracle]:
        collection = self.collection()
        queries = collection.queries["real"][: self.checked]
        return queries, oracle.Oracle(collection, queries)

    def check(self, entry: Entry, number: int, given: Arrays) -> Checked:
        queries, checker = self._reference
        scores, answer = checker.scores(queries[number]), (given[0], given[1])
        if entry.make().exact:
            want = oracle.best(scores, self.k)
            error = float(np.abs(answer[1][: len(want[1])] - want[1]).max(initial=0)) if len(answer[1]) >= len(want[1]) else math.inf
            return Checked(oracle.is_exact(answer, scores, self.k, ordered=entry.name == OURS), error)
        share = oracle.overlap(answer, scores, self.k)
        return Checked(share >= lexical.MIN_OVERLAP, 1 - share, overlap=True)


@dataclass
class Vectors(Job):
    """The k nearest of n vectors (`workload.vectors`), exactly."""

    kind: str = "vectors"
    documents: int = 1_000_000
    k: int = 100

    def write(self) -> None:
        np.save(self.folder / "vectors.npy", workload.vectors(self.documents))
        np.save(self.folder / "queries.npy", workload.vectors(self.numbers, seed=1))

    def side(self, entry: Entry) -> Callable[[int], Any]:
        search, queries = entry.make()(np.load(self.folder / "vectors.npy")), np.load(self.folder / "queries.npy")
        return lambda number: search(queries[number], self.k)

    def arrays(self, entry: Entry, answer: Any) -> Arrays:
        return [np.asarray(values) for values in answer]

    def check(self, entry: Entry, number: int, given: Arrays) -> Checked:
        vectors, query = np.load(self.folder / "vectors.npy", mmap_mode="r"), np.load(self.folder / "queries.npy")[number]
        scores = np.concatenate([np.asarray(vectors[i : i + 50_000], np.float64) @ query for i in range(0, len(vectors), 50_000)])
        rows = np.lexsort((np.arange(len(scores)), -scores))[: self.k]
        return Checked(harness.same_ranking(given, (rows, scores[rows]), entry.error), _apart(given[1], scores[rows]))


@dataclass
class MaxSim(Job):
    """One query of 32 tokens with ragged documents (`late.Case`), float32."""

    kind: str = "maxsim"
    documents: int = 1000

    @cached_property
    def made(self) -> late.Case:
        return late.Case(self.documents)

    def write(self) -> None:
        np.savez(self.folder / "tokens.npz", query=self.made.query, values=self.made.values, offsets=self.made.offsets)

    def side(self, entry: Entry) -> Callable[[int], Any]:
        stored = np.load(self.folder / "tokens.npz")
        call = entry.make()(stored["query"], Packed(stored["values"], stored["offsets"]))
        return lambda number: call()

    def check(self, entry: Entry, number: int, given: Arrays) -> Checked:
        return _scored(entry, given[0], self.made.exact)


@dataclass
class Residual(MaxSim):
    """The same over residual codes, the products of query and centroids computed in the call."""

    kind: str = "residual"
    nbits: int = 2

    def write(self) -> None:
        tokens = self.made.compressed(self.nbits)
        names = ("centroids", "bucket_cutoffs", "bucket_weights")
        codec = {name: getattr(tokens.codec, name) for name in names}
        codes = {name: getattr(tokens, name) for name in ("centroid_ids", "residuals", "inverse_norms", "offsets")}
        np.savez(self.folder / "codes.npz", query=self.made.query, **codec, **codes)

    def tokens(self) -> tuple[NDArray[np.float32], ResidualTokens]:
        stored = np.load(self.folder / "codes.npz")
        codec = ResidualCodec(stored["centroids"], stored["bucket_cutoffs"], stored["bucket_weights"])
        codes = [stored[name] for name in ("centroid_ids", "residuals", "inverse_norms", "offsets")]
        return stored["query"], ResidualTokens(codec, *codes)

    def side(self, entry: Entry) -> Callable[[int], Any]:
        call = entry.make()(*self.tokens())
        return lambda number: call()

    @cached_property
    def _exact(self) -> NDArray[np.float64]:
        _, tokens = self.tokens()
        return self.made.reference(tokens.codec.decode(tokens.centroid_ids, tokens.residuals))

    def check(self, entry: Entry, number: int, given: Arrays) -> Checked:
        return _scored(entry, given[0], self._exact)


@dataclass
class CrossEncoder(Job):
    """A call with the row's passages of 150 tokens behind one question, tokenisation included; another number: another question.

    `near` of the passages answer the question or are what BM25 finds for it, as a first stage's do, so that scores spread and a wrong one
    shows; the others are any.
    """

    pairs: int = 100
    near: float = 0.5
    least_ms: float = 0.0

    def write(self) -> None:
        models = cross_models.models()
        collection = load_beir(DATA)
        texts, queries = workload.passages(len(collection.corpus)), workload.queries(self.numbers)
        ids, index = {query.text: query.id for query in collection.queries}, BM25Index.build(Corpus.from_texts(texts))
        given = []
        for i, query in enumerate(queries):
            own = [collection.corpus.row(doc_id) for doc_id in collection.qrels[ids[query] or ""]]
            found = index.search([query], self.pairs)[0][0].tolist()
            near = list(dict.fromkeys([*own, *found]))[: round(self.near * self.pairs)]
            rest = np.setdiff1d(np.arange(len(texts)), near)
            drawn = np.random.default_rng(i).choice(rest, self.pairs - len(near), replace=False).tolist()
            given.append([(query, texts[row]) for row in [*near, *drawn]])
        told = {"int8": str(models.int8), "fp32": str(models.fp32), "pairs": given}
        (self.folder / "pairs.json").write_text(json.dumps(told))

    @cached_property
    def told(self) -> tuple[cross_models.Models, list[cross.Pairs]]:
        told = json.loads((self.folder / "pairs.json").read_text())
        given = [[(query, text) for query, text in pairs] for pairs in told["pairs"]]
        return cross_models.Models(Path(told["int8"]), Path(told["fp32"])), given

    def side(self, entry: Entry) -> Callable[[int], Any]:
        models, given = self.told
        score = entry.make()(models)
        return lambda number: score(given[number])

    @cached_property
    def _reference(self) -> cross.Score:
        from benchmarks.peers import with_onnxruntime

        found: cross.Score = getattr(with_onnxruntime, self.kind)(self.told[0])
        return found

    def check(self, entry: Entry, number: int, given: Arrays) -> Checked:
        if number not in (known := self.__dict__.setdefault("_known", {})):
            known[number] = self._reference(self.told[1][number])
        return _scored(entry, given[0].reshape(-1), known[number])


@dataclass
class Fuse(Job):
    """RRF of 2 lists of 1,000 documents, of which two thirds are in both."""

    kind: str = "fuse"

    def write(self) -> None:
        rng = np.random.default_rng(0)
        np.save(self.folder / "lists.npy", np.stack([rng.permutation(1500)[:1000] for _ in range(2)])[None])

    def side(self, entry: Entry) -> Callable[[int], Any]:
        call = entry.make()(np.load(self.folder / "lists.npy"))
        return lambda number: call()

    def arrays(self, entry: Entry, answer: Any) -> Arrays:
        if entry.name != OURS:
            from benchmarks.peers import with_ranx

            answer = with_ranx.answer(answer)
        return [np.asarray(values) for values in answer[0]]

    def check(self, entry: Entry, number: int, given: Arrays) -> Checked:
        want = fuse(np.load(self.folder / "lists.npy"), backend="reference")[0]
        return Checked(harness.same_ranking(given, want, entry.error), _apart(given[1], want[1]))


@dataclass
class Mmr(Job):
    """10 of 1,000 vectors, the first of which resemble the query."""

    kind: str = "mmr"
    k: int = 10

    def write(self) -> None:
        rng = np.random.default_rng(0)
        vectors = late.unit(rng.normal(size=(1000, 384)) + rng.normal(size=384))
        np.savez(self.folder / "vectors.npz", vectors=vectors, query=late.unit(vectors[:5].mean(0)))

    def read(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        stored = np.load(self.folder / "vectors.npz")
        return stored["query"], stored["vectors"]

    def side(self, entry: Entry) -> Callable[[int], Any]:
        call = entry.make()(*self.read(), self.k, 0.5)
        return lambda number: call()

    def check(self, entry: Entry, number: int, given: Arrays) -> Checked:
        right = greedy(given[0].tolist(), *self.read(), self.k)
        return Checked(right, 0.0 if right else math.inf)


@dataclass
class Ltr(Job):
    """1,000 documents by a LambdaMART model of 100 trees of 31 leaves, LightGBM's text; needs lightgbm to make it."""

    kind: str = "ltr"

    def write(self) -> None:
        _, train, documents = bench_trees.data()
        (self.folder / "model.txt").write_text(bench_trees.lightgbm_text(train))
        np.save(self.folder / "documents.npy", documents)

    def read(self) -> tuple[str, NDArray[np.float64]]:
        return (self.folder / "model.txt").read_text(), np.load(self.folder / "documents.npy")

    def side(self, entry: Entry) -> Callable[[int], Any]:
        call = entry.make()(*self.read())
        return lambda number: call()

    @cached_property
    def want(self) -> NDArray[np.float64]:
        text, documents = self.read()
        return TreeModel.parse(text).score(documents, backend="reference")

    def check(self, entry: Entry, number: int, given: Arrays) -> Checked:
        error = _apart(given[0], self.want)
        return Checked(error <= entry.error, error)


def _scored(entry: Entry, got: NDArray[Any], want: NDArray[Any]) -> Checked:
    """Held to the entry's error and, where that is wide, to its share of the ten best."""
    error = _apart(got, want)
    if error > entry.error:
        return Checked(False, error)
    best, found = (set(np.argsort(-np.asarray(scores), kind="stable")[:10].tolist()) for scores in (want, got))
    share = len(best & found) / len(best)
    return Checked(True, error) if share >= entry.best else Checked(False, 1 - share, overlap=True)


def _apart(got: NDArray[Any], want: NDArray[Any]) -> float:
    """The largest difference; infinite for another shape."""
    return float(np.abs(np.asarray(got, np.float64) - want).max(initial=0)) if np.shape(got) == np.shape(want) else math.inf
