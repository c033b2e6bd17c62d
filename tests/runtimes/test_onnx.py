"""ONNX Runtime: what it may run on, what happens where it cannot, and what it is given."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import onnxruntime
import pytest
from models import CLS, PAD, SEP, cross, encoder, external, logits_of, pair_ids, states_of, write_encoder, write_model

import rerank_engine as rr
from rerank_engine.errors import BackendUnavailable, InputError, MissingDependency
from rerank_engine.packed import Packed
from rerank_engine.runtimes import network, onnx, onnx_file
from rerank_engine.runtimes.onnx import OnnxRuntime
from rerank_engine.runtimes.onnx_session import cuda_options, engine_key, open_session, provider_options, shape_profiles, tensorrt_options

without_cuda = pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("cross"), cross())


@pytest.mark.parametrize("runtime", ["trt", "onnxruntime", "ONNX", ""])
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
    assert asked == [[("CUDAExecutionProvider", cuda_options())]], "and the CPU is not offered to it"
    reason, detail = onnx.probe("cuda")
    assert reason is not None and "came up on CPUExecutionProvider" in reason and detail == ""


@pytest.mark.parametrize(("seen", "device"), [(None, "cuda"), ("no GPU", "cpu")])
def test_auto_takes_the_device_that_ran_a_model(folder, monkeypatch, seen, device):
    asked, real = [], onnx.open_session
    monkeypatch.setattr(network, "has_gpu", lambda: True)
    monkeypatch.setattr(onnx, "probe", lambda name: (seen, ""))
    monkeypatch.setattr(onnx, "open_session", lambda model, name, *rest: asked.append(name) or real(model, "cpu", *rest))
    model = rr.load(folder, runtime="onnx")
    assert asked == [device] and model.backend == f"onnx/{device} (as published)"


def test_probing_runs_a_model():
    reason, detail = onnx.probe("cpu")
    assert reason is None and onnxruntime.__version__ in detail and "ran a model" in detail
    assert onnx.probe("tpu")[0] is not None


@without_cuda
def test_auto_here_is_the_cpu_and_says_so(folder):
    model = rr.load(folder)
    assert model.backend == "onnx/cpu (as published)" and model.backend in repr(model)


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


def test_calls_at_a_time_share_the_threads(folder):
    runtime = OnnxRuntime(folder / "model.onnx", threads=4, workers=2, pad_id=PAD)
    assert runtime.workers == 2 and runtime._session.get_session_options().intra_op_num_threads == 2
    for workers in (0, 5, True, 1.0, None):
        if workers is None:
            assert onnx.check_workers(None, 4) == 4
            continue
        with pytest.raises(InputError, match="workers"):
            OnnxRuntime(folder / "model.onnx", threads=4, workers=workers)


def test_the_session_keeps_no_memory_of_its_own(folder):
    options = OnnxRuntime(folder / "model.onnx")._session.get_session_options()
    assert not options.enable_cpu_mem_arena and not options.enable_mem_pattern


def test_a_fingerprint_is_of_what_is_in_the_files(tmp_path, folder):
    first = OnnxRuntime(folder / "model.onnx").fingerprint
    assert len(first) == 64 and first == OnnxRuntime(folder / "model.onnx").fingerprint
    made = []
    for end in (0, 1):
        model, weights = external("weights.bin")
        (tmp_path / "weights.bin").write_bytes(weights[:-1] + bytes([weights[-1] ^ end]))
        (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
        made.append(OnnxRuntime(tmp_path / "model.onnx").fingerprint)
    assert len({first, *made}) == 3, "weights in another file count"


def test_shape_profiles_hold_every_bucket():
    options, used = shape_profiles(["input_ids", "attention_mask"], 512, ((64, 64), (64, 128), (32, 256), (16, 512)))
    assert options == {
        "trt_profile_min_shapes": "input_ids:1x1,attention_mask:1x1",
        "trt_profile_opt_shapes": "input_ids:64x128,attention_mask:64x128",
        "trt_profile_max_shapes": "input_ids:64x512,attention_mask:64x512",
    }
    assert used == ((64, 64), (64, 128), (32, 256), (16, 512))
    options, used = shape_profiles(["input_ids"], 100)
    assert used == ((64, 64), (64, 100), (32, 100), (16, 100)) and options["trt_profile_max_shapes"] == "input_ids:64x100"
    with pytest.raises(InputError, match="limit"):
        shape_profiles(["input_ids"], 0)


def test_engines_are_kept_by_what_makes_them(tmp_path, monkeypatch):
    key = engine_key("a digest", {"onnxruntime": "1"}, {"half": "True"})
    others = [
        engine_key("another", {"onnxruntime": "1"}, {"half": "True"}),
        engine_key("a digest", {"onnxruntime": "2"}, {"half": "True"}),
        engine_key("a digest", {"onnxruntime": "1"}, {"half": "False"}),
    ]
    assert len({key, *others}) == 4 and key == engine_key(b"a digest", {"onnxruntime": "1"}, {"half": "True"})
    options = tensorrt_options(tmp_path, key, {"trt_profile_min_shapes": "input_ids:1x1"}, half=False, workspace=1 << 20)
    assert options["trt_engine_cache_path"] == str(tmp_path / key) and options["trt_timing_cache_path"] == str(tmp_path)
    assert options["trt_fp16_enable"] == "0" and options["trt_max_workspace_size"] == "1048576"
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_profile_min_shapes"] == "input_ids:1x1"
    assert all(isinstance(value, str) for value in options.values()), "onnxruntime takes strings alone"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = provider_options("tensorrt", content="x", inputs=["input_ids"], limit=128)
    assert first["trt_engine_cache_path"].startswith(str(tmp_path / "rerank-engine" / "tensorrt")) and second == cuda_options()
    assert first["trt_profile_max_shapes"] == "input_ids:64x128"
    assert provider_options("cpu") == [{}]


def test_tensorrt_by_name_never_falls_back(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(BackendUnavailable, match=r"no TensorrtExecutionProvider.*\[tensorrt\]"):
            OnnxRuntime(folder / "model.onnx", device="tensorrt")
    real, asked = onnxruntime.InferenceSession, []

    def session(model, options, providers, enable_fallback):
        asked.append(providers)
        return real(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider", "CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(BackendUnavailable, match="'tensorrt' asked for, but the session came up on CPUExecutionProvider"):
        OnnxRuntime(folder / "model.onnx", device="tensorrt", limit=32)
    (first, options), (second, _) = asked[0]
    assert (first, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert options["trt_profile_max_shapes"] == "input_ids:64x32,attention_mask:64x32,token_type_ids:64x32", "the inputs of this file"
    assert (tmp_path / "rerank-engine" / "tensorrt").is_dir()
    assert onnx.probe("tensorrt")[0] is not None


def test_calls_of_many_rows_stay_within_the_profile(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(onnx, "open_session", lambda model, device, threads, name, options: open_session(model, "cpu", threads, name))
    runtime = OnnxRuntime(folder / "model.onnx", device="tensorrt", pad_id=PAD)
    assert (runtime.name, runtime.device) == ("tensorrt", "cuda")
    pairs = [("w0", " ".join(["w3"] * (1 + i % 7))) for i in range(150)]
    given, session = [], runtime._session

    class Spy:
        def run(self, outputs, inputs):
            given.append(len(inputs["input_ids"]))
            return session.run(outputs, inputs)

    runtime._session = Spy()
    assert runtime.run(*packed(pairs), "logits").tolist() == [[logits_of(*pair)[0]] for pair in pairs]
    assert given == [64, 64, 22]
