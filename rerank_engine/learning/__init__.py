"""Learning to rank: features of candidates, their matrix, models of it and their training. The stage is `rr.LTR`."""

from .features import Column, Feature, Freshness, Incoming, Lexical, Metadata, ScoreOf, StageRank, Supplied, Words, feature_matrix
from .matrix import FeatureMatrix
from .models import LinearModel, TreeModel, load
from .train import train_lambdamart, train_linear

__all__ = [
    "Column", "Feature", "FeatureMatrix", "Freshness", "Incoming", "Lexical", "LinearModel", "Metadata", "ScoreOf", "StageRank", "Supplied",
    "TreeModel", "Words", "feature_matrix", "load", "train_lambdamart", "train_linear",
]  # fmt: skip
