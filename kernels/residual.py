"""MaxSim straight from ColBERTv2's residual codes on tensors of a device (Santhanam et al., NAACL 2022), at 1, 2 or 4 bits a dimension:

    score(q, d) = sum over i of weight_i * max over j of <q_i, token_j>,    token = (centroid[id] + bucket_weights[code]) / its length

Four forms. Bytes of a document token at dim 128 and 2 bits: 32 of codes, 2 (or 4) of its centroid's id, and

    raw    256 of its centroid, which a cache may hold; the length is computed. For an index that holds nothing else.
    norm   256 of its centroid, 2 of its inverse length. The best without a table.
    table  2 for each query token, of <q, centroid>, computed once a query; 2 of its inverse length. It loses to norm where the product
           with all centroids (65,536 of them are 16 MB) costs more than the candidates do: for a short list, unless the table is there.
    int8   as table, the residual's part of the product in int8. Fewer instructions than table, and a few times its error.

Weights, centroids, query and table are float16, sums are float32. No weight is gathered from memory: the table of weights is in registers,
where one PRMT looks up four codes. 4 bits cost about 1.5 times the instructions of 1 or 2, and are read in as many bytes.

The order of columns, the one place where it is laid down. The index's bytes are used as they are mapped, as little-endian words of 8
nibbles. A block is 8 words of a token, or 4 where its words are no multiple of 8. A chunk is 32 codes of a block that lie at the same place
of a nibble, at bit nbits * sub: of the low or the high 4 nibbles of 8 words, or of all nibbles of 4 words. So a column is

    (block, sub, half, word, nibble of the half)   or, in blocks of 4 words,   (block, sub, word, half, nibble of the half)

and PRMT, whose selector is 4 nibbles, needs no more than a mask and a shift. ColBERT writes each code's lowest bit first, into a byte from
its highest bit on: what is read at bit b of byte k is the code of dimension k * P + P - 1 - b / nbits, P = 8 / nbits, with its bits in
reverse. `Codes` holds the centroids in that order of dimensions and the weights in that order of codes, and a query is brought to it: a
product does not depend on the order of its terms. Columns behind the last dimension are 0 in the query and minus the first weight in the
centroids: they add nothing to a product and nothing to a length.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from .centroid import centroid_table
from .codes import Codes, block_words
from .common import of_nothing, query_span, query_tile, reduced, span, weighed
from .config import tiles
from .launch import Build, ceil_div, interpreting, on_its_device, power_of_2, target_of

FORMS = ("raw", "norm", "table", "int8")


@triton.jit
def permute(a, b, selector, ASM: tl.constexpr):
    """PRMT: int32 of 4 bytes out of the 8 of a and b. Bits 4t .. 4t + 2 of the selector number byte t; bit 4t + 3, which is never set here,
    would repeat its sign."""
    if ASM:
        return tl.inline_asm_elementwise("prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, selector], dtype=tl.int32, is_pure=True, pack=1)
    else:
        both = (b.to(tl.int64) << 32) | (a.to(tl.int64) & 0xFFFFFFFF)
        x = both & 0
        for t in tl.static_range(4):
            byte = (both >> (8 * ((selector >> (4 * t)) & 7))) & 255
            x |= tl.where((selector >> (4 * t)) & 8 != 0, (byte >> 7) * 255, byte) << (8 * t)
        return x.to(tl.int32)


@triton.jit
def kept(x, ASM: tl.constexpr):
    """x, in a register of each thread: a value that ptxas knows to be the same in all of them is copied from a uniform register before each
    use. Bit 31 of the mask of lower lanes is never set."""
    if ASM:
        text: tl.constexpr = "{ .reg .b32 none; mov.u32 none, %lanemask_lt; shr.u32 none, none, 31; or.b32 $0, $1, none; }"
        return tl.inline_asm_elementwise(text, "=r,r", [x], dtype=tl.int32, is_pure=True, pack=1)
    else:
        return x


@triton.jit
def lookup(ptr, AT: tl.constexpr, ASM: tl.constexpr):
    """A table of `registers`, at 0 or 4, and the selector behind both: what `looked_up` reads."""
    first = (kept(tl.load(ptr + AT), ASM), kept(tl.load(ptr + AT + 1), ASM), kept(tl.load(ptr + AT + 2), ASM))
    return first + (kept(tl.load(ptr + AT + 3), ASM), kept(tl.load(ptr + 8), ASM))  # noqa: RUF005 - Triton cannot unpack


@triton.jit
def shifted(x, BITS: tl.constexpr):
    return (x.to(tl.uint32, bitcast=True) >> BITS).to(tl.int32, bitcast=True) if BITS else x


@triton.jit
def looked_up(words, table, PLANE: tl.constexpr, NBITS: tl.constexpr, ASM: tl.constexpr):
    """int32 of 4 bytes: what the table holds for 4 codes of each word, those of the low (PLANE even) or high nibbles at bit PLANE // 2 *
    NBITS. PRMT reads 3 bits of a nibble: at 1 bit those beside the code are made not to matter by the table, at 4 bits the last one
    chooses between two results."""
    HIGH: tl.constexpr = PLANE % 2 * 16
    if NBITS == 1:
        if PLANE < 2:
            return permute(table[0], table[0], shifted(words & 0x77777777, HIGH), ASM)
        elif PLANE < 4:
            return permute(table[1], table[1], shifted(words & 0x77777777, HIGH), ASM)
        elif PLANE < 6:
            return permute(table[2], table[3], shifted(words & 0x77777777, HIGH), ASM)
        else:
            return permute(table[2], table[3], shifted(shifted(words, 1) & 0x44444444, HIGH), ASM)
    elif NBITS == 2:
        return permute(table[0], table[0], shifted(shifted(words, PLANE // 2 * 2) & 0x33333333, HIGH), ASM)
    else:
        selector = shifted(words & 0x77777777, HIGH)
        upper = shifted((shifted(words, 1) & 0x44444444) | table[4], HIGH)
        return permute(permute(table[0], table[1], selector, ASM), permute(table[2], table[3], selector, ASM), upper, ASM)


@triton.jit
def int8_chunk(words, table, CHUNK: tl.constexpr, NBITS: tl.constexpr, ASM: tl.constexpr):
    """int8 [M, 32]: the weights of a chunk."""
    if words.shape[1] == 8:
        x = looked_up(words, table, CHUNK, NBITS, ASM)
    else:
        x = tl.join(looked_up(words, table, 2 * CHUNK, NBITS, ASM), looked_up(words, table, 2 * CHUNK + 1, NBITS, ASM))
    even = tl.join(x.to(tl.int8), (x >> 16).to(tl.int8))
    odd = tl.join((x >> 8).to(tl.int8), (x >> 24).to(tl.int8))
    return tl.reshape(tl.join(even, odd), [words.shape[0], 32])


@triton.jit
def pairs_of(words, low, high, PLANE: tl.constexpr, NBITS: tl.constexpr, ASM: tl.constexpr):
    """int32 [M, words, 2]: float16 weights of 4 codes, from the tables of their low and high bytes."""
    a = looked_up(words, low, PLANE, NBITS, ASM)
    b = looked_up(words, high, PLANE, NBITS, ASM)
    return tl.join(permute(a, b, 0x5140, ASM), permute(a, b, 0x7362, ASM))


@triton.jit
def fp16_chunk(words, low, high, CHUNK: tl.constexpr, NBITS: tl.constexpr, ASM: tl.constexpr):
    """float16 [M, 32]: the weights of a chunk."""
    if words.shape[1] == 8:
        x = pairs_of(words, low, high, CHUNK, NBITS, ASM)
    else:
        lower = pairs_of(words, low, high, 2 * CHUNK, NBITS, ASM)
        x = tl.permute(tl.join(lower, pairs_of(words, low, high, 2 * CHUNK + 1, NBITS, ASM)), [0, 1, 3, 2])
    first = x.to(tl.int16).to(tl.float16, bitcast=True)
    return tl.reshape(tl.join(first, (x >> 16).to(tl.int16).to(tl.float16, bitcast=True)), [words.shape[0], 32])


@triton.jit
def side_by_side(parts, N: tl.constexpr):
    """[M, N * W] of a tuple of N tensors [M, W]"""
    if N == 1:
        x = parts[0]
    elif N == 2:
        x = tl.permute(tl.join(parts[0], parts[1]), [0, 2, 1])
    elif N == 4:
        x = tl.permute(tl.join(tl.join(parts[0], parts[2]), tl.join(parts[1], parts[3])), [0, 2, 3, 1])
    else:
        even = tl.join(tl.join(parts[0], parts[4]), tl.join(parts[2], parts[6]))
        odd = tl.join(tl.join(parts[1], parts[5]), tl.join(parts[3], parts[7]))
        x = tl.permute(tl.join(even, odd), [0, 2, 3, 4, 1])
    return tl.reshape(x, [parts[0].shape[0], N * parts[0].shape[1]])


@triton.jit
def words_of(ptr, row, AT: tl.constexpr, WORDS: tl.constexpr, WIDTH: tl.constexpr):
    """int32 [rows, WORDS] of the WIDTH words of a token; 0 behind its end."""
    w = AT + tl.arange(0, WORDS)
    if AT + WORDS > WIDTH:
        return tl.load(ptr + row[:, None] * WIDTH + w[None, :], mask=w[None, :] < WIDTH, other=0)
    else:
        return tl.load(ptr + row[:, None] * WIDTH + w[None, :])


@triton.jit
def query_chunks(ptr, n, stride, COLUMNS: tl.constexpr, CHUNK: tl.constexpr, BQ: tl.constexpr):
    """The query as a tuple of tiles [CHUNK, BQ]."""
    parts = ()
    for at in tl.static_range(0, COLUMNS, CHUNK):
        parts = parts + (query_tile(ptr, n, stride, at + tl.arange(0, CHUNK), COLUMNS, BQ, True),)  # noqa: RUF005
    return parts


@triton.jit
def centroid_of(ids_ptr, row, n_centroids):
    """uint32: the row of a token's centroid; that behind the last one, which is NaN, for an id that no centroid has."""
    return tl.minimum(tl.load(ids_ptr + row).to(tl.uint32), n_centroids.to(tl.uint32))


@triton.jit
def residual_matches(
    q_ptr, q_n, scales_ptr, centroids_ptr, stride, lookup_ptr, ids_ptr, residuals_ptr, norms_ptr, n, n_centroids, norm_base, norm_step,
    COLUMNS: tl.constexpr, WORDS: tl.constexpr, WIDTH: tl.constexpr, NBITS: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr,
    FORM: tl.constexpr, ASM: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """float32 [BQ]: for each query token its best product with a document's n tokens.

    Rows behind the end repeat the last token, which cannot change a maximum. The maximum is kept by element and reduced once, at the end.
    raw: squares are summed over chunks in float16, then in float32 by a product with ones, whose rows lie as those of the other product do.
    table, int8: a block of the residual is one product. int8: a query token is the sum of two int8 times its scale, one bit more, for a
    second product into the same sums.
    """
    TABLE: tl.constexpr = FORM == "table" or FORM == "int8"
    CHUNKS: tl.constexpr = WORDS // NBITS
    STEP: tl.constexpr = 32 * CHUNKS if TABLE else 32
    HELD: tl.constexpr = 2 * COLUMNS if FORM == "int8" else COLUMNS
    tokens = tl.arange(0, BD)
    i = tl.arange(0, BQ)
    low = lookup(lookup_ptr, 0, ASM)
    high = lookup(lookup_ptr, 4, ASM)
    q = query_chunks(q_ptr, q_n, HELD, COLUMNS, STEP, BQ)
    more = query_chunks(q_ptr + COLUMNS, q_n, HELD, COLUMNS, STEP, BQ) if FORM == "int8" else ()
    scales = tl.load(scales_ptr + i, mask=i < q_n, other=0)[None, :] if FORM == "int8" else 0
    ones = tl.full([32, 16], 1.0, tl.float16)
    m = tl.full([BD, BQ], float("-inf"), tl.float32)
    for s in tl.range(0, n, BD, num_stages=STAGES):  # said here too: else only what a product takes is loaded ahead
        row = tl.minimum(s + tokens, n - 1)
        at = centroids_ptr + (centroid_of(ids_ptr, row, n_centroids) * stride).to(tl.int64)[:, None]
        similarity = tl.zeros([BD, BQ], tl.int32 if FORM == "int8" else tl.float32)
        squares = tl.zeros([BD, 32], tl.float16)
        if TABLE:
            of_centroid = tl.load(at + i[None, :]).to(tl.float32)
            similarity = similarity if FORM == "int8" else of_centroid
        for block in tl.static_range(COLUMNS // (32 * CHUNKS)):
            words = words_of(residuals_ptr, row, block * WORDS, WORDS, WIDTH)
            parts = ()
            for chunk in tl.static_range(CHUNKS):
                x = int8_chunk(words, low, chunk, NBITS, ASM) if FORM == "int8" else fp16_chunk(words, low, high, chunk, NBITS, ASM)
                if TABLE:
                    parts = parts + (x,)  # noqa: RUF005 - Triton cannot unpack
                else:
                    x += tl.load(at + ((block * CHUNKS + chunk) * 32 + tl.arange(0, 32))[None, :])
                    squares = tl.fma(x, x, squares) if FORM == "raw" else squares
                    similarity = tl.dot(x, q[block * CHUNKS + chunk], similarity)
            if TABLE:
                residual = side_by_side(parts, CHUNKS)
                similarity = tl.dot(residual, q[block], similarity, out_dtype=similarity.dtype)
            if FORM == "int8":
                similarity = tl.dot(residual, more[block], similarity, out_dtype=tl.int32)
        if FORM == "int8":
            similarity = tl.fma(similarity.to(tl.float32), scales, of_centroid)
        if FORM == "raw":
            square = tl.max(tl.dot(squares, ones), 1)
            inverse = tl.where(square > 0, tl.rsqrt(square), 0.0)
        else:
            inverse = (norm_base + tl.load(norms_ptr + row).to(tl.int32) * norm_step).to(tl.float32, bitcast=True)
        m = tl.maximum(m, similarity * inverse[:, None], propagate_nan=tl.PropagateNan.ALL)
    return reduced(m, 0)


@triton.jit(do_not_specialize=["width", "n_query", "n_documents", "n_centroids", "norm_base", "norm_step"])
def residual_kernel(
    q_ptr, q_offsets_ptr, pairs_ptr, weights_ptr, scales_ptr, centroids_ptr, lookup_ptr, ids_ptr, residuals_ptr, norms_ptr, offsets_ptr,
    rows_ptr, out_ptr, width, n_query, n_documents, n_centroids, norm_base, norm_step,
    COLUMNS: tl.constexpr, WORDS: tl.constexpr, WIDTH: tl.constexpr, NBITS: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr,
    FORM: tl.constexpr, PAIRS: tl.constexpr, WEIGHTED: tl.constexpr, ASM: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """out[pick] of one document a program. centroids_ptr: of a form with a table, the table, of `width` columns; there a query must begin
    at a whole block of them, or scores NaN."""
    TABLE: tl.constexpr = FORM == "table" or FORM == "int8"
    pick = tl.program_id(0)
    row = tl.load(rows_ptr + pick).to(tl.int64)
    lo, n = span(offsets_ptr, row, n_documents)
    q_lo, q_n = query_span(q_offsets_ptr, pairs_ptr, pick, n_query, PAIRS)
    total = tl.where(q_lo % BQ == 0, 0.0, float("nan")) if TABLE else 0.0
    stride = (width // (BQ if TABLE else COLUMNS) * (BQ if TABLE else COLUMNS)).to(tl.uint32)  # known to be whole vectors
    for k in range(0, q_n, BQ):
        best = residual_matches(
            q_ptr + (q_lo + k) * (2 * COLUMNS if FORM == "int8" else COLUMNS), q_n - k,
            scales_ptr + q_lo + k if FORM == "int8" else scales_ptr, centroids_ptr + q_lo // BQ * BQ + k if TABLE else centroids_ptr,
            stride, lookup_ptr, ids_ptr + lo, residuals_ptr + lo * WIDTH, norms_ptr if FORM == "raw" else norms_ptr + lo, n, n_centroids,
            norm_base, norm_step, COLUMNS, WORDS, WIDTH, NBITS, BQ, BD, FORM, ASM, STAGES,
        )  # fmt: skip
        total += weighed(best, weights_ptr, q_lo + k, q_n - k, BQ, WEIGHTED)
    tl.store(out_ptr + pick, tl.where(n > 0, total, of_nothing(row, n_documents)))


@triton.jit
def residual_query_kernel(
    q_ptr, order_ptr, columns_ptr, int8_ptr, scales_ptr, step, DIM: tl.constexpr, COLUMNS: tl.constexpr, COLS: tl.constexpr,
    INT8: tl.constexpr,
):  # fmt: skip
    """A query token in the order of columns, as float16; and as two int8 of which the sum counts its scale. One program a token."""
    i = tl.program_id(0)
    col = tl.arange(0, COLS)
    dim = tl.load(order_ptr + col, mask=col < COLUMNS, other=DIM)
    q = tl.load(q_ptr + i * DIM + dim, mask=dim < DIM, other=0).to(tl.float32)
    tl.store(columns_ptr + i * COLUMNS + col, q.to(tl.float16), mask=col < COLUMNS)
    if INT8:
        scale = tl.max(tl.abs(q), 0) / 254
        steps = tl.floor(q / tl.where(scale > 0, scale, 1.0) + 0.5)
        steps = tl.where(steps == steps, steps, 0.0)  # a token that is not finite is not in the table either
        first = tl.floor(steps / 2)
        tl.store(int8_ptr + i * 2 * COLUMNS + col, first.to(tl.int8), mask=col < COLUMNS)
        tl.store(int8_ptr + (i * 2 + 1) * COLUMNS + col, (steps - first).to(tl.int8), mask=col < COLUMNS)
        tl.store(scales_ptr + i, scale * step)


@on_its_device
def residual_maxsim(
    query: torch.Tensor,
    codes: Codes,
    rows: torch.Tensor,
    *,
    form: str = "auto",
    table: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    query_offsets: torch.Tensor | None = None,
    pairs: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Scores float32 [m] of documents given by row, without a look at any of them from the host: safe in a CUDA graph.

    query: [q, dim], any float; or the tokens of several queries with query_offsets int64 [n + 1], and pairs int32 [m], whose query each
    pick is. rows: int32 or int64 [m]; -1 is padding. weights: float32 [q]; a token of weight 0 takes no part.
    form: "raw", "norm", "table", "int8" (see the head of this file), or "auto": table where there is one, else norm, else raw.
    table: of `query_table`, for the forms that have one; made here if it is None. With pairs, queries must begin at multiples of 64 tokens
    for it, or of 16 or 32 where they are no longer than that on average: tokens of 0 between them add nothing. A query that does not: NaN.
    A centroid id that does not exist makes its document NaN. Raises ValueError.
    """
    if form == "auto":
        form = "table" if table is not None else "raw" if codes.norms is None else "norm"
    possible = FORMS if codes.norms is not None else FORMS[:1]
    if form not in possible:
        raise ValueError(f"residual_maxsim: got form {form!r}, expected one of {', '.join(possible)} for these codes")
    if query.shape[1] != codes.dim:
        raise ValueError(f"residual_maxsim: got a query of dimension {query.shape[1]}, expected {codes.dim}, as the codes have")
    m = len(rows)
    out = torch.empty(m, dtype=torch.float32, device=codes.offsets.device) if out is None else out
    if m == 0:
        return out
    longest = len(query) if pairs is None else ceil_div(len(query), len(query_offsets) - 1)
    constant, options = constants(target_of(out.device), form, codes.dim, codes.nbits, longest, pairs is not None, weights is not None)
    tokens, int8, scales = in_columns(query, codes, form == "int8")
    vectors, found = codes.centroids, codes.lookup
    if form in ("table", "int8"):
        vectors = centroid_table(tokens, codes.centroids) if table is None else table
        n, block = len(codes.centroids), constant["BQ"]
        if vectors.dtype != torch.float16 or len(vectors) != n or vectors.shape[1] < len(query) or vectors.stride(0) % block:
            expected = f"float16 [{n}, {len(query)} or more, a multiple of {block}], of query_table"
            raise ValueError(f"residual_maxsim: got a table {vectors.dtype} {list(vectors.shape)}, expected {expected}")
    if vectors.numel() >= 1 << 32:
        raise ValueError(f"residual_maxsim: got {vectors.numel()} values of centroids or a table, expected fewer than 2^32")
    if form == "int8":
        tokens, found = int8, codes.lookup8
    residual_kernel[(m,)](
        tokens, query_offsets, pairs, weights, scales, vectors, found, codes.centroid_ids, codes.residuals, codes.norms, codes.offsets,
        rows, out, vectors.stride(0), len(query), len(codes.offsets) - 1, len(codes.centroids) - 1, codes.norm_base, codes.norm_step,
        **constant, **options,
    )  # fmt: skip
    return out


@on_its_device
def query_table(query: torch.Tensor, codes: Codes, out: torch.Tensor | None = None) -> torch.Tensor:
    """float16 [centroids + 1, query tokens in whole blocks]: <centroid, query token>, the last row NaN: of `centroid_table`, and good for
    `centroid_maxsim`, whose scores are multiplied by the codes' scale then."""
    return centroid_table(in_columns(query, codes, False)[0], codes.centroids, out)


def in_columns(query: torch.Tensor, codes: Codes, int8: bool) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """(float16 [q, columns]; the same as int8 [q, 2, columns], and its scales float32 [q])"""
    n, width = len(query), len(codes.order)
    columns = torch.empty((n, width), dtype=torch.float16, device=query.device)
    digits = torch.empty((n, 2, width), dtype=torch.int8, device=query.device) if int8 else None
    scales = torch.empty(n, dtype=torch.float32, device=query.device) if int8 else None
    form = {"DIM": codes.dim, "COLUMNS": width, "COLS": power_of_2(width), "INT8": int8}
    if n:
        residual_query_kernel[(n,)](query.contiguous(), codes.order, columns, digits, scales, codes.step8, **form, num_warps=1)
    return columns, digits, scales


def constants(
    target: str, form: str, dim: int, nbits: int, query: int, pairs: bool, weighted: bool
) -> tuple[dict[str, Any], dict[str, int]]:
    """(compile-time arguments, options) of a form. PRMT: not in the interpreter, nor on AMD."""
    t = tiles(target, f"residual{nbits}-{form}", dim, query)
    words, blocks = block_words(dim, nbits)
    held = {"COLUMNS": blocks * words * 32 // nbits, "WORDS": words, "WIDTH": ceil_div(dim * nbits, 32), "NBITS": nbits, "FORM": form}
    held |= {"BQ": t.query, "BD": t.document, "PAIRS": pairs, "WEIGHTED": weighted, "STAGES": t.stages}
    return held | {"ASM": not interpreting() and torch.version.hip is None}, {"num_warps": t.warps, "num_stages": t.stages}


def builds(target: str) -> list[Build]:
    """What is compiled ahead of time: each form at each number of bits, and the dims, queries and options that make another one."""
    cases = [(form, nbits, 128, 32, False) for nbits in (1, 2, 4) for form in FORMS]
    cases += [(form, 2, 128, query, False) for form in FORMS for query in (16, 64)]
    cases += [("raw", 4, 96, 32, False), ("table", 4, 96, 32, False), ("int8", 4, 96, 32, False), ("raw", 1, 48, 32, False)]
    cases += [("raw", 2, 256, 32, False), ("int8", 2, 256, 32, False)]
    cases += [("norm", 2, 128, 32, True), ("int8", 2, 128, 32, True)]
    return [*(_build(target, *case) for case in cases), _build(target, "norm", 2, 128, 32, False, asm=False)]


def _build(target: str, form: str, nbits: int, dim: int, query: int, pairs: bool, asm: bool = True) -> Build:
    constant, options = constants(target, form, dim, nbits, query, pairs, pairs)
    constant["ASM"] = asm
    types = {"q_ptr": "*i8" if form == "int8" else "*fp16", "centroids_ptr": "*fp16", "lookup_ptr": "*i32", "residuals_ptr": "*i32"}
    types |= {"ids_ptr": "*i32" if pairs else "*u16", "offsets_ptr": "*i64", "rows_ptr": "*i32", "out_ptr": "*fp32"}
    types |= dict.fromkeys(("width", "n_query", "n_documents", "n_centroids", "norm_base", "norm_step"), "i32")
    types |= ({"scales_ptr": "*fp32"} if form == "int8" else {}) | ({"norms_ptr": "*u16"} if form != "raw" else {})
    types |= {"q_offsets_ptr": "*i64", "pairs_ptr": "*i32", "weights_ptr": "*fp32"} if pairs else {}
    absent = {name: None for name in residual_kernel.arg_names if name not in types and name not in constant}
    variant = f"{nbits}bit-{form}-d{dim}-q{query}" + ("-pairs" if pairs else "") + ("" if asm else "-plain")
    warps, stages = options["num_warps"], options["num_stages"]
    return Build("residual", variant, residual_kernel, types, constant | absent, warps, stages, constant["BD"])
