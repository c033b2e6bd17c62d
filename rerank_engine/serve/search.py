"""`/search`: a retriever over an opened index, then the served model through the same scheduler as every other request."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BaseModel, Field

from ..core import Pipeline, Query, Ranking, Stage, step_labels
from ..errors import InputError
from .dialects import Priority, Text
from .service import OutOfTime, Ranked, Service

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

    if not body.query.strip():
        raise InputError("query", got="an empty text", expected="a question")

    def found() -> tuple[Ranking, list[str]]:
        left = None if until is None else max(0.0, 1e3 * (until - time.monotonic()))
        ranking = Pipeline(retriever).run([Query(body.query)], deadline_ms=left)[0]
        return ranking, ranking.corpus.texts(ranking.ids[: body.depth])

    ranking, texts = await asyncio.get_running_loop().run_in_executor(service.pool, found)
    stages = [_stage(label, step.backend, step.n_in, step.n_out, step.ms) for label, step in zip(step_labels(ranking.trace), ranking.trace)]
    rows, scores, scale, ranked = ranking.ids.tolist(), ranking.scores.astype(float).tolist(), ranking.scale, None
    unfinished, name, depth = [step.name for step in ranking.unfinished], service.scorer.name, len(texts)
    if depth:
        begun = time.perf_counter()
        with service.room(service.estimate(body.query, texts)) as room, suppress(OutOfTime):  # then the list stays as it came
            ranked = await service.rank(body.query, texts, room, priority=body.priority or 0, until=until)
        stages.append(_stage(name, service.scorer.backend, depth, depth, 1e3 * (time.perf_counter() - begun)))
        if ranked is not None:  # what stands below the depth is not shown
            rows, scores, scale = [rows[i] for i in ranked.order.tolist()], ranked.scores.tolist(), ranked.scale
        unfinished += [] if ranked is not None and ranked.scored.all() else [name]
    results = []
    for place, (row, score) in enumerate(list(zip(rows, scores))[: body.top_n], 1):
        document, ranks = ranking.corpus[row], {**ranking.stage_ranks(row), **({} if ranked is None else {name: place})}
        result: dict[str, Any] = {"rank": place, "id": document.id, "score": score, "ranks": ranks}
        if body.return_documents:
            result["document"] = {"text": document.text, "title": document.title, "metadata": _plain(dict(document.metadata))}
        results.append(result)
    return {"results": results, "stages": stages, "scale": scale, "unfinished": unfinished}, ranked


def _plain(value: Any) -> Any:
    """With null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _stage(name: str, backend: str, n_in: int, n_out: int, ms: float) -> dict[str, Any]:
    return {"name": name, "backend": backend, "n_in": n_in, "n_out": n_out, "ms": round(ms, 3)}
