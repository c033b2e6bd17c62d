"""Re-rankers behind an HTTP API, as scorers: Cohere, Voyage, Jina, Mixedbread, TEI, vLLM, and what speaks their shape. Needs httpx."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ..core import LOWEST, Query, Ranking, Scorer, Scores
from ..errors import HostedError, InputError
from ..limits import Limits, limits
from ..ops.checks import count, finite_number, one_of
from ..posting import Late, Poster, number, side_by_side


@dataclass(frozen=True)
class Provider:
    """url: where it lives, "" for one's own server; path: of its API; most: documents of a request; key: the environment variable of the
    key; body: (model, query, texts) -> request; rows: response -> [{"index", score key}, ...]; score: that key; scale: what scores are."""

    url: str
    path: str
    model: str
    most: int
    key: str
    body: Callable[[str, str, list[str]], dict[str, Any]]
    rows: str = "results"
    score: str = "relevance_score"
    scale: str = "relevance"


def _documents(model: str, query: str, texts: list[str]) -> dict[str, Any]:
    return {"model": model, "query": query, "documents": texts}


def _tei(model: str, query: str, texts: list[str]) -> dict[str, Any]:
    return {"query": query, "texts": texts, "truncate": True, "raw_scores": True}


def _jina(model: str, query: str, texts: list[str]) -> dict[str, Any]:
    return {**_documents(model, query, texts), "return_documents": False}


def _mixedbread(model: str, query: str, texts: list[str]) -> dict[str, Any]:
    return {"model": model, "query": query, "input": texts, "top_k": len(texts), "return_input": False}


PROVIDERS = {
    "cohere": Provider("https://api.cohere.com", "/v2/rerank", "rerank-v3.5", 1000, "COHERE_API_KEY", _documents),
    "voyage": Provider("https://api.voyageai.com", "/v1/rerank", "rerank-2.5", 1000, "VOYAGE_API_KEY", _documents, "data"),
    "jina": Provider("https://api.jina.ai", "/v1/rerank", "jina-reranker-v2-base-multilingual", 1000, "JINA_API_KEY", _jina),
    "mixedbread": Provider(
        "https://api.mixedbread.com", "/v1/reranking", "mxbai-rerank-large-v2", 1000, "MXBAI_API_KEY", _mixedbread, "data", "score"
    ),
    "tei": Provider("", "/rerank", "", 32, "TEI_API_KEY", _tei, "", "score", "logit"),
    "vllm": Provider("", "/v1/rerank", "", 1000, "VLLM_API_KEY", _documents),
    "openai-compatible": Provider("", "/v1/rerank", "", 1000, "RERANK_API_KEY", _documents),
}


@dataclass
class Usage:
    """What was asked of a provider so far. tokens, search_units: as it counts them; cost: by the prices that were given."""

    requests: int = 0
    retries: int = 0
    failures: int = 0
    documents: int = 0
    tokens: int = 0
    search_units: float = 0.0
    cost: float = 0.0


@dataclass(eq=False)
class _Call:
    """A request: documents `start` to `end` of a query's list. values: their scores, or None; error: why not."""

    query: int
    start: int
    texts: list[str]
    values: NDArray[np.float32] | None = None
    error: HostedError | None = None
    facts: dict[str, float] = field(default_factory=dict)


@final
class Hosted(Scorer):
    """The scores that a provider gives, on its own scale. A Scorer like any other: `rr.Rescore(rr.Hosted("cohere"), depth=100)`.

    provider: cohere, voyage, jina, mixedbread, tei, vllm, openai-compatible. base_url: in place of its own, and needed for the last three.
    key: in place of the environment variable's (COHERE_API_KEY, ...), which is not sent to a base_url in place of a provider's own.
    batch: documents of a request, at most the provider's own limit; concurrency: requests at a time. timeout_s: of a try; retries: after
    408, 409, 425, 429, 5xx and lost connections, waiting as Retry-After says, else 0.5 s, 1 s, 2 s, ..., each with jitter.
    failed: what becomes of a list one of whose requests fails for good: "raise" HostedError; "keep": its documents keep their old order
    behind the others (column `scored`); "fallback": the scorer `fallback` scores the whole list, so that scales do not mix.
    Under a deadline of `rr.limited` requests end with it, and what they were for is not scored.
    price_per_search, price_per_million_tokens: for `usage.cost`.

    Every answer is checked: each document once, an index in range, a finite score. Facts of its step: {"requests", "tokens"} and, where it
    was used, {"fallback": True}. Texts leave this machine; nothing else does, and redirects are not followed.
    Raises InputError, MissingDependency (httpx), HostedError.
    """

    timely = whole = True

    def __init__(
        self,
        provider: str,
        *,
        model: str | None = None,
        base_url: str | None = None,
        key: str | None = None,
        batch: int | None = None,
        concurrency: int = 4,
        timeout_s: float = 30.0,
        retries: int = 4,
        failed: str = "raise",
        fallback: Scorer | None = None,
        price_per_search: float = 0.0,
        price_per_million_tokens: float = 0.0,
        transport: Any = None,
    ) -> None:
        self.provider = one_of("Hosted: provider", provider, tuple(PROVIDERS))
        self._how = PROVIDERS[provider]
        self.model = self._how.model if model is None else model
        self.batch = min(self._how.most, self._how.most if batch is None else count("Hosted: batch", batch))
        self.concurrency = count("Hosted: concurrency", concurrency)
        self.failed = one_of("Hosted: failed", failed, ("raise", "keep", "fallback"))
        if (failed == "fallback") != isinstance(fallback, Scorer):
            raise InputError("Hosted: fallback", got=repr(fallback), expected="a scorer exactly where failed='fallback'")
        self.fallback, self.usage, self.backend = fallback, Usage(), provider
        prices = ("price_per_search", price_per_search), ("price_per_million_tokens", price_per_million_tokens)
        self._prices = [finite_number(f"Hosted: {name}", price, 0) for name, price in prices]
        told = base_url is None or not self._how.url  # a provider's own key goes to the provider alone
        own = key if key is not None else os.environ.get(self._how.key, "") if told else ""
        if self._how.url and not own and not base_url:
            hint = f"Pass key=, or set {self._how.key}."
            raise InputError(f"Hosted: key for {provider}", got="none", expected="its key", hint=hint)
        headers = {"authorization": f"Bearer {own}"} if own else {}
        self._lock = threading.Lock()
        self._poster = Poster(
            "Hosted", provider, base_url or self._how.url, headers, timeout_s=timeout_s,
            retries=retries, transport=transport,
        )  # fmt: skip

    def close(self) -> None:
        """Ends its connections."""
        self._poster.close()

    def score(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Scores]:
        calls = [
            _Call(i, start, texts[start : start + self.batch])
            for i, texts in enumerate(ranking.corpus.texts(ranking.ids) for ranking in rankings)
            for start in range(0, len(texts), self.batch)
        ]
        wanted = limits()
        wanted.check()
        side_by_side(lambda call: self._done(call, queries[call.query].text, wanted), calls, self.concurrency, wanted.check)
        of = [[call for call in calls if call.query == i] for i in range(len(rankings))]
        return [self._scores(query, ranking, own) for query, ranking, own in zip(queries, rankings, of)]

    def _scores(self, query: Query, ranking: Ranking, calls: Sequence[_Call]) -> Scores:
        errors = [call.error for call in calls if call.error is not None and not isinstance(call.error, Late)]
        facts: dict[str, Any] = {"requests": len(calls), "tokens": int(sum(call.facts.get("tokens", 0) for call in calls))}
        if errors and self.failed == "raise":
            raise errors[0]
        if errors and self.fallback is not None:
            other = self.fallback.score([query], [ranking])[0]
            return Scores(other.values, other.scale, other.columns, {**facts, "fallback": True})
        values = np.full(len(ranking), -np.inf, np.float32)
        scored = np.zeros(len(ranking), bool)
        for call in calls:
            if call.values is not None:
                part = slice(call.start, call.start + len(call.texts))
                values[part], scored[part] = call.values, True
        columns = {"scored": scored} if errors or limits().deadline is not None else {}
        return Scores(values, self._how.scale, columns, facts)

    def _done(self, call: _Call, query: str, wanted: Limits) -> None:
        try:
            told = self._poster.post(self._how.path, self._how.body(self.model, query, call.texts), wanted, self._tried)
            call.values = _checked(told, self._how, len(call.texts), self.provider)
            call.facts = _counted(told)
        except HostedError as error:
            call.error = error
        with self._lock:
            usage = self.usage
            usage.failures += call.error is not None
            if call.error is None:
                usage.documents += len(call.texts)
                usage.tokens += int(call.facts["tokens"])
                usage.search_units += call.facts["search_units"]
                usage.cost += call.facts["search_units"] * self._prices[0] + call.facts["tokens"] * self._prices[1] / 1e6

    def _tried(self, attempt: int) -> None:
        with self._lock:
            self.usage.requests += 1
            self.usage.retries += attempt > 0

    def __repr__(self) -> str:
        return f"Hosted({self.provider}, {self.model or self._poster.url})"


def _checked(told: Any, how: Provider, n: int, provider: str) -> NDArray[np.float32]:
    """float32 [n]: the score of each document, every one of them once. Raises HostedError."""
    rows = told.get(how.rows) if how.rows and isinstance(told, dict) else told
    if not isinstance(rows, list):
        raise HostedError(provider, got=f"an answer without a list of {how.rows or 'scores'}", expected="one")
    values, seen = np.zeros(n, np.float32), np.zeros(n, bool)
    for row in rows:
        index, score = (row.get("index"), row.get(how.score)) if isinstance(row, dict) else (None, None)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < n:
            raise HostedError(provider, got=f"index {index!r}", expected=f"0 to {n - 1}")
        if seen[index]:
            raise HostedError(provider, got=f"document {index} twice", expected="each once")
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not abs(score) <= -LOWEST:
            raise HostedError(provider, got=f"the score {score!r}", expected="a finite number")
        values[index], seen[index] = score, True
    if not seen.all():
        raise HostedError(provider, got=f"scores of {int(seen.sum())} documents", expected=f"of all {n}")
    return values


def _counted(told: Any) -> dict[str, float]:
    """{"tokens", "search_units"} as the provider says."""
    found = number(told, "usage", "total_tokens") or number(told, "meta", "tokens", "input_tokens")
    return {"tokens": found, "search_units": number(told, "meta", "billed_units", "search_units")}
