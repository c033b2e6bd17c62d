"""Bad input, case by case: each gives one typed error that says what was wrong and what would be right, before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from counting import counting_fixture  # noqa: F401
from models import LABELS, VOCABULARY, cross, encoder, external, logits_of, words, write_model

import rerank_engine as rr
from rerank_engine import errors
from rerank_engine.core import LOWEST
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


def of_weights(bad: float) -> object:
    """The tiny cross-encoder with one weight of "w9" replaced."""
    model = cross()
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "table")
    values = np.frombuffer(table.raw_data, np.float32).copy()
    values[VOCABULARY["w9"]] = bad
    table.raw_data = values.tobytes()
    return model


def outside(folder: Path) -> Path:
    model, data = external("../weights.bin")
    (folder / "weights.bin").write_bytes(data)
    return write_model(folder / "model", model)


def damaged(folder: Path, file: str, content: bytes) -> Path:
    write_model(folder, cross())
    (folder / file).write_bytes(content)
    return folder


def unrelated_tokenizer(folder: Path) -> Path:
    """That of a model with a larger vocabulary."""
    write_model(folder, cross())
    told = json.loads((folder / "tokenizer.json").read_text())
    told["model"]["vocab"] |= {f"more{i}": len(VOCABULARY) + i for i in range(5)}
    (folder / "tokenizer.json").write_text(json.dumps(told))
    return folder


def first(pair: object, made: object = None, **options: object) -> Callable[[Path], object]:
    """Loads the tiny cross-encoder and scores a good pair, a blank document, and this pair."""
    given = [("w1", "w2"), ("w1", ""), pair]
    return lambda folder: rr.load(write_model(folder, made or cross()), device="cpu", **options).predict(given)


def loaded(made: object = None, config: dict[str, object] | None = None, **options: object) -> Callable[[Path], object]:
    return lambda folder: rr.load(write_model(folder, made or cross(), config=config), device="cpu", **options)


LONG = words(0, 40)
ENGINE: dict[str, tuple[Callable[[Path], object], type[errors.RerankError], str]] = {
    "empty query": (first(("", "w1")), errors.InputError, "query of pair 2: got an empty text"),
    "blank query": (first((" \n", "w1")), errors.InputError, "query of pair 2"),
    "query as long as the model": (first((words(0, 29), "w1")), errors.QueryTooLongError, "query of input 2"),
    "query of 1 MB": (first(("w1 " * 340_000, "w1")), errors.QueryTooLongError, "query of input 2"),
    "pair of three": (first(("w1", "w2", "w3")), errors.InputError, "pair 2"),
    "pair as a list": (first(["w1", "w2"]), errors.InputError, "pair 2"),
    "document that is None": (first(("w1", None)), errors.InputError, "pair 2"),
    "document of bytes": (first(("w1", b"w2")), errors.InputError, "pair 2"),
    "lone surrogate in a document": (first(("w1", "w2 \ud800")), errors.InputError, "text of input 2: got a lone surrogate at 3"),
    "lone surrogate in a query": (first(("\udfff", "w2")), errors.InputError, "text of input 2: got a lone surrogate at 0"),
    "document that may not be cut": (first(("w1", LONG), long="error"), errors.InputError, "document of input 2: got 12 tokens too many"),
    "NaN weights": (first(("w1", "w8 w9"), of_weights(np.nan)), errors.NonFiniteError, "output of input 2: got NaN or infinity"),
    "infinite weights": (first(("w9", "w8"), of_weights(np.inf)), errors.NonFiniteError, "output of input 2"),
    "missing head": (loaded(encoder()), errors.UnsupportedModelError, "classification head is missing"),
    "several labels and none asked for": (first(("w1", "w2"), cross(LABELS)), errors.UnsupportedModelError, "label="),
    "label that the model lacks": (first(("w1", "w2"), cross(LABELS), label=7), errors.InputError, "from 0 to 2"),
    "tokenizer of another model": (
        lambda f: rr.load(unrelated_tokenizer(f)),
        errors.CorruptModelError,
        "a tokenizer with 70 tokens for 65 embeddings",
    ),
    "vocabulary larger than the embeddings": (loaded(config={"vocab_size": 30}), errors.CorruptModelError, "for 30 embeddings"),
    "corrupt ONNX": (lambda f: rr.load(damaged(f, "model.onnx", b"\x08" * 99)), errors.CorruptModelError, "ONNX"),
    "empty ONNX": (lambda f: rr.load(damaged(f, "model.onnx", b"")), errors.CorruptModelError, "ONNX"),
    "truncated ONNX": (
        lambda f: rr.load(damaged(f, "model.onnx", cross().SerializeToString()[:-40])),
        errors.CorruptModelError,
        "ONNX",
    ),
    "external data outside the folder": (lambda f: rr.load(outside(f)), errors.UnsafeModelError, "weights.bin"),
    "tokenizer.json that is none": (lambda f: rr.load(damaged(f, "tokenizer.json", b"{}")), errors.CorruptModelError, "tokenizer.json"),
    "config that is none": (lambda f: rr.load(damaged(f, "config.json", b"[1")), errors.CorruptModelError, "config.json"),
    "calibration that is none": (
        lambda f: rr.load(damaged(f, "calibration.json", b"{}"), device="cpu").calibration,  # type: ignore[union-attr]
        errors.FileFormatError,
        "calibration",
    ),
    "max_length beyond the model": (loaded(max_length=33), errors.InputError, "from 8 to 32"),
    "passages longer than none": (loaded(long="chunk", window=0), errors.InputError, "window"),
    "option of another family": (loaded(pooling="cls"), errors.InputError, "pooling"),
    "a deadline before now": (lambda f: rr.limited(deadline_ms=-1).__enter__(), errors.InputError, "deadline_ms"),
}


@pytest.mark.parametrize("case", ENGINE)
def test_bad_input_of_a_cross_encoder(tmp_path: Path, case: str) -> None:
    call, error, message = ENGINE[case]
    with pytest.raises(error, match=message):
        call(tmp_path)


def test_odd_documents_are_scored_and_nothing_is_lost(tmp_path: Path) -> None:
    """What looks bad and is none: each has a documented result."""
    model = rr.load(write_model(tmp_path, cross()), device="cpu")
    huge = "w3 " * 3_400_000  # 10 MB
    texts = [huge, "", " \t\n", "\x00", "\u200b", "é漢🙂 " * 3, "w1", "w1", "x" * 1_000_000]
    scores = model.predict([("w1 w2", text) for text in texts])
    assert scores.columns["truncated_tokens"].tolist() == [3_400_000 - 27, *[0] * 8]
    assert scores.values[1:3].tolist() == [LOWEST] * 2
    want = [logits_of("w1 w2", text)[0] for text in (words(3, 1) + " w3" * 26, "x", "x", "x x x", "w1", "w1", "x")]
    assert scores.values[[0, 3, 4, 5, 6, 7, 8]].tolist() == want
    ranked = rr.rerank("w1 w2", texts[1:], model)
    assert sorted(result.index for result in ranked) == list(range(8)) and [r.index for r in ranked][-2:] == [0, 1]
    assert rr.rerank("w1 w2", [], model) == []


def test_100_000_documents(counting) -> None:  # type: ignore[no-untyped-def]
    """Equal ones are run once; each keeps its place and its score."""
    model, texts = counting(), [f"w{i % 3}" for i in range(100_000)]
    scores = model.predict([("w5", text) for text in texts])
    assert len(model.runtime.seen) == 3 and len(set(scores.values.tolist())) == 3
    assert (scores.values.reshape(-1)[:99_999].reshape(-1, 3) == scores.values[:3]).all() and scores.values[-1] == scores.values[0]


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
