"""The latency table's rows with their peers: `python -m benchmarks.rows [--quick] [--rows a,b] [--json]`.

The table itself is rerank_engine/latency/rows.py, measured end to end by `rerank-engine bench`; here the work that a row is made of is done
by ours and by others, from the same input files, each side in a process of its own and in the environment that its pins need, on one
thread. Each answer is checked before it is timed, then the sides take turns. cpu_ms: processor time of a query; ratio: theirs / ours;
spread: the middle half of the ratios, input by input.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import harness
from benchmarks.jobs import CrossEncoder, Fuse, Job, Lexical, Ltr, MaxSim, Mmr, Residual, Vectors
from benchmarks.peers.turns import measured, not_measured, unmeasured
from rerank_engine.latency import ROWS

# Stages that no row of the table names, beside those that it does.
FUSION, DIVERSITY, LTR = "fusion", "diversity", "ltr"
NAMES = (*(row.name for row in ROWS), FUSION, DIVERSITY, LTR)
WITHOUT = {  # rows, or peers of rows, that are not compared: (kind, case, peer, why)
    "cross-encoder@1000": ("float32", "pairs-1000", "all", "the work of cross-encoder@100 ten times over; its peers are timed there"),
    "llm-listwise@20": ("listwise", "20-passages", "all", "the language model decides the time: here it is a stand-in"),
}


def jobs_of(name: str, quick: bool) -> list[Job]:
    """What a row is made of; a quick run has less of it."""
    n, count = (100_000, "100k") if quick else (1_000_000, "1M")
    pairs, rounds = (16, 2) if quick else (100, 3)
    queries = 100 if quick else 500
    once: dict[str, Any] = {"rounds": 1, "block": 25, "least_ms": 0.0}  # as searches come: each query once
    found: dict[str, list[Job]] = {
        "bm25": [Lexical(f"real@{k}-{count}", documents=n, k=k, numbers=queries, checked=4, **once) for k in (100, 1000)],
        "bi-encoder-ann": [Vectors(f"flat@100-{count}", documents=n, numbers=20 if quick else 50, checked=2, rounds=2, least_ms=0.0)],
        "cross-encoder@100": [
            CrossEncoder(f"pairs-{pairs}-{kind}", kind, pairs=pairs, numbers=rounds, rounds=1) for kind in ("float32", "int8")
        ],
        "colbert-maxsim@1000": [
            MaxSim("rerank-1000x116-q32-d128-fp32", rounds=5 if quick else 21),
            Residual("2bit-incall", rounds=5 if quick else 21),
        ],
        FUSION: [Fuse("rrf-2x1000", rounds=9 if quick else 31)],
        DIVERSITY: [Mmr("1000x384", rounds=5 if quick else 21)],
        LTR: [Ltr("1000-docs", rounds=5 if quick else 21)],
    }
    return found.get(name, [])


def rows(names: Sequence[str], quick: bool, peers: Sequence[str] | None, failed: list[str]) -> Iterator[harness.Row]:
    """Of each row by name, with the key "row"."""
    for name in names:
        if name in WITHOUT:
            yield {**unmeasured(*WITHOUT[name]), "row": name}
        for job in jobs_of(name, quick):
            for found in done(job, peers, 15 if quick else 120, failed):
                yield {**found, "row": name}


def done(job: Job, peers: Sequence[str] | None, budget_s: float, failed: list[str]) -> Iterator[harness.Row]:
    """Its rows. A job that fails has one that says so, and its case is put into `failed`: the others go on."""
    try:
        yield from measured(job, peers, budget_s)
    except Exception as error:  # whatever: a missing model, too little memory, ours that is wrong
        failed.append(job.case)
        yield not_measured(job, "all", f"{type(error).__name__}: {error}")


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(NAMES), help=f"of {', '.join(NAMES)}")
    parser.add_argument("--peers", type=lambda text: text.split(","), help="of registry.py; without it those that are timed by default")
    args = parser.parse_args()
    if wrong := sorted(set(args.rows) - set(NAMES)):
        parser.error(f"no {', '.join(wrong)}; there are {', '.join(NAMES)}")
    failed = list[str]()
    harness.report(lambda: rows(args.rows, args.quick, args.peers, failed), args.json, harness.ONE_THREAD)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
