"""A bulk job by one worker and by two, each of one thread, on processes of this machine and on Ray:
`python -m benchmarks.bench_bulk [--quick] [--json]`, by the Python of .venv-ray (`make ray`); without Ray its rows are left out.

processes, ray    seconds a pair of two workers ("ours") against one ("theirs"), so that ratio is the speed-up: from the first part begun to
                  the last done, waiting and writing included, of all pairs; the start of processes and models is apart. Questions and
                  passages of trec-dl19-pool, BM25's first documents, a question a part. "cpu_ratio": twice what a pair of one takes of a
                  processor over what it takes of two, which is the speed-up where nothing else runs and no worker waits.
part              ms of a part that holds a blank document alone, so that nothing is scored, by one worker: Ray ("ours") and processes.
start             s from the checked job to the first part begun, two workers: processes and models. "ray_init_s": of Ray itself, once.

All runs of a round come in turns and must give the same bytes. Medians of the rounds; spread: of their ratios, the middle half. Wall time,
for that is what a second worker is for: the machine has to be quiet ("load" tells whether it was).
"""

from __future__ import annotations

import itertools
import json
import math
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
    rounds, depth, empty = (1, 10, 50) if quick else (5, 30, 200)
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
        one, two = found[side, 1], found[side, 2]
        cpu = statistics.median(2 * a["cpu_s_per_pair"] / b["cpu_s_per_pair"] for a, b in zip(one, two))
        yield row(side, "1 worker", "s_per_pair", two, one, {**how, "cpu_ratio": round(cpu, 3)})
    if init is not None:
        yield row("part", "processes", "ms_a_part", parts["ray", 1], parts["processes", 1], how)
        yield row("start", "processes", "start_s", found["ray", 2], found["processes", 2], {**how, "ray_init_s": init})


def row(case: str, peer: str, key: str, ours: list[Any], theirs: list[Any], how: dict[str, Any]) -> harness.Row:
    a, b = ([told[key] for told in side] for side in (ours, theirs))
    spread = np.percentile([y / x for x, y in zip(a, b)], [25, 75]).tolist()
    return harness.row("bulk", case, peer, key, statistics.median(a), statistics.median(b), spread, "onnx", **how)


def start_ray() -> float:
    """s that a Ray of this machine alone takes to start; the runs find it started."""
    import ray

    begin = time.perf_counter()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    return round(time.perf_counter() - begin, 2)


def timed(root: Path, job: bulk.Job, sides: dict[str, Any], key: tuple[str, int], found: list[Any]) -> bytes:
    """Runs the job into a folder of its own, adds what it took, and gives the file that came of it."""
    begin, came = list[float](), list[tuple[float, float, Any]]()  # when a part came, and what its process had taken by then

    def watched(*asked: Any) -> Iterator[dict[str, Any]]:
        begin.append(time.perf_counter())
        for part in (sides[key[0]] or bulk._processes)(*asked):
            came.append((time.perf_counter(), cpu_s(part["process"]), part))
            yield part

    with tempfile.TemporaryDirectory(dir=root) as out:
        told = bulk.rerank_run(bulk.Job(**{**vars(job), "out": out}), workers=key[1], threads=1, each=watched)
        data = Path(told["run"]).read_bytes()
    wall, cpu = spent(came)
    first, _, part = came[0]
    found.append({
        "s_per_pair": wall / told["pairs"], "cpu_s_per_pair": cpu, "ms_a_part": 1e3 * wall / told["parts"],
        "start_s": first - begin[0] - part["seconds"],
    })  # fmt: skip
    harness.note(f"{key}: {found[-1]}, {len({part['process'] for *_, part in came})} processes")
    return data


def spent(came: list[tuple[float, float, Any]]) -> tuple[float, float]:
    """(s from the first part begun to the last done, s of processors a pair), of (when it came, what its process had taken by then, part).
    The first part of a process is not in the latter: what loading took is not known apart; without another, NaN."""
    of = dict[int, list[tuple[float, Any]]]()
    for _, cpu, part in came:
        of.setdefault(part["process"], []).append((cpu, part))
    pairs = sum(part["pairs"] for _, *rest in of.values() for _, part in rest)
    cpus = sum(rows[-1][0] - rows[0][0] for rows in of.values())
    wall = max(at for at, *_ in came) - min(at - part["seconds"] for at, _, part in came)
    return wall, cpus / pairs if pairs else math.nan


def cpu_s(pid: int) -> float:
    """What a process has taken of processors until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def blank(root: Path, n: int) -> bulk.Job:
    """n parts of one document that has nothing to score."""
    (root / "queries.jsonl").write_text("".join(json.dumps({"_id": i, "text": f"question {i}"}) + "\n" for i in range(n)))
    (root / "corpus.jsonl").write_text('{"_id": "d", "text": ""}\n')
    (root / "run.trec").write_text("".join(f"{i} Q0 d 1 1 t\n" for i in range(n)))
    names = (str(root / name) for name in ("run.trec", "queries.jsonl", "corpus.jsonl"))
    return bulk.Job(*names, out="", model=MODEL, part=1)


if __name__ == "__main__":
    harness.main(rows, __doc__)
