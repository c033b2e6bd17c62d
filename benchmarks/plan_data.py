"""Writes what the planner ships with, of committed results: `python -m benchmarks.plan_data`.

rerank_engine/planning/data/quality.json: the rows of the quality table that the planner builds, with what it reads of them.
rerank_engine/planning/data/devices.json: data sheets of GPUs, and what share of its own the measured one reached: fixed, efficiency and
the host's share (a call, a pair) minimise the relative error of the cross-encoder rows of results/nvidia-h200/cross-gpu.json, MiniLM-L12.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.roofline import CARDS
from rerank_engine.planning.costs import nonnegative
from rerank_engine.planning.quality import parse

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).resolve().parents[1] / "rerank_engine" / "planning" / "data"
QUALITY, GPU = RESULTS / "epyc-vnni-2core-quality" / "quality-table.json", RESULTS / "nvidia-h200"
KEPT = ("collection", "method", "queries", "ndcg@10", "ndcg@10_95")
MODELS = {  # hidden size, layers
    "ms-marco-MiniLM-L-12-v2": (384, 12),
    "bge-small-en-v1.5": (384, 12),
    "answerai-colbert-small-v1": (384, 12),
    "splade-tiny": (128, 2),
}


def quality() -> list[dict[str, Any]]:
    return [{key: row[key] for key in KEPT} for row in json.loads(QUALITY.read_text()) if parse(row["method"]) is not None]


def devices() -> dict[str, Any]:
    rows, machine = json.loads((GPU / "cross-gpu.json").read_text()), json.loads((GPU / "machine.json").read_text())
    floors = {row["case"]: row["theirs"] for row in rows if row["peer"].startswith("floor")}
    told = {}
    for row in rows:
        match = re.fullmatch(r"minilm-l12-(\d+)x150-(ids|texts)", row["case"])
        if match and row["metric"] == "ms":
            pairs = int(match[1])
            told[row["case"]] = [
                1.0,
                floors[f"minilm-l12-{pairs}x150-ids"],
                *((1.0, pairs) if match[2] == "texts" else (0.0, 0.0)),
                row["ours"],
            ]
    table = np.array(list(told.values()))
    terms, ms = table[:, :-1], table[:, -1]
    found = nonnegative(terms / ms[:, None], np.ones(len(ms)))
    fixed, slow, call, host = found.tolist()
    error = float(np.sqrt(np.mean((terms @ found / ms - 1) ** 2)))
    return {
        "measured_on": machine["machine"].get("gpu", "NVIDIA H200"),
        "git": machine["git"],
        "rows": sorted(told),
        "efficiency": round(1 / slow, 4),
        "fixed_ms": round(fixed + call, 4),  # end to end: texts in
        "host_ms_per_pair": round(host, 5),
        "error": round(error, 4),
        "cards": {name: card.tflops for name, card in CARDS.items()},
        "models": MODELS,
    }


def main() -> None:
    DATA.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in quality())
    (DATA / "quality.json").write_text(f"[\n{lines}\n]\n")
    (DATA / "devices.json").write_text(json.dumps(devices(), indent=1) + "\n")


if __name__ == "__main__":
    main()
