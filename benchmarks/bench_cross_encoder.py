"""Cross-encoder re-ranking with ms-marco-MiniLM-L-12-v2, tokenisation included: ms of processor time for a call of 100 pairs, one thread.

Cases: marco100 (lengths as MS MARCO's passages have them) and var100 (of high variance), real text behind one question, other texts in
every round. Sides take turns; each round's scores are checked. Ours in float32 stands against what computes in float32, ours as published
(dynamic int8) against that; `own-...`: our other runtimes. gflops: [ours, theirs], 10^9 useful operations a second of processor time, all
rows of all layers counted and no padding.

`floor-...`, peer fma-peak: the ratio is the share of the processor's peak, measured in the same rounds; of a runtime that computes the last
layer for first rows alone only what it does is counted (`counted`), and `share_all_rows` counts all. `cost-per-flop`: var100 against
marco100, ms a GFLOP, counted as for the floor. `threads-200`: wall-clock ms for 200 pairs, 2 threads against 1. `memory-1000`: resident
bytes after 1,000 calls of varied shapes against those after 100, in a process of its own.

--quick: every 4th pair by length, one round, fewer calls, and no padded batch of float32; some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rerank_engine as rr
from benchmarks import cross, cross_models, harness, peak, peers
from benchmarks.cross import Side
from rerank_engine.cpus import available_cpus
from rerank_engine.errors import BackendUnavailable, InputError, MissingDependency, UnsupportedModelError
from rerank_engine.runtimes.base import describe
from rerank_engine.runtimes.onnx import OnnxRuntime
from rerank_engine.runtimes.tokenize import Tokenizer

BENCH = "cross-encoder"
REFERENCE = "onnxruntime-1by1-"
SLOWEST = "flashrank-style-float32"
CASES = ("speed", "threads", "memory")
PEAK_GFLOP = 20.0  # of one timing of the peak
# name -> which file, and how it is loaded. Of two that turn out to run alike the first stays.
OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "ours-float32": ("fp32", {}),
    "ours-int8": ("published", {}),
    "own-onnx": ("fp32", {"runtime": "onnx"}),
    "own-torch": ("fp32", {"runtime": "torch"}),
    "own-onnx-plain": ("plain", {}),
    "own-float32-of-int8": ("published", {"precision": "float32"}),
    "own-torch-of-int8": ("published", {"precision": "float32", "runtime": "torch"}),
    "own-int8-torch": ("published", {"runtime": "torch"}),
}
Milliseconds = dict[tuple[str, str], list[float]]  # (case, side) -> one a round


def rows(args: argparse.Namespace) -> Iterator[harness.Row]:
    models = cross_models.models()
    if "speed" in args.cases:
        yield from Speed(models, args).rows()
    if "threads" in args.cases:
        yield from threads(models, args.rounds, args.quick)
    if "memory" in args.cases:
        yield from memory(models, 60 if args.quick else 1000)


def load(models: cross_models.Models, name: str, threads: int = 1) -> rr.CrossEncoder:
    which, options = OWN[name]
    if which == "plain":  # the file as it is, run by the same scheduler
        runtime = OnnxRuntime(models.graph("float32"), threads=threads)
        runtime.form = "as published"
        return rr.CrossEncoder(runtime, Tokenizer(models.tokenizer, cross.MOST), name=name)
    found = rr.load(models.fp32 if which == "fp32" else cross_models.NAME, threads=threads, device="cpu", **options)
    assert isinstance(found, rr.CrossEncoder)
    return found


def precision(model: rr.CrossEncoder) -> str:
    return "int8" if model.runtime.batch_sensitive else "float32"


def first_rows(model: rr.CrossEncoder) -> bool:
    """Whether the last layer is computed for the first row of each pair alone, as packed runtimes do."""
    return "packed" in getattr(model.runtime, "form", "")


class Speed:
    """The rows of both cases, of ours and peers in turns."""

    def __init__(self, models: cross_models.Models, args: argparse.Namespace) -> None:
        self.models, self.rounds = models, args.rounds
        self.lengths = {case: cross.quarter(found) if args.quick else found for case, found in cross.passage_lengths().items()}
        self.own = dict(self.mine(args.own))
        self.sides = {name: Side(lambda p, m=model: m.predict(p).values, precision(model), 1e-3) for name, model in self.own.items()}
        for found, make in (peer for kind in ("float32", "int8") for peer in peers.installed(kind) if self.wants(peer[0].name, args)):
            if (call := peers.made(found.name, make, models)) is not None:
                self.sides[found.name] = Side(call, found.kind, found.error)
        self.isa, self.at_peak = peak.fma(PEAK_GFLOP * 1e9)
        self.ms: Milliseconds = {}
        self.gflop: dict[str, list[float]] = {case: [] for case in self.lengths}  # a round, of all rows
        self.counted: dict[str, list[float]] = {case: [] for case in self.lengths}  # with first rows alone
        self.apart: dict[tuple[str, str], float] = {}

    @staticmethod
    def wants(name: str, args: argparse.Namespace) -> bool:
        if name.startswith(REFERENCE):
            return True
        return not (args.quick and name == SLOWEST) if args.peers is None else name in args.peers

    def mine(self, chosen: list[str]) -> Iterator[tuple[str, rr.CrossEncoder]]:
        seen = set()
        for name in chosen:
            try:
                model = load(self.models, name)
            except (BackendUnavailable, InputError, MissingDependency, UnsupportedModelError, TypeError) as error:
                harness.verify(f"{name} ({error})", not name.startswith("ours-"))
                harness.note(f"skipped: {name} ({str(error).splitlines()[0]})")
                continue
            how = (describe(model.runtime), precision(model))
            if how in seen:
                harness.note(f"skipped: {name} runs as one before it, {' '.join(how)}")
                continue
            seen.add(how)
            yield name, model

    def rows(self) -> Iterator[harness.Row]:
        for number in range(self.rounds + 1):  # the first is to warm up
            for case in self.lengths:
                self.round(case, number)
            harness.note(f"round {number} of {self.rounds}")
        for case in self.lengths:
            for name in self.sides:
                ours = f"ours-{self.sides[name].precision}"
                if not name.startswith("ours-") and ours in self.own:
                    yield self.row(case, name, ours)
            yield self.floor(case)
        yield self.cost()

    def round(self, case: str, number: int) -> None:
        given = cross.pairs(self.models.tokenizer, self.lengths[case], number)
        lengths = cross.pair_lengths(self.models.tokenizer, given)
        if number == 0:
            harness.note(cross.described(case, lengths))
        else:
            self.gflop[case].append(cross_models.gflop(lengths))
            self.counted[case].append(cross_models.gflop(lengths, first_rows=True))
        found = {}
        for name in cross.turns([*self.sides, "fma-peak"], number):
            if name == "fma-peak":
                ms = harness.cpu_ms(self.at_peak)
            else:
                ms, found[name] = cross.timed(self.sides[name].score, given)
            if number:
                self.ms.setdefault((case, name), []).append(ms)
        for name, side in self.sides.items():
            apart = float(np.abs(found[name] - found[REFERENCE + side.precision]).max())
            self.apart[case, name] = max(apart, self.apart.get((case, name), 0.0))
            harness.verify(f"{name} of {case}, {apart:.3g} from onnxruntime", apart <= max(side.error, 1e-6))

    def row(self, case: str, name: str, ours: str) -> harness.Row:
        a, b = (np.array(self.ms[case, side]) for side in (ours, name))
        work = np.array(self.gflop[case])
        more = {
            "gflops": [round(float(np.median(work / side * 1e3)), 1) for side in (a, b)],
            "difference": [float(f"{self.apart[case, side]:.2g}") for side in (ours, name)],
            "precision": self.sides[name].precision,
        }
        if name in self.own:
            more["theirs_backend"] = describe(self.own[name].runtime)
        return self.compared(case, name, "cpu_ms", a, b, ours, **more)

    def floor(self, case: str) -> harness.Row:
        ours = np.array(self.ms[case, "ours-float32"])
        rate = np.array(self.ms[case, "fma-peak"]) / PEAK_GFLOP  # ms a GFLOP
        part = first_rows(self.own["ours-float32"])
        work, every = np.array(self.counted[case] if part else self.gflop[case]), np.array(self.gflop[case])
        more = {
            "counted": "last layer: first rows" if part else "all rows",
            "gflop": [round(float(np.median(found)), 1) for found in (work, every)],
            "share_all_rows": round(float(np.median(every * rate / ours)), 3),
            "peak_gflops": round(float(np.median(1e3 / rate)), 1),
            "peak_isa": self.isa,
        }
        return self.compared(f"floor-{case}", "fma-peak", "cpu_ms", ours, work * rate, "ours-float32", **more)

    def cost(self) -> harness.Row:
        work = self.counted if first_rows(self.own["ours-float32"]) else self.gflop
        var, marco = (np.array(self.ms[case, "ours-float32"]) / np.array(work[case]) for case in ("var100", "marco100"))
        return self.compared("cost-per-flop", "marco100", "ms_per_gflop", var, marco, "ours-float32")

    def compared(self, case: str, peer: str, metric: str, ours: NDArray[Any], theirs: NDArray[Any], side: str, **more: Any) -> harness.Row:
        return compared(case, peer, metric, ours, theirs, describe(self.own[side].runtime), **more)


def compared(case: str, peer: str, metric: str, ours: NDArray[Any], theirs: NDArray[Any], how: str, **more: Any) -> harness.Row:
    """Medians; the ratio is that of the medians, the spread that of the rounds' own ratios."""
    spread = np.percentile(theirs / ours, [25, 75]).tolist()
    return harness.row(BENCH, case, peer, metric, float(np.median(ours)), float(np.median(theirs)), spread, how, rounds=len(ours), **more)


def threads(models: cross_models.Models, rounds: int, quick: bool) -> Iterator[harness.Row]:
    """Wall-clock time: says something on an idle machine alone. own_cpu: processor time of 2 threads over that of 1."""
    if available_cpus() < 2:
        harness.note("skipped: threads-200, this process has one processor")
        return
    lengths = cross.passage_lengths()["marco100"]
    lengths = np.tile(cross.quarter(lengths) if quick else lengths, 2)
    for name in ("ours-float32", "ours-int8"):
        two, one = (load(models, name, number) for number in (2, 1))
        wall: dict[int, list[float]] = {1: [], 2: []}
        cpu: dict[int, list[float]] = {1: [], 2: []}
        for number in range(rounds + 1):
            given = cross.pairs(models.tokenizer, lengths, 1000 + number, queries=2)
            found = {}
            for key in (1, 2) if number % 2 else (2, 1):
                begin = time.process_time()
                ms, found[key] = cross.timed(lambda p, m=two if key == 2 else one: m.predict(p).values, given, time.perf_counter)
                if number:
                    wall[key].append(ms)
                    cpu[key].append(1e3 * (time.process_time() - begin))
            apart = float(np.abs(found[1] - found[2]).max())
            harness.verify(f"two threads of {name}, {apart:.3g} from one", apart <= 1e-4)
        more = {"threads": 2, "own_cpu": round(float(np.median(cpu[2]) / np.median(cpu[1])), 3), "precision": precision(two)}
        yield compared(
            f"threads-{len(lengths)}",
            f"own-1-thread-{precision(two)}",
            "wall_ms",
            np.array(wall[2]),
            np.array(wall[1]),
            describe(two.runtime),
            **more,
        )


def memory(models: cross_models.Models, calls: int) -> Iterator[harness.Row]:
    for name in ("ours-float32", "ours-int8"):
        command = [sys.executable, "-m", "benchmarks.cross_memory", name, str(calls)]
        told = subprocess.run(command, cwd=Path(__file__).resolve().parents[1], check=True, stdout=subprocess.PIPE, env=dict(os.environ))
        got = json.loads(told.stdout)
        more = {"growth_percent": round(100 * (got["end"] / got["start"] - 1), 2), "peak_bytes": got["peak"], "calls": calls}
        ratio = [got["start"] / got["end"]] * 2
        peer = f"own-after-{got['first']}-{name.removeprefix('ours-')}"
        yield harness.row(BENCH, f"memory-{calls}", peer, "rss_bytes", got["end"], got["start"], ratio, got["backend"], **more)


def names(allowed: tuple[str, ...]):
    def parse(text: str) -> list[str]:
        found = text.split(",")
        if wrong := sorted(set(found) - set(allowed)):
            raise argparse.ArgumentTypeError(f"no {', '.join(wrong)}; there are {', '.join(allowed)}")
        return found

    return parse


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="timed rounds")
    parser.add_argument("--cases", type=names(CASES), default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--own", type=names(tuple(OWN)), default=list(OWN), help=f"of {', '.join(OWN)}")
    parser.add_argument("--peers", type=lambda text: text.split(","), help="names of rows; onnxruntime, one by one, is always there")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 5)
    harness.report(lambda: rows(args), args.json, {**harness.ONE_THREAD, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})


if __name__ == "__main__":
    main()
