"""Inner products: every backend and instruction set against float64, and always the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import backends
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import TABLE, assert_close

from rerank_engine import _native as native
from rerank_engine.errors import InputError, NonFiniteError
from rerank_engine.ops import inner_products
from rerank_engine.ops.inner import inner_reference

EVERY = pytest.mark.parametrize("backend", backends("inner"))
ISAS = native.usable_isas()


def unit(n: int, dim: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def exact(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.array([[sum(float(a) * float(b) for a, b in zip(q, v)) for v in vectors] for q in queries])


@EVERY
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("q", "n", "dim"), [(1, 1, 1), (1, 17, 3), (2, 9, 16), (3, 8, 31), (5, 30, 33), (9, 11, 64), (4, 3, 100)])
def test_against_loops(backend: str, dtype: Any, q: int, n: int, dim: int) -> None:
    queries, vectors = unit(q, dim, 1), unit(n, dim, 2).astype(dtype)
    got = inner_products(queries, vectors, backend=backend)
    assert got.dtype == np.float32
    assert_close("inner", got, exact(queries, vectors), scale=1)
    rows = np.random.default_rng(3).integers(n, size=13)
    assert (inner_products(queries, vectors, rows, backend=backend) == got[:, rows]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_product_depends_on_its_two_vectors_alone(isa: str, dtype: Any, data: st.DataObject) -> None:
    """Not on the batch, the rows asked for and their places, nor the threads."""
    q, n, dim = (data.draw(st.integers(1, most), name) for most, name in ((14, "q"), (40, "n"), (70, "dim")))
    queries, vectors = unit(q, dim, 4), unit(n, dim, 5).astype(dtype)
    vectors[-1] = vectors[0]
    whole, done = native.inner_products(queries, vectors, None, 1, isa)
    assert done == n and (whole[:, -1] == whole[:, 0]).all()
    assert_close("inner", whole, inner_reference(queries, vectors, None, 1)[0], scale=1)
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20), "rows"))
    some = sorted(data.draw(st.sets(st.integers(0, q - 1), min_size=1), "some"))
    assert native.inner_products(queries[some], vectors, rows, 1, isa)[0].tobytes() == whole[some][:, rows].tobytes()


@pytest.mark.parametrize("isa", ISAS)
def test_many_blocks_on_many_threads(isa: str) -> None:
    queries, vectors = unit(9, 64), unit(20_000, 64, 1)
    alone = native.inner_products(queries, vectors, None, 1, isa)[0]
    assert_close("inner", alone, queries.astype(np.float64) @ vectors.astype(np.float64).T, scale=1)
    for threads in (2, 5):
        assert native.inner_products(queries, vectors, None, threads, isa)[0].tobytes() == alone.tobytes()


@pytest.mark.parametrize("isa", ISAS)
def test_float16_is_widened_exactly(isa: str) -> None:
    """Every number that float16 has, subnormal ones too."""
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    values = values[np.isfinite(values)]
    for dim in (1, 16):
        column = np.zeros((len(values), dim), np.float16)
        column[:, -1] = values
        query = np.zeros((1, dim), np.float32)
        query[0, -1] = 1
        assert (native.inner_products(query, column, None, 1, isa)[0][0] == values.astype(np.float32)).all()


def test_the_tolerance_is_twice_the_naive_error() -> None:
    worst = 0.0
    for seed, dim in enumerate((4, 32, 128, 384)):
        x = unit(400, dim, seed)
        naive = np.cumsum(x[1:] * x[0], axis=1, dtype=np.float32)[:, -1]
        worst = max(worst, float(np.abs(naive - x[1:].astype(np.float64) @ x[0].astype(np.float64)).max()))
    assert 0.8 <= TABLE["inner", "float32"].relative / (2 * worst) <= 1.2


@EVERY
def test_nothing_to_multiply(backend: str) -> None:
    assert inner_products(np.ones((0, 4)), np.ones((3, 4)), backend=backend).shape == (0, 3)
    assert inner_products(np.ones((2, 4)), np.ones((0, 4)), backend=backend).shape == (2, 0)
    assert inner_products(np.ones((2, 4)), np.ones((3, 4)), [], backend=backend).shape == (2, 0)
    assert (inner_products(np.ones((2, 0)), np.ones((3, 0)), backend=backend) == 0).all()


@EVERY
@pytest.mark.parametrize("seconds", [0, -1.0, np.nan])
def test_in_no_time(backend: str, seconds: float) -> None:
    assert inner_products(unit(2, 8), unit(50, 8), seconds=seconds, backend=backend).shape == (2, 0)
    assert inner_products(np.empty((0, 8)), unit(50, 8), seconds=seconds, backend=backend).shape == (0, 50)


def test_what_time_allows_is_the_first_rows() -> None:
    queries, vectors = unit(8, 256), unit(100_000, 256, 1)
    whole, cut = inner_products(queries, vectors), 0
    for seconds in (1e-5, 1e-4, 3e-4, 1e-3, 3e-3):
        got = inner_products(queries, vectors, seconds=seconds)
        assert (got == whole[:, : got.shape[1]]).all()
        cut += got.shape[1] < len(vectors)
    assert cut


@EVERY
def test_input_that_cannot_be(backend: str) -> None:
    good = unit(3, 4)
    with pytest.raises(InputError, match="dimension 4; expected 5"):
        inner_products(good, unit(3, 5), backend=backend)
    for rows in ([3], [-1], [0.5]):
        with pytest.raises(InputError, match="rows"):
            inner_products(good, good, rows, backend=backend)
    with pytest.raises(InputError, match="2 dimensions"):
        inner_products(good[0], good, backend=backend)
    with pytest.raises(InputError, match="2 dimensions"):
        inner_products(good, good[0].astype(np.float16), backend=backend)
    for bad in (np.nan, np.inf):
        vectors = good.copy()
        vectors[1, 2] = bad
        with pytest.raises(NonFiniteError, match="queries"):
            inner_products(vectors, good, backend=backend)
        with pytest.raises(NonFiniteError, match="row 1"):
            inner_products(good, vectors.astype(np.float16), backend=backend)
        assert inner_products(good, vectors, [0, 2], backend=backend).shape == (3, 2)  # what is not read is not looked at
    with pytest.raises(NonFiniteError, match="row 0"):
        inner_products(np.full((1, 4), 3e38), np.full((1, 4), 2), backend=backend)
    with pytest.raises(InputError, match="threads"):
        inner_products(good, good, num_threads=0, backend=backend)


def test_the_core_refuses_what_it_cannot_read() -> None:
    queries, halves = unit(2, 6), unit(5, 6).astype(np.float16)
    shifted = np.frombuffer(b"x" + halves.tobytes(), np.uint8)[1:].view(np.float16).reshape(5, 6)
    for wrong in (halves.astype(">f2"), halves[:, ::-1], shifted):
        with pytest.raises(TypeError, match="vectors: expected a contiguous, aligned array in this machine's order of bytes"):
            native.inner_products(queries, wrong, None, 1)
        assert (inner_products(queries, wrong) == inner_products(queries, np.array(wrong, np.float16, order="C"))).all()
    for wrong in (unit(5, 6).astype(np.float64), unit(5, 7), np.ones((5, 6), np.int8)):
        with pytest.raises((TypeError, ValueError)):
            native.inner_products(queries, wrong, None, 1)
    for rows in ([5], [-1]):
        with pytest.raises(ValueError, match="rows"):
            native.inner_products(queries, halves, np.array(rows), 1)


@EVERY
def test_other_layouts_are_converted(backend: str) -> None:
    queries, vectors = unit(2, 6), unit(5, 12, 1)
    want = inner_products(queries, np.ascontiguousarray(vectors[:, ::2]), backend=backend)
    assert (inner_products(queries.astype(np.float64), vectors[:, ::2], backend=backend) == want).all()
    held = vectors.astype(np.float16)[:, ::2]
    assert (inner_products(queries, held, backend=backend) == inner_products(queries, held.copy(), backend=backend)).all()
