"""PyTerrier: a transformer that re-ranks a frame of results. Needs python-terrier."""

from __future__ import annotations

from typing import Any

from .scoring import Model, missing, ordered, require_model

try:
    import pandas as pd
    import pyterrier as pt
except ImportError as error:
    raise missing("pyterrier", "python-terrier", error) from error


class RerankTransformer(pt.Transformer):
    """Frame of qid, query, docno and `text_field` in; the same rows out with their new score, and rank from 0 within each qid.

    model: a name or folder for `rr.load`, a loaded scorer, or a stage that re-orders; None: ms-marco-MiniLM-L-12-v2.
    """

    def __init__(self, model: Model = None, *, text_field: str = "text", activation: str = "none") -> None:
        super().__init__()
        self.model, self.text_field, self.activation = require_model("RerankTransformer", model), text_field, activation

    def transform(self, inp: Any) -> Any:
        pt.validate.result_frame(inp, extra_columns=["query", self.text_field])
        parts = []
        for _, rows in inp.groupby("qid", sort=False):
            found = ordered(self.model, str(rows["query"].iloc[0]), rows[self.text_field].astype(str).tolist(), None, self.activation)
            part = rows.iloc[[result.index for result in found]].copy()
            part["score"], part["rank"] = [result.score for result in found], range(len(found))
            parts.append(part)
        if parts:
            return pd.concat(parts, ignore_index=True)
        return inp.assign(score=pd.Series(dtype=float), rank=pd.Series(dtype=int))
