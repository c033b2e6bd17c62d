"""JSON over HTTP to services that may be busy: tries again as they ask, within a deadline. Needs httpx."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from .errors import HostedError, InputError, MissingDependency
from .limits import Limits
from .ops.checks import count, finite_number

T = TypeVar("T")
R = TypeVar("R")
RETRIED = frozenset({408, 409, 425, 429})  # and all from 500 on; others are the caller's to mend
FIRST_WAIT_S, LONGEST_WAIT_S, PAUSE_S = 0.5, 30.0, 0.2


class Late(HostedError):
    """The deadline came first."""


class Poster:
    """url: where the service lives; name: what errors call it; timeout_s: of a try, above 0; retries: after
    408, 409, 425, 429, 5xx and lost connections, waiting as Retry-After says, else 0.5 s, 1 s, 2 s, ..., each with jitter, 30 s at most.

    Redirects are not followed. Raises MissingDependency, InputError.
    """

    def __init__(
        self, what: str, name: str, url: str, headers: Mapping[str, str], *, timeout_s: float, retries: int, transport: Any = None
    ) -> None:
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise MissingDependency(f"{what}: httpx is not installed", hint="pip install httpx") from error
        self.name, self.url = name, url.rstrip("/")
        self.timeout_s, self.retries = (
            finite_number(f"{what}: timeout_s", timeout_s, 1e-3),
            count(f"{what}: retries, and 1", retries + 1) - 1,
        )
        if not self.url.startswith(("https://", "http://")):
            raise InputError(f"{what}: base_url", got=url or "none", expected=f"the http(s) address of a {name} server")
        self._errors, self._slow = (httpx.HTTPError, httpx.InvalidURL), httpx.ReadTimeout
        self._client = httpx.Client(headers=dict(headers), timeout=timeout_s, follow_redirects=False, transport=transport)

    def close(self) -> None:
        """Ends its connections."""
        self._client.close()

    def post(self, path: str, body: Mapping[str, Any], wanted: Limits, tried: Callable[[int], None] = lambda attempt: None) -> Any:
        """The JSON that is answered, after as many tries as it takes; tried: is told of each, from 0. A try takes timeout_s at most,
        however slowly bytes come. Raises HostedError, Late, Cancelled."""
        until = math.inf if wanted.deadline is None else wanted.deadline
        for attempt in range(self.retries + 1):
            wanted.check()
            if time.monotonic() >= until:
                raise self._late()
            tried(attempt)
            wait = None
            try:
                status, headers, content = self._once(path, body, min(time.monotonic() + self.timeout_s, until), wanted)
            except self._errors as error:
                why = HostedError(self.name, got=f"{type(error).__name__} from {self.url} ({error})", expected="an answer")
            else:
                if status == 200:
                    return _json(content, self.name)
                why = HostedError(self.name, got=f"{status}: {_message(content)}", expected="200", status=status)
                if status not in RETRIED and status < 500:
                    raise why
                wait = _retry_after(headers.get("retry-after"))
            wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.0) if wait is None else wait)
            if time.monotonic() >= until or (attempt < self.retries and time.monotonic() + wait >= until):
                raise self._late()
            if attempt == self.retries:
                raise why
            pause(wait, wanted.check)
        raise AssertionError("unreachable")

    def _once(self, path: str, body: Mapping[str, Any], until: float, wanted: Limits) -> tuple[int, Mapping[str, str], bytes]:
        """(status, headers, body) by a time of time.monotonic(). Raises httpx's errors, Cancelled."""
        parts = []
        with self._client.stream("POST", self.url + path, json=body, timeout=max(1e-3, until - time.monotonic())) as answer:
            for part in answer.iter_bytes():
                wanted.check()
                if time.monotonic() >= until:
                    raise self._slow(f"no whole answer in {self.timeout_s:g} s")
                parts.append(part)
        return answer.status_code, answer.headers, b"".join(parts)

    def _late(self) -> Late:
        return Late(self.name, got="no answer before the deadline", expected="one")


def side_by_side(call: Callable[[T], R], items: Sequence[T], most: int, check: Callable[[], None]) -> list[R]:
    """call(item) of all, at most so many at a time, in their order. `check` is asked while they go on; what it raises is not held up by
    calls under way, which end by themselves."""
    pool = ThreadPoolExecutor(max(1, min(most, len(items))), "rerank-http")
    try:
        futures = [pool.submit(call, item) for item in items]
        while wait(futures, timeout=PAUSE_S, return_when=FIRST_EXCEPTION).not_done:
            if any(future.done() and future.exception() for future in futures):
                break
            check()
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def pause(seconds: float, check: Callable[[], None]) -> None:
    """Waits, unless `check` raises: the caller takes its request back."""
    while seconds > 0:
        check()
        time.sleep(min(seconds, PAUSE_S))
        seconds -= PAUSE_S


def number(told: Any, *names: str) -> float:
    """What stands there in a JSON object of objects, 0 for anything that is no finite number."""
    for name in names:
        told = told.get(name) if isinstance(told, dict) else None
    fine = isinstance(told, (int, float)) and not isinstance(told, bool) and abs(told) < float("inf")
    return float(told) if fine and told is not None else 0.0


def _json(content: bytes, name: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise HostedError(name, got="an answer that is no JSON", expected="JSON") from error


def _message(content: bytes) -> str:
    """What an error's body says, in whichever dialect."""
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        return content[:200].decode(errors="replace")
    if isinstance(told, dict):
        return str(next((told[key] for key in ("message", "detail", "error") if told.get(key)), told))[:200]
    return str(told)[:200]


def _retry_after(text: str | None) -> float | None:
    """Seconds, of a number or a date; None for neither."""
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        except (TypeError, ValueError):
            return None
