"""The concrete stages and scorers. Each is final and one file per family."""

from ..llm.chat import Chat
from .bound import Bound
from .calibration import Activate, Calibration
from .cascade import Cascade
from .colbert import ColBERT
from .colbert_prf import ColBERTPRF
from .cross import CrossEncoder
from .dedup import Dedup
from .dense import BiEncoder, Dense
from .feedback import RM3
from .fusion import Fuse
from .hosted import Hosted
from .late import CertifiedMaxSim, LateInteraction, MaxSim
from .lexical import BM25
from .listwise import Listwise, Pairwise, Setwise
from .ltr import LTR
from .rules import Rules
from .score_cache import ScoreCache
from .select import MMR, LostInTheMiddle
from .seq2seq import DuoT5, MonoT5, PairwiseT5, RankT5
from .sharded import Sharded
from .similarity import Similarity
from .splade import SPLADE, SparseEncoder
from .vector_prf import VectorPRF

__all__ = [
    "BM25", "LTR", "MMR", "RM3", "SPLADE", "Activate", "BiEncoder", "Bound", "Calibration", "Cascade", "CertifiedMaxSim", "Chat",
    "ColBERT", "ColBERTPRF", "CrossEncoder", "Dedup", "Dense", "DuoT5", "Fuse", "Hosted", "LateInteraction", "Listwise",
    "LostInTheMiddle", "MaxSim", "MonoT5", "Pairwise", "PairwiseT5", "RankT5", "Rules", "ScoreCache", "Setwise", "Sharded",
    "Similarity", "SparseEncoder", "VectorPRF",
]  # fmt: skip
