from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import HALF_ULP

import rerank_engine as rr
from rerank_engine.errors import InputError, NonFiniteError
from rerank_engine.indexes import vector_exact


def corpus(n: int) -> rr.Corpus:
    return rr.Corpus.from_texts([f"text {i}" for i in range(n)])


def brute(vectors, query, k):
    """Python's own sort of exact products: integers, so that ties are real ones."""
    scores = [sum(int(a) * int(b) for a, b in zip(vector, query)) for vector in vectors]
    rows = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]
    return rows, [scores[row] for row in rows]


whole = st.integers(-3, 3)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.data(), st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.integers(1, 50))
def test_search_is_brute_force_and_ties_go_by_row(data, n, dim, n_queries, k):
    vectors = data.draw(st.lists(st.lists(whole, min_size=dim, max_size=dim), min_size=n, max_size=n))
    queries = data.draw(st.lists(st.lists(whole, min_size=dim, max_size=dim), min_size=n_queries, max_size=n_queries))
    index = rr.VectorIndex(corpus(n), vectors)
    hits = index.search(queries, k)
    assert len(hits) == n_queries and index.dim == dim
    for query, (rows, scores) in zip(queries, hits):
        assert rows.dtype == np.int64 and scores.dtype == np.float32
        assert (rows.tolist(), scores.tolist()) == brute(vectors, query, k)


@pytest.mark.parametrize("dim", [1, 7, 16, 100, 128, 384, 1024])
@pytest.mark.parametrize("n", [2, 3, 5, 9, 17, 101])
def test_equal_documents_tie_wherever_they_stand(dim, n):
    rng = np.random.default_rng(dim * n)
    vectors = np.repeat(rng.standard_normal((1, dim)), n, axis=0)
    (rows, scores), *_ = rr.VectorIndex(corpus(n), vectors).search(rng.standard_normal((1, dim)), n)
    assert len(set(scores.tolist())) == 1 and rows.tolist() == list(range(n))


def test_a_score_depends_neither_on_the_batch_nor_on_the_other_documents():
    rng = np.random.default_rng(5)
    vectors, queries = rng.standard_normal((203, 384)).astype(np.float32), rng.standard_normal((9, 384)).astype(np.float32)
    together = rr.VectorIndex(corpus(203), vectors).search(queries, 203)
    for query, (rows, scores) in zip(queries, together):
        alone = rr.VectorIndex(corpus(203), vectors).search(query[None], 203)[0]
        assert alone[0].tolist() == rows.tolist() and alone[1].tobytes() == scores.tobytes()
        by_row = dict(zip(rows.tolist(), scores.tolist()))
        for row in (0, 101, 202):
            assert rr.VectorIndex(corpus(1), vectors[row : row + 1]).search(query[None], 1)[0][1].tolist() == [by_row[row]]


def test_real_valued_scores_are_those_of_float64():
    rng = np.random.default_rng(6)
    vectors, query = rng.standard_normal((500, 384)), rng.standard_normal(384)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query /= np.linalg.norm(query)
    vectors, query = vectors.astype(np.float32), query.astype(np.float32)
    ((rows, scores),) = rr.VectorIndex(corpus(500), vectors).search(query[None], 10)
    want = vectors.astype(np.float64) @ query.astype(np.float64)
    assert np.abs(scores - want[rows]).max() < 40 * HALF_ULP, "unit vectors: errors of products below 1, summed"
    assert rows.tolist() == np.lexsort((np.arange(500), -want))[:10].tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_other_numbers_are_converted(dtype):
    index = rr.VectorIndex(corpus(2), np.array([[1, 2], [3, -4]], dtype))
    assert index.vectors.dtype == np.float32
    assert [(rows.tolist(), scores.tolist()) for rows, scores in index.search(np.array([[1, 1]], dtype), 5)] == [([0, 1], [3, -1])]


def test_no_queries():
    assert rr.VectorIndex(corpus(2), np.ones((2, 3))).search(np.empty((0, 3)), 1) == []


@pytest.mark.parametrize("dim", [0, 2, 4])
def test_a_query_of_another_dimension(dim):
    with pytest.raises(InputError, match=rf"queries: got dimension {dim}; expected 3"):
        rr.VectorIndex(corpus(2), np.ones((2, 3))).search(np.ones((1, dim)), 1)


@pytest.mark.parametrize("queries", [np.ones(3), np.ones((1, 1, 3)), [["a", "b", "c"]], None])
def test_queries_that_are_no_vectors(queries):
    with pytest.raises(InputError):
        rr.VectorIndex(corpus(2), np.ones((2, 3))).search(queries, 1)


@pytest.mark.parametrize("k", [0, -1, 1.0, True])
def test_a_strange_k(k):
    with pytest.raises(InputError):
        rr.VectorIndex(corpus(2), np.ones((2, 3))).search(np.ones((1, 3)), k)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    vectors = np.ones((2, 3))
    vectors[1, 2] = bad
    with pytest.raises(NonFiniteError, match=r"VectorIndex: vectors.*at \[1, 2\]"):
        rr.VectorIndex(corpus(2), vectors)
    with pytest.raises(NonFiniteError, match=r"queries.*at \[1, 2\]"):
        rr.VectorIndex(corpus(2), np.ones((2, 3))).search(vectors, 1)


def test_a_product_beyond_float32_is_refused():
    with pytest.raises(NonFiniteError):
        rr.VectorIndex(corpus(2), np.full((2, 3), 1e30)).search(np.full((1, 3), 1e30), 1)


def test_an_empty_corpus():
    with pytest.raises(InputError, match="an empty corpus"):
        rr.VectorIndex(corpus(0), np.empty((0, 3)))
    with pytest.raises(InputError, match="an empty corpus"):
        rr.VectorIndex.build(corpus(0), None)


@pytest.mark.parametrize("n", [1, 3])
def test_vectors_for_another_corpus(n):
    with pytest.raises(InputError, match=rf"{n} vectors; expected one for each of the 2 documents"):
        rr.VectorIndex(corpus(2), np.ones((n, 3)))


def test_repr():
    assert repr(rr.VectorIndex(corpus(2), np.ones((2, 3)))) == "VectorIndex(2 x 3, exact)"
    cut = np.array([0, 4], np.int32)
    assert repr(rr.VectorIndex(corpus(2), np.ones((2, 3)), cut)) == "VectorIndex(2 x 3, exact, 1 documents truncated)"


@pytest.mark.parametrize("keep", ["float32", "float16"])
def test_a_large_batch_is_searched_as_each_query_alone(keep):
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((300, 20)).astype(np.float32)
    vectors[50:90] = vectors[3]  # ties at the k-th place
    queries = np.concatenate([vectors[:20], rng.standard_normal((20, 20)).astype(np.float32), np.zeros((1, 20), np.float32)])
    index = rr.VectorIndex.from_vectors(corpus(300), vectors, kind="exact", keep=keep)
    filters = [None if i % 3 else rng.random(300) < (i % 2) * 0.3 for i in range(len(queries))]
    for k in (1, 7, 300, 1000):
        for masks in (None, filters):
            together = index.search(queries, k, filters=masks)
            for i, (rows, scores) in enumerate(together):
                alone = index.search(queries[i : i + 1], k, filters=None if masks is None else masks[i : i + 1])[0]
                assert rows.tolist() == alone[0].tolist() and scores.tobytes() == alone[1].tobytes()
    assert index.search(queries[-1:], 3)[0][0].tolist() == [0, 1, 2]
    with pytest.raises(NonFiniteError):
        rr.VectorIndex(corpus(2), np.full((2, 3), 1e30)).search(np.full((20, 3), 1e30), 1)


def test_vectors_of_rows():
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    index = rr.VectorIndex(rr.Corpus.from_texts(["a", "b", "c"]), vectors)
    assert index.vectors_of([2, 0, 2]).tolist() == vectors[[2, 0, 2]].tolist() and index.vectors_of([]).shape == (0, 2)
    for rows in ([999], [3], [-1], [0, -1]):
        with pytest.raises(InputError, match="rows from 0 to 2"):
            index.vectors_of(rows)
    with pytest.raises(InputError, match="dtype float64"):
        index.vectors_of([0.5])


@pytest.mark.parametrize("table", [vector_exact.TABLE, 64])
@pytest.mark.parametrize("shares", [(1.0, 0.9, 0.8), (0.05, 0.1), (0.0, 1.0), (0.5,)])
def test_a_filter_finds_the_same_in_a_batch_and_alone(monkeypatch, table, shares):
    """Whatever passes are shared, and in however many parts the rows are."""
    monkeypatch.setattr(vector_exact, "TABLE", table)
    rng = np.random.default_rng(3)
    index, q = rr.VectorIndex(corpus(300), rng.normal(size=(300, 8)).round(1)), rng.normal(size=(24, 8)).round(1)
    made = [rng.random(300) < share for share in shares]
    filters = [None if i % 5 == 4 else made[i % len(made)] for i in range(24)]
    scores = (q.astype(np.float32) @ index.vectors.T).astype(np.float64)
    for i, (ids, found) in enumerate(index.search(q, 7, filters=filters)):
        rows = np.arange(300) if filters[i] is None else np.flatnonzero(filters[i])
        (alone,) = index.search(q[i : i + 1], 7, filters=[filters[i]])
        assert ids.tolist() == alone[0].tolist() and found.tobytes() == alone[1].tobytes()
        assert set(ids) <= set(rows) and len(ids) == min(7, len(rows))
        assert np.allclose(found, np.sort(scores[i][rows])[::-1][:7], atol=1e-5)
        assert all(a > b or (a == b and x < y) for a, b, x, y in zip(found, found[1:], ids, ids[1:]))


def test_queries_that_may_find_the_same_share_a_pass(monkeypatch):
    passes, whole = [], vector_exact.products
    monkeypatch.setattr(vector_exact, "products", lambda v, q, rows, threads: passes.append(len(q)) or whole(v, q, rows, threads))
    rng = np.random.default_rng(4)
    index, q = rr.VectorIndex(corpus(1000), rng.normal(size=(1000, 4))), rng.normal(size=(16, 4))
    narrow = [rng.random(1000) < 0.01 for _ in range(16)]
    for filters, want in (
        (None, [16]),
        ([narrow[0].copy() for _ in range(16)], [16]),  # alike, though not the same array
        ([~mask for mask in narrow], [16]),  # nearly all of it, each for itself
        (narrow, [1] * 16),
    ):
        passes.clear()
        index.search(q, 3, filters=filters)
        assert passes == want


def test_vectors_that_faiss_found_are_told_by_the_callers_query_too():
    pytest.importorskip("faiss", reason="the kinds are faiss's")
    index = rr.VectorIndex.from_vectors(corpus(200), np.full((200, 4), 2.0), kind="ivf", nlist=2)
    q, mask = np.ones((3, 4), np.float32), np.arange(200) % 2 == 0
    q[2] = 3e38
    with pytest.raises(NonFiniteError, match=r"VectorIndex.search: query 2: got a product of inf"):
        index.search(q, 2, filters=[mask] * 3)


def test_what_is_not_finite_is_told_by_the_callers_query():
    index = rr.VectorIndex(corpus(3), np.full((3, 4), 2.0))
    q, mask = np.ones((3, 4), np.float32), np.array([True, False, True])
    q[2] = 3e38
    for filters in (None, [None, None, mask], [mask] * 3):
        with pytest.raises(NonFiniteError, match=r"VectorIndex.search: query 2: got a product of inf"):
            index.search(q, 2, filters=filters)
