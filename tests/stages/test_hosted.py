"""Hosted re-rankers: our own server in every dialect, and servers that misbehave in ways that have been seen."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

from words_scorer import Words  # noqa: E402

import rerank_engine as rr  # noqa: E402
from rerank_engine.errors import Cancelled, HostedError, InputError  # noqa: E402
from rerank_engine.stages.hosted import PROVIDERS, Hosted  # noqa: E402

QUERY, TEXTS = "green tea health", ["black coffee", "green tea is good for health", "tea"]
PATHS = {"cohere": "/cohere", "voyage": "/voyage", "jina": "/jina", "tei": "/tei", "vllm": "/vllm", "openai-compatible": ""}


class Server:
    """Answers as Cohere does, by the words that query and document share; `script`: what the next requests get in place of that."""

    def __init__(self, *script: object) -> None:
        self.script, self.seen = list(script), list[dict]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.seen.append({"url": str(request.url), "headers": request.headers, **body})
        given = self.script.pop(0) if self.script else None
        if isinstance(given, Exception):
            raise given
        if callable(given):
            given = given(body)
        if isinstance(given, httpx.Response):
            return given
        return httpx.Response(200, json=self.right(body) if given is None else given)

    @staticmethod
    def right(body: dict) -> dict:
        scores = [len(set(body["query"].split()) & set(text.split())) for text in body["documents"]]
        rows = [{"index": i, "relevance_score": score} for i, score in enumerate(scores)]
        billed = {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": 10 * len(rows)}}
        return {"results": sorted(rows, key=lambda row: -row["relevance_score"]), "meta": billed}


def made(server: Server, **how: object) -> Hosted:
    return Hosted("cohere", key="k", transport=httpx.MockTransport(server), **how)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    waits = list[float]()
    monkeypatch.setattr("rerank_engine.posting.time.sleep", waits.append)
    return waits


def test_scores_and_what_is_sent():
    server = Server()
    scorer = made(server, batch=2, price_per_search=0.002)
    ranking = (rr.Rescore(scorer) >> rr.Top(2))(QUERY, TEXTS)
    assert (ranking.ids.tolist(), ranking.scores.tolist(), ranking.scale) == ([1, 2], [3, 1], "relevance")
    assert sorted(len(body["documents"]) for body in server.seen) == [1, 2]
    assert server.seen[0]["url"] == "https://api.cohere.com/v2/rerank" and server.seen[0]["headers"]["authorization"] == "Bearer k"
    usage = scorer.usage
    assert (usage.requests, usage.documents, usage.tokens, usage.search_units, usage.retries) == (2, 3, 30, 2, 0)
    assert usage.cost == pytest.approx(0.004)
    assert ranking.trace[0].facts == {"requests": 2, "tokens": 30}
    assert "k" not in repr(scorer).replace("rank", "")


def test_many_queries_and_empty_lists():
    corpus = rr.Corpus.from_texts([*TEXTS])
    lists = [rr.Ranking.in_order(corpus, rows) for rows in ([0, 1, 2], [], [2, 1])]
    found = made(Server()).score([rr.Query(QUERY), rr.Query("x"), rr.Query("tea")], lists)
    assert [row.values.tolist() for row in found] == [[0, 3, 1], [], [1, 1]]


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_what_may_pass_is_tried_again(status, no_waiting):
    server = Server(httpx.Response(status, headers={"retry-after": "7"}), httpx.Response(status), httpx.ConnectError("gone"))
    scorer = made(server)
    assert scorer.score([rr.Query(QUERY)], [rr.Ranking.in_order(rr.Corpus.from_texts(TEXTS))])[0].values.tolist() == [0, 3, 1]
    assert scorer.usage.requests == 4 and scorer.usage.retries == 3
    assert 7 + 0.5 + 1 <= sum(no_waiting) <= 7 + 1 + 2 + 0.6  # in steps, looking whether it is still wanted


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_is_wrong_is_not_tried_again(status):
    server = Server(httpx.Response(status, json={"message": "no such model"}))
    with pytest.raises(HostedError, match="no such model") as error:
        rr.Rescore(made(server))(QUERY, TEXTS)
    assert error.value.status == status and len(server.seen) == 1


def test_it_gives_up_in_the_end():
    server = Server(*[httpx.Response(503)] * 9)
    scorer = made(server, retries=2)
    with pytest.raises(HostedError):
        rr.Rescore(scorer)(QUERY, TEXTS)
    assert len(server.seen) == 3 and scorer.usage.failures == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"results": [{"index": 0, "relevance_score": 1.0}]}, "of all 3"),
        ({"results": [{"index": i, "relevance_score": 1.0} for i in (0, 1, 1)]}, "twice"),
        ({"results": [{"index": i, "relevance_score": 1.0} for i in range(4)]}, "index 3"),
        ({"results": [{"index": -1, "relevance_score": 1.0}]}, "index -1"),
        ({"results": [{"index": True, "relevance_score": 1.0}]}, "index True"),
        ({"results": [{"index": i, "relevance_score": "high"} for i in range(3)]}, "'high'"),
        (httpx.Response(200, content=b'{"results": [{"index": 0, "relevance_score": NaN}]}'), "nan"),
        (httpx.Response(200, content=b'{"results": [{"index": 0, "relevance_score": 1e300}]}'), "1e\\+300"),
        ({"data": []}, "without a list"),
        ([], "of all 3|without a list"),
        (httpx.Response(200, content=b"<html>"), "no JSON"),
        (httpx.Response(302, headers={"location": "https://elsewhere"}), "302"),
    ],
)
def test_what_cannot_be_right_is_refused(answer, said):
    with pytest.raises(HostedError, match=said):
        rr.Rescore(made(Server(answer)))(QUERY, TEXTS)


def test_counts_that_are_none_are_no_error():
    given = {**Server.right({"query": "tea", "documents": TEXTS}), "usage": "x", "meta": [1]}
    scorer = made(Server(given))
    assert len(rr.Rescore(scorer)("tea", TEXTS)) == 3 and scorer.usage.tokens == 0


def test_the_last_failure_before_a_deadline_is_a_failure():
    with pytest.raises(HostedError, match="503"):
        rr.Rescore(made(Server(*[httpx.Response(503)] * 9), retries=0))(QUERY, TEXTS, deadline_ms=300)


def test_failed_requests_keep_their_documents_in_place():
    server = Server(lambda body: httpx.Response(400) if "tea" in body["documents"] else None)
    server.script *= 3
    ranking = rr.Rescore(made(server, batch=1, concurrency=1, failed="keep"))(QUERY, ["tea", *TEXTS[:2]])
    assert ranking.ids.tolist() == [2, 1, 0] and ranking.columns["scored"].tolist() == [True, True, False]
    assert (np.diff(ranking.scores) < 0).all()


def test_a_fallback_scores_the_whole_list():
    server = Server(lambda body: httpx.Response(400))
    ranking = rr.Rescore(made(server, batch=2, concurrency=1, failed="fallback", fallback=Words()))(QUERY, TEXTS)
    assert ranking.ids.tolist() == [1, 2, 0] and ranking.scale == "logit" and ranking.trace[0].facts["fallback"] is True


def test_who_takes_a_request_back_is_not_sent_the_rest():
    server = Server()
    scorer = made(server, batch=1, concurrency=1)

    def cancelled():
        return len(server.seen) >= 3

    with rr.limited(cancelled=cancelled), pytest.raises(Cancelled):
        rr.Rescore(scorer)(QUERY, [f"t{i}" for i in range(20)])
    assert len(server.seen) == 3 and scorer.usage.requests == 3


def test_usage_can_be_begun_anew():
    scorer = made(Server())
    rr.Rescore(scorer)(QUERY, TEXTS)
    scorer.usage = type(scorer.usage)()
    rr.Rescore(scorer)(QUERY, TEXTS)
    assert scorer.usage.requests == 1


def test_a_key_is_asked_for_at_once_where_one_is_needed(monkeypatch):
    monkeypatch.delenv("COHERE_API_KEY", raising=False)
    with pytest.raises(InputError, match="COHERE_API_KEY"):
        Hosted("cohere")
    Hosted("cohere", base_url="http://localhost:8000")
    monkeypatch.setenv("COHERE_API_KEY", "k")
    Hosted("cohere")


def test_a_deadline_ends_requests(monkeypatch):
    monkeypatch.undo()

    def slow(body: dict) -> httpx.Response:
        raise httpx.ReadTimeout("slow") if time.sleep(0.05) is None else None

    server = Server(*[slow] * 50)
    start = time.monotonic()
    ranking = rr.Rescore(made(server, batch=2))(QUERY, TEXTS, deadline_ms=150)
    assert time.monotonic() - start < 1
    assert ranking.ids.tolist() == [0, 1, 2] and not ranking.columns["scored"].any()
    assert ranking.unfinished


def test_it_can_be_cancelled():
    with rr.limited(cancelled=lambda: True), pytest.raises(Cancelled):
        made(Server()).score([rr.Query(QUERY)], [rr.Ranking.in_order(rr.Corpus.from_texts(TEXTS))])


@pytest.mark.parametrize(
    "how",
    [
        {"provider": "nobody"},
        {"provider": "tei"},
        {"provider": "tei", "base_url": "ftp://x"},
        {"provider": "cohere", "failed": "fallback"},
        {"provider": "cohere", "fallback": Words()},
        {"provider": "cohere", "batch": 0},
        {"provider": "cohere", "retries": -1},
    ],
)
def test_wrong_arguments(how):
    with pytest.raises(InputError):
        Hosted(**how)


def test_batches_stay_within_the_providers_limit():
    assert Hosted("tei", base_url="http://x", batch=500).batch == 32
    assert all(how.most >= 32 for how in PROVIDERS.values())


@pytest.mark.parametrize("provider", PATHS)
def test_our_own_server_in_every_dialect(provider):
    pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
    from benchmarks.live_server import served
    from rerank_engine.serve import create_app

    with served(create_app(Words(), keys=["secret"])) as url:
        scorer = Hosted(provider, base_url=url + PATHS[provider], model="m", key="secret")
        ranking = rr.Rescore(scorer)(QUERY, TEXTS)
        assert ranking.ids.tolist() == [1, 2, 0]
        assert ranking.scores.tolist() == ([3, 1, 0] if provider == "tei" else pytest.approx([0.9526, 0.7311, 0.5], abs=1e-4))
        assert scorer.usage.documents == 3 and (scorer.usage.tokens > 0 or provider == "tei")
        with pytest.raises(HostedError, match="401"):
            rr.Rescore(Hosted(provider, base_url=url + PATHS[provider], key="wrong"))(QUERY, TEXTS)
        scorer.close()
