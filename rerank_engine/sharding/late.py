"""What is found in shards, and how those of tokens are searched: all of it, or by centroids in two questions."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..indexes.token_probe import Plan, wider
from ..indexes.token_search import work_of
from ..ops.topk import topk
from .scatter import Gathered
from .shard import Chosen, Near, Work

if TYPE_CHECKING:
    from .index import ShardedIndex


@dataclass(frozen=True, eq=False)
class Found:
    """For one query: rows int64 [m] of the collection, scores float32 [m], best first; cut int32 [m]: tokens that an encoder cut off the
    document. reached: documents that were looked at, `of` of them. missing: why a shard's documents are not among them; approximate: why a
    shard's counts are not in the scores, or in the choice of candidates; stopped: shards that time cut short. hedged, retried: questions
    asked twice, and again."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    cut: NDArray[np.int32]
    reached: int
    of: int
    missing: Mapping[int, str] = field(default_factory=dict)
    approximate: Mapping[int, str] = field(default_factory=dict)
    stopped: tuple[int, ...] = ()
    hedged: int = 0
    retried: int = 0
    plan: Plan | None = None

    @property
    def partial(self) -> bool:
        """Whether one index of the whole collection could have answered otherwise."""
        cut = self.plan is not None and self.plan.reached is not None
        return bool(self.missing) or bool(self.approximate) or self.reached < self.of or cut


@dataclass(eq=False)
class Late:
    """A query of tokens under way: what it may find, of how many documents with how many tokens, how it is searched, what came."""

    query: NDArray[np.float32]
    own: Chosen
    rows: int
    way: int | None
    most: int
    near: dict[int, Near] = field(default_factory=dict)
    found: int = 0
    picked: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    work: Work = (0, 0)


class LateSearch:
    """Of some queries, whose plans are made. weighed: how the shards were asked for what filters leave; end: of the whole search."""

    def __init__(self, index: ShardedIndex, k: int, precision: str, weighed: Gathered, end: float) -> None:
        self.index, self.k, self.precision, self.weighed, self.end = index, k, precision, weighed, end

    def exhaustive(self, asked: Sequence[Late]) -> dict[int, Found]:
        """By the id of each."""
        if not asked:
            return {}

        def make(shard: int) -> tuple[Any, ...]:
            return [(one.query, self.index.cut(one.own, shard), one.work) for one in asked], self.k, self.precision

        told, plans = self.index.gather("tokens", make, self.end), [Plan(None, one.rows, one.rows) for one in asked]
        return {id(one): self.index.merged(told, i, self.k, before=self.weighed, plan=plans[i]) for i, one in enumerate(asked)}

    def probed(self, asked: Sequence[Late]) -> dict[int, Found]:
        """By the lists of centroids: the documents nearest by these in the whole collection, then their scores."""
        if not asked:
            return {}
        told, index = self._looked_for(asked), self.index
        for one in asked:
            self._pick(one)
        picks = dict[int, dict[int, NDArray[np.int64]]]()  # shard -> query -> its rows
        for shard, (start, end) in enumerate(pairwise(np.cumsum([0, *index.rows]).tolist())):
            own = {i: one.picked[(one.picked >= start) & (one.picked < end)] for i, one in enumerate(asked)}
            if held := {i: rows for i, rows in own.items() if len(rows)}:
                picks[shard] = held

        def make(shard: int) -> tuple[Any, ...]:
            return [(asked[i].query, rows, asked[i].work) for i, rows in picks[shard].items()], self.k, self.precision

        scored = index.gather("exact", make, self.end, shards=picks)
        by_query = {shard: dict(zip(picks[shard], answers)) for shard, answers in scored.values.items()}
        out = {}
        for i, one in enumerate(asked):
            answers = {shard: found[i] for shard, found in by_query.items() if i in found}
            missing = told.missing | {shard: why for shard, why in scored.missing.items() if i in picks[shard]}
            whole = not missing and all(near.whole for near in one.near.values())
            plan = Plan(one.way, len(one.picked), one.found, reached=None if whole else 0)
            both = Gathered({}, missing, told.hedged + scored.hedged, told.retried + scored.retried)
            out[id(one)] = index.joined(both, answers, self.k, self.weighed, plan, len(one.picked))
        return out

    def _looked_for(self, asked: Sequence[Late]) -> Gathered:
        """Asks for what the lists hold, of more centroids where they are few; all rounds' missing shards and second tries."""
        codec: Any = self.index.codec
        told, open_, n = Gathered(), list(asked), len(codec.centroids)
        while open_:
            round_ = self.index.gather("near", functools.partial(self._near, open_), half(self.end))
            told.missing |= round_.missing
            told.hedged, told.retried = told.hedged + round_.hedged, told.retried + round_.retried
            for i, one in enumerate(open_):
                one.near = {shard: near[i] for shard, near in round_.values.items()}
                one.found = sum(near.found for near in one.near.values())
            few = [one for one in open_ if one.found < min(self.k, one.rows) and one.way is not None and one.way < n]
            open_ = [] if told.missing else few
            for one in open_:
                one.way = wider(int(one.way or 1), n)
        return told

    def _near(self, asked: Sequence[Late], shard: int) -> tuple[Any, ...]:
        return ([(one.query, self.index.cut(one.own, shard), one.way, one.most) for one in asked],)

    def _pick(self, one: Late) -> None:
        """The candidates of a query, and how much work they are."""
        kinds = (("rows", np.int64), ("scores", np.float32), ("tokens", np.int64))
        rows, scores, lengths = (
            np.concatenate([np.empty(0, kind), *(getattr(n, name) for n in one.near.values())]) for name, kind in kinds
        )
        if one.found > one.most:
            kept = np.isin(rows, topk(scores, one.most, ids=rows)[0])
            rows, lengths = rows[kept], lengths[kept]
        one.picked, one.work = rows, work_of(self.index.codec, int(lengths.sum()), True)


def half(end: float) -> float:
    """When half of the time is over, for a question that another follows: a shard that is gone must not take all of it."""
    return (time.monotonic() + end) / 2
