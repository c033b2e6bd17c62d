"""What re-ranking by ms-marco-MiniLM-L-12-v2 reaches, and what fewer of its tokens cost: `python -m benchmarks.quality_cross FOLDER...`.

A FOLDER is a collection in BEIR's layout (trec-dl19-pool, scifact). Its first stage is the stored run runs/bm25.trec.gz, or our BM25 where
there is none. nDCG@10 of the first 20 and 50 re-ranked; exit status 1 when one of FLOORS is missed. Then, unless --floor, the curve:
nDCG@10 of the first 100 when the cross-encoder has seen so many of their tokens, in the order of bge-small-en-v1.5's vectors, whose tokens
do not count (documents can be encoded beforehand).

--plot FILE.png draws the curve (needs matplotlib). Scores are kept under build/bench, for the same texts and the same model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rerank_engine as rr
from benchmarks import cross_cascade, harness, judged
from benchmarks.cross_cascade import Candidates
from rerank_engine.evaluation.compare import bootstrap

CROSS, CHEAP = "ms-marco-MiniLM-L-12-v2", "bge-small-en-v1.5"
CACHE = Path(__file__).resolve().parents[1] / "build" / "bench"
DEPTH, FLOOR_DEPTHS = 100, (20, 50)
FLOORS = {"trec-dl19-pool": 0.68}  # at the deeper one; elsewhere the first stage's less BELOW_FIRST_STAGE
BELOW_FIRST_STAGE = 0.01


@dataclass(frozen=True)
class Cost:
    """Of each query's list: the cross-encoder's scores, the tokens that it read of each pair, and those cut off the document."""

    scores: list[NDArray[np.float32]]
    tokens: list[NDArray[np.int64]]
    truncated: list[NDArray[np.int32]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true", help="a JSON list on standard output")
    parser.add_argument("--queries", type=int, default=100, help="at most so many of a collection, of a fixed shuffle")
    parser.add_argument("--max-length", type=int, default=256, help="tokens of a pair; a longer document is cut")
    parser.add_argument("--floor", action="store_true", help="the floors alone, of half the documents")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--precision", choices=("int8", "float32"), default="int8", help="as published, or its weights in float32")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    args = parser.parse_args()
    options = {"precision": "float32"} if args.precision == "float32" else {}
    cross = rr.load(CROSS, threads=args.threads, max_length=args.max_length, device="cpu", **options)
    cheap = rr.load(CHEAP, threads=args.threads, max_length=args.max_length, device="cpu")
    rows = [row for folder in args.folders for row in measure(folder, cross, cheap, args)]
    print(json.dumps(rows, indent=1) if args.json else "\n".join("  ".join(f"{k}={v}" for k, v in row.items()) for row in rows))
    if args.plot:
        cross_cascade.plot(rows, args.plot)
    if missed := [row["collection"] for row in rows if row.get("reached") is False]:
        harness.note(f"a floor is missed: {', '.join(missed)}")
        sys.exit(1)


def measure(folder: Path, cross: Any, cheap: Any, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    found = candidates(folder, args.queries, max(FLOOR_DEPTHS) if args.floor else DEPTH)
    cost = scored(found, cross, args.max_length)
    first = cross_cascade.ndcg(found, [np.arange(len(r)) for r in found.rankings])
    about = {"collection": found.name, "precision": args.precision, "max_tokens": args.max_length, "backend": cross.backend}
    for depth in FLOOR_DEPTHS:
        yield {"kind": "floor", **about, **floor(found, cost, first, depth)}
    if not args.floor:
        yield from cross_cascade.curve(found, cost.scores, cost.tokens, similarities(found, cheap, args.max_length))


def candidates(folder: Path, most: int, depth: int) -> Candidates:
    """The first documents of each judged query."""
    collection = judged.collection(folder)
    queries = judged.sampled(collection.queries, most)
    stored = judged.stored_run(folder, collection, queries)
    rankings = stored or rr.BM25(rr.BM25Index.build(collection.corpus), k=depth).run(queries)
    qrels = {str(query.id): collection.qrels[str(query.id)] for query in queries}
    return Candidates(folder.name, qrels, queries, [ranking.head(depth) for ranking in rankings])


def scored(found: Candidates, cross: Any, most: int) -> Cost:
    """What the cross-encoder says of every candidate. Kept query by query: an interrupted run goes on."""
    cost, precision = Cost([], [], []), "int8" if cross.runtime.batch_sensitive else "float32"
    for number, (query, ranking) in enumerate(zip(found.queries, found.rankings)):
        texts = ranking.corpus.texts(ranking.ids)
        kept = file(found.name, [CROSS, precision, cross.backend, str(most), query.text, *texts])
        if not kept.exists():
            scores = cross.predict([(query.text, text) for text in texts])
            tokens = cross.tokenizer.encode_pairs([(query.text, text) for text in texts]).ids.lengths
            save(kept, scores=scores.values, tokens=tokens, truncated=scores.columns["truncated_tokens"])
            harness.note(f"{found.name}: {number + 1} of {len(found.queries)} queries")
        stored = np.load(kept)
        for name, into in (("scores", cost.scores), ("tokens", cost.tokens), ("truncated", cost.truncated)):
            into.append(stored[name])
    return cost


def similarities(found: Candidates, cheap: Any, most: int) -> list[NDArray[np.float32]]:
    """Inner products of the query's vector with its candidates'. A document that several queries found is encoded once."""
    corpus = found.rankings[0].corpus
    rows = np.unique(np.concatenate([ranking.ids for ranking in found.rankings]))
    texts, asked = corpus.texts(rows), [query.text for query in found.queries]
    kept = file(found.name, [CHEAP, str(most), *asked, *texts])
    if not kept.exists():
        harness.note(f"{found.name}: vectors of {len(texts)} documents")
        save(kept, queries=cheap.encode(asked, queries=True), documents=cheap.encode(texts))
    stored = np.load(kept)
    at = [np.searchsorted(rows, ranking.ids) for ranking in found.rankings]
    return [stored["documents"][places] @ query for places, query in zip(at, stored["queries"])]


def file(name: str, content: Sequence[str]) -> Path:
    digest = hashlib.blake2b("\0".join(content).encode(), digest_size=12).hexdigest()
    return CACHE / f"cross-quality-{name}" / f"{digest}.npz"


def save(path: Path, **arrays: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path.with_suffix(".new.npz"), **arrays)
    path.with_suffix(".new.npz").replace(path)


def reranked(scores: NDArray[np.float32], depth: int) -> NDArray[np.int64]:
    """Places of the list: the first `depth` by their scores, the others behind them as they were."""
    return np.concatenate([np.argsort(-scores[:depth], kind="stable"), np.arange(min(depth, len(scores)), len(scores))])


def floor(found: Candidates, cost: Cost, first: NDArray[np.float64], depth: int) -> dict[str, Any]:
    values = cross_cascade.ndcg(found, [reranked(scores, depth) for scores in cost.scores])
    gain = values - first
    least = FLOORS.get(found.name, round(float(first.mean()) - BELOW_FIRST_STAGE, 4))
    held = {"floor": least, "reached": bool(values.mean() >= least)} if depth == max(FLOOR_DEPTHS) else {}
    tokens, cut = (np.concatenate([row[:depth] for row in rows]) for rows in (cost.tokens, cost.truncated))
    return {
        "queries": len(found.queries), "depth": depth,
        "first_stage": round(float(first.mean()), 4), "ndcg@10": round(float(values.mean()), 4),
        "gain": round(float(gain.mean()), 4), "gain_95": [round(x, 4) for x in bootstrap(gain)], **held,
        "tokens_per_pair": round(float(tokens.mean()), 1), "pairs_truncated": round(float((cut > 0).mean()), 4),
    }  # fmt: skip


if __name__ == "__main__":
    main()
