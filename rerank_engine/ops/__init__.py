"""Every op: its contract, its numpy reference, and the dispatch to the backend that runs it (see rerank_engine/backends.py)."""

from .bm25 import BM25Parameters, Searcher, bm25
from .fuse import fuse, fuse_explained
from .mmr import mmr
from .postings import Segment
from .topk import topk

__all__ = ["BM25Parameters", "Searcher", "Segment", "bm25", "fuse", "fuse_explained", "mmr", "topk"]
