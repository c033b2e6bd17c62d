"""The k best of lists of scores on a device, score descending, then row ascending: sort keys of 64 bits, which hold both.

Bytes: scores and rows are read once. One program sorts a list in blocks, so it loses to a sort over the whole device for lists of more than
some ten thousand; re-ranking has 50 to 1,000.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from .launch import Build, on_its_device, power_of_2

LARGEST = 1024  # k


@triton.jit
def sort_key(score, row):
    """int64 that rises with the score and, among equal ones, falls with the row. NaN stands above all, where it is seen; padding below."""
    bits = tl.where(score == 0, 0.0, score).to(tl.int32, bitcast=True)  # -0 equals 0
    bits = tl.where(score != score, 0x7FFFFFFF, tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF))
    key = (bits.to(tl.int64) << 32) | (0x7FFFFFFF - row.to(tl.int64))
    return tl.where(row == -1, -0x8000000000000000, key)


@triton.jit(do_not_specialize=["m", "k"])
def topk_kernel(scores_ptr, rows_ptr, best_scores_ptr, best_rows_ptr, m, k, K: tl.constexpr, BLOCK: tl.constexpr):
    """One list of m scores a program."""
    at = tl.program_id(0).to(tl.int64)
    scores_ptr += at * m
    rows_ptr += at * m
    best = tl.full([K], -0x8000000000000000, tl.int64)
    for s in range(0, m, BLOCK):
        i = s + tl.arange(0, BLOCK)
        score = tl.load(scores_ptr + i, mask=i < m, other=0.0)
        row = tl.load(rows_ptr + i, mask=i < m, other=-1)
        best = tl.topk(tl.reshape(tl.join(best, tl.topk(sort_key(score, row), K)), [2 * K]), K)
    place = tl.arange(0, K)
    bits = (best >> 32).to(tl.int32)
    found = best != -0x8000000000000000
    score = tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).to(tl.float32, bitcast=True)
    tl.store(best_scores_ptr + at * k + place, tl.where(found, score, float("-inf")), mask=place < k)
    tl.store(best_rows_ptr + at * k + place, tl.where(found, 0x7FFFFFFF - (best & 0xFFFFFFFF), -1), mask=place < k)


@on_its_device
def topk(scores: torch.Tensor, rows: torch.Tensor, k: int, *, out: tuple[torch.Tensor, torch.Tensor] | None = None) -> Any:
    """(scores float32 [n, k], rows int64 [n, k]) of the best of scores float32 [n, m] with their rows int32 or int64 [n, m], below 2^31.

    Or [m] to [k]. Places that are left are row -1, score -inf; entries of row -1 are left out. Ties by row. k: at most LARGEST (1024).
    """
    if scores.dtype != torch.float32 or rows.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"topk: got {scores.dtype} with {rows.dtype}, expected float32 with int32 or int64")
    if k > LARGEST:
        raise ValueError(f"topk: got k = {k}, expected at most {LARGEST}")
    shape = (*scores.shape[:-1], k)
    if out is None:
        out = (torch.empty(shape, device=scores.device), torch.empty(shape, dtype=torch.int64, device=scores.device))
    values, best = out
    lists, m = scores.shape[0] if scores.dim() > 1 else 1, scores.shape[-1]
    if lists and k:
        topk_kernel[(lists,)](scores, rows, values, best, m, k, **constants(m, k), num_warps=warps(k))
    return values, best


def constants(m: int, k: int) -> dict[str, int]:
    """What a list of m scores is compiled for: k rounded up, and blocks of 64, 256 or 1024 scores."""
    block = next((size for size in (64, 256) if size >= m), 1024)
    return {"K": power_of_2(k), "BLOCK": max(block, power_of_2(k))}


def warps(k: int) -> int:
    """With more of them a long list of the best spills on sm_89, with fewer a short one on sm_80."""
    return 4 if k > 256 else 8


def builds(target: str) -> list[Build]:
    types = {"scores_ptr": "*fp32", "rows_ptr": "*i32", "best_scores_ptr": "*fp32", "best_rows_ptr": "*i64", "m": "i32", "k": "i32"}
    return [Build("topk", f"k{k}", topk_kernel, types, constants(1000, k), warps(k), 1, tensor_cores=False) for k in (10, 100, 1000)]
