from __future__ import annotations

import copy

import pytest

pytest.importorskip("llama_index.core", reason="llama-index-core is not installed")

from llama_index.core.schema import NodeWithScore, TextNode
from words_scorer import Words

from rerank_engine.adapters.llama_index import RerankPostprocessor

QUERY, TEXTS = "green tea health", ["black coffee", "green tea is good for health", "tea"]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def nodes():
    return [NodeWithScore(node=TextNode(text=text, id_=str(i), metadata={"row": i}), score=0.5) for i, text in enumerate(TEXTS)]


def test_the_best_come_back_as_copies(nodes):
    before = copy.deepcopy(nodes)
    found = RerankPostprocessor(model=Words(), top_n=2, keep_retrieval_score=True).postprocess_nodes(nodes, query_str=QUERY)
    assert [(row.node.node_id, row.score) for row in found] == [("1", 3), ("2", 1)]
    assert found[0].node.metadata == {"row": 1, "retrieval_score": 0.5}
    assert nodes == before


def test_edges(nodes):
    made = RerankPostprocessor(model=Words(), top_n=None)
    assert made.class_name() == "RerankPostprocessor"
    assert made.postprocess_nodes([], query_str=QUERY) == []
    assert len(made.postprocess_nodes(nodes, query_str=QUERY)) == 3
    with pytest.raises(ValueError, match="query bundle"):
        made.postprocess_nodes(nodes)


def test_events(nodes):
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.event_handlers import BaseEventHandler

    seen = []

    class Handler(BaseEventHandler):
        def handle(self, event, **_):
            seen.append(type(event).__name__)

    root = get_dispatcher()
    root.add_event_handler(handler := Handler())
    RerankPostprocessor(model=Words()).postprocess_nodes(nodes, query_str=QUERY)
    root.event_handlers.remove(handler)
    assert [name for name in seen if name.startswith("ReRank")] == ["ReRankStartEvent", "ReRankEndEvent"]


def test_in_a_query_engine(nodes, monkeypatch):
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.query_engine import RetrieverQueryEngine

    class All(BaseRetriever):
        def _retrieve(self, query_bundle):
            return nodes

    monkeypatch.setenv("IS_TESTING", "1")  # no language model
    engine = RetrieverQueryEngine.from_args(
        All(), node_postprocessors=[RerankPostprocessor(model=Words(), top_n=2)], response_mode="no_text"
    )
    assert [row.node.node_id for row in engine.query(QUERY).source_nodes] == ["1", "2"]
