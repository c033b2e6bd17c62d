"""What learning to rank is worth: `python -m benchmarks.quality_ltr [--json]`, on shared/data beside the checkout.

ltr-lightgbm: nDCG on its test queries of LightGBM's own script (lgb.train on its files with its train.conf), of LTR.train with the same
settings, and of a weighted sum; queries without a relevant document are left out, gains are 2^rel - 1, as LightGBM's own metric has them.
cranfield, vaswani: BM25's first 100, then LTR on features of BM25 in three settings, of its rank, coverage and lengths; cranfield also with
the cosine of bge-small-en-v1.5 as a feature, beside its order alone. Trained on the even queries and tested on the odd ones, and the other
way round. nDCG@10 (linear gains, all judged documents count) over all queries, with the
95 % interval of the difference to BM25 by a paired bootstrap over queries.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import rerank_engine as rr
from benchmarks.bench_trees import DATA
from rerank_engine.evaluation import load_beir
from rerank_engine.evaluation.measures import evaluate_queries
from rerank_engine.learning import FeatureMatrix, Incoming, Lexical, ScoreOf, train_lambdamart, train_linear

CUTOFFS = (1, 3, 5, 10)
SETTINGS = {"trees": 100, "leaves": 31, "learning_rate": 0.1, "min_leaf": 50, "subsample": 0.9}
COLLECTIONS = (("cranfield", False), ("vaswani", False), ("cranfield", True))  # with the cosine of a bi-encoder or without


def measured(name: str, test: FeatureMatrix, scores: np.ndarray, **more: Any) -> dict[str, Any]:
    values = {f"ndcg@{k}": test.evaluate(scores, f"nDCG(gain='exponential')@{k}") for k in CUTOFFS}
    return {
        "collection": "ltr-lightgbm",
        "queries": int(sum(test.labels[a:b].any() for a, b in zip(test.offsets, test.offsets[1:]))),
        "model": name,
        **values,
        **more,
    }


def features_given() -> Iterator[dict[str, Any]]:
    import lightgbm

    train, test = (FeatureMatrix.from_svmlight(DATA / f"rank.{p}.gz", groups=DATA / f"rank.{p}.query", first=0) for p in ("train", "test"))
    conf = dict(re.findall(r"^(\w+)\s*=\s*(.+)$", (DATA / "train.conf").read_text(), re.M))
    conf = {k: v for k, v in conf.items() if k not in ("task", "data", "valid_data", "output_model", "machine_list_file", "num_trees")}
    conf |= {"verbose": -1, "num_threads": 1, "deterministic": True, "force_row_wise": True}
    with tempfile.TemporaryDirectory() as folder:
        for part in ("train", "test"):
            (Path(folder) / f"rank.{part}").write_bytes(gzip.decompress((DATA / f"rank.{part}.gz").read_bytes()))
            (Path(folder) / f"rank.{part}.query").write_bytes((DATA / f"rank.{part}.query").read_bytes())
        script = lightgbm.train(conf, lightgbm.Dataset(f"{folder}/rank.train", params=conf), 100)
    rows = test.values.astype(np.float64)
    yield measured("LightGBM's script (train.conf)", test, script.predict(rows))
    same = train_lambdamart(train, parameters={"min_sum_hessian_in_leaf": 5.0}, **SETTINGS)
    apart = float(np.abs(same.score(rows) - lightgbm.Booster(model_str=same.text).predict(rows)).max())
    yield measured("LTR.train, the settings of train.conf", test, same.score(rows), largest_difference_to_predict=apart)
    yield measured("LTR.train, LightGBM's default for the hessian, seed 42", test, train_lambdamart(train, seed=42, **SETTINGS).score(rows))
    yield measured('LTR.train(kind="linear")', test, train_linear(train, rounds=1).score(rows))
    yield measured("one random order", test, np.random.default_rng(0).random(len(rows)))


def features_made(name: str, dense: bool) -> Iterator[dict[str, Any]]:
    found = load_beir(DATA.parent / name)
    index = rr.BM25Index.build(found.corpus)
    bm25, queries = rr.BM25(index, k=100), [q for q in found.queries if found.qrels.get(q.id)]
    short = index.with_parameters(k1=0.6, b=0.3), index.with_parameters(k1=2.0, b=0.9)
    features = [Incoming(), Lexical(index), *(Lexical(other, label) for other, label in zip(short, ("flat", "steep")))]
    before = bm25.run(queries)
    runs: dict[str, dict[str, dict[str, float]]] = {"BM25": {q.id: run_of(r) for q, r in zip(queries, before)}}
    if dense:
        encoder = rr.load("bge-small-en-v1.5")
        similarity = rr.Similarity(rr.VectorIndex.build(found.corpus, encoder), encoder)
        features.append(ScoreOf(similarity, "cosine"))
        runs["cosine alone"] = {q.id: run_of(r) for q, r in zip(queries, rr.Rescore(similarity).run(queries, before))}
    matrix = rr.LTR.matrix(features, queries, before, found.qrels)
    folds = [list(range(start, len(queries), 2)) for start in (0, 1)]
    runs |= {"linear": {}, "LambdaMART": {}}
    for train, test in (folds, folds[::-1]):
        learned = {
            "linear": train_linear(matrix.take(train), rounds=3),
            "LambdaMART": train_lambdamart(matrix.take(train), trees=60, leaves=7, learning_rate=0.05, min_leaf=50),
        }
        for label, model in learned.items():
            after = rr.LTR(model, features).run([queries[i] for i in test], [before[i] for i in test])
            runs[label] |= {queries[i].id: run_of(ranking) for i, ranking in zip(test, after)}
    qrels = {q.id: found.qrels[q.id] for q in queries}
    values = {label: np.array(list(evaluate_queries(qrels, run, ["nDCG@10"])["nDCG@10"].values())) for label, run in runs.items()}
    rng = np.random.default_rng(0)
    for label, each in values.items():
        change = each - values["BM25"]
        means = change[rng.integers(0, len(change), (2000, len(change)))].mean(axis=1)
        told = {"collection": name, "features": len(matrix.names), "queries": len(queries), "model": label}
        interval = np.percentile(means, [2.5, 97.5]).tolist()
        yield {**told, "ndcg@10": float(each.mean()), "change": float(change.mean()), "interval": interval}


def run_of(ranking: rr.Ranking) -> dict[str, float]:
    return dict(zip(ranking.doc_ids, ranking.scores.astype(float).tolist()))


def rows() -> Iterator[dict[str, Any]]:
    yield from features_given()
    for name, dense in COLLECTIONS:
        yield from features_made(name, dense)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="a JSON list on standard output")
    found = list(rows()) if parser.parse_args().json else rows()
    if isinstance(found, list):
        print(json.dumps(found, indent=1))
        return
    for row in found:
        print(row)


if __name__ == "__main__":
    main()
