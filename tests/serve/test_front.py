"""What stands before replicas, with replicas that are apps in this process: the hop, the choice of a model, deaths, sums. No Ray."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

from words_scorer import Words  # noqa: E402

from benchmarks.live_server import served  # noqa: E402
from rerank_engine.serve import Limits, create_app  # noqa: E402
from rerank_engine.serve import front as fronts  # noqa: E402
from rerank_engine.serve.deaths import Died  # noqa: E402
from rerank_engine.serve.front import Front, OneId, Unavailable, called, in_time  # noqa: E402
from rerank_engine.serve.guard import Guard  # noqa: E402
from rerank_engine.serve.metrics import Metrics  # noqa: E402
from rerank_engine.serve.on_ray import _get  # noqa: E402

QUERY, DOCUMENTS = "green tea health", ["black coffee", "green tea is good for health", "tea"]


class InProcess:
    """Replicas that are apps here; the next `dies` requests end with their replica, before or after it has worked."""

    def __init__(self, *scorers, limits=None):
        self.apps = [create_app(scorer, limits=limits) for scorer in scorers]
        self.dies, self.none, self.seen, self.scopes, self.process = 0, False, 0, [], ""
        for app in self.apps:
            app.app.state.rerank.start()

    async def ask(self, scope, body):
        self.seen += 1
        self.scopes.append(scope)
        if self.none:
            raise Unavailable("no replica is there for it")
        if self.dies:
            self.dies -= 1
            if self.dies % 2:
                await called(self.apps[self.seen % len(self.apps)], scope, body)
            raise Died("the replica died", self.process or f"process {self.seen}")
        return await called(self.apps[self.seen % len(self.apps)], scope, body)

    async def tell(self, path):
        for i, app in enumerate(() if self.none else self.apps):
            yield f"replica{i}", await called(app.app, _get(path), b"")


def front(models, keys=(), hosts=(), most=1 << 20):
    metrics = Metrics()
    return OneId(Guard(Front(models, metrics), keys=keys, hosts=hosts, most_bytes=most, metrics=metrics))


class Named(Words):
    def __init__(self, model, ms=0.0):
        super().__init__(ms)
        self.model = model


@pytest.fixture(scope="module")
def peers():
    return {"one": InProcess(Named("one"), Named("one")), "two": InProcess(Named("two"))}


@pytest.fixture(scope="module")
def url(peers):
    with served(front(peers, keys=["secret"])) as address:
        yield address


@pytest.fixture
def client(url, peers):
    for peer in peers.values():
        peer.dies, peer.none, peer.seen, peer.process = 0, False, 0, ""
    with httpx.Client(base_url=url, timeout=20, headers={"authorization": "Bearer secret"}) as made:
        yield made


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/v2/rerank", {"query": QUERY, "documents": DOCUMENTS}, "one"),
        ("/v2/rerank", {"query": QUERY, "documents": DOCUMENTS, "model": None}, "one"),
        ("/v2/rerank", {"query": QUERY, "documents": DOCUMENTS, "model": "two"}, "two"),
        ("/voyage/v1/rerank", {"query": QUERY, "documents": DOCUMENTS, "model": "two", "top_k": 2}, "two"),
        ("/jina/v1/rerank", {"query": QUERY, "documents": DOCUMENTS, "model": "one"}, "one"),
        ("/score", {"text_1": QUERY, "text_2": DOCUMENTS, "model": "two"}, "two"),
    ],
)
def test_the_body_names_the_model(client, path, body, model):
    told = client.post(path, json=body)
    assert told.status_code == 200 and told.json()["model"] == model
    rows = told.json().get("results") or told.json()["data"]
    if path == "/score":
        assert [row["score"] > 0.9 for row in rows] == [False, True, False]
    else:
        assert rows[0]["index"] == 1
    assert "server-timing" in told.headers and len(told.headers.get_list("content-length")) == 1


def test_a_model_that_is_not_served_is_told(client):
    told = client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS, "model": "three"})
    assert told.status_code == 404 and told.json()["error_type"] == "not_found"
    assert "'three'" in told.json()["message"] and "one, two" in told.json()["message"]


def test_one_model_is_everybodys():
    with served(front({"one": InProcess(Named("one"))})) as url:
        told = httpx.post(f"{url}/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS, "model": "rerank-v3.5"})
        assert told.status_code == 200 and told.json()["model"] == "one"


@pytest.mark.parametrize(
    ("content", "status"), [(b"{", 422), (b"[1]", 422), (b"[" * 100_000, 400), (b'{"model": 3, "query": "q", "documents": []}', 422)]
)
def test_what_cannot_be_read_is_the_models_to_refuse(client, content, status):
    told = client.post("/v2/rerank", content=content)
    assert told.status_code == status and told.json()["error_type"] == "validation"


def test_the_guard_stands_in_front(peers, url, client):
    assert httpx.post(f"{url}/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS}).status_code == 401
    assert httpx.get(f"{url}/metrics").status_code == 401 and httpx.get(f"{url}/health").status_code == 200
    told = client.post("/v2/rerank", json={"query": QUERY, "documents": ["x" * (1 << 20)]})
    assert told.status_code == 413
    told = client.post("/v2/rerank", content=(b"x" * 4096 for _ in range(300)))  # no length
    assert told.status_code == 413 and told.json()["error_type"] == "too_large"
    assert not any(peer.seen for peer in peers.values())
    with served(front({"one": peers["one"]}, hosts=["localhost"])) as other:
        assert httpx.post(f"{other}/v2/rerank", json={}).status_code == 421


def test_a_request_is_tried_again_where_its_replica_died(client, peers):
    peers["one"].dies, before = 1, counted(client)
    told = client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS, "top_n": 1})
    assert peers["one"].seen == 2 and counted(client) - before == 1
    assert told.status_code == 200 and [row["index"] for row in told.json()["results"]] == [1]


def test_a_replica_that_was_dead_before_is_nobodys_fault(client, peers):
    """Ray may send to it a few times more, until it knows."""
    peers["one"].dies, peers["one"].process = 4, "the same"
    told = client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS, "top_n": 1})
    assert told.status_code == 200 and peers["one"].seen == 5


def test_what_ends_two_processes_is_not_tried_again(client, peers):
    deadly, peers["one"].dies = {"query": "deadly", "documents": DOCUMENTS}, 99
    told = client.post("/v2/rerank", json=deadly)
    assert told.status_code == 422 and "retry-after" not in told.headers and "it ended the process that read it" in told.json()["message"]
    assert peers["one"].seen == 2
    assert client.post("/v2/rerank", json=deadly).status_code == 422 and peers["one"].seen == 2
    peers["one"].dies = 0
    assert client.post("/v2/rerank", json={**deadly, "query": QUERY}).status_code == 200


def test_what_is_lost_for_long_is_503(client, peers, monkeypatch):
    monkeypatch.setattr("rerank_engine.serve.deaths.TRIED_S", 0.0)
    peers["one"].dies, peers["one"].process = 99, "the same"
    told = client.post("/v2/rerank", json={"query": "lost", "documents": DOCUMENTS})
    assert told.status_code == 503 and told.headers["retry-after"] == "1" and told.json()["error_type"] == "overloaded"


class Mortal(InProcess):
    """Two processes; one that is given "deadly" ends as soon as others are in it, with all that it has, and another takes its place."""

    def __init__(self, *scorers):
        super().__init__(*scorers)
        self.turn, self.ended = 0, []
        self.processes = [{"name": f"process {i}", "end": asyncio.Event(), "in": 0} for i in range(2)]

    async def ask(self, scope, body):
        self.turn += 1
        at = self.turn % 2
        mine = self.processes[at]
        mine["in"] += 1
        if b"deadly" in body:
            while mine["in"] < 3 and not self.ended:  # the first time it takes others along
                await asyncio.sleep(0.001)
            self.ended.append(mine["name"])
            self.processes[at] = {"name": f"process {2 + len(self.ended)}", "end": asyncio.Event(), "in": 0}
            mine["end"].set()
        while not self.ended:
            await asyncio.sleep(0.001)
        try:
            await asyncio.wait_for(mine["end"].wait(), 0.2)
        except (asyncio.TimeoutError, TimeoutError):
            return await called(self.apps[0], scope, body)
        raise Died("the replica died", mine["name"])


def test_what_a_deadly_request_took_along_is_answered():
    peer, found = Mortal(Words()), {}
    with served(front({"one": peer})) as url:

        def ask(query):
            found[query] = httpx.post(f"{url}/v2/rerank", json={"query": query, "documents": ["7", "8"], "top_n": 1}, timeout=60)

        threads = [threading.Thread(target=ask, args=(query,)) for query in ("deadly", *(f"q{i}" for i in range(10)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        text = httpx.get(f"{url}/metrics").text
    assert found.pop("deadly").status_code == 422 and len(peer.ended) == 2
    assert [[row["index"] for row in told.json()["results"]] for told in found.values()] == [[1]] * 10
    assert float(re.search(r"rerank_died_total\S+ (\S+)", text)[1]) > 2


def counted(client):
    found = re.search(r'rerank_died_total\{model="one",replica="front"\} (\S+)', client.get("/metrics").text)
    return float(found[1]) if found else 0


def test_no_replica_at_all_is_503_with_retry_after(client, peers):
    peers["two"].none = True
    told = client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS, "model": "two"})
    assert told.status_code == 503 and told.headers["retry-after"] == "1"
    told = client.get("/ready")
    assert told.status_code == 503 and told.json() == {"ready": False} and told.headers["retry-after"]
    assert client.get("/health").status_code == 200


def test_errors_of_a_replica_come_as_they_are(client):
    for body, header, status in (
        ({"query": "", "documents": ["a"]}, {}, 400),
        ({"query": "q"}, {}, 422),
        ({"query": "q", "documents": ["broken"]}, {}, 500),
        ({"query": "q", "documents": ["a"]}, {"x-deadline-ms": "never"}, 400),
    ):
        assert client.post("/v2/rerank", json=body, headers=header).status_code == status
    assert client.get("/v2/rerank").status_code == 405 and client.get("/nowhere").status_code == 404
    assert client.post("/info").status_code == 405


def test_an_error_that_nobody_expected_is_the_apps_own_500(monkeypatch):
    peer = InProcess(Words())

    def broken(_):
        raise RuntimeError("a secret")

    monkeypatch.setattr(peer.apps[0].app.state.rerank.metrics, "answered", broken)
    with served(front({"one": peer})) as url:
        told = httpx.post(f"{url}/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS})
        assert told.status_code == 500 and told.json()["message"] == "the model failed: RuntimeError" and "secret" not in told.text


def test_429_keeps_its_retry_after():
    peer = InProcess(Words(ms=1), limits=Limits(wave_ms=10, wait_ms=20))
    with served(front({"one": peer})) as url, httpx.Client(base_url=url, timeout=20) as client:
        client.post("/rerank", json={"query": "q", "texts": ["1"] * 50})
        scheduler = peer.apps[0].app.state.rerank.service.scheduler
        scheduler.admit(100_000)
        told = client.post("/rerank", json={"query": "q", "texts": ["1"] * 50})
        assert told.status_code == 429 and int(told.headers["retry-after"]) > 1
        scheduler.release(100_000)


def test_a_deadline_is_what_is_left_of_it(client, peers):
    for tries in (1, 2):
        peers["one"].dies, peers["one"].scopes = tries - 1, []
        told = client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS}, headers={"x-deadline-ms": "5000"})
        assert told.status_code == 200
        left = [float(dict(scope["headers"])[b"x-deadline-ms"]) for scope in peers["one"].scopes]
        assert len(left) == tries and 5000 > left[0] > 3000 and left == sorted(left, reverse=True)


def test_a_deadline_begins_with_the_whole_body(monkeypatch):
    """As without replicas: a slow upload takes nothing of it."""
    clock, peer, parts, sent = [0.0], InProcess(Words()), [b'{"query": "q", ', b'"texts": ["1"]}'], []
    monkeypatch.setattr(fronts, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    async def receive():
        if not parts:
            await asyncio.Event().wait()
        clock[0] += 60
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    scope = {**_get("/rerank"), "method": "POST", "headers": [(b"host", b"x"), (b"x-deadline-ms", b"5000")]}
    asyncio.run(front({"one": peer})(scope, receive, send))
    assert sent[0]["status"] == 200 and dict(peer.scopes[0]["headers"])[b"x-deadline-ms"] == b"5000.0"


class Silent(InProcess):
    """Works on what it gets until it may end."""

    def __init__(self, *scorers):
        super().__init__(*scorers)
        self.end = threading.Event()

    async def ask(self, scope, body):
        self.seen += 1
        while not self.end.is_set():
            await asyncio.sleep(0.005)
        return await called(self.apps[0], scope, body)


def test_a_deadline_holds_where_no_replica_keeps_it():
    """Nor is there one at which the test would give up: it never ends otherwise."""
    with served(front({"one": Silent(Words())})) as url:
        told = httpx.post(f"{url}/rerank", json={"query": "q", "texts": ["1"]}, headers={"x-deadline-ms": "100"}, timeout=60)
        assert told.status_code == 504


def test_without_a_deadline_it_waits_as_long_as_a_replica_is_there(monkeypatch):
    monkeypatch.setattr(fronts, "PATIENCE_S", 0.05)
    peer, found = Silent(Words()), []
    with served(front({"one": peer})) as url:

        def ask():
            found.append(httpx.post(f"{url}/rerank", json={"query": "q", "texts": ["1"]}, timeout=60))

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(0.5)
        assert not found
        peer.end.set()
        thread.join()
        peer.end.clear()
        peer.none = True
        ask()
    assert [told.status_code for told in found] == [200, 503] and found[1].headers["retry-after"] == "1"


def test_a_front_holds_so_many_bytes_and_no_more(monkeypatch):
    monkeypatch.setattr(fronts, "HELD_BYTES", 5000)
    peer, found = Silent(Words()), []
    body = {"query": "q", "texts": ["x" * 3000]}
    with served(front({"one": peer})) as url:
        thread = threading.Thread(target=lambda: found.append(httpx.post(f"{url}/rerank", json=body, timeout=60)))
        thread.start()
        while not peer.seen:
            time.sleep(0.002)
        told = httpx.post(f"{url}/rerank", json=body, timeout=60)
        assert told.status_code == 503 and told.headers["retry-after"] == "1" and "too much" in told.json()["message"]
        peer.end.set()
        thread.join()
        assert found[0].status_code == 200 and httpx.post(f"{url}/rerank", json=body, timeout=60).status_code == 200


def test_an_error_between_front_and_replica_is_a_500_of_ours(caplog):
    class Broken(InProcess):
        async def ask(self, scope, body):
            raise ValueError("a secret")

    with served(front({"one": Broken(Words())})) as url:
        told = httpx.post(f"{url}/rerank", json={"query": "q", "texts": ["1"]})
    assert told.status_code == 500 and "retry-after" not in told.headers and "secret" not in told.text
    assert told.json()["error_type"] == "backend" and "ValueError" in told.json()["message"]


def test_one_that_does_not_answer_keeps_nobody_from_telling():
    async def told(value, seconds=0.0):
        await asyncio.sleep(seconds)
        if value == "broken":
            raise RuntimeError
        return value

    async def all_of():
        return [one async for one in in_time([told("never", 3600), told("broken"), told("a"), told("b", 0.01)], 1.0)]

    assert asyncio.run(all_of()) == ["a", "b"]


def test_it_is_ready_at_the_first_replica_that_is():
    class Half(InProcess):
        async def tell(self, path):
            yield "first", (503, [], b"")
            yield "second", (200, [], b"")
            await asyncio.Event().wait()

    with served(front({"one": Half(Words())})) as url:
        assert httpx.get(f"{url}/ready", timeout=60).json() == {"ready": True}


def test_a_client_that_goes_away_is_heard_behind_the_hop():
    scorer = Words(ms=1)
    peer = InProcess(scorer, limits=Limits(wave_ms=10))
    state = peer.apps[0].app.state.rerank
    with served(front({"one": peer})) as url:
        body = json.dumps({"query": "q", "documents": [str(i) for i in range(3000)]}).encode()
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as client:
            client.sendall(b"POST /v1/rerank HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            while state.service.scheduler.waiting < 1000:
                time.sleep(0.002)
        while b"rerank_cancelled_total 1.0" not in state.metrics.text():
            time.sleep(0.01)
        while state.service.scheduler.waiting:
            time.sleep(0.001)
        assert sum(map(len, scorer.waves)) < 3000  # not all of it was scored


def test_at_the_end_what_is_here_is_answered_and_nothing_more_is_taken():
    peer = InProcess(Words(ms=1), limits=Limits(wave_ms=10))
    made = front({"one": peer})
    with served(made) as url:
        found = []
        ask = threading.Thread(
            target=lambda: found.append(httpx.post(f"{url}/rerank", json={"query": "q", "texts": ["1"] * 500}, timeout=20))
        )
        ask.start()
        while not peer.seen:
            time.sleep(0.002)
        asyncio.run(made.app.app.finish(0.0))  # from here on
        told = httpx.post(f"{url}/rerank", json={"query": "q", "texts": ["1"]})
        assert told.status_code == 503 and told.headers["retry-after"] == "1" and not found
        assert httpx.get(f"{url}/ready").status_code == 503 and httpx.get(f"{url}/health").status_code == 200
        asyncio.run(made.app.app.finish(20.0))
        ask.join(1)
        assert found[0].status_code == 200 and len(found[0].json()) == 500


def test_what_is_told_of_all(client):
    client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS})
    client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS, "model": "two"})
    assert client.get("/ready").json() == {"ready": True}
    info = client.get("/info").json()
    assert info["model"] == "one" and {name: one["replicas"] for name, one in info["models"].items()} == {"one": 2, "two": 1}
    assert info["tokens_per_second"] == info["models"]["one"]["tokens_per_second"] > 0
    text = client.get("/metrics").text
    for name in ("rerank_request_seconds", "rerank_queue_tokens", "rerank_requests_total"):
        assert text.count(f"# TYPE {name} ") == 1
    for model, replica in (("one", "replica0"), ("one", "replica1"), ("two", "replica0")):
        assert f'rerank_pace_tokens_per_second{{model="{model}",replica="{replica}"}}' in text
    assert 'replica="front"' in text
