"""MaxSim of ColBERT on tensors of a device: score(q, d) = sum over i of weight_i * max over j of <q_i, d_j>.

Bytes: each scored token is read once, dim * (2 for fp16 and bf16, 4 for fp32, 1 for int8 + 4 for its scale); a block of the query stays on
chip. Documents are read where they lie, by row: no gather, no padding, no length that the host must know. Products and maxima are float32
(int8: integers), the sum over query tokens is float32.

`maxsim_kernel` runs a program for each pick, a row with its query. `maxsim_split_kernel` gives every program the same number of tiles, and
programs that share a document meet in an integer maximum, which does not depend on their order: for few or long documents, or lengths that
differ much. It loses where there are many short documents: a prefix sum comes before it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from .common import of_nothing, ordered, query_span, query_tile, reduced, span, token_tile, weighed
from .config import tiles
from .launch import Build, ceil_div, interpreting, multiprocessors, on_its_device, power_of_2, split_dim, target_of
from .topk import constants as topk_constants
from .topk import store_best, topk

PROGRAMS = 4  # of the split kernel, a multiprocessor


@triton.jit
def product(d, q, acc, KIND: tl.constexpr, DOCUMENT_FIRST: tl.constexpr):
    """acc + the products of a document's tile [tokens, cols] and a query's, on tensor cores. "upcast": bfloat16 in the interpreter, whose
    product of bfloat16 is wrong."""
    if KIND == "upcast":
        d = d.to(tl.float32)
        q = q.to(tl.float32)
    if DOCUMENT_FIRST:
        a = d
        b = q
    else:
        a = q
        b = tl.trans(d)
    if KIND == "int8":
        return tl.dot(a, b, acc, out_dtype=tl.int32)
    elif KIND == "fp32":
        return tl.dot(a, b, acc, input_precision="tf32x3")
    else:
        return tl.dot(a, b, acc)


@triton.jit
def best_matches(
    q_ptr, q_n, values_ptr, scales_ptr, first, last, n,
    DIM: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr, KIND: tl.constexpr,
    DOCUMENT_FIRST: tl.constexpr,
):  # fmt: skip
    """float32 [BQ]: for each query token its best product with the tokens first..last of a document of n tokens; -inf where there is none.

    Rows behind the end repeat the last token, which cannot change a maximum. The maximum is kept by element and reduced once, at the end.
    int8: a query token is 254 * a + b times its scale, both of them int8, so that it keeps 15 bits; the row holds a, then b.
    """
    tokens = tl.arange(0, BD)
    c0 = tl.arange(0, FIRST)
    c1 = FIRST + tl.arange(0, REST if REST else 16)
    stride = 2 * DIM if KIND == "int8" else DIM
    q0 = query_tile(q_ptr, q_n, stride, c0, DIM, BQ, DOCUMENT_FIRST)
    q1 = query_tile(q_ptr, q_n, stride, c1, DIM, BQ, DOCUMENT_FIRST) if REST else 0
    p0 = query_tile(q_ptr + DIM, q_n, stride, c0, DIM, BQ, DOCUMENT_FIRST) if KIND == "int8" else 0
    p1 = query_tile(q_ptr + DIM, q_n, stride, c1, DIM, BQ, DOCUMENT_FIRST) if KIND == "int8" and REST else 0
    none = tl.zeros([BD, BQ] if DOCUMENT_FIRST else [BQ, BD], tl.int32 if KIND == "int8" else tl.float32)
    m = tl.full([BD, BQ] if DOCUMENT_FIRST else [BQ, BD], float("-inf"), tl.float32)
    for s in range(first, last, BD):
        row = tl.minimum(s + tokens, n - 1)
        d = token_tile(values_ptr, row, c0, DIM, FIRST > DIM)
        similarity = product(d, q0, none, KIND, DOCUMENT_FIRST)
        if KIND == "int8":
            low = product(d, p0, none, KIND, DOCUMENT_FIRST)
        if REST:
            d = token_tile(values_ptr, row, c1, DIM, FIRST + REST > DIM)
            similarity = product(d, q1, similarity, KIND, DOCUMENT_FIRST)
            if KIND == "int8":
                low = product(d, p1, low, KIND, DOCUMENT_FIRST)
        if KIND == "int8":
            scale = tl.load(scales_ptr + row)
            similarity = (similarity * 254 + low).to(tl.float32) * (scale[:, None] if DOCUMENT_FIRST else scale[None, :])
        m = tl.maximum(m, similarity, propagate_nan=tl.PropagateNan.ALL)
    return reduced(m, 0 if DOCUMENT_FIRST else 1)


@triton.jit
def best_matches_wide(
    q_ptr, q_n, values_ptr, scales_ptr, first, last, n,
    DIM: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr, KIND: tl.constexpr, DOCUMENT_FIRST: tl.constexpr,
):  # fmt: skip
    """`best_matches` for vectors that do not stay on chip: in steps of 64 columns, the query's read again for each tile."""
    tokens = tl.arange(0, BD)
    stride = 2 * DIM if KIND == "int8" else DIM
    m = tl.full([BD, BQ] if DOCUMENT_FIRST else [BQ, BD], float("-inf"), tl.float32)
    for s in range(first, last, BD):
        row = tl.minimum(s + tokens, n - 1)
        similarity = tl.zeros([BD, BQ] if DOCUMENT_FIRST else [BQ, BD], tl.float32)
        for c in range(0, DIM, 64):
            cols = c + tl.arange(0, 64)
            d = token_tile(values_ptr, row, cols, DIM, DIM % 64 != 0)
            q = query_tile(q_ptr, q_n, stride, cols, DIM, BQ, DOCUMENT_FIRST)
            if KIND == "int8":
                none = tl.zeros([BD, BQ] if DOCUMENT_FIRST else [BQ, BD], tl.int32)
                low = query_tile(q_ptr + DIM, q_n, stride, cols, DIM, BQ, DOCUMENT_FIRST)
                high = product(d, q, none, KIND, DOCUMENT_FIRST)
                similarity += (high * 254 + product(d, low, none, KIND, DOCUMENT_FIRST)).to(tl.float32)
            else:
                similarity = product(d, q, similarity, KIND, DOCUMENT_FIRST)
        if KIND == "int8":
            scale = tl.load(scales_ptr + row)
            similarity *= scale[:, None] if DOCUMENT_FIRST else scale[None, :]
        m = tl.maximum(m, similarity, propagate_nan=tl.PropagateNan.ALL)
    return reduced(m, 0 if DOCUMENT_FIRST else 1)


@triton.jit
def matched(
    q_ptr, q_n, values_ptr, scales_ptr, first, last, n,
    DIM: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr, KIND: tl.constexpr,
    DOCUMENT_FIRST: tl.constexpr,
):  # fmt: skip
    if FIRST == 0:
        return best_matches_wide(q_ptr, q_n, values_ptr, scales_ptr, first, last, n, DIM, BQ, BD, KIND, DOCUMENT_FIRST)
    else:
        return best_matches(q_ptr, q_n, values_ptr, scales_ptr, first, last, n, DIM, FIRST, REST, BQ, BD, KIND, DOCUMENT_FIRST)


@triton.jit(do_not_specialize=["n_query", "n_documents"])
def maxsim_kernel(
    q_ptr, q_offsets_ptr, pairs_ptr, weights_ptr, values_ptr, scales_ptr, offsets_ptr, rows_ptr, out_ptr, n_query, n_documents,
    DIM: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr, KIND: tl.constexpr,
    DOCUMENT_FIRST: tl.constexpr, PAIRS: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """out[pick] of one document a program."""
    pick = tl.program_id(0)
    row = tl.load(rows_ptr + pick).to(tl.int64)
    lo, n = span(offsets_ptr, row, n_documents)
    q_lo, q_n = query_span(q_offsets_ptr, pairs_ptr, pick, n_query, PAIRS)
    stride = 2 * DIM if KIND == "int8" else DIM
    total = 0.0
    for k in range(0, q_n, BQ):
        best = matched(
            q_ptr + (q_lo + k) * stride, q_n - k, values_ptr + lo * DIM, scales_ptr + lo if KIND == "int8" else None, 0, n, n,
            DIM, FIRST, REST, BQ, BD, KIND, DOCUMENT_FIRST,
        )  # fmt: skip
        total += weighed(best, weights_ptr, q_lo + k, q_n - k, BQ, WEIGHTED)
    tl.store(out_ptr + pick, tl.where(n > 0, total, of_nothing(row, n_documents)))


@triton.jit(do_not_specialize=["m", "n_documents"])
def prefix_kernel(offsets_ptr, rows_ptr, prefix_ptr, out_ptr, m, n_documents, BD: tl.constexpr, BLOCK: tl.constexpr):
    """prefix[i + 1] = the tiles of the picks up to i; and what picks without tokens score. One program."""
    tl.store(prefix_ptr, 0)
    before = 0
    for s in range(0, m, BLOCK):
        i = s + tl.arange(0, BLOCK)
        row = tl.load(rows_ptr + i, mask=i < m, other=-1).to(tl.int64)
        _, n = span(offsets_ptr, row, n_documents)
        tiles = (n + BD - 1) // BD
        tl.store(prefix_ptr + i + 1, before + tl.cumsum(tiles, 0), mask=i < m)
        tl.store(out_ptr + i, of_nothing(row, n_documents), mask=(i < m) & (n == 0))
        before += tl.sum(tiles)


@triton.jit
def pick_of(prefix_ptr, m, tile):
    """The pick that a tile belongs to: as many as end at or before it."""
    pick = 0
    for s in range(0, m, 1024):
        i = s + tl.arange(0, 1024)
        pick += tl.sum((tl.load(prefix_ptr + 1 + i, mask=i < m, other=0x7FFFFFFF) <= tile).to(tl.int32))
    return pick


@triton.jit(do_not_specialize=["n_query", "n_documents", "m", "part_stride", "k_best"])
def maxsim_split_kernel(
    q_ptr, q_offsets_ptr, pairs_ptr, weights_ptr, values_ptr, scales_ptr, offsets_ptr, rows_ptr, out_ptr, n_query, n_documents, m,
    prefix_ptr, part_ptr, part_stride, done_ptr, best_scores_ptr, best_rows_ptr, k_best,
    DIM: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr, KIND: tl.constexpr,
    DOCUMENT_FIRST: tl.constexpr, PAIRS: tl.constexpr, WEIGHTED: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The same share of all tiles for each program. A document that lies in one share is scored there. The programs that share one meet in
    part[pick, q], and the last of them, which finds all its tiles counted in done[pick], sums and leaves both as they were. K: the last
    program of all, counted in done[m], also writes the k best."""
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    tiles = tl.load(prefix_ptr + m).to(tl.int64)
    a = (tiles * program // programs).to(tl.int32)
    b = (tiles * (program + 1) // programs).to(tl.int32)
    pick = pick_of(prefix_ptr, m, a)
    stride = 2 * DIM if KIND == "int8" else DIM
    while a < b:
        begin = tl.load(prefix_ptr + pick)
        end = tl.load(prefix_ptr + pick + 1)
        upto = tl.minimum(end, b)
        if upto > a:
            row = tl.load(rows_ptr + pick).to(tl.int64)
            lo, n = span(offsets_ptr, row, n_documents)
            q_lo, q_n = query_span(q_offsets_ptr, pairs_ptr, pick, n_query, PAIRS)
            whole = upto - a == end - begin
            parts = part_ptr + pick.to(tl.int64) * part_stride
            total = 0.0
            for k in range(0, q_n, BQ):
                best = matched(
                    q_ptr + (q_lo + k) * stride, q_n - k, values_ptr + lo * DIM, scales_ptr + lo if KIND == "int8" else None,
                    (a - begin) * BD, (upto - begin) * BD, n, DIM, FIRST, REST, BQ, BD, KIND, DOCUMENT_FIRST,
                )  # fmt: skip
                if whole:
                    total += weighed(best, weights_ptr, q_lo + k, q_n - k, BQ, WEIGHTED)
                else:
                    i = k + tl.arange(0, BQ)
                    tl.atomic_max(parts + i, ordered(best), mask=i < q_n, sem="relaxed")
            if whole:
                tl.store(out_ptr + pick, total)
            else:
                tl.debug_barrier()
                counted = tl.atomic_add(done_ptr + pick, upto - a, sem="acq_rel")
                if counted + upto - a == end - begin:
                    for k in range(0, q_n, BQ):
                        i = k + tl.arange(0, BQ)
                        bits = tl.atomic_xchg(parts + i, tl.full([BQ], -0x80000000, tl.int32), mask=i < q_n)
                        best = tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).to(tl.float32, bitcast=True)
                        total += weighed(best, weights_ptr, q_lo + k, q_n - k, BQ, WEIGHTED)
                    tl.store(out_ptr + pick, total)
                    tl.store(done_ptr + pick, 0)
        a = upto
        pick += 1
    if K:
        tl.debug_barrier()
        if tl.atomic_add(done_ptr + m, 1, sem="acq_rel") == programs - 1:
            store_best(out_ptr, rows_ptr, m, k_best, best_scores_ptr, best_rows_ptr, K, BLOCK)
            tl.store(done_ptr + m, 0)


@triton.jit(do_not_specialize=["n"])
def quantize_query_kernel(q_ptr, q8_ptr, weights_ptr, scaled_ptr, n, DIM: tl.constexpr, COLS: tl.constexpr, WEIGHTED: tl.constexpr):
    """A query token as 254 * a + b in steps of its scale, both int8; its weight times that scale. One program a token."""
    i = tl.program_id(0)
    cols = tl.arange(0, COLS)
    q = tl.load(q_ptr + i * DIM + cols, mask=cols < DIM, other=0).to(tl.float32)
    scale = tl.max(tl.abs(q), 0) / 32258
    scale = tl.where(scale == 0, 1.0, scale)  # a weight of 0 would hide a NaN
    bad = tl.max((q != q).to(tl.int32), 0) > 0
    steps = tl.floor(q / scale + 0.5)
    high = tl.floor(steps / 254 + 0.5)
    tl.store(q8_ptr + i * 2 * DIM + cols, high.to(tl.int8), mask=cols < DIM)
    tl.store(q8_ptr + i * 2 * DIM + DIM + cols, (steps - 254 * high).to(tl.int8), mask=cols < DIM)
    weight = tl.load(weights_ptr + i) if WEIGHTED else 1.0
    tl.store(scaled_ptr + i, tl.where(weight == 0, 0.0, tl.where(bad, float("nan"), weight * scale)))


@dataclass(frozen=True)
class Workspace:
    """What `maxsim_split_kernel` needs for m picks of queries of up to q tokens. A launch leaves it as it was: one for each stream."""

    prefix: torch.Tensor  # int32 [m + 1]
    part: torch.Tensor  # int32 [m, q], the lowest
    done: torch.Tensor  # int32 [m + 1], 0

    @classmethod
    def of(cls, m: int, q: int, device: torch.device) -> Workspace:
        part = torch.full((m, max(q, 1)), -(2**31), dtype=torch.int32, device=device)
        return cls(torch.empty(m + 1, dtype=torch.int32, device=device), part, torch.zeros(m + 1, dtype=torch.int32, device=device))


@on_its_device
def maxsim(
    query: torch.Tensor,
    values: torch.Tensor,
    offsets: torch.Tensor,
    rows: torch.Tensor,
    *,
    scales: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    query_offsets: torch.Tensor | None = None,
    pairs: torch.Tensor | None = None,
    split: bool | None = None,
    workspace: Workspace | None = None,
    out: torch.Tensor | None = None,
    top: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Scores float32 [m] of documents given by row, without a look at any of them from the host: safe in a CUDA graph.

    query: [q, dim], any float; or the tokens of several queries with query_offsets int64 [n + 1], and pairs int32 [m], whose query each
    pick is. It is brought to the type of the values (int8: to 15 bits).
    values: float16, bfloat16 or float32 [total, dim], or int8 with scales float32 [total]. offsets: int64 [documents + 1].
    rows: int32 or int64 [m]; -1 is padding. weights: float32 [q]; a token of weight 0 takes no part.
    split: see above. None: for few picks of one query, when there is a workspace; to make one costs the host more than a split spares the
    device, if the call is not recorded. With pairs the workspace is of the longest query.
    top: buffers (float32 [k], int64 [k]) for the k best; needs split.
    """
    m, dim = len(rows), values.shape[1]
    if query.shape[1] != dim:
        raise ValueError(f"maxsim: got a query of dimension {query.shape[1]}, expected {dim}, as the values have")
    if top is not None and not split:
        raise ValueError("maxsim: got buffers for the best without split=True, expected both: they are filled by the split kernel")
    out = torch.empty(m, dtype=torch.float32, device=values.device) if out is None else out
    if m == 0:
        if top is not None:
            topk(out, rows, len(top[0]), out=top)
        return out
    kind = kind_of(values)
    query, weights = prepared(query, weights, kind)
    longest = len(query) if pairs is None else ceil_div(len(query), len(query_offsets) - 1)
    form, options = constants(target_of(values.device), kind, dim, longest, pairs is not None, weights is not None)
    args = (query, query_offsets, pairs, weights, values, scales, offsets, rows, out, len(query), len(offsets) - 1)
    programs = multiprocessors(values.device) * PROGRAMS
    if not (workspace is not None and pairs is None and m < 2 * programs if split is None else split):
        maxsim_kernel[(m,)](*args, **form, **options)
        return out
    space = Workspace.of(m, len(query), values.device) if workspace is None else workspace
    prefix_kernel[(1,)](offsets, rows, space.prefix, out, m, len(offsets) - 1, BD=form["BD"], BLOCK=1024)
    best, k = ((None, None), 0) if top is None else (top, len(top[0]))
    largest = topk_constants(m, k) if k else {"K": 0, "BLOCK": 0}
    maxsim_split_kernel[(programs,)](
        *args, m, space.prefix, space.part, space.part.stride(0), space.done, *best, k, **form, **largest, **options,
    )  # fmt: skip
    return out


KINDS = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.int8: "int8"}


def kind_of(values: torch.Tensor) -> str:
    return "upcast" if interpreting() and values.dtype == torch.bfloat16 else KINDS[values.dtype]


def prepared(query: torch.Tensor, weights: torch.Tensor | None, kind: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The query as documents of a kind meet it, and its tokens' weights: for int8 two digits [q, 2, dim], and the scales in the weights."""
    if kind != "int8":
        types = {"fp16": torch.float16, "bf16": torch.bfloat16, "upcast": torch.bfloat16, "fp32": torch.float32}
        return query.to(types[kind]).contiguous(), weights
    n, dim = query.shape
    digits = torch.empty((n, 2, dim), dtype=torch.int8, device=query.device)
    scaled = torch.empty(n, dtype=torch.float32, device=query.device)
    form = {"DIM": dim, "COLS": power_of_2(dim), "WEIGHTED": weights is not None}
    if n:
        quantize_query_kernel[(n,)](query.contiguous(), digits, weights, scaled, n, **form, num_warps=1)
    return digits, scaled


@functools.cache
def constants(target: str, kind: str, dim: int, query: int, pairs: bool, weighted: bool) -> tuple[dict[str, Any], dict[str, int]]:
    """(compile-time arguments, options) of both kernels."""
    t = tiles(target, {"bf16": "fp16", "upcast": "fp16"}.get(kind, kind), dim, query)
    wide = dim > (64 if kind == "fp32" else 256)  # float32 is multiplied as three parts: the registers hold fewer columns
    first, rest = (0, 0) if wide else split_dim(dim, least=32 if kind == "int8" else 16)
    form = {"DIM": dim, "FIRST": first, "REST": rest, "BQ": t.query, "BD": t.document, "KIND": kind, "DOCUMENT_FIRST": t.document_first}
    return form | {"PAIRS": pairs, "WEIGHTED": weighted or kind == "int8"}, {"num_warps": t.warps, "num_stages": t.stages}


def builds(target: str) -> list[Build]:
    """What is compiled ahead of time: a form for each entry of the table of tiles, for dims that are read in parts, and of each storage
    those with pairs, with weights and split. Rows are int64 for a program a pick, int32 for the split kernel, as callers have them."""
    cases = [(kind, dim, query) for kind in ("fp16", "fp32", "int8") for dim in (64, 128, 256, 768) for query in (32, 16, 64)]
    cases += [("bf16", 128, 32), ("fp16", 96, 32), ("fp16", 100, 32), ("int8", 96, 32)]
    forms = {}
    for kind, dim, query in cases:
        form, options = constants(target, kind, dim, query, False, False)
        forms.setdefault(str((form, options)), _build(f"{kind}-d{dim}-q{query}", maxsim_kernel, kind, form, options))
    made = list(forms.values())
    for kind in ("fp16", "fp32", "int8"):
        for name, pairs, weighted in (("pairs", True, False), ("split", False, False), ("split-weighted", False, True)):
            form, options = constants(target, kind, 128, 32, pairs, weighted)
            split = {"K": 0, "BLOCK": 0} if not pairs else {}
            if name != "split-weighted" or kind != "int8":  # which always has weights
                function = maxsim_kernel if pairs else maxsim_split_kernel
                made.append(_build(f"{kind}-d128-q32-{name}", function, kind, form | split, options))
    form, options = constants(target, "fp16", 128, 32, False, True)
    made.append(_build("fp16-d128-q32-split-top10", maxsim_split_kernel, "fp16", form | topk_constants(1000, 10), options))
    more = {"offsets_ptr": "*i64", "rows_ptr": "*i32", "prefix_ptr": "*i32", "out_ptr": "*fp32", "m": "i32", "n_documents": "i32"}
    made.append(Build("maxsim", "prefix", prefix_kernel, more, {"BD": 64, "BLOCK": 1024}, 4, 1, tensor_cores=False))
    more = {"q_ptr": "*fp32", "q8_ptr": "*i8", "weights_ptr": "*fp32", "scaled_ptr": "*fp32", "n": "i32"}
    form = {"DIM": 128, "COLS": 128, "WEIGHTED": True}
    made.append(Build("maxsim", "quantize", quantize_query_kernel, more, form, 1, 3, tensor_cores=False))
    return made


def _build(variant: str, function: Any, kind: str, form: dict[str, Any], options: dict[str, int]) -> Build:
    held = {"int8": "*i8"}.get(kind, f"*{kind}")
    types = {"q_ptr": held, "values_ptr": held, "offsets_ptr": "*i64", "rows_ptr": "*i32", "out_ptr": "*fp32", "n_query": "i32"}
    types |= (
        {"n_documents": "i32"}
        | ({"scales_ptr": "*fp32"} if kind == "int8" else {})
        | ({"weights_ptr": "*fp32"} if form["WEIGHTED"] else {})
    )
    types |= {"q_offsets_ptr": "*i64", "pairs_ptr": "*i32"} if form["PAIRS"] else {}
    if "K" in form:
        types |= {"m": "i32", "prefix_ptr": "*i32", "part_ptr": "*i32", "part_stride": "i32", "done_ptr": "*i32", "k_best": "i32"}
        types |= {"best_scores_ptr": "*fp32", "best_rows_ptr": "*i64"} if form["K"] else {}
    tokens = form["BD"] if form["FIRST"] else form["BD"] * 64 / form["DIM"]  # a trip of the wide loop is 64 columns
    absent = {name: None for name in function.arg_names if name not in types and name not in form}
    return Build("maxsim", variant, function, types, form | absent, options["num_warps"], options["num_stages"], tokens)
