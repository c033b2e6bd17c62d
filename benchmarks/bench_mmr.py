"""Maximal marginal relevance over unit vectors of 384 dimensions, from the query vector to the picks; ms per call.

Case NxD picks 10, NxD@K picks K. Peers: numpy that keeps the nearest similarity between picks; langchain-core's function, given a list of
vectors as its signature asks, and given one array (langchain-core-array), which spares it a copy at every pick. The query resembles the
first rows, as where candidates come from a retriever, best first; case NxD-shuffled has them in any order, which costs ours half a pass.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import harness, peers
from rerank_engine.ops import mmr

DIM, LAMBDA = 384, 0.5


def numpy_mmr(query, vectors, k):
    relevance = LAMBDA * (vectors @ query)
    picked = [int(relevance.argmax())]
    nearest = vectors @ vectors[picked[0]]
    while len(picked) < k:
        value = relevance - (1 - LAMBDA) * nearest
        value[picked] = -np.inf
        picked.append(int(value.argmax()))
        np.maximum(nearest, vectors @ vectors[picked[-1]], out=nearest)
    return picked


def greedy(picks, query, vectors, k) -> bool:
    """Each pick is the best of those left, within 1e-6, in float64: picks may differ among ties that float32 cannot tell apart."""
    v = vectors.astype(np.float64)
    relevance, nearest, left = LAMBDA * (v @ query), np.zeros(len(v)), np.ones(len(v), bool)
    for number, pick in enumerate(picks):
        value = relevance - (1 - LAMBDA) * nearest
        if not left[pick] or value[pick] < value[left].max() - 1e-6:
            return False
        left[pick] = False
        nearest = np.maximum(nearest, v @ v[pick]) if number else v @ v[pick]
    return len(picks) == k


def rows(quick: bool) -> Iterator[harness.Row]:
    rng = np.random.default_rng(0)
    makers = [(entry.name, make) for entry, make in peers.installed("mmr")]
    for n, k, order in ((100, 10, ""), (100, 100, ""), (1000, 10, ""), (1000, 10, "-shuffled"), (1000, 100, "")):
        vectors = rng.normal(size=(n, DIM)) + rng.normal(size=DIM)
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        query = vectors[:5].mean(axis=0)
        query /= np.linalg.norm(query)
        if order:
            vectors = rng.permutation(vectors)

        def ours(vectors=vectors, query=query, k=k):
            return mmr(None, vectors, k, query=query, lambda_=LAMBDA)[0].tolist()

        harness.verify("mmr", greedy(ours(), query, vectors, k))
        sides = {"numpy": lambda: numpy_mmr(query, vectors, k)}  # noqa: B023
        sides |= {name: make(query, vectors, k, LAMBDA) for name, make in makers}
        for name, theirs in sides.items():
            harness.verify(name, greedy(theirs(), query, vectors, k))
            long = name != "numpy" and (n, k) == (1000, 100)  # about a second a call
            rounds = 3 if long else 21 if quick or name != "numpy" else 101
            yield harness.compare("mmr", f"{n}x{DIM}" + (f"@{k}" if k > 10 else "") + order, name, ours, theirs, rounds=rounds)


if __name__ == "__main__":
    harness.main(rows, __doc__)
