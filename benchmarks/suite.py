"""All that `make bench` measures, into benchmarks/results/<machine>/<date>.json: `python -m benchmarks.suite [--quick] [--parts a,b]`.

table    the latency table end to end, as `rerank-engine bench` measures it (rows)
peers    the work of its rows by ours and by every peer that is installed (micro; rows.py)
micro    single ops against their references, by pytest-benchmark (micro)
scaling  curves and fitted cost models (scaling)

A second run of a day goes to <date>-2.json. --amend ROWS measures these rows and their peers alone, where only they changed, into a copy of
the newest whole run whose "amended" says when. A look, with --quick or of some parts, needs --out: it is no result of the machine's.
The file is written after each part. A part that fails is named under "failed", with why, and the others go on; then the exit status is 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.render import DATED, last
from benchmarks.rows import NAMES
from rerank_engine.latency import ROWS, facts, results

ROOT = Path(__file__).resolve().parents[1]
PARTS = {"table": "", "peers": "benchmarks.rows", "micro": "benchmarks.micro", "scaling": "benchmarks.scaling_curves"}


def told_by(command: list[str]) -> tuple[list[dict[str, Any]], int]:
    """(the rows that a process prints, its exit status). Each part has a process of its own: what it loads is no burden of the next."""
    done = subprocess.run([sys.executable, "-m", *command, "--json"], cwd=ROOT, stdout=subprocess.PIPE)
    return json.loads(done.stdout or "[]"), done.returncode


def table(path: Path, quick: bool, names: list[str] | None = None) -> tuple[dict[str, Any], int]:
    """(rows and threads of what the command measures, which writes its results itself; its exit status). names: of rows, None for all."""
    command = [sys.executable, "-m", "rerank_engine.cli", "bench", "--out", str(path), *(["--quick"] * quick)]
    command += [] if names is None else ["--rows", ",".join(names)]
    status = subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode
    if status:
        return {}, status
    found = results.load(path)
    path.unlink()
    return {name: found[name] for name in ("rows", "threads")}, status


def environments() -> dict[str, dict[str, str]]:
    """The versions of what is timed in each environment besides this one."""
    code = "from importlib.metadata import distributions as d; import json; print(json.dumps({x.name.lower(): x.version for x in d()}))"
    found = {}
    for folder in sorted(path for path in ROOT.glob(".venv-*") if (path / "bin" / "python").exists()):
        told = json.loads(subprocess.run([folder / "bin" / "python", "-c", code], stdout=subprocess.PIPE, check=True).stdout)
        found[folder.name] = {name: told[name] for name in facts.VERSIONS if name in told}
    return found


def unused(path: Path) -> Path:
    """It, or the first of <stem>-2, <stem>-3, ... that is not there."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not each.exists())


def measure(parts: list[str], quick: bool, out: Path | None) -> int:
    about = facts.facts()
    path = results.require_place(out or unused(results.place(ROOT / "benchmarks" / "results", about)))
    result: dict[str, Any] = {"schema": results.SCHEMA, "facts": about, "load_before": facts.load(), "threads": about["machine"]["threads"]}
    result |= {"quick": quick, "rows": [], "micro": [], "scaling": [], "environments": environments(), "failed": {}}
    for part in parts:
        harness.note(f"== {part}")
        if part == "table":
            found, status = table(path.with_name(f".{path.name}.table"), quick)
            result |= found
        else:
            rows, status = told_by([PARTS[part], *(["--quick"] * quick)])
            result["scaling" if part == "scaling" else "micro"] += rows  # what was measured before a failure is not lost with it
        if status:
            result["failed"][part] = f"exit status {status}"
        results.save(path, {**result, "load_after": facts.load()})
    harness.note(f"written: {path}; into the documents: python -m benchmarks.render {path.parent}")
    return 1 if result["failed"] else 0


def amend(names: list[str]) -> int:
    """The newest whole run of this machine with these rows of the table, and their peers, measured now. A row that is no row of the table's
    has peers alone. Raises ValueError where there is no whole run."""
    about = facts.facts()
    place = results.place(ROOT / "benchmarks" / "results", about)
    if (newest := last(str(place.parent), DATED)) is None:
        raise ValueError(f"{place.parent}: no whole run to amend")
    path, result = results.require_place(unused(place)), results.load(newest)
    in_table = [name for name in names if name in [row.name for row in ROWS]]
    if in_table:
        found, status = table(path.with_name(f".{path.name}.table"), False, in_table)
        if status:
            return status
        rows = {row["row"]: row for row in found["rows"]}
        result["rows"] = [rows.get(row["row"], row) for row in result["rows"]]
    micro, status = told_by([PARTS["peers"], "--rows", ",".join(names)])
    result["micro"] = [row for row in result["micro"] if row.get("row") not in names] + micro
    result["amended"] = {**result.get("amended", {}), **{name: f"{about['date']}, {about['git']}" for name in names}}
    results.save(path, result)
    harness.note(f"written: {path}; into the documents: python -m benchmarks.render {path.parent}")
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less data and fewer rounds")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the file to write, in place of results/<machine>/<date>.json; overwritten"
    )
    parser.add_argument("--amend", type=lambda text: text.split(","), metavar="ROWS", help="rows of the newest whole run to measure again")
    args = parser.parse_args()
    if args.amend:
        if wrong := sorted(set(args.amend) - set(NAMES)):
            parser.error(f"no {', '.join(wrong)}; there are {', '.join(NAMES)}")
        if args.quick or args.out or args.parts != list(PARTS):
            parser.error("--amend goes alone")
        return amend(args.amend)
    if wrong := sorted(set(args.parts) - set(PARTS)):
        parser.error(f"no {', '.join(wrong)}; there are {', '.join(PARTS)}")
    if args.out is None and (args.quick or set(args.parts) != set(PARTS)):
        parser.error("--quick and --parts take --out FILE: results/ holds whole runs")
    return measure(args.parts, args.quick, args.out)


if __name__ == "__main__":
    sys.exit(main())
