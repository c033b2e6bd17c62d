"""What every benchmark shares: verify, then time ours and the peer in turns in one process, then print rows.

CPU time of the whole process is taken, never wall time: the machines that this runs on are shared. Both sides run on one thread.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from rerank_engine.backends import choose

Row = dict[str, Any]
Call = Callable[[], object]
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(rows: Callable[[bool], Iterator[Row]], description: str | None) -> None:
    """Runs `rows(quick)` and prints them: a JSON list on standard output with --json, else a table."""
    args = arguments(description).parse_args()
    report(lambda: rows(args.quick), args.json, ONE_THREAD)


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less data and fewer rounds: under a minute")
    parser.add_argument("--json", action="store_true", help="a JSON list of rows on standard output, and nothing else there")
    return parser


def report(rows: Callable[[], Iterator[Row]], as_json: bool, environment: dict[str, str]) -> None:
    """Runs and prints rows with these environment variables set; standard output holds nothing else, whatever a library prints."""
    if any(os.environ.get(name) != value for name, value in environment.items()):
        # BLAS and numba read these once, when they are imported, which has happened: start again.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **environment})
    gc.disable()  # as timeit does: a collection would hit one side by chance
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        found: list[Row] = []
        try:
            found.extend(rows())
        finally:  # what was measured before a failure is not lost with it
            print(json.dumps(found, indent=1) if as_json else table(found), file=out)


def table(rows: list[Row]) -> str:
    lines = [f"{'case':<24}{'peer':<22}{'metric':<16}{'ours':>12}{'theirs':>12}{'ratio':>8}  spread"]
    for r in rows:
        if r["ratio"] is None:
            lines.append(f"{r['bench'] + ' ' + r['case']:<24}{r['peer']:<22}not measured: {r['why']}")
            continue
        numbers = f"{r['ours']:>12.5g}{r['theirs']:>12.5g}{r['ratio']:>8.2f}  {r['spread'][0]:.2f}-{r['spread'][1]:.2f}"
        lines.append(f"{r['bench'] + ' ' + r['case']:<24}{r['peer']:<22}{r['metric']:<16}{numbers}")
    return "\n".join(
        [*lines, "ratio = theirs / ours, above 1: ours is faster or smaller; spread: the middle half of the rounds; cpu_ms: per query"]
    )


def peer(name: str) -> ModuleType | None:
    """The module of a peer, or None with a note when it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        note(f"skipped: {name} ({error})")
        return None


def verify(what: str, ok: bool) -> None:
    """A wrong answer is never timed."""
    if not ok:
        note(f"refused to time {what}: its answer is wrong")
        raise SystemExit(1)


def same_ranking(got: Any, want: Any, rtol: float = 1e-5) -> bool:
    """(ids, scores) against (ids, scores): scores equal place by place, ids too unless the score ties with a neighbour within `rtol`."""
    ids, scores, want_ids, want_scores = (np.asarray(x) for x in (*got, *want))
    if ids.shape != want_ids.shape or not np.allclose(scores, want_scores, rtol=rtol, atol=1e-7):
        return False
    tied = np.abs(np.diff(want_scores)) <= 2 * rtol * np.abs(want_scores[1:]) + 2e-7
    # the last place may tie with what was cut off
    loose = np.concatenate([tied, [True]]) | np.concatenate([[False], tied])
    return bool(((ids == want_ids) | loose[: len(ids)]).all())


def cpu_ms(call: Call, times: int = 1) -> float:
    begin = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - begin) * 1e3 / times


def compare(
    bench: str,
    case: str,
    peer: str,
    ours: Call,
    theirs: Call,
    *,
    rounds: int,
    per: int = 1,
    warm_up: bool = True,
    slice_ms: float = 5,
    backend: str | None = None,
) -> Row:
    """Times two calls that do the same job, in turns. One call counts as `per` units (queries); each timing lasts at least `slice_ms`.

    backend: what ran ours, where `bench` is no op.
    """
    sides = (ours, theirs)
    once = [min(cpu_ms(side) for _ in range(2)) if warm_up else slice_ms for side in sides]
    times = [max(1, round(slice_ms / max(ms, 1e-4))) for ms in once]
    measured: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for side in (0, 1) if number % 2 else (1, 0):  # neither always runs in the caches that the other left
            measured[side].append(cpu_ms(sides[side], times[side]) / per)
    a, b = (statistics.median(values) for values in measured)
    spread = np.percentile([y / x for x, y in zip(*measured)], [25, 75])
    return row(bench, case, peer, "cpu_ms", a, b, spread.tolist(), backend)


def row(
    bench: str, case: str, peer: str, metric: str, ours: float, theirs: float, spread: list[float], backend: str | None = None, **more: Any
) -> Row:
    """`more`: keys to add, or to put in the place of the usual ones."""
    ratio = theirs / ours
    note(f"{bench} {case} against {peer}: {ratio:.2f}x ({metric} {ours:.4g} against {theirs:.4g})")
    return {
        "bench": bench,
        "case": case,
        "peer": peer,
        "metric": metric,
        "ours": round(ours, 6),
        "theirs": round(theirs, 6),
        "ratio": round(ratio, 3),
        "spread": [round(x, 3) for x in spread],
        "verified": True,
        "backend": backend or choose(bench),
        "threads": 1,
        **more,
    }
