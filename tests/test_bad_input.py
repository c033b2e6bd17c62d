"""Bad input, case by case: each gives one typed error that says what was wrong and what would be right, before any work."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine import errors
from rerank_engine.runtimes.files import BUNDLED, resolve

CORPUS = rr.Corpus.from_texts(["a cat", "a dog"])
INDEX = rr.BM25Index.build(CORPUS)
LIST = ([1, 0], [2.0, 1.0])


def vectors(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


CASES: dict[str, tuple[Callable[[], object], type[errors.RerankError], str]] = {
    "scores of a wrong dtype": (lambda: rr.ops.topk(np.array(["a"]), 1), errors.InputError, "float32"),
    "NaN scores": (lambda: rr.ops.topk([1.0, np.nan], 1), errors.NonFiniteError, r"nan at \[1\]"),
    "infinite scores": (lambda: rr.ops.fuse([[([0], [np.inf])]]), errors.NonFiniteError, "inf"),
    "k = 0": (lambda: rr.BM25(INDEX, k=0), errors.InputError, "at least 1"),
    "k negative": (lambda: rr.ops.topk([1.0], -1), errors.InputError, "at least 1"),
    "k a float": (lambda: rr.Top(2.5), errors.InputError, "an integer"),  # type: ignore[arg-type]
    "empty corpus, BM25": (lambda: rr.BM25Index.build(rr.Corpus.from_texts([])), errors.InputError, "empty corpus"),
    "empty corpus, vectors": (lambda: rr.VectorIndex(rr.Corpus.from_texts([]), vectors(0, 3)), errors.InputError, "empty corpus"),
    "duplicate document ids": (lambda: rr.Corpus.from_texts(["x", "y"], ids=["a", "a"]), errors.DuplicateIdError, "'a' in rows 0 and 1"),
    "unknown document id": (lambda: CORPUS.row("nope"), errors.UnknownIdError, "'nope'"),
    "documents as one string": (lambda: rr.rerank("q", "text"), errors.InputError, r"\[text\]"),
    "top_n = 0": (lambda: rr.rerank("q", ["a"], top_n=0), errors.InputError, "at least 1"),
    "queries as one string": (lambda: rr.BM25(INDEX).run("query"), errors.InputError, "a sequence"),
    "query that is not a string": (lambda: rr.BM25(INDEX)(5), errors.InputError, "a string"),  # type: ignore[arg-type]
    "ids and scores of different length": (lambda: rr.ops.fuse([[([0, 1], [1.0])]]), errors.InputError, "1 scores"),
    "unknown fusion": (lambda: rr.Fuse(rr.BM25(INDEX), rr.BM25(INDEX), method="max"), errors.InputError, "rrf, sum"),
    "weights that do not match": (lambda: rr.ops.fuse([[LIST, LIST]], weights=[1.0]), errors.InputError, "2 lists"),
    "MMR vectors of another length": (lambda: rr.ops.mmr([1.0], vectors(2, 3), 1), errors.InputError, "2 rows"),
    "MMR lambda outside [0, 1]": (lambda: rr.ops.mmr([1.0], vectors(1, 3), 1, lambda_=1.5), errors.InputError, "from 0 to 1"),
    "b outside [0, 1]": (lambda: rr.BM25Index.build(CORPUS, b=2.0), errors.InputError, "bm25: b"),
    "query vector of another dimension": (
        lambda: rr.VectorIndex(CORPUS, vectors(2, 3)).search(vectors(1, 4), 1),
        errors.InputError,
        "dimension 4",
    ),
    "vectors with NaN": (lambda: rr.VectorIndex(CORPUS, np.full((2, 3), np.nan)), errors.NonFiniteError, "nan"),
    "one vector too few": (lambda: rr.VectorIndex(CORPUS, vectors(1, 3)), errors.InputError, "2 documents"),
    "unknown model": (lambda: rr.load("no-such-model"), errors.UnknownModelError, "ms-marco-MiniLM-L-12-v2"),
    "unknown backend": (lambda: rr.ops.topk([1.0], 1, backend="gpu"), errors.BackendUnavailable, "Available here"),
    "unknown measure": (lambda: rr.evaluate({"q": {"d": 1}}, {}, ["nDGC@10"]), errors.InputError, "nDCG"),
    "run with NaN": (lambda: rr.evaluate({"q": {"d": 1}}, {"q": {"d": np.nan}}, ["MAP"]), errors.NonFiniteError, "'d'"),
    "no judgments": (lambda: rr.evaluate({}, {}, ["MAP"]), errors.InputError, "no queries"),
    "missing corpus file": (lambda: rr.Corpus.from_jsonl("no/such/file.jsonl"), errors.FileFormatError, "No such file"),
    "offsets of a Packed": (lambda: rr.Packed(np.zeros(2), np.array([0, 3])), errors.InputError, "offsets"),
    "threads = 0": (lambda: rr.ops.fuse([[LIST]], threads=0), errors.InputError, "from 1 to"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str) -> None:
    call, error, message = CASES[case]
    with pytest.raises(error, match=message):
        call()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the bundled cross-encoder's folder, to be damaged."""
    try:
        files = resolve("ms-marco-MiniLM-L-12-v2")
    except errors.MissingDependency:
        pytest.skip("the extra [demo] is not installed: no real model to damage")
    folder = tmp_path / "model"
    shutil.copytree(files.folder, folder)
    import json

    (folder / "config.json").write_text(json.dumps(dict(BUNDLED["ms-marco-MiniLM-L-12-v2"].config)))
    return folder


DAMAGE: dict[str, tuple[Callable[[Path], object], type[errors.RerankError], str]] = {
    "corrupt tokenizer.json": (lambda f: (f / "tokenizer.json").write_text("{"), errors.CorruptModelError, "tokenizer.json"),
    "missing tokenizer.json": (lambda f: (f / "tokenizer.json").unlink(), errors.CorruptModelError, "tokenizer.json"),
    "corrupt config.json": (lambda f: (f / "config.json").write_text("nope"), errors.CorruptModelError, "config.json"),
    "missing config.json": (lambda f: (f / "config.json").unlink(), errors.UnknownModelError, "config.json"),
    "corrupt ONNX": (lambda f: (f / "model.onnx").write_bytes(b"\x00" * 100), errors.CorruptModelError, "ONNX"),
    "missing ONNX": (lambda f: (f / "model.onnx").unlink(), errors.UnknownModelError, "ONNX"),
    "truncated ONNX": (lambda f: (f / "model.onnx").write_bytes((f / "model.onnx").read_bytes()[:-1000]), errors.CorruptModelError, "ONNX"),
    "unknown architecture": (
        lambda f: (f / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}'),
        errors.UnsupportedModelError,
        "BertForSequenceClassification",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_model(model: Path, case: str) -> None:
    damage, error, message = DAMAGE[case]
    damage(model)
    with pytest.raises(error, match=message):
        rr.load(model)


def test_a_k_above_the_number_of_documents_is_fine() -> None:
    assert len(rr.BM25(INDEX, k=1000)("cat")) == 1
    assert len(rr.ops.topk([1.0, 2.0], 1000)[0]) == 2


def test_every_error_is_a_rerank_error_and_keeps_its_builtin_kin() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    assert all(issubclass(c, errors.RerankError) for c in classes)
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.MissingDependency, ImportError)
    assert str(errors.UnknownIdError("x", got="y", expected="z", hint="Do w.")) == "x: got y; expected z. Do w."
    assert len(str(errors.InputError("x", got="y" * 10_000))) < 400
