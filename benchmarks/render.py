"""Writes measured figures into the documents: `python -m benchmarks.render benchmarks/results/<machine>`.

A table stands between `<!-- BEGIN name -->` and `<!-- END name -->`. A second run changes nothing; a missing marker is an error (exit 1).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def demo_table(data: dict[str, Any]) -> str:
    """Mean quality per stage of the demo's pipeline."""
    lines = ["| stage | nDCG@10 | MRR@10 | answer in top 3 |", "|---|---|---|---|"]
    stages = [stage for stage in data["demo"]["stages"] if stage["name"] != "Top"]
    lines += [f"| {s['name']} | {s['ndcg@10']:.3f} | {s['mrr@10']:.3f} | {s['answer@3']:.2f} |" for s in stages]
    note = f"{data['demo']['questions']} questions (`rerank-engine demo --evaluate {data['demo']['questions']}`), {source(data)}."
    return "\n".join([*lines, "", note])


def int8_sentence(data: dict[str, Any]) -> str:
    d = data["int8"]
    how = f"{d['model']} (int8), {d['pairs']} pairs in length-sorted batches of {d['batch']} against each pair alone"
    return f"Measured on {how}: logits move by up to {d['max']:.2f}, {d['mean']:.2f} on average ({source(data)})."


def source(data: dict[str, Any]) -> str:
    return f"{data['date']}, onnxruntime {data['versions']['onnxruntime']}, {data['machine']['processor']}"


PLACES = {"demo": ("README.md", demo_table), "int8": ("docs/numerics.md", int8_sentence)}


def main(folder: str) -> int:
    data = json.loads((Path(folder) / "quality.json").read_text())
    for name, (document, render) in PLACES.items():
        path = ROOT / document
        text, found = re.subn(
            rf"(<!-- BEGIN {name} -->\n).*?(<!-- END {name} -->)",
            lambda m, r=render: m[1] + r(data) + "\n" + m[2],
            path.read_text(),
            flags=re.S,
        )
        if found != 1:
            print(f"{document}: expected the marker '{name}' once, found it {found} times", file=sys.stderr)
            return 1
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
