"""Lists ordered by asking a language model about groups of their documents: all queries side by side, a round of groups at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core import Query, Ranking
from ..errors import InputError
from ..limits import limits
from ..ops.checks import count, one_of
from ..trace import reach
from .chat import Ask, Chat, Reply
from .parse import Order
from .prompts import Message, tokens_of
from .schedules import Places, Schedule, rounds_of

Model = Chat | Callable[[list[Message]], str]


@dataclass(frozen=True)
class DryRun:
    """What a run would ask where every answer leaves the order as it is. prompts: those of the first query; tokens: as the model's own
    counter or an estimate has them, of answers at most; cost: by the chat's prices, at most. As a string: the sums, and a prompt."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    prompts: tuple[tuple[Message, ...], ...] = field(repr=False)

    def __str__(self) -> str:
        told = f"{self.calls:,} calls, {self.prompt_tokens:,} tokens of prompts, at most {self.completion_tokens:,} of answers"
        first = "\n".join(f"{message['role']}: {message['content']}" for message in (self.prompts[0] if self.prompts else ()))
        return f"{told}, at most {self.cost:.4g} by the prices given. The first prompt:\n\n{first}"


@dataclass(eq=False)
class _Work:
    """A query's list while it is asked about. head: its rows; order: int64, places of head, best first."""

    query: Query
    ranking: Ranking
    head: NDArray[np.int64]
    order: Places
    schedule: Schedule
    answers: Sequence[Places] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    done: bool = False


@dataclass(frozen=True, eq=False)
class Asker:
    """Of the first `depth` documents of each list. schedule(order): see `schedules`; asks(query, texts, number): the `each` prompts of one
    group, number: of the group in its round; read(replies, n, number): the order that they give a group of n, and what was read of each.

    failed: what becomes of a group whose prompts fail for good: "keep": it keeps its order, but where the first prompts have no answer at
    all the error is raised; "raise". At a deadline the lists stay as they are by then.
    Facts of the step, those above 0: {"calls", "cached", "failed", "ok", "malformed", "unreadable", "refused", "repeated", "invented",
    "missing" (see parse.Order), "cut": answers that ended at their most tokens, "prompt_tokens", "completion_tokens", "cost"}.
    """

    chat: Chat
    depth: int
    failed: str
    each: int
    schedule: Callable[[Places], Schedule]
    asks: Callable[[str, Sequence[str], int], list[Ask]]
    read: Callable[[Sequence[Reply], int, int], tuple[Places, list[Order]]]

    def dry_run(self, queries: Sequence[str | Query], rankings: Sequence[Ranking]) -> DryRun:
        """Nothing is sent. Raises InputError."""
        if len(queries) != len(rankings) or isinstance(queries, str):
            raise InputError("dry_run", got=f"{len(queries)} queries and {len(rankings)} rankings", expected="one ranking per query")
        calls = prompt = answer = 0
        shown: list[tuple[Message, ...]] = []
        for i, work in enumerate(self._works([Query(q) if isinstance(q, str) else q for q in queries], rankings)):
            for groups in rounds_of(work.schedule):
                for number, group in enumerate(groups):
                    asks = self.asks(work.query.text, self._texts(work, group), number)
                    calls += len(asks)
                    prompt += sum(tokens_of(ask.messages, self.chat.count) for ask in asks)
                    answer += sum(ask.most for ask in asks)
                    shown += [ask.messages for ask in asks if i == 0]
        return DryRun(calls, prompt, answer, self.chat.cost(prompt, answer), tuple(shown))

    def run(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Ranking]:
        """Raises HostedError and ModelError where failed="raise", InputError, Cancelled."""
        works, report = self._works(queries, rankings), limits().progress
        total = sum(sum(1 for _ in rounds_of(work.schedule)) for work in self._works(queries, rankings)) if report else 0
        while not limits().out_of_time() and (rounds := [(work, groups) for work in works if (groups := _next(work))]):
            limits().check()
            self._round(rounds)
            if report:  # how many rounds a heap takes is known at its end
                report(min(sum(work.rounds for work in works), total - 1), total)
        if report and total:
            report(total, total)
        return [self._made(work) for work in works]

    def _works(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[_Work]:
        orders = [np.arange(min(self.depth, len(ranking))) for ranking in rankings]
        return [
            _Work(query, ranking, ranking.ids[: self.depth], order, self.schedule(order))
            for query, ranking, order in zip(queries, rankings, orders, strict=True)
        ]

    @staticmethod
    def _texts(work: _Work, group: Places) -> list[str]:
        return work.ranking.corpus.texts(work.head[work.order[group]])

    def _round(self, rounds: Sequence[tuple[_Work, list[Places]]]) -> None:
        asks = [
            ask
            for work, groups in rounds
            for number, group in enumerate(groups)
            for ask in self.asks(work.query.text, self._texts(work, group), number)
        ]
        replies, at = self.chat.ask(asks), 0
        wrong = [reply.error for reply in replies if reply.error is not None and not reply.late]
        before = any(work.counts["calls"] + work.counts["cached"] for work, _ in rounds)
        if wrong and (self.failed == "raise" or (len(wrong) == len(replies) and not before)):
            raise wrong[0]
        for work, groups in rounds:
            answers = []
            for number, group in enumerate(groups):
                answers.append(self._answer(work, replies[at : at + self.each], len(group), number))
                at += self.each
            work.answers = answers

    def _answer(self, work: _Work, replies: Sequence[Reply], n: int, number: int) -> Places:
        counts = work.counts
        for reply in replies:
            counts["failed" if reply.error is not None else "cached" if reply.cached else "calls"] += 1
            if reply.error is None and not reply.cached:
                counts["prompt_tokens"] += reply.prompt_tokens
                counts["completion_tokens"] += reply.completion_tokens
            counts["cut"] += reply.cut
        places, told = self.read(replies, n, number)
        for order in told:
            counts[order.kind] += 1
            for name in ("repeated", "invented", "missing"):
                counts[name] += getattr(order, name)
        return places

    def _made(self, work: _Work) -> Ranking:
        n, counts = len(work.ranking), work.counts
        places = np.concatenate([work.order, np.arange(len(work.order), n)])
        facts: dict[str, Any] = {name: value for name, value in counts.items() if value}
        facts["cost"] = self.chat.cost(counts["prompt_tokens"], counts["completion_tokens"])
        scores = np.arange(n, 0, -1).astype(np.float32)
        return work.ranking._pick(places, scores=scores, scale="rank", facts={**facts, **reach(int(work.done), 1)}, notes={})


def asker(
    what: str,
    chat: Model,
    depth: int,
    failed: str,
    each: int,
    schedule: Callable[[Places], Schedule],
    asks: Callable[[str, Sequence[str], int], list[Ask]],
    read: Callable[[Sequence[Reply], int, int], tuple[Places, list[Order]]],
) -> Asker:
    """Raises InputError."""
    depth, failed = count(f"{what}: depth", depth), one_of(f"{what}: failed", failed, ("keep", "raise"))
    return Asker(chat if isinstance(chat, Chat) else Chat(chat), depth, failed, each, schedule, asks, read)


def _next(work: _Work) -> list[Places]:
    """The next round of a list, none where it is done."""
    if work.done:
        return []
    try:
        groups = next(work.schedule) if work.answers is None else work.schedule.send(work.answers)
    except StopIteration:
        work.done = True
        return []
    work.rounds += 1
    return groups
