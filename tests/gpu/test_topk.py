"""The k best of lists on a device: score descending, then row ascending."""

from __future__ import annotations

import pytest
from device import DEVICE, poisoned, torch
from rerank_kernels.topk import topk

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of NaN in the interpreter


def best(scores: list[float], rows: list[int], k: int) -> list[tuple[float, int]]:
    kept = sorted((-score, row) for score, row in zip(scores, rows) if row >= 0)[:k]
    return [(-score, row) for score, row in kept] + [(float("-inf"), -1)] * (k - len(kept))


@pytest.mark.parametrize("m,k", [(1, 1), (5, 3), (63, 64), (64, 16), (65, 10), (300, 10), (257, 100), (7, 9)])
def test_ties_go_to_the_lower_row_and_places_left_say_so(m: int, k: int) -> None:
    torch.manual_seed(m)
    scores = torch.randn(2, m).round(decimals=1)
    scores[0, 0], scores[1, 0] = float("inf"), -0.0
    rows = torch.stack([torch.randperm(10 * m)[:m] for _ in range(2)]).int()
    rows[1, m // 2] = -1
    out = (poisoned(2, k), poisoned(2, k, dtype=torch.int64))
    topk(scores.to(DEVICE), rows.to(DEVICE), k, out=out)
    for place in range(2):
        got = list(zip(out[0][place].tolist(), out[1][place].tolist()))
        assert got == best(scores[place].tolist(), rows[place].tolist(), k)


def test_minus_zero_ties_with_zero() -> None:
    scores, rows = torch.tensor([0.0, -0.0, -1e-45], device=DEVICE), torch.tensor([5, 3, 1], device=DEVICE)
    assert topk(scores, rows, 3)[1].tolist() == [3, 5, 1]


def test_a_nan_comes_first_where_it_is_seen() -> None:
    scores = torch.tensor([1.0, float("nan"), float("inf"), float("-inf")], device=DEVICE)
    values, rows = topk(scores, torch.tensor([0, 1, 2, 2**31 - 1], device=DEVICE), 4)
    assert rows.tolist() == [1, 2, 0, 2**31 - 1] and values.isnan().tolist() == [True, False, False, False]


def test_no_scores_and_no_places() -> None:
    assert topk(torch.empty(0, device=DEVICE), torch.empty(0, dtype=torch.int32, device=DEVICE), 2)[1].tolist() == [-1, -1]
    assert topk(torch.empty(3, 0, device=DEVICE), torch.empty(3, 0, dtype=torch.int32, device=DEVICE), 2)[1].tolist() == [[-1, -1]] * 3
    with pytest.raises(ValueError, match=r"torch\.float16"):
        topk(torch.ones(3, device=DEVICE).half(), torch.arange(3, device=DEVICE), 1)
    with pytest.raises(ValueError, match="at most 1024"):
        topk(torch.ones(3, device=DEVICE), torch.arange(3, device=DEVICE), 1025)
    assert topk(torch.ones(3, device=DEVICE), torch.arange(3, device=DEVICE), 0)[1].tolist() == []
