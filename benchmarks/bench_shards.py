"""Sharded BM25 against one index, on the seeded synthetic collection (1,000,000 documents; 20,000 with --quick): ms of processor time.

nat@k, freq@k  natural queries and queries of very frequent words, the k best, one query a call; the shards lie in this process, and what is
               counted is all work, not the wait
one index      theirs: the same documents in one index; a ratio below 1 says what sharding costs
all at once    theirs: every shard is asked at the same time; ours: one after the other, each told the k-th best score so far

on Ray         wall ms a query, 3 shards in actors (ours) against the same in this process (theirs), in turns: the hop. Needs ray;
               100,000 documents

Answers are checked bit for bit before.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np

from benchmarks import corpora, harness
from rerank_engine.indexes import BM25Index
from rerank_engine.sharding import ShardedIndex, split

SHARDS = (2, 7)


def rows(args: argparse.Namespace) -> Iterator[harness.Row]:
    n = 20_000 if args.quick else 1_000_000
    collection = corpora.synthetic(n)
    harness.note(f"{collection.name}: {n} documents, {collection.n_postings} postings")
    one = BM25Index.from_tokens(collection.documents)
    with tempfile.TemporaryDirectory() as scratch:
        held = {shards: split(one, Path(scratch) / str(shards), shards) for shards in SHARDS}
        opened = {shards: [ShardedIndex.open(place, threads=1, at_once=at) for at in (None, 1)] for shards, place in held.items()}
        for kind in ("nat", "freq"):
            queries = collection.queries[kind][: 50 if args.quick else 300]
            for k in (10, 1000):
                for shards, (together, told) in opened.items():
                    yield from compared(f"{kind}@{k}, {shards} shards", one, together, told, queries, k, 5 if args.quick else 15)
    yield from on_ray(3 if args.quick else 15)


def compared(
    case: str, one: BM25Index, together: ShardedIndex, told: ShardedIndex, queries: list, k: int, rounds: int
) -> Iterator[harness.Row]:
    for query in queries[:20]:
        rows, scores = one.search([query], k)[0]
        for index in (together, told):
            found = index.search([query], k)[0]
            harness.verify(case, found.rows.tolist() == rows.tolist() and found.scores.tolist() == scores.tolist())

    def each(search):
        search(queries, k)  # what is known of the terms is held
        places = cycle(range(len(queries)))
        return lambda: search([queries[next(places)]], k)

    batch = len(queries)
    for peer, theirs in (("one index", one.search), ("all at once", together.search)):

        def run(call):
            def pass_of_all() -> None:
                for _ in range(batch):
                    call()

            return pass_of_all

        yield harness.compare("shards", case, peer, run(each(told.search)), run(each(theirs)), rounds=rounds, per=batch, warm_up=False,
                              backend="cpp")  # fmt: skip


def on_ray(rounds: int) -> Iterator[harness.Row]:
    if (ray := harness.peer("ray")) is None:
        return
    from rerank_engine.sharding.on_ray import shards_on_ray

    collection = corpora.synthetic(100_000)
    one, queries = BM25Index.from_tokens(collection.documents), collection.queries["nat"][:100]
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            place = split(one, Path(scratch) / "shards", 3)
            sides = shards_on_ray(place, cpus=0.2), ShardedIndex.open(place)
            for k in (10, 1000):
                times = measured(sides, one, queries, k, rounds)
                ratios = np.percentile([b / a for a, b in zip(*times)], [25, 75]).tolist()
                ours, theirs = (statistics.median(values) for values in times)
                yield harness.row("shards", f"nat@{k}, 3 shards", "on Ray", "wall_ms", ours, theirs, ratios, "cpp")
    finally:
        ray.shutdown()


def measured(
    sides: tuple[ShardedIndex, ShardedIndex], one: BM25Index, queries: list, k: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Of each side the median of every round, in turns, ms a query."""
    for index in sides:
        for (rows, scores), found in zip(one.search(queries, k), index.search(queries, k)):
            harness.verify("on Ray", found.rows.tolist() == rows.tolist() and found.scores.tolist() == scores.tolist())
    out: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, index in enumerate(sides):
            took = []
            for query in queries:
                begin = time.perf_counter()
                index.search([query], k)
                took.append(1e3 * (time.perf_counter() - begin))
            out[side].append(statistics.median(took))
    return out


if __name__ == "__main__":
    args = harness.arguments(__doc__).parse_args()
    harness.report(lambda: rows(args), args.json, harness.ONE_THREAD)
