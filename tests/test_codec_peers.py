"""Residual codes against colbert-ai's own codec: the same bytes, the same decoded vectors."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine.codec import ResidualCodec, ResidualTokens

torch = pytest.importorskip("torch", reason="torch, which colbert-ai runs on, is not installed")
residual = pytest.importorskip("colbert.indexing.codecs.residual", reason="colbert-ai is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are many


@pytest.mark.parametrize("nbits", (1, 2, 4))
def test_codes_and_decoding_of_colbert(nbits: int) -> None:
    rng = np.random.default_rng(nbits)
    x = rng.normal(size=(300, 64))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    codec = ResidualCodec.train(x, nbits, 20, backend="numpy")
    config = SimpleNamespace(total_visible_gpus=0, dim=64, nbits=nbits, rank=0)
    centroids, cutoffs, weights = (torch.from_numpy(a) for a in (codec.centroids, codec.bucket_cutoffs, codec.bucket_weights))
    theirs = residual.ResidualCodec(config, centroids, torch.tensor(0.0), cutoffs, weights)
    packed = theirs.compress(torch.from_numpy(x))
    tokens = ResidualTokens.encode(rr.Packed(x, [0, 300]), codec)
    assert (packed.codes.numpy() == tokens.centroid_ids).all() and (packed.residuals.numpy() == tokens.residuals).all()
    assert np.abs(theirs.decompress(packed).numpy() - tokens.decode().values).max() < 1e-6
