"""T5 and its kin (mT5, UMT5) as re-rankers: from a checkpoint in transformers' layout to what one decoder step needs, without transformers.

An encoder reads the text; a decoder, given its start token alone, says the logits of the first token of the answer (Raffel et al. 2020).
x = word[id];  norm(x) = x / sqrt(mean(x^2) + eps) * weight
encoder layer:  x = x + attention(norm1(x));  x = x + feed_forward(norm2(x));  norm of the last x
    attention(x) = softmax(q k^T + bias) v out^T, not divided by sqrt(head_dim); bias of a head by the bucket of key - query (see t5_torch)
decoder layer, of one place:  x = x + norm1(x) value^T out^T, since a token alone attends to itself;
    x = x + cross(norm2(x)), the same softmax over the encoder's states, without a bias;  x = x + feed_forward(norm3(x))
logit = norm(x) head: a row of the LM head, or the difference of two. Of the vocabulary's other logits none is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptModelError, UnsupportedModelError
from .checkpoint import Tensors
from .families import Config

MODELS = {"T5ForConditionalGeneration": "t5", "MT5ForConditionalGeneration": "mt5", "UMT5ForConditionalGeneration": "umt5"}
FEED_FORWARD = {"relu": ("relu", False), "gated-gelu": ("gelu_tanh", True), "gated-silu": ("silu", True), "gelu": ("gelu", False)}
# The first of these tensors that a checkpoint holds: transformers keeps one embedding for both sides.
WORD = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
START = ("shared.weight", "decoder.embed_tokens.weight", "encoder.embed_tokens.weight")
LM_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class T5Architecture:
    """What a network is, without its numbers.

    buckets, distance: of relative positions: how many, and from which on all share the last. every: each layer of the encoder has a bias
    of its own (UMT5), else the first one's is for all. scaled: the decoder's last states are divided by sqrt(hidden), as T5 v1.0 has it.
    start: the token that the decoder is given.
    """

    family: str
    vocabulary: int
    hidden: int
    layers: int
    decoder_layers: int
    heads: int
    head_dim: int
    intermediate: int
    buckets: int
    distance: int
    eps: float
    activation: str
    gated: bool
    scaled: bool
    start: int
    every: bool

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim


@dataclass(frozen=True, eq=False)
class T5:
    """An architecture with its numbers, float32 [out, in] as torch's Linear has them.

    word [vocabulary, hidden], start [1, hidden]: the start token's row, norm.weight, decoder.norm.weight [hidden]
    head.weight [1, hidden]    the answer's row of the LM head, or the first one's less the second's; divided by sqrt(hidden) if scaled
    {i}.qkv.weight [3 inner, hidden], {i}.out.weight, {i}.norm1.weight, {i}.norm2.weight, {i}.bias [buckets, heads]: of layer 0, or of each
    {i}.up.weight              [intermediate or, gated, 2 intermediate, hidden]: what is activated comes first
    {i}.down.weight
    decoder.{i}.value.weight, decoder.{i}.out.weight, decoder.{i}.cross.{query,key,value,out}.weight, decoder.{i}.{up,down}.weight,
    decoder.{i}.{norm1,norm2,norm3}.weight
    """

    architecture: T5Architecture
    weights: Mapping[str, NDArray[np.float32]]

    @property
    def parameters(self) -> int:
        return sum(array.size for array in self.weights.values())


def seq2seq_of(config: Mapping[str, Any]) -> str | None:
    """The architecture of a config.json that `read_t5` knows; None for others."""
    told = config.get("architectures")
    return next((name for name in told if isinstance(name, str) and name in MODELS), None) if isinstance(told, list) else None


def t5_architecture(name: str, values: Mapping[str, Any]) -> T5Architecture:
    """Raises UnsupportedModelError (another family or setting), CorruptModelError (a value that cannot be)."""
    told = seq2seq_of(values)
    if told is None:
        raise UnsupportedModelError(f"model '{name}': architectures", got=values.get("architectures"), expected=" or ".join(MODELS))
    family, config = MODELS[told], Config(name, values)
    config.refuse("is_decoder", False)
    config.refuse("is_encoder_decoder", True)
    known = {key: key for key in FEED_FORWARD}
    activation, gated = FEED_FORWARD[config.text("feed_forward_proj", "relu" if family == "t5" else "gated-gelu", known)]
    layers, pad = config.whole("num_layers"), config.whole("pad_token_id", 0)
    # transformers 5 writes the second key; before, tied embeddings meant a scaled output. mT5 ties or does not, and never scales.
    scaled = family != "mt5" and config.flag("scale_decoder_outputs", config.flag("tie_word_embeddings", True))
    made = T5Architecture(
        family=family,
        vocabulary=config.whole("vocab_size"),
        hidden=config.whole("d_model"),
        layers=layers,
        decoder_layers=config.whole("num_decoder_layers", layers),
        heads=config.whole("num_heads"),
        head_dim=config.whole("d_kv"),
        intermediate=config.whole("d_ff"),
        buckets=config.whole("relative_attention_num_buckets", 32),
        distance=config.whole("relative_attention_max_distance", 128),
        eps=config.number("layer_norm_epsilon", 1e-6),
        activation=activation,
        gated=gated,
        scaled=scaled,
        start=config.whole("decoder_start_token_id", pad),
        every=family == "umt5",
    )
    for key, value, least in (("num_layers", made.layers, 1), ("num_decoder_layers", made.decoder_layers, 1), ("num_heads", made.heads, 1)):
        if value < least:
            raise CorruptModelError(f"model '{name}': {key} in its config.json", got=value, expected=f"at least {least}")
    if made.buckets < 4 or made.buckets % 4 or made.distance <= made.buckets // 4:
        got = f"{made.buckets} buckets up to a distance of {made.distance}"
        raise CorruptModelError(f"model '{name}': relative attention in its config.json", got=got, expected="a multiple of 4, and farther")
    if made.start >= made.vocabulary:
        expected = f"below {made.vocabulary}, the vocabulary"
        raise CorruptModelError(f"model '{name}': decoder_start_token_id in its config.json", got=made.start, expected=expected)
    return made


def read_t5(name: str, folder: Path, config: Mapping[str, Any], answers: tuple[int, ...]) -> T5:
    """Reads the weights of a folder. answers: the tokens whose logit is wanted: one, or two for logit[first] - logit[second].

    An LM head of its own is taken where the checkpoint has one, else the embedding's rows, as transformers 5 does.
    Raises UnsupportedModelError, CorruptModelError (a tensor that is missing or of another shape, NaN).
    """
    architecture, tensors = t5_architecture(name, config), Tensors(name, folder)
    table = _table(architecture)
    word, start = (next((tensor for tensor in names if tensor in tensors.where), names[0]) for names in (WORD, START))
    lm_head = LM_HEAD if LM_HEAD in tensors.where else word
    found = tensors.read({theirs for many, _ in table.values() for theirs in many} | {word, start, lm_head})
    whole = (architecture.vocabulary, architecture.hidden)
    for tensor in (word, start, lm_head):
        _require(name, found, tensor, whole)
    scale = np.float32(architecture.hidden**-0.5 if architecture.scaled else 1.0)
    rows = [found[lm_head][token] for token in answers]
    weights = {
        "word": found[word],
        "start": found[start][architecture.start][None].copy(),
        "head.weight": ((rows[0] - rows[1] if len(rows) == 2 else rows[0]) * scale)[None],
    }
    for ours, (many, shape) in table.items():
        for theirs in many:
            _require(name, found, theirs, shape)
        weights[ours] = found[many[0]] if len(many) == 1 else np.concatenate([found[theirs] for theirs in many])
    return T5(architecture, weights)


def _table(a: T5Architecture) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Our name -> the checkpoint's tensors, which are put below one another, and the shape of each."""
    norm, project, back = (a.hidden,), (a.inner, a.hidden), (a.hidden, a.inner)
    table: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
        "norm.weight": (("encoder.final_layer_norm.weight",), norm),
        "decoder.norm.weight": (("decoder.final_layer_norm.weight",), norm),
    }
    up = ("wi_0", "wi_1") if a.gated else ("wi",)

    def feed_forward(ours: str, theirs: str, number: int) -> None:
        table[f"{ours}norm{number}.weight"] = ((f"{theirs}layer_norm.weight",), norm)
        table[f"{ours}up.weight"] = (tuple(f"{theirs}DenseReluDense.{part}.weight" for part in up), (a.intermediate, a.hidden))
        table[f"{ours}down.weight"] = ((f"{theirs}DenseReluDense.wo.weight",), (a.hidden, a.intermediate))

    for i in range(a.layers):
        layer = f"encoder.block.{i}.layer."
        table[f"{i}.norm1.weight"] = ((f"{layer}0.layer_norm.weight",), norm)
        table[f"{i}.qkv.weight"] = (tuple(f"{layer}0.SelfAttention.{part}.weight" for part in "qkv"), project)
        table[f"{i}.out.weight"] = ((f"{layer}0.SelfAttention.o.weight",), back)
        if a.every or not i:
            table[f"{i}.bias"] = ((f"{layer}0.SelfAttention.relative_attention_bias.weight",), (a.buckets, a.heads))
        feed_forward(f"{i}.", f"{layer}1.", 2)
    for i in range(a.decoder_layers):
        ours, layer = f"decoder.{i}.", f"decoder.block.{i}.layer."
        table[f"{ours}norm1.weight"] = ((f"{layer}0.layer_norm.weight",), norm)
        table[f"{ours}value.weight"] = ((f"{layer}0.SelfAttention.v.weight",), project)
        table[f"{ours}out.weight"] = ((f"{layer}0.SelfAttention.o.weight",), back)
        table[f"{ours}norm2.weight"] = ((f"{layer}1.layer_norm.weight",), norm)
        for part, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
            table[f"{ours}cross.{part}.weight"] = ((f"{layer}1.EncDecAttention.{theirs}.weight",), project)
        table[f"{ours}cross.out.weight"] = ((f"{layer}1.EncDecAttention.o.weight",), back)
        feed_forward(ours, f"{layer}2.", 3)
    return table


def _require(name: str, found: Mapping[str, NDArray[np.float32]], tensor: str, shape: tuple[int, ...]) -> None:
    if tensor not in found:
        raise CorruptModelError(f"model '{name}'", got=f"no tensor '{tensor}'", expected="the weights of a T5 with its decoder")
    if found[tensor].shape != shape:
        got = f"shape {list(found[tensor].shape)}"
        raise CorruptModelError(f"model '{name}': tensor '{tensor}'", got=got, expected=f"{list(shape)}, as its config.json says")
