from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from conftest import backends
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import TABLE, assert_close, assert_same_order

from rerank_engine.backends import choose
from rerank_engine.errors import BackendUnavailable, InputError, NonFiniteError
from rerank_engine.ops import Postings, bm25
from rerank_engine.packed import Packed

EVERY = pytest.mark.parametrize("backend", backends("bm25"))
ARRAYS = ("term_offsets", "rows", "counts", "lengths", "impacts")
HAND = [[0, 1], [0, 0, 2], [1]]  # three documents of 2, 3 and 1 tokens; term 3 stands in none


def pack(rows):
    return Packed.from_rows(rows, np.int32)


def oracle(documents, query, weights=None, k1=1.2, b=0.75):
    """(rows, scores, largest sum of absolute terms) by the formula, document by document. float64."""
    n, mean = len(documents), sum(map(len, documents)) / len(documents)
    counts = [Counter(doc) for doc in documents]
    found = []
    for row, tf in enumerate(counts):
        terms = []
        for t, w in zip(query, weights or [1.0] * len(query)):
            if tf[t]:
                df = sum(1 for other in counts if other[t])
                idf = math.log(1 + (n - df + 0.5) / (df + 0.5))
                terms.append(float(np.float32(w)) * idf * tf[t] / (tf[t] + k1 * (1 - b + b * len(documents[row]) / mean)))
        if terms:
            found.append((np.float32(sum(terms)), row, terms))
    found.sort(key=lambda hit: (-float(hit[0]), hit[1]))
    scale = max((sum(map(abs, terms)) for *_, terms in found), default=0.0)
    return [row for _, row, _ in found], [sum(terms) for *_, terms in found], scale


def check(documents, queries, n_terms, backend, k=10, weights=None, **parameters):
    index = Postings.build(pack(documents), n_terms, backend=backend, **parameters)
    flat = None if weights is None else [w for row in weights for w in row]
    got = bm25(pack(queries), index, k, weights=flat, backend=backend)
    assert len(got) == len(queries)
    for q, (rows, scores) in enumerate(got):
        assert rows.dtype == np.int64 and scores.dtype == np.float32
        want_rows, want_scores, scale = oracle(documents, queries[q], None if weights is None else weights[q], **parameters)
        assert len(rows) == min(k, len(want_rows))
        assert_same_order(rows, scores, want_rows, want_scores, "bm25", scale)
    for threads in (1, 4, None):
        for one, two in zip(got, bm25(pack(queries), index, k, weights=flat, threads=threads, backend=backend)):
            assert one[0].tobytes() == two[0].tobytes() and one[1].tobytes() == two[1].tobytes()


def zipf(rng, n_docs, n_terms, longest):
    p = 1 / np.arange(1, n_terms + 1)
    return [rng.choice(n_terms, int(rng.integers(0, longest + 1)), p=p / p.sum()).tolist() for _ in range(n_docs)]


@EVERY
def test_by_hand(backend):
    index = Postings.build(pack(HAND), 4, backend=backend)
    assert index.term_offsets.tolist() == [0, 2, 4, 5, 5]
    assert index.rows.tolist() == [0, 1, 0, 2, 1] and index.counts.tolist() == [1, 2, 1, 1, 1] and index.lengths.tolist() == [2, 3, 1]
    assert len(index) == 3 and index.n_terms == 4
    # N = 3, mean length 2. idf: ln(1 + 1.5 / 2.5) for df = 2, ln(1 + 2.5 / 1.5) for df = 1. k1 (1 - b + b len / 2): 1.2, 1.65, 0.75.
    common, rare = 0.4700036292457356, 0.9808292530117262
    assert_close("bm25", index.impacts, [common / 2.2, common * 2 / 3.65, common / 2.2, common / 1.75, rare / 2.65])
    [zero, both, repeated, none, unknown] = bm25(pack([[0], [0, 1], [0, 0, 1], [], [3, 3]]), index, 3, backend=backend)
    assert zero[0].tolist() == [1, 0]
    assert_close("bm25", zero[1], [0.2575362352031428, 0.21363801329351618])
    assert both[0].tolist() == [0, 2, 1]
    assert_close("bm25", both[1], [common / 1.1, common / 1.75, common * 2 / 3.65])
    assert repeated[0].tolist() == [0, 1, 2]
    assert_close("bm25", repeated[1], [3 * common / 2.2, 4 * common / 3.65, common / 1.75])
    assert none[0].size == none[1].size == unknown[0].size == 0


@EVERY
def test_weights(backend):
    index = Postings.build(pack(HAND), 4, backend=backend)
    common = 0.4700036292457356
    [(rows, scores)] = bm25(pack([[0, 1]]), index, 3, weights=[2, -0.5], backend=backend)
    assert rows.tolist() == [1, 0, 2]
    assert_close("bm25", scores, [4 * common / 3.65, 1.5 * common / 2.2, -0.5 * common / 1.75], scale=1)
    [(rows, scores)] = bm25(pack([[0]]), index, 3, weights=[0], backend=backend)
    assert rows.tolist() == [0, 1] and scores.tolist() == [0, 0]  # they hold the term, so they are found
    check(HAND, [[0, 1, 2]], 4, backend, weights=[[1e38, -1e38, 1e-38]])
    with pytest.raises(NonFiniteError, match="beyond float32"):
        bm25(pack([[0] * 9]), index, 3, weights=[3e38] * 9, backend=backend)


@EVERY
@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (0, 0.75), (1.2, 0), (2, 1), (1e6, 1)])
def test_parameters(backend, k1, b):
    rng = np.random.default_rng(3)
    check(zipf(rng, 40, 30, 25), zipf(rng, 10, 30, 6), 30, backend, k1=k1, b=b)


@EVERY
@pytest.mark.parametrize("n_docs", [1, 2, 15, 16, 17, 33, 128])
def test_every_k_around_the_size(backend, n_docs):
    rng = np.random.default_rng(n_docs)
    documents, queries = zipf(rng, n_docs, 20, 30), [*zipf(rng, 8, 20, 5), [], [0], [0, 0, 0], [19, 0]]
    for k in sorted({1, 2, n_docs - 1, n_docs, n_docs + 1, 10**12} - {0}):
        check(documents, queries, 20, backend, k=k)


@EVERY
def test_many_queries_over_the_threads(backend):
    rng = np.random.default_rng(1)
    check(zipf(rng, 30, 20, 8), zipf(rng, 300, 20, 3), 20, backend)


@EVERY
def test_documents_without_tokens(backend):
    check([[], [0], [], [0, 1], []], [[0], [1], [0, 1], []], 2, backend)
    for n_terms in (0, 3):
        index = Postings.build(pack([[], []]), n_terms, backend=backend)
        assert index.rows.size == 0 and index.term_offsets.tolist() == [0] * (n_terms + 1)
        assert [ids.size for ids, _ in bm25(pack([[], []]), index, 5, backend=backend)] == [0, 0]
    assert bm25(pack([]), index, 1, backend=backend) == []


@EVERY
def test_ties_go_to_the_lower_row(backend):
    index = Postings.build(pack([[0, 1]] * 30 + [[0, 2]]), 3, backend=backend)
    [(rows, scores)] = bm25(pack([[1, 0]]), index, 7, backend=backend)
    assert rows.tolist() == list(range(7)) and len(set(scores.tolist())) == 1


@EVERY
def test_all_negative_scores(backend):
    rng = np.random.default_rng(5)
    queries = zipf(rng, 5, 20, 4)
    check(zipf(rng, 60, 20, 10), queries, 20, backend, k=5, weights=[[-1.0] * len(q) for q in queries])


@EVERY
@settings(derandomize=True, deadline=None, max_examples=60)
@given(data=st.data())
def test_any_input(backend, data):
    n_terms = data.draw(st.integers(1, 8))
    row = st.lists(st.integers(0, n_terms - 1), max_size=10)
    documents, queries = data.draw(st.lists(row, min_size=1, max_size=12)), data.draw(st.lists(row, max_size=5))
    weight = st.floats(-100, 100, width=32)
    weights = data.draw(st.none() | st.tuples(*(st.lists(weight, min_size=len(q), max_size=len(q)) for q in queries)))
    if not any(documents):
        documents = [*documents, [0]]
    check(documents, queries, n_terms, backend, k=data.draw(st.integers(1, 15)), weights=weights)


def test_every_backend_builds_the_same_postings():
    rng = np.random.default_rng(9)
    for documents in (zipf(rng, 300, 100, 60), [[]], [[5] * 1000], zipf(rng, 50, 3, 100)):
        built = [Postings.build(pack(documents), 100, backend=backend) for backend in backends("bm25")]
        for other in built[1:]:
            for name in ARRAYS:
                a, b = getattr(built[0], name), getattr(other, name)
                assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), name
        for t in range(100):
            rows = built[0].rows[built[0].term_offsets[t] : built[0].term_offsets[t + 1]]
            assert rows.tolist() == [i for i, doc in enumerate(documents) if t in doc]


def test_the_tolerance_is_twice_the_naive_error():
    rng = np.random.default_rng(0)
    impacts, weights = rng.exponential(size=(20000, 10)), rng.uniform(0, 2, 10).astype(np.float32)
    exact = impacts @ weights.astype(np.float64)
    naive = np.cumsum(impacts.astype(np.float32) * weights, axis=1, dtype=np.float32)[:, -1]
    worst = float((np.abs(naive - exact) / exact).max())
    assert 0.8 <= TABLE["bm25", "float32"].relative / (2 * worst) <= 1.1


BUILD_ERRORS = [
    ([], 1, {}, "empty corpus"),
    ([[0, 5]], 5, {}, "from 0 to 4"),
    ([[-1]], 5, {}, "from 0 to 4"),
    ([[0]], 0, {}, "document tokens"),
    ([[]], -1, {}, "bm25: n_terms"),
    ([[]], 1.5, {}, "bm25: n_terms"),
    ([[0]], 1, {"k1": -0.1}, "bm25: k1"),
    ([[0]], 1, {"b": 1.1}, "bm25: b"),
    ([[0]], 1, {"b": math.nan}, "bm25: b"),
]


@EVERY
@pytest.mark.parametrize(("documents", "n_terms", "parameters", "text"), BUILD_ERRORS)
def test_wrong_documents(backend, documents, n_terms, parameters, text):
    with pytest.raises(InputError, match=text):
        Postings.build(pack(documents), n_terms, backend=backend, **parameters)


@EVERY
def test_wrong_queries(backend):
    index = Postings.build(pack(HAND), 4, backend=backend)
    for terms in ([4], [-1], [2**31]):
        with pytest.raises(InputError, match="bm25: query terms"):
            bm25(Packed.from_rows([terms], np.int64), index, 1, backend=backend)
    with pytest.raises(InputError, match="dtype float64"):
        bm25(Packed.from_rows([[0.0]]), index, 1, backend=backend)
    for k in (0, -1, 2.0, None):
        with pytest.raises(InputError, match="bm25: k"):
            bm25(pack([[0]]), index, k, backend=backend)
    with pytest.raises(InputError, match="2 weights"):
        bm25(pack([[0]]), index, 1, weights=[1, 2], backend=backend)
    with pytest.raises(NonFiniteError, match="bm25: weights"):
        bm25(pack([[0]]), index, 1, weights=[math.nan], backend=backend)
    with pytest.raises(InputError, match="threads"):
        bm25(pack([[0]]), index, 1, threads=0, backend=backend)


def test_a_named_backend_never_falls_back(without_cpp):
    text = r"bm25: backend 'cpp' .*this test took it away.*Available here: reference\."
    with pytest.raises(BackendUnavailable, match=text):
        Postings.build(pack(HAND), 4, backend="cpp")
    index = Postings.build(pack(HAND), 4)
    with pytest.raises(BackendUnavailable, match=text):
        bm25(pack([[0]]), index, 1, backend="cpp")
    assert choose("bm25") == "reference"
    assert bm25(pack([[0]]), index, 1)[0][0].tolist() == [1]


def test_native_refuses_what_it_cannot_read():
    native = pytest.importorskip("rerank_engine._native")
    tokens, offsets = np.array([0, 1, 0], np.int32), np.array([0, 2, 3])
    for wrong in (tokens.astype(np.int64), np.arange(6, dtype=np.int32)[::2]):
        with pytest.raises(TypeError):
            native.build_postings(wrong, offsets, 9)
    for bad in ([], [0], [0, 2], [1, 2, 3], [0, 3, 2, 3], [0, 4, 3], [0, -1, 3]):
        with pytest.raises(ValueError, match="offsets"):
            native.build_postings(tokens, np.array(bad, np.int64), 2)
    for n_terms in (1, 0, -1, -(2**63)):
        with pytest.raises(ValueError):
            native.build_postings(tokens, offsets, n_terms)
    with pytest.raises(ValueError, match="n_terms"):
        native.build_postings(tokens[:0], offsets[:1], -1)

    index = Postings.build(Packed(tokens, offsets), 2)
    good = {"term_offsets": index.term_offsets, "rows": index.rows, "impacts": index.impacts, "n_rows": 2}
    good |= {"terms": tokens[:2], "weights": np.ones(2, np.float32), "query_offsets": np.array([0, 2]), "k": 5, "threads": 1}
    assert native.bm25(**good)[1].tolist() == [0, 1]
    assert native.bm25(**good | {"k": 2**64 - 1, "threads": 2**31 - 1})[1].tolist() == [0, 1]
    for name, value in good.items():
        if isinstance(value, np.ndarray):
            for wrong in (value.astype(np.float16), np.repeat(value, 2)[::2], value.tolist()):
                with pytest.raises(TypeError):
                    native.bm25(**good | {name: wrong})
    for wrong in (
        *({"term_offsets": np.array(bad, np.int64)} for bad in ([], [0], [0, 2], [0, 10**9, 3], [0, -(10**9), 3], [-1, 2, 3], [3, 0, 3])),
        *({"rows": np.array(bad, np.int32)} for bad in ([0, 1], [0, 2, 1], [0, -1, 1], [0, 10**9, 1])),
        *({"query_offsets": np.array(bad, np.int64)} for bad in ([], [0], [0, 1], [1, 2], [0, 3, 2])),
        {"impacts": index.impacts[:2]},
        {"n_rows": 1},
        {"n_rows": -1},
        {"terms": np.array([0, 2], np.int32)},
        {"terms": np.array([0, -1], np.int32)},
        {"weights": np.ones(3, np.float32)},
    ):
        with pytest.raises(ValueError):
            native.bm25(**good | wrong)


def test_an_index_is_frozen():
    index = Postings.build(pack(HAND), 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        index.k1 = 2.0
