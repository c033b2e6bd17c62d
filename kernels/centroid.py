"""Scores from centroids alone, the candidate stage of PLAID (Santhanam et al., CIKM 2022): every token stands for its centroid, so that
score(q, d) = sum over i of weight_i * max over j of table[id_j, i], table = the products of the centroids with the query.

Bytes: an id (2 or 4) and a row of the table, 2 * the query's tokens, for each document token; rows of few centroids stay in the cache.
There is no product in it: it loses to `residual` in accuracy, and to nothing in bytes.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from .common import of_nothing, reduced, span, weighed
from .launch import Build, ceil_div, on_its_device, power_of_2

WIDEST = 64  # query tokens of a block


@triton.jit(do_not_specialize=["n_query", "n_documents", "n_centroids", "width"])
def centroid_kernel(
    table_ptr, weights_ptr, ids_ptr, offsets_ptr, rows_ptr, out_ptr, n_query, n_documents, n_centroids, width,
    BQ: tl.constexpr, BD: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """out[pick] of one document a program. A token whose centroid does not exist makes its document NaN."""
    pick = tl.program_id(0)
    row = tl.load(rows_ptr + pick).to(tl.int64)
    lo, n = span(offsets_ptr, row, n_documents)
    tokens = tl.arange(0, BD)
    width = width // 16 * 16  # which the compiler knows then: rows are read in whole vectors
    total = 0.0
    strange = tl.zeros([BD], tl.int32)
    for k in range(0, n_query, BQ):
        column = k + tl.arange(0, BQ)
        best = tl.full([BD, BQ], float("-inf"), tl.float32)
        for s in range(0, n, BD):
            id = tl.load(ids_ptr + lo + tl.minimum(s + tokens, n - 1)).to(tl.int32)
            known = (id >= 0) & (id < n_centroids)
            strange = tl.where(known, strange, 1)
            at = table_ptr + tl.where(known, id, 0).to(tl.int64)[:, None] * width + column[None, :]
            best = tl.maximum(best, tl.load(at).to(tl.float32), propagate_nan=tl.PropagateNan.ALL)
        total += weighed(reduced(best, 0), weights_ptr, k, n_query - k, BQ, WEIGHTED)
    total = tl.where(tl.max(strange, 0) > 0, float("nan"), total)
    tl.store(out_ptr + pick, tl.where(n > 0, total, of_nothing(row, n_documents)))


def centroid_table(query: torch.Tensor, centroids: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """[centroids, table_width(q)] in the type of the centroids: <centroid, query token>; the columns behind the last token are 0.

    query: [q, dim]; centroids: [n, dim], float16 or float32. Sums are float32, rounded once. out: a buffer, its last columns 0 already.
    """
    if out is None:
        out = centroids.new_zeros(len(centroids), table_width(len(query)))
    out[:, : len(query)] = centroids @ query.to(centroids.dtype).T
    return out


@on_its_device
def centroid_maxsim(
    table: torch.Tensor,
    n_query: int,
    ids: torch.Tensor,
    offsets: torch.Tensor,
    rows: torch.Tensor,
    *,
    weights: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Scores float32 [m] of documents given by row; nothing is read back to the host.

    table: float16 or float32 [centroids, table_width(n_query)], of `centroid_table`. ids: uint16 or int32 [total], each token's centroid.
    offsets: int64 [documents + 1]. rows: int32 or int64 [m]; -1 is padding. weights: float32 [n_query]; 0: the token takes no part.
    """
    out = torch.empty(len(rows), dtype=torch.float32, device=ids.device) if out is None else out
    if len(rows):
        sizes = (n_query, len(offsets) - 1, len(table), table.stride(0))
        form = constants(n_query, weights is not None)
        centroid_kernel[(len(rows),)](table, weights, ids, offsets, rows, out, *sizes, **form, num_warps=4, num_stages=3)
    return out


def table_width(n_query: int) -> int:
    """The columns of a table: the query's tokens, rounded up to whole blocks."""
    return ceil_div(max(1, n_query), block := min(WIDEST, power_of_2(n_query))) * block


def constants(n_query: int, weighted: bool) -> dict[str, Any]:
    return {"BQ": min(WIDEST, power_of_2(n_query)), "BD": 64, "WEIGHTED": weighted}


def builds(target: str) -> list[Build]:
    """What is compiled ahead of time."""
    integers = dict.fromkeys(("n_query", "n_documents", "n_centroids", "width"), "i32")
    types = {"ids_ptr": "*u16", "offsets_ptr": "*i64", "rows_ptr": "*i32", "out_ptr": "*fp32", **integers}
    made = []
    for held, tokens in (("fp16", 32), ("fp16", 64), ("fp32", 32)):
        form = constants(tokens, False) | {"weights_ptr": None}
        made.append(
            Build("centroid", f"{held}-q{tokens}", centroid_kernel, types | {"table_ptr": f"*{held}"}, form, 4, 3, 64, tensor_cores=False)
        )
    return made
