"""Late-interaction retrieval over residual codes by centroids, against scoring every document: `python -m benchmarks.bench_probe [FOLDER]`.

Documents of a collection in BEIR's layout, 2-bit codes of answerai-colbert-small-v1; encoded, trained and indexed once, kept under
build/bench (--quick: a tenth of its queries). Without a folder: random topics in place of texts, of which recall says little. ms of CPU a
query, one thread, the median over queries, the ways in turns; spread: the middle half of the queries' ratios. Rows: `scifact-k10@4`: the 10
best, 4 centroids a query token, with `recall` (share of the exhaustive k best), `found`, `scored` (shares of documents: by the lists, and
exactly), `auto` (what the cost model chooses).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness, judged
from benchmarks.late import unit
from rerank_engine import Corpus, Packed, TokenIndex, load
from rerank_engine.backends import choose
from rerank_engine.codec import ResidualCodec
from rerank_engine.indexes.token_probe import planned, probe_report

PROBES, RESULTS = (1, 2, 4, 8, 16), (10, 100)
CACHE = Path(__file__).resolve().parents[1] / "build" / "bench"


def indexed(folder: Path) -> tuple[TokenIndex, list[np.ndarray]]:
    """The index of a collection in memory, and the vectors of its queries."""
    from benchmarks.quality_late import MODEL, embeddings

    codes, asked = CACHE / f"late-{folder.name}-2bit", CACHE / f"late-{folder.name}-queries.npz"
    if not (codes.exists() and asked.exists()):
        collection = judged.collection(folder)
        documents, vectors = embeddings(folder.name, collection, load(MODEL))
        packed = Packed.from_rows(vectors)
        np.savez(asked, values=packed.values, offsets=packed.offsets)
        sample = np.sort(np.random.default_rng(0).permutation(len(documents.values))[:200_000])
        codec = ResidualCodec.train(documents.values[sample], 2, n_tokens=len(documents.values), iterations=4)
        TokenIndex.from_embeddings(collection.corpus, documents, storage="2bit", codec=codec).save(codes)
    stored = np.load(asked)
    return TokenIndex.open(codes, in_memory=True), list(Packed(stored["values"], stored["offsets"]))


def random_topics(n: int = 2000, dim: int = 64, topics: int = 500) -> tuple[TokenIndex, list[np.ndarray]]:
    """Documents that speak of a few topics each, and queries near the tokens of one document."""
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(topics, dim)))
    rows = []
    for _ in range(n):
        about = (
            rng.choice(topics, rng.integers(40, 120)) if rng.random() < 0.1 else rng.choice(rng.choice(topics, 6), rng.integers(40, 120))
        )
        rows.append(unit(centres[about] + 0.35 * unit(rng.normal(size=(len(about), dim)))))
    queries = [unit(rows[i][:24] + 0.3 * unit(rng.normal(size=(24, dim)))) for i in rng.integers(0, n, 20)]
    packed = Packed.from_rows(rows)
    codec = ResidualCodec.train(packed.values, 2, 1024, iterations=2, backend="numpy")
    return TokenIndex.from_embeddings(Corpus.from_texts([""] * n), packed, storage="2bit", codec=codec), queries


def verified(index: TokenIndex, queries: list[np.ndarray], k: int) -> bool:
    """Whether probing all centroids, and scoring all candidates but the worst by them, gives what scoring every document gives."""
    assert index.codec is not None
    told: dict[str, Any] = {"probe": len(index.codec.centroids), "candidates": len(index) - 1}
    pairs = zip(index.search(queries, k, **told), index.search(queries, k, probe=None))
    return all(harness.same_ranking(got, want) for got, want in pairs)


def rows(quick: bool, folder: Path | None) -> Iterator[harness.Row]:
    index, queries = random_topics() if folder is None else indexed(folder)
    assert index.codec is not None
    name, backend = "topics" if folder is None else folder.name, choose("residual")
    harness.verify(f"probing of {name}", right := verified(index, queries[:3], max(RESULTS)))
    for k in RESULTS:
        report = probe_report(index, queries[:: 10 if quick and folder is not None else 1], k, PROBES, num_threads=1)
        auto, _ = planned(index.codec, len(index), index.n_tokens, 32, k)
        every = report[0]["cpu_ms"]
        for told in report[1:]:
            more: dict[str, Any] = {key: round(told[key], 4) for key in ("recall", "found", "scored")}
            case, more["auto"] = f"{name}-k{k}@{told['probe']}", auto == told["probe"]
            yield harness.row("probe", case, "exhaustive", "cpu_ms", told["cpu_ms"], every, told["faster"], backend, verified=right, **more)
            harness.note(f"  recall@{k} {told['recall']:.4f}, found {told['found']:.3f}, scored {told['scored']:.3f}")


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="a collection in BEIR's layout; random topics without it")
    args = parser.parse_args()
    harness.report(lambda: rows(args.quick, args.folder), args.json, harness.ONE_THREAD)


if __name__ == "__main__":
    main()
