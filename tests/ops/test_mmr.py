from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from conftest import backends
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import TABLE, allowed, assert_close

from rerank_engine.backends import choose
from rerank_engine.errors import BackendUnavailable, InputError, NonFiniteError
from rerank_engine.ops import mmr

DIMS = [1, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 384]


def native_with(isa):
    from rerank_engine import _native

    return lambda r, v, k, lambda_: _native.mmr(np.asarray(r, np.float32), np.asarray(v, np.float32), k, lambda_, isa=isa)


def runners():
    """Every backend, and the C++ one on every instruction set of this processor."""
    found = {name: lambda r, v, k, lambda_, name=name: mmr(r, v, k, lambda_=lambda_, backend=name) for name in backends("mmr")}
    if "cpp" in found:
        from rerank_engine import _native

        found |= {f"cpp-{isa}": native_with(isa) for isa in _native.usable_isas()}
    return [pytest.param(run, id=name) for name, run in found.items()]


EVERY = pytest.mark.parametrize("run", runners())


def check(run, relevance, vectors, k, lambda_):
    """By regret: each pick is, within tolerance, the best of those left, given the picks before it; recomputed in float64."""
    r, v = np.asarray(relevance, np.float32).astype(np.float64), np.asarray(vectors, np.float32).astype(np.float64)
    rows, values = run(relevance, vectors, k, lambda_)
    assert rows.dtype == np.int64 and values.dtype == np.float32
    assert len(rows) == len(values) == min(k, len(r)) and len(set(rows.tolist())) == len(rows)
    scale = max(np.abs(r).max(initial=0), (v * v).sum(axis=1).max(initial=0))
    nearest = np.full(len(r), -np.inf)
    for step, (row, got) in enumerate(zip(rows.tolist(), values)):
        value = lambda_ * r - (1 - lambda_) * (nearest if step else 0.0)
        assert_close("mmr", got, value[row], scale)
        value[rows[:step]] = -np.inf
        assert value.max() - value[row] <= 2 * allowed("mmr", value[row], scale), f"step {step}: row {row} is not the best one"
        nearest = np.maximum(nearest, (v * v[row]).sum(axis=1))
    again = run(relevance, vectors, k, lambda_)
    assert again[0].tobytes() == rows.tobytes() and again[1].tobytes() == values.tobytes()


def unit(rng, n, d):
    v = rng.normal(size=(n, d)) + 0.5
    return (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)


@EVERY
def test_by_hand(run):
    # The second row repeats the first, the third is at right angles to it: diversity prefers the third though it is less relevant.
    relevance, vectors = [0.9, 0.8, 0.5], [[1, 0], [1, 0], [0, 1]]
    rows, values = run(relevance, vectors, 3, 0.5)
    assert rows.tolist() == [0, 2, 1]
    assert_close("mmr", values, [0.45, 0.25, 0.4 - 0.5], scale=1)
    assert run(relevance, vectors, 3, 1.0)[0].tolist() == [0, 1, 2]
    rows, values = run([0.0, 0.0], [[1, 0], [-1, 0]], 2, 0.25)
    assert rows.tolist() == [0, 1] and values.tolist() == [0, 0.75]  # the maximum may be negative: no floor at 0


@EVERY
@pytest.mark.parametrize("d", DIMS)
def test_dimensions_around_the_vector_widths(run, d):
    rng = np.random.default_rng(d)
    vectors = unit(rng, 40, d)
    relevance = vectors @ unit(rng, 1, d)[0]
    for lambda_ in (0.0, 0.3, 0.7, 1.0):
        check(run, relevance, vectors, 8, lambda_)
    check(run, -np.abs(relevance) - 1, -3 * vectors, 8, 0.5)
    check(run, np.round(relevance), np.round(vectors, 1), 8, 0.5)


@EVERY
@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_every_k_around_the_size(run, n):
    rng = np.random.default_rng(n)
    for k in (1, 2, n, n + 1, 50):
        if k:
            check(run, rng.normal(size=n), rng.normal(size=(n, 7)), k, 0.6)


@EVERY
def test_vectors_without_dimensions(run):
    rows, values = run([1.0, 3.0, 2.0], np.empty((3, 0)), 3, 0.5)
    assert rows.tolist() == [1, 2, 0] and values.tolist() == [1.5, 1.0, 0.5]


@EVERY
@pytest.mark.parametrize("d", [1, 16, 33])
def test_ties_go_to_the_lower_row(run, d):
    for lambda_ in (0.0, 0.5, 1.0):
        assert run(np.ones(20), np.full((20, d), 0.25), 20, lambda_)[0].tolist() == list(range(20))
    assert run([0.0, -0.0, 0.0], np.zeros((3, d)), 3, 0.5)[0].tolist() == [0, 1, 2]


@EVERY
def test_a_product_beyond_float32_is_refused(run):
    orthogonal = 1e20 * np.eye(3)  # only the product of a row with itself is too large, and that one is never needed
    assert run([1, 2, 3], orthogonal, 3, 0.5)[0].tolist() == [2, 1, 0]
    parallel = np.full((3, 1), 1e20)
    rows, values = run([1, 2, 3], parallel, 3, 1.0)
    assert rows.tolist() == [2, 1, 0] and values.tolist() == [3, 2, 1]
    with pytest.raises((NonFiniteError, OverflowError), match="beyond float32"):
        run([1, 2, 3], parallel, 3, 0.5)
    with pytest.raises((NonFiniteError, OverflowError), match="beyond float32"):
        run([1, 2, 3], parallel * [[1], [-1], [1]], 3, 0.5)
    check(run, [3e38, -3e38, 3e38], 1e-30 * np.eye(3), 3, 0.5)


@EVERY
@settings(derandomize=True, deadline=None, max_examples=60)
@given(data=st.data())
def test_any_input(run, data):
    n, d = data.draw(st.integers(0, 12)), data.draw(st.integers(0, 20))
    numbers = st.floats(-1e3, 1e3, width=32)
    relevance = data.draw(st.lists(numbers, min_size=n, max_size=n))
    few = st.integers(-2, 2) if data.draw(st.booleans()) else numbers
    vectors = np.array(data.draw(st.lists(few, min_size=n * d, max_size=n * d)), np.float32).reshape(n, d)
    check(run, relevance, vectors, data.draw(st.integers(1, 15)), data.draw(st.floats(0, 1)))


@pytest.mark.parametrize("backend", backends("mmr"))
@pytest.mark.parametrize("n", [0, 1, 2, 31, 32, 33, 64, 65, 150])
def test_by_the_query(backend, n):
    """As with its products as relevance, wherever the most relevant row stands: the C++ one guesses it while it computes them."""
    rng = np.random.default_rng(n)
    query = unit(rng, 1, 24)[0]
    for vectors in (unit(rng, n, 24), np.round(rng.normal(size=(n, 24))).astype(np.float32), np.full((n, 24), 0.5, np.float32)):
        falling = vectors[np.argsort(-(vectors @ query), kind="stable")]
        for rows in (vectors, falling, np.ascontiguousarray(falling[::-1])):
            exact = rows.astype(np.float64) @ query.astype(np.float64)
            for lambda_ in (0.0, 0.5, 1.0):
                check(lambda _, v, k, weight: mmr(None, v, k, query=query, lambda_=weight, backend=backend), exact, rows, 12, lambda_)
    equal = mmr(None, np.ones((n, 8)), n or 1, query=np.ones(8), backend=backend)[0]
    assert equal.tolist() == list(range(n))


def test_by_the_query_on_every_instruction_set():
    native = pytest.importorskip("rerank_engine._native")
    rng = np.random.default_rng(0)
    for d in DIMS:
        vectors, query = unit(rng, 70, d), unit(rng, 1, d)[0]
        for isa in native.usable_isas():
            run = partial(native.mmr_for_query, query, isa=isa)
            check(lambda _, v, k, weight, run=run: run(v, k, weight), vectors.astype(np.float64) @ query, vectors, 20, 0.4)
    for wrong in (vectors[:, :-1].copy(), vectors.ravel()):
        with pytest.raises(ValueError, match="the query's dimension"):
            native.mmr_for_query(query, wrong, 1, 0.5)
    with pytest.raises(TypeError):
        native.mmr_for_query(query.astype(np.float64), vectors, 1, 0.5)


@pytest.mark.parametrize("backend", backends("mmr"))
def test_what_is_not_finite_shows_by_the_query_too(backend):
    for k, lambda_ in ((1, 0.5), (2, 0.5), (3, 1.0)):
        options = {"lambda_": lambda_, "backend": backend}
        with pytest.raises(NonFiniteError, match=r"query: got nan at \[1\]"):
            mmr(None, np.eye(3), k, query=np.array([1, math.nan, 1], np.float32), **options)
        with pytest.raises(NonFiniteError, match=r"vectors: got inf at \[2, 0\]"):
            mmr(None, np.array([[1, 1], [0, 1], [math.inf, 0]], np.float32), k, query=[1.0, 0.0], **options)
        with pytest.raises(NonFiniteError, match="beyond float32"):
            mmr(None, np.full((3, 1), 1e30, np.float32), k, query=[1e30], **options)
    for wrong, text in (({}, "neither"), ({"query": [1.0, 2.0]}, "as the query has"), ({"query": [[1.0]]}, "mmr: query")):
        with pytest.raises(InputError, match=text):
            mmr(None, np.eye(3), 1, backend=backend, **wrong)
    with pytest.raises(InputError, match="both"):
        mmr([1.0], [[1.0]], 1, query=[1.0], backend=backend)


def test_the_tolerance_is_twice_the_naive_error():
    rng = np.random.default_rng(0)
    worst = 0.0
    for d in DIMS:
        v = unit(rng, 400, d)
        naive = np.cumsum(v[1:] * v[0], axis=1, dtype=np.float32)[:, -1]
        worst = max(worst, float(np.abs(naive - v[1:].astype(np.float64) @ v[0].astype(np.float64)).max()))
    assert 0.8 <= TABLE["mmr", "float32"].relative / (2 * worst) <= 1.1


@pytest.mark.parametrize(
    ("relevance", "vectors", "k", "lambda_", "error", "text"),
    [
        ([1.0], [[1.0], [2.0]], 1, 0.5, InputError, "2 rows"),
        ([1.0], [1.0], 1, 0.5, InputError, "2 dimensions"),
        ([[1.0]], [[1.0]], 1, 0.5, InputError, "mmr: relevance"),
        ([1.0], [["a"]], 1, 0.5, InputError, "mmr: vectors"),
        ([1.0], [[1.0]], 0, 0.5, InputError, "mmr: k"),
        ([1.0], [[1.0]], 1, 1.5, InputError, "from 0 to 1"),
        ([1.0], [[1.0]], 1, -0.1, InputError, "from 0 to 1"),
        ([1.0], [[1.0]], 1, math.nan, InputError, "mmr: lambda_"),
        ([1.0], [[1.0]], 1, "0.5", InputError, "a number"),
        ([math.nan], [[1.0]], 1, 0.5, NonFiniteError, "mmr: relevance"),
        ([1.0], [[math.inf]], 1, 0.5, NonFiniteError, r"inf at \[0, 0\]"),
        ([1.0, 3.0, 2.0], np.array([[1], [math.nan], [1]], np.float32), 2, 0.5, NonFiniteError, r"nan at \[1, 0\]"),
        ([1.0, 3.0, 2.0], np.array([[0], [0], [math.inf]], np.float32), 2, 0.5, NonFiniteError, r"inf at \[2, 0\]"),
        ([1.0, 3.0, 2.0], np.array([[0], [0], [math.inf]], np.float32), 1, 0.5, NonFiniteError, r"inf at \[2, 0\]"),
        ([1.0, 3.0, 2.0], np.array([[0], [0], [math.inf]], np.float32), 3, 1.0, NonFiniteError, r"inf at \[2, 0\]"),
    ],
)
def test_wrong_arguments(relevance, vectors, k, lambda_, error, text):
    for backend in backends("mmr"):
        with pytest.raises(error, match=text) as caught:
            mmr(relevance, vectors, k, lambda_=lambda_, backend=backend)
        assert type(caught.value) is error


def test_a_named_backend_never_falls_back(without_cpp):
    with pytest.raises(BackendUnavailable, match=r"mmr: backend 'cpp' .*this test took it away.*Available here: reference\."):
        mmr([1.0], [[1.0]], 1, backend="cpp")
    assert choose("mmr") == "reference"
    assert mmr([1.0], [[1.0]], 1)[0].tolist() == [0]


def test_native_refuses_what_it_cannot_read():
    native = pytest.importorskip("rerank_engine._native")
    relevance, vectors = np.ones(4, np.float32), np.ones((4, 6), np.float32)
    assert native.best_isa() == native.usable_isas()[-1] and native.usable_isas()[0] == "baseline"
    assert native.mmr(relevance, vectors, 0, 0.5)[0].size == 0
    assert native.mmr(relevance, vectors, 2**64 - 1, 0.5)[0].size == 4
    for wrong in (vectors.astype(np.float64), vectors.T, vectors[:, ::2], vectors.astype(">f4"), vectors.tolist()):
        with pytest.raises(TypeError):
            native.mmr(relevance, wrong, 1, 0.5)
    with pytest.raises(TypeError):
        native.mmr(relevance.astype(np.float64), vectors, 1, 0.5)
    for wrong in (vectors[:3], vectors.ravel(), vectors.reshape(4, 2, 3)):
        with pytest.raises(ValueError, match="one vector per relevance"):
            native.mmr(relevance, wrong, 1, 0.5)
    with pytest.raises(ValueError, match="sse9"):
        native.mmr(relevance, vectors, 1, 0.5, isa="sse9")
    for isa in {"avx2", "avx512"} - set(native.usable_isas()):
        with pytest.raises(ValueError, match="not available"):
            native.mmr(relevance, vectors, 1, 0.5, isa=isa)
