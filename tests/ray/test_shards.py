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
from rerank_engine.sharding import manifest, split
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


def test_all_kinds_answer_as_one_index(ray, corpus, bm25, queries, folder, tmp_path):
    rng = np.random.default_rng(1)
    index = shards_on_ray(folder, cpus=0.1)
    require_same(bm25.search(queries, 50), index.search(queries, 50))
    vectors = rr.VectorIndex(corpus, rng.normal(size=(N, DIM)).astype(np.float32), metric="cosine")
    near = rng.normal(size=(5, DIM)).astype(np.float32)
    require_same(vectors.search(near, 20), shards_on_ray(split(vectors, tmp_path / "v", SHARDS), cpus=0.1).search_vectors(near, 20))
    docs = rng.normal(size=(N, 9, DIM)).astype(np.float32)
    docs /= np.linalg.norm(docs, axis=-1, keepdims=True)
    codec = ResidualCodec.train(docs.reshape(-1, DIM), 2, 64, backend="numpy")
    tokens = rr.TokenIndex.from_embeddings(corpus, list(docs), storage="2bit", codec=codec)
    many = shards_on_ray(split(tokens, tmp_path / "t", SHARDS), cpus=0.1)
    for probe in (None, 2):
        asked = [docs[3], docs[200]]
        require_same(tokens.search(asked, 20, probe=probe), many.search_tokens(asked, 20, probe=probe))


def test_actors_are_killed_at_random_and_no_answer_is_wrong(ray, bm25, queries, folder, thorough):
    """With a deadline: in time, and whole, or partial with the missing shards named, their documents alone missing. Without: whole."""
    index = shards_on_ray(folder, replicas=2, cpus=0.1)
    stage, whole = rr.Sharded(index, k=N), {query: bm25.search([query], N)[0] for query in queries}
    stage.run(queries)  # what is known of all terms is held
    kills, stop, told = 20 if thorough else 4, threading.Event(), {"late": 0, "partial": 0, "whole": 0}

    def ask(deadline_ms):
        rng = random.Random(deadline_ms)
        while not stop.is_set():
            query = rng.choice(queries)
            begun = time.monotonic()
            ranking = stage(query, deadline_ms=deadline_ms)
            took = time.monotonic() - begun
            rows, scores = (values.tolist() for values in whole[query])
            missing = {int(shard) for shard in ranking.trace[0].facts.get("missing", ())}
            if deadline_ms is None:
                assert not missing, missing
            told["partial" if missing else "whole"] += 1
            told["late"] += deadline_ms is not None and took > deadline_ms / 1e3 + 0.5
            edges = np.cumsum([0, *index.rows])
            left = [(row, score) for row, score in zip(rows, scores) if not any(edges[s] <= row < edges[s + 1] for s in missing)]
            assert list(zip(ranking.ids.tolist(), ranking.scores.tolist())) == left

    failed = []

    def watched(deadline_ms):
        try:
            ask(deadline_ms)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=watched, args=[ms]) for ms in (500, 2000, None)]
    for thread in threads:
        thread.start()
    rng = random.Random(7)
    for _ in range(kills):
        os.kill(rng.choice(processes(ray, index)), signal.SIGKILL)
        time.sleep(rng.uniform(0.2, 1.5))
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed, failed
    assert told["whole"] > 20, told
    assert told["late"] == 0, told
    require_same([whole[query] for query in queries], index.search(queries, N))


def test_the_only_replica_of_a_shard_comes_back(ray, bm25, queries, folder):
    index = shards_on_ray(folder, cpus=0.1)
    index.search(queries, 10)
    for pid in processes(ray, index):
        os.kill(pid, signal.SIGKILL)
    with rr.limited(deadline_ms=30):
        found = index.search(queries[:1], 10)[0]
    assert set(found.missing) == {0, 1, 2} and len(found.rows) == 0 and found.partial
    require_same(bm25.search(queries, 10), index.search(queries, 10))


def test_actors_of_a_name_are_found_again(ray, bm25, queries, folder):
    first = shards_on_ray(folder, cpus=0.1, name="passages")
    second = shards_on_ray(folder, cpus=0.1, name="passages")
    assert processes(ray, first) == processes(ray, second)
    require_same(bm25.search(queries, 10), second.search(queries, 10))
    assert stop_shards("passages") == SHARDS
    assert stop_shards("passages") == 0


def test_a_shard_that_cannot_be_opened_says_why_and_soon(ray, folder, tmp_path, bm25):
    broken = split(bm25, tmp_path / "broken", 2)
    data = bytearray((broken / "shard-00001.index").read_bytes())
    (broken / "shard-00001.index").write_bytes(data[: len(data) // 2])
    begun = time.monotonic()
    with pytest.raises(ShardUnavailable, match="shard-00001"):
        shards_on_ray(broken, cpus=0.1)
    assert time.monotonic() - begun < 25
    with pytest.raises(FileFormatError, match="shards"):
        shards_on_ray(tmp_path)
    for wrong in ({"replicas": 0}, {"concurrency": 0}, {"cpus": -1}):
        with pytest.raises(InputError, match="shards_on_ray"):
            shards_on_ray(folder, **wrong)
    assert manifest.is_sharded(folder)
