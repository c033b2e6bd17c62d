"""Texts in, a ranked answer out, for one request among many: admission, tokens, the scheduler, what is told of each document."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core import Query, Ranking, Scorer, with_tail
from ..corpus import Corpus
from ..errors import InputError
from ..limits import limited
from ..stages.colbert import ColBERT
from ..stages.cross import sigmoid
from ..stages.seq2seq import READERS
from .scheduler import Job, Scheduler, stopping

Calls = Callable[[int, int], None]

CHARS_A_TOKEN = 4.0  # of the estimate that admission goes by, before a text is tokenised
SPECIAL = 3
TOGETHER = 64  # documents that become tokens at a time
FEW, FEW_CHARS = 4, 1024  # documents and characters of a request that is prepared at once, in the thread that reads requests


class OutOfTime(Exception):
    """The deadline passed before a single document was scored."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """order int64 [n]: documents by their place in the request, best first. scores float64 [n] in that order, of `scale`, in [0, 1] for
    "probability". By place in the request: scored bool [n], whether the time sufficed, those it did not keep their old order behind the
    others; truncated int32 [n], tokens that were cut off. tokens: read. seconds: of "tokenization", "queue", "inference"."""

    order: NDArray[np.int64]
    scores: NDArray[np.float64]
    scale: str
    scored: NDArray[np.bool_]
    truncated: NDArray[np.int32]
    tokens: int
    seconds: dict[str, float]


@dataclass
class Room:
    """Tokens of a request that wait for its jobs."""

    left: int

    def take(self, tokens: int) -> int:
        taken = min(tokens, self.left)
        self.left -= taken
        return taken


def is_small(query: str, texts: Sequence[str]) -> bool:
    """Whether its tokens are counted sooner than a thread is woken."""
    return len(texts) <= FEW and len(texts) * len(query) + sum(map(len, texts)) <= FEW_CHARS


class Service:
    """One scorer behind a scheduler. spans: a late-interaction model that tells which words of a document were met; by default the scorer,
    if it is one. told(name, **values): of waves and of tokenization, for metrics."""

    def __init__(
        self,
        scorer: Scorer,
        *,
        spans: ColBERT | None = None,
        told: Callable[..., None] | None = None,
        calls: Calls | None = None,
        **schedule: Any,
    ) -> None:
        self.scorer = scorer
        self.spans = spans if spans is not None else scorer if isinstance(scorer, ColBERT) else None
        self._calls = calls
        self.scheduler = Scheduler(scorer, told=told, calls=calls, **schedule)
        self.pool, self._span_pool = ThreadPoolExecutor(2, "rerank-tokens"), ThreadPoolExecutor(1, "rerank-spans")
        self._tokenizer: Any = getattr(scorer, "tokenizer", None)
        self.limit = int(getattr(self._tokenizer, "max_length", 512))

    @property
    def model(self) -> str:
        return str(getattr(self.scorer, "model", self.scorer.name))

    def warm(self) -> None:
        """A first job, so that the pace is known and what is loaded lazily is there."""
        job = Job(Query("what is this"), Corpus.from_texts(["a first document"] * 2), np.full(2, 12, np.int64))
        self.scheduler.submit(job, 0)
        job.done.result()

    @contextmanager
    def room(self, tokens: int) -> Iterator[Room]:
        """Admits a whole request: so many tokens count as waiting until its jobs have taken them, or the block ends. Raises Overloaded."""
        self.scheduler.admit(tokens)
        made = Room(tokens)
        try:
            yield made
        finally:
            self.scheduler.release(made.take(made.left))

    async def rank(
        self,
        query: str,
        texts: Sequence[str],
        room: Room,
        *,
        raw: bool = False,
        most_tokens: int | None = None,
        refuse_long: bool = False,
        priority: int = 0,
        until: float | None = None,
        small: bool = False,
    ) -> Ranked:
        """room: the request's. raw: logits, not their sigmoid. most_tokens: of a document; refuse_long: a document that does not fit is an
        error. until: a time of `time.monotonic()`; then what is there is the answer. small: the whole request is, see `is_small`.

        A task that runs it may be cancelled: its work is forgotten then. Raises InputError, Overloaded, OutOfTime, what the scorer raises.
        """
        if not query.strip():
            raise InputError("query", got="an empty text", expected="a question")
        begun = time.monotonic()
        corpus, costs, cut = await self._prepared(query, texts, most_tokens, refuse_long, small)
        job = Job(Query(query), corpus, costs, priority, until=until)
        read = time.monotonic() - begun
        self.scheduler.submit(job, room.take(self.estimate(query, texts)))
        try:
            left = None if until is None else max(0.0, until - time.monotonic())
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(job.done)), left)  # `drop` alone cancels it
        except (asyncio.TimeoutError, TimeoutError):
            pass
        finally:
            self.scheduler.drop(job)
        if len(texts) and not job.scored.any():
            raise OutOfTime
        if refuse_long and job.truncated.any():  # of a scorer that tells only afterwards
            raise _too_long(int(np.flatnonzero(job.truncated)[0]), int(job.truncated.max()))
        seconds = {"tokenization": read, "queue": job.waited, "inference": job.worked}
        return _ranked(job, cut, raw, seconds)

    def estimate(self, query: str, texts: Sequence[str]) -> int:
        """Tokens, before they are counted."""
        own = len(query) / CHARS_A_TOKEN + SPECIAL
        return int(sum(min(own + len(text) / CHARS_A_TOKEN, self.limit) for text in texts)) + 1

    async def _prepared(
        self, query: str, texts: Sequence[str], most: int | None, refuse_long: bool, small: bool
    ) -> tuple[Corpus, NDArray[np.int64], NDArray[np.int32]]:
        """(the documents, tokens of each with the query, tokens that `most` cut off). A cross-encoder's tokenizer remembers them. Some at a
        time, so that those of other requests come in between."""
        if small:  # sooner done than handed over
            kept, costs, cut = self._prepare(query, texts, 0, most, refuse_long)
            return Corpus.from_texts(kept), costs, cut
        loop, parts = asyncio.get_running_loop(), list[tuple[list[str], NDArray[np.int64], NDArray[np.int32]]]()
        for start in range(0, len(texts), TOGETHER):
            part = texts[start : start + TOGETHER]
            parts.append(await loop.run_in_executor(self.pool, self._prepare, query, part, start, most, refuse_long))
        kept = [text for part, _, _ in parts for text in part]
        empty = np.empty(0, np.int64)
        costs, cut = (np.concatenate([empty, *(part[i] for part in parts)]) for i in (1, 2))
        return Corpus.from_texts(kept), costs, cut.astype(np.int32)

    def _prepare(
        self, query: str, texts: Sequence[str], start: int, most: int | None, refuse_long: bool
    ) -> tuple[list[str], NDArray[np.int64], NDArray[np.int32]]:
        kept, cut = list(texts), np.zeros(len(texts), np.int32)
        if most is not None and most < self.limit and self._tokenizer is not None:
            for i, (tokens, starts) in enumerate(self._tokenizer.with_starts(kept)):
                if len(tokens) > most:
                    kept[i], cut[i] = kept[i][: int(starts[most])], len(tokens) - most
        if not isinstance(self.scorer, READERS):
            return kept, np.array([self.estimate(query, [text]) for text in kept], np.int64), cut
        costs, dropped = self.scorer.counted([Query(query)], [Ranking.in_order(Corpus.from_texts(kept))])[0]
        if refuse_long and dropped.any():
            row = int(np.flatnonzero(dropped)[0])
            raise _too_long(start + row, int(dropped[row]))
        return kept, costs, cut

    async def relevant_spans(
        self, query: str, texts: Sequence[str], threshold: float, most: int | None, until: float | None = None
    ) -> list[list[dict[str, Any]]]:
        """Of each text [{"start", "end", "score"}], code points, the highest first: what of the text the query's words met, as a share of
        all its words, at least `threshold`; none where `until` came first. Raises InputError where no late-interaction model is served."""
        model, gone = self.span_model(), threading.Event()

        def found(text: str) -> list[dict[str, Any]]:
            if self.scheduler.over:
                raise stopping()
            if gone.is_set() or (until is not None and time.monotonic() >= until):
                return []
            with limited(calls=self._calls):
                told = model.explain_by(query, text) if text.strip() else None
            asked = sum(match.query_end > match.query_start for match in told.matches) if told else 1
            spans = [{**span, "score": min(1.0, max(0.0, span["score"] / max(1, asked)))} for span in (told.relevant_spans if told else ())]
            return [span for span in spans if span["score"] >= threshold][:most]

        loop = asyncio.get_running_loop()
        try:  # one at a time, so that those of other requests come in between
            return [await loop.run_in_executor(self._span_pool, found, text) for text in texts]
        finally:
            gone.set()

    def span_model(self) -> ColBERT:
        """Raises InputError where no late-interaction model is served."""
        if self.spans is None:
            hint = "Start the server with --spans answerai-colbert-small-v1."
            raise InputError("relevant_spans", got="no late-interaction model", expected="one", hint=hint)
        return self.spans

    def close(self) -> None:
        self.scheduler.close()
        for pool in (self.pool, self._span_pool):
            pool.shutdown(wait=False, cancel_futures=True)


def _too_long(document: int, tokens: int) -> InputError:
    got = f"{tokens} tokens more than fit beside the query"
    return InputError(f"document {document}", got=got, expected="one that fits", hint="Ask for truncation, or shorten it.")


def _ranked(job: Job, cut: NDArray[np.int32], raw: bool, seconds: dict[str, float]) -> Ranked:
    read, unread = np.flatnonzero(job.scored), np.flatnonzero(~job.scored)
    best = read[np.lexsort((read, -job.values[read].astype(np.float64)))]
    scores, scale = with_tail(job.values[best], len(unread)).astype(np.float64), job.scale
    if scale == "logit" and not raw:  # the order is that of the float32 logits: where probabilities meet at 1 it still holds
        scores, scale = sigmoid(scores), "probability"
    return Ranked(np.concatenate([best, unread]), scores, scale, job.scored.copy(), job.truncated + cut, job.tokens, seconds)
