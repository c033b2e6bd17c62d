"""JSON over HTTP to services that may be busy: tries again as they ask, within a deadline. Needs httpx."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from .errors import HostedError, InputError, MissingDependency
from .limits import Limits

RETRIED = frozenset({408, 409, 425, 429})  # and all from 500 on; others are the caller's to mend
FIRST_WAIT_S, LONGEST_WAIT_S, PAUSE_S = 0.5, 30.0, 0.2


class Late(HostedError):
    """The deadline came first."""


class Poster:
    """url: where the service lives; name: what errors call it; timeout_s: for a connection, and for each part of an answer; retries: after
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
        self.name, self.url, self.timeout_s, self.retries = name, url.rstrip("/"), timeout_s, retries
        if not self.url.startswith(("https://", "http://")):
            raise InputError(f"{what}: base_url", got=url or "none", expected=f"the http(s) address of a {name} server")
        self._errors = (httpx.HTTPError, httpx.InvalidURL)
        self._client = httpx.Client(headers=dict(headers), timeout=timeout_s, follow_redirects=False, transport=transport)

    def close(self) -> None:
        """Ends its connections."""
        self._client.close()

    def post(self, path: str, body: Mapping[str, Any], wanted: Limits, tried: Callable[[int], None] = lambda attempt: None) -> Any:
        """The JSON that is answered, after as many tries as it takes; tried: is told of each, from 0. Raises HostedError, Late,
        Cancelled."""
        until = wanted.deadline
        for attempt in range(self.retries + 1):
            wanted.check()
            left = self.timeout_s if until is None else min(self.timeout_s, until - time.monotonic())
            if left <= 0:
                raise Late(self.name, got="no answer before the deadline", expected="one")
            tried(attempt)
            wait, why = None, HostedError(self.name, got="no answer", expected="one")
            try:
                answer = self._client.post(self.url + path, json=body, timeout=left)
            except self._errors as error:
                why = HostedError(self.name, got=f"{type(error).__name__} from {self.url} ({error})", expected="an answer")
            else:
                if answer.status_code == 200:
                    return _json(answer, self.name)
                why = HostedError(self.name, got=f"{answer.status_code}: {_message(answer)}", expected="200", status=answer.status_code)
                if answer.status_code not in RETRIED and answer.status_code < 500:
                    raise why
                wait = _retry_after(answer.headers.get("retry-after"))
            wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.0) if wait is None else wait)
            if attempt == self.retries:
                raise why
            if until is not None and time.monotonic() + wait >= until:
                raise Late(self.name, got="no answer before the deadline", expected="one")
            pause(wait, wanted.check)
        raise AssertionError("unreachable")


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


def _json(answer: Any, name: str) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise HostedError(name, got="an answer that is no JSON", expected="JSON") from error


def _message(answer: Any) -> str:
    """What an error's body says, in whichever dialect."""
    try:
        told = answer.json()
    except ValueError:
        return str(answer.text)[:200]
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
