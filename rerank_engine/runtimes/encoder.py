"""One description of the transformers that re-rank: what a checkpoint or an ONNX file is read into, and what every packed runtime runs.

x = norm(word[id] + position[p] + type[t])                                  an encoder; a decoder starts from word[id] alone
place "post":  x = norm1(x + attention(x));    x = norm2(x + feed_forward(x))                          BERT, RoBERTa, GTE
place "pre":   x = x + attention(norm1(x));    x = x + feed_forward(norm2(x)); norm of the last x      ModernBERT, Qwen
attention(x) = softmax(q k^T / sqrt(head_dim)) v out^T + bias, [q k v] = x qkv^T + bias, q and k turned by their places if rope
feed_forward(x) = activation(x up^T + bias) down^T + bias; gated: activation(first half) * second half
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..packed import Packed


@dataclass(frozen=True)
class Architecture:
    """What a network is, without its numbers.

    windows: for each layer, how many places to each side a token sees, None for all. thetas: for each layer, the base of its rotary
    embedding, whose angles are place / (theta^(2 i / head_dim) rope_divisor). position_offset: the place of the first token in the position
    table. head: what makes logits of the states.

        "pooler"   dense, tanh, classifier on the first token (BERT; RoBERTa's head is the same)
        "prediction"  dense, activation, norm, classifier on the first token or the mean of all (ModernBERT)
        "linear"   the classifier alone, on the token that `pooling` says
        "choice"   rows of the embedding (or of the LM head) for a yes and a no on the last token: logit = yes - no
        "vocabulary"  a masked-LM head: dense, activation, norm, then a logit of each token for each entry of the vocabulary, by the decoder
                   or, where there is none, by the embedding's rows; `pooling` and `saturations` make one weight a sequence of them:
                   "max": w[t] = f(max over tokens i of logit[i, t]), "sum": w[t] = sum over i of f(logit[i, t]),
                   f(x) = log(1 + max(x, 0)), and log(1 + f(x)) with 2 saturations (SPLADE, Formal et al. 2021; Shen et al. 2025)
        "none"     no head: states alone
    """

    family: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    max_positions: int
    positions: str = "absolute"  # or "rope"
    position_offset: int = 0
    types: int = 0  # rows of the token type table, 0 for none
    place: str = "post"
    norm: str = "layer"  # or "rms"
    eps: float = 1e-12
    activation: str = "gelu"  # or "gelu_tanh", "silu", "relu"
    gated: bool = False
    causal: bool = False
    windows: tuple[int | None, ...] = ()
    thetas: tuple[float, ...] = ()
    rope_divisor: float = 1.0
    head: str = "none"
    head_activation: str = "tanh"
    pooling: str = "cls"  # of the head: "cls", "mean" or "last"; of a vocabulary "max" or "sum"
    labels: int = 0
    saturations: int = 0  # of a vocabulary: 1 or 2

    @property
    def outputs(self) -> tuple[str, ...]:
        """What a packed runtime can give: states, logits of a head, or weights float32 [n, vocabulary]."""
        return {"none": ("last_hidden_state",), "vocabulary": ("weights",)}.get(self.head, ("logits", "last_hidden_state"))


@dataclass(frozen=True, eq=False)
class Encoder:
    """An architecture with its numbers, float32 [out, in] as torch's Linear has them. A bias or a norm that a family lacks is absent.

    word [vocabulary, hidden], position [rows, hidden], type [types, hidden], embed.norm.{weight,bias}
    {i}.qkv.{weight,bias}   [(heads + 2 kv_heads) head_dim, hidden]: queries, then keys, then values
    {i}.out.{weight,bias}, {i}.norm1.{weight,bias}, {i}.norm2.{weight,bias}, {i}.q_norm.weight, {i}.k_norm.weight [head_dim]
    {i}.up.{weight,bias}    [intermediate or, gated, 2 intermediate, hidden]: what is activated comes first
    {i}.down.{weight,bias}
    norm.{weight,bias}      after the last layer of place "pre"
    head.dense.{weight,bias}, head.norm.{weight,bias}, head.classifier.{weight,bias}   of "choice": weight [1, hidden] = yes - no
    head.bias [vocabulary], decoder [vocabulary, hidden] where it is not `word`: of "vocabulary"
    """

    architecture: Architecture
    weights: Mapping[str, NDArray[np.float32]]

    @property
    def decoder(self) -> NDArray[np.float32]:
        """[vocabulary, hidden]: what a masked-LM head multiplies with."""
        return self.weights.get("decoder", self.weights["word"])

    @property
    def parameters(self) -> int:
        return sum(array.size for array in self.weights.values())


def places_of(ids: Packed, architecture: Architecture, first: int = 0) -> NDArray[np.int64]:
    """The place of each token in its sequence, from `first`; a row of the position table once position_offset is added.

    RoBERTa's kin count the tokens that are no padding, also of padding that stands in a text as a token: that has the place -1, and the
    next one the place it would have had without it. Their offset is padding's number + 1.
    """
    starts = np.repeat(ids.offsets[:-1], ids.lengths)
    places = np.arange(len(ids.values)) - starts + first
    if architecture.position_offset and (padding := ids.values == architecture.position_offset - 1).any():
        counted = np.cumsum(~padding)
        before = np.concatenate(([0], counted))[starts]
        places = np.where(padding, -1, counted - before - 1)
    return places
