"""Residual codes on a device: the backends triton (in its interpreter without a GPU) and torch against the C++ core on the same codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device import DEVICE, torch, unit

import rerank_engine as rr
from rerank_engine.errors import BackendUnavailable, InputError, NonFiniteError
from rerank_engine.ops import centroid_maxsim, centroid_scores, residual_maxsim

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of NaN in the interpreter

LENGTHS = [3, 0, 70, 1, 64]
ROWS = [2, 0, 4, 1, 2, 3]
ON_DEVICE = ["triton", "torch"]


def tokens(nbits: int, dim: int = 64, scale: float = 1.0) -> rr.ResidualTokens:
    """Of a codec that was trained on them, in ColBERT's byte order."""
    packed = rr.Packed(scale * unit(sum(LENGTHS), dim, 1), np.cumsum([0, *LENGTHS]))
    codec = rr.ResidualCodec.train(packed.values, nbits, 16, backend="numpy")
    return rr.ResidualTokens.encode(packed, codec)


def close(got: Any, want: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(got.cpu().numpy(), want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("nbits", [1, 2, 4])
@pytest.mark.parametrize("backend", ON_DEVICE)
def test_scores_are_those_of_the_cpp_core_on_the_same_codes(backend: str, nbits: int) -> None:
    documents, query = tokens(nbits), unit(20, 64, 2)
    weights = np.linspace(0.5, 1.5, 20).astype(np.float32)
    want = residual_maxsim(query, documents, ROWS, query_weights=weights, precision="float32", backend="cpp")
    for norms in (True, False):
        there = rr.DeviceCodes.of(documents, DEVICE, norms=norms)
        close(residual_maxsim(query, there, ROWS, query_weights=weights, backend=backend), want, 1e-3)
    there = rr.DeviceCodes.of(documents, DEVICE)
    table = centroid_scores(query, there, backend=backend)
    for precision, tolerance in (("auto", 3e-3), ("uint8", 1e-2)):  # few centroids, so that residuals are large
        given = {"centroid_scores": table, "precision": precision, "backend": backend}
        close(residual_maxsim(query, there, ROWS, query_weights=weights, **given), want, tolerance)
    for rows in (ROWS, [[4], [2, 2, 0]]):
        got = residual_maxsim([query, query[:3]], there, rows, backend=backend)
        last = ROWS if rows is ROWS else rows[1]
        close(got[1], residual_maxsim(query[:3], documents, last, precision="float32"), 1e-3)


@pytest.mark.parametrize("scale", [1.0, 30.0])  # centroids that are not of length 1 are held at another scale
@pytest.mark.parametrize("backend", ON_DEVICE)
def test_centroids_alone(backend: str, scale: float) -> None:
    documents, query = tokens(2, scale=scale), unit(20, 64, 2)
    there = rr.DeviceCodes.of(documents, DEVICE)
    weights = np.linspace(0.5, 1.5, 20).astype(np.float32)
    table = centroid_scores(query, documents.codec.centroids)
    for w in (None, weights):
        got = centroid_maxsim(centroid_scores(query, there, backend=backend), there, ROWS, query_weights=w, backend=backend)
        close(got, centroid_maxsim(table, documents, ROWS, query_weights=w), 5e-3 * scale)


def test_what_does_not_fit_is_refused_before_any_work() -> None:
    documents, query = tokens(2), unit(3, 64, 2)
    there = rr.DeviceCodes.of(documents, DEVICE)
    assert "5 documents, 138 tokens" in repr(there) and len(there) == 5
    with pytest.raises(InputError, match="rows from 0 to 4"):
        residual_maxsim(query, there, [5])
    with pytest.raises(InputError, match=r"float \[q, 64\]"):
        residual_maxsim(unit(3, 32, 1), there)
    with pytest.raises(InputError, match="got DeviceTokens; expected ResidualTokens, or DeviceCodes"):
        residual_maxsim(query, rr.DeviceTokens.of(documents.decode(), DEVICE))
    with pytest.raises(InputError, match="one of auto"):
        residual_maxsim(query, there, precision="int4")
    with pytest.raises(InputError, match="'torch' decode"):
        residual_maxsim(query, there, precision="float32", backend="triton")
    close(residual_maxsim(query, there, precision="float32"), residual_maxsim(query, documents, precision="float32"), 1e-5)
    with pytest.raises(BackendUnavailable, match="tensors on"):
        residual_maxsim(query, there, backend="cpp")
    for table in (torch.zeros(16, 32, device=DEVICE), np.zeros((16, 32), np.float32)):
        with pytest.raises(InputError, match="a DeviceTable"):
            centroid_maxsim(table, there)
    tables = {backend: centroid_scores(query, there, backend=backend) for backend in ON_DEVICE}
    for backend, other in zip(ON_DEVICE, reversed(ON_DEVICE)):
        with pytest.raises(InputError, match=f"for {other} on .* expected 16 centroids for {backend}"):
            centroid_maxsim(tables[other], there, backend=backend)
        assert len(centroid_maxsim(tables[other], there)) == 5  # auto is the backend that made the table
        with pytest.raises(InputError, match="2 query tokens"):
            residual_maxsim(query[:2], there, centroid_scores=tables[backend], backend=backend)
        with pytest.raises(InputError, match="one a query token"):
            centroid_maxsim(tables[backend], there, query_weights=[1.0], backend=backend)
        with pytest.raises(InputError, match="1 dimension"):
            centroid_maxsim(tables[backend], there, query_weights=1.0, backend=backend)
    for bad, match in (
        ({"residuals": there.residuals[:, :3]}, r"residuals: got torch.uint8 \[138, 3\]"),
        ({"centroid_ids": there.centroid_ids.to(torch.int64)}, "uint16 or torch.int32"),
        ({"offsets": there.offsets[:-1]}, "rise from 0 to 138"),
        ({"inverse_norms": np.ones(138, np.float32)}, "Tensor"),
    ):
        parts = {name: getattr(there, name) for name in ("codec", "centroid_ids", "residuals", "inverse_norms", "offsets")}
        with pytest.raises(InputError, match=match):
            rr.DeviceCodes(**{**parts, **bad})
    with pytest.raises(InputError, match="ResidualTokens"):
        rr.DeviceCodes.of(query, DEVICE)  # type: ignore[arg-type]
    documents.inverse_norms[43] = np.nan
    with pytest.raises(NonFiniteError, match=r"inverse_norms.*nan at \[43\]"):
        rr.DeviceCodes.of(documents, DEVICE)
    documents.centroid_ids[7] = 16
    with pytest.raises(InputError, match="expected from 0 to 15"):
        rr.DeviceCodes.of(documents, DEVICE)


@pytest.mark.parametrize("backend", ON_DEVICE)
def test_a_nan_raises_and_names_the_document(backend: str) -> None:
    documents, query = tokens(2), unit(3, 64, 2)
    there = rr.DeviceCodes.of(documents, DEVICE)
    query[1, 1] = np.nan
    with pytest.raises(NonFiniteError, match="nan at"):
        residual_maxsim(query, there, backend=backend)
    with pytest.raises(NonFiniteError, match="document 2"):
        residual_maxsim(torch.from_numpy(query).to(DEVICE), there, [2], backend=backend)
