"""`/search`: a retriever over an opened index, then the served model through the same scheduler as every other request."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from pydantic import BaseModel, Field

from ..core import Pipeline, Query, Ranking, Stage, step_labels
from .dialects import Priority, Text
from .service import Ranked, Service

Wanted = Annotated[int, Field(ge=1, le=10_000)]


class Search(BaseModel):
    """top_n: documents that come back; depth: of the retriever's list that the model reads, 0 for none."""

    query: Text
    top_n: Wanted = 10
    depth: Annotated[int, Field(ge=0, le=10_000)] = 50
    return_documents: bool = True
    priority: Priority | None = None


async def searched(service: Service, retriever: Stage, body: Search, until: float | None) -> tuple[dict[str, Any], Ranked | None]:
    """(the answer, what the model's part of it was)

    {"results": [{"rank", "id", "score", "document": {"text", "title", "metadata"}, "ranks": where it stood after each stage, from 1}],
     "stages": [{"name", "backend", "n_in", "n_out", "ms"}], "scale", "unfinished": stages that a deadline cut short}
    """

    def found() -> Ranking:
        left = None if until is None else max(0.0, 1e3 * (until - time.monotonic()))
        return Pipeline(retriever).run([Query(body.query)], deadline_ms=left)[0]

    ranking = await asyncio.get_running_loop().run_in_executor(service.pool, found)
    stages = [_stage(label, step.backend, step.n_in, step.n_out, step.ms) for label, step in zip(step_labels(ranking.trace), ranking.trace)]
    rows, scores, scale, ranked = ranking.ids.tolist(), ranking.scores.astype(float).tolist(), ranking.scale, None
    unfinished, name, depth = [step.name for step in ranking.unfinished], service.scorer.name, min(body.depth, len(ranking))
    if depth:
        begun, texts = time.perf_counter(), ranking.corpus.texts(ranking.ids[:depth])
        ranked = await service.rank(body.query, texts, priority=body.priority or 0, until=until)
        stages.append(_stage(name, service.scorer.backend, depth, depth, 1e3 * (time.perf_counter() - begun)))
        rows, scores, scale = [rows[i] for i in ranked.order.tolist()], ranked.scores.tolist(), ranked.scale  # the tail is not shown
        unfinished += [] if ranked.scored.all() else [name]
    results = []
    for place, (row, score) in enumerate(list(zip(rows, scores))[: body.top_n], 1):
        document, ranks = ranking.corpus[row], {**ranking.stage_ranks(row), **({} if ranked is None else {name: place})}
        result: dict[str, Any] = {"rank": place, "id": document.id, "score": score, "ranks": ranks}
        if body.return_documents:
            result["document"] = {"text": document.text, "title": document.title, "metadata": dict(document.metadata)}
        results.append(result)
    return {"results": results, "stages": stages, "scale": scale, "unfinished": unfinished}, ranked


def _stage(name: str, backend: str, n_in: int, n_out: int, ms: float) -> dict[str, Any]:
    return {"name": name, "backend": backend, "n_in": n_in, "n_out": n_out, "ms": round(ms, 3)}
