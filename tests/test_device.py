"""DeviceReranker: the best of what the op scores, for every kind of documents, and clear errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from device import DEVICE, torch, unit

import rerank_engine as rr
from rerank_engine.errors import BackendUnavailable, InputError, NonFiniteError
from rerank_engine.ops import maxsim, quantize_int8, residual_maxsim

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of NaN in the interpreter
LENGTHS = [7, 0, 33, 1, 65, 12]


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
    with pytest.raises(BackendUnavailable, match=r"replays Triton's kernels.*no CUDA device.*rr.ops.topk"):
        rr.DeviceReranker(documents("float16"))
    with pytest.raises(InputError, match="at least 1"):
        rr.DeviceReranker(documents("float16"), k=0)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8", "4bit", "2bit", "1bit"])
@pytest.mark.parametrize("segments", [1, 3])
def test_an_index_goes_to_a_device_with_all_its_segments(storage: str, segments: int, tmp_path: Path) -> None:
    rows = [unit(n, 32, n) for n in LENGTHS]
    texts = rr.Corpus.from_texts([f"text {i}" for i in range(len(rows))])
    codec = rr.ResidualCodec.train(np.concatenate(rows), int(storage[0]), 8, backend="numpy") if "bit" in storage else None
    index = rr.TokenIndex.from_embeddings(texts, rows, storage=storage, codec=codec, path=tmp_path / "x.tokens" if segments == 1 else None)
    for number in range(segments - 1):
        index.add_embeddings([rr.Document(f"more {number}", "text")], [unit(4 - 4 * number, 32, 30 + number)])
    query = unit(5, 32, 2).astype(np.float16 if storage == "float16" else np.float32)
    there = rr.to_device(index, DEVICE)
    assert len(there) == len(index.corpus)
    op = residual_maxsim if "bit" in storage else maxsim
    got = op(query, there, backend="torch").cpu().numpy()
    want = index.score(query, precision="float32")
    np.testing.assert_allclose(got, want, atol=2e-4)


def test_what_goes_to_a_device_is_what_it_is() -> None:
    packed = rr.Packed(unit(5, 32, 1), [0, 2, 5])
    assert rr.to_device(packed, DEVICE, dtype=torch.float16).values.dtype == torch.float16  # type: ignore[union-attr]
    codec = rr.ResidualCodec.train(packed.values, 2, 2, backend="numpy")
    assert rr.to_device(rr.ResidualTokens.encode(packed, codec), DEVICE, norms=False).inverse_norms is None  # type: ignore[union-attr]
    for wrong in (packed.values, "index.tokens"):
        with pytest.raises(InputError, match=r"TokenIndex.open\(path\)"):
            rr.to_device(wrong, DEVICE)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"dtype: got torch\.float16 for residual codes"):
        rr.to_device(rr.ResidualTokens.encode(packed, codec), DEVICE, dtype=torch.float16)
    for device, match in (("cud", "a device of torch"), (3.5, "a device of torch")):
        with pytest.raises(InputError, match=match):
            rr.to_device(packed, device)
    with pytest.raises(InputError, match="'float16' for float32"):
        rr.to_device(packed, DEVICE, dtype="float16")
    if DEVICE.type == "cpu":
        with pytest.raises(BackendUnavailable, match="no CUDA device"):
            rr.to_device(packed, "cuda")
