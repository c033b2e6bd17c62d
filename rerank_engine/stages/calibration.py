"""From logits to probabilities: the activation comes last, in float64, and never changes an order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core import Query, Ranking, Stage
from ..errors import FileFormatError, InputError, MissingDependency
from ..limits import limits
from ..ops.checks import one_of
from ..stored import read_json, write_json
from ..trace import reach

METHODS = ("isotonic", "platt")


def sigmoid(logits: ArrayLike) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)) in float64: logits keep their order well past where float32 would tie at 1 (about 17; float64: about 37)."""
    x = np.asarray(logits, dtype=np.float64)
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


@final
@dataclass(frozen=True, eq=False)
class Calibration:
    """p = f(logit), f never falling: how often documents of that logit were relevant among the labelled pairs. Applied in numpy.

    method "isotonic": linear between the points (x[i], y[i]), flat outside them (Zadrozny & Elkan 2002). "platt": 1 / (1 + exp(-(slope *
    logit + intercept))) (Platt 1999), with x = (intercept, slope) and y empty. fingerprint, label: of the model that made the logits.
    pairs, relevant: how many labelled pairs it was fitted on.
    Raises InputError for numbers that are no such function.
    """

    method: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    fingerprint: str = ""
    label: int = 0
    pairs: int = 0
    relevant: int = 0

    def __post_init__(self) -> None:
        one_of("Calibration: method", self.method, METHODS)
        x, y = (np.asarray(values, np.float64) for values in (self.x, self.y))
        if x.ndim != 1 or y.ndim != 1 or not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise InputError("Calibration", got="NaN, infinity or several dimensions", expected="finite numbers x [n] and y [n]")
        if self.method == "platt" and not (len(x) == 2 and len(y) == 0 and x[1] > 0):
            raise InputError("Calibration: platt", got=f"x {x.tolist()}", expected="x = (intercept, slope), a slope above 0, and no y")
        if self.method == "isotonic" and not (
            len(x) == len(y) > 0 and (np.diff(x) > 0).all() and (np.diff(y) >= 0).all() and y[0] >= 0 and y[-1] <= 1
        ):
            raise InputError("Calibration: isotonic", got="other numbers", expected="rising x, and for each a y from 0 to 1, never falling")
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)

    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """float64, of the logits' shape. Logits that an isotonic step holds tie: order by the logits, not by these."""
        values = np.asarray(logits, np.float64)
        if self.method == "platt":
            return sigmoid(self.x[0] + self.x[1] * values)
        return np.interp(values, self.x, self.y)

    @classmethod
    def fit(cls, logits: ArrayLike, relevant: ArrayLike, *, method: str = "isotonic", fingerprint: str = "", label: int = 0) -> Calibration:
        """logits [n], relevant bool [n]. Needs scikit-learn. Raises InputError (fewer than 2 pairs of either kind, a model that ranks
        what is relevant lower), MissingDependency."""
        x, told = np.asarray(logits, np.float64), np.asarray(relevant, bool)
        if x.ndim != 1 or x.shape != told.shape or not np.isfinite(x).all():
            raise InputError(
                "calibrate", got=f"{list(x.shape)} logits, {list(told.shape)} labels", expected="a label for each finite logit"
            )
        positive = require_labels(told, method)
        points = _isotonic(x, told) if method == "isotonic" else _platt(x, told, positive)
        return cls(method, *points, fingerprint, label, len(x), positive)

    def to_dict(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in ("method", "fingerprint", "label", "pairs", "relevant")}
        return {**told, "x": self.x.tolist(), "y": self.y.tolist()}

    def save(self, path: str | Path) -> None:
        """Writes JSON of plain numbers, as a whole or not at all. Raises InputError."""
        write_json(path, {"kind": "calibration", **self.to_dict()})

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Reads what `save` wrote. Raises FileFormatError."""
        told = read_json(path, "calibration")
        try:
            whole = {name: _whole(told[name]) for name in ("label", "pairs", "relevant")}
            return cls(
                str(told["method"]), np.array(told["x"], np.float64), np.array(told["y"], np.float64), str(told["fingerprint"]), **whole
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:  # InputError is a ValueError
            raise FileFormatError(str(path), got=f"no calibration ({error})", expected="what Calibration.save writes") from error

    def __repr__(self) -> str:
        return f"Calibration({self.method}, {self.pairs} pairs, {self.relevant} relevant)"


def require_labels(relevant: NDArray[np.bool_], method: str) -> int:
    """How many pairs are relevant. Raises what `Calibration.fit` would for these labels, before anything is scored for it."""
    one_of("calibrate: method", method, METHODS)
    positive = int(np.count_nonzero(relevant))
    if min(positive, len(relevant) - positive) < 2:
        got = f"{positive} relevant and {len(relevant) - positive} other pairs"
        hint = "Judgments that name only what is relevant need candidates=: what they leave out counts as not relevant."
        raise InputError("calibrate: labelled pairs", got=got, expected="at least 2 of each kind", hint=hint)
    _sklearn("isotonic")
    return positive


def _isotonic(x: NDArray[np.float64], told: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    fitted = _sklearn("isotonic").IsotonicRegression(y_min=0.0, y_max=1.0, increasing=True, out_of_bounds="clip").fit(x, told)
    at, first = np.unique(np.asarray(fitted.X_thresholds_, np.float64), return_index=True)
    return at, np.clip(np.maximum.accumulate(np.asarray(fitted.y_thresholds_, np.float64)[first]), 0, 1)


def _platt(x: NDArray[np.float64], told: NDArray[np.bool_], positive: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Platt's targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2) in place of 1 and 0, as each pair twice with their weights."""
    target = np.where(told, (positive + 1) / (positive + 2), 1 / (len(x) - positive + 2))
    middle, spread = float(x.mean()), float(x.std()) or 1.0
    rows, labels = np.tile((x - middle) / spread, 2)[:, None], np.repeat([1, 0], len(x))
    model = _sklearn("linear_model").LogisticRegression(C=1e10, max_iter=1000)
    model.fit(rows, labels, sample_weight=np.concatenate([target, 1 - target]))
    slope, intercept = float(model.coef_[0, 0]) / spread, float(model.intercept_[0])
    if not slope > 0:
        hint = "The labels may be turned round, or `label=` is the wrong one of the model's."
        raise InputError("calibrate", got="relevant pairs with lower logits than others", expected="higher ones", hint=hint)
    return np.array([intercept - slope * middle, slope]), np.empty(0)


def _sklearn(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        hint = "pip install scikit-learn (the extra [calibration]); applying a calibration needs nothing."
        raise MissingDependency("calibrate needs the package scikit-learn", hint=hint) from error


def labelled_pairs(
    queries: Sequence[Query], qrels: Mapping[str, Mapping[str, int]], candidates: Sequence[Ranking], rel: int
) -> tuple[list[tuple[str, str]], NDArray[np.bool_]]:
    """((query, passage) pairs, bool [n] relevant) of the candidates; what a query's judgments leave out is not relevant.

    Queries without judgments and blank passages are left out. Raises InputError.
    """
    if len(queries) != len(candidates):
        raise InputError("calibrate", got=f"{len(queries)} queries and {len(candidates)} rankings", expected="one ranking per query")
    pairs, told = list[tuple[str, str]](), list[bool]()
    for query, ranking in zip(queries, candidates):
        if not isinstance(query, Query) or query.id is None:
            raise InputError("calibrate: queries", got=query, expected="Query objects with ids, by which qrels knows them")
        if (judged := qrels.get(query.id)) is None:
            continue
        for document in ranking.documents:
            if document.passage.strip():
                pairs.append((query.text, document.passage))
                told.append(judged.get(document.id, 0) >= rel)
    return pairs, np.array(told, bool)


@final
class Activate(Stage):
    """Maps logits to probabilities, last: "sigmoid" (the scale "probability") or a Calibration (the scale "calibrated").

    The order is that of the logits, also where the mapped float32 scores tie; the column `logit` float32 keeps them. The lowest float32, of
    a document with nothing to compare, becomes what the mapping gives at its lower end. After a deadline a list without
    logits passes as it is.
    """

    def __init__(self, activation: str | Calibration = "sigmoid") -> None:
        if not isinstance(activation, Calibration):
            one_of("Activate: activation", activation, ("sigmoid",))
        self.activation = activation

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        assert rankings is not None
        function, scale = (self.activation, "calibrated") if isinstance(self.activation, Calibration) else (sigmoid, "probability")
        out = []
        for ranking in rankings:
            if ranking.scale != "logit" and limits().out_of_time():  # no logit was computed in time
                out.append(ranking._with(facts=reach(0, len(ranking)), notes={}))
                continue
            if ranking.scale != "logit" and len(ranking):
                raise InputError("Activate", got=f"scores on the scale '{ranking.scale}'", expected="logits")
            scores = np.minimum.accumulate(function(ranking.scores)).astype(np.float32)  # exp is not monotone to the last bit
            out.append(ranking._with(scores=scores, scale=scale, columns={**ranking.columns, "logit": ranking.scores}, facts={}, notes={}))
        return out

    def __repr__(self) -> str:
        return f"Activate({self.activation!r})"


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no whole number")
    return value
