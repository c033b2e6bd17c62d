"""What every kernel's launch shares: where it runs, how it is compiled, and the list of forms that are compiled ahead of time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import triton

from .config import DEFAULT_TARGET

Launches = TypeVar("Launches", bound=Callable[..., Any])


@dataclass(frozen=True)
class Build:
    """One compiled form of a kernel, as its wrapper launches it: what `make kernels` compiles for every target.

    types: Triton's names of the types of the run-time arguments ("*fp16", "i32"). Pointers are 16-byte aligned and integers are not
    specialised, as at run time. tokens: how many document tokens (or rows) a trip of the hot loop covers; 0 for a kernel without one.
    tensor_cores: whether its machine code must hold matrix instructions.
    """

    kernel: str
    variant: str
    function: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    warps: int
    stages: int
    tokens: float = 0
    tensor_cores: bool = True


def on_its_device(function: Launches) -> Launches:
    """For a function that launches kernels: they run on the device of its first tensor, whichever is the current one."""

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        device = next(x.device for x in (*args, *options.values()) if isinstance(x, torch.Tensor))
        if device.type != "cuda" or device.index == torch.cuda.current_device():
            return function(*args, **options)
        with torch.cuda.device(device):
            return function(*args, **options)

    return wrapped  # type: ignore[return-value]


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on tensors of the CPU (TRITON_INTERPRET=1 when Triton was imported)."""
    return bool(triton.knobs.runtime.interpret)


def target_of(device: torch.device) -> str:
    """ "sm_90": the row of the static tables for a device; on the CPU, where only the interpreter runs, that of DEFAULT_TARGET."""
    if device.type != "cuda":
        return DEFAULT_TARGET
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def power_of_2(n: int, least: int = 16) -> int:
    """The smallest power of 2 that is at least n and `least`."""
    return max(least, 1 << max(0, n - 1).bit_length())


def split_dim(dim: int, least: int = 16) -> tuple[int, int]:
    """(first, rest): the two powers of 2 in which a row of `dim` columns is read, rest 0 where one is enough. Columns behind the row's end
    are masked: 96 is 64 + 32, 100 is 64 + 64 of which 28 are masked."""
    first = 1 << (dim.bit_length() - 1)
    if dim <= least or first == dim:
        return max(first, least), 0
    return max(first, least), power_of_2(dim - first, least)
