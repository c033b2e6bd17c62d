"""What lies between the products of an encoder, against float64; and encoders made of these parts and attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from device import DEVICE, poisoned, torch
from rerank_kernels.epilogue import ACTIVATIONS, activate, add_norm, builds, classify
from rerank_kernels.varlen_attention import block_rows, row_list, varlen_attention, work_list

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of NaN and overflow in the interpreter

TYPES = [torch.float16, torch.bfloat16, torch.float32]
# relative: half a step, or what float32 sums differ by; the interpreter cuts to bfloat16 where a GPU rounds
STEP = {torch.float16: 2**-11, torch.bfloat16: 2**-7, torch.float32: 2e-6}


def exact(x: torch.Tensor, name: str) -> torch.Tensor:
    """float64, without the cancellation of 1 + erf and 1 + tanh"""
    x = x.double()
    functions = {
        "none": lambda x: x,
        "gelu": lambda x: x * torch.special.erfc(-x / math.sqrt(2)) / 2,
        "gelu_tanh": lambda x: x / (1 + torch.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "silu": torch.nn.functional.silu,
        "relu": torch.relu,
        "tanh": torch.tanh,
    }
    return functions[name](x)


def random(*shape: int, dtype: torch.dtype = torch.float16, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype).to(DEVICE)


def close(got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype, absolute: float = 1e-6) -> None:
    error = (got.cpu().double() - want.cpu()).abs()
    assert (error <= STEP[dtype] * want.cpu().abs() + absolute).all(), float(error.max())  # False for NaN


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_over_their_whole_range(name: str) -> None:
    x = torch.cat([torch.linspace(-20, 20, 4001), torch.logspace(-30, 4, 35), -torch.logspace(-30, 4, 35)]).to(DEVICE)
    got = activate(x[None], activation=name, out=poisoned(1, len(x))).cpu()[0].double()
    want = exact(x.cpu(), name)
    if name == "tanh":
        assert (got - want).abs().max() <= 1e-6 and got.abs().max() == 1
    else:
        error = (got - want).abs() / want.abs().clamp_min(1e-30)
        assert error.max() <= 2e-5  # also where a gelu is 1e-30
        assert error[x.cpu().abs() <= 3].max() <= 4e-6


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("rows", "n"), [(1, 384), (0, 128), (5, 64), (33, 128), (3, 1536), (2, 100), (9, 1), (2, 1030)])
def test_bias_and_activation(rows: int, n: int, gated: bool) -> None:
    for dtype, name in zip([*TYPES, torch.float16], ("gelu", "silu", "gelu_tanh", "relu")):
        x, bias = random(rows, n * (1 + gated), dtype=dtype), random(n * (1 + gated), dtype=dtype, seed=1)
        for given in (bias, None):
            s = x.double() if given is None else x.double() + given.double()
            want = exact(s[:, :n], name) * s[:, n:] if gated else exact(s, name)
            out = poisoned(rows, n, dtype=dtype)
            assert activate(x, given, activation=name, gated=gated, out=out) is out
            close(out, want, dtype)
            assert torch.equal(out, activate(x, given, activation=name, gated=gated))


def test_activation_in_place_and_not_past_its_rows() -> None:
    buffer = random(40, 128)
    before, x = buffer.clone(), buffer[:33]
    want = activate(x)
    activate(x, out=x)
    assert torch.equal(buffer[:33], want) and torch.equal(buffer[33:], before[33:])
    out = poisoned(34 * 100, dtype=torch.float16)
    activate(buffer.view(-1)[:3300].view(33, 100), out=out[:3300].view(33, 100))
    assert out[3300:].isnan().all() and not out[:3300].isnan().any()


@pytest.mark.parametrize("n", [1, 32, 100, 384, 768, 1024, 1152, 2048])
def test_bias_residual_and_norm(n: int) -> None:
    for dtype in TYPES:
        x, residual = random(3, n, dtype=dtype), random(3, n, dtype=dtype, seed=1)
        bias, gamma, beta = (random(n, dtype=dtype, seed=seed) for seed in (2, 3, 4))
        for b, r, last, with_sum in (
            (bias, residual, beta, False),
            (None, residual, None, True),
            (None, None, beta, False),
            (bias, None, None, True),
        ):
            s = x.double() + (0 if b is None else b.double()) + (0 if r is None else r.double())
            want = torch.nn.functional.layer_norm(s, (n,), gamma.double(), None if last is None else last.double(), 1e-5)
            out, total = poisoned(3, n, dtype=dtype), poisoned(3, n, dtype=dtype)
            got = add_norm(x, gamma, last, eps=1e-5, bias=b, residual=r, sum_out=total if with_sum else None, out=out)
            assert got is out
            close(out, want, dtype, 2e-5 if n > 1 else 2e-3)  # of one number: what float32 leaves of x - mean, / sqrt(eps)
            if with_sum:
                close(total, s, dtype)
            else:
                assert total.isnan().all()
            assert torch.equal(out, add_norm(x, gamma, last, eps=1e-5, bias=b, residual=r))


def test_norm_of_a_large_mean_of_equal_numbers_and_in_place() -> None:
    x = random(4, 384, dtype=torch.float32) + 1000
    gamma = torch.ones(384, device=DEVICE)
    close(add_norm(x, gamma, eps=1e-12), torch.nn.functional.layer_norm(x.double(), (384,), eps=1e-12), torch.float32, 1e-3)
    for dtype, equal in zip(TYPES, (1 / 3, 1 / 3, 3.0)):  # float32 holds their sum, so nothing is left that this eps would make large
        assert not add_norm(torch.full_like(x, equal, dtype=dtype), gamma.to(dtype), eps=1e-12).any()
    assert add_norm(x[:0], gamma, eps=1e-12).shape == (0, 384)
    want, total = add_norm(x, gamma, eps=1e-5, residual=2 * x), 3 * x
    residual = 2 * x
    add_norm(x, gamma, eps=1e-5, residual=residual, sum_out=residual, out=x)
    assert torch.equal(x, want)
    close(residual, total.double(), torch.float32)


def head(x: torch.Tensor, w: dict[str, Any], name: str) -> torch.Tensor:
    """float64 logits"""
    h = exact(x.double() @ w["dense"].double().T + (0 if w["dense_bias"] is None else w["dense_bias"].double()), name)
    if w["norm"] is not None:
        gamma, beta, eps = w["norm"]
        h = torch.nn.functional.layer_norm(h, (h.shape[1],), gamma.double(), None if beta is None else beta.double(), eps)
    return h @ w["weight"].double().T + (0 if w["bias"] is None else w["bias"].double())


def head_weights(n: int, labels: int, dtype: torch.dtype, norm: bool, biased: bool) -> dict[str, Any]:
    weights: dict[str, Any] = {"dense": random(n, n, dtype=dtype, seed=1, scale=n**-0.5), "weight": random(labels, n, dtype=dtype, seed=2)}
    weights["dense_bias"] = random(n, dtype=dtype, seed=3) if biased else None
    weights["bias"] = random(labels, dtype=dtype, seed=4) if biased else None
    gamma, beta = random(n, dtype=dtype, seed=5) + 1, random(n, dtype=dtype, seed=6) if biased else None
    return weights | {"norm": (gamma, beta, 1e-2) if norm else None}


@pytest.mark.parametrize(("rows", "n", "labels"), [(1, 384, 1), (17, 64, 1), (16, 100, 3), (33, 200, 2), (0, 64, 1)])
@pytest.mark.parametrize("norm", [False, True])
def test_classifier(rows: int, n: int, labels: int, norm: bool) -> None:
    for dtype, name in zip(TYPES, ("tanh", "gelu", "none")):
        for biased in (True, False):
            weights = head_weights(n, labels, dtype, norm, biased)
            x = random(rows, n, dtype=dtype)
            out = poisoned(rows + 1, labels)
            got = classify(x, **weights, activation=name, out=out[:rows])
            close(got, head(x, weights, name), torch.float32, 1e-4 if DEVICE.type == "cpu" else 2e-3)
            assert out[rows:].isnan().all()
            assert torch.equal(got, classify(x, **weights, activation=name))
            if rows > 1:  # the interpreter's products are the BLAS's, which sums the rows at an edge in another order
                alone = classify(x[rows - 1 :], **weights, activation=name)
                assert (
                    torch.equal(got[rows - 1 :], alone)
                    if DEVICE.type == "cuda"
                    else torch.allclose(got[rows - 1 :], alone, rtol=1e-5, atol=1e-5)
                )


def test_large_numbers_do_not_overflow() -> None:
    """tanh of the pooler, and a mean beside which the variance is small."""
    weights = head_weights(64, 1, torch.float32, False, True)
    weights["dense_bias"] = torch.where(torch.arange(64) % 2 == 0, 3e4, -3e4).to(DEVICE)
    x = random(3, 64, dtype=torch.float32)
    close(classify(x, **weights), head(x, weights, "tanh"), torch.float32, 1e-4)
    weights = head_weights(200, 1, torch.float32, True, True)
    weights["dense_bias"] += 100
    x = random(3, 200, dtype=torch.float32)
    close(classify(x, **weights, activation="none"), head(x, weights, "none"), torch.float32, 2e-2)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_stays_in_its_row_and_is_not_hidden(name: str) -> None:
    x = random(20, 64)
    clean, n = x.clone(), 32
    x[3, 5] = float("nan")
    keep = torch.arange(20) != 3
    gamma = random(64, seed=1)
    weights = head_weights(64, 1, torch.float16, name == "gelu", True)
    for of in (
        lambda x: activate(x, activation=name),
        lambda x: activate(x, activation=name, gated=True),
        lambda x: add_norm(x, gamma, eps=1e-5),
        lambda x: classify(x, **weights, activation=name),
    ):
        got = of(x)
        assert got[3, 5 % got.shape[1]].isnan() and torch.equal(got[keep], of(clean)[keep])
    x[3, 5], x[3, 5 + n] = 1, float("nan")
    assert activate(x, activation=name, gated=True)[3, 5].isnan()


def test_rows_past_31_bits() -> None:
    """In place and of the last rows of a batch of more than 2^31 numbers: their places alone are computed."""
    if DEVICE.type == "cpu":
        pytest.skip("the interpreter would run all the rows before them")
    n = 4096
    x = torch.zeros(2**31 // n + 2, n, dtype=torch.float16, device=DEVICE)
    x[-1] = random(n)
    want = activate(x[-1:]), add_norm(x[-1:], x[-1], eps=1e-5)
    gamma = x[-1].clone()
    assert torch.equal(add_norm(x, gamma, eps=1e-5)[-1:], want[1])
    assert torch.equal(activate(x, out=x)[-1:], want[0])


def test_what_a_call_must_not_be_given() -> None:
    x, row = random(3, 64), random(64)
    weights = head_weights(64, 1, torch.float16, False, True)
    calls = {
        "activation: expected one of": lambda: activate(x, activation="swish"),
        "x: expected a contiguous": lambda: activate(x.T),
        "x: expected": lambda: activate(random(3, 63), gated=True),
        "bias: expected": lambda: activate(x, row.float()),
        "out: expected": lambda: activate(x, gated=True, out=x),
        "expected float16, bfloat16 or float32": lambda: activate(x.double()),
        "residual: expected": lambda: add_norm(x, row, eps=1e-5, residual=x[:2]),
        "gamma: expected": lambda: add_norm(x, row[:32], eps=1e-5),
        "at most 16384": lambda: add_norm(random(1, 16385), random(16385), eps=1e-5),
        "dense: expected": lambda: classify(x, **weights | {"dense": x}),
        "dense_bias: expected": lambda: classify(x, **weights | {"dense_bias": row.float()}),
        "out: expected a contiguous torch.float32": lambda: classify(x, **weights, out=random(3, 1)),
        "1 to 64 labels": lambda: classify(x, **weights | {"weight": random(65, 64)}),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_what_is_compiled_ahead_of_time_has_a_name_of_its_own() -> None:
    names = [build.variant for build in builds("sm_90")]
    assert len(set(names)) == len(names) > 10


HIDDEN, HEADS, INNER, LAYERS, EPS = 64, 2, 128, 2, 1e-12


def layer_weights(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """float16, in the names of BERT"""
    shapes = {"qkv": (3 * HIDDEN, HIDDEN), "output": (HIDDEN, HIDDEN), "up": (INNER, HIDDEN), "down": (HIDDEN, INNER)}
    weights = {name: torch.randn(shape, generator=generator) / math.sqrt(shape[1]) for name, shape in shapes.items()}
    weights |= {f"{name}_bias": torch.randn(shape[0], generator=generator) * 0.1 for name, shape in shapes.items()}
    for name in ("norm1", "norm2"):
        weights |= {
            name: 1 + 0.1 * torch.randn(HIDDEN, generator=generator),
            f"{name}_bias": 0.1 * torch.randn(HIDDEN, generator=generator),
        }
    return {name: w.half().to(DEVICE) for name, w in weights.items()}


def rest_of_layer(x: torch.Tensor, attended: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    x = add_norm(attended @ w["output"].T, w["norm1"], w["norm1_bias"], eps=EPS, bias=w["output_bias"], residual=x)
    inner = activate(x @ w["up"].T, w["up_bias"])
    return add_norm(inner @ w["down"].T, w["norm2"], w["norm2_bias"], eps=EPS, bias=w["down_bias"], residual=x)


def encoded(x: torch.Tensor, lengths: list[int], layers: list[dict[str, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """States [tokens, hidden] after all layers; and those of the first token of each sequence alone, by the cut of the last layer."""
    offsets = torch.tensor(np.cumsum([0, *lengths]), device=DEVICE)
    blocks = work_list(lengths, block_rows(DEVICE, HIDDEN // HEADS)).to(DEVICE)
    rows = row_list(lengths).to(DEVICE)
    for w in layers:
        before, qkv = x, (x @ w["qkv"].T + w["qkv_bias"]).view(-1, 3, HEADS, HIDDEN // HEADS)
        x = rest_of_layer(x, varlen_attention(qkv, offsets, blocks).view(-1, HIDDEN), w)
    attended = varlen_attention(qkv, offsets, rows, one_row=True)
    return x, rest_of_layer(before[offsets[:-1]].contiguous(), attended.view(-1, HIDDEN), w)


def reference(x: torch.Tensor, layers: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """float64 states of one sequence, in plain torch"""
    x = x.double()
    for w in ({name: value.double() for name, value in layer.items()} for layer in layers):
        q, k, v = (x @ w["qkv"].T + w["qkv_bias"]).view(-1, 3, HEADS, HIDDEN // HEADS).permute(1, 2, 0, 3)
        scores = q @ k.transpose(1, 2) / math.sqrt(HIDDEN // HEADS)
        attended = (scores.softmax(-1) @ v).transpose(0, 1).reshape(-1, HIDDEN) @ w["output"].T + w["output_bias"]
        x = torch.nn.functional.layer_norm(x + attended, (HIDDEN,), w["norm1"], w["norm1_bias"], EPS)
        inner = exact(x @ w["up"].T + w["up_bias"], "gelu") @ w["down"].T + w["down_bias"]
        x = torch.nn.functional.layer_norm(x + inner, (HIDDEN,), w["norm2"], w["norm2_bias"], EPS)
    return x


def test_layers_of_an_encoder_on_a_ragged_batch() -> None:
    """As plain float64 torch has them one sequence at a time, up to the logits; and bitwise the same in another order."""
    generator = torch.Generator().manual_seed(0)
    layers = [layer_weights(generator) for _ in range(LAYERS)]
    lengths = [70, 1, 33, 64, 130]
    parts = [random(n, HIDDEN, seed=n) for n in lengths]
    states, first = encoded(torch.cat(parts), lengths, layers)
    want = torch.cat([reference(part, layers) for part in parts])
    places = np.cumsum([0, *lengths])
    assert (states.double() - want).abs().max() <= 8e-3
    assert (first.double() - want[places[:-1]]).abs().max() <= 8e-3
    weights = head_weights(HIDDEN, 1, torch.float16, False, True)
    assert (classify(first, **weights).double() - head(want[places[:-1]], weights, "tanh")).abs().max() <= 2e-2


def test_a_small_bert_of_transformers() -> None:
    transformers = pytest.importorskip(
        "transformers", reason="compares with BertModel: pip install transformers==5.3.0", exc_type=ImportError
    )
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    model = transformers.BertModel(config).eval().half().double()  # weights that float16 holds
    layers = []
    for layer in model.encoder.layer:
        own = layer.attention.self
        linear = {"output": layer.attention.output.dense, "up": layer.intermediate.dense, "down": layer.output.dense}
        linear |= {"norm1": layer.attention.output.LayerNorm, "norm2": layer.output.LayerNorm}
        weights = {name: module.weight for name, module in linear.items()} | {f"{name}_bias": m.bias for name, m in linear.items()}
        weights["qkv"] = torch.cat([own.query.weight, own.key.weight, own.value.weight])
        weights["qkv_bias"] = torch.cat([own.query.bias, own.key.bias, own.value.bias])
        layers.append({name: w.detach().half().to(DEVICE) for name, w in weights.items()})
    lengths = [7, 40, 1, 66]
    ids = torch.randint(0, 50, (4, max(lengths)), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    with torch.inference_mode():
        want = model(input_ids=ids, attention_mask=mask.long())
        embedded = model.embeddings(input_ids=ids)[mask].half().to(DEVICE)
        states, first = encoded(embedded, lengths, layers)
    assert (states.cpu().double() - want.last_hidden_state[mask]).abs().max() <= 8e-3
    pooler = {"dense": model.pooler.dense.weight, "dense_bias": model.pooler.dense.bias, "weight": torch.eye(HIDDEN), "bias": None}
    got = classify(first, **{name: w if w is None else w.detach().half().to(DEVICE) for name, w in pooler.items()})
    assert (got.cpu().double() - want.pooler_output).abs().max() <= 8e-3
