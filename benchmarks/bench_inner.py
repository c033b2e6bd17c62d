"""Inner products of 1, 8 and 64 queries with 100,000 vectors of 384 dimensions (10,000 with --quick), float32 and float16; ms of CPU for
the products of all queries, one thread.

Peers: numpy (one matrix product; of float16 ROWS rows at a time, widened first) and torch (the same; float16 by float16 queries, into
float16, which is less exact). Limits, measured in the same run: `read`, as many bytes read; `peak`, as many multiply-adds on values in
registers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import harness, late, peak
from rerank_engine.ops import inner_products

DIM, QUERIES, ROWS = 384, (1, 8, 64), 512


def by_numpy(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    if vectors.dtype == np.float32:
        return queries @ vectors.T
    out = np.empty((len(queries), len(vectors)), np.float32)
    for at in range(0, len(vectors), ROWS):
        np.matmul(queries, vectors[at : at + ROWS].astype(np.float32).T, out=out[:, at : at + ROWS])
    return out


def rows(quick: bool) -> Iterator[harness.Row]:
    n, rounds, torch, rng = (10_000 if quick else 100_000), (5 if quick else 21), harness.peer("torch"), np.random.default_rng(0)
    every, wide = late.unit(rng.normal(size=(max(QUERIES), DIM))), late.unit(rng.normal(size=(n, DIM)))
    if torch is not None:
        torch.set_num_threads(1)
    for vectors in (wide, wide.astype(np.float16)):
        for count in QUERIES:
            queries = every[:count]
            exact = queries.astype(np.float64) @ vectors.astype(np.float64).T
            peers = {"numpy": lambda queries=queries, vectors=vectors: by_numpy(queries, vectors)}
            if torch is not None:
                held = torch.from_numpy(queries.astype(vectors.dtype)), torch.from_numpy(vectors)
                peers["torch"] = lambda held=held: (held[0] @ held[1].T).numpy()

            def ours(queries=queries, vectors=vectors):
                return inner_products(queries, vectors, num_threads=1)

            late.close("inner", ours().ravel(), exact.ravel(), 1e-5)
            case = f"{vectors.dtype}-{count}x{n}"
            for name, theirs in peers.items():
                late.close(name, theirs().ravel(), exact.ravel(), 1e-5 if vectors.dtype == np.float32 else 2e-3)
                yield harness.compare("inner", case, name, ours, theirs, rounds=rounds)
            limits = {"read": peak.read(vectors.nbytes), "peak": peak.fma(2.0 * count * n * DIM)[1]}
            for name, limit in limits.items():
                yield harness.compare("inner", case, name, ours, limit, rounds=rounds)


if __name__ == "__main__":
    harness.main(rows, __doc__)
