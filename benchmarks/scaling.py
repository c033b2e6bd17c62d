"""The rows of bench_bm25.py about how the time of a search grows with the collection: the same queries over its first n documents."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks import corpora, oracle
from benchmarks.harness import Row, note, row, verify
from benchmarks.peers.ours import Ours
from benchmarks.single_pass import linear_cost, single_pass

BYTES_A_DOCUMENT = 2000  # while an index is built, generously


def sizes(documents: int) -> list[int]:
    """A tenth of the documents, all, and five times as many where the memory allows it."""
    found = [documents // 10, documents]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if documents >= 1_000_000 and free > 5 * documents * BYTES_A_DOCUMENT:
        found.append(5 * documents)
    return found


def rows(documents: Sequence[int], n_queries: int, budget_s: float) -> Iterator[Row]:
    engines, df = {}, {}
    smallest, largest = min(documents), max(documents)
    queries = {kind: found[:n_queries] for kind, found in corpora.synthetic(smallest).queries.items()}
    for n in documents:
        collection = corpora.synthetic(n)
        engines[n], df[n] = Ours(), collection.df
        engines[n].build(engines[n].form(collection))
        _check(engines[n], collection, queries)
        note(f"scaling: {n} documents are ready")
    for case in ("nat@10", "nat@1000", "freq@10", "freq@1000"):
        kind, k = case.split("@")
        sides = {str(n): lambda i, n=n, q=queries[kind], k=int(k): engines[n].search(q[i], k) for n in documents}
        times = single_pass(sides, len(queries[kind]), budget_s)
        p50 = {n: float(np.median(times[str(n)])) for n in documents}
        postings = {n: np.array([df[n][query].sum() for query in queries[kind]])[: len(times[str(n)])] for n in documents}
        for n in documents:
            linear = p50[smallest] * n / smallest
            each = {"ns_per_posting": round(p50[n] * 1e6 / float(np.median(postings[n])), 3), "documents": n}
            if n != smallest:
                yield row("bm25", f"scaling-{case}", f"linear-from-{smallest}", "cpu_ms", p50[n], linear, [linear / p50[n]] * 2, **each)
        ms, read = (np.concatenate([found[key] for key in found]) for found in (times, postings))
        size = np.concatenate([np.full(len(postings[n]), n) for n in documents])
        (fixed, a_posting, a_document), r2 = linear_cost(ms, read, size, bins=24 * len(documents))
        model = {"fixed_us": fixed * 1e3, "ns_per_posting": a_posting * 1e6, "ns_per_document": a_document * 1e6, "r2": r2}
        model = {name: round(value, 4) for name, value in model.items()}
        linear = fixed + a_posting * float(np.median(postings[largest])) + a_document * largest
        ratio = [linear / p50[largest]] * 2
        yield row("bm25", f"scaling-{case}", "cost-model", "cpu_ms", p50[largest], linear, ratio, documents=largest, **model)


def _check(engine: Ours, collection: corpora.Collection, queries: corpora.Queries, n: int = 3) -> None:
    for found in queries.values():
        checker = oracle.Oracle(collection, found[:n])
        for query in found[:n]:
            scores = checker.scores(query)
            for k in (10, 1000):
                answer = engine.answer(engine.search(engine.ask(query), k))
                verify(f"{collection.name} @{k}", oracle.is_exact(answer, scores, k, ordered=True))
