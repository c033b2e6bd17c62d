"""The dialects, their errors and their limits, against an app in this process."""

from __future__ import annotations

import json
import math
import threading
import time

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

import httpx
from starlette.testclient import TestClient
from words_scorer import Words

from rerank_engine import Corpus, Hosted, Ranking
from rerank_engine.errors import InputError
from rerank_engine.limits import limits
from rerank_engine.serve import Limits, create_app
from rerank_engine.serve.service import is_small

QUERY, DOCUMENTS = "green tea health", ["black coffee", "green tea is good for health", "tea"]
BEST = [(1, 1 / (1 + math.exp(-3))), (2, 1 / (1 + math.exp(-1))), (0, 0.5)]


@pytest.fixture
def scorer():
    return Words()


@pytest.fixture
def client(scorer):
    with TestClient(create_app(scorer)) as made:
        yield made
        scorer.held.set()


def pairs(rows, key="relevance_score"):
    return [(row["index"], pytest.approx(row[key])) for row in rows]


@pytest.mark.parametrize("path", ["/v2/rerank", "/cohere/v2/rerank", "/v1/rerank", "/rerank"])
def test_cohere(client, path):
    body = {"model": "m", "query": QUERY, "documents": DOCUMENTS, "top_n": 2, "max_tokens_per_doc": None, "return_documents": None}
    told = client.post(path, json=body).json()
    assert pairs(told["results"]) == BEST[:2] and "document" not in told["results"][0]
    assert told["meta"]["billed_units"] == {"search_units": 1} and told["meta"]["tokens"]["input_tokens"] > 0
    assert told["id"] and "warnings" not in told["meta"]


def test_cohere_v1_takes_objects_and_sends_documents_back(client):
    documents = [{"text": "green tea"}, {"title": "tea", "body": "green health", "text": ""}]
    told = client.post("/v1/rerank", json={"query": QUERY, "documents": documents, "return_documents": True}).json()
    assert [row["index"] for row in told["results"]] == [0, 1]
    assert told["results"][0]["document"] == {"text": "green tea"}
    told = client.post("/v1/rerank", json={"query": QUERY, "documents": documents, "rank_fields": ["title", "body"]}).json()
    assert [row["index"] for row in told["results"]] == [1, 0]


def test_jina_sends_documents_back_unless_they_are_not_wanted(client):
    body = {"model": "m", "query": QUERY, "documents": DOCUMENTS}
    told = client.post("/jina/v1/rerank", json=body).json()
    assert pairs(told["results"]) == BEST and told["results"][0]["document"] == {"text": DOCUMENTS[1]}
    assert told["usage"]["total_tokens"] > 0 and told["model"] == "words"
    assert "document" not in client.post("/jina/v1/rerank", json={**body, "return_documents": False}).json()["results"][0]


@pytest.mark.parametrize("path", ["/v1/rerank", "/voyage/v1/rerank"])
def test_voyage(client, path):
    body = {"query": QUERY, "documents": DOCUMENTS, "model": "rerank-2", "top_k": 2, "truncation": True}
    told = client.post(path, json=body).json()
    assert told["object"] == "list" and pairs(told["data"]) == BEST[:2] and told["usage"]["total_tokens"] > 0
    assert pairs(client.post(path, json={**body, "top_k": None}).json()["data"]) == BEST


@pytest.mark.parametrize("path", ["/rerank", "/tei/rerank"])
def test_tei(client, path):
    body = {"query": QUERY, "texts": DOCUMENTS, "truncate": True, "raw_scores": False}
    assert pairs(client.post(path, json=body).json(), "score") == BEST
    told = client.post(path, json={**body, "raw_scores": True, "return_text": True}).json()
    assert [(row["index"], row["score"], row["text"]) for row in told] == [(1, 3, DOCUMENTS[1]), (2, 1, DOCUMENTS[2]), (0, 0, DOCUMENTS[0])]


def test_vllm(client):
    body = {"model": "m", "query": QUERY, "documents": DOCUMENTS, "top_n": 0, "use_activation": False}
    told = client.post("/vllm/v1/rerank", json=body).json()
    assert [(row["index"], row["relevance_score"]) for row in told["results"]] == [(1, 3), (2, 1), (0, 0)]
    assert told["results"][0]["document"] == {"text": DOCUMENTS[1]}


@pytest.mark.parametrize("names", [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")])
def test_score(client, names):
    first, second = names
    told = client.post("/score", json={first: QUERY, second: DOCUMENTS}).json()
    assert [(row["index"], pytest.approx(row["score"])) for row in told["data"]] == sorted(BEST)
    told = client.post("/v1/score", json={first: ["tea", "coffee"], second: ["tea", "tea"]}).json()
    assert [row["score"] > 0.6 for row in told["data"]] == [True, False]
    assert client.post("/score", json={first: ["a", "b"], second: ["a"]}).status_code == 422
    assert client.post("/score", json={first: "a"}).status_code == 422


def test_infinity_sends_documents_as_strings(client):
    body = {"query": QUERY, "documents": DOCUMENTS, "return_documents": True, "raw_scores": True}
    told = client.post("/infinity/rerank", json=body).json()
    assert told["object"] == "rerank" and told["results"][0] == {"index": 1, "relevance_score": 3.0, "document": DOCUMENTS[1]}


def test_saturated_scores_keep_the_order_of_their_logits(client):
    told = client.post("/v2/rerank", json={"query": "q", "documents": ["50", "70", "60"]}).json()
    assert [row["index"] for row in told["results"]] == [1, 2, 0]
    assert all(row["relevance_score"] <= 1 for row in told["results"])


def test_another_scale_is_passed_on_and_named():
    with TestClient(create_app(Words(scale="maxsim"))) as client:
        told = client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS}).json()
    assert told["results"][0]["relevance_score"] == 3 and "'maxsim'" in told["meta"]["warnings"][0]


def test_no_documents_give_no_results(client):
    assert client.post("/v2/rerank", json={"query": QUERY, "documents": []}).json()["results"] == []


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"query": " ", "documents": ["a"]}, 400, "query"),
        ({"query": "q"}, 422, "documents"),
        ({"documents": ["a"]}, 422, "query"),
        ({"query": "q", "documents": "a"}, 422, "documents"),
        ({"query": "q", "documents": ["a", 3]}, 422, "documents"),
        ({"query": "q", "documents": [{"title": "a"}]}, 422, "rank_fields"),
        ({"query": "q", "documents": ["a"], "top_n": -1}, 422, "top_n"),
        ({"query": "q", "texts": [1]}, 422, "texts"),
        ({"query": "q", "documents": ["a"] * 21}, 400, "at most 20"),
        ({"query": "q", "documents": ["broken"]}, 500, "the model failed"),
        ({"query": "q", "documents": ["nan"]}, 500, "the model failed"),
        ({"query": "q", "documents": ["a"], "relevant_spans": {"mode": "enabled"}}, 400, "--spans"),
        ([1], 422, "object"),
    ],
)
def test_errors_are_told_in_the_words_of_every_dialect(scorer, body, status, said):
    with TestClient(create_app(scorer, limits=Limits(documents=20)), raise_server_exceptions=False) as client:
        answer = client.post("/v1/rerank", json=body)
        assert answer.status_code == status
        told = answer.json()
        assert said in told["message"] and told["message"] == told["detail"] == told["error"] and told["error_type"]
        assert "secret" not in answer.text
        assert client.post("/v1/rerank", json={"query": "q", "documents": ["a"]}).status_code == 200


@pytest.mark.parametrize("text", ["{", "", "nul", '{"query": "\\ud800", "documents": ["a"]}', '{"query": "a", "documents": ["\\udfff"]}'])
def test_what_is_no_json_or_no_unicode_is_refused(client, text):
    assert client.post("/v1/rerank", content=text).status_code == 422


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_a_body_is_json_whatever_it_is_called_but_for_pages_of_other_sites(client, kind):
    body, headers = json.dumps({"query": "q", "documents": ["a"]}), {} if kind is None else {"content-type": kind}
    assert client.post("/v1/rerank", content=body, headers=headers).status_code == 200
    assert client.post("/v1/rerank", content=body, headers={**headers, "origin": "https://elsewhere"}).status_code == 422


def test_a_body_that_is_too_large_is_refused(scorer):
    with TestClient(create_app(scorer, limits=Limits(body_bytes=1000))) as client:
        long = json.dumps({"query": "q", "documents": ["a" * 2000]})
        assert client.post("/v1/rerank", content=long).status_code == 413
        assert client.post("/v1/rerank", content=(long[i : i + 100].encode() for i in range(0, len(long), 100))).status_code == 413


def test_tokens_let_in(scorer):
    with TestClient(create_app(scorer, keys=["first", "second"])) as client:
        body = {"query": "q", "documents": ["a"]}
        for headers in ({}, {"authorization": "Bearer third"}, {"authorization": "Basic first"}, {"authorization": "Bearer "}):
            answer = client.post("/v1/rerank", json=body, headers=headers)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        for key in ("first", "second"):
            assert client.post("/v1/rerank", json=body, headers={"authorization": f"Bearer {key}"}).status_code == 200
        assert client.get("/health").status_code == client.get("/ready").status_code == 200
        assert client.get("/metrics").status_code == client.get("/info").status_code == 401


def test_a_deadline_gives_what_there_is(scorer):
    scorer.ms = 2
    with TestClient(create_app(scorer, limits=Limits(wave_ms=10))) as client:
        start = time.monotonic()
        answer = client.post("/v1/rerank", json={"query": "q", "documents": [str(i) for i in range(500)]}, headers={"x-deadline-ms": "150"})
        assert time.monotonic() - start < 0.5
        told = answer.json()
        scored = 500 - int(answer.headers["x-unscored-documents"])
        assert 0 < scored < 500 and "deadline" in told["meta"]["warnings"][0]
        order, scores = [row["index"] for row in told["results"]], [row["relevance_score"] for row in told["results"]]
        assert order == [*range(scored - 1, -1, -1), *range(scored, 500)] and (np.diff(scores) <= 0).all()
        assert client.post("/v1/rerank", json={"query": "q", "documents": ["1"]}, headers={"x-deadline-ms": "x"}).status_code == 400


def test_a_deadline_before_the_first_document(client, scorer):
    scorer.held.clear()
    answer = client.post("/v1/rerank", json={"query": "q", "documents": ["1"]}, headers={"x-deadline-ms": "30"})
    assert answer.status_code == 504


def test_what_cannot_be_done_in_time_is_turned_away(scorer):
    scorer.ms = 1
    with TestClient(create_app(scorer, limits=Limits(wave_ms=5, wait_ms=50))) as client:
        client.post("/v1/rerank", json={"query": "q", "documents": ["1"] * 50})
        many = [str(i) for i in range(600)]
        answers = []

        def ask() -> None:
            answers.append(client.post("/v1/rerank", json={"query": "q", "documents": many}))

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statuses = [answer.status_code for answer in answers]
        assert statuses.count(200) >= 1 and statuses.count(429) >= 1 and set(statuses) == {200, 429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)
        assert 'rerank_shed_total{reason="queue"}' in client.get("/metrics").text


def test_health_readiness_and_facts(client):
    assert client.get("/health").json() == {"status": "ok"} and client.get("/ping").status_code == 200
    assert client.get("/ready").json() == {"ready": True}
    info = client.get("/info").json()
    assert info["model"] == "words" and info["max_documents"] == 10_000
    client.app.app.state.rerank.stop()
    answer = client.get("/ready")
    assert answer.status_code == 503 and answer.headers["retry-after"]
    answer = client.post("/v1/rerank", json={"query": "q", "documents": ["1"]})
    assert answer.status_code == 503 and answer.headers["retry-after"]


def test_metrics_tell_of_routes_tokens_and_waves(client):
    client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS})
    client.post("/v2/rerank", json={"query": QUERY})
    client.get("/no/such/path")
    text = client.get("/metrics").text
    for line in ('rerank_requests_total{route="rerank",status="200"} 1.0', 'rerank_requests_total{route="rerank",status="422"} 1.0'):
        assert line in text
    assert 'rerank_requests_total{route="other",status="404"} 1.0' in text
    for name in ("tokenization", "queue", "inference"):
        assert f"rerank_{name}_seconds_count 1.0" in text
    assert "rerank_request_documents_sum 3.0" in text


def test_metrics_tell_of_padding(scorer, monkeypatch):
    def score(queries, rankings):
        limits().calls(6, 8)
        return Words().score(queries, rankings)

    monkeypatch.setattr(scorer, "score", score)
    with TestClient(create_app(scorer)) as client:  # its first job is a call too
        client.post("/v2/rerank", json={"query": "q", "documents": ["1", "2"]})
        text = client.get("/metrics").text
    assert 'rerank_computed_tokens_total{what="tokens"} 12.0' in text and 'rerank_computed_tokens_total{what="padding"} 4.0' in text
    assert "rerank_padding_share 0.25" in text


def test_a_hosted_scorer_that_falls_back_answers_on_one_scale():
    """The provider fails for a list of many documents, and would have answered parts of it."""

    def answer(request):
        texts = json.loads(request.content)["documents"]
        if "broken" in texts:
            return httpx.Response(400)
        return httpx.Response(200, json={"results": [{"index": i, "relevance_score": 0.5} for i in range(len(texts))]})

    hosted = Hosted("cohere", key="k", failed="fallback", fallback=Numbers(), transport=httpx.MockTransport(answer))
    with TestClient(create_app(hosted, limits=Limits(wave_ms=1e-3))) as client:
        body = {"query": "q", "documents": [*map(str, range(40)), "broken"], "raw_scores": True}
        assert [row["index"] for row in client.post("/rerank", json=body).json()["results"]] == [40, *range(39, -1, -1)]


class Numbers(Words):
    def score(self, queries, rankings):
        rows = [[text.replace("broken", "99") for text in row.corpus.texts(row.ids)] for row in rankings]
        return super().score(queries, [Ranking.in_order(Corpus.from_texts(row)) for row in rows])


class Spans:
    """In place of a late-interaction model: nothing of a text is met."""

    def explain_by(self, query, text):
        return None


def test_a_request_is_admitted_once_with_its_spans(scorer):
    with TestClient(create_app(scorer, spans=Spans(), limits=Limits(wait_ms=200))) as client:
        scheduler = client.app.app.state.rerank.service.scheduler
        scheduler._pace = 1000.0  # tokens a second: 200 may wait
        texts = ["a word " * 40] * 2  # 2 * 73 tokens
        body = {"query": "q", "documents": texts, "relevant_spans": {"mode": "enabled"}, "top_n": 1}
        assert client.post("/v2/rerank", json=body).status_code == 200, "longer than the queue, and alone"
        scheduler._pace = 1000.0
        scheduler.admit(45)
        assert client.post("/v2/rerank", json={**body, "relevant_spans": None}).status_code == 200
        scheduler._pace = 1000.0
        answer = client.post("/v2/rerank", json=body)  # half of its texts once more
        assert answer.status_code == 429 and answer.headers["retry-after"]
        scheduler.release(45)
        pairs = {"text_1": ["q"] * 60, "text_2": ["a word " * 4] * 60}
        assert client.post("/score", json=pairs).status_code == 200, "pairs are one request"
        assert scheduler.waiting == 0


def test_small_requests_are_prepared_as_all_others(scorer, monkeypatch):
    body = {"query": QUERY, "documents": DOCUMENTS}
    with TestClient(create_app(scorer)) as client:
        answers = [client.post("/v2/rerank", json=body).json()["results"]]
        monkeypatch.setattr("rerank_engine.serve.service.FEW", -1)
        answers.append(client.post("/v2/rerank", json=body).json()["results"])
    assert answers[0] == answers[1]
    assert is_small("q", ["a"]) is False  # by the patch
    monkeypatch.undo()
    assert (
        is_small("q", ["a"] * 4) and not is_small("q", ["a"] * 5) and not is_small("q", ["a" * 2000]) and not is_small("q" * 500, ["a"] * 3)
    )


def test_many_pairs_do_not_hold_up_others(scorer, monkeypatch):
    """They become tokens in the pool, where other requests come in between."""
    threads = set()
    with TestClient(create_app(scorer)) as client:
        service = client.app.app.state.rerank.service
        prepare = service._prepare
        monkeypatch.setattr(service, "_prepare", lambda *given: threads.add(threading.current_thread().name) or prepare(*given))
        assert client.post("/score", json={"text_1": ["q"] * 30, "text_2": ["a"] * 30}).status_code == 200
    assert threads and all(name.startswith("rerank-tokens") for name in threads)


@pytest.mark.parametrize(
    "wrong", [{"wave_ms": 0}, {"wave_ms": -1}, {"wave_tokens": 0}, {"documents": 0}, {"wait_ms": math.nan}, {"stop_s": -1}]
)
def test_limits_that_would_stop_everything_are_refused(wrong):
    with pytest.raises(InputError):
        Limits(**wrong)


def test_request_ids_come_back_if_they_are_plain(client):
    body = {"query": "q", "documents": ["1"]}
    answer = client.post("/v2/rerank", json=body, headers={"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1" and answer.json()["id"] == "abc-1"
    assert client.post("/v2/rerank", json=body, headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"


def test_the_log_says_nothing_of_texts(client, caplog):
    with caplog.at_level("INFO", "rerank_engine.serve"):
        client.post("/v2/rerank", json={"query": "hush hush", "documents": ["a private text"]})
    line = json.loads(caplog.records[-1].getMessage())
    assert line["route"] == "rerank" and line["status"] == 200 and line["documents"] == 1 and line["queue_ms"] >= 0
    assert "hush" not in caplog.text and "private" not in caplog.text


def test_openapi_describes_every_dialect(client):
    told = client.get("/openapi.json").json()
    assert {"/rerank", "/v2/rerank", "/score", "/tei/rerank", "/voyage/v1/rerank"} <= set(told["paths"])
    assert {"Cohere", "Voyage", "TEI", "Score"} <= set(told["components"]["schemas"])


def test_scores_of_pairs_are_all_there_or_none(scorer):
    scorer.ms = 2
    with TestClient(create_app(scorer, limits=Limits(wave_ms=10, documents=500))) as client:
        start = time.monotonic()
        body = {"text_1": [f"q{i}" for i in range(300)], "text_2": [str(i) for i in range(300)]}
        assert client.post("/score", json=body, headers={"x-deadline-ms": "100"}).status_code == 504
        assert time.monotonic() - start < 1
        assert client.post("/score", json={"text_1": ["q"] * 501, "text_2": ["d"] * 501}).status_code == 400


def test_tokens_are_no_blank_ones_and_no_string(scorer):
    for keys in ("secret", [""], ["a", " "]):
        with pytest.raises(InputError):
            create_app(scorer, keys=keys)


def test_it_answers_by_its_own_names_alone(scorer):
    with TestClient(create_app(scorer, hosts=["localhost", "[::1]"])) as client:
        for host, status in (("localhost", 200), ("LOCALHOST:8000", 200), ("[::1]:80", 200), ("evil.example:8000", 421), ("", 421)):
            assert client.get("/health", headers={"host": host}).status_code == status


def test_an_error_of_the_servers_own_is_json_and_says_its_kind_alone(scorer, monkeypatch):
    app = create_app(scorer)
    with TestClient(app, raise_server_exceptions=False) as client:
        monkeypatch.setattr(app.app.state.rerank.metrics, "answered", lambda ranked: 1 / 0)
        answer = client.post("/v1/rerank", json={"query": "q", "documents": ["a"]})
        assert answer.status_code == 500 and answer.json()["message"] == "the model failed: ZeroDivisionError"
