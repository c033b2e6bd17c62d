"""The server on a real connection: many clients at once, clients that go away, signals."""

from __future__ import annotations

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
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

from words_scorer import Words  # noqa: E402

from benchmarks.live_server import served  # noqa: E402
from rerank_engine import cli  # noqa: E402
from rerank_engine.serve import Limits, create_app  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def test_no_answer_is_lost_or_swapped_between_clients(thorough):
    told, wrong, clients, requests = list[int](), list[str](), *((64, 200) if thorough else (16, 25))
    with served(create_app(Words(ms=0.02), limits=Limits(wave_ms=10, wait_ms=300))) as url:

        def ask(i: int) -> None:
            rng = np.random.default_rng(i)
            with httpx.Client(base_url=url, timeout=30) as client:
                for k in range(requests):
                    own = 1000 * (requests * i + k) + rng.permutation(1000)[: rng.choice([1, 3, 20, 200])]
                    answer = client.post("/rerank", json={"query": "q", "texts": [str(n) for n in own], "raw_scores": True})
                    told.append(answer.status_code)
                    if answer.status_code == 200:
                        if [(row["index"], row["score"]) for row in answer.json()] != [(int(j), float(own[j])) for j in np.argsort(-own)]:
                            wrong.append(f"client {i}, request {k}")
                    elif answer.status_code not in (429, 503) or int(answer.headers["retry-after"]) < 1:
                        wrong.append(answer.text)

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong and len(told) == clients * requests and told.count(200) > len(told) / 4


def test_a_client_that_goes_away_frees_its_work_at_once():
    app = create_app(Words(ms=1), limits=Limits(wave_ms=10))
    scheduler, freed = app.app.state.rerank.service.scheduler, []
    with served(app) as url:
        body = json.dumps({"query": "q", "documents": [str(i) for i in range(3000)]}).encode()
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as client:
                client.sendall(b"POST /v1/rerank HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                while scheduler.waiting < 1000:
                    time.sleep(0.002)
                time.sleep(0.05)
                start = time.monotonic()
            while scheduler.waiting:
                assert time.monotonic() - start < 5
                time.sleep(0.001)
            freed.append(time.monotonic() - start)
        assert "rerank_cancelled_total 3.0" in httpx.get(f"{url}/metrics").text
    assert min(freed) < 0.05


def test_a_short_request_does_not_wait_for_a_long_one():
    waited = []
    with served(create_app(Words(ms=1), limits=Limits(wave_ms=50))) as url, httpx.Client(base_url=url, timeout=30) as client:
        client.post("/rerank", json={"query": "q", "texts": ["1"] * 50})
        long = threading.Thread(target=lambda: httpx.post(f"{url}/rerank", json={"query": "q", "texts": ["1"] * 1000}, timeout=30))
        long.start()
        time.sleep(0.2)
        for _ in range(5):
            start = time.monotonic()
            client.post("/rerank", json={"query": "q", "texts": ["1"]})
            waited.append(time.monotonic() - start)
        assert long.is_alive()
        long.join()
    assert np.median(waited) < 0.15  # a wave that runs, and its own


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from words_scorer import Words
from rerank_engine.serve import Limits, create_app
from rerank_engine.serve.run import bound, run
run(create_app(Words(ms=1), limits=Limits(wave_ms=10)), bound("127.0.0.1", 0), stop_s=8, note=lambda text: print(text, flush=True))
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_in_flight_finish(sent):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, str(ROOT / "tests")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        url = re.search(r"http://\S+", line)
        assert url is not None, line + process.stderr.read()
        while httpx.get(f"{url[0]}/ready").status_code != 200:
            time.sleep(0.01)
        found = []
        ask = threading.Thread(
            target=lambda: found.append(httpx.post(f"{url[0]}/rerank", json={"query": "q", "texts": ["1"] * 1000}, timeout=30))
        )
        ask.start()
        time.sleep(0.4)
        start = time.monotonic()
        process.send_signal(sent)
        ask.join()
        process.wait(10)
        assert time.monotonic() - start < 10
        assert found[0].status_code == 200 and len(found[0].json()) == 1000
        logged = [json.loads(line) for line in process.stderr.read().splitlines() if line.startswith("{")]
        assert [(row["route"], row["documents"]) for row in logged if row["status"] == 200 and row["route"] == "rerank"] == [
            ("rerank", 1000)
        ]


@pytest.mark.parametrize("head", [b"x-a: " + b"a" * 70_000, (b"x-a: " + b"a" * 100 + b"\r\n") * 700])
def test_headers_are_bounded_before_anything_looks_at_them(head):
    with served(create_app(Words(), keys=["secret"])) as url, socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as client:
        client.settimeout(5)
        with contextlib.suppress(OSError):
            client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n" + head)
            for _ in range(100):
                client.sendall(head)
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                assert not data.startswith(b"HTTP/1.1 200")


def test_a_stop_does_not_wait_for_spans_for_ever():
    class Slow:
        def explain_by(self, query, text):
            time.sleep(0.1)

    app = create_app(Words(), spans=Slow(), limits=Limits(stop_s=0.3))
    with served(app) as url:
        body = {"query": "q", "documents": [str(i) for i in range(50)], "relevant_spans": {"mode": "enabled"}}
        found = []
        ask = threading.Thread(target=lambda: found.append(httpx.post(f"{url}/v2/rerank", json=body, timeout=30)))
        ask.start()
        time.sleep(0.3)
        start = time.monotonic()
        app.app.state.rerank.stop()
        ask.join()
        assert found[0].status_code == 503 and found[0].headers["retry-after"] and time.monotonic() - start < 2


def test_an_answer_does_not_wait_for_the_clients_acknowledgement():
    with served(create_app(Words())) as url, httpx.Client(base_url=url) as client:
        took = []
        for _ in range(20):
            start = time.monotonic()
            client.post("/rerank", json={"query": "q", "texts": ["1"]})
            took.append(time.monotonic() - start)
    assert np.median(took) < 0.03  # 0.04 and more where it does


def test_what_cannot_be_served_is_told_before_a_model_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rerank_engine.runtimes.load", lambda *_, **__: pytest.fail("a model was loaded"))
    with socket.create_server(("127.0.0.1", 0)) as held:
        taken = str(held.getsockname()[1])
        (tmp_path / "none.txt").write_text("# no token\n")
        for wrong, said in (
            (["--port", taken], "another --port"),
            (["--port", "70000"], "0-65535"),
            (["--host", "192.0.2.1", "--port", "0"], "of this machine"),
            (["--host", "no.such.name.invalid"], "of this machine"),
            (["--keys", str(tmp_path / "absent")], "--keys"),
            (["--keys", str(tmp_path / "none.txt")], "no token"),
            (["--wave-ms", "0"], "wave_ms"),
        ):
            assert cli.main(["serve", *wrong]) != 0
            assert said in capsys.readouterr().err
