"""What stands before every route: bearer tokens, sizes of bodies, request ids, a line of log, counts and times. Plain ASGI."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

from ..errors import InputError
from .metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
OPEN = ("/", "/page.js", "/page.css", "/health", "/ready", "/ping")  # without a token
JSON = (b"content-type", b"application/json")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
log = logging.getLogger("rerank_engine.serve")


class TooLarge(Exception):
    """A body of more bytes than are taken; the app makes an error of it."""


def failed(message: str, kind: str) -> dict[str, Any]:
    """The body of an error, as all dialects read it: Cohere's `message`, Voyage's and Jina's `detail`, TEI's `error` and `error_type`."""
    return {"message": message, "detail": message, "error": message, "error_type": kind}


class Guard:
    """app: what is guarded. keys: tokens any of which lets in; none: everybody. hosts: names that it is called by; none: any.
    most_bytes: of a body. Raises InputError."""

    def __init__(self, app: Any, *, keys: Sequence[str], hosts: Sequence[str], most_bytes: int, metrics: Metrics) -> None:
        if isinstance(keys, str) or not all(isinstance(key, str) and key.strip() for key in keys):
            raise InputError(
                "create_app: keys", got="one string" if isinstance(keys, str) else "a blank token", expected="a list of tokens"
            )
        self.app, self.most_bytes, self.metrics = app, most_bytes, metrics
        self._hosts = {host.lower() for host in hosts}
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        asked = headers.get(b"x-request-id", b"").decode("latin-1")
        scope["state"] = {**scope.get("state", {}), "id": asked if _ID.fullmatch(asked) else uuid.uuid4().hex}
        if b"origin" not in headers:  # no page of another site's: whatever a client calls its body, it is JSON
            scope["headers"] = [*((name, value) for name, value in scope["headers"] if name != b"content-type"), JSON]
        start, status = time.perf_counter(), 499

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", scope["state"]["id"].encode())]
            await send(message)

        try:
            if (refused := self._refusal(scope, headers)) is not None:
                await refused(scope, receive, answer)
            else:
                await self._bounded(scope, receive, answer)
        finally:
            self._told(scope, status, time.perf_counter() - start)

    def _refusal(self, scope: Message, headers: MutableMapping[bytes, bytes]) -> JSONResponse | None:
        name = headers.get(b"host", b"").decode("latin-1").lower()
        if self._hosts and (name if name.endswith("]") else name.rpartition(":")[0] or name) not in self._hosts:
            return JSONResponse(failed(f"this server is not called '{name}'", "host"), 421)
        if self._keys and scope["path"] not in OPEN:
            kind, _, token = headers.get(b"authorization", b"").partition(b" ")
            own = hashlib.sha256(token.strip()).digest()
            right = [hmac.compare_digest(own, key) for key in self._keys]  # all of them: the time tells nothing
            if kind.lower() != b"bearer" or not any(right):
                message = "Authorization: a bearer token of this server's is needed"
                return JSONResponse(failed(message, "unauthorized"), 401, {"www-authenticate": "Bearer"})
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.most_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> JSONResponse:
        return JSONResponse(failed(f"the body has more than {self.most_bytes} bytes", "too_large"), 413)

    async def _bounded(self, scope: Message, receive: Receive, send: Send) -> None:
        """A body without a length is counted as it comes. Whatever the app then answers to its broken body, 413 is sent."""
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.most_bytes:
                raise TooLarge
            return message

        async def answer(message: Message) -> None:
            if taken <= self.most_bytes:
                await send(message)
            elif message["type"] == "http.response.start":
                await self._too_large()(scope, receive, send)

        await self.app(scope, counted, answer)

    def _told(self, scope: Message, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "name", "other")
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.duration.labels(route).observe(seconds)
        facts = {
            "id": scope["state"]["id"],
            "route": route,
            "status": status,
            "ms": round(1e3 * seconds, 2),
            **scope["state"].get("facts", {}),
        }
        log.info(json.dumps(facts))
