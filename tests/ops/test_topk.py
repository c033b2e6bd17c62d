from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import backends
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_same_order

from rerank_engine.backends import choose
from rerank_engine.errors import BackendUnavailable, InputError, NonFiniteError
from rerank_engine.ops import topk

EVERY = pytest.mark.parametrize("backend", backends("topk"))
INT64 = np.iinfo(np.int64)
FLOAT32_MAX = float(np.finfo(np.float32).max)


def oracle(scores, k, ids=None):
    """Python's own sort over the float64 values."""
    ids = list(range(len(scores))) if ids is None else [int(i) for i in ids]
    best = sorted(zip((float(s) for s in scores), ids), key=lambda pair: (-pair[0], pair[1]))[:k]
    return [i for _, i in best], [s for s, _ in best]


def check(scores, k, backend, ids=None):
    scores = np.asarray(scores, np.float32)
    got_ids, got_scores = topk(scores, k, ids=ids, backend=backend)
    assert got_ids.dtype == np.int64 and got_scores.dtype == np.float32
    want_ids, want_scores = oracle(scores, k, ids)
    assert got_ids.tolist() == want_ids
    assert_same_order(got_ids, got_scores, want_ids, want_scores, "topk")
    again = topk(scores, k, ids=ids, backend=backend)
    assert again[0].tobytes() == got_ids.tobytes() and again[1].tobytes() == got_scores.tobytes()


@EVERY
@pytest.mark.parametrize("n", [0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 1000])
def test_every_k_around_the_size(backend, n):
    rng = np.random.default_rng(n)
    scores = rng.normal(size=n)
    for k in sorted({1, 2, 7, n // 2, n - 1, n, n + 1, 10 * n + 1} - {0, -1}):
        check(scores, k, backend)
        check(np.round(scores), k, backend)  # ties everywhere
        check(-np.abs(scores) - 1, k, backend)  # all negative
        check(scores, k, backend, ids=rng.permutation(n) - n // 2)


@EVERY
@pytest.mark.parametrize("order", ["ascending", "descending", "equal", "valley"])
def test_input_in_order(backend, order):
    n = np.arange(500)
    scores = {"ascending": n, "descending": -n, "equal": n * 0, "valley": np.abs(n - 250)}[order]
    for k in (1, 10, 250, 500):
        check(scores, k, backend)


@EVERY
def test_signed_zeros_tie(backend):
    ids, scores = topk(np.array([0.0, -0.0, 0.0, -0.0], np.float32), 4, ids=[3, 2, 1, 0], backend=backend)
    assert ids.tolist() == [0, 1, 2, 3]
    assert [math.copysign(1, s) for s in scores] == [-1, 1, -1, 1]  # each keeps the sign it came with


@EVERY
def test_extremes(backend):
    check([FLOAT32_MAX, -FLOAT32_MAX, 1e-45, -1e-45, 0.0], 5, backend)
    check([1, 1, 1, 2, 2], 5, backend, ids=np.array([INT64.max, INT64.min, 0, INT64.max, INT64.min]))


@EVERY
def test_duplicate_ids_are_all_kept(backend):
    ids, scores = topk([1, 3, 2, 3], 3, ids=[7, 7, 7, 7], backend=backend)
    assert ids.tolist() == [7, 7, 7] and scores.tolist() == [3, 3, 2]


@EVERY
@settings(derandomize=True, deadline=None, max_examples=150)
@given(data=st.data())
def test_any_input(backend, data):
    pairs = data.draw(
        st.lists(st.tuples(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(INT64.min, INT64.max)), max_size=60)
    )
    k = data.draw(st.integers(1, 70))
    check([s for s, _ in pairs], k, backend, ids=np.array([i for _, i in pairs], np.int64))


@EVERY
@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.uint8, ">f4"])
def test_other_dtypes_are_converted(backend, dtype):
    ids, scores = topk(np.array([1, 3, 2], dtype), 2, ids=np.array([5, 6, 7], np.uint16), backend=backend)
    assert ids.tolist() == [6, 7] and scores.tolist() == [3, 2] and scores.dtype == np.float32


@EVERY
def test_other_layouts(backend):
    scores = np.arange(20, dtype=np.float32)
    assert topk(scores[::-2], 3, backend=backend)[0].tolist() == [0, 1, 2]
    unaligned = np.frombuffer(b"\0" + scores.tobytes(), np.uint8)[1:].view(np.float32)
    assert topk(unaligned, 3, backend=backend)[0].tolist() == [19, 18, 17]


@pytest.mark.parametrize(
    ("scores", "k", "ids", "error"),
    [
        ([1.0, math.nan], 1, None, NonFiniteError),
        ([1.0, math.inf], 1, None, NonFiniteError),
        (np.array([1e39]), 1, None, NonFiniteError),
        (np.array([1e39], np.longdouble), 1, None, NonFiniteError),
        ([1.0], 0, None, InputError),
        ([1.0], -1, None, InputError),
        ([1.0], 1.5, None, InputError),
        ([1.0], True, None, InputError),
        ([[1.0]], 1, None, InputError),
        (1.0, 1, None, InputError),
        (["a"], 1, None, InputError),
        ([True], 1, None, InputError),
        ([1.0], 1, [1, 2], InputError),
        ([1.0], 1, [1.0], InputError),
        ([1.0], 1, [[1]], InputError),
        ([1.0], 1, np.array([2**63], np.uint64), InputError),
    ],
)
def test_wrong_arguments(scores, k, ids, error):
    for backend in backends("topk"):
        with pytest.raises(error) as caught:
            topk(scores, k, ids=ids, backend=backend)
        assert type(caught.value) is error and "topk: " in str(caught.value)


def test_a_named_backend_never_falls_back(without_cpp):
    with pytest.raises(BackendUnavailable, match=r"topk: backend 'cpp' .*this test took it away.*Available here: reference\."):
        topk([1.0], 1, backend="cpp")
    assert choose("topk") == "reference"
    assert topk([1.0, 2.0], 1)[0].tolist() == [1]


def test_unknown_backend():
    with pytest.raises(BackendUnavailable, match="no such backend"):
        topk([1.0], 1, backend="fpga")


def test_native_refuses_what_it_cannot_read():
    native = pytest.importorskip("rerank_engine._native")
    scores, ids = np.ones(4, np.float32), np.arange(4)
    assert native.topk(scores, ids, 0)[0].size == 0
    assert native.topk(scores, ids, 2**64 - 1)[0].tolist() == [0, 1, 2, 3]
    for wrong in (scores.astype(np.float64), scores[::2], scores.astype(">f4"), [1.0], None):
        with pytest.raises(TypeError):
            native.topk(wrong, ids, 1)
    for wrong in (ids.astype(np.int32), ids[::2], ids.astype(np.uint64)):
        with pytest.raises(TypeError):
            native.topk(scores, wrong, 1)
    with pytest.raises(TypeError):
        native.topk(scores, ids, -1)
    with pytest.raises(ValueError, match="length"):
        native.topk(scores, ids[:3], 1)
