"""BM25 against other search libraries, on a seeded synthetic collection (1,000,000 documents; 100,000 with --quick) or on real text.

nat@k, freq@k  one search a call for the k best: natural queries, and queries with very frequent words. One thread; p50 and p95 over a
               single pass of all queries, the sides in turns, in ms of processor time. Answers are checked before: a peer with another
               formula or rounded lengths is held to its overlap with the float64 answer, and its rows tell it
build          once, from what the library takes, ms of processor time          size   bytes on disk, a vocabulary of strings not counted
open           in a process of its own, by mmap: wall ms, bytes of memory        batch2 wall ms a query in batches on 2 threads
overhead       us of Python around the compiled call, k = 10, on 1000 documents
cost           ns a posting and fixed ms of a search, by regression over nat and freq
scaling        p50 at several numbers of documents against the smallest times the documents; and the cost of a document

An index is kept in build/bench/, and used again when `build` is not among the cases.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks import corpora, harness, lexical, peers, real_text, scaling

SEARCHES = ("nat@10", "nat@100", "nat@1000", "freq@10", "freq@100", "freq@1000")
CASES = (*SEARCHES, "cost", "build", "size", "open", "batch2", "overhead", "scaling")
DEFAULT_PEERS = ("bm25s-numba", "bm25s-numpy", "tantivy", "pisa", "pisa-u8", "rank-bm25")
QUICK_PEERS = ("bm25s-numba", "tantivy")


def rows(args: argparse.Namespace) -> Iterator[harness.Row]:
    collection = real_text.collection(args.real) if args.real else corpora.synthetic(args.docs)
    harness.note(f"{collection.name}: {len(collection.documents)} documents, {collection.n_postings} postings")
    names = ["ours", *(name for name in args.peers if name != "rank-bm25")]
    bench = lexical.Bench(collection, names, args.cases, n_queries=args.queries, budget_s=args.budget)
    for case, make in {
        "build": bench.builds,
        "size": bench.sizes,
        "open": lambda: bench.opens(3 if args.quick else 5),
        "batch2": bench.batches,
        "overhead": bench.overheads,
    }.items():
        if case in args.cases:
            yield from make()
    yield from bench.searches([case for case in SEARCHES if case in args.cases], cost="cost" in args.cases)
    if "rank-bm25" in args.peers and (searches := [case for case in SEARCHES if case in args.cases and case.startswith("nat")]):
        small = collection.first(min(len(collection.documents), 2000 if args.quick else 10_000))
        few = lexical.Bench(small, ["ours", "rank-bm25"], ["build"], n_queries=100, budget_s=args.budget)
        yield from few.searches(searches, cost=False)
    if "scaling" in args.cases and not args.real:
        del bench
        yield from scaling.rows(args.scale or scaling.sizes(args.docs), args.queries, args.budget)


def choice(allowed: tuple[str, ...]):
    def parse(text: str) -> list[str]:
        found = text.split(",")
        if wrong := sorted(set(found) - set(allowed)):
            raise argparse.ArgumentTypeError(f"no {', '.join(wrong)}; there are {', '.join(allowed)}")
        return found

    return parse


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--docs", type=int, help="documents of the synthetic collection")
    parser.add_argument("--peers", type=choice(tuple(peers.PEERS)), help=f"of {', '.join(DEFAULT_PEERS)}")
    parser.add_argument("--cases", type=choice(CASES), default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--queries", type=int, help="of each set, at most")
    parser.add_argument("--scale", type=lambda text: [int(n) for n in text.split(",")], help="numbers of documents for the case scaling")
    parser.add_argument("--real", type=Path, nargs="+", metavar="PATH", help="real text: BEIR folders, or text files of a passage a line")
    args = parser.parse_args()
    args.docs = args.docs or (100_000 if args.quick else 1_000_000)
    args.peers = args.peers or list(QUICK_PEERS if args.quick else DEFAULT_PEERS)
    args.queries = args.queries or (200 if args.quick else 1000)
    args.budget = 2 if args.quick else 20  # seconds a side and case
    two = {"NUMBA_NUM_THREADS": str(min(2, os.cpu_count() or 1))}  # bm25s alone uses numba here, and is told each time how many threads
    harness.report(lambda: rows(args), args.json, {**harness.ONE_THREAD, **two})


if __name__ == "__main__":
    main()
