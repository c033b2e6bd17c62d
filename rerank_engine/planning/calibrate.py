"""Times each stage on this machine, over data that ships with the package, and fits what it costs: `rerank-engine calibrate`.

Every stage runs as a pipeline of its own, query text in, list out, one query at a time, at several sizes of the list, of its passages and
of the collection; the work of each run is counted from the very texts that it read. A stage whose model is not here is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codec import ResidualTokens
from ..core import Ranking, Rescore, Stage
from ..corpus import Corpus
from ..cpus import resolve_threads
from ..errors import InputError
from ..indexes import ImpactIndex, TokenIndex, VectorIndex
from ..latency.timing import Clock
from ..latency.workload import lexical, vectors
from ..packed import Packed
from ..progress import Progress
from ..stages import BM25, SPLADE, Dense, Fuse, LateInteraction, MaxSim, Similarity
from .bed import ABSENT, DISTINCT, VARIED, Bed, real_passages, rows_taken
from .costs import Costs, StageCost, Work, fit, this_machine
from .shape import SPECIAL
from .work import late_work

MODELS = {
    "cross": "ms-marco-MiniLM-L-12-v2",
    "dense": "bge-small-en-v1.5",
    "late": "answerai-colbert-small-v1",
    "splade": "splade-tiny",
}
STORED = 3_000  # documents of an index that candidates are taken from: more than caches hold
Stages = Iterator[StageCost]


def calibrate(
    *,
    threads: int | None = None,
    quick: bool = False,
    float32: bool = False,
    models: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> Costs:
    """About a minute; quick: half of it, by fewer sizes. float32: also the cross-encoder at that precision, where its file is int8.

    threads: of the models, None: what this process may use. models: other ones for "cross", "dense", "late", "splade".
    Of the models that are not named here those that are not installed are left out. Costs.drift: how far the time of one small job, taken
    before and after the rest, has moved. progress(done, total) counts groups of stages. Raises InputError, and MissingDependency where no
    model is installed.
    """
    if unknown := sorted(set(models or {}) - set(MODELS)):
        raise InputError("calibrate: models", got=", ".join(unknown), expected="some of " + ", ".join(MODELS))
    bed = Bed(resolve_threads(threads), quick, {**MODELS, **(models or {})}, clock or Clock())
    for kind in models or {}:
        bed.model(kind)  # named: that it is missing is an error
    before = bed.pace()
    groups: list[Callable[[Bed], Stages]] = [_bm25, _dense, _splade, _cross, *([_cross_float32] if float32 else []), _late, _fuse]
    workload, found = bed.workload(), list[StageCost]()
    for done, group in enumerate(groups, 1):
        with suppress(*ABSENT):  # its model is not here: plans do without
            found += group(bed)
        if progress:
            progress(done, len(groups))
    return Costs(tuple(found), this_machine(), workload, drift=round(abs(bed.pace() / before - 1), 4))


def _bm25(bed: Bed) -> Stages:
    sizes = [(2_000, 150), (20_000, 60), (20_000, 150), (200_000, 150)][: 3 if bed.quick else 4]
    stages = [(BM25(lexical(n, tokens).index(), k=1000), n, tokens) for n, tokens in sizes]
    settings = [bed.searches("bm25", *stage, rounds=5, short=short) for stage in stages for short in (False, True)]
    yield fit("bm25", ("fixed", "query_token", "corpus"), settings, backend=stages[0][0].backend, threads=1, searched=sizes[-1][0])


def _dense(bed: Bed) -> Stages:
    encoder = bed.model("dense")
    told: dict[str, Any] = {"model": encoder.model, "precision": "", "threads": bed.threads}
    stages = [(Dense(_vectors(n), encoder, k=1000, threads=bed.threads), n) for n in (1_000, 10_000, 50_000)[: 2 if bed.quick else 3]]
    settings = [bed.searches("dense", stage, n, 1.0) for stage, n in stages]
    yield fit("dense", ("fixed", "query_token", "corpus"), settings, backend=stages[0][0].backend, searched=stages[-1][1], **told)
    index = VectorIndex(bed.corpus, vectors(len(bed.corpus)))
    settings = []
    for depth in (10, DISTINCT):
        work = [Work(query_token=float(q), document=depth) for q in bed.asked]
        settings.append(bed.runs(Rescore(Similarity(index, encoder, threads=bed.threads), depth), work, bed.lists(1, depth, len(work))))
    yield fit("vectors", ("fixed", "query_token", "document"), settings, backend=encoder.backend, **told)


def _vectors(n: int) -> VectorIndex:
    return VectorIndex(Corpus.from_texts([""] * n), vectors(n))


def _splade(bed: Bed) -> Stages:
    encoder, settings = bed.model("splade"), []
    for n in (1_000, 4_000, 16_000)[: 2 if bed.quick else 3]:
        stage = _sparse(bed, n)
        settings.append(bed.searches("splade", stage, n, 1.0))
    told: dict[str, Any] = {"model": encoder.model, "precision": "", "threads": bed.threads}
    yield fit("splade", ("fixed", "query_token", "corpus"), settings, backend=stage.backend, searched=n, **told)


def _sparse(bed: Bed, n: int) -> SPLADE:
    """Over n documents, real passages over and over."""
    texts = real_passages()[:VARIED]
    return SPLADE(ImpactIndex.build(Corpus.from_texts([texts[i % VARIED] for i in range(n)]), bed.sparse), bed.model("splade"), k=1000)


def _cross(bed: Bed) -> Stages:
    yield _pairs(bed, "auto")


def _cross_float32(bed: Bed) -> Stages:
    if bed.model("cross").runtime.batch_sensitive:  # else "auto" is float32 already
        yield _pairs(bed, "float32")


def _pairs(bed: Bed, precision: str) -> StageCost:
    """Lists of several lengths; the longer, the fewer queries."""
    model, settings = bed.model("cross", precision), []
    named = "int8" if model.runtime.batch_sensitive else "float32"
    for group, depth, n in ((0, 5, 8), (1, 5, 8), (0, 20, 6), (1, 20, 4), (2, 10, 4), (0, 60, 3), (1, 60, 3))[: 5 if bed.quick else 7]:
        lists, work = bed.lists(group, depth, n), []
        for q, ranking in zip(bed.asked.tolist(), lists):
            pair = np.minimum(bed.tokens[ranking.ids] + q + SPECIAL, model.tokenizer.max_length).astype(np.float64)
            work.append(Work(float(q), depth, float(pair.sum()), float((pair**2).sum())))
        settings.append(bed.runs(Rescore(model, depth), work, lists, rounds=1))
    terms = ("fixed", "document", "token", "square")
    return fit("cross", terms, settings, model=model.model, precision=named, backend=model.backend, threads=bed.threads)


def _late(bed: Bed) -> Stages:
    encoder = bed.model("late")
    rows, codes = bed.late_tokens
    told: dict[str, Any] = {"model": encoder.model, "threads": bed.threads}
    for precision in ("2bit", "float16"):
        settings = []
        for group, depth in ((0, 15), (0, 100), (1, 15), (1, 100), (2, 100)):
            taken = bed.repeated(group, STORED // (group + 1))
            index = _tiled(codes, taken) if precision == "2bit" else _float16(rows, taken)
            lists = [
                Ranking.in_order(index.corpus, np.random.default_rng(i).permutation(len(taken))[:depth]) for i in range(len(bed.asked))
            ]
            work = [Work(float(q), depth, float(bed.tokens[taken[row.ids]].sum())) for q, row in zip(bed.asked, lists)]
            settings.append(bed.runs(Rescore(MaxSim(index, encoder), depth), work, lists, rounds=2))
        backend = MaxSim(index, encoder).backend
        yield fit("maxsim", ("fixed", "query_token", "document", "token"), settings, precision=precision, backend=backend, **told)
    settings, stage = [], None
    # The last is the one whose centroids are probed: without it a larger corpus would be anybody's guess.
    for group, n in ((0, 1_000), (2, 2_000), (0, 20_000)) if bed.quick else ((0, 1_000), (1, 1_000), (2, 2_000), (1, 4_000), (0, 20_000)):
        stage = LateInteraction(_tiled(codes, bed.repeated(group, n)), encoder, k=1000)
        mean = float(bed.tokens[group * DISTINCT : (group + 1) * DISTINCT].mean())
        settings.append(bed.runs(stage, [late_work(n, mean, float(q), len(codes.codec.centroids)) for q in bed.asked], rounds=2))
    assert stage is not None
    yield fit("late", ("fixed", "query_token", "token", "corpus"), settings, precision="2bit", backend=stage.backend, searched=n, **told)


def _late_interaction(bed: Bed, n: int) -> LateInteraction:
    """Over n documents of middling length, in 2-bit codes."""
    return LateInteraction(_tiled(bed.late_tokens[1], bed.repeated(1, n)), bed.model("late"), k=1000)


def _tiled(codes: ResidualTokens, taken: NDArray[np.int64]) -> TokenIndex:
    """The documents of these rows, each with memory of its own, as those of a real index have."""
    at, offsets = rows_taken(codes.offsets, taken)
    many = ResidualTokens(codes.codec, codes.centroid_ids[at], codes.residuals[at], codes.inverse_norms[at], offsets)
    return TokenIndex.from_residual_tokens(many, Corpus.from_texts([""] * len(taken)))


def _float16(rows: Packed, taken: NDArray[np.int64]) -> TokenIndex:
    return TokenIndex.from_embeddings(Corpus.from_texts([""] * len(taken)), rows.take(taken), storage="float16")


def _fuse(bed: Bed) -> Stages:
    """Beside the branches' own times, which are taken here too: what is added, and what running side by side saves or costs.

    Each index has a corpus of its own, as one that was opened from a file has: documents are then found by their ids."""
    n, others = 2_000, list[Stage]()
    bm25, dense = BM25(lexical(n).index(), k=1000), Dense(_vectors(n), bed.model("dense"), k=1000, threads=bed.threads)
    for made in (_sparse, _late_interaction):
        with suppress(*ABSENT):
            others.append(made(bed, n))
    sets: list[list[Stage]] = [[bm25, dense], *([first, own] for own in others for first in (bm25, dense)), [bm25, dense, *others]]
    settings = []
    for chosen in sets:
        alone = np.sum([[ms for _, ms in bed.runs(stage, [Work()] * len(bed.queries), rounds=1)] for stage in chosen], axis=0)
        listed = [sum(len(row) for row in (stage.run([query])[0] for stage in chosen[1:])) for query in bed.queries]
        work = [Work(document=count, branch=float(ms)) for count, ms in zip(listed, alone)]
        settings.append(bed.runs(Fuse(*chosen, top=1000), work))
    yield fit("fuse", ("fixed", "document", "branch"), settings, backend=Fuse(bm25, dense).backend, threads=bed.threads)
