"""Shards whose replicas a test can make slow, or dead, and a small collection in them."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import models
import numpy as np

import rerank_engine as rr
from rerank_engine.sharding.shard import Here, Shard

N = 60


class Switched(Here):
    """A replica that can be made slow, or dead."""

    def __init__(self, shard, name):
        super().__init__(shard, ThreadPoolExecutor(2), name)
        self.dead, self.slow, self.asked = False, 0.0, []

    def ask(self, method, arguments, expected, seconds):
        self.asked.append((method, arguments))
        future = Future()
        if self.dead:
            future.set_exception(ConnectionError("gone"))
        else:
            threading.Timer(self.slow, lambda: future.set_result(self.shard.answer(method, arguments, expected, seconds))).start()
        return future

    def forget(self, future):
        pass


def collection():
    rng = np.random.default_rng(0)
    texts = [models.words(int(start), 8) for start in rng.integers(0, 20, N)]
    return rr.Corpus.from_texts(texts, ids=[f"d{i}" for i in range(N)], titles=[f"t{i}" for i in range(N)])


def parts(index, n):
    corpus, edges = index.corpus, np.linspace(0, N, n + 1).astype(int).tolist()
    made = [rr.BM25Index.build(rr.Corpus(corpus[row] for row in range(a, b)), analyzer="whitespace") for a, b in itertools.pairwise(edges)]
    return [Shard(part, base) for part, base in zip(made, edges)]


def require_same(one, many):
    assert [ranking.doc_ids for ranking in many] == [ranking.doc_ids for ranking in one]
    assert [ranking.scores.tolist() for ranking in many] == [ranking.scores.tolist() for ranking in one]
    assert [ranking.scale for ranking in many] == [ranking.scale for ranking in one]
    assert [ranking.documents for ranking in many] == [ranking.documents for ranking in one]
    for name in one[0].columns:
        assert [ranking.columns[name].tolist() for ranking in many] == [ranking.columns[name].tolist() for ranking in one]
