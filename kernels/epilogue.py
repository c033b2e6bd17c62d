"""What lies between the matrix products of a packed encoder, each in one launch over its rows: bias + activation (gated or not), bias +
residual + layer norm, and the classifier on the pooled rows. float16, bfloat16 or float32, computed in float32.

One row's result depends on that row alone. Widths are compiled in (a model has few), the number of rows is not. Loads are 16 bytes wide
where the width is a multiple of 8. A chain of torch operations makes two to six passes over memory where there is one here. By what it must
move, not by a clock, `activate` loses to a matrix product that applies bias and GELU itself (cuBLASLt).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from .launch import Build, ceil_div, on_its_device, power_of_2
from .varlen_attention import dot, kind_of

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "silu", "relu", "tanh")


@triton.jit
def inverse(x):
    """1 / x of an x >= 1 in two instructions; a division's code guards ranges that x cannot have."""
    r = tl.rsqrt(x)
    return r * r


@triton.jit
def activation(x, NAME: tl.constexpr):
    """NaN stays NaN. gelu is x Phi(x), the erf form, as relu(x) - |x| erfc(|x| / sqrt 2) / 2: half the instructions of erf, and no
    cancellation below 0. erfc(|x| / sqrt 2) / 2 = exp(-x^2 / 2) t P(t), t = 1 / (1 + 0.265 |x|); P is fitted to a relative error of 7e-7
    up to |x| = 14, above which the product is below the least float32."""
    if NAME == "gelu":
        a = tl.abs(x)
        t = inverse(1.0 + 0.265 * a)
        p = 0.19527317 - 0.06778705 * t
        p = p * t - 0.06636301
        p = p * t + 0.1424934
        p = p * t + 0.08294657
        p = p * t + 0.10783679
        p = p * t + 0.10559983
        return tl.where(x > 0, x, 0.0) - a * (p * t) * tl.exp2(x * x * -0.7213475204444817)
    elif NAME == "gelu_tanh":  # x / 2 (1 + tanh u) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
        return x * inverse(1.0 + tl.exp(x * (-1.5957691216057308 - 0.07135481282553 * x * x)))
    elif NAME == "silu":
        return x * inverse(1.0 + tl.exp(-x))
    elif NAME == "relu":
        return tl.where(x < 0, 0.0, x)
    elif NAME == "tanh":
        return 1.0 - 2.0 * inverse(1.0 + tl.exp(2.0 * x))
    else:
        return x


@triton.jit(do_not_specialize=["rows"])
def activate_kernel(
    x_ptr, bias_ptr, out_ptr, rows,
    N: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """A tile [BR, BC] of out [rows, N]."""
    across: tl.constexpr = (N + BC - 1) // BC
    row = (tl.program_id(0) // across).to(tl.int64) * BR + tl.arange(0, BR)
    col = tl.program_id(0) % across * BC + tl.arange(0, BC)
    inside = (row[:, None] < rows) & (col[None, :] < N)
    at = row[:, None] * (2 * N if GATED else N) + col[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0).to(tl.float32)
    across_bias = bias_ptr + col[None, :] + row[:, None] * 0 if BIASED else 0  # a tile, so that a thread loads 16 bytes of it too
    if BIASED:
        x += tl.load(across_bias, mask=inside, other=0).to(tl.float32)
    x = activation(x, ACTIVATION)
    if GATED:
        gate = tl.load(x_ptr + N + at, mask=inside, other=0).to(tl.float32)
        if BIASED:
            gate += tl.load(across_bias + N, mask=inside, other=0).to(tl.float32)
        x *= gate
    tl.store(out_ptr + row[:, None] * N + col[None, :], x.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def add_norm_kernel(
    x_ptr, bias_ptr, residual_ptr, gamma_ptr, beta_ptr, sum_ptr, out_ptr, eps,
    N: tl.constexpr, COLS: tl.constexpr, BIASED: tl.constexpr, RESIDUAL: tl.constexpr, BETA: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """One row a program. The mean is taken out before squares are summed, so that a large one costs no digits. It is rounded once:
    of equal numbers whose sum float32 holds nothing is left, where a quick division would leave what a small eps makes large."""
    at = tl.program_id(0).to(tl.int64) * N
    col = tl.arange(0, COLS)
    inside = col < N
    x = tl.load(x_ptr + at + col, mask=inside, other=0).to(tl.float32)
    if BIASED:
        x += tl.load(bias_ptr + col, mask=inside, other=0).to(tl.float32)
    if RESIDUAL:
        x += tl.load(residual_ptr + at + col, mask=inside, other=0).to(tl.float32)
    if SUM:
        tl.store(sum_ptr + at + col, x.to(sum_ptr.dtype.element_ty), mask=inside)
    x = tl.where(inside, x - tl.div_rn(tl.sum(x, 0), N * 1.0), 0.0)
    x *= tl.rsqrt(tl.sum(x * x, 0) / N + eps)
    x *= tl.load(gamma_ptr + col, mask=inside, other=0).to(tl.float32)
    if BETA:
        x += tl.load(beta_ptr + col, mask=inside, other=0).to(tl.float32)
    tl.store(out_ptr + at + col, x.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def dense(
    x_ptr, weight_ptr, bias_ptr, row, col, columns,
    N: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, KIND: tl.constexpr, ACTIVATION: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """float32 [16, BN]: some columns of activation(x weight^T + bias), 0 behind the N-th. columns: N, which the compiler does not know: a
    loop of known length is unrolled, and spills."""
    h = tl.zeros([16, BN], tl.float32)
    for k in range(0, columns, BK):
        inner = k + tl.arange(0, BK)
        if N % BK == 0 and N % BN == 0:
            x = tl.load(x_ptr + row[:, None] * N + inner[None, :])
            w = tl.load(weight_ptr + col[:, None] * N + inner[None, :])
        else:
            x = tl.load(x_ptr + row[:, None] * N + inner[None, :], mask=inner[None, :] < N, other=0)
            w = tl.load(weight_ptr + col[:, None] * N + inner[None, :], mask=(col[:, None] < N) & (inner[None, :] < N), other=0)
        h = dot(x, tl.trans(w), h, KIND)
    if BIASED:
        h += tl.load(bias_ptr + col, mask=col < N, other=0).to(tl.float32)[None, :]
    return activation(h, ACTIVATION)


@triton.jit(do_not_specialize=["n", "columns"])
def classify_kernel(
    x_ptr, dense_ptr, dense_bias_ptr, gamma_ptr, weight_ptr, part_ptr, n, columns,
    N: tl.constexpr, LABELS: tl.constexpr, LABEL_COLS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, KIND: tl.constexpr,
    ACTIVATION: tl.constexpr, DENSE_BIASED: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """16 rows and BN hidden columns a program: what these columns h give of each row, part[block, row, ...]: the sum of w gamma h for each
    label, and with a norm the mean of h and the sum of its squared distances from that."""
    blocks = tl.cdiv(N, BN)
    block = tl.program_id(0) % blocks
    out_row = (tl.program_id(0) // blocks).to(tl.int64) * 16 + tl.arange(0, 16)
    row = tl.minimum(out_row, n - 1)
    col = block * BN + tl.arange(0, BN)
    inside = col < N
    h = dense(x_ptr, dense_ptr, dense_bias_ptr, row, col, columns, N, BN, BK, KIND, ACTIVATION, DENSE_BIASED)
    label = tl.arange(0, LABEL_COLS)
    logits = tl.zeros([16, LABEL_COLS], tl.float32)
    for i in tl.static_range(LABELS):
        w = tl.load(weight_ptr + i * N + col, mask=inside, other=0).to(tl.float32)
        if NORM:
            w *= tl.load(gamma_ptr + col, mask=inside, other=0).to(tl.float32)
        logits += tl.where(label[None, :] == i, tl.sum(h * w[None, :], 1)[:, None], 0.0)
    WIDTH: tl.constexpr = LABELS + 2 if NORM else LABELS
    at = part_ptr + (block.to(tl.int64) * n + out_row) * WIDTH
    here = out_row < n
    tl.store(at[:, None] + label[None, :], logits, mask=here[:, None] & (label[None, :] < LABELS))
    if NORM:
        mean = tl.sum(h, 1) / tl.minimum(N - block * BN, BN).to(tl.float32)
        apart = tl.where(inside[None, :], h - mean[:, None], 0.0)
        tl.store(at + LABELS, mean, mask=here)
        tl.store(at + LABELS + 1, tl.sum(apart * apart, 1), mask=here)


@triton.jit(do_not_specialize=["n"])
def logits_kernel(
    part_ptr, gamma_ptr, beta_ptr, weight_ptr, bias_ptr, out_ptr, n, eps,
    N: tl.constexpr, LABELS: tl.constexpr, LABEL_COLS: tl.constexpr, BN: tl.constexpr, NORM: tl.constexpr, BETA: tl.constexpr,
    BIASED: tl.constexpr,
):  # fmt: skip
    """out of 16 rows a program, of what `classify_kernel` left of each block of columns. With a layer norm between, logit = sum_j w_j
    (gamma_j (h_j - mean) / deviation + beta_j): what multiplies the mean, and what is added, are summed here; mean and variance are merged
    block by block (Chan, Golub and LeVeque, 1983)."""
    row = tl.program_id(0).to(tl.int64) * 16 + tl.arange(0, 16)
    here = row < n
    label = tl.arange(0, LABEL_COLS)
    known = label < LABELS
    WIDTH: tl.constexpr = LABELS + 2 if NORM else LABELS
    logits = tl.zeros([16, LABEL_COLS], tl.float32)
    of_mean = tl.zeros([LABEL_COLS], tl.float32)
    shift = tl.zeros([LABEL_COLS], tl.float32)
    mean = tl.zeros([16], tl.float32)
    squares = tl.zeros([16], tl.float32)
    for c in range(0, N, BN):
        at = part_ptr + (c // BN * n.to(tl.int64) + row) * WIDTH
        logits += tl.load(at[:, None] + label[None, :], mask=here[:, None] & known[None, :], other=0)
        if NORM:
            width = tl.minimum(N - c, BN).to(tl.float32)
            step = tl.load(at + LABELS, mask=here, other=0) - mean
            squares += tl.load(at + LABELS + 1, mask=here, other=0) + step * step * (width * c / (width + c))
            mean += step * (width / (width + c))
            col = c + tl.arange(0, BN)
            inside = col < N
            gamma = tl.load(gamma_ptr + col, mask=inside, other=0).to(tl.float32)
            for i in tl.static_range(LABELS):
                w = tl.load(weight_ptr + i * N + col, mask=inside, other=0).to(tl.float32)
                of_mean += tl.where(label == i, tl.sum(w * gamma, 0), 0.0)
                if BETA:
                    beta = tl.load(beta_ptr + col, mask=inside, other=0).to(tl.float32)
                    shift += tl.where(label == i, tl.sum(w * beta, 0), 0.0)
    if NORM:
        scale = tl.rsqrt(squares / N + eps)
        logits = (logits - mean[:, None] * of_mean[None, :]) * scale[:, None] + shift[None, :]
    if BIASED:
        logits += tl.load(bias_ptr + label, mask=known, other=0).to(tl.float32)[None, :]
    tl.store(out_ptr + row[:, None] * LABELS + label[None, :], logits, mask=here[:, None] & known[None, :])


def expect(name: str, got: torch.Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if got is not None and (got.shape != shape or got.dtype != dtype or not got.is_contiguous()):
        layout = "" if got.is_contiguous() else ", not contiguous"
        raise ValueError(f"{name}: expected a contiguous {dtype} {list(shape)}, got {got.dtype} {list(got.shape)}{layout}")


def expect_name(name: str) -> None:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {name!r}")


@on_its_device
def activate(
    x: torch.Tensor, bias: torch.Tensor | None = None, *, activation: str = "gelu", gated: bool = False, out: torch.Tensor | None = None
) -> torch.Tensor:
    """activation(x + bias) of x [rows, n]; gated: activation(x[:, :n] + bias[:n]) * (x[:, n:] + bias[n:]) of x [rows, 2 n], ModernBERT's
    order. A model that activates the second half (GTE) swaps the halves of its weights once. gelu is the exact form.

    Bytes: 2 * rows * n numbers, gated 3 * rows * n. out: [rows, n]; without a gate it may be x.
    """
    expect_name(activation)
    rows, width = x.shape
    n = width // 2 if gated else width
    kind_of(x.dtype)
    expect("x", x, (rows, 2 * n if gated else n), x.dtype)
    expect("bias", bias, (width,), x.dtype)
    expect("out", out, (rows, n), x.dtype)
    out = torch.empty(rows, n, dtype=x.dtype, device=x.device) if out is None else out
    form, options = activate_constants(n, activation, gated, bias is not None)
    activate_kernel[(ceil_div(rows, form["BR"]) * ceil_div(n, form["BC"]),)](x, bias, out, rows, **form, **options)
    return out


def activate_constants(n: int, activation: str, gated: bool, biased: bool) -> tuple[dict[str, Any], dict[str, int]]:
    """Tiles of 2048 numbers, of columns that divide the width where such a power of 2 is at least 64."""
    divisor = min(n & -n, 1024)
    cols = divisor if divisor >= 64 else min(power_of_2(n), 1024)
    form = {"N": n, "BR": 2048 // cols, "BC": cols, "ACTIVATION": activation, "GATED": gated, "BIASED": biased}
    return form, {"num_warps": 4, "num_stages": 1}


@on_its_device
def add_norm(
    x: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor | None = None,
    *,
    eps: float,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    sum_out: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Layer norm of the rows of s = x + bias + residual [rows, n]: (s - mean) / sqrt(variance + eps) * gamma + beta. n: at most 16,384.

    sum_out [rows, n]: takes s, which a pre-norm model adds to later; the norm is that of s before it is rounded.
    Bytes: 2 * rows * n numbers, one rows * n more for a residual and for sum_out each. out and sum_out may be x or residual.
    """
    rows, n = x.shape
    kind_of(x.dtype)
    for name, got, shape in (
        ("x", x, (rows, n)),
        ("residual", residual, (rows, n)),
        ("sum_out", sum_out, (rows, n)),
        ("out", out, (rows, n)),
    ):
        expect(name, got, shape, x.dtype)
    for name, got in (("gamma", gamma), ("beta", beta), ("bias", bias)):
        expect(name, got, (n,), x.dtype)
    if n > 16_384:
        raise ValueError(f"x: expected at most 16384 columns, got {n}")
    out = torch.empty_like(x) if out is None else out
    form, options = add_norm_constants(n, bias is not None, residual is not None, beta is not None, sum_out is not None)
    add_norm_kernel[(rows,)](x, bias, residual, gamma, beta, sum_out, out, eps, **form, **options)
    return out


def add_norm_constants(n: int, biased: bool, residual: bool, beta: bool, total: bool) -> tuple[dict[str, Any], dict[str, int]]:
    """One warp for each 1024 columns: a row of most models is reduced without a barrier."""
    cols = power_of_2(n)
    form = {"N": n, "COLS": cols, "BIASED": biased, "RESIDUAL": residual, "BETA": beta, "SUM": total}
    return form, {"num_warps": max(1, cols // 1024), "num_stages": 1}


@on_its_device
def classify(
    x: torch.Tensor,
    dense: torch.Tensor,
    dense_bias: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    activation: str = "tanh",
    norm: tuple[torch.Tensor, torch.Tensor | None, float] | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logits float32 [rows, labels] of pooled rows x [rows, n]: norm(activation(x dense^T + dense_bias)) weight^T + bias, all but the
    products with `dense` in float32.

    dense [n, n] and weight [labels, n] are as in torch.nn.Linear; labels: at most 64. BERT: tanh. XLM-R: tanh. ModernBERT: gelu and
    norm (gamma, beta or None, eps).
    Bytes: n^2 numbers for each 16 rows, from DRAM once. Two launches: a program sees 128 hidden columns (float32: 64) of 16 rows, so that
    few rows keep a device busy too. It should lose to two products where rows are so many that they want a larger tile.
    """
    expect_name(activation)
    rows, n = x.shape
    labels = len(weight)
    gamma, beta, eps = (None, None, 0.0) if norm is None else norm
    if not 1 <= labels <= 64:
        raise ValueError(f"weight: expected 1 to 64 labels, got {labels}")
    for name, got, shape in (("x", x, (rows, n)), ("dense", dense, (n, n)), ("weight", weight, (labels, n)), ("bias", bias, (labels,))):
        expect(name, got, shape, x.dtype)
    for name, got in (("dense_bias", dense_bias), ("gamma", gamma), ("beta", beta)):
        expect(name, got, (n,), x.dtype)
    expect("out", out, (rows, labels), torch.float32)
    out = torch.empty(rows, labels, dtype=torch.float32, device=x.device) if out is None else out
    if not rows:
        return out
    given = (dense_bias is not None, norm is not None, beta is not None, bias is not None)
    first, options, second = classify_constants(kind_of(x.dtype), n, labels, activation, *given)
    blocks, tiles = ceil_div(n, first["BN"]), ceil_div(rows, 16)
    part = torch.empty(blocks, rows, labels + 2 * (norm is not None), dtype=torch.float32, device=x.device)
    classify_kernel[(tiles * blocks,)](x, dense, dense_bias, gamma, weight, part, rows, n, **first, **options)
    logits_kernel[(tiles,)](part, gamma, beta, weight, bias, out, rows, eps, **second, num_warps=1)
    return out


def classify_constants(
    kind: str, n: int, labels: int, activation: str, dense_biased: bool, norm: bool, beta: bool, biased: bool
) -> tuple[dict[str, Any], dict[str, int], dict[str, Any]]:
    """(compile-time arguments and options of the first kernel, arguments of the second)"""
    cols, stages = (64, 3) if kind == "fp32" else (128, 4)
    both = {"N": n, "LABELS": labels, "LABEL_COLS": power_of_2(labels, 1), "BN": cols, "NORM": norm}
    first = both | {"BK": 64, "KIND": kind, "ACTIVATION": activation, "DENSE_BIASED": dense_biased}
    return first, {"num_warps": 4, "num_stages": stages}, both | {"BETA": beta, "BIASED": biased}


def builds(target: str) -> list[Build]:
    """Of the widths of usual models."""
    found = []
    for kind, n, name, gated in (
        ("fp16", 1536, "gelu", False),
        ("bf16", 3072, "gelu", False),
        ("fp32", 1536, "gelu", False),
        ("fp16", 3072, "gelu_tanh", False),
        ("fp16", 1152, "gelu", True),
        ("fp16", 2624, "gelu", True),
        ("fp16", 4096, "silu", True),
    ):
        form, options = activate_constants(n, name, gated, biased=not gated)
        arguments = {"x_ptr": kind, "bias_ptr": kind if not gated else None, "out_ptr": kind}
        found.append(
            build(f"activate-{kind}-{n}-{name}{'-gated' if gated else ''}", activate_kernel, arguments, {"rows": "i32"}, form, options)
        )
    for kind, n, pre_norm in (("fp16", 384, False), ("fp16", 768, False), ("bf16", 768, False), ("fp16", 1024, False), ("fp16", 768, True)):
        form, options = add_norm_constants(n, not pre_norm, True, not pre_norm, pre_norm)
        post = None if pre_norm else kind
        arguments = {"x_ptr": kind, "bias_ptr": post, "residual_ptr": kind, "gamma_ptr": kind, "beta_ptr": post, "out_ptr": kind}
        arguments["sum_ptr"] = kind if pre_norm else None
        name = f"add_norm-{kind}-{n}{'-sum' if pre_norm else ''}"
        found.append(build(name, add_norm_kernel, arguments, {"eps": "fp32"}, form, options))
    for kind, n, norm in (("fp16", 384, False), ("fp16", 768, False), ("bf16", 1024, False), ("fp32", 384, False), ("fp16", 768, True)):
        form, options, second = classify_constants(kind, n, 1, "gelu" if norm else "tanh", not norm, norm, False, True)
        held = {"x_ptr": kind, "dense_ptr": kind, "dense_bias_ptr": None if norm else kind, "gamma_ptr": kind if norm else None}
        arguments = held | {"weight_ptr": kind, "part_ptr": "fp32"}
        name = f"{kind}-{n}{'-gelu-norm' if norm else '-tanh'}"
        found.append(build(f"classify-{name}", classify_kernel, arguments, {"n": "i32", "columns": "i32"}, form, options, rows=16))
        arguments = {"part_ptr": "fp32", "gamma_ptr": held["gamma_ptr"], "beta_ptr": None, "weight_ptr": kind, "bias_ptr": kind}
        options = {"num_warps": 1, "num_stages": 3}
        found.append(build(f"logits-{name}", logits_kernel, arguments | {"out_ptr": "fp32"}, {"n": "i32", "eps": "fp32"}, second, options))
    return found


def build(
    variant: str,
    function: Any,
    pointers: dict[str, str | None],
    scalars: dict[str, str],
    form: dict[str, Any],
    options: dict[str, int],
    rows: int = 0,
) -> Build:
    """pointers: what each points to, None for a buffer that is not given."""
    types = {name: "*" + kind for name, kind in pointers.items() if kind} | scalars
    absent = {name: None for name, kind in pointers.items() if not kind}
    sizes = (options["num_warps"], options["num_stages"])
    return Build("epilogue", variant, function, types, form | absent, *sizes, tokens=rows, tensor_cores=rows > 0)
