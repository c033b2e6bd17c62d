"""A language model as re-rankers use it: prompts in, texts out, many at a time, counted, remembered, within the caller's limits."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, final

from ..errors import Cancelled, InputError, ModelError, RerankError
from ..limits import Limits, limited, limits
from ..ops.checks import count, finite_number
from ..posting import PAUSE_S, Late, side_by_side
from .prompts import Count, Message, estimated_tokens, tokens_of

REMEMBERED = 10_000  # replies


@dataclass(frozen=True, eq=False)
class Ask:
    """One prompt. most: tokens of the answer at most; likeliest: so many of the likeliest tokens at each place are wanted, 0 for none."""

    messages: tuple[Message, ...]
    most: int = 256
    likeliest: int = 0


@dataclass(frozen=True, eq=False)
class Reply:
    """likeliest: of each place of the answer, (token, logprob) of the likeliest tokens. error: why there is no answer, late: because of the
    deadline. cut: the answer ended at its most tokens."""

    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    likeliest: tuple[tuple[tuple[str, float], ...], ...] = ()
    cut: bool = False
    cached: bool = False
    late: bool = False
    error: RerankError | None = None


class Sender(Protocol):
    """What answers one prompt. identity: what replies are remembered by, "" where nothing tells it from others; count: its tokens of a
    text; tells_likeliest: whether replies can have `likeliest`. It may have `reserved`: texts that steer the model, kept out of prompts."""

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def tells_likeliest(self) -> bool: ...
    def count(self, text: str, /) -> int: ...

    def send(self, ask: Ask, wanted: Limits) -> Reply:
        """Raises HostedError, ModelError, Cancelled."""
        ...


@dataclass
class Usage:
    """What was asked so far. calls: those that reached the model; tokens: as it counts them, or as estimated; cost: by the prices given."""

    calls: int = 0
    cached: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


@final
class Chat:
    """A model behind any callable (messages -> text, the messages as {"role", "content"}), or a Sender, such as
    `Chat.openai(...)`, `Chat.anthropic(...)`, `Chat.local(...)` make.

    concurrency: prompts at a time, from threads, whoever asks. cache: replies that are kept by the hash of model and prompt, 0 for none, or
    a folder that keeps them in files; a function of one's own needs a `name` for that. context: tokens that the model reads and writes
    together; None: unknown, prompts are bounded by words alone. count_tokens: of a text; by default the sender's own, else an estimate.
    price_in, price_out: of a million tokens, for `usage.cost`. Raises InputError.
    """

    def __init__(
        self,
        model: Callable[[list[Message]], str] | Sender,
        *,
        name: str | None = None,
        concurrency: int | None = None,
        cache: int | str | Path = REMEMBERED,
        context: int | None = None,
        count_tokens: Count | None = None,
        price_in: float = 0.0,
        price_out: float = 0.0,
    ) -> None:
        if not callable(model) and not hasattr(model, "send"):
            raise InputError("Chat", got=type(model).__name__, expected="a function of messages, or Chat.openai(...) and its like")
        self._sender: Sender = _Called(model) if not hasattr(model, "send") else model  # type: ignore[assignment]
        self.name = name or self._sender.name
        self.reserved: tuple[str, ...] = tuple(getattr(self._sender, "reserved", ()))
        self._identity = getattr(self._sender, "identity", "") or name or ""
        self.tells_likeliest = bool(getattr(self._sender, "tells_likeliest", False))
        self.concurrency = self._sender.concurrency if concurrency is None else count("Chat: concurrency", concurrency)
        self.context = None if context is None else count("Chat: context", context)
        self.count = self._sender.count if count_tokens is None else count_tokens
        self.prices = (finite_number("Chat: price_in", price_in, 0), finite_number("Chat: price_out", price_out, 0))
        self.usage, self._lock, self._replies = Usage(), threading.Lock(), Replies(cache)
        self._slots = threading.Semaphore(self.concurrency)
        if not self._identity and not isinstance(cache, int):
            raise InputError("Chat: cache", got="a folder, and a model without a name", expected="name=, to tell its replies from others")

    @classmethod
    def openai(cls, model: str, *, base_url: str | None = None, key: str | None = None, **options: Any) -> Chat:
        """An API in OpenAI's shape: its own, vLLM, llama.cpp's server, Ollama, ... See llm.http.OpenAI for what else it takes."""
        from .http import OpenAI

        return cls._of(OpenAI, model, base_url, key, options)

    @classmethod
    def anthropic(cls, model: str, *, base_url: str | None = None, key: str | None = None, **options: Any) -> Chat:
        """Anthropic's messages API."""
        from .http import Anthropic

        return cls._of(Anthropic, model, base_url, key, options)

    @classmethod
    def local(cls, path_or_name: str | Path, *, device: str = "cpu", dtype: str = "auto", **options: Any) -> Chat:
        """A causal language model in this process, by transformers. See llm.local.Local."""
        from .local import Local

        sender = Local(path_or_name, device=device, dtype=dtype)
        return cls(sender, **{"context": sender.context, **options})

    @classmethod
    def _of(cls, kind: Callable[..., Sender], model: str, base_url: str | None, key: str | None, options: dict[str, Any]) -> Chat:
        own = {name: options.pop(name) for name in ("timeout_s", "retries", "limit_name", "extra", "transport") if name in options}
        return cls(kind(model, base_url=base_url, key=key, **own), **options)

    def ask(self, asks: Sequence[Ask]) -> list[Reply]:
        """A reply to each, in their order; one that failed for good has `error`. Equal prompts are sent once. Raises Cancelled."""
        wanted, out, keys = limits(), [Reply()] * len(asks), [self._key(ask) for ask in asks]
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        new = [i for i, key in enumerate(keys) if first[key] == i and not self._known(key, out, i)]
        for i, reply in zip(new, side_by_side(lambda i: self._sent(asks[i], keys[i], wanted), new, self.concurrency, wanted.check)):
            out[i] = reply
        for i, key in enumerate(keys):
            if i != first[key]:
                out[i] = replace(out[first[key]], cached=True)
            if out[i].cached:
                self._count(out[i])
        return out

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prices[0] + completion_tokens * self.prices[1]) / 1e6

    def close(self) -> None:
        if hasattr(self._sender, "close"):
            self._sender.close()

    def _known(self, key: str, out: list[Reply], i: int) -> bool:
        found = self._replies.find(key)
        if found is not None:
            out[i] = replace(found, cached=True)
        return found is not None

    def _sent(self, ask: Ask, key: str, wanted: Limits) -> Reply:
        """Counted and remembered as soon as it is there: whoever takes his prompts back later has paid for it."""
        while not self._slots.acquire(timeout=PAUSE_S):
            wanted.check()
            if wanted.out_of_time():
                return Reply(late=True, error=Late(self.name, got="no time left", expected="some"))
        try:
            wanted.check()
            reply = self._asked(ask, wanted)
        finally:
            self._slots.release()
        if reply.error is None:
            self._replies.put(key, reply)
        self._count(reply)
        return reply

    def _asked(self, ask: Ask, wanted: Limits) -> Reply:
        if wanted.out_of_time():
            return Reply(late=True, error=Late(self.name, got="no time left", expected="some"))
        left = None if wanted.deadline is None else 1e3 * wanted.left()
        try:
            with limited(deadline_ms=left, cancelled=wanted.cancelled):
                reply = self._sender.send(ask, wanted)
        except Cancelled:
            raise
        except Exception as error:  # of whoever answers: its prompt is without an answer, the others are not
            known = error if isinstance(error, RerankError) else ModelError(f"the language model '{self.name}'", got=repr(error)[:200])
            return Reply(late=isinstance(error, Late), error=known)
        if not reply.prompt_tokens:
            tokens = tokens_of(ask.messages, self.count), self.count(reply.text)
            reply = replace(reply, prompt_tokens=tokens[0], completion_tokens=tokens[1])
        return reply

    def _count(self, reply: Reply) -> None:
        with self._lock:
            used = self.usage
            if reply.error is not None:
                used.failed += 1
            elif reply.cached:
                used.cached += 1
            else:
                used.calls += 1
                used.prompt_tokens += reply.prompt_tokens
                used.completion_tokens += reply.completion_tokens
                used.cost += self.cost(reply.prompt_tokens, reply.completion_tokens)

    def _key(self, ask: Ask) -> str:
        told = json.dumps([self._identity, ask.messages, ask.most, ask.likeliest], ensure_ascii=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Chat({self.name})"


@dataclass(eq=False)
class _Called:
    """A caller's own function."""

    function: Callable[[list[Message]], str]
    concurrency: int = 1
    tells_likeliest: bool = False

    identity: str = ""

    @property
    def name(self) -> str:
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def count(self, text: str, /) -> int:
        return estimated_tokens(text)

    def send(self, ask: Ask, wanted: Limits) -> Reply:
        text = self.function([dict(message) for message in ask.messages])
        if not isinstance(text, str):
            raise ModelError(f"the language model '{self.name}'", got=type(text).__name__, expected="a string")
        return Reply(text)


@dataclass(eq=False)
class Replies:
    """Those of late, by key. where: how many are held in memory, or a folder with a file each, written whole or not at all."""

    where: int | str | Path
    _held: OrderedDict[str, Reply] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        expected = "a number of replies, 0 for none, or a folder"
        if not isinstance(self.where, (int, str, Path)) or isinstance(self.where, bool) or (isinstance(self.where, int) and self.where < 0):
            raise InputError("Chat: cache", got=self.where, expected=expected)
        if not isinstance(self.where, int):
            try:
                Path(self.where).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError("Chat: cache", got=str(error), expected=expected) from error

    def find(self, key: str) -> Reply | None:
        if not isinstance(self.where, int):
            return _read(Path(self.where) / f"{key}.json")
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: str, reply: Reply) -> None:
        if not isinstance(self.where, int):
            with suppress(OSError):  # a full disk loses what is remembered, not what was answered
                _write(Path(self.where) / f"{key}.json", {name: value for name, value in asdict(reply).items() if name != "error"})
            return
        with self._lock:
            self._held[key] = reply
            while len(self._held) > self.where:
                self._held.popitem(last=False)


def _read(path: Path) -> Reply | None:
    """None for a file that is not there, or is not one of these: then the prompt is sent again."""
    try:
        told: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        likeliest = tuple(tuple((str(token), float(value)) for token, value in place) for place in told["likeliest"])
        tokens = int(told["prompt_tokens"]), int(told["completion_tokens"])
        return Reply(str(told["text"]), *tokens, likeliest, bool(told["cut"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _write(path: Path, told: Mapping[str, Any]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(told, file)
    os.replace(name, path)
