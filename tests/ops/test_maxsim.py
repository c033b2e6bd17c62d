"""maxsim: every backend, storage and instruction set against float64, all forms of input, and what must be refused."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from conftest import backends
from tolerances import allowed

import rerank_engine as rr
from rerank_engine import _native
from rerank_engine.errors import InputError, NonFiniteError
from rerank_engine.ops.maxsim import matches, maxsim, quantize_int8

BACKENDS = backends("maxsim")
STORAGES = ("float32", "float16", "int8")
# Around the tiles (1 to 16 tokens) and blocks (4 to 32 query tokens) of every instruction set; 1030: a page of ColPali.
LENGTHS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 33, 47, 49, 0, 64, 1, 1030]


def unit(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    x = rng.normal(size=(n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def stored(values: np.ndarray, storage: str) -> tuple[np.ndarray, np.ndarray | None]:
    return quantize_int8(values) if storage == "int8" else (values.astype(storage), None)


def brute(query: Any, documents: list[np.ndarray], weights: Any = None) -> np.ndarray:
    """float64, by the definition; documents decoded."""
    w = np.ones(len(query)) if weights is None else np.asarray(weights, np.float64)
    out = []
    for d in documents:
        similarities = [[float(np.dot(q.astype(np.float64), t.astype(np.float64))) for t in d] for q in query]
        out.append(sum(a * max(row) for a, row in zip(w, similarities)) if len(d) else -np.inf)
    return np.array(out)


def assert_scores(got: np.ndarray, want: np.ndarray, query: np.ndarray, kind: Any = np.float32) -> None:
    assert got.dtype == np.float32 and got.shape == want.shape
    empty = np.isneginf(want)
    assert (np.isneginf(got) == empty).all()
    scale = float(np.linalg.norm(np.asarray(query, np.float64), axis=1).sum())
    error = np.abs(got[~empty] - want[~empty])
    assert (error <= allowed("maxsim", want[~empty], scale, kind)).all(), error.max()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("q", "dim"), [(1, 1), (3, 7), (8, 64), (16, 130), (17, 128), (32, 128), (33, 96), (70, 31), (5, 384)])
def test_like_the_definition(backend: str, storage: str, q: int, dim: int) -> None:
    rng = np.random.default_rng(q * dim)
    lengths = LENGTHS if dim == 128 else LENGTHS[:14]
    tokens, query = unit(rng, sum(lengths), dim), unit(rng, q, dim)
    values, scales = stored(tokens, storage)
    packed = rr.Packed(values, np.concatenate([[0], np.cumsum(lengths)]))
    decoded = values.astype(np.float32) if scales is None else values * scales[:, None]
    ends = packed.offsets
    similarities = query.astype(np.float64) @ decoded.astype(np.float64).T
    want = np.array([similarities[:, a:b].max(1).sum() if b > a else -np.inf for a, b in pairwise(ends)])
    got = maxsim(query, packed, scales=scales, backend=backend)
    assert_scores(got, want, query, np.int8 if storage == "int8" else np.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_reference_is_the_definition(backend: str) -> None:
    rng = np.random.default_rng(0)
    documents = [rng.normal(size=(n, 5)).astype(np.float32) for n in (3, 0, 1, 4)]
    query, weights = rng.normal(size=(4, 5)).astype(np.float32), [0.5, -1.0, 0.0, 2.0]
    assert_scores(maxsim(query, documents, backend=backend), brute(query, documents), 9 * query)
    got = maxsim(query, documents, query_weights=weights, backend=backend)
    assert_scores(got, brute(query, documents, weights), 20 * query)


@pytest.mark.parametrize("isa", _native.usable_isas())
@pytest.mark.parametrize("storage", STORAGES)
def test_every_instruction_set(isa: str, storage: str) -> None:
    rng = np.random.default_rng(1)
    for q, dim in ((1, 3), (7, 16), (32, 128), (47, 64), (64, 129)):
        tokens, query = unit(rng, sum(LENGTHS), dim), unit(rng, q, dim)
        values, scales = stored(tokens, storage)
        decoded = (values.astype(np.float32) if scales is None else values * scales[:, None]).astype(np.float64)
        ends = np.concatenate([[0], np.cumsum(LENGTHS)])
        similarities = query.astype(np.float64) @ decoded.T
        want = np.array([similarities[:, a:b].max(1).sum() if b > a else -np.inf for a, b in pairwise(ends)])
        none = np.empty(0, np.float32) if scales is None else scales
        got, bad = _native.maxsim(query, np.ones(q, np.float32), values, none, ends[:-1].copy(), np.diff(ends), 1, isa)
        assert bad == len(LENGTHS)
        assert_scores(got, want, query, np.int8 if storage == "int8" else np.float32)


def test_halves_widen_exactly_on_every_instruction_set() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)][:, None]
    ends = np.arange(len(finite) + 1)
    for isa in _native.usable_isas():
        one = np.ones((1, 1), np.float32)
        got, bad = _native.maxsim(one, np.ones(1, np.float32), finite, np.empty(0, np.float32), ends[:-1].copy(), np.diff(ends), 1, isa)
        assert bad == len(finite)
        assert (got == finite[:, 0].astype(np.float32)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_negative_similarities_count(backend: str) -> None:
    query = np.array([[1.0, 0.0]], np.float32)
    documents = [np.array([[-1.0, 0.0], [-0.5, 1.0]], np.float32), np.array([[-0.25, 0.0]], np.float32)]
    assert maxsim(query, documents, backend=backend).tolist() == [-0.5, -0.25]
    padded = np.zeros((2, 3, 2), np.float32)
    padded[0, :2], padded[1, :1] = documents
    mask = np.array([[1, 1, 0], [1, 0, 0]], bool)
    assert maxsim(query, padded, document_mask=mask, backend=backend).tolist() == [-0.5, -0.25]


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_masks_and_weights(backend: str) -> None:
    rng = np.random.default_rng(2)
    documents = [unit(rng, n, 12) for n in (4, 0, 9, 2)]
    packed, query = rr.Packed.from_rows(documents), unit(rng, 6, 12)
    all_ = maxsim(query, packed, backend=backend)
    rows = [3, 1, 0, 3]
    assert (maxsim(query, packed, rows, backend=backend) == all_[rows]).all()
    assert (maxsim(query, documents, rows, backend=backend) == all_[rows]).all()
    assert maxsim(query, packed, [], backend=backend).shape == (0,)
    mask = np.array([1, 0, 1, 1, 0, 1], bool)
    assert (maxsim(query, packed, query_mask=mask, backend=backend) == maxsim(query[mask], packed, backend=backend)).all()
    none = maxsim(query, packed, query_mask=np.zeros(6, bool), backend=backend)
    assert none.tolist() == [0, -np.inf, 0, 0]  # a sum over nothing; but without tokens there is nothing to sum over
    doubled = maxsim(query, packed, query_weights=np.full(6, 2.0), backend=backend)
    assert np.allclose(doubled[all_ > -9], 2 * all_[all_ > -9], rtol=1e-6)
    batch = maxsim(rr.Packed.from_rows([query, query[:2]]), packed, backend=backend)
    assert (batch[0] == all_).all() and (batch[1] == maxsim(query[:2], packed, backend=backend)).all()
    each = maxsim(rr.Packed.from_rows([query, query[:2]]), packed, [[0, 2], [3]], backend=backend)
    assert (each[0] == all_[[0, 2]]).all() and len(each[1]) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_forms_of_input_agree(backend: str) -> None:
    rng = np.random.default_rng(3)
    documents = [unit(rng, n, 20) for n in (3, 1, 5, 0)]
    query, packed = unit(rng, 4, 20), rr.Packed.from_rows(documents)
    want = maxsim(query, packed, backend=backend)
    padded, mask = np.full((4, 5, 20), 9.0, np.float32), np.zeros((4, 5), bool)
    for i, d in enumerate(documents):
        padded[i, : len(d)], mask[i, : len(d)] = d, True
    assert (maxsim(query, padded, document_mask=mask, backend=backend) == want).all()
    scattered, gaps = np.full((4, 9, 20), 9.0, np.float32), np.zeros((4, 9), bool)
    for i, d in enumerate(documents):
        scattered[i, 1 : 2 * len(d) : 2][: len(d)] = d[:4]
        gaps[i, 1 : 2 * len(d) : 2] = True
        if len(d) == 5:
            scattered[i, 9 - 1], gaps[i, 9 - 1] = d[4], True
            gaps[i, 7] = True
    cut = [d[:4] if len(d) == 5 else d for d in documents]
    found = maxsim(query, scattered, document_mask=gaps, backend=backend)
    assert found[[0, 1, 3]].tolist() == maxsim(query, cut, backend=backend)[[0, 1, 3]].tolist()
    wide = packed.values.astype(np.float64)
    assert np.allclose(maxsim(query.astype(np.float64), rr.Packed(wide, packed.offsets), backend=backend), want, equal_nan=True)
    strided = np.zeros((len(wide), 40), np.float32)[:, ::2]
    strided[:] = packed.values
    assert (maxsim(query, rr.Packed(strided, packed.offsets), backend=backend) == want).all()
    assert (maxsim(query.tolist(), [d.tolist() for d in documents[:3]], backend=backend) == want[:3]).all()
    frozen = packed.values.copy()
    frozen.flags.writeable = False
    assert (maxsim(query, rr.Packed(frozen, packed.offsets), backend=backend) == want).all()


def test_arrays_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(4)
    query, tokens = unit(rng, 4, 16), unit(rng, 9, 16)
    want = maxsim(query, [tokens])
    assert (maxsim(torch.from_numpy(query), [torch.from_numpy(tokens)]) == want).all()
    with pytest.raises(InputError, match=r"float\(\)"):
        maxsim(torch.from_numpy(query), [torch.from_numpy(tokens).bfloat16()])
    with pytest.raises(InputError, match="detach"):
        maxsim(torch.from_numpy(query).requires_grad_(), [torch.from_numpy(tokens)])


@pytest.mark.parametrize("storage", STORAGES)
def test_the_same_bits_on_any_number_of_threads(storage: str) -> None:
    rng = np.random.default_rng(5)
    lengths = rng.integers(0, 200, 300)
    values, scales = stored(unit(rng, int(lengths.sum()), 32), storage)
    packed, query = rr.Packed(values, np.concatenate([[0], lengths.cumsum()])), unit(rng, 20, 32)
    want = maxsim(query, packed, scales=scales)
    for threads in (2, 3, 8, None):
        assert (maxsim(query, packed, scales=scales, num_threads=threads) == want).all()
    order = rng.permutation(300)
    assert (maxsim(query, packed, order, scales=scales) == want[order]).all()  # nor does it matter what stands beside a document


def test_beyond_two_to_the_31_elements() -> None:
    total = (1 << 24) + 40
    values = np.zeros((total, 128), np.int8)  # pages that are not touched are not there
    scales = np.zeros(total, np.float32)
    values[-8:, 3], scales[-8:] = np.arange(1, 9), 1.0
    packed = rr.Packed(values, np.array([0, total - 8, total - 3, total]))
    query = np.zeros((1, 128), np.float32)
    query[0, 3] = 1
    assert maxsim(query, packed, [1, 2], scales=scales).tolist() == [5.0, 8.0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("storage", ["float32", "float16"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_place(backend: str, storage: str, wrong: float) -> None:
    rng = np.random.default_rng(6)
    documents = [unit(rng, 30, 16).astype(storage) for _ in range(4)]
    documents[2][17, 5] = wrong
    query = unit(rng, 3, 16)
    with pytest.raises(NonFiniteError, match=r"document 2.*\[17, 5\]"):
        maxsim(query, documents, backend=backend)
    assert len(maxsim(query, documents, [0, 1, 3], backend=backend)) == 3  # it is not asked for
    query[1, 1] = wrong
    with pytest.raises(NonFiniteError, match="query"):
        maxsim(query, documents[:1], backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_overflow_is_refused(backend: str) -> None:
    big = np.full((1, 2), 3e38, np.float32)
    with pytest.raises(NonFiniteError, match="beyond float32"):
        maxsim(big, [big], backend=backend)
    with pytest.raises(NonFiniteError, match="beyond float32"):
        maxsim(np.ones((4, 1)), [np.full((1, 1), 1e38, np.float32)], query_weights=[1e3] * 4, backend=backend)
    scales = np.array([np.nan], np.float32)
    with pytest.raises(NonFiniteError):
        maxsim(np.ones((1, 2)), rr.Packed(np.ones((1, 2), np.int8), [0, 1]), scales=scales, backend=backend)


TOKENS = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("query", "documents", "more", "match"),
    [
        (np.ones((2, 5)), [TOKENS], {}, "dimension 5.*4"),
        (np.ones(4), [TOKENS], {}, "query"),
        (np.ones((2, 4)), [TOKENS, np.ones((1, 5), np.float32)], {}, r"dimensions \[4, 5\]"),
        (np.ones((2, 4)), [np.ones(4)], {}, "document 0"),
        (np.ones((2, 4)), [np.ones((2, 4), np.int8)], {}, "int8"),
        (np.ones((2, 4)), rr.Packed(TOKENS.astype(np.int8), [0, 3]), {}, "scales"),
        (np.ones((2, 4)), rr.Packed(TOKENS, [0, 3]), {"scales": np.ones(3)}, "scales"),
        (np.ones((2, 4)), rr.Packed(TOKENS.astype(np.int8), [0, 3]), {"scales": np.ones(2)}, "2 scales"),
        (np.ones((2, 4)), rr.Packed(TOKENS, [0, 3]), {"document_mask": np.ones((1, 3))}, "document_mask"),
        (np.ones((2, 4)), TOKENS[None], {}, "without a mask"),
        (np.ones((2, 4)), TOKENS[None], {"document_mask": np.ones((1, 2), bool)}, r"bool \[1, 3\]"),
        (np.ones((2, 4)), [TOKENS], {"rows": [1]}, "row 1"),
        (np.ones((2, 4)), [TOKENS], {"rows": [-1]}, "row -1"),
        (np.ones((2, 4)), [TOKENS], {"rows": [0.5]}, "rows"),
        (np.ones((2, 4)), [TOKENS], {"query_mask": [True]}, "query_mask"),
        (np.ones((2, 4)), [TOKENS], {"query_weights": [1.0]}, "query_weights"),
        (np.ones((2, 4)), [TOKENS], {"query_weights": [1.0, np.nan]}, "query_weights"),
        (np.ones((2, 4)), [TOKENS], {"num_threads": 0}, "threads"),
        (np.array([["a"]]), [TOKENS], {}, "dtype"),
        (rr.Packed(np.ones((2, 4), np.float32), [0, 2]), [TOKENS], {"query_mask": [True, True]}, "batch"),
        (rr.Packed(np.ones((2, 4), np.float32), [0, 1, 2]), [TOKENS], {"rows": [[0]]}, "rows of 1 queries"),
    ],
)
def test_bad_input_is_refused(query: Any, documents: Any, more: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        maxsim(query, documents, **more)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_document_and_no_token(backend: str) -> None:
    query, one = np.ones((2, 4), np.float32), np.ones((3, 4), np.float32)
    for documents, rows, n in (([], None, 0), ([one], [], 0), (rr.Packed(np.empty((0, 4), np.float32), [0]), None, 0)):
        assert maxsim(query, documents, rows, backend=backend).shape == (n,)
        assert [a.shape for a in maxsim([query, query], documents, rows, backend=backend)] == [(n,), (n,)]
    assert np.isneginf(maxsim(query, rr.Packed.from_rows([[], []]), backend=backend)).tolist() == [True, True]
    assert maxsim(np.empty((0, 4)), [one], backend=backend).tolist() == [0.0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_is_a_packed_or_a_list(backend: str) -> None:
    rng = np.random.default_rng(0)
    queries, documents = [rng.normal(size=(n, 4)).astype(np.float32) for n in (3, 1)], [np.ones((2, 4), np.float32), np.eye(4, dtype="f")]
    for batch in (queries, tuple(queries), rr.Packed.from_rows(queries)):
        got = maxsim(batch, documents, [[0], [1, 0]], backend=backend)
        assert got[0].tolist() == maxsim(queries[0], documents, [0], backend=backend).tolist()
        assert got[1].tolist() == maxsim(queries[1], documents, [1, 0], backend=backend).tolist()
    assert [a.tolist() for a in maxsim(queries, documents, range(2), backend=backend)] == [
        maxsim(query, documents, [0, 1], backend=backend).tolist() for query in queries
    ]
    for rows in (3, [[0]], {0}):
        with pytest.raises(InputError, match="rows"):
            maxsim(queries, documents, rows, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_what_is_not_finite_is_named_by_its_row_and_only_if_it_is_scored(backend: str, dtype: type) -> None:
    rows = [np.ones((5, 4), dtype) for _ in range(9)]
    rows[7][2, 1] = rows[5][0, 0] = np.nan
    packed, query = rr.Packed.from_rows(rows), np.ones((20, 4))
    for documents in (packed, rows):
        assert maxsim(query, documents, [3, 0], backend=backend).tolist() == [80.0, 80.0]
        with pytest.raises(NonFiniteError, match="document 7"):
            maxsim(query, documents, [3, 7, 5], backend=backend)


@pytest.mark.parametrize("isa", _native.usable_isas())
def test_overflow_is_seen_in_every_lane(isa: str) -> None:
    for lane in range(40):
        query = np.zeros((40, 2), np.float32)
        query[lane] = 3e38
        values = np.array([[-2, -2], [-1, 0]], np.float32)  # the first product is -inf, and loses
        starts, lengths = np.array([0]), np.array([2])
        _, bad = _native.maxsim(query, np.ones(40, np.float32), values, np.empty(0, np.float32), starts, lengths, 1, isa)
        assert bad == 0, lane


def test_matches_are_where_the_score_comes_from() -> None:
    rng = np.random.default_rng(7)
    query, tokens = unit(rng, 9, 24), unit(rng, 30, 24)
    tokens[20] = tokens[4]
    places, similarities = matches(query, tokens)
    products = query.astype(np.float64) @ tokens.T.astype(np.float64)
    assert (places == products.argmax(1)).all() and 20 not in places
    assert np.isclose(similarities.sum(), maxsim(query, [tokens])[0], atol=1e-5)
    with pytest.raises(InputError):
        matches(query, tokens[:0])


def test_int8_of_tiny_numbers() -> None:
    x = np.array([[1e-37, 5e-38, 0, -1e-37], [1e-39, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    values, scales = quantize_int8(x)
    assert (np.abs(values * scales[:, None].astype(np.float64) - x) <= 0.51 * scales[:, None]).all() and values[2].tolist() == [0] * 4


def test_int8_is_off_by_half_a_scale_at_most() -> None:
    rng = np.random.default_rng(8)
    x = np.concatenate([rng.normal(size=(50, 33)) * 10.0 ** rng.integers(-20, 20, (50, 1)), np.zeros((1, 33))]).astype(np.float32)
    values, scales = quantize_int8(x)
    assert values.dtype == np.int8 and np.abs(values).max() == 127 and scales[-1] == 0
    assert (np.abs(values * scales[:, None] - x) <= 0.5001 * scales[:, None]).all()
