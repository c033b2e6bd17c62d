"""Masked-LM heads: the weights of SPLADE equal those of transformers' logits, by both runtimes, whatever a text is batched with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models import cross, tokenizer, write_model
from sparse_models import CHECKPOINTS, logits_of, write_masked

import rerank_engine as rr
from rerank_engine.backends import try_import
from rerank_engine.errors import CorruptModelError, UnsupportedModelError
from rerank_engine.packed import Packed
from rerank_engine.runtimes import network
from rerank_engine.runtimes.batching import run_rows
from rerank_engine.runtimes.checkpoint import read_checkpoint
from rerank_engine.runtimes.encoder import Encoder
from rerank_engine.runtimes.packed_graph import PIECE, packed_graph, refuse
from rerank_engine.runtimes.packed_onnx import PackedOnnx, feed_of
from rerank_engine.runtimes.tokenize import Tokens
from rerank_engine.stages.splade import SparseEncoder

safetensors = pytest.importorskip("safetensors.numpy", reason="checkpoints are written by the package safetensors")
LENGTHS = [1, 2, PIECE - 1, PIECE, PIECE + 1, 17, 17, 3 * PIECE, 300]  # torch pools 256 tokens at a time


def runtimes(encoder: Encoder) -> list:
    from rerank_engine.runtimes.torch import TorchRuntime

    packs = refuse(encoder.architecture) is None and try_import("onnx") is None
    return [TorchRuntime(encoder, threads=1), *([PackedOnnx(encoder, threads=1)] if packs else [])]


def told(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def batch() -> tuple[list[np.ndarray], Packed, Packed]:
    rng = np.random.default_rng(0)
    ids = [rng.integers(2, 90, n) for n in LENGTHS]
    return ids, Packed.from_rows(ids, np.int64), Packed.from_rows([np.zeros_like(row) for row in ids], np.int64)


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_weights_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    model = write_masked(tmp_path, kind)
    encoder = read_checkpoint("tiny", tmp_path, told(tmp_path))
    rows, ids, types = batch()
    want = np.stack([np.log1p(np.maximum(logits_of(model, row), 0)).max(0) for row in rows])
    assert (want > 0).any() and (want == 0).any() and ("decoder" in encoder.weights) == ("untied" in kind or "biased" in kind)
    for runtime in runtimes(encoder):
        assert runtime.outputs == ("weights",)
        got = runtime.run(ids, types, "weights")
        assert got.dtype == np.float32 and got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=1e-4)
        for i, row in enumerate(rows):
            own = Packed.from_rows([row], np.int64)
            np.testing.assert_allclose(runtime.run(own, Packed.from_rows([np.zeros_like(row)]), "weights")[0], got[i], atol=1e-5)


@pytest.mark.parametrize(("pooling", "saturations"), [("max", 2), ("sum", 1), ("sum", 2)])
def test_other_poolings(tmp_path: Path, pooling: str, saturations: int) -> None:
    model = write_masked(tmp_path, "bert")
    read = read_checkpoint("tiny", tmp_path, told(tmp_path))
    encoder = Encoder(replace(read.architecture, pooling=pooling, saturations=saturations), read.weights)
    rows, ids, types = batch()
    found = [np.log1p(np.maximum(logits_of(model, row), 0)) for row in rows]
    found = [np.log1p(x) for x in found] if saturations == 2 else found
    want = np.stack([x.max(0) if pooling == "max" else x.sum(0) for x in found])
    for runtime in runtimes(encoder):
        np.testing.assert_allclose(runtime.run(ids, types, "weights"), want, rtol=1e-5, atol=1e-4)


def test_pieces_are_the_tokens_of_each_sequence(tmp_path: Path) -> None:
    """So no more than [PIECE, vocabulary] logits are there at once."""
    write_masked(tmp_path, "bert")
    encoder = read_checkpoint("tiny", tmp_path, told(tmp_path))
    _, ids, types = batch()
    feed = feed_of(encoder.architecture, "cpu", ids, types)
    begins, ends = feed["begins"][:, 0], feed["ends"][:, 0]
    assert begins[0] == 0 and ends[-1] == ids.offsets[-1] and (begins[1:] == ends[:-1]).all()
    assert ((ends - begins > 0) & (ends - begins <= PIECE)).all() and set(ids.offsets[:-1].tolist()) <= set(begins.tolist())
    for kind in ("cuda", "ragged"):
        with pytest.raises(UnsupportedModelError, match="a masked-LM head"):
            packed_graph(encoder, kind)


def test_old_names_of_norms(tmp_path: Path) -> None:
    write_masked(tmp_path, "bert")
    want = read_checkpoint("tiny", tmp_path, told(tmp_path))
    path = tmp_path / "model.safetensors"
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = safetensors.load_file(path)
    renamed = {
        f"{n.rsplit('.', 2)[0]}.{names.get('.'.join(n.rsplit('.', 2)[1:]), '.'.join(n.rsplit('.', 2)[1:]))}": t
        for n, t in tensors.items()
        if n.count(".") > 1
    }
    safetensors.save_file(renamed, path)
    assert sum(name.endswith(".gamma") for name in renamed) == 6
    got = read_checkpoint("tiny", tmp_path, told(tmp_path))
    assert got.weights.keys() == want.weights.keys() and all((got.weights[name] == want.weights[name]).all() for name in want.weights)


@pytest.mark.parametrize(("kind", "head"), [("bert-untied", "cls.predictions."), ("roberta", "lm_head.")])
def test_a_decoder_without_a_bias_of_its_own_has_that_of_the_head(tmp_path: Path, kind: str, head: str) -> None:
    write_masked(tmp_path, kind, tie_word_embeddings=False)
    tensors = safetensors.load_file(tmp_path / "model.safetensors")
    own = tensors.pop(f"{head}decoder.bias")
    assert (read_checkpoint("tiny", tmp_path, told(tmp_path)).weights["head.bias"] == own).all()
    tensors[f"{head}bias"] = own + 1
    safetensors.save_file(tensors, tmp_path / "model.safetensors")
    assert (read_checkpoint("tiny", tmp_path, told(tmp_path)).weights["head.bias"] == own + 1).all()


def test_sequences_times_vocabulary_of_a_call_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank_engine.runtimes import torch as module

    write_masked(tmp_path, "bert")
    encoder = read_checkpoint("tiny", tmp_path, told(tmp_path))
    assert module.TorchRuntime(encoder, threads=1).cost.most == module.COSTS["cpu"].most
    monkeypatch.setattr(module, "LARGEST", 90 * 10)
    runtime = module.TorchRuntime(encoder, threads=1)
    assert runtime.cost.most == 10
    calls: list[int] = []
    monkeypatch.setattr(runtime, "run", lambda ids, *a: (calls.append(len(ids)), module.TorchRuntime.run(runtime, ids, *a))[1])
    rows = [np.array([2, 3 + i]) for i in range(25)]
    tokens = Tokens(Packed.from_rows(rows), Packed.from_rows([np.zeros_like(row) for row in rows]), np.zeros(25, np.int32))
    assert len(run_rows(runtime, tokens, "weights", np.copy)) == 25 and max(calls) <= 10 and sum(calls) == 25


@pytest.mark.parametrize("runtime", ["auto", "onnx"])
def test_without_torch_a_gpu_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str) -> None:
    pytest.importorskip("onnx", reason="the packed graph is written by the package onnx")
    write(tmp_path)
    monkeypatch.setattr(network, "has_gpu", lambda: True)
    monkeypatch.setattr(network, "_onnx_on_cuda", lambda: True)
    monkeypatch.setattr(network, "try_import", lambda name: "not installed" if name == "torch" else try_import(name))
    assert rr.load(tmp_path, runtime=runtime).backend == "onnx/cpu (packed)"
    with pytest.raises(UnsupportedModelError, match="a masked-LM head"):
        rr.load(tmp_path, runtime=runtime, device="cuda")


def test_a_head_that_is_missing_is_named(tmp_path: Path) -> None:
    write_masked(tmp_path, "bert")
    tensors = safetensors.load_file(tmp_path / "model.safetensors")
    for name, wrong in (("cls.predictions.bias", None), ("cls.predictions.bias", np.zeros(3, np.float32))):
        changed = {**tensors, name: wrong}
        safetensors.save_file({key: value for key, value in changed.items() if value is not None}, tmp_path / "model.safetensors")
        with pytest.raises(CorruptModelError, match=r"cls\.predictions\.bias|head\.bias"):
            read_checkpoint("tiny", tmp_path, told(tmp_path))


MLM, SPLADE = ({"type": f"sentence_transformers.sparse_encoder.models.{name}.{name}"} for name in ("MLMTransformer", "SpladePooling"))
POOLING = {"modules.json": [MLM, {**SPLADE, "path": "1_SpladePooling"}]}


def write(folder: Path, files: dict | None = None) -> Path:
    write_masked(folder, "bert")
    tokenizer().save(str(folder / "tokenizer.json"))
    for path, content in (files or {}).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        ({}, ("max", 1)),
        ({"pooling_strategy": "max", "activation_function": "relu"}, ("max", 1)),
        ({"pooling_strategy": "sum", "activation_function": "log1p_relu"}, ("sum", 2)),
    ],
)
def test_the_config_decides(tmp_path: Path, said: dict, pooling: tuple) -> None:
    files = {**POOLING, "1_SpladePooling/config.json": said} if said else {}
    made = {name: rr.load(write(tmp_path, files), device="cpu", runtime=name) for name in ("onnx", "torch")}
    for name, encoder in made.items():
        assert isinstance(encoder, SparseEncoder) and encoder.backend == f"{name}/cpu (packed)"
        assert (encoder.runtime.architecture.pooling, encoder.runtime.architecture.saturations) == pooling
    (ids, weights), (others, same) = (encoder.encode(["w1 w2 w3"])[0] for encoder in made.values())
    assert ids.tolist() == others.tolist() and np.allclose(weights, same, atol=1e-4) and len(ids) > 0
    assert made["onnx"].fingerprint == made["torch"].fingerprint, "an index of one is searched by the other"
    assert rr.load(tmp_path, device="cpu", max_length=20).fingerprint != made["onnx"].fingerprint


def test_what_is_no_sparse_encoder_is_refused(tmp_path: Path) -> None:
    wrong = {**POOLING, "1_SpladePooling/config.json": {"pooling_strategy": "mean"}}
    with pytest.raises(UnsupportedModelError, match="SpladePooling: got 'mean' of 'relu'"):
        rr.load(write(tmp_path / "a", wrong), device="cpu")
    router = {"modules.json": [{"type": "sentence_transformers.models.Router"}]}
    with pytest.raises(UnsupportedModelError, match=r"modules\.json: got Router"):
        rr.load(write(tmp_path / "b", router), device="cpu")
    dense = {"modules.json": [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]}
    with pytest.raises(UnsupportedModelError, match=r"got BertForMaskedLM .*Pooling.*expected an encoder, or Splade\w+\. AutoModel"):
        rr.load(write(tmp_path / "c", dense), device="cpu")
    with pytest.raises(UnsupportedModelError, match=r"an ONNX file alone.*safetensors"):
        rr.load(write_model(tmp_path / "d", cross(), "BertForMaskedLM"), device="cpu")
