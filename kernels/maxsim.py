"""MaxSim of ColBERT on tensors of a device: score(q, d) = sum over i of weight_i * max over j of <q_i, d_j>.

Bytes: each scored token is read once, dim * (2 for fp16 and bf16, 4 for fp32, 1 for int8 + 4 for its scale); a block of the query stays on
chip. Documents are read where they lie, by row: no gather, no padding, no length that the host must know. Products and maxima are float32
(int8: integers), the sum over query tokens is float32.

A program for each pick, a row with its query. It leaves multiprocessors idle where there are fewer picks than they take at a time, and its
end to a few programs where lengths differ much.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl

from .common import of_nothing, query_span, query_tile, reduced, span, token_tile, weighed
from .config import tiles
from .launch import Build, ceil_div, interpreting, on_its_device, power_of_2, split_dim, target_of


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
    q_ptr, q_n, values_ptr, scales_ptr, n,
    DIM: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr, KIND: tl.constexpr,
    DOCUMENT_FIRST: tl.constexpr,
):  # fmt: skip
    """float32 [BQ]: for each query token its best product with a document's n tokens; -inf where there is none.

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
    for s in range(0, n, BD):
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
    q_ptr, q_n, values_ptr, scales_ptr, n,
    DIM: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr, KIND: tl.constexpr, DOCUMENT_FIRST: tl.constexpr,
):  # fmt: skip
    """`best_matches` for vectors that do not stay on chip: in steps of 64 columns, the query's read again for each tile."""
    tokens = tl.arange(0, BD)
    stride = 2 * DIM if KIND == "int8" else DIM
    m = tl.full([BD, BQ] if DOCUMENT_FIRST else [BQ, BD], float("-inf"), tl.float32)
    for s in range(0, n, BD):
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
    q_ptr, q_n, values_ptr, scales_ptr, n,
    DIM: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr, KIND: tl.constexpr,
    DOCUMENT_FIRST: tl.constexpr,
):  # fmt: skip
    if FIRST == 0:
        return best_matches_wide(q_ptr, q_n, values_ptr, scales_ptr, n, DIM, BQ, BD, KIND, DOCUMENT_FIRST)
    else:
        return best_matches(q_ptr, q_n, values_ptr, scales_ptr, n, DIM, FIRST, REST, BQ, BD, KIND, DOCUMENT_FIRST)


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
            q_ptr + (q_lo + k) * stride, q_n - k, values_ptr + lo * DIM, scales_ptr + lo if KIND == "int8" else None, n,
            DIM, FIRST, REST, BQ, BD, KIND, DOCUMENT_FIRST,
        )  # fmt: skip
        total += weighed(best, weights_ptr, q_lo + k, q_n - k, BQ, WEIGHTED)
    tl.store(out_ptr + pick, tl.where(n > 0, total, of_nothing(row, n_documents)))


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
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Scores float32 [m] of documents given by row, without a look at any of them from the host: safe in a CUDA graph.

    query: [q, dim], any float; or the tokens of several queries with query_offsets int64 [n + 1], and pairs int32 [m], whose query each
    pick is. It is brought to the type of the values (int8: to 15 bits).
    values: float16, bfloat16 or float32 [total, dim], or int8 with scales float32 [total]. offsets: int64 [documents + 1].
    rows: int32 or int64 [m]; -1 is padding. weights: float32 [q]; a token of weight 0 takes no part.
    """
    m, dim = len(rows), values.shape[1]
    if query.shape[1] != dim:
        raise ValueError(f"maxsim: got a query of dimension {query.shape[1]}, expected {dim}, as the values have")
    out = torch.empty(m, dtype=torch.float32, device=values.device) if out is None else out
    if m == 0:
        return out
    kind = kind_of(values)
    query, weights = prepared(query, weights, kind)
    longest = len(query) if pairs is None else ceil_div(len(query), len(query_offsets) - 1)
    form, options = constants(target_of(values.device), kind, dim, longest, pairs is not None, weights is not None)
    args = (query, query_offsets, pairs, weights, values, scales, offsets, rows, out, len(query), len(offsets) - 1)
    maxsim_kernel[(m,)](*args, **form, **options)
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
    """(compile-time arguments, options)"""
    t = tiles(target, {"bf16": "fp16", "upcast": "fp16"}.get(kind, kind), dim, query)
    wide = dim > (64 if kind == "fp32" else 256)  # float32 is multiplied as three parts: the registers hold fewer columns
    first, rest = (0, 0) if wide else split_dim(dim, least=32 if kind == "int8" else 16)
    form = {"DIM": dim, "FIRST": first, "REST": rest, "BQ": t.query, "BD": t.document, "KIND": kind, "DOCUMENT_FIRST": t.document_first}
    return form | {"PAIRS": pairs, "WEIGHTED": weighted or kind == "int8"}, {"num_warps": t.warps, "num_stages": t.stages}


def builds(target: str) -> list[Build]:
    """What is compiled ahead of time: a form for each entry of the table of tiles, for dims that are read in parts, and of each storage
    those with weights, as a CUDA graph has them, and with pairs."""
    cases = [(kind, dim, query) for kind in ("fp16", "fp32", "int8") for dim in (64, 128, 256, 768) for query in (32, 16, 64)]
    cases += [("bf16", 128, 32), ("fp16", 96, 32), ("fp16", 100, 32), ("int8", 96, 32)]
    forms = {}
    for kind, dim, query in cases:
        form, options = constants(target, kind, dim, query, False, False)
        forms.setdefault(str((form, options)), _build(f"{kind}-d{dim}-q{query}", kind, form, options))
    made = list(forms.values())
    for kind in ("fp16", "fp32", "int8"):
        for name, pairs in (("pairs", True), ("weighted", False)):
            if pairs or kind != "int8":  # which always has weights
                made.append(_build(f"{kind}-d128-q32-{name}", kind, *constants(target, kind, 128, 32, pairs, not pairs)))
    more = {"q_ptr": "*fp32", "q8_ptr": "*i8", "weights_ptr": "*fp32", "scaled_ptr": "*fp32", "n": "i32"}
    form = {"DIM": 128, "COLS": 128, "WEIGHTED": True}
    made.append(Build("maxsim", "quantize", quantize_query_kernel, more, form, 1, 3, tensor_cores=False))
    return made


def _build(variant: str, kind: str, form: dict[str, Any], options: dict[str, int]) -> Build:
    held = {"int8": "*i8"}.get(kind, f"*{kind}")
    types = {"q_ptr": held, "values_ptr": held, "offsets_ptr": "*i64", "rows_ptr": "*i32", "out_ptr": "*fp32", "n_query": "i32"}
    types |= (
        {"n_documents": "i32"}
        | ({"scales_ptr": "*fp32"} if kind == "int8" else {})
        | ({"weights_ptr": "*fp32"} if form["WEIGHTED"] else {})
    )
    types |= {"q_offsets_ptr": "*i64", "pairs_ptr": "*i32"} if form["PAIRS"] else {}
    tokens = form["BD"] if form["FIRST"] else form["BD"] * 64 / form["DIM"]  # a trip of the wide loop is 64 columns
    absent = {name: None for name in maxsim_kernel.arg_names if name not in types and name not in form}
    return Build("maxsim", variant, maxsim_kernel, types, form | absent, options["num_warps"], options["num_stages"], tokens)
