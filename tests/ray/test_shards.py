"""Shards in actors of Ray: the same answers, also while actors are killed at random."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine.codec import ResidualCodec
from rerank_engine.errors import FileFormatError, InputError, ShardUnavailable
from rerank_engine.sharding import manifest, on_ray, split
from rerank_engine.sharding.on_ray import shards_on_ray, stop_shards

N, SHARDS, DIM = 300, 3, 16


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    return rr.Corpus.from_texts([" ".join(f"w{word}" for word in rng.zipf(1.4, 20)) for _ in range(N)], ids=[f"d{i}" for i in range(N)])


@pytest.fixture(scope="module")
def queries():
    return [f"w{i} w{i + 1} w{2 * i}" for i in range(1, 30)]


@pytest.fixture(scope="module")
def bm25(corpus):
    return rr.BM25Index.build(corpus, analyzer="whitespace")


@pytest.fixture(scope="module")
def folder(bm25, tmp_path_factory):
    return split(bm25, tmp_path_factory.mktemp("ray") / "bm25", SHARDS)


def processes(ray, index):
    """pid of every actor, as far as they answer."""
    asked = [state.replica.handle.__ray_call__.remote(lambda _: os.getpid()) for row in index.scatter._states for state in row]
    return [pid for one in asked if (pid := answer(ray, one)) is not None]


def answer(ray, asked):
    try:
        return ray.get(asked, timeout=30)
    except ray.exceptions.RayError:  # the actor is being started again
        return None


def require_same(one, found):
    for (rows, scores), own in zip(one, found, strict=True):
        assert own.rows.tolist() == rows.tolist()
        assert own.scores.view(np.uint32).tolist() == scores.view(np.uint32).tolist()
        assert not own.partial


def test_all_kinds_answer_as_one_index(ray, corpus, bm25, queries, tokens, folder, tmp_path):
    rng = np.random.default_rng(1)
    index = shards_on_ray(folder, cpus=0.1)
    require_same(bm25.search(queries, 50), index.search(queries, 50))
    vectors = rr.VectorIndex(corpus, rng.normal(size=(N, DIM)).astype(np.float32), metric="cosine")
    near = rng.normal(size=(5, DIM)).astype(np.float32)
    require_same(vectors.search(near, 20), shards_on_ray(split(vectors, tmp_path / "v", SHARDS), cpus=0.1).search_vectors(near, 20))
    late, docs = tokens
    many = shards_on_ray(split(late, tmp_path / "t", SHARDS), cpus=0.1)
    for probe in (None, 2):
        asked = [docs[3], docs[200]]
        require_same(late.search(asked, 20, probe=probe), many.search_tokens(asked, 20, probe=probe))


@pytest.fixture(scope="module")
def tokens(corpus):
    rng = np.random.default_rng(2)
    docs = rng.normal(size=(N, 9, DIM)).astype(np.float32)
    docs /= np.linalg.norm(docs, axis=-1, keepdims=True)
    codec = ResidualCodec.train(docs.reshape(-1, DIM), 2, 64, backend="numpy")
    return rr.TokenIndex.from_embeddings(corpus, list(docs), storage="2bit", codec=codec), list(docs)


class Asker(threading.Thread):
    """Asks until it is told to stop, and compares each answer with what one index says of the shards that answered."""

    def __init__(self, search, expected, rows, deadline_ms, stop):
        super().__init__()
        self.search, self.expected, self.edges, self.deadline_ms, self.stop = search, expected, np.cumsum([0, *rows]), deadline_ms, stop
        self.told, self.error = {"whole": 0, "missing": 0, "approximate": 0, "late": 0}, None

    def run(self):
        try:
            rng = random.Random(self.deadline_ms)
            while not self.stop.is_set():
                self.ask(rng.randrange(len(self.expected)))
        except BaseException as error:
            self.error = error

    def ask(self, i):
        begun = time.monotonic()
        rows, scores, missing, approximate = self.search(i, self.deadline_ms)
        self.told["late"] += self.deadline_ms is not None and time.monotonic() - begun > self.deadline_ms / 1e3 + 1
        self.told["missing" if missing else "approximate" if approximate else "whole"] += 1
        if self.deadline_ms is None:
            assert not missing and not approximate, (missing, approximate)
        if not approximate:
            held = [(row, score) for row, score in self.expected[i] if not any(self.edges[s] <= row < self.edges[s + 1] for s in missing)]
            assert list(zip(rows, scores)) == held[: len(rows)] and (missing or len(rows) == len(held)), (i, missing)


def by_stage(stage, queries):
    def search(i, deadline_ms):
        index = stage.index
        if i % 3 == 0:  # nothing is known of terms and documents, as at the first query
            index._df, index.corpus._names, index.corpus._texts = {}, {}, {}
        ranking = stage(queries[i], deadline_ms=deadline_ms)
        facts = ranking.trace[0].facts
        assert ranking.documents == [] or ranking.documents[0].id == f"d{ranking.ids[0]}" or facts.get("missing")
        missing, approximate = ({int(shard) for shard in facts.get(name, ())} for name in ("missing", "approximate"))
        return ranking.ids.tolist(), ranking.scores.tolist(), missing, approximate

    return search


def by_tokens(index, docs):
    def search(i, deadline_ms):
        with rr.limited(deadline_ms=deadline_ms):
            [found] = index.search_tokens([docs[i]], N, probe=None)
        return found.rows.tolist(), found.scores.tolist(), set(found.missing), set(found.approximate)

    return search


def test_actors_are_killed_at_random_and_no_answer_is_wrong(ray, bm25, tokens, queries, folder, tmp_path, thorough):
    """With a deadline: in time, and whole, or with the missing shards named, their documents alone missing. Without: whole."""
    late, docs = tokens
    lexical, codes = (shards_on_ray(place, replicas=2, cpus=0.1) for place in (folder, split(late, tmp_path / "t", SHARDS)))
    stage, stop = rr.Sharded(lexical, k=N), threading.Event()
    expected = [list(zip(rows.tolist(), scores.tolist())) for rows, scores in bm25.search(queries, N)]
    near = [list(zip(rows.tolist(), scores.tolist())) for rows, scores in late.search(docs[:10], N, probe=None)]
    askers = [Asker(by_stage(stage, queries), expected, lexical.rows, ms, stop) for ms in (600, 2500, None)]
    askers += [Asker(by_tokens(codes, docs), near, codes.rows, ms, stop) for ms in (1500, None)]
    for asker in askers:
        asker.start()
    rng = random.Random(7)
    for _ in range(20 if thorough else 6):
        os.kill(rng.choice(processes(ray, rng.choice([lexical, codes]))), signal.SIGKILL)
        time.sleep(rng.uniform(0.2, 1.5))
    time.sleep(1)
    stop.set()
    for asker in askers:
        asker.join()
    assert not [asker.error for asker in askers if asker.error], [asker.error for asker in askers]
    assert sum(asker.told["whole"] for asker in askers) > 20, [asker.told for asker in askers]
    assert sum(asker.told["late"] for asker in askers) <= 2, [asker.told for asker in askers]  # of a driver that had no processor
    require_same(bm25.search(queries, N), lexical.search(queries, N))


def test_the_only_replica_of_a_shard_comes_back(ray, bm25, queries, folder):
    index = shards_on_ray(folder, cpus=0.1)
    index.search(queries, 10)
    for pid in processes(ray, index):
        os.kill(pid, signal.SIGKILL)
    with rr.limited(deadline_ms=30):
        found = index.search(queries[:1], 10)[0]
    assert set(found.missing) == {0, 1, 2} and len(found.rows) == 0 and found.partial
    require_same(bm25.search(queries, 10), index.search(queries, 10))


def test_actors_of_a_name_are_found_again(ray, bm25, queries, folder, tmp_path):
    first = shards_on_ray(folder, cpus=0.1, name="passages")
    second = shards_on_ray(folder, cpus=0.1, name="passages")
    assert processes(ray, first) == processes(ray, second)
    require_same(bm25.search(queries, 10), second.search(queries, 10))
    other = rr.BM25Index.build(rr.Corpus.from_texts(["w1 w2", "w3"] * 5), analyzer="whitespace")
    with pytest.raises(ShardUnavailable, match="something else"):
        shards_on_ray(split(other, tmp_path / "other", 2), cpus=0.1, name="passages")
    for wrong in ("", "a/b"):
        with pytest.raises(InputError, match="name"):
            shards_on_ray(folder, name=wrong)
    assert stop_shards("passages") == SHARDS
    assert stop_shards("passages") == 0


def test_a_shard_that_cannot_be_opened_says_why_and_soon(ray, folder, tmp_path, bm25):
    broken = split(bm25, tmp_path / "broken", 2)
    data = (broken / "shard-00001.index").read_bytes()
    (broken / "shard-00001.index").write_bytes(data[: len(data) // 2])
    begun = time.monotonic()
    with pytest.raises(ShardUnavailable, match="shard-00001"):
        shards_on_ray(broken, cpus=0.1, name="broken")
    assert time.monotonic() - begun < 60  # not START_S
    (broken / "shard-00001.index").write_bytes(data)
    time.sleep(on_ray.AGAIN_S)
    assert len(shards_on_ray(broken, cpus=0.1, name="broken")) == N, "the same actor has opened it"
    stop_shards("broken")
    with pytest.raises(FileFormatError, match="shards"):
        shards_on_ray(tmp_path)
    for wrong in ({"replicas": 0}, {"concurrency": 0}, {"cpus": -1}):
        with pytest.raises(InputError, match="shards_on_ray"):
            shards_on_ray(folder, **wrong)
    assert manifest.is_sharded(folder)
