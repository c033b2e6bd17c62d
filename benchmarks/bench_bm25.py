"""BM25 against bm25s on a seeded corpus of topics with Zipf-distributed words: 100,000 documents, 20,000 with --quick.

nat@k: 2 to 7 words of one document, without the 30 most frequent words of the corpus. freq@k: 3 to 5 of the 100 most frequent words.
One query a call, the k best documents, ms per query. build: from token ids to an index, ms. size: bytes of the index in memory.
bm25s takes the same token ids, method "lucene", same k1 and b, numba when it is installed; where it returns documents that hold no word
of the query, ours returns none.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import numpy as np

from benchmarks import harness
from rerank_engine.ops import Postings, bm25
from rerank_engine.packed import Packed

N_TERMS, N_TOPICS, K1, B = 60_000, 300, 1.2, 0.75


def corpus(n_docs, rng):
    """Half of a document's words come from its topic: the same Zipf curve over the vocabulary in another order."""
    lengths = np.clip(rng.lognormal(4, 0.5, n_docs), 5, 400).astype(np.int64)
    curve = np.cumsum(1 / np.arange(1, N_TERMS + 1))
    ranks = np.searchsorted(curve, rng.uniform(0, curve[-1], int(lengths.sum())))
    topic = np.repeat(rng.integers(0, N_TOPICS, n_docs), lengths)
    by_topic = (ranks * 7919 + topic * 104_729) % N_TERMS
    tokens = np.where(rng.random(len(ranks)) < 0.5, ranks, by_topic).astype(np.int32)
    return Packed(tokens, np.concatenate([[0], np.cumsum(lengths)]))


def queries(documents, n, rng):
    order = np.argsort(-np.bincount(documents.values, minlength=N_TERMS))
    stop = order[:30]
    natural = []
    while len(natural) < n:
        words = np.setdiff1d(documents[int(rng.integers(len(documents)))], stop)
        if len(words) >= 7:
            natural.append(rng.permutation(words)[: int(rng.integers(2, 8))].tolist())
    frequent = [rng.choice(order[:100], int(rng.integers(3, 6)), replace=False).tolist() for _ in range(n)]
    return {"nat": natural, "freq": frequent}


def rows(quick: bool) -> Iterator[harness.Row]:
    if (bm25s := harness.peer("bm25s")) is None:
        return
    rng = np.random.default_rng(0)
    documents = corpus(20_000 if quick else 100_000, rng)
    sets = queries(documents, 40 if quick else 100, rng)
    as_lists, vocabulary = [row.tolist() for row in documents], {str(t): t for t in range(N_TERMS)}
    numba = importlib.util.find_spec("numba") is not None
    name = "bm25s-numba" if numba else "bm25s"

    def build():
        return Postings.build(Packed.from_rows(as_lists, np.int32), N_TERMS, k1=K1, b=B)

    def build_peer():
        index = bm25s.BM25(method="lucene", k1=K1, b=B, backend="numba" if numba else "numpy")
        index.index((as_lists, vocabulary), create_empty_token=False, show_progress=False)
        return index

    index, peer = build(), build_peer()

    def ours(query, k, backend="auto"):
        return bm25(Packed.from_rows([query], np.int32), index, k, backend=backend)[0]

    def theirs(query, k):
        found = peer.retrieve([query], k=k, show_progress=False, n_threads=1 if numba else 0)
        return found.documents[0], found.scores[0]

    for case in ("nat@10", "nat@100", "nat@1000", "freq@10", "freq@1000"):
        kind, _, k = case.partition("@")
        asked, k = sets[kind], int(k)
        for query in asked[:10]:
            want = ours(query, k, backend="reference")
            harness.verify(f"bm25 {case}", harness.same_ranking(ours(query, k), want))
            found = theirs(query, k)
            harness.verify(f"{name} {case}", np.allclose(found[1][: len(want[1])], want[1], rtol=1e-5))
        yield harness.compare(
            "bm25",
            case,
            name,
            lambda: [ours(query, k) for query in asked],  # noqa: B023
            lambda: [theirs(query, k) for query in asked],  # noqa: B023
            rounds=51 if quick else 101,
            per=len(asked),
        )
    yield harness.compare("bm25", "build", name, build, build_peer, rounds=5 if quick else 3, warm_up=False)
    size = sum(getattr(index, array).nbytes for array in ("term_offsets", "rows", "counts", "lengths", "impacts"))
    size_peer = sum(array.nbytes for array in peer.scores.values() if isinstance(array, np.ndarray))
    yield harness.row("bm25", "size", name, "bytes", size, size_peer, [size_peer / size] * 2)


if __name__ == "__main__":
    harness.main(rows, __doc__)
