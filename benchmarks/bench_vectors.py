"""VectorIndex: exact search against numpy's products, and the kinds of faiss against exact search, with the recall that they reach.

Cases: exact-1@N one query against a matrix-vector product and a selection of 100; exact-64@N 64 at once against one matrix product;
KIND@N the 100 best by a kind of faiss (ivf and hnsw with --quick), its settings and recall@100 beside it, against exact search, a query
at a time. N documents: the demo's passages with the vectors that ship with it, and without --quick scifact encoded by bge-small-en-v1.5
(minutes, once; kept under build/bench), both with real queries; and synthetic ones in clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import rerank_engine as rr
from benchmarks import harness
from rerank_engine.demo import DATA, shipped_vectors
from rerank_engine.evaluation.beir import load_beir
from rerank_engine.indexes.vector_faiss import KINDS
from rerank_engine.indexes.vectors import VectorIndex

ROOT = Path(__file__).resolve().parents[1]
MODEL, K, BATCH, QUERIES = "bge-small-en-v1.5", 100, 64, 100
LEAST = {"flat": 1.0, "ivf": 0.95, "hnsw": 0.95}  # recall@100; the compressed kinds reach what they reach


def real(quick: bool) -> Iterator[tuple[str, VectorIndex, np.ndarray]]:
    encoder: Any = rr.load(MODEL)
    folders = [DATA] if quick else [DATA, *(path for path in [ROOT.parent / "shared" / "data" / "scifact"] if path.is_dir())]
    for folder in folders:
        collection = load_beir(folder)
        if folder == DATA:
            index = shipped_vectors(collection)
        else:
            cache = ROOT / "build" / "bench" / f"vectors-{folder.name}"
            cache.parent.mkdir(parents=True, exist_ok=True)
            if not cache.exists():
                told = lambda done, total: harness.note(f"{folder.name}: {done} of {total}") if done % 256 == 0 else None  # noqa: E731, B023
                VectorIndex.build(collection.corpus, encoder, path=cache, progress=told)
            index = VectorIndex.open(cache, in_memory=True)
        queries = encoder.encode([query.text for query in collection.queries[:QUERIES]], queries=True)
        yield "demo" if folder == DATA else folder.name, index, queries


def synthetic(n: int, dim: int = 384) -> tuple[str, VectorIndex, np.ndarray]:
    """Of unit length, about 100 around each centre; queries beside documents."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((n // 100, dim), np.float32)
    vectors = centres[rng.integers(len(centres), size=n)] + 0.7 * rng.standard_normal((n, dim), np.float32)
    queries = vectors[rng.integers(n, size=QUERIES)] + 0.5 * rng.standard_normal((QUERIES, dim), np.float32)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (vectors, queries)]
    return "clusters", VectorIndex(rr.Corpus.from_texts([""] * n), unit[0]), unit[1]


def rows(quick: bool) -> Iterator[harness.Row]:
    for name, index, queries in [*real(quick), synthetic(10_000 if quick else 100_000)]:
        yield from exact(name, index, queries, 11 if quick else 31)
        if harness.peer("faiss") is not None:
            yield from kinds(name, index, queries, ("ivf", "hnsw") if quick else KINDS, 3 if quick else 11)


def exact(name: str, index: VectorIndex, queries: np.ndarray, rounds: int) -> Iterator[harness.Row]:
    vectors, want = index.vectors, queries.astype(np.float64) @ index.vectors.astype(np.float64).T
    for hit, row in zip(index.search(queries, K), want):
        order = np.lexsort((np.arange(len(row)), -row))[:K]
        harness.verify("exact", harness.same_ranking(hit, (order, row[order])))

    def best(scores: np.ndarray) -> np.ndarray:
        places = np.argpartition(-scores, K)[:K]
        return places[np.lexsort((places, -scores[places]))]

    batch = np.resize(queries, (BATCH, index.dim))
    case = f"{name}-{len(vectors)}"
    one = (lambda: index.search(queries[:1], K, threads=1)), (lambda: best(vectors @ queries[0]))
    many = (lambda: index.search(batch, K, threads=1)), (lambda: [best(row) for row in batch @ vectors.T])
    yield harness.compare("vectors", f"exact-1@{case}", "numpy-gemv", *one, rounds=rounds, backend=harness.choose("inner"))
    yield harness.compare(
        "vectors", f"exact-{BATCH}@{case}", "numpy-gemm", *many, rounds=rounds, per=BATCH, backend=harness.choose("inner")
    )


def kinds(name: str, index: VectorIndex, queries: np.ndarray, which: tuple[str, ...], rounds: int) -> Iterator[harness.Row]:
    want = index.search(queries, K)
    for kind in which:
        made = VectorIndex.from_vectors(index.corpus, index.vectors, kind=kind)
        found = made.search(queries, K, threads=1)
        recall = float(np.mean([(f[1] >= w[1][-1]).sum() / K for f, w in zip(found, want)]))  # of ties with the last, any will do
        harness.verify(f"{made}, recall {recall}", recall >= LEAST.get(kind, 0.0))
        sides = [lambda i=i: [i.search(query[None], K, threads=1) for query in queries[:20]] for i in (made, index)]
        row = harness.compare("vectors", f"{kind}@{name}-{len(index.vectors)}", "exact", *sides, rounds=rounds, per=20, backend="faiss")
        yield {**row, "recall@100": round(recall, 4), "settings": {**made._parts.approximate.built, **made.effort(K)}}
        harness.note(f"  recall@100 {recall:.4f}: {made}")


if __name__ == "__main__":
    harness.main(rows, __doc__)
