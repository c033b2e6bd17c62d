"""What the demo runs: its collection, its vectors, its pipeline, and how it is judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core import Pipeline, Query, Ranking, Rescore, Top, step_labels
from ..errors import FileFormatError, InputError, UnsupportedModelError
from ..evaluation import Collection, contains_answer, evaluate, load_beir
from ..indexes import BM25Index, VectorIndex
from ..ops.checks import count
from ..progress import Progress
from ..runtimes import load
from ..runtimes.files import BUNDLED
from ..stages import BM25, BiEncoder, CrossEncoder, Dense, Fuse

DATA = Path(__file__).parent / "data"
ENCODER, RERANKER = "bge-small-en-v1.5", "ms-marco-MiniLM-L-12-v2"
SAMPLE = "Who first sent radio waves across the Atlantic?"
RETRIEVED, RERANKED, SHOWN = 100, 30, 10
MEASURES = {"ndcg@10": "nDCG@10", "mrr@10": "MRR@10"}


@dataclass(frozen=True)
class Demo:
    collection: Collection
    pipeline: Pipeline

    def search(self, query: str) -> Ranking:
        return self.pipeline(query)

    def questions(self, n: int) -> list[Query]:
        """n judged questions of a fixed shuffle. Raises InputError for more than there are."""
        queries = self.collection.queries
        if count("--evaluate", n) > len(queries):
            raise InputError("--evaluate", got=n, expected=f"at most {len(queries)}, the number of questions")
        return [queries[i] for i in np.random.default_rng(13).permutation(len(queries))[:n]]

    def evaluate(self, queries: Sequence[Query], progress: Progress | None = None) -> list[dict[str, Any]]:
        """Runs the questions one by one; for each stage the mean nDCG@10, MRR@10 and answer-in-context@3, and the median ms."""
        rankings = []
        for done, query in enumerate(queries, 1):
            rankings += self.pipeline.run([query])
            if progress:
                progress(done, len(queries))
        return [self._judge(label, i, queries, rankings) for i, label in enumerate(step_labels(rankings[0].trace))]

    def _judge(self, label: str, i: int, queries: Sequence[Query], rankings: Sequence[Ranking]) -> dict[str, Any]:
        """The i-th step over all questions. Its order is judged, so the scores handed to the measures are falling numbers."""
        steps = [ranking.trace[i] for ranking in rankings]
        corpus, ids = self.collection.corpus, [str(query.id) for query in queries]
        run = {q: {corpus[row].id: -float(place) for place, row in enumerate(step.ids.tolist())} for q, step in zip(ids, steps)}
        values = evaluate({q: self.collection.qrels[q] for q in ids}, run, list(MEASURES.values()))
        found = [contains_answer(self.collection.answers[q], corpus.texts(step.ids[:3])) for q, step in zip(ids, steps)]
        return {
            "stage": steps[0].stage,
            "name": label,
            "backend": steps[0].backend,
            "n_in": round(float(np.mean([step.n_in for step in steps])), 1),
            "n_out": round(float(np.mean([step.n_out for step in steps])), 1),
            "ms": round(float(np.median([step.ms for step in steps])), 3),
            **{name: values[measure] for name, measure in MEASURES.items()},
            "answer@3": float(np.mean(found)),
        }


def load_demo(threads: int | None = None) -> Demo:
    """Loads the collection, its shipped vectors and both models. Raises MissingDependency without the extra [demo]."""
    encoder, reranker = load(ENCODER, threads=threads), load(RERANKER, threads=threads)
    if not isinstance(encoder, BiEncoder) or not isinstance(reranker, CrossEncoder):
        raise UnsupportedModelError("demo", got=f"{encoder!r}, {reranker!r}", expected="a bi-encoder and a cross-encoder")
    collection = load_beir(DATA)
    lexical = BM25(BM25Index.build(collection.corpus), k=RETRIEVED)
    dense = Dense(shipped_vectors(collection), encoder, k=RETRIEVED)
    return Demo(collection, Fuse(lexical, dense) >> Rescore(reranker, depth=RERANKED) >> Top(SHOWN))


def shipped_vectors(collection: Collection) -> VectorIndex:
    """The document vectors of the package, after checking that they belong to this collection and this encoder."""
    manifest, file = json.loads((DATA / "manifest.json").read_text()), DATA / "vectors.npy"
    found = {
        "corpus_sha256": collection.corpus.sha256,
        "vectors_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "encoder_sha256": BUNDLED[ENCODER].onnx_sha256,
    }
    for key, value in found.items():
        if manifest.get(key) != value:
            hint = "Reinstall the package, or rebuild its data: python -m rerank_engine.demo.build SOURCE."
            raise FileFormatError(str(DATA), got=f"{key} {value}", expected=str(manifest.get(key)), hint=hint)
    cut = np.zeros(len(collection.corpus), np.int32)
    for doc_id, tokens in manifest["truncated_tokens"].items():
        cut[collection.corpus.row(doc_id)] = tokens
    return VectorIndex(collection.corpus, np.load(file, allow_pickle=False), cut)
