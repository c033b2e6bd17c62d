"""Measured quality: what each configuration reached on judged collections, and between two measured depths, what lies between.

A row says {"collection", "method", "ndcg@10", "ndcg@10_95": [low, high], "queries"}; a method's name says the stages,

    FIRST[, RERANKER@DEPTH[, float16 | 2 bits | float32]]...
    "hybrid, cross-encoder@50", "BM25, late interaction@100, 2 bits, cross-encoder@20"

and without a FIRST it re-ranks BM25, which is the stored run of a collection that has one ("BM25 (stored run)").
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError, InputError

FIRSTS = {
    "BM25": ("bm25",),
    "dense": ("dense",),
    "SPLADE": ("splade",),
    "late interaction": ("late",),
    "hybrid": ("bm25", "dense"),
    "hybrid of four": ("bm25", "dense", "splade", "late"),
}
STORED = "BM25 (stored run)"
RERANKERS = {"vectors": "vectors", "late interaction": "maxsim", "cross-encoder": "cross", "cascade": "cascade"}
PRECISIONS = {"float16": "float16", "2 bits": "2bit", "float32": "float32"}
DEFAULT_PRECISION = {"maxsim": "float16"}  # of a name that says none; "" for other kinds: as the model's file has it
MEASURE = "ndcg@10"


@dataclass(frozen=True, slots=True)
class Rerank:
    """A re-ranker of a chain: kind "vectors", "maxsim", "cross" or "cascade"; depth: documents that it orders."""

    kind: str
    depth: int
    precision: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """A first stage, by its branches (several are fused by RRF), and the re-rankers after it."""

    first: tuple[str, ...]
    rerankers: tuple[Rerank, ...] = ()

    @property
    def name(self) -> str:
        """As the quality table writes it, the first stage always named."""
        first = next((name for name, branches in FIRSTS.items() if branches == self.first), "hybrid of " + "+".join(self.first))
        return ", ".join([first, *(_name(rerank) for rerank in self.rerankers)])

    def at(self, depth: int) -> Chain:
        """The same with another depth of the last re-ranker."""
        last = self.rerankers[-1]
        return Chain(self.first, (*self.rerankers[:-1], Rerank(last.kind, depth, last.precision)))


def _name(rerank: Rerank) -> str:
    kind = next(name for name, own in RERANKERS.items() if own == rerank.kind)
    told = "" if rerank.precision == DEFAULT_PRECISION.get(rerank.kind, "") and rerank.kind != "maxsim" else rerank.precision
    precision = next((name for name, own in PRECISIONS.items() if own == told), "")
    return f"{kind}@{rerank.depth}" + (f", {precision}" if precision else "")


def parse(method: str) -> Chain | None:
    """The chain of a method's name, None for one that the planner does not build (such as RM3)."""
    first: tuple[str, ...] = ()
    rerankers: list[Rerank] = []
    for i, part in enumerate(re.split(r", ", method)):
        match = re.fullmatch(r"(.+)@([1-9]\d{0,5})", part)
        if i == 0 and (part in FIRSTS or part == STORED):
            first = FIRSTS.get(part, ("bm25",))
        elif i == 0 and part.startswith("hybrid of ") and set(branches := part.removeprefix("hybrid of ").split("+")) <= _SINGLE:
            first = tuple(branches)
        elif match and match[1] in RERANKERS:
            kind = RERANKERS[match[1]]
            rerankers.append(Rerank(kind, int(match[2]), DEFAULT_PRECISION.get(kind, "")))
        elif rerankers and part in PRECISIONS:
            rerankers[-1] = Rerank(rerankers[-1].kind, rerankers[-1].depth, PRECISIONS[part])
        else:
            return None
    return Chain(first or ("bm25",), tuple(rerankers))


_SINGLE = {branch for branches in FIRSTS.values() for branch in branches}


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected quality. low, high: the 95 % interval over queries. measured: False where it is interpolated between two depths."""

    value: float
    low: float
    high: float
    measured: bool = True


class Curves:
    """Quality by chain, the mean over the collections of the rows; a chain that not all of them measured is left out, so that all means
    are over the same queries. collections, queries: what it was measured on."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], collections: Sequence[str] | None = None) -> None:
        """Raises InputError for a collection that the rows lack, or where no chain is left; FileFormatError."""
        found: dict[str, dict[Chain, tuple[float, float, float]]] = {}
        queries: dict[str, int] = {}
        for row in rows:
            collection, method, told = _read(row)
            queries[collection] = max(queries.get(collection, 0), int(row.get("queries", 0)))
            own = found.setdefault(collection, {})
            if (chain := parse(method)) is not None and (method == STORED or chain not in own):
                own[chain] = told
        chosen = list(found) if collections is None else list(collections)
        if unknown := [name for name in chosen if name not in found]:
            raise InputError("quality: collection", got=", ".join(unknown), expected="one of " + ", ".join(found))
        shared = [chain for chain in found[chosen[0]] if all(chain in found[name] for name in chosen)] if chosen else []
        if not shared:
            raise InputError("quality", got="no method that all its collections measured", expected="rows of benchmarks.quality_table")
        self.collections, self.queries = tuple(chosen), sum(queries[name] for name in chosen)
        self.chains = {chain: _mean([found[name][chain] for name in chosen]) for chain in shared}

    def only(self, wanted: Callable[[Chain], bool]) -> Curves:
        """Of the chains that are wanted, which may be none."""
        made = copy(self)
        made.chains = {chain: own for chain, own in self.chains.items() if wanted(chain)}
        return made

    @classmethod
    def load(cls, path: str | Path | None = None, collections: Sequence[str] | None = None) -> Curves:
        """A JSON list of rows; by default the table that ships with the package."""
        try:
            text = Path(path).read_text() if path is not None else (files(__package__) / "data" / "quality.json").read_text()
            rows = json.loads(text)
        except (ValueError, OSError) as error:
            raise FileFormatError(f"quality: {path}", got=str(error), expected="a JSON list of rows of benchmarks.quality_table") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise FileFormatError(f"quality: {path}", got=type(rows).__name__, expected="a JSON list of rows")
        return cls(rows, collections)

    def depths(self, chain: Chain) -> list[int]:
        """The measured depths of a chain's last re-ranker."""
        return sorted(own.rerankers[-1].depth for own in self.chains if own.rerankers and own.at(1) == chain.at(1))

    def of(self, chain: Chain) -> Estimate | None:
        """Its quality; at a depth that was not measured, linear in the logarithm of the depth between the next ones that were; depth 1 is
        the chain without its last re-ranker. None beyond what was measured."""
        if chain in self.chains:
            return self.chains[chain]
        if not chain.rerankers:
            return None
        depth, measured = chain.rerankers[-1].depth, self.depths(chain)
        points = {d: self.chains[chain.at(d)] for d in measured}
        if 1 not in points and (before := self.of(Chain(chain.first, chain.rerankers[:-1]))) is not None:
            points[1] = before
        below, above = [d for d in points if d < depth], [d for d in points if d > depth]
        if not below or not above:
            return None
        low, high = max(below), min(above)
        share = float(np.log(depth / low) / np.log(high / low))
        a, b = points[low], points[high]
        value, lowest, highest = ((1 - share) * x + share * y for x, y in ((a.value, b.value), (a.low, b.low), (a.high, b.high)))
        return Estimate(value, lowest, highest, measured=False)


def _read(row: Mapping[str, Any]) -> tuple[str, str, tuple[float, float, float]]:
    try:
        low, high = row.get(f"{MEASURE}_95") or (row[MEASURE], row[MEASURE])
        told = float(row[MEASURE]), float(low), float(high)
        if not np.isfinite(told).all():
            raise ValueError("a number that is not finite")
        return str(row["collection"]), str(row["method"]), told
    except (KeyError, TypeError, ValueError) as error:
        expected = f'{{"collection", "method", "{MEASURE}", "{MEASURE}_95": [low, high]}}'
        raise FileFormatError(f"quality: row {dict(row)}", got=repr(error), expected=expected) from error


def _mean(told: Sequence[tuple[float, float, float]]) -> Estimate:
    """Collections are independent: half widths add as squares."""
    values = np.array(told)
    mean = values.mean(0)[0]
    below, above = (float(np.sqrt(((values[:, i] - values[:, 0]) ** 2).sum()) / len(values)) for i in (1, 2))
    return Estimate(float(mean), float(mean) - below, float(mean) + above)
