"""What latencies are measured on is the same everywhere, real where it says so, and as long and as frequent as it says."""

from __future__ import annotations

import numpy as np
import pytest

from rerank_engine.demo import DATA
from rerank_engine.errors import InputError
from rerank_engine.evaluation import load_beir
from rerank_engine.latency import workload
from rerank_engine.stages import BM25


def test_passages_do_not_depend_on_how_many_are_asked_for_and_differ() -> None:
    made = workload.passages(1200)
    assert made[:40] == workload.passages(40)
    assert len(set(made)) == len(made)
    assert workload.passages(3, seed=1)[2] != made[2]


@pytest.mark.parametrize("tokens", [30, 150, 400])
def test_passages_have_the_lengths_that_are_asked_for(tokens: int) -> None:
    words = np.array([len(text.split()) for text in workload.passages(600, tokens)])
    pieces = words * workload.PIECES_PER_WORD
    assert pieces.mean() == pytest.approx(tokens, rel=0.04)
    assert pieces.min() >= tokens * 2 / 3 - 2
    assert pieces.max() <= tokens * 4 / 3 + 2


def test_passages_begin_with_the_real_ones() -> None:
    real = load_beir(DATA).corpus.texts()
    for own, text in zip(workload.passages(50), real):
        start = " ".join(text.split())
        assert own.startswith(start) or start.startswith(own)


def test_queries_are_distinct_questions_of_the_demo() -> None:
    asked = workload.queries(1190)
    assert asked[:10] == workload.queries(10)
    assert sorted(asked) == sorted(query.text for query in load_beir(DATA).queries)
    with pytest.raises(InputError, match="1190"):
        workload.queries(1191)


def test_vectors_are_of_unit_length_and_near_real_ones() -> None:
    made, real = workload.vectors(500), np.load(DATA / "vectors.npy").astype(np.float32)
    assert made.dtype == np.float32
    assert made.shape == (500, real.shape[1])
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(made[:20], workload.vectors(20))
    assert np.median((made @ real.T).max(1)) > 0.85
    assert workload.vectors(3, dim=64).shape == (3, 64)
    with pytest.raises(InputError, match="384"):
        workload.vectors(3, dim=385)


def test_a_larger_lexical_collection_begins_with_the_smaller_one() -> None:
    small, large = workload.lexical(300, n_queries=5), workload.lexical(1000, n_queries=5)
    np.testing.assert_array_equal(small.documents.values, large.documents.part(0, 300).values)
    np.testing.assert_array_equal(small.documents.lengths, large.documents.lengths[:300])


def test_terms_are_as_frequent_and_repeat_as_in_real_text() -> None:
    documents = workload.lexical(20_000, n_queries=1).documents
    owner = np.repeat(np.arange(len(documents)), documents.lengths)
    distinct = np.unique(owner * workload.N_TERMS + documents.values)
    assert len(distinct) / len(documents.values) == pytest.approx(0.77, abs=0.02)
    share = np.bincount(distinct % workload.N_TERMS, minlength=2000) / len(documents)
    assert 0.15 < share[:10].mean() < 0.35  # 0.27 in the demo's passages of 60 to 100 terms
    assert 0.04 < share[50:150].mean() < 0.10  # 0.065
    assert 0.007 < share[500:1500].mean() < 0.02  # 0.014
    terms = [len(np.unique(documents.part(0, n).values)) for n in (2000, 20_000)]
    assert terms[1] > 3 * terms[0]


def test_texts_find_documents_that_hold_their_terms() -> None:
    data = workload.lexical(2000, n_queries=10)
    stage = BM25(data.index(), k=5)
    for query in data.queries:
        terms = set(data.analyze(query))
        found = stage(query)
        assert len(found) == 5
        assert all(terms & set(data.documents[row].tolist()) for row in found.ids.tolist())
    assert data.analyze("xyzzyx") == []


@pytest.mark.parametrize("make", [workload.passages, workload.queries, workload.vectors, workload.lexical])
@pytest.mark.parametrize("n", [0, -1, 1.5])
def test_nothing_is_made_of_no_count(make: object, n: object) -> None:
    with pytest.raises(InputError):
        make(n)  # type: ignore[operator]
