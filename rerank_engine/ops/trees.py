"""Ensembles of decision trees, as LightGBM and XGBoost train them: the score of each row, and what each feature adds to it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import implementation
from ..cpus import resolve_threads
from ..errors import InputError, NonFiniteError
from . import checks

CATEGORICAL, DEFAULT_LEFT = 1, 2  # bits of `Ensemble.flags`; above them two bits say what is missing:
NAN_IS_ZERO, ZERO_IS_MISSING, NAN_IS_MISSING = 0, 1, 2
ZERO = float(np.float32(1e-35))  # LightGBM's kZeroThreshold
_TYPES: dict[str, Any] = {
    "node_offsets": np.int64, "leaf_offsets": np.int64, "set_offsets": np.int64, "feature": np.int32, "left": np.int32, "right": np.int32,
    "threshold": np.float64, "leaves": np.float64, "flags": np.uint8, "sets": np.uint32,
    "node_cover": np.float64, "leaf_cover": np.float64, "gain": np.float64,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Ensemble:
    """T trees, packed: their N nodes and L leaves behind one another.

    node_offsets, leaf_offsets int64 [T + 1]: tree t has the nodes node_offsets[t] to node_offsets[t + 1] - 1, the first of them its root,
    and one leaf more than nodes. left, right int32 [N]: a node of the same tree, counted from its first, after its parent; or ~leaf.
    feature int32 [N]: the column looked at. threshold float64 [N], not NaN. leaves float64 [L], finite: what a tree adds.
    flags uint8 [N]: CATEGORICAL, DEFAULT_LEFT, and from bit 2 on what is missing (NAN_IS_ZERO, ZERO_IS_MISSING, NAN_IS_MISSING).
    set_offsets int64 [S + 1], sets uint32: bit c of set s is category c; the threshold of a categorical node is its set.
    base, divisor: the score is (base + the sum of leaves) / divisor. narrow: values are rounded to float32 first, and the sum after each
    tree, as XGBoost does. node_cover, leaf_cover: the training data that came by (explanations weigh by it), gain: what a split gained
    (importance); all 1 where they are left out.
    Raises InputError for arrays that are no such trees, NonFiniteError.
    """

    n_features: int
    node_offsets: NDArray[np.int64] = field(repr=False)
    leaf_offsets: NDArray[np.int64] = field(repr=False)
    feature: NDArray[np.int32] = field(repr=False)
    threshold: NDArray[np.float64] = field(repr=False)
    left: NDArray[np.int32] = field(repr=False)
    right: NDArray[np.int32] = field(repr=False)
    leaves: NDArray[np.float64] = field(repr=False)
    flags: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8), repr=False)
    set_offsets: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64), repr=False)
    sets: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32), repr=False)
    base: float = 0.0
    divisor: float = 1.0
    narrow: bool = False
    node_cover: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)
    leaf_cover: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)
    gain: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)

    def __post_init__(self) -> None:
        for name, dtype in _TYPES.items():
            given = np.asarray(getattr(self, name))
            if given.ndim != 1:
                raise InputError(f"trees: {name}", got=f"shape {list(given.shape)}", expected="1 dimension")
            array = checks.contiguous(given, dtype)
            if not np.array_equal(array, given, equal_nan=array.dtype.kind == "f"):
                raise InputError(f"trees: {name}", got=f"values that do not fit {np.dtype(dtype)}", expected="values that do")
            array = array.copy() if array is given else array
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        for name, n in (
            ("flags", len(self.feature)),
            ("node_cover", len(self.feature)),
            ("gain", len(self.feature)),
            ("leaf_cover", len(self.leaves)),
        ):
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.full(n, 0 if name == "flags" else 1, _TYPES[name]))
        checks.count("trees: n_features", self.n_features)
        checks.finite_number("trees: base", self.base)
        if checks.finite_number("trees: divisor", self.divisor) <= 0:
            raise InputError("trees: divisor", got=self.divisor, expected="a number above 0")
        self._check()

    def _check(self) -> None:
        n, starts, ends = len(self.feature), self.node_offsets[:-1], self.node_offsets[1:]

        def require(ok: bool, what: str, expected: str) -> None:
            if not ok:
                raise InputError(f"trees: {what}", got="other numbers", expected=expected)

        for name in ("threshold", "left", "right", "flags", "node_cover", "gain"):
            require(len(getattr(self, name)) == n, name, f"[{n}], as feature has")
        require(len(self.leaf_cover) == len(self.leaves), "leaf_cover", f"[{len(self.leaves)}], as leaves has")
        for name, offsets, total in (
            ("node_offsets", self.node_offsets, n), ("leaf_offsets", self.leaf_offsets, len(self.leaves)),
            ("set_offsets", self.set_offsets, len(self.sets)),
        ):  # fmt: skip
            ok = len(offsets) > 0 and offsets[0] == 0 and offsets[-1] == total and bool((np.diff(offsets) >= 0).all())
            require(ok, name, f"a rise from 0 to {total}")
        require(len(self.node_offsets) == len(self.leaf_offsets), "leaf_offsets", "as many as node_offsets")
        require(np.array_equal(np.diff(self.leaf_offsets), ends - starts + 1), "leaf_offsets", "one leaf more than nodes in each tree")
        require(bool(((self.feature >= 0) & (self.feature < self.n_features)).all()), "feature", f"columns from 0 to {self.n_features - 1}")
        for name in ("leaves", "node_cover", "leaf_cover", "gain"):
            checks.all_finite(f"trees: {name}", getattr(self, name))
        require(not np.isnan(self.threshold).any(), "threshold", "numbers or infinity")
        require(bool((self.flags >> 2 < 3).all()), "flags", "a kind of missing value from 0 to 2")
        which = self.threshold[(self.flags & CATEGORICAL) > 0]
        require(
            bool(((which >= 0) & (which < len(self.set_offsets) - 1) & (which == np.floor(which))).all()), "threshold", "a set of its own"
        )
        tree = np.repeat(np.arange(len(starts)), ends - starts)
        at = np.arange(n) - starts[tree]
        children, parents, trees_ = np.concatenate([self.left, self.right]).astype(np.int64), np.tile(at, 2), np.tile(tree, 2)
        inner = children >= 0
        most = np.where(inner, (ends - starts)[trees_], (ends - starts + 1)[trees_]) if n else children
        known = np.where(inner, children, ~children) < most
        require(bool((known & (~inner | (children > parents))).all()), "left and right", "nodes of the tree that come after, or ~leaf")
        nodes, leaves = starts[trees_[inner]] + children[inner], self.leaf_offsets[trees_[~inner]] + ~children[~inner]
        once = all(len(np.unique(found)) == len(found) for found in (nodes, leaves))
        require(once, "left and right", "each child once")

    def __reduce__(self) -> tuple[type[Ensemble], tuple[Any, ...]]:
        """A copy is made, and checked, from the arrays: what was laid out for C++ stays behind."""
        return Ensemble, tuple(getattr(self, part.name) for part in fields(self))

    @property
    def n_trees(self) -> int:
        return len(self.node_offsets) - 1

    @cached_property
    def native(self) -> Any:
        """The same, laid out for C++."""
        from .. import _native

        arrays = {name: getattr(self, name) for name in _TYPES}
        return _native.Trees(arrays, self.n_features, float(self.base), float(self.divisor), bool(self.narrow))

    @cached_property
    def expected(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(nodes float64 [N], trees float64 [T]): the mean of the leaves below, weighted by their cover (by 1 where a tree has none)."""
        nodes, roots = np.zeros(len(self.feature)), np.zeros(self.n_trees)
        cover = self.leaf_cover.copy()
        for t in range(self.n_trees):
            own = cover[self.leaf_offsets[t] : self.leaf_offsets[t + 1]]
            if not own.sum() > 0 or (own < 0).any():
                own[:] = 1
            first, leaf = int(self.node_offsets[t]), int(self.leaf_offsets[t])
            weight = np.zeros(self.node_offsets[t + 1] - first)
            for i in range(len(weight) - 1, -1, -1):  # children come after their parents
                total = value = 0.0
                for child in (int(self.left[first + i]), int(self.right[first + i])):
                    w, v = (weight[child], nodes[first + child]) if child >= 0 else (cover[leaf + ~child], self.leaves[leaf + ~child])
                    total, value = total + w, value + w * v
                weight[i], nodes[first + i] = total, value / total if total > 0 else 0.0
            roots[t] = nodes[first] if len(weight) else self.leaves[leaf]
        return nodes, roots

    def __repr__(self) -> str:
        return f"Ensemble({self.n_trees} trees, {len(self.leaves)} leaves, {self.n_features} features)"


def trees(features: ArrayLike, ensemble: Ensemble, *, threads: int | None = 1, backend: str = "auto") -> NDArray[np.float64]:
    """score(row) = (base + sum over trees of the leaf that the row comes to) / divisor, the sum taken in float64 in the trees' order.

    At a node a row goes left where value <= threshold. NaN, and 0 for a node of ZERO_IS_MISSING, go as the node's flags say: to the default
    side, or as 0. At a categorical node it goes left where the value, cut to a whole number, is in the set; NaN and negative go right.
    features: float32 or float64 [n, n_features], NaN and infinity allowed; other numbers are converted. float32 is compared as it is.
    Returns float64 [n]. threads: None = all. Raises InputError, NonFiniteError (a sum beyond float64).
    Scores are those of LightGBM (raw; of a random forest the mean, as predict gives it) and XGBoost (margins), whose rules these are; equal
    to the bit in the tests.
    """
    checks.instance("trees: ensemble", ensemble, Ensemble)
    scores: NDArray[np.float64] = implementation("trees", backend)(_rows(features, ensemble), ensemble, resolve_threads(threads))
    if not np.isfinite(scores).all():
        raise NonFiniteError("trees: scores", got="a sum that is not finite", expected="leaves that add up to a number")
    return scores


def _rows(features: ArrayLike, ensemble: Ensemble) -> NDArray[Any]:
    rows = np.asarray(features)
    if rows.dtype.kind not in "fiub" or rows.ndim != 2 or rows.shape[1] != ensemble.n_features:
        expected = f"numbers [n, {ensemble.n_features}], a row for each document"
        raise InputError("trees: features", got=f"{rows.dtype} {list(rows.shape)}", expected=expected)
    small = ensemble.narrow or rows.dtype in (np.dtype(np.float32), np.dtype(np.float16))
    with np.errstate(over="ignore"):  # XGBoost, too, reads what is beyond float32 as infinity
        return checks.contiguous(rows, np.float32 if small else np.float64)


def trees_reference(features: NDArray[Any], ensemble: Ensemble, threads: int) -> NDArray[np.float64]:
    e = ensemble
    out = np.empty(len(features))
    for i, row in enumerate(features.tolist()):  # float32 becomes float64 exactly
        total = float(e.base)
        for t in range(e.n_trees):
            first, at = int(e.node_offsets[t]), 0 if e.node_offsets[t + 1] > e.node_offsets[t] else -1
            while at >= 0:
                at = int(e.left[first + at] if _left(e, first + at, row[e.feature[first + at]]) else e.right[first + at])
            total += float(e.leaves[e.leaf_offsets[t] + ~at])
            if e.narrow:
                total = float(np.float32(total))
        out[i] = total / e.divisor
    return out


def _left(e: Ensemble, node: int, value: float) -> bool:
    flags, threshold = int(e.flags[node]), float(e.threshold[node])
    if flags & CATEGORICAL:
        return _in_set(e, int(threshold), value)
    missing = flags >> 2
    if value != value and missing != NAN_IS_MISSING:
        value = 0.0
    if (missing == ZERO_IS_MISSING and abs(value) <= ZERO) or value != value:
        return bool(flags & DEFAULT_LEFT)
    return value <= threshold


def _in_set(e: Ensemble, which: int, value: float) -> bool:
    if not -1 < value < 2**31:
        return False
    word, bit = divmod(int(value), 32)
    words = e.sets[e.set_offsets[which] : e.set_offsets[which + 1]]
    return word < len(words) and bool(int(words[word]) >> bit & 1)


def trees_cpp(features: NDArray[Any], ensemble: Ensemble, threads: int) -> Any:
    return ensemble.native.score(features, threads=threads)


def tree_contributions(features: ArrayLike, ensemble: Ensemble) -> tuple[float, NDArray[np.float64]]:
    """(bias, float64 [n, n_features]): what each feature adds to a row's score, by the path that the row takes.

    A step from a node to a child adds expected(child) - expected(node) to the node's feature, where expected is the cover-weighted mean of
    the leaves below (Saabas 2014). bias + the sum of a row's contributions is its score, up to rounding; the bias is the mean score of
    the training data by cover, the same as that of TreeSHAP, which shares out steps differently. In numpy. Raises InputError.
    """
    checks.instance("tree_contributions: ensemble", ensemble, Ensemble)
    e, rows = ensemble, _rows(features, ensemble)
    nodes, roots = e.expected
    out, every = np.zeros((len(rows), e.n_features)), np.arange(len(rows))
    for t in range(e.n_trees):
        first, leaf = int(e.node_offsets[t]), int(e.leaf_offsets[t])
        active, at = (every if e.node_offsets[t + 1] > first else every[:0]), np.full(len(rows), first)
        while len(active):
            here = at[active]
            child = np.where(_lefts(e, here, rows[active, e.feature[here]]), e.left[here], e.right[here]).astype(np.int64)
            inner = child >= 0
            value = np.where(inner, nodes[first + np.maximum(child, 0)] if len(nodes) else 0.0, e.leaves[leaf + np.where(inner, 0, ~child)])
            out[active, e.feature[here]] += value - nodes[here]
            at[active] = first + child
            active = active[inner]
    return float((e.base + roots.sum()) / e.divisor), out / e.divisor


def _lefts(e: Ensemble, nodes: NDArray[np.int64], values: NDArray[Any]) -> NDArray[np.bool_]:
    """`_left` of many nodes, each with its value."""
    v, flags = values.astype(np.float64), e.flags[nodes]
    missing = flags >> 2
    known = np.where(np.isnan(v) & (missing != NAN_IS_MISSING), 0.0, v)
    absent = ((missing == ZERO_IS_MISSING) & (np.abs(known) <= ZERO)) | np.isnan(known)
    left = np.where(absent, (flags & DEFAULT_LEFT) > 0, known <= e.threshold[nodes])
    for i in np.flatnonzero(flags & CATEGORICAL).tolist():
        left[i] = _in_set(e, int(e.threshold[nodes[i]]), float(v[i]))
    return left
