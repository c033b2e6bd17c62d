"""Quality of lexical retrieval on collections in BEIR's layout: `python -m benchmarks.quality_lexical FOLDER... [--json]`.

Per collection: BM25 and RM3 with their defaults, and bm25s over the same tokens with the same k1 and b. A folder named by a language code
(xquad/zh) is analysed in that language, every other in English; `simple` is the analyzer without a language.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness, judged
from rerank_engine import BM25, RM3, BM25Index, evaluate
from rerank_engine.core import Ranking
from rerank_engine.evaluation.beir import Collection

LANGUAGES = ("ar", "de", "en", "es", "ru", "zh")
MEASURES = ("nDCG@10", "R@10", "R@100", "MAP")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true", help="a JSON list on standard output")
    args = parser.parse_args()
    rows = [row for folder in args.folders for row in measure(folder)]
    print(json.dumps(rows, indent=1) if args.json else "\n".join("  ".join(f"{k}={v}" for k, v in row.items()) for row in rows))


def measure(folder: Path) -> Iterator[dict[str, Any]]:
    collection = judged.collection(folder)
    language = folder.name if folder.name in LANGUAGES else "english"
    name = f"{folder.parent.name}-{folder.name}" if folder.name in LANGUAGES else folder.name
    for analyzer in (language, "simple") if folder.name in LANGUAGES else (language,):
        index = BM25Index.build(collection.corpus, analyzer=analyzer, forward=True)
        first = BM25(index, k=1000)
        for method, stage in (("BM25", first), ("RM3", RM3(first))):
            yield row(name, analyzer, method, collection, stage.run(collection.queries))
        if (peer := peer_rankings(collection, index)) is not None:
            yield row(name, analyzer, "bm25s", collection, peer)


def row(name: str, analyzer: str, method: str, collection: Collection, rankings: list[Ranking]) -> dict[str, Any]:
    run = {str(q.id): dict(zip(r.doc_ids, r.scores.tolist())) for q, r in zip(collection.queries, rankings)}
    values = evaluate(collection.qrels, run, MEASURES)
    print(f"{name} {analyzer} {method}", file=sys.stderr)
    return {"collection": name, "analyzer": analyzer, "method": method, "queries": len(collection.queries)} | {
        str(measure): round(float(value), 4) for measure, value in values.items()
    }


def peer_rankings(collection: Collection, index: BM25Index) -> list[Ranking] | None:
    if (bm25s := harness.peer("bm25s")) is None:
        return None
    vocabulary: dict[str, int] = {}
    documents = [[vocabulary.setdefault(t, len(vocabulary)) for t in index.analyzer(text)] for text in collection.corpus.texts()]
    model = bm25s.BM25(method="lucene", k1=index.parameters.k1, b=index.parameters.b)
    model.index((documents, vocabulary), create_empty_token=False, show_progress=False)
    out = []
    for query in collection.queries:
        terms = [vocabulary[t] for t in index.analyzer(query.text) if t in vocabulary]
        scores = model.get_scores_from_ids(terms) if terms else np.zeros(len(collection.corpus), np.float32)
        found = np.flatnonzero(scores > 0)
        out.append(Ranking.sorted(collection.corpus, found, scores[found]).head(1000))
    return out


if __name__ == "__main__":
    main()
