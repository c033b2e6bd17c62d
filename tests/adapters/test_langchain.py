from __future__ import annotations

import asyncio
import copy

import pytest

pytest.importorskip("langchain_core", reason="langchain-core is not installed")

from langchain_core.documents import Document
from words_scorer import Words

import rerank_engine as rr
from rerank_engine.adapters.langchain import PairScorer, PipelineRetriever, RerankCompressor
from rerank_engine.errors import InputError

QUERY, TEXTS = "green tea health", ["black coffee", "green tea is good for health", "tea"]


@pytest.fixture
def documents():
    return [Document(page_content=text, id=str(i), metadata={"source": {"row": i}}) for i, text in enumerate(TEXTS)]


def test_the_best_come_back_as_copies(documents):
    before = copy.deepcopy(documents)
    found = RerankCompressor(model=Words(), top_n=2).compress_documents(documents, QUERY)
    assert [(row.id, row.page_content, row.metadata["relevance_score"]) for row in found] == [("1", TEXTS[1], 3), ("2", TEXTS[2], 1)]
    found[0].metadata["source"]["row"] = "changed"
    assert documents == before


def test_no_documents_and_all_documents(documents):
    assert RerankCompressor(model=Words()).compress_documents([], QUERY) == []
    assert len(RerankCompressor(model=Words(), top_n=None).compress_documents(documents, QUERY)) == 3


def test_it_runs_async_and_with_a_stage(documents):
    stage = rr.Rescore(Words()) >> rr.Top(1)
    found = asyncio.run(RerankCompressor(model=stage, activation="sigmoid").acompress_documents(documents, QUERY))
    assert [(row.id, round(row.metadata["relevance_score"], 3)) for row in found] == [("1", 0.953)]


def test_pairs(documents):
    pairs = [(QUERY, TEXTS[1]), ("coffee", TEXTS[0]), (QUERY, TEXTS[2])]
    assert PairScorer(Words()).score(pairs) == [3, 1, 1]
    assert PairScorer(Words(), activation="sigmoid").score(pairs)[0] == pytest.approx(0.9526, abs=1e-4)
    assert PairScorer(Words()).score([]) == []


def test_a_retriever_of_a_pipeline():
    corpus = rr.Corpus([rr.Document(f"d{i}", text, metadata={"row": i}) for i, text in enumerate(TEXTS)])
    retriever = PipelineRetriever(pipeline=rr.BM25(rr.BM25Index.build(corpus)) >> rr.Rescore(Words()), k=1)
    assert len(retriever.invoke(QUERY, k=2)) == len(retriever.invoke(QUERY, k=None)) == 2
    for wrong in ("2", 2.5, -1, 0):
        with pytest.raises(InputError, match="k"):
            retriever.invoke(QUERY, k=wrong)
    (found,) = retriever.invoke(QUERY)
    assert (found.id, found.page_content, found.metadata) == ("d1", TEXTS[1], {"row": 1, "relevance_score": 3.0})


def test_wrong_arguments_are_told_at_once():
    with pytest.raises(ValueError, match="a loaded scorer"):
        RerankCompressor(model=3)
    with pytest.raises(InputError):
        PairScorer(3)
    with pytest.raises(ValueError, match="retrieves"):
        PipelineRetriever(pipeline=rr.Top(3))
    with pytest.raises(ValueError, match="extra"):
        RerankCompressor(top=3)


def test_in_a_contextual_compression_retriever(documents):
    retrievers = pytest.importorskip("langchain_classic.retrievers", reason="langchain-classic is not installed")
    corpus = rr.Corpus.from_texts(TEXTS)
    base = PipelineRetriever(pipeline=rr.BM25(rr.BM25Index.build(corpus)))
    made = retrievers.ContextualCompressionRetriever(base_compressor=RerankCompressor(model=Words(), top_n=1), base_retriever=base)
    assert [row.page_content for row in made.invoke(QUERY)] == [TEXTS[1]]


def test_in_a_cross_encoder_reranker(documents):
    module = pytest.importorskip("langchain_classic.retrievers.document_compressors", reason="langchain-classic is not installed")
    found = module.CrossEncoderReranker(model=PairScorer(Words()), top_n=1).compress_documents(documents, QUERY)
    assert [row.page_content for row in found] == [TEXTS[1]]
