"""The families of transformers that an `Encoder` can be: for each a function from config.json to an architecture and a table of names.

Nothing is guessed: a config that asks for what the description does not hold (another rotary scaling, relative positions, cross-attention)
raises UnsupportedModelError and says what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import CorruptModelError, UnsupportedModelError
from .encoder import Architecture

Names = dict[str, tuple[str, ...]]  # of an Encoder's weight: the checkpoint's tensors, which are put below one another
Family = Callable[["Config", bool], tuple[Architecture, Names]]  # the second: whether what follows the encoder is in the checkpoint

LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers")
MOST_LAYERS = 1024  # names are made for each before any weight is looked at


class Config:
    """config.json, read by key: a missing one takes its default, one of another type is a CorruptModelError."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self.name, self._values = name, values

    def whole(self, key: str, default: int | None = None) -> int:
        value = self._values.get(key, default)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise self._wrong(key, value, "a whole number")
        if key in LAYERS and value > MOST_LAYERS:
            raise self._wrong(key, value, f"at most {MOST_LAYERS}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self._values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e12:
            raise self._wrong(key, value, "a number above 0")
        return float(value)

    def text(self, key: str, default: str, allowed: Mapping[str, str] | None = None) -> str:
        """A string; with `allowed`, what it stands for there."""
        value = self._values.get(key)
        value = default if value is None else value
        if allowed is None:
            return str(value)
        if not isinstance(value, str) or value not in allowed:
            raise UnsupportedModelError(f"model '{self.name}': {key}", got=repr(value), expected="one of " + ", ".join(allowed))
        return allowed[str(value)]

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def refuse(self, key: str, *fine: Any) -> None:
        """Raises UnsupportedModelError unless the key is absent or has one of these values."""
        if self._values.get(key) not in (None, *fine):
            raise UnsupportedModelError(f"model '{self.name}': {key}", got=self._values[key], expected=f"{fine[0] if fine else 'none'}")

    @property
    def labels(self) -> int:
        named = self._values.get("id2label")
        return len(named) if isinstance(named, dict) and named else self.whole("num_labels", 2)

    def _wrong(self, key: str, value: Any, expected: str) -> CorruptModelError:
        return CorruptModelError(f"model '{self.name}': {key} in its config.json", got=value, expected=expected)


ACTIVATIONS = {
    **{name: name for name in ("gelu", "silu", "relu", "tanh")},
    "swish": "silu",
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), "gelu_tanh"),
}


def _sizes(config: Config) -> dict[str, Any]:
    """What every family calls by the same keys."""
    hidden, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    return {
        "vocabulary": config.whole("vocab_size"),
        "hidden": hidden,
        "layers": config.whole("num_hidden_layers"),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": hidden // max(heads, 1),
        "intermediate": config.whole("intermediate_size"),
    }


def _bert(config: Config, classifier: bool) -> tuple[Architecture, Names]:
    """BERT, and RoBERTa, XLM-RoBERTa and CamemBERT, whose places count from pad_token_id + 1 and whose head has other names."""
    roberta = config.text("model_type", "bert") != "bert"
    config.refuse("position_embedding_type", "absolute")
    config.refuse("is_decoder", False)
    config.refuse("add_cross_attention", False)
    sizes = _sizes(config)
    layers = sizes["layers"]
    offset = config.whole("pad_token_id", 1) + 1 if roberta else 0
    made = Architecture(
        family="roberta" if roberta else "bert",
        **sizes,
        max_positions=config.whole("max_position_embeddings") - offset,
        position_offset=offset,
        types=config.whole("type_vocab_size", 2),
        eps=config.number("layer_norm_eps", 1e-12),
        activation=config.text("hidden_act", "gelu", ACTIVATIONS),
        head="pooler" if classifier else "none",
        labels=config.labels if classifier else 0,
    )
    prefix = ("roberta." if roberta else "bert.") if classifier else ""
    names: Names = {f"{part}": (f"{prefix}embeddings.{part}_embeddings.weight",) for part in ("word", "position")}
    names["type"] = (f"{prefix}embeddings.token_type_embeddings.weight",)
    _linear(names, "embed.norm", f"{prefix}embeddings.LayerNorm")
    for i in range(layers):
        layer = f"{prefix}encoder.layer.{i}."
        _linear(names, f"{i}.qkv", *(f"{layer}attention.self.{part}" for part in ("query", "key", "value")))
        _linear(names, f"{i}.out", f"{layer}attention.output.dense")
        _linear(names, f"{i}.norm1", f"{layer}attention.output.LayerNorm")
        _linear(names, f"{i}.up", f"{layer}intermediate.dense")
        _linear(names, f"{i}.down", f"{layer}output.dense")
        _linear(names, f"{i}.norm2", f"{layer}output.LayerNorm")
    if classifier:
        _linear(names, "head.dense", "classifier.dense" if roberta else f"{prefix}pooler.dense")
        _linear(names, "head.classifier", "classifier.out_proj" if roberta else "classifier")
    return made, names


def _distilbert(config: Config, classifier: bool) -> tuple[Architecture, Names]:
    """DistilBERT: BERT without token types, under other names. Its head for classes is another one; here it has none."""
    config.refuse("sinusoidal_pos_embds", False)
    sizes = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers", "intermediate_size": "hidden_dim"}
    sized = Config(config.name, {"vocab_size": config.get("vocab_size"), **{ours: config.get(theirs) for ours, theirs in sizes.items()}})
    made = Architecture(
        family="bert",
        **_sizes(sized),
        max_positions=config.whole("max_position_embeddings"),
        activation=config.text("activation", "gelu", ACTIVATIONS),
    )
    prefix = "distilbert." if classifier else ""
    names: Names = {f"{part}": (f"{prefix}embeddings.{part}_embeddings.weight",) for part in ("word", "position")}
    _linear(names, "embed.norm", f"{prefix}embeddings.LayerNorm")
    parts = {"out": "attention.out_lin", "norm1": "sa_layer_norm", "up": "ffn.lin1", "down": "ffn.lin2", "norm2": "output_layer_norm"}
    for i in range(made.layers):
        layer = f"{prefix}transformer.layer.{i}."
        _linear(names, f"{i}.qkv", *(f"{layer}attention.{part}_lin" for part in "qkv"))
        for ours, theirs in parts.items():
            _linear(names, f"{i}.{ours}", f"{layer}{theirs}")
    return made, names


def _masked(base: Family, dense: str, norm: str, bias: str, decoder: str, activation: str | None = None) -> Family:
    """The family with a masked-LM head, whose parts have these names in place of what its classifier brings. activation: that of the head,
    where it is not the network's own. A decoder that is not the embedding has a bias of its own, or shares the head's (see INSTEAD)."""

    def family(config: Config, classifier: bool) -> tuple[Architecture, Names]:
        made, names = base(config, classifier)
        modern = made.family == "modernbert"
        names = {ours: theirs for ours, theirs in names.items() if not ours.startswith("head.")}
        _linear(names, "head.dense", dense, bias=not modern or config.flag("classifier_bias"))
        _linear(names, "head.norm", norm, bias=not modern or config.flag("norm_bias"))
        tied = config.flag("tie_word_embeddings", True)
        if not modern or config.flag("decoder_bias", True):
            names["head.bias"] = (bias if tied else f"{decoder}.bias",)
        if not tied:
            names["decoder"] = (f"{decoder}.weight",)
        active = made.head_activation if modern else activation or made.activation
        return replace(made, head="vocabulary", head_activation=active, pooling="max", saturations=1, labels=0), names

    return family


def _modernbert(config: Config, classifier: bool) -> tuple[Architecture, Names]:
    sizes = _sizes(config)
    layers = sizes["layers"]
    every, kinds = config.whole("global_attn_every_n_layers", 3), config.get("layer_types")
    local = [kind == "sliding_attention" for kind in kinds] if isinstance(kinds, list) else [bool(i % every) for i in range(layers)]
    if len(local) != layers:
        raise CorruptModelError(f"model '{config.name}': layer_types", got=f"{len(local)} entries", expected=f"{layers}")
    wide = _theta(config, config.number("global_rope_theta", 160_000.0), "full_attention")
    near = _theta(config, config.number("local_rope_theta", 10_000.0), "sliding_attention")
    made = Architecture(
        family="modernbert",
        **sizes,
        max_positions=config.whole("max_position_embeddings"),
        positions="rope",
        place="pre",
        eps=config.number("norm_eps", 1e-5),
        activation=config.text("hidden_activation", "gelu", ACTIVATIONS),
        gated=True,
        windows=tuple(config.whole("local_attention", 128) // 2 if near_by else None for near_by in local),
        thetas=tuple(near if near_by else wide for near_by in local),
        head="prediction" if classifier else "none",
        head_activation=config.text("classifier_activation", "gelu", ACTIVATIONS),
        pooling=config.text("classifier_pooling", "cls", {"cls": "cls", "mean": "mean"}),
        labels=config.labels if classifier else 0,
    )
    prefix = "model." if classifier else ""
    norms, mlp, attention = (config.flag(key) for key in ("norm_bias", "mlp_bias", "attention_bias"))
    names: Names = {"word": (f"{prefix}embeddings.tok_embeddings.weight",)}
    _linear(names, "embed.norm", f"{prefix}embeddings.norm", bias=norms)
    _linear(names, "norm", f"{prefix}final_norm", bias=norms)
    parts = {"qkv": ("attn.Wqkv", attention), "out": ("attn.Wo", attention), "norm2": ("mlp_norm", norms)}
    parts |= {"up": ("mlp.Wi", mlp), "down": ("mlp.Wo", mlp), "norm1": ("attn_norm", norms)}
    for i in range(layers):
        for ours, (theirs, bias) in parts.items():
            if i or ours != "norm1":  # the first layer follows the norm of the embeddings
                _linear(names, f"{i}.{ours}", f"{prefix}layers.{i}.{theirs}", bias=bias)
    if classifier:
        _linear(names, "head.dense", "head.dense", bias=config.flag("classifier_bias"))
        _linear(names, "head.norm", "head.norm", bias=norms)
        _linear(names, "head.classifier", "classifier")
    return made, names


def _gte(config: Config, classifier: bool) -> tuple[Architecture, Names]:
    """GTE v1.5 and gte-multilingual ("new"): BERT's order with rotary places, and a gate, which stands before what is activated."""
    config.refuse("position_embedding_type", "rope")
    config.refuse("logn_attention_scale", False)
    config.refuse("pack_qkv", True)
    config.refuse("layer_norm_type", "layer_norm")
    sizes = _sizes(config)
    hidden, heads, layers = sizes["hidden"], sizes["heads"], sizes["layers"]
    theta, divisor, scaling = config.number("rope_theta", 10_000.0), 1.0, config.get("rope_scaling")
    if isinstance(scaling, dict):  # fixed NTK: a larger base, and all angles smaller
        scaled = Config(config.name, scaling)
        scaled.refuse("mixed_b")
        scaled.text("type", "ntk", {"ntk": "ntk"})
        factor = scaled.number("factor", 1.0)
        theta, divisor = theta * factor, factor ** (2 * heads / max(hidden, 1))
    made = Architecture(
        family="gte",
        **sizes,
        max_positions=config.whole("max_position_embeddings"),
        positions="rope",
        types=config.whole("type_vocab_size", 0),
        eps=config.number("layer_norm_eps", 1e-12),
        activation=config.text("hidden_act", "gelu", ACTIVATIONS),
        gated=True,
        thetas=(theta,) * layers,
        rope_divisor=divisor,
        head="pooler" if classifier else "none",
        labels=config.labels if classifier else 0,
    )
    prefix = "new." if classifier else ""
    names: Names = {"word": (f"{prefix}embeddings.word_embeddings.weight",)}
    if made.types:
        names["type"] = (f"{prefix}embeddings.token_type_embeddings.weight",)
    _linear(names, "embed.norm", f"{prefix}embeddings.LayerNorm")
    parts = {"qkv": "attention.qkv_proj", "out": "attention.o_proj", "norm1": "attn_ln"}
    parts |= {"up": "mlp.up_gate_proj", "down": "mlp.down_proj", "norm2": "mlp_ln"}
    for i in range(layers):
        for ours, theirs in parts.items():
            _linear(names, f"{i}.{ours}", f"{prefix}encoder.layer.{i}.{theirs}", bias=ours != "up")
    if classifier:
        _linear(names, "head.dense", f"{prefix}pooler.dense")
        _linear(names, "head.classifier", "classifier")
    return made, names


def _qwen(config: Config, classifier: bool) -> tuple[Architecture, Names]:
    """Qwen2 and Qwen3 decoders: a classifier on the last token, or the LM head's rows for two tokens (`read_checkpoint`'s choice)."""
    config.refuse("use_sliding_window", False)
    sizes = _sizes(config)
    heads, layers = sizes["heads"], sizes["layers"]
    kv_heads, third = config.whole("num_key_value_heads", heads), config.text("model_type", "qwen3") == "qwen3"
    head_dim, biased = config.whole("head_dim", sizes["head_dim"]), config.flag("attention_bias")
    made = Architecture(
        family="qwen3" if third else "qwen2",
        **{**sizes, "kv_heads": kv_heads, "head_dim": head_dim},
        max_positions=config.whole("max_position_embeddings"),
        positions="rope",
        place="pre",
        norm="rms",
        eps=config.number("rms_norm_eps", 1e-6),
        activation=config.text("hidden_act", "silu", ACTIVATIONS),
        gated=True,
        causal=True,
        windows=(None,) * layers,
        thetas=(_theta(config, config.number("rope_theta", 10_000.0), None),) * layers,
        head="linear" if classifier else "none",
        pooling="last",
        labels=config.labels if classifier else 0,
    )
    names: Names = {"word": ("model.embed_tokens.weight",), "norm.weight": ("model.norm.weight",)}
    for i in range(layers):
        layer = f"model.layers.{i}."
        _linear(names, f"{i}.qkv", *(f"{layer}self_attn.{part}_proj" for part in "qkv"), bias=biased or not third)
        _linear(names, f"{i}.out", f"{layer}self_attn.o_proj", bias=biased and third)
        _linear(names, f"{i}.up", f"{layer}mlp.gate_proj", f"{layer}mlp.up_proj", bias=False)
        _linear(names, f"{i}.down", f"{layer}mlp.down_proj", bias=False)
        names[f"{i}.norm1.weight"] = (f"{layer}input_layernorm.weight",)
        names[f"{i}.norm2.weight"] = (f"{layer}post_attention_layernorm.weight",)
        if third:
            names |= {f"{i}.{part}_norm.weight": (f"{layer}self_attn.{part}_norm.weight",) for part in "qk"}
    if classifier:
        _linear(names, "head.classifier", "score", bias=False)
    return made, names


_CLS, _LM = "cls.predictions.", "lm_head."
INSTEAD = {f"{head}decoder.bias": f"{head}bias" for head in (_CLS, _LM)}  # one number of two names, of which a checkpoint may have either
_BERT_LM = _masked(_bert, f"{_CLS}transform.dense", f"{_CLS}transform.LayerNorm", f"{_CLS}bias", f"{_CLS}decoder")
_ROBERTA_LM = _masked(_bert, f"{_LM}dense", f"{_LM}layer_norm", f"{_LM}bias", f"{_LM}decoder", "gelu")
_MODERN_LM = _masked(_modernbert, "head.dense", "head.norm", "decoder.bias", "decoder")
_DISTIL_LM = _masked(_distilbert, "vocab_transform", "vocab_layer_norm", "vocab_projector.bias", "vocab_projector")

FAMILIES: dict[str, tuple[Family, bool]] = {
    **{f"{name}ForSequenceClassification": (_bert, True) for name in ("Bert", "Roberta", "XLMRoberta", "Camembert")},
    **{f"{name}Model": (_bert, False) for name in ("Bert", "Roberta", "XLMRoberta", "Camembert")},
    "ModernBertForSequenceClassification": (_modernbert, True),
    "ModernBertModel": (_modernbert, False),
    "NewForSequenceClassification": (_gte, True),
    "NewModel": (_gte, False),
    **{f"{name}ForSequenceClassification": (_qwen, True) for name in ("Qwen2", "Qwen3")},
    **{f"{name}ForCausalLM": (_qwen, False) for name in ("Qwen2", "Qwen3")},
    "BertForMaskedLM": (_BERT_LM, True),
    **{f"{name}ForMaskedLM": (_ROBERTA_LM, True) for name in ("Roberta", "XLMRoberta", "Camembert")},
    "ModernBertForMaskedLM": (_MODERN_LM, True),
    "DistilBertModel": (_distilbert, False),
    "DistilBertForMaskedLM": (_DISTIL_LM, True),
}


def _linear(names: Names, ours: str, *theirs: str, bias: bool = True) -> None:
    for kind in ("weight", "bias") if bias else ("weight",):
        names[f"{ours}.{kind}"] = tuple(f"{name}.{kind}" for name in theirs)


def _theta(config: Config, default: float, layers: str | None) -> float:
    """The base of a rotary embedding: of `rope_parameters` (for these layers) if there are any. Scaled ones are refused."""
    config.refuse("rope_scaling", {"rope_type": "default"}, {"type": "default"})
    told = config.get("rope_parameters")
    told = told.get(layers) if isinstance(told, dict) and layers is not None else told
    if not isinstance(told, dict):
        return default
    if told.get("rope_type", "default") != "default":
        raise UnsupportedModelError(f"model '{config.name}': rope_parameters", got=told, expected="the type default")
    return Config(config.name, told).number("rope_theta", default)


def readable(config: Mapping[str, Any]) -> str | None:
    """The architecture of a config.json that `read_checkpoint` knows; None for others."""
    told = config.get("architectures")
    return next((name for name in told if isinstance(name, str) and name in FAMILIES), None) if isinstance(told, list) else None
