"""Client libraries as they are published, against the running server. `make clients` installs them in environments of their own."""

from __future__ import annotations

import collections
import os
import re
import shlex
import subprocess
import threading

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

from replicas import killed, question  # noqa: E402
from words_scorer import Words  # noqa: E402

from benchmarks.live_server import served  # noqa: E402
from rerank_engine.serve import create_app  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "UserWarning", "FutureWarning", "ResourceWarning")),
]
QUERY, DOCUMENTS = "green tea health", ["black coffee", "green tea is good for health", "tea"]


class Failing:
    """Answers the next `n` requests with `status`, as a server does that is busy or broken; then it is the app."""

    def __init__(self, app: object) -> None:
        self.app, self.status, self.n, self.seen = app, 0, 0, 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["method"] == "POST":
            self.seen += 1
            if self.n > 0:
                self.n -= 1
                body = b'{"message": "induced", "detail": "induced"}'
                headers = [(b"content-type", b"application/json"), (b"retry-after", b"1")]
                await send({"type": "http.response.start", "status": self.status, "headers": headers})
                await send({"type": "http.response.body", "body": body})
                return
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def failing():
    return Failing(create_app(Words()))


@pytest.fixture(scope="module")
def url(failing):
    with served(failing) as address:
        yield address


@pytest.fixture(autouse=True)
def calm(failing):
    failing.n = failing.seen = 0


def test_cohere_v2(url):
    cohere = pytest.importorskip("cohere")
    found = cohere.ClientV2("k", base_url=url).rerank(model="m", query=QUERY, documents=DOCUMENTS, top_n=2)
    assert [row.index for row in found.results] == [1, 2] and 0.9 < found.results[0].relevance_score < 1
    assert found.id and found.meta.billed_units.search_units == 1


def test_cohere_v1(url):
    cohere = pytest.importorskip("cohere")
    client = cohere.Client("k", base_url=url)
    found = client.rerank(model="m", query=QUERY, documents=[{"text": text} for text in DOCUMENTS], top_n=2, return_documents=True)
    assert [(row.index, row.document.text) for row in found.results] == [(1, DOCUMENTS[1]), (2, DOCUMENTS[2])]


def test_cohere_reads_relevant_spans():
    """As its SDK asks for them and types them from version 7 on; a real late-interaction model finds them."""
    cohere = pytest.importorskip("cohere")
    if not hasattr(cohere, "RerankRelevantSpans"):
        pytest.skip("this version of the SDK has no relevant_spans")
    if "RERANK_SERVER" not in os.environ:
        pytest.skip("RERANK_SERVER does not say how to start a server with a model, as `make clients` does")
    command = [*shlex.split(os.environ["RERANK_SERVER"]), "--model", "answerai-colbert-small-v1", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = re.search(r"http://\S+", server.stderr.readline())[0]  # waits for the model
            client = cohere.ClientV2("k", base_url=address)
            spans = cohere.RerankRelevantSpans(mode="enabled", threshold=0.2, max_spans=1)
            texts = ["Coffee keeps you awake.", "Tea: 🍵 green tea is good for your health."]
            found = client.rerank(model="m", query=QUERY, documents=texts, relevant_spans=spans).results
        finally:
            server.terminate()
    assert [row.index for row in found] == [1, 0] and found[1].relevant_spans is None
    (span,) = found[0].relevant_spans
    assert "green tea" in texts[1][span.start : span.end] and 0.2 <= span.score <= 1


@pytest.mark.parametrize("status", [429, 503, 500, 408])
def test_cohere_tries_again(url, failing, status):
    cohere = pytest.importorskip("cohere")
    failing.status, failing.n = status, 1
    found = cohere.ClientV2("k", base_url=url).rerank(model="m", query=QUERY, documents=DOCUMENTS)
    assert [row.index for row in found.results] == [1, 2, 0] and failing.seen == 2


@pytest.mark.parametrize("body", [{"query": "", "documents": ["a"]}, {"query": "q", "documents": [{"no": "text"}]}])
def test_cohere_does_not_repeat_what_is_wrong(url, failing, body):
    cohere = pytest.importorskip("cohere")
    with pytest.raises((cohere.BadRequestError, cohere.UnprocessableEntityError)):
        cohere.Client("k", base_url=url).rerank(model="m", **body)
    assert failing.seen == 1


def test_cohere_gives_up_with_its_own_error(url, failing):
    cohere = pytest.importorskip("cohere")
    failing.status, failing.n = 429, 9
    with pytest.raises(cohere.TooManyRequestsError):
        cohere.ClientV2("k", base_url=url).rerank(model="m", query=QUERY, documents=DOCUMENTS)
    assert failing.seen == 3


def test_cohere_is_shed_and_served_in_the_end():
    """A server that is really too busy: 429 with Retry-After, and the SDK's own second try."""
    cohere = pytest.importorskip("cohere")
    from rerank_engine.serve import Limits

    with served(create_app(Words(ms=1), limits=Limits(wave_ms=10, wait_ms=20))) as address:
        client = cohere.ClientV2("k", base_url=address)
        client.rerank(model="m", query="q", documents=["1"] * 50)
        long = threading.Thread(target=lambda: httpx.post(f"{address}/rerank", json={"query": "q", "texts": ["1"] * 800}, timeout=30))
        long.start()
        while "rerank_queue_tokens 0.0" in httpx.get(f"{address}/metrics").text:
            pass
        found = client.rerank(model="m", query="q", documents=["1", "2"] * 20)
        long.join()
        assert found.results[0].index == 1
        assert 'rerank_shed_total{reason="queue"}' in httpx.get(f"{address}/metrics").text


def test_cohere_against_two_replicas_of_which_one_is_killed():
    """On Ray Serve: SIGKILL, several times, under load. Every answer is right, by its own document and its score before any kill. None is
    lost, nor needs one of the SDK's own retries: no status but 200 came, for the front has tried again."""
    cohere = pytest.importorskip("cohere")
    if "RERANK_RAY_SERVER" not in os.environ:
        pytest.skip("RERANK_RAY_SERVER does not say how to start a server on Ray: '<a Python with ray> -m rerank_engine.cli serve --ray'")
    command = [*shlex.split(os.environ["RERANK_RAY_SERVER"]), "--replicas", "2", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = next(found[0] for line in server.stderr if (found := re.search(r"http://127\S+[0-9]", line)))
            threading.Thread(target=server.stderr.read, daemon=True).start()
            once, statuses = asked_of_all(cohere, address, lambda: True)
            calm = [found for _, found in sorted(once)]
            assert statuses == {200: REQUESTS} and len(calm) == REQUESTS
            assert [index for index, _ in calm] == [question(seed)[2] for seed in range(REQUESTS)]
            over, told = threading.Event(), []
            clients = threading.Thread(target=lambda: told.extend(asked_of_all(cohere, address, over.is_set)))
            clients.start()
            try:
                dead = [killed(server.pid, "ms-marco", address, seed) for seed in range(KILLS)]
            finally:
                over.set()
                clients.join()
        finally:
            server.terminate()
            assert server.wait(60) == 0
    rows, statuses = told
    assert len(set(dead)) == KILLS and statuses == {200: len(rows)}
    for seed, (index, score) in rows:
        assert index == calm[seed][0] and score == pytest.approx(calm[seed][1], abs=1e-6)


REQUESTS, KILLS, CLIENTS = 100, 4, 4


def asked_of_all(cohere, address, over):
    """([(a question, (index of the best, its score))] of REQUESTS questions, and again as long as it is not `over`; how often each status
    came, and under "failed" what failed), by CLIENTS clients at once."""
    statuses, found, wrong = collections.Counter(), [], []

    def ask(client):
        try:
            go(client)
        except Exception as error:
            wrong.append(repr(error))

    def go(client):
        with httpx.Client(timeout=60, event_hooks={"response": [lambda answer: statuses.update([answer.status_code])]}) as own:
            sdk = cohere.ClientV2("k", base_url=address, httpx_client=own)
            while True:
                for seed in range(client, REQUESTS, CLIENTS):
                    query, documents, _ = question(seed)
                    best = sdk.rerank(model="m", query=query, documents=documents, top_n=1).results[0]
                    found.append((seed, (best.index, best.relevance_score)))
                if over():
                    return

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, dict(statuses) | ({"failed": wrong} if wrong else {})


def test_voyage(url):
    voyageai = pytest.importorskip("voyageai")
    found = voyageai.Client(api_key="k", base_url=f"{url}/v1").rerank(QUERY, DOCUMENTS, model="rerank-2", top_k=2)
    assert [(row.index, row.document) for row in found.results] == [(1, DOCUMENTS[1]), (2, DOCUMENTS[2])] and found.total_tokens > 0


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "InvalidRequestError"), (401, "AuthenticationError"), (422, "MalformedRequestError"), (429, "RateLimitError"),
        (500, "ServerError"), (503, "ServiceUnavailableError"),
    ],
)  # fmt: skip
def test_voyage_knows_the_errors(url, failing, status, name):
    voyageai = pytest.importorskip("voyageai")
    failing.status, failing.n = status, 1
    with pytest.raises(getattr(voyageai.error, name)):
        voyageai.Client(api_key="k", base_url=f"{url}/v1", max_retries=0).rerank(QUERY, DOCUMENTS, model="m")


@pytest.mark.parametrize(
    ("kind", "path"), [("cohere", "/v1/rerank"), ("jina", "/v1/rerank"), ("voyage", "/v1/rerank"), ("text-embeddings-inference", "/rerank")]
)
def test_rerankers(url, kind, path):
    rerankers = pytest.importorskip("rerankers")
    found = rerankers.Reranker("m", model_type=kind, api_key="k", verbose=0, url=url + path).rank(QUERY, DOCUMENTS)
    assert [row.doc_id for row in found][:2] == [1, 2]


def test_langchain_cohere(url):
    module, documents = pytest.importorskip("langchain_cohere"), pytest.importorskip("langchain_core.documents")
    compressor = module.CohereRerank(model="m", cohere_api_key="k", base_url=url, top_n=2)
    found = compressor.compress_documents([documents.Document(page_content=text) for text in DOCUMENTS], QUERY)
    assert [row.page_content for row in found] == [DOCUMENTS[1], DOCUMENTS[2]] and found[0].metadata["relevance_score"] > 0.9


def test_langchain_contextual_compression(url):
    module, retrievers = pytest.importorskip("langchain_cohere"), pytest.importorskip("langchain_classic.retrievers")
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

    class All(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return [Document(page_content=text) for text in DOCUMENTS]

    compressor = module.CohereRerank(model="m", cohere_api_key="k", base_url=url, top_n=2)
    found = retrievers.ContextualCompressionRetriever(base_compressor=compressor, base_retriever=All()).invoke(QUERY)
    assert [row.page_content for row in found] == [DOCUMENTS[1], DOCUMENTS[2]]


def nodes():
    schema = pytest.importorskip("llama_index.core.schema")
    return [schema.NodeWithScore(node=schema.TextNode(text=text), score=0.5) for text in DOCUMENTS]


def test_llama_index_cohere(url):
    module = pytest.importorskip("llama_index.postprocessor.cohere_rerank")
    found = module.CohereRerank(api_key="k", base_url=url, top_n=2).postprocess_nodes(nodes(), query_str=QUERY)
    assert [row.text for row in found] == [DOCUMENTS[1], DOCUMENTS[2]] and found[0].score > 0.9


def test_llama_index_tei(url):
    module = pytest.importorskip("llama_index.postprocessor.tei_rerank")
    found = module.TextEmbeddingInference(base_url=url, top_n=2).postprocess_nodes(nodes(), query_str=QUERY)
    assert [row.text for row in found] == [DOCUMENTS[1], DOCUMENTS[2]] and found[0].score > 0.9


def test_haystack_cohere(url, monkeypatch):
    module, haystack = pytest.importorskip("haystack_integrations.components.rankers.cohere"), pytest.importorskip("haystack")
    monkeypatch.setenv("COHERE_API_KEY", "k")
    ranker = module.CohereRanker(model="m", api_base_url=url, top_k=2)
    ranker.warm_up()
    found = ranker.run(query=QUERY, documents=[haystack.Document(content=text) for text in DOCUMENTS])["documents"]
    assert [row.content for row in found] == [DOCUMENTS[1], DOCUMENTS[2]] and found[0].score > 0.9
