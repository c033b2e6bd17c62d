"""The layers between an encoder's token states and the vectors of late interaction: the linear layer of ColBERT, the Dense of PyLate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptModelError, UnsafeModelError, UnsupportedModelError
from .late_config import read_json
from .safetensors import read_tensors

ROOT = "root"  # of a list of modules: the linear layer that colbert-ai keeps in one file with the encoder
Array = NDArray[np.float32]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, np.float32(0)),
}


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """activation(states @ weight.T + bias) + states @ residual.T, all float32.

    weight: [out, in]; bias: [out] or None; residual: as the weight, or None.
    """

    weight: Array
    bias: Array | None = None
    residual: Array | None = None
    activation: str = "Identity"

    def __call__(self, states: Array) -> Array:
        out = states @ self.weight.T
        out = ACTIVATIONS[self.activation](out if self.bias is None else out + self.bias)
        return out if self.residual is None else out + states @ self.residual.T


def read_projections(
    name: str, folder: Path, modules: Sequence[str], width: int, *, hidden: int | None = None, dim: int | None = None
) -> tuple[Projection, ...]:
    """What has to be put behind a network whose token states have `width` dimensions; () where it was exported with its projection.

    modules: folders of Dense modules in their order, or ROOT. hidden: the encoder's dimension, dim: that of the model's vectors, as far as
    its files tell. A width that is the last dimension and not the first one says that nothing is left to do.
    Raises CorruptModelError (weights that are missing or do not fit), UnsupportedModelError, UnsafeModelError.
    """
    for module in modules:
        if Path(module).is_absolute() or ".." in Path(module).parts:
            raise UnsafeModelError(f"model '{name}': modules.json", got=module, expected="paths below the model's folder")
    configs = [{} if module == ROOT else read_json(folder / module / "config.json") for module in modules]
    last = next((size for size in (configs[-1].get("out_features") if configs else None, dim) if size is not None), None)
    first = next((size for size in (configs[0].get("in_features") if configs else None, hidden) if size is not None), None)
    if width == last and width != first:
        return ()
    hint = "Keep the .safetensors of the model beside the ONNX file, or export the projection with the model."
    if not modules:
        if last is not None and last != width:
            got = f"a network that gives {width} dimensions, and no weights of a projection"
            raise UnsupportedModelError(f"model '{name}'", got=got, expected=f"{last} dimensions, as its files announce", hint=hint)
        return ()
    found = []
    for module, config in zip(modules, configs):
        path = (folder if module == ROOT else folder / module) / "model.safetensors"
        if not path.is_file():
            expected = f"the weights of its projection, as the network gives {width} dimensions"
            raise CorruptModelError(f"model '{name}'", got=f"no {path}", expected=expected, hint=hint)
        found.append(_read(path, config))
    size = width
    for place, projection in enumerate(found):
        if projection.weight.shape[1] != size:
            got = f"{size} dimensions for its projection {modules[place]}"
            expected = f"{projection.weight.shape[1]}, which it takes, or {last or len(found[-1].weight)}, which the last one gives"
            raise UnsupportedModelError(f"model '{name}'", got=got, expected=expected)
        size = len(projection.weight)
    if last is not None and size != last:
        raise CorruptModelError(f"model '{name}'", got=f"a projection to {size} dimensions", expected=f"{last}, as its files announce")
    return tuple(found)


def _read(path: Path, config: dict[str, Any]) -> Projection:
    activation = str(config.get("activation_function", "Identity")).split(".")[-1]
    if activation not in ACTIVATIONS:
        raise UnsupportedModelError(str(path), got=f"the activation {activation}", expected="one of " + ", ".join(ACTIVATIONS))
    found = read_tensors(path, ("linear.weight", "linear.bias", "residual.weight"))
    weight, bias, residual = (found.get(key) for key in ("linear.weight", "linear.bias", "residual.weight"))
    shape = [config.get("out_features"), config.get("in_features")]
    if weight is None or weight.ndim != 2 or any(told not in (None, size) for told, size in zip(shape, weight.shape)):
        got = "no tensor linear.weight" if weight is None else f"linear.weight {list(weight.shape)}"
        raise CorruptModelError(str(path), got=got, expected=f"linear.weight [{', '.join(str(size or '?') for size in shape)}]")
    if config.get("use_residual") and residual is None and weight.shape[0] == weight.shape[1]:
        residual = np.eye(len(weight), dtype=np.float32)
    for key, tensor, expected in (
        ("linear.bias", bias, weight.shape[:1] if config.get("bias", bias is not None) else None),
        ("residual.weight", residual, weight.shape if config.get("use_residual") else None),
    ):
        if (None if tensor is None else tensor.shape) != expected:
            got = f"no {key}" if tensor is None else f"{key} {list(tensor.shape)}"
            raise CorruptModelError(str(path), got=got, expected="none" if expected is None else f"{key} {list(expected)}")
    return Projection(weight, bias, residual, activation)
