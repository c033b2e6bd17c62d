"""The k best by replays: what launches one by one give, for every size of candidates and query around the sizes that are recorded."""

from __future__ import annotations

import numpy as np
import pytest
from device import DEVICE, torch
from rerank_kernels.graph import Graph, Replays
from rerank_kernels.maxsim import maxsim
from rerank_kernels.topk import topk

DIM, K = 32, 5
LENGTHS = [7, 0, 33, 1, 65, 12, 20, 3]
OFFSETS = torch.tensor(np.cumsum([0, *LENGTHS]))


@pytest.fixture(scope="module")
def store() -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.nn.functional.normalize(torch.randn(int(OFFSETS[-1]), DIM, generator=torch.Generator().manual_seed(0)), dim=-1)
    return values.half().to(DEVICE), OFFSETS.to(DEVICE)


def test_replays_give_what_single_launches_give(store: tuple[torch.Tensor, torch.Tensor]) -> None:
    values, offsets = store

    def score(query: torch.Tensor, weights: torch.Tensor, rows: torch.Tensor, out: torch.Tensor) -> None:
        maxsim(query, values, offsets, rows, weights=weights, out=out)

    replays = Replays(score, [4, 16], [8, 20], K, DIM, torch.float16, DEVICE)
    rng = np.random.default_rng(1)
    for tokens, candidates in ((8, 4), (20, 16), (1, 1), (9, 5), (8, 4), (3, 0), (20, 3)):  # larger and smaller ones in turns
        query = rng.standard_normal((tokens, DIM)).astype(np.float16)
        rows = rng.integers(0, len(LENGTHS), candidates)
        weights = rng.uniform(0.5, 2, tokens).astype(np.float32) if tokens > 8 else None
        got_rows, got_scores = replays(query, rows, weights)
        on = None if weights is None else torch.from_numpy(weights).to(DEVICE)
        given = torch.from_numpy(rows).to(DEVICE)
        scores = maxsim(torch.from_numpy(query).to(DEVICE), values, offsets, given, weights=on)
        want_scores, want_rows = topk(scores, given, min(K, candidates))
        assert got_rows.tolist() == want_rows.tolist()
        np.testing.assert_allclose(got_scores, want_scores.cpu().numpy(), rtol=1e-5)  # sums of other widths


def test_a_graph_does_its_launches_at_each_replay() -> None:
    x = torch.zeros(1, device=DEVICE)
    graph = Graph(lambda: x.add_(1), DEVICE)
    before = x.item()
    graph.replay()
    graph.replay()
    assert x.item() == before + 2
