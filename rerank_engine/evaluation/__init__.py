"""How good a run is: measures as trec_eval's, whether one run beats another, and where a pipeline loses what is relevant."""

from .answers import answer_in_context, answers_found, contains_answer, distractor_rate, distractor_shares
from .beir import Collection, evaluate_collections, load_beir, load_collection, load_judgments
from .compare import Comparison, compare, compare_values
from .diagnosis import Diagnosis, diagnose, diagnose_runs
from .measures import (
    ERR,
    MAP,
    MRR,
    RBP,
    Judged,
    Measure,
    P,
    Qrels,
    Recall,
    Run,
    Success,
    evaluate,
    evaluate_gains,
    evaluate_queries,
    nDCG,
    parse_measure,
)
from .trec import read_qrels, read_run, write_run

# fmt: off
__all__ = [
    "ERR", "MAP", "MRR", "RBP", "Collection", "Comparison", "Diagnosis", "Judged", "Measure", "P", "Qrels", "Recall", "Run", "Success",
    "answer_in_context", "answers_found", "compare", "compare_values", "contains_answer", "diagnose", "diagnose_runs", "distractor_rate",
    "distractor_shares", "evaluate", "evaluate_collections", "evaluate_gains", "evaluate_queries", "load_beir", "load_collection",
    "load_judgments", "nDCG", "parse_measure", "read_qrels", "read_run", "write_run",
]
# fmt: on
