"""rerank_engine: candidates in, the best order out. Start with `rr.rerank`, or build a pipeline: `rr.BM25(index) >> rr.Rescore(model)`."""

from . import errors, ops
from .api import Result, rerank
from .core import Pipeline, Query, Ranking, Rescore, Scorer, Scores, Stage, Step, Top
from .corpus import Corpus, Document
from .evaluation import evaluate, measures
from .indexes import BM25Index, VectorIndex
from .packed import Packed
from .runtimes import load
from .stages import BM25, MMR, BiEncoder, CrossEncoder, Dedup, Dense, Fuse, LostInTheMiddle, Rules

__version__ = "0.1.0"

__all__ = [
    "BM25",
    "MMR",
    "BM25Index",
    "BiEncoder",
    "Corpus",
    "CrossEncoder",
    "Dedup",
    "Dense",
    "Document",
    "Fuse",
    "LostInTheMiddle",
    "Packed",
    "Pipeline",
    "Query",
    "Ranking",
    "Rescore",
    "Result",
    "Rules",
    "Scorer",
    "Scores",
    "Stage",
    "Step",
    "Top",
    "VectorIndex",
    "errors",
    "evaluate",
    "load",
    "measures",
    "ops",
    "rerank",
]
