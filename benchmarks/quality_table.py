"""The quality table: what each first stage finds and what each re-ranker makes of it: `python -m benchmarks.quality_table FOLDER...`.

A FOLDER is a collection in BEIR's layout. Where it has a stored first stage (runs/bm25.trec.gz) that is what is re-ranked: BM25 over a pool
of hard negatives is another task. Models, as published in the bundled packages: ms-marco-MiniLM-L-12-v2 (int8), bge-small-en-v1.5 (int8),
answerai-colbert-small-v1 (int8, without its projection: 384 dimensions; 2-bit codes
of 4,096 centroids), splade-tiny. At most --queries queries of a collection, of a fixed
shuffle, the same for all its rows. gain: against the first stage on the same queries; intervals and p are rr.compare's. ms: CPU time of a
query, one at a time.

--quick: collections of up to 1,400 documents, 20 queries. Everything is kept under build/bench/quality: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rerank_engine as rr
from benchmarks import harness, judged
from benchmarks.quality_kept import Kept, Lists, lists_of, place, require_same
from rerank_engine.evaluation import evaluate_queries
from rerank_engine.evaluation.answers import answer_in_context, distractor_rate
from rerank_engine.evaluation.compare import bootstrap, randomization
from rerank_engine.runtimes.base import weights_of

NAMES = {
    "cross": "ms-marco-MiniLM-L-12-v2",
    "dense": "bge-small-en-v1.5",
    "late": "answerai-colbert-small-v1",
    "sparse": "splade-tiny",
}
DEPTHS, SMALL, QUICK = (20, 50, 100), 1400, 20
CENTROIDS, SAMPLE = 4096, 200_000  # of the 2-bit codes; tokens that they are trained on


class Models:
    """Loaded when first used."""

    def __init__(self, threads: int | None) -> None:
        self._options: dict[str, Any] = {"threads": threads, "device": "cpu"}

    def fingerprints(self) -> dict[str, str]:
        return {name: weights_of(getattr(self, name).runtime) for name in NAMES}

    def __getattr__(self, name: str) -> Any:
        model = rr.load(NAMES[name], **self._options)
        setattr(self, name, model)
        return model


class Bench:
    """A collection with its indexes, which are made when first used. first: the lists that are re-ranked."""

    def __init__(self, folder: Path, models: Models, most: int) -> None:
        self.name, self.models = folder.name, models
        self.collection = judged.collection(folder)
        self.corpus, self.queries = self.collection.corpus, judged.sampled(self.collection.queries, most)
        self.qrels = {str(query.id): self.collection.qrels[str(query.id)] for query in self.queries}
        self.relevant = 2 if max(max(grades.values()) for grades in self.collection.qrels.values()) > 1 else 1  # as TREC's tracks count
        self.measures = ["nDCG@10", f"RR(rel={self.relevant})@10", f"R(rel={self.relevant})@100"]
        self.content = [self.name, str(len(self.corpus)), *self.corpus.texts(np.arange(0, len(self.corpus), 97))]
        self.kept = Kept(self.name, models.cross)
        require_same(self.name, self.corpus, models.fingerprints())
        self.stored = judged.stored_run(folder, self.collection, self.queries)

    def _index(self, what: str, kind: Any, made_of: str, build: Callable[[Path], object]) -> Any:
        path = place(self.name, what, [made_of, *self.content], ".index")
        if not path.exists():
            harness.note(f"{self.name}: {what} of {len(self.corpus)} documents")
            build(path)
        return kind.open(path)

    @cached_property
    def bm25(self) -> rr.BM25:
        return rr.BM25(rr.BM25Index.build(self.corpus, forward=True), k=1000)

    @cached_property
    def vectors(self) -> rr.VectorIndex:
        encoder = self.models.dense
        return self._index("vectors", rr.VectorIndex, repr(encoder), lambda path: rr.VectorIndex.build(self.corpus, encoder, path=path))

    @cached_property
    def tokens(self) -> rr.TokenIndex:
        encoder = self.models.late
        how = {"storage": "float16"}
        return self._index(
            "tokens-float16", rr.TokenIndex, repr(encoder), lambda path: rr.TokenIndex.build(self.corpus, encoder, path=path, **how)
        )

    @cached_property
    def codes(self) -> rr.TokenIndex:
        """The same tokens in 2 bits a dimension."""

        def build(path: Path) -> None:
            rows = [self.tokens.tokens(row) for row in range(len(self.corpus))]
            rows = [row / np.maximum(np.linalg.norm(row, axis=1, keepdims=True), 1e-12) for row in rows]
            order = np.random.default_rng(0).permutation(len(rows))
            sample = np.concatenate([rows[i] for i in order[: max(1, SAMPLE * len(rows) // self.tokens.n_tokens)]])
            codec = rr.ResidualCodec.train(sample, 2, CENTROIDS, iterations=4)
            rr.TokenIndex.from_embeddings(self.corpus, rows, storage="2bit", codec=codec, path=path)

        return self._index("tokens-2bit", rr.TokenIndex, f"{self.models.late!r} {CENTROIDS}", build)

    @cached_property
    def impacts(self) -> rr.ImpactIndex:
        encoder = self.models.sparse
        return self._index("impacts", rr.ImpactIndex, repr(encoder), lambda path: rr.ImpactIndex.build(self.corpus, encoder).save(path))

    @cached_property
    def first(self) -> list[rr.Ranking]:
        return self.stored if self.stored is not None else self.lists("BM25").rankings

    def lists(self, method: str) -> Lists:
        if method == STORED:
            assert self.stored is not None
            return Lists(self.stored, [0.0] * len(self.queries), 0)
        reads, make = METHODS[method]
        return lists_of(
            self.name, method.replace(" ", "-"), make(self), self.queries, self.first if reads else None, self.corpus, self.kept
        )


def _dense(bench: Bench) -> rr.Stage:
    return rr.Dense(bench.vectors, bench.models.dense, k=1000)


def _sparse(bench: Bench) -> rr.Stage:
    return rr.SPLADE(bench.impacts, bench.models.sparse, k=1000)


def _late(bench: Bench) -> rr.LateInteraction:
    return rr.LateInteraction(bench.codes, bench.models.late, k=1000)


def _hybrid(bench: Bench) -> rr.Stage:
    return rr.Fuse(bench.bm25, _dense(bench), top=1000)


def _cascade(bench: Bench) -> rr.Stage:
    """The cheap order is that of the documents' vectors; the cross-encoder reads its first 30 %."""
    return rr.Cascade([rr.Similarity(bench.vectors, bench.models.dense), bench.kept], keep=0.3, depth=100)


def _four(bench: Bench) -> rr.Stage:
    return rr.Fuse(bench.bm25, _dense(bench), _sparse(bench), _late(bench), top=1000)


def _cross(depth: int, first: Callable[[Bench], rr.Stage] | None = None) -> Callable[[Bench], rr.Stage]:
    """The cross-encoder over the lists that are given, or over those of a first stage of its own."""
    return lambda bench: rr.Rescore(bench.kept, depth) if first is None else first(bench) >> rr.Rescore(bench.kept, depth)


STORED = "BM25 (stored run)"
# name -> (whether it re-ranks the first stage's lists, the stage)
METHODS: dict[str, tuple[bool, Callable[[Bench], rr.Stage]]] = {
    "BM25": (False, lambda bench: bench.bm25),
    "RM3": (False, lambda bench: rr.RM3(bench.bm25)),
    "dense": (False, _dense),
    "VectorPRF": (False, lambda bench: rr.VectorPRF(_dense(bench))),
    "SPLADE": (False, _sparse),
    "late interaction": (False, _late),
    "ColBERTPRF": (False, lambda bench: rr.ColBERTPRF(_late(bench))),
    "hybrid": (False, _hybrid),
    "hybrid of four": (False, _four),
    "vectors@100": (True, lambda bench: rr.Rescore(rr.Similarity(bench.vectors, bench.models.dense), 100)),
    "late interaction@100, float16": (True, lambda bench: rr.Rescore(rr.MaxSim(bench.tokens, bench.models.late), 100)),
    "late interaction@100, 2 bits": (True, lambda bench: rr.Rescore(rr.MaxSim(bench.codes, bench.models.late), 100)),
    **{f"cross-encoder@{depth}": (True, _cross(depth)) for depth in DEPTHS},
    "cascade@100": (True, _cascade),
    **{f"hybrid, cross-encoder@{depth}": (False, _cross(depth, _hybrid)) for depth in DEPTHS},
    **{f"hybrid of four, cross-encoder@{depth}": (False, _cross(depth, _four)) for depth in DEPTHS},
}


def values_of(bench: Bench, rankings: Sequence[rr.Ranking]) -> list[NDArray[np.float64]]:
    """Of each measure, a value a query."""
    run = {str(query.id): dict(zip(ranking.doc_ids, ranking.scores.tolist())) for query, ranking in zip(bench.queries, rankings)}
    found = evaluate_queries(bench.qrels, run, bench.measures)
    return [np.array([found[name][str(query.id)] for query in bench.queries]) for name in bench.measures]


def rounded(pair: tuple[float, float]) -> list[float]:
    return [round(x, 4) for x in pair]


def answers(bench: Bench, rankings: Sequence[rr.Ranking]) -> dict[str, float]:
    """Of collections with answers: whether one is in the first 3 passages, and the share of those that only distract."""
    gold = {str(query.id): bench.collection.answers[str(query.id)] for query in bench.queries}
    if not any(gold.values()):
        return {}
    found = {str(query.id): ranking for query, ranking in zip(bench.queries, rankings)}
    told = {"answer@3": answer_in_context(gold, found, 3), "distractors@3": distractor_rate(bench.qrels, found, 3, gold)}
    return {name: round(value, 4) for name, value in told.items()}


def measure(bench: Bench, methods: Sequence[str]) -> Iterator[dict[str, Any]]:
    first = values_of(bench, bench.first)[0]
    for method in [*([STORED] if bench.stored is not None else []), *methods]:
        lists = bench.lists(method)
        ndcg, rr_at_10, recall = values_of(bench, lists.rankings)
        yield {
            "collection": bench.name, "method": method, "queries": len(bench.queries), "of": len(bench.collection.queries),
            "documents": len(bench.corpus), "relevant": bench.relevant,
            "ndcg@10": round(float(ndcg.mean()), 4), "ndcg@10_95": rounded(bootstrap(ndcg)),
            "mrr@10": round(float(rr_at_10.mean()), 4), "recall@100": round(float(recall.mean()), 4),
            "gain": round(float((ndcg - first).mean()), 4), "gain_95": rounded(bootstrap(ndcg - first)),
            "p": round(randomization(ndcg - first), 5), **answers(bench, lists.rankings),
            "ms": None if np.isnan(lists.ms).any() else round(float(np.mean(lists.ms)), 2), "tokens": round(lists.tokens),
        }  # fmt: skip
        harness.note(f"{bench.name} {method}: nDCG@10 {ndcg.mean():.4f} ({(ndcg - first).mean():+.4f}), {np.mean(lists.ms):.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="a JSON list on standard output")
    parser.add_argument("--queries", type=int, default=100, help="at most so many of a collection")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--threads", type=int, help="of the models (default: what this process may use)")
    args = parser.parse_args()
    models, rows = Models(args.threads), list[dict[str, Any]]()
    for folder in args.folders:
        bench = Bench(folder, models, min(args.queries, QUICK) if args.quick else args.queries)
        if not args.quick or len(bench.corpus) <= SMALL:
            rows += measure(bench, args.methods)
    print(json.dumps(rows, indent=1) if args.json else "\n".join("  ".join(f"{k}={v}" for k, v in row.items()) for row in rows))


if __name__ == "__main__":
    main()
