"""From an ONNX graph of a BERT-like encoder to an `Encoder`: the graph is matched, nothing of it is run.

A weight is found by what uses it. One that goes into a product (MatMul, Gemm, MatMulInteger) is named after the bias added to the product,
`X.bias` -> `X.weight`, else after the product's own path, since exporters call such weights `onnx::MatMul_123`. Quantised ones are brought
back, w = (q - zero point) * scale, with one scale or one for each column. Tables and norms keep the names that transformers gave them.
Whoever uses the result compares it with the graph on a few inputs first (`packed_onnx`): names say what a weight is, not what is done
with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptModelError, RerankError, UnsupportedModelError
from .checkpoint import check_shapes
from .encoder import Architecture, Encoder
from .onnx_file import check_external, inspect
from .packed_graph import onnx_package

PRODUCTS = ("MatMul", "Gemm", "MatMulInteger")
PASSED = ("Cast", "Mul", "Add", "Reshape", "Identity")  # between a product and the addition of its bias
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "relu": "relu"}
FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")
LAYER = {
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}
HEADS = (("pooler.dense", "classifier"), ("classifier.dense", "classifier.out_proj"))  # BERT, RoBERTa


def encoder_of(source: Path | bytes, config: Mapping[str, Any], name: str = "") -> Encoder:
    """The encoder in an ONNX file of BERT, RoBERTa, XLM-RoBERTa or CamemBERT, with or without a classifier; float32 or dynamic int8.

    config: of config.json; what it lacks is read from the graph or takes the value that transformers gives it. Raises CorruptModelError,
    UnsafeModelError, MissingDependency, and UnsupportedModelError that says what was not recognised.
    """
    model, name = _read(source, name)
    try:
        return _encoder(_Graph(model, name), config)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, RerankError):
            raise
        got = f"a graph that cannot be followed ({type(error).__name__}: {error})"
        raise UnsupportedModelError(name, got=got, expected="an encoder as BERT and RoBERTa have it") from error


def _encoder(graph: _Graph, config: Mapping[str, Any]) -> Encoder:
    prefix = graph.prefix()
    made = _architecture(graph, prefix, config)
    weights: dict[str, NDArray[np.float32]] = {}

    def take(target: str, *sources: str) -> None:
        for part in ("weight", "bias"):
            weights[f"{target}.{part}"] = np.concatenate([graph.take(f"{source}.{part}") for source in sources])

    for table in ["word", "position", *(["type"] if made.types else [])]:
        weights[table] = graph.take(f"{prefix}embeddings.{'token_type' if table == 'type' else table}_embeddings.weight")
    take("embed.norm", f"{prefix}embeddings.LayerNorm")
    for i in range(made.layers):
        layer = f"{prefix}encoder.layer.{i}."
        take(f"{i}.qkv", *(f"{layer}attention.self.{part}" for part in ("query", "key", "value")))
        for target, named in LAYER.items():
            take(f"{i}.{target}", layer + named)
    if made.head == "pooler":
        dense, classifier = graph.head()
        take("head.dense", dense)
        take("head.classifier", classifier)
    graph.refuse_rest()
    encoder = Encoder(made, weights)
    check_shapes(graph.name, encoder)
    return encoder


def _read(source: Path | bytes, name: str) -> tuple[Any, str]:
    onnx = onnx_package()
    path = source if isinstance(source, Path) else Path(name or "model.onnx")
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise CorruptModelError(str(path), got=str(error), expected="a readable ONNX file") from error
    external = inspect(path, data).external
    try:
        model = onnx.load_model_from_string(data)
        if external:
            if isinstance(source, bytes):
                raise UnsupportedModelError(str(path), got="weights in another file", expected="a path, so that they can be found")
            check_external(path, external)
            onnx.load_external_data_for_model(model, str(path.parent))
    except RerankError:
        raise
    except Exception as error:  # protobuf's tree, and onnx's
        raise CorruptModelError(str(path), got=f"{error}", expected="an ONNX model") from error
    return model, name or str(path)


class _Graph:
    """Weights of a graph by the names that transformers gives them, and what its nodes tell of the architecture."""

    def __init__(self, model: Any, name: str) -> None:
        self.name, self.graph, self._taken = name, model.graph, set[str]()
        self._array = onnx_package().numpy_helper.to_array
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self.constants = {
            node.output[0]: self._array(node.attribute[0].t)
            for node in self.graph.node
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value"
        }
        self.users: dict[str, list[Any]] = {}
        self.makers = {output: node for node in self.graph.node for output in node.output}
        for node in self.graph.node:
            for entry in node.input:
                self.users.setdefault(entry, []).append(node)
        self.operators = {node.op_type for node in self.graph.node}
        if fused := sorted({node.op_type for node in self.graph.node if node.domain not in ("", "ai.onnx")}):
            raise self.unknown(f"operators {', '.join(fused)}", "a graph as exporters write it, before fusion")
        self.found: dict[str, NDArray[Any]] = {}
        self._collect()

    def unknown(self, got: str, expected: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self.name}: graph", got=got, expected=expected)

    def _collect(self) -> None:
        for key, tensor in self.initializers.items():
            base = re.sub(r"_quantized$", "", key)
            if key.endswith(("_scale", "_zero_point")) or (base == key and tensor.data_type not in (1, 10, 16)):  # float32, 16, bfloat16
                continue
            if tensor.data_type in (10, 16):
                raise self.unknown(f"'{key}' in half precision", "float32, or dynamic int8")
            for product, turned in self._products(key):
                self._add(self._layer_of(product), self._value(key), turned)
                break
            else:
                if base != key or not key.startswith(("onnx::", "val_")):
                    self.found[base] = self._value(key)

    def _products(self, key: str) -> list[tuple[Any, bool]]:
        """(product, whether its weight lies there as [in, out]) for each product that takes this weight, directly or turned."""
        found = []
        for user in self.users.get(key, []):
            if user.op_type == "Transpose":
                found += [(after, False) for after in self.users.get(user.output[0], []) if after.op_type in PRODUCTS]
            elif user.op_type in PRODUCTS and key == user.input[1]:
                flip = any(a.name == "transB" and a.i for a in user.attribute)
                found.append((user, not flip))
        return found

    def _add(self, layer: str, value: NDArray[Any], turned: bool) -> None:
        if value.ndim != 2:
            raise self.unknown(f"a weight of {layer} with shape {list(value.shape)}", "two axes")
        if f"{layer}.weight" in self.found:
            raise self.unknown(f"two weights for {layer}", "one")
        self.found[f"{layer}.weight"] = np.ascontiguousarray(value.T) if turned else value

    def _layer_of(self, product: Any) -> str:
        """The name of the linear layer whose product this is: its bias tells, and without one its path."""
        if product.op_type == "Gemm" and len(product.input) > 2 and product.input[2].endswith(".bias"):
            return str(product.input[2])[:-5]
        output = product.output[0]
        for _ in range(6):
            following = [user for user in self.users.get(output, []) if user.op_type in PASSED]
            if not following:
                break
            if following[0].op_type == "Add":
                named = [entry for entry in following[0].input if entry in self.initializers and entry.endswith(".bias")]
                if named:
                    return str(named[0])[:-5]
                break
            output = following[0].output[0]
        return re.sub(r"/(MatMul|Gemm)(_quant|_MatMul_quant)?$", "", product.name).strip("/").replace("/", ".")

    def _value(self, key: str) -> NDArray[np.float32]:
        """float32, brought back when it is quantised: (q - zero point) * scale; a scale [columns] belongs to the last axis."""
        array = self._array(self.initializers[key])
        if not key.endswith("_quantized"):
            return np.asarray(array, np.float32)
        base = key[: -len("_quantized")]
        if f"{base}_scale" not in self.initializers:
            raise self.unknown(f"'{key}' without a scale", f"'{base}_scale'")
        scale = self._array(self.initializers[f"{base}_scale"]).astype(np.float32)
        zero = self._array(self.initializers[f"{base}_zero_point"]).astype(np.int32) if f"{base}_zero_point" in self.initializers else 0
        if scale.size not in (1, array.shape[-1]):
            raise self.unknown(f"'{base}' with {scale.size} scales for shape {list(array.shape)}", "one, or one for each column")
        return np.asarray((array.astype(np.int32) - zero).astype(np.float32) * scale.reshape(-1), np.float32)

    def prefix(self) -> str:
        """What stands before `embeddings.`: "bert.", "roberta.", "", "0.auto_model." """
        tables = [key for key in self.found if key.endswith("embeddings.word_embeddings.weight")]
        if len(tables) != 1:
            raise self.unknown(f"{len(tables)} tables named word_embeddings", "one: an encoder as BERT and RoBERTa have it")
        return tables[0][: -len("embeddings.word_embeddings.weight")]

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.found:
            raise self.unknown(f"no weight '{name}'", "an encoder as BERT and RoBERTa have it")
        return self.found[name].shape

    def take(self, name: str) -> NDArray[np.float32]:
        self.shape(name)
        self._taken.add(name)
        return self.found[name]

    def head(self) -> tuple[str, str]:
        """(dense, classifier) by their full names, or ("", "") without a head."""
        for dense, classifier in HEADS:
            ends = [[k[:-7] for k in self.found if re.search(rf"(^|\.){re.escape(end)}\.weight$", k)] for end in (dense, classifier)]
            if len(ends[0]) == len(ends[1]) == 1:
                return ends[0][0], ends[1][0]
        return "", ""

    def refuse_rest(self) -> None:
        """Raises UnsupportedModelError when a weight was not used: the network does more than what was recognised."""
        rest = [key for key, array in self.found.items() if key not in self._taken and array.size > 1]
        # An encoder whose states are what is wanted may bring BERT's pooler, on an output of its own; its token types may be constants.
        rest = [key for key in rest if not re.search(r"(^|\.)(pooler\.dense\.(weight|bias)|position_ids|token_type_ids)$", key)]
        if rest:
            raise self.unknown(f"{len(rest)} weights beyond an encoder and its head: {', '.join(rest[:3])}", "none")

    def heads(self, hidden: int) -> int | None:
        """From a Reshape to [.., heads, head size] in an attention: its shape, or the Concat that makes it."""
        for node in self.graph.node:
            if node.op_type != "Reshape":
                continue
            sizes = self._sizes(node.input[1])
            if len(sizes) == 4 and 0 < sizes[3] < hidden and hidden % sizes[3] == 0 and sizes[2] in (-1, 0, hidden // sizes[3]):
                return hidden // sizes[3]
        return None

    def _sizes(self, name: str) -> list[int]:
        """The numbers of a shape, -1 for what is only known when the graph runs."""
        if name in self.constants:
            return [int(v) for v in np.ravel(self.constants[name])]
        if name in self.initializers:
            return [int(v) for v in np.ravel(self._array(self.initializers[name]))]
        maker = self.makers.get(name)
        if maker is None or maker.op_type not in ("Concat", "Unsqueeze"):
            return []
        entries = maker.input if maker.op_type == "Concat" else maker.input[:1]
        return [size for entry in entries for size in self._sizes(entry) or [-1]]

    def eps(self) -> float | None:
        """Of LayerNormalization, or the number added under the root of the first norm."""
        for node in self.graph.node:
            if node.op_type == "LayerNormalization":
                return next((float(a.f) for a in node.attribute if a.name == "epsilon"), 1e-5)
            if node.op_type == "Sqrt" and (added := self.makers.get(node.input[0])) is not None and added.op_type == "Add":
                numbers = [self._number(entry) for entry in added.input]
                for value in numbers:
                    if value is not None and 0 < value < 0.1:
                        return value
        return None

    def _number(self, name: str) -> float | None:
        tensor = self.initializers.get(name)
        array = self.constants.get(name) if tensor is None else self._array(tensor)
        return float(np.ravel(array)[0]) if array is not None and array.size == 1 else None

    def activation(self) -> str | None:
        if self.operators & {"Erf", "Gelu"}:
            return "gelu"
        return "relu" if "Relu" in self.operators else None


def _architecture(graph: _Graph, prefix: str, config: Mapping[str, Any]) -> Architecture:
    family = config.get("model_type") or ("roberta" if "roberta" in prefix else "bert")
    if family not in FAMILIES:
        raise graph.unknown(f"model_type {family!r}", f"one of {', '.join(FAMILIES)}")
    vocabulary, hidden = graph.shape(f"{prefix}embeddings.word_embeddings.weight")
    numbers = [int(m[1]) for key in graph.found if (m := re.match(rf"{re.escape(prefix)}encoder\.layer\.(\d+)\.", key))]
    if not numbers:
        raise graph.unknown("no layers", f"weights named {prefix}encoder.layer.0...")
    heads = graph.heads(hidden) or config.get("num_attention_heads")
    if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1 or hidden % heads:
        raise graph.unknown(f"{heads!r} attention heads for a hidden size of {hidden}", "num_attention_heads in config.json")
    stated = config.get("hidden_act")
    activation = graph.activation() or ACTIVATIONS.get(str(stated))
    if activation is None or (stated is not None and ACTIVATIONS.get(str(stated)) != activation):
        raise graph.unknown(f"the activation {stated!r}", f"one of {', '.join(ACTIVATIONS)}")
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise graph.unknown(f"position_embedding_type {kind!r}", "absolute")
    pad = config.get("pad_token_id")
    offset = 0 if family == "bert" else (1 if not isinstance(pad, int) else pad) + 1
    types = f"{prefix}embeddings.token_type_embeddings.weight"
    headed = bool(graph.head()[1])
    return Architecture(
        family="bert" if family == "bert" else "roberta",
        vocabulary=vocabulary,
        hidden=hidden,
        layers=max(numbers) + 1,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        intermediate=graph.shape(f"{prefix}encoder.layer.0.intermediate.dense.weight")[0],
        max_positions=graph.shape(f"{prefix}embeddings.position_embeddings.weight")[0] - offset,
        position_offset=offset,
        types=graph.shape(types)[0] if types in graph.found else 0,
        eps=float(f"{graph.eps() or config.get('layer_norm_eps') or 1e-12:.6g}"),  # a float32 in the graph
        activation=activation,
        head="pooler" if headed else "none",
        labels=graph.shape(f"{graph.head()[1]}.weight")[0] if headed else 0,
    )
