"""rerank_engine: candidates in, the best order out. Start with `rr.rerank`, or build a pipeline: `rr.BM25(index) >> rr.Rescore(model)`."""

import importlib
from typing import TYPE_CHECKING, Any

from .names import HOME

# ruff: noqa: F401, I001
if TYPE_CHECKING:
    from . import errors, learning, ops
    from .api import Result, rerank
    from .codec import ResidualCodec, ResidualTokens
    from .core import Pipeline, Query, Ranking, Rescore, Scorer, Scores, Stage, Step, Top
    from .corpus import Corpus, Document
    from .device import DeviceReranker, to_device
    from .evaluation import answer_in_context, compare, diagnose, distractor_rate, evaluate, load_collection, measures  # type: ignore[no-redef]
    from .indexes import BM25Index, ImpactIndex, TokenIndex, VectorIndex
    from .ops.device_codes import DeviceCodes
    from .ops.tensors import DeviceTokens
    from .limits import limited
    from .packed import Packed
    from .planning import Parts, Plan, plan  # type: ignore[no-redef]
    from .runtimes import load  # type: ignore[no-redef]
    from .stages import BM25, MMR, RM3, SPLADE, BiEncoder, CertifiedMaxSim, ColBERT, ColBERTPRF, CrossEncoder, Dedup, Dense, Fuse
    from .stages import Activate, Bound, Calibration, Cascade, LateInteraction, LostInTheMiddle, MaxSim, Rules, ScoreCache, Similarity
    from .stages import LTR, Chat, DuoT5, Hosted, Listwise, MonoT5, Pairwise, PairwiseT5, RankT5, Setwise, SparseEncoder, VectorPRF

__version__ = "0.1.0"

_WHERE = {name: module for module, names in HOME.items() for name in names.split()}
__all__ = ["errors", "learning", "ops", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_WHERE.get(name, name)}")
    return globals().setdefault(name, getattr(module, name) if name in _WHERE else module)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
