"""The contract between a model and what runs it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..packed import Packed


class Runtime(Protocol):
    """A loaded network. Packed tokens in; one that must pad does so inside, and only an output with a token axis shows it."""

    name: str  # "onnx", ...
    device: str  # "cpu", "cuda"
    outputs: tuple[str, ...]
    # True when a row's output depends on the rows beside it (dynamic int8 activations share one scale): such a network runs row by row.
    batch_sensitive: bool

    def run(self, ids: Packed, types: Packed, output: str, attended: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """ids, types: int64 tokens of n sequences. One output: float32 [n, ...], or [n, longest, ...] for one that has a token axis.

        attended: int64 [n], how many tokens of each, from the first on, the others may look at; all by default.
        """
        ...


def describe(runtime: Runtime) -> str:
    return f"{runtime.name}/{runtime.device}"


def check_finite(values: NDArray[Any], model: str) -> None:
    """Raises NonFiniteError when a model gives NaN or infinity: such a score would rank at random."""
    from ..errors import NonFiniteError

    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
        hint = "The model's weights or its precision are at fault; try the float32 file."
        raise NonFiniteError(f"{model}: output of input {bad}", got="NaN or infinity", expected="finite numbers", hint=hint)
