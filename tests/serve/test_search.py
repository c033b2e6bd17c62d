"""/search over an index, and the playground's files."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

from starlette.testclient import TestClient
from words_scorer import Words

import rerank_engine as rr
from rerank_engine.errors import InputError
from rerank_engine.serve import create_app

QUERY = "green tea health"
DOCUMENTS = [
    rr.Document("a", "black coffee and tea tea tea"),
    rr.Document("b", "green tea is good for health", title="On tea", metadata={"year": 3, "odd": float("nan")}),
    rr.Document("c", "green green green paint"),
    rr.Document("d", "nothing of it"),
]


@pytest.fixture
def client():
    bm25 = rr.BM25(rr.BM25Index.build(rr.Corpus(DOCUMENTS)))
    with TestClient(create_app(Words(), retriever=bm25)) as made:
        yield made


def test_results_stages_and_ranks(client):
    told = client.post("/search", json={"query": QUERY}).json()
    assert [row["id"] for row in told["results"]] == ["b", "c", "a"] and told["scale"] == "probability"
    best = told["results"][0]
    assert best["document"] == {"text": DOCUMENTS[1].text, "title": "On tea", "metadata": {"year": 3, "odd": None}}
    assert best["rank"] == best["ranks"]["Words"] == 1 and 1 <= best["ranks"]["BM25"] <= 3
    assert [(stage["name"], stage["n_out"]) for stage in told["stages"]] == [("BM25", 3), ("Words", 3)]
    assert all(stage["ms"] >= 0 for stage in told["stages"]) and told["unfinished"] == []


def test_only_the_head_is_read(client):
    told = client.post("/search", json={"query": QUERY, "depth": 1, "top_n": 5, "return_documents": False}).json()
    assert len(told["results"]) == 1 and "document" not in told["results"][0]
    told = client.post("/search", json={"query": QUERY, "depth": 0}).json()
    assert [stage["name"] for stage in told["stages"]] == ["BM25"] and len(told["results"]) == 3 and told["scale"] == "bm25"


def test_a_deadline_leaves_the_retrievers_list(client):
    state = client.app.app.state.rerank
    state.service.scorer.held.clear()
    told = client.post("/search", json={"query": QUERY}, headers={"x-deadline-ms": "50"}).json()
    state.service.scorer.held.set()
    assert told["unfinished"] == ["Words"] and told["scale"] == "bm25" and len(told["results"]) == 3


def test_fused_retrievers_are_told_apart():
    corpus = rr.Corpus(DOCUMENTS)
    fused = rr.Fuse(rr.BM25(rr.BM25Index.build(corpus)), rr.BM25(rr.BM25Index.build(corpus, analyzer="english")))
    with TestClient(create_app(Words(), retriever=fused)) as client:
        told = client.post("/search", json={"query": QUERY}).json()
    assert [stage["name"] for stage in told["stages"]] == ["BM25", "BM25#2", "Fuse", "Words"]
    assert set(told["results"][0]["ranks"]) == {"BM25", "BM25#2", "Fuse", "Words"}


def test_what_is_wrong(client):
    for body in ({"query": QUERY, "top_n": 0}, {"query": QUERY, "depth": -1}, {}, {"query": 3}):
        assert client.post("/search", json=body).status_code == 422
    assert client.post("/search", json={"query": " "}).status_code == 400
    assert client.post("/search", json={"query": "zzz"}).json()["results"] == []
    with pytest.raises(InputError, match="retrieves"):
        create_app(Words(), retriever=rr.Top(3))
    with TestClient(create_app(Words())) as other:
        assert other.post("/search", json={"query": QUERY}).status_code == 404


def test_the_playground_loads_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in ("/", "/page.js", "/page.css"):
        text = client.get(path).text
        assert "//" not in text.replace("// ", "") and "url(" not in text and "@import" not in text
    assert "BM25" in client.get("/info").json()["index"]


def test_the_playground_needs_no_token_but_its_calls_do():
    with TestClient(create_app(Words(), keys=["k"])) as client:
        assert client.get("/").status_code == client.get("/page.js").status_code == 200
        assert client.get("/info").status_code == 401
