"""Maximal marginal relevance over 1,000 unit vectors of 384 dimensions, from the query vector to the picks; ms per call.

Case 1000x384 picks 10, 1000x384@100 picks 100. Peers: numpy that keeps the nearest similarity between picks, and langchain-core's function.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import harness
from rerank_engine.ops import mmr

N, DIM, LAMBDA = 1000, 384, 0.5


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


def rows(quick: bool) -> Iterator[harness.Row]:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(N, DIM)) + rng.normal(size=DIM)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    query = vectors[:5].mean(axis=0)
    query /= np.linalg.norm(query)

    def ours(k):
        return mmr(vectors @ query, vectors, k, lambda_=LAMBDA)

    for case, k in (("1000x384", 10), ("1000x384@100", 100)):
        want = mmr(vectors @ query, vectors, k, lambda_=LAMBDA, backend="reference")[0].tolist()
        harness.verify("mmr", ours(k)[0].tolist() == want)
        harness.verify("numpy", numpy_mmr(query, vectors, k) == want)
        rounds = 61 if quick else 201
        yield harness.compare("mmr", case, "numpy", lambda: ours(k), lambda: numpy_mmr(query, vectors, k), rounds=rounds)  # noqa: B023
        if k > 10 or (langchain := harness.peer("langchain_core.vectorstores.utils")) is None:
            continue  # at 100 picks langchain-core takes seconds
        theirs = langchain.maximal_marginal_relevance
        harness.verify("langchain-core", theirs(query, vectors, lambda_mult=LAMBDA, k=k) == want)
        yield harness.compare(
            "mmr",
            case,
            "langchain-core",
            lambda: ours(k),  # noqa: B023
            lambda: theirs(query, vectors, lambda_mult=LAMBDA, k=k),  # noqa: B023
            rounds=31 if quick else 61,
        )


if __name__ == "__main__":
    harness.main(rows, __doc__)
