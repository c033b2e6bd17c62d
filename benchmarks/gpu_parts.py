"""The GPU benchmark's rows for the candidate stage and for the parts of an encoder: see gpu.py."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import numpy as np
import torch
from rerank_kernels.centroid import centroid_maxsim, centroid_table
from rerank_kernels.epilogue import activate, add_norm, classify
from rerank_kernels.varlen_attention import block_rows, varlen_attention, work_list

from benchmarks import harness, on_gpu
from benchmarks.gpu_cases import Tokens, checked

Floor = Callable[[float, float], float | None]
Right = Callable[[str, bool], bool]  # gpu.right
Calls = list[Callable[[], torch.Tensor]]


def centroid_rows(device: torch.device, rounds: int, timed: bool, floor: Floor, right: Right) -> Iterator[harness.Row]:
    """4,000 candidates by their centroids, of 16,384. Peers, over padded ids: plaid_approx_score, and torch, which gathers."""
    n, mean = (4000, 180) if timed else (6, 20)
    case = Tokens(n, mean, lists=64 if timed else 2, device=device)
    generator = torch.Generator(device).manual_seed(0)
    centroids = torch.nn.functional.normalize(torch.randn(16_384 if timed else 64, 128, generator=generator, device=device), dim=-1).half()
    table, total = centroid_table(case.query, centroids), int(case.offsets[-1])
    ids = torch.randint(len(centroids), (total,), generator=generator, device=device, dtype=torch.int32)
    narrow = ids.to(torch.uint16)

    def padded(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [ids[int(case.offsets[row]) : int(case.offsets[row + 1])] for row in rows.tolist()]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), torch.tensor([len(p) for p in parts], device=device)

    def by_torch(held: torch.Tensor, lengths: torch.Tensor) -> Callable[[], torch.Tensor]:
        mask = torch.arange(held.shape[1], device=device) < lengths[:, None]
        return lambda: table[held][..., : case.query_tokens].masked_fill(~mask[..., None], -9.0).amax(1).sum(1, dtype=torch.float32)

    padding = [padded(rows) for rows in case.rows]
    peers: dict[str, Calls] = {"torch-padded": [by_torch(*each) for each in padding]}
    if device.type == "cuda" and importlib.util.find_spec("late_interaction_kernels"):
        from late_interaction_kernels.plaid import plaid_approx_score

        plain = table[:, : case.query_tokens].float().contiguous()
        peers["late-interaction-kernels"] = [
            lambda held=held, lengths=lengths: plaid_approx_score(plain, held, lengths)  # type: ignore[misc]
            for held, lengths in padding
        ]
    ours = [lambda rows=rows: centroid_maxsim(table, case.query_tokens, narrow, case.offsets, rows) for rows in case.rows]  # type: ignore[misc]
    rows = case.rows[0].tolist()
    best = [table[ids[int(case.offsets[row]) : int(case.offsets[row + 1])].long()].double().amax(0).sum() for row in rows]
    agree = {name: calls for name, calls in peers.items() if right(name, checked(name, calls[0](), torch.stack(best), 1e-3))}
    if right("centroid", checked("centroid", ours[0](), torch.stack(best), 1e-3)) and timed:
        moved = total / case.lists * 2
        yield from on_gpu.compare("centroid", f"{n}x{mean}-q32", ours, agree, floor(moved, 0), rounds, lists=case.lists)


def attention_rows(device: torch.device, rounds: int, timed: bool, floor: Floor, right: Right) -> Iterator[harness.Row]:
    """A layer's attention over 1,000 ragged pairs; torch's scaled_dot_product_attention over the same, padded and masked."""
    pairs, mean = (1000, 150) if timed else (3, 20)
    lengths = np.clip(np.random.default_rng(0).lognormal(np.log(mean), 0.4, pairs), 8, 2 * mean).astype(np.int64)
    total, longest = int(lengths.sum()), int(lengths.max())
    offsets = torch.from_numpy(np.cumsum([0, *lengths])).to(device)
    for heads, dim in ((12, 32), (12, 64)) if timed else ((2, 32),):
        qkv = torch.randn(total, 3, heads, dim, generator=torch.Generator(device).manual_seed(1), device=device).half()
        work = work_list(lengths.tolist(), block_rows(device, dim)).to(device)
        mask = torch.arange(longest, device=device) < torch.from_numpy(lengths).to(device)[:, None]
        wide = torch.zeros(pairs, longest, 3, heads, dim, dtype=torch.float16, device=device)
        wide[mask] = qkv
        q, k, v = wide.permute(2, 0, 3, 1, 4)

        def padded(q=q, k=k, v=v, mask=mask) -> torch.Tensor:  # type: ignore[no-untyped-def]
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])

        out = torch.empty(total, heads, dim, dtype=torch.float16, device=device)
        ours: Calls = [lambda qkv=qkv, work=work, out=out: varlen_attention(qkv, offsets, work, out=out)]  # type: ignore[misc]
        theirs = padded().permute(0, 2, 1, 3)[mask]
        if right(f"attention-d{dim}", float((ours[0]().float() - theirs.float()).abs().max()) < 4e-3) and timed:
            flops = 4 * float((lengths**2).sum()) * heads * dim
            bound = floor(total * heads * dim * 8, flops)
            yield from on_gpu.compare(
                "varlen_attention", f"{pairs}x{mean}-h{heads}-d{dim}", ours, {"torch-padded": [padded]}, bound, rounds
            )


def epilogue_rows(device: torch.device, rounds: int, timed: bool, floor: Floor, right: Right) -> Iterator[harness.Row]:
    """What follows the products of BERT-base over 150,000 tokens, against the same as torch operations."""
    tokens, hidden = (150_000, 768) if timed else (40, 64)
    generator = torch.Generator(device).manual_seed(0)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device).half()

    x, wide, residual, bias, more = made(tokens, hidden), made(tokens, 4 * hidden), made(tokens, hidden), made(hidden), made(4 * hidden)
    gamma, beta = made(hidden), made(hidden)
    pooled, dense, weight = made(1000 if timed else 20, hidden), made(hidden, hidden) / hidden**0.5, made(1, hidden) / hidden**0.5
    functional = torch.nn.functional
    cases: dict[str, tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor], float, float]] = {
        "bias-gelu": (lambda: activate(wide, more), lambda: functional.gelu(wide + more), wide.numel() * 4, 0),
        "add-norm": (
            lambda: add_norm(x, gamma, beta, eps=1e-12, bias=bias, residual=residual),
            lambda: functional.layer_norm(x + bias + residual, (hidden,), gamma, beta, 1e-12),
            x.numel() * 6,
            0,
        ),
        "classify": (
            lambda: classify(pooled, dense, bias, weight, None),
            lambda: functional.linear(torch.tanh(functional.linear(pooled, dense, bias)), weight).float(),
            pooled.numel() * 2 + dense.numel() * 2,
            2 * pooled.numel() * hidden,
        ),
    }
    for name, (ours, theirs, moved, flops) in cases.items():
        near = float((ours().float() - theirs().float()).abs().max()) < 3e-2  # torch rounds between its operations
        if right(name, near) and timed:
            yield from on_gpu.compare("epilogue", name, [ours], {"torch": [theirs]}, floor(moved, flops), rounds)
