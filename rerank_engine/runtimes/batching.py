"""Batches without waste: length-sorted, bounded by a token budget, each distinct sequence run once, the order restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..packed import Packed
from ..progress import Progress
from .base import Runtime
from .tokenize import Tokens

# Measured on two CPU cores, one to four short passages a call are fastest; a GPU wants far more.
TOKEN_BUDGET = {"cpu": 512, "cuda": 16_384}


def plan(lengths: NDArray[np.int64], budget: int) -> list[NDArray[np.int64]]:
    """Splits the rows 0..n-1, whose lengths must not rise, into batches with rows * longest <= budget (at least one row each)."""
    batches, start = [], 0
    while start < len(lengths):
        rows = max(1, budget // max(int(lengths[start]), 1))
        batches.append(np.arange(start, min(start + rows, len(lengths))))
        start += rows
    return batches


def run_batched(
    runtime: Runtime,
    tokens: Tokens,
    output: str,
    reduce: Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.float32]] | None = None,
    *,
    budget: int | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """One row of output per sequence, float32 [n, ...], in the order given.

    Sequences are run longest first; those of one length are ordered by their tokens, so which sequences share a batch depends on the set
    and not on its order: permuting the input permutes the output and nothing else. Equal sequences run once. A batch-sensitive runtime gets
    one sequence a call. `reduce(batch output, lengths)` turns [b, longest, ...] into [b, ...]. progress(done, total) counts sequences.
    """
    if len(tokens.ids) == 0:
        return np.empty((0,), np.float32)
    outputs = list[NDArray[np.float32]]()
    work = _Batches(runtime, tokens, budget=budget)
    for ids, types, _ in work.batches(progress):
        out = runtime.run(ids, types, output)
        outputs.append(reduce(out, ids.lengths) if reduce else out)
    stacked: NDArray[np.float32] = np.concatenate(outputs)[work.places]
    return stacked


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
    work, rows = _Batches(runtime, tokens, attended, budget), list[NDArray[np.float32]]()
    for ids, types, seen in work.batches(progress) if len(tokens.ids) else ():
        out = runtime.run(ids, types, output, seen)
        rows += [transform(out[i, :length]) for i, length in enumerate(ids.lengths.tolist())]
    return [rows[place] for place in work.places]


class _Batches:
    """Distinct sequences in an order that depends on nothing but them; places: where each sequence's output is found."""

    def __init__(self, runtime: Runtime, tokens: Tokens, attended: NDArray[np.int64] | None = None, budget: int | None = None) -> None:
        seen = [b""] * len(tokens.ids) if attended is None else [n.tobytes() for n in attended]
        content = [ids.tobytes() + types.tobytes() + n for ids, types, n in zip(tokens.ids, tokens.types, seen)]
        distinct = sorted(dict.fromkeys(content), key=lambda c: (-len(c), c))
        first = {c: row for row, c in reversed(list(enumerate(content)))}
        self._tokens, self._attended, self._rows = tokens, attended, [first[c] for c in distinct]
        self._size = 0 if runtime.batch_sensitive else budget or TOKEN_BUDGET.get(runtime.device, 512)
        place = {c: i for i, c in enumerate(distinct)}
        self.places = [place[c] for c in content]

    def batches(self, progress: Progress | None) -> Iterator[tuple[Packed, Packed, NDArray[np.int64] | None]]:
        tokens, rows, done = self._tokens, self._rows, 0
        for batch in plan(tokens.ids.lengths[rows], self._size):
            own = [rows[i] for i in batch]
            ids, types = Packed.from_rows([tokens.ids[row] for row in own]), Packed.from_rows([tokens.types[row] for row in own])
            yield ids, types, None if self._attended is None else self._attended[own]
            done += len(batch)
            if progress:
                progress(done, len(rows))
