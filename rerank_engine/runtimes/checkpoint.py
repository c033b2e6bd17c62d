"""From a checkpoint in transformers' layout (config.json and .safetensors) to an `Encoder`, without transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptModelError, UnsupportedModelError
from .encoder import Architecture, Encoder
from .families import FAMILIES, INSTEAD, Config, readable
from .safetensors import read_tensors, tensor_names

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def read_checkpoint(name: str, folder: Path, config: Mapping[str, Any], choice: tuple[int, int] | None = None) -> Encoder:
    """Reads the weights of a folder into an Encoder.

    choice: the tokens (yes, no) of a decoder without a classifier: its head becomes their rows of the LM head, logit = yes - no.
    Raises UnsupportedModelError (a family or a setting), CorruptModelError (a tensor that is missing or of another shape, NaN).
    """
    told = readable(config)
    if told is None:
        got = repr(config.get("architectures"))
        raise UnsupportedModelError(f"model '{name}': architectures", got=got, expected="one of " + ", ".join(FAMILIES))
    family, classifier = FAMILIES[told]
    architecture, names = family(Config(name, config), classifier)
    tensors = Tensors(name, folder)
    names = {ours: tuple(map(tensors.there, theirs)) for ours, theirs in names.items()}
    lm_head = _lm_head(config, tensors) if choice is not None else ""
    needed = {theirs for many in names.values() for theirs in many} | ({lm_head} if lm_head else set())
    found = tensors.read(needed)
    weights = {}
    for ours, theirs in names.items():
        parts = [found[tensor] for tensor in theirs if tensor in found]
        if len(parts) == len(theirs):
            weights[ours] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        else:
            missing = next(tensor for tensor in theirs if tensor not in found)
            raise CorruptModelError(f"model '{name}'", got=f"no tensor '{missing}'", expected=f"the weights of a {told}")
    if architecture.family == "gte":
        for ours in [name for name in weights if name.endswith((".up.weight", ".up.bias"))]:
            weights[ours] = np.concatenate(np.split(weights[ours], 2)[::-1])
    if choice is not None:
        weights["head.classifier.weight"] = (found[lm_head][choice[0]] - found[lm_head][choice[1]])[None]
        architecture = Architecture(**{**vars(architecture), "head": "choice", "labels": 1})
    made = Encoder(architecture, weights)
    check_shapes(name, made)
    return made


def _lm_head(config: Mapping[str, Any], tensors: Tensors) -> str:
    return "model.embed_tokens.weight" if config.get("tie_word_embeddings") or "lm_head.weight" not in tensors.where else "lm_head.weight"


def check_shapes(name: str, encoder: Encoder) -> None:
    """Raises CorruptModelError for a weight of another shape than the architecture says."""
    a, wide = encoder.architecture, 2 if encoder.architecture.gated else 1
    inner, qkv = a.heads * a.head_dim, (a.heads + 2 * a.kv_heads) * a.head_dim
    rows = {"qkv": (qkv, a.hidden), "out": (a.hidden, inner), "up": (wide * a.intermediate, a.hidden), "down": (a.hidden, a.intermediate)}
    whole: dict[str, tuple[int, ...]] = {"word": (a.vocabulary, a.hidden), "type": (a.types, a.hidden)}
    whole |= {"position": (a.max_positions + a.position_offset, a.hidden), "decoder": whole["word"], "head.bias": (a.vocabulary,)}
    for weight, array in encoder.weights.items():
        part, _, kind = weight.rpartition(".")
        last = part.rpartition(".")[2]
        matrix = rows.get(last, (a.labels if last == "classifier" else a.hidden, a.hidden))
        expected: tuple[int, ...]
        if weight in whole:
            expected = whole[weight]
        elif "norm" in last:
            expected = (a.head_dim,) if last in ("q_norm", "k_norm") else (a.hidden,)
        else:
            expected = matrix if kind == "weight" else matrix[:1]
        if array.shape != expected:
            raise CorruptModelError(f"model '{name}': weight '{weight}'", got=f"shape {list(array.shape)}", expected=f"{list(expected)}")


class Tensors:
    """The tensors of a folder: of model.safetensors, or of the shards that its index names. A norm's numbers may have their old names,
    gamma and beta."""

    def __init__(self, name: str, folder: Path) -> None:
        single, index = (folder / file for file in WEIGHTS)
        if single.is_file():
            self.where = dict.fromkeys(tensor_names(single), single)
            self._stored = {_renamed(name): name for name in self.where}
            return
        if not index.is_file():
            raise CorruptModelError(f"model '{name}'", got=f"no {' or '.join(WEIGHTS)} in {folder}", expected="weights")
        try:
            told = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            self.where = {str(tensor): folder / Path(file).name for tensor, file in told.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptModelError(str(index), got=f"a file that does not parse ({error})", expected="a weight_map") from error
        self._stored = {_renamed(name): name for name in self.where}

    def there(self, name: str) -> str:
        """The name, or what stands for it in a checkpoint that lacks it."""
        return name if name in self._stored else INSTEAD.get(name, name)

    def read(self, names: set[str]) -> dict[str, NDArray[np.float32]]:
        found: dict[str, NDArray[np.float32]] = {}
        stored = {self._stored[name] for name in names if name in self._stored}
        for path in sorted({self.where[name] for name in stored}):
            found |= read_tensors(path, {name for name in stored if self.where[name] == path})
        return {_renamed(name): array for name, array in found.items()}


def _renamed(tensor: str) -> str:
    layer, _, part = tensor.rpartition(".")
    return f"{layer}.{dict(gamma='weight', beta='bias').get(part, part)}" if layer.endswith("LayerNorm") else tensor
