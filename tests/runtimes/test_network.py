"""Which runtime a model gets: by its files, the device and what is asked for; and that all of them give the same scores."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from models import byte_level, cross, tokenizer, write_model
from reference_models import BASE, answers, make, torch

import rerank_engine as rr
from rerank_engine.errors import BackendUnavailable, InputError, UnknownModelError, UnsupportedModelError
from rerank_engine.runtimes import network
from rerank_engine.runtimes.prompts import PROMPTS, Prompt, PromptTokenizer
from rerank_engine.runtimes.tokenize import Tokenizer

PAIRS = [("w1 w2", "w3 w4 w5"), ("w1 w2", "w6"), ("w9", "w3 w4 w5 w6 w7 w8 w9 w10")]


def checkpoint(folder: Path, family: str, **more) -> object:  # type: ignore[no-untyped-def]
    model = make(folder, family, **more)
    tokenizer().save(str(folder / "tokenizer.json"))
    return model


def wanted(model, pairs) -> np.ndarray:  # type: ignore[no-untyped-def]
    encoded = [tokenizer().encode(query, document) for query, document in pairs]
    return answers(model, [np.array(e.ids) for e in encoded], [np.array(e.type_ids) for e in encoded])[:, 0]


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_a_checkpoint_without_onnx_runs_packed_and_needs_no_torch(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = wanted(checkpoint(tmp_path, family), PAIRS)
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
    loaded = rr.load(tmp_path, device="cpu")
    assert repr(loaded.runtime).startswith("PackedOnnx(cpu") and "packed" in repr(loaded)
    np.testing.assert_allclose(loaded.predict(PAIRS).values, exact, atol=1e-4)


@pytest.mark.parametrize("family", ["modernbert", "qwen3"])
def test_what_has_no_packed_graph_runs_in_torch(tmp_path: Path, family: str) -> None:
    model = checkpoint(tmp_path, family)
    loaded = rr.load(tmp_path, device="cpu")
    assert repr(loaded.runtime).startswith("TorchRuntime(cpu, float32")
    np.testing.assert_allclose(loaded.predict(PAIRS).values, wanted(model, PAIRS), atol=1e-4)


def test_torch_by_name_gives_the_same(tmp_path: Path) -> None:
    checkpoint(tmp_path, "bert")
    by_onnx, by_torch = rr.load(tmp_path, device="cpu"), rr.load(tmp_path, device="cpu", runtime="torch", threads=1)
    assert by_torch.backend == "torch/cpu (packed)"
    np.testing.assert_allclose(by_onnx.predict(PAIRS).values, by_torch.predict(PAIRS).values, atol=1e-5)
    half = rr.load(tmp_path, device="cpu", precision="bfloat16")
    assert "TorchRuntime(cpu, bfloat16" in repr(half.runtime)


def test_a_dynamic_int8_file_comes_back_as_float32(tmp_path: Path) -> None:
    """The bundled model: its int8 scores and those of its weights in float32 differ by the rounding of activations alone."""
    pytest.importorskip("onnxruntime", reason="runs ONNX models")
    name, pairs = "ms-marco-MiniLM-L-12-v2", [("what is a rose", "A rose is a flower."), ("what is a rose", "Cars have wheels.")]
    published = rr.load(name, device="cpu", threads=1)
    exact = rr.load(name, device="cpu", threads=1, precision="float32")
    assert published.runtime.batch_sensitive and not exact.runtime.batch_sensitive
    a, b = published.predict(pairs).values, exact.predict(pairs).values
    assert 0 < np.abs(a - b).max() < 1 and a[0] > a[1] and b[0] > b[1]
    by_torch = rr.load(name, device="cpu", threads=1, runtime="torch")
    np.testing.assert_allclose(by_torch.predict(pairs).values, b, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen3", "qwen2"])
def test_a_decoder_answers_a_prompt(tmp_path: Path, family: str) -> None:
    model = make(tmp_path, family, "ForCausalLM", vocab_size=800, max_position_embeddings=400)
    byte_level(tmp_path)
    name = "qwen3-reranker" if family == "qwen3" else "mxbai-rerank-v2"
    loaded = rr.load(tmp_path, device="cpu", prompt=name)
    pairs = [("a rose", "is a rose"), ("a rose", "yes"), ("no", "a rose is")]
    got = loaded.predict(pairs).values
    raw = Tokenizer(tmp_path / "tokenizer.json", 400)
    yes, no = PROMPTS[name].choice(raw)
    for value, row in zip(got, PromptTokenizer(raw, PROMPTS[name]).encode(pairs).tokens.ids):
        with torch.no_grad():
            last = model(torch.from_numpy(row)[None]).logits[0, -1]
        assert abs(float(last[yes] - last[no]) - value) < 2e-4
    own = rr.load(tmp_path, device="cpu", prompt=Prompt("", " ", " ", "yes", "no"))
    assert (own.predict(pairs).values != got).all()


def test_what_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "onnx", cross())
    with pytest.raises(UnsupportedModelError, match="word_embeddings"):
        rr.load(folder, device="cpu", runtime="torch")
    with pytest.raises(BackendUnavailable, match="precision 'float16'"):
        rr.load(folder, device="cpu", runtime="onnx", precision="float16")
    with pytest.raises(InputError, match="precision"):
        rr.load(folder, device="cpu", precision="int4")
    with pytest.raises(BackendUnavailable, match="runtime tensorrt: device 'cpu'"):
        rr.load(folder, device="cpu", runtime="tensorrt")
    make(tmp_path / "t", "bert")
    config = json.loads((tmp_path / "t" / "config.json").read_text())
    (tmp_path / "t" / "config.json").write_text(json.dumps(config | {"architectures": ["DebertaV2ForSequenceClassification"]}))
    with pytest.raises(UnknownModelError, match=r"its \.safetensors are of a family that needs it"):
        rr.load(tmp_path / "t", device="cpu")
    shutil.rmtree(tmp_path / "t")


def test_a_vocabulary_larger_than_the_embeddings_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path, "bert")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 30}))
    with pytest.raises(rr.errors.CorruptModelError, match="tokens for 30 embeddings"):
        rr.load(tmp_path, device="cpu")
    assert BASE["vocab_size"] > 60


def test_no_gpu_is_found_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    network.has_gpu.cache_clear()
    monkeypatch.setattr(network.ctypes, "CDLL", absent)
    assert not network.has_gpu() and network._device("auto", "auto") == "cpu"
    network.has_gpu.cache_clear()
