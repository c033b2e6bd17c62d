"""Top-k of random scores against numpy: argpartition, then lexsort of the k. Case n@k: the k best of n; ms per call."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import harness
from rerank_engine.ops import topk


def numpy_topk(scores, k):
    best = np.argpartition(scores, len(scores) - k)[len(scores) - k :] if k < len(scores) else np.arange(len(scores))
    best = best[np.lexsort((best, -scores[best]))]
    return best, scores[best]


def rows(quick: bool) -> Iterator[harness.Row]:
    rng = np.random.default_rng(0)
    for n, k in [(1000, 10), (1000, 100), (1000, 1000), (100_000, 10), (100_000, 1000), (1_000_000, 10), (1_000_000, 1000)]:
        scores = rng.normal(size=n).astype(np.float32)
        want = topk(scores, k, backend="reference")
        harness.verify(f"topk {n}@{k}", harness.same_ranking(topk(scores, k), want, rtol=0))
        harness.verify(f"numpy {n}@{k}", harness.same_ranking(numpy_topk(scores, k), want, rtol=0))
        rounds = 61 if quick else 201
        yield harness.compare("topk", f"{n}@{k}", "numpy", lambda: topk(scores, k), lambda: numpy_topk(scores, k), rounds=rounds)  # noqa: B023


if __name__ == "__main__":
    harness.main(rows, __doc__)
