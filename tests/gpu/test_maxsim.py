"""MaxSim on a device against float64: in Triton's interpreter without a GPU, natively with one."""

from __future__ import annotations

import numpy as np
import pytest
from device import DEVICE, poisoned, torch
from rerank_kernels.launch import interpreting
from rerank_kernels.maxsim import builds, maxsim

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of NaN in the interpreter

TILE = 64
LENGTHS = [5, 0, 1, TILE - 1, TILE, TILE + 1, 3 * TILE]
ROWS = [6, 0, 1, 2, 6, 5, 3, 4, -1]  # unsorted, twice, padding
PER_TOKEN = {torch.float16: 1e-5, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.int8: 1e-4}
if not interpreting():  # the order of float32 sums, tf32 products
    PER_TOKEN = dict.fromkeys(PER_TOKEN, 1e-4)
STORES = [torch.float16, torch.float32, torch.bfloat16, torch.int8]


def unit(n: int, dim: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


class Store:
    """Documents of LENGTHS and what each scores, in float64 on the very values that are stored."""

    def __init__(self, dim: int, dtype: torch.dtype = torch.float16, lengths: list[int] | None = None) -> None:
        lengths = LENGTHS if lengths is None else lengths
        self.offsets = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int64)
        tokens = unit(int(self.offsets[-1]), dim, 1)
        self.scales, self.dtype = None, dtype
        if dtype == torch.int8:
            self.scales = tokens.abs().amax(1) / 127
            self.values = (tokens / self.scales[:, None]).round().to(torch.int8)
            self.exact = self.values.double() * self.scales.double()[:, None]
        else:
            self.values = tokens.to(dtype)
            self.exact = self.values.double()

    def score(self, query: torch.Tensor, rows: list[int], weights: torch.Tensor | None = None, **options: object) -> torch.Tensor:
        on = {"scales": self.scales, "weights": weights, **options}
        on = {name: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for name, x in on.items()}
        given = torch.tensor(rows, dtype=torch.int32, device=DEVICE)
        out = poisoned(len(rows))
        scores = maxsim(query.to(DEVICE), self.values.to(DEVICE), self.offsets.to(DEVICE), given, out=out, **on)
        assert scores is out
        return scores.cpu()

    def want(self, query: torch.Tensor, rows: list[int], weights: torch.Tensor | None = None) -> list[float]:
        w = torch.ones(len(query), dtype=torch.float64) if weights is None else weights.double()
        q = query.double() if self.dtype == torch.int8 else query.to(self.dtype).double()
        scores = []
        for row in rows:
            tokens = self.exact[self.offsets[row] : self.offsets[row + 1]] if row >= 0 else self.exact[:0]
            best = (q[w != 0] @ tokens.T).max(1).values if len(tokens) else None
            scores.append(float("-inf") if best is None else float((w[w != 0] * best).sum()))
        return scores


def close(got: torch.Tensor, want: list[float], tokens: int, dtype: torch.dtype = torch.float16) -> None:
    np.testing.assert_allclose(got.numpy(), np.array(want), rtol=0, atol=PER_TOKEN[dtype] * max(1, tokens))


@pytest.mark.parametrize("dtype", STORES, ids=str)
def test_every_storage_and_length(dtype: torch.dtype) -> None:
    store, query = Store(64, dtype), unit(20, 64, 2)
    got = store.score(query, ROWS)
    close(got, store.want(query, ROWS), 20, dtype)
    assert torch.equal(got, store.score(query, ROWS))


@pytest.mark.parametrize(
    "dtype,dim", [(torch.float16, d) for d in (8, 16, 96, 100, 128, 256, 300)] + [(torch.int8, 24), (torch.int8, 96), (torch.int8, 320)]
)
def test_every_dimension(dtype: torch.dtype, dim: int) -> None:
    store, query, rows = Store(dim, dtype, [3, 70]), unit(9, dim, 3), [1, 0]
    close(store.score(query, rows), store.want(query, rows), 9, dtype)


@pytest.mark.parametrize("tokens", [0, 1, 16, 17, 32, 63, 64, 65, 150])
def test_every_length_of_a_query(tokens: int) -> None:
    store, query, rows = Store(32, lengths=[3, 0, 130]), unit(tokens, 32, 4), [2, 0, 1]
    close(store.score(query, rows), store.want(query, rows), tokens)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8], ids=str)
def test_weights_and_masked_tokens(dtype: torch.dtype) -> None:
    store, query = Store(32, dtype), unit(20, 32, 5)
    weights = torch.linspace(-1, 2, 20)
    weights[3] = 0
    want = store.want(query, ROWS, weights)
    query[3] = float("nan")  # takes no part
    close(store.score(query, ROWS, weights), want, 20, dtype)


def test_negative_similarities_count() -> None:
    tokens = torch.rand(TILE + 1, 32) + 0.1
    store = Store(32, lengths=[TILE + 1])
    store.values, store.exact = -tokens.half(), -tokens.half().double()
    query = torch.rand(4, 32) + 0.1
    got = store.score(query, [0])
    assert got < 0
    np.testing.assert_allclose(got.numpy(), store.want(query, [0]), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16], ids=str)
def test_a_nan_is_never_hidden_and_stays_in_its_document(dtype: torch.dtype) -> None:
    store, query = Store(32, dtype, [3, TILE + 5, 2 * TILE]), unit(4, 32, 6)
    store.values[3 + TILE, 7] = float("nan")
    got = store.score(query, [0, 1, 2])
    assert got.isnan().tolist() == [False, True, False]
    query[0] = 0  # hides nothing
    assert store.score(query, [1]).isnan().all()
    query[2, 5] = float("nan")
    assert store.score(query, [0, 2]).isnan().all()


def test_a_row_that_does_not_exist_scores_nan() -> None:
    store, query = Store(32), unit(4, 32, 6)
    got = store.score(query, [len(LENGTHS), 0, -2, 10**9])
    assert got.isnan().tolist() == [True, False, True, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8], ids=str)
def test_pairs_of_queries_and_documents(dtype: torch.dtype) -> None:
    store, lengths = Store(32, dtype), [5, 0, 70]
    queries = [unit(n, 32, 7 + n) for n in lengths]
    pairs = [2, 0, 1, 2, 0, 0, 2, 1, 0]
    options = {"query_offsets": torch.tensor(np.cumsum([0, *lengths])), "pairs": torch.tensor(pairs, dtype=torch.int32)}
    got = store.score(torch.cat(queries), ROWS, **options)
    close(got, [store.want(queries[q], [row])[0] for q, row in zip(pairs, ROWS)], 70, dtype)


def test_documents_beyond_two_to_the_31_elements() -> None:
    """At dim 128 an int32 offset wraps behind token 16,777,216. Only the pages that are touched exist."""
    at, dim = 16_777_216 + 40, 128
    values = torch.empty(at + 64, dim, dtype=torch.float16, device=DEVICE)
    tokens, query = unit(50, dim, 8).half(), unit(5, dim, 9).half()
    values[at : at + 50] = tokens.to(DEVICE)
    offsets = torch.tensor([0, at, at + 50, at + 64], device=DEVICE)
    want = float((query.double() @ tokens.double().T).max(1).values.sum())
    got = maxsim(query.to(DEVICE), values, offsets, torch.tensor([1], dtype=torch.int64, device=DEVICE))
    assert abs(got.item() - want) < 1e-4


def test_nothing_to_score() -> None:
    store = Store(32)
    assert store.score(unit(3, 32, 1), []).tolist() == []
    assert store.score(unit(3, 32, 1), [1]).tolist() == [float("-inf")]
    with pytest.raises(ValueError, match="dimension 16, expected 32"):
        store.score(unit(3, 16, 1), [0])
    empty = Store(32, lengths=[])
    assert empty.score(unit(3, 32, 1), [0, -1]).isnan().tolist() == [True, False]


@pytest.mark.parametrize("target", ["sm_80", "sm_89", "sm_90", "sm_100"])
def test_every_form_has_a_name_of_its_own(target: str) -> None:
    names = [build.variant for build in builds(target)]
    assert len(set(names)) == len(names) and "fp16-d128-q32-weighted" in names
