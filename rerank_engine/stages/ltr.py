"""Learning to rank as a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ..backends import choose
from ..core import Query, Ranking, Rescore, Scorer, Scores, Stage
from ..corpus import Corpus
from ..errors import InputError
from ..learning.features import Feature, extract, feature_matrix, require_features
from ..learning.matrix import FeatureMatrix, Qrels
from ..learning.models import LinearModel, Model, TreeModel, load
from ..learning.train import train_lambdamart, train_linear
from ..limits import limits
from ..ops import checks

KINDS = {"lambdamart": train_lambdamart, "linear": train_linear}
ALL = 2**31  # a depth beyond every list
SHOWN = 5  # features in a note


@final
@dataclass(frozen=True, eq=False)
class Explanation:
    """One ranking, explained: rows best first, each {"id", "row", "rank", "before", "score", "features": {name: value}, "contributions":
    {name: what it adds}}; score = bias + the sum of the contributions. before: the rank that came in."""

    query: str
    bias: float
    rows: Sequence[Mapping[str, Any]] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        return {"query": self.query, "bias": self.bias, "documents": [dict(row) for row in self.rows]}

    def to_text(self, documents: int = 10, features: int = SHOWN) -> str:
        """A paragraph per document: its score, and the features that moved it most."""
        lines = [f"{self.query!r}: every score begins with {self.bias:+.4g}"]
        for row in self.rows[:documents]:
            lines.append(f"{row['rank']:>3}. {row['id']} (was {row['before']}): {row['score']:.4g}")
            lines += [
                f"       {added:+10.4f}  {name} = {row['features'][name]:.6g}" for name, added in _largest(row["contributions"])[:features]
            ]
        return "\n".join(lines)


@final
class LTR(Stage):
    """Orders candidates by a model of their features.

    model: a TreeModel or a LinearModel (rerank_engine.learning), or the path of one: what `save` wrote, LightGBM's text, XGBoost's JSON.
    features: extractors that give every feature of the model, each by its name; the order does not matter. depth: documents from the top
    that are scored (None: all); the rest keep their order behind them. explain: notes the features that moved each document most
    (`ranking.explain(row)`) and keeps every feature as a column "ltr:NAME", which costs more than the scores themselves.

    Scores are on the scale "ltr": raw sums that only order. Where time was up before the features were there, the old order stays, and the
    column `scored` says so. Trained by LTR.train(LTR.matrix(features, queries, rankings, qrels)).
    Raises InputError where the names of model and features differ.
    """

    def __init__(
        self,
        model: Model | str | Path,
        features: Sequence[Feature],
        *,
        depth: int | None = None,
        explain: bool = False,
        threads: int | None = 1,
    ) -> None:
        self.features = require_features(features)
        self.model = load(model) if isinstance(model, (str, Path)) else model
        if not isinstance(self.model, (TreeModel, LinearModel)):
            raise InputError("LTR: model", got=type(model).__name__, expected="a TreeModel, a LinearModel or the path of one")
        names = [name for one in self.features for name in one.names]
        if set(names) != set(self.model.names):
            lacking, extra = sorted(set(self.model.names) - set(names)), sorted(set(names) - set(self.model.names))
            got = "; ".join(f"{what} {', '.join(some[:8])}" for what, some in (("none for", lacking), ("unknown", extra)) if some)
            raise InputError(
                "LTR: features",
                got=got,
                expected="the model's features, by their names",
                hint="learning.load(path, names=...) renames them.",
            )
        self._order = [names.index(name) for name in self.model.names]
        self.depth, self.explains, self.threads = None if depth is None else checks.count("LTR: depth", depth), explain, threads
        checks.instance("LTR: explain", explain, bool)
        self.backend = choose("trees") if isinstance(self.model, TreeModel) else "numpy"

    @staticmethod
    def matrix(
        features: Sequence[Feature], queries: Sequence[str | Query], rankings: Sequence[Ranking], qrels: Qrels | None = None
    ) -> FeatureMatrix:
        """The features of these candidates, with their relevance; see learning.feature_matrix."""
        return feature_matrix(features, queries, rankings, qrels)

    @staticmethod
    def train(matrix: FeatureMatrix, *, kind: str = "lambdamart", **options: Any) -> Model:
        """A model of the matrix: "lambdamart" by LightGBM (learning.train_lambdamart: valid=, trees=, ...), "linear" for the small case
        (learning.train_linear)."""
        checks.one_of("LTR.train: kind", kind, tuple(KINDS))
        return KINDS[kind](matrix, **options)  # type: ignore[operator, no-any-return]

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        assert rankings is not None
        depth = ALL if self.depth is None else self.depth
        heads = [ranking.head(depth) for ranking in rankings]
        values = self._values(queries, heads)
        if values is None:  # late
            told = [Scores.in_time(np.empty(0, np.float32), len(head), "ltr", {}) for head in heads]
        else:
            told = [Scores(self._score(x), "ltr", self._columns(x)) for x in values]
        done = Rescore(_Told(told), depth).apply(queries, rankings)
        if not self.explains or values is None:
            return done
        return [
            after._with(notes=self._notes(head, x), columns=self._unread(before, after, len(head)))
            for before, after, head, x in zip(rankings, done, heads, values)
        ]

    def late(self, rankings: Sequence[Ranking]) -> list[Ranking]:
        return [ranking._with(columns={**ranking.columns, "scored": np.zeros(len(ranking), bool)}) for ranking in rankings]

    def explain(self, query: str | Query, ranking: Ranking | Corpus | Sequence[str]) -> Explanation:
        """Why the candidates of one ranking, as they come in, come out as they do: every feature with what it adds to the score.

        Of trees by the path that a document takes (rr.ops.tree_contributions), of a weighted sum its terms.
        """
        asked = query if isinstance(query, Query) else Query(query)
        given = (
            ranking
            if isinstance(ranking, Ranking)
            else Ranking.in_order(ranking if isinstance(ranking, Corpus) else Corpus.from_texts(ranking))
        )
        head = given if self.depth is None else given.head(self.depth)
        [x] = [values[:, self._order] for values in extract(self.features, [asked], [head])]
        bias, added = self.model.contributions(x)
        scores, rows = self._score(x), []
        for rank, place in enumerate(np.lexsort((head.ids, -scores.astype(np.float64))).tolist(), 1):
            features, contributions = (dict(zip(self.model.names, array[place].tolist())) for array in (x, added))
            rows.append({
                "id": head.corpus.id_of(int(head.ids[place])), "row": int(head.ids[place]), "rank": rank, "before": place + 1,
                "score": float(scores[place]), "features": features, "contributions": contributions,
            })  # fmt: skip
        return Explanation(asked.text, bias, rows)

    def _values(self, queries: Sequence[Query], heads: Sequence[Ranking]) -> list[NDArray[np.float32]] | None:
        """In the order of the model's names; None where the deadline came before they were there, since they may be cut short."""
        if limits().out_of_time():
            return None
        values = [x[:, self._order] for x in extract(self.features, queries, heads)]
        limits().check()
        return None if limits().out_of_time() else values

    def _score(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        scores = self.model.score(x, threads=self.threads, backend=self.backend)
        return checks.narrow(scores)

    def _columns(self, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return {f"ltr:{name}": x[:, i] for i, name in enumerate(self.model.names)} if self.explains else {}

    def _unread(self, before: Ranking, after: Ranking, n: int) -> dict[str, NDArray[Any]]:
        """The columns, with NaN for features of the documents behind the first n, which were not made. Known from before they stay."""
        made = {name for name in (f"ltr:{name}" for name in self.model.names) if name in after.columns and name not in before.columns}
        rest = np.full(len(after) - n, np.nan, np.float32)
        return {name: np.concatenate([column[:n], rest]) if name in made else column for name, column in after.columns.items()}

    def _notes(self, head: Ranking, x: NDArray[np.float32]) -> dict[int, str]:
        bias, added = self.model.contributions(x)
        notes = {}
        for row, values, parts in zip(head.ids.tolist(), x.tolist(), added.tolist()):
            largest = _largest(dict(zip(self.model.names, parts)))
            known = dict(zip(self.model.names, values))
            told = [f"{part:+.3g} by {name} = {known[name]:.4g}" for name, part in largest[:SHOWN] if part]
            rest = sum(part for _, part in largest[SHOWN:])
            told += [f"{rest:+.3g} by {len(largest) - SHOWN} others"] if len(largest) > SHOWN else []
            notes[row] = f"{bias + sum(parts):.4g} = {bias:.3g} " + ", ".join(told)
        return notes

    def __repr__(self) -> str:
        return f"LTR({self.model!r}{'' if self.depth is None else f', depth={self.depth}'}, {self.backend})"


class _Told(Scorer):
    """Scores that are there already, for `Rescore` to merge."""

    name, timely = "LTR", True

    def __init__(self, scores: list[Scores]) -> None:
        self._scores = scores

    def score(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Scores]:
        return self._scores


def _largest(contributions: Mapping[str, float]) -> list[tuple[str, float]]:
    """By size, then by name."""
    return sorted(contributions.items(), key=lambda entry: (-abs(entry[1]), entry[0]))
