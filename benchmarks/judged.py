"""Collections with judgments, in BEIR's layout, for the programs that measure quality."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rerank_engine import Query, Ranking
from rerank_engine.evaluation import read_run
from rerank_engine.evaluation.beir import Collection, load_beir


def collection(folder: Path) -> Collection:
    """By its first split, which need not be called test."""
    return load_beir(folder, min(path.name for path in (folder / "qrels").iterdir()).split(".")[0])


def sampled(queries: Sequence[Query], most: int) -> list[Query]:
    """At most so many, of a fixed shuffle, in their order."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(queries))[:most])
    return [queries[i] for i in chosen]


def stored_run(folder: Path, of: Collection, queries: Sequence[Query]) -> list[Ranking] | None:
    """The lists of runs/bm25.trec.gz, where the collection has one."""
    path = folder / "runs" / "bm25.trec.gz"
    if not path.is_file():
        return None
    run = read_run(path)
    lists = [run[str(query.id)] for query in queries]
    return [Ranking.sorted(of.corpus, [of.corpus.row(doc) for doc in rows], list(rows.values()), scale="bm25") for rows in lists]
