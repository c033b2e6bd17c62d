"""Shards against one index of the same documents: the same rows and the same float32 scores, bit for bit."""

from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest

import rerank_engine as rr
from benchmarks import corpora
from rerank_engine.bulk import read_queries
from rerank_engine.codec import ResidualCodec
from rerank_engine.errors import InputError, UnknownIdError
from rerank_engine.sharding import ShardedIndex, split
from rerank_engine.sharding.shard import Here, Shard

SHARDS = (1, 2, 3, 7)
VARIANTS = ("lucene", "robertson", "atire", "bm25l", "bm25+")
N, DIM, K = 400, 16, 64


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def texts(n, seed=0):
    """Words by Zipf's law; some texts are empty."""
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{min(int(word), 300)}" for word in rng.zipf(1.3, rng.integers(0, 40))) for _ in range(n)]


@pytest.fixture(scope="module")
def corpus():
    made = texts(N)
    made[5] = made[250] = made[399] = made[1]  # which tie
    return rr.Corpus.from_texts(made, ids=[f"d{i}" for i in range(N)])


@pytest.fixture(scope="module")
def bm25(corpus):
    return rr.BM25Index.build(corpus, analyzer="whitespace")


@pytest.fixture(scope="module")
def asked():
    rare = ["w300 w1 w1 w2", "w7 nowhere w7 nowhere", "nowhere", "", "w250 w251 w252 w1 w2 w3 w4 w5 w6", "w299"]
    queries = [rr.Query(text) for text in [*rare, *texts(20, seed=1)]]
    weighted = rr.Query("", terms={"w1": 0.3, "w290": 2.5, "absent": 1.0, "w3": -0.5})
    must = [rr.Query("w1 w2", must=("w50",)), rr.Query("w1", must=("absent",))]
    only = [rr.Query("w1 w2", allow=["d3", "d250", "d399", "d100"]), rr.Query("w1 w2", deny=np.arange(0, 300))]
    return [*queries, weighted, *must, *only, rr.Query("w2", allow=np.arange(N) % 3 == 0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shards")


def sharded(index, folder, n, **options):
    place = folder / f"{type(index).__name__}-{id(index)}-{n}"
    if not place.exists():
        split(index, place, n)
    return ShardedIndex.open(place, **options)


def require_same(one, many):
    assert len(one) == len(many)
    for (rows, scores), found in zip(one, many):
        assert found.rows.tolist() == rows.tolist()
        assert found.scores.view(np.uint32).tolist() == scores.view(np.uint32).tolist()
        assert not found.partial


@pytest.mark.parametrize("at_once", [None, 1])
@pytest.mark.parametrize("k", [1, 10, 1000])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n", SHARDS)
def test_bm25(bm25, asked, folder, n, variant, k, at_once):
    one, many = bm25.with_parameters(variant=variant), sharded(bm25, folder, n, at_once=at_once).with_parameters(variant=variant)
    require_same(one.search(asked, k), many.search(asked, k))


@pytest.mark.parametrize("variant", VARIANTS)
def test_bm25_by_the_reference(corpus, asked, variant):
    """Shards in memory, searched by the reference; it and C++ agree to the last bit but for their logarithms."""
    parts = np.array_split(np.arange(N), 3)
    held = [rr.BM25Index.build(rr.Corpus(corpus[int(row)] for row in rows), analyzer="whitespace", variant=variant, backend="reference")
            for rows in parts]  # fmt: skip
    many = in_process(held, [int(rows[0]) for rows in parts])
    one = rr.BM25Index.build(corpus, analyzer="whitespace", variant=variant, backend="reference")
    require_same(one.search(asked, 20), many.search(asked, 20))


def in_process(indexes, bases, **options):
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(2)
    return ShardedIndex([[Here(Shard(index, base), pool)] for index, base in zip(indexes, bases)], analyzer="whitespace", **options)


def test_terms_that_are_numbers(folder):
    rng = np.random.default_rng(2)
    rows = [rng.integers(0, 50, 12).tolist() for _ in range(100)]
    index = rr.BM25Index.from_tokens(rows)
    queries = [[1, 2, 1, 49], [77], [3]]
    for n in SHARDS:
        require_same(index.search(queries, 20), sharded(index, folder, n).search(queries, 20))


def test_deleted_documents_are_left_out(corpus, asked, folder):
    index = rr.BM25Index.build(corpus, analyzer="whitespace")
    index.delete([f"d{i}" for i in range(0, 120, 2)])
    many = sharded(index, folder, 3)
    assert len(many) == len(index) == N - 60
    for (rows, scores), found in zip(index.search(asked[:20], 50), many.search(asked[:20], 50)):
        assert [many.corpus.id_of(row) for row in found.rows] == [index.corpus.id_of(row) for row in rows]
        assert found.scores.tolist() == scores.tolist()


def test_a_shard_that_has_deletions_of_its_own(corpus, asked):
    """As one index of the documents that are left."""
    halves = [rr.BM25Index.build(rr.Corpus(corpus[row] for row in part), analyzer="whitespace") for part in (range(200), range(200, N))]
    halves[0].delete(["d1", "d7"])
    whole = rr.BM25Index.build(corpus, analyzer="whitespace")
    whole.delete(["d1", "d7"])
    require_same(whole.search(asked[:20], 30), in_process(halves, [0, 200]).search(asked[:20], 30))


@pytest.mark.parametrize("metric", ["inner product", "cosine"])
@pytest.mark.parametrize("n", SHARDS)
def test_vectors(corpus, folder, n, metric):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(N, DIM)).astype(np.float32)
    vectors[300] = vectors[3]
    index = rr.VectorIndex(corpus, vectors, metric=metric)
    many = sharded(index, folder, n)
    for queries in (rng.normal(size=(3, DIM)), rng.normal(size=(40, DIM)), vectors[3:4]):
        queries = queries.astype(np.float32)
        for k in (1, 10, 1000):
            require_same(index.search(queries, k), many.search_vectors(queries, k))
    filters = [rr.Query("", allow=["d3", "d300", "d9"]), rr.Query("", deny=["d3"]), rr.Query("")]
    masks = [query.allowed(corpus) for query in filters]
    require_same(index.search(vectors[3:6], 10, filters=masks), many.search_vectors(vectors[3:6], 10, filters=filters))


def test_vectors_that_are_cut(corpus, folder):
    rng = np.random.default_rng(0)
    index = rr.VectorIndex(corpus, rng.normal(size=(N, DIM)).astype(np.float32), metric="cosine", dim=8)
    queries = rng.normal(size=(5, DIM)).astype(np.float32)
    require_same(index.search(queries, 10), sharded(index, folder, 3).search_vectors(queries, 10))


@pytest.fixture(scope="module")
def tokens():
    rng = np.random.default_rng(3)
    near = unit(rng.normal(size=(40, DIM)))
    docs = [unit(near[rng.integers(0, 40, i % 13)] + 0.2 * rng.normal(size=(i % 13, DIM))) for i in range(N)]
    docs[311] = docs[12]
    return docs


@pytest.fixture(scope="module")
def token_queries():
    rng = np.random.default_rng(4)
    return [unit(rng.normal(size=(n, DIM))) for n in (1, 5, 33, 40)]


@pytest.fixture(scope="module")
def token_indexes(corpus, tokens):
    made = {}
    for storage in ("2bit", "4bit", "1bit", "float16", "float32", "int8"):
        codec = ResidualCodec.train(np.concatenate(tokens), int(storage[0]), K, backend="numpy") if storage.endswith("bit") else None
        made[storage] = rr.TokenIndex.from_embeddings(corpus, tokens, storage=storage, codec=codec)
    return made


@pytest.mark.parametrize("storage", ["2bit", "4bit", "1bit", "float16", "float32", "int8"])
@pytest.mark.parametrize("n", SHARDS)
def test_tokens(token_indexes, token_queries, folder, n, storage):
    index = token_indexes[storage]
    many, ways = sharded(index, folder, n), ("auto", None, 1, 3, 64) if storage.endswith("bit") else ("auto", None)
    for probe, k, precision in itertools.product(ways, (1, 10, 100), ("auto", "uint8", "float32")):
        options = {"probe": probe, "precision": precision}
        one = index.search_explained(token_queries, k, **options)
        found = many.search_tokens(token_queries, k, **options)
        require_same([hits for hits, _ in one], found)
        assert [each.plan.facts for each in found] == [plan.facts for _, plan in one]


def test_tokens_with_filters_and_few_candidates(token_indexes, token_queries, corpus, folder):
    index, query = token_indexes["2bit"], token_queries[1]
    many = sharded(index, folder, 7)
    few = [rr.Query("", allow=[f"d{i}" for i in range(0, N, 3)]), rr.Query("", deny=np.arange(50, N)), rr.Query("", allow=np.arange(5))]
    for filter in few:
        for probe, candidates in ((None, None), (1, 20), (1, 133), (2, 60), ("auto", None)):
            options = {"probe": probe, "candidates": candidates}
            one = index.search_explained([query], 20, filters=[filter.allowed(corpus)], **options)
            found = many.search_tokens([query], 20, filters=[filter], **options)
            require_same([hits for hits, _ in one], found)
            assert found[0].plan.facts == one[0][1].facts


def test_the_scoring_is_that_of_the_whole_collection(token_indexes, token_queries, folder, monkeypatch):
    """Of shards as small as these each alone would decode, where the whole collection is scored by tables: the last bits differ."""
    index, many = token_indexes["2bit"], sharded(token_indexes["2bit"], folder, 7)
    one = index.search(token_queries, 50, probe=None)
    monkeypatch.setattr("rerank_engine.sharding.index.work_of", lambda *_: (0, 0))
    monkeypatch.setattr("rerank_engine.sharding.late.work_of", lambda *_: (0, 0))
    alone = many.search_tokens(token_queries, 50, probe=None)
    assert any(found.scores.tolist() != scores.tolist() for (_, scores), found in zip(one, alone))


@pytest.mark.parametrize("name", ["cranfield", "vaswani", "scifact"])
def test_real_collections(shared_data, tmp_path, name):
    place = shared_data / name
    corpus, queries = rr.Corpus.from_beir(place), list(read_queries(str(place)).values())[:60]
    index = rr.BM25Index.build(corpus)
    rng = np.random.default_rng(0)
    vectors = rr.VectorIndex(corpus, rng.normal(size=(len(corpus), 32)).astype(np.float32))
    near = rng.normal(size=(30, 32)).astype(np.float32)
    for n in SHARDS:
        split(index, tmp_path / f"b{n}", n)
        many = ShardedIndex.open(tmp_path / f"b{n}")
        for variant in VARIANTS:
            require_same(
                index.with_parameters(variant=variant).search(queries, 100), many.with_parameters(variant=variant).search(queries, 100)
            )
        split(vectors, tmp_path / f"v{n}", n)
        require_same(vectors.search(near, 100), ShardedIndex.open(tmp_path / f"v{n}").search_vectors(near, 100))


@pytest.mark.parametrize("keep", ["float32", "float16"])
def test_vectors_as_they_are_kept(corpus, folder, keep):
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(N, DIM)))
    index = rr.VectorIndex.from_vectors(corpus, vectors, kind="exact", keep=keep)
    require_same(index.search(vectors[:20], 10), sharded(index, folder, 3).search_vectors(vectors[:20], 10))


@pytest.mark.parametrize("name", ["cranfield", "cisi"])
def test_residual_codes_of_real_texts(shared_data, tmp_path, name):
    """A vector a word, as far apart as words are, for the first 40 words of real documents and questions."""
    place = shared_data / name
    corpus, queries = rr.Corpus.from_beir(place), list(read_queries(str(place)).values())[:12]
    corpus = rr.Corpus(itertools.islice(corpus, 900))
    docs = [words(document.passage) for document in corpus]
    codec = ResidualCodec.train(np.concatenate(docs), 2, 256, backend="numpy")
    index = rr.TokenIndex.from_embeddings(corpus, docs, storage="2bit", codec=codec)
    for n in SHARDS:
        many = ShardedIndex.open(split(index, tmp_path / str(n), n))
        for probe in (None, 2, "auto"):
            one = index.search_explained([words(query) for query in queries], 50, probe=probe)
            found = many.search_tokens([words(query) for query in queries], 50, probe=probe)
            require_same([hits for hits, _ in one], found)
            assert [each.plan.facts for each in found] == [plan.facts for _, plan in one]


def words(text):
    listed = text.lower().split()[:40] or ["empty"]
    return unit(np.stack([np.random.default_rng(abs(zlib.crc32(word.encode()))).normal(size=DIM) for word in listed]))


def test_the_synthetic_collection(tmp_path, monkeypatch):
    """That of benchmarks/bench_bm25.py, with its natural queries and those of very frequent words."""
    monkeypatch.setattr(corpora, "CACHE", tmp_path)
    monkeypatch.setattr(corpora, "CHUNK", 5000)
    collection = corpora.synthetic(5000)
    index = rr.BM25Index.from_tokens(collection.documents)
    queries = [*collection.queries["nat"][:30], *collection.queries["freq"][:30]]
    rng = np.random.default_rng(0)
    vectors = rr.VectorIndex(index.corpus, rng.normal(size=(5000, DIM)).astype(np.float32))
    terms = unit(rng.normal(size=(4096, DIM)))
    docs = [terms[np.asarray(row[:12]) % 4096] for row in itertools.islice(rows_of(collection.documents), 5000)]
    codec = ResidualCodec.train(np.concatenate(docs[:1000]), 2, 256, backend="numpy")
    tokens = rr.TokenIndex.from_embeddings(index.corpus, docs, storage="2bit", codec=codec)
    near, late = rng.normal(size=(5, DIM)).astype(np.float32), [terms[np.asarray(query) % 4096] for query in queries[:10]]
    for n in SHARDS:
        many = ShardedIndex.open(split(index, tmp_path / f"b{n}", n))
        for variant in VARIANTS:
            require_same(
                index.with_parameters(variant=variant).search(queries, 100), many.with_parameters(variant=variant).search(queries, 100)
            )
        require_same(vectors.search(near, 100), ShardedIndex.open(split(vectors, tmp_path / f"v{n}", n)).search_vectors(near, 100))
        require_same(tokens.search(late, 50), ShardedIndex.open(split(tokens, tmp_path / f"t{n}", n)).search_tokens(late, 50))


def rows_of(packed):
    return (packed.values[a:b] for a, b in itertools.pairwise(packed.offsets.tolist()))


def test_what_is_not_of_one_collection_is_refused(corpus, bm25, tokens, token_indexes):
    other = rr.BM25Index.build(corpus, analyzer="whitespace", k1=0.9)
    with pytest.raises(InputError, match="shard 1: settings"):
        in_process([bm25, other], [0, N])
    with pytest.raises(InputError, match="shard 1: kind"):
        in_process([bm25, token_indexes["2bit"]], [0, N])
    with pytest.raises(InputError, match="shard 1: first row"):
        in_process([bm25, bm25], [0, 7])
    codec = ResidualCodec.train(np.concatenate(tokens[:200]), 2, K, backend="numpy")
    foreign = rr.TokenIndex.from_embeddings(corpus, tokens, storage="2bit", codec=codec)
    with pytest.raises(InputError, match="shard 1: settings"):
        in_process([token_indexes["2bit"], foreign], [0, N])


def test_wrong_questions(bm25, token_indexes, corpus, folder):
    many, late = sharded(bm25, folder, 2), sharded(token_indexes["2bit"], folder, 2)
    with pytest.raises(InputError, match="search_tokens"):
        late.search(["w1"], 3)
    with pytest.raises(InputError, match="at least 1"):
        many.search(["w1"], 0)
    with pytest.raises(InputError, match="one query"):
        many.search("w1", 3)
    with pytest.raises(UnknownIdError, match="1 ids that no shard has"):
        many.search([rr.Query("w1", allow=["d1", "nobody"])], 3)
    with pytest.raises(InputError, match="ids, which are strings"):
        many.search([rr.Query("w1", allow=["d1", 3])], 3)
    with pytest.raises(InputError, match="rows from 0"):
        many.search([rr.Query("w1", allow=np.array([N]))], 3)
    with pytest.raises(InputError, match="at least 1, 16"):
        late.search_tokens([np.zeros((2, 3), np.float32)], 3)
    with pytest.raises(InputError, match="probe"):
        late.search_tokens([np.zeros((2, DIM), np.float32)], 3, probe=0)
