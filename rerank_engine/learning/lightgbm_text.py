"""LightGBM's text model as data: `Booster.save_model` writes it, and here it becomes an Ensemble without LightGBM."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptModelError, InputError, UnsupportedModelError
from ..ops.trees import CATEGORICAL, Ensemble
from .packing import Tree, packed

VERSIONS = ("v2", "v3", "v4")


def is_lightgbm(text: str) -> bool:
    return text.startswith("tree\n") or text.startswith("tree\r\n")


def parse_lightgbm(text: str, where: str) -> tuple[Ensemble, tuple[str, ...], str]:
    """(ensemble, feature names, objective). Scores are LightGBM's raw ones, on which its objectives put a function that never falls; of a
    random forest the mean of its trees, as `predict` gives it without raw_score.

    Raises CorruptModelError for anything that does not parse to such trees, UnsupportedModelError for several classes and linear trees.
    """
    try:
        head, *blocks = _blocks(text)
        header = _fields(head)
        names, objective = tuple(header["feature_names"].split(" ")), header.get("objective", "")
        _supported(where, header, blocks)
        n_features = int(header["max_feature_idx"]) + 1
        if n_features != len(names) or n_features < 1:
            raise ValueError(f"{len(names)} feature names for {n_features} features")
        sets = list[NDArray[np.uint32]]()
        trees = [_tree(_fields(block), sets) for block in blocks]
        divisor = float(max(len(trees), 1)) if "average_output" in head else 1.0  # a random forest
        return packed(trees, n_features, sets=sets, divisor=divisor), names, objective
    except (KeyError, ValueError, IndexError, OverflowError) as error:  # InputError is a ValueError
        told = f"no field {error}" if isinstance(error, KeyError) and not isinstance(error, InputError) else str(error)
        raise CorruptModelError(where, got=told, expected="a text model as LightGBM's save_model writes it") from error


def _blocks(text: str) -> list[list[str]]:
    """The lines of the header and of each tree; what follows the trees is left out."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line == "end of trees":
            break
        if line.startswith("Tree="):
            if line != f"Tree={len(blocks) - 1}":
                raise ValueError(f"'{line[:40]}' where tree {len(blocks) - 1} belongs")
            blocks.append([])
        blocks[-1].append(line)
    else:
        raise ValueError("no line 'end of trees': the file is cut short")
    return blocks


def _fields(lines: list[str]) -> dict[str, str]:
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _supported(where: str, header: Mapping[str, str], blocks: list[list[str]]) -> None:
    if header["version"] not in VERSIONS:
        raise UnsupportedModelError(where, got=f"version {header['version']}", expected="one of " + ", ".join(VERSIONS))
    if int(header["num_tree_per_iteration"]) != 1 or int(header["num_class"]) != 1:
        got = f"{header['num_tree_per_iteration']} trees an iteration"
        raise UnsupportedModelError(where, got=got, expected="a model of one score", hint="Train for ranking, regression or two classes.")
    if any("is_linear=1" in block for block in blocks):
        raise UnsupportedModelError(
            where, got="linear models in the leaves", expected="constant ones", hint="Train with linear_tree=false."
        )


def _numbers(fields: Mapping[str, str], name: str, n: int, dtype: Any = np.float64) -> NDArray[Any]:
    values = np.array(fields.get(name, "").split(), dtype)
    if len(values) != n:
        raise ValueError(f"{len(values)} values of {name} for {n}")
    return values


def _tree(fields: Mapping[str, str], sets: list[NDArray[np.uint32]]) -> Tree:
    n = int(fields["num_leaves"])
    if not 1 <= n <= len(fields["leaf_value"]):
        raise ValueError(f"{n} leaves")
    optional = {name: fields[key] for name, key in (("leaf_cover", "leaf_count"), ("node_cover", "internal_count")) if fields.get(key)}
    nodes = n - 1
    threshold, flags = _numbers(fields, "threshold", nodes), _numbers(fields, "decision_type", nodes, np.int64)
    categorical = (flags & CATEGORICAL) > 0
    if categorical.any():
        threshold[categorical] = _sets(fields, threshold[categorical], sets)
    return Tree(
        feature=_numbers(fields, "split_feature", nodes, np.int64),
        threshold=threshold,
        left=_numbers(fields, "left_child", nodes, np.int64),
        right=_numbers(fields, "right_child", nodes, np.int64),
        leaves=_numbers(fields, "leaf_value", n),
        flags=flags,
        node_cover=_numbers(optional, "node_cover", nodes) if "node_cover" in optional else np.ones(nodes),
        leaf_cover=_numbers(optional, "leaf_cover", n) if "leaf_cover" in optional else np.ones(n),
        gain=_numbers(fields, "split_gain", nodes) if "split_gain" in fields else np.zeros(nodes),
    )


def _sets(fields: Mapping[str, str], which: NDArray[np.float64], sets: list[NDArray[np.uint32]]) -> list[int]:
    """Which of `sets` each categorical node has, after the tree's own were added."""
    first, n = len(sets), int(fields["num_cat"])
    if n < 1 or not ((which >= 0) & (which < n)).all():
        raise ValueError("a categorical node without its set")
    ends = _numbers(fields, "cat_boundaries", n + 1, np.int64)
    words = np.array(fields["cat_threshold"].split(), np.int64)
    if ends[0] != 0 or ends[-1] != len(words) or (np.diff(ends) < 0).any() or ((words < 0) | (words >= 2**32)).any():
        raise ValueError("sets of categories that do not fit together")
    sets += [words[a:b].astype(np.uint32) for a, b in pairwise(ends.tolist())]
    return [first + int(i) for i in which]
