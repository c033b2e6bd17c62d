"""The concrete stages and scorers. Each is final and one file per family."""

from .cross import CrossEncoder
from .dense import BiEncoder, Dense
from .fusion import Fuse
from .lexical import BM25

__all__ = ["BM25", "BiEncoder", "CrossEncoder", "Dense", "Fuse"]
