"""A bulk job by one worker and by two, each of one thread, on processes of this machine and on Ray:
`python -m benchmarks.bench_bulk [--quick] [--json]`, by the Python of .venv-ray (`make ray`); without Ray its rows are left out.

processes, ray    seconds a pair of two workers ("ours") against one ("theirs"), so that ratio is the speed-up. Steady state: of each worker
                  from its first part to its last, waiting and writing included; the start of processes and models is apart. Questions and
                  passages of trec-dl19-pool, BM25's first documents, a question a part.
part              ms that a part takes beside its scoring, by one worker, on Ray ("ours") and on processes: parts of a blank document.
start             s from the checked job to the first part begun, two workers: processes and models; on Ray beside that of Ray itself
                  ("ray_init_s"), once.

All four runs of a round come in turns and must give the same bytes. Medians of the rounds; spread: of their ratios, the middle half. Wall
time, for that is what a second worker is for: the machine has to be quiet ("load" tells).
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from rerank_engine import bulk
from rerank_engine.cluster import on_ray

MODEL, POOL = "ms-marco-MiniLM-L-12-v2", Path(__file__).parents[2] / "shared" / "data" / "trec-dl19-pool"
SIDES = {"processes": None, "ray": on_ray}


def rows(quick: bool) -> Iterator[harness.Row]:
    rounds, depth, empty = (1, 10, 50) if quick else (5, 50, 300)
    load, sides, init = os.getloadavg(), dict(SIDES), None
    if harness.peer("ray.data") is None:
        del sides["ray"]
    else:
        init = start_ray()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        full = bulk.Job(str(POOL / "runs" / "bm25.trec.gz"), str(POOL), str(POOL), "", MODEL, depth=depth, part=1)
        found = {key: list[Any]() for key in itertools.product(sides, (1, 2))}
        for number in range(rounds):
            keys = list(found) if number % 2 else list(found)[::-1]
            harness.verify("bulk", len({timed(root, full, sides, key, found[key]) for key in keys}) == 1)
        parts = {(side, 1): list[Any]() for side in sides}
        for number in range(rounds):
            for key in parts if number % 2 else list(parts)[::-1]:
                timed(root, blank(root, empty), sides, key, parts[key])
    how = {"load": load, "rounds": rounds, "depth": depth, "model": MODEL, "collection": POOL.name, "blank_parts": empty}
    for side in sides:
        one, two = ([told["s_per_pair"] for told in found[side, workers]] for workers in (1, 2))
        yield row(side, "1 worker", "s_per_pair", two, one, how)
    if init is not None:
        for case, key, at, workers in (("part", "overhead_ms", parts, 1), ("start", "start_s", found, 2)):
            ours, theirs = ([told[key] for told in at[side, workers]] for side in ("ray", "processes"))
            yield row(case, "processes", key, ours, theirs, {**how, "ray_init_s": init})


def row(case: str, peer: str, metric: str, ours: list[float], theirs: list[float], how: dict[str, Any]) -> harness.Row:
    spread = np.percentile([b / a for a, b in zip(ours, theirs)], [25, 75]).tolist()
    return harness.row("bulk", case, peer, metric, statistics.median(ours), statistics.median(theirs), spread, "onnx", **how)


def start_ray() -> float:
    """s that a Ray of this machine alone takes to start; the runs find it started."""
    import ray

    begin = time.perf_counter()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    return round(time.perf_counter() - begin, 2)


def timed(root: Path, job: bulk.Job, sides: dict[str, Any], key: tuple[str, int], found: list[Any]) -> bytes:
    """Runs the job into a folder of its own, adds what it took, and gives the file that came of it."""
    stamps = list[float]()
    with tempfile.TemporaryDirectory(dir=root) as out:
        mine = bulk.Job(**{**vars(job), "out": out})
        told = bulk.rerank_run(
            mine, workers=key[1], threads=1, each=sides[key[0]], progress=lambda *_: stamps.append(time.perf_counter())
        )  # fmt: skip
        data = (Path(out) / "run.trec").read_bytes()
    of = dict[int, list[tuple[float, Any]]]()
    for stamp, part in zip(stamps[1:], told["parts_told"], strict=True):
        of.setdefault(part["process"], []).append((stamp, part))
    spans = [(part[-1][0] - part[0][0], part[1:]) for part in of.values()]
    rate = sum(sum(part["pairs"] for _, part in rest) / span for span, rest in spans)
    beside = sum(span for span, _ in spans) - sum(part["seconds"] for _, rest in spans for _, part in rest)
    found.append({
        "s_per_pair": 1 / rate, "start_s": stamps[1] - stamps[0] - told["parts_told"][0]["seconds"],
        "overhead_ms": 1e3 * beside / sum(len(rest) for _, rest in spans),
    })  # fmt: skip
    harness.note(f"{key}: {found[-1]}, {len(of)} processes")
    return data


def blank(root: Path, n: int) -> bulk.Job:
    """n parts of one document that has nothing to score."""
    (root / "queries.jsonl").write_text("".join(json.dumps({"_id": i, "text": f"question {i}"}) + "\n" for i in range(n)))
    (root / "corpus.jsonl").write_text('{"_id": "d", "text": ""}\n')
    (root / "run.trec").write_text("".join(f"{i} Q0 d 1 1 t\n" for i in range(n)))
    names = (str(root / name) for name in ("run.trec", "queries.jsonl", "corpus.jsonl"))
    return bulk.Job(*names, out="", model=MODEL, part=1)


if __name__ == "__main__":
    harness.main(rows, __doc__)
