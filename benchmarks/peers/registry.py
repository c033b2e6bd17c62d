"""Every library that is timed, by what it does: one line each."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import note
from benchmarks.peers.base import Peer

OURS = "ours"
HERE, LATE, CROSS = ".venv", ".venv-late", ".venv-cross"


@dataclass(frozen=True)
class Entry:
    """name: in rows. kind: what it does; entries of one kind take the same and answer alike. made_by: the module of this folder and the
    name in it that makes one, of what the kind gives. package: that is timed, its name on PyPI.

    error: how far its scores may lie from the reference's; best: the share of the reference's ten best that it must have among its own,
    where it is approximate. venv: where its pins are installed. default: whether it is timed unasked.
    """

    name: str
    kind: str
    made_by: str
    package: str
    error: float = 0.0
    venv: str = HERE
    default: bool = True
    best: float = 0.0

    def make(self) -> Any:
        """What makes one. Raises ModuleNotFoundError where its library is not installed."""
        module, _, name = self.made_by.partition(":")
        return getattr(importlib.import_module(f"benchmarks.peers.{module}"), name)


ENTRIES = (
    # kind bm25: a class (base.py)
    Entry(OURS, "bm25", "ours:Ours", "rerank-engine"),
    Entry("bm25s-numba", "bm25", "with_bm25s:Numba", "bm25s"),
    Entry("bm25s-numpy", "bm25", "with_bm25s:Numpy", "bm25s", default=False),
    Entry("tantivy", "bm25", "with_tantivy:Tantivy", "tantivy"),
    Entry("pisa", "bm25", "with_pisa:Pisa", "pyterrier-pisa", default=False),
    Entry("pisa-u8", "bm25", "with_pisa:PisaQuantized", "pyterrier-pisa", default=False),
    Entry("rank-bm25", "bm25", "with_rank_bm25:RankBM25", "rank-bm25", default=False),
    # kind vectors: (vectors) -> a call with (query, k) -> (rows, scores)
    Entry(OURS, "vectors", "ours:flat", "rerank-engine", 1e-5),
    Entry("faiss-flat", "vectors", "with_faiss:flat", "faiss-cpu", 1e-5),
    # kind maxsim: (query, documents) -> a call -> scores
    Entry(OURS, "maxsim", "ours:maxsim", "rerank-engine", 1e-5),
    Entry("numpy-loop", "maxsim", "with_numpy:loop", "numpy", 1e-4, default=False),
    Entry("numpy-reduceat", "maxsim", "with_numpy:reduceat", "numpy", 1e-4, default=False),
    Entry("maxsim-cpu", "maxsim", "with_maxsim_cpu:maxsim", "maxsim-cpu", 1e-4, LATE),
    Entry("numkong", "maxsim", "with_numkong:maxsim", "numkong", 1.0, LATE, best=0.8),
    Entry("torch-einsum-padded", "maxsim", "with_torch:einsum", "torch", 1e-4, LATE),
    Entry("torch-segment-reduce", "maxsim", "with_torch:segments", "torch", 1e-4, LATE),
    Entry("torch-scatter-reduce", "maxsim", "with_torch:scatter", "torch", 1e-4, LATE, default=False),
    Entry("colbert-segmented", "maxsim", "with_colbert_ai:maxsim", "colbert-ai", 1e-4, LATE),
    Entry("pylate-rank", "maxsim", "with_pylate:maxsim", "pylate", 1e-3, LATE),
    # kind residual: (query, tokens) -> a call -> scores
    Entry(OURS, "residual", "ours:residual", "rerank-engine", 2e-3),
    Entry("colbert-ai", "residual", "with_colbert_ai:residual", "colbert-ai", 1e-3, LATE),
    # kinds float32 and int8, cross-encoders: (models) -> a call with pairs -> scores. Of int8 the padded batch decides a scale.
    Entry(OURS, "float32", "ours:float32", "rerank-engine", 1e-3),
    Entry("onnxruntime-1by1-float32", "float32", "with_onnxruntime:float32", "onnxruntime", 1e-6),
    Entry("flashrank-style-float32", "float32", "with_flashrank:style_float32", "onnxruntime", 1e-3),
    Entry("sentence-transformers", "float32", "with_sentence_transformers:in_torch", "sentence-transformers", 1e-3, CROSS),
    Entry("sentence-transformers-onnx", "float32", "with_sentence_transformers:in_onnx", "sentence-transformers", 1e-3, CROSS),
    Entry("sentence-transformers-openvino", "float32", "with_sentence_transformers:in_openvino", "sentence-transformers", 1e-3, CROSS),
    Entry("openvino-sorted4", "float32", "with_openvino:float32", "openvino", 1e-3, CROSS),
    Entry(OURS, "int8", "ours:int8", "rerank-engine", 1e-3),
    Entry("onnxruntime-1by1-int8", "int8", "with_onnxruntime:int8", "onnxruntime", 1e-6),
    Entry("flashrank", "int8", "with_flashrank:package", "flashrank", 1.5, best=0.8),
    Entry("flashrank-style-int8", "int8", "with_flashrank:style_int8", "onnxruntime", 1.5, best=0.8),
    # kind fuse: (lists of ids by rank) -> a call -> what it gives; (rows, scores) of each query by the module's `answer`
    Entry(OURS, "fuse", "ours:fuse", "rerank-engine", 1e-5),
    Entry("ranx", "fuse", "with_ranx:fuse", "ranx", 1e-5),
    # kind mmr: (query, vectors, k, lambda) -> a call -> picks
    Entry(OURS, "mmr", "ours:mmr", "rerank-engine", 1e-6),
    Entry("langchain-core", "mmr", "with_langchain:mmr", "langchain-core", 1e-6),
    Entry("langchain-core-array", "mmr", "with_langchain:mmr_of_array", "langchain-core", 1e-6),
    # kind ltr: (LightGBM's text model, documents float64) -> a call -> scores; kind ltr-xgboost: the same of XGBoost's JSON and float32
    Entry(OURS, "ltr", "ours:ltr", "rerank-engine", 1e-6),
    Entry("lightgbm", "ltr", "with_lightgbm:ltr", "lightgbm", 1e-6),
    Entry("lleaves", "ltr", "with_lleaves:ltr", "lleaves", 1e-6, default=False),
    Entry("xgboost", "ltr-xgboost", "with_xgboost:ltr", "xgboost", 1e-6, default=False),
    Entry("treelite-gtil", "ltr-xgboost", "with_treelite:gtil", "treelite", 1e-6, default=False),
    Entry("tl2cgen", "ltr-xgboost", "with_treelite:compiled", "tl2cgen", 1e-6, default=False),
)
PEERS = {entry.name: entry for entry in ENTRIES if entry.kind == "bm25"}


def of(kind: str) -> list[Entry]:
    """Ours first."""
    return [entry for entry in ENTRIES if entry.kind == kind]


def installed(kind: str, ours: bool = False) -> Iterator[tuple[Entry, Any]]:
    """Those of a kind that are installed here, each with what makes one; the others with a note."""
    for entry in of(kind):
        if (entry.name != OURS or ours) and (make := _made(entry)) is not None:
            yield entry, make


def load(name: str) -> Peer | None:
    """The search library of that name, or None with a note where it is not installed."""
    if (make := _made(PEERS[name])) is None or (found := made(name, make)) is None:
        return None
    found.name = name
    return found  # type: ignore[no-any-return]


def _made(entry: Entry) -> Any:
    return made(entry.name, entry.make)


def made(name: str, make: Callable[..., Any], *given: Any) -> Any:
    """What it makes, or None with a note where that peer's library is not installed."""
    try:
        return make(*given)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("benchmarks", "rerank_engine")):
            raise
        note(f"skipped: {name} ({error})")
        return None
