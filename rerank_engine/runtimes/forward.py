"""The forward pass of an `Encoder` on packed tokens, in torch: all but attention on [tokens, hidden], no padding anywhere.

Attention is given to it: `Grouped` by torch's scaled_dot_product_attention over sequences of one length, on any device; `Varlen` by our
Triton kernel over all sequences at once, on CUDA. With the kernels, what lies between the products is fused as well.
A head that reads one token of a sequence needs one row of the last layer: only its keys and values are computed for all tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from .encoder import Architecture, Encoder

PIECE = 256  # tokens of a sequence whose logits of a whole vocabulary are there at once


@dataclass(frozen=True, eq=False)
class Batch:
    """Tensors of a call, on the network's device: ids, places (see `places_of`) and types int32 [tokens]; rows int64 [n], the token of each
    sequence that the head reads."""

    ids: torch.Tensor
    places: torch.Tensor
    types: torch.Tensor
    rows: torch.Tensor


class Attention(Protocol):
    def __call__(self, layer: Layer, h: torch.Tensor, turn: Turn | None, rows: torch.Tensor | None) -> torch.Tensor:
        """float [tokens or n, heads * head_dim] of the normed states h [tokens, hidden]; rows: of these tokens alone, one a sequence."""
        ...


@dataclass(frozen=True, eq=False)
class Layer:
    """The numbers of a layer, by the names of encoder.py without its number, in the network's type; window: see Architecture."""

    number: int
    weights: Mapping[str, torch.Tensor]
    window: int | None
    architecture: Architecture

    def get(self, name: str) -> torch.Tensor | None:
        return self.weights.get(name)

    def split(self, h: torch.Tensor, rows: torch.Tensor | None, turn: Turn | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(q [tokens or rows, heads, dim], k, v [tokens, kv_heads, dim]): projected, normed and turned."""
        a, weight, bias = self.architecture, self.weights["qkv.weight"], self.get("qkv.bias")
        ends = [a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.head_dim]
        if rows is None:
            q, k, v = functional.linear(h, weight, bias).split(ends, dim=1)
        else:
            at = ends[0]
            q = functional.linear(h[rows], weight[:at], None if bias is None else bias[:at])
            k, v = functional.linear(h, weight[at:], None if bias is None else bias[at:]).split(ends[1:], dim=1)
        q, k, v = (part.unflatten(1, (-1, a.head_dim)) for part in (q, k, v))
        if (norm := self.get("q_norm.weight")) is not None:
            q = functional.rms_norm(q, norm.shape, norm, a.eps)
            k = functional.rms_norm(k, norm.shape, self.weights["k_norm.weight"], a.eps)
        if turn is not None:
            q, k = turn(q, rows), turn(k, None)
        return q, k, v


class Turn:
    """A rotary embedding (Su et al., 2021), halves against each other as in GPT-NeoX: for places int32 [tokens], one theta."""

    def __init__(self, places: torch.Tensor, head_dim: int, theta: float, divisor: float = 1.0) -> None:
        powers = torch.arange(0, head_dim, 2, device=places.device, dtype=torch.float32) / head_dim
        angles = places.float()[:, None, None] / (theta**powers * divisor)
        self._cos, self._sin = angles.cos(), angles.sin()

    def __call__(self, x: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
        cos, sin = (self._cos, self._sin) if rows is None else (self._cos[rows], self._sin[rows])
        low, high = x.float().chunk(2, dim=-1)
        return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)


def groups_of(lengths: list[int]) -> list[tuple[int, int, int, int]]:
    """(first sequence, first token, sequences, their length) of each run of sequences of one length."""
    groups = list[tuple[int, int, int, int]]()
    first = token = 0
    while first < len(lengths):
        count = next((i for i in range(first, len(lengths)) if lengths[i] != lengths[first]), len(lengths)) - first
        groups.append((first, token, count, lengths[first]))
        first, token = first + count, token + count * lengths[first]
    return groups


class Grouped:
    """Attention of consecutive sequences of one length at a time. Exact for any composition: a sequence sees itself alone.

    prefix: tokens that all sequences begin with and that are not in the batch: for each layer their (keys, values) [tokens, kv_heads,
    dim], for a causal network. attended: how many tokens of each sequence may be looked at. kept: takes each layer's keys and values.
    """

    def __init__(
        self,
        lengths: list[int],
        *,
        causal: bool,
        attended: NDArray[np.int64] | None = None,
        prefix: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
        kept: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> None:
        self._causal, self._attended, self._prefix, self._kept = causal, attended, prefix, kept
        self._groups = groups_of(lengths)

    def __call__(self, layer: Layer, h: torch.Tensor, turn: Turn | None, rows: torch.Tensor | None) -> torch.Tensor:
        q, k, v = layer.split(h, rows, turn)
        if self._kept is not None:
            self._kept.append((k, v))
        found = []
        for first, token, count, length in self._groups:
            part = slice(token, token + count * length)
            asked = q[part].view(count, length, *q.shape[1:]) if rows is None else q[first : first + count, None]
            keys, values = (self._whole(layer, x[part].view(count, length, *x.shape[1:]), which) for which, x in enumerate((k, v)))
            at = None if rows is None else rows[first : first + count] - token - length * torch.arange(count, device=rows.device)
            mask = self._mask(layer, first, count, length, keys.shape[2], at, q.device)
            out = functional.scaled_dot_product_attention(asked.transpose(1, 2), keys, values, attn_mask=mask)
            found.append(out.transpose(1, 2).reshape(-1, q.shape[1] * q.shape[2]))
        return found[0] if len(found) == 1 else torch.cat(found)

    def _whole(self, layer: Layer, own: torch.Tensor, which: int) -> torch.Tensor:
        """Keys or values [n, heads, tokens, dim], behind those of the prefix, each for all the heads that share it."""
        if self._prefix is not None:
            before = self._prefix[layer.number][which]
            own = torch.cat((before.expand(len(own), *before.shape), own), dim=1)
        shared = layer.architecture.heads // layer.architecture.kv_heads
        own = own.transpose(1, 2)
        return own if shared == 1 else own.repeat_interleave(shared, dim=1)

    def _mask(
        self, layer: Layer, first: int, count: int, length: int, keys: int, at: torch.Tensor | None, device: torch.device
    ) -> torch.Tensor | None:
        """bool [n or 1, 1, queries, keys], True where a query sees a key; None: everywhere."""
        key, before = torch.arange(keys, device=device), keys - length
        query = before + (torch.arange(length, device=device)[None] if at is None else at[:, None])
        apart, seen = query[:, :, None] - key, None
        if self._causal and (length > 1 or before):
            seen = apart >= 0
        if layer.window is not None and length > layer.window:
            near = apart.abs() <= layer.window
            seen = near if seen is None else seen & near
        if self._attended is not None:
            most = torch.from_numpy(self._attended[first : first + count]).to(device)
            open_ = key[None, None] < before + most[:, None, None]
            seen = open_ if seen is None else seen & open_
        return None if seen is None else seen[:, None]


class Varlen:
    """Attention by the Triton kernel, of float16 or bfloat16 with heads of at most 128. work: of all rows; one_row: of the head's alone;
    offsets int64 [n + 1]: see rerank_kernels.varlen_attention."""

    def __init__(self, offsets: torch.Tensor, work: torch.Tensor, one_row: torch.Tensor) -> None:
        self._offsets, self._work, self._one_row = offsets, work, one_row

    def __call__(self, layer: Layer, h: torch.Tensor, turn: Turn | None, rows: torch.Tensor | None) -> torch.Tensor:
        from rerank_kernels.varlen_attention import varlen_attention

        a = layer.architecture
        if turn is None and a.heads == a.kv_heads and layer.get("q_norm.weight") is None:
            qkv = functional.linear(h, layer.weights["qkv.weight"], layer.get("qkv.bias"))
        else:
            q, k, v = layer.split(h, None, turn)
            shared = a.heads // a.kv_heads
            qkv = torch.stack((q, k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)), 1)
        qkv = qkv.view(len(h), 3, a.heads, a.head_dim)
        window = None if layer.window is None else 2 * layer.window
        work = self._work if rows is None else self._one_row
        n = len(h) if rows is None else len(rows)
        out = torch.empty(
            n, a.heads, a.head_dim, dtype=h.dtype, device=h.device
        )  # rows of no sequence stay what they are; nobody reads them
        varlen_attention(qkv, self._offsets, work, causal=a.causal, window=window, one_row=rows is not None, out=out)
        return out.view(len(out), a.heads * a.head_dim)


class Forward:
    """The network of an Encoder on one device in one type. kernels: norms and activations by Triton (CUDA, or its interpreter)."""

    def __init__(self, encoder: Encoder, device: torch.device, dtype: torch.dtype, kernels: bool) -> None:
        a = self.architecture = encoder.architecture
        self.device, self.dtype, self.kernels = device, dtype, kernels
        head = {name for name in encoder.weights if name.startswith("head.")}  # few numbers, and what scores are made of: in float32
        self._weights = {
            name: torch.from_numpy(np.require(array, requirements=("C", "W"))).to(device, torch.float32 if name in head else dtype)
            for name, array in encoder.weights.items()
        }
        names = [[name for name in self._weights if name.startswith(f"{i}.")] for i in range(a.layers)]
        windows = a.windows or (None,) * a.layers
        self._layers = [
            Layer(i, {name.partition(".")[2]: self._weights[name] for name in names[i]}, windows[i], a) for i in range(a.layers)
        ]

    def logits(self, batch: Batch, attention: Attention, lengths: torch.Tensor) -> torch.Tensor:
        """float32 [n, labels]"""
        a = self.architecture
        if a.pooling == "mean":
            h = self.states(batch, attention)
            pooled = torch.segment_reduce(h.float(), "mean", lengths=lengths, axis=0)  # unlike index_add_, in one order on a GPU too
        else:
            pooled = self._run(batch, attention, batch.rows).float()
        if a.head in ("pooler", "prediction"):
            pooled = activated(
                functional.linear(pooled, self._weights["head.dense.weight"], self._get("head.dense.bias")), a.head_activation
            )
        if a.head == "prediction":
            pooled = functional.layer_norm(pooled, pooled.shape[1:], self._weights["head.norm.weight"], self._get("head.norm.bias"), a.eps)
        return functional.linear(pooled, self._weights["head.classifier.weight"], self._get("head.classifier.bias"))

    def weights(self, batch: Batch, attention: Attention, lengths: list[int]) -> torch.Tensor:
        """float32 [n, vocabulary] of a masked-LM head (see Architecture). Logits are pooled a piece of a sequence at a time:
        there are never more of them than [PIECE, vocabulary], beside the pooled ones of a sequence's pieces and what is returned."""
        a, w = self.architecture, self._weights
        h = functional.linear(self.states(batch, attention).float(), w["head.dense.weight"], self._get("head.dense.bias"))
        h = functional.layer_norm(
            activated(h, a.head_activation), h.shape[1:], w["head.norm.weight"], self._get("head.norm.bias"), a.eps
        ).to(self.dtype)
        decoder, bias = w.get("decoder", w["word"]), self._get("head.bias")

        def saturated(logits: torch.Tensor) -> torch.Tensor:
            found = (logits.float() if bias is None else logits.float() + bias).relu()
            for _ in range(a.saturations):
                found = found.log1p()
            return found

        def pooled(piece: torch.Tensor) -> torch.Tensor:
            logits = functional.linear(piece, decoder)
            return logits.amax(0) if a.pooling == "max" else saturated(logits).sum(0)

        out = torch.empty(len(lengths), len(decoder), dtype=torch.float32, device=h.device)
        for i, sequence in enumerate(h.split(lengths)):
            parts = torch.stack([pooled(piece) for piece in sequence.split(PIECE)])
            out[i] = saturated(parts.amax(0)) if a.pooling == "max" else parts.sum(0)  # f(x) never falls, one bias for all tokens
        return out

    def states(self, batch: Batch, attention: Attention) -> torch.Tensor:
        """[tokens, hidden]"""
        return self._run(batch, attention, None)

    def _run(self, batch: Batch, attention: Attention, rows: torch.Tensor | None) -> torch.Tensor:
        a = self.architecture
        x = self._embed(batch)
        post = a.place == "post"
        h = x if post or "0.norm1.weight" not in self._weights else self._norm(x, "0.norm1")
        turns = {theta: Turn(batch.places, a.head_dim, theta, a.rope_divisor) for theta in dict.fromkeys(a.thetas)}
        for i, layer in enumerate(self._layers):
            last = i == a.layers - 1
            only = rows if last else None
            mixed = attention(layer, h, turns[a.thetas[i]] if turns else None, only)
            x = x if only is None else x[only]
            x, h = self._join(x, mixed, f"{i}.out", f"{i}.norm1" if post else f"{i}.norm2")
            x, h = self._join(x, self._inner(h, layer), f"{i}.down", f"{i}.norm2" if post else "norm" if last else f"{i + 1}.norm1")
        return h

    def _embed(self, batch: Batch) -> torch.Tensor:
        w, a = self._weights, self.architecture
        x, more = functional.embedding(batch.ids, w["word"]), None
        if "position" in w:
            more = functional.embedding(batch.places + a.position_offset, w["position"])
        if "type" in w:  # a table of one row serves whatever the tokenizer says
            kinds = functional.embedding(batch.types.clamp(0, a.types - 1), w["type"])
            more = kinds if more is None else more + kinds
        if "embed.norm.weight" not in w:
            return x if more is None else x + more
        if self.kernels:
            from rerank_kernels.epilogue import add_norm

            return add_norm(x, w["embed.norm.weight"], self._get("embed.norm.bias"), eps=a.eps, residual=more)
        return self._norm(x if more is None else x + more, "embed.norm")

    def _join(self, x: torch.Tensor, inner: torch.Tensor, linear: str, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(the stream that is added to, what the next product reads)"""
        bias, post = self._get(f"{linear}.bias"), self.architecture.place == "post"
        if self.kernels and self.architecture.norm == "layer":
            from rerank_kernels.epilogue import add_norm

            more = functional.linear(inner, self._weights[f"{linear}.weight"])
            total = None if post else torch.empty_like(more)
            gamma, beta = self._weights[f"{norm}.weight"], self._get(f"{norm}.bias")
            h = add_norm(more, gamma, beta, eps=self.architecture.eps, bias=bias, residual=x.contiguous(), sum_out=total)
            return (h if total is None else total), h
        x = x + functional.linear(inner, self._weights[f"{linear}.weight"], bias)
        h = self._norm(x, norm)
        return (h if post else x), h

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias, eps = self._weights[f"{name}.weight"], self._get(f"{name}.bias"), self.architecture.eps
        if self.architecture.norm == "rms":
            return functional.rms_norm(x, weight.shape, weight, eps)
        return functional.layer_norm(x, weight.shape, weight, bias, eps)

    def _inner(self, h: torch.Tensor, layer: Layer) -> torch.Tensor:
        """[tokens, intermediate]"""
        a, weight, bias = self.architecture, layer.weights["up.weight"], layer.get("up.bias")
        if self.kernels:
            from rerank_kernels.epilogue import activate

            return activate(functional.linear(h, weight), bias, activation=a.activation, gated=a.gated)
        x = functional.linear(h, weight, bias)
        if not a.gated:
            return activated(x, a.activation)
        active, gate = x.chunk(2, dim=-1)
        return activated(active, a.activation) * gate

    def _get(self, name: str) -> torch.Tensor | None:
        return self._weights.get(name)


def activated(x: torch.Tensor, name: str) -> torch.Tensor:
    if name == "gelu_tanh":
        return functional.gelu(x, approximate="tanh")
    function: Any = {"gelu": functional.gelu, "silu": functional.silu, "relu": functional.relu, "tanh": torch.tanh}[name]
    made: torch.Tensor = function(x)
    return made
