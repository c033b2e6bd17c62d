"""Figures of quality that documents quote: `python -m benchmarks.quality [--questions 50] > benchmarks/results/<machine>/quality.json`.

demo: what each stage of the demo's pipeline reaches. int8: how far a dynamically quantised model's logits move with the batch they are in.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np

from rerank_engine.cli import Bar
from rerank_engine.demo import Demo, load_demo
from rerank_engine.latency.facts import facts
from rerank_engine.packed import Packed
from rerank_engine.stages import CrossEncoder


def int8_batches(demo: Demo, pairs: int = 200, batch: int = 8) -> dict[str, Any]:
    """Largest and mean |logit in a length-sorted batch - logit alone| over pairs of the demo's questions and BM25's candidates."""
    lexical, rescore = demo.pipeline.stages[0].branches[0], demo.pipeline.stages[1]  # type: ignore[attr-defined]
    model: CrossEncoder = rescore.scorer  # type: ignore[attr-defined]
    queries = demo.questions(pairs // 20)
    rankings = lexical.run(queries)
    inputs = [(q.text, text) for q, r in zip(queries, rankings) for text in r.corpus.texts(r.ids[:20])]
    tokens = model.tokenizer.encode_pairs(inputs)
    order = np.argsort(-tokens.ids.lengths, kind="stable")
    alone, together = np.empty(len(inputs), np.float32), np.empty(len(inputs), np.float32)
    for size, out in ((1, alone), (batch, together)):
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            ids, types = (Packed.from_rows([part[i] for i in rows]) for part in (tokens.ids, tokens.types))
            out[rows] = model.runtime.run(ids, types, "logits")[:, 0]
    moved = np.abs(together - alone)
    return {"model": model.model, "pairs": len(inputs), "batch": batch, "max": float(moved.max()), "mean": float(moved.mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=50)
    args = parser.parse_args()
    demo = load_demo()
    stages = demo.evaluate(demo.questions(args.questions), Bar("questions"))
    result = {
        **facts(),
        "demo": {"questions": args.questions, "stages": stages},
        "int8": int8_batches(demo),
    }
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
