"""A model's files must not reach outside its folder, and what is checked must be what is run."""

from __future__ import annotations

import os

import onnxruntime
import pytest
from models import cross, external, logits_of, write_model

import rerank_engine as rr
from rerank_engine.errors import CorruptModelError, UnsafeModelError
from rerank_engine.runtimes import onnx as runtime
from rerank_engine.runtimes.onnx_file import check_external


@pytest.fixture
def folder(tmp_path):
    """<tmp>/model holds real files, links and a folder; <tmp>/secret lies outside."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weights").write_bytes(b"w")
    inside = tmp_path / "model"
    (inside / "sub" / "deep").mkdir(parents=True)
    for name in ("weights", "sub/weights", "sub/deep/weights", "..weights", "a b"):
        (inside / name).write_bytes(b"w")
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "link_inside").symlink_to("weights")
    (inside / "dangling").symlink_to("nowhere")
    (inside / "linked").symlink_to(tmp_path / "elsewhere")
    (inside / "sub" / "back").symlink_to("..")
    os.link(tmp_path / "secret", inside / "hard")
    os.mkfifo(inside / "pipe")
    (inside / "*").mkdir()
    (inside / "*" / "_ORT_MEM_ADDR_").mkdir()
    (inside / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(b"w")
    return inside


@pytest.mark.parametrize("location", ["weights", "./weights", "sub/weights", "sub//deep/./weights", "..weights", "a b"])
def test_files_below_the_folder_are_fine(folder, location):
    check_external(folder / "model.onnx", (location,))


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("/etc/passwd", UnsafeModelError),
        ("//etc/passwd", UnsafeModelError),
        ("..", UnsafeModelError),
        ("../secret", UnsafeModelError),
        ("a/../../secret", UnsafeModelError),
        ("sub/../weights", UnsafeModelError),
        ("sub/..", UnsafeModelError),
        ("..\\secret", UnsafeModelError),
        ("sub\\weights", UnsafeModelError),
        ("C:\\weights", UnsafeModelError),
        ("weights\0", UnsafeModelError),
        ("", UnsafeModelError),
        (".", UnsafeModelError),
        ("link", UnsafeModelError),
        ("link_inside", UnsafeModelError),
        ("dangling", UnsafeModelError),
        ("linked/weights", UnsafeModelError),
        ("sub/back/weights", UnsafeModelError),
        ("hard", UnsafeModelError),
        ("sub", UnsafeModelError),
        ("pipe", UnsafeModelError),
        ("*/_ORT_MEM_ADDR_/*", UnsafeModelError),
        ("missing", CorruptModelError),
        ("missing/weights", CorruptModelError),
        ("weights/below-a-file", CorruptModelError),
        ("n" * 5000, CorruptModelError),
    ],
)
def test_everything_else_is_refused(folder, location, error):
    with pytest.raises(error, match="external data at"):
        check_external(folder / "model.onnx", ("weights", location))


def test_the_folder_itself_may_be_reached_by_a_link(folder, tmp_path):
    (tmp_path / "alias").symlink_to(folder)
    check_external(tmp_path / "alias" / "model.onnx", ("sub/weights",))


@pytest.mark.parametrize("location", ["weights.bin", "data/weights.bin"])
def test_external_weights_load_and_score_right(tmp_path, location):
    model, data = external(location)
    folder = write_model(tmp_path, model)
    (folder / location).parent.mkdir(exist_ok=True)
    (folder / location).write_bytes(data)
    assert rr.load(folder, device="cpu").predict([("w1 w2", "w3")]).values == logits_of("w1 w2", "w3")[0]


@pytest.mark.parametrize("how", ["absolute", "above", "link", "linked folder", "hard link", "missing"])
def test_unsafe_weights_are_refused_before_onnxruntime_sees_them(tmp_path, monkeypatch, how):
    target = tmp_path / "outside" / "weights.bin"
    location = {"absolute": str(target), "above": "../outside/weights.bin", "linked folder": "linked/weights.bin"}.get(how, "weights.bin")
    model, data = external(location)
    folder = write_model(tmp_path / "model", model)
    target.parent.mkdir()
    target.write_bytes(data)
    if how == "link":
        (folder / location).symlink_to(target)
    elif how == "linked folder":
        (folder / "linked").symlink_to(target.parent)
    elif how == "hard link":
        os.link(target, folder / location)
    monkeypatch.setattr(runtime, "open_session", lambda *args: pytest.fail("the unsafe file was opened"))
    with pytest.raises(CorruptModelError if how == "missing" else UnsafeModelError):
        rr.load(folder, device="cpu")


def test_weights_of_the_wrong_size_are_corrupt(tmp_path):
    model, data = external("weights.bin")
    folder = write_model(tmp_path, model)
    (folder / "weights.bin").write_bytes(data[:-4])
    with pytest.raises(CorruptModelError):
        rr.load(folder, device="cpu")


def test_bytes_in_another_format_are_never_loaded(tmp_path):
    """onnxruntime tells its own format by four bytes, whatever the file is called: those bytes would be run unread."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    onnxruntime.InferenceSession(cross().SerializeToString(), options, providers=["CPUExecutionProvider"])
    data = (tmp_path / "model.ort").read_bytes()
    onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])  # it is a good one
    with pytest.raises(CorruptModelError):
        runtime.open_session(data, "cpu", 1, "model.onnx")


def test_checked_bytes_are_the_loaded_bytes(tmp_path, monkeypatch):
    """A file swapped after the check must not be what runs."""
    folder = write_model(tmp_path, cross())
    before, real = (folder / "model.onnx").read_bytes(), runtime.open_session

    def swap(model, *args):
        (folder / "model.onnx").write_bytes(b"another")
        assert model == before
        return real(model, *args)

    monkeypatch.setattr(runtime, "open_session", swap)
    assert rr.load(folder, device="cpu").predict([("w1", "w2")]).values == logits_of("w1", "w2")[0]
