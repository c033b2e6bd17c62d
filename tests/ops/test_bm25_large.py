"""BM25 in C++ on corpora with all kinds of lists at once, where there is something to prune: against the oracle, every row and score."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from bm25_oracle import Oracle, assert_ranking, corpus, queries_for
from conftest import backends

from rerank_engine.ops import bm25
from rerank_engine.ops.bm25 import VARIANTS, BM25Parameters, Part, Searcher
from rerank_engine.ops.postings import Postings, Segment
from rerank_engine.packed import Packed

pytestmark = pytest.mark.skipif("cpp" not in backends("bm25"), reason="the reference would take minutes")
N_TERMS = 15_000
CODED = {"codes": {}, "plain": {"codes": False}, "exact": {"variant": "impact"}}  # exact: codes that are the frequencies themselves
CODES = pytest.mark.parametrize("codes", CODED)


class Case:
    """A corpus, built with and without codes, its oracle and queries."""

    def __init__(self, documents, n_terms, queries):
        self.documents, self.n_terms, self.queries, self.oracle = documents, n_terms, queries, Oracle(documents)
        self.segments = {codes: Segment.build(documents, n_terms, **CODED[codes], backend="cpp") for codes in CODED}

    def check(self, parameters, ks, queries=None, weights=None, filter=None):
        queries = self.queries if queries is None else queries
        packed = Packed.from_rows(queries, np.int32)
        flat = None if weights is None else np.concatenate(weights)
        each = [None] * len(queries) if weights is None else weights
        want = [self.oracle.best(parameters, q, max(ks) + 200, w, filter=filter) for q, w in zip(queries, each)]
        for codes, segment in self.segments.items():
            if codes == "exact" and parameters.variant not in ("lucene", "impact"):
                continue  # one of those whose gain depends on the length, and the one that they are for
            for k in ks:
                options = {"weights": flat, "filter": filter, "parameters": parameters, "backend": "cpp"}
                got = bm25(packed, segment, k, **options)
                for q, (hits, of_query) in enumerate(zip(got, want, strict=True)):
                    assert len(hits[0]) == min(k, len(of_query[0])), f"query {q}, k {k}, codes {codes}"
                    assert_ranking(hits, of_query)
                assert bits(got) == bits(bm25(packed, segment, k, threads=2, **options))


def bits(hits):
    return [(rows.tobytes(), scores.tobytes()) for rows, scores in hits]


@pytest.fixture(scope="module")
def nature():
    rng = np.random.default_rng(0)
    documents = corpus(rng, 20_000, N_TERMS, 40)
    case = Case(documents, N_TERMS, queries_for(rng, documents, N_TERMS, 1000))
    df = np.diff(Postings.of(documents, N_TERMS).term_offsets)
    assert (df * 4 >= 20_000).sum() > 2 and (df >= 128).sum() > 300 and ((df > 2) & (df < 128)).sum() > 300 and (df <= 2).sum() > 0
    return case


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_thousand_queries(nature, variant):
    nature.check(BM25Parameters(variant), (1, 10, 100, 1000), nature.queries[:: 3 if variant == "impact" else 1])


@pytest.mark.parametrize(("k1", "b"), [(0, 0.75), (1.2, 0), (0.9, 1), (1e6, 0.4), (1e6, 1), (0.01, 0.9), (8, 0.75)])
def test_other_parameters(nature, k1, b):
    """Codes are made for k1 = 1.2 and b = 0.75: here they bound loosely, or are not used."""
    for i, variant in enumerate(VARIANTS):
        if variant not in ("bm25l", "impact") or k1 > 0:
            nature.check(BM25Parameters(variant, k1, b), (10, 300), nature.queries[i::25])


@pytest.mark.parametrize("case", ["spread", "mixed signs", "zeros"])
def test_weights(nature, case):
    rng = np.random.default_rng(1)
    queries = nature.queries[::5]
    draw = {
        "spread": lambda n: 10.0 ** rng.uniform(-6, 6, n),
        "mixed signs": lambda n: rng.normal(size=n).round(1),
        "zeros": lambda n: (rng.random(n) < 0.5) * 2.5,
    }[case]
    nature.check(BM25Parameters(), (1, 10, 500), queries, [draw(len(q)).astype(np.float32) for q in queries])


def test_filters(nature):
    rng = np.random.default_rng(2)
    for share in (0.0003, 0.05, 0.9):
        nature.check(BM25Parameters(), (10, 100), nature.queries[::10], filter=rng.random(20_000) < share)


def test_more_terms_than_windows_take():
    rng = np.random.default_rng(3)
    queries = [rng.permutation(3000)[:n].tolist() for n in (1023, 1024, 1025, 3000)]
    case = Case(corpus(rng, 3000, 3000, 40), 3000, queries)
    for variant in VARIANTS:
        case.check(BM25Parameters(variant), (10, 100))


@CODES
def test_segments_and_deletions_change_no_ranking(nature, codes):
    """Spread over segments, some rows deleted: bit for bit the ranking of one fresh segment of the live documents."""
    rng = np.random.default_rng(4)
    queries = Packed.from_rows(nature.queries[::4], np.int32)
    documents, n = nature.documents, len(nature.documents)
    for cuts, share in (([0, n], 0.3), ([0, 1, 7000, 7001, n], 0), ([0, 500, 9000, 19_000, n], 0.1), ([0, 19_990, n], 0.9)):
        dead, parts = rng.random(n) < share, []
        for begin, end in itertools.pairwise(cuts):
            own = documents.offsets[begin : end + 1]
            segment = Segment.build(Packed(documents.values[own[0] : own[-1]], own - own[0]), N_TERMS, **CODED[codes], backend="cpp")
            gone = dead[begin:end]
            dead_df = segment.native.dead_frequencies(np.packbits(gone, bitorder="little"))
            plain = segment.postings()
            terms = np.repeat(np.arange(N_TERMS), np.diff(plain.term_offsets))
            assert dead_df.tolist() == np.bincount(terms[gone[plain.rows]], minlength=N_TERMS).tolist()
            parts.append(Part(segment, gone, dead_df) if gone.any() else Part(segment))
        live = np.flatnonzero(~dead)
        fresh = Segment.build(Packed.from_rows([documents[i] for i in live], np.int32), N_TERMS, **CODED[codes], backend="cpp")
        terms = np.ascontiguousarray(np.broadcast_to(queries.values, (len(parts), len(queries.values))))
        for parameters in (BM25Parameters(), BM25Parameters("bm25+"), BM25Parameters("bm25l", 0.9, 0.4), BM25Parameters("impact")):
            searcher = Searcher(parts, parameters, "cpp")
            for k in (1, 10, 500):
                want = bm25(queries, fresh, k, parameters=parameters, backend="cpp")
                for threads in (1, 2):
                    got = searcher.search(terms, queries.offsets, k, threads=threads)
                    assert bits(got) == [(live[rows].tobytes(), scores.tobytes()) for rows, scores in want]


@pytest.fixture(scope="module")
def short_documents():
    """140,000 documents of 1 to 3 tokens: three windows of 64K and many of 4K. Term 0 stands in half of them, 1 in a third, 2 to 39 ever
    more rarely, and 40 to 59 only in rows next to the windows' edges, the last one there ever oftener."""
    rng, n = np.random.default_rng(5), 140_000
    lengths = rng.integers(1, 4, n)
    near = np.unique([edge + d for edge in (*range(4096, n, 4096), 65536, 131072) for d in (-1, 0, 1)])
    near = np.r_[0, near[near < n], n - 1]
    lengths[near] = 3
    offsets = np.r_[0, np.cumsum(lengths)]
    tokens = rng.choice(40, offsets[-1], p=np.r_[0.35, 0.2, 0.45 * (w := 0.8 ** np.arange(38)) / w.sum()])
    tokens[offsets[near]] = 40 + rng.integers(0, 20, len(near))
    tokens[offsets[near[::5]] + 1] = tokens[offsets[near[::5]]]
    queries = [[t] for t in (0, 1, 2, 5, 39, 40, 59)]
    queries += (
        [rng.choice(60, int(rng.integers(1, 7))).tolist() for _ in range(60)] + [[0, t] for t in range(40, 60, 3)] + [[0, 1], [0, 1, 2, 45]]
    )
    return Case(Packed(tokens.astype(np.int32), offsets), 60, queries)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_edges_of_windows(short_documents, variant):
    """Most scores tie: the order is that of the rows all over the corpus."""
    short_documents.check(BM25Parameters(variant), (1, 10, 1000), short_documents.queries[:: 1 if variant == "lucene" else 4])


@CODES
def test_all_documents_tie(codes):
    n = 70_000
    documents = Packed(np.tile(np.array([0, 1, 0], np.int32), n), np.arange(n + 1) * 3)
    segment = Segment.build(documents, 2, **CODED[codes], backend="cpp")
    for k in (1, 10, 5000, n):
        for rows, scores in bm25(Packed.from_rows([[0], [1], [1, 0]], np.int32), segment, k, backend="cpp"):
            assert rows.tolist() == list(range(k)) and len(np.unique(scores)) == 1


@CODES
def test_a_rare_document_late_beats_all_before_it(codes):
    """The floor is high when its window comes, and its lists are among those that are only looked up."""
    n = 100_000
    lengths = np.full(n, 8)
    tokens = np.tile(np.array([0, 0, 1, 2, 3, 3, 3, 4], np.int32), (n, 1))
    tokens[::3, 2], tokens[::5, 3], tokens[::2, 7] = 5, 6, 7
    best = np.array([99_999, 98_304, 70_001, 65_536, 65_535])
    tokens[best, :4] = np.array([[0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 6], [0, 1, 5, 6], [1, 1, 0, 0]])
    documents = Packed(tokens.reshape(-1), np.r_[0, np.cumsum(lengths)])
    oracle, segment = Oracle(documents), Segment.build(documents, 8, **CODED[codes], backend="cpp")
    queries = [[0, 1], [1], [0], [0, 1, 2, 3], [0, 5, 6], [1, 6], [0, 7, 5], [0, 1, 2, 3, 4, 5, 6, 7]]
    for variant in VARIANTS:
        for k in (1, 3, 20):
            for q, hits in zip(
                queries, bm25(Packed.from_rows(queries, np.int32), segment, k, parameters=BM25Parameters(variant), backend="cpp")
            ):
                assert_ranking(hits, oracle.best(BM25Parameters(variant), q, k + 100))


@CODES
def test_bounds_count_255_as_any_number_from_there_on(codes):
    """The best document has 3,000 of one term, which a block's bound of 255 hides; one with much of both terms sets the floor before."""
    counts = np.ones((20_000, 2), np.int64)
    counts[100], counts[15_000], counts[19_000] = [250, 200], [300, 1], [3000, 1]
    documents = Packed(np.repeat(np.tile(np.array([0, 1], np.int32), 20_000), counts.reshape(-1)), np.r_[0, np.cumsum(counts.sum(axis=1))])
    oracle, segment = Oracle(documents), Segment.build(documents, 2, **CODED[codes], backend="cpp")
    for variant in VARIANTS:
        parameters = BM25Parameters(variant, 1e6, 0)
        for k in (1, 2):
            [hits] = bm25(Packed.from_rows([[0, 1]], np.int32), segment, k, parameters=parameters, backend="cpp")
            assert_ranking(hits, oracle.best(parameters, [0, 1], k + 100))


@CODES
@pytest.mark.parametrize(("variant", "k1", "delta"), [("bm25+", 1.2, 1e6), ("bm25l", 1e-3, 1e4)])
def test_ties_beside_a_large_constant(codes, variant, k1, delta):
    """Scores that differ by much of their span are one float32: of those the lower rows win, whatever pruning thinks of the difference."""
    rng = np.random.default_rng(6)
    lengths = rng.integers(1, 60, 30_000)[rng.permutation(30_000)]
    lengths[-300:] = 1  # the highest of the true scores stand last
    documents = Packed((rng.random(lengths.sum()) < 0.3).astype(np.int32), np.r_[0, np.cumsum(lengths)])
    oracle, segment = Oracle(documents), Segment.build(documents, 2, **CODED[codes], backend="cpp")
    parameters = BM25Parameters(variant, k1, 0.75, delta)
    for query in ([0], [1], [0, 1]):
        for k in (1, 10, 100):
            [(rows, scores)] = bm25(Packed.from_rows([query], np.int32), segment, k, parameters=parameters, backend="cpp")
            want = oracle.best(parameters, query, k)
            assert rows.tolist() == want[0].tolist() and scores.tolist() == want[1].astype(np.float32).tolist()
