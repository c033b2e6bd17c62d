"""The residual codec: ColBERT's byte order by hand, round trips, training, and what must be refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rerank_engine as rr
from rerank_engine.backends import try_import
from rerank_engine.codec import ResidualCodec, ResidualTokens, nearest, pack, unpack
from rerank_engine.errors import BackendUnavailable, InputError, NonFiniteError
from rerank_engine.kmeans import kmeans

KMEANS = ["numpy"] + ([] if try_import("faiss") else ["faiss"])


def unit(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    x = rng.normal(size=(n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def clustered(n: int, dim: int = 32, topics: int = 50, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = unit(rng, topics, dim)[rng.integers(0, topics, n)] + rng.normal(size=(n, dim)) * 0.4 / np.sqrt(dim)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_the_byte_order_of_colbert_by_hand() -> None:
    # Each code's lowest bit first, into a byte from its highest bit on.
    assert pack(np.array([[1, 0, 0, 0, 0, 0, 0, 1]], np.uint8), 1).tolist() == [[0b10000001]]
    assert pack(np.array([[1, 2, 3, 0]], np.uint8), 2).tolist() == [[0b10_01_11_00]]  # 1 is written 10, 2 is written 01
    assert pack(np.array([[1, 8]], np.uint8), 4).tolist() == [[0b1000_0001]]
    assert unpack(np.array([[0b10_01_11_00]], np.uint8), 2).tolist() == [[1, 2, 3, 0]]


@given(st.sampled_from((1, 2, 4)), st.integers(0, 9), st.integers(1, 5), st.randoms())
def test_packing_is_undone_by_unpacking(nbits: int, n: int, octets: int, random) -> None:
    codes = np.array([[random.randrange(1 << nbits) for _ in range(8 * octets)] for _ in range(n)], np.uint8).reshape(n, 8 * octets)
    packed = pack(codes, nbits)
    assert packed.shape == (n, octets * nbits) and (unpack(packed, nbits) == codes).all()


@pytest.mark.parametrize("nbits", (1, 2, 4))
def test_encoding_is_nearest_centroid_and_buckets(nbits: int) -> None:
    x = clustered(500)
    codec = ResidualCodec.train(x, nbits, 20, backend="numpy")
    ids, residuals, norms = codec.encode(x)
    assert ids.dtype == np.uint16 and residuals.shape == (500, 4 * nbits) and norms.dtype == np.float32
    assert (ids == (x @ codec.centroids.T).argmax(1)).all() and (nearest(x, codec.centroids) == ids).all()
    codes = np.array([[np.sum(codec.bucket_cutoffs < value) for value in row] for row in x - codec.centroids[ids]])
    assert (unpack(residuals, nbits) == codes).all()
    sums = codec.centroids[ids].astype(np.float64) + codec.bucket_weights[codes]
    assert np.allclose(norms, 1 / np.linalg.norm(sums, axis=1), rtol=1e-6)
    decoded = codec.decode(ids, residuals)
    assert np.allclose(np.linalg.norm(decoded, axis=1), 1, atol=1e-6)
    again = codec.encode(x[100:])  # a token's codes do not depend on those beside it
    assert (again[0] == ids[100:]).all() and (again[1] == residuals[100:]).all()


def test_more_bits_are_closer() -> None:
    x = clustered(4000)
    similarity = [
        float((ResidualTokens.encode(rr.Packed(x, [0, 4000]), ResidualCodec.train(x, b, 50)).decode().values * x).sum(1).mean())
        for b in (1, 2, 4)
    ]
    assert 0.9 < similarity[0] < similarity[1] < similarity[2] < 1


def test_codecs_of_other_bits_share_centroids() -> None:
    x = clustered(600)
    four, two = (ResidualCodec.train(x, nbits, 30, backend="numpy") for nbits in (4, 2))
    shared = ResidualCodec.train(x, 2, centroids=four.centroids)
    for name in ("centroids", "bucket_cutoffs", "bucket_weights"):
        assert (getattr(shared, name) == getattr(two, name)).all()
    with pytest.raises(InputError, match=r"shape \[3, 31\].*, 32\]"):
        ResidualCodec.train(x, 2, centroids=np.ones((3, 31)))


@pytest.mark.parametrize("backend", KMEANS)
def test_kmeans_finds_clusters_and_repeats_itself(backend: str) -> None:
    x = clustered(3000, topics=25)
    seen: list[tuple[int, int]] = []
    centroids = kmeans(x, 25, backend=backend, progress=lambda done, total: seen.append((done, total)))
    assert centroids.shape == (25, 32) and np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    assert (kmeans(x, 25, backend=backend) == centroids).all()
    chosen = x[np.random.default_rng(0).choice(3000, 25, replace=False)]
    assert (x @ centroids.T).max(1).mean() > (x @ chosen.T).max(1).mean() + 0.01
    assert backend == "faiss" or seen == [(i, 8) for i in range(1, 9)]


def test_empty_clusters_start_again() -> None:
    x = np.repeat(np.eye(8, dtype=np.float32), 10, axis=0)
    centroids = kmeans(x, 8, backend="numpy", iterations=20)
    assert (x @ centroids.T).max(1).min() > 0.999  # every direction has one of its own


def test_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    x = clustered(200)
    assert (kmeans(x, 5) == kmeans(x, 5, backend="numpy")).all()
    with pytest.raises(BackendUnavailable, match="faiss"):
        kmeans(x, 5, backend="faiss")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.sampled_from((1, 2, 4)), st.integers(1, 100))
def test_training_takes_any_number_of_tokens(n: int, nbits: int, k: int) -> None:
    codec = ResidualCodec.train(clustered(n, 8, 5), nbits, k, iterations=2, backend="numpy")
    assert 1 <= len(codec.centroids) <= min(n, k) and codec.nbits == nbits and (np.diff(codec.bucket_cutoffs) >= 0).all()


def test_the_default_number_of_centroids_is_colberts() -> None:
    x = clustered(3000)
    assert len(ResidualCodec.train(x, 1, iterations=1).centroids) == 512  # 2 ** floor(log2(16 * sqrt(3000)))
    assert len(ResidualCodec.train(x, 1, n_tokens=16_000, iterations=1).centroids) == 1024


def test_a_token_of_nothing_has_no_direction() -> None:
    codec = ResidualCodec(np.zeros((1, 8)), [0.0], [0.0, 0.0])
    assert codec.encode(np.zeros((1, 8)))[2].tolist() == [0.0] and codec.decode(
        np.zeros(1, np.uint16), np.zeros((1, 1), np.uint8)
    ).tolist() == [[0.0] * 8]


GOOD = {"centroids": np.eye(8), "bucket_cutoffs": [0.0], "bucket_weights": [-1.0, 1.0]}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"bucket_weights": [1.0, 2.0, 3.0]}, "3 weights"),
        ({"bucket_cutoffs": [0.0, 1.0]}, "2 cutoffs"),
        ({"bucket_cutoffs": [2.0, 1.0, 0.0], "bucket_weights": [0.0] * 4}, "rise"),
        ({"centroids": np.eye(3)}, "dimension 3"),
        ({"centroids": np.empty((0, 8))}, "0 centroids"),
        ({"centroids": np.full((1, 8), np.nan)}, "centroids"),
    ],
)
def test_a_bad_codec_is_refused(change: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        ResidualCodec(**{**GOOD, **change})


def test_bad_tokens_are_refused() -> None:
    codec, x = ResidualCodec(**GOOD), clustered(5, 8)
    with pytest.raises(InputError, match="dimension 9"):
        codec.encode(np.ones((2, 9)))
    with pytest.raises(NonFiniteError):
        codec.encode(np.full((1, 8), np.inf))
    with pytest.raises(InputError, match="nbits"):
        ResidualCodec.train(x, 3)
    with pytest.raises(InputError, match="none"):
        ResidualCodec.train(x[:0], 2)
    with pytest.raises(InputError, match="dimension 7"):
        ResidualCodec.train(x[:, :7], 2)
    ids, residuals, norms = codec.encode(x)
    for change in (
        {"centroid_ids": ids.astype(np.int64)},
        {"residuals": residuals[:, :0]},
        {"inverse_norms": norms[:2]},
        {"offsets": np.array([0, 4])},
    ):
        with pytest.raises(InputError, match=next(iter(change))):
            ResidualTokens(
                **{
                    "codec": codec,
                    "centroid_ids": ids,
                    "residuals": residuals,
                    "inverse_norms": norms,
                    "offsets": np.array([0, 5]),
                    **change,
                }
            )
