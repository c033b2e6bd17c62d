"""Ops on tensors of a device: the backends triton (in its interpreter without a GPU) and torch against the reference and the C++ core."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device import DEVICE, torch, unit
from tolerances import assert_close

import rerank_engine as rr
from rerank_engine import backends
from rerank_engine.backends import choose
from rerank_engine.errors import BackendUnavailable, InputError, NonFiniteError
from rerank_engine.ops import maxsim, quantize_int8

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of NaN in the interpreter

LENGTHS = [3, 0, 70, 1, 64]
ROWS = [2, 0, 4, 1, 2, 3]
ON_DEVICE = ["triton", "torch"]


def packed(dim: int = 32) -> rr.Packed:
    return rr.Packed(unit(sum(LENGTHS), dim, 1), np.cumsum([0, *LENGTHS]))


def same(got: Any, want: Any, tokens: int) -> None:
    got = got.cpu().numpy()
    empty = np.isneginf(want)
    assert got.dtype == np.float32 and np.isneginf(got[empty]).all()
    assert_close("maxsim", got[~empty], want[~empty], 4 * tokens)


@pytest.mark.parametrize("backend", ON_DEVICE)
def test_maxsim_gives_what_the_cpp_core_gives(backend: str) -> None:
    documents, query = packed(), unit(20, 32, 2)
    for held in (documents, rr.Packed(documents.values.astype(np.float16), documents.offsets)):
        there, asked = rr.DeviceTokens.of(held, DEVICE), query.astype(held.values.dtype)
        for rows in (ROWS, None, []):
            same(maxsim(asked, there, rows, backend=backend), maxsim(asked, held, rows), 20)
        weights, mask = np.linspace(-1, 2, 20).astype(np.float32), np.arange(20) % 3 > 0
        got = maxsim(asked, there, ROWS, query_weights=weights, query_mask=mask, backend=backend)
        same(got, maxsim(asked, held, ROWS, query_weights=weights, query_mask=mask), 40)


@pytest.mark.parametrize("backend", ON_DEVICE)
def test_int8_and_a_batch_and_tensors_of_any_place(backend: str) -> None:
    documents, queries = packed(), [unit(n, 32, n) for n in (5, 17)]
    values, scales = quantize_int8(documents.values)
    small = rr.Packed(values, documents.offsets)
    there = rr.DeviceTokens.of(small, DEVICE, scales=scales)
    for got, query in zip(maxsim(queries, there, [ROWS, [0]], backend=backend), queries):
        want = maxsim(query, small, ROWS if len(got) > 1 else [0], scales=scales)
        np.testing.assert_allclose(got.cpu().numpy(), want, atol=2e-4)
    for got, query in zip(maxsim(queries, there, ROWS, backend=backend), queries):  # the same rows for all
        np.testing.assert_allclose(got.cpu().numpy(), maxsim(query, small, ROWS, scales=scales), atol=2e-4)
    as_tensors = (torch.from_numpy(queries[0]).to(DEVICE), torch.tensor(ROWS, dtype=torch.int32, device=DEVICE))
    got = maxsim(as_tensors[0], there, as_tensors[1], backend=backend)
    np.testing.assert_allclose(got.cpu().numpy(), maxsim(queries[0], small, ROWS, scales=scales), atol=2e-4)
    assert maxsim(rr.Packed(np.zeros((0, 32), np.float32), [0]), there, backend=backend) == []


def test_auto_goes_by_the_device_and_a_named_backend_never_falls_back() -> None:
    assert choose("maxsim") == "cpp" and choose("maxsim", device="cpu") == "torch"
    there = rr.DeviceTokens.of(packed(), "cpu")
    with pytest.raises(BackendUnavailable, match="documents are tensors on cpu"):
        maxsim(unit(2, 32, 1), there, backend="cpp")
    for backend in ON_DEVICE:
        with pytest.raises(BackendUnavailable, match=r"arrays of numpy.*DeviceTokens.of\(documents, 'cuda'\)"):
            maxsim(unit(2, 32, 1), packed(), backend=backend)


def test_without_an_interpreter_a_cpu_tensor_is_no_case_for_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    import rerank_kernels.launch

    monkeypatch.setattr(rerank_kernels.launch, "interpreting", lambda: False)
    monkeypatch.setitem(backends.NEEDS, "triton", lambda: None)  # a machine with a GPU
    with pytest.raises(BackendUnavailable, match="interpreter alone"):
        choose("maxsim", "triton", "cpu")
    with pytest.raises(BackendUnavailable, match="does not run on mps"):
        choose("maxsim", "triton", "mps")
    assert [choose("maxsim", device=device) for device in ("cuda", "cpu", "mps")] == ["triton", "torch", "torch"]
    monkeypatch.setattr(rerank_kernels.launch, "interpreting", lambda: True)
    assert choose("maxsim", device="cuda") == "torch"


@pytest.mark.parametrize("backend", ON_DEVICE)
def test_a_nan_raises_and_names_the_document(backend: str) -> None:
    documents = packed()
    documents.values[3 + 40, 5] = np.nan
    there = rr.DeviceTokens(torch.from_numpy(documents.values).to(DEVICE), torch.from_numpy(documents.offsets).to(DEVICE))
    with pytest.raises(NonFiniteError, match="document 2"):
        maxsim(unit(4, 32, 2), there, ROWS, backend=backend)
    assert maxsim(unit(4, 32, 2), there, [0, 4], backend=backend).isfinite().all()
    held = rr.DeviceTokens(torch.full((2, 32), 1e38, device=DEVICE), torch.tensor([0, 2], device=DEVICE))
    # of either sign: the parts of three tf32 products overflow too
    with pytest.raises(NonFiniteError, match=r"document 0: got a score of -?inf"):
        maxsim(np.full((1, 32), -1e38, np.float32), held, backend=backend)


@pytest.mark.parametrize("backend", ON_DEVICE)
def test_padding_scores_minus_infinity(backend: str) -> None:
    there = rr.DeviceTokens.of(packed(), DEVICE)
    run = backends.implementation("maxsim", backend, DEVICE.type)
    got = run(torch.ones(2, 32, device=DEVICE), None, there, torch.tensor([-1, 1, 0, 5, -2], device=DEVICE))
    assert got[:2].tolist() == [float("-inf")] * 2 and got.isnan().tolist() == [False, False, False, True, True]


def test_what_does_not_fit_is_refused_before_any_work() -> None:
    documents, there = packed(), rr.DeviceTokens.of(packed(), DEVICE)
    for rows in ([5], [-1], torch.tensor([0, 9])):
        with pytest.raises(InputError, match="rows from 0 to 4"):
            maxsim(unit(2, 32, 1), there, rows)
    for query in (unit(2, 16, 1), torch.zeros(2, 32, dtype=torch.int32), torch.zeros(32)):
        with pytest.raises(InputError, match=r"query: got .* expected float \[q, 32\]"):
            maxsim(query, there)
    with pytest.raises(InputError, match="got no tokens"):
        rr.DeviceTokens.of(rr.Packed(np.zeros((0, 32), np.float32), [0, 0]), DEVICE)
    with pytest.raises(InputError, match="one a query token"):
        maxsim(unit(2, 32, 1), there, query_weights=[1.0])
    with pytest.raises(InputError, match="DeviceTokens, which hold them"):
        maxsim(unit(2, 32, 1), there, scales=[1.0])
    values, offsets = torch.from_numpy(documents.values), torch.from_numpy(documents.offsets)
    for bad, match in (
        ({"values": values.double()}, "float64"),
        ({"values": values.T}, "not contiguous"),
        ({"values": values.to(torch.int8)}, "scales: got none"),
        ({"scales": torch.ones(len(values))}, "scales for torch.float32"),
        ({"values": values.to(torch.int8), "scales": torch.ones(3)}, r"float32 \[138\]"),
        ({"offsets": offsets[:-1]}, "rise from 0 to 138"),
        ({"offsets": offsets.flip(0)}, "rise from 0 to 138"),
        ({"offsets": offsets.int()}, "int32"),
        ({"values": documents.values}, "ndarray"),
        ({"offsets": offsets.to("meta")}, "tensors on cpu, meta: expected one device|got tensors on cpu, meta"),
        ({"offsets": torch.stack([offsets, offsets], 1)[:, 0]}, "offsets: got not contiguous"),
        ({"values": values[:, :0]}, "dim > 0"),
    ):
        with pytest.raises(InputError, match=match):
            rr.DeviceTokens(**{"values": values, "offsets": offsets, **bad})
    assert "5 documents" in repr(there)


def test_the_torch_backend_takes_the_tokens_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    there, query = rr.DeviceTokens.of(packed(), DEVICE), unit(9, 32, 2)
    whole = maxsim(query, there, ROWS, backend="torch")
    monkeypatch.setattr("rerank_engine.ops.device.BLOCK_TOKENS", 65)
    assert torch.allclose(maxsim(query, there, ROWS, backend="torch"), whole, atol=1e-6)
