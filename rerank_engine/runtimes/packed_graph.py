"""An Encoder as an ONNX graph without padding: linear layers, norms and activations on [tokens, hidden], only attention knows of sequences.

Inputs, int64 unless said otherwise, T tokens of n sequences behind one another, the longest of S tokens:

    ids [T], places [T] (rows of the position table), types [T] (when the network has types), firsts [n] (the row of each first token, when
    it has a classifier), begins, ends [pieces, 1] (rows of at most PIECE tokens of a sequence, when its head is of a vocabulary)
    kind "cpu"    even bool [] (all sequences have one length and look at all of their tokens), and for each answer its own:
                  if so, shape [3] = n, S, -1: a block [n, S] is a view, nothing is copied and nothing masked;
                  else block [n, S] (the row of each token, any row where there is none), back [T] (where each token lies in the block),
                  keys int32 [n, S] (1 for what may be looked at): one gather to a block, one back
    kind "cuda"   offsets int32 [n, S], cumulative int32 [n + 1]: com.microsoft.PackedMultiHeadAttention, which only CUDA has
    kind "ragged" cumulative int32 [n + 1], and with a head ones int32 [n + 1] = 0 ... n: TRT_Attention of TensorRT's own ONNX parser

Output: `logits` [n, labels] of a network with a classifier, `weights` [pieces, vocabulary] of a masked-LM head, else `last_hidden_state`
[T, hidden]. With a classifier the last layer is computed for the first tokens alone, since nothing else is read: their queries against all
keys, then output and feed-forward on n rows. A vocabulary's logits are pooled a piece at a time: [PIECE, vocabulary] is all there is of
them at once, and whoever runs the graph puts the pieces of a sequence together.
Operators of ONNX Runtime (domain com.microsoft) fuse bias and GELU, and bias, residual and norm, where its CPU and CUDA providers have
kernels for them; kind "ragged" has standard operators beside its attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingDependency, UnsupportedModelError
from .encoder import Architecture, Encoder

KINDS = ("cpu", "cuda", "ragged")
VERSION = 2  # of the graphs written here: part of the key of what is cached
OPSET = 17
PIECE = 64  # tokens
MICROSOFT = "com.microsoft"


def refuse(architecture: Architecture) -> str | None:
    """Why an architecture has no packed graph, or None."""
    a = architecture
    wanted = {
        "positions": a.positions == "absolute",
        "place": a.place == "post",
        "norm": a.norm == "layer",
        "activation": a.activation in ("gelu", "gelu_tanh", "relu"),
        "gated": not a.gated,
        "causal": not a.causal,
        "windows": not any(a.windows),
        "kv_heads": a.kv_heads == a.heads,
        "head": a.head in ("pooler", "none", "vocabulary"),
        "pooling": a.head != "pooler" or (a.pooling == "cls" and a.head_activation == "tanh"),
    }
    wrong = [f"{name} {getattr(a, name)!r}" for name, fits in wanted.items() if not fits]
    return ", ".join(wrong) or None


def packed_graph(encoder: Encoder, kind: str) -> tuple[Any, dict[str, NDArray[Any]]]:
    """(onnx.ModelProto whose initializers have no data, their arrays by name). Raises UnsupportedModelError, MissingDependency.

    The arrays are apart because one file of protobuf ends at 2 GB: `beside` and `whole` bring the two together.
    """
    if (why := refuse(encoder.architecture)) is not None:
        raise UnsupportedModelError("packed ONNX graph", got=why, expected="an encoder as BERT and RoBERTa have it")
    if encoder.architecture.head == "vocabulary" and kind != "cpu":
        hint = "Take runtime='torch' on a GPU."
        raise UnsupportedModelError(f"packed ONNX graph of kind '{kind}'", got="a masked-LM head", expected="kind 'cpu'", hint=hint)
    return _Writer(encoder, kind).model()


def whole(model: Any, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """One ONNX file with its weights inside."""
    onnx = onnx_package()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        tensor.raw_data = np.ascontiguousarray(arrays[tensor.name]).tobytes()
    data: bytes = copy.SerializeToString()
    return data


def beside(model: Any, arrays: Mapping[str, NDArray[Any]], location: str) -> tuple[bytes, list[NDArray[Any]]]:
    """(the ONNX file whose weights lie at `location`, what is to be written there in this order, each padded to ALIGN bytes)."""
    onnx = onnx_package()
    copy, at, order = onnx.ModelProto(), 0, []
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        array = np.ascontiguousarray(arrays[tensor.name])
        if array.dtype != np.float32:  # shapes and axes, which the graph is checked by
            tensor.raw_data = array.tobytes()
            continue
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", at), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        at += -(-array.nbytes // ALIGN) * ALIGN
        order.append(array)
    return copy.SerializeToString(), order


ALIGN = 4096  # a page: weights can be mapped where they lie


class _Writer:
    def __init__(self, encoder: Encoder, kind: str) -> None:
        self.onnx, self.kind, self.a, self.w = onnx_package(), kind, encoder.architecture, encoder.weights
        self.nodes: list[Any] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        self.fused = kind != "ragged"
        self.prefix = ""

    def model(self) -> tuple[Any, dict[str, NDArray[Any]]]:
        helper, a = self.onnx.helper, self.a
        headed = a.head == "pooler"
        state = self.embeddings()
        for layer in range(a.layers):
            state = self.layer(state, layer, firsts=headed and layer == a.layers - 1)
        if headed:
            pooled = self.node("Tanh", [self.linear(state, "head.dense")])
            result = helper.make_tensor_value_info("logits", self.onnx.TensorProto.FLOAT, ["n", a.labels])
            self.linear(pooled, "head.classifier", "logits")
        elif a.head == "vocabulary":
            result = helper.make_tensor_value_info("weights", self.onnx.TensorProto.FLOAT, ["pieces", a.vocabulary])
            self.weights(self.norm(self.activated(state, "head.dense", a.head_activation), "head.norm"))
        else:
            self.nodes[-1].output[0] = "last_hidden_state"
            result = helper.make_tensor_value_info("last_hidden_state", self.onnx.TensorProto.FLOAT, ["tokens", a.hidden])
        inputs = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in self.inputs(headed)]
        types = {np.dtype(np.float32): self.onnx.TensorProto.FLOAT, np.dtype(np.int64): self.onnx.TensorProto.INT64}
        tensors = [self.onnx.TensorProto(name=name, dims=array.shape, data_type=types[array.dtype]) for name, array in self.arrays.items()]
        graph = helper.make_graph(self.nodes, f"packed_{self.kind}", inputs, [result], tensors)
        imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=imports, producer_name="rerank-engine")
        model.ir_version = 9
        return model, self.arrays

    def inputs(self, headed: bool) -> list[tuple[str, int, list[Any]]]:
        long, short = self.onnx.TensorProto.INT64, self.onnx.TensorProto.INT32
        common: list[tuple[str, int, list[Any]]] = [("ids", long, ["tokens"]), ("places", long, ["tokens"])]
        common += [("types", long, ["tokens"])] if self.a.types else []
        common += [("firsts", long, ["n"])] if headed else []
        common += [(name, long, ["pieces", 1]) for name in ("begins", "ends")] if self.a.head == "vocabulary" else []
        cumulative: tuple[str, int, list[Any]] = ("cumulative", short, ["n_and_one"])
        if self.kind == "cuda":
            return [*common, ("offsets", short, ["n", "longest"]), cumulative]
        if self.kind == "ragged":
            return [*common, cumulative, *([("ones", short, ["n_and_one"])] if headed else [])]
        blocks: list[tuple[str, int, list[Any]]] = [("block", long, ["rows", "longest"]), ("back", long, ["real"])]
        return [
            *common,
            ("even", self.onnx.TensorProto.BOOL, []),
            ("shape", long, [3]),
            *blocks,
            ("keys", short, ["rows", "longest"]),
        ]

    def embeddings(self) -> str:
        state = self.node("Add", [self.gather("word", "ids"), self.gather("position", "places")])
        if self.a.types:
            state = self.node("Add", [state, self.gather("type", "types")])
        return self.norm(state, "embed.norm")

    def layer(self, state: str, i: int, firsts: bool) -> str:
        attended = self.attention(state, i, firsts)
        if firsts:
            state = self.node("Gather", [state, "firsts"], axis=0)
        state = self.residual(attended, state, f"{i}.out", f"{i}.norm1")
        return self.residual(self.activated(state, f"{i}.up"), state, f"{i}.down", f"{i}.norm2")

    def attention(self, state: str, i: int, firsts: bool) -> str:
        """[rows, hidden] -> softmax(q k^T / sqrt(head_dim)) v [rows, heads head_dim]; firsts: only the rows of the first tokens."""
        width = self.a.heads * self.a.head_dim
        weight, bias = self.w[f"{i}.qkv.weight"], self.w.get(f"{i}.qkv.bias")
        if self.kind == "cuda":
            parts = self.split(self.product(state, f"{i}.qkv", weight, bias), [width] * 3)
            out = self.node("PackedMultiHeadAttention", [*parts, "", "offsets", "cumulative"], MICROSOFT, num_heads=self.a.heads)
            return self.node("Gather", [out, "firsts"], axis=0) if firsts else out
        query: str | None = None
        if not firsts:
            rows = self.product(state, f"{i}.qkv", weight, bias)
        else:
            first = self.node("Gather", [state, "firsts"], axis=0)
            query = self.product(first, f"{i}.q", weight[:width], None if bias is None else bias[:width])
            rows = self.product(state, f"{i}.kv", weight[width:], None if bias is None else bias[width:])
        if self.kind == "ragged":
            parts = self.split(rows, [width] * (2 if firsts else 3))
            return self.ragged([query, *parts] if query else parts, firsts)
        if query:
            query = self.node("Unsqueeze", [query, self.constant("one", np.array([1]))])
        self.constant("flat", np.array([-1, width]))
        branches = {f"{name}_branch": self.branch(kind, rows, query) for name, kind in (("then", "equal"), ("else", "padded"))}
        return self.node("If", ["even"], **branches)

    def branch(self, kind: str, rows: str, query: str | None) -> Any:
        """A graph from rows [T, 3 width], or [T, 2 width] beside the queries [n, 1, width], to what attention makes of them."""
        outer, self.nodes = self.nodes, []
        prefix, self.prefix = self.prefix, f"{self.prefix}{kind}{len(outer)}_"
        width = self.a.heads * self.a.head_dim
        block = self.node("Reshape", [rows, "shape"]) if kind == "equal" else self.node("Gather", [rows, "block"], axis=0)
        parts = self.split(block, [width] * (2 if query else 3))
        keys = [] if kind == "equal" else ["", "keys"]
        out = self.node("MultiHeadAttention", [*([query] if query else []), *parts, *keys], MICROSOFT, num_heads=self.a.heads)
        out = self.node("Reshape", [out, "flat"])
        if kind == "padded" and not query:
            out = self.node("Gather", [out, "back"], axis=0)
        made = self.onnx.helper.make_tensor_value_info(out, self.onnx.TensorProto.FLOAT, ["rows", width])
        graph = self.onnx.helper.make_graph(self.nodes, kind, [], [made])
        self.nodes, self.prefix = outer, prefix
        return graph

    def ragged(self, rows: list[str], firsts: bool) -> str:
        a = self.a
        heads = self.constant("by_head", np.array([-1, a.heads, a.head_dim]))
        q, k, v = (self.node("Reshape", [x, heads]) for x in rows)
        lengths = ["ones" if firsts else "cumulative", "cumulative"]
        options = {"query_form": "packed_nhd", "kv_form": "packed_nhd", "is_causal": 0, "scale": a.head_dim**-0.5}
        out = self.node("TRT_Attention", [q, k, v, "", "", "", *lengths], **options)
        return self.node("Reshape", [out, self.constant("flat", np.array([-1, a.heads * a.head_dim]))])

    def weights(self, state: str) -> None:
        """The output `weights` of the normed states [T, hidden]: a Loop over the pieces. log(1 + x) never falls, so a maximum is taken
        before it, and before a bias that all tokens share."""
        onnx, most = self.onnx, self.a.pooling == "max"
        decoder = "word" if "decoder" not in self.w else self.constant("decoder", self.w["decoder"])
        self.constant("one_axis", np.array([0]))
        outer, self.nodes, self.prefix = self.nodes, [], "piece_"
        edges = [self.node("Gather", [name, "piece"], axis=0) for name in ("begins", "ends")]
        piece = self.node("Slice", [state, *edges, "one_axis"])
        logits = self.node("Gemm", [piece, decoder], transB=1)
        if most:
            pooled = self.node("ReduceMax", [logits], axes=[0], keepdims=0)
        else:
            pooled = self.node("ReduceSum", [self.saturated(logits), "one_axis"], keepdims=0)
        go_on = self.node("Identity", ["so_far"])
        inputs = [onnx.helper.make_tensor_value_info("piece", onnx.TensorProto.INT64, [])]
        inputs.append(onnx.helper.make_tensor_value_info("so_far", onnx.TensorProto.BOOL, []))
        outputs = [onnx.helper.make_tensor_value_info(go_on, onnx.TensorProto.BOOL, [])]
        outputs.append(onnx.helper.make_tensor_value_info(pooled, onnx.TensorProto.FLOAT, [self.a.vocabulary]))
        body = onnx.helper.make_graph(self.nodes, "piece_of_a_sequence", inputs, outputs)
        self.nodes, self.prefix = outer, ""
        count = self.node("Gather", [self.node("Shape", ["begins"]), self.constant("zeroth", np.array(0))], axis=0)
        pieces = self.node("Loop", [count, ""], body=body, output=None if most else "weights")
        if most:
            self.saturated(pieces, "weights")

    def saturated(self, logits: str, output: str | None = None) -> str:
        """log(1 + max(logits + bias, 0)), and log(1 + that) where the architecture says so."""
        if "head.bias" in self.w:
            logits = self.node("Add", [logits, self.constant("head.bias", self.w["head.bias"])])
        value = self.node("Relu", [logits])
        for last in (*[False] * (self.a.saturations - 1), True):
            value = self.node("Log", [self.node("Add", [value, self.number("1", 1.0)])], output=output if last else None)
        return value

    def activated(self, state: str, name: str, kind: str = "") -> str:
        weight, bias, kind = self.w[f"{name}.weight"], self.w.get(f"{name}.bias"), kind or self.a.activation
        if kind == "gelu" and self.fused and bias is not None:
            return self.node("BiasGelu", [self.product(state, name, weight, None), self.constant(f"{name}.bias", bias)], MICROSOFT)
        inner = self.product(state, name, weight, bias)
        if kind == "relu":
            return self.node("Relu", [inner])
        if kind == "gelu_tanh":
            if self.fused:
                return self.node("FastGelu", [inner], MICROSOFT)
            cubic = self.node("Mul", [self.node("Mul", [inner, inner]), self.node("Mul", [inner, self.number("0.044715", 0.044715)])])
            bent = self.node("Mul", [self.node("Add", [inner, cubic]), self.number("sqrt(2/pi)", (2 / np.pi) ** 0.5)])
            gate = self.node("Add", [self.node("Tanh", [bent]), self.number("1", 1.0)])
        elif self.fused:
            return self.node("Gelu", [inner], MICROSOFT)
        else:
            gate = self.node(
                "Add", [self.node("Erf", [self.node("Mul", [inner, self.number("1/sqrt(2)", 0.5**0.5)])]), self.number("1", 1.0)]
            )
        return self.node("Mul", [self.node("Mul", [inner, gate]), self.number("1/2", 0.5)])

    def residual(self, state: str, before: str, name: str, norm: str) -> str:
        """norm(state weight^T + bias + before)"""
        bias, shift = self.w.get(f"{name}.bias"), self.w.get(f"{norm}.bias")
        if not self.fused or bias is None or shift is None:
            return self.norm(self.node("Add", [self.linear(state, name), before]), norm)
        product = self.product(state, name, self.w[f"{name}.weight"], None)
        names = [self.constant(n, self.w[n]) for n in (f"{norm}.weight", f"{norm}.bias", f"{name}.bias")]
        return self.node("SkipLayerNormalization", [product, before, *names], MICROSOFT, epsilon=self.a.eps)

    def norm(self, state: str, name: str) -> str:
        names = [self.constant(f"{name}.{part}", self.w[f"{name}.{part}"]) for part in ("weight", "bias") if f"{name}.{part}" in self.w]
        return self.node("LayerNormalization", [state, *names], epsilon=self.a.eps, axis=-1)

    def linear(self, state: str, name: str, output: str | None = None) -> str:
        return self.product(state, name, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"), output)

    def product(self, state: str, name: str, weight: NDArray[Any], bias: NDArray[Any] | None, output: str | None = None) -> str:
        """state weight^T + bias. Weights are stored [in, out], as the product wants them."""
        product = self.node("MatMul", [state, self.constant(f"{name}.weight", weight.T)], output=None if bias is not None else output)
        return product if bias is None else self.node("Add", [product, self.constant(f"{name}.bias", bias)], output=output)

    def split(self, rows: str, sizes: list[int]) -> list[str]:
        names = [f"{self.prefix}v{len(self.nodes)}_{part}" for part in range(len(sizes))]
        sized = self.constant(f"sizes_{len(sizes)}", np.array(sizes))
        self.nodes.append(self.onnx.helper.make_node("Split", [rows, sized], names, axis=-1))
        return names

    def gather(self, table: str, rows: str) -> str:
        return self.node("Gather", [self.constant(table, self.w[table]), rows], axis=0)

    def number(self, name: str, value: float) -> str:
        return self.constant(name, np.array(value, np.float32))

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self.arrays.setdefault(name, array if array.dtype == np.int64 else array.astype(np.float32, copy=False))
        return name

    def node(self, op: str, inputs: list[str], domain: str = "", output: str | None = None, **attributes: Any) -> str:
        output = output or f"{self.prefix}v{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [output], domain=domain, **attributes))
        return output


def onnx_package() -> Any:
    try:
        import onnx
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise MissingDependency("packed ONNX graphs need the package onnx", hint="pip install onnx (the extra [cpu]).") from error
    return onnx
