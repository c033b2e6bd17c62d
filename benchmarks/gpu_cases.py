"""What the GPU benchmarks score: packed stores, lists of candidates that share nothing, float64 answers, the peers' calls on the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from rerank_kernels.codes import Codes
from rerank_kernels.maxsim import maxsim
from rerank_kernels.residual import query_table, residual_maxsim

from benchmarks import harness

CUDA = torch.device("cuda")
BYTES = {"fp16": 2, "bf16": 2, "fp32": 4, "int8": 1}
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "int8": torch.int8}


def lengths_of(documents: int, mean: int, rng: np.random.Generator) -> np.ndarray:
    """Ragged, as passages are: lognormal, cut at twice the mean."""
    return np.clip(rng.lognormal(np.log(mean) - 0.1, 0.5, documents), 1, 2 * mean).astype(np.int64)


@dataclass(frozen=True)
class Tokens:
    """`lists` lists of candidates of one store; each is scored once in a recorded graph, so that its bytes come from memory."""

    documents: int
    mean: int
    dim: int = 128
    query_tokens: int = 32
    kind: str = "fp16"
    lists: int = 8
    device: torch.device = CUDA

    @cached_property
    def offsets(self) -> torch.Tensor:
        rng = np.random.default_rng(0)
        ends = np.cumsum([0, *lengths_of(self.documents * self.lists, self.mean, rng)])
        return torch.from_numpy(ends).to(self.device)

    @cached_property
    def plain(self) -> torch.Tensor:
        """float16 [tokens, dim] of unit length."""
        generator = torch.Generator(self.device).manual_seed(1)
        x = torch.empty(int(self.offsets[-1]), self.dim, dtype=torch.float16, device=self.device).normal_(generator=generator)
        return torch.nn.functional.normalize(x, dim=-1)

    @cached_property
    def scales(self) -> torch.Tensor | None:
        return self.plain.abs().amax(1).float() / 127 if self.kind == "int8" else None

    @cached_property
    def values(self) -> torch.Tensor:
        if self.scales is None:
            return self.plain.to(TYPES[self.kind])
        return (self.plain / self.scales[:, None]).round().clamp(-127, 127).to(torch.int8)

    @cached_property
    def query(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(2)
        q = torch.nn.functional.normalize(torch.randn(self.query_tokens, self.dim, generator=generator), dim=-1)
        return q.to(torch.float16 if self.kind == "int8" else TYPES[self.kind]).to(self.device)

    @cached_property
    def rows(self) -> list[torch.Tensor]:
        """Of each list, in any order."""
        order = torch.randperm(self.documents * self.lists, generator=torch.Generator().manual_seed(3))
        return [part.int().to(self.device) for part in order.split(self.documents)]

    def exact(self, rows: torch.Tensor) -> torch.Tensor:
        """float64 scores, document by document."""
        scores = []
        for row in rows.tolist():
            part = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
            tokens = self.values[part].double() * (1 if self.scales is None else self.scales[part, None].double())
            scores.append((self.query.double() @ tokens.T).max(1).values.sum())
        return torch.stack(scores)

    @property
    def bytes(self) -> float:
        """That a call has to read, on average."""
        each = self.dim * BYTES[self.kind] + (4 if self.kind == "int8" else 0)
        return float(self.offsets[-1]) / self.lists * each

    @property
    def flops(self) -> float:
        return 2 * float(self.offsets[-1]) / self.lists * self.query_tokens * self.dim

    def ours(self) -> list[Callable[[], torch.Tensor]]:
        def call(rows: torch.Tensor) -> Callable[[], torch.Tensor]:
            return lambda: maxsim(self.query, self.values, self.offsets, rows, scales=self.scales)

        return [call(rows) for rows in self.rows]

    def packed(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
        """(tokens of the candidates behind one another, int32 offsets, the longest): what peers want; the copy is not timed."""
        parts = [self.values[int(self.offsets[row]) : int(self.offsets[row + 1])] for row in rows.tolist()]
        lengths = torch.tensor([len(part) for part in parts])
        offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int().to(self.device)
        return torch.cat(parts), offsets, int(lengths.max())

    def padded(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, offsets, longest = self.packed(rows)
        parts = torch.split(tokens, offsets.diff().tolist())
        mask = torch.arange(longest, device=self.device) < offsets.diff()[:, None]
        return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True), mask

    def peers(self) -> dict[str, list[Callable[[], torch.Tensor]]]:
        """Of what is installed. torch: einsum over padded documents, as PyLate's own scores do."""
        made: dict[str, list[Callable[[], torch.Tensor]]] = {}
        if self.kind == "int8":
            return made

        def padded(rows: torch.Tensor) -> Callable[[], torch.Tensor]:
            tokens, mask = self.padded(rows)
            lowest = torch.finfo(tokens.dtype).min
            return lambda: (
                torch.einsum("qd,nld->nql", self.query, tokens).masked_fill(~mask[:, None], lowest).amax(2).sum(1, dtype=torch.float32)
            )

        made["torch-padded"] = [padded(rows) for rows in self.rows]
        if self.kind != "fp16" or self.device.type != "cuda":
            return made
        if importlib.util.find_spec("late_interaction_kernels"):
            made["late-interaction-kernels"] = [_lik(self.query, *self.packed(rows)) for rows in self.rows]
        if importlib.util.find_spec("flash_maxsim"):
            made["flash-maxsim"] = [_flash(self.query, *self.packed(rows)) for rows in self.rows]
        return made


def _lik(query: torch.Tensor, tokens: torch.Tensor, offsets: torch.Tensor, longest: int) -> Callable[[], torch.Tensor]:
    from late_interaction_kernels.varlen import maxsim_varlen

    asked = torch.tensor([0, len(query)], dtype=torch.int32, device=query.device)
    return lambda: maxsim_varlen(query, tokens, asked, offsets, len(query), longest)[0]


def _flash(query: torch.Tensor, tokens: torch.Tensor, offsets: torch.Tensor, longest: int) -> Callable[[], torch.Tensor]:
    from flash_maxsim.flash_maxsim_varlen import flash_maxsim_packed

    return lambda: flash_maxsim_packed(query, tokens, offsets, longest)


@dataclass(frozen=True)
class Residual:
    """The same over residual codes. Centroids are tokens drawn at random; nothing is trained: only the time counts, and equal answers."""

    tokens: Tokens
    nbits: int
    n_centroids: int = 16_384

    @cached_property
    def parts(self) -> tuple[torch.Tensor, ...]:
        """(centroids float16, bucket weights, ids int32, bytes in ColBERT's order, inverse norms float32) on the device."""
        total, dim, device = int(self.tokens.offsets[-1]), self.tokens.dim, self.tokens.device
        generator = torch.Generator(device).manual_seed(4)
        centroids = torch.nn.functional.normalize(torch.randn(self.n_centroids, dim, generator=generator, device=device), dim=-1).half()
        weights = torch.linspace(-0.08, 0.08, 1 << self.nbits, device=device)
        ids = torch.randint(self.n_centroids, (total,), generator=generator, device=device, dtype=torch.int32)
        codes = torch.randint(256, (total, dim * self.nbits // 8), generator=generator, device=device, dtype=torch.uint8)
        parts = centroids, weights, ids, codes
        norms = [1 / self.decoded(slice(at, at + (1 << 18)), parts).norm(dim=1) for at in range(0, total, 1 << 18)]
        return (*parts, torch.cat(norms))

    def decoded(self, part: slice, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """float32 [tokens, dim], not of unit length yet, by torch alone: the first code is in a byte's highest bits, lowest bit first."""
        centroids, weights, ids, codes = parts[:4]
        bits = (codes[part, :, None] >> torch.arange(7, -1, -1, device=codes.device, dtype=torch.uint8)) & 1
        each = bits.view(len(bits), -1, self.nbits).int()
        values = (each << torch.arange(self.nbits, device=codes.device)).sum(2)
        return centroids[ids[part].long()].float() + weights[values]

    def exact(self, rows: torch.Tensor) -> torch.Tensor:
        offsets, scores = self.tokens.offsets, []
        for row in rows.tolist():
            tokens = self.decoded(slice(int(offsets[row]), int(offsets[row + 1])), self.parts).double()
            scores.append((self.tokens.query.double() @ torch.nn.functional.normalize(tokens, dim=-1).T).max(1).values.sum())
        return torch.stack(scores)

    @cached_property
    def codes(self) -> Codes:
        centroids, weights, ids, codes, norms = self.parts
        held = ids.to(torch.uint16) if self.n_centroids <= 1 << 16 else ids
        return Codes.of(centroids, weights, held, codes, self.tokens.offsets, norms)

    def bytes(self, form: str) -> float:
        each = self.tokens.dim * self.nbits / 8 + 2 + (0 if form == "raw" else 2)
        return float(self.tokens.offsets[-1]) / self.tokens.lists * each

    def ours(self, form: str, given: bool = False) -> list[Callable[[], torch.Tensor]]:
        """given: the products of the query with all centroids are at hand, and not timed."""
        query, table = self.tokens.query, query_table(self.tokens.query, self.codes) if given else None

        def call(rows: torch.Tensor) -> Callable[[], torch.Tensor]:
            return lambda: residual_maxsim(query, self.codes, rows, form=form, table=table)

        return [call(rows) for rows in self.tokens.rows]

    def peers(self) -> dict[str, list[Callable[[], torch.Tensor]]]:
        """late-interaction-kernels, which has no 1 bit, on the candidates copied together, their bytes reversed to its order; not timed."""
        if self.nbits == 1 or self.tokens.device.type != "cuda" or not importlib.util.find_spec("late_interaction_kernels"):
            return {}
        from late_interaction_kernels.plaid import maxsim_residual_varlen

        centroids, weights, ids, codes, _ = self.parts
        turned = torch.tensor([int(f"{byte:08b}"[::-1], 2) for byte in range(256)], dtype=torch.uint8, device=codes.device)

        def call(rows: torch.Tensor) -> Callable[[], Any]:
            ends = self.tokens.offsets
            at = torch.cat([torch.arange(int(ends[row]), int(ends[row + 1]), device=codes.device) for row in rows.tolist()])
            lengths = (ends[rows.long() + 1] - ends[rows.long()]).cpu()
            offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int().to(codes.device)
            held = ids[at], turned[codes[at].long()]
            longest = int(lengths.max())
            options = {"max_seqlen_d": longest, "normalize": True}
            return lambda: maxsim_residual_varlen(self.tokens.query, *held, offsets, centroids, weights, self.nbits, **options)

        return {"late-interaction-kernels": [call(rows) for rows in self.tokens.rows]}


def checked(name: str, got: torch.Tensor, exact: torch.Tensor, tolerance: float) -> bool:
    """Whether scores are those of float64, and their best ten too wherever float64 tells them apart by twice the tolerance."""
    got, exact = got.double().cpu(), exact.cpu()
    error = float((got - exact).abs().max())
    k = min(10, len(exact) - 1)
    order = exact.sort(descending=True)
    clear = k > 0 and float(order.values[k - 1] - order.values[k]) > 2 * tolerance
    same = not clear or set(got.topk(k).indices.tolist()) == set(order.indices[:k].tolist())
    harness.note(f"{name}: largest error {error:.2g}, allowed {tolerance:g}" + ("" if same else ", another top 10"))
    return error <= tolerance and same
