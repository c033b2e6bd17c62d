"""The small collection of switched_shards, whole; test_equal.py has one of its own."""

from __future__ import annotations

import pytest
from switched_shards import collection

import rerank_engine as rr


@pytest.fixture(scope="module")
def corpus():
    return collection()


@pytest.fixture(scope="module")
def bm25(corpus):
    return rr.BM25Index.build(corpus, analyzer="whitespace")
