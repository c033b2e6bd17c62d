"""Text analysis for lexical search: text in, terms out."""

from .analyzer import Analyzer, AnalyzerLike, Text
from .languages import ANALYZERS, ENGLISH_STOP_WORDS

__all__ = ["ANALYZERS", "ENGLISH_STOP_WORDS", "Analyzer", "AnalyzerLike", "Text"]
