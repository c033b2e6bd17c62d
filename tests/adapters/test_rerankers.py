from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("rerankers", reason="rerankers is not installed")

from words_scorer import Words

from rerank_engine.adapters.rerankers import Reranker

QUERY, TEXTS = "green tea health", ["black coffee", "green tea is good for health", "tea"]


def test_rank():
    found = Reranker(Words()).rank(QUERY, TEXTS, doc_ids=["a", "b", "c"], metadata=[{"row": i} for i in range(3)])
    assert [(row.doc_id, row.score, row.rank) for row in found.results] == [("b", 3, 1), ("c", 1, 2), ("a", 0, 3)]
    assert found.top_k(1)[0].text == TEXTS[1] and found.get_score_by_docid("c") == 1 and found[0].metadata == {"row": 1}


def test_other_calls():
    assert [row.doc_id for row in asyncio.run(Reranker(Words()).rank_async(QUERY, TEXTS)).results] == [1, 2, 0]
    assert Reranker(Words()).score(QUERY, TEXTS[1]) == 3
