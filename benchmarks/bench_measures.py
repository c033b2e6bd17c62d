"""nDCG@10, reciprocal rank, average precision and Recall@1000 of 300 queries with 1,000 documents each; ms for all of them.

Case 300x1000: ours takes ready matrices of relevances (`evaluate_gains`), the peers what they evaluate from: pytrec_eval and ir_measures
dictionaries, ranx its own Qrels and Run (building those is not timed). Case 300x1000-dicts: ours takes the dictionaries too.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import harness
from rerank_engine.evaluation import evaluate, evaluate_gains

MEASURES = ["nDCG@10", "RR", "AP", "R@1000"]


def rows(quick: bool) -> Iterator[harness.Row]:
    rng = np.random.default_rng(0)
    run = {f"q{q}": {f"d{d}": 1000.0 - rank for rank, d in enumerate(rng.permutation(20000)[:1000])} for q in range(300)}
    qrels = {q: {d: int(rng.integers(0, 4)) for d in list(hits)[::23]} for q, hits in run.items()}
    gains = np.array([[qrels[q].get(d, 0) for d in hits] for q, hits in run.items()])
    judged = np.array([list(judged.values()) for judged in qrels.values()])

    def ours():
        return [float(values.mean()) for values in evaluate_gains(gains, judged, MEASURES).values()]

    def from_dictionaries():
        return list(evaluate(qrels, run, MEASURES).values())

    peers = {}
    if (pytrec_eval := harness.peer("pytrec_eval")) is not None:
        evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recip_rank", "map", "recall.1000"})
        names = ("ndcg_cut_10", "recip_rank", "map", "recall_1000")
        peers["pytrec_eval"] = lambda: [
            np.mean([found[name] for found in values]) for values in [evaluator.evaluate(run).values()] for name in names
        ]
    if (ir := harness.peer("ir_measures")) is not None:
        asked = [ir.nDCG @ 10, ir.RR, ir.AP, ir.R @ 1000]
        peers["ir_measures"] = lambda: [found[m] for found in [ir.calc_aggregate(asked, qrels, run)] for m in asked]
    if (ranx := harness.peer("ranx")) is not None:
        built = ranx.Qrels(qrels), ranx.Run(run)
        peers["ranx"] = lambda: list(ranx.evaluate(*built, ["ndcg@10", "mrr", "map", "recall@1000"]).values())

    want = from_dictionaries()
    harness.verify("evaluate_gains", np.allclose(ours(), want, rtol=1e-12))
    for name, theirs in peers.items():
        harness.verify(name, np.allclose(theirs(), want, rtol=1e-6))
        rounds = 9 if quick else 31
        yield harness.compare("measures", "300x1000", name, ours, theirs, rounds=rounds, backend="numpy")
        if name == "pytrec_eval":
            yield harness.compare("measures", "300x1000-dicts", name, from_dictionaries, theirs, rounds=rounds, backend="numpy")


if __name__ == "__main__":
    harness.main(rows, __doc__)
