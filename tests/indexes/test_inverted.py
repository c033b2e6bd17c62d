from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine.errors import InputError
from rerank_engine.evaluation.beir import load_beir

TEXTS = ["the red apple", "green apples and red apples", "a blue sky", ""]
CORPUS = rr.Corpus.from_texts(TEXTS, titles=["", "Fruit", "", ""])


def test_search_analyses_queries_as_documents() -> None:
    index = rr.BM25Index.build(CORPUS)
    (rows, scores), (none, _), (empty, _), (stop, _) = index.search(["APPLES!", "zebra", "", "the and a"], 10)
    assert rows.tolist() == [0, 1]
    assert none.size == empty.size == stop.size == 0
    idf, mean = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5)), (2 + 5 + 2 + 0) / 4
    assert scores[1] == pytest.approx(idf * 2 / (2 + 1.2 * (0.25 + 0.75 * 5 / mean)), rel=1e-6)
    assert "4 documents" in repr(index)


def test_titles_count_and_k_cuts() -> None:
    index = rr.BM25Index.build(CORPUS)
    assert index.search(["fruit"], 5)[0][0].tolist() == [1]
    assert index.search(["red"], 1)[0][0].size == 1


def test_progress_and_custom_analyzers() -> None:
    seen: list[tuple[int, int]] = []
    corpus = rr.Corpus.from_texts([f"w{i}" for i in range(2500)])
    index = rr.BM25Index.build(corpus, analyzer=str.split, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1000, 2500), (2000, 2500), (2500, 2500)]
    assert index.search(["w7"], 3)[0][0].tolist() == [7]
    assert rr.BM25Index.build(CORPUS, analyzer="simple").search(["the"], 3)[0][0].tolist() == [0]


def test_a_corpus_without_any_term_is_searched_in_vain() -> None:
    index = rr.BM25Index.build(rr.Corpus.from_texts(["", "the"]))
    assert index.search(["the apple"], 3)[0][0].size == 0


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_backends_agree_on_a_real_collection(shared_data: Path, backend: str) -> None:
    collection = load_beir(shared_data / "cranfield")
    queries = [query.text for query in collection.queries[:20]]
    want = rr.BM25Index.build(collection.corpus, backend="reference").search(queries, 50)
    for (rows, scores), (rows2, scores2) in zip(
        rr.BM25Index.build(collection.corpus, backend=backend).search(queries, 50, threads=2), want
    ):
        np.testing.assert_allclose(scores, scores2, rtol=1e-5)
        moved = rows != rows2
        assert np.allclose(scores[moved], scores2[moved], rtol=1e-6)


# Floors: bm25s with its own tokeniser reaches these +- 0.02 (k1 = 1.5, b = 0.75, Snowball stemmer).
FLOORS = {"scifact": 0.6863, "cranfield": 0.3824, "cisi": 0.3956, "vaswani": 0.4280, "rag-xquad-en": 0.9263, "trec-dl19-pool": 0.4074}


@pytest.mark.parametrize("name", FLOORS)
def test_quality_on_real_collections(shared_data: Path, name: str) -> None:
    collection = load_beir(shared_data / name)
    bm25 = rr.BM25(rr.BM25Index.build(collection.corpus, k1=1.5), k=10, threads=2)
    rankings = bm25.run(collection.queries)
    run = {str(q.id): dict(zip(r.doc_ids, r.scores.tolist())) for q, r in zip(collection.queries, rankings)}
    assert rr.evaluate(collection.qrels, run, ["nDCG@10"])["nDCG@10"] == pytest.approx(FLOORS[name], abs=0.02)


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match="empty corpus"):
        rr.BM25Index.build(rr.Corpus.from_texts([]))
    with pytest.raises(InputError, match="k1"):
        rr.BM25Index.build(CORPUS, k1=-1)
    with pytest.raises(InputError, match="analyzer"):
        rr.BM25Index.build(CORPUS, analyzer="nope")
