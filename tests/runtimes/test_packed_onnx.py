"""Packed graphs: the same network as the file or the checkpoint, alone and in any company; what is not the same runs as published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exports import write_onnx
from models import cross, write_model
from reference_models import answers, make, sequences

from rerank_engine.errors import InputError, ModelError, UnsupportedModelError
from rerank_engine.packed import Packed
from rerank_engine.runtimes import packed_onnx
from rerank_engine.runtimes.encoder import Encoder
from rerank_engine.runtimes.onnx import OnnxRuntime
from rerank_engine.runtimes.onnx_weights import encoder_of
from rerank_engine.runtimes.packed_graph import packed_graph, refuse, whole
from rerank_engine.runtimes.packed_onnx import RECORD, WEIGHTS, PackedOnnx, feed_of, open_onnx

FAMILIES = ("bert", "bert-tanh-gelu", "roberta", "xlm-roberta")
LENGTHS = [2, 3, 17, 17, 40, 130]
PAD = 1


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rerank-engine" / "onnx"


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Any:
    """family -> (ONNX file as torch exports it, config, the model of transformers)"""
    made: dict[str, Any] = {}

    def export(family: str, task: str = "ForSequenceClassification", labels: int = 1) -> tuple[Path, dict[str, Any], Any]:
        key = f"{family}{task}{labels}"
        if key not in made:
            folder = tmp_path_factory.mktemp(key)
            model = make(folder, family, task, labels)
            made[key] = (write_onnx(folder, model, family), json.loads((folder / "config.json").read_text()), model)
        return made[key]

    return export


def batch(lengths: list[int], types: int = 2) -> tuple[Packed, Packed]:
    ids, kinds = sequences(lengths, types=types)
    return Packed.from_rows(ids, np.int64), Packed.from_rows(kinds, np.int64)


def one_by_one(runtime: Any, ids: Packed, types: Packed, output: str) -> list[np.ndarray]:
    return [runtime.run(Packed.from_rows([row]), Packed.from_rows([kind]), output)[0] for row, kind in zip(ids, types)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_packed_graph_is_the_network_of_transformers(exported, family):
    path, config, model = exported(family)
    runtime = open_onnx(path, config, pad_id=PAD, threads=1)
    assert isinstance(runtime, PackedOnnx) and runtime.form == "packed" and runtime.note == "" and runtime.outputs == ("logits",)
    types = 2 if family.startswith("bert") else 1
    ids, kinds = batch(LENGTHS, types)
    wanted = answers(model, list(ids), list(kinds))
    np.testing.assert_allclose(runtime.run(ids, kinds, "logits"), wanted, atol=1e-4)
    np.testing.assert_allclose(one_by_one(runtime, ids, kinds, "logits"), wanted, atol=1e-4)


def test_several_labels_and_states(exported):
    path, config, model = exported("bert", labels=3)
    ids, kinds = batch([5, 9])
    runtime = open_onnx(path, config, pad_id=PAD)
    np.testing.assert_allclose(runtime.run(ids, kinds, "logits"), answers(model, list(ids), list(kinds)), atol=1e-4)

    path, config, _ = exported("bert", "Model")
    runtime, plain = open_onnx(path, config, pad_id=PAD), OnnxRuntime(path, pad_id=PAD)
    assert isinstance(runtime, PackedOnnx) and runtime.outputs == ("last_hidden_state",)
    states = runtime.run(ids, kinds, "last_hidden_state")
    assert states.shape == (2, 9, 64) and (states[0, 5:] == 0).all()
    for got, alone in zip(states, one_by_one(plain, ids, kinds, "last_hidden_state")):
        np.testing.assert_allclose(got[: len(alone)], alone, atol=1e-4)
    attended = np.array([3, 9])
    wanted = plain.run(ids, kinds, "last_hidden_state", attended)
    got = runtime.run(ids, kinds, "last_hidden_state", attended)
    np.testing.assert_allclose(got[0, :5], wanted[0, :5], atol=1e-4)
    assert np.abs(got[0, :3] - states[0, :3]).max() > 1e-3, "what may not be looked at must have counted before"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_score_does_not_depend_on_its_company(exported, family):
    path, config, _ = exported(family)
    runtime = open_onnx(path, config, pad_id=PAD, threads=1)
    ids, kinds = batch(LENGTHS, 2 if family.startswith("bert") else 1)
    alone = np.stack(one_by_one(runtime, ids, kinds, "logits"))
    for order in ([5, 0, 1, 2, 3, 4], [2, 3], [3, 2, 0], [4, 4, 4]):
        own = [Packed.from_rows([packed[i] for i in order]) for packed in (ids, kinds)]
        np.testing.assert_allclose(runtime.run(*own, "logits"), alone[order], rtol=0, atol=1e-5)


def test_calls_at_the_same_time_use_one_session(exported):
    from concurrent.futures import ThreadPoolExecutor

    path, config, _ = exported("bert")
    runtime = open_onnx(path, config, pad_id=PAD, threads=2)
    assert runtime.workers == 2 and runtime._session.get_session_options().intra_op_num_threads == 1
    ids, kinds = batch(LENGTHS * 4)
    wanted = one_by_one(runtime, ids, kinds, "logits")
    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(lambda i: runtime.run(Packed.from_rows([ids[i]]), Packed.from_rows([kinds[i]]), "logits")[0], range(len(ids))))
    assert (np.stack(got) == np.stack(wanted)).all()
    alone = open_onnx(path, config, pad_id=PAD, threads=2, workers=1)
    assert alone.workers == 1 and alone._session.get_session_options().intra_op_num_threads == 2
    with pytest.raises(InputError, match="workers"):
        open_onnx(path, config, threads=2, workers=3)


def test_a_rewritten_graph_is_kept_and_mended(exported, cache, monkeypatch):
    path, config, _ = exported("bert")
    ids, kinds = batch([4, 9])
    first = open_onnx(path, config, pad_id=PAD).run(ids, kinds, "logits")
    (entry,) = cache.iterdir()
    monkeypatch.setattr(packed_onnx, "encoder_of", lambda *args: pytest.fail("read again although it was kept"))
    assert (open_onnx(path, config, pad_id=PAD).run(ids, kinds, "logits") == first).all()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent.parent))
    damages = {
        WEIGHTS: [lambda data: data[:-1], lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:], lambda data: b""],
        RECORD: [lambda data: b"", lambda data: b"[]", lambda data: b'{"refused": null}', lambda data: data[:-2]],
        "packed.onnx": [lambda data: data[:100], None],
    }
    for name, ways in damages.items():
        for damage in ways:
            file = entry / name
            file.unlink() if damage is None else file.write_bytes(damage(file.read_bytes()))
            assert (open_onnx(path, config, pad_id=PAD).run(ids, kinds, "logits") == first).all(), f"{name} damaged"
            assert sorted(cache.iterdir()) == [entry], "nothing half made stays"
    open_onnx(path, {**config, "layer_norm_eps": 1e-3}, pad_id=PAD)
    monkeypatch.setattr(packed_onnx, "VERSION", -1)
    open_onnx(path, config, pad_id=PAD)
    assert len(list(cache.iterdir())) == 3, "another config and another version have entries of their own"


def test_a_cache_that_cannot_be_written(exported, cache):
    path, config, _ = exported("bert")
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the folder should be")
    runtime = open_onnx(path, config, pad_id=PAD)
    assert runtime.form == "packed" and runtime.run(*batch([4, 9]), "logits").shape == (2, 1)


def test_a_graph_that_is_not_recognised_runs_as_published(tmp_path, cache):
    path = write_model(tmp_path / "model", cross()) / "model.onnx"
    for _ in range(2):  # the second time it is remembered
        runtime = open_onnx(path, {}, pad_id=1)
        assert isinstance(runtime, OnnxRuntime) and runtime.form == "as published" and "word_embeddings" in runtime.note
    assert [file.name for file in next(cache.iterdir()).iterdir()] == [RECORD]


def test_an_int8_graph_runs_as_published(tmp_path):
    path = write_model(tmp_path / "model", cross(quantized=True)) / "model.onnx"
    runtime = open_onnx(path, {}, pad_id=1)
    assert isinstance(runtime, OnnxRuntime) and runtime.batch_sensitive and "quantises" in runtime.note


def test_a_graph_that_does_more_than_its_names_say(exported, tmp_path):
    """Every weight is where it belongs, but the logits are doubled on their way out."""
    path, config, _ = exported("bert")
    model = onnx.load(path)
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "halved"
    model.graph.node.append(onnx.helper.make_node("Add", ["halved", "halved"], ["logits"]))
    onnx.save(model, tmp_path / "model.onnx")
    runtime = open_onnx(tmp_path / "model.onnx", config, pad_id=PAD)
    assert isinstance(runtime, OnnxRuntime) and "differs from the file by" in runtime.note


def test_a_half_of_the_probes_is_not_enough(exported, monkeypatch):
    """A network that agrees on short sequences alone is found out."""
    path, config, _ = exported("bert")
    real = packed_onnx.feed_of

    def feed(*args):
        made = real(*args)
        made["places"] = np.minimum(made["places"], 30)
        return made

    monkeypatch.setattr(packed_onnx, "feed_of", feed)
    assert "on 65 tokens" in open_onnx(path, config, pad_id=PAD).note


def test_what_cannot_be_run(exported):
    path, config, _ = exported("bert")
    runtime = open_onnx(path, config, pad_id=PAD)
    ids, kinds = batch([4, 141])
    with pytest.raises(ModelError, match="an input of 141 tokens; expected at most 140"):
        runtime.run(ids, kinds, "logits")
    with pytest.raises(ModelError, match=r"output 'states'"):
        runtime.run(*batch([4]), "states")
    with pytest.raises(ModelError, match="failed on 1 inputs"):
        runtime.run(Packed.from_rows([[5, 90]], np.int64), Packed.from_rows([[0, 0]], np.int64), "logits")
    with pytest.raises(UnsupportedModelError, match="device 'tensorrt'"):
        PackedOnnx(runtime.architecture, device="tensorrt")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"place": "pre"}, "place 'pre'"),
        ({"positions": "rope"}, "positions 'rope'"),
        ({"norm": "rms"}, "norm 'rms'"),
        ({"gated": True}, "gated"),
        ({"windows": (4, None, None)}, "windows"),
        ({"kv_heads": 2}, "kv_heads"),
        ({"head": "prediction"}, "head 'prediction'"),
        ({"activation": "silu"}, "activation 'silu'"),
        ({"causal": True}, "causal"),
    ],
)
def test_an_architecture_without_a_packed_graph(exported, change, named):
    path, config, _ = exported("bert")
    encoder = encoder_of(path, config)
    other = Encoder(type(encoder.architecture)(**{**vars(encoder.architecture), **change}), encoder.weights)
    assert refuse(encoder.architecture) is None and named in (refuse(other.architecture) or "")
    with pytest.raises(UnsupportedModelError, match=named.replace("(", r"\(")):
        packed_graph(other, "cpu")


@pytest.mark.parametrize("kind", ["cuda", "ragged"])
@pytest.mark.parametrize("task", ["ForSequenceClassification", "Model"])
def test_the_graphs_of_gpus_by_their_structure(exported, kind, task):
    """No kernel for their attention runs here: what is tested is that each is a graph, and that its inputs are what is fed."""
    path, config, _ = exported("bert", task)
    encoder = encoder_of(path, config)
    model, arrays = packed_graph(encoder, kind)
    whole_model = onnx.load_model_from_string(whole(model, arrays))
    if kind == "cuda":
        onnx.checker.check_model(whole_model)
    ops = [node.op_type for node in whole_model.graph.node]
    attention = {"cuda": "PackedMultiHeadAttention", "ragged": "TRT_Attention"}[kind]
    assert ops.count(attention) == 3 and "If" not in ops and "MultiHeadAttention" not in ops
    domains = {node.domain for node in whole_model.graph.node}
    assert domains == ({"", "com.microsoft"} if kind == "cuda" else {""})
    feed = feed_of(encoder.architecture, kind, *batch([2, 4]))
    assert {entry.name for entry in whole_model.graph.input} == set(feed)
    assert feed["cumulative"].tolist() == [0, 2, 6] and feed["cumulative"].dtype == np.int32
    if kind == "cuda":
        assert feed["offsets"].tolist() == [[0, 1, 4, 5], [6, 7, 2, 3]], "tokens first, then padding"
        with pytest.raises(ModelError, match="may not look at"):
            feed_of(encoder.architecture, kind, *batch([2, 4]), np.array([1, 4]))
    elif task != "Model":
        assert feed["ones"].tolist() == [0, 1, 2]


def test_the_graph_of_the_cpu_is_valid_and_computes_its_last_layer_for_first_tokens_alone(exported):
    path, config, _ = exported("bert")
    model = onnx.load_model_from_string(whole(*packed_graph(encoder_of(path, config), "cpu")))
    onnx.checker.check_model(model)
    names = {tensor.name for tensor in model.graph.initializer}
    assert {"1.qkv.weight", "2.q.weight", "2.kv.weight"} <= names and "2.qkv.weight" not in names
    assert [node.op_type for node in model.graph.node].count("If") == 3
