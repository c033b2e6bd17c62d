"""What stands before replicas, with replicas that are apps in this process: the hop, the choice of a model, deaths, sums. No Ray."""

from __future__ import annotations

import json
import socket
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

from words_scorer import Words  # noqa: E402

from benchmarks.live_server import served  # noqa: E402
from rerank_engine import cli  # noqa: E402
from rerank_engine.errors import InputError, MissingDependency  # noqa: E402
from rerank_engine.serve import Limits, create_app  # noqa: E402
from rerank_engine.serve.front import TRIES, Died, Front, OneId, Unavailable, called  # noqa: E402
from rerank_engine.serve.guard import Guard  # noqa: E402
from rerank_engine.serve.metrics import Metrics  # noqa: E402
from rerank_engine.serve.on_ray import Model, _get, build, desired, ray_here, work  # noqa: E402

QUERY, DOCUMENTS = "green tea health", ["black coffee", "green tea is good for health", "tea"]


class InProcess:
    """Replicas that are apps here; the next `dies` requests end with their replica, before or after it has worked."""

    def __init__(self, *scorers, limits=None):
        self.apps = [create_app(scorer, limits=limits) for scorer in scorers]
        self.dies, self.none, self.seen, self.scopes = 0, False, 0, []
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
            raise Died("the replica died")
        return await called(self.apps[self.seen % len(self.apps)], scope, body)

    async def tell(self, path):
        return [] if self.none else [(f"replica{i}", await called(app.app, _get(path), b"")) for i, app in enumerate(self.apps)]


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
        peer.dies, peer.none, peer.seen = 0, False, 0
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


@pytest.mark.parametrize("deaths", range(TRIES + 1))
def test_a_request_is_tried_again_where_its_replica_died(client, peers, deaths):
    peers["one"].dies = deaths
    told = client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS, "top_n": 1})
    assert peers["one"].seen == min(TRIES, deaths + 1)
    if deaths < TRIES:
        assert told.status_code == 200 and [row["index"] for row in told.json()["results"]] == [1]
    else:
        assert told.status_code == 503 and told.headers["retry-after"] == "1" and told.json()["error_type"] == "overloaded"


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


def test_a_deadline_holds_where_no_replica_keeps_it():
    class Silent(InProcess):
        async def ask(self, scope, body):
            import asyncio

            await asyncio.sleep(30)

    with served(front({"one": Silent()})) as url:
        start = time.monotonic()
        told = httpx.post(f"{url}/rerank", json={"query": "q", "texts": ["1"]}, headers={"x-deadline-ms": "100"}, timeout=20)
        assert told.status_code == 504 and time.monotonic() - start < 5


def test_a_client_that_goes_away_is_heard_behind_the_hop():
    peer = InProcess(Words(ms=1), limits=Limits(wave_ms=10))
    state = peer.apps[0].app.state.rerank
    with served(front({"one": peer})) as url:
        body = json.dumps({"query": "q", "documents": [str(i) for i in range(3000)]}).encode()
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as client:
            client.sendall(b"POST /v1/rerank HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            while state.service.scheduler.waiting < 1000:
                time.sleep(0.002)
        start = time.monotonic()
        while state.service.scheduler.waiting:
            assert time.monotonic() - start < 2  # 3 s where it is not heard
            time.sleep(0.001)
        while b"rerank_cancelled_total 1.0" not in state.metrics.text():
            assert time.monotonic() - start < 5
            time.sleep(0.01)


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


def test_the_policy_rounds_up_the_work_of_all():
    def of(*told):
        return desired(SimpleNamespace(aggregated_metrics={"work": dict(enumerate(told))}))[0]

    assert (of(), of(0.0), of(1.0), of(1.01), of(0.2, 0.3), of(0.9, 0.9), of(1.0, 4.5)) == (1, 1, 1, 2, 1, 2, 6)
    assert desired(SimpleNamespace(aggregated_metrics=None)) == (1, {})
    assert desired(SimpleNamespace(aggregated_metrics={})) == (1, {})


def test_work_is_time_in_use_and_the_queue():
    assert work(0, 1000.0, 0.3, 5.0) == pytest.approx(0.3)
    assert work(1000, 1000.0, 1.0, 5.0) == pytest.approx(2.0)  # a fifth of 5 s waits: as much as another should have
    assert work(500, 1000.0, 1.2, 5.0) == pytest.approx(1.5)
    assert work(500, 0.0, 0.0, 5.0) == 0.0  # no pace yet
    assert work(100, 1000.0, 0.0, 0.0) == pytest.approx(1.0)  # nobody may wait


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"replicas": 0}, "replicas"), ({"replicas": 3, "max_replicas": 2}, "max_replicas"), ({"cpus": 0}, "cpus"), ({"gpus": -1}, "gpus"),
        ({"gpus": 1.5}, "gpus"), ({"cpus": float("nan")}, "cpus"), ({"down_s": -1}, "down_s"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_have(wrong, said):
    with pytest.raises(InputError, match=said):
        Model("m", **wrong)


def test_threads_are_cpus():
    assert [Model("m", cpus=cpus).threads for cpus in (0.5, 1, 2, 3.5)] == [1, 1, 2, 3]
    assert Model(lambda threads: {"scorer": threads}, cpus=4).opened() == {"scorer": 4}


def test_without_ray_it_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    for call in (ray_here, lambda: build({"m": Model("m")})):
        with pytest.raises(MissingDependency, match=r"pip install 'rerank-engine\[ray\]'"):
            call()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--replicas", "2"], "--replicas"), (["--max-replicas", "2"], "--max-replicas"), (["--gpus", "0.5"], "--gpus"),
        (["--cpus", "2"], "--cpus"), (["--model", "a", "--model", "b"], "--ray"), (["--ray", "--threads", "2"], "--cpus"),
        (["--ray", "--replicas", "0"], "replicas"), (["--ray", "--replicas", "3", "--max-replicas", "2"], "max_replicas"),
        (["--ray", "--gpus", "1.5"], "gpus"), (["--ray", "--model", "a", "--model", "a"], "different names"),
    ],
)  # fmt: skip
def test_what_the_command_cannot_combine(given, said, capsys, monkeypatch):
    monkeypatch.setattr("rerank_engine.serve.on_ray.deploy", lambda *_, **__: pytest.fail("Ray was started"))
    monkeypatch.setattr("rerank_engine.runtimes.load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert cli.main(["serve", "--port", "0", *given]) == 2
    assert said in capsys.readouterr().err


def test_the_command_hands_over_what_it_was_given(tmp_path, monkeypatch, capsys):
    told = {}

    def deploy(models, **options):
        told.update(models=models, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr("rerank_engine.serve.on_ray.ray_here", lambda: SimpleNamespace(shutdown=lambda: told.update(stopped=True)))
    monkeypatch.setattr("rerank_engine.serve.on_ray.deploy", deploy)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    given = "--model mine --model owner/other --replicas 2 --max-replicas 8 --cpus 2 --gpus 0.5 --index passages.bm25 --max-documents 7"
    assert cli.main(["serve", "--ray", "--port", "0", *given.split()]) == 130
    assert told["stopped"] and list(told["models"]) == ["mine", "owner/other"] and told["host"] == "127.0.0.1" and told["port"] > 0
    for model in told["models"].values():
        assert (model.replicas, model.max_replicas, model.cpus, model.gpus) == (2, 8, 2.0, 0.5)
        assert model.source.args[0].index == [str(tmp_path / "passages.bm25")]
    assert [model.source.args[1] for model in told["models"].values()] == [str(tmp_path / "mine"), "owner/other"]
    assert told["limits"].documents == 7 and told["hosts"] == ("localhost", "127.0.0.1", "[::1]")
