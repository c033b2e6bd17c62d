"""Scores of tree ensembles for 1,000 documents, ms per call; bench "ltr".

Case 1000-docs: LambdaMART of 100 trees of 31 leaves, trained by LightGBM on shared/data/ltr-lightgbm beside the checkout (made-up features
of the same shape where that is absent: 1000-docs-synthetic). 1000-docs-dense: the same model, but no value is 0, so that more thresholds
are passed. 63-leaves, 255-leaves: larger trees, where there is less to gain. 1000-docs-xgboost: a model of the same shape by XGBoost.

Every side gets the matrix in the form that its call takes (float64; float32 for XGBoost's model), and is held against its library's answer
to 1e-6 first. Peers that are not installed are skipped with a note (benchmarks/peers/registry.py, kinds ltr and ltr-xgboost).

The floor: what this layout cannot do without, at 32 bytes and one leaf a cycle of 2.5 GHz; metric "floor_ms" (ratio = its share of ours).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness, peers
from rerank_engine.learning import FeatureMatrix, TreeModel

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "ltr-lightgbm"
N_DOCS = 1000
SETTINGS = {"objective": "lambdarank", "learning_rate": 0.1, "min_data_in_leaf": 50, "bagging_fraction": 0.9, "bagging_freq": 1}
COMMON = {"verbose": -1, "num_threads": 1, "deterministic": True, "force_row_wise": True}


def data() -> tuple[str, FeatureMatrix, np.ndarray]:
    """(ending of the case's name, what models are trained on, float64 [1000, f] of documents)."""
    if DATA.is_dir():
        train, test = (
            FeatureMatrix.from_svmlight(DATA / f"rank.{part}.gz", groups=DATA / f"rank.{part}.query", first=0) for part in ("train", "test")
        )
        return "", train, np.concatenate([test.values, test.values])[:N_DOCS].astype(np.float64)
    harness.note(f"{DATA} is not there: made-up features")
    rng = np.random.default_rng(0)
    values = np.where(rng.random((4000, 301)) < 0.3, rng.random((4000, 301)), 0).astype(np.float32)
    labels = np.clip(np.digitize(values[:, :8].sum(axis=1) + rng.normal(size=4000) / 4, [1, 1.4, 1.8, 2.2]), 0, 4)
    names = tuple(f"f{i}" for i in range(301))
    return "-synthetic", FeatureMatrix(names, values, np.arange(0, 4001, 20), labels), values[:N_DOCS].astype(np.float64)


def lightgbm_text(train: FeatureMatrix, leaves: int = 31) -> str:
    """LightGBM's text model of 100 trees. Raises ModuleNotFoundError without lightgbm."""
    import lightgbm

    settings = {**SETTINGS, **COMMON, "num_leaves": leaves, **({"min_data_in_leaf": 5} if leaves > 31 else {})}
    given = lightgbm.Dataset(train.values.astype(np.float64), train.labels, group=np.diff(train.offsets), params=settings)
    return str(lightgbm.train(settings, given, 100).model_to_string())


def xgboost_text(train: FeatureMatrix) -> str:
    """XGBoost's JSON model of 100 trees of up to 31 leaves. Raises ModuleNotFoundError without xgboost."""
    import xgboost

    given = xgboost.DMatrix(train.values, label=train.labels)
    given.set_group(np.diff(train.offsets))
    shape = {"objective": "rank:ndcg", "grow_policy": "lossguide", "max_leaves": 31, "max_depth": 0, "eta": 0.1, "nthread": 1, "seed": 1}
    return bytes(xgboost.train(shape, given, 100).save_raw("json")).decode()


def same(got: Any, want: Any) -> bool:
    """Within 1e-6, relative to scores of more than 1."""
    a, b = np.asarray(got, np.float64).ravel(), np.asarray(want, np.float64).ravel()
    return a.shape == b.shape and bool((np.abs(a - b) <= 1e-6 * np.maximum(1, np.abs(b))).all())


def compared(kind: str, case: str, text: str, documents: np.ndarray, rounds: int) -> Iterator[harness.Row]:
    """Ours against every peer of the kind that is installed; the library that trained the model is the first, and says what is right."""
    model = TreeModel.parse(text)
    want = None

    def ours() -> Any:
        return model.score(documents)

    for entry, make in peers.installed(kind):
        if (theirs := peers.made(entry.name, make, text, documents)) is None:
            continue
        want = theirs() if want is None else want
        harness.verify("ltr", same(ours(), want))
        harness.verify(entry.name, same(theirs(), want))
        yield harness.compare("ltr", case, entry.name, ours, theirs, rounds=rounds, backend="cpp")
    if want is not None:
        yield floor(case, model, documents, float(np.median([harness.cpu_ms(ours, 5) for _ in range(11)])))


def floor(case: str, model: TreeModel, documents: np.ndarray, ours_ms: float) -> harness.Row:
    """Per block of 16 documents 16 bytes of an entry and twice 64 of a word for each node whose threshold one of them exceeds, and a leaf
    per document and tree. Of values that are not missing, and of trees of one word."""
    e, passed = model.ensemble, 0
    for start in range(0, len(documents), 16):
        highest = np.nan_to_num(documents[start : start + 16]).max(axis=0)
        passed += int((highest[e.feature] > e.threshold).sum())
    ms = (passed * (16 + 2 * 64) / 32 + len(documents) * e.n_trees) / 2.5e6
    return harness.row("ltr", case, "floor", "floor_ms", ours_ms, ms, [ms / ours_ms] * 2, "cpp", nodes_passed=passed)


def made(name: str, make: Callable[..., str], *given: Any) -> str | None:
    return peers.made(name, make, *given)  # type: ignore[no-any-return]


def rows(quick: bool) -> Iterator[harness.Row]:
    ending, train, documents = data()
    rounds = 9 if quick else 41
    for leaves in (31, 63, 255):
        if (text := made("lightgbm", lightgbm_text, train, leaves)) is None:
            break
        yield from compared("ltr", f"1000-docs{ending}" if leaves == 31 else f"{leaves}-leaves", text, documents, rounds)
        if leaves == 31:
            dense = np.where(documents == 0, np.random.default_rng(1).random(documents.shape), documents)
            yield from compared("ltr", "1000-docs-dense", text, dense, rounds)
    if (text := made("xgboost", xgboost_text, train)) is not None:
        yield from compared("ltr-xgboost", f"1000-docs{ending}-xgboost", text, documents.astype(np.float32), rounds)


if __name__ == "__main__":
    harness.main(rows, __doc__)
