"""Every op: its contract, its numpy reference, and the dispatch to the backend that runs it (see rerank_engine/backends.py)."""

from .bm25 import BM25Parameters, Searcher, bm25
from .centroid import centroid_maxsim
from .certified import certified_top, token_norms
from .fuse import fuse, fuse_explained
from .inner import inner_products
from .maxsim import matches, maxsim, quantize_int8
from .mmr import mmr
from .postings import Segment
from .residual import centroid_scores, residual_maxsim, residual_maxsim_explained
from .topk import topk
from .trees import Ensemble, tree_contributions, trees

__all__ = [
    "BM25Parameters", "Ensemble", "Searcher", "Segment", "bm25", "centroid_maxsim", "centroid_scores",
    "certified_top", "fuse", "fuse_explained", "inner_products", "matches", "maxsim", "mmr", "quantize_int8",
    "residual_maxsim", "residual_maxsim_explained",
    "token_norms", "topk", "tree_contributions", "trees",
]  # fmt: skip
