"""`seconds`: how long an op may take. What it did not get to then is told apart, and what it did get to is as ever."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from conftest import backends

import rerank_engine as rr
from rerank_engine.codec import ResidualCodec, ResidualTokens
from rerank_engine.ops.bm25 import BM25Parameters, Part, Searcher
from rerank_engine.ops.certified import certified_top, token_norms
from rerank_engine.ops.maxsim import quantize_int8
from rerank_engine.ops.postings import Segment

RNG = np.random.default_rng(5)
LENGTHS = RNG.integers(0, 9, 400)
LENGTHS[:3] = 0, 1, 8
VALUES = RNG.normal(size=(int(LENGTHS.sum()), 16)).astype(np.float32)
DOCUMENTS = rr.Packed(VALUES, np.concatenate([[0], np.cumsum(LENGTHS)]))
QUERY = RNG.normal(size=(20, 16)).astype(np.float32)
SOON = [0.0, -1.0, 1e-9, 2e-5, 1e-4, 60.0, math.inf]


@pytest.fixture(scope="module")
def codes() -> Any:
    return ResidualTokens.encode(DOCUMENTS, ResidualCodec.train(VALUES, 2, n_centroids=16))


def partial(given: Any, whole: Any, seconds: float) -> None:
    """NaN, or the score that it always has."""
    late = np.isnan(given)
    assert given[~late].tobytes() == whole[~late].tobytes()
    assert late.all() if seconds <= 0 else not late.any() if seconds >= 60 else True


@pytest.mark.parametrize("seconds", SOON)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("backend", backends("maxsim"))
def test_maxsim(backend: str, threads: int, seconds: float) -> None:
    int8, scales = quantize_int8(VALUES)
    for documents, more in ((DOCUMENTS, {}), (list(DOCUMENTS), {}), (rr.Packed(int8, DOCUMENTS.offsets), {"scales": scales})):
        options: dict[str, Any] = {"num_threads": threads, "backend": backend, **more}
        partial(rr.ops.maxsim(QUERY, documents, seconds=seconds, **options), rr.ops.maxsim(QUERY, documents, **options), seconds)


@pytest.mark.parametrize("seconds", SOON)
@pytest.mark.parametrize("precision", ["int16", "uint8", "float32"])
@pytest.mark.parametrize("backend", backends("residual"))
def test_residual_maxsim(backend: str, precision: str, seconds: float, codes: Any) -> None:
    options: dict[str, Any] = {"precision": precision, "backend": backend, "num_threads": 2}
    partial(rr.ops.residual_maxsim(QUERY, codes, seconds=seconds, **options), rr.ops.residual_maxsim(QUERY, codes, **options), seconds)


@pytest.mark.parametrize("seconds", SOON)
@pytest.mark.parametrize("backend", backends("centroid"))
def test_centroid_maxsim(backend: str, seconds: float, codes: Any) -> None:
    table = rr.ops.centroid_scores(QUERY, codes.codec.centroids)
    whole = rr.ops.centroid_maxsim(table, codes, backend=backend)
    partial(rr.ops.centroid_maxsim(table, codes, seconds=seconds, backend=backend), whole, seconds)


@pytest.mark.parametrize("seconds", SOON)
def test_certified_top(seconds: float, codes: Any) -> None:
    """Rows that were scored in full, with the scores that they have; a proof only where all was done."""
    for tokens, whole in ((DOCUMENTS, rr.ops.maxsim(QUERY, DOCUMENTS)), (codes, rr.ops.residual_maxsim(QUERY, codes, precision="float32"))):
        norms = token_norms(DOCUMENTS) if tokens is DOCUMENTS else None
        found, full = certified_top(QUERY, tokens, 7, norms=norms, seconds=seconds), certified_top(QUERY, tokens, 7, norms=norms)
        assert found.scores.tobytes() == whole[found.rows].tobytes() and (np.diff(found.scores) <= 0).all()
        if found.reached is None:
            assert found.rows.tolist() == full.rows.tolist() and seconds > 0
        else:
            assert len(found.rows) == found.reached and not found.certified and seconds < 60 and (seconds > 0 or not found.reached)


@pytest.mark.parametrize("seconds", SOON)
@pytest.mark.parametrize("by_query", [False, True])
@pytest.mark.parametrize("backend", backends("mmr"))
def test_mmr(backend: str, by_query: bool, seconds: float) -> None:
    vectors, given = VALUES[:200], {"relevance": None, "query": QUERY[0]} if by_query else {"relevance": VALUES[:200, 0]}
    relevance = given.pop("relevance")
    full = rr.ops.mmr(relevance, vectors, 50, backend=backend, **given)
    rows, values = rr.ops.mmr(relevance, vectors, 50, seconds=seconds, backend=backend, **given)
    n = len(rows)
    assert rows.tolist() == full[0][:n].tolist() and values.tobytes() == full[1][:n].tobytes()
    assert n == 0 if seconds <= 0 else n == 50 if seconds >= 60 else n <= 50


@pytest.mark.parametrize("seconds", SOON)
@pytest.mark.parametrize("weights", [None, [1.0, -0.5, 2.0]], ids=["windows", "all"])
@pytest.mark.parametrize("backend", backends("bm25"))
def test_bm25_finds_the_best_of_the_rows_that_it_got_to(backend: str, weights: list[float] | None, seconds: float) -> None:
    n, rng = 30_000 if backend == "cpp" else 300, np.random.default_rng(2)
    rows = [rng.integers(0, 40, 6) for _ in range(n)]
    parts = [
        Part(Segment.build(rr.Packed.from_rows([row.astype(np.int32) for row in half], np.int32), 40))
        for half in (rows[: n // 2], rows[n // 2 :])
    ]
    searcher = Searcher(parts, BM25Parameters(), backend)
    terms, offsets = np.array([[3, 5, 8, 3, 5, 8]] * 2, np.int32), np.array([0, 3, 6])
    w = None if weights is None else np.array(weights * 2, np.float32)
    hits, reached = searcher.search_reached(terms, offsets, 20, w, seconds=seconds)
    for (ids, scores), got_to in zip(hits, reached):
        there = np.arange(n) < got_to
        [whole] = searcher.search(terms[:, :3], offsets[:2], 20, weights=None if w is None else w[:3], filter=there)
        assert ids.tolist() == whole[0].tolist() and scores.tobytes() == whole[1].tobytes()
        assert got_to == 0 if seconds <= 0 else got_to == n if seconds >= 60 else 0 <= got_to <= n
