"""Single ops, each by its C++ and by its numpy reference, timed by pytest-benchmark: `pytest benchmarks/micro.py --benchmark-only`.

Processor time of one thread, small inputs. `rows(quick)` runs that in a process of its own and makes rows of it: theirs is the reference,
held to the same answer first; spread: from the quartiles of both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import harness, late
from rerank_engine import ops
from rerank_engine.packed import Packed

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = 100
SIDES = ("cpp", "reference")
Call = Callable[[str], Any]  # from a backend to its answer


def topk() -> tuple[str, Call]:
    scores = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    return "100000@100", lambda backend: ops.topk(scores, 100, backend=backend)


def fuse() -> tuple[str, Call]:
    rng = np.random.default_rng(0)
    lists = np.stack([rng.permutation(1500)[:1000] for _ in range(2)])[None]
    return "rrf-2x1000", lambda backend: ops.fuse(lists, backend=backend)[0]


def mmr() -> tuple[str, Call]:
    vectors = late.unit(np.random.default_rng(0).normal(size=(DOCUMENTS, 384)) + 0.5)
    return f"{DOCUMENTS}x384", lambda backend: ops.mmr(None, vectors, 10, query=vectors[0], backend=backend)


def inner() -> tuple[str, Call]:
    vectors = late.unit(np.random.default_rng(0).normal(size=(10_000, 384)))
    return "1x10000x384", lambda backend: ops.inner_products(vectors[:1], vectors, num_threads=1, backend=backend)


def bm25() -> tuple[str, Call]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(30, 80, 1000)
    terms = np.minimum(rng.zipf(1.3, lengths.sum()), 20_000).astype(np.int32) - 1
    segment = ops.Segment.build(Packed(terms, np.concatenate([[0], lengths.cumsum()])), 20_000)
    query = Packed.from_rows([[3, 40, 200, 900]], np.int32)
    return "1000@10", lambda backend: ops.bm25(query, segment, 10, backend=backend)[0]


def maxsim() -> tuple[str, Call]:
    case = late.Case(DOCUMENTS)
    return f"{case.name}-fp32", lambda backend: ops.maxsim(case.query, case.packed, num_threads=1, backend=backend)


def residual() -> tuple[str, Call]:
    case = late.Case(DOCUMENTS)
    tokens = case.compressed(2)
    return f"2bit-incall-{DOCUMENTS}", lambda backend: ops.residual_maxsim(case.query, tokens, num_threads=1, backend=backend)


def centroid() -> tuple[str, Call]:
    case = late.Case(DOCUMENTS)
    tokens = case.compressed(2)
    table = ops.centroid_scores(case.query, tokens.codec.centroids, num_threads=1)
    return f"{DOCUMENTS}", lambda backend: ops.centroid_maxsim(table, tokens, num_threads=1, backend=backend)


CASES = {make.__name__: make for make in (topk, fuse, mmr, inner, bm25, maxsim, residual, centroid)}


def same(got: Any, want: Any) -> bool:
    """Scores within the default int16 of residual codes; of rankings the order too."""
    if isinstance(got, tuple):
        return harness.same_ranking(got, want)
    return bool(np.allclose(got, want, atol=2e-3))


@pytest.mark.parametrize("backend", SIDES)
@pytest.mark.parametrize("op", CASES)
def test_micro(op: str, backend: str, benchmark: Any) -> None:
    case, call = CASES[op]()
    assert same(call(backend), call("reference"))
    benchmark.extra_info.update(op=op, case=case, backend=backend)
    benchmark(call, backend)


def rows(quick: bool) -> Iterator[harness.Row]:
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "times.json"
        seconds = "0.1" if quick else "1"
        options = ["--benchmark-only", "--benchmark-timer=time.process_time", f"--benchmark-max-time={seconds}", "--benchmark-min-rounds=5"]
        options.append(f"--benchmark-json={told}")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__)), *options]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **harness.ONE_THREAD}, stdout=sys.stderr, check=True)
        found = {(r["extra_info"]["op"], r["extra_info"]["backend"]): r for r in json.loads(told.read_text())["benchmarks"]}
    for op in CASES:
        a, b = (found[op, backend] for backend in SIDES)
        ours, theirs = ({key: 1e3 * side["stats"][key] for key in ("q1", "median", "q3")} for side in (a, b))
        spread = [theirs["q1"] / ours["q3"], theirs["q3"] / ours["q1"]]
        yield harness.row(op, a["extra_info"]["case"], "own-reference", "cpu_ms", ours["median"], theirs["median"], spread, SIDES[0])


if __name__ == "__main__":
    harness.main(rows, __doc__)
