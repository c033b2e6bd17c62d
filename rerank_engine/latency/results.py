"""Results as files: results/<machine>/<date>.json, schema 1.

    {"schema": 1, "facts": {...}, "load_before", "load_after": load averages, "threads", "quick": bool,
     "rows": [...], "micro": [...]}

facts: see `facts.facts`. rows: the latency table's, see `measure.row_of`. micro: those of the benchmarks of single ops against peers
({"bench", "case", "peer", "metric", "ours", "theirs", "ratio", "spread", "verified", "backend", "threads"}).
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, InputError
from .rows import MEASURED, NOT_MEASURED

SCHEMA = 1
KEYS = {
    "schema": int,
    "facts": Mapping,
    "load_before": (int, float),
    "load_after": (int, float),
    "threads": int,
    "quick": bool,
    "rows": list,
    "micro": list,
}
ROW_NUMBERS = ("p50_ms", "p95_ms", "p99_ms", "cpu_ms")
MICRO_KEYS = ("bench", "case", "peer", "metric", "ours", "theirs", "ratio", "spread", "verified")


def check(result: Any, where: str = "results") -> None:
    """Raises FileFormatError for what is not schema 1: a key that is missing or of another type, a number that is not finite."""
    if not isinstance(result, Mapping):
        raise FileFormatError(where, got=type(result).__name__, expected="a JSON object")
    if result.get("schema") != SCHEMA:
        raise FileFormatError(where, got=f"schema {result.get('schema')!r}", expected=str(SCHEMA))
    for key, kind in KEYS.items():
        if not isinstance(result.get(key), kind):  # type: ignore[arg-type]
            raise FileFormatError(where, got=f"{key} {result.get(key)!r}", expected=f"{key} as `rerank-engine bench --out` writes it")
    for row in result["rows"]:
        _check_row(row, where)
    for row in result["micro"]:
        if lacking := [key for key in MICRO_KEYS if key not in row]:
            raise FileFormatError(f"{where}: micro", got=f"a row without {', '.join(lacking)}", expected=", ".join(MICRO_KEYS))


def _check_row(row: Any, where: str) -> None:
    name = row.get("row") if isinstance(row, Mapping) else None
    if not isinstance(name, str):
        raise FileFormatError(f"{where}: rows", got=repr(row), expected="an object that names its row")
    if row.get("verdict") not in (*MEASURED, NOT_MEASURED):
        raise FileFormatError(f"{where}: {name}", got=f"verdict {row.get('verdict')!r}", expected=f"one of {MEASURED} or {NOT_MEASURED!r}")
    if row["verdict"] == NOT_MEASURED:
        if not row.get("why"):
            raise FileFormatError(f"{where}: {name}", got="no reason", expected="why it was not measured")
        return
    for way in (row, *row.get("variants", ())):
        if not isinstance(way.get("way"), str) or not isinstance(way.get("parts"), Mapping):
            raise FileFormatError(f"{where}: {name}", got=f"way {way.get('way')!r}", expected="how its work was done, and its parts")
    for key in ROW_NUMBERS:
        value = row.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise FileFormatError(f"{where}: {name}", got=f"{key} {value!r}", expected="milliseconds")


def save(path: str | Path, result: Mapping[str, Any]) -> None:
    """Writes the file whole or not at all; its folder is made. Raises FileFormatError for what `check` refuses."""
    check(result, str(path))
    path = require_place(path)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8") as file:
        try:
            json.dump(result, file, indent=1, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.close()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def require_place(path: str | Path) -> Path:
    """Makes the folder of a file and writes there, into a file that goes at once: before the work, not after it. Raises InputError."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"results {path}", got="a folder", expected="a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"results {path}", got=str(error), expected="a folder that can be made and written to") from error
    return path


def load(path: str | Path) -> dict[str, Any]:
    """Raises FileFormatError for a file that cannot be read or is not schema 1."""
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileFormatError(str(path), got=str(error), expected="a file that `rerank-engine bench --out` wrote") from error
    check(result, str(path))
    return dict(result)


def place(root: str | Path, facts: Mapping[str, Any]) -> Path:
    """root/<machine>/<date>.json, the machine named after processor, instruction set and cores: "amd-epyc-avx512vnni-2core"; or its GPU."""
    machine = facts["machine"]
    named = machine.get("gpu") or f"{machine['processor']} {machine['threads']}core"
    return Path(root) / re.sub(r"[^a-z0-9]+", "-", str(named).lower()).strip("-") / f"{facts['date']}.json"
