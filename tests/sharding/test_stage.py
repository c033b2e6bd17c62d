"""The stage over shards: the same rankings as of one index, deadlines, shards that are gone, documents fetched when they are read."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import late_models
import models
import numpy as np
import pytest
import words_scorer
from switched_shards import N, Switched, parts, require_same

import rerank_engine as rr
from rerank_engine.codec import ResidualCodec
from rerank_engine.errors import DuplicateIdError, InputError, ShardUnavailable, UnknownIdError
from rerank_engine.sharding import ShardedIndex, manifest, split
from rerank_engine.sharding.scatter import Scatter
from rerank_engine.sharding.shard import Here, Shard


@pytest.fixture
def switched(bm25):
    """Three shards, a replica each."""
    held = [Switched(shard, f"replica of {shard.base}") for shard in parts(bm25, 3)]
    return held, ShardedIndex([[one] for one in held], analyzer="whitespace")


def test_a_ranking_is_that_of_one_index_and_a_reranker_reads_its_documents(bm25, switched):
    queries = [models.words(3, 4), models.words(10, 2), "nothing", ""]
    one, many = rr.BM25(bm25, k=30), rr.Sharded(switched[1], k=30)
    require_same(one.run(queries), many.run(queries))
    scorer = words_scorer.Words()
    require_same((one >> rr.Rescore(scorer, 20)).run(queries), (many >> rr.Rescore(scorer, 20)).run(queries))
    assert repr(many) == "Sharded(k=30, bm25 in 3 shards, lucene, k1=1.2, b=0.75)"


def test_feedback_wants_one_index(switched):
    with pytest.raises(InputError, match="RM3: retriever: got Sharded; expected a BM25"):
        rr.RM3(rr.Sharded(switched[1], k=30))


def test_documents_come_with_the_list_and_are_asked_for_once(switched):
    held, index = switched
    ranking = rr.Sharded(index, k=30, documents=10)(models.words(3, 4))
    asked = [arguments for one in held for method, arguments in one.asked if method == "read"]
    assert sorted(row for rows, _ in asked for row in rows) == sorted(ranking.ids[:10].tolist())
    assert sorted(row for _, rows in asked for row in rows) == sorted(ranking.ids[10:].tolist())
    before = sum(len(one.asked) for one in held)
    assert ranking.head(10).documents and ranking.doc_ids
    assert sum(len(one.asked) for one in held) == before
    assert len(ranking.documents) == len(ranking)
    rr.Sharded(index, k=30, documents=10)(models.words(3, 4))
    assert [method for one in held for method, _ in one.asked].count("frequencies") == 3, "what is known of terms is not asked again"


@pytest.mark.parametrize("pooling", ["mean"])
def test_vectors_by_their_encoder(corpus, tmp_path, pooling):
    encoder = rr.load(models.write_encoder(tmp_path / "model", pooling, normalize=True))
    index = rr.VectorIndex.build(corpus, encoder, kind="exact")
    split(index, tmp_path / "s", 3)
    queries = [models.words(3, 4), "", models.words(8, 2)]
    many = rr.Sharded(ShardedIndex.open(tmp_path / "s"), k=10, encoder=encoder)
    require_same(rr.Dense(index, encoder, k=10).run(queries), many.run(queries))
    with pytest.raises(InputError, match="encoder"):
        rr.Sharded(many.index, k=10)
    other = rr.load(models.write_encoder(tmp_path / "other", "cls", normalize=True))
    with pytest.raises(InputError, match="which made the index"):
        rr.Sharded(many.index, k=10, encoder=other)


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_tokens_by_their_encoder(tmp_path, storage):
    encoder = rr.load(late_models.write_pylate(tmp_path / "model"))
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(30)]
    corpus = rr.Corpus.from_texts([" ".join(rng.choice(words, 6)) for _ in range(N)], ids=[f"d{i}" for i in range(N)])
    index = rr.TokenIndex.build(corpus, encoder, storage=storage)
    split(index, tmp_path / "s", 3)
    queries = ["w1 w2", "", "w7"]
    many = rr.Sharded(ShardedIndex.open(tmp_path / "s"), k=10, encoder=encoder)
    require_same(rr.LateInteraction(index, encoder, k=10).run(queries), many.run(queries))
    assert [r.trace for r in many.run(queries)] == [()] * 3
    assert many("w1").trace[0].facts["exhaustive"]


def test_a_shard_that_is_gone_is_named_and_the_others_answer_in_time(switched, bm25):
    held, index = switched
    stage, query = rr.Sharded(index, k=30), models.words(3, 4)
    stage(query)  # what is known of the terms is held
    held[1].dead = True
    begun = time.monotonic()
    ranking = stage(query, deadline_ms=400)
    assert time.monotonic() - begun < 5  # not patience
    facts = ranking.trace[0].facts
    assert list(facts["missing"]) == ["1"] and "gone" in facts["missing"]["1"]
    assert not facts["finished"] and facts["reached"] == 40 and facts["retried"] > 0
    whole = rr.BM25(bm25, k=60)(query)
    left = [(row, score) for row, score in zip(whole.ids.tolist(), whole.scores.tolist()) if not 20 <= row < 40]
    assert list(zip(ranking.ids.tolist(), ranking.scores.tolist())) == left[: len(ranking)]
    assert ranking.unfinished
    held[1].dead = False
    assert stage(query).doc_ids == whole.head(30).doc_ids


def test_tokens_without_a_shard(corpus):
    """Of two questions the first must not take all of the time."""
    rng = np.random.default_rng(0)
    docs = rng.normal(size=(N, 6, 8)).astype(np.float32)
    docs /= np.linalg.norm(docs, axis=-1, keepdims=True)
    codec = ResidualCodec.train(docs.reshape(-1, 8), 2, 16, backend="numpy")
    held = []
    for start in (0, 20, 40):
        part = rr.Corpus(corpus[row] for row in range(start, start + 20))
        held.append(
            Switched(Shard(rr.TokenIndex.from_embeddings(part, list(docs[start : start + 20]), storage="2bit", codec=codec), start), "x")
        )
    index = ShardedIndex([[one] for one in held])
    whole = index.search_tokens([docs[7]], 10, probe=2, candidates=15)[0]
    held[1].dead = True
    for probe in (None, 2):
        with rr.limited(deadline_ms=400):
            [found] = index.search_tokens([docs[7]], 10, probe=probe, candidates=15)
        assert found.partial and list(found.missing) == [1] and found.plan.facts["exhaustive"] == (probe is None)
        assert len(found.rows) == 10 and found.rows[0] == whole.rows[0] == 7
        assert not [row for row in found.rows if 20 <= row < 40]


def test_without_a_deadline_it_waits_until_the_shard_is_back(switched, bm25):
    held, index = switched
    held[2].dead = True
    threading.Timer(0.3, lambda: setattr(held[2], "dead", False)).start()
    ranking = rr.Sharded(index, k=30)(models.words(3, 4))
    assert ranking.doc_ids == rr.BM25(bm25, k=30)(models.words(3, 4)).doc_ids
    assert "missing" not in ranking.trace[0].facts and ranking.trace[0].facts["retried"] > 0


def test_a_batch_of_token_queries_without_a_shard_is_answered_whole_by_the_others(corpus):
    rng = np.random.default_rng(0)
    docs = rng.normal(size=(N, 6, 8)).astype(np.float32)
    held = []
    for start in (0, 20, 40):
        part = rr.Corpus(corpus[row] for row in range(start, start + 20))
        held.append(Switched(Shard(rr.TokenIndex.from_embeddings(part, list(docs[start : start + 20])), start), "x"))
    index = ShardedIndex([[one] for one in held])
    held[1].dead = True
    with rr.limited(deadline_ms=600):
        found = index.search_tokens([docs[3], docs[7], docs[50]], 10)
    assert [list(one.missing) for one in found] == [[1]] * 3
    assert [one.rows[0] for one in found] == [3, 7, 50] and all(len(one.rows) == 10 for one in found)


def test_one_after_the_other_a_dead_shard_does_not_keep_the_others_from_being_asked(bm25):
    held = [Switched(shard, "x") for shard in parts(bm25, 3)]
    index = ShardedIndex([[one] for one in held], analyzer="whitespace", at_once=1)
    index.search([models.words(3, 4)], 30)
    held[0].dead = True
    with rr.limited(deadline_ms=400):
        [found] = index.search([models.words(3, 4)], 30)
    assert list(found.missing) == [0] and len(found.rows) > 0


def test_a_list_larger_than_what_is_held_is_whole(bm25, monkeypatch):
    monkeypatch.setattr("rerank_engine.sharding.corpus.HELD", 10)
    index = ShardedIndex([[Switched(shard, "x")] for shard in parts(bm25, 3)], analyzer="whitespace")
    queries = [models.words(3, 4), models.words(8, 4)]
    require_same(rr.BM25(bm25, k=60).run(queries), rr.Sharded(index, k=60, documents=20).run(queries))


def test_a_search_that_waits_for_a_thread_has_less_time(bm25):
    """Three shards, one thread, each as slow as it may be: the third begins when the time of all is nearly over."""
    shards, pool, left = parts(bm25, 3), ThreadPoolExecutor(1), []

    def slow(shard):
        answer = shard.answer

        def late(method, arguments, expected, seconds):
            if method == "lexical":
                left.append(seconds)
                time.sleep(0.1)
            return answer(method, arguments, expected, seconds)

        return late

    for shard in shards:
        shard.answer = slow(shard)
    index = ShardedIndex([[Here(shard, pool)] for shard in shards], analyzer="whitespace")
    with rr.limited(deadline_ms=1000):
        index.search([models.words(3, 4)], 30)
    assert len(left) == 3 and left[0] - left[1] >= 0.09 and left[1] - left[2] >= 0.09


def test_what_a_query_may_find_is_made_once_for_those_that_share_it(bm25, monkeypatch):
    index = ShardedIndex([[Here(shard, ThreadPoolExecutor(1))] for shard in parts(bm25, 3)], analyzer="whitespace")
    made, mask = [], Shard._mask
    monkeypatch.setattr(Shard, "_mask", lambda self, chosen: made.append(chosen) or mask(self, chosen))
    allow = [f"d{i}" for i in range(0, N, 2)]
    queries = [rr.Query(models.words(i, 4), allow=allow) for i in range(12)]
    require_same(rr.BM25(bm25, k=30).run(queries), rr.Sharded(index, k=30).run(queries))
    assert len(made) == 3


def test_two_variants_at_once_do_not_take_each_others_place(bm25, switched):
    index = switched[1]
    flat, queries = index.with_parameters(variant="bm25+", k1=0.4), [models.words(3, 4), models.words(9, 3)]
    with ThreadPoolExecutor(8) as pool:
        both = list(pool.map(lambda i: (flat if i % 2 else index).search(queries, 30), range(40)))
    one, other = bm25.search(queries, 30), bm25.with_parameters(variant="bm25+", k1=0.4).search(queries, 30)
    for i, found in enumerate(both):
        assert [own.scores.tolist() for own in found] == [scores.tolist() for _, scores in (other if i % 2 else one)]


def test_a_shard_that_was_written_anew_is_not_taken_for_what_it_was(bm25, tmp_path, monkeypatch):
    monkeypatch.setattr("rerank_engine.sharding.scatter.PAUSE_S", 0.01)
    split(bm25, tmp_path / "s", 2)
    places = manifest.places(tmp_path / "s")[1]
    pool = ThreadPoolExecutor(2)
    index = ShardedIndex([[Here(Shard(p.path, p.base, kind="bm25"), pool)] for p in places], places=places, analyzer="whitespace")
    texts = [document.text for document in bm25.corpus][::-1]
    rr.BM25Index.build(rr.Corpus.from_texts(texts[:30]), analyzer="whitespace").save(places[1].path)
    anew = Here(Shard(places[1].path, 30, kind="bm25"), pool)
    index.scatter._states[1][0].replica = anew  # as an actor is started again
    [found] = index.search([models.words(3, 4)], 30)
    assert list(found.missing) == [1] and "something else" in found.missing[1]
    with pytest.raises(ShardUnavailable, match="something else"):
        ShardedIndex([[anew]], places=places[1:], analyzer="whitespace", start_s=2)


def test_counts_that_a_shard_did_not_give_are_told_and_forgotten(switched, bm25):
    held, index = switched
    held[0].slow = 0.25
    query = models.words(5, 3)
    facts = rr.Sharded(index, k=30)(query, deadline_ms=150).trace[0].facts
    assert list(facts["approximate"]) == ["0"] and not facts["finished"]
    held[0].slow = 0.0
    require_same([rr.BM25(bm25, k=30)(query)], [rr.Sharded(index, k=30)(query)])


def test_shard_ms_leaves_the_rest_of_the_time_to_what_follows(switched):
    held, index = switched
    query = models.words(3, 4)
    rr.Sharded(index, k=30)(query)
    held[1].slow = 5.0
    begun = time.monotonic()
    ranking = (rr.Sharded(index, k=30, shard_ms=50) >> rr.Rescore(words_scorer.Words(), 10))(query, deadline_ms=2000)
    assert time.monotonic() - begun < 1
    assert list(ranking.trace[0].facts["missing"]) == ["1"]
    assert ranking.trace[1].finished


def test_a_shard_that_goes_between_search_and_reading_is_missing(switched):
    held, index = switched
    query = models.words(3, 4)
    answer = held[1].shard.answer
    held[1].shard.answer = lambda method, *rest: time.sleep(1) if method == "read" else answer(method, *rest)
    ranking = rr.Sharded(index, k=30)(query, deadline_ms=400)
    assert list(ranking.trace[0].facts["missing"]) == ["1"]
    assert not [row for row in ranking.ids.tolist() if 20 <= row < 40]
    assert len(ranking.documents) == len(ranking)
    held[1].shard.answer = answer


def test_reading_of_a_shard_that_is_gone_says_so(switched):
    held, index = switched
    held[0].dead = True
    with pytest.raises(ShardUnavailable, match="shard 0 of 3"), rr.limited(deadline_ms=50):
        _ = index.corpus[3]
    with pytest.raises(ShardUnavailable), rr.limited(deadline_ms=50):
        index.corpus.row("d3")


def test_the_corpus_is_that_of_one_index(switched, corpus):
    index = switched[1]
    assert len(index.corpus) == N == len(index)
    assert list(index.corpus) == list(corpus)
    assert index.corpus.ids == corpus.ids
    assert index.corpus.texts([5, 50, 5]) == corpus.texts([5, 50, 5])
    assert [index.corpus.row(f"d{i}") for i in (0, 30, 59)] == [0, 30, 59]
    assert "d5" in index.corpus and "nobody" not in index.corpus
    with pytest.raises(UnknownIdError):
        index.corpus[N]
    with pytest.raises(UnknownIdError):
        index.corpus.row("nobody")


def test_what_is_held_is_bounded(switched, monkeypatch):
    monkeypatch.setattr("rerank_engine.sharding.corpus.HELD", 10)
    corpus = switched[1].corpus
    assert [document.id for document in corpus] == [f"d{i}" for i in range(N)]
    assert len(corpus._texts) <= 10 and len(corpus._names) == len(corpus._rows) <= 10
    assert corpus.texts(np.arange(N)) and corpus.ids_of(np.arange(N)) and len(corpus._texts) <= 10


def test_two_sharded_indexes_of_a_collection_are_fused_as_two_whole_ones(bm25, corpus, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for name, n in (("a", 3), ("b", 3), ("c", 2)):
        split(bm25, tmp_path / name, n)
    opened = {name: ShardedIndex.open(tmp_path / name) for name in "abc"}
    flat = {name: index.with_parameters(variant="bm25+") for name, index in opened.items()}
    queries = [models.words(3, 4), models.words(int(rng.integers(0, 9)), 3)]
    one = rr.Fuse(rr.BM25(bm25, k=20), rr.BM25(bm25.with_parameters(variant="bm25+"), k=20))
    asked = []
    monkeypatch.setattr(Shard, "find", lambda self, ids, find=Shard.find: asked.append(len(ids)) or find(self, ids))
    for other in "abc":  # the same shards, others of the same ranges, others: found by their ids
        many = rr.Fuse(rr.Sharded(opened["a"], k=20), rr.Sharded(flat[other], k=20))
        require_same(one.run(queries), many.run(queries))
        assert not asked or other == "c"
    plain = rr.Fuse(rr.BM25(bm25, k=20), rr.Sharded(flat["a"], k=20))
    require_same(one.run(queries), plain.run(queries))


def test_an_id_in_two_shards_is_refused_when_it_is_met(bm25):
    first, _ = parts(bm25, 2)
    twice = rr.BM25Index.build(rr.Corpus(first.index.corpus), analyzer="whitespace")
    index = ShardedIndex([[Switched(first, "a")], [Switched(Shard(twice, 30), "b")]], analyzer="whitespace")
    with pytest.raises(DuplicateIdError, match="shard"):
        rr.Sharded(index, k=60)(models.words(3, 4))


def test_where_all_shards_fail_it_is_no_empty_list(bm25, monkeypatch):
    index = ShardedIndex([[Here(shard, ThreadPoolExecutor(1))] for shard in parts(bm25, 3)], analyzer="whitespace")
    monkeypatch.setattr(Shard, "lexical", lambda *_: 1 / 0)
    with pytest.raises(ShardUnavailable, match="all 3 shards asked for 'lexical': got here: division by zero"):
        index.search([models.words(3, 4)], 10)


def test_a_shard_that_time_cut_short_is_named(bm25, monkeypatch):
    index = ShardedIndex([[Here(shard, ThreadPoolExecutor(1))] for shard in parts(bm25, 3)], analyzer="whitespace")
    lexical = Shard.lexical

    def short(self, *rest):
        answers = lexical(self, *rest)
        return [replace(answer, reached=3) for answer in answers] if self.base == 20 else answers

    monkeypatch.setattr(Shard, "lexical", short)
    ranking = rr.Sharded(index, k=10)(models.words(3, 4))
    assert ranking.trace[0].facts["stopped"] == [1] and ranking.trace[0].facts["reached"] == 43


def test_no_shard_answers_at_the_start():
    class Dead:
        name = "dead"

        def ask(self, method, arguments, expected, seconds):
            future = Future()
            future.set_exception(ConnectionError("gone"))
            return future

    with pytest.raises(ShardUnavailable, match="gone"):
        ShardedIndex([[Dead()]], start_s=0.1)
    assert len(Scatter([[Dead()]])) == 1
