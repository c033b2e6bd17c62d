"""What retrievers search: built from a corpus, addressed by its rows."""

from .impacts import ImpactIndex
from .inverted import BM25Index
from .tokens import TokenIndex
from .vectors import VectorIndex

__all__ = ["BM25Index", "ImpactIndex", "TokenIndex", "VectorIndex"]
