"""Attention within the sequences of a packed batch, against float64."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from device import DEVICE, poisoned, torch
from rerank_kernels.config import LIKE
from rerank_kernels.launch import target_of
from rerank_kernels.varlen_attention import BLOCKS, block_rows, blocks, builds, row_list, varlen_attention, work_list

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of NaN in the interpreter

HEADS = 2
BEFORE, BEHIND = 3, 2  # tokens of the batch that belong to no sequence


def packed(lengths: list[int], dim: int, dtype: torch.dtype = torch.float16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(qkv, offsets); NaN wherever no sequence is. v is below 2, where half a step of float16 is 5e-4."""
    offsets = torch.tensor(np.cumsum([BEFORE, *lengths]))
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.full((int(offsets[-1]) + BEHIND, 3, HEADS, dim), float("nan"))
    inside = slice(BEFORE, int(offsets[-1]))
    qkv[inside] = torch.randn(qkv[inside].shape, generator=generator) * 1.5
    qkv[inside, 2] = qkv[inside, 2].clamp(-1.9, 1.9)
    return qkv.to(dtype), offsets


def want(x: torch.Tensor, causal: bool = False, window: int | None = None, scale: float | None = None) -> torch.Tensor:
    """float64 [n, heads, dim] of one sequence [n, 3, heads, dim]"""
    q, k, v = x.double().permute(1, 2, 0, 3)
    away = torch.arange(len(x))[None, :] - torch.arange(len(x))[:, None]
    seen = torch.ones_like(away, dtype=torch.bool)
    if causal:
        seen &= away <= 0
    if window is not None:
        seen &= away.abs() <= window // 2
    scores = q @ k.transpose(1, 2) * (x.shape[-1] ** -0.5 if scale is None else scale)
    return (scores.masked_fill(~seen, -math.inf).softmax(-1) @ v).transpose(0, 1)


def run(
    qkv: torch.Tensor, offsets: torch.Tensor, work: torch.Tensor | None = None, one_row: bool = False, **options: object
) -> torch.Tensor:
    """Into a poisoned buffer; all rows of all sequences if there is no work."""
    work = work_list(offsets.diff(), block_rows(DEVICE, qkv.shape[-1])) if work is None else work
    rows = len(offsets) - 1 if one_row else len(qkv)
    out = poisoned(rows, *qkv.shape[2:], dtype=qkv.dtype)
    got = varlen_attention(qkv.to(DEVICE), offsets.to(DEVICE), work.to(DEVICE), one_row=one_row, out=out, **options)
    assert got is out
    return got.cpu()


def check(qkv: torch.Tensor, offsets: torch.Tensor, got: torch.Tensor, tolerance: float = 1e-3, **options: object) -> None:
    """Each sequence within the tolerance; whatever belongs to none as it was."""
    for lo, hi in pairwise(offsets):
        if hi > lo:
            assert (got[lo:hi].double() - want(qkv[lo:hi], **options)).abs().max() <= tolerance
    assert got[: offsets[0]].isnan().all() and got[offsets[-1] :].isnan().all()


def around(block: int) -> list[int]:
    return [5, 0, block, 1, block - 1, 3 * block, block + 1, 0]


@pytest.mark.parametrize("dim", [32, 64, 128, 16, 48, 80])
def test_every_length_and_head_dim(dim: int) -> None:
    qkv, offsets = packed(around(block_rows(DEVICE, dim)), dim)
    got = run(qkv, offsets)
    check(qkv, offsets, got)
    assert torch.equal(got[BEFORE:-BEHIND], run(qkv, offsets)[BEFORE:-BEHIND])


@pytest.mark.parametrize("window", [None, 1, 16, 128, 300])
@pytest.mark.parametrize("causal", [False, True])
def test_causal_and_windows(causal: bool, window: int | None) -> None:
    qkv, offsets = packed([200, 1, 65, 130], 32, seed=1)
    check(qkv, offsets, run(qkv, offsets, causal=causal, window=window), causal=causal, window=window)


@pytest.mark.parametrize("tile", [(128, 32, 4, 2), (32, 64, 2, 2), (64, 16, 4, 2)], ids=str)
def test_blocks_of_other_shapes(tile: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """As other targets have them: a row may see no key in the first ones that its block reads."""
    monkeypatch.setitem(BLOCKS, (LIKE.get(target_of(DEVICE), target_of(DEVICE)), 32), tile)
    qkv, offsets = packed([140, 1], 32, seed=1)
    for options in ({}, {"causal": True}, {"window": 1}, {"window": 16}, {"causal": True, "window": 40}):
        check(qkv, offsets, run(qkv, offsets, **options), **options)


def test_bfloat16() -> None:
    qkv, offsets = packed([70, 1, 129], 64, torch.bfloat16)
    check(qkv, offsets, run(qkv, offsets), tolerance=2e-2)


def test_scale_and_large_scores() -> None:
    qkv, offsets = packed([70, 33], 32)
    qkv[:, :2] *= 20  # scores of some 10,000, of which exp overflows
    check(qkv, offsets, run(qkv, offsets, scale=0.4), scale=0.4)
    qkv[:, 0] = -qkv[:, 1].abs() * 10  # and all far below 0, where a maximum that starts at 0 leaves nothing
    qkv[:, 1] = qkv[:, 1].abs()
    check(qkv, offsets, run(qkv, offsets), tolerance=2e-3)


@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (False, 32)])
def test_one_row_of_each_sequence(causal: bool, window: int | None) -> None:
    lengths = [70, 0, 1, 64, 129]
    for dim in (32, 128):
        qkv, offsets = packed(lengths, dim)
        some = torch.tensor([[4, 100], [3, 5], [0, 69], [-1, -1], [2, 0]], dtype=torch.int32)
        for work, rows in ((row_list(lengths), [0] * 5), (row_list(lengths, last=True), [69, 0, 0, 63, 128]), (some, [69, 0, 0, 5, 100])):
            got = run(qkv, offsets, work, one_row=True, causal=causal, window=window)
            for i, row in enumerate(rows):
                if lengths[i]:
                    exact = want(qkv[offsets[i] : offsets[i + 1]], causal, window)[row]
                    assert (got[i].double() - exact).abs().max() <= 1e-3
            assert got[1].isnan().all()  # an empty sequence


def test_a_sequence_is_the_same_alone_and_among_others() -> None:
    lengths = [33, 64, 1, 0, 65, 130]
    qkv, offsets = packed(lengths, 32)
    parts = [qkv[lo:hi] for lo, hi in pairwise(offsets)]
    options = ({}, {"causal": True}, {"window": 32})
    together = [run(qkv, offsets, **o) for o in options]
    order = [5, 2, 4, 0, 3, 1]
    other = torch.cat([parts[i] for i in order])
    places = torch.tensor(np.cumsum([0, *(lengths[i] for i in order)]))
    for o, first in zip(options, together):
        again = run(other, places, **o)
        for place, i in enumerate(order):
            mine = first[offsets[i] : offsets[i + 1]]
            assert torch.equal(mine, again[places[place] : places[place + 1]])
            if lengths[i] in (1, 65):
                assert torch.equal(mine, run(parts[i], torch.tensor([0, lengths[i]]), **o))


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_nan_stays_in_its_sequence(part: str) -> None:
    lengths = [70, 65, 40]
    qkv, offsets = packed(lengths, 32)
    clean = run(qkv, offsets)
    at = int(offsets[1]) + 3
    qkv[at, "qkv".index(part), 1, 5] = float("nan")
    got = run(qkv, offsets)
    others = torch.ones(len(qkv), dtype=torch.bool)
    others[offsets[1] : offsets[2]] = False
    assert torch.equal(got[others].nan_to_num(), clean[others].nan_to_num())
    assert torch.equal(got[:, 0].nan_to_num(), clean[:, 0].nan_to_num())  # and in its head
    mine = got[offsets[1] : offsets[2], 1]
    assert mine[3].isnan().all() if part == "q" else mine[:, 5].isnan().all()


@pytest.mark.parametrize("options", [{"causal": True}, {"window": 64}])
def test_blocks_of_keys_out_of_reach_are_not_read(options: dict[str, object]) -> None:
    qkv, offsets = packed([300], 32)
    clean = run(qkv, offsets, **options)
    qkv[BEFORE + 299, 1:] = float("nan")
    got = run(qkv, offsets, **options)
    assert torch.equal(got[BEFORE : BEFORE + 128], clean[BEFORE : BEFORE + 128]) and got[BEFORE + 299].isnan().all()
    if "window" in options:
        qkv, offsets = packed([300], 32)
        qkv[BEFORE, 1:] = float("nan")
        got = run(qkv, offsets, **options)
        assert torch.equal(got[-BEHIND - 100 : -BEHIND], clean[-BEHIND - 100 : -BEHIND]) and got[BEFORE].isnan().all()


def test_infinite_scores_are_not_hidden() -> None:
    qkv, offsets = packed([70], 32)
    qkv[BEFORE + 2, 1, 0] = float("inf")
    got = run(qkv, offsets)[BEFORE : BEFORE + 70, 0]
    assert torch.equal(got.isnan(), want(qkv[BEFORE : BEFORE + 70])[:, 0].isnan()) and got.isnan().any()


def test_work_lists() -> None:
    assert work_list([3, 0, 130, 64], 64).tolist() == [[2, 128], [2, 64], [2, 0], [3, 0], [0, 0]]
    assert work_list(torch.tensor([3, 65]), 64, size=5).tolist() == [[1, 64], [1, 0], [0, 0], [-1, -1], [-1, -1]]
    assert row_list([3, 0, 130, 130]).tolist() == [[2, 0], [3, 0], [0, 0]]
    assert row_list([3, 0, 130], last=True, size=3).tolist() == [[2, 129], [0, 2], [-1, -1]]
    assert work_list([], 64).shape == row_list([0]).shape == (0, 2)
    assert work_list([5], 64).dtype == row_list([5]).dtype == torch.int32
    with pytest.raises(ValueError, match="3 entries"):
        work_list([130], 64, size=2)


def test_padding_in_a_list_of_fixed_size_is_skipped() -> None:
    qkv, offsets = packed([70, 0, 9], 32)
    work = work_list(offsets.diff(), block_rows(DEVICE, 32), size=12)
    shuffled = work[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    got = run(qkv, offsets, shuffled)
    check(qkv, offsets, got)
    assert run(qkv, offsets, torch.full((4, 2), -1, dtype=torch.int32)).isnan().all()
    beyond = torch.tensor([[3, 0], [9, 0], [1, 0], [2, 64]], dtype=torch.int32)  # no such sequence, an empty one, behind its end
    assert run(qkv, offsets, beyond).isnan().all()
    assert run(qkv[:0], torch.tensor([0]), work[:0]).shape == (0, HEADS, 32)


def test_a_new_output_is_0_where_no_sequence_is() -> None:
    qkv, offsets = packed([9], 32)
    work = work_list([9], block_rows(DEVICE, 32)).to(DEVICE)
    got = varlen_attention(qkv.to(DEVICE), offsets.to(DEVICE), work)
    assert not got[:BEFORE].any() and not got[-BEHIND:].any() and got[BEFORE:-BEHIND].all()


@pytest.mark.parametrize("long", [False, True])
def test_offsets_past_31_bits(long: bool) -> None:
    """The last tokens of a batch of more than 2^31 numbers: of a short sequence there, or of one sequence that fills the batch."""
    dim, n = 128, 20
    tokens = 2**31 // (3 * HEADS * dim) + 100
    qkv = torch.empty(tokens, 3, HEADS, dim, dtype=torch.float16, device=DEVICE)
    out = torch.empty(tokens, HEADS, dim, dtype=torch.float16, device=DEVICE)
    last, _ = packed([n + 8], dim)
    qkv[-n - 8 :] = last[BEFORE:-BEHIND].to(DEVICE)
    offsets = torch.tensor([0, tokens] if long else [0, tokens - n - 8, tokens], device=DEVICE)
    work = torch.tensor([[0, tokens - n] if long else [1, 0]], dtype=torch.int32, device=DEVICE)
    varlen_attention(qkv, offsets, work, window=16, out=out)
    exact = want(last[BEFORE:-BEHIND], window=16)[8:]
    assert (out[-n:].cpu().double() - exact).abs().max() <= 1e-3


def test_outputs_past_31_bits() -> None:
    dim, n = 128, 9
    sequences = 2**31 // (HEADS * dim) + 2
    qkv, _ = packed([n], dim)
    offsets = torch.zeros(sequences + 1, dtype=torch.int64, device=DEVICE)
    offsets[-1] = n
    out = torch.empty(sequences, HEADS, dim, dtype=torch.float16, device=DEVICE)
    work = torch.tensor([[sequences - 1, 2]], dtype=torch.int32, device=DEVICE)
    mine = qkv[BEFORE:-BEHIND].contiguous()
    varlen_attention(mine.to(DEVICE), offsets, work, one_row=True, out=out)
    assert (out[-1].cpu().double() - want(mine)[2]).abs().max() <= 1e-3


def test_what_a_call_must_not_be_given() -> None:
    qkv, offsets = packed([9], 32)
    work = work_list([9], block_rows(DEVICE, 32))
    wrong = {
        "qkv: ": (qkv.float(), work, None),
        "qkv:": (qkv.transpose(0, 1).contiguous().transpose(0, 1), work, None),
        "work": (qkv, work.long(), None),
        "out": (qkv, work, torch.empty(len(qkv), HEADS, 32)),
        "expected float16": (qkv.int(), work, None),
        "head_dim 256": (torch.empty(4, 3, 1, 256, dtype=torch.float16), work, None),
    }
    with pytest.raises(ValueError, match="offsets"):
        varlen_attention(qkv, offsets.int(), work)
    for message, (x, w, out) in wrong.items():
        with pytest.raises(ValueError, match=message):
            varlen_attention(x, offsets, w, out=out)
    with pytest.raises(ValueError, match="sm_75"):
        blocks("sm_75", 64, one_row=False)
    assert blocks("sm_86", 64, one_row=False) == BLOCKS["sm_89", 64]


def test_what_is_compiled_ahead_of_time_has_a_name_of_its_own() -> None:
    for target in {target for target, _ in BLOCKS}:
        names = [build.variant for build in builds(target)]
        assert len(set(names)) == len(names) > 20
