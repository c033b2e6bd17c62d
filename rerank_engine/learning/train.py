"""Training: LambdaMART by LightGBM, and weighted sums for few features or few queries."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MissingDependency
from ..evaluation.measures import Measure, measure_of
from ..ops import checks
from .matrix import MEASURE, FeatureMatrix
from .models import LinearModel, TreeModel

METHODS = ("coordinate-ascent", "logistic")


def train_lambdamart(
    matrix: FeatureMatrix,
    *,
    valid: FeatureMatrix | None = None,
    trees: int = 100,
    leaves: int = 31,
    learning_rate: float = 0.1,
    min_leaf: int = 20,
    subsample: float = 1.0,
    early_stopping: int | None = 20,
    cutoff: int = 10,
    seed: int | None = None,
    threads: int = 1,
    parameters: Mapping[str, Any] | None = None,
) -> TreeModel:
    """LambdaMART (Burges, MSR-TR-2010-82) as LightGBM trains it: objective lambdarank, gains of 2^rel - 1, deterministic.

    valid: judged queries apart from those of the matrix; nDCG at `cutoff` on them is evaluated after each tree, and after `early_stopping`
    trees without a better one training ends, with the best (None: never). Queries of valid without a relevant row are left out, as
    `FeatureMatrix.evaluate` does; LightGBM would count them as 1. min_leaf: rows of a leaf at least; subsample: the share of rows that each
    tree sees. seed: None for LightGBM's own seeds. parameters: further ones, by LightGBM's names or aliases; they overrule those above.
    The model's `training` holds what it was made with, and nDCG after each tree.
    Raises MissingDependency without lightgbm, InputError (no labels, other features or the same queries in valid, parameters that LightGBM
    refuses).
    """
    labels = matrix.judged("train_lambdamart")
    valid = None if valid is None else _validation(matrix, valid)
    if int(labels.max()) > 30:
        raise InputError("train_lambdamart: labels", got=int(labels.max()), expected="grades to 30", hint="Gains are 2^grade - 1.")
    lightgbm = _lightgbm()
    given, rounds = _plain("parameters", dict(parameters or {})), checks.count("train_lambdamart: trees", trees)
    settings: dict[str, Any] = {
        "objective": "lambdarank", "num_leaves": checks.count("train_lambdamart: leaves", leaves),
        "learning_rate": checks.finite_number("train_lambdamart: learning_rate", learning_rate, 0),
        "min_data_in_leaf": checks.count("train_lambdamart: min_leaf", min_leaf),
        "bagging_fraction": checks.finite_number("train_lambdamart: subsample", subsample, 0, 1), "bagging_freq": int(subsample < 1),
        "eval_at": [checks.count("train_lambdamart: cutoff", cutoff)], "metric": "ndcg",
        "num_threads": checks.count("train_lambdamart: threads", threads), "deterministic": True, "force_row_wise": True, "verbose": -1,
        **({} if seed is None else {"seed": int(seed)}),
    }  # fmt: skip
    settings = {name: value for name, value in settings.items() if not _aliases(lightgbm, name) & given.keys()} | given
    history: dict[str, Any] = {}
    calls = [lightgbm.record_evaluation(history)]
    if valid is not None and early_stopping is not None and not _aliases(lightgbm, "early_stopping_round") & given.keys():
        calls.append(lightgbm.early_stopping(checks.count("train_lambdamart: early_stopping", early_stopping), verbose=False))
    sets = [_dataset(lightgbm, matrix, settings)]
    if valid is not None:
        sets.append(_dataset(lightgbm, valid, settings, sets[0]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters that have several names
            named = {"valid_sets": sets[1:], "valid_names": ["valid"][: len(sets) - 1], "callbacks": calls}
            booster = lightgbm.train(settings, sets[0], rounds, **named)
    except (lightgbm.basic.LightGBMError, ValueError, TypeError) as error:
        raise InputError("train_lambdamart", got=str(error), expected="parameters and data that LightGBM takes") from error
    told: dict[str, Any] = {
        "library": f"lightgbm {lightgbm.__version__}",
        "queries": len(matrix),
        "rows": len(labels),
        "parameters": settings,
    }
    if valid is not None:
        told["valid"] = {name: [float(v) for v in values] for name, values in history.get("valid", {}).items()}
    best = booster.best_iteration if booster.best_iteration > 0 else -1
    return TreeModel.parse(booster.model_to_string(num_iteration=best), matrix.names, training=told)


def _validation(matrix: FeatureMatrix, valid: FeatureMatrix) -> FeatureMatrix:
    """The queries of valid that have a relevant row. Raises InputError: none, other features, queries of the matrix."""
    what = "train_lambdamart: valid"
    if valid.names != matrix.names:
        raise InputError(what, got="other features", expected="those of the matrix, in its order")
    labels, place = valid.judged(what), {query: i for i, query in enumerate(matrix.query_ids)}
    counted = [one.query_ids in [tuple(map(str, range(first, first + len(one)))) for first in (0, 1)] for one in (matrix, valid)]
    for i, query in enumerate(valid.query_ids):
        if query not in place:
            continue
        own, theirs = (one.values[one.offsets[at] : one.offsets[at + 1]] for one, at in ((matrix, place[query]), (valid, i)))
        if not any(counted) or np.array_equal(own, theirs, equal_nan=True):  # mere numbers say nothing, but the same rows do
            raise InputError(what, got=f"the query '{query}', which the matrix has too", expected="other queries", hint="Split by `take`.")
    spans = zip(valid.offsets[:-1].tolist(), valid.offsets[1:].tolist())
    return valid.take([i for i, (a, b) in enumerate(spans) if labels[a:b].any()])


def _aliases(lightgbm: Any, name: str) -> set[str]:
    """Every name that LightGBM has for a parameter."""
    return {name, *lightgbm.basic._ConfigAliases.get(name)}


def _plain(name: str, value: Any) -> Any:
    """Without numpy's kinds, so that JSON holds it. Raises InputError for what no file could hold, such as a function."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{name}: {key}", one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(name, one) for one in value]
    if not isinstance(value, (str, int, float, bool, type(None))):
        raise InputError(f"train_lambdamart: {name}", got=type(value).__name__, expected="a number, a text, or a list of them")
    return value


def _lightgbm() -> Any:
    try:
        return importlib.import_module("lightgbm")
    except ModuleNotFoundError as error:
        if error.name != "lightgbm":  # it is there, and broken
            raise
        hint = "pip install 'rerank-engine[ltr]'. Trained models run without it; LTR.train(matrix, kind=\"linear\") needs none."
        raise MissingDependency("train_lambdamart: lightgbm is not installed", hint=hint) from error


def _dataset(lightgbm: Any, matrix: FeatureMatrix, settings: Mapping[str, Any], reference: Any = None) -> Any:
    names = [f"f{i}" for i in range(len(matrix.names))]  # LightGBM's own names allow less; the model's names are ours
    made = {"label": matrix.labels, "group": np.diff(matrix.offsets), "params": dict(settings), "feature_name": names}
    return lightgbm.Dataset(matrix.values, reference=reference, free_raw_data=True, **made)


def train_linear(
    matrix: FeatureMatrix, *, method: str = "coordinate-ascent", measure: Measure | str = MEASURE, rounds: int = 5, threshold: int = 1
) -> LinearModel:
    """Weights for z-scored features. NaN takes the feature's mean; a feature that never changes gets the weight 0.

    "coordinate-ascent" climbs a measure (nDCG@10 with gains of 2^rel - 1) itself, weight by weight with steps of several sizes, up to
    `rounds` times through all of them, from the weights' correlations with relevance (Metzler & Croft, Inf. Retrieval 2007). Deterministic.
    "logistic" fits relevance >= threshold by logistic regression: needs scikit-learn (MissingDependency).
    Raises InputError (no labels, infinity).
    """
    checks.one_of("train_linear: method", method, METHODS)
    labels, chosen = matrix.judged("train_linear"), measure_of(measure)
    x = matrix.values.astype(np.float64)
    if np.isinf(x).any():
        raise InputError("train_linear: values", got="infinity", expected="finite values or NaN")
    known = ~np.isnan(x)
    n = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, x, 0).sum(axis=0) / n
    spread = np.sqrt(np.where(known, (x - mean) ** 2, 0).sum(axis=0) / n)
    scale = np.where(spread > 1e-12 * np.maximum(np.abs(mean), 1), spread, 1.0)
    z = np.where(known & (scale == spread), (x - mean) / scale, 0.0)
    bias, told = 0.0, {"method": method, "queries": len(matrix), "rows": len(labels)}
    if method == "logistic":
        weights, bias = _logistic(z, labels >= checks.count("train_linear: threshold", threshold))
    else:
        weights, value = _ascend(
            z, _correlations(z, labels), lambda scores: matrix.evaluate(scores, chosen), checks.count("train_linear: rounds", rounds)
        )
        told |= {"measure": str(chosen), "value": value}
    return LinearModel(matrix.names, weights, mean, scale, bias, told)


def _correlations(z: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = z.T @ (labels - labels.mean())
    total = float(np.abs(weights).sum())
    return weights / total if total > 0 else weights


def _ascend(
    z: NDArray[np.float64], weights: NDArray[np.float64], value_of: Callable[[NDArray[np.float64]], float], rounds: int
) -> tuple[NDArray[np.float64], float]:
    """Weights that sum to 1 in size, and the measure that they reach. A step is taken where it gains more than rounding would."""
    scores = z @ weights
    best = value_of(scores)
    for _ in range(rounds):
        before = best
        for f in np.flatnonzero(z.any(axis=0)).tolist():
            steps = [sign * size for size in (0.02, 0.1, 0.5, 2.5) for sign in (1, -1)] + [-float(weights[f])]
            found = [value_of(scores + step * z[:, f]) for step in steps]
            top = int(np.argmax(found))
            if found[top] > best + 1e-9:
                best, weights = found[top], weights + np.eye(1, len(weights), f)[0] * steps[top]
                scores = z @ weights
        total = float(np.abs(weights).sum())
        if total > 0:
            weights, scores = weights / total, scores / total
        if best - before < 1e-5:
            break
    return weights, best


def _logistic(z: NDArray[np.float64], relevant: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    try:
        linear = importlib.import_module("sklearn.linear_model")
    except ImportError as error:
        hint = "pip install 'rerank-engine[calibration]'; method=\"coordinate-ascent\" needs nothing."
        raise MissingDependency("train_linear: method 'logistic' needs scikit-learn", hint=hint) from error
    if relevant.all() or not relevant.any():
        raise InputError("train_linear: labels", got="one kind alone", expected="rows that are relevant, and rows that are not")
    fitted = linear.LogisticRegression(C=1.0, max_iter=1000).fit(z, relevant)
    return np.asarray(fitted.coef_[0], np.float64), float(fitted.intercept_[0])
