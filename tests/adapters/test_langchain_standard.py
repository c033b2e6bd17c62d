"""The tests that LangChain ships for every retriever (langchain-tests, in the environment of `make clients`)."""

from __future__ import annotations

import pytest

retrievers = pytest.importorskip("langchain_tests.integration_tests.retrievers", reason="langchain-tests is not installed")

from words_scorer import Words  # noqa: E402

import rerank_engine as rr  # noqa: E402
from rerank_engine.adapters.langchain import PipelineRetriever  # noqa: E402

TEXTS = ["black tea", "green tea is good for health", "tea", "white tea", "coffee"]


@pytest.mark.asyncio
@pytest.mark.filterwarnings("ignore:.*is not an async function:pytest.PytestWarning")
class TestPipelineRetriever(retrievers.RetrieversIntegrationTests):
    retriever_constructor = PipelineRetriever
    retriever_query_example = "green tea health"

    @property
    def retriever_constructor_params(self):
        return {"pipeline": rr.BM25(rr.BM25Index.build(rr.Corpus.from_texts(TEXTS))) >> rr.Rescore(Words())}
