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

TOGETHER = 64  # groups whose prompts are made at a time
DEAD = 2  # rounds one after the other that nobody answers

Model = Chat | Callable[[list[Message]], str]


@dataclass(frozen=True)
class DryRun:
    """What a run asks where every answer leaves the order as it is: all of windows, tournaments, bubbles and pairs; a heap asks for more
    where the order is worse. prompts: those of the first query; tokens: as the model's own counter or an estimate has them, of answers at
    most; cost: by the chat's prices. As a string: the sums, and a prompt."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    prompts: tuple[tuple[Message, ...], ...] = field(repr=False)

    def __str__(self) -> str:
        told = f"{self.calls:,} calls, about {self.prompt_tokens:,} tokens of prompts and at most {self.completion_tokens:,} of answers"
        first = "\n".join(f"{message['role']}: {message['content']}" for message in (self.prompts[0] if self.prompts else ()))
        return f"{told}, about {self.cost:.4g} by the prices given. The first prompt:\n\n{first}"


@dataclass(eq=False)
class _Work:
    """A query's list while it is asked about. head: its rows; order: int64, places of head, best first."""

    query: Query
    ranking: Ranking
    head: NDArray[np.int64]
    order: Places
    schedule: Schedule
    groups: list[Places] = field(default_factory=list)  # of the round that comes next, none where it is done
    counts: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    late: bool = False  # something was not got to in time

    def go_on(self, answers: Sequence[Places] | None) -> None:
        """To the next round; one of single documents needs no answer."""
        try:
            self.groups = next(self.schedule) if answers is None else self.schedule.send(answers)
            while all(len(group) == 1 for group in self.groups):
                self.groups = self.schedule.send([np.arange(1) for _ in self.groups])
        except StopIteration:
            self.groups = []
        else:
            self.rounds += 1


@dataclass(frozen=True, eq=False)
class Asker:
    """Of the first `depth` documents of each list. schedule(order): see `schedules`; asks(query, texts, number): the `each` prompts of one
    group, number: of the group in its round; read(replies, n, number): the order that they give a group of n, and what was read of each.

    failed: what becomes of a group whose prompts fail for good: "keep": it keeps its order, but where the first prompts have no answer at
    all the error is raised, and after two rounds without any the rest is left undone; "raise". At a deadline the lists stay as they are.
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
    unknown: Callable[[int], Places] = np.arange  # of a group of n that was not got to

    def dry_run(self, queries: Sequence[str | Query], rankings: Sequence[Ranking]) -> DryRun:
        """Nothing is sent. Raises InputError."""
        if len(queries) != len(rankings) or isinstance(queries, str):
            raise InputError("dry_run", got=f"{len(queries)} queries and {len(rankings)} rankings", expected="one ranking per query")
        calls = prompt = answer = 0
        shown: list[tuple[Message, ...]] = []
        for i, work in enumerate(self._works([Query(q) if isinstance(q, str) else q for q in queries], rankings, begun=False)):
            for groups in rounds_of(work.schedule):
                for number, group in enumerate(groups):
                    asks = self._asks_of(work, group, number) if len(group) > 1 else []
                    calls += len(asks)
                    prompt += sum(tokens_of(ask.messages, self.chat.count) for ask in asks)
                    answer += sum(ask.most for ask in asks)
                    shown += [ask.messages for ask in asks if i == 0]
        return DryRun(calls, prompt, answer, self.chat.cost(prompt, answer), tuple(shown))

    def run(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Ranking]:
        """Raises HostedError and ModelError where failed="raise", InputError, Cancelled."""
        works, report, dead = self._works(queries, rankings), limits().progress, 0
        total = sum(sum(1 for _ in rounds_of(work.schedule)) for work in self._works(queries, rankings, begun=False)) if report else 0
        while not limits().out_of_time() and (left := [work for work in works if work.groups]) and dead < DEAD:
            limits().check()
            dead = 0 if self._round(left, works) else dead + 1
            if report:  # how many rounds a heap takes is known at its end
                report(min(sum(work.rounds for work in works), total - 1), total)
        if report and total:
            report(total, total)
        return [self._made(work) for work in works]

    def _works(self, queries: Sequence[Query], rankings: Sequence[Ranking], begun: bool = True) -> list[_Work]:
        works = []
        for query, ranking in zip(queries, rankings, strict=True):
            order = np.arange(min(self.depth, len(ranking)))
            works.append(_Work(query, ranking, ranking.ids[: self.depth], order, self.schedule(order)))
            if begun:
                works[-1].go_on(None)
        return works

    @staticmethod
    def _texts(work: _Work, group: Places) -> list[str]:
        return work.ranking.corpus.texts(work.head[work.order[group]])

    def _round(self, left: Sequence[_Work], works: Sequence[_Work]) -> bool:
        """Asks what comes next of each list; a group that is not got to in time keeps its order. False where nothing was answered."""
        answers = [[self.unknown(len(group)) for group in work.groups] for work in left]
        items = [(i, number) for i, work in enumerate(left) for number, group in enumerate(work.groups) if len(group) > 1]
        answered = False
        for start in range(0, len(items), TOGETHER):
            if limits().out_of_time():
                for i, _ in items[start:]:
                    left[i].late = True
                break
            limits().check()
            part = items[start : start + TOGETHER]
            asks = [ask for i, number in part for ask in self._asks_of(left[i], left[i].groups[number], number)]
            replies = self.chat.ask(asks)
            self._require_answers(replies, works)
            answered = answered or any(reply.error is None or reply.late for reply in replies)
            for k, (i, number) in enumerate(part):
                own = replies[k * self.each : (k + 1) * self.each]
                answers[i][number] = self._answer(left[i], own, len(left[i].groups[number]), number)
        for work, found in zip(left, answers):
            work.go_on(found)
        return answered

    def _asks_of(self, work: _Work, group: Places, number: int) -> list[Ask]:
        try:
            return self.asks(work.query.text, self._texts(work, group), number)
        except InputError as error:
            raise InputError(f"query {work.query.id or work.query.text[:40]!r}", got=str(error), expected="prompts that fit") from error

    def _require_answers(self, replies: Sequence[Reply], works: Sequence[_Work]) -> None:
        wrong = [reply.error for reply in replies if reply.error is not None and not reply.late]
        before = any(work.counts["calls"] + work.counts["cached"] for work in works)
        if wrong and (self.failed == "raise" or (len(wrong) == len(replies) and not before)):
            raise wrong[0]

    def _answer(self, work: _Work, replies: Sequence[Reply], n: int, number: int) -> Places:
        counts = work.counts
        for reply in replies:
            counts["failed" if reply.error is not None else "cached" if reply.cached else "calls"] += 1
            if reply.error is None and not reply.cached:
                counts["prompt_tokens"] += reply.prompt_tokens
                counts["completion_tokens"] += reply.completion_tokens
            counts["cut"] += reply.cut and not reply.likeliest
            work.late = work.late or reply.late
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
        return work.ranking._pick(
            places, scores=scores, scale="rank", facts={**facts, **reach(int(not work.groups and not work.late), 1)}, notes={}
        )


def asker(
    what: str,
    chat: Model,
    depth: int,
    failed: str,
    each: int,
    schedule: Callable[[Places], Schedule],
    asks: Callable[[str, Sequence[str], int], list[Ask]],
    read: Callable[[Sequence[Reply], int, int], tuple[Places, list[Order]]],
    unknown: Callable[[int], Places] = np.arange,
) -> Asker:
    """Raises InputError."""
    depth, failed = count(f"{what}: depth", depth), one_of(f"{what}: failed", failed, ("keep", "raise"))
    return Asker(chat if isinstance(chat, Chat) else Chat(chat), depth, failed, each, schedule, asks, read, unknown)
