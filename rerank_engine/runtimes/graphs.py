"""CUDA graphs of the packed forward pass: one for each bucket of tokens and sequences, recorded when it is first needed.

A recorded pass runs on buffers of its own: what a call does not fill is work that its attention skips and rows that nobody reads. One copy
to the device, one launch, one copy back. Above MOST tokens the device is busy for longer than the host launches, and nothing is recorded.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rerank_kernels.varlen_attention import block_rows, row_list, work_list

from ..packed import Packed
from .encoder import places_of
from .forward import Batch, Forward, Varlen

MOST = 16_384  # tokens
_RECORDING = threading.Lock()  # of all networks of the process, one at a time


def bucket(n: int, least: int, step: float) -> int:
    """The first of least, least * step, least * step^2, ... (whole multiples of `least`) that holds n."""
    size = least
    while size < n:
        size = -(-int(size * step) // least) * least if size * step > size + least - 1 else size + least
    return size


@dataclass(frozen=True, eq=False)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    host: torch.Tensor  # pinned, int32: all inputs behind one another
    device: torch.Tensor
    logits: torch.Tensor
    answer: torch.Tensor  # pinned float32


class Graphs:
    """Of one network. Calls from several threads wait for each other: they share the buffers."""

    def __init__(self, forward: Forward) -> None:
        self._forward, self._lock = forward, threading.Lock()
        self._block = block_rows(forward.device, forward.architecture.head_dim)
        self._recorded: dict[tuple[int, int], _Recorded] = {}
        self._pool: tuple[int, int] | None = None

    def fits(self, ids: Packed) -> bool:
        return len(ids.values) <= MOST and self._forward.architecture.pooling != "mean"

    def run(self, ids: Packed, types: Packed) -> NDArray[np.float32]:
        """Logits float32 [n, labels]."""
        with self._lock:
            tokens, n = bucket(len(ids.values), 256, 1.25), bucket(len(ids), 8, 2.0)
            recorded = self._recorded.get((tokens, n))
            if recorded is None:
                host, device = self._buffers(tokens, n)
                self._fill(host.numpy(), tokens, n, ids, types)
                recorded = self._recorded[tokens, n] = self._record(host, device, tokens, n)
            else:
                self._fill(recorded.host.numpy(), tokens, n, ids, types)
            recorded.device.copy_(recorded.host, non_blocking=True)
            recorded.graph.replay()
            recorded.answer.copy_(recorded.logits, non_blocking=True)
            torch.cuda.current_stream(self._forward.device).synchronize()
            answer: NDArray[np.float32] = recorded.answer[: len(ids)].numpy().copy()
            return answer

    def _parts(self, tokens: int, n: int) -> dict[str, slice]:
        """Where each input lies among the int32; offsets and rows are int64 there, so an even number comes before them."""
        sizes = {"offsets": 2 * (n + 1), "rows": 2 * n, "work": 2 * (tokens // self._block + n), "one_row": 2 * n}
        sizes |= {"ids": tokens, "places": tokens, "types": tokens}
        ends = np.cumsum([0, *sizes.values()]).tolist()
        return {name: slice(begin, end) for name, begin, end in zip(sizes, ends, ends[1:])}

    def _buffers(self, tokens: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        size = self._parts(tokens, n)["types"].stop
        host = torch.zeros(size, dtype=torch.int32, pin_memory=self._forward.device.type == "cuda")
        return host, torch.zeros(size, dtype=torch.int32, device=self._forward.device)

    def _fill(self, host: NDArray[np.int32], tokens: int, n: int, ids: Packed, types: Packed) -> None:
        last = self._forward.architecture.pooling == "last"
        parts, count, lengths = self._parts(tokens, n), len(ids), torch.from_numpy(ids.lengths)
        host[:] = 0
        offsets = host[parts["offsets"]].view(np.int64)
        offsets[: count + 1], offsets[count + 1 :] = ids.offsets, ids.offsets[-1]
        host[parts["rows"]].view(np.int64)[:count] = ids.offsets[1:] - 1 if last else ids.offsets[:-1]
        host[parts["work"]] = work_list(lengths, self._block, tokens // self._block + n).numpy().ravel()
        host[parts["one_row"]] = row_list(lengths, last, n).numpy().ravel()
        for name, values in (("ids", ids.values), ("places", places_of(ids, self._forward.architecture)), ("types", types.values)):
            host[parts[name]][: len(values)] = values

    def forward(self, device: torch.Tensor, tokens: int, n: int) -> torch.Tensor:
        """The pass over the buffers: logits float32 [n, labels]."""
        parts = self._parts(tokens, n)
        at = {name: device[part] for name, part in parts.items()}
        batch = Batch(at["ids"], at["places"], at["types"], at["rows"].view(torch.int64))
        attention = Varlen(at["offsets"].view(torch.int64), at["work"].view(-1, 2), at["one_row"].view(-1, 2))
        return self._forward.logits(batch, attention, at["rows"])

    def _record(self, host: torch.Tensor, device: torch.Tensor, tokens: int, n: int) -> _Recorded:
        device.copy_(host)
        side = torch.cuda.Stream(self._forward.device)
        side.wait_stream(torch.cuda.current_stream(self._forward.device))
        with torch.cuda.stream(side):  # compiles kernels and makes cuBLAS' workspace, neither of which may happen while recording
            for _ in range(2):
                self.forward(device, tokens, n)
        torch.cuda.current_stream(self._forward.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with _RECORDING, torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self.forward(device, tokens, n)
        self._pool = self._pool or graph.pool()
        answer = torch.empty(logits.shape, dtype=torch.float32, pin_memory=True)
        return _Recorded(graph, host, device, logits, answer)
