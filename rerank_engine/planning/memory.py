"""Bytes of the indexes of a corpus that is not here, by what a pipeline reads. Of a passage of t word pieces:

    texts                    4.5 t                      of English; a cross-encoder reads them, and answers show them
    bm25                     2.94 * 0.41 t + 40         measured bytes a posting, impact codes with it; postings a word piece of English;
                                                        the id and where things are
    splade                   2.94 * (86 + 0.81 t) + 40  terms that the bundled model gives English passages
    dense, vectors           4 * 384
    late, maxsim: 2 bits     (384 / 4 + 6) t            float16: 2 * 384 t      (`TokenIndex`)
    late beside its file     4 t                        the centroids' lists of documents

Bytes a posting are those of benchmarks/results/epyc-2core/bm25.json, the rest of the index's format and of English text.
"""

from __future__ import annotations

from ..latency.workload import TERMS_PER_PIECE
from .plan import Candidate
from .shape import Shape

TEXT, POSTING, ROW = 4.5, 2.94, 40.0
DISTINCT = 0.77  # of a passage's terms, see workload.REPEAT_SHARE
SPARSE, SPARSE_PER_TOKEN = 86.0, 0.81
DIM, LISTED = 384, 4.0


def bytes_of(stage: str, tokens: float, precision: str = "") -> float:
    """Of a passage of so many word pieces in what a stage reads; 0 for a stage that reads nothing stored."""
    own = {
        "texts": TEXT * tokens,
        "bm25": POSTING * DISTINCT * TERMS_PER_PIECE * tokens + ROW,
        "splade": POSTING * (SPARSE + SPARSE_PER_TOKEN * tokens) + ROW,
        "vectors": 4.0 * DIM,
        "late": (DIM / 4 + 6 + LISTED) * tokens,
        "maxsim": tokens * (2 * DIM if precision == "float16" else DIM / 4 + 6),
    }
    return own.get("vectors" if stage == "dense" else stage, 0.0)


def memory_of(candidate: Candidate, shape: Shape) -> dict[str, float]:
    """Bytes of one copy of the corpus: the texts, and each index that the chain reads, once."""
    chain, found = candidate.chain, {"texts": shape.corpus_size * bytes_of("texts", shape.tokens)}
    rerankers = [("vectors" if each.kind == "cascade" else each.kind, each.precision) for each in chain.rerankers]
    for stage, precision in [*((name, "") for name in chain.first), *rerankers]:
        name = "vectors" if stage == "dense" else stage
        if stage == "maxsim" and precision == "2bit" and "late" in chain.first:
            name = "late"  # the same index
        if size := bytes_of(stage, shape.tokens, precision):
            found.setdefault(name, shape.corpus_size * size)
    return found
