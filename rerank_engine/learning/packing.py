"""From trees, one by one, to the arrays of an Ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ops.trees import Ensemble


@dataclass(frozen=True, eq=False)
class Tree:
    """As in Ensemble, but for the nodes' order, which is any; node 0 is the root."""

    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    leaves: NDArray[np.float64]
    flags: NDArray[np.int64]
    node_cover: NDArray[np.float64]
    leaf_cover: NDArray[np.float64]
    gain: NDArray[np.float64]


def packed(
    trees: Sequence[Tree],
    n_features: int,
    *,
    sets: Sequence[NDArray[np.uint32]] = (),
    base: float = 0.0,
    divisor: float = 1.0,
    narrow: bool = False,
) -> Ensemble:
    """Raises ValueError for what is no tree: InputError where the Ensemble finds it."""
    ordered = [_ordered(tree) for tree in trees]

    def joined(name: str, dtype: Any) -> NDArray[Any]:
        parts = [getattr(tree, name) for tree in ordered]
        whole = np.concatenate(parts) if parts else np.empty(0)
        if np.dtype(dtype).kind in "iu" and len(whole):
            info = np.iinfo(dtype)
            if whole.min() < info.min or whole.max() > info.max:
                raise ValueError(f"a {name} beyond {np.dtype(dtype)}")
        return whole.astype(dtype)

    def offsets(lengths: Sequence[int]) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)

    return Ensemble(
        n_features,
        offsets([len(tree.feature) for tree in ordered]),
        offsets([len(tree.leaves) for tree in ordered]),
        joined("feature", np.int32),
        joined("threshold", np.float64),
        joined("left", np.int32),
        joined("right", np.int32),
        joined("leaves", np.float64),
        joined("flags", np.uint8),
        offsets([len(one) for one in sets]),
        np.concatenate(sets).astype(np.uint32) if sets else np.empty(0, np.uint32),
        base,
        divisor,
        narrow,
        *(joined(name, np.float64) for name in ("node_cover", "leaf_cover", "gain")),
    )


def _ordered(tree: Tree) -> Tree:
    """The same with every node after its parent."""
    n = len(tree.feature)
    children = np.stack([tree.left, tree.right]) if n else np.empty((2, 0), np.int64)
    if (children >= n).any() or (~children[children < 0] >= len(tree.leaves)).any():
        raise ValueError("a child that is not there")
    if ((children < 0) | (children > np.arange(n))).all():
        return tree
    order, place = [0], 0
    left, right = tree.left.tolist(), tree.right.tolist()
    while place < len(order) <= n:
        order += [child for child in (left[order[place]], right[order[place]]) if child >= 0]
        place += 1
    if len(order) != n or len(set(order)) != n:
        raise ValueError("nodes that are in a circle, have two parents or none")
    new = np.empty(n, np.int64)
    new[order] = np.arange(n)

    def moved(children: NDArray[np.int64]) -> NDArray[np.int64]:
        taken = children[order]
        return np.where(taken >= 0, new[np.maximum(taken, 0)], taken)

    own = {name: getattr(tree, name)[order] for name in ("feature", "threshold", "flags", "node_cover", "gain")}
    return Tree(left=moved(tree.left), right=moved(tree.right), leaves=tree.leaves, leaf_cover=tree.leaf_cover, **own)
