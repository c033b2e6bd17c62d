"""Scores from centroids alone: every backend against float64."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import backends
from tolerances import assert_close

import rerank_engine as rr
from rerank_engine.errors import BackendUnavailable, FileFormatError, InputError, NonFiniteError
from rerank_engine.ops import centroid_maxsim, centroid_scores, residual_maxsim

LENGTHS = [3, 0, 1, 40, 15, 16, 17, 200]
EVERY = pytest.mark.parametrize("backend", backends("centroid"))


def unit(n: int, dim: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def tokens(n_centroids: int = 50, lengths: list[int] = LENGTHS) -> rr.ResidualTokens:
    codec = rr.ResidualCodec(unit(n_centroids, 32, 1), np.zeros(1, np.float32), np.array([-0.1, 0.1], np.float32))
    packed = rr.Packed(unit(sum(lengths), 32, 2), np.cumsum([0, *lengths]))
    return rr.ResidualTokens.encode(packed, codec)


def want(table: np.ndarray, documents: rr.ResidualTokens, rows: list[int], weights: np.ndarray) -> list[float]:
    """By loops."""
    scores = []
    for row in rows:
        ids = documents.centroid_ids[documents.offsets[row] : documents.offsets[row + 1]]
        best = [max((float(table[id, i]) for id in ids), default=-np.inf) for i in range(len(weights))]
        scores.append(sum(float(w) * b for w, b in zip(weights, best)) if len(ids) else -np.inf)
    return scores


@EVERY
@pytest.mark.parametrize("n_tokens", [1, 15, 16, 17, 32, 33, 70])
@pytest.mark.parametrize("n_centroids", [50, 70_000])  # ids of 16 and of 32 bits
def test_against_loops(backend: str, n_tokens: int, n_centroids: int) -> None:
    documents, query = tokens(n_centroids), unit(n_tokens, 32, 3)
    table, rows = centroid_scores(query, documents.codec.centroids), [7, 0, 1, 2, 7, 3, 4, 5, 6]
    weights = np.linspace(-1, 2, n_tokens).astype(np.float32)
    for w in (None, weights):
        got = [centroid_maxsim(table, documents, rows, query_weights=w, num_threads=n, backend=backend) for n in (1, 4)]
        assert got[0].dtype == np.float32 and (got[0] == got[1]).all()
        exact = np.array(want(table, documents, rows, np.ones(n_tokens) if w is None else w))
        empty = np.isneginf(exact)
        assert np.isneginf(got[0][empty]).all()
        assert_close("centroid", got[0][~empty], exact[~empty])
    assert (centroid_maxsim(table, documents, backend=backend)[rows] == centroid_maxsim(table, documents, rows, backend=backend)).all()


@EVERY
def test_it_is_maxsim_where_residuals_are_zero(backend: str) -> None:
    documents = tokens()
    bare = rr.ResidualCodec(documents.codec.centroids, np.zeros(1, np.float32), np.zeros(2, np.float32))
    ones = np.ones(len(documents.centroid_ids), np.float32)
    documents = rr.ResidualTokens(bare, documents.centroid_ids, documents.residuals, ones, documents.offsets)
    query = unit(20, 32, 3)
    got = centroid_maxsim(centroid_scores(query, bare.centroids), documents, backend=backend)
    np.testing.assert_allclose(got, residual_maxsim(query, documents, precision="float32"), rtol=1e-5)


@EVERY
def test_negative_maxima_count(backend: str) -> None:
    documents = tokens()
    table = -np.abs(np.random.default_rng(0).standard_normal((50, 32))).astype(np.float32) - 1
    got = centroid_maxsim(table, documents, query_weights=np.ones(4), backend=backend)
    assert (got <= -4)[np.diff(documents.offsets) > 0].all()


@EVERY
def test_what_is_wrong_is_said(backend: str) -> None:
    documents = tokens()
    table = centroid_scores(unit(4, 32, 3), documents.codec.centroids)
    for given, match in (
        (table[:-1], r"\[49, 32\]"),
        (table[:, :4], r"\[50, 4\]"),
        (table[0], "2 dimensions"),
        (table[:, :0], r"\[50, 0\]"),
    ):
        with pytest.raises(InputError, match=match):
            centroid_maxsim(given, documents, backend=backend)
    with pytest.raises(NonFiniteError, match="nan at"):
        centroid_maxsim(np.where(table == table[0, 0], np.nan, table), documents, backend=backend)
    with pytest.raises(InputError, match="33 weights"):
        centroid_maxsim(table, documents, query_weights=np.ones(33), backend=backend)
    with pytest.raises(InputError, match="row 8"):
        centroid_maxsim(table, documents, [8], backend=backend)
    with pytest.raises(InputError, match="ResidualTokens"):
        centroid_maxsim(table, rr.Packed(np.zeros((2, 32), np.float32), [0, 2]), backend=backend)
    with pytest.raises(NonFiniteError, match="document 0: got a score beyond float32"):
        centroid_maxsim(np.full_like(table, 3e38), documents, backend=backend)
    documents.centroid_ids[5] = 50
    with pytest.raises(FileFormatError, match="number of centroids, 50"):
        centroid_maxsim(table, documents, backend=backend)
    with pytest.raises(BackendUnavailable):
        centroid_maxsim(table, documents, backend="metal")
