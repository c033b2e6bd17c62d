"""Batches without waste: length-sorted, bounded by a token budget, each distinct sequence run once, the order restored."""

from __future__ import annotations

from collections.abc import Callable

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
    n = len(tokens.ids)
    if n == 0:
        return np.empty((0,), np.float32)
    content = [ids.tobytes() + types.tobytes() for ids, types in zip(tokens.ids, tokens.types)]
    distinct = sorted(dict.fromkeys(content), key=lambda c: (-len(c), c))
    first = {c: row for row, c in reversed(list(enumerate(content)))}
    rows = [first[c] for c in distinct]
    lengths = tokens.ids.lengths[rows]
    size = 0 if runtime.batch_sensitive else budget or TOKEN_BUDGET.get(runtime.device, 512)
    outputs, done = [], 0
    for batch in plan(lengths, size):
        ids = Packed.from_rows([tokens.ids[rows[i]] for i in batch])
        types = Packed.from_rows([tokens.types[rows[i]] for i in batch])
        out = runtime.run(ids, types, output)
        outputs.append(reduce(out, ids.lengths) if reduce else out)
        done += len(batch)
        if progress:
            progress(done, len(rows))
    place = {c: i for i, c in enumerate(distinct)}
    stacked: NDArray[np.float32] = np.concatenate(outputs)[[place[c] for c in content]]
    return stacked
