"""One decoder step of a T5 in torch, on packed tokens: linear layers over all tokens of a call, no padding anywhere.

Attention goes over sequences of one length at a time, as in `forward.Grouped`. A layer of the decoder asks the encoder's states h with one
query a sequence, so keys and values of the tokens are never made: with a head's part W of the key's (or the value's) weights,
q (h W^T)^T = (q W) h^T and p (h W^T) = (p h) W^T. That is 2 heads products of a token's state in place of 2 inner of them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ..cpus import resolve_threads
from ..errors import BackendUnavailable, InputError, ModelError, UnsupportedModelError
from ..packed import Packed
from .forward import activated, groups_of
from .t5 import T5
from .torch import COSTS, GRAPH_TOKENS, LARGEST, PRECISIONS, calling, capped, check_ids, refusal

Groups = list[tuple[int, int, int, int]]  # see groups_of


class T5Torch:
    """A Runtime whose one output, "logits" float32 [n, 1], is the answer's logit (see T5) at the first decoder step.

    precision: "float32" or "bfloat16"; None: the first on a CPU, the second on CUDA. float16 is refused: T5's states outgrow it. The
    answer's logit itself is always of float32. threads: see TorchRuntime.
    Raises BackendUnavailable (the device), InputError (a precision), UnsupportedModelError (float16).
    """

    name, batch_sensitive, form, workers = "torch", False, "packed", 1
    outputs: tuple[str, ...] = ("logits",)

    def __init__(
        self, model: T5, *, device: str = "cpu", precision: str | None = None, threads: int | None = None, fingerprint: str = ""
    ) -> None:
        if (reason := refusal(device)) is not None:
            raise BackendUnavailable(f"runtime torch: device '{device}' asked for, but {reason}", hint="Take device='cpu'.")
        self.precision = ("bfloat16" if device == "cuda" else "float32") if precision in (None, "auto") else str(precision)
        if self.precision not in PRECISIONS:
            raise InputError("precision", got=precision, expected="float32 or bfloat16")
        if self.precision == "float16":
            hint = "Take precision='bfloat16'."
            raise UnsupportedModelError("a T5 in float16", got="states beyond its range", expected="float32 or bfloat16", hint=hint)
        self.device, self.threads = device, resolve_threads(threads)
        self.fingerprint = f"{fingerprint}/{self.precision}" if fingerprint else ""
        self.architecture = a = model.architecture
        self.cost = capped(COSTS["cuda"], max(GRAPH_TOKENS, LARGEST // max(a.hidden, 1))) if device == "cuda" else COSTS["cpu"]
        dtype = PRECISIONS[self.precision]
        self._weights = {
            name: torch.from_numpy(np.require(array, requirements=("C", "W"))).to(device, torch.float32 if name == "head.weight" else dtype)
            for name, array in model.weights.items()
        }

    def run(self, ids: Packed, types: Packed, output: str, attended: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """See Runtime.run; types are not looked at. Sequences of equal length stand side by side at best."""
        if output != "logits" or attended is not None:
            got = f"output '{output}'" + ("" if attended is None else " of a part of the tokens")
            raise ModelError("runtime torch", got=got, expected="logits, of all tokens")
        check_ids(ids, self.architecture.vocabulary)
        with calling(ids, self.device, self.threads):
            groups = groups_of(ids.lengths.tolist())
            tokens = torch.from_numpy(ids.values.astype(np.int32)).to(self.device)
            states = self._encode(functional.embedding(tokens, self._weights["word"]), groups)
            logits: NDArray[np.float32] = self._decode(states, groups, len(ids)).cpu().numpy()
        return logits

    def _encode(self, x: torch.Tensor, groups: Groups) -> torch.Tensor:
        """The encoder's states [tokens, hidden] of embedded tokens."""
        a, longest = self.architecture, max(length for *_, length in groups)
        buckets = relative_buckets(longest, a.buckets, a.distance).to(x.device)
        bias = toeplitz(self._weights["0.bias"], buckets)
        for i in range(a.layers):
            if a.every and i:
                bias = toeplitz(self._weights[f"{i}.bias"], buckets)
            mixed = self._attend(functional.linear(self._norm(x, f"{i}.norm1"), self._weights[f"{i}.qkv.weight"]), bias, groups)
            x = x + functional.linear(mixed, self._weights[f"{i}.out.weight"])
            x = x + self._feed_forward(self._norm(x, f"{i}.norm2"), f"{i}.")
        return self._norm(x, "norm")

    def _attend(self, qkv: torch.Tensor, bias: torch.Tensor, groups: Groups) -> torch.Tensor:
        """[tokens, inner] of qkv [tokens, 3 inner] and a bias [heads, longest, longest]."""
        a, found = self.architecture, list[torch.Tensor]()
        for _, token, count, length in groups:
            own = qkv[token : token + count * length].view(count, length, 3, a.heads, a.head_dim)
            q, k, v = own.permute(2, 0, 3, 1, 4).unbind(0)
            mask = bias[None, :, :length, :length]
            mask = mask.contiguous() if mask.is_cuda else mask  # its kernels want rows that are aligned
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
            found.append(out.transpose(1, 2).reshape(count * length, a.inner))
        return found[0] if len(found) == 1 else torch.cat(found)

    def _decode(self, states: torch.Tensor, groups: Groups, n: int) -> torch.Tensor:
        """float32 [n, 1]"""
        a, w = self.architecture, self._weights
        x = w["start"].expand(n, a.hidden)
        for i in range(a.decoder_layers):
            layer = f"decoder.{i}."
            own = functional.linear(self._norm(x, f"{layer}norm1"), w[f"{layer}value.weight"])
            x = x + functional.linear(own, w[f"{layer}out.weight"])
            x = x + self._cross(self._norm(x, f"{layer}norm2"), states, groups, f"{layer}cross.")
            x = x + self._feed_forward(self._norm(x, f"{layer}norm3"), layer)
        return functional.linear(self._norm(x, "decoder.norm").float(), w["head.weight"])

    def _cross(self, x: torch.Tensor, states: torch.Tensor, groups: Groups, layer: str) -> torch.Tensor:
        """[n, hidden]: what the one query of each sequence, made of x [n, hidden], finds in the sequence's states."""
        a, w = self.architecture, self._weights
        key, value = (w[f"{layer}{part}.weight"].view(a.heads, a.head_dim, a.hidden) for part in ("key", "value"))
        query = functional.linear(x, w[f"{layer}query.weight"]).view(len(x), a.heads, a.head_dim)
        asked, found = torch.einsum("nad,adh->nah", query, key), list[torch.Tensor]()
        for first, token, count, length in groups:
            own = states[token : token + count * length].view(count, length, a.hidden)
            weights = torch.matmul(asked[first : first + count], own.transpose(1, 2)).float().softmax(-1)
            found.append(torch.matmul(weights.to(own.dtype), own))
        mixed = torch.einsum("nah,adh->nad", found[0] if len(found) == 1 else torch.cat(found), value)
        return functional.linear(mixed.reshape(len(x), a.inner), w[f"{layer}out.weight"])

    def _feed_forward(self, h: torch.Tensor, layer: str) -> torch.Tensor:
        x = functional.linear(h, self._weights[f"{layer}up.weight"])
        if self.architecture.gated:
            active, gate = x.chunk(2, dim=-1)
            x = activated(active, self.architecture.activation) * gate
        else:
            x = activated(x, self.architecture.activation)
        return functional.linear(x, self._weights[f"{layer}down.weight"])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight = self._weights[f"{name}.weight"]
        return functional.rms_norm(x, weight.shape, weight, self.architecture.eps)

    def __repr__(self) -> str:
        return f"T5Torch({self.device}, {self.precision}, {self.threads} threads)"


def relative_buckets(longest: int, buckets: int, distance: int) -> torch.Tensor:
    """int64 [2 longest - 1]: the bucket of each key - query, from -(longest - 1) on.

    half = buckets / 2, exact = half / 2, d = key - query: half [d > 0] + (|d| if |d| < exact, else the least of half - 1 and
    exact + floor(log(|d| / exact) / log(distance / exact) (half - exact))), in float32 and in this order, as the models were trained.
    """
    apart = torch.arange(1 - longest, longest)
    half, far = buckets // 2, apart.abs()
    exact = half // 2
    steps = torch.log(far.float() / exact) / math.log(distance / exact) * (half - exact)
    large = (exact + steps.clamp(min=0).long()).clamp(max=half - 1)  # of 0 apart the logarithm is -infinity
    return half * (apart > 0) + torch.where(far < exact, far, large)


def toeplitz(table: torch.Tensor, buckets: torch.Tensor) -> torch.Tensor:
    """[heads, longest, longest]: for query i and key j the row of table [buckets, heads] that the bucket of j - i names."""
    longest = (len(buckets) + 1) // 2
    by_distance = functional.embedding(buckets, table).T.contiguous()
    return by_distance.unfold(1, longest, 1).flip(1)
