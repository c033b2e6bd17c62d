"""XGBoost's JSON model as data: `Booster.save_model("model.json")` writes it, and here it becomes an Ensemble without XGBoost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptModelError, UnsupportedModelError
from ..ops.trees import DEFAULT_LEFT, NAN_IS_MISSING, Ensemble
from .packing import Tree, packed

MOST_FEATURES = 1 << 20
_IDENTITY, _LOGIT, _LOG = (
    ("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror"),
    ("reg:logistic", "binary:logistic"),
    ("count:poisson", "reg:gamma", "reg:tweedie"),
)


def is_xgboost(text: str) -> bool:
    return text.lstrip()[:1] == "{" and '"learner"' in text


def parse_xgboost(text: str, where: str) -> tuple[Ensemble, tuple[str, ...], str]:
    """(ensemble, feature names, objective). Scores are XGBoost's margins (`predict(output_margin=True)`), of the
    trees up to learner.attributes.best_iteration where early stopping left one, as of XGBoost's scikit-learn classes; else of all trees.
    A model without feature names has f0, f1, ... Raises CorruptModelError for anything that does not parse to such trees,
    UnsupportedModelError for linear boosters, several outputs, categories, and objectives whose margin this does not know.
    """
    try:
        learner = json.loads(text)["learner"]
        objective, parameters = str(learner["objective"]["name"]), learner["learner_model_param"]
        model, weights = _supported(where, learner, objective)
        n_features = int(parameters["num_feature"])
        if not 1 <= n_features <= MOST_FEATURES:
            raise ValueError(f"{n_features} features")
        names = tuple(map(str, learner.get("feature_names") or (f"f{i}" for i in range(n_features))))
        if len(names) != n_features:
            raise ValueError(f"{len(names)} feature names for {n_features} features")
        if any(kind == "c" for kind in learner.get("feature_types") or ()):
            raise _unsupported(where, "categorical features")
        trees = [_tree(where, tree, weight) for tree, weight in zip(model["trees"][: _best(learner, model)], weights)]
        return packed(trees, n_features, base=_margin(where, parameters["base_score"], objective), narrow=True), names, objective
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise CorruptModelError(
            where, got=f"{type(error).__name__}: {error}", expected="the JSON that XGBoost's save_model writes"
        ) from error


def _unsupported(where: str, got: str) -> UnsupportedModelError:
    return UnsupportedModelError(where, got=got, expected="trees of one numerical score", hint="Encode categories as numbers of their own.")


def _supported(where: str, learner: Mapping[str, Any], objective: str) -> tuple[Mapping[str, Any], list[float]]:
    """(the trees' object, the factor of each tree)."""
    booster, parameters = learner["gradient_booster"], learner["learner_model_param"]
    name = booster["name"]
    if name not in ("gbtree", "dart"):
        raise _unsupported(where, f"the booster {name}")
    if int(parameters.get("num_class", 0)) > 1 or int(parameters.get("num_target", 1)) > 1:
        raise _unsupported(where, "several outputs")
    if not (objective.startswith("rank:") or objective in (*_IDENTITY, *_LOGIT, *_LOG)):
        raise _unsupported(where, f"the objective {objective}")
    model = booster["gbtree"]["model"] if name == "dart" else booster["model"]
    weights = [float(w) for w in booster["weight_drop"]] if name == "dart" else [1.0] * len(model["trees"])
    if len(weights) != len(model["trees"]) or any(model["tree_info"]):
        raise ValueError("trees that do not fit their weights or classes")
    return model, weights


def _best(learner: Mapping[str, Any], model: Mapping[str, Any]) -> int | None:
    """How many trees count; None: all."""
    best = learner.get("attributes", {}).get("best_iteration")
    if best is None:
        return None
    if int(best) < 0:
        raise ValueError(f"best_iteration {best}")
    return (int(best) + 1) * max(int(model["gbtree_model_param"].get("num_parallel_tree", 1)), 1)


def _margin(where: str, base_score: Any, objective: str) -> float:
    """What every score begins with, from the mean that the file has, as float32."""
    given = json.loads(base_score) if isinstance(base_score, str) else base_score  # "5E-1", or since 3.1 "[5E-1]"
    if isinstance(given, list):
        if len(given) != 1:
            raise _unsupported(where, "several outputs")
        given = given[0]
    mean = np.float32(given)
    if objective in _LOGIT:  # each step in float32, as XGBoost takes it
        mean = -np.float32(math.log(np.float32(1) / mean - np.float32(1))) if 0 < mean < 1 else np.float32(np.nan)
    elif objective in _LOG:
        mean = np.float32(math.log(mean) if mean > 0 else np.nan)
    if not np.isfinite(mean):
        raise ValueError(f"base_score {base_score!r}")
    return float(mean)


def _floats(values: Any, n: int) -> NDArray[np.float32]:
    array = np.array(values, np.float64)
    if array.shape != (n,) or not np.isfinite(array).all():
        raise ValueError(f"numbers of shape {list(array.shape)}, or not finite, for {n} nodes")
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _whole(values: Any, n: int) -> NDArray[np.int64]:
    array = np.array(values)
    if array.shape != (n,) or array.dtype.kind not in "biu":
        raise ValueError(f"{array.dtype} of shape {list(array.shape)} for {n} nodes")
    return array.astype(np.int64)


def _tree(where: str, tree: Mapping[str, Any], weight: float) -> Tree:
    """XGBoost numbers nodes and leaves together; a leaf has no left child, and its value where others have a threshold."""
    n = len(tree["left_children"])
    left, right, feature, default_left = (
        _whole(tree[name], n) for name in ("left_children", "right_children", "split_indices", "default_left")
    )
    if n < 1 or any(tree.get("split_type") or ()) or len(tree.get("categories_nodes") or ()):
        raise _unsupported(where, "categorical splits or an empty tree")
    if int(tree.get("tree_param", {}).get("size_leaf_vector", 1)) > 1:
        raise _unsupported(where, "several outputs")
    condition, cover, gain = _floats(tree["split_conditions"], n), _floats(tree["sum_hessian"], n), _floats(tree["loss_changes"], n)
    met = [0]  # pruned nodes stay in the file, reached by none
    for place in met:
        if left[place] >= 0:
            met += [int(left[place]), int(right[place])]
        if len(met) > n or min(met[-2:]) < 0 or max(met[-2:]) >= n:
            raise ValueError("children that are not there, or in a circle")
    at = np.array(met)
    leaf = left[at] < 0
    new = np.full(n, np.iinfo(np.int64).min)
    new[at[~leaf]], new[at[leaf]] = np.arange(np.count_nonzero(~leaf)), ~np.arange(np.count_nonzero(leaf))
    nodes, ends = at[~leaf], at[leaf]
    return Tree(
        feature=feature[nodes],
        # XGBoost goes left where value < threshold: in float32, where value <= the number before it.
        threshold=np.nextafter(condition[nodes], np.float32(-np.inf)).astype(np.float64),
        left=new[left[nodes]],
        right=new[right[nodes]],
        leaves=(condition[ends] * np.float32(weight)).astype(np.float64),
        flags=NAN_IS_MISSING << 2 | DEFAULT_LEFT * (default_left[nodes] != 0),
        node_cover=cover[nodes].astype(np.float64),
        leaf_cover=cover[ends].astype(np.float64),
        gain=gain[nodes].astype(np.float64),
    )
