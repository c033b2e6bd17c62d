"""Chats over HTTP against a stub that misbehaves: what is tried again, for how long, and what comes of it."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

import rerank_engine as rr  # noqa: E402
from rerank_engine.errors import Cancelled, HostedError, InputError  # noqa: E402
from rerank_engine.llm.chat import Ask  # noqa: E402

TEXTS = ["black coffee", "green tea is good for health", "tea"]
ASK = Ask(({"role": "system", "content": "be brief"}, {"role": "user", "content": "rank"}), 9)


def openai(text, finish="stop", **more):
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish, **more}
    return httpx.Response(200, json={"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}})


class Stub:
    """Answers by a script: responses, exceptions, or functions of the body; then the last one again."""

    def __init__(self, *script):
        self.script, self.seen, self.lock = list(script), [], threading.Lock()

    def __call__(self, request):
        with self.lock:
            body = json.loads(request.content)
            self.seen.append((str(request.url), dict(request.headers), body))
            entry = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(entry, Exception):
            raise entry
        return entry(body) if callable(entry) else entry


def chat(stub, **how):
    return rr.Chat.openai("m", key="k", transport=httpx.MockTransport(stub), **{"cache": 0, **how})


@pytest.fixture
def waits(monkeypatch):
    told = list[float]()
    monkeypatch.setattr("rerank_engine.posting.time.sleep", told.append)
    return told


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_a_key_of_the_environment_goes_to_its_provider_alone(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    for where, sent in (({}, "Bearer sk-secret"), ({"base_url": "http://h:1"}, None)):
        stub = Stub(openai("x"))
        rr.Chat.openai("m", transport=httpx.MockTransport(stub), **where).ask([ASK])
        assert stub.seen[0][1].get("authorization") == sent


def test_what_is_sent_and_counted():
    stub = Stub(openai("[2] > [1]"))
    made = chat(stub, price_in=3.0, price_out=15.0)
    (reply,) = made.ask([ASK])
    url, headers, body = stub.seen[0]
    assert url == "https://api.openai.com/v1/chat/completions" and headers["authorization"] == "Bearer k"
    assert body == {"model": "m", "messages": list(ASK.messages), "temperature": 0, "max_tokens": 9}
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens, reply.cut) == ("[2] > [1]", 100, 10, False)
    assert made.usage.cost == pytest.approx((100 * 3 + 10 * 15) / 1e6) and made.usage.calls == 1


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_base_urls_and_what_a_server_wants(url):
    stub = Stub(openai("x"))
    transport = httpx.MockTransport(stub)
    rr.Chat.openai("m", base_url=url, transport=transport, limit_name="max_completion_tokens", extra={"seed": 1, "temperature": 1}).ask(
        [ASK]
    )
    url, headers, body = stub.seen[0]
    assert url == "http://h:1/v1/chat/completions" and "authorization" not in headers
    assert body["max_completion_tokens"] == 9 and body["seed"] == 1 and body["temperature"] == 1 and "max_tokens" not in body


def test_anthropic():
    stub = Stub(httpx.Response(200, json={"content": [{"type": "thinking", "thinking": "[1]"}, {"type": "text", "text": "[2] > [1]"}],
                                          "usage": {"input_tokens": 7, "output_tokens": 3}, "stop_reason": "max_tokens"}))  # fmt: skip
    made = rr.Chat.anthropic("claude", key="k", transport=httpx.MockTransport(stub), cache=0)
    (reply,) = made.ask([ASK])
    url, headers, body = stub.seen[0]
    assert url == "https://api.anthropic.com/v1/messages" and headers["x-api-key"] == "k" and headers["anthropic-version"]
    assert body["system"] == "be brief" and body["messages"] == [{"role": "user", "content": "rank"}] and body["max_tokens"] == 9
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens, reply.cut) == ("[2] > [1]", 7, 3, True)
    with pytest.raises(InputError, match="probabilities"):
        rr.Listwise(made, template="first")


@pytest.mark.parametrize("first", [httpx.Response(429, headers={"retry-after": "7"}), httpx.Response(500), httpx.Response(503)])
def test_what_may_pass_is_tried_again(first, waits):
    stub = Stub(first, httpx.ConnectError("gone"), httpx.ReadTimeout("slow"), openai("fine"))
    (reply,) = chat(stub).ask([ASK])
    assert reply.text == "fine" and reply.error is None and len(stub.seen) == 4
    assert sum(waits) <= (7 if first.status_code == 429 else 0.7) + 1 + 2 + 0.8


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(200, text="<html>"), "no JSON"),
        (httpx.Response(200, text=""), "no JSON"),
        (httpx.Response(200, json=[]), "choices"),
        (httpx.Response(200, json={"choices": []}), "choices"),
        (httpx.Response(200, json={"choices": [{"text": "x"}]}), "message"),
        (httpx.Response(200, json={"choices": [{"message": {"content": 5}}]}), "content"),
        (httpx.Response(401, json={"error": {"message": "no such key"}}), "no such key"),
        (httpx.Response(400, json={"message": "too long"}), "too long"),
    ],
)
def test_what_is_wrong_is_told_and_not_repeated(answer, said):
    stub = Stub(answer)
    (reply,) = chat(stub).ask([ASK])
    assert isinstance(reply.error, HostedError) and said in str(reply.error) and len(stub.seen) == 1


def test_it_gives_up_in_the_end(waits):
    stub = Stub(httpx.Response(503))
    made = chat(stub, retries=2)
    (reply,) = made.ask([ASK])
    assert reply.error is not None and reply.error.status == 503 and len(stub.seen) == 3 and made.usage.failed == 1


def test_no_content_is_an_answer_in_which_nothing_can_be_read():
    for message in ({"content": None}, {"content": ""}, {"content": None, "refusal": "I'm sorry, I cannot"}):
        response = httpx.Response(200, json={"choices": [{"message": message}]})
        found = rr.Listwise(chat(Stub(response)))("q", TEXTS)
        assert found.ids.tolist() == [0, 1, 2] and found.trace[0].facts["refused" if message.get("refusal") else "unreadable"] == 1


def test_a_partial_failure_leaves_that_window_as_it_is(waits):
    """Three windows from the back; the middle one fails for good: the others are ordered, the facts say so."""

    def answer(body):
        passages = [message["content"] for message in body["messages"][3:-1:2]]
        if any("d2" in text for text in passages) and not any("d0" in text for text in passages):
            return httpx.Response(400, json={"message": "no"})
        return openai(" > ".join(f"[{i}]" for i in range(len(passages), 0, -1)))

    stage = rr.Listwise(chat(Stub(answer)), window=4, step=2)
    found = stage("q", [f"d{i}" for i in range(8)])
    facts = found.trace[0].facts
    assert (facts["calls"], facts["failed"], facts["ok"]) == (2, 1, 2)
    assert found.ids.tolist() == [3, 2, 1, 0, 7, 6, 5, 4]
    with pytest.raises(HostedError):
        rr.Listwise(chat(Stub(answer)), window=4, step=2, failed="raise")("q", [f"d{i}" for i in range(8)])
    with pytest.raises(HostedError):  # nothing was answered at all
        rr.Listwise(chat(Stub(httpx.Response(401))))("q", TEXTS)


def test_truncated_answers_are_counted():
    found = rr.Listwise(chat(Stub(openai("[2] > [", finish="length"))))("q", TEXTS)
    assert found.ids.tolist() == [1, 0, 2] and found.trace[0].facts["cut"] == 1 and found.trace[0].facts["missing"] == 2


def test_the_first_token_orders_all():
    """The bracket is a token of its own, so the identifier's probabilities are those of the second place."""
    rows = [
        [{"token": "[", "logprob": -0.1}],
        [{"token": t, "logprob": p} for t, p in (("B", -0.2), ("C", -1.5), (" A", -3.0), ("x", 0.0))],
    ]
    places = [{"token": row[0]["token"], "top_logprobs": row} for row in rows]
    stub = Stub(openai("[B", finish="length", logprobs={"content": places}))
    found = rr.Listwise(chat(stub), template="first")("q", TEXTS)
    assert found.ids.tolist() == [1, 2, 0] and stub.seen[0][2]["top_logprobs"] == 20 and stub.seen[0][2]["max_tokens"] == 2
    stub = Stub(openai("[B", logprobs=None))  # a server that ignores the wish
    assert rr.Listwise(chat(stub), template="first")("q", TEXTS).trace[0].facts["unreadable"] == 1


class Slow(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(self.server.seconds)
        body = json.dumps({"choices": [{"message": {"content": "[3] > [2] > [1]"}}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        try:
            for i in range(len(body)) if self.server.drip else ():
                self.wfile.write(body[i : i + 1])
                self.wfile.flush()
                time.sleep(self.server.drip)
            if not self.server.drip:
                self.wfile.write(body)
        except OSError:
            """Who asked has gone."""

    def log_message(self, *_):
        pass


@pytest.fixture
def slow():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.seconds = server.drip = 0.0
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_is_too_slow_takes_a_bounded_time(slow):
    slow.seconds = 5.0
    made = rr.Chat.openai("m", base_url=f"http://127.0.0.1:{slow.server_port}", timeout_s=0.2, retries=1)
    start = time.monotonic()
    (reply,) = made.ask([ASK])
    assert reply.error is not None and "ReadTimeout" in str(reply.error) and time.monotonic() - start < 3
    slow.seconds = 0.0


def test_a_deadline_ends_it_with_what_there_is(slow):
    slow.seconds = 0.15
    stage = rr.Listwise(rr.Chat.openai("m", base_url=f"http://127.0.0.1:{slow.server_port}"), window=3, step=1)
    start = time.monotonic()
    found = stage("q", [f"d{i}" for i in range(30)], deadline_ms=1500)
    assert time.monotonic() - start < 3
    assert sorted(found.ids.tolist()) == list(range(30)) and found.unfinished and 1 <= found.trace[0].facts["calls"] < 28
    assert found.ids.tolist()[-1] == 27  # the last window was done: 27, 28, 29 became 29, 28, 27


def test_an_answer_that_comes_in_drops_does_not_outlast_the_deadline(slow):
    slow.drip = 0.1
    for how in ({}, {"retries": 0}):
        stage = rr.Listwise(rr.Chat.openai("m", base_url=f"http://127.0.0.1:{slow.server_port}", **how))
        start = time.monotonic()
        found = stage("q", TEXTS, deadline_ms=400)
        assert time.monotonic() - start < 1.5 and found.unfinished and found.ids.tolist() == [0, 1, 2]
    made = rr.Chat.openai("m", base_url=f"http://127.0.0.1:{slow.server_port}", timeout_s=0.3, retries=0)
    start = time.monotonic()
    assert made.ask([ASK])[0].error is not None and time.monotonic() - start < 1.5


def test_a_caller_who_leaves_does_not_wait_for_a_server_that_hangs(slow):
    slow.seconds, begin = 5.0, time.monotonic()
    made = rr.Chat.openai("m", base_url=f"http://127.0.0.1:{slow.server_port}", timeout_s=1.0, retries=0)
    with rr.limited(cancelled=lambda: time.monotonic() > begin + 0.2), pytest.raises(Cancelled):
        made.ask([ASK])
    assert time.monotonic() - begin < 0.9
    slow.seconds = 0.0


def test_a_server_that_dies_is_not_asked_for_every_window():
    stub = Stub(openai("[2] > [1] > [3]"), httpx.Response(400))
    found = rr.Listwise(chat(stub), window=3, step=1)("q", [f"d{i}" for i in range(40)])
    assert len(stub.seen) == 3 and found.unfinished and found.trace[0].facts["failed"] == 2


def test_probabilities_that_are_none_are_left_out():
    rows = [{"token": "A", "logprob": -0.1}, {"token": "B", "logprob": None}, {"token": "C", "logprob": "x"}]
    stub = Stub(openai("A", logprobs={"content": [{"token": "A", "top_logprobs": rows}]}))
    assert rr.Listwise(chat(stub), template="first")("q", TEXTS).ids.tolist() == [0, 1, 2]
    assert chat(Stub(openai("A", logprobs={"content": [{"top_logprobs": rows}]}))).ask([ASK])[0].likeliest == ((("A", -0.1),),)


def test_none_in_extra_takes_a_key_out():
    stub = Stub(openai("x"))
    chat(stub, extra={"temperature": None, "reasoning_effort": "low"}).ask([ASK])
    assert "temperature" not in stub.seen[0][2] and stub.seen[0][2]["reasoning_effort"] == "low"


def test_many_prompts_go_side_by_side_and_a_caller_can_take_them_back(slow):
    slow.seconds = 0.1
    made = rr.Chat.openai("m", base_url=f"http://127.0.0.1:{slow.server_port}", concurrency=8)
    asks = [Ask(({"role": "user", "content": str(i)},)) for i in range(16)]
    start = time.monotonic()
    assert all(reply.error is None for reply in made.ask(asks)) and time.monotonic() - start < 1.2
    with rr.limited(cancelled=lambda: True), pytest.raises(Cancelled):
        made.ask([*asks[:1], Ask(({"role": "user", "content": "new"},))])


def test_bad_arguments():
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        rr.Chat.openai("m")
    for wrong in ({"base_url": "ftp://x"}, {"key": "k", "timeout_s": 0}, {"key": "k", "retries": 2.5}, {"key": "k", "retries": -1}):
        with pytest.raises(InputError):
            rr.Chat.openai("m", **wrong)
    with pytest.raises(InputError, match="Chat"):
        rr.Chat(5)
    with pytest.raises(TypeError):
        rr.Chat.openai("m", key="k", temperature=3)
