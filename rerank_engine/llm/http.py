"""Language models behind HTTP: OpenAI's chat completions, which vLLM, llama.cpp's server and others speak too, and Anthropic's messages."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, final

from ..errors import HostedError, InputError
from ..limits import Limits
from ..posting import Poster, number
from .chat import Ask, Reply
from .prompts import estimated_tokens

MOST_LIKELIEST = 20  # what OpenAI and vLLM give at most by default


class _Api(ABC):
    """base_url: in place of the provider's own; key: in place of the environment variable's, which goes to the provider alone.
    timeout_s: of a try; retries: see `Poster`; a call takes (retries + 1) * timeout_s and the waits between at most. extra: put into each
    request, over what is there; None takes a key out. Texts leave this machine. Raises InputError, MissingDependency."""

    provider, home, variable, count = "", "", "", staticmethod(estimated_tokens)
    tells_likeliest = False

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 4,
        extra: Mapping[str, Any] | None = None,
        transport: Any = None,
    ) -> None:
        what = type(self).__name__
        own = key if key is not None else os.environ.get(self.variable, "") if base_url is None else ""
        if not own and not base_url:
            raise InputError(f"{what}: key", got="none", expected="its key", hint=f"Pass key=, or set {self.variable}.")
        self.name, self.extra, self.concurrency = model, dict(extra or {}), 4
        self._poster = Poster(
            what,
            self.provider,
            (base_url or self.home).rstrip("/").removesuffix("/v1"),
            self._headers(own),
            timeout_s=timeout_s,
            retries=retries,
            transport=transport,
        )

    @abstractmethod
    def _headers(self, key: str) -> dict[str, str]:
        """That carry the key."""

    @property
    def identity(self) -> str:
        return f"{self.provider} {self._poster.url} {self.name} {json.dumps(self.extra, sort_keys=True, default=repr)}"

    def close(self) -> None:
        self._poster.close()

    def _body(self, body: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in {**body, **self.extra}.items() if value is not None}

    def _wrong(self, got: str, expected: str) -> HostedError:
        return HostedError(self.provider, got=got, expected=expected)


@final
class OpenAI(_Api):
    """POST /v1/chat/completions. limit_name: what the API calls the bound of an answer, "max_completion_tokens" for newer models."""

    provider, home, variable = "openai", "https://api.openai.com", "OPENAI_API_KEY"
    tells_likeliest = True

    def __init__(self, model: str, *, limit_name: str = "max_tokens", **how: Any) -> None:
        super().__init__(model, **how)
        self.limit_name = limit_name

    def _headers(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {key}"} if key else {}

    def send(self, ask: Ask, wanted: Limits) -> Reply:
        body: dict[str, Any] = {"model": self.name, "messages": list(ask.messages), "temperature": 0, self.limit_name: ask.most}
        if ask.likeliest:
            body |= {"logprobs": True, "top_logprobs": min(ask.likeliest, MOST_LIKELIEST)}
        told = self._poster.post("/v1/chat/completions", self._body(body), wanted)
        choices = told.get("choices") if isinstance(told, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(message, dict):
            raise self._wrong("an answer without choices[0].message", "one")
        text = message.get("content") or message.get("refusal") or ""
        if not isinstance(text, str):
            raise self._wrong(f"content that is a {type(text).__name__}", "a string")
        read, written = (int(number(told, "usage", name)) for name in ("prompt_tokens", "completion_tokens"))
        return Reply(text, read, written, likeliest=_likeliest(choice), cut=choice.get("finish_reason") == "length")


@final
class Anthropic(_Api):
    """POST /v1/messages. It tells no probabilities of tokens."""

    provider, home, variable = "anthropic", "https://api.anthropic.com", "ANTHROPIC_API_KEY"

    def _headers(self, key: str) -> dict[str, str]:
        return {"anthropic-version": "2023-06-01", **({"x-api-key": key} if key else {})}

    def send(self, ask: Ask, wanted: Limits) -> Reply:
        body: dict[str, Any] = {"model": self.name, "max_tokens": ask.most, "temperature": 0}
        if system := "\n\n".join(message["content"] for message in ask.messages if message["role"] == "system"):
            body["system"] = system
        body["messages"] = [message for message in ask.messages if message["role"] != "system"]
        told = self._poster.post("/v1/messages", self._body(body), wanted)
        content = told.get("content") if isinstance(told, dict) else None
        if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
            raise self._wrong("an answer without a list 'content'", "one")
        text = "".join(part["text"] for part in content if part.get("type") == "text" and isinstance(part.get("text"), str))
        read, written = (int(number(told, "usage", name)) for name in ("input_tokens", "output_tokens"))
        return Reply(text, read, written, cut=told.get("stop_reason") == "max_tokens")


def _likeliest(choice: Mapping[str, Any]) -> tuple[tuple[tuple[str, float], ...], ...]:
    """Of each place of the answer; what is not in OpenAI's shape is nothing."""
    logprobs = choice.get("logprobs")
    places = logprobs.get("content") if isinstance(logprobs, dict) else None
    out = []
    for place in places if isinstance(places, list) else ():
        rows = place.get("top_logprobs") if isinstance(place, dict) else None
        fine = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        told = [(str(row.get("token", "")), row.get("logprob")) for row in fine]
        out.append(tuple((token, float(p)) for token, p in told if isinstance(p, (int, float)) and -math.inf < p < math.inf))
    return tuple(out)
