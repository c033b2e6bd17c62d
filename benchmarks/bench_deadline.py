"""Do pipelines keep their deadlines, and are their answers well-formed? Random pipelines over the demo's passages, with the bundled models.

    python -m benchmarks.bench_deadline [--quick] [--index FILE] [--seed N] [--json]

Each pipeline is drawn anew (stages, depths, a deadline of 1 ms to 2 s by its logarithm, 1 or 4 questions) and run once. A run is in time if
it ends within the deadline and 10 ms. Where a model runs, a call that has begun is finished, so that the longest call of that very run is
allowed on top; both shares are told. A ranking is malformed if rows repeat, scores rise or are not finite, columns have another length, a
stage that keeps documents lost one, or what a re-scoring stage did not reach changed its order.
--index: where the token index is kept, made there if it is not (a minute or two).
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import rerank_engine as rr
from rerank_engine.demo import DATA, ENCODER, shipped_vectors
from rerank_engine.evaluation import load_beir

from . import harness

SLACK_MS = 10
KEEPS = ("CrossEncoder", "MaxSim", "ColBERT", "Similarity", "Slow", "Cascade")  # names of steps that re-score and lose nothing


class Timed:
    """A runtime, and how long its calls took, in ms."""

    def __init__(self, runtime: Any) -> None:
        self.runtime, self.calls = runtime, list[float]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runtime, name)

    def run(self, *given: Any) -> Any:
        begin = time.perf_counter()
        try:
            return self.runtime.run(*given)
        finally:
            self.calls.append(1e3 * (time.perf_counter() - begin))


class Slow(rr.Scorer):
    """A scorer of one's own that knows of no deadline: half a millisecond a document."""

    def score(self, queries: Any, rankings: Any) -> list[rr.Scores]:
        time.sleep(0.0005 * sum(map(len, rankings)))
        return [rr.Scores((ranking.ids * 7919 % 1009).astype(np.float32), "slow") for ranking in rankings]


class Parts:
    """Indexes of the demo's first n passages, and what makes a stage of each kind at random."""

    def __init__(self, n: int, index: Path | None) -> None:
        collection = load_beir(DATA)
        self.corpus = rr.Corpus(list(collection.corpus)[:n])
        self.questions = [query.text for query in collection.queries]
        self.encoder, self.reader, self.colbert = (
            rr.load(name) for name in (ENCODER, "ms-marco-MiniLM-L-12-v2", "answerai-colbert-small-v1")
        )
        self.runtimes = [Timed(model.runtime) for model in (self.encoder, self.reader, self.colbert)]
        for model, runtime in zip((self.encoder, self.reader, self.colbert), self.runtimes):
            model.runtime = runtime
        vectors = shipped_vectors(collection).vectors[:n]
        self.bm25, self.exact = rr.BM25Index.build(self.corpus), rr.VectorIndex(self.corpus, vectors)
        self.lists = rr.VectorIndex.from_vectors(self.corpus, vectors, kind="ivf") if harness.peer("faiss") else self.exact
        if index is not None and index.is_file():
            self.tokens = rr.TokenIndex.open(index, encoder=self.colbert)
        else:
            harness.note(f"encoding {n} passages by ColBERT")
            self.tokens = rr.TokenIndex.build(self.corpus, self.colbert, storage="2bit")
            if index is not None:
                self.tokens.save(index)

    def first(self, rng: np.random.Generator) -> tuple[rr.Stage, bool]:
        """(a retriever, whether its list is over BM25's corpus and has scores of at least 0)"""
        k = int(rng.integers(10, 1001))
        bm25, dense = rr.BM25(self.bm25, k), rr.Dense(self.exact if rng.random() < 0.5 else self.lists, self.encoder, k)
        late = rr.LateInteraction(self.tokens, self.colbert, k, probe=rng.choice(np.array([None, 2, "auto"], object)))
        kinds: list[Callable[[], tuple[rr.Stage, bool]]] = [
            lambda: (bm25, True),
            lambda: (dense, False),
            lambda: (late, False),
            lambda: (rr.RM3(bm25), True),
            lambda: (rr.VectorPRF(rr.Dense(self.exact, self.encoder, k)), False),
            lambda: (rr.ColBERTPRF(late, rerank=bool(rng.random() < 0.5)), False),
            lambda: (rr.Fuse(bm25, dense, concurrent=bool(rng.random() < 0.5)), True),
            lambda: (rr.Fuse(bm25, dense, late, concurrent=bool(rng.random() < 0.5)), True),
            lambda: (rr.Fuse(bm25 >> rr.Rescore(self.reader, 20), dense, top=k), True),
        ]
        return kinds[int(rng.integers(len(kinds)))]()

    def second(self, rng: np.random.Generator, feedback: bool) -> rr.Stage:
        depth, k = int(rng.integers(5, 1001)), int(rng.integers(5, 101))
        similarity = rr.Similarity(self.exact, self.encoder)
        kinds: list[Callable[[], rr.Stage]] = [
            lambda: rr.Rescore(self.reader, depth),
            lambda: rr.Rescore(rr.MaxSim(self.tokens, self.colbert), depth),
            lambda: rr.Rescore(self.colbert, depth),
            lambda: rr.Rescore(similarity, depth),
            lambda: rr.Rescore(Slow(), depth),
            lambda: rr.Cascade([similarity, self.reader], keep=0.4, depth=depth),
            lambda: rr.CertifiedMaxSim(self.tokens, self.colbert, k),
            lambda: rr.MMR(self.exact, k),
            lambda: rr.MMR(self.encoder, k, relevance="query"),
            lambda: rr.VectorPRF(rr.Dense(self.exact, self.encoder, depth), incoming=True),
            lambda: rr.ColBERTPRF(rr.LateInteraction(self.tokens, self.colbert, depth), incoming=True),
            lambda: rr.Dedup("shingles"),
            lambda: rr.Dedup("cosine", index=self.exact),
            lambda: rr.Rules(
                {"when": {"field": "_title", "exists": True}, "boost": 1.5}, {"when": {"field": "_id", "eq": "1"}, "bury": True}
            ),
            lambda: rr.LostInTheMiddle(),
        ]
        if feedback:
            kinds.append(lambda: rr.RM3(rr.BM25(self.bm25, depth), incoming=True))
        return kinds[int(rng.integers(len(kinds)))]()

    def pipeline(self, rng: np.random.Generator) -> rr.Pipeline:
        stage, feedback = self.first(rng)
        stages = [stage]
        stages += [self.second(rng, feedback and number == 0) for number in range(int(rng.integers(0, 4)))]
        if rng.random() < 0.5:
            stages.append(rr.Top(10))
        return rr.Pipeline(*stages)

    def warm_up(self) -> None:
        """What is made once - the lists of a probing index, document frequencies - is not what is timed here."""
        late = rr.LateInteraction(self.tokens, self.colbert, 20, probe=2)
        for stage in (rr.ColBERTPRF(late), rr.Dense(self.lists, self.encoder, 20) >> rr.Rescore(self.reader, 20)):
            stage(self.questions[0])


def faults(ranking: rr.Ranking) -> list[str]:
    """What is wrong with an answer, and with what its trace says."""
    ids, scores, found = ranking.ids, ranking.scores, list[str]()
    if len(np.unique(ids)) != len(ids) or (len(ids) and not 0 <= ids.min() <= ids.max() < len(ranking.corpus)):
        found.append("rows")
    if not np.isfinite(scores).all() or (np.diff(scores) > 0).any():
        found.append("scores")
    if any(len(column) != len(ids) for column in ranking.columns.values()):
        found.append("columns")
    for before, step in zip(ranking.trace, ranking.trace[1:]):
        if step.name not in KEEPS:
            continue
        if sorted(before.ids.tolist()) != sorted(step.ids.tolist()):
            found.append(f"{step.name} lost documents")
        left = step.ids[step.facts.get("reached", len(step.ids)) :].tolist()
        place = {row: at for at, row in enumerate(before.ids.tolist())}
        if step.name != "Cascade" and not step.finished and (np.diff([place.get(row, -1) for row in left]) <= 0).any():
            found.append(f"{step.name} changed the order of what it did not reach")
    return found


def measured(parts: Parts, n: int, seed: int) -> list[dict[str, Any]]:
    rng, out = np.random.default_rng(seed), list[dict[str, Any]]()
    for number in range(n):
        pipeline, deadline = parts.pipeline(rng), float(np.exp(rng.uniform(0, np.log(2000))))
        asked = rng.choice(parts.questions, 1 if rng.random() < 0.75 else 4, replace=False).tolist()
        for runtime in parts.runtimes:
            runtime.calls.clear()
        begin = time.perf_counter()
        rankings = pipeline.run(asked, deadline_ms=deadline)
        ms = 1e3 * (time.perf_counter() - begin)
        calls = [call for runtime in parts.runtimes for call in runtime.calls]
        wrong = sorted({fault for ranking in rankings for fault in faults(ranking)})
        row = {"pipeline": repr(pipeline), "questions": len(asked), "deadline_ms": deadline, "ms": ms, "calls": calls, "faults": wrong,
               "unfinished": any(ranking.unfinished for ranking in rankings)}  # fmt: skip
        out.append(row)
        if wrong or ms > deadline + SLACK_MS + max(calls, default=0):
            steps = " ".join(f"{step.name}:{step.ms * len(asked):.0f}{'' if step.finished else '!'}" for step in rankings[0].trace)
            harness.note(f"#{number} {ms:.0f} of {deadline:.0f} ms, longest call {max(calls, default=0):.0f}: {wrong} {steps}")
    return out


def summary(rows: list[dict[str, Any]], n_documents: int, seed: int) -> list[dict[str, Any]]:
    calls = [call for row in rows for call in row["calls"]]
    longest = [max(row["calls"], default=0.0) for row in rows]
    over = np.array([row["ms"] - row["deadline_ms"] for row in rows])
    told = {"pipelines": len(rows), "documents": n_documents, "seed": seed, "load": [round(x, 2) for x in os.getloadavg()]}

    def quantiles(values: Any) -> dict[str, float]:
        return {name: round(float(np.percentile(values, q)), 2) for name, q in (("p50", 50), ("p99", 99), ("max", 100))}

    return [
        {
            "bench": "deadline",
            "case": f"random@{len(rows)}",
            **told,
            "within_10ms": round(float((over <= SLACK_MS).mean()), 4),
            "within_10ms_and_a_call": round(float((over <= SLACK_MS + np.array(longest)).mean()), 4),
            "malformed": sum(bool(row["faults"]) for row in rows),
            "cut_short": round(float(np.mean([row["unfinished"] for row in rows])), 4),
            "model_call_ms": quantiles(calls),
            "over_ms": quantiles(np.maximum(over, 0)),
        }
    ]


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--index", type=Path, help="a file of the token index, made if it is not there")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    n = 300 if args.quick else 1000
    parts = Parts(n, args.index)
    parts.warm_up()
    gc.freeze()  # what is loaded is not collected over and over
    rows = summary(measured(parts, 60 if args.quick else 500, args.seed), n, args.seed)
    if args.json:
        json.dump(rows, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        for name, value in rows[0].items():
            sys.stdout.write(f"{name:<26}{value}\n")


if __name__ == "__main__":
    main()
