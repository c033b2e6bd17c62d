"""Tiny models with random weights in the layout of real ones, and what they must answer, computed in numpy.

All weights are multiples of 1/8 and all sums stay small, so float32 is exact in any order of summation and tests compare with `==`. Every
score depends on each token, its place and its segment, and padding that is not masked changes it. The vocabulary is "w0" ... "w59" and
"nan", whose weights are NaN; a text of n of these words has n tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tokenizers
from onnx import TensorProto, helper, numpy_helper
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

UNK, PAD, CLS, SEP = range(4)
VOCABULARY = {word: i for i, word in enumerate(["[UNK]", "[PAD]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(60)), "nan"])}
LABELS = DIM = 3
TABLE = (np.random.default_rng(7).integers(-32, 33, (len(VOCABULARY), DIM)) / 8).astype(np.float32)
TABLE[VOCABULARY["nan"]] = np.nan


def words(first: int, n: int) -> str:
    """n words, each a token, from w<first> on."""
    return " ".join(f"w{(first + i) % 60}" for i in range(n))


def word_ids(text: str) -> list[int]:
    return [VOCABULARY.get(word, UNK) for word in text.split()]


def pair_ids(query: str, document: str) -> tuple[list[int], list[int]]:
    """(ids, types) of a pair by BERT's template."""
    head, tail = [CLS, *word_ids(query), SEP], [*word_ids(document), SEP]
    return head + tail, [0] * len(head) + [1] * len(tail)


def logits_of(query: str, document: str, *, types: bool = True) -> np.ndarray:
    """float32 [LABELS]: the sum over tokens of place * (1 + 2 * segment) * weights, the place counted from 1."""
    ids, segments = pair_ids(query, document)
    weight = np.arange(1, len(ids) + 1) * (1 + 2 * np.array(segments) * types)
    return (weight[:, None] * TABLE[ids].astype(np.float64)).sum(0).astype(np.float32)


def states_of(text: str) -> np.ndarray:
    """float32 [tokens, DIM]: place * weights of the token + the sum of the weights of all tokens."""
    rows = TABLE[[CLS, *word_ids(text), SEP]]
    return np.arange(1, len(rows) + 1, dtype=np.float32)[:, None] * rows + rows.sum(0)


def cross(
    labels: int = 1, *, int32: bool = False, types: bool = True, mask: bool = True, extra: bool = False, quantized: bool = False
) -> onnx.ModelProto:
    """A classifier with the output `logits` [n, labels] of `logits_of`. mask=False: it knows padding by its token instead.

    extra: it wants one more input. quantized: its activations are quantised while it runs, one scale for the whole batch.
    """
    nodes = [
        *_inputs_as_floats(types, mask),
        helper.make_node("Mul", ["place", "segment"], ["weight"]),
        helper.make_node("Mul", ["rows", "weight"], ["weighted"]),
    ]
    last = "weighted"
    if quantized:
        nodes += [
            helper.make_node("DynamicQuantizeLinear", ["weighted"], ["q", "scale", "zero"]),
            helper.make_node("MatMulInteger", ["q", "eye", "zero"], ["product"]),
            helper.make_node("Cast", ["product"], ["product_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["product_float", "scale"], ["scaled"]),
            helper.make_node("Mul", ["scaled", "mask_float"], ["back"]),
        ]
        last = "back"
    nodes.append(helper.make_node("ReduceSum", [last, "axis1"], ["logits"], keepdims=0))
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", labels])]
    return _model(nodes, outputs, TABLE[:, :labels], int32=int32, types=types, mask=mask, extra=extra, eye=quantized)


def encoder(*, types: bool = True, output: str = "last_hidden_state") -> onnx.ModelProto:
    """An encoder with the output `last_hidden_state` [n, longest, DIM] of `states_of`, or with a `sentence_embedding` [n, DIM] beside it:
    the sum of the tokens' weights, which is neither kind of pooling."""
    nodes = [
        *_inputs_as_floats(types, True),
        helper.make_node("Mul", ["rows", "mask_float"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axis1"], ["context"], keepdims=1),
        helper.make_node("Mul", ["rows", "place_anywhere"], ["placed"]),
        helper.make_node("Mul", ["placed", "segment"], ["segmented"]),
        helper.make_node("Add", ["segmented", "context"], ["last_hidden_state"]),
        helper.make_node("Squeeze", ["context", "axis1"], ["sentence_embedding"]),
    ]
    outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", "tokens", DIM])]
    if output != "last_hidden_state":
        outputs.append(helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["n", DIM]))
    return _model(nodes, outputs, TABLE, types=types)


def _inputs_as_floats(types: bool, mask: bool) -> list[onnx.NodeProto]:
    """rows [n, t, DIM]; mask_float, place (0 for padding), place_anywhere and segment (1 or 3) [n, t, 1]."""
    nodes = [helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.INT64), helper.make_node("Gather", ["table", "ids"], ["rows"])]
    if mask:
        nodes.append(helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT))
    else:
        nodes += [
            helper.make_node("Equal", ["ids", "pad"], ["is_pad"]),
            helper.make_node("Not", ["is_pad"], ["is_token"]),
            helper.make_node("Cast", ["is_token"], ["mask"], to=TensorProto.FLOAT),
        ]
    nodes += [
        helper.make_node("CumSum", ["mask", "one"], ["count"]),
        helper.make_node("Unsqueeze", ["count", "axis2"], ["place_anywhere"]),
        helper.make_node("Unsqueeze", ["mask", "axis2"], ["mask_float"]),
        helper.make_node("Mul", ["place_anywhere", "mask_float"], ["place"]),
    ]
    if not types:
        return [*nodes, helper.make_node("Identity", ["one_float"], ["segment"])]
    return [
        *nodes,
        helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["types", "two"], ["doubled"]),
        helper.make_node("Add", ["doubled", "one_float"], ["segment_flat"]),
        helper.make_node("Unsqueeze", ["segment_flat", "axis2"], ["segment"]),
    ]


def _model(
    nodes: list[onnx.NodeProto],
    outputs: list[onnx.ValueInfoProto],
    table: np.ndarray,
    *,
    int32: bool = False,
    types: bool = True,
    mask: bool = True,
    extra: bool = False,
    eye: bool = False,
) -> onnx.ModelProto:
    kind = TensorProto.INT32 if int32 else TensorProto.INT64
    wanted = {"input_ids": True, "attention_mask": mask, "token_type_ids": types, "pixel_values": extra}
    names = [name for name, want in wanted.items() if want]
    inputs = [helper.make_tensor_value_info(name, kind, ["n", "tokens"]) for name in names]
    constants = {
        "table": table,
        "axis1": np.array([1]),
        "axis2": np.array([2]),
        "one": np.array(1),
        "one_float": np.array([1], np.float32),
        "two": np.array([2], np.float32),
        "pad": np.array([PAD]),
    }
    if eye:
        constants["eye"] = np.eye(table.shape[1], dtype=np.int8)
    used = {name for node in nodes for name in node.input}
    tensors = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items() if name in used]
    return wrap(helper.make_graph(nodes, "tiny", inputs, outputs, tensors))


def wrap(graph: onnx.GraphProto, **extra: Any) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], **extra)
    model.ir_version = 9
    return model


def point_outside(tensor: onnx.TensorProto, location: str, *, strip: bool = True) -> bytes:
    """Makes a tensor's values lie in another file; returns the bytes that belong there."""
    data = tensor.raw_data
    if strip:
        tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="length", value=str(len(data)))
    return data


def external(location: str) -> tuple[onnx.ModelProto, bytes]:
    """A classifier whose weights lie at `location`, and those weights."""
    model = cross()
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "table")
    return model, point_outside(table, location)


def tokenizer() -> tokenizers.Tokenizer:
    """Words to numbers, with BERT's templates."""
    made = tokenizers.Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return made


def byte_level(path: Path) -> Path:
    """Writes a byte-level BPE in the manner of Qwen's, with special tokens and the answers as tokens of their own."""
    from rerank_engine.runtimes.prompts import PROMPTS

    special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    texts = [prompt.before + prompt.between + prompt.after for prompt in PROMPTS.values()] + ["yes no 1 0 a rose is a rose"] * 9
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_tokens(["yes", "no"])
    made.save(str(path / "tokenizer.json"))
    return path / "tokenizer.json"


def write_model(
    folder: Path,
    model: onnx.ModelProto | None,
    architecture: str = "BertForSequenceClassification",
    *,
    name: str = "model.onnx",
    config: Mapping[str, Any] | None = None,
    files: Mapping[str, Any] | None = None,
) -> Path:
    """A model folder; `config` over BERT's, `files` are further JSON files by path. The longest input has 32 tokens."""
    base = {"architectures": [architecture], "model_type": "bert", "vocab_size": len(VOCABULARY), "max_position_embeddings": 32}
    contents = {"config.json": {**base, "pad_token_id": PAD, **(config or {})}, **(files or {})}
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save(str(folder / "tokenizer.json"))
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(content), encoding="utf-8")
    if model is not None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(model.SerializeToString())
    return folder


def write_encoder(folder: Path, pooling: str | None = "mean", *, normalize: bool = False, **options: Any) -> Path:
    """An embedding model in the layout of sentence-transformers."""
    files: dict[str, Any] = {"modules.json": [{"type": "sentence_transformers.models.Transformer"}]}
    if pooling:
        files["1_Pooling/config.json"] = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    if normalize:
        files["modules.json"].append({"type": "sentence_transformers.models.Normalize"})
    files.update(options.pop("files", {}))
    return write_model(folder, options.pop("model", None) or encoder(), "BertModel", files=files, **options)
