"""residual_maxsim: every backend, width, path and instruction set against decoded float64, its bounds, and what must be refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import backends
from tolerances import allowed

import rerank_engine as rr
from rerank_engine import _native
from rerank_engine.codec import ResidualCodec, ResidualTokens, pack
from rerank_engine.errors import FileFormatError, InputError, NonFiniteError
from rerank_engine.ops.residual import centroid_scores, residual_maxsim, residual_maxsim_explained

BACKENDS = backends("residual")
PRECISIONS = ("int16", "uint8", "float32")
LENGTHS = [0, 1, 2, 3, 7, 8, 9, 12, 13, 17, 0, 33, 64, 130]


def unit(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    x = rng.normal(size=(n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def made(nbits: int, dim: int, *, k: int = 40, lengths: Any = LENGTHS, seed: int = 0) -> ResidualTokens:
    """Tokens near centroids, with buckets of the size of their residuals."""
    rng = np.random.default_rng(seed)
    centroids, total = unit(rng, k, dim), int(sum(lengths))
    residuals = rng.normal(size=(total, dim)) * 0.6 / np.sqrt(dim)
    tokens = centroids[rng.integers(0, k, total)] + residuals
    tokens = (tokens / np.linalg.norm(tokens, axis=1, keepdims=True)).astype(np.float32)
    steps = np.arange(1 << nbits) / (1 << nbits)
    codec = ResidualCodec(centroids, np.quantile(residuals, steps[1:]), np.quantile(residuals, steps + 0.5 / (1 << nbits)))
    return ResidualTokens.encode(rr.Packed(tokens, np.concatenate([[0], np.cumsum(lengths)])), codec)


def brute(query: np.ndarray, tokens: ResidualTokens) -> np.ndarray:
    """float64 over centroid + weight, divided by its own length: nothing of the codec's decoding is used but its bits."""
    codec, out = tokens.codec, []
    bits = np.unpackbits(tokens.residuals, axis=1).reshape(len(tokens.residuals), tokens.dim, codec.nbits)
    codes = (bits * (1 << np.arange(codec.nbits))).sum(2)
    sums = codec.centroids[tokens.centroid_ids.astype(int)].astype(np.float64) + codec.bucket_weights[codes]
    decoded = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    for a, b in zip(tokens.offsets, tokens.offsets[1:]):
        out.append((query.astype(np.float64) @ decoded[a:b].T).max(1).sum() if b > a else -np.inf)
    return np.array(out)


def assert_scores(got: np.ndarray, want: np.ndarray, query: np.ndarray, precision: str) -> None:
    empty = np.isneginf(want)
    assert got.dtype == np.float32 and (np.isneginf(got) == empty).all()
    scale = 2.0 * float(np.linalg.norm(query.astype(np.float64), axis=1).sum())
    error = np.abs(got[~empty] - want[~empty])
    limit = allowed("residual", want[~empty], scale, np.float32)
    if precision != "float32":  # the bound is stated for 32 query tokens
        limit = limit + allowed("residual", want[~empty], scale, precision) * max(1.0, len(query) / 32)
    assert (error <= limit).all(), error.max()


@pytest.mark.parametrize("precision", ("auto", *PRECISIONS))
@pytest.mark.parametrize("nbits", (1, 2, 4))
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("q", "dim"), [(1, 8), (5, 24), (32, 128), (33, 64), (70, 96), (32, 384)])
def test_like_decoded_tokens(backend: str, nbits: int, precision: str, q: int, dim: int) -> None:
    tokens, query = made(nbits, dim), unit(np.random.default_rng(dim + q), q, dim)
    want, products = brute(query, tokens), centroid_scores(query, tokens.codec.centroids)
    for given in (None, products, products[:, :q]):
        got = residual_maxsim_explained(query, tokens, centroid_scores=given, precision=precision, backend=backend)
        assert_scores(got.scores, want, query, "int16" if precision == "auto" else precision)
        live = want > -np.inf
        room = allowed("residual", want[live], 2.0 * q, np.float32)
        assert (np.abs(got.scores[live] - want[live]) <= got.bounds[live] + room).all()  # the bound that is told holds


@pytest.mark.parametrize("isa", _native.usable_isas())
@pytest.mark.parametrize("nbits", (1, 2, 4))
def test_every_instruction_set_and_path(isa: str, nbits: int) -> None:
    for dim, q in ((128, 32), (16, 40), (130, 3), (384, 32)):
        if dim * nbits % 8:
            continue
        tokens, query = made(nbits, dim, k=300), unit(np.random.default_rng(dim), q, dim)
        want, codec = brute(query, tokens), tokens.codec
        rows = tokens.offsets[:-1].copy(), tokens.lengths
        for path in ("decode", "lookup16", "lookup8", *(["dot8"] if nbits == 4 and isa == "avx512vnni" else [])):
            for ids in (tokens.centroid_ids, tokens.centroid_ids.astype(np.int32)):
                for given in (None, _native.centroid_scores(query, codec.centroids, 1, isa)):
                    got, bad, bounds, ran, n, _ = _native.residual_maxsim(
                        query, np.ones(q, np.float32), codec.centroids, codec.bucket_weights, codec.radius, ids, tokens.residuals,
                        tokens.inverse_norms, *rows, given, path, 1, isa,
                    )  # fmt: skip
                    assert bad == len(tokens) and ran == path and n == sum(LENGTHS)
                    assert_scores(got, want, query, {"decode": "float32", "lookup16": "int16"}.get(path, "uint8"))
                    live = want > -np.inf
                    assert (np.abs(got[live] - want[live]) <= bounds[live] + allowed("residual", want[live], 2.0 * q, np.float32)).all()


def test_the_path_follows_the_size_of_the_list() -> None:
    tokens, query = made(2, 128, k=64, lengths=[100] * 60), unit(np.random.default_rng(1), 32, 128)
    assert residual_maxsim_explained(query, tokens, [0]).path == "decode"
    whole = residual_maxsim_explained(query, tokens)
    assert whole.path == "lookup16" and whole.tokens == 6000 and whole.centroids == 64
    assert residual_maxsim_explained(query, tokens, precision="float32").path == "decode"
    wide = made(2, 128, k=4000, lengths=[100] * 60)
    touched = residual_maxsim_explained(query, wide)
    assert touched.path == "lookup16" and touched.centroids == len(np.unique(wide.centroid_ids)) < 4000
    products = centroid_scores(query, wide.codec.centroids)
    assert residual_maxsim_explained(query, wide, centroid_scores=products).centroids == 0


def aligned(nbits: int, dim: int, n: int = 200) -> tuple[np.ndarray, ResidualTokens, np.ndarray]:
    """(query, documents of one token, decoded scores): query tokens of +-1, and codes that go the same way in every dimension, so that all
    entries of the tables are at their largest and their rounding adds up."""
    rng = np.random.default_rng(dim + nbits)
    query = (rng.choice([-1.0, 1.0], (3, dim)) / np.sqrt(dim)).astype(np.float32)
    steps = (np.arange(1 << nbits) - ((1 << nbits) - 1) / 2) / (1 << nbits) + 0.013
    codec = ResidualCodec(np.full((2, dim), 1e-3, np.float32), steps[1:] - 0.5 / (1 << nbits), steps)
    codes = np.where(rng.random((n, dim)) < np.linspace(0.5, 1, n)[:, None], query[:1] > 0, query[:1] < 0) * ((1 << nbits) - 1)
    residuals, ids = pack(codes.astype(np.uint8), nbits), np.zeros(n, np.uint16)
    norms = np.linspace(0.5, 3, n).astype(np.float32)  # of any length: the bound grows with it
    tokens = ResidualTokens(codec, ids, residuals, norms, np.arange(n + 1))
    return query, tokens, residual_maxsim(query, tokens, backend="reference").astype(np.float64)


@pytest.mark.parametrize("isa", _native.usable_isas())
@pytest.mark.parametrize(("nbits", "dim"), [(1, 128), (2, 128), (4, 128), (2, 512), (4, 258), (4, 384), (4, 512), (4, 1024), (4, 4096)])
@pytest.mark.parametrize("weights", [(1, 1, 1), (1, -2, 0)])
def test_the_bound_holds_where_rounding_adds_up(isa: str, nbits: int, dim: int, weights: tuple[int, ...]) -> None:
    query, tokens, _ = aligned(nbits, dim)
    w, codec = np.array(weights, np.float32), tokens.codec
    want = residual_maxsim(query, tokens, query_weights=w, backend="reference")
    tight = 0.0
    for path in ("lookup16", "lookup8", *(["dot8"] if nbits == 4 and isa == "avx512vnni" else [])):
        got, bad, bounds, ran, _, _ = _native.residual_maxsim(
            query, w, codec.centroids, codec.bucket_weights, codec.radius, tokens.centroid_ids, tokens.residuals, tokens.inverse_norms,
            tokens.offsets[:-1].copy(), tokens.lengths, None, path, 1, isa,
        )  # fmt: skip
        assert bad == len(tokens) and (ran == path or dim * nbits // 8 > 256)
        assert (np.abs(got - want) <= bounds).all(), (path, np.abs(got - want).max())
        tight = max(tight, float((np.abs(got - want) / bounds).max()))
    assert tight > 0.02  # not by a bound that says nothing


def test_tables_of_tiny_numbers() -> None:
    """Steps near the smallest float32: entries must not become infinite or nothing."""
    tokens = made(2, 16, k=8, lengths=[40] * 60)
    for scale in (1e-30, 1e-36):
        query = unit(np.random.default_rng(0), 3, 16) * np.float32(scale)
        got = residual_maxsim_explained(query, tokens)
        want = residual_maxsim(query, tokens, backend="reference")
        assert got.path == "lookup16" and (np.abs(got.scores.astype(np.float64) - want) <= got.bounds.astype(np.float64) + 1e-44).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("nbits", (1, 2, 4))
def test_the_same_bits_whatever_the_threads_and_the_neighbours(nbits: int, precision: str) -> None:
    rng = np.random.default_rng(2)
    tokens, query = made(nbits, 64, k=200, lengths=rng.integers(0, 120, 200)), unit(rng, 20, 64)
    want = residual_maxsim(query, tokens, precision=precision, num_threads=1)
    assert tokens.lengths.sum() > 10_000  # enough for several threads
    for threads in (2, 3, 8, None):
        assert (residual_maxsim(query, tokens, precision=precision, num_threads=threads) == want).all()
    order = rng.permutation(200)
    assert (residual_maxsim(query, tokens, order, precision=precision) == want[order]).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_masks_weights_and_batches(backend: str) -> None:
    tokens, query = made(4, 16), unit(np.random.default_rng(3), 6, 16)
    all_ = residual_maxsim(query, tokens, precision="float32", backend=backend)
    options: dict[str, Any] = {"precision": "float32", "backend": backend}
    assert (residual_maxsim(query, tokens, [5, 0, 5], **options) == all_[[5, 0, 5]]).all()
    assert residual_maxsim(query, tokens, [], **options).shape == (0,)
    mask, weights = np.array([1, 1, 0, 0, 1, 0], bool), np.array([1, 2, 9, 9, -1, 9], np.float32)
    masked = residual_maxsim(query, tokens, query_mask=mask, query_weights=weights, **options)
    live = all_ > -np.inf
    want = sum(w * residual_maxsim(query[i : i + 1], tokens, **options)[live] for i, w in ((0, 1.0), (1, 2.0), (4, -1.0)))
    assert np.allclose(masked[live], want, atol=1e-5)
    batch = residual_maxsim(rr.Packed.from_rows([query, query[:2]]), tokens, [[1, 2], [3]], **options)
    assert (batch[0] == all_[[1, 2]]).all() and len(batch[1]) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_damaged_tokens_are_refused(backend: str) -> None:
    tokens, query = made(2, 16), unit(np.random.default_rng(4), 3, 16)
    for wrong in (40, 65535):
        ids = tokens.centroid_ids.copy()
        ids[5] = wrong
        for precision in PRECISIONS:
            with pytest.raises(FileFormatError, match="centroid"):
                residual_maxsim(query, replace(tokens, centroid_ids=ids), precision=precision, backend=backend)
    ids = tokens.centroid_ids.astype(np.int32)
    ids[5] = -1
    with pytest.raises(FileFormatError, match="centroid"):
        residual_maxsim(query, replace(tokens, centroid_ids=ids), backend=backend)
    norms = tokens.inverse_norms.copy()
    norms[3] = np.nan  # of the third document with tokens, row 3
    for precision in PRECISIONS:
        with pytest.raises(NonFiniteError, match="document 3"):
            residual_maxsim(query, replace(tokens, inverse_norms=norms), precision=precision, backend=backend)
    long = made(2, 16, k=8, lengths=[40] * 100)  # which tables score
    norms = long.inverse_norms.copy()
    norms[40 * 70 + 3] = norms[40 * 20 + 39] = np.inf
    for precision in PRECISIONS:
        with pytest.raises(NonFiniteError, match="document 20"):
            residual_maxsim(query, replace(long, inverse_norms=norms), precision=precision, backend=backend)
    offsets = tokens.offsets.copy()
    offsets[4] = offsets[5] + 1
    with pytest.raises(FileFormatError, match="offsets"):
        residual_maxsim(query, replace(tokens, offsets=offsets), backend=backend)


def test_beyond_two_to_the_31_bytes() -> None:
    small, n = made(4, 128, lengths=[4]), (1 << 25) + 4
    ids, residuals, norms = np.zeros(n, np.uint16), np.zeros((n, 64), np.uint8), np.ones(n, np.float32)  # not touched, so not there
    ids[-4:], residuals[-4:], norms[-4:] = small.centroid_ids, small.residuals, small.inverse_norms
    far = ResidualTokens(small.codec, ids, residuals, norms, np.array([0, n - 4, n]))
    query = unit(np.random.default_rng(5), 32, 128)
    for precision in PRECISIONS:
        want = residual_maxsim(query, small, precision=precision)
        assert residual_maxsim(query, far, [1], precision=precision)[0] == want[0]


def test_centroid_scores_are_the_products() -> None:
    rng = np.random.default_rng(6)
    for q, dim, k in ((1, 3, 1), (32, 128, 700), (33, 64, 13)):
        query, centroids = unit(rng, q, dim), unit(rng, k, dim)
        want = centroids.astype(np.float64) @ query.T.astype(np.float64)
        for isa in _native.usable_isas():
            got = _native.centroid_scores(query, centroids, 2, isa)
            assert got.shape == (k, -(-q // 32) * 32) and np.abs(got[:, :q] - want).max() < 1e-6 and not got[:, q:].any()
        assert (centroid_scores(query, centroids) == _native.centroid_scores(query, centroids, 1)).all()


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"query": np.ones((2, 9))}, "dimension 9"),
        ({"precision": "int4"}, "precision"),
        ({"rows": [99]}, "row 99"),
        ({"documents": rr.Packed(np.ones((2, 16), np.float32), [0, 2])}, "ResidualTokens"),
        ({"centroid_scores": np.ones((3, 32))}, "centroid_scores"),
        ({"query": np.full((2, 16), np.nan)}, "query"),
    ],
)
def test_bad_input_is_refused(more: dict[str, Any], match: str) -> None:
    given: dict[str, Any] = {"query": np.ones((2, 16)), "documents": made(2, 16), **more}
    with pytest.raises(InputError, match=match):
        residual_maxsim(given.pop("query"), given.pop("documents"), given.pop("rows", None), **given)
