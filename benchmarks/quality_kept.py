"""What quality_table.py remembers under build/bench/quality: indexes, lists, and the cross-encoder's scores pair by pair. A run that
was stopped goes on, a later one is quick. A folder of a collection is of one corpus, of these models, this machine and VERSION
(about.json): one of others is refused. Two runs at once on a collection may do work twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rerank_engine as rr
from rerank_engine.latency.facts import processor

FOLDER = Path(__file__).resolve().parents[1] / "build" / "bench" / "quality"
VERSION = 1  # to be raised when the same settings give other lists than before


def require_same(name: str, corpus: rr.Corpus, models: dict[str, str]) -> None:
    """Ends the program where what is kept of a collection was made of something else."""
    path = FOLDER / name / "about.json"
    about = {"version": VERSION, "corpus": corpus.sha256, "models": models, "machine": processor()}
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(about, indent=1))
    elif (found := json.loads(path.read_text())) != about:
        other = ", ".join(key for key in about if found.get(key) != about[key])
        sys.exit(f"{path.parent} was made with another {other}: remove it")


def place(name: str, what: str, depends: Sequence[str], ending: str = ".npz") -> Path:
    digest = hashlib.blake2b("\0".join(depends).encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()
    path = FOLDER / name / f"{what}-{digest}{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save(path: Path, **arrays: Any) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}.npz")
    np.savez(new, **arrays)
    new.replace(path)


class Kept(rr.Scorer):
    """A cross-encoder whose scores are remembered pair by pair. owed: ms of CPU time that asking it all would have taken on top of what was
    taken; the cost of a call is shared among its pairs by their tokens."""

    def __init__(self, collection: str, model: rr.CrossEncoder) -> None:
        self.collection, self.model, self.backend, self.owed = collection, model, model.backend, 0.0

    @property
    def name(self) -> str:
        return self.model.name

    def score(self, queries: Sequence[rr.Query], rankings: Sequence[rr.Ranking]) -> list[rr.Scores]:
        return [self._scores(query, ranking) for query, ranking in zip(queries, rankings)]

    def _scores(self, query: rr.Query, ranking: rr.Ranking) -> rr.Scores:
        path = place(self.collection, "pairs", [repr(self.model), query.text])
        known: dict[int, list[float]] = {}
        if path.exists():
            stored = np.load(path)
            known = dict(zip(stored["rows"].tolist(), stored["told"].tolist()))
        if fresh := [row for row in ranking.ids.tolist() if row not in known]:
            known |= dict(zip(fresh, self._asked(query, ranking.corpus.texts(np.array(fresh)))))
            save(path, rows=np.array(list(known), np.int64), told=np.array(list(known.values())))
        told = np.array([known[row] for row in ranking.ids.tolist()]).reshape(-1, 4)
        self.owed += float(told[:, 3].sum())
        columns = {"truncated_tokens": told[:, 2].astype(np.int32)}
        return rr.Scores(told[:, 0].astype(np.float32), "logit", columns, {"tokens": int(told[:, 1].sum())})

    def _asked(self, query: rr.Query, texts: list[str]) -> list[list[float]]:
        """[score, tokens, tokens cut off, ms] of each."""
        start, pairs = time.process_time(), [(query.text, text) for text in texts]
        scores = self.model.predict(pairs)
        ms = 1e3 * (time.process_time() - start)
        self.owed -= ms
        tokens = self.model.tokenizer.encode_pairs(pairs).ids.lengths
        columns = (scores.values, tokens, scores.columns["truncated_tokens"], ms * tokens / tokens.sum())
        return np.stack([np.asarray(column, np.float64) for column in columns], axis=1).tolist()  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return repr(self.model)


@dataclass(frozen=True)
class Lists:
    """rankings: one a query, rows of the collection's corpus; ms [queries]: CPU time of each, encoding of the query included; tokens: that
    the cross-encoder was given, of a query in the mean."""

    rankings: list[rr.Ranking]
    ms: list[float]
    tokens: float


def lists_of(
    name: str,
    what: str,
    stage: rr.Stage,
    queries: Sequence[rr.Query],
    first: Sequence[rr.Ranking] | None,
    corpus: rr.Corpus,
    kept: Kept,
) -> Lists:
    """The stage's lists, one query at a time, as a service asks."""
    given = [] if first is None else [" ".join(map(str, ranking.ids.tolist())) for ranking in first]
    path = place(name, what, [repr(stage), *(f"{query.id} {query.text}" for query in queries), *given])
    if not path.exists():
        rows, scores, ms, tokens = [], [], [], 0
        for number, query in enumerate(queries):
            start, kept.owed = time.process_time(), 0.0
            made = rr.Pipeline(stage).run([query], None if first is None else [first[number]])[0]
            ms.append(1e3 * (time.process_time() - start) + kept.owed)
            rows.append(made.ids if made.corpus is corpus else np.array([corpus.row(doc) for doc in made.doc_ids], np.int64))
            scores.append(made.scores)
            tokens += sum(int(step.facts.get("tokens", 0)) for step in made.trace)
        ends = np.cumsum([len(row) for row in rows])
        mean = np.array(tokens / len(queries))
        save(path, ids=np.concatenate(rows), scores=np.concatenate(scores), ends=ends, ms=np.array(ms), tokens=mean)
    stored = np.load(path)
    parts = zip(np.split(stored["ids"], stored["ends"][:-1]), np.split(stored["scores"], stored["ends"][:-1]))
    return Lists([rr.Ranking(ids, scores, corpus) for ids, scores in parts], stored["ms"].tolist(), float(stored["tokens"]))
