"""torch: MaxSim as one writes it, padded and masked, and packed with its two ways to reduce segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_engine.packed import Packed

Call = Callable[[], Any]


def einsum(query: NDArray[np.float32], documents: Packed) -> Call:
    q, d, lengths = tensors(query, documents)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    padded = torch.zeros(*mask.shape, d.shape[1])
    padded[mask] = d
    return lambda: torch.einsum("qd,nld->nql", q, padded).masked_fill(~mask[:, None], -torch.inf).amax(2).sum(1)


def segments(query: NDArray[np.float32], documents: Packed) -> Call:
    q, d, lengths = tensors(query, documents)
    return lambda: torch.segment_reduce(d @ q.T, "max", lengths=lengths).sum(1)


def scatter(query: NDArray[np.float32], documents: Packed) -> Call:
    q, d, lengths = tensors(query, documents)
    index = torch.repeat_interleave(torch.arange(len(lengths)), lengths)[:, None].expand(-1, len(q))
    return lambda: torch.full((len(lengths), len(q)), -torch.inf).scatter_reduce(0, index, d @ q.T, "amax").sum(1)


def tensors(query: NDArray[np.float32], documents: Packed) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(query, tokens of all documents, how many each has); and torch works on one thread from now on."""
    torch.set_num_threads(1)
    return torch.from_numpy(query), torch.from_numpy(np.ascontiguousarray(documents.values)), torch.from_numpy(documents.lengths)
