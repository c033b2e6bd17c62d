"""Where a pipeline loses relevant documents, as a picture: `python -m benchmarks.quality_diagnosis FOLDER FILE.png [--queries N]`.

BM25 and dense retrieval, 100 each, fused; the first 50 by the cross-encoder; 10 come out. Models, sample and cache: those of quality_table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import rerank_engine as rr
from benchmarks.quality_table import Bench, Models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--queries", type=int, default=100, help="at most so many, of a fixed shuffle")
    args = parser.parse_args()
    bench = Bench(args.folder, Models(1), args.queries)
    dense = rr.Dense(bench.vectors, bench.models.dense, k=100)
    pipeline = rr.Fuse(bench.bm25.with_k(100), dense) >> rr.Top(50) >> rr.Rescore(bench.kept, 50) >> rr.Top(10)
    found = rr.diagnose(bench.qrels, pipeline.run(bench.queries), bench.queries)
    print(found)
    found.plot(args.picture)


if __name__ == "__main__":
    main()
