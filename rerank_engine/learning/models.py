"""Models of features: trees that LightGBM or XGBoost trained, and weighted sums. Stored as data, scored without the libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import CorruptModelError, FileFormatError, InputError
from ..ops import checks
from ..ops.trees import Ensemble, tree_contributions, trees
from ..stored import read_json, write_json
from .lightgbm_text import is_lightgbm, parse_lightgbm
from .matrix import require_names
from .xgboost_json import is_xgboost, parse_xgboost

LARGEST_FILE = 1 << 30  # bytes
TREES, LINEAR = "ltr-trees", "ltr-linear"
IMPORTANCES = ("gain", "split")


@final
@dataclass(frozen=True, eq=False)
class TreeModel:
    """A tree ensemble and the names of its features, in the order of its columns.

    objective: the library's name for what it was trained for. text: the library's own model file, which `save` keeps. training: what
    `train_lambdamart` tells of how it came about. Scores are LightGBM's raw scores (of a random forest the mean, as
    `predict` gives it without raw_score) or XGBoost's margins: only their order means anything.
    """

    names: tuple[str, ...]
    ensemble: Ensemble
    objective: str = ""
    text: str = field(default="", repr=False)
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", require_names("TreeModel: names", self.names))
        if len(self.names) != self.ensemble.n_features:
            expected = f"{self.ensemble.n_features}, one for each column of the trees"
            raise InputError("TreeModel: names", got=f"{len(self.names)} of them", expected=expected)

    @classmethod
    def parse(cls, text: str, names: Sequence[str] | None = None, *, where: str = "model", **more: Any) -> TreeModel:
        """From the text of a LightGBM model or the JSON of an XGBoost one. names: instead of those in it.

        Raises CorruptModelError, UnsupportedModelError, InputError for another number of names.
        """
        if not (is_lightgbm(text) or is_xgboost(text)):
            hint = 'Write it by LightGBM\'s save_model("model.txt") or XGBoost\'s save_model("model.json").'
            raise CorruptModelError(where, got=repr(text[:30]), expected="LightGBM's text or XGBoost's JSON", hint=hint)
        ensemble, own, objective = (parse_lightgbm if is_lightgbm(text) else parse_xgboost)(text, where)
        return cls(own if names is None else tuple(names), ensemble, objective, text, **more)

    def score(self, values: ArrayLike, *, threads: int | None = 1, backend: str = "auto") -> NDArray[np.float64]:
        """float64 [n] of features [n, f]; see rr.ops.trees."""
        return trees(values, self.ensemble, threads=threads, backend=backend)

    def contributions(self, values: ArrayLike) -> tuple[float, NDArray[np.float64]]:
        """(bias, float64 [n, f]) by the paths that rows take: bias + the sum of a row is its score; see rr.ops.tree_contributions."""
        return tree_contributions(values, self.ensemble)

    def importance(self, kind: str = "gain") -> dict[str, float]:
        """Feature -> what its splits gained in all ("gain"), or how many there are ("split"); largest first, then by name."""
        checks.one_of("importance: kind", kind, IMPORTANCES)
        gain = self.ensemble.gain if kind == "gain" else np.ones(len(self.ensemble.feature))
        return _falling(self.names, np.bincount(self.ensemble.feature, gain, minlength=len(self.names)))

    def plot_importance(self, path: str | Path, *, kind: str = "gain", top: int = 20) -> None:
        """A bar for each of the `top` features; the ending says the format. Needs matplotlib (MissingDependency)."""
        from .plot import draw_importance

        draw_importance(self.importance(kind), f"{kind} of {self.ensemble.n_trees} trees", path, top)

    def save(self, path: str | Path) -> None:
        """One JSON file: names, and the library's own text. Raises InputError."""
        if not self.text:
            raise InputError("TreeModel.save", got="an ensemble without a library's text", expected="a model that was trained or read")
        write_json(path, {"kind": TREES, "names": list(self.names), "training": dict(self.training), "model": self.text})

    def __repr__(self) -> str:
        return f"TreeModel({self.ensemble.n_trees} trees, {len(self.names)} features{', ' * bool(self.objective)}{self.objective})"


@final
@dataclass(frozen=True, eq=False)
class LinearModel:
    """score = bias + sum_f weights[f] * (x[f] - mean[f]) / scale[f], in float64; NaN counts as the mean. float64 [f] each, scales above 0.

    Features of different size become comparable by mean and scale, those of the training data; so weights can be compared too.
    """

    names: tuple[str, ...]
    weights: NDArray[np.float64]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    bias: float = 0.0
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", require_names("LinearModel: names", self.names))
        for name in ("weights", "mean", "scale"):
            array = np.array(getattr(self, name), np.float64)
            if array.shape != (len(self.names),) or not np.isfinite(array).all() or (name == "scale" and not (array > 0).all()):
                expected = f"finite numbers [{len(self.names)}]" + ", above 0" * (name == "scale")
                raise InputError(f"LinearModel: {name}", got=f"shape {list(array.shape)} or other numbers", expected=expected)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "bias", checks.finite_number("LinearModel: bias", self.bias))

    def score(self, values: ArrayLike, *, threads: int | None = 1, backend: str = "auto") -> NDArray[np.float64]:
        """float64 [n] of features [n, f]. threads and backend are those of TreeModel, and do nothing here."""
        bias, added = self.contributions(values)
        scores: NDArray[np.float64] = bias + added.sum(axis=1)
        return scores

    def contributions(self, values: ArrayLike) -> tuple[float, NDArray[np.float64]]:
        """(bias, float64 [n, f]): what each feature adds."""
        x = np.asarray(values, np.float64)
        if x.ndim != 2 or x.shape[1] != len(self.names) or np.isinf(x).any():
            raise InputError(
                "LinearModel: features", got=f"shape {list(x.shape)}, or infinity", expected=f"[n, {len(self.names)}], finite or NaN"
            )
        added = self.weights * ((x - self.mean) / self.scale)
        return self.bias, np.where(np.isnan(x), 0.0, added)

    def importance(self) -> dict[str, float]:
        """Feature -> the absolute weight, of features scaled alike; largest first."""
        return _falling(self.names, np.abs(self.weights))

    def plot_importance(self, path: str | Path, *, top: int = 20) -> None:
        """As of TreeModel."""
        from .plot import draw_importance

        draw_importance(self.importance(), "weight", path, top)

    def save(self, path: str | Path) -> None:
        """One JSON file of plain numbers. Raises InputError."""
        arrays = {name: getattr(self, name).tolist() for name in ("weights", "mean", "scale")}
        write_json(path, {"kind": LINEAR, "names": list(self.names), **arrays, "bias": self.bias, "training": dict(self.training)})

    def __repr__(self) -> str:
        return f"LinearModel({len(self.names)} features)"


Model: TypeAlias = TreeModel | LinearModel


def _falling(names: Sequence[str], values: NDArray[Any]) -> dict[str, float]:
    return dict(sorted(zip(names, values.tolist()), key=lambda entry: (-entry[1], entry[0])))


def load(path: str | Path, names: Sequence[str] | None = None) -> Model:
    """What `save` wrote, LightGBM's text model or XGBoost's JSON model; told apart by what is in it. Nothing in it is run.

    names: of the features, instead of those in a library's file. Raises FileFormatError (no such file, none of these), CorruptModelError,
    UnsupportedModelError, InputError (another number of names).
    """
    text = _read(path)
    if is_lightgbm(text) or is_xgboost(text):
        return TreeModel.parse(text, names, where=str(path))
    if not text.lstrip().startswith("{"):
        hint = "XGBoost writes JSON where the file's name ends in .json."
        raise FileFormatError(str(path), got=repr(text[:30]), expected="a model of LTR, LightGBM's text or XGBoost's JSON", hint=hint)
    told = read_json(path, TREES, LINEAR, largest=LARGEST_FILE)
    try:
        own, training = tuple(told["names"]) if names is None else tuple(names), dict(told["training"])
        if told["kind"] == TREES:
            return TreeModel.parse(told["model"], own, where=str(path), training=training)
        weights, mean, scale = (np.array(told[name], np.float64) for name in ("weights", "mean", "scale"))
        return LinearModel(own, weights, mean, scale, told["bias"], training)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CorruptModelError(str(path), got=f"{type(error).__name__}: {error}", expected="what a model's save writes") from error


def _read(path: str | Path) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise FileFormatError(str(path), got="more than 1 GiB", expected="a model")
        return data.decode("utf-8")
    except OSError as error:
        raise FileFormatError(str(path), got=str(error.strerror), expected="a file that can be read") from error
    except ValueError as error:
        hint = 'XGBoost\'s binary form: load it there and call save_model("model.json").'
        raise FileFormatError(str(path), got="bytes that are no text", expected="a model as text or JSON", hint=hint) from error
