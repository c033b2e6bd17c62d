"""The late-interaction ops on tensors of a device: what they take, and the backend `torch`, which runs where Triton's kernels do not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, NonFiniteError
from . import checks
from .tensors import DeviceTokens, copied, require_torch
from .tokens import batch_of, of_queries, picked

if TYPE_CHECKING:
    import torch

BLOCK_TOKENS = 1 << 17  # document tokens that the torch backend holds at a time


def query_on(name: str, query: Any, dim: int, device: Any) -> torch.Tensor:
    """float [q, dim] on the device, from a tensor anywhere or what numpy understands."""
    torch = require_torch()
    on_host = not isinstance(query, torch.Tensor)
    q = copied(checks.floats(f"{name}: query", query, 2), "cpu") if on_host else query
    if q.ndim != 2 or not q.is_floating_point() or q.shape[1] != dim:
        raise InputError(f"{name}: query", got=f"{q.dtype} {list(q.shape)}", expected=f"float [q, {dim}], as the documents have")
    return q.detach().to(device).contiguous()


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
        if given is None:
            continue
        if not isinstance(given, torch.Tensor):
            given = torch.from_numpy(
                checks.floats(f"{name}: {what}", np.array(given, np.float32) if what == "query_mask" else given, 1).copy()
            )
        if given.shape != (n,):
            raise InputError(f"{name}: {what}", got=f"shape {list(given.shape)}", expected=f"[{n}], one a query token")
        held.append((given.to(device) != 0 if what == "query_mask" else given.to(device)).float())
    return math.prod(held[1:], start=held[0]) if held else None


def require_finite(name: str, scores: torch.Tensor, rows: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Raises NonFiniteError for NaN, infinity, or -infinity of a document that has tokens. The one look at the device of a call; the
    kernels of rerank_kernels do without."""
    torch = require_torch()
    low, high = torch.stack(torch.aminmax(scores)).tolist() if len(scores) else (0.0, 0.0)
    wrong = ~(scores < math.inf)
    if low == -math.inf and len(offsets) > 1:
        safe = torch.where((rows >= 0) & (rows < len(offsets) - 1), rows, 0).long()
        wrong |= (scores == -math.inf) & (offsets[safe + 1] > offsets[safe]) & (rows >= 0)
    if not (low >= -math.inf and high < math.inf) or (low == -math.inf and bool(wrong.any())):
        bad = int(wrong.nonzero()[0])
        expected = "numbers that are finite in the type of the documents, in query and document, and a row that exists"
        raise NonFiniteError(f"{name}: document {int(rows[bad])}", got=f"a score of {float(scores[bad])}", expected=expected)
    return scores


def maxsim_on_device(query: Any, documents: DeviceTokens, rows: Any, mask: Any, weights: Any, run: Any) -> Any:
    """`maxsim` of documents on a device: float32 tensors there."""
    name, device = "maxsim", documents.device
    if (batch := batch_of(query)) is not None:
        if mask is not None or weights is not None:
            raise InputError(name, got="a mask or weights for a batch of queries", expected="a batch of the query tokens that count")
        return in_one_launch(name, batch, rows, documents, run)
    q = query_on(name, query, documents.dim, device)
    chosen = rows_on(name, rows, len(documents), device)
    w = weights_on(name, mask, weights, len(q), device)
    return require_finite(name, run(q, w, documents, chosen), chosen, documents.offsets)


def in_one_launch(name: str, batch: list[Any], rows: Any, documents: Any, run: Any) -> list[torch.Tensor]:
    """A batch as pairs of a query and a document. When all queries have the same rows, the pairs of a document follow one another, so that
    a cache may serve all but the first."""
    torch, device = require_torch(), documents.device
    if not batch:
        return []
    queries = [query_on(name, q, documents.dim, device) for q in batch]
    given = of_queries(name, rows, len(batch))
    shared = all(x is given[0] for x in given)
    lists = [rows_on(name, x, len(documents), device) for x in (given[:1] if shared else given)]
    ends = torch.tensor(np.cumsum([0, *map(len, queries)]), device=device)
    if shared:
        chosen = lists[0].repeat_interleave(len(batch))
        pairs = torch.arange(len(batch), dtype=torch.int32, device=device).repeat(len(lists[0]))
    else:
        chosen = torch.cat([x.long() for x in lists])
        pairs = torch.from_numpy(np.repeat(np.arange(len(batch), dtype=np.int32), [len(x) for x in lists])).to(device)
    scores = require_finite(
        name, run(torch.cat(queries), None, documents, chosen, query_offsets=ends, pairs=pairs), chosen, documents.offsets
    )
    return list(scores.view(-1, len(batch)).T.contiguous()) if shared else list(scores.split([len(x) for x in lists]))


def maxsim_triton(
    query: torch.Tensor, weights: torch.Tensor | None, documents: DeviceTokens, rows: torch.Tensor, **pairs: Any
) -> torch.Tensor:
    from rerank_kernels.maxsim import maxsim

    scores: torch.Tensor = maxsim(query, documents.values, documents.offsets, rows, scales=documents.scales, weights=weights, **pairs)
    return scores


def maxsim_torch(
    query: torch.Tensor, weights: torch.Tensor | None, documents: DeviceTokens, rows: torch.Tensor, **pairs: Any
) -> torch.Tensor:
    """As products of float32 over blocks of the candidates' tokens, gathered. The query has the documents' type first, as for Triton."""
    if pairs:
        return by_query(lambda q, some: maxsim_torch(q, None, documents, some), query, rows, **pairs)
    q = query.float() if documents.scales is not None else query.to(documents.values.dtype).float()

    def similarities(tokens: torch.Tensor) -> torch.Tensor:
        values = documents.values[tokens].float()
        return (values if documents.scales is None else values * documents.scales[tokens, None]) @ q.T

    return best_sums(similarities, len(q), weights, documents.offsets, rows)


def by_query(score: Any, query: torch.Tensor, rows: torch.Tensor, query_offsets: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Pairs of a query and a document, one query after the other."""
    torch = require_torch()
    scores = torch.empty(len(rows), device=rows.device)
    for i, (begin, end) in enumerate(zip(query_offsets.tolist(), query_offsets[1:].tolist())):
        scores[pairs == i] = score(query[begin:end], rows[pairs == i])
    return scores


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
    return torch.where(known, scores, torch.where(rows == -1, -math.inf, math.nan))


def _blocks(lengths: torch.Tensor) -> Iterator[slice]:
    """Documents that follow one another, of BLOCK_TOKENS together, or one that is longer."""
    ends, at = lengths.cumsum(0).cpu().numpy(), 0
    while at < len(ends):
        before = int(ends[at - 1]) if at else 0
        upto = max(at + 1, int(np.searchsorted(ends, before + BLOCK_TOKENS, side="right")))
        yield slice(at, upto)
        at = upto
