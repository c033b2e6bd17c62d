"""Tiny models of late interaction in the layouts of PyLate and colbert-ai, and what they must answer, computed in numpy.

Weights are multiples of 1/8, as in models.py, so states and projections are exact; only unit length rounds. The tokenizer is BERT's, with
few words: it strips accents, splits at punctuation and CJK, and spells what it does not know in letters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import tokenizers
from models import CLS, SEP, UNK
from onnx import helper, numpy_helper
from tokenizers import normalizers, pre_tokenizers, processors

MASK, Q, D, UNUSED0, UNUSED1 = range(4, 9)
_SPECIAL = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "[Q] ", "[D] ", "[unused0]", "[unused1]"]
_WORDS = [*",.!?()-", *(f"w{i}" for i in range(60)), "nan", "中", "文", "🐟", *"abcdefgh", *("##" + c for c in "abcdefgh")]
VOCABULARY = {word: i for i, word in enumerate([*_SPECIAL, *_WORDS])}
HIDDEN, DIM = 4, 3
_rng = np.random.default_rng(11)
TABLE = (_rng.integers(-32, 33, (len(VOCABULARY), HIDDEN)) / 8).astype(np.float32)
TABLE[VOCABULARY["nan"]] = np.nan
WEIGHT = (_rng.integers(-16, 17, (DIM, HIDDEN)) / 8).astype(np.float32)
PUNCTUATION = [",", ".", "!"]

PYLATE = {"similarity_fn_name": "MaxSim", "query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 10, "document_length": 12}
PYLATE = {**PYLATE, "do_query_expansion": True, "attend_to_expansion_tokens": False, "skiplist_words": PUNCTUATION}
COLBERT_AI = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 10, "doc_maxlen": 12, "dim": DIM}
COLBERT_AI = {**COLBERT_AI, "similarity": "cosine", "attend_to_mask_tokens": False, "mask_punctuation": True}


def unit(rows: np.ndarray) -> np.ndarray:
    exact = rows.astype(np.float64)
    return exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-12)


def vectors_of(ids: list[int], attended: int | None = None, weight: np.ndarray | None = WEIGHT) -> np.ndarray:
    """float64 [tokens, DIM] of unit length: place * weights of the token + the sum of the weights of those attended, projected."""
    attended = len(ids) if attended is None else attended
    rows = TABLE[ids]
    places = np.minimum(np.arange(1, len(ids) + 1), attended).astype(np.float32)
    states = places[:, None] * rows + rows[:attended].sum(0)
    return unit(states if weight is None else states @ weight.T)


def ids_of(words: str) -> list[int]:
    return [VOCABULARY.get(word, UNK) for word in words.split()]


def query_vectors(words: str, length: int = 10, *, marker: int | None = Q, attend: bool = False, **options: Any) -> np.ndarray:
    """Of a query of words and punctuation with blanks between; length 0: not filled up."""
    ids = [CLS, *([] if marker is None else [marker]), *ids_of(words), SEP]
    filled = ids + [MASK] * max(0, length - len(ids))
    return vectors_of(filled, len(filled) if attend else len(ids), **options)


def document_vectors(
    words: str, length: int = 12, *, marker: int | None = D, skip: tuple[str, ...] = (*PUNCTUATION,), **options: Any
) -> Any:
    """Of a document of words and punctuation with blanks between; an unpunctuated tail beyond `length` is cut."""
    ids = [CLS, *([] if marker is None else [marker]), *ids_of(words)][: length - 1]
    ids.append(SEP)
    keep = ~np.isin(ids, [VOCABULARY[word] for word in skip])
    return vectors_of(ids, **options)[keep]


def network(*, inside: bool = False, output: str = "last_hidden_state") -> onnx.ModelProto:
    """The encoder of models.py with this table; inside: with its projection."""
    model = models.encoder()
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "table")
    table.CopyFrom(numpy_helper.from_array(TABLE, "table"))
    states = model.graph.output[0]
    if inside:
        next(node for node in model.graph.node if "last_hidden_state" in node.output).output[0] = "states"
        model.graph.node.append(helper.make_node("MatMul", ["states", "weight"], ["last_hidden_state"]))
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(WEIGHT.T), "weight"))
    states.type.tensor_type.shape.dim[2].dim_value = DIM if inside else HIDDEN
    if output != states.name:
        for node in model.graph.node:
            node.output[:] = [output if name == states.name else name for name in node.output]
        states.name = output
    return model


def tokenizer() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    special = [("[CLS]", CLS), ("[SEP]", SEP)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special)
    return made


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], dtype: str = "F32") -> Path:
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        bits = np.ascontiguousarray(tensor, np.float32)
        kinds = {"F32": bits, "F16": bits.astype(np.float16), "BF16": (bits.view(np.uint32) >> 16).astype(np.uint16)}
        raw = kinds[dtype].tobytes()
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def write_pylate(folder: Path, *, inside: bool = False, dense: bool = True, files: Any = None, config: Any = None, **settings: Any) -> Path:
    """A model as PyLate saves it; `settings` over PYLATE."""
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}, {"path": "1_Dense", "type": "pylate.models.Dense.Dense"}]
    told = {"in_features": HIDDEN, "out_features": DIM, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
    contents = {"config_sentence_transformers.json": {**PYLATE, **settings}, "modules.json": modules, "1_Dense/config.json": told}
    if dense:
        write_tensors(folder / "1_Dense" / "model.safetensors", {"linear.weight": WEIGHT})
    return _write(folder, network(inside=inside), "BertModel", {**contents, **(files or {})}, config)


def write_colbert_ai(
    folder: Path, *, inside: bool = False, linear: bool = True, files: Any = None, config: Any = None, **meta: Any
) -> Path:
    """A checkpoint as colbert-ai saves it, its encoder exported; `meta` over COLBERT_AI."""
    if linear:
        write_tensors(folder / "model.safetensors", {"bert.x": np.ones((5, 2)), "linear.weight": WEIGHT})
    return _write(folder, network(inside=inside), "HF_ColBERT", {"artifact.metadata": {**COLBERT_AI, **meta}, **(files or {})}, config)


def _write(folder: Path, model: onnx.ModelProto, architecture: str, files: Any, config: Any) -> Path:
    special = {"tokenizer_config.json": {"mask_token": "[MASK]", "unk_token": {"content": "[UNK]"}, "model_max_length": 1e30}}
    told = {"vocab_size": len(VOCABULARY), "hidden_size": HIDDEN, **(config or {})}
    models.write_model(folder, model, architecture, config=told, files={**special, **files})
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder
