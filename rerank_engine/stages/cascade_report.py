"""The quality of a cascade on judged queries, replayed from scores that were made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..evaluation import evaluate
from ..ops.checks import count, finite_number
from .bound import Bound, lost_by

# query id, document ids and rows in the cheap order, cheap scores, expensive scores and tokens in that order, tokens of the cheap scorers
Listed = tuple[str | None, list[str], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], int]


def require_enough(judged: Sequence[str | None], deltas: Sequence[float], folds: int) -> None:
    """Raises InputError where an id stands twice, or where there are too few judged queries for the folds, or for a delta of what a fold
    leaves to fit on. judged: their ids."""
    if len(set(judged)) != len(judged) or not judged:
        raise InputError("Cascade.report: queries", got=f"{len(judged)} judged", expected="Query objects of distinct ids that qrels knows")
    if not 2 <= count("Cascade.report: folds", folds) <= len(judged):
        raise InputError("Cascade.report: folds", got=folds, expected=f"2 to {len(judged)}, the number of judged queries")
    left = len(judged) - -(-len(judged) // folds)
    for delta in deltas:
        if finite_number("Cascade.report: delta", delta, 0, 1) * (left + 1) < 1:
            hint = "Judge more queries, or leave such deltas out: deltas=()."
            expected = f"1 / (n + 1) at least for the n = {left} queries that {folds} folds leave to fit on"
            raise InputError("Cascade.report: delta", got=delta, expected=expected, hint=hint)


def cascade_report(
    lists: Sequence[Listed],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    keeps: Sequence[float],
    deltas: Sequence[float],
    measure: str,
    folds: int,
    seed: int,
    options: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """See Cascade.report."""
    judged = [entry for entry in lists if entry[0] is not None and entry[0] in qrels]
    chosen = {str(entry[0]): qrels[str(entry[0])] for entry in judged}
    k, of = int(options.get("k", 10)), sum(int(entry[5].sum()) for entry in judged)

    def row(setting: str, stops: Sequence[int], full: float | None) -> dict[str, Any]:
        run = {str(entry[0]): _run(entry, stop) for entry, stop in zip(judged, stops)}
        value = evaluate(chosen, run, [measure])[measure]
        tokens = sum(int(entry[5][:stop].sum()) + entry[6] for entry, stop in zip(judged, stops))
        missed = np.array([lost_by("share", entry[4], stop, k) for entry, stop in zip(judged, stops)])
        best = value if full is None else full
        spent = {"tokens": tokens, "of": of, "share": tokens / of if of else 0.0}
        found = {"missed": float(missed.mean()), "complete": float((missed == 0).mean())}
        return {"setting": setting, "value": value, "full": best, "lost": best - value, **spent, **found}

    rows = [row("full", [len(entry[4]) for entry in judged], None)]
    rows[0].update(tokens=of, share=1.0)
    full = rows[0]["value"]
    rows.append(row("cheap order", [0] * len(judged), full))
    for keep in keeps:
        share = finite_number("Cascade.report: keep", keep, 0, 1)
        rows.append(row(f"keep={keep:g}", [min(len(e[3]), int(np.ceil(share * len(e[4]) - 1e-9))) for e in judged], full))
    part = np.random.default_rng(seed).permutation(len(judged)) % folds
    for delta in deltas:
        stops = np.zeros(len(judged), np.int64)
        for fold in range(folds):
            others = [entry for entry, at in zip(judged, part) if at != fold]
            bound = Bound.fit([entry[3] for entry in others], [entry[4] for entry in others], **{**options, "delta": delta})
            for i in np.flatnonzero(part == fold):
                stops[i] = bound.stop(judged[i][3], judged[i][4])
        rows.append(row(f"delta={delta:g}", stops.tolist(), full))
    return rows


def _run(entry: Listed, stop: int) -> dict[str, float]:
    """The ranking after `stop` documents, as places: what was read by its scores, ties by row, then the rest in the cheap order."""
    _, doc_ids, ids, _, scores, _, _ = entry
    head = np.lexsort((ids[:stop], -scores[:stop]))
    order = [*head.tolist(), *range(stop, len(doc_ids))]
    return {doc_ids[at]: -float(place) for place, at in enumerate(order)}
