"""Builds the demo's collection and document vectors: `python -m rerank_engine.demo.build SOURCE`, SOURCE = rag-xquad-en in BEIR layout.

The collection is all XQuAD paragraphs, all questions, and the distractors that BM25 ranks best for the questions: the passages that make
the whole collection hard. The result is the same on every run.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..cli import Bar
from ..corpus import Corpus, Document
from ..evaluation.beir import Collection, load_beir
from ..indexes import BM25Index, VectorIndex
from ..runtimes import load
from ..runtimes.files import BUNDLED
from ..stages import BiEncoder
from .pipeline import DATA, ENCODER

DISTRACTORS = 760


def choose(source: Collection) -> list[int]:
    """Rows of all judged paragraphs and of the DISTRACTORS hardest others, by sum of 1 / rank in BM25's top 10 of every question."""
    judged = {source.corpus.row(doc) for rels in source.qrels.values() for doc in rels}
    hits = BM25Index.build(source.corpus).search([query.text for query in source.queries], 10)
    weight = np.zeros(len(source.corpus))
    for rows, _ in hits:
        weight[rows] += 1 / np.arange(1, len(rows) + 1)
    weight[list(judged)] = -1
    hardest = np.lexsort((np.arange(len(weight)), -weight))[:DISTRACTORS]
    return sorted(judged | set(hardest.tolist()))


def write_gz(path: Path, records: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def record(document: Document) -> dict[str, Any]:
    return {"_id": document.id, "title": document.title, "text": document.text}


def main(folder: str) -> None:
    source = load_beir(folder)
    corpus = Corpus(source.corpus[row] for row in choose(source))
    (DATA / "qrels").mkdir(parents=True, exist_ok=True)
    write_gz(DATA / "corpus.jsonl.gz", [record(document) for document in corpus])
    write_gz(
        DATA / "queries.jsonl.gz",
        [{"_id": query.id, "text": query.text, "answers": source.answers[str(query.id)]} for query in source.queries],
    )
    lines = [f"{query}\t{doc}\t{rel}\n" for query, rels in source.qrels.items() for doc, rel in rels.items()]
    (DATA / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    encoder = load(ENCODER)
    if not isinstance(encoder, BiEncoder):
        raise SystemExit(f"{ENCODER} is not a bi-encoder")
    index = VectorIndex.build(corpus, encoder, progress=Bar("passages"))
    np.save(DATA / "vectors.npy", index.vectors.astype(np.float16))
    manifest = {
        "encoder": ENCODER,
        "encoder_sha256": BUNDLED[ENCODER].onnx_sha256,
        "corpus_sha256": corpus.sha256,
        "vectors_sha256": hashlib.sha256((DATA / "vectors.npy").read_bytes()).hexdigest(),
        "documents": len(corpus),
        "dim": index.dim,
        "dtype": "float16",
        "truncated_tokens": {corpus[int(row)].id: int(index.truncated_tokens[row]) for row in np.flatnonzero(index.truncated_tokens)},
        "built_with": {name: version(name) for name in ("onnxruntime", "tokenizers")},
    }
    (DATA / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
