"""Sequence-to-sequence re-rankers: a T5 is asked in words, and the first token of its answer is the score.

monoT5 and RankT5 score a document alone, duoT5 says which of two is the more relevant. None of them writes text: one decoder step is run,
and of its logits only those of the answers are computed (runtimes.t5). Expando-Mono-Duo is a pipeline of these: docs/seq2seq.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Protocol, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core import LOWEST, Query, Ranking, Scorer, Scores, Stage, with_tail
from ..errors import InputError
from ..limits import limits
from ..ops.checks import all_finite, count, floats, one_of
from ..progress import Progress
from ..runtimes.base import Runtime, check_finite, describe
from ..runtimes.batching import run_until
from ..runtimes.t5_prompts import PROMPTS, T5Prompt, TemplateTokenizer, t5_prompt
from ..runtimes.tokenize import Tokenizer
from ..trace import reach
from .calibration import sigmoid
from .cross import CrossEncoder, require_texts
from .score_cache import ScoreCache

TOGETHER = 10_000  # comparisons that become tokens at a time
AGGREGATIONS = ("sum", "sum-log", "sym-sum", "sym-sum-log", "binary", "min", "max")


class _Reading(Protocol):
    """What MonoT5 and RankT5 have in common, beside the functions below."""

    _reader: CrossEncoder


def _predict(self: _Reading, pairs: Sequence[tuple[str, str]], *, progress: Progress | None = None) -> Scores:
    """See CrossEncoder.predict."""
    require_texts(f"{type(self).__name__}.predict", pairs, ("query", "document"))
    return self._reader.predict(pairs, progress=progress)


def _score(self: _Reading, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Scores]:
    return self._reader.score(queries, rankings)


def _count_tokens(self: _Reading, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[NDArray[np.int64]]:
    """See CrossEncoder.count_tokens."""
    return self._reader.count_tokens(queries, rankings)


def _counted(self: _Reading, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[tuple[NDArray[np.int64], NDArray[np.int32]]]:
    """See CrossEncoder.counted."""
    return self._reader.counted(queries, rankings)


@final
class MonoT5(Scorer):
    """score(query, document) = logit(true) - logit(false) of the first token that the model would write, float32 (Nogueira et al. 2020).

    The paper's score, the softmax over the two, is the sigmoid of it: the same order, and here without its ties near 1; `sigmoid` and
    `activation="sigmoid"` give it. Blank documents, deadlines, columns, facts, cache and errors: as for CrossEncoder.
    long: "truncate" or "error". prompt: with two answers, ▁true and ▁false where it names none. Made by `rr.load(..., prompt="monot5")`.
    """

    timely = True

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer,
        *,
        name: str,
        prompt: T5Prompt = PROMPTS["monot5"],
        long: str = "truncate",
        cache: int | ScoreCache = 0,
    ) -> None:
        self.prompt = _resolved("MonoT5", prompt, documents=1, answers=2)
        self._reader = _reader(runtime, tokenizer, name, self.prompt, long, cache)
        self.runtime, self.tokenizer, self.model, self.backend = runtime, tokenizer, name, self._reader.backend

    predict, score, count_tokens, counted = _predict, _score, _count_tokens, _counted

    def __repr__(self) -> str:
        return f"MonoT5({self.model}, {self.backend})"


@final
class RankT5(Scorer):
    """score(query, document) = the logit of the ranking token, <extra_id_10>, at the first decoder step, float32 (Zhuang et al. 2022).

    It was trained as a score: its sigmoid is no probability. Otherwise as MonoT5. prompt: with one answer.
    Made by `rr.load(..., prompt="rankt5")`.
    """

    timely = True

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer,
        *,
        name: str,
        prompt: T5Prompt = PROMPTS["rankt5"],
        long: str = "truncate",
        cache: int | ScoreCache = 0,
    ) -> None:
        self.prompt = _resolved("RankT5", prompt, documents=1, answers=1)
        self._reader = _reader(runtime, tokenizer, name, self.prompt, long, cache)
        self.runtime, self.tokenizer, self.model, self.backend = runtime, tokenizer, name, self._reader.backend

    predict, score, count_tokens, counted = _predict, _score, _count_tokens, _counted

    def __repr__(self) -> str:
        return f"RankT5({self.model}, {self.backend})"


READERS = (CrossEncoder, MonoT5, RankT5)  # scorers that read a pair at a time, and have `predict` and `counted`


def _resolved(what: str, prompt: T5Prompt, documents: int, answers: int) -> T5Prompt:
    """The prompt with its answers. Raises InputError for one of another kind of model."""
    found = t5_prompt(prompt, None, multilingual=False)
    if (len(found.documents), len(found.answers or ())) != (documents, answers):
        raise InputError(f"{what}: prompt", got=prompt, expected=f"one with documents: {documents}, answers: {answers}")
    return found


def _reader(runtime: Runtime, tokenizer: Tokenizer, name: str, prompt: T5Prompt, long: str, cache: int | ScoreCache) -> CrossEncoder:
    """What batches, caches and keeps time for a network that gives a logit a pair. The prompt stands in the cache's keys."""
    one_of("long", long, ("truncate", "error"))
    return CrossEncoder(runtime, tokenizer, name=name, long=long, cache=cache, pairs=TemplateTokenizer(tokenizer, prompt))


@dataclass(frozen=True, eq=False)
class Preferences:
    """Of n comparisons. logits float32 [n]: of the first document being the more relevant, NaN where time was up before; done bool [n];
    dropped int32 [n, 2]: tokens cut off each document; tokens int64 [n]: what the network was given for each."""

    logits: NDArray[np.float32]
    done: NDArray[np.bool_]
    dropped: NDArray[np.int32]
    tokens: NDArray[np.int64]


@final
class PairwiseT5:
    """Says which of two documents is the more relevant: logit(true) - logit(false), whose sigmoid is P(first before second) (Pradeep,
    Nogueira, Lin 2021). What `rr.load(..., prompt="duot5")` makes; `DuoT5` ranks by it.

    long: "truncate" (both documents evenly, see TemplateTokenizer) or "error". prompt: with two documents and two answers.
    """

    def __init__(
        self, runtime: Runtime, tokenizer: Tokenizer, *, name: str, prompt: T5Prompt = PROMPTS["duot5"], long: str = "truncate"
    ) -> None:
        self.prompt, self.long = _resolved("PairwiseT5", prompt, documents=2, answers=2), one_of("long", long, ("truncate", "error"))
        self.runtime, self.tokenizer, self.model, self.backend = runtime, tokenizer, name, describe(runtime)
        self._texts = TemplateTokenizer(tokenizer, self.prompt)

    def compare(
        self, triples: Sequence[tuple[str, str, str]], *, priority: NDArray[np.int64] | None = None, progress: Progress | None = None
    ) -> Preferences:
        """Of (query, first, second) triples, none of which should be blank; priority: which come first under a deadline, see run_until.

        Raises InputError (an empty query, not strings), QueryTooLongError (no token of each document fits), NonFiniteError, Cancelled.
        """
        require_texts("PairwiseT5.compare", triples, ("query", "first", "second"))
        tokens, dropped = self._texts.encode_texts(triples, long=self.long)
        logits, done = run_until(self.runtime, tokens, "logits", lambda out, _: out.reshape(-1), priority=priority, progress=progress)
        check_finite(np.where(done, logits, 0), self.model)
        return Preferences(logits, done, dropped, tokens.ids.lengths * done)

    def __repr__(self) -> str:
        return f"PairwiseT5({self.model}, {self.backend})"


@final
class DuoT5(Stage):
    """Re-orders the first `depth` documents by comparing each with each, in both orders: depth (depth - 1) comparisons.

    aggregation: how the probabilities become a document's score, see `duo_scores`, and the scale of the answer ("duo sym-sum"). Documents
    that tie keep their order, blank ones are not compared and stand behind the others; the rest keeps its order, with synthetic scores
    below. Column truncated_tokens: the most that was cut off a document in any comparison. Facts: {"pairs": compared, "tokens": their
    tokens}. Comparisons of several queries, some thousands of them, are batched together, without padding.

    Under a deadline the comparisons go from the top: of 1 with 2, then of 3 with both, and so on. The first m documents whose comparisons
    with each other were all made are ordered by these; the others keep their order behind, and the column `scored` tells them apart.
    """

    def __init__(self, model: PairwiseT5, depth: int = 50, *, aggregation: str = "sym-sum") -> None:
        if not hasattr(model, "compare"):
            expected = "what rr.load(..., prompt='duot5') gives"
            raise InputError("DuoT5: model", got=type(model).__name__, expected=expected)
        self.model, self.depth = model, count("DuoT5: depth", depth)
        self.aggregation = one_of("DuoT5: aggregation", aggregation, AGGREGATIONS)
        self.backend = model.backend

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        assert rankings is not None
        out, start = list[Ranking](), 0
        while start < len(rankings):
            end, pairs = start, 0
            while end < len(rankings) and (end == start or pairs + min(self.depth, len(rankings[end])) ** 2 <= TOGETHER):
                pairs += min(self.depth, len(rankings[end])) ** 2
                end += 1
            out += self._compared(queries[start:end], rankings[start:end])
            start = end
        return out

    def _compared(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Ranking]:
        if limits().out_of_time():
            return [one._with(facts=reach(0, min(self.depth, len(one)))) for one in self.late(rankings)]
        texts = [ranking.corpus.texts(ranking.ids[: self.depth]) for ranking in rankings]
        full = [np.array([i for i, text in enumerate(row) if text.strip()], np.int64) for row in texts]
        triples, priority, ends = list[tuple[str, str, str]](), list[int](), [0]
        for query, row, rows in zip(queries, texts, full):
            for i, j in permutations(range(len(rows)), 2):
                triples.append((query.text, row[rows[i]], row[rows[j]]))
                priority.append(max(i, j))
            ends.append(len(triples))
        found = self.model.compare(triples, priority=np.array(priority, np.int64))
        return [
            self._ordered(ranking, min(self.depth, len(ranking)), rows, found, slice(*ends[i : i + 2]))
            for i, (ranking, rows) in enumerate(zip(rankings, full))
        ]

    def late(self, rankings: Sequence[Ranking]) -> list[Ranking]:
        return [ranking._with(columns={**ranking.columns, "scored": np.zeros(len(ranking), bool)}) for ranking in rankings]

    def _ordered(self, ranking: Ranking, n: int, full: NDArray[np.int64], found: Preferences, part: slice) -> Ranking:
        """full: the places of its n first documents that are not blank; part: its comparisons."""
        m, logits, done, dropped = len(full), found.logits[part], found.done[part], found.dropped[part]
        apart = ~np.eye(m, dtype=bool)  # row by row, as the comparisons are ordered
        known, table, first, second = np.ones((m, m), bool), np.zeros((m, m), np.float32), *np.zeros((2, m, m), np.int32)
        known[apart], table[apart] = done, np.where(done, logits, 0)
        first[apart], second[apart] = (dropped * done[:, None]).T
        open_ = np.flatnonzero(np.tril(~(known & known.T)).any(1))  # not compared with each of those before
        reached = int(open_[0]) if len(open_) else m
        facts = {"pairs": int(done.sum()), "tokens": int(found.tokens[part].sum())}
        if reached < min(m, 2):  # nothing was compared in time
            return self.late([ranking])[0]._with(facts={**facts, **reach(0, n)})
        scores = duo_scores(table[:reached, :reached], self.aggregation)
        best = full[np.argsort(-scores, kind="stable")]
        rest = np.setdiff1d(np.arange(len(ranking)), best)
        places = np.concatenate([best, rest])
        columns = {name: column[places] for name, column in ranking.columns.items()}
        truncated = np.array(ranking.columns.get("truncated_tokens", np.zeros(len(ranking))), np.int32)
        truncated[full[:reached]] = np.maximum(first.max(1, initial=0), second.max(0, initial=0))[:reached]
        columns["truncated_tokens"] = truncated[places]
        if limits().deadline is not None:
            columns["scored"] = np.isin(places, best) | ((places < n) & (reached == m))
        values = with_tail(np.clip(np.sort(scores)[::-1], LOWEST, -LOWEST).astype(np.float32), len(rest))
        facts |= reach(n if reached == m else reached, n)
        return ranking._with(ids=ranking.ids[places], scores=values, scale=f"duo {self.aggregation}", columns=columns, facts=facts)

    def __repr__(self) -> str:
        return f"DuoT5({self.model!r}, depth={self.depth}, aggregation={self.aggregation!r})"


def duo_scores(logits: ArrayLike, aggregation: str) -> NDArray[np.float64]:
    """float64 [n]: the score of each document of n, higher is better. logits float [n, n]: x[i, j] is that of i before j,
    p[i, j] = sigmoid(x[i, j]); the diagonal is not looked at. Sums are over all j but i; a single document has the score 0.

        "sum"          sum p[i, j]                            "sum-log"      sum log p[i, j]
        "sym-sum"      sum p[i, j] + (1 - p[j, i])            "sym-sum-log"  sum log p[i, j] + log(1 - p[j, i])
        "binary"       sum [p[i, j] > 0.5]                    "min", "max"   of p[i, j]

    The first four are Pradeep, Nogueira and Lin's (2021), sum, binary, min and max those that Nogueira et al. (2019, "Multi-Stage Document
    Ranking with BERT") tried for duoBERT. 1 - p and the logarithms are computed of the logits, log p = -log(1 + exp(-x)), so that nothing
    is lost near 0 and 1. Raises InputError, NonFiniteError.
    """
    one_of("aggregation", aggregation, AGGREGATIONS)
    x = np.array(floats("duo_scores: logits", logits, 2, finite=False), np.float64)
    n = len(x)
    if x.shape != (n, n):
        raise InputError("duo_scores: logits", got=f"shape {list(x.shape)}", expected="[n, n]")
    np.fill_diagonal(x, 0)
    all_finite("duo_scores: logits", x)
    if n < 2:
        return np.zeros(n)
    own, turned = (square[~np.eye(n, dtype=bool)].reshape(n, n - 1) for square in (x, -x.T))  # the second: of 1 - p[j, i]
    if aggregation in ("min", "max"):
        return sigmoid(own.min(1) if aggregation == "min" else own.max(1))
    sides = (own, turned) if aggregation.startswith("sym") else (own,)
    function = _wins if aggregation == "binary" else _log_sigmoid if aggregation.endswith("log") else sigmoid
    total: NDArray[np.float64] = np.sum([function(side) for side in sides], axis=(0, 2), dtype=np.float64)
    return total


def _wins(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return (x > 0).astype(np.float64)


def _log_sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = -np.logaddexp(0, -x)
    return out
