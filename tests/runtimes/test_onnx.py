"""ONNX Runtime: what it may run on, what happens where it cannot, and what it is given."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import onnxruntime
import pytest
from models import CLS, PAD, SEP, cross, encoder, logits_of, pair_ids, states_of, write_encoder, write_model

import rerank_engine as rr
from rerank_engine.errors import BackendUnavailable, MissingDependency
from rerank_engine.packed import Packed
from rerank_engine.runtimes import onnx, onnx_file
from rerank_engine.runtimes.onnx import OnnxRuntime

without_cuda = pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("cross"), cross())


@pytest.mark.parametrize("runtime", ["torch", "tensorrt", "ONNX", ""])
def test_an_unknown_runtime(folder, runtime):
    with pytest.raises(BackendUnavailable, match=r"there is none of that name.*Available: onnx"):
        rr.load(folder, runtime=runtime)


@pytest.mark.parametrize("device", ["tpu", "gpu", "CPU", "cuda:0", ""])
def test_an_unknown_device(folder, device):
    with pytest.raises(BackendUnavailable, match="It knows cpu, cuda"):
        rr.load(folder, device=device)


@without_cuda
def test_cuda_by_name_never_falls_back(folder, monkeypatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *args, **kwargs: pytest.fail("a session was made all the same"))
    with warnings.catch_warnings(), pytest.raises(BackendUnavailable, match=r"has no CUDAExecutionProvider.*\[gpu\].*device='cpu'"):
        warnings.simplefilter("error")
        rr.load(folder, device="cuda")


def test_a_session_that_comes_up_elsewhere_is_not_taken(folder, monkeypatch):
    """onnxruntime falls back to the CPU without a word when a GPU's libraries do not load."""
    real = onnxruntime.InferenceSession
    asked = []

    def session(model, options, providers, enable_fallback):
        assert not enable_fallback, "onnxruntime's own fallback would print to standard output and go on with the CPU"
        asked.append(providers)
        return real(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(BackendUnavailable, match="'cuda' asked for, but the session came up on CPUExecutionProvider"):
        rr.load(folder, device="cuda")
    assert asked == [["CUDAExecutionProvider"]], "and the CPU is not offered to it"
    reason, detail = onnx.probe("cuda")
    assert reason is not None and "came up on CPUExecutionProvider" in reason and detail == ""


@pytest.mark.parametrize(("seen", "device"), [(None, "cuda"), ("no GPU", "cpu")])
def test_auto_takes_the_device_that_ran_a_model(folder, monkeypatch, seen, device):
    asked, real = [], onnx.open_session
    monkeypatch.setattr(onnx, "probe", lambda name: (seen, ""))
    monkeypatch.setattr(onnx, "open_session", lambda model, name, *rest: asked.append(name) or real(model, "cpu", *rest))
    model = rr.load(folder)
    assert asked == [device] and model.backend == f"onnx/{device}"


def test_probing_runs_a_model():
    reason, detail = onnx.probe("cpu")
    assert reason is None and onnxruntime.__version__ in detail and "ran a model" in detail
    assert onnx.probe("tpu")[0] is not None


@without_cuda
def test_auto_here_is_the_cpu_and_says_so(folder):
    model = rr.load(folder)
    assert model.backend == "onnx/cpu" and "onnx/cpu" in repr(model)


@pytest.mark.parametrize("module", ["onnxruntime", "google.protobuf"])
def test_without_a_package(folder, monkeypatch, module):
    onnx_file._model_class.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    if module == "google.protobuf":
        monkeypatch.delattr("google.protobuf", raising=False)
    package = module.replace("google.", "")
    with pytest.raises(MissingDependency, match=rf"need.* {package}.*the extra \[cpu\]"):
        rr.load(folder, device="cpu")


def test_a_broken_onnxruntime_is_not_a_missing_one(folder, monkeypatch, tmp_path):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("import a_part_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    with pytest.raises(ModuleNotFoundError, match="a_part_that_is_not_there"):
        rr.load(folder, device="cpu")


def packed(pairs):
    rows = [pair_ids(*pair) for pair in pairs]
    return Packed.from_rows([ids for ids, _ in rows], np.int64), Packed.from_rows([types for _, types in rows], np.int64)


@pytest.mark.parametrize("int32", [False, True])
def test_what_the_network_is_given(tmp_path, int32):
    runtime = OnnxRuntime(write_model(tmp_path, cross(int32=int32)) / "model.onnx", pad_id=PAD)
    given, session = [], runtime._session

    class Spy:
        def run(self, outputs, inputs):
            given.append((outputs, inputs))
            return session.run(outputs, inputs)

    runtime._session = Spy()
    pairs = [("w0", "w1 w2"), ("w0", "")]
    assert runtime.run(*packed(pairs), "logits").tolist() == [[logits_of(*pair)[0]] for pair in pairs]
    outputs, inputs = given[0]
    assert outputs == ["logits"], "only what is needed is computed"
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.int32 if int32 else np.int64)}
    assert inputs["input_ids"].tolist() == [[CLS, 4, SEP, 5, 6, SEP], [CLS, 4, SEP, SEP, PAD, PAD]]
    assert inputs["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 1, 0, 0]]
    assert inputs["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 0, 0]]


def test_an_output_with_a_token_axis_has_its_padding_still(tmp_path):
    runtime = OnnxRuntime(write_encoder(tmp_path, model=encoder(output="sentence_embedding")) / "model.onnx", pad_id=PAD)
    assert runtime.outputs == ("last_hidden_state", "sentence_embedding")
    texts = ["w1 w2 w3", "w4"]
    ids = Packed.from_rows([[CLS, 5, 6, 7, SEP], [CLS, 8, SEP]], np.int64)
    states = runtime.run(ids, Packed(np.zeros(8, np.int64), ids.offsets), "last_hidden_state")
    assert states.shape == (2, 5, 3) and states.dtype == np.float32
    assert (states[0] == states_of(texts[0])).all() and (states[1, :3] == states_of(texts[1])).all()
    assert (states[1, 3:] != 0).any(), "the tiny encoder must leave something there, or pooling is not tested"


def test_batch_sensitivity_is_read_from_the_file(tmp_path, folder):
    assert not OnnxRuntime(folder / "model.onnx").batch_sensitive
    assert OnnxRuntime(write_model(tmp_path, cross(quantized=True)) / "model.onnx").batch_sensitive
