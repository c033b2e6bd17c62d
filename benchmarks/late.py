"""What the late-interaction benchmarks share: ragged documents as a retriever returns them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks import harness
from rerank_engine.codec import ResidualCodec, ResidualTokens
from rerank_engine.packed import Packed

DIM, QUERY_TOKENS, CENTROIDS = 128, 32, 16384


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@dataclass
class Case:
    """n documents, lognormal lengths of mean 116 and cap 300; tokens around centroids that are used by Zipf's law; the query near
    tokens."""

    n: int
    seed: int = 0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        lengths = np.clip(np.round(rng.lognormal(np.log(120) - 0.5 * 0.45**2, 0.45, self.n)), 8, 300).astype(np.int64)
        self.offsets = np.concatenate([[0], lengths.cumsum()])
        self.centroids = unit(rng.standard_normal((CENTROIDS, DIM)))
        weights = np.arange(1, CENTROIDS + 1) ** -0.8
        self.ids = rng.choice(CENTROIDS, self.offsets[-1], p=weights / weights.sum())
        residuals = rng.standard_normal((len(self.ids), DIM), dtype=np.float32) * np.float32(0.6 / np.sqrt(DIM))
        self.values = unit(self.centroids[self.ids] + residuals)
        near = self.values[rng.integers(0, len(self.ids), QUERY_TOKENS)]
        self.query = unit(unit(rng.standard_normal((QUERY_TOKENS, DIM))) + near)
        self.packed = Packed(self.values, self.offsets)
        self.flops = 2.0 * len(self.ids) * DIM * QUERY_TOKENS

    @property
    def name(self) -> str:
        return f"rerank-{self.n}x116-q{QUERY_TOKENS}-d{DIM}"

    @cached_property
    def exact(self) -> np.ndarray:
        return self.reference(self.values)

    def reference(self, tokens) -> np.ndarray:
        """float64 [n], in pieces."""
        q, out = self.query.astype(np.float64), np.empty(self.n)
        for i in range(self.n):
            out[i] = (q @ tokens[self.offsets[i] : self.offsets[i + 1]].astype(np.float64).T).max(1).sum()
        return out

    def compressed(self, nbits: int) -> ResidualTokens:
        """With the centroids that the tokens were made from, and quantiles of the residuals as buckets."""
        residuals = self.values[:20_000] - self.centroids[self.ids[:20_000]]
        steps = np.arange(1 << nbits) / (1 << nbits)
        codec = ResidualCodec(self.centroids, np.quantile(residuals, steps[1:]), np.quantile(residuals, steps + 0.5 / (1 << nbits)))
        return ResidualTokens.encode(self.packed, codec)


def overlap(scores, exact, k: int = 10) -> int:
    """How many of the k best are the same."""
    return len(set(np.argsort(-np.asarray(scores), kind="stable")[:k]) & set(np.argsort(-exact, kind="stable")[:k]))


def close(name: str, scores, exact, tolerance: float) -> None:
    error = float(np.abs(np.asarray(scores, np.float64) - exact).max())
    harness.note(f"{name}: largest error {error:.2g}, {overlap(scores, exact)} of the top 10")
    harness.verify(name, error <= tolerance)
