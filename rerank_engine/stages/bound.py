"""When is enough scored? A bound, learnt from queries that were scored in full, on what the documents not yet read could still do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ..core import LOWEST
from ..errors import FileFormatError, InputError
from ..ops.checks import count, finite_number, one_of
from ..stored import read_json, write_json

LOSSES = ("share", "any")
Floats = NDArray[np.floating[Any]]


@final
@dataclass(frozen=True)
class Bound:
    """A statistical stopping rule for the expensive scores S of documents in the order of cheap scores c_1 >= c_2 >= ... >= c_n.

    S_r = b + slope (c_r - c_1) + log_rank ln r + e, with e of the deviation `sd`, and b, a query's own level, of `mean` and `variance`,
    estimated anew (its posterior mean) from what is scored. After m documents, t being the k-th best S among them,

        margin = min over r > m of (t - E[S_r]) / sd        settled: margin >= threshold

    The threshold is conformal risk control's (Angelopoulos et al. 2022): the smallest with (sum of the losses of the n queries + 1) /
    (n + 1) <= delta. loss "share": how much of the full top k was not scored, so that a document of the top k is missed with probability
    delta at most, over queries like those of the fit; "any": 1 if any was missed, so that the top k is complete with probability
    1 - delta. It holds on average over queries, not for each, and as if slope ... variance, of the same queries, had been known before.
    """

    slope: float
    log_rank: float
    mean: float
    variance: float
    sd: float
    threshold: float
    k: int
    delta: float
    loss: str
    wave: int
    queries: int

    def __post_init__(self) -> None:
        for name in ("slope", "log_rank", "mean", "variance", "sd", "threshold"):
            object.__setattr__(self, name, finite_number(f"Bound: {name}", getattr(self, name)))
        for name in ("k", "wave", "queries"):
            count(f"Bound: {name}", getattr(self, name))
        one_of("Bound: loss", self.loss, LOSSES)
        finite_number("Bound: delta", self.delta, 0, 1)
        if not (self.sd > 0 and self.variance > 0):
            raise InputError("Bound", got=f"sd {self.sd}, variance {self.variance}", expected="both above 0")

    @classmethod
    def fit(
        cls, cheap: Sequence[Floats], scores: Sequence[Floats], *, k: int = 10, delta: float = 0.1, loss: str = "share", wave: int = 8
    ) -> Bound:
        """cheap, scores: for each query the cheap and the expensive scores of its candidates, [n], in the cheap order.

        scores may be longer: those beyond were cut before, are never reached, and count as missed. Raises InputError, also where no
        threshold keeps the loss at delta (too few queries: at least 1 / delta - 1; or too much was cut before).
        """
        one_of("Bound.fit: loss", loss, LOSSES)
        k, wave, delta = count("Bound.fit: k", k), count("Bound.fit: wave", wave), finite_number("Bound.fit: delta", delta, 0, 1)
        if len(cheap) != len(scores) or any(len(c) > len(s) for c, s in zip(cheap, scores)):
            raise InputError("Bound.fit", got="lists that do not match", expected="scores for each cheap score of each query")
        rows = [(np.asarray(c, np.float64), np.asarray(s, np.float64)) for c, s in zip(cheap, scores) if len(c)]
        if not rows or (1 / (len(rows) + 1)) > delta:
            expected = f"at least {int(np.ceil(1 / delta)) - 1}, 1 / delta - 1" if delta else "a delta above 0"
            raise InputError("Bound.fit: queries", got=len(rows), expected=expected)
        if not all(np.isfinite(values).all() for row in rows for values in row):
            raise InputError("Bound.fit", got="NaN or infinity", expected="finite scores of every candidate")
        loose = cls(*_model(rows), threshold=0.0, k=k, delta=delta, loss=loss, wave=wave, queries=len(rows))
        paths = [loose.path(c, s) for c, s in rows]
        lost = [np.array([lost_by(loss, s, m, k) for m in stops]) for (_, s), (stops, _) in zip(rows, paths)]
        threshold = _threshold([margins for _, margins in paths], lost, delta)
        if threshold is None:
            got = f"a loss above {delta} even where all that is kept is scored"
            raise InputError("Bound.fit", got=got, expected="one that can be kept", hint="Keep more, allow a larger delta, or add queries.")
        return cls(**{**asdict(loose), "threshold": threshold})

    def stops(self, n: int) -> list[int]:
        """After how many of n documents it is asked: k and whole waves more, and n, where there is nothing left."""
        return [*range(min(self.k, n), n, self.wave), n]

    def path(self, cheap: Floats, scores: Floats) -> tuple[list[int], NDArray[np.float64]]:
        """(stops, the margin at each): what a query would go through. The last margin, with nothing left, is infinite."""
        stops = self.stops(len(cheap))
        return stops, np.array([self.margin(cheap, scores[:m]) for m in stops])

    def margin(self, cheap: Floats, scores: Floats) -> float:
        """cheap [n], scores of the first m in the cheap order. inf where nothing is left or k are not to be had."""
        n, m = len(cheap), len(scores)
        if m >= n:
            return float("inf")
        if m < self.k:
            return -float("inf")
        predicted = _features(cheap) @ [self.slope, self.log_rank]
        known = np.asarray(scores, np.float64)
        real = known > LOWEST / 2  # the lowest float32 says "nothing to compare", nothing about the level
        gap, share = known[real] - predicted[:m][real], self.variance / (self.sd**2 + int(real.sum()) * self.variance)
        level = self.mean + share * float((gap - self.mean).sum())
        best = float(np.partition(known, m - self.k)[m - self.k])
        return (best - level - float(predicted[m:].max())) / self.sd

    def settled(self, cheap: Floats, scores: Floats) -> bool:
        """Whether what is not scored may be left, by the bound."""
        return self.margin(cheap, scores) >= self.threshold

    def stop(self, cheap: Floats, scores: Floats) -> int:
        """How many would be scored, of scores known in full."""
        stops, margins = self.path(cheap, scores)
        return stops[int(np.argmax(margins >= self.threshold))]

    def save(self, path: str | Path) -> None:
        """Writes JSON of plain numbers, as a whole or not at all. Raises InputError."""
        write_json(path, {"kind": "bound", **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> Bound:
        """Reads what `save` wrote. Raises FileFormatError."""
        told = read_json(path, "bound")
        try:
            return cls(**{name: told[name] for name in cls.__dataclass_fields__})
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise FileFormatError(str(path), got=f"no bound ({error})", expected="what Bound.save writes") from error


def lost_by(loss: str, scores: Floats, m: int, k: int) -> float:
    """What stopping after the first m loses of the k best of all, from 0 to 1, never rising with m >= k; ties go to the earlier."""
    best = np.argsort(-np.asarray(scores, np.float64), kind="stable")[:k]
    late = best >= m
    return float(late.any() if loss == "any" else late.mean()) if len(best) else 0.0


def _features(cheap: Floats) -> NDArray[np.float64]:
    """[n, 2]: how far the cheap score lies below the first, and ln rank. What had nothing to compare counts as the lowest that had."""
    values = np.asarray(cheap, np.float64)
    real = values > LOWEST / 2
    values = np.maximum(values, values[real].min()) if real.any() else np.zeros_like(values)
    return np.stack([values - values.max(initial=-np.inf), np.log(np.arange(1, len(values) + 1))], axis=1)


def _model(rows: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> tuple[float, float, float, float, float]:
    """(slope, log_rank, mean, variance, sd) by least squares within queries, then the moments of the levels."""
    parts = []
    for cheap, scores in rows:
        real = scores[: len(cheap)] > LOWEST / 2
        if real.any():
            parts.append((_features(cheap)[real], scores[: len(cheap)][real]))
    if not parts:
        raise InputError("Bound.fit", got="no document with a score", expected="some")
    x = np.concatenate([features - features.mean(0) for features, _ in parts])
    y = np.concatenate([scores - scores.mean() for _, scores in parts])
    weights = np.linalg.lstsq(x, y, rcond=None)[0]
    levels = np.array([float((scores - features @ weights).mean()) for features, scores in parts])
    sd = float((y - x @ weights).std())
    small = 1e-6 * max(1.0, abs(float(levels.mean())))  # scores that the cheap ones tell exactly
    return float(weights[0]), float(weights[1]), float(levels.mean()), max(float(levels.var()), small**2), max(sd, small)


def _threshold(margins: list[NDArray[np.float64]], lost: list[NDArray[np.float64]], delta: float) -> float | None:
    """The smallest margin at which stopping keeps (sum of losses + 1) / (n + 1) <= delta. The sum never rises with the threshold."""
    values = np.unique(np.concatenate(margins))
    values = values[np.isfinite(values)]
    values = np.append(values, np.nextafter(values[-1], np.inf)) if len(values) else np.zeros(1)  # the last: nothing is ever left

    def risk(threshold: float) -> float:
        total = sum(float(row[int(np.argmax(at >= threshold))]) for at, row in zip(margins, lost))
        return (total + 1) / (len(margins) + 1)

    low, high = 0, len(values) - 1
    if risk(float(values[high])) > delta:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if risk(float(values[middle])) <= delta else (middle + 1, high)
    return float(values[low])
