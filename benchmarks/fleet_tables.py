"""What docs/planning.md shows of fleets: the simulation beside a real deployment, and what `rerank-engine plan` says of 10^9 passages."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from rerank_engine.cli import main

EXAMPLE = (
    "--p95 1000 --corpus-size 1e9 --tokens 60 --qps 200 --machine-memory 256e9 --machine-processors 32 --machine-price 2.5 "
    "--collection trec-dl19-pool --collection trec-dl21-pool"
)


def agreement(data: Any, about: str) -> str:
    """A row a level of load of bench_fleet."""
    lines = [
        "| load | requests | measured p50 / p95 / p99, ms | simulated | p95 off | slices' medians: measured | simulated | other arrivals |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in data:
        names = ("pooled_measured", "pooled_simulated", "measured", "simulated", "fresh")
        measured, simulated, *slices = (" / ".join(f"{ms:,.0f}" for ms in r[f"{name}_p50_p95_p99"]) for name in names)
        cells = f"{r['requests']:,} | {measured} | {simulated} | {100 * r['pooled_off'][1]:+.0f} % | {' | '.join(slices)}"
        lines.append(f"| {r['case']}, {r['requests_a_second']:.1f} a second | {cells} |")
    r = data[0]
    fitted = f"work {r['work_ms']:.0f} ms on average, hop {r['hop_ms']:.0f} ms; by more than is answered: crowding {r['crowding']:.2f}"
    kept = f"{sum(row['verified'] for row in data)} of {len(data)} levels of load lie within 15 % at p95"
    how = f"of all requests of a level, sent in slices of {r['slice_s']:.0f} s. {r['deployment']}; fitted by calls alone: {fitted}"
    machine = f"others took {r['foreign']:.0%} of the processors meanwhile" + (f", ours ran at nice {r['nice']}" if r["nice"] else "")
    return "\n".join([*lines, "", f"{kept}; {how}; {machine} (`python -m benchmarks.bench_fleet`), {about}."])


def example(data: Any, about: str) -> str:
    """The command's own output, as placement.json keeps it (`python -m benchmarks.fleet_tables FOLDER` writes it)."""
    told = f"Predicted, all of it, from costs calibrated on {about}."
    return f"```\n$ rerank-engine plan {data['options']}\n" + "\n".join(data["printed"]) + f"\n```\n\n{told}"


def placed(costs: Path, options: str = EXAMPLE) -> dict[str, Any]:
    """{"options", "printed": lines} of `rerank-engine plan` by the costs in a file. Raises ValueError where it fails."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        failed = main(["plan", *options.split(), "--costs", str(costs), "--any-machine"])
    if failed:
        raise ValueError("rerank-engine plan failed")
    return {"options": options, "printed": [line.rstrip() for line in out.getvalue().splitlines()]}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "placement.json").write_text(json.dumps(placed(folder / "costs.json"), indent=1) + "\n")
