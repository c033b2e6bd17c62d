"""Seq2seq models by two ONNX graphs, padded, against the packed torch runtime; and which runtime `rr.load` takes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from t5_models import SIZE, config_of, first_logits, write_graphs, write_t5

import rerank_engine as rr
from rerank_engine.errors import (
    BackendUnavailable,
    CorruptModelError,
    InputError,
    ModelError,
    UnknownModelError,
    UnsafeModelError,
    UnsupportedModelError,
)
from rerank_engine.packed import Packed
from rerank_engine.runtimes.t5 import read_t5
from rerank_engine.runtimes.t5_onnx import T5Onnx
from rerank_engine.runtimes.t5_torch import T5Torch

pytest.importorskip("onnx", reason="torch writes ONNX graphs with the package onnx")
ANSWERS = (3, 4)


def packed(lengths: list[int]) -> tuple[list[np.ndarray], Packed, Packed]:
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, SIZE, n) for n in lengths]
    ids = Packed.from_rows(rows, np.int64)
    return rows, ids, Packed(np.zeros_like(ids.values), ids.offsets)


@pytest.fixture(scope="module", params=["t5", "mt5"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp(request.param)
    model = write_t5(path, request.param)
    write_graphs(path, model)
    return path, model


def test_padded_graphs_agree_with_packed_torch_and_transformers(folder: tuple[Path, Any]) -> None:
    path, model = folder
    rows, ids, types = packed([40, 33, 17, 17, 5, 2, 1, 130])
    runtime = T5Onnx(path / "encoder_model.onnx", ANSWERS, 0, threads=1)
    together = runtime.run(ids, types, "logits")
    alone = np.concatenate([runtime.run(ids.part(i, i + 1), types.part(i, i + 1), "logits") for i in range(len(rows))])
    exact = T5Torch(read_t5("tiny", path, config_of(path), ANSWERS)).run(ids, types, "logits")
    assert together.shape == (8, 1) and together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(together, exact, atol=1e-4)
    wanted = first_logits(model, rows)
    np.testing.assert_allclose(together[:, 0], wanted[:, 3] - wanted[:, 4], atol=1e-4)
    one = T5Onnx(path / "encoder_model.onnx", (7,), 0).run(ids, types, "logits")
    np.testing.assert_allclose(one[:, 0], wanted[:, 7], atol=1e-4)


def test_which_runtime_is_taken(folder: tuple[Path, Any], tmp_path: Path) -> None:
    path, pairs = folder[0], [("w1 w2", "w3 w4"), ("w1", " ".join(["w7"] * 90))]
    named = {runtime: rr.load(path, prompt="monot5", device="cpu", runtime=runtime) for runtime in ("torch", "onnx", "auto")}
    backends = {runtime: model.backend for runtime, model in named.items()}
    assert backends == {"torch": "torch/cpu (packed)", "onnx": "onnx/cpu (padded)", "auto": "torch/cpu (packed)"}
    scores = [model.predict(pairs).values for model in named.values()]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)
    shutil.copytree(path, tmp_path / "graphs")
    (tmp_path / "graphs" / "model.safetensors").unlink()
    assert rr.load(tmp_path / "graphs", prompt="monot5", device="cpu").backend == "onnx/cpu (padded)"
    with pytest.raises(UnsupportedModelError, match=r"runtime torch: got no \.safetensors"):
        rr.load(tmp_path / "graphs", prompt="monot5", device="cpu", runtime="torch")


def test_where_graphs_lie(folder: tuple[Path, Any], tmp_path: Path) -> None:
    path = folder[0]
    (tmp_path / "onnx").mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(path / name, tmp_path)
    for part in ("encoder", "decoder"):
        shutil.copy(path / f"{part}_model.onnx", tmp_path / "onnx" / f"{part}_model_small.onnx")
    with pytest.raises(UnknownModelError, match=r"no encoder_model\.onnx or onnx/encoder_model\.onnx with its decoder.*file="):
        rr.load(tmp_path, prompt="monot5", device="cpu")
    file = "onnx/encoder_model_small.onnx"
    assert rr.load(tmp_path, prompt="monot5", device="cpu", file=file).backend == "onnx/cpu (padded)"
    for part in ("encoder", "decoder"):
        shutil.move(tmp_path / "onnx" / f"{part}_model_small.onnx", tmp_path / "onnx" / f"{part}_model.onnx")
    assert rr.load(tmp_path, prompt="rankt5", device="cpu").backend == "onnx/cpu (padded)"
    (tmp_path / "onnx" / "decoder_model.onnx").unlink()
    with pytest.raises(UnknownModelError, match="with its decoder"):
        rr.load(tmp_path, prompt="monot5", device="cpu")


def test_what_is_refused(folder: tuple[Path, Any], tmp_path: Path) -> None:
    path = folder[0]
    for options, error, message in (
        ({"runtime": "tensorrt"}, BackendUnavailable, "tensorrt"),
        ({"runtime": "native"}, BackendUnavailable, "none of that name"),
        ({"runtime": "onnx", "precision": "float32"}, BackendUnavailable, "precision 'float32'"),
        ({"precision": "float16"}, UnsupportedModelError, "bfloat16"),
        ({"precision": "int4"}, InputError, "precision"),
    ):
        with pytest.raises(error, match=message):
            rr.load(path, prompt="monot5", device="cpu", **options)
    write_t5(tmp_path)
    with pytest.raises(UnsupportedModelError, match="no ONNX graphs"):
        rr.load(tmp_path, prompt="monot5", device="cpu", runtime="onnx")
    runtime = T5Onnx(path / "encoder_model.onnx", (SIZE,), 0)
    _, ids, types = packed([3])
    with pytest.raises(ModelError, match=f"more than {SIZE}"):
        runtime.run(ids, types, "logits")
    with pytest.raises(ModelError, match="of all tokens"):
        runtime.run(ids, types, "logits", np.array([1]))
    shutil.copy(path / "encoder_model.onnx", tmp_path / "decoder_model.onnx")
    shutil.copy(path / "encoder_model.onnx", tmp_path / "encoder_model.onnx")
    with pytest.raises(UnsupportedModelError, match=r"decoder_model\.onnx: inputs and outputs: got input_ids"):
        T5Onnx(tmp_path / "encoder_model.onnx", ANSWERS, 0)
    (tmp_path / "decoder_model.onnx").write_bytes(b"\x08" * 99)
    with pytest.raises(CorruptModelError):
        T5Onnx(tmp_path / "encoder_model.onnx", ANSWERS, 0)
    shutil.copy(path / "decoder_model.onnx", tmp_path / "encoder_model.onnx")
    with pytest.raises(UnsupportedModelError, match="input"):
        T5Onnx(tmp_path / "encoder_model.onnx", ANSWERS, 0)
    with pytest.raises(UnsafeModelError, match="file"):
        rr.load(path, prompt="monot5", file="../encoder_model.onnx")


def test_a_scores_cache_knows_the_two_files(folder: tuple[Path, Any]) -> None:
    model = rr.load(folder[0], prompt="monot5", device="cpu", runtime="onnx", cache=1 << 16)
    first, again = (model.predict([("w1", "w2")]) for _ in range(2))
    assert first.values.tobytes() == again.values.tobytes() and again.facts == {"tokens": 0, "cached": 1}
    assert len(model.runtime.fingerprint) == 128
