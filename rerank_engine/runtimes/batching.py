"""Batches without waste: sequences by length, cut into the calls that cost least, each distinct sequence run once, the order restored.

Calls go on at the same time where the runtime allows it; between two calls the caller's limits (`limits()`) are looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..limits import Limits, limits
from ..packed import Packed
from ..progress import Progress
from .base import Runtime, cost_of, workers_of
from .cost import COSTS, Cost, cheapest, default_cost
from .tokenize import Tokens

__all__ = ["COSTS", "Cost", "default_cost", "run_batched", "run_rows", "run_tokens", "run_tokens_until", "run_until"]

Row = TypeVar("Row")
Reduce = Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.float32]]


def run_batched(
    runtime: Runtime,
    tokens: Tokens,
    output: str,
    reduce: Reduce | None = None,
    *,
    budget: int | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """One row of output per sequence, float32 [n, ...], in the order given.

    Sequences are run longest first; those of one length are ordered by their tokens, so which sequences share a call depends on the set
    and not on its order: permuting the input permutes the output and nothing else. Equal sequences run once. A batch-sensitive runtime gets
    one sequence a call. `reduce(batch output, lengths)` turns [b, longest, ...] into [b, ...]. budget: tokens of a call, in place of the
    runtime's own `cost.most`. progress(done, total) counts distinct sequences; by default it is that of `limits()`. Raises Cancelled;
    a deadline is not looked at: half of an answer would be none.
    """
    if len(tokens.ids) == 0:
        return np.empty((0,), np.float32)
    work = _Calls(runtime, tokens, None, budget)
    outputs = work.run(output, reduce, replace(limits(), deadline=None), progress)
    stacked: NDArray[np.float32] = np.concatenate([out for _, out in outputs])[work.places]
    return stacked


def run_until(
    runtime: Runtime,
    tokens: Tokens,
    output: str,
    reduce: Reduce | None = None,
    *,
    priority: NDArray[np.int64] | None = None,
    budget: int | None = None,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """`run_batched` until the deadline of `limits()`: (float32 [n, ...], bool [n]: whether a row was run). Rows that were not are NaN.

    priority: int64 [n], looked at with a deadline alone: rows of a lower number are run before all of a higher one, so numbers that many
    rows share make good calls. The first call is made unless the deadline is over already; then nothing runs and the values are [n].
    """
    n = len(tokens.ids)
    if priority is not None and (np.shape(priority) != (n,) or np.asarray(priority).dtype.kind not in "iu"):
        got = f"{np.asarray(priority).dtype} {list(np.shape(priority))}"
        raise InputError("run_until: priority", got=got, expected=f"integers [{n}], one for each sequence")
    now = limits()
    now.check()
    if n == 0 or now.out_of_time():
        return np.full(n, np.nan, np.float32), np.zeros(n, bool)
    work = _Calls(runtime, tokens, None, budget, None if now.deadline is None else priority)
    outputs = work.run(output, reduce, now, progress)
    first = outputs[0][1]
    values, ran = np.full((work.distinct, *first.shape[1:]), np.nan, np.float32), np.zeros(work.distinct, bool)
    for (start, end), out in outputs:
        values[start:end], ran[start:end] = out, True
    return values[work.places], ran[work.places]


def run_rows(
    runtime: Runtime,
    tokens: Tokens,
    output: str,
    transform: Callable[[NDArray[np.float32]], Row],
    *,
    budget: int | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """What `transform` makes of each sequence's row of output, in the order given: for rows too wide to keep. Equal
    sequences get copies of one result. `transform` may be called in several threads at a time. The rest as `run_batched`."""
    if len(tokens.ids) == 0:
        return []
    work, rows, out = _Calls(runtime, tokens, None, budget), list[Row](), list[Row]()
    for _, made in work.run(output, lambda out, _: [transform(row) for row in out], replace(limits(), deadline=None), progress):
        rows += made
    given = set[int]()
    for place in work.places.tolist():
        out.append(copy.deepcopy(rows[place]) if place in given else rows[place])
        given.add(place)
    return out


def run_tokens(
    runtime: Runtime,
    tokens: Tokens,
    output: str,
    transform: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    *,
    attended: NDArray[np.int64] | None = None,
    budget: int | None = None,
    progress: Progress | None = None,
) -> list[NDArray[np.float32]]:
    """One array [length, ...] per sequence, in the order given: `transform` of its tokens' states [length, hidden]. No padding comes out.

    attended: see Runtime.run. The rest as for `run_batched`.
    """
    rows = _token_rows(runtime, tokens, output, transform, replace(limits(), deadline=None), None, attended, budget, progress)
    return [row for row in rows if row is not None]


def run_tokens_until(
    runtime: Runtime,
    tokens: Tokens,
    output: str,
    transform: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    priority: NDArray[np.int64],
) -> list[NDArray[np.float32] | None]:
    """`run_tokens` until the deadline of `limits()`, as `run_until`: None for sequences that were not run."""
    now = limits()
    if now.out_of_time():
        return [None] * len(tokens.ids)
    return _token_rows(runtime, tokens, output, transform, now, None if now.deadline is None else priority)


def _token_rows(
    runtime: Runtime,
    tokens: Tokens,
    output: str,
    transform: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    until: Limits,
    priority: NDArray[np.int64] | None,
    attended: NDArray[np.int64] | None = None,
    budget: int | None = None,
    progress: Progress | None = None,
) -> list[NDArray[np.float32] | None]:
    if len(tokens.ids) == 0:
        return []
    work = _Calls(runtime, tokens, attended, budget, priority)
    rows: list[NDArray[np.float32] | None] = [None] * work.distinct

    def cut(out: NDArray[np.float32], lengths: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        return [transform(out[i, :length]) for i, length in enumerate(lengths.tolist())]

    for (start, end), states in work.run(output, cut, until, progress):
        rows[start:end] = states
    return [rows[place] for place in work.places.tolist()]


class _Calls:
    """Distinct sequences in an order that depends on nothing but them (and their priority), cut into calls.

    places: int64 [n], where each sequence stands in that order.
    """

    def __init__(
        self,
        runtime: Runtime,
        tokens: Tokens,
        attended: NDArray[np.int64] | None = None,
        budget: int | None = None,
        priority: NDArray[np.int64] | None = None,
    ) -> None:
        self._runtime, self._workers = runtime, workers_of(runtime)
        (ids, wide), (types, narrow) = _slices(tokens.ids), _slices(tokens.types)
        if attended is None:
            content = [a + b for a, b in zip(ids, types)]
        else:
            content = [a + b + n.tobytes() for a, b, n in zip(ids, types, attended.astype(np.int64, copy=False))]
        row = dict(zip(content, range(len(content))))
        distinct = sorted(row)  # three sorts, each of which keeps the order of equals: by priority, then longest first, then by content
        distinct.sort(key=len, reverse=True)
        waves = np.zeros(len(distinct), np.int64)
        if priority is not None:
            wave: dict[bytes, int] = {}
            for key, number in zip(content, priority.tolist()):
                wave[key] = min(number, wave.get(key, number))
            distinct.sort(key=wave.__getitem__)
            waves = np.array([wave[key] for key in distinct], np.int64)
        place = dict(zip(distinct, range(len(distinct))))
        rows = [row[key] for key in distinct]
        self.distinct, self.places = len(distinct), np.array([place[key] for key in content], np.int64)
        self._ids = _joined(tokens.ids, ids, wide, rows)
        self._types = _joined(tokens.types, types, narrow, rows)
        self._attended = None if attended is None else attended[rows]
        self.calls = self._plan(waves, budget)

    def _plan(self, waves: NDArray[np.int64], budget: int | None) -> list[tuple[int, int]]:
        """(start, end) of each call. None crosses a wave; where calls go on side by side, there are enough of them for all workers."""
        if self._runtime.batch_sensitive:
            return [(row, row + 1) for row in range(self.distinct)]
        lengths, cost = self._ids.lengths, cost_of(self._runtime)
        cost = cost if budget is None else replace(cost, most=max(int(budget), 1))
        edges = [0, *(np.flatnonzero(np.diff(waves)) + 1).tolist(), self.distinct]
        calls = []
        for start, end in pairwise(edges):
            share = -(-int(lengths[start:end].sum()) // (2 * self._workers))  # two calls for each worker, so that they end together
            bounded = cost if self._workers == 1 else replace(cost, most=max(1, min(cost.most, share)))
            calls += [(start + a, start + b) for a, b in cheapest(lengths[start:end], bounded)]
        return calls

    def run(
        self,
        output: str,
        reduce: Callable[[NDArray[np.float32], NDArray[np.int64]], Any] | None,
        until: Limits,
        progress: Progress | None,
    ) -> list[tuple[tuple[int, int], Any]]:
        """((start, end), what `reduce` made of its output) of each call that was made, in their order: all of them, or those that the time
        allowed. `reduce` is called in the thread of its call, progress in the caller's alone; what a call raises stops the rest and is
        raised."""
        report, made, done = progress or until.progress, dict[int, Any](), 0

        def keep(number: int, result: Any) -> None:
            nonlocal done
            made[number] = result
            start, end = self.calls[number]
            done += end - start
            if report:
                report(done, self.distinct)
            if until.calls:
                lengths = self._ids.lengths[start:end]
                used = int(lengths.sum())
                until.calls(used, len(lengths) * int(lengths.max(initial=0)) if cost_of(self._runtime).padded else used)

        workers = min(self._workers, len(self.calls))
        if workers == 1:
            for number in range(len(self.calls)):
                if not self._wanted(number, until):
                    break
                keep(number, self._call(number, output, reduce))
        else:
            with ThreadPoolExecutor(workers, "rerank-call") as pool:
                self._side_by_side(pool, workers, until, lambda number: self._call(number, output, reduce), keep)
        return [(self.calls[number], made[number]) for number in sorted(made)]

    def _side_by_side(
        self, pool: Executor, workers: int, until: Limits, call: Callable[[int], Any], keep: Callable[[int, Any], None]
    ) -> None:
        """Never more calls under way than there are workers: one that waits in a queue could not be taken back when the time is up."""
        going, number = dict[Future[Any], int](), 0
        while True:
            while number < len(self.calls) and len(going) < workers:
                if not self._wanted(number, until):
                    number = len(self.calls)
                    break
                going[pool.submit(call, number)] = number
                number += 1
            if not going:
                return
            for future in sorted(wait(going, return_when=FIRST_COMPLETED).done, key=going.__getitem__):
                keep(going.pop(future), future.result())

    def _wanted(self, number: int, until: Limits) -> bool:
        until.check()
        return number == 0 or not until.out_of_time()

    def _call(self, number: int, output: str, reduce: Callable[[NDArray[np.float32], NDArray[np.int64]], Any] | None) -> Any:
        start, end = self.calls[number]
        ids, types = self._ids.part(start, end), self._types.part(start, end)
        out = self._runtime.run(ids, types, output, None if self._attended is None else self._attended[start:end])
        return reduce(out, ids.lengths) if reduce else out


def _slices(packed: Packed) -> tuple[list[bytes], np.dtype[Any]]:
    """The content of each row and its type: the smallest that holds all the numbers, for less to copy and to hash. Where the lowest byte
    of a number comes first, rows of one length are in the same order whatever the type is."""
    values = packed.values
    kind = np.min_scalar_type(int(values.max())) if values.size and values.min() >= 0 else values.dtype
    content, ends = values.astype(kind, copy=False).tobytes(), (packed.offsets * kind.itemsize).tolist()
    return [content[start:end] for start, end in pairwise(ends)], kind


def _joined(packed: Packed, slices: list[bytes], kind: np.dtype[Any], rows: list[int]) -> Packed:
    """`packed.take(rows)`, from what `_slices` made of it: copies of bytes where `take` has an index for each token."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(packed.lengths[rows], out=offsets[1:])
    return Packed(np.frombuffer(b"".join([slices[row] for row in rows]), kind).astype(packed.values.dtype), offsets)
