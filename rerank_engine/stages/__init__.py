"""The concrete stages and scorers. Each is final and one file per family."""

from .colbert import ColBERT
from .cross import CrossEncoder
from .dedup import Dedup
from .dense import BiEncoder, Dense
from .feedback import RM3
from .fusion import Fuse
from .late import CertifiedMaxSim, LateInteraction, MaxSim
from .lexical import BM25
from .rules import Rules
from .select import MMR, LostInTheMiddle

__all__ = [
    "BM25",
    "MMR",
    "RM3",
    "BiEncoder",
    "CertifiedMaxSim",
    "ColBERT",
    "CrossEncoder",
    "Dedup",
    "Dense",
    "Fuse",
    "LateInteraction",
    "LostInTheMiddle",
    "MaxSim",
    "Rules",
]
