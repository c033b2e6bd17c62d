"""Attention within each sequence of a packed batch: out = softmax(q k^T * scale) v, on the output of the QKV product as it lies.

qkv [tokens, 3, heads, head_dim], float16 or bfloat16; out [tokens, heads, head_dim] of that type; products, maxima and sums are float32.
No split, transpose, padding or mask in memory, and no longest length: a program takes one head of one block of rows, from a list that the
host makes of the lengths it knows (`work_list`), longest sequence first, and its loop ends where its own sequence does. It reads that
sequence alone: nothing comes from a neighbour, a NaN neither, and the output is bitwise the same whatever a sequence is packed with.

Bytes, for a sequence of n tokens: 8 * n * heads * head_dim, each number of qkv read and of out written once; k and v are read again, from
the L2 cache, for each block of rows after the first. With one row a sequence (the last layer, of which only that is used):
4 * (n + 1) * heads * head_dim.

Expected, not measured: it loses to FlashAttention-3 and cuDNN at thousands of tokens, where loads and products must overlap across warps.
The causal form masks in every block, also where all is seen. In a re-ranker's pairs of 50 to 500 tokens attention is about 5 % of the work.

Source: FlashAttention-2 (Dao, 2023), algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from .common import span
from .config import LIKE, TARGETS
from .launch import Build, interpreting, on_its_device, power_of_2, target_of

# (target, head dims up to) -> (rows of a block, keys of a trip, warps, stages): few warp-instructions on pairs of 20 to 360 tokens and on
# 512, by compiled machine code; sm_90 up to 64 by the clock of an H200, on ragged pairs of mean 150. sm_100: blocks of 32 rows; with 64,
# Triton takes tcgen05 instructions, and the code around them issues 1.5 to 2.1 times as many.
BLOCKS = {
    ("sm_80", 32): (64, 64, 4, 2),
    ("sm_80", 64): (64, 64, 4, 2),
    ("sm_80", 128): (128, 64, 8, 2),
    ("sm_89", 32): (64, 64, 4, 2),
    ("sm_89", 64): (64, 64, 4, 2),
    ("sm_89", 128): (128, 64, 8, 2),
    ("sm_90", 32): (64, 32, 4, 3),
    ("sm_90", 64): (64, 32, 4, 3),
    ("sm_90", 128): (64, 64, 4, 2),
    ("sm_100", 32): (32, 64, 2, 2),
    ("sm_100", 64): (32, 64, 2, 2),
    ("sm_100", 128): (32, 64, 2, 2),
}
ONE_ROW = {32: (16, 64, 1, 2), 64: (16, 64, 2, 2), 128: (16, 64, 2, 2)}  # on every target


@triton.jit
def dot(a, b, acc, KIND: tl.constexpr):
    """a b + acc in float32, on tensor cores. "upcast": bfloat16 in the interpreter, whose product of bfloat16 is wrong."""
    if KIND == "upcast":
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    if KIND == "fp32":
        return tl.dot(a, b, acc, input_precision="tf32x3")
    else:
        return tl.dot(a, b, acc)


@triton.jit
def tile(ptr, offsets, cols, DIM: tl.constexpr, COLS: tl.constexpr):
    """[rows, cols] of the rows that lie at `offsets`, 0 behind the last column"""
    at = ptr + offsets[:, None] + cols[None, :]
    if COLS > DIM:
        return tl.load(at, mask=cols[None, :] < DIM, other=0)
    else:
        return tl.load(at)


@triton.jit
def attended(
    q, k_ptr, v_ptr, stride, row, start, end, n, reach, scale_log2,
    DIM: tl.constexpr, COLS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, KIND: tl.constexpr,
    CAUSAL: tl.constexpr, LOCAL: tl.constexpr,
):  # fmt: skip
    """float32 [BM, COLS]: softmax(q k^T) v over the keys start..end of a sequence of n tokens; `row` is each query's place in it."""
    cols = tl.arange(0, COLS)
    keys = tl.arange(0, BN)
    high = row if CAUSAL else n - 1
    if LOCAL:
        high = tl.minimum(high, row + reach)
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, COLS], tl.float32)
    none = tl.zeros([BM, BN], tl.float32)
    far = stride.to(tl.int64)
    for j in range(start, end, BN):
        at = j * far
        offsets = tl.minimum(keys, n - 1 - j) * stride
        scores = dot(q, tl.trans(tile(k_ptr + at, offsets, cols, DIM, COLS)), none, KIND)
        key = (j + keys)[None, :]
        if LOCAL:
            seen = (key >= (row - reach)[:, None]) & (key <= high[:, None])
        elif CAUSAL:
            seen = key <= high[:, None]
        else:
            seen = key <= high
        scores = tl.where(seen, scores, float("-inf"))
        best = tl.maximum(top, tl.max(scores, 1))
        zero = best * scale_log2
        if LOCAL and BM > BN:  # where a row's window may begin after the first keys: it has no maximum yet, and -inf - -inf would be NaN
            zero = tl.where(best == float("-inf"), 0.0, zero)
        p = tl.exp2(scores * scale_log2 - zero[:, None])
        shrink = tl.exp2(top * scale_log2 - zero)
        total = total * shrink + tl.sum(p, 1)
        v = tile(v_ptr + at, offsets, cols, DIM, COLS)
        acc = dot(p.to(v.dtype), v, acc * shrink[:, None], KIND)
        top = best
    return acc * (1.0 / total)[:, None]


@triton.jit(do_not_specialize=["n_sequences", "heads", "reach"])
def varlen_attention_kernel(
    qkv_ptr, offsets_ptr, work_ptr, out_ptr, n_sequences, heads, reach, scale_log2,
    DIM: tl.constexpr, COLS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, KIND: tl.constexpr,
    CAUSAL: tl.constexpr, LOCAL: tl.constexpr, ONE_ROW: tl.constexpr,
):  # fmt: skip
    """One head of one entry (sequence, first row): BM rows from there on, or that row alone. The heads of an entry are neighbours, as they
    are in memory."""
    entry = tl.program_id(0) // heads
    head = tl.program_id(0) % heads
    sequence = tl.load(work_ptr + 2 * entry)
    first = tl.load(work_ptr + 2 * entry + 1)
    lo, n = span(offsets_ptr, sequence, n_sequences)
    if (first < 0) | (first >= n):
        return
    cols = tl.arange(0, COLS)
    row = tl.minimum(first + (tl.zeros([BM], tl.int32) if ONE_ROW else tl.arange(0, BM)), n - 1)
    last = first if ONE_ROW else tl.minimum(first + BM, n) - 1
    end = last + 1 if CAUSAL else n
    start = 0
    if LOCAL:
        start = tl.maximum(first - reach, 0)
        end = tl.minimum(end, last + reach + 1)
    width = heads * DIM
    q_ptr = qkv_ptr + lo * 3 * width + head * DIM
    first_q = q_ptr + first.to(tl.int64) * 3 * width
    q = tile(first_q, (row - first) * 3 * width, cols, DIM, COLS)
    result = attended(
        q, q_ptr + width, q_ptr + 2 * width, 3 * width, row, start, end, n, reach, scale_log2, DIM, COLS, BM, BN, KIND, CAUSAL, LOCAL
    )  # fmt: skip
    i = tl.arange(0, BM)
    to = sequence.to(tl.int64) if ONE_ROW else lo + first
    here = (i == 0) if ONE_ROW else (first + i < n)
    at = out_ptr + to * width + head * DIM + i[:, None] * width + cols[None, :]
    tl.store(at, result.to(out_ptr.dtype.element_ty), mask=here[:, None] & (cols[None, :] < DIM))


def blocks(target: str, head_dim: int, one_row: bool) -> tuple[int, int, int, int]:
    """(rows of a block, keys of a trip, warps, stages)"""
    bucket = next((dim for dim in ONE_ROW if dim >= head_dim), None)
    found = BLOCKS.get((LIKE.get(target, target), bucket))
    if found is None:
        raise ValueError(
            f"no attention kernel for head_dim {head_dim} on {target}: head_dim <= 128 on {', '.join(TARGETS)} or their relatives"
        )
    return ONE_ROW[bucket] if one_row else found


def block_rows(device: torch.device, head_dim: int) -> int:
    """How many rows a program takes: the `block` of `work_list`."""
    return blocks(target_of(device), head_dim, one_row=False)[0]


def work_list(lengths: Sequence[int] | torch.Tensor, block: int, size: int | None = None) -> torch.Tensor:
    """int32 [n, 2] on the CPU: (sequence, first row) of every block of rows, longest sequence first, and of one sequence its last block
    first, which sees most keys where attention is causal. An empty sequence has none.

    size: that many entries, padded with sequence -1, for a CUDA graph; ValueError if the work does not fit.
    """
    lengths = torch.as_tensor(lengths, dtype=torch.int64)
    order = torch.argsort(lengths, descending=True, stable=True)
    counts = (lengths[order] + block - 1) // block
    ends = counts.cumsum(0)
    sequence = torch.repeat_interleave(order, counts)
    first = (torch.repeat_interleave(ends, counts) - 1 - torch.arange(len(sequence))) * block
    return padded(torch.stack((sequence, first), 1), size)


def row_list(lengths: Sequence[int] | torch.Tensor, last: bool = False, size: int | None = None) -> torch.Tensor:
    """`work_list` for one row of each sequence: its first (CLS) or its last. Entries with any other row may be made by hand."""
    lengths = torch.as_tensor(lengths, dtype=torch.int64)
    order = torch.argsort(lengths, descending=True, stable=True)
    order = order[lengths[order] > 0]
    return padded(torch.stack((order, lengths[order] - 1 if last else torch.zeros_like(order)), 1), size)


def padded(entries: torch.Tensor, size: int | None) -> torch.Tensor:
    if size is not None and size < len(entries):
        raise ValueError(f"{len(entries)} entries of work do not fit a list of {size}")
    work = torch.full((len(entries) if size is None else size, 2), -1, dtype=torch.int32)
    work[: len(entries)] = entries
    return work


def constants(target: str, head_dim: int, kind: str, causal: bool, local: bool, one_row: bool) -> tuple[dict[str, Any], dict[str, int]]:
    """(constexpr arguments, launch options)"""
    rows, keys, warps, stages = blocks(target, head_dim, one_row)
    form = {"DIM": head_dim, "COLS": power_of_2(head_dim), "BM": rows, "BN": keys, "KIND": kind}
    return {**form, "CAUSAL": causal, "LOCAL": local, "ONE_ROW": one_row}, {"num_warps": warps, "num_stages": stages}


def kind_of(dtype: torch.dtype) -> str:
    """What `dot` calls a type. ValueError for one that it does not take."""
    kinds = {torch.float16: "fp16", torch.bfloat16: "upcast" if interpreting() else "bf16", torch.float32: "fp32"}
    if dtype not in kinds:
        raise ValueError(f"expected float16, bfloat16 or float32, got {dtype}")
    return kinds[dtype]


@on_its_device
def varlen_attention(
    qkv: torch.Tensor,
    offsets: torch.Tensor,
    work: torch.Tensor,
    *,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    one_row: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention [tokens, heads, head_dim], or one row a sequence [sequences, heads, head_dim]. Safe in a CUDA graph with `out`.

    qkv: float16 or bfloat16 [tokens, 3, heads, head_dim], contiguous; head_dim at most 128.
    offsets: int64 [sequences + 1], where each sequence begins. work: int32 [n, 2] on the same device, of
    `work_list(lengths, block_rows(qkv.device, head_dim))`; with one_row, of `row_list(lengths)`.
    scale: 1 / sqrt(head_dim) if None, > 0. causal: a token sees those up to itself. window: it sees those at most window // 2 away, as in
    ModernBERT; with causal, those of them up to itself.
    out: rows that no entry names stay as they are (behind the last sequence; of an empty sequence); a new one has 0 there.
    """
    tokens, three, heads, head_dim = qkv.shape
    sequences = len(offsets) - 1
    shape = (sequences if one_row else tokens, heads, head_dim)
    if three != 3 or not qkv.is_contiguous() or qkv.dtype == torch.float32:
        raise ValueError(f"qkv: expected a contiguous float16 or bfloat16 [tokens, 3, heads, head_dim], got {qkv.dtype} {tuple(qkv.shape)}")
    if work.dtype != torch.int32 or work.shape[1:] != (2,) or not work.is_contiguous():
        raise ValueError(f"work: expected a contiguous int32 [n, 2], got {work.dtype} {tuple(work.shape)}")
    if offsets.dtype != torch.int64 or offsets.dim() != 1 or not offsets.is_contiguous():
        raise ValueError(f"offsets: expected a contiguous int64 [sequences + 1], got {offsets.dtype} {tuple(offsets.shape)}")
    if out is None:
        out = torch.zeros(shape, dtype=qkv.dtype, device=qkv.device)
    elif out.shape != shape or out.dtype != qkv.dtype or not out.is_contiguous():
        raise ValueError(f"out: expected a contiguous {qkv.dtype} {shape}, got {out.dtype} {tuple(out.shape)}")
    local = window is not None
    form, options = constants(target_of(qkv.device), head_dim, kind_of(qkv.dtype), causal, local, one_row)
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    reach = window // 2 if local else 0
    varlen_attention_kernel[(len(work) * heads,)](
        qkv, offsets, work, out, sequences, heads, reach, scale * math.log2(math.e), **form, **options
    )  # fmt: skip
    return out


def builds(target: str) -> list[Build]:
    """Of bfloat16 and of a head dim that is no power of 2 the plain form alone; causal windows are windows with another bound."""
    plain, causal, local = (False, False), (True, False), (False, True)
    forms = [("fp16", dim, mask, one) for dim in (32, 64, 128) for mask in (plain, causal, local) for one in (False, True)]
    forms += [("bf16", dim, plain, one) for dim in (32, 64, 128) for one in (False, True)] + [("fp16", 96, plain, False)]
    found = []
    for kind, dim, mask, one_row in forms:
        form, options = constants(target, dim, kind, *mask, one_row)
        types = {"qkv_ptr": "*" + kind, "offsets_ptr": "*i64", "work_ptr": "*i32", "out_ptr": "*" + kind}
        types |= {"n_sequences": "i32", "heads": "i32", "reach": "i32", "scale_log2": "fp32"}
        name = {plain: "", causal: "-causal", local: "-local"}[mask]
        variant = f"{kind}-d{dim}{name}{'-row' if one_row else ''}"
        sizes = (options["num_warps"], options["num_stages"])
        found.append(Build("varlen_attention", variant, varlen_attention_kernel, types, form, *sizes, tokens=form["BN"]))
    return found
