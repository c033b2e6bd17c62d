"""How latency grows: `python -m benchmarks.scaling_curves [--quick]` prints JSON. One thread unless threads are the axis.

Axes: candidates, tokens a document, documents of the corpus, queries a batch, threads. Each curve is a stage of ours; a point is the median
wall-clock time of calls as they come, with its quartiles. A cost model is fitted to each (`rerank_engine.planning.costs.fit`): ms = fixed +
the sum of its terms. error: how far the points lie from it, relative, root mean square (`StageCost.error`). Along threads the term is
1 / threads: fixed is what does not divide.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks import cross, cross_models, harness, late
from rerank_engine import CrossEncoder, VectorIndex, load, ops
from rerank_engine.cpus import available_cpus
from rerank_engine.errors import MissingDependency
from rerank_engine.indexes.documents import NumberedCorpus
from rerank_engine.latency import workload
from rerank_engine.latency.prepare import forgetful
from rerank_engine.packed import Packed
from rerank_engine.planning.costs import StageCost, Work, fit

PLAIN = ("fixed", "document")
EQUALLY = (10, 25, 40, 50, 60, 75, 90)  # percentiles that stand for a point in the fit, whose calls are the fewer the longer they take
Point = tuple[float, Work, Callable[[], Any]]


@dataclass(frozen=True)
class Curve:
    """A stage along an axis. points: (x, what is asked of the stage there, the call); terms: of its cost model; threads: at most."""

    axis: str
    stage: str
    terms: tuple[str, ...]
    points: Iterator[Point]
    threads: int = 1
    more: dict[str, Any] = field(default_factory=dict)


def measured(call: Callable[[], Any], seconds: float) -> tuple[list[float], float]:
    """(wall ms of each call, 5 at least and for `seconds`; median ms of processor time). One call before, not timed."""
    call()
    wall, cpu, end = list[float](), list[float](), time.perf_counter() + seconds
    while len(wall) < 5 or (time.perf_counter() < end and len(wall) < 200):
        begin, used = time.perf_counter(), time.process_time()
        call()
        cpu.append((time.process_time() - used) * 1e3)
        wall.append((time.perf_counter() - begin) * 1e3)
    return wall, float(np.median(cpu))


def row(curve: Curve, seconds: float) -> dict[str, Any]:
    xs, quartiles, cpu, settings = list[float](), list[list[float]](), list[float](), list[list[tuple[Work, float]]]()
    for x, work, call in curve.points:
        wall, used = measured(call, seconds)
        xs.append(x)
        quartiles.append([round(float(v), 5) for v in np.percentile(wall, [25, 50, 75])])
        cpu.append(round(used, 5))
        settings.append([(work, float(ms)) for ms in np.percentile(wall, EQUALLY)])
        harness.note(f"{curve.axis}, {curve.stage}: {x:g}: {quartiles[-1][1]:.4g} ms")
    model = fit(curve.stage, curve.terms, settings, backend="", threads=curve.threads)
    return {
        "axis": curve.axis,
        "stage": curve.stage,
        "threads": curve.threads,
        "x": xs,
        "wall_ms": quartiles,
        "cpu_ms": cpu,
        "model": told(model, curve.terms),
        "predicted_ms": [round(model.ms(own[0][0]), 5) for own in settings],
        **curve.more,
    }


def told(model: StageCost, terms: Sequence[str]) -> dict[str, float]:
    names = ["fixed_ms" if term == "fixed" else f"per_{term}_ms" for term in terms]
    return {**{name: float(f"{getattr(model, name):.4g}") for name in names}, "error": round(model.error, 4)}


def curves(quick: bool) -> Iterator[Curve]:
    encoder = cross_encoder()
    yield from candidates(1000 if quick else 10_000, encoder, 30 if quick else 300)
    yield from lengths(200 if quick else 1000, encoder)
    yield from corpora(100_000 if quick else 1_000_000)
    yield from batches(10_000 if quick else 100_000, encoder)
    yield from threads(10_000 if quick else 100_000)


def cross_encoder(threads: int = 1) -> CrossEncoder | None:
    try:
        found = load(cross_models.NAME, threads=threads, device="cpu")
    except MissingDependency as error:
        harness.note(f"skipped: the cross-encoder ({error})")
        return None
    assert isinstance(found, CrossEncoder)
    return forgetful(found)


def candidates(most: int, encoder: CrossEncoder | None, most_pairs: int) -> Iterator[Curve]:
    sizes = [n for n in (10, 30, 100, 300, 1000, 3000, 10_000) if n <= most]
    case, rng = late.Case(most), np.random.default_rng(0)
    codes = case.compressed(2)
    vectors = late.unit(rng.normal(size=(most, 384)) + 0.5)
    firsts = {n: np.arange(n) for n in sizes}
    packed = {n: Packed(case.values[: case.offsets[n]], case.offsets[: n + 1]) for n in sizes}

    def scored(n: int) -> Any:
        return ops.residual_maxsim(case.query, codes, firsts[n], num_threads=1)

    lists = {n: np.stack([rng.permutation(3 * n // 2)[:n] for _ in range(2)])[None] for n in sizes}
    terms = ("fixed", "document", "corpus")  # a product with the query for each centroid that is met, then a sum for each token
    points = ((n, Work(document=n, corpus=met(case, n, len(codes.codec.centroids))), lambda n=n: scored(n)) for n in sizes)
    yield Curve("candidates", "MaxSim, 2-bit codes", terms, points, more={"units": {"per_corpus_ms": "centroid met"}})
    calls: dict[str, Callable[[int], Any]] = {
        "MaxSim, float32": lambda n: ops.maxsim(case.query, packed[n], num_threads=1),
        "RRF of 2 lists": lambda n: ops.fuse(lists[n]),
        "MMR, 10 picks": lambda n: ops.mmr(None, vectors[:n], 10, query=vectors[0]),
    }
    for stage, call in calls.items():
        points = ((n, Work(document=n), lambda n=n, call=call: call(n)) for n in sizes)
        yield Curve("candidates", stage, PLAIN, points)
    if encoder is not None:
        given = pairs(most_pairs)
        some = [n for n in sizes if n <= most_pairs]
        note = {"note": f"a CPU takes too long beyond {most_pairs} pairs for a curve"}
        points = ((n, Work(document=n), lambda n=n: encoder.predict(given[:n])) for n in some)
        yield Curve("candidates", "cross-encoder, 150 tokens", PLAIN, points, more=note)


def met(case: late.Case, n: int, centroids: int) -> float:
    """How many centroids the tokens of n documents lie at, if each is as likely as the others."""
    return float(centroids * -np.expm1(case.offsets[n] * np.log1p(-1 / centroids)))


def pairs(n: int, tokens: int = 150) -> list[tuple[str, str]]:
    return [(workload.queries(1)[0], text) for text in workload.passages(n, tokens)]


def lengths(documents: int, encoder: CrossEncoder | None) -> Iterator[Curve]:
    rng, query = np.random.default_rng(0), late.unit(np.random.default_rng(1).normal(size=(32, 128)))
    values = late.unit(rng.standard_normal((documents * 512, 128), np.float32))

    def scored(length: int) -> Callable[[], Any]:
        packed = Packed(values[: documents * length], np.arange(documents + 1) * length)
        return lambda: ops.maxsim(query, packed, num_threads=1)

    points = ((n, Work(token=n * documents), scored(n)) for n in (16, 32, 64, 128, 256, 512))
    yield Curve("length", f"MaxSim, float32, {documents} documents", ("fixed", "token"), points)
    if encoder is not None:
        yield Curve("length", "cross-encoder, 10 pairs", ("fixed", "token", "square"), pairs_by_length(encoder))


def pairs_by_length(encoder: CrossEncoder, n: int = 10) -> Iterator[Point]:
    tokenizer = cross_models.models().tokenizer
    for tokens in (16, 32, 64, 128, 256, 450):
        given = pairs(n, tokens)
        read = cross.pair_lengths(tokenizer, given)
        work = Work(document=n, token=float(read.sum()), square=float((read * read).sum()))
        yield float(read.mean()), work, lambda given=given: encoder.predict(given)


def corpora(most: int) -> Iterator[Curve]:
    sizes = [n for n in (1000, 10_000, 100_000, 1_000_000) if n <= most]
    # What is left of postings when blocks are skipped grows more slowly than the corpus (see planning.work).
    units = {"per_document_ms": "document found", "per_corpus_ms": "documents ^ 0.4"}
    yield Curve("corpus", "BM25, 1,000 best", ("fixed", "document", "corpus"), lexical(sizes), more={"units": units})
    yield Curve("corpus", "vectors, exact, 100 best", ("fixed", "corpus"), nearest(sizes))


def lexical(sizes: Sequence[int]) -> Iterator[Point]:
    for n in sizes:
        data = workload.lexical(n, n_queries=50)
        index, asked = data.index(), [data.analyze(text) for text in data.queries]
        found = np.mean([len(rows) for rows, _ in index.search(asked, 1000)])
        yield n, Work(document=float(found), corpus=n**0.4), in_turn(asked, 1, lambda some, index=index: index.search(some, 1000))


def in_turn(asked: Sequence[Any], n: int, call: Callable[[Any], Any]) -> Callable[[], Any]:
    """Calls with n of them, other ones each time."""
    starts = itertools.cycle(range(0, len(asked) - n + 1, n))

    def run() -> Any:
        start = next(starts)
        return call(asked[start : start + n])

    return run


def nearest(sizes: Sequence[int]) -> Iterator[Point]:
    vectors = workload.vectors(max(sizes))
    for n in sizes:
        index = VectorIndex(NumberedCorpus(n), vectors[:n])
        yield n, Work(corpus=n), lambda index=index: index.search(vectors[:1], 100)


def batches(documents: int, encoder: CrossEncoder | None) -> Iterator[Curve]:
    sizes = (1, 4, 16, 64)
    data = workload.lexical(documents, n_queries=max(sizes))
    index, asked = data.index(), [data.analyze(text) for text in data.queries]
    vectors = workload.vectors(documents)
    dense = VectorIndex(NumberedCorpus(documents), vectors)
    of = f"of {documents:,}"
    points = ((q, Work(document=q), in_turn(asked, q, lambda some: index.search(some, 1000, threads=1))) for q in sizes)
    yield Curve("batch", f"BM25, 1,000 best {of}", PLAIN, points)
    points = ((q, Work(document=q), lambda q=q: dense.search(vectors[:q], 100)) for q in sizes)
    yield Curve("batch", f"vectors, exact, 100 best {of}", PLAIN, points)
    if encoder is not None:
        given = pairs(5 * 16)
        points = ((q, Work(document=q), lambda q=q: encoder.predict(given[: 5 * q])) for q in sizes[:3])
        yield Curve("batch", "cross-encoder, 5 pairs a query", PLAIN, points)


def threads(documents: int) -> Iterator[Curve]:
    most = available_cpus()
    if most < 2:
        return
    counts = sorted({most, *(2**i for i in range(most.bit_length()))})
    data = workload.lexical(documents, n_queries=64)
    index, asked = data.index(), [data.analyze(text) for text in data.queries]
    case, given = late.Case(1000), pairs(16)
    calls: dict[str, Callable[[int], Callable[[], Any]]] = {
        f"BM25, 64 queries, {documents:,} documents": lambda t: lambda: index.search(asked, 1000, threads=t),
        "MaxSim, float32, 1,000 documents": lambda t: lambda: ops.maxsim(case.query, case.packed, num_threads=t),
    }
    models = {t: cross_encoder(t) for t in counts}
    if models[most] is not None:
        calls["cross-encoder, 16 pairs"] = lambda t: lambda: models[t].predict(given)
    for stage, make in calls.items():
        points = ((t, Work(document=1 / t), make(t)) for t in counts)
        yield Curve("threads", stage, PLAIN, points, threads=most)


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    for curve in curves(quick):
        yield row(curve, 0.3 if quick else 3.0)


def main() -> None:
    args = harness.arguments(__doc__).parse_args()
    harness.report(lambda: rows(args.quick), True, harness.ONE_THREAD)


if __name__ == "__main__":
    main()
