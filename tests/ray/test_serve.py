"""The server on Ray Serve, on one Ray for the whole file: replicas that die, are replaced, are added; what cannot be placed."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ray.serve", reason="ray[serve] is not installed")
pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

import ray  # noqa: E402
from ray import serve  # noqa: E402
from replicas import killed, question, replicas  # noqa: E402
from words_scorer import Words  # noqa: E402

import rerank_engine as rr  # noqa: E402
from rerank_engine.api import DEFAULT_MODEL  # noqa: E402
from rerank_engine.cluster import running  # noqa: E402
from rerank_engine.errors import BackendUnavailable, InputError, ModelError  # noqa: E402
from rerank_engine.serve import Limits  # noqa: E402
from rerank_engine.serve.deaths import Died  # noqa: E402
from rerank_engine.serve.on_ray import APP, Model, Replicas, build, deploy  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1"}
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def words(name: str, ms: float, _: int) -> dict[str, Words]:
    made = Words(ms)
    made.model = name
    return {"scorer": made}


def slow(name: str, seconds: float, threads: int) -> dict[str, Words]:
    time.sleep(seconds)
    return words(name, 5.0, threads)


class Fragile(Words):
    """A text ends its process."""

    def one(self, query, text):
        if text == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().one(query, text)


def fragile(_: int) -> dict[str, Words]:
    return {"scorer": Fragile(5.0)}


def missing(_: int) -> dict[str, Words]:
    raise ValueError("its file is not there")


@pytest.fixture(scope="module")
def port():
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


@pytest.fixture(scope="module")
def url(port):
    """Of a Ray that has nothing deployed yet."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in ENVIRONMENT.items():
            patched.setenv(name, value)
        ray.shutdown()  # another file's
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            yield f"http://127.0.0.1:{port}"
            serve.shutdown()
        finally:
            ray.shutdown()


@contextlib.contextmanager
def load(url, clients, ask):
    """`ask(client, i)` of so many clients, over and over, while the block runs; what it raises fails the test. Gives a function that waits
    until something is so."""
    stop, wrong = threading.Event(), []

    def until(so):
        while not so() and not wrong:
            time.sleep(0.05)

    def go(k):
        with httpx.Client(base_url=url, timeout=60) as client:
            i = k
            while not stop.is_set() and not wrong:
                try:
                    ask(client, i)
                except Exception as error:
                    wrong.append(repr(error))
                i += clients

    threads = [threading.Thread(target=go, args=(k,)) for k in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield until
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong, wrong


def asked(told, client, i):
    """A request of which every document's score is its own number, so that the answer proves that it is this one's."""
    own = [7 * i % 1000 + k for k in (2, 9, 4)]
    answer = client.post("/v2/rerank", json={"query": "q", "documents": [str(n) for n in own], "use_activation": False})
    assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
    rows = answer.json()["results"]
    assert [(row["index"], row["relevance_score"]) for row in rows] == [(1, own[1]), (2, own[2]), (0, own[0])]
    told[answer.json()["model"]] += 1


def test_options_become_resources_and_bounds():
    app = build({"owner/a": Model("a", cpus=2, gpus=0.25), "b": Model("b", replicas=2, max_replicas=5, up_s=3, down_s=7)}, fronts=2)
    front = app._bound_deployment
    first, second = (handle._bound_deployment for handle in front.init_args[0].values())
    assert front.num_replicas == 2 and front.ray_actor_options["num_cpus"] == 0
    assert first.name == "owner--a" and first.ray_actor_options == {"num_cpus": 2, "num_gpus": 0.25} and first.num_replicas == 1
    scale = second._deployment_config.autoscaling_config
    assert (scale.min_replicas, scale.max_replicas, scale.upscale_delay_s, scale.downscale_delay_s) == (2, 5, 3, 7)
    assert scale.policy.policy_function == "rerank_engine.serve.on_ray:desired"
    for wrong in ({}, {"front": Model("m")}, {"a/b": Model("m"), "a--b": Model("m")}, {"a#b": Model("m")}):
        with pytest.raises(InputError, match="models"):
            build(wrong)


def test_what_finds_no_place_is_told_and_taken_back(url):
    start = time.monotonic()
    with pytest.raises(BackendUnavailable, match=r"0\.5 GPU needed, 0 there"):
        deploy({"m": Model(partial(words, "m", 0.0), gpus=0.5)})
    assert time.monotonic() - start < 30 and APP not in serve.status().applications  # before any work
    other = ray.remote(num_cpus=1)(Words).remote()
    with pytest.raises(BackendUnavailable, match="m: "):
        deploy({"m": Model(partial(words, "m", 0.0), cpus=2)}, timeout_s=4)
    gone(APP)
    ray.kill(other)


class Handle:
    """Of Serve's, as far as a request that fails goes."""

    def __init__(self, error):
        self.error, self.ask = error, SimpleNamespace(remote=self.asked)

    async def asked(self, *_):
        raise self.error


def test_what_ray_says_of_a_lost_request():
    known = ray.exceptions
    lost = [known.ActorDiedError(), known.ActorUnavailableError("", None), known.OutOfMemoryError("full"), known.NodeDiedError("gone")]
    lost += [known.ObjectLostError("a" * 56, None, ""), known.OwnerDiedError("a" * 56, None, ""), known.WorkerCrashedError()]
    for error in lost:
        with pytest.raises(Died) as told:
            asyncio.run(Replicas(Handle(error)).ask({}, b""))
        assert bool(told.value.replica) == isinstance(error, (known.OutOfMemoryError, known.WorkerCrashedError))
    for error in (known.TaskCancelledError(), known.RayTaskError("f", "trace", ValueError("x"))):
        with pytest.raises(type(error)):
            asyncio.run(Replicas(Handle(error)).ask({}, b""))


def test_a_model_that_does_not_load_is_told(url):
    with pytest.raises(ModelError, match="its file is not there"):
        deploy({"m": Model(missing)}, timeout_s=90)
    gone(APP)


def gone(name):
    end = time.monotonic() + 60  # a replica that never started is waited for, too
    while name in serve.status().applications:
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_real_model_answers_right_while_replicas_are_killed(url):
    """By two replicas of one thread; SIGKILL at random moments. No client tries again here: the front has done so."""
    model = rr.load(DEFAULT_MODEL, threads=2)
    right = [(best.index, best.score) for best in (rr.rerank(*question(seed)[:2], model)[0] for seed in range(50))]
    assert [index for index, _ in right] == [question(seed)[2] for seed in range(50)]
    deploy({"small": Model(DEFAULT_MODEL, replicas=2)}, timeout_s=120)
    told = collections.Counter()

    def ask(client, i):
        query, documents, _ = question(i % 50)
        answer = client.post("/v2/rerank", json={"query": query, "documents": documents, "top_n": 1, "use_activation": False})
        assert answer.status_code == 200, answer.text
        (best,) = answer.json()["results"]
        assert (best["index"], best["relevance_score"]) == (right[i % 50][0], pytest.approx(right[i % 50][1], abs=1e-5))
        told["right"] += 1

    with load(url, 4, ask) as until:
        dead = [killed(os.getpid(), "small", url, seed) for seed in range(4)]
        until(lambda: told["right"] >= 200)
    assert len(set(dead)) == 4
    died = re.search(r'rerank_died_total\{model="small",replica="\w+"\} (\S+)', httpx.get(f"{url}/metrics").text)
    assert died is not None and float(died[1]) >= 1  # one at least was in the middle of a request


def test_a_new_version_replaces_the_old_without_a_request_lost(url):
    told = collections.Counter()
    deploy({"m": Model(partial(words, "old", 5.0), replicas=2)}, timeout_s=120)
    with load(url, 4, partial(asked, told)) as until:
        until(lambda: told["old"] >= 20)
        deploy({"m": Model(partial(words, "new", 5.0), replicas=2)}, timeout_s=120)
        until(lambda: told["new"] >= 20)
    assert set(told) == {"old", "new"} and told["old"] >= 20 and told["new"] >= 20
    with httpx.Client(base_url=url) as client:
        after = collections.Counter()
        for i in range(20):
            asked(after, client, i)
    assert set(after) == {"new"}


def test_with_one_replica_requests_wait_for_a_slow_model(url, monkeypatch):
    """Longer than a replica may take to end. The front, which has them, is not replaced."""
    monkeypatch.setattr("rerank_engine.serve.on_ray.DRAIN_S", 1.0)
    told = collections.Counter()
    deploy({"m": Model(partial(words, "old", 5.0))}, timeout_s=120)
    (front,) = replicas(os.getpid(), "front")
    with load(url, 4, partial(asked, told)) as until:
        until(lambda: told["old"] >= 20)
        deploy({"m": Model(partial(slow, "new", 5.0))}, timeout_s=120)
        until(lambda: told["new"] >= 20)
    assert set(told) == {"old", "new"} and replicas(os.getpid(), "front") == [front]


def test_an_update_that_fails_says_what_runs(url):
    deploy({"m": Model(partial(words, "m", 0.0), replicas=2)}, timeout_s=120)
    with pytest.raises(ModelError, match=r"its file is not there.*Replicas that run.* [01] of m.*1 of front"):
        deploy({"m": Model(missing, replicas=2)}, timeout_s=120)


def test_a_request_that_ends_its_process_is_refused_and_takes_no_other_along(url):
    deploy({"m": Model(fragile, replicas=2)}, timeout_s=120)
    told, before, answers = collections.Counter(), set(replicas(os.getpid(), "m")), []
    with load(url, 4, partial(asked, told)) as until:
        until(lambda: told["words"] >= 20)
        answers += [httpx.post(f"{url}/v2/rerank", json={"query": "q", "documents": ["deadly"]}, timeout=60) for _ in range(2)]
        until(lambda: told["words"] >= 60)
    assert [answer.status_code for answer in answers] == [422, 422] and "retry-after" not in answers[0].headers
    scaled(url, 2, 60)
    assert not before & set(replicas(os.getpid(), "m"))  # two ended, no third
    died = re.search(r'rerank_died_total\{model="m",replica="\w+"\} (\S+)', httpx.get(f"{url}/metrics").text)
    assert died is not None and float(died[1]) >= 2


def test_what_comes_with_a_request_survives_the_hops(url):
    models = {"a": Model(partial(words, "a", 1.0), cpus=0.5), "b": Model(partial(words, "b", 0.0), cpus=0.5)}
    deploy(models, keys=["secret"], hosts=["127.0.0.1"], limits=Limits(body_bytes=1 << 20, wave_ms=10), timeout_s=120)
    body, key = {"query": "q", "documents": ["1", "2"]}, {"authorization": "Bearer secret"}
    assert httpx.post(f"{url}/v2/rerank", json=body).status_code == 401
    assert httpx.post(f"{url}/v2/rerank", json=body, headers={**key, "host": "elsewhere"}).status_code == 421
    with httpx.Client(base_url=url, headers=key, timeout=30) as client:
        assert client.post("/v2/rerank", json={**body, "documents": ["x" * (1 << 20)]}).status_code == 413
        assert [client.post("/v2/rerank", json={**body, "model": name}).json()["model"] for name in ("a", "b", None)] == ["a", "b", "a"]
        told = client.post("/v2/rerank", json={**body, "model": "c"})
        assert told.status_code == 404 and "a, b" in told.json()["message"]
        told = client.post("/v2/rerank", content=json.dumps(body), headers={"content-type": "text/plain", "x-request-id": "mine"})
        assert told.status_code == 200 and told.json()["id"] == "mine" and told.headers.get_list("x-request-id") == ["mine"]
        told = client.post("/v2/rerank", json={"query": "q", "documents": ["1"] * 2000}, headers={"x-deadline-ms": "300"})
        assert told.status_code == 200 and int(told.headers["x-unscored-documents"]) > 0
        told = client.post("/v2/rerank", json=body, headers={"x-deadline-ms": "soon"})
        assert told.status_code == 400
        assert {name: one["replicas"] for name, one in client.get("/info").json()["models"].items()} == {"a": 1, "b": 1}
        assert client.get("/ready").json() == {"ready": True} and "playground" in client.get("/").text
        leave(url, "Authorization: Bearer secret\r\n")
        end = time.monotonic() + 10
        while 'rerank_cancelled_total{model="a"' not in (text := client.get("/metrics").text) or not re.search(
            r'rerank_cancelled_total\{model="a",replica="\w+"\} 1.0', text
        ):
            assert time.monotonic() < end
            time.sleep(0.1)


def leave(url, headers):
    """A client that sends a request of seconds, and goes."""
    body = json.dumps({"query": "q", "documents": [str(i) for i in range(5000)]})
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as client:
        client.sendall(f"POST /v1/rerank HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}content-length: {len(body)}\r\n\r\n{body}".encode())
        time.sleep(1)


def test_work_that_waits_brings_a_second_replica_and_its_end_takes_it_away(url):
    told = collections.Counter()
    deploy({"m": Model(partial(words, "m", 100.0), max_replicas=2, up_s=1, down_s=2)}, timeout_s=120)
    assert len(replicas(os.getpid(), "m")) == 1
    with load(url, 12, partial(asked, told)):
        scaled(url, 2, 90)
    scaled(url, 1, 120)


def scaled(url, number, seconds):
    end = time.monotonic() + seconds
    while httpx.get(f"{url}/info", timeout=20).json()["models"]["m"]["replicas"] != number:
        assert time.monotonic() < end, f"not {number} replicas"
        time.sleep(0.5)


def test_the_command_joins_a_cluster_whose_serve_listens_and_leaves_it_running(url):
    """It says where that is, whatever port was asked for, and takes away what it deployed, not the cluster."""
    assert running("serve")[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-m", "rerank_engine.cli", "serve", "--ray", "--port", url.rsplit(":", 1)[1]]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True) as server:
        assert next(found[0] for line in server.stderr if (found := re.search(r"http://127\S+[0-9]", line))) == url
        assert len(httpx.post(f"{url}/rerank", json={"query": "q", "texts": ["1"]}, timeout=60).json()) == 1
        server.send_signal(signal.SIGINT)
        assert server.wait(90) == 0
    gone(APP)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_the_command_finishes_what_is_in_flight(sent):
    """On a Ray of its own, beside the other."""
    command = [sys.executable, "-m", "rerank_engine.cli", "serve", "--ray", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True) as server:
        address = next(found[0] for line in server.stderr if (found := re.search(r"http://127\S+[0-9]", line)))
        (replica,) = replicas(server.pid, DEFAULT_MODEL)
        found, texts = [], [f"{i} " + "word " * 300 for i in range(100)]
        ask = threading.Thread(
            target=lambda: found.append(httpx.post(f"{address}/rerank", json={"query": "q", "texts": texts}, timeout=60))
        )
        ask.start()
        time.sleep(1)
        assert ask.is_alive()
        server.send_signal(sent)
        while (late := httpx.post(f"{address}/rerank", json={"query": "q", "texts": ["1"]}, timeout=60)).status_code in (200, 429):
            time.sleep(0.01)
        assert late.status_code == 503 and late.headers["retry-after"] == "1" and ask.is_alive()
        ask.join()
        assert server.wait(60) == 0
    assert found[0].status_code == 200 and len(found[0].json()) == 100
    end = time.monotonic() + 20
    while Path(f"/proc/{replica}").exists():  # it ends once it sees that its Ray has
        assert time.monotonic() < end
        time.sleep(0.1)
