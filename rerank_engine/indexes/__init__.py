"""What retrievers search: built from a corpus, addressed by its rows."""

from .inverted import BM25Index
from .vectors import VectorIndex

__all__ = ["BM25Index", "VectorIndex"]
