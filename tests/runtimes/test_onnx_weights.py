"""What is read from ONNX graphs: exports of transformers, float32 and int8, and the model that ships as a wheel."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from exports import write_onnx
from models import cross
from onnx import numpy_helper
from reference_models import answers, make, sequences

from rerank_engine.errors import CorruptModelError, UnsupportedModelError
from rerank_engine.packed import Packed
from rerank_engine.runtimes.checkpoint import read_checkpoint
from rerank_engine.runtimes.onnx_weights import encoder_of
from rerank_engine.runtimes.packed_onnx import PackedOnnx


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("roberta")
    model = make(folder, "roberta")
    return write_onnx(folder, model, "roberta"), json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("family", ["bert", "bert-tanh-gelu", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("stated", [True, False])
def test_an_export_holds_the_checkpoint(tmp_path, family, stated):
    """Without a config the family alone has to be told, where the names do not."""
    path = write_onnx(tmp_path, make(tmp_path, family), family)
    config = json.loads((tmp_path / "config.json").read_text())
    wanted = read_checkpoint(family, tmp_path, config)
    if not stated and family == "bert-tanh-gelu":
        with pytest.raises(UnsupportedModelError, match="activation None"):
            encoder_of(path, {})
        return
    got = encoder_of(path, config if stated else {})
    assert got.architecture == wanted.architecture
    assert set(got.weights) == set(wanted.weights)
    for key, array in wanted.weights.items():
        assert (got.weights[key] == array).all(), key
    assert encoder_of(path.read_bytes(), config).parameters == got.parameters


@pytest.mark.parametrize("per_column", [False, True])
def test_int8_weights_are_brought_back(tmp_path, per_column):
    quantization = pytest.importorskip("onnxruntime.quantization")
    path = write_onnx(tmp_path, make(tmp_path, "bert"), "bert")
    config = json.loads((tmp_path / "config.json").read_text())
    quantization.quantize_dynamic(path, tmp_path / "int8.onnx", per_channel=per_column, weight_type=quantization.QuantType.QInt8)
    exact, got = encoder_of(path, config), encoder_of(tmp_path / "int8.onnx", config)
    assert got.architecture == exact.architecture and set(got.weights) == set(exact.weights)
    for key, array in exact.weights.items():
        worst = np.abs(got.weights[key] - array).max()
        assert got.weights[key].shape == array.shape and worst <= np.abs(array).max() / 100, key
    assert any((got.weights[key] != array).any() for key, array in exact.weights.items())


def test_the_bundled_model_equals_transformers_on_the_same_weights():
    from rerank_engine.errors import MissingDependency
    from rerank_engine.runtimes.files import resolve

    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    try:
        files = resolve("ms-marco-MiniLM-L-12-v2")
    except MissingDependency as error:
        pytest.skip(str(error))
    encoder = encoder_of(files.onnx, files.config)
    a, w = encoder.architecture, encoder.weights
    assert (a.layers, a.heads, a.hidden, a.labels, a.head, a.eps) == (12, 12, 384, 1, "pooler", 1e-12)
    settings = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=12, intermediate_size=1536, num_labels=1, attn_implementation="eager"
    )
    model = transformers.BertForSequenceClassification(settings).eval()
    state = {f"bert.embeddings.{part}_embeddings.weight": w[part] for part in ("word", "position")}
    state["bert.embeddings.token_type_embeddings.weight"] = w["type"]
    parts = {"out": "attention.output.dense", "norm1": "attention.output.LayerNorm", "up": "intermediate.dense", "down": "output.dense"}
    for end in ("weight", "bias"):
        state[f"bert.embeddings.LayerNorm.{end}"] = w[f"embed.norm.{end}"]
        state[f"bert.pooler.dense.{end}"], state[f"classifier.{end}"] = w[f"head.dense.{end}"], w[f"head.classifier.{end}"]
        for i in range(12):
            layer = f"bert.encoder.layer.{i}."
            for part, rows in zip(("query", "key", "value"), np.split(w[f"{i}.qkv.{end}"], 3)):
                state[f"{layer}attention.self.{part}.{end}"] = rows
            for ours, theirs in {**parts, "norm2": "output.LayerNorm"}.items():
                state[f"{layer}{theirs}.{end}"] = w[f"{i}.{ours}.{end}"]
    model.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in state.items()})
    rng = np.random.default_rng(3)
    ids = [rng.integers(1000, 30_000, n) for n in (9, 40, 120)]
    kinds = [(np.arange(len(row)) >= 6).astype(np.int64) for row in ids]
    runtime = PackedOnnx(encoder, threads=1)
    got = runtime.run(Packed.from_rows(ids, np.int64), Packed.from_rows(kinds, np.int64), "logits")
    np.testing.assert_allclose(got, answers(model, ids, kinds), rtol=0, atol=1e-4)


def changed(source, change):
    model = onnx.load(source)
    change(model.graph)
    return model.SerializeToString()


def rename(old, new):
    def change(graph):
        for tensor in graph.initializer:
            tensor.name = tensor.name.replace(old, new)
        for node in graph.node:
            for i, name in enumerate(node.input):
                node.input[i] = name.replace(old, new)

    return change


def more_weights(graph):
    graph.initializer.append(numpy_helper.from_array(np.ones((64, 8), np.float32), "projection.weight"))


def fused(graph):
    graph.node[-1].domain = "com.microsoft"


def half(graph):
    tensor = next(t for t in graph.initializer if "LayerNorm.weight" in t.name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))


@pytest.mark.parametrize(
    ("change", "config", "says"),
    [
        (rename("word_embeddings", "wte"), {}, "0 tables named word_embeddings"),
        (rename("layer.1.output.LayerNorm", "layer.1.output.norm"), {}, r"no weight 'roberta.encoder.layer.1.output.LayerNorm.weight'"),
        (rename("encoder.layer", "encoder.block"), {}, "no layers"),
        (more_weights, {}, r"1 weights beyond an encoder and its head: projection.weight"),
        (fused, {}, "operators"),
        (half, {}, "half precision"),
        (lambda graph: None, {"model_type": "deberta-v2"}, "model_type 'deberta-v2'"),
        (lambda graph: None, {"hidden_act": "silu"}, "activation 'silu'"),
        (lambda graph: None, {"hidden_act": "gelu_new"}, "activation 'gelu_new'"),
        (lambda graph: None, {"position_embedding_type": "relative_key"}, "relative_key"),
    ],
)
def test_what_is_not_recognised_is_named(exported, change, config, says):
    path, known = exported
    with pytest.raises(UnsupportedModelError, match=says):
        encoder_of(changed(path, change), {**known, **config})


def test_other_files():
    with pytest.raises(UnsupportedModelError, match="0 tables named word_embeddings"):
        encoder_of(cross().SerializeToString(), {})
    with pytest.raises(CorruptModelError):
        encoder_of(b"not a model", {})


def test_probes_are_not_padding():
    """The sequences of these tests hold no padding token, from which RoBERTa counts its places."""
    assert all((row != 1).all() for row in sequences([50])[0])
