"""certified_top: bit for bit the first of all scored, on a thousand random lists and on lists made to mislead it."""

from __future__ import annotations

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine.codec import ResidualCodec, ResidualTokens
from rerank_engine.errors import InputError, NonFiniteError
from rerank_engine.ops.certified import certified_top, token_norms
from rerank_engine.ops.maxsim import maxsim, quantize_int8
from rerank_engine.ops.residual import residual_maxsim
from rerank_engine.ops.topk import topk


def a_case(seed: int) -> tuple[rr.Packed, np.ndarray, int]:
    """Documents of tokens near a few topics; some equal, some empty; queries of up to 64 tokens near topics."""
    rng = np.random.default_rng(seed)
    dim, n = int(rng.choice([8, 16, 32])), int(rng.integers(1, 60))
    topics = rng.normal(size=(int(rng.integers(2, 12)), dim))
    spread = float(rng.choice([0.05, 0.3, 1.0]))
    rows = []
    for _ in range(n):
        near = topics[rng.integers(0, len(topics), int(rng.integers(0, 25)))]
        rows.append(near + spread * rng.normal(size=near.shape))
    for i in rng.integers(0, n, n // 4):
        rows[i] = rows[0]
    rows = [(row / np.maximum(np.linalg.norm(row, axis=1, keepdims=True), 1e-9)).astype(np.float32) for row in rows]
    q = topics[rng.integers(0, len(topics), int(rng.integers(1, 65)))]
    q = q + spread * rng.normal(size=q.shape)
    return rr.Packed.from_rows(rows), (q / np.linalg.norm(q, axis=1, keepdims=True)).astype(np.float32), int(rng.integers(1, 15))


def want(scores: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept = scores > -np.inf
    return topk(scores[kept], k, ids=rows[kept])


def test_a_thousand_random_lists() -> None:
    saved = 0
    for seed in range(1000):
        packed, query, k = a_case(seed)
        rows = np.arange(len(packed))
        ids, scores = want(maxsim(query, packed), k, rows)
        got = certified_top(query, packed, k, norms=token_norms(packed))
        assert got.rows.tolist() == ids.tolist() and got.scores.tobytes() == scores.tobytes(), seed
        assert 0 <= got.work_saved < 1 and (got.certified or got.work_saved == 0)
        saved += got.work_saved > 0
    assert saved > 30


@pytest.mark.parametrize("nbits", (1, 2, 4))
def test_residual_codes(nbits: int) -> None:
    saved = 0
    for seed in range(150):
        packed, query, k = a_case(seed)
        if seed % 5 == 0:  # long enough for tables
            rng = np.random.default_rng(seed)
            topics, lengths = rng.normal(size=(30, 64)), rng.integers(0, 60, 200)
            x = topics[rng.integers(0, 30, lengths.sum())] + 0.5 * rng.normal(size=(lengths.sum(), 64))
            x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
            packed, query = rr.Packed(x, np.concatenate([[0], lengths.cumsum()])), x[rng.integers(0, len(x), 40)]
        if len(packed.values) < 50:
            continue
        tokens = ResidualTokens.encode(packed, ResidualCodec.train(packed.values, nbits, 8, backend="numpy", iterations=2))
        ids, scores = want(residual_maxsim(query, tokens, precision="float32"), k, np.arange(len(packed)))
        got = certified_top(query, tokens, k)
        assert got.rows.tolist() == ids.tolist() and got.scores.tobytes() == scores.tobytes(), seed
        saved += got.certified and got.work_saved > 0.5
    assert saved > 20


def test_int8_half_rows_weights_and_masks() -> None:
    for seed in range(60):
        packed, query, k = a_case(seed)
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(packed))[: int(rng.integers(1, len(packed) + 1))]
        weights, mask = rng.normal(size=len(query)).astype(np.float32), rng.random(len(query)) < 0.8
        values, scales = (
            quantize_int8(packed.values) if len(packed.values) else (np.empty(packed.values.shape, np.int8), np.empty(0, np.float32))
        )
        for tokens, scale in (
            (rr.Packed(values, packed.offsets), scales),
            (rr.Packed(packed.values.astype(np.float16), packed.offsets), None),
        ):
            options = {"query_weights": weights, "query_mask": mask, "scales": scale}
            scores = maxsim(query, tokens, rows, **options)
            ids, best = want(scores, k, rows)
            for norms in (None, token_norms(tokens, scale)):
                got = certified_top(query, tokens, k, rows, norms=norms, num_threads=2, **options)
                assert got.rows.tolist() == ids.tolist() and got.scores.tobytes() == best.tobytes(), seed


def test_the_last_query_tokens_may_decide() -> None:
    """Documents that lag behind until the last 16 query tokens lift them to the top: they must not have been dropped."""
    query = np.concatenate([np.repeat([[1.0, 0.0]], 48, 0), np.repeat([[0.0, 1.0]], 16, 0)]).astype(np.float32)
    leading = [np.array([[0.70, -0.71]], np.float32)] * 12
    lagging = [np.array([[0.60, -0.80], [0.0, 1.0]], np.float32)] * 3
    packed = rr.Packed.from_rows(leading + lagging)
    got = certified_top(query, packed, 3, norms=token_norms(packed))
    assert got.rows.tolist() == [12, 13, 14]


def test_no_query_token_counts() -> None:
    packed = rr.Packed.from_rows([np.ones((2, 4), np.float32)] * 3)
    for query, mask in ((np.empty((0, 4)), None), (np.ones((2, 4)), [False, False])):
        got = certified_top(query, packed, 2, query_mask=mask)
        assert got.rows.tolist() == [0, 1] and got.scores.tolist() == [0, 0]
        assert maxsim(query, packed, query_mask=mask).tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [1e-25, 1e-3, 1e18])
def test_tokens_of_any_size(size: float) -> None:
    """Squares of their numbers may be beyond float32."""
    rng = np.random.default_rng(0)
    packed = rr.Packed((rng.normal(size=(2000, 16)) * size).astype(np.float32), np.arange(0, 2001, 10))
    query = rng.normal(size=(40, 16)).astype(np.float32)
    norms = token_norms(packed)
    assert (norms > 0).all() and np.isfinite(norms).all()
    ids, scores = want(maxsim(query, packed), 5, np.arange(200))
    got = certified_top(query, packed, 5, norms=norms)
    assert got.rows.tolist() == ids.tolist() and got.scores.tobytes() == scores.tobytes()


def test_ties_and_query_tokens_that_weigh_nothing() -> None:
    """Equal documents, and a tail that cannot tell them apart: the bound then meets the k-th best exactly."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rows = [row / np.linalg.norm(row, axis=1, keepdims=True) for row in rng.normal(size=(12, 5, 8)).astype(np.float32)]
        packed = rr.Packed.from_rows([rows[i] for i in rng.integers(0, 12, 120)])
        query, weights = rng.normal(size=(40, 8)).astype(np.float32), np.r_[np.ones(16), np.zeros(24)].astype(np.float32)
        ids, scores = want(maxsim(query, packed, query_weights=weights), 9, np.arange(120))
        got = certified_top(query, packed, 9, query_weights=weights, norms=token_norms(packed))
        assert got.rows.tolist() == ids.tolist() and got.scores.tobytes() == scores.tobytes(), seed
    assert got.certified


def test_bounds_that_are_no_numbers_drop_nothing() -> None:
    rng = np.random.default_rng(1)
    centroids = rng.normal(size=(4, 8)).astype(np.float32) * np.float32(1e19)
    codec = ResidualCodec(centroids, [0.0], [-1e18, 1e18])
    ids, codes = rng.integers(0, 4, 4000).astype(np.uint16), rng.integers(0, 256, (4000, 1)).astype(np.uint8)
    tokens = ResidualTokens(codec, ids, codes, codec.inverse_norms(ids, codes), np.arange(0, 4001, 20))
    query = rng.normal(size=(8, 8)).astype(np.float32)
    query[3] = 0
    best, scores = want(residual_maxsim(query, tokens, precision="float32"), 4, np.arange(200))
    got = certified_top(query, tokens, 4)
    assert got.rows.tolist() == best.tolist() and got.scores.tobytes() == scores.tobytes()


def test_what_is_not_finite_is_named_by_its_row() -> None:
    rows = [np.empty((0, 4), np.float32)] * 5 + [np.ones((2, 4), np.float32)] * 5
    rows[7] = np.full((1, 4), np.nan, np.float32)
    with pytest.raises(NonFiniteError, match="document 7"):
        certified_top(np.ones((2, 4)), rr.Packed.from_rows(rows), 2, norms=np.ones(10))
    tokens = rr.Packed.from_rows([np.full((1, 2), 3e37, np.float32)] * 4)  # partial sums beyond float32, whole ones within
    query, weights = np.ones((32, 2), np.float32), np.r_[np.ones(16), -np.ones(16)].astype(np.float32)
    assert certified_top(query, tokens, 1, query_weights=weights).scores.tolist() == [0.0]
    with pytest.raises(NonFiniteError):
        certified_top(query, tokens, 1)


def test_bad_input_is_refused() -> None:
    packed, query = rr.Packed.from_rows([np.ones((2, 4), np.float32)]), np.ones((3, 4), np.float32)
    with pytest.raises(InputError, match="norms"):
        certified_top(query, packed, 1, norms=[1.0, 2.0])
    with pytest.raises(InputError, match="k"):
        certified_top(query, packed, 0)
    with pytest.raises(InputError, match="tokens"):
        certified_top(query, [np.ones((2, 4))], 1)
    with pytest.raises(InputError, match="row 7"):
        certified_top(query, packed, 1, [7])
    broken = rr.Packed.from_rows([np.full((2, 4), np.nan, np.float32)] * 30)
    with pytest.raises(NonFiniteError):
        certified_top(np.ones((40, 4)), broken, 1, norms=np.ones(30))
