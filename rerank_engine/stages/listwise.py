"""Large language models that order a list: listwise in windows (RankGPT, RankVicuna, RankZephyr, FIRST), setwise, and pair by pair.

How they ask, what failures and deadlines do, and the facts of their step: see `llm.asking.Asker`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, final

import numpy as np

from ..core import Query, Ranking, Stage
from ..errors import InputError
from ..llm import parse
from ..llm.asking import Asker, DryRun, Model, asker
from ..llm.chat import Ask, Chat, Reply
from ..llm.consensus import borda, kemeny
from ..llm.prompts import PAIRWISE, SETWISE, Template, fitted, template_of
from ..llm.schedules import Places, Schedule, all_pairs, bubble, heap, sliding, tournament
from ..ops.checks import count, one_of

LETTERS_AT_MOST, PROBABILITIES_AT_MOST, DIGITS_AT_MOST = 26, 20, 9  # of numbers the first token may be a digit alone
TOKENS_A_NAME = 5  # of "[12] > " in an answer
TOKENS_A_CHOICE = 8  # of "Passage A"


class _Asking(Protocol):
    """What the stages here have in common, beside the functions below."""

    _asker: Asker


def _apply(self: _Asking, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
    assert rankings is not None
    return self._asker.run(queries, rankings)


def _late(self: _Asking, rankings: Sequence[Ranking]) -> list[Ranking] | None:
    return list(rankings)


def _dry_run(self: _Asking, queries: Sequence[str | Query], rankings: Sequence[Ranking]) -> DryRun:
    """The prompts, the tokens and the cost of `run`, before anything is sent; see `DryRun` for what a heap adds."""
    return self._asker.dry_run(queries, rankings)


@final
class Listwise(Stage):
    """A model is shown a window of passages and says their order. Order only: scores n, n - 1, ..., 1, scale "rank".

    chat: a `Chat`, or a function of messages. template: "rankgpt", "rankvicuna", "rankzephyr", "first", or a llm.prompts.Template.
    method: "sliding": windows of `window` documents from the back of the first `depth` to the front, `step` apart, `passes` times; or
    "tournament": rounds of windows side by side, whose best window - step go on.
    logits: the order is that of the identifiers' probabilities as the first of the answer (FIRST), of a chat that tells them: two tokens
    are written instead of a hundred; "first" implies it. shuffles: each window is asked so often, in its own order and in random ones, and
    `consensus` ("kemeny" or "borda") makes one of the answers (permutation self-consistency) against a bias for places; seed: of these.
    answer_tokens: that the model may write, by default as many as an order takes: one that thinks first needs thousands.
    failed: "keep" the order of a group whose prompt fails for good, or "raise".

    Prompts fit the chat's `context`: passages lose their ends evenly, the query loses nothing. Raises InputError; where failed="raise"
    HostedError and ModelError; Cancelled.
    """

    def __init__(
        self,
        chat: Model,
        *,
        template: str | Template = "rankgpt",
        method: str = "sliding",
        window: int = 20,
        step: int = 10,
        passes: int = 1,
        depth: int = 100,
        logits: bool | None = None,
        shuffles: int = 1,
        consensus: str = "kemeny",
        seed: int = 0,
        answer_tokens: int | None = None,
        failed: str = "keep",
    ) -> None:
        self.template = template_of("Listwise: template", template)
        self.method = one_of("Listwise: method", method, ("sliding", "tournament"))
        self.window, self.step = count("Listwise: window", window), count("Listwise: step", step)
        self.passes, self.shuffles, self.seed = count("Listwise: passes", passes), count("Listwise: shuffles", shuffles), seed
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InputError("Listwise: seed", got=seed, expected="an integer, 0 or more")
        self.answer_tokens = None if answer_tokens is None else count("Listwise: answer_tokens", answer_tokens)
        self.logits = template == "first" if logits is None else logits
        self.consensus = {"kemeny": kemeny, "borda": borda}[one_of("Listwise: consensus", consensus, ("kemeny", "borda"))]
        letters = self.template.identifiers == "letters"
        most = (PROBABILITIES_AT_MOST if letters else DIGITS_AT_MOST) if self.logits else LETTERS_AT_MOST if letters else 10_000
        if not 2 <= self.window <= most:
            raise InputError("Listwise: window", got=window, expected=f"2 to {most} passages with these identifiers")
        if self.step > self.window or (self.method == "tournament" and self.step == self.window):
            raise InputError("Listwise: step", got=step, expected=f"less than the window, {self.window}, so that some go on")
        self._asker = asker("Listwise", chat, depth, failed, self.shuffles, self._schedule, self._asks, self._read)
        self.chat, self.depth, self.backend = self._asker.chat, self._asker.depth, self._asker.chat.name
        _require_likeliest("Listwise", self.chat, self.logits)

    apply, late, dry_run = _apply, _late, _dry_run

    def _schedule(self, order: Places) -> Schedule:
        if self.method == "tournament":
            return tournament(order, self.window, self.step)
        return sliding(order, self.window, self.step, self.passes)

    def _orders(self, n: int, number: int) -> list[Places]:
        """In which orders a window is shown: its own, then random ones."""
        rng = np.random.default_rng([self.seed, n, number])
        return [np.arange(n), *(rng.permutation(n) for _ in range(self.shuffles - 1))]

    def _asks(self, query: str, texts: Sequence[str], number: int) -> list[Ask]:
        most = 2 if self.logits else self.answer_tokens or TOKENS_A_NAME * (len(texts) + 1)
        shown = [[texts[i] for i in order] for order in self._orders(len(texts), number)]
        return [_ask(self.chat, self.template, query, row, most, self.logits) for row in shown]

    def _read(self, replies: Sequence[Reply], n: int, number: int) -> tuple[Places, list[parse.Order]]:
        told, votes = list[parse.Order](), list[Places]()
        for reply, shown in zip(replies, self._orders(n, number), strict=True):
            if reply.error is None:
                told.append(_ordered(reply, n, self.template.identifiers, self.logits))
                votes.append(shown[told[-1].order])
        if len(votes) > 1:
            return self.consensus(np.array(votes)), told
        return (votes[0] if votes else np.arange(n)), told

    def __repr__(self) -> str:
        how = f"window={self.window}, step={self.step}" + (f", passes={self.passes}" if self.passes > 1 else "")
        shuffles = f", shuffles={self.shuffles}" if self.shuffles > 1 else ""
        return f"Listwise({self.chat.name}, {self.method}, {how}, depth={self.depth}{shuffles})"


@final
class Setwise(Stage):
    """A model is shown `ways` passages and names the best; a heap or bubbles of such questions bring the best `top` of the first `depth` to
    the front, the rest keeps its order (Zhuang et al., SIGIR 2024). Order only, scale "rank".

    method: "heap" or "bubble". logits: the letter that is the likeliest first token, of a chat that tells them. answer_tokens, failed: as
    for Listwise. Raises what Listwise does.
    """

    def __init__(
        self,
        chat: Model,
        *,
        method: str = "heap",
        ways: int = 4,
        top: int = 10,
        depth: int = 100,
        logits: bool = False,
        answer_tokens: int = TOKENS_A_CHOICE,
        failed: str = "keep",
    ) -> None:
        self.answer_tokens = count("Setwise: answer_tokens", answer_tokens)
        self.method = one_of("Setwise: method", method, ("heap", "bubble"))
        self.ways, self.top, self.logits = count("Setwise: ways", ways), count("Setwise: top", top), logits
        most = PROBABILITIES_AT_MOST if logits else LETTERS_AT_MOST
        if not 2 <= self.ways <= most:
            raise InputError("Setwise: ways", got=ways, expected=f"2 to {most} passages")
        self._asker = asker("Setwise", chat, depth, failed, 1, self._schedule, self._asks, self._read)
        self.chat, self.depth, self.backend = self._asker.chat, self._asker.depth, self._asker.chat.name
        _require_likeliest("Setwise", self.chat, logits)

    apply, late, dry_run = _apply, _late, _dry_run

    def _schedule(self, order: Places) -> Schedule:
        return (heap if self.method == "heap" else bubble)(order, self.ways, self.top)

    def _asks(self, query: str, texts: Sequence[str], number: int) -> list[Ask]:
        return [_ask(self.chat, SETWISE, query, texts, 2 if self.logits else self.answer_tokens, self.logits)]

    def _read(self, replies: Sequence[Reply], n: int, number: int) -> tuple[Places, list[parse.Order]]:
        if replies[0].error is not None:
            return np.arange(n), []
        told = _ordered(replies[0], n, "letters", True) if self.logits else parse.read_choice(replies[0].text, n)
        return told.order, [told]

    def __repr__(self) -> str:
        return f"Setwise({self.chat.name}, {self.method}, ways={self.ways}, top={self.top}, depth={self.depth})"


@final
class Pairwise(Stage):
    """A model is shown two passages, in both orders, and names the better; who wins only in one place is a tie (Qin et al., NAACL 2024).
    Order only, scale "rank".

    method: "heap" or "bubble" bring the best `top` of the first `depth` to the front; "all" asks for every two, depth * (depth - 1)
    prompts, and orders by wins. answer_tokens, failed: as for Listwise; such a pair is a tie. Raises what Listwise does.
    """

    def __init__(
        self,
        chat: Model,
        *,
        method: str = "heap",
        top: int = 10,
        depth: int = 20,
        answer_tokens: int = TOKENS_A_CHOICE,
        failed: str = "keep",
    ) -> None:
        self.answer_tokens = count("Pairwise: answer_tokens", answer_tokens)
        self.method, self.top = one_of("Pairwise: method", method, ("heap", "bubble", "all")), count("Pairwise: top", top)
        self._asker = asker("Pairwise", chat, depth, failed, 2, self._schedule, self._asks, self._read, _tie)
        self.chat, self.depth, self.backend = self._asker.chat, self._asker.depth, self._asker.chat.name

    apply, late, dry_run = _apply, _late, _dry_run

    def _schedule(self, order: Places) -> Schedule:
        if self.method == "all":
            return all_pairs(order)
        return heap(order, 3, self.top, pairwise=True) if self.method == "heap" else bubble(order, 2, self.top, pairwise=True)

    def _asks(self, query: str, texts: Sequence[str], number: int) -> list[Ask]:
        return [_ask(self.chat, PAIRWISE, query, row, self.answer_tokens, False) for row in (texts, texts[::-1])]

    def _read(self, replies: Sequence[Reply], n: int, number: int) -> tuple[Places, list[parse.Order]]:
        told = [parse.read_choice(reply.text, n) for reply in replies if reply.error is None]
        if len(told) < 2 or any(order.missing for order in told):
            return _tie(n), told
        first, second = int(told[0].order[0]), 1 - int(told[1].order[0])
        return (np.array([first, 1 - first]) if first == second else _tie(n)), told

    def __repr__(self) -> str:
        return f"Pairwise({self.chat.name}, {self.method}, top={self.top}, depth={self.depth})"


def _tie(n: int) -> Places:
    return np.zeros(1, np.int64)


def _ask(chat: Chat, template: Template, query: str, texts: Sequence[str], most: int, logits: bool) -> Ask:
    room = None if chat.context is None else chat.context - most
    return Ask(tuple(fitted(template, query, texts, room, chat.count, chat.reserved)), most, PROBABILITIES_AT_MOST if logits else 0)


def _ordered(reply: Reply, n: int, identifiers: str, logits: bool) -> parse.Order:
    if not logits:
        return parse.read_order(reply.text, n, identifiers)
    # An answer may open its bracket in a token of its own: the identifier is then the second.
    found = [parse.order_by(place, n, identifiers) for place in reply.likeliest[:2]]
    return min(found, key=lambda order: order.missing) if found else parse.read_order("", n, identifiers)


def _require_likeliest(what: str, chat: Chat, logits: bool) -> None:
    if logits and not chat.tells_likeliest:
        raise InputError(f"{what}: logits", got=repr(chat), expected="a chat that tells probabilities: Chat.openai, Chat.local")
