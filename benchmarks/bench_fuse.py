"""Rank fusion of result lists of 1,000 documents; ms per query. rrf-2x1000 fuses 2 lists, rrf-5x1000 5; -batch is 100 queries a call.

A document of a list stands in another one with a chance of 2/3 (ids from 1,500). Ours takes arrays of ids and gives all documents. Peers,
on one thread: a Python dictionary over lists of ints, query by query, which is how it is done in Python; numpy (unique, bincount, lexsort);
ranx over its own runs (its result is a Run; building its runs is not timed).
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


def numpy_rrf(lists, k=60):
    ids, place = np.unique(np.concatenate(lists), return_inverse=True)
    sums = np.bincount(place, np.concatenate([1 / (k + np.arange(1, len(one) + 1)) for one in lists]))
    order = np.lexsort((ids, -sums))
    return ids[order], sums[order]


def rows(quick: bool) -> Iterator[harness.Row]:
    rng = np.random.default_rng(0)
    for n_lists in (2, 5):
        queries = np.stack([[rng.permutation(1500)[:1000] for _ in range(n_lists)] for _ in range(BATCH)])
        arrays, ints = [list(lists) for lists in queries], queries.tolist()
        want = fuse(queries, backend="reference")
        for form in (queries, arrays):
            harness.verify("fuse", all(harness.same_ranking(a, b) for a, b in zip(fuse(form), want, strict=True)))
        case = f"rrf-{n_lists}x1000"
        for name, theirs, given in (("python-dict", dict_rrf, ints), ("numpy", numpy_rrf, arrays)):
            answer = theirs(given[0])
            harness.verify(name, harness.same_ranking(answer if name == "numpy" else zip(*answer), want[0]))
            single = (lambda: fuse(arrays[:1]), lambda: theirs(given[0]))  # noqa: B023
            yield harness.compare("fuse", case, name, *single, rounds=61 if quick else 201)
            batch = (lambda: fuse(arrays), lambda: [theirs(lists) for lists in given])  # noqa: B023
            yield harness.compare("fuse", f"{case}-batch", name, *batch, rounds=7 if quick else 21, per=BATCH)
        if n_lists == 2:
            yield from against_ranx(quick, queries, arrays, want)


def against_ranx(quick, queries, arrays, want) -> Iterator[harness.Row]:
    if (ranx := harness.peer("benchmarks.peers.with_ranx")) is None:
        return
    for case, batch, per in (("rrf-2x1000", queries[:1], 1), ("rrf-2x1000-batch", queries, BATCH)):
        theirs, given = ranx.fuse(batch), arrays[: len(batch)]
        harness.verify("ranx", all(harness.same_ranking(a, b) for a, b in zip(ranx.answer(theirs()), want)))
        yield harness.compare("fuse", case, "ranx", lambda: fuse(given), theirs, rounds=9 if quick else 31, per=per)  # noqa: B023


if __name__ == "__main__":
    harness.main(rows, __doc__)
