"""How good a run is: trec_eval's measures in numpy, and the files that qrels and runs come in."""

from .measures import MAP, MRR, Measure, P, Qrels, Recall, Run, evaluate, evaluate_gains, evaluate_queries, nDCG, parse_measure
from .trec import read_qrels, read_run, write_run

__all__ = [
    "MAP",
    "MRR",
    "Measure",
    "P",
    "Qrels",
    "Recall",
    "Run",
    "evaluate",
    "evaluate_gains",
    "evaluate_queries",
    "nDCG",
    "parse_measure",
    "read_qrels",
    "read_run",
    "write_run",
]
