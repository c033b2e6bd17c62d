"""An index of ColBERTv2's residual codes on a device, as `residual.py` scores it; the order of columns is laid down at the head of that."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import torch

from .launch import ceil_div


@dataclass(frozen=True)
class Codes:
    """An index of residual codes on a device; `Codes.of` makes it. Ids, codes and offsets are the tensors that it was given."""

    nbits: int
    dim: int
    centroids: torch.Tensor  # float16 [n + 1, columns]; the last row is NaN, for ids that no centroid has
    centroid_ids: torch.Tensor  # uint16 or int32 [total]
    residuals: torch.Tensor  # int32 [total, words]
    norms: torch.Tensor | None  # uint16 [total]: an inverse norm as float32 has the bits norm_base + norm * norm_step
    norm_base: int
    norm_step: int
    offsets: torch.Tensor  # int64 [documents + 1]
    order: torch.Tensor  # int32 [columns]: the dimension of each; dim where there is none
    lookup: torch.Tensor  # int32 [9]: `registers` of the low and high bytes of the float16 weights
    lookup8: torch.Tensor  # int32 [9]: of the int8 weights
    step8: float  # what 1 stands for in those
    scale: float  # what centroids and weights are multiplied by, a power of 2: 1 unless they are far from length 1

    @classmethod
    def of(
        cls,
        centroids: torch.Tensor,
        bucket_weights: torch.Tensor,
        centroid_ids: torch.Tensor,
        residuals: torch.Tensor,
        offsets: torch.Tensor,
        inverse_norms: torch.Tensor | None = None,
    ) -> Codes:
        """centroids: float [n, dim]. bucket_weights: float [2, 4 or 16]. centroid_ids: uint16 or int32 [total]. residuals: uint8
        [total, dim * nbits / 8], contiguous; copied where that is no multiple of 4. offsets: int64 [documents + 1]. inverse_norms: float32
        [total]; without them there is the raw form alone. All on one device, which is waited for. Raises ValueError.

        Centroids and weights far from length 1 are brought near it, so that a sum of squares fits float16.
        """
        dim, nbits, width = centroids.shape[1], len(bucket_weights).bit_length() - 1, residuals.shape[1]
        if nbits not in (1, 2, 4) or len(bucket_weights) != 1 << nbits or width * 8 != dim * nbits:
            got = f"{len(bucket_weights)} bucket weights, dim {dim}, {width} bytes a token"
            raise ValueError(f"Codes.of: got {got}, expected 2, 4 or 16 bucket weights and dim * bits / 8 bytes")
        lengths = centroids.float().norm(dim=1)
        longest = float(torch.where(lengths.isfinite(), lengths, 0).max()) if len(lengths) else 0.0
        exponent = math.frexp(longest)[1]
        scale = 1.0 if abs(exponent) < 2 else 2.0**-exponent
        code = torch.arange(1 << nbits, device=centroids.device)
        reverse = sum(((code >> bit) & 1) << (nbits - 1 - bit) for bit in range(nbits))
        weights, order = bucket_weights.float()[reverse] * scale, column_order(dim, nbits).to(centroids.device)
        held = torch.cat([centroids.float() * scale, -weights[0].expand(len(centroids), 1)], 1)[:, order]
        pairs, step8 = weights.half().view(torch.uint8).view(-1, 2), int8_step(weights)
        bytes8 = (weights / step8).round().to(torch.int8).view(torch.uint8)
        if width % 4 or residuals.data_ptr() % 4 or not len(residuals):
            whole = residuals.new_zeros((len(residuals), ceil_div(width, 4) * 4))
            whole[:, :width] = residuals
            residuals = whole
        return cls(
            nbits, dim, torch.cat([held, held.new_full((1, len(order)), math.nan)]).half(), centroid_ids, residuals.view(torch.int32),
            *((None, 0, 0) if inverse_norms is None else held_norms(inverse_norms, scale)), offsets, order.int(),
            registers(pairs[:, 0], pairs[:, 1], nbits), registers(bytes8, bytes8, nbits), step8, scale,
        )  # fmt: skip


def block_words(dim: int, nbits: int) -> tuple[int, int]:
    """(words of a block, blocks)"""
    words = ceil_div(dim * nbits, 32)
    return (8, words // 8) if words % 8 == 0 else (4, ceil_div(words, 4))


def column_order(dim: int, nbits: int) -> torch.Tensor:
    """int64 [columns]: the dimension of each column, `dim` where there is none. See the head of this file."""
    words, blocks = block_words(dim, nbits)
    axes = [torch.arange(n) for n in (blocks, 4 // nbits, 2, words, 4)]
    block, sub, half, word, nibble = torch.meshgrid(*axes, indexing="ij")
    byte = 4 * (block * words + word) + 2 * half + nibble // 2
    code = nibble % 2 * (4 // nbits) + sub  # of its byte, from the lowest bit on
    dims = (byte * (8 // nbits) + 8 // nbits - 1 - code).clamp(max=dim)
    return (dims if words == 8 else dims.transpose(2, 3)).flatten()


def registers(low: torch.Tensor, high: torch.Tensor, nbits: int) -> torch.Tensor:
    """int32 [9]: two tables uint8 [2^nbits] as `looked_up` reads them, and a selector that leaves 4 bytes in their places."""
    reads = {1: [[0, 1, 0, 1], [0, 0, 1, 1], [0] * 4, [1] * 4], 2: [[0, 1, 2, 3]] * 4, 4: [[4 * i + t for t in range(4)] for i in range(4)]}
    places = torch.tensor(reads[nbits], device=low.device)
    held = torch.stack([low[places], high[places]]).view(torch.int32).flatten()
    return torch.cat([held, held.new_tensor([0x32103210])])


def int8_step(weights: torch.Tensor) -> float:
    """The step in which int8 holds the weights with the least squared error, of those that bring the largest to 64 .. 127."""
    steps = weights.abs().max().clamp(min=1e-30) / torch.arange(64, 128, device=weights.device)
    errors = ((weights / steps[:, None]).round() * steps[:, None] - weights).square().sum(1)
    return float(steps[errors.argmin()])


def held_norms(inverse_norms: torch.Tensor, scale: float) -> tuple[torch.Tensor, int, int]:
    """(norms uint16 [total], norm_base, norm_step) of `Codes`, for centroids that were multiplied by a power of 2. Exact to 2^-17 where the
    largest is less than twice the least, to 2^-12 where it is 2^15 times that: float16 would keep 2^-11. 0, of a token of length 0, is held
    as the least: its products are 0 either way."""
    if not len(inverse_norms):
        return inverse_norms.to(torch.uint16), 0, 1
    low, high = (float(x) for x in inverse_norms.aminmax())
    if not 0 <= low <= high < math.inf:
        raise ValueError(f"Codes.of: got inverse norms from {low} to {high}, expected finite numbers that are not negative")
    least = float(torch.where(inverse_norms > 0, inverse_norms, high).min())
    base, top = (struct.unpack("<i", struct.pack("<f", x / scale))[0] for x in (least, high))
    shift = max(0, (top - base).bit_length() - 16)
    out = torch.empty(len(inverse_norms), dtype=torch.uint16, device=inverse_norms.device)
    for at in range(0, len(out), 1 << 24):  # so that little memory is in use at a time
        bits = (inverse_norms[at : at + (1 << 24)].float() / scale).view(torch.int32) - base
        out[at : at + (1 << 24)] = ((bits.clamp(min=0) + (1 << shift >> 1)) >> shift).clamp(max=65535).to(torch.uint16)
    return out, base, 1 << shift
