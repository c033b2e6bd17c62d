"""Late-interaction re-ranking of BM25's top 100 in each storage: `python -m benchmarks.quality_late FOLDER... [--json] [--threads N]`.

Token vectors of answerai-colbert-small-v1 (its encoder alone, 384 dimensions, int8 ONNX) for every document of a collection in BEIR's
layout, encoded once and kept under build/bench. Per storage: nDCG@10 of BM25 top 100 re-ranked, bytes a token and a document, and the top
10 of BM25's top 1000 certified: whether they equal brute force for every query, and the share of products saved.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness, judged
from rerank_engine import BM25, BM25Index, Packed, TokenIndex, evaluate, load
from rerank_engine.codec import ResidualCodec
from rerank_engine.evaluation.beir import Collection
from rerank_engine.indexes.token_members import STORAGES, nbits_of
from rerank_engine.ops.topk import topk

MODEL = "answerai-colbert-small-v1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true", help="a JSON list on standard output")
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    encoder = load(MODEL, threads=args.threads)
    rows = [row for folder in args.folders for row in measure(folder, encoder)]
    print(json.dumps(rows, indent=1) if args.json else "\n".join("  ".join(f"{k}={v}" for k, v in row.items()) for row in rows))


def embeddings(name: str, collection: Collection, encoder: Any) -> tuple[Packed, list[np.ndarray]]:
    """float32 tokens of the documents (kept as float16, which is what they are measured against), and of each query."""
    cache = Path(__file__).resolve().parents[1] / "build" / "bench" / f"late-{name}.npz"
    if not cache.exists():
        parts, texts = [], collection.corpus.texts()
        for at in range(0, len(texts), 256):
            packed, _ = encoder.encode_documents(texts[at : at + 256])
            parts.append(Packed(packed.values.astype(np.float16), packed.offsets))
            harness.note(f"{name}: {at + len(packed)} of {len(texts)} documents")
        lengths = np.concatenate([part.lengths for part in parts])
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, values=np.concatenate([part.values for part in parts]), offsets=np.concatenate([[0], lengths.cumsum()]))
    stored = np.load(cache)
    values = stored["values"].astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return Packed(values, stored["offsets"]), encoder.encode_queries([query.text for query in collection.queries])


def measure(folder: Path, encoder: Any) -> Iterator[dict[str, Any]]:
    collection = judged.collection(folder)
    documents, queries = embeddings(folder.name, collection, encoder)
    first = BM25(BM25Index.build(collection.corpus), k=1000).run(collection.queries)
    run = {
        str(query.id): dict(zip(ranking.doc_ids[:100], ranking.scores[:100].tolist())) for query, ranking in zip(collection.queries, first)
    }
    yield {"collection": folder.name, "storage": "BM25", "queries": len(run), "ndcg@10": ndcg(collection, run)}
    rng = np.random.default_rng(0)
    sample = documents.values[np.sort(rng.permutation(len(documents.values))[:200_000])]
    best, codec = None, None
    for storage in STORAGES:
        nbits = nbits_of(storage)
        centroids = None if codec is None else codec.centroids
        codec = ResidualCodec.train(sample, nbits, n_tokens=len(documents.values), iterations=4, centroids=centroids) if nbits else None
        index = TokenIndex.from_embeddings(collection.corpus, documents, storage=storage, codec=codec)
        scores = [index.score(query, ranking.ids[:100]) for query, ranking in zip(queries, first)]
        run = {
            str(query.id): dict(zip(ranking.doc_ids[:100], row.tolist())) for query, ranking, row in zip(collection.queries, first, scores)
        }
        tops = [set(np.argsort(-row, kind="stable")[:10].tolist()) for row in scores]
        best = best or tops
        yield {
            "collection": folder.name, "storage": storage, "queries": len(run), "documents": len(collection.corpus), "dim": index.dim,
            "tokens": index.n_tokens, "centroids": len(codec.centroids) if codec else 0, "ndcg@10": ndcg(collection, run),
            "top10_equal": round(float(np.mean([len(a & b) for a, b in zip(best, tops)])) / 10, 4),
            "bytes_per_token": round(index.nbytes / index.n_tokens, 1), "bytes_per_document": round(index.nbytes / len(collection.corpus)),
            **certified(index, queries, [ranking.ids for ranking in first]),
        }  # fmt: skip
        harness.note(f"{folder.name} {storage}")


def ndcg(collection: Collection, run: dict[str, dict[str, float]]) -> float:
    return round(float(next(iter(evaluate(collection.qrels, run, ["nDCG@10"]).values()))), 4)


def certified(index: TokenIndex, queries: list[np.ndarray], candidates: list[np.ndarray]) -> dict[str, Any]:
    """The top 10 of each list, against all of it scored."""
    saved, equal, shares = [], 0, []
    for query, rows in zip(queries, candidates):
        found = index.top(query, 10, rows)
        every = index.score(query, rows, precision="float32")
        kept = every > -np.inf
        want = topk(every[kept], 10, ids=rows[kept])
        equal += bool((found.rows == want[0]).all() and (found.scores == want[1]).all())
        saved.append(found.work_saved)
        shares.append(found.certified)
    harness.verify("certified top 10", equal == len(queries))
    lists = {"candidates": round(float(np.mean([len(rows) for rows in candidates])))}
    return {
        **lists,
        "certified_equal": equal,
        "certified_share": round(float(np.mean(shares)), 4),
        "work_saved": round(float(np.mean(saved)), 4),
    }


if __name__ == "__main__":
    main()
