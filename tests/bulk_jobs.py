"""Bulk jobs that start quickly, by a tiny T5 or by the bundled model, for the tests of processes and of Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from t5_models import write_t5

from rerank_engine import bulk
from rerank_engine.evaluation import load_beir

N, DOCUMENTS = 23, 40
BUNDLED = "ms-marco-MiniLM-L-12-v2"


def write_files(folder: Path) -> dict[str, str]:
    """A run of N queries over DOCUMENTS documents, and a model."""
    rng = np.random.default_rng(0)
    words = ["cats", "fleas", "dogs", "a", "rose", *(f"w{i}" for i in range(20))]
    (folder / "model").mkdir()
    write_t5(folder / "model")
    texts = [" ".join(rng.choice(words, rng.integers(1, 20))) for _ in range(DOCUMENTS)]
    queries = [" ".join(rng.choice(words, 3)) for _ in range(N)]
    lists = [rng.choice(DOCUMENTS, rng.integers(1, 12), replace=False) for _ in range(N)]
    return {**_written(folder, texts, queries, lists), "model": str(folder / "model")}


def write_real_files(folder: Path, n: int, depth: int) -> dict[str, str]:
    """The first n questions of the demo, each with `depth` of its passages at random, and the bundled model."""
    rng = np.random.default_rng(0)
    collection = load_beir(Path(bulk.__file__).parent / "demo" / "data")
    texts, queries = collection.corpus.texts(), [query.text for query in collection.queries[:n]]
    return {**_written(folder, texts, queries, [rng.choice(len(texts), depth, replace=False) for _ in queries]), "model": BUNDLED}


def _written(folder: Path, texts: Sequence[str], queries: Sequence[str], lists: Sequence[Any]) -> dict[str, str]:
    def lines(name: str, letter: str, records: Sequence[str]) -> str:
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"_id": f"{letter}{i}", "text": text}) + "\n" for i, text in enumerate(records)))
        return str(path)

    rows = [f"q{i} Q0 d{row} {rank} {-rank} t\n" for i, found in enumerate(lists) for rank, row in enumerate(found, 1)]
    (folder / "run.trec").write_text("".join(rows))
    return {"run": str(folder / "run.trec"), "queries": lines("queries", "q", queries), "corpus": lines("corpus", "d", texts)}


def job(files: Mapping[str, str], out: Path, **more: Any) -> bulk.Job:
    options = {} if files["model"] == BUNDLED else {"prompt": "monot5"}
    return bulk.Job(**files, out=str(out), **{"options": options, "depth": 8, "part": 4, **more})


def in_here(asked: bulk.Job, left: Sequence[int], workers: int, threads: int | None) -> Iterator[dict[str, Any]]:
    """One part after the other in this process."""
    yield from map(bulk.PartScorer(asked, 1), left)


def scored(batches: Sequence[Any]) -> list[Any]:
    """In another process, by the bundled model."""
    return list(bulk.score_batches(batches, BUNDLED))
