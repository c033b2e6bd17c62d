"""The contract of BM25, for every backend and both kinds of packed segment, on inputs that one can follow. tests/ops/test_bm25_large.py
holds the corpora of nature's size."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from bm25_oracle import Oracle, assert_ranking
from conftest import backends
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_engine.backends import choose
from rerank_engine.errors import BackendUnavailable, FileFormatError, InputError, NonFiniteError
from rerank_engine.ops import bm25
from rerank_engine.ops.bm25 import VARIANTS, BM25Parameters, Part, Searcher
from rerank_engine.ops.postings import Postings, Segment
from rerank_engine.packed import Packed

BUILDS = [(backend, codes) for backend in backends("bm25") for codes in ((True, False) if backend == "cpp" else (False,))]
BUILDS += [("cpp", True, "impact")] * ("cpp" in backends("bm25"))  # codes that are the frequencies themselves
EVERY = pytest.mark.parametrize("build", BUILDS, ids=lambda build: build[0] + "-codes" * build[1] + "-exact" * (len(build) > 2))
HAND = [[0, 1], [0, 0, 2], [1]]  # three documents of 2, 3 and 1 tokens, 2 on average; term 3 stands in none
LUCENE = BM25Parameters()


def pack(rows):
    return Packed.from_rows(rows, np.int32)


def segment(documents, n_terms, build, **options):
    options |= {"backend": build[0], "codes": build[1], "variant": build[2] if len(build) > 2 else "lucene"}
    return Segment.build(documents if isinstance(documents, Packed) else pack(documents), n_terms, **options)


def same_bits(a, b):
    return all(x[0].tobytes() == y[0].tobytes() and x[1].tobytes() == y[1].tobytes() for x, y in zip(a, b, strict=True))


def check(documents, queries, n_terms, build, k=10, weights=None, required=None, filter=None, parameters=LUCENE, oracle=None):
    """Against the oracle, and the same for every number of threads."""
    documents = documents if isinstance(documents, Packed) else pack(documents)
    index, oracle = segment(documents, n_terms, build), oracle or Oracle(documents)
    options = {"filter": filter, "parameters": parameters, "backend": build[0]}
    options |= {"weights": None if weights is None else [w for row in weights for w in row]}
    options |= {"required": None if required is None else [r for row in required for r in row]}
    got = bm25(pack(queries), index, k, **options)
    assert len(got) == len(queries)
    for q, hits in enumerate(got):
        want = oracle.best(parameters, queries[q], k + 50, weights and weights[q], required and required[q], filter)
        assert len(hits[0]) == min(k, len(want[0]))
        assert_ranking(hits, want)
    for threads in (1, 2, 4, None):
        assert same_bits(got, bm25(pack(queries), index, k, threads=threads, **options))
    return got


def zipf(rng, n_docs, n_terms, longest):
    p = 1 / np.arange(1, n_terms + 1)
    return [rng.choice(n_terms, int(rng.integers(0, longest + 1)), p=p / p.sum()).tolist() for _ in range(n_docs)]


# idf(term 0: df 2), idf(term 2: df 1), f of (document 1, term 0: tf 2 of length 3, B = 1.375), (document 0, term 0: tf 1 of 2, B = 1),
# (document 1, term 2: tf 1 of 3, B = 1.375) and f(0), for k1 = 1.2 and b = 0.75.
BY_HAND = [
    ("lucene", math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5), 2 / 3.65, 1 / 2.2, 1 / 2.65, 0),
    ("robertson", 0, math.log(2.5 / 1.5), 2 / 3.65, 1 / 2.2, 1 / 2.65, 0),
    ("atire", math.log(1.5), math.log(3), 4.4 / 3.65, 1, 2.2 / 2.65, 0),
    ("bm25l", math.log(1.6), math.log(4 / 1.5), 2.2 * 21.5 / 34.7, 2.2 * 1.5 / 2.7, 2.2 * 13.5 / 26.7, 2.2 * 0.5 / 1.7),
    ("bm25+", math.log(2), math.log(4), 1 + 4.4 / 3.65, 2, 1 + 2.2 / 2.65, 1),
    ("impact", 1, 1, 2 / 1.2, 1 / 1.2, 1 / 1.2, 0),
]


@EVERY
@pytest.mark.parametrize("case", BY_HAND, ids=lambda case: case[0])
def test_by_hand(build, case):
    variant, common, rare, twice_in_3, once_in_2, rare_in_3, absent = case
    index = segment(HAND, 4, build)
    assert len(index) == 3 and index.n_terms == 4 and index.n_postings == 5 and index.lengths.tolist() == [2, 3, 1]
    plain = index.postings()
    assert (
        plain.term_offsets.tolist() == [0, 2, 4, 5, 5]
        and plain.rows.tolist() == [0, 1, 0, 2, 1]
        and plain.counts.tolist() == [1, 2, 1, 1, 1]
    )
    queries = pack([[0], [2], [0, 2], [0, 0, 2], [], [3, 3]])
    zero, two, both, repeated, none, unknown = bm25(queries, index, 3, parameters=BM25Parameters(variant), backend=build[0])
    near = pytest.approx
    order = [0, 1] if common == 0 else [1, 0]  # all 0: by row
    assert zero[0].tolist() == order
    assert dict(zip(zero[0].tolist(), zero[1].tolist())) == near({1: common * twice_in_3, 0: common * once_in_2}, rel=1e-6)
    assert two[0].tolist() == [1] and two[1].tolist() == near([rare * rare_in_3], rel=1e-6)
    assert both[0].tolist() == [1, 0]
    assert both[1].tolist() == near([common * twice_in_3 + rare * rare_in_3, common * once_in_2 + rare * absent], rel=1e-6)
    assert repeated[1].tolist() == near([2 * common * twice_in_3 + rare * rare_in_3, 2 * common * once_in_2 + rare * absent], rel=1e-6)
    assert none[0].size == none[1].size == unknown[0].size == 0


@EVERY
def test_weights(build):
    index, common = segment(HAND, 4, build), math.log(1.6)
    [(rows, scores)] = bm25(pack([[0, 1]]), index, 3, weights=[2, -0.5], backend=build[0])
    assert rows.tolist() == [1, 0, 2]
    assert scores.tolist() == pytest.approx([4 * common / 3.65, 1.5 * common / 2.2, -0.5 * common / 1.75])
    [(rows, scores)] = bm25(pack([[0]]), index, 3, weights=[0], backend=build[0])
    assert rows.tolist() == [0, 1] and scores.tolist() == [0, 0]  # they hold the term, so they are found
    for weights in ([1e-38, 1, 1e-38], [1e-45, 1e-45, 0], [1e38, 1e38, 1e-38], [0, 0, 1e-20], [-1, 2, -1]):
        check(HAND, [[0, 1, 2]], 4, build, weights=[weights])
        check(zipf(np.random.default_rng(1), 200, 3, 5), [[0, 1, 2]], 3, build, weights=[weights])
    with pytest.raises(NonFiniteError, match="beyond float32"):
        bm25(pack([[0] * 9]), index, 3, weights=[3e38] * 9, backend=build[0])


@EVERY
@pytest.mark.parametrize("n_docs", [4, 400])  # short lists, and blocks
def test_only_scores_of_documents_can_be_beyond_float32(build, n_docs):
    """No document holds both terms: what both together could add is no score."""
    documents, parameters = [[q % 2] * 5 for q in range(n_docs)] + [[2]], BM25Parameters("atire", k1=5)
    high = float(np.float32(3.3e38 / Oracle(pack(documents)).scores(parameters, [0])[0].max()))
    check(documents, [[0, 1]], 3, build, weights=[[high, high]], parameters=parameters)
    index, never = segment(documents, 3, build), np.zeros(n_docs + 1, bool)
    query = {"weights": [high, high], "parameters": parameters, "backend": build[0]}
    with pytest.raises(NonFiniteError):
        bm25(pack([[0, 0]]), index, 1, **query)
    assert bm25(pack([[0, 0]]), index, 1, filter=never, **query)[0][0].size == 0


@EVERY
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (0, 0.75), (1.2, 0), (2, 1), (1e6, 1), (1e-9, 0.5)])
def test_parameters(build, variant, k1, b):
    if variant in ("bm25l", "impact") and k1 == 0:
        return
    rng = np.random.default_rng(3)
    check(zipf(rng, 40, 30, 25), zipf(rng, 10, 30, 6), 30, build, parameters=BM25Parameters(variant, k1, b))


@EVERY
@pytest.mark.parametrize(("variant", "k1", "delta"), [("bm25l", 1.2, 0), ("bm25l", 0.01, 1e4), ("bm25+", 1.2, 0), ("bm25+", 1.2, 1e6)])
def test_delta(build, variant, k1, delta):
    """Beside a large constant many documents are one float32: of those the lower rows win."""
    rng = np.random.default_rng(4)
    documents = [(rng.random(int(n)) < 0.3).astype(int).tolist() for n in rng.integers(1, 40, 3000 if build[0] == "cpp" else 300)]
    check(documents, [[0], [1], [0, 1]], 2, build, parameters=BM25Parameters(variant, k1, 0.75, delta))


@EVERY
@pytest.mark.parametrize("n_docs", [1, 2, 15, 16, 17, 33, 128])
def test_every_k_around_the_size(build, n_docs):
    rng = np.random.default_rng(n_docs)
    documents, queries = zipf(rng, n_docs, 20, 30), [*zipf(rng, 8, 20, 5), [], [0], [0, 0, 0], [19, 0]]
    for k in sorted({1, 2, n_docs - 1, n_docs, n_docs + 1, 10**12} - {0}):
        check(documents, queries, 20, build, k=k)


@EVERY
def test_many_queries_over_the_threads(build):
    rng = np.random.default_rng(1)
    check(zipf(rng, 30, 20, 8), zipf(rng, 300, 20, 3), 20, build)


@EVERY
def test_documents_without_tokens(build):
    check([[], [0], [], [0, 1], []], [[0], [1], [0, 1], []], 2, build)
    for b in (0, 1):
        check([[], [0], []], [[0]], 1, build, parameters=BM25Parameters(b=b))
    for n_terms in (0, 3):
        index = segment([[], []], n_terms, build)
        assert index.postings().rows.size == 0 and index.postings().term_offsets.tolist() == [0] * (n_terms + 1)
        assert [ids.size for ids, _ in bm25(pack([[], []]), index, 5, backend=build[0])] == [0, 0]
    assert bm25(pack([]), index, 1, backend=build[0]) == []


@EVERY
def test_required_terms(build):
    rng = np.random.default_rng(8)
    documents, queries = zipf(rng, 300, 12, 10), zipf(rng, 30, 12, 5)
    for share in (0, 0.4, 1):
        required = [(rng.random(len(q)) < share).tolist() for q in queries]
        check(documents, queries, 12, build, required=required)
        check(documents, queries, 12, build, required=required, weights=[rng.normal(size=len(q)).round(1).tolist() for q in queries])
    index = segment(HAND, 4, build)
    assert bm25(pack([[0, 3]]), index, 3, required=[False, True], backend=build[0])[0][0].size == 0  # no document holds term 3
    assert bm25(pack([[0, 1]]), index, 3, required=np.ones(4, bool)[::2], backend=build[0])[0][0].tolist() == [0]
    assert bm25(pack([[0, 0]]), index, 3, required=[False, True], weights=[1, 0], backend=build[0])[0][0].tolist() == [1, 0]
    two = Searcher([Part(index), Part(index)], LUCENE, build[0])  # the second knows only term 0
    [(rows, _)] = two.search(np.array([[0, 2], [0, -1]], np.int32), np.array([0, 2]), 9, required=np.array([False, True]))
    assert rows.tolist() == [1]


@EVERY
def test_filters(build):
    rng = np.random.default_rng(9)
    documents, queries = zipf(rng, 300, 12, 10), zipf(rng, 20, 12, 5)
    for allowed in (np.ones(300, bool), np.zeros(300, bool), np.arange(300) == 299, np.arange(300) % 7 == 0, rng.random(300) < 0.9):
        for k in (1, 10, 300):
            got = check(documents, queries, 12, build, k=k, filter=allowed)
        assert all(allowed[rows].all() for rows, _ in got)


@EVERY
def test_list_lengths(build):
    """A term for each length around the borders of the forms of a list; the others, on both sides, are of another document's length."""
    n, lengths = 600, [1, 2, 3, 127, 128, 129, 149, 150, 151, 255, 256, 257, 599, 600]  # from 600 / 4 = 150 on they are dense
    documents = [[] for _ in range(n)]
    rng = np.random.default_rng(0)
    for term, df in enumerate(lengths):
        for row in rng.permutation(n)[:df].tolist():
            documents[row] += [term] * int(rng.choice([1, 1, 1, 2, 3, 9]))
    queries = (
        [[t] for t in range(len(lengths))] + [[t, u] for t in range(len(lengths)) for u in range(0, t, 3)] + [list(range(len(lengths)))]
    )
    plain, want = segment(documents, len(lengths), build).postings(), Postings.of(pack(documents), len(lengths))
    for name in ("term_offsets", "rows", "counts"):
        a, b = getattr(plain, name), getattr(want, name)
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()
    for k in (1, 20):
        check(documents, queries, len(lengths), build, k=k, oracle=Oracle(pack(documents)))


@EVERY
@pytest.mark.parametrize("n_docs", [1, 2, 3, 127, 128, 129, 257])
def test_frequencies_and_lengths_of_any_size(build, n_docs):
    sizes = [1, 2, 254, 255, 256, 257, 65534, 65535, 65536, 70000]
    documents = [[0] * sizes[row % len(sizes)] + [1] * (row % 3) for row in range(n_docs)]
    if n_docs > 3:
        documents[5:] = [doc[-300:] for doc in documents[5:]]  # few long ones suffice
        documents[1], documents[2] = [0] * 65536 + [1], [0] * 70000
    index = segment(documents, 2, build)
    for term in (0, 1):
        counts = [Counter(doc)[term] for doc in documents]
        assert [index.frequency(term, row) for row in range(n_docs)] == counts
    for parameters in (LUCENE, BM25Parameters("bm25l", b=0), BM25Parameters(k1=1e6, b=1), BM25Parameters(k1=0)):
        for k in (1, 5):
            check(documents, [[0], [1], [0, 1]], 2, build, k=k, parameters=parameters)


@EVERY
@pytest.mark.parametrize("df", [1, 2, 3, 128, 200])
def test_gaps_wider_than_16_bits(build, df):
    step = 70_000 if df < 4 else 1300
    rows = np.unique(np.r_[np.arange(df - 1) * (step if df < 4 else 3), 205_000])
    lengths = np.zeros(max(210_000, int(rows[-1]) + 1), np.int64)
    lengths[rows] = 1 + np.arange(len(rows)) % 3
    documents = Packed(np.zeros(lengths.sum(), np.int32), np.r_[0, np.cumsum(lengths)])
    assert segment(documents, 1, build).postings().rows.tolist() == rows.tolist()
    check(documents, [[0]], 1, build, k=300)


@EVERY
def test_ties_go_to_the_lower_row(build):
    n = 9000 if build[0] == "cpp" else 300
    documents = [[0, 1]] * n + [[0, 2]]
    for k in (1, 7, 250):
        [one, two] = bm25(pack([[1, 0], [0]]), segment(documents, 3, build), k, backend=build[0])
        assert one[0].tolist() == two[0].tolist() == list(range(k)) and len(set(one[1].tolist())) == 1


@EVERY
def test_all_negative_scores(build):
    rng = np.random.default_rng(5)
    queries = zipf(rng, 5, 20, 4)
    check(zipf(rng, 60, 20, 10), queries, 20, build, k=5, weights=[[-1.0] * len(q) for q in queries])


@EVERY
@pytest.mark.parametrize("most", [5, 254, 300, 70_000])
def test_counts_stand_for_repeats(build, most):
    """A segment of (term, count) is the one of repeated tokens; as impacts its scores are inner products, exactly."""
    rng = np.random.default_rng(most)
    rows = [np.unique(rng.integers(0, 12, rng.integers(0, 9))) for _ in range(700)]
    documents = pack(rows)
    counts = np.where(rng.random(len(documents.values)) < 0.01, most, rng.integers(1, 6, len(documents.values)))
    one = segment(documents, 12, build, counts=counts)
    owner = np.repeat(np.arange(700), documents.lengths)
    lengths = np.bincount(owner, counts, minlength=700).astype(np.int64)
    repeated = Packed(np.repeat(documents.values, counts), np.concatenate(([0], np.cumsum(lengths))))
    other = segment(repeated, 12, build)
    assert one.lengths.tolist() == lengths.tolist()
    for name in ("term_offsets", "rows", "counts"):
        assert getattr(one.postings(), name).tobytes() == getattr(other.postings(), name).tobytes()
    for a, b in zip((one.sections or {}).values(), (other.sections or {}).values(), strict=True):
        assert a.tobytes() == b.tobytes()
    dense = np.zeros((700, 12))
    dense[owner, documents.values] = counts
    parameters, weights = BM25Parameters("impact", k1=64), rng.random((20, 12)).astype(np.float32)
    for k in (1, 10, 700):
        hits = bm25(pack([np.arange(12)] * 20), one, k, weights=weights.reshape(-1), parameters=parameters, backend=build[0])
        for w, (got, scores) in zip(weights.astype(np.float64), hits):
            exact = (dense @ w / 64).astype(np.float32)
            order = [row for row in np.lexsort((np.arange(700), -exact)).tolist() if dense[row].any()][:k]
            assert got.tolist() == order and scores.tolist() == exact[order].tolist()


@EVERY
def test_wrong_counts(build):
    for counts in ([1], [0] * 6, [-1] * 6, [2**32] * 6, [2**31] * 6):
        with pytest.raises(InputError, match="bm25: counts"):
            segment(HAND, 4, build, counts=np.array(counts))
    with pytest.raises(InputError, match="forward lists"):
        segment(HAND, 4, build, counts=np.ones(6, np.int64), forward=True)


@pytest.mark.skipif("cpp" not in backends("bm25"), reason="only packed segments have forward lists")
def test_forward_lists():
    rng = np.random.default_rng(2)
    documents = [*zipf(rng, 100, 300, 60), [], [299] * 70_000, [0, 299, 0], list(range(300))]
    index = segment(documents, 300, ("cpp", True), forward=True)
    assert index.has_forward and not segment(documents, 300, ("cpp", True)).has_forward
    rows = rng.permutation(len(documents)).astype(np.int64)
    for row, (terms, counts) in zip(rows.tolist(), index.terms_of(rows), strict=True):
        assert list(zip(terms.tolist(), counts.tolist())) == sorted(Counter(documents[row]).items())
    assert index.terms_of(np.empty(0, np.int64)) == []


@st.composite
def small_searches(draw):
    n_terms = draw(st.integers(1, 6))
    row = st.lists(st.integers(0, n_terms - 1), max_size=8)
    documents, query = draw(st.lists(row, min_size=1, max_size=14)), draw(row)
    documents *= draw(st.sampled_from([1, 1, 20, 40]))  # blocks and dense rows too
    weight = st.one_of(st.sampled_from([0.0, 1.0, 1e-38]), st.floats(-4, 100, width=32))
    variant = draw(st.sampled_from(list(VARIANTS)))
    k1 = draw(st.one_of(st.sampled_from([1e-6, 1.2, 1e6]), st.floats(0.125 if variant in ("bm25l", "impact") else 0, 4)))
    delta = draw(st.sampled_from([None, 0.0, 0.5, 1.0, 1e4]))
    return {
        "documents": documents,
        "n_terms": n_terms,
        "query": query,
        "weights": draw(st.none() | st.lists(weight, min_size=len(query), max_size=len(query))),
        "required": draw(st.none() | st.lists(st.booleans(), min_size=len(query), max_size=len(query))),
        "filter": draw(st.none() | st.lists(st.booleans(), min_size=len(documents), max_size=len(documents))),
        "dead": draw(st.lists(st.booleans(), min_size=len(documents), max_size=len(documents))),
        "cuts": sorted(draw(st.lists(st.integers(1, len(documents)), max_size=3))),
        "k": draw(st.integers(1, 30)),
        "parameters": BM25Parameters(variant, k1, draw(st.floats(0, 1)), delta),
    }


def parts_of(documents, cuts, dead, n_terms, build):
    """The documents spread over segments that end at `cuts`, those of `dead` deleted."""
    parts = []
    for begin, end in zip([0, *cuts], [*cuts, len(documents)]):
        if begin < end:
            gone = np.array(dead[begin:end], bool)
            dead_df = [sum(t in doc for doc, g in zip(documents[begin:end], gone) if g) for t in range(n_terms)]
            parts.append(Part(segment(documents[begin:end], n_terms, build), gone, np.array(dead_df, np.int32)))
    return parts


@EVERY
@settings(derandomize=True, deadline=None, max_examples=100)
@given(case=small_searches())
def test_any_search(build, case):
    """Against the oracle, as one segment and spread over several with deleted rows; and the postings against numpy's counts."""
    documents, query, n_terms = case["documents"], case["query"], case["n_terms"]
    options = {name: None if case[name] is None else [case[name]] for name in ("weights", "required")}
    allowed = None if case["filter"] is None else np.array(case["filter"])
    check(documents, [query], n_terms, build, case["k"], filter=allowed, parameters=case["parameters"], **options)
    plain, want = segment(documents, n_terms, build).postings(), Postings.of(pack(documents), n_terms)
    assert plain.rows.tobytes() == want.rows.tobytes() and plain.counts.tobytes() == want.counts.tobytes()

    live = np.flatnonzero(~np.array(case["dead"]))
    parts = parts_of(documents, case["cuts"], case["dead"], n_terms, build)
    searcher = Searcher(parts, case["parameters"], build[0])
    w = None if case["weights"] is None else np.array(case["weights"], np.float32)
    r = None if case["required"] is None else np.array(case["required"], bool)
    terms = np.array([query] * len(parts), np.int32).reshape(len(parts), len(query))
    [got] = searcher.search(terms, np.array([0, len(query)]), case["k"], weights=w, required=r, filter=allowed)
    if len(live) == 0:
        assert got[0].size == 0
        return
    fresh = segment([documents[i] for i in live], n_terms, build)
    of_live = None if allowed is None else allowed[live]
    options = {"weights": w, "required": r, "filter": of_live, "parameters": case["parameters"], "backend": build[0]}
    [(rows, scores)] = bm25(pack([query]), fresh, case["k"], **options)
    assert got[0].tolist() == live[rows].tolist() and got[1].tobytes() == scores.tobytes()


BUILD_ERRORS = [
    ([], 1, "empty corpus"),
    ([[0, 5]], 5, "from 0 to 4"),
    ([[-1]], 5, "from 0 to 4"),
    ([[0]], 0, "document tokens"),
    ([[]], -1, "bm25: n_terms"),
    ([[]], 1.5, "bm25: n_terms"),
    ([[]], True, "bm25: n_terms"),
]


@EVERY
@pytest.mark.parametrize(("documents", "n_terms", "text"), BUILD_ERRORS)
def test_wrong_documents(build, documents, n_terms, text):
    with pytest.raises(InputError, match=text):
        segment(documents, n_terms, build)


WRONG_PARAMETERS = [("lucene", -0.1, 0.75, None), ("lucene", 1, 1.1, None), ("lucene", 1, math.nan, None), ("bm25l", 0, 0.5, None)]
WRONG_PARAMETERS.append(("impact", 0, 0.75, None))


@pytest.mark.parametrize(
    "wrong", [*WRONG_PARAMETERS, ("bm25+", 1, 0, -1), ("bm25", 1, 0.5, None), ("lucene", 1e7, 0, None), ("lucene", "1", 0, 0)]
)
def test_wrong_parameters(wrong):
    with pytest.raises(InputError, match="bm25: "):
        BM25Parameters(*wrong)
    with pytest.raises(dataclasses.FrozenInstanceError):
        LUCENE.k1 = 2.0


@EVERY
def test_wrong_queries(build):
    index = segment(HAND, 4, build)
    for terms in ([4], [-1], [2**31]):
        with pytest.raises(InputError, match="bm25: query terms"):
            bm25(Packed.from_rows([terms], np.int64), index, 1, backend=build[0])
    with pytest.raises(InputError, match="dtype float64"):
        bm25(Packed.from_rows([[0.0]]), index, 1, backend=build[0])
    for k in (0, -1, 2.0, None):
        with pytest.raises(InputError, match="bm25: k"):
            bm25(pack([[0]]), index, k, backend=build[0])
    for name, value in (("weights", [1, 2]), ("required", [True, False]), ("filter", [True]), ("threads", 0)):
        with pytest.raises(InputError, match=name):
            bm25(pack([[0]]), index, 1, backend=build[0], **{name: value})
    with pytest.raises(InputError, match="bm25: segments"):
        bm25(pack([[0]]), [], 1, backend=build[0])
    with pytest.raises(NonFiniteError, match="bm25: weights"):
        bm25(pack([[0]]), index, 1, weights=[math.nan], backend=build[0])


def test_a_named_backend_never_falls_back(without_cpp):
    text = r"bm25: backend 'cpp' .*this test took it away.*Available here: reference\."
    with pytest.raises(BackendUnavailable, match=text):
        segment(HAND, 4, ("cpp", True))
    index = Segment.build(pack(HAND), 4)
    with pytest.raises(BackendUnavailable, match=text):
        bm25(pack([[0]]), index, 1, backend="cpp")
    assert choose("bm25") == "reference"
    assert bm25(pack([[0]]), index, 1)[0][0].tolist() == [1]


def test_a_damaged_segment_says_so_and_harms_no_later_search():
    pytest.importorskip("rerank_engine._native")
    documents = [[0, 1] if row % 3 else [0] for row in range(900)]
    good = segment(documents, 2, ("cpp", False))
    blocks = good.sections["blocks"].copy()
    blocks.view(np.uint32)[-8] ^= 1  # the last row of a late block of term 1
    broken = Segment.of({**good.sections, "blocks": blocks}, good.meta)
    searcher, offsets = Searcher([Part(broken)], LUCENE, "cpp"), np.array([0, 1])
    before = searcher.search(np.array([[0]], np.int32), offsets, 9)
    for _ in range(3):
        with pytest.raises(FileFormatError, match="damaged postings"):
            searcher.search(np.array([[0, 1]], np.int32), np.array([0, 2]), 900)
        with pytest.raises(NonFiniteError):
            searcher.search(np.zeros((1, 9999), np.int32), np.array([0, 9999]), 9, weights=np.full(9999, 3e38, np.float32))
        assert same_bits(before, searcher.search(np.array([[0]], np.int32), offsets, 9))
    with pytest.raises(FileFormatError, match="damaged postings"):
        broken.postings()
