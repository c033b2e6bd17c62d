"""The curve of quality_cross.py: nDCG@10 against the tokens that the cross-encoder has seen, and its picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank_engine import Query, Ranking
from rerank_engine.evaluation import evaluate_queries
from rerank_engine.evaluation.compare import bootstrap
from rerank_engine.stages.bound import Bound

MEASURE = "nDCG@10"
DELTAS, FOLDS, BUDGET = (0.05, 0.08, 0.1, 0.15, 0.2), 5, 0.4
CUTS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75)  # shares of the list
LABELS = {
    "fixed": "a fixed share of the list",
    "cascade": "calibrated stop",
    "cascade-budget": f"the same, at most {BUDGET:.0%} of the list",
}
Orders = list[NDArray[np.int64]]


@dataclass(frozen=True)
class Candidates:
    """Lists to re-rank, and what is known to be relevant."""

    name: str
    qrels: dict[str, dict[str, int]]
    queries: list[Query]
    rankings: list[Ranking]


def ndcg(found: Candidates, orders: Orders) -> NDArray[np.float64]:
    """Of each query, its list's places in these orders."""
    run = {}
    for query, ranking, order in zip(found.queries, found.rankings, orders):
        ids = ranking.doc_ids
        run[str(query.id)] = {ids[place]: -float(rank) for rank, place in enumerate(order)}
    values = evaluate_queries(found.qrels, run, [MEASURE])[MEASURE]
    return np.array([values[str(query.id)] for query in found.queries])


def curve(
    found: Candidates, scores: list[NDArray[np.float32]], tokens: list[NDArray[np.int64]], cheap: list[NDArray[np.float32]]
) -> Iterator[dict[str, Any]]:
    """All re-ranked, cuts of a fixed share of the list, and stops by a bound that was calibrated on other queries."""
    everything = sum(int(row.sum()) for row in tokens)
    full = ndcg(found, [np.argsort(-row, kind="stable") for row in scores])

    def point(setting: str, how: str, orders: Orders, spent: int, **more: Any) -> dict[str, Any]:
        values = ndcg(found, orders)
        lost = full - values
        return {
            "kind": "curve", "collection": found.name, "queries": len(found.queries), "setting": setting, "how": how,
            "tokens_share": round(spent / everything, 4), "ndcg@10": round(float(values.mean()), 4), "lost": round(float(lost.mean()), 4),
            "lost_95": [round(x, 4) for x in bootstrap(lost)], **more,
        }  # fmt: skip

    yield point("first stage", "none", [np.arange(len(row)) for row in scores], 0)
    yield point("cheap alone", "none", [np.argsort(-row, kind="stable") for row in cheap], 0)
    yield point("all", "all", [np.argsort(-row, kind="stable") for row in scores], everything)
    for share in CUTS:
        orders, spent = [], 0
        for row, seen, by in zip(scores, tokens, cheap):
            order = np.argsort(-by, kind="stable")
            head = order[: max(10, round(share * len(order)))]
            spent += int(seen[head].sum())
            orders.append(np.concatenate([head[np.argsort(-row[head], kind="stable")], order[len(head) :]]))
        yield point(f"first {share:.0%}", "fixed", orders, spent)
    fewest = len(scores) - -(-len(scores) // FOLDS)  # that a bound is fitted on
    for most in (1.0, BUDGET):
        for delta in (delta for delta in DELTAS if delta * (fewest + 1) >= 1):  # of fewer queries nothing so small can be said
            orders, spent = [], 0
            for row, seen, (order, stop) in zip(scores, tokens, stopped(scores, cheap, delta)):
                head = order[: min(stop, int(np.ceil(most * len(order))))]
                spent += int(seen[head].sum())
                orders.append(np.concatenate([head[np.argsort(-row[head], kind="stable")], order[len(head) :]]))
            how, budget = ("cascade", "") if most == 1.0 else ("cascade-budget", f", at most {most:.0%}")
            yield point(f"delta {delta:g}{budget}", how, orders, spent)


def stopped(scores: list[NDArray[np.float32]], cheap: list[NDArray[np.float32]], delta: float) -> list[tuple[NDArray[np.int64], int]]:
    """(the cheap order, where the bound stops) of each query; the bound is fitted on the other FOLDS - 1 parts of the queries."""
    orders = [np.argsort(-row, kind="stable") for row in cheap]
    lists = [(by[order].astype(np.float64), row[order].astype(np.float64)) for row, by, order in zip(scores, cheap, orders)]
    part = np.random.default_rng(0).permutation(len(lists)) % FOLDS
    stops = np.zeros(len(lists), np.int64)
    for fold in range(FOLDS):
        others = [entry for entry, at in zip(lists, part) if at != fold]
        bound = Bound.fit([by for by, _ in others], [row for _, row in others], delta=delta)
        for i in np.flatnonzero(part == fold):
            stops[i] = bound.stop(*lists[i])
    return list(zip(orders, stops.tolist()))


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """One panel a collection. Raises ModuleNotFoundError without matplotlib."""
    from matplotlib.figure import Figure

    points = [row for row in rows if row["kind"] == "curve"]
    names = list(dict.fromkeys(row["collection"] for row in points))
    figure = Figure(figsize=(5.5 * len(names), 4), layout="constrained")
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0]):
        for how, style in (("fixed", "o-"), ("cascade", "s-"), ("cascade-budget", "^:")):
            line = sorted((100 * row["tokens_share"], row["ndcg@10"]) for row in points if (row["collection"], row["how"]) == (name, how))
            if line:
                axes.plot(*zip(*line), style, label=LABELS[how])
        full = next(row["ndcg@10"] for row in points if (row["collection"], row["how"]) == (name, "all"))
        axes.axhline(full, color="grey", linewidth=1, label="all of it re-ranked")
        axes.axhline(full - 0.005, color="grey", linewidth=1, linestyle=":", label="0.005 below")
        axes.axvline(40, color="grey", linewidth=0.5)
        axes.set(title=name, xlabel="tokens of the cross-encoder, % of all", ylabel=MEASURE)
        axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
