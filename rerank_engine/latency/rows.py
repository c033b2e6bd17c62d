"""The field's latency table as data: what a stage of retrieval is said to take for one query, over passages of 100 to 200 tokens."""

from __future__ import annotations

from dataclasses import dataclass

MEASURED = ("better", "in range", "worse")
NOT_MEASURED = "not measured"
NOT_SAID = "not said"
FEW = 20  # calls below which p95 and p99 say nothing


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """One row as it is published.

    published_ms: (low, high), orders of magnitude; published_on: what the range is said for; when: the row makes sense;
    documents: that it ranks: candidates, or those of the collection that it searches.
    """

    name: str
    label: str
    published_ms: tuple[float, float]
    published_on: str
    when: str
    documents: int


ROWS = (
    LatencyRow("bm25", "BM25", (1, 10), NOT_SAID, "always, for keyword matching", 1_000_000),
    LatencyRow("bi-encoder-ann", "Bi-encoder ANN", (10, 100), NOT_SAID, "first-stage dense retrieval", 1_000_000),
    LatencyRow("cross-encoder@100", "Cross-encoder over top-100", (100, 1000), "GPU", "default re-ranker for production RAG", 100),
    LatencyRow("cross-encoder@1000", "Cross-encoder over top-1000", (1000, 5000), "GPU", "higher recall, slower endpoint", 1000),
    LatencyRow("colbert-maxsim@1000", "ColBERT MaxSim over top-1000", (50, 200), NOT_SAID, "between bi- and cross-encoder", 1000),
    LatencyRow("llm-listwise@20", "LLM listwise over 20", (2000, 10_000), "GPT-4", "highest quality; batch, async", 20),
)


def verdict(row: LatencyRow, p50_ms: float | None) -> str:
    """Where the median lies: "better" below the published range, "in range", "worse" above it; "not measured" for None."""
    if p50_ms is None:
        return NOT_MEASURED
    low, high = row.published_ms
    return "better" if p50_ms < low else "in range" if p50_ms <= high else "worse"
