"""What docs/planning.md shows of fleets: the simulation beside a real deployment, and what `rerank-engine plan` says of 10^9 passages."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from rerank_engine.cli import main

EXAMPLE = (
    "--p95 1000 --corpus-size 1e9 --tokens 60 --qps 500 --machine-memory 256e9 --machine-processors 32 --machine-price 2.5 "
    "--collection trec-dl19-pool --collection trec-dl21-pool"
)


def agreement(data: Any, about: str) -> str:
    """A row a level of load of bench_fleet."""
    lines = [
        "| load | requests | measured p50 / p95 / p99, ms | simulated | p95 off | simulated, other arrivals |",
        "|---|---|---|---|---|---|",
    ]
    for r in data:
        sides = (" / ".join(f"{ms:,.0f}" for ms in r[f"{side}_p50_p95_p99"]) for side in ("measured", "simulated", "fresh"))
        measured, simulated, fresh = sides
        cells = f"{r['requests']:,} | {measured} | {simulated} | {100 * r['off'][1]:+.0f} % | {fresh}"
        lines.append(f"| {r['case']}, {r['requests_a_second']:.1f} a second | {cells} |")
    r = data[0]
    fitted = f"work {r['work_ms']:.0f} ms on average, hop {r['hop_ms']:.0f} ms, crowding {r['crowding']:.2f}"
    kept = f"{sum(row['verified'] for row in data)} of {len(data)} levels of load lie within 15 % at p95"
    how = f"medians over slices of {r['slice_s']:.0f} s. {r['deployment']}; fitted without load: {fitted}"
    machine = f"others took {r['foreign']:.0%} of the processors meanwhile" + (f", ours ran at nice {r['nice']}" if r["nice"] else "")
    return "\n".join([*lines, "", f"{kept}; {how}; {machine} (`python -m benchmarks.bench_fleet`), {about}."])


def example(data: Any, about: str) -> str:
    """The command's own output, by the costs that are committed."""
    return (
        f"```\n$ rerank-engine plan {EXAMPLE}\n{_printed(json.dumps(data))}```\n\nPredicted, all of it, from costs calibrated on {about}."
    )


@functools.lru_cache(maxsize=1)
def _printed(costs: str) -> str:
    out = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(out):
        path = Path(folder) / "costs.json"
        path.write_text(costs)
        if main(["plan", *EXAMPLE.split(), "--costs", str(path), "--any-machine"]):
            raise ValueError("rerank-engine plan failed")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
