"""What stands before replicas in other processes: chooses by a request's `model`, tries again where a replica died, speaks for all.

Plain ASGI, behind a `Guard`. It knows replicas by `Peer` alone: `on_ray` has one of Ray Serve's handles.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, Protocol

from prometheus_client import Counter, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .app import Gone, while_there
from .guard import Guard, Message, Receive, Send, TooLarge, failed
from .metrics import Metrics

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]  # status, headers, body
TRIES = 3  # of a request, each by another replica, where those before died with it
GRACE_S = 0.5  # that an answer may come after its deadline
SENT = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "client", "server")
DEADLINE, ID = b"x-deadline-ms", b"x-request-id"


class Died(Exception):
    """The replica that had the request is gone, with the answer or without."""


class Unavailable(Exception):
    """No replica takes it, and none is expected to."""


class NotServed(Exception):
    """A request names a model that is not here."""


class Peer(Protocol):
    """The replicas of one model."""

    async def ask(self, scope: Message, body: bytes) -> Answer:
        """By one of them; waits for one. Raises Died, Unavailable. Where the caller is cancelled, the replica forgets the request."""

    async def tell(self, path: str) -> list[tuple[str, Answer]]:
        """(its name, what it answers to GET `path`) of each that lives; none raises."""


async def called(app: Any, scope: Message, body: bytes) -> Answer:
    """What an ASGI app answers to a request whose body is whole. A caller that is cancelled has gone: the app hears it as a disconnect."""
    parts, gone = [{"type": "http.request", "body": body}], asyncio.Event()
    start, content = dict[str, Any](), bytearray()

    async def receive() -> Message:
        if parts:
            return parts.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        content.extend(message.get("body", b""))

    work = asyncio.ensure_future(app(dict(scope), receive, send))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        gone.set()
        await work
        raise
    return int(start["status"]), [(bytes(name), bytes(value)) for name, value in start["headers"]], bytes(content)


class Front:
    """ASGI. models: the replicas of each by the name that requests call it, the first for those that name none; where there is one it is
    everybody's, as of a server without replicas. fronts: this and those beside it, for /metrics. A replica scores and keeps nothing, so
    a request may be tried again: `TRIES` times in all."""

    def __init__(self, models: Mapping[str, Peer], metrics: Metrics, fronts: Peer | None = None) -> None:
        self.models, self.metrics, self.fronts = dict(models), metrics, fronts
        self._died = Counter("rerank_died", "Times that a replica died with a request", ["model"], registry=metrics.registry)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _life(receive, send)
            return
        scope["route"] = SimpleNamespace(name="front")
        own = {"/health": self._health, "/ping": self._health, "/ready": self._ready, "/info": self._info, "/metrics": self._metrics}
        asked = own.get(scope["path"]) if scope["method"] == "GET" else None
        answer = self._forwarded(Request(scope, receive)) if asked is None else asked()
        await (await answer)(scope, receive, send)

    async def _forwarded(self, request: Request) -> Response:
        began = time.monotonic()
        try:
            body = await request.body()
            name = self._name(body)
            response: Response = await while_there(request, self._in_time(request, name, body, began))
            return response
        except TooLarge:
            return _error(413, "the body is too large", "too_large")  # the guard says it in its own words
        except NotServed as error:
            return _error(404, f"there is no model '{error}' here, but {', '.join(self.models)}", "not_found")
        except Gone:
            return _error(499, "the client has gone", "gone")
        except (Died, Unavailable) as error:
            return _error(503, str(error), "overloaded", {"retry-after": "1"})

    def _name(self, body: bytes) -> str:
        """Raises NotServed for a name that is not served. A body that cannot be read is the first model's to refuse."""
        first = next(iter(self.models))
        if len(self.models) == 1:
            return first
        try:
            asked = json.loads(body).get("model")
        except (ValueError, AttributeError, RecursionError):
            return first
        if asked is None or not isinstance(asked, str):
            return first
        if asked not in self.models:
            raise NotServed(asked[:100])
        return asked

    async def _in_time(self, request: Request, name: str, body: bytes, began: float) -> Response:
        """A deadline is the replica's to keep; where none is there to do so, the front does."""
        most = _deadline(request)
        work = self._tried(request, name, body, began, most)
        try:
            return await asyncio.wait_for(work, None if most is None else most + GRACE_S)
        except (asyncio.TimeoutError, TimeoutError):
            return _error(504, "the deadline came before a document was scored", "timeout")

    async def _tried(self, request: Request, name: str, body: bytes, began: float, most: float | None) -> Response:
        tries = 0
        while True:
            tries += 1
            request.state.facts = {"model": name, "tries": tries}
            try:
                status, headers, content = await self.models[name].ask(_scope(request, began, most), body)
                break
            except Died:
                self._died.labels(name).inc()
                if tries == TRIES:
                    raise
        response = Response(content, status)
        response.raw_headers = [(key, value) for key, value in headers if key != ID]  # the guard says it
        return response

    # Of all.

    async def _health(self) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self) -> Response:
        """Whether each model has a replica that is ready."""
        told = [any(answer[0] == 200 for _, answer in rows) for rows in await self._of_all("/ready")]
        return JSONResponse({"ready": all(told)}, 200 if all(told) else 503, None if all(told) else {"retry-after": "2"})

    async def _info(self) -> Response:
        """What a replica of the first model says; under `models` the same of each, with the number of its replicas and their joint pace."""
        models = dict[str, Any]()
        for name, rows in zip(self.models, await self._of_all("/info")):
            told = [json.loads(answer[2]) for _, answer in rows]
            pace = round(sum(one["tokens_per_second"] for one in told), 1)
            models[name] = {**(told[0] if told else {}), "replicas": len(told), "tokens_per_second": pace}
        return JSONResponse({**next(iter(models.values())), "models": models})

    async def _metrics(self) -> Response:
        """Every replica's, with the labels `model` and `replica`: what is summed, and how, is Prometheus's to say. The fronts' own too."""
        rows = [(name, replica, answer[2]) for name, told in zip(self.models, await self._of_all("/metrics")) for replica, answer in told]
        fronts = [] if self.fronts is None else await self.fronts.tell("/metrics")
        rows += [("", replica, answer[2]) for replica, answer in fronts] or [("", "front", self.metrics.text())]
        text = generate_latest(_Labelled(rows))
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _of_all(self, path: str) -> list[list[tuple[str, Answer]]]:
        return list(await asyncio.gather(*(peer.tell(path) for peer in self.models.values())))


class _Labelled:
    """A registry of what others exposed: (model, replica, text)."""

    def __init__(self, rows: list[tuple[str, str, bytes]]) -> None:
        self.rows = rows

    def collect(self) -> Iterator[Metric]:
        families = dict[str, Metric]()
        for model, replica, text in self.rows:
            for family in text_string_to_metric_families(text.decode()):
                kept = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                kept.samples += [one._replace(labels={**one.labels, "model": model, "replica": replica}) for one in family.samples]
        yield from families.values()


class OneId:
    """ASGI: leaves the request's id out of the answer, where another proxy stands before this and says it."""

    def __init__(self, app: Guard) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [(name, value) for name, value in message["headers"] if name != ID]
            await send(message)

        await self.app(scope, receive, answer)


async def _life(receive: Receive, send: Send) -> None:
    """ASGI's lifespan: there is nothing to start or stop."""
    for kind in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{kind}.complete"})


def _scope(request: Request, began: float, most: float | None) -> Message:
    """What a replica is told of a request: the same, but of the deadline what is left of it, and the id that this server knows it by."""
    headers = [(name, value) for name, value in request.scope["headers"] if name != ID and (most is None or name != DEADLINE)]
    headers.append((ID, request.state.id.encode()))
    if most is not None:
        headers.append((DEADLINE, repr(max(0.01, 1e3 * (most - (time.monotonic() - began)))).encode()))
    return {**{key: request.scope[key] for key in SENT if key in request.scope}, "headers": headers}


def _deadline(request: Request) -> float | None:
    """Seconds from now; None where none is given, or none that can be read: then the replica says so."""
    try:
        seconds = float(request.headers[DEADLINE.decode()]) / 1e3
    except (KeyError, ValueError):
        return None
    return seconds if 0 < seconds < float("inf") else None


def _error(status: int, message: str, kind: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(failed(message, kind), status, headers)
