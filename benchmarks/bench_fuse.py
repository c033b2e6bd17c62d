"""Reciprocal rank fusion of two lists of 1,000 documents, half of them shared; ms per query.

Peers: a Python dictionary over lists of ints, one query a call; ranx over its own runs, 100 queries a call, as ours then takes them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import harness
from rerank_engine.ops import fuse

BATCH = 100


def dict_rrf(lists, k=60):
    sums: dict[int, float] = {}
    for ids in lists:
        for rank, doc in enumerate(ids, 1):
            sums[doc] = sums.get(doc, 0.0) + 1 / (k + rank)
    return sorted(sums.items(), key=lambda hit: (-hit[1], hit[0]))


def rows(quick: bool) -> Iterator[harness.Row]:
    rng = np.random.default_rng(0)
    rounds = 61 if quick else 201
    scores = np.linspace(1, 0, 1000, dtype=np.float32)
    queries = [[(rng.permutation(1500)[:1000], scores) for _ in range(2)] for _ in range(BATCH)]
    want = fuse(queries, backend="reference")
    harness.verify("fuse", all(harness.same_ranking(a, b) for a, b in zip(fuse(queries), want, strict=True)))

    as_lists = [ids.tolist() for ids, _ in queries[0]]
    harness.verify("a Python dictionary", harness.same_ranking(zip(*dict_rrf(as_lists)), want[0]))
    yield harness.compare("fuse", "rrf-2x1000", "python-dict", lambda: fuse(queries[:1]), lambda: dict_rrf(as_lists), rounds=rounds)

    if (ranx := harness.peer("ranx")) is None:
        return
    runs = [ranx.Run({str(q): {str(i): float(s) for i, s in zip(*lists[l])} for q, lists in enumerate(queries)}) for l in range(2)]  # noqa: E741
    fused = ranx.fuse(runs, norm=None, method="rrf", params={"k": 60}).run
    ranked = sorted(((int(i), s) for i, s in fused["0"].items()), key=lambda hit: (-hit[1], hit[0]))
    harness.verify("ranx", harness.same_ranking(zip(*ranked), want[0]))
    yield harness.compare(
        "fuse",
        "rrf-2x1000",
        "ranx",
        lambda: fuse(queries),
        lambda: ranx.fuse(runs, norm=None, method="rrf", params={"k": 60}),
        rounds=15 if quick else 31,
        per=BATCH,
    )


if __name__ == "__main__":
    harness.main(rows, __doc__)
