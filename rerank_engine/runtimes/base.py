"""The contract between a model and what runs it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..packed import Packed
from .cost import Cost, default_cost


class Runtime(Protocol):
    """A loaded network. Packed tokens in; one that must pad does so inside, and only an output with a token axis shows it."""

    name: str  # "onnx", ...
    device: str  # "cpu", "cuda"
    outputs: tuple[str, ...]
    # True when a row's output depends on the rows beside it (dynamic int8 activations share one scale): such a network runs row by row.
    batch_sensitive: bool

    # A runtime may also tell, and those of this package do: `cost` (Cost), what a call takes; `workers` (int), how many run() calls may go
    # on at the same time, from threads; `form` (str), how the network runs ("packed", "as published"). The functions below read them.

    def run(self, ids: Packed, types: Packed, output: str, attended: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """ids, types: int64 tokens of n sequences. One output: float32 [n, ...], or [n, longest, ...] for one that has a token axis.

        attended: int64 [n], how many tokens of each, from the first on, the others may look at; all by default.
        """
        ...


def cost_of(runtime: Runtime) -> Cost:
    """What its calls cost: its own word, else the table's."""
    cost: Cost | None = getattr(runtime, "cost", None)
    return default_cost(runtime.name, runtime.device) if cost is None else cost


def workers_of(runtime: Runtime) -> int:
    """How many run() calls may go on at the same time; 1 for a runtime that does not say."""
    return max(1, int(getattr(runtime, "workers", 1)))


def describe(runtime: Runtime) -> str:
    """runtime/device, and the form that the network runs in where there are several."""
    form = getattr(runtime, "form", "")
    return f"{runtime.name}/{runtime.device}" + (f" ({form})" if form else "")


def weights_of(runtime: Runtime) -> str:
    """The hash of a network's weights, without what its fingerprint says of how they run; "" if it is not told."""
    return str(getattr(runtime, "fingerprint", "")).partition("/")[0]


def check_finite(values: NDArray[Any], model: str) -> None:
    """Raises NonFiniteError when a model gives NaN or infinity: such a score would rank at random."""
    from ..errors import NonFiniteError

    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
        hint = "The model's weights or its precision are at fault; try the float32 file."
        raise NonFiniteError(f"{model}: output of input {bad}", got="NaN or infinity", expected="finite numbers", hint=hint)
