"""Scores from centroids alone on a device, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from device import DEVICE, poisoned, torch
from rerank_kernels.centroid import centroid_maxsim, centroid_table, table_width

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of NaN in the interpreter

LENGTHS = [5, 0, 1, 63, 64, 65, 192]
ROWS = [6, 0, 1, 2, 6, 5, 3, 4, -1]
OFFSETS = torch.tensor(np.cumsum([0, *LENGTHS]))
IDS = torch.from_numpy(np.random.default_rng(0).integers(0, 300, int(OFFSETS[-1])))


def vectors(n: int, dim: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def score(table: torch.Tensor, n: int, ids: torch.Tensor, rows: list[int] = ROWS, weights: torch.Tensor | None = None) -> torch.Tensor:
    given = torch.tensor(rows, dtype=torch.int32, device=DEVICE)
    on = None if weights is None else weights.to(DEVICE)
    return centroid_maxsim(table, n, ids.to(DEVICE), OFFSETS.to(DEVICE), given, weights=on, out=poisoned(len(rows))).cpu()


def want(table: torch.Tensor, n: int, rows: list[int] = ROWS, weights: torch.Tensor | None = None) -> np.ndarray:
    w = torch.ones(n, dtype=torch.float64) if weights is None else weights.double()
    parts = [table.cpu().double()[IDS[OFFSETS[row] : OFFSETS[row + 1]], :n] if row >= 0 else [] for row in rows]
    return np.array([float((w * part.max(0).values).sum()) if len(part) else float("-inf") for part in parts])


@pytest.mark.parametrize("tokens", [1, 16, 20, 32, 64, 65, 130])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_every_length_and_query(dtype: torch.dtype, tokens: int) -> None:
    centroids, query = vectors(300, 32, 1).to(dtype).to(DEVICE), vectors(tokens, 32, 2).to(DEVICE)
    table = centroid_table(query, centroids)
    assert table.shape == (300, table_width(tokens)) and not table[:, tokens:].any()
    exact = centroids.double() @ query.to(dtype).double().T
    assert (table[:, :tokens].double() - exact).abs().max() < (1e-3 if dtype == torch.float16 else 1e-5)
    weights = torch.linspace(-1, 2, tokens)
    for w in (None, weights):
        for kind in (torch.int32, torch.uint16):
            got = score(table, tokens, IDS.to(kind), weights=w)
            np.testing.assert_allclose(got.numpy(), want(table, tokens, weights=w), rtol=0, atol=1e-6 * tokens * 2)
            assert torch.equal(got, score(table, tokens, IDS.to(kind), weights=w))


def test_a_table_is_written_into_a_buffer() -> None:
    centroids, query = vectors(300, 32, 1).half().to(DEVICE), vectors(20, 32, 2).to(DEVICE)
    buffer = torch.zeros(300, table_width(20), dtype=torch.float16, device=DEVICE)
    assert centroid_table(query, centroids, out=buffer) is buffer
    assert torch.equal(buffer, centroid_table(query, centroids))


def test_what_does_not_exist_scores_nan_and_is_not_read() -> None:
    table = centroid_table(vectors(4, 32, 2), vectors(300, 32, 1).half()).to(DEVICE)
    ids = IDS.int()
    ids[OFFSETS[4]], ids[OFFSETS[6] + 100] = 300, -(2**31)
    got = score(table, 4, ids, [4, 6, 5, 7, -2, -1])
    assert got.isnan().tolist() == [True, True, False, True, True, False]
    table[IDS[OFFSETS[5]], 2] = float("nan")
    assert score(table, 4, IDS.int(), [5]).isnan().all()


def test_nothing_to_score_and_an_empty_query() -> None:
    table = centroid_table(vectors(0, 32, 2), vectors(300, 32, 1).half()).to(DEVICE)
    assert score(table, 0, IDS.int(), []).tolist() == []
    assert score(table, 0, IDS.int(), [0, 1]).tolist() == [0, float("-inf")]
