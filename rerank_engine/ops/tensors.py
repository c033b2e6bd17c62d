"""Token vectors on a device (a CUDA GPU): what the backends `triton` and `torch` score. Only this file's users need torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BackendUnavailable, InputError, MissingDependency
from ..packed import Packed
from . import checks

if TYPE_CHECKING:
    import torch


def require_torch() -> Any:
    """The module torch. Raises MissingDependency."""
    try:
        import torch
    except ModuleNotFoundError as error:
        hint = "Install the extra: pip install 'rerank-engine[gpu]' (a CUDA machine), or a CPU build of torch to try it."
        raise MissingDependency("tensors on a device", got="no torch", expected="torch and triton", hint=hint) from error
    return torch


@dataclass(frozen=True, slots=True, eq=False)
class DeviceTokens:
    """Packed document tokens on one device: document i is values[offsets[i]:offsets[i + 1]], times its scales for int8.

    values: a contiguous torch tensor float16, bfloat16, float32 or int8 [total, dim]; scales: float32 [total], for int8 alone; offsets:
    int64 [n + 1], from 0 to total, never falling. The offsets are looked at once, here; nothing is read back later. Raises InputError.
    """

    values: torch.Tensor
    offsets: torch.Tensor
    scales: torch.Tensor | None = None

    def __post_init__(self) -> None:
        torch, what = require_torch(), "DeviceTokens"
        for name in ("values", "offsets", "scales"):
            if (given := getattr(self, name)) is not None or name != "scales":
                checks.instance(f"{what}: {name}", given, torch.Tensor)
        values, offsets, scales = self.values, self.offsets, self.scales
        types = (torch.float16, torch.bfloat16, torch.float32, torch.int8)
        if values.dtype not in types or values.ndim != 2 or not values.is_contiguous() or not values.shape[1]:
            got = f"{values.dtype} {list(values.shape)}" + ("" if values.is_contiguous() else ", not contiguous")
            raise InputError(f"{what}: values", got=got, expected="contiguous float16, bfloat16, float32 or int8 [total, dim > 0]")
        if (values.dtype == torch.int8) != (scales is not None):
            raise InputError(
                f"{what}: scales", got="none" if scales is None else f"scales for {values.dtype}", expected="those of int8 values"
            )
        if scales is not None and (scales.dtype != torch.float32 or scales.shape != values.shape[:1] or not scales.is_contiguous()):
            raise InputError(f"{what}: scales", got=f"{scales.dtype} {list(scales.shape)}", expected=f"float32 [{len(values)}]")
        require_one_device(what, [x for x in (values, offsets, scales) if x is not None])
        require_offsets(what, offsets, len(values))

    @classmethod
    def of(cls, documents: Packed, device: Any, *, dtype: Any = None, scales: Any = None) -> DeviceTokens:
        """A Packed, copied to a device. dtype: what floats are held in (torch.float16, ...), as they are by default; scales: for int8."""
        torch = require_torch()
        checks.instance("DeviceTokens.of: documents", documents, Packed)
        device = device_named("DeviceTokens.of", device)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point and documents.values.dtype.kind == "f"):
            expected = "torch.float16, torch.bfloat16 or torch.float32, of documents held as floats"
            raise InputError("DeviceTokens.of: dtype", got=f"{dtype!r} for {documents.values.dtype}", expected=expected)
        if not documents.values.size:  # a Packed without a token may not know its dim
            raise InputError("DeviceTokens.of: documents", got="no tokens", expected="at least one")
        values = copied(documents.values, device, dtype)
        held = None if scales is None else copied(checks.floats("DeviceTokens.of: scales", scales, 1), device)
        return cls(values, copied(documents.offsets, device), held)

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def dim(self) -> int:
        return int(self.values.shape[1])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"DeviceTokens({len(self)} documents, {list(self.values.shape)} {self.values.dtype} on {self.device})"


def device_named(what: str, device: Any) -> torch.device:
    """Raises InputError for what names no device, BackendUnavailable for one that is not here."""
    torch = require_torch()
    try:
        named = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{what}: device", got=repr(device), expected="a device of torch, such as 'cuda', 'cuda:1' or 'cpu'") from error
    if named.type == "cuda" and not torch.cuda.is_available():
        got = f"{what}: device '{device}' asked for, but torch sees no CUDA device"
        raise BackendUnavailable(got, hint="A CPU build of torch sees none; 'cpu' tries it without one.")
    return named


def copied(array: np.ndarray[Any, Any], device: Any, dtype: Any = None) -> torch.Tensor:
    """On the device, in memory of its own. torch warns of arrays that it must not write to, as of a mapped file: they are copied first."""
    a = checks.contiguous(array)
    return require_torch().from_numpy(a if a.flags.writeable else a.copy()).to(device=device, dtype=dtype, copy=True)


def require_one_device(what: str, tensors: list[torch.Tensor]) -> None:
    places = sorted({str(x.device) for x in tensors})
    if len(places) > 1:
        raise InputError(what, got=f"tensors on {', '.join(places)}", expected="one device")


def require_offsets(what: str, offsets: torch.Tensor, total: int) -> None:
    """Raises InputError unless offsets are int64 [n + 1] that rise from 0 to total."""
    if not offsets.is_contiguous():
        raise InputError(f"{what}: offsets", got="not contiguous", expected="contiguous int64 [n + 1]", hint="offsets.contiguous()")
    held = offsets.detach().cpu().numpy()
    if held.dtype != np.int64 or held.ndim != 1 or not held.size or held[0] != 0 or held[-1] != total or (np.diff(held) < 0).any():
        got = f"{held.dtype} {list(held.shape)}" + (f" from {held[0]} to {held[-1]}" if held.ndim == 1 and held.size else "")
        raise InputError(f"{what}: offsets", got=got, expected=f"int64 [n + 1] that rise from 0 to {total}")
