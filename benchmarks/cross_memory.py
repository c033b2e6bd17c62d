"""Memory of a process that re-ranks: `python -m benchmarks.cross_memory ours-float32 1000` makes so many calls and prints resident bytes.

Each call has 1 to 12 pairs of 8 to 490 tokens, texts that no call before had. start: the median over the calls just before the 100th (the
20th of fewer than 500), when what is allocated once has been; end: over as many last ones.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from benchmarks import bench_cross_encoder as bench
from benchmarks import cross, cross_models
from benchmarks.open_cost import STATUS, resident
from rerank_engine.runtimes.base import describe


def measure(name: str, calls: int) -> dict[str, Any]:
    models = cross_models.models()
    model = bench.load(models, name)
    rng = np.random.default_rng(cross.SEED)
    first, seen = (100 if calls >= 500 else 20), []
    for number in range(calls):
        lengths = np.exp(rng.uniform(np.log(8), np.log(cross.LONGEST), int(rng.integers(1, 13)))).astype(np.int64)
        model.predict(cross.pairs(models.tokenizer, lengths, 10_000 + number))
        seen.append(resident("VmRSS"))
    span = first // 2
    start, end = (int(np.median(part)) for part in (seen[first - span : first], seen[-span:]))
    return {"start": start, "end": end, "peak": resident("VmHWM"), "first": first, "backend": describe(model.runtime)}


if __name__ == "__main__":
    if not STATUS.is_file():
        raise SystemExit("the memory of a process is read from /proc")
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
