from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import backends
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import ensemble, rows

from rerank_engine.backends import choose
from rerank_engine.errors import BackendUnavailable, InputError, NonFiniteError
from rerank_engine.ops import Ensemble, tree_contributions, trees
from rerank_engine.ops.trees import trees_reference


def native_with(isa, threads):
    def run(features, e):
        array = np.ascontiguousarray(features, np.float32 if e.narrow else None)
        return e.native.score(array, threads=threads, isa=isa)

    return run


def runners():
    """Every backend, and the C++ one on every instruction set of this processor, with one thread and with several."""
    found = {name: lambda features, e, name=name: trees(features, e, backend=name) for name in backends("trees")}
    if "cpp" in found:
        from rerank_engine import _native

        found |= {f"cpp-{isa}-{n}": native_with(isa, n) for isa in _native.usable_isas() for n in (1, 3)}
    return [pytest.param(run, id=name) for name, run in found.items()]


EVERY = pytest.mark.parametrize("run", runners())


def check(run, features, e):
    """Equal to the reference to the last bit: both add in float64 in the trees' order."""
    got = run(features, e)
    want = trees_reference(features.astype(np.float32) if e.narrow else features, e, 1)
    assert got.dtype == np.float64 and got.shape == (len(features),)
    assert got.tobytes() == want.tobytes(), (
        f"row {np.flatnonzero(got != want)[:5]}: got {got[got != want][:5]}, want {want[got != want][:5]}"
    )


def stump(threshold=1.0, flags=0, n_features=1, **more):
    """One node: 10 on the left, 20 on the right."""
    return Ensemble(n_features, [0, 1], [0, 2], [0], [threshold], [~0], [~1], [10.0, 20.0], [flags], **more)


@EVERY
def test_by_hand(run):
    values = np.array([[0.5], [1.0], [1.5], [np.nan], [np.inf], [-np.inf]])
    assert run(values, stump()).tolist() == [10, 10, 20, 10, 20, 10]  # NaN counts as 0
    assert run(values, stump(flags=2 << 2)).tolist() == [10, 10, 20, 20, 20, 10]  # NaN is missing and goes right
    assert run(values, stump(flags=2 << 2 | 2)).tolist() == [10, 10, 20, 10, 20, 10]  # or left by default
    zeros = np.array([[0.0], [-0.0], [1e-36], [-1e-35 * 0.99], [2e-35], [np.nan]])
    assert run(zeros, stump(flags=1 << 2)).tolist() == [20, 20, 20, 20, 10, 20]  # zeros and NaN are missing
    assert run(zeros, stump(-1.0, flags=1 << 2 | 2)).tolist() == [10, 10, 10, 10, 20, 10]
    categories = np.array([[0.0], [3.0], [3.9], [31.0], [32.0], [-1.0], [-0.5], [np.nan], [1e20]])
    of_3_and_31 = stump(0.0, flags=1, set_offsets=[0, 1], sets=np.array([1 << 3 | 1 << 31], np.uint32))
    assert run(categories, of_3_and_31).tolist() == [20, 10, 10, 10, 20, 20, 20, 20, 20]
    assert run(values[:3], stump(base=5.0, divisor=2.0)).tolist() == [7.5, 7.5, 12.5]


@EVERY
def test_a_threshold_of_float64_is_compared_exactly(run):
    between = 1.0 + 2**-30  # no float32
    one, next_one = np.float32(1), np.nextafter(np.float32(1), np.float32(2))
    assert run(np.array([[one], [next_one]], np.float32), stump(between)).tolist() == [10, 20]
    assert run(np.array([[1.0], [between], [np.nextafter(between, 2)]]), stump(between)).tolist() == [10, 10, 20]
    assert run(np.array([[-one], [np.nextafter(-one, np.float32(0))]], np.float32), stump(-between)).tolist() == [20, 20]
    for threshold in (1e300, -1e300, np.inf, -np.inf, float(np.finfo(np.float32).max), 1e-310):
        edge = np.array([[np.inf], [-np.inf], [np.finfo(np.float32).max], [np.finfo(np.float32).min], [0], [1e-45]], np.float32)
        check(run, edge, stump(threshold))
        check(run, edge, stump(threshold, flags=2 << 2))


@EVERY
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 63, 64, 65, 130])
def test_rows_around_the_blocks(run, n):
    rng = np.random.default_rng(n)
    e = ensemble(rng, [1, 2, 8, 31, 32, 20])
    for dtype in (np.float32, np.float64):
        check(run, rows(rng, n, dtype=dtype), e)


@EVERY
@pytest.mark.parametrize(
    "leaves", [[], [1], [1, 1], [2], [31], [32], [33], [63], [64], [65], [128, 3], [129, 31], [512], [513], [700, 2, 64]]
)
def test_leaves_around_the_words(run, leaves):
    rng = np.random.default_rng(sum(leaves))
    for chain in (False, True):
        e = ensemble(rng, leaves, chain=chain)
        for dtype in (np.float32, np.float64):
            check(run, rows(rng, 40, dtype=dtype), e)


@EVERY
@pytest.mark.parametrize("leaves", [[3] * 127, [3] * 128, [3] * 129, [5] * 300, [2, 500, 70] * 12])
def test_words_around_the_groups(run, leaves):
    rng = np.random.default_rng(len(leaves))
    check(run, rows(rng, 20), ensemble(rng, leaves))


@EVERY
@pytest.mark.parametrize("kinds", ["plain", "all"])
def test_many_trees_with_and_without_rounding(run, kinds):
    rng = np.random.default_rng(7)
    e = ensemble(rng, rng.integers(1, 40, 60).tolist(), n_features=11, kinds=kinds, base=0.25)
    features = rows(rng, 100, 11)
    check(run, features, e)
    check(run, features, dataclasses.replace(e, narrow=True, base=0.5))


@EVERY
@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    leaves=st.lists(st.integers(1, 90), max_size=6),
    n=st.integers(0, 40),
    wide=st.integers(1, 9),
    chain=st.booleans(),
)
def test_any_ensemble(run, seed, leaves, n, wide, chain):
    rng = np.random.default_rng(seed)
    e = ensemble(rng, leaves, wide, chain=chain, divisor=float(len(leaves) or 1))
    check(run, rows(rng, n, wide, rng.choice([np.float32, np.float64])), e)


@pytest.mark.parametrize("backend", backends("trees"))
def test_other_dtypes_are_converted(backend):
    rng = np.random.default_rng(1)
    e = ensemble(rng, [8, 9])
    whole = rng.integers(-3, 4, (20, 6))
    want = trees(whole.astype(np.float64), e)
    for given_ in (whole, whole.astype(np.float16), whole.astype(np.int8), np.asfortranarray(whole.astype(np.float32)), whole.tolist()):
        assert trees(given_, e, backend=backend).tolist() == want.tolist()
    beyond = np.array([[1e300], [-1e300]])  # infinity for an ensemble of float32, as XGBoost reads it
    assert trees(beyond, stump(narrow=True), backend=backend).tolist() == [20, 10]


def test_contributions_add_up_and_follow_the_path():
    e = stump(leaf_cover=[3.0, 1.0], base=1.0)
    bias, added = tree_contributions([[0.0], [2.0]], e)
    assert bias == 13.5 and added.tolist() == [[-2.5], [7.5]]  # the mean leaf is 12.5
    rng = np.random.default_rng(3)
    for leaves in ([], [1], [2, 31, 70], [600]):
        for more in ({}, {"base": 0.5, "divisor": 3.0}):
            e = ensemble(rng, leaves, **more)
            features = rows(rng, 50)
            bias, added = tree_contributions(features, e)
            assert np.allclose(bias + added.sum(axis=1), trees(features, e), rtol=1e-12, atol=1e-12)
    unused = ensemble(rng, [5], n_features=3)
    assert tree_contributions(rows(rng, 4, 3), unused)[1][:, np.setdiff1d(range(3), unused.feature)].any() == False  # noqa: E712
    none_known = dataclasses.replace(stump(), leaf_cover=np.zeros(2))
    assert tree_contributions([[0.0]], none_known)[0] == 15  # without cover every leaf counts the same


@pytest.mark.parametrize(
    ("features", "text"),
    [
        ([1.0], "1, 1"),
        ([[1.0, 2.0]], r"\[n, 1\]"),
        ([["a"]], "numbers"),
        (np.zeros((1, 1, 1)), "numbers"),
        (np.zeros((2, 1), complex), "complex"),
    ],
)
def test_wrong_features(features, text):
    for backend in backends("trees"):
        with pytest.raises(InputError, match=r"trees: features"):
            trees(features, stump(), backend=backend)
    with pytest.raises(InputError, match="Ensemble"):
        trees([[1.0]], "model")


GOOD = {
    "node_offsets": [0, 2], "leaf_offsets": [0, 3], "feature": [0, 1], "threshold": [0.5, 0.5], "left": [1, ~0], "right": [~2, ~1],
    "leaves": [1.0, 2.0, 3.0], "flags": [0, 0],
}  # fmt: skip
WRONG = [
    ({"node_offsets": [0, 1]}, "node_offsets"),
    ({"node_offsets": []}, "node_offsets"),
    ({"leaf_offsets": [0, 2, 3]}, "leaf_offsets"),
    ({"leaf_offsets": [0, 2]}, "leaf_offsets"),
    ({"feature": [0, 2]}, "feature"),
    ({"feature": [-1, 0]}, "feature"),
    ({"feature": [0.5, 0]}, "feature"),
    ({"threshold": [0.5, np.nan]}, "threshold"),
    ({"threshold": [0.5]}, "threshold"),
    ({"left": [0, ~0]}, "left and right"),
    ({"left": [2, ~0]}, "left and right"),
    ({"left": [1, ~3]}, "left and right"),
    ({"left": [1, ~1]}, "each child once"),
    ({"left": [2**40, ~0]}, "left"),
    ({"right": [1, ~1]}, "each child once"),
    ({"flags": [0, 12]}, "flags"),
    ({"flags": [0, 300]}, "flags"),
    ({"flags": [1, 0]}, "threshold"),
    ({"leaves": [[1.0, 2.0, 3.0]]}, "leaves"),
    ({"leaf_cover": [1.0]}, "leaf_cover"),
    ({"set_offsets": [0, 1]}, "set_offsets"),
    ({"divisor": 0.0}, "divisor"),
    ({"n_features": 0}, "n_features"),
]


@pytest.mark.parametrize(("change", "text"), WRONG, ids=[str(change) for change, _ in WRONG])
def test_wrong_ensembles(change, text):
    arrays = {"n_features": 2, **GOOD}
    assert trees([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]], Ensemble(**arrays)).tolist() == [1, 2, 3]
    with pytest.raises(InputError, match=text):
        Ensemble(**{**arrays, **change})


def test_what_is_not_finite_is_refused():
    for change in ({"leaves": [1.0, np.inf, 2.0]}, {"leaf_cover": [1.0, np.nan, 1.0]}, {"base": np.inf}):
        with pytest.raises((NonFiniteError, InputError)):
            Ensemble(2, **{**GOOD, **change})
    huge = Ensemble(1, [0, 0, 0], [0, 1, 2], [], [], [], [], [1.7e308, 1.7e308])
    for backend in backends("trees"):
        with pytest.raises(NonFiniteError, match="trees: scores"):
            trees([[0.0]], huge, backend=backend)


def test_an_ensemble_does_not_change():
    leaves = np.array([1.0, 2.0, 3.0])
    e = Ensemble(2, **{**GOOD, "leaves": leaves})
    leaves[0] = 99
    assert e.leaves[0] == 1 and "1 trees, 3 leaves" in repr(e)
    with pytest.raises(ValueError, match="read-only"):
        e.leaves[0] = 5


def test_a_named_backend_never_falls_back(without_cpp):
    with pytest.raises(BackendUnavailable, match=r"trees: backend 'cpp' .*Available here: reference\."):
        trees([[1.0]], stump(), backend="cpp")
    assert choose("trees") == "reference"
    assert trees([[1.0]], stump()).tolist() == [10]


def test_native_refuses_what_it_cannot_read():
    native = pytest.importorskip("rerank_engine._native")
    good = stump(n_features=2)
    arrays = {name: getattr(good, name) for name in GOOD} | {"set_offsets": good.set_offsets, "sets": good.sets}
    made = native.Trees(arrays, 2, 0.0, 1.0, False)
    features = np.zeros((3, 2))
    assert made.score(features).tolist() == [10, 10, 10]
    for wrong in (np.zeros(2), np.zeros((3, 1)), np.zeros((3, 2, 1))):
        with pytest.raises(ValueError, match="expected features"):
            made.score(wrong)
    for wrong in (np.zeros((3, 4))[:, ::2], np.zeros((2, 3)).T, np.zeros((3, 2), np.int64), np.zeros((3, 2), ">f4")):
        with pytest.raises(TypeError):
            made.score(wrong)
    with pytest.raises(ValueError, match="sse9"):
        made.score(features, isa="sse9")
    broken = [
        {"left": np.array([0], np.int32)},
        {"left": np.array([~5], np.int32)},
        {"right": np.array([~0], np.int32)},
        {"feature": np.array([2], np.int32)},
        {"feature": np.array([-1], np.int32)},
        {"threshold": np.array([np.nan])},
        {"leaves": np.array([1.0])},
        {"leaves": np.array([1.0, np.inf])},
        {"node_offsets": np.array([0, 2], np.int64)},
        {"node_offsets": np.array([1, 1], np.int64)},
        {"leaf_offsets": np.array([0, 1, 2], np.int64)},
        {"flags": np.array([1], np.uint8)},
        {"flags": np.array([255], np.uint8)},
        {"set_offsets": np.array([], np.int64)},
        {"set_offsets": np.array([0, 9], np.int64)},
    ]
    for change in broken:
        with pytest.raises(ValueError, match="trees: "):
            native.Trees({**arrays, **change}, 2, 0.0, 1.0, False)
    with pytest.raises(TypeError):
        native.Trees({**arrays, "threshold": arrays["threshold"].astype(np.float32)}, 2, 0.0, 1.0, False)
    with pytest.raises(ValueError, match="divisor"):
        native.Trees(arrays, 2, 0.0, 0.0, False)
