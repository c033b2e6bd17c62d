"""The same answers as the libraries that people use today. Needs the extra [peers]; what is not installed is skipped."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import backends
from tolerances import assert_same_order

from rerank_engine.ops import bm25, fuse, mmr
from rerank_engine.ops.bm25 import VARIANTS, BM25Parameters
from rerank_engine.ops.postings import Segment
from rerank_engine.packed import Packed

WEIGHTS = [0.7, 0.2, -0.4, 1.5, 3.0]
# numba and ranx warn about themselves, and our filter makes errors of warnings
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def ranx() -> ModuleType:
    return pytest.importorskip("ranx", reason="the extra [peers] is not installed")


def to_lists(run: Any) -> dict[str, tuple[list[int], list[float]]]:
    """Query -> (ids, scores) in ranx's own order of that query."""
    return {str(q): ([int(i) for i in hits], list(hits.values())) for q, hits in run.to_dict().items()}


@pytest.fixture(scope="module")
def cases(ranx):
    """(one run of ranx per list, {query: our lists}): 1,000 queries of 1 to 5 lists of 0 to 50 documents.

    Half of the queries have ties in most lists, an eighth of all lists have one score throughout. ranx sorts a list by score when it is
    built and leaves ties in an order of its own; ranks depend on it, so our lists are read back from the runs.
    """
    rng = np.random.default_rng(7)
    n_lists = {f"{q:04d}": 1 + q % len(WEIGHTS) for q in range(1000)}
    runs = []
    for which in range(len(WEIGHTS)):
        hits = {}
        for q in (q for q, n in n_lists.items() if n > which):
            n = int(rng.integers(0, 51))
            scores = rng.normal(size=n)
            scores = np.full(n, 0.1) if rng.random() < 0.125 else np.round(scores, 1) if int(q) < 500 else scores
            hits[q] = {str(i): float(s) for i, s in zip(rng.permutation(80)[:n], scores.astype(np.float32))}
        runs.append(ranx.Run({q: found for q, found in hits.items() if found}))
    lists = [to_lists(run) for run in runs]
    return runs, {q: [one.get(q, ([], [])) for one in lists[:n]] for q, n in n_lists.items()}


def with_empty_lists(run: Any, queries: Any) -> Any:
    """ranx wants every query in every run. They come after its norms, since its z-score divides by the 0 documents of an empty list."""
    from ranx.normalization.common import create_empty_results_dict

    full = type(run)()
    full.run = run.run.copy()
    for q in queries:
        if q not in full.run:
            full.run[q] = create_empty_results_dict()
    return full


def compare(queries: Any, theirs: Any, scale: float, weights: Any = None, **options: Any) -> None:
    want = to_lists(theirs)
    for backend in backends("fuse"):
        for n in range(1, len(WEIGHTS) + 1):
            names = [q for q, lists in queries.items() if len(lists) == n]
            found = fuse([queries[q] for q in names], weights=weights and weights[:n], backend=backend, **options)
            for q, (ids, scores) in zip(names, found, strict=True):
                ranked = sorted(zip(*want[q]), key=lambda hit: (-hit[1], hit[0]))
                assert len(ids) == len(ranked)
                assert_same_order(ids, scores, [i for i, _ in ranked], [s for _, s in ranked], "fuse", scale)


def test_rrf_equals_ranx(ranx, cases):
    runs, queries = cases
    compare(queries, ranx.fusion.rrf([with_empty_lists(run, queries) for run in runs], k=60), scale=0)


@pytest.mark.parametrize(("norm", "theirs"), [("z-score", "zmuv"), ("min-max", "min-max")])
def test_weighted_sum_equals_ranx(ranx, cases, norm, theirs):
    runs, queries = cases
    normed = [with_empty_lists(ranx.normalization.norm_switch(theirs)(run), queries) for run in runs]
    compare(queries, ranx.fusion.wsum(normed, WEIGHTS), scale=sum(map(abs, WEIGHTS)), method="sum", norm=norm, weights=WEIGHTS)


@pytest.mark.parametrize(("norm", "theirs"), [("z-score", "zmuv"), ("min-max", "min-max")])
def test_mnz_equals_ranx(ranx, cases, norm, theirs):
    runs, queries = cases
    normed = [ranx.normalization.norm_switch(theirs)(run) for run in runs]
    for n in range(1, len(WEIGHTS) + 1):  # its mnz counts the lists of a run that hold a document, so that none may be empty for it
        full = [with_empty_lists(run, queries) for run in normed[:n]]
        part = {q: lists for q, lists in queries.items() if len(lists) == n}
        compare(part, ranx.fusion.comb_mnz(full), scale=len(WEIGHTS) ** 2, method="mnz", norm=norm)


def test_mmr_equals_langchain():
    utils = pytest.importorskip("langchain_core.vectorstores.utils", reason="the extra [peers] is not installed")
    rng = np.random.default_rng(0)
    for n, d, bias in [(1, 8, 0), (50, 16, 0), (300, 384, 1)]:
        vectors = rng.normal(size=(n, d)) + bias * rng.normal(size=d)
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        query = vectors[: max(1, n // 10)].mean(axis=0)
        query /= np.linalg.norm(query)
        for lambda_ in (0.25, 0.5, 0.9):
            theirs = utils.maximal_marginal_relevance(query, list(vectors), lambda_mult=lambda_, k=30)
            assert mmr(vectors @ query, vectors, 30, lambda_=lambda_)[0].tolist() == theirs


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != "impact"])  # which is no BM25, and ours alone
@pytest.mark.parametrize(("k1", "b", "delta"), [(1.2, 0.75, None), (1.5, 0.5, 0.5), (0.9, 0.0, 1.0), (2.0, 1.0, 0.1)])
@pytest.mark.parametrize("n_docs", [2, 30, 1000])
def test_bm25_equals_bm25s(n_docs, k1, b, delta, variant):
    bm25s = pytest.importorskip("bm25s", reason="the extra [peers] is not installed")
    rng = np.random.default_rng(n_docs)
    n_terms = 3 * n_docs
    p = 1 / np.arange(1, n_terms + 1)
    documents = [rng.choice(n_terms, int(n), p=p / p.sum()).tolist() for n in rng.integers(0, 60, n_docs)]
    queries = [rng.choice(n_terms, int(n), p=p / p.sum()).tolist() for n in rng.integers(1, 8, 40)]
    parameters = BM25Parameters(variant, k1, b, delta)
    peer = bm25s.BM25(method=variant, k1=k1, b=b, delta=parameters.delta)
    peer.index((documents, {str(t): t for t in range(n_terms)}), show_progress=False)
    for backend in backends("bm25"):
        index = Segment.build(Packed.from_rows(documents, np.int32), n_terms, backend=backend)
        hits = bm25(Packed.from_rows(queries, np.int32), index, n_docs, parameters=parameters, backend=backend)
        for query, (rows, scores) in zip(queries, hits):
            theirs = peer.get_scores(query)
            assert sorted(rows.tolist()) == [i for i, document in enumerate(documents) if set(document) & set(query)]
            np.testing.assert_allclose(scores, theirs[rows], rtol=1e-5, atol=1e-12)
