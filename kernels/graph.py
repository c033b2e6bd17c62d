"""Scoring as a replay of a CUDA graph: the host fills buffers and starts one graph, which brings them to the device, scores, sorts, and
brings the best back. Launching the same kernels one by one costs the host more than the device needs for a thousand documents.

Nothing of a graph depends on a length: candidates are padded to the next of a few sizes with row -1, query tokens with weight 0.
"""

from __future__ import annotations

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
        self._launches, self._graph = launches, None
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

    def replay(self) -> None:
        if self._graph is None:
            self._launches()
        else:
            self._graph.replay()


class Slot:
    """The buffers and the graph of up to `candidates` rows and `tokens` query tokens."""

    def __init__(self, score: Score, candidates: int, tokens: int, k: int, dim: int, dtype: torch.dtype, device: torch.device) -> None:
        def pair(*shape: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
            """A buffer on the host, which the device can read, and one on the device."""
            host = torch.zeros(shape, dtype=dtype, pin_memory=device.type == "cuda")
            return host, torch.zeros(shape, dtype=dtype, device=device)

        self.query, query = pair(tokens, dim, dtype=dtype)
        self.weights, weights = pair(tokens, dtype=torch.float32)
        self.rows, rows = pair(candidates, dtype=torch.int32)
        self.best_scores, best_scores = pair(k, dtype=torch.float32)
        self.best_rows, best_rows = pair(k, dtype=torch.int64)
        out = torch.empty(candidates, device=device)
        self.rows.fill_(-1)

        def launches() -> None:
            for host, there in ((self.query, query), (self.weights, weights), (self.rows, rows)):
                there.copy_(host, non_blocking=True)
            score(query, weights, rows, out)
            topk(out, rows, k, out=(best_scores, best_rows))
            self.best_scores.copy_(best_scores, non_blocking=True)
            self.best_rows.copy_(best_rows, non_blocking=True)

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
        self._device = device
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
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                slot.graph.replay()
                torch.cuda.current_stream().synchronize()
        else:
            slot.graph.replay()
        k = min(m, len(best_rows))
        return best_rows[:k].copy(), best_scores[:k].copy()
