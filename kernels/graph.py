"""Scoring as a replay of a CUDA graph: the host fills buffers and starts one graph, which brings them to the device, scores, sorts, and
brings the best back. Launching the same kernels one by one costs the host more than the device needs for a thousand documents.

Nothing of a graph depends on a length: candidates are padded to the next of a few sizes with row -1, query tokens with weight 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from .topk import topk

# (query [tokens, dim], weights [tokens], rows [candidates], out [candidates]) on the device: scores the rows into out, without a
# synchronisation, in the same memory each time
Score = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], object]


class Graph:
    """A series of launches, recorded once. On the CPU, where only the interpreter runs, they are simply made each time."""

    def __init__(self, launches: Callable[[], object], device: torch.device) -> None:
        self._launches, self._device, self._graph = launches, device, None
        if device.type == "cuda":
            with torch.cuda.device(device):
                self._graph = self._recorded(launches)

    @staticmethod
    def _recorded(launches: Callable[[], object]) -> torch.cuda.CUDAGraph:
        """On the current device, on a stream of its own; other threads may go on with theirs."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compiles the kernels, which a recording must not
            for _ in range(3):
                launches()
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            launches()
        return graph

    def replay(self, wait: bool = False) -> None:
        """On the device's current stream. wait: until all is done."""
        if self._graph is None:
            self._launches()
        elif self._device.index == torch.cuda.current_device():
            self._replay(self._graph, wait)
        else:
            with torch.cuda.device(self._device):
                self._replay(self._graph, wait)

    @staticmethod
    def _replay(graph: torch.cuda.CUDAGraph, wait: bool) -> None:
        graph.replay()
        if wait:
            torch.cuda.current_stream().synchronize()


Part = tuple[tuple[int, ...], torch.dtype]  # shape and type


def packed(parts: Sequence[Part], device: torch.device, pinned: bool = False) -> tuple[torch.Tensor, ...]:
    """A buffer of bytes, and the tensors that lie in it behind one another, each at a multiple of 16 bytes. pinned: in memory of the host
    that the device can read."""
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in parts]
    starts = list(itertools.accumulate((-(-size // 16) * 16 for size in sizes), initial=0))
    buffer = torch.zeros(starts[-1], dtype=torch.uint8, device=device, pin_memory=pinned)
    return buffer, *(buffer[at : at + size].view(dtype).view(shape) for at, size, (shape, dtype) in zip(starts, sizes, parts))


class Slot:
    """The buffers and the graph of up to `candidates` rows and `tokens` query tokens: one copy to the device, one back."""

    def __init__(self, score: Score, candidates: int, tokens: int, k: int, dim: int, dtype: torch.dtype, device: torch.device) -> None:
        host, pinned = torch.device("cpu"), device.type == "cuda"
        inputs: list[Part] = [((candidates,), torch.int32), ((tokens,), torch.float32), ((tokens, dim), dtype)]
        outputs: list[Part] = [((k,), torch.int64), ((k,), torch.float32)]
        given, self.rows, self.weights, self.query = packed(inputs, host, pinned)
        found, self.best_rows, self.best_scores = packed(outputs, host, pinned)
        there, rows, weights, query = packed(inputs, device)
        back, best_rows, best_scores = packed(outputs, device)
        self.rows.fill_(-1)
        out = torch.empty(candidates, device=device)

        def launches() -> None:
            there.copy_(given, non_blocking=True)
            score(query, weights, rows, out)
            topk(out, rows, k, out=(best_scores, best_rows))
            found.copy_(back, non_blocking=True)

        self.graph = Graph(launches, device)
        # numpy's views of the host's buffers: writing them costs the host less than a call into torch
        self.views = tuple(x.numpy() for x in (self.query, self.weights, self.rows, self.best_scores, self.best_rows))


class Replays:
    """The k best of candidates given by row, for one query at a time and one caller at a time.

    score: see Score. candidates, tokens: the sizes to record for, rising; the largest are the limits. dtype: float16 or float32, of the
    query's buffer.
    """

    def __init__(
        self, score: Score, candidates: Sequence[int], tokens: Sequence[int], k: int, dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._slots = {(c, t): Slot(score, c, t, min(k, c), dim, dtype, device) for c in candidates for t in tokens}

    def __call__(self, query: np.ndarray, rows: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(rows int64, scores float32) of the best, as many as there are. The caller has checked the shapes against the limits."""
        n, m = len(query), len(rows)
        slot = self._slots[next(size for size in self._slots if size[0] >= m and size[1] >= n)]
        held, held_weights, held_rows, best_scores, best_rows = slot.views
        with np.errstate(over="ignore"):  # what float16 does not hold gives a score that is not finite
            held[:n] = query
        held_weights[:n] = 1 if weights is None else weights
        held_weights[n:] = 0
        held_rows[:m] = rows
        held_rows[m:] = -1
        slot.graph.replay(wait=True)
        k = min(m, len(best_rows))
        return best_rows[:k].copy(), best_scores[:k].copy()
