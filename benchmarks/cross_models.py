"""ms-marco-MiniLM-L-12-v2 in the forms that libraries read: int8 as published, and float32 made of it, kept below build/bench.

The float32 folder is laid out as on a hub: config.json, model.safetensors, tokenizer files, onnx/model.onnx. Its numbers are those that the
int8 file stands for, (q - zero) * scale, and its graph is the published one with each quantised product as a plain MatMul: what an exporter
writes, nothing fused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import harness
from rerank_engine.runtimes.files import resolve

NAME = "ms-marco-MiniLM-L-12-v2"
HIDDEN, LAYERS, HEADS, INTERMEDIATE = 384, 12, 12, 1536
CACHE = Path(__file__).resolve().parents[1] / "build" / "bench"
CONFIG = {
    "architectures": ["BertForSequenceClassification"], "model_type": "bert", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "intermediate_size": INTERMEDIATE, "vocab_size": 30522, "max_position_embeddings": 512,
    "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0, "position_embedding_type": "absolute",
    "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0},
    "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
}  # fmt: skip


@dataclass(frozen=True)
class Models:
    """int8: the folder with the published model.onnx. fp32: the folder made of it."""

    int8: Path
    fp32: Path

    @property
    def tokenizer(self) -> Path:
        return self.fp32 / "tokenizer.json"

    def graph(self, precision: str) -> Path:
        return self.int8 / "model.onnx" if precision == "int8" else self.fp32 / "onnx" / "model.onnx"


def models() -> Models:
    """Both; the float32 folder is made if it is not there. Raises MissingDependency without the package that brings the model."""
    published = resolve(NAME)
    source = published.onnx.read_bytes()
    digest = hashlib.sha256(source + json.dumps(CONFIG).encode()).hexdigest()[:12]
    folder = CACHE / f"{NAME}-fp32-{digest}"
    if not folder.is_dir():
        harness.note(f"float32 weights of {NAME}, made of the int8 ones, go to {folder}")
        CACHE.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=CACHE))
        try:  # whole or not at all
            write_fp32(source, made, published.folder)
            os.replace(made, folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return Models(published.folder, folder)


def write_fp32(source: bytes, folder: Path, tokenizer: Path) -> None:
    import onnx
    from safetensors.numpy import save_file

    plain, state = dequantised(onnx.load_from_string(source))
    (folder / "onnx").mkdir(parents=True)
    onnx.save(plain, folder / "onnx" / "model.onnx")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)


def dequantised(model: Any) -> tuple[Any, dict[str, NDArray[np.float32]]]:
    """(a float32 graph, weights by the names that transformers gives them) of a dynamically quantised graph.

    DynamicQuantizeLinear(x) -> MatMulInteger(., w) -> Cast -> Mul(scales) becomes MatMul(x, w); Gather(w) -> DequantizeLinear becomes
    Gather(w). A product's weight [in, out] is named after the bias that is added to it, and turned to [out, in].
    """
    import onnx
    from onnx import helper, numpy_helper

    graph = model.graph
    arrays = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    instead, floats, state = dict[str, Any](), dict[str, NDArray[np.float32]](), dict[str, NDArray[np.float32]]()
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            gather = made_by[node.input[0]]
            table = gather.input[0].removesuffix("_quantized")
            floats[table] = state[table] = _values(arrays, gather.input[0], *node.input[1:])
            instead[node.output[0]] = helper.make_node("Gather", [table, gather.input[1]], [node.output[0]])
        elif node.op_type == "MatMulInteger":
            weight = node.input[1].removesuffix("_quantized")
            floats[weight] = _values(arrays, node.input[1], f"{weight}_scale", node.input[3])
            product = users[users[node.output[0]][0].output[0]][0]  # behind the Cast: the Mul by both scales
            added = users[product.output[0]][0]
            bias = next(name for name in added.input if name.endswith(".bias"))
            state[bias.removesuffix("bias") + "weight"] = np.ascontiguousarray(floats[weight].T)
            instead[product.output[0]] = helper.make_node("MatMul", [made_by[node.input[0]].input[0], weight], [product.output[0]])
    nodes = [instead.get(node.output[0], node) for node in graph.node]
    needed, kept = {output.name for output in graph.output}, list[Any]()
    for node in reversed(nodes):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    floats |= {name: array for name, array in arrays.items() if name in needed and name not in floats}
    state |= {name: array for name, array in floats.items() if name.endswith((".weight", ".bias")) and name in arrays}
    tensors = [numpy_helper.from_array(floats[name], name) for name in floats if name in needed]
    made = helper.make_graph(kept[::-1], graph.name, list(graph.input), list(graph.output), tensors)
    plain = helper.make_model(made, opset_imports=[entry for entry in model.opset_import if not entry.domain], ir_version=model.ir_version)
    onnx.checker.check_model(plain)
    return plain, state


def _values(arrays: dict[str, NDArray[Any]], quantised: str, scale: str, zero: str) -> NDArray[np.float32]:
    q = arrays[quantised].astype(np.int32) - arrays[zero].astype(np.int32)
    found: NDArray[np.float32] = q.astype(np.float32) * arrays[scale]  # a scale of its own for each column, if there are several
    return found


def gflop(lengths: NDArray[np.int64], *, first_rows: bool = False) -> float:
    """10^9 operations of multiply-adds that pairs of these lengths take, none of them on padding; attention [length, length] a pair.

    first_rows: the last layer computes queries, output and feed-forward for one row of each pair alone.
    """
    tokens, squares, pairs = float(lengths.sum()), float((lengths * lengths).sum()), len(lengths)
    linear = 2 * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INTERMEDIATE)
    total = LAYERS * (linear * tokens + 4 * HIDDEN * squares)
    if first_rows:
        keys_values = 2 * 2 * HIDDEN * HIDDEN
        total -= (linear - keys_values) * (tokens - pairs) + 4 * HIDDEN * (squares - tokens)
    return total / 1e9
