from __future__ import annotations

import asyncio
import copy

import pytest

pytest.importorskip("haystack", reason="haystack-ai is not installed")

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from words_scorer import Words

from rerank_engine.adapters.haystack import RerankRanker
from rerank_engine.errors import InputError

QUERY, TEXTS = "green tea health", ["black coffee", "green tea is good for health", "tea"]


@pytest.fixture
def documents():
    return [Document(content=text, id=str(i), meta={"title": "green health" if i == 0 else ""}) for i, text in enumerate(TEXTS)]


def test_the_best_come_back_as_copies(documents):
    before = copy.deepcopy(documents)
    found = RerankRanker(Words(), top_k=2).run(query=QUERY, documents=documents)["documents"]
    assert [(row.id, row.score) for row in found] == [("1", 3), ("2", 1)]
    assert documents == before
    assert [row.id for row in RerankRanker(Words()).run(query=QUERY, documents=documents, top_k=1)["documents"]] == ["1"]
    assert RerankRanker(Words()).run(query=QUERY, documents=[])["documents"] == []


def test_fields_and_thresholds(documents):
    found = RerankRanker(Words(), meta_fields_to_embed=["title"], score_threshold=2).run(query=QUERY, documents=documents)["documents"]
    assert [(row.id, row.score) for row in found] == [("1", 3), ("0", 2)]


def test_it_runs_async(documents):
    found = asyncio.run(RerankRanker(Words(), top_k=1).run_async(query=QUERY, documents=documents))
    assert [row.id for row in found["documents"]] == ["1"]


def test_wrong_arguments(documents):
    with pytest.raises(ValueError, match="top_k"):
        RerankRanker(top_k=0)
    with pytest.raises(ValueError, match="top_k"):
        RerankRanker(Words()).run(query=QUERY, documents=documents, top_k=-1)
    with pytest.raises(InputError):
        RerankRanker(3)
    with pytest.raises(InputError, match="name"):
        RerankRanker(Words()).to_dict()


def test_it_is_written_down_and_read_again():
    made = RerankRanker("ms-marco-MiniLM-L-12-v2", top_k=3, activation="sigmoid", meta_fields_to_embed=["title"])
    again = RerankRanker.from_dict(made.to_dict())
    assert again.to_dict() == made.to_dict()
    pipeline = Pipeline()
    pipeline.add_component("ranker", made)
    assert (
        Pipeline.loads(pipeline.dumps(), allowed_modules=["rerank_engine.adapters.*"]).get_component("ranker").to_dict() == made.to_dict()
    )


def test_in_a_pipeline(documents):
    store = InMemoryDocumentStore()
    store.write_documents(documents)
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store))
    pipeline.add_component("ranker", RerankRanker(Words(), top_k=1))
    pipeline.connect("retriever.documents", "ranker.documents")
    found = pipeline.run({"retriever": {"query": QUERY}, "ranker": {"query": QUERY}})["ranker"]["documents"]
    assert [row.content for row in found] == [TEXTS[1]]
