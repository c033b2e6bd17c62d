"""What every Triton kernel costs on every target, from machine code that is compiled here without a GPU; and the gate on it.

    python -m benchmarks.kernel_report [--json] [--peers] [--only KERNEL] [--targets sm_90,gfx942]
    python -m benchmarks.kernel_report --check             the gate: prints every violation, exit status 1 if there is one
    python -m benchmarks.kernel_report --record --peers    writes what the gate compares with and kernels/README.md shows

A row: registers of a thread; spills (instructions that touch local memory); smem (bytes of a block); mma (tensor-core instructions);
loads_16b_share (of the bytes that a thread loads from global memory in the hot loop, the share in instructions of at least 16 bytes);
instr_per_token = loop instructions x warps / tokens that a trip covers: what the schedulers issue for a document token; bytes_per_token:
what the loads of the loop ask for, repeated reads included. predicted_issue_floor_us: predicted, not measured, the time to issue the loop
over 1,000 documents of 180 tokens on the target's GPU (benchmarks/roofline.py). All are static counts. On AMD only registers, spills,
shared memory and matrix instructions are read, and the gate only asks that what the record says to compile still does.

A peer's row is the one with the shortest loop of the configurations that its autotuner would try.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import triton
from rerank_kernels.config import TARGETS

from benchmarks import machine_code
from benchmarks.roofline import issue_floor_us, json_lines
from rerank_engine.cli import Bar
from rerank_engine.cpus import available_cpus

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "kernels"
AMD = "gfx942"
FORMS_ON_AMD = "sm_80"  # the table of tiles has no row for AMD: it compiles the forms of this target
PEERS = "benchmarks.peers.kernels"
MOST_REGISTERS = 255
HOW_TO_RECORD = "record anew with `python -m benchmarks.kernel_report --record --peers`"
# The longest loops that are allowed, in instructions a document token
BARS = {
    ("maxsim", "fp16-d128-q32", "sm_90"): 9.0,
    ("residual", "2bit-raw-d128-q32", "sm_90"): 61.0,
    ("residual", "2bit-norm-d128-q32", "sm_90"): 32.0,
    ("residual", "2bit-int8-d128-q32", "sm_90"): 13.0,
}


@dataclass(frozen=True)
class Task:
    """One form to compile: the position-th of a module's builds for a target. (A kernel cannot be sent to another process.)"""

    module: str
    target: str
    position: int


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parsed(arguments)
    if triton.knobs.runtime.interpret:
        note("kernel_report compiles kernels; with TRITON_INTERPRET=1 Triton runs them in Python instead: unset it")
        return 2
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # what a compiler prints goes to standard error
        targets = args.targets or [*TARGETS, AMD]
        rows = report(targets, args.only, args.peers)
        if args.json:
            print(json_lines(rows), file=out)
        elif not args.check:
            print(table(rows), file=out)
    if args.record:
        record(rows)
    if args.check:
        return check(rows, () if args.only else targets)
    return int(any(row["error"] for row in rows if row["target"] in TARGETS))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="a JSON list of rows on standard output, and nothing else there")
    parser.add_argument("--only", metavar="KERNEL", help="one kernel: maxsim, residual, ...")
    parser.add_argument("--targets", type=lambda text: text.split(","), help=f"of {', '.join([*TARGETS, AMD])}, separated by commas")
    parser.add_argument("--peers", action="store_true", help=f"the kernels of the peers too ({PEERS} says what to install)")
    parser.add_argument("--check", action="store_true", help="the gate")
    parser.add_argument("--record", action="store_true", help="write the record that the gate compares with")
    args = parser.parse_args(arguments)
    for target in args.targets or []:
        if target not in (*TARGETS, AMD):
            parser.error(f"target {target}: expected one of {', '.join([*TARGETS, AMD])}")
    if args.record and (args.only or args.targets):
        parser.error("--record holds every kernel and target: leave out --only and --targets")
    return args


def report(targets: Iterable[str], only: str | None, peers: bool) -> list[Row]:
    """Compiles everything that is asked for, in as many processes as there are processors."""
    tasks = list(found_tasks(targets, only, peers))
    if not tasks:
        raise SystemExit(f"no kernel is called {only}")
    rows = []
    with Bar("kernels") as progress:
        for row in measured(tasks):
            rows.append(row)
            progress(len(rows), len(tasks))
    return best_of_shortlists(rows)


def measured(tasks: Sequence[Task]) -> Iterator[Row]:
    workers = min(available_cpus(), len(tasks))
    if workers == 1:
        yield from map(measure, tasks)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(measure, tasks)


def found_tasks(targets: Iterable[str], only: str | None, peers: bool) -> Iterator[Task]:
    modules = kernel_modules()
    for target in targets:
        for module in [*modules, PEERS] if peers else modules:
            wanted = [(i, build) for i, build in enumerate(builds(module, target)) if only in (None, build.kernel)]
            possible = [i for i, build in wanted if not (target == AMD and build.constants.get("ASM"))]
            if len(possible) < len(wanted):
                note(f"{module} on {target}: {len(wanted) - len(possible)} forms skipped, they hold NVIDIA's inline assembly")
            yield from (Task(module, target, i) for i in possible)


def kernel_modules() -> list[str]:
    """Of rerank_kernels, those that list forms to compile. One that cannot be imported raises."""
    folder = Path(importlib.import_module("rerank_kernels.config").__file__ or "").parent
    names = [f"rerank_kernels.{path.stem}" for path in sorted(folder.glob("*.py"))]
    return [name for name in names if hasattr(importlib.import_module(name), "builds")]


@lru_cache
def builds(module: str, target: str) -> list[Any]:
    ours = module != PEERS
    found: list[Any] = importlib.import_module(module).builds(FORMS_ON_AMD if ours and target == AMD else target)
    return found


def measure(task: Task) -> Row:
    """Compiles one form, in any process."""
    warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
    build = builds(task.module, task.target)[task.position]
    try:
        facts = machine_code.facts(machine_code.compiled(build, task.target))
    except Exception as error:  # Triton, LLVM and ptxas raise what they like; the row says what it was
        return row_of(build, task.target, None, reason(error))
    return row_of(build, task.target, facts, None)


def reason(error: BaseException) -> str:
    """The last line of what was raised first: Triton wraps an error once for each function, in the source that led to it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1][:300]}"


def row_of(build: Any, target: str, facts: Any, error: str | None) -> Row:
    """facts: None where it did not compile."""
    loop = facts and facts.loop
    per_token = loop.instructions * build.warps / build.tokens if loop and build.tokens else None
    scores_tokens = target in TARGETS and build.kernel in ("maxsim", "residual") and per_token is not None
    return {
        "kernel": build.kernel,
        "variant": build.variant,
        "target": target,
        "registers": facts and facts.registers,
        "spills": facts and facts.spills,
        "smem": facts and facts.smem,
        "mma": facts and facts.mma,
        "loads_16b_share": round(loop.wide_bytes / loop.load_bytes, 3) if loop and loop.load_bytes else None,
        "instr_per_token": per_token and round(per_token, 2),
        "peer": getattr(build, "peer", None),
        "stack": facts and facts.stack,
        "loop_instructions": loop and loop.instructions,
        "loop_mma": loop and loop.mma,
        "loop_loads": loop and loop.loads,
        "bytes_per_token": round(loop.load_bytes * 32 * build.warps / build.tokens, 1) if loop and build.tokens else None,
        "predicted_issue_floor_us": round(issue_floor_us(target, 180_000, per_token), 2) if scores_tokens else None,
        "warps": build.warps,
        "stages": build.stages,
        "tokens": build.tokens,
        "tile": getattr(build, "tile", None),
        "peer_version": version(build.peer) if hasattr(build, "peer") else None,
        "tensor_cores": build.tensor_cores,
        "triton": triton.__version__,
        "error": error,
    }


def best_of_shortlists(rows: Iterable[Row]) -> list[Row]:
    """Ours as they are; of a peer's configurations the one that spills least and then has the shortest loop."""
    best: dict[tuple[str | None, ...], Row] = {}
    for number, row in enumerate(rows):
        key = (row["peer"], *of(row)) if row["peer"] else (str(number),)
        best[key] = min(best.get(key, row), row, key=lambda r: (r["error"] is not None, r["spills"] or 0, r["instr_per_token"] or 0))
    return list(best.values())


def of(row: Row) -> tuple[str, str, str]:
    return row["kernel"], row["variant"], row["target"]


def record_path() -> Path:
    return RESULTS / f"triton-{'.'.join(triton.__version__.split('.')[:2])}.json"


def record(rows: Sequence[Row]) -> None:
    path = record_path()
    if path.exists() and any(row["peer"] for row in json.loads(path.read_text())) and not any(row["peer"] for row in rows):
        raise SystemExit(f"{path.name} holds the peers' kernels: record with --peers")
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json_lines(rows) + "\n")
    note(f"wrote {path}")


def check(rows: Sequence[Row], whole: Collection[str]) -> int:
    """The gate. whole: the targets for which every kernel was compiled, so that what the record or BARS names must be there."""
    path, recorded = record_path(), None
    if path.exists():
        recorded = {of(row): row for row in json.loads(path.read_text()) if not row["peer"]}
    else:
        note(f"no record for Triton {triton.__version__} ({path.name}): the hard limits alone are checked")
    found = list(violations([row for row in rows if not row["peer"]], recorded, whole))
    for violation in found:
        note(violation)
    note(f"{len(rows)} forms, {len(found)} violations")
    return int(bool(found))


def violations(rows: Sequence[Row], recorded: Mapping[tuple[str, str, str], Row] | None, whole: Collection[str]) -> Iterator[str]:
    """What, got, expected, of every rule that a row breaks."""
    for row in rows:
        what = f"{row['kernel']} {row['variant']} on {row['target']}"
        for problem in problems(row, (recorded or {}).get(of(row))):
            yield f"{what}: {problem}"
        if recorded is not None and of(row) not in recorded:
            yield f"{what}: not in the record, {HOW_TO_RECORD}"
    for kernel, variant, target in sorted({*BARS, *(recorded or ())} - {of(row) for row in rows}):
        if target in whole:
            yield f"{kernel} {variant} on {target}: got no such form, expected what the record or BARS names; {HOW_TO_RECORD}"


def problems(row: Row, before: Row | None) -> Iterator[str]:
    """Of one row; before: the same form in the record."""
    ours_to_limit = row["target"] in TARGETS
    if row["error"]:
        if ours_to_limit or (before and not before["error"]):
            yield f"got {row['error']}, expected it to compile"
        return
    if not ours_to_limit:
        return
    most = {"registers": MOST_REGISTERS, "spills": 0, "smem": TARGETS[row["target"]].shared_memory_bytes}
    for name, limit in most.items():
        if row[name] > limit:
            yield f"got {name} = {row[name]:,}, expected at most {limit:,}"
    if row["tensor_cores"] and not row["mma"]:
        yield "got no tensor-core instruction, expected some"
    for source, limit in (("its bar", BARS.get(of(row))), ("the record", before and before["instr_per_token"])):
        if limit is not None and (row["instr_per_token"] is None or row["instr_per_token"] > limit):
            yield f"got {row['instr_per_token']} loop instructions a token, expected at most {limit} ({source})"
    wide = before and before["loads_16b_share"]
    if wide is not None and (row["loads_16b_share"] is None or row["loads_16b_share"] < wide):
        yield f"got {row['loads_16b_share']} of the bytes in loads of 16 bytes, expected at least {wide} (the record)"


def table(rows: Sequence[Row]) -> str:
    names = (
        "target",
        "registers",
        "spills",
        "smem",
        "mma",
        "loads_16b_share",
        "instr_per_token",
        "bytes_per_token",
        "predicted_issue_floor_us",
    )
    lines = [f"{'kernel':<58}" + "".join(f"{name.replace('loads_', '').replace('_issue_floor', ''):>17}" for name in names)]
    for row in rows:
        label = " ".join(row[name] for name in ("peer", "kernel", "variant", "tile") if row[name])
        cells = "".join(f"{'' if row[name] is None else row[name]:>17}" for name in names)
        lines.append(f"{label:<58}{cells}" if row["error"] is None else f"{label:<58}{row['target']:>17}  {row['error']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
