"""What stands before replicas in other processes: chooses by a request's `model`, has another do what one died with, speaks for all.

Plain ASGI, behind a `Guard`. It knows replicas by `Peer` alone: `on_ray` has one of Ray Serve's handles.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Iterable, Iterator, Mapping
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar

from prometheus_client import Counter, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from .app import Gone, while_there
from .deaths import Deadly, Deaths, Died
from .guard import Guard, Message, Receive, Send, TooLarge, failed, log
from .metrics import Metrics

T = TypeVar("T")
Answer = tuple[int, list[tuple[bytes, bytes]], bytes]  # status, headers, body
PATIENCE_S = 300.0  # that a request without a deadline waits for a replica where there is none
HELD_BYTES = 1 << 30  # of the bodies of all requests that are in a front
GRACE_S = 0.5  # that an answer may come after its deadline, or before an end
SENT = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "client", "server")
DEADLINE, ID = b"x-deadline-ms", b"x-request-id"


class Unavailable(Exception):
    """No replica takes it, and none is expected to."""


class NotServed(Exception):
    """A request names a model that is not here."""


class Peer(Protocol):
    """The replicas of one model."""

    async def ask(self, scope: Message, body: bytes) -> Answer:
        """By one of them; waits for one. Raises Died, Unavailable. Where the caller is cancelled, the replica forgets the request."""

    def tell(self, path: str) -> AsyncGenerator[tuple[str, Answer], None]:
        """(its name, what it answers to GET `path`) of each that answers soon, as they come; none raises."""


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
    except Exception:  # an app that has answered 500 raises what it was, for its server's log
        if not start:
            raise
        log.exception("an error that the app did not expect")
    return int(start["status"]), [(bytes(name), bytes(value)) for name, value in start["headers"]], bytes(content)


class Front:
    """ASGI. models: the replicas of each by the name that requests call it, the first for those that name none; where there is one it is
    everybody's, as of a server without replicas. fronts: this and those beside it, for /metrics. A replica scores and keeps nothing, so
    a request may be tried again, see `Deaths`."""

    def __init__(self, models: Mapping[str, Peer], metrics: Metrics, fronts: Peer | None = None) -> None:
        self.models, self.metrics, self.fronts = dict(models), metrics, fronts
        self._stopping, self._busy, self._held = False, 0, 0
        self._deaths = {name: Deaths() for name in self.models}
        self._died = Counter("rerank_died", "Times that a replica died with a request", ["model"], registry=metrics.registry)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _life(receive, send)
            return
        scope["route"] = SimpleNamespace(name="front")
        own = {"/health": self._health, "/ping": self._health, "/ready": self._ready, "/info": self._info, "/metrics": self._metrics}
        asked = own.get(scope["path"]) if scope["method"] == "GET" else None
        taken = not self._stopping
        self._busy += taken
        try:
            response = await (self._forwarded(Request(scope, receive)) if asked is None else asked())
            await response(scope, receive, send)
        finally:
            self._busy -= taken

    async def finish(self, most_s: float) -> None:
        """Takes nothing more, and returns once what is here is answered, or that time is over, and the last answer had time to leave."""
        self._stopping, end = True, time.monotonic() + most_s
        while self._busy and time.monotonic() < end:
            await asyncio.sleep(0.02)
        await asyncio.sleep(GRACE_S)

    async def _forwarded(self, request: Request) -> Response:
        if self._stopping:
            return _error(503, "this server is stopping", "overloaded", {"retry-after": "1"})
        parts = list[bytes]()
        try:
            async for part in request.stream():
                parts.append(part)
                self._held += len(part)
                if self._held > HELD_BYTES:
                    raise Unavailable("too much waits here")
            body, began = b"".join(parts), time.monotonic()
            response: Response = await while_there(request, self._in_time(request, self._name(body), body, began))
            return response
        except TooLarge:
            return _error(413, "the body is too large", "too_large")  # the guard says it in its own words
        except NotServed as error:
            return _error(404, f"there is no model '{error}' here, but {', '.join(self.models)}", "not_found")
        except (Gone, ClientDisconnect):
            return _error(499, "the client has gone", "gone")
        except Deadly as error:  # a status that no client sends again
            return _error(422, str(error), "backend")
        except (Died, Unavailable) as error:
            return _error(503, str(error), "overloaded", {"retry-after": "1"})
        except Exception as error:
            log.exception("an error that the front did not expect")
            return _error(500, f"the replica failed: {type(error).__name__}", "backend")
        finally:
            self._held -= sum(map(len, parts))

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
        """A deadline is the replica's to keep; where none is there to do so, the front does. Without one, the wait ends where there is no
        replica after PATIENCE_S: what one works on takes as long as it takes."""
        most = _deadline(request)
        work = asyncio.ensure_future(self._tried(request, name, body, began, most))
        try:
            while not (await asyncio.wait({work}, timeout=PATIENCE_S if most is None else most + GRACE_S))[0]:
                if most is not None:
                    return _error(504, "the deadline came before a document was scored", "timeout")
                if not await _any_ready(self.models[name]):
                    raise Unavailable("no replica came for it")
            return work.result()
        finally:
            work.cancel()

    async def _tried(self, request: Request, name: str, body: bytes, began: float, most: float | None) -> Response:
        request.state.facts = {"model": name, "tries": 0}

        async def ask() -> Answer:
            request.state.facts["tries"] += 1
            try:
                return await self.models[name].ask(_scope(request, began, most), body)
            except Died:
                self._died.labels(name).inc()
                raise

        status, headers, content = await self._deaths[name].survived(body, ask)
        response = Response(content, status)
        response.raw_headers = [(key, value) for key, value in headers if key != ID]  # the guard says it
        return response

    # Of all.

    async def _health(self) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self) -> Response:
        """Whether each model has a replica that is ready, and no stop is under way."""
        ready = all(await asyncio.gather(*map(_any_ready, self.models.values()))) and not self._stopping
        return JSONResponse({"ready": ready}, 200 if ready else 503, None if ready else {"retry-after": "2"})

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
        fronts = [] if self.fronts is None else [row async for row in self.fronts.tell("/metrics")]
        rows += [("", replica, answer[2]) for replica, answer in fronts] or [("", "front", self.metrics.text())]
        text = generate_latest(_Labelled(rows))
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _of_all(self, path: str) -> list[list[tuple[str, Answer]]]:
        async def told(peer: Peer) -> list[tuple[str, Answer]]:
            return [row async for row in peer.tell(path)]

        return list(await asyncio.gather(*map(told, self.models.values())))


async def _any_ready(peer: Peer) -> bool:
    """At the first that says so; the others are not waited for."""
    async with aclosing(peer.tell("/ready")) as told:
        async for _, answer in told:
            if answer[0] == 200:
                return True
    return False


async def in_time(asked: Iterable[Awaitable[T]], most_s: float) -> AsyncGenerator[T, None]:
    """The results as they come, of those that come in that time and do not fail; the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in asked]
    try:
        for one in asyncio.as_completed(tasks, timeout=most_s):
            try:
                result = await one
            except Exception:  # its own, or that the time is over
                continue
            yield result
    finally:
        for task in tasks:
            task.cancel()


class _Labelled:
    """A registry of what others exposed: (model, replica, text)."""

    def __init__(self, rows: list[tuple[str, str, bytes]]) -> None:
        self.rows = rows

    def collect(self) -> Iterator[Metric]:
        families = dict[str, Metric]()
        for model, replica, text in self.rows:
            for family in text_string_to_metric_families(text.decode()):
                kept = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                kept.samples += [one._replace(labels={"model": model, "replica": replica, **one.labels}) for one in family.samples]
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
