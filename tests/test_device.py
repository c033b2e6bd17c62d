"""DeviceReranker: the best of what the op scores, for every kind of documents, and clear errors."""

from __future__ import annotations

import numpy as np
import pytest
from device import DEVICE, torch

import rerank_engine as rr
from rerank_engine.errors import BackendUnavailable, InputError, NonFiniteError
from rerank_engine.ops import maxsim, quantize_int8, residual_maxsim

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of NaN in the interpreter
LENGTHS = [7, 0, 33, 1, 65, 12]


def unit(n: int, dim: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def documents(kind: str) -> rr.DeviceTokens | rr.DeviceCodes:
    packed = rr.Packed(unit(sum(LENGTHS), 32, 1), np.cumsum([0, *LENGTHS]))
    if kind.startswith("codes"):
        codec = rr.ResidualCodec.train(packed.values, 2, 16, backend="numpy")
        return rr.DeviceCodes.of(rr.ResidualTokens.encode(packed, codec), DEVICE, norms=kind == "codes")
    if kind == "int8":
        values, scales = quantize_int8(packed.values)
        return rr.DeviceTokens.of(rr.Packed(values, packed.offsets), DEVICE, scales=scales)
    return rr.DeviceTokens.of(packed, DEVICE, dtype=getattr(torch, kind))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "int8", "codes", "codes-raw"])
def test_the_best_are_those_of_the_op(kind: str) -> None:
    held = documents(kind)
    best = rr.DeviceReranker(held, 3, candidates=[4, 8], query_tokens=[4, 9])
    for tokens, rows in ((9, [5, 0, 1, 2, 4, 3, 2]), (2, [3]), (4, [1]), (5, []), (9, [0, 2, 4])):
        query = unit(tokens, 32, tokens)
        op = residual_maxsim if kind.startswith("codes") else maxsim
        scores = op(query, held, np.array(rows, np.int64), backend="triton").cpu().numpy()
        want = sorted(zip(-scores, rows))[:3]
        got = best(query, rows)
        assert got[0].dtype == np.int64 and got[1].dtype == np.float32
        assert got[0].tolist() == [row for _, row in want]
        np.testing.assert_allclose(got[1], [-score for score, _ in want], rtol=1e-5)
    weights = np.array([2.0, 0.0], np.float32)
    got = best(unit(2, 32, 2), [0, 2], weights)
    np.testing.assert_allclose(sorted(got[1]), sorted(2 * best(unit(2, 32, 2)[:1], [0, 2])[1]), rtol=1e-5)


def test_what_does_not_fit_is_said() -> None:
    held = documents("float16")
    best = rr.DeviceReranker(held, 2, candidates=[4], query_tokens=[4])
    assert "candidates=[4]" in repr(best)
    for query, rows, match in (
        (unit(5, 32, 1), [0], "at most 4, 32.*query_tokens="),
        (unit(4, 16, 1), [0], "at most 4, 32"),
        (unit(4, 32, 1), [0] * 5, "5 rows.*candidates="),
        (unit(4, 32, 1), [6], "row 6"),
        (np.full((1, 32), np.nan), [0], "nan"),
        (np.full((1, 32), -1e6), [0], "document 0"),  # beyond float16
    ):
        with pytest.raises(InputError, match=match):
            best(query, rows)
    for given, match in (
        ({"k": 0}, "at least 1"),
        ({"k": 2000}, "at most 1024"),
        ({"query_tokens": 4}, "some sizes"),
        ({"candidates": []}, "some sizes"),
        ({"precision": "x"}, "one of"),
    ):
        with pytest.raises(InputError, match=match):
            rr.DeviceReranker(held, **given)
    with pytest.raises(InputError, match="ndarray"):
        rr.DeviceReranker(unit(4, 32, 1))  # type: ignore[arg-type]


def test_a_nan_raises_and_names_the_document() -> None:
    held = documents("float16")
    held.values[20, 3] = float("nan")  # type: ignore[union-attr]
    best = rr.DeviceReranker(held, 2, candidates=[4], query_tokens=[4])
    assert sorted(best(unit(2, 32, 1), [0, 4])[0].tolist()) == [0, 4]
    with pytest.raises(NonFiniteError, match="document 2"):
        best(unit(2, 32, 1), [0, 2, 4])


def test_without_triton_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank_engine import backends

    monkeypatch.setitem(backends.NEEDS, "triton", lambda: "no CUDA device")
    with pytest.raises(BackendUnavailable, match="no CUDA device"):
        rr.DeviceReranker(documents("float16"))
