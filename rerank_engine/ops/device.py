"""The late-interaction ops on tensors of a device: what they take, and the backend `torch`, which runs where Triton's kernels do not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, NonFiniteError
from . import checks
from .tensors import DeviceTokens, require_torch
from .tokens import batch_of, of_queries, picked

if TYPE_CHECKING:
    import torch

BLOCK_TOKENS = 1 << 17  # document tokens that the torch backend holds at a time


def query_on(name: str, query: Any, dim: int, device: Any) -> torch.Tensor:
    """float [q, dim] on the device, from a tensor anywhere or what numpy understands."""
    torch = require_torch()
    q = query if isinstance(query, torch.Tensor) else torch.from_numpy(checks.floats(f"{name}: query", query, 2))
    if q.ndim != 2 or not q.is_floating_point() or q.shape[1] != dim:
        raise InputError(f"{name}: query", got=f"{q.dtype} {list(q.shape)}", expected=f"float [q, {dim}], as the documents have")
    return q.detach().to(device)


def rows_on(name: str, rows: Any, n: int, device: Any) -> torch.Tensor:
    """int32 or int64 [m] on the device. Rows that the host holds are checked here. A tensor on the device is not looked at: a row of it
    that does not exist scores NaN, which raises."""
    torch = require_torch()
    if rows is None:
        return torch.arange(n, dtype=torch.int32, device=device)
    if isinstance(rows, torch.Tensor) and rows.device.type != "cpu":
        if rows.ndim != 1 or rows.dtype not in (torch.int32, torch.int64):
            raise InputError(f"{name}: rows", got=f"{rows.dtype} {list(rows.shape)}", expected="int32 or int64 [m]")
        return rows.to(device).contiguous()
    chosen = picked(name, rows, n)
    assert chosen is not None
    return torch.from_numpy(chosen).to(device)


def weights_on(name: str, mask: Any, weights: Any, n: int, device: Any) -> torch.Tensor | None:
    """float32 [q] on the device, 0 where a token is masked; None when all count 1."""
    torch = require_torch()
    held = []
    for what, given in (("query_weights", weights), ("query_mask", mask)):
        if given is not None:
            x = given if isinstance(given, torch.Tensor) else torch.from_numpy(np.array(given))
            if x.shape != (n,) or (what == "query_weights" and not x.is_floating_point()):
                raise InputError(f"{name}: {what}", got=f"{x.dtype} {list(x.shape)}", expected=f"[{n}], one a query token")
            held.append((x.to(device) != 0 if what == "query_mask" else x.to(device)).float())
    return math.prod(held[1:], start=held[0]) if held else None


def require_finite(name: str, scores: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Raises NonFiniteError for NaN or +infinity. The one synchronisation of a call; the kernels of rerank_kernels do without."""
    if len(scores) and not float(scores.max()) < math.inf:
        bad = int((~(scores < math.inf)).nonzero()[0])
        expected = "finite numbers in the query and the document, and a row that exists"
        raise NonFiniteError(f"{name}: document {int(rows[bad])}", got=f"a score of {float(scores[bad])}", expected=expected)
    return scores


def maxsim_on_device(query: Any, documents: DeviceTokens, rows: Any, mask: Any, weights: Any, run: Any) -> Any:
    """`maxsim` of documents on a device: float32 tensors there."""
    name, device = "maxsim", documents.device
    if (batch := batch_of(query)) is not None:
        if mask is not None or weights is not None:
            raise InputError(name, got="a mask or weights for a batch of queries", expected="a batch of the query tokens that count")
        asked = of_queries(name, rows, len(batch))
        return [maxsim_on_device(q, documents, row, None, None, run) for q, row in zip(batch, asked)]
    q = query_on(name, query, documents.dim, device)
    chosen = rows_on(name, rows, len(documents), device)
    return require_finite(name, run(q, weights_on(name, mask, weights, len(q), device), documents, chosen), chosen)


def maxsim_triton(query: torch.Tensor, weights: torch.Tensor | None, documents: DeviceTokens, rows: torch.Tensor) -> torch.Tensor:
    from rerank_kernels.maxsim import maxsim

    scores: torch.Tensor = maxsim(query, documents.values, documents.offsets, rows, scales=documents.scales, weights=weights)
    return scores


def maxsim_torch(query: torch.Tensor, weights: torch.Tensor | None, documents: DeviceTokens, rows: torch.Tensor) -> torch.Tensor:
    """As products of float32 over blocks of the candidates' tokens, gathered. The query has the documents' type first, as for Triton."""
    q = query.float() if documents.scales is not None else query.to(documents.values.dtype).float()

    def similarities(tokens: torch.Tensor) -> torch.Tensor:
        values = documents.values[tokens].float()
        return (values if documents.scales is None else values * documents.scales[tokens, None]) @ q.T

    return best_sums(similarities, len(q), weights, documents.offsets, rows)


def best_sums(similarities: Any, n_query: int, weights: torch.Tensor | None, offsets: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The sums over query tokens of the maxima over each document's tokens, where similarities(token ids) is float32 [tokens, n_query]."""
    torch = require_torch()
    known = (rows >= 0) & (rows < len(offsets) - 1)
    safe = torch.where(known, rows, 0).long() if len(offsets) > 1 else rows.long().new_zeros(0)
    scores = torch.full((len(rows),), -math.inf, device=rows.device)
    for part in _blocks(lengths := offsets[safe + 1] - offsets[safe]):
        counts = lengths[part]
        document = torch.repeat_interleave(torch.arange(len(counts), device=rows.device), counts)
        tokens = torch.arange(len(document), device=rows.device) + (offsets[safe[part]] - (counts.cumsum(0) - counts))[document]
        best = torch.full((len(counts), n_query), -math.inf, device=rows.device)
        best.scatter_reduce_(0, document[:, None].expand(-1, n_query), similarities(tokens), "amax")
        w = torch.ones(n_query, device=rows.device) if weights is None else weights
        sums = (torch.where(w != 0, best, 0) * w).sum(1)
        scores[part] = torch.where(counts > 0, sums, -math.inf)
    return torch.where(known, scores, math.nan)


def _blocks(lengths: torch.Tensor) -> Iterator[slice]:
    """Documents that follow one another, of BLOCK_TOKENS together, or one that is longer."""
    ends, at = lengths.cumsum(0).cpu().numpy(), 0
    while at < len(ends):
        before = int(ends[at - 1]) if at else 0
        upto = max(at + 1, int(np.searchsorted(ends, before + BLOCK_TOKENS, side="right")))
        yield slice(at, upto)
        at = upto
