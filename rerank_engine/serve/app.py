"""The rerank server: an ASGI app that speaks the field's dialects over one model, `create_app`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from .. import __version__
from ..core import Scorer, Stage
from ..errors import InputError, NonFiniteError, RerankError
from ..ops.checks import finite_number
from ..stages.colbert import ColBERT
from .dialects import TEI, VLLM, Answer, Any_, Ask, Cohere, Infinity, Jina, Score, Voyage
from .guard import Guard, failed
from .metrics import Metrics
from .scheduler import Overloaded
from .search import Search, searched
from .service import OutOfTime, Room, Service, is_small

PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True)
class Limits:
    """documents: of a request; body_bytes: of it. wave_ms, wave_tokens, wait_ms: see Scheduler. stop_s: what is left at a stop is done for
    so long."""

    documents: int = 10_000
    body_bytes: int = 16 << 20
    wave_ms: float = 50.0
    wave_tokens: int = 16_384
    wait_ms: float = 5_000.0
    stop_s: float = 8.0

    def __post_init__(self) -> None:
        for name, least in (("documents", 1), ("body_bytes", 1), ("wave_ms", 1e-3), ("wave_tokens", 1), ("wait_ms", 0), ("stop_s", 0)):
            finite_number(f"Limits: {name}", getattr(self, name), least)


class Gone(Exception):
    """The client has closed the connection."""


def create_app(
    scorer: Scorer,
    *,
    spans: ColBERT | None = None,
    retriever: Stage | None = None,
    keys: Sequence[str] = (),
    hosts: Sequence[str] = (),
    limits: Limits | None = None,
) -> Guard:
    """An ASGI app. scorer: what scores (query, document); spans: what finds relevant_spans where the scorer does not; retriever: what
    /search asks for candidates; keys: bearer tokens; hosts: names that it may be called by, none for any: a server on this machine alone is
    thereby safe from pages whose name someone points at it.

    Raises MissingDependency without the extra [serve]: see `rerank_engine.serve`.
    """
    if retriever is not None and not retriever.retrieves:
        raise InputError("create_app: retriever", got=repr(retriever), expected="a stage that retrieves, such as rr.BM25(index)")
    held, metrics = limits or Limits(), Metrics()
    schedule = {"wave_ms": held.wave_ms, "wave_tokens": held.wave_tokens, "wait_ms": held.wait_ms}
    service = Service(scorer, spans=spans, told=metrics.told, calls=metrics.called, **schedule)
    state = State(service, metrics, held, retriever)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.get_running_loop().run_in_executor(None, state.start)
        yield
        state.stop()
        await asyncio.get_running_loop().run_in_executor(None, service.close)

    app = FastAPI(title="rerank-engine", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.state.rerank = state
    _errors(app)
    _rerank_routes(app, state)
    _other_routes(app, state)
    if retriever is not None:
        _search_route(app, state, retriever)
    _page(app)
    return Guard(app, keys=keys, hosts=hosts, most_bytes=held.body_bytes, metrics=metrics)


@dataclass
class State:
    service: Service
    metrics: Metrics
    limits: Limits
    retriever: Stage | None
    ready: bool = False

    def start(self) -> None:
        self.service.warm()
        self.ready = True

    def require_ready(self) -> None:
        if not self.ready:
            raise Overloaded("this server is not ready", retry_after=2, stopping=True)

    def stop(self) -> None:
        """From the moment on that the process is asked to end: nothing new is taken, what is here is done."""
        self.ready = False
        self.service.scheduler.refuse(self.limits.stop_s)


def _rerank_routes(app: FastAPI, state: State) -> None:
    def route(path: str, dialect: Any, name: str) -> None:
        async def handle(request: Request, body: Any) -> Response:
            (answer,) = await _answered(state, request, [_checked(body.ask)])
            told = body.answer(answer)
            return JSONResponse(told, headers=_headers(request))

        handle.__annotations__["body"] = dialect  # what FastAPI checks the body by
        app.add_api_route(path, handle, methods=["POST"], name=name, operation_id=name + path.replace("/", "_"))

    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        route(path, Any_, "rerank")
    mounted = {"cohere": Cohere, "jina": Jina, "voyage": Voyage, "tei": TEI, "vllm": VLLM, "infinity": Infinity}
    for name, dialect in mounted.items():
        for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
            route(f"/{name}{path}", dialect, name)

    async def score(request: Request, body: Score) -> Response:
        answers = await _answered(state, request, _checked(body.asks))
        if not all(answer.ranked.scored.all() for answer in answers):
            raise OutOfTime  # a score that was not made cannot stand beside those that were
        scores = [float(score) for answer in answers for score in _in_place(answer)]
        tokens = sum(answer.ranked.tokens for answer in answers)
        return JSONResponse(Score.answer(scores, tokens, request.state.id, state.service.model), headers=_headers(request))

    for path in ("/score", "/v1/score", "/vllm/score", "/vllm/v1/score"):
        app.add_api_route(path, score, methods=["POST"], name="score", operation_id="score" + path.replace("/", "_"))


def _in_place(answer: Answer) -> list[float]:
    scores = [0.0] * len(answer.ranked.order)
    for index, value in zip(answer.ranked.order.tolist(), answer.ranked.scores.tolist()):
        scores[index] = value
    return scores


def _checked(make: Callable[[], Any]) -> Any:
    """What a request's own checks say is the caller's to mend."""
    try:
        return make()
    except ValueError as error:
        raise HTTPException(422, str(error)) from error


async def _answered(state: State, request: Request, asks: Sequence[Ask]) -> list[Answer]:
    """Ranks all of them side by side, while the client is there; facts of it go into the log."""
    state.require_ready()
    documents = sum(len(ask.texts) for ask in asks)
    if documents > state.limits.documents:
        raise InputError("documents", got=f"{documents}", expected=f"at most {state.limits.documents}", hint="Send them in parts.")
    until = _deadline(request)
    with state.service.room(_tokens(state.service, asks)) as room:
        work = _together([_answer(state, ask, room, until, request.state.id, len(asks) == 1) for ask in asks])
        answers: list[Answer] = await while_there(request, work)
    ranked = [answer.ranked for answer in answers]
    request.state.facts = {
        "documents": documents, "tokens": sum(one.tokens for one in ranked),
        "truncated": sum(int((one.truncated > 0).sum()) for one in ranked), "scored": sum(int(one.scored.sum()) for one in ranked),
        **{f"{name}_ms": round(1e3 * max(one.seconds[name] for one in ranked), 2) for name in (ranked[0].seconds if ranked else ())},
    }  # fmt: skip
    return answers


async def _together(work: Sequence[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """All of them; where one fails, the others are cancelled."""
    if len(work) == 1:
        return [await work[0]]
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _tokens(service: Service, asks: Sequence[Ask]) -> int:
    """What a request takes, its spans as well: of as many documents as come back. Raises InputError where nothing finds spans."""
    total = 0.0
    for ask in asks:
        tokens = service.estimate(ask.query, ask.texts)
        total += tokens
        if ask.spans is not None:
            service.span_model()
            total += tokens * min(1.0, (ask.top or len(ask.texts)) / max(1, len(ask.texts)))
    return int(total)


async def _answer(state: State, ask: Ask, room: Room, until: float | None, name: str, alone: bool) -> Answer:
    service = state.service
    ranked = await service.rank(
        ask.query, ask.texts, room, raw=ask.raw, most_tokens=ask.most_tokens, priority=ask.priority, until=until,
        refuse_long=ask.refuse_long, small=alone and is_small(ask.query, ask.texts),
    )  # fmt: skip
    state.metrics.answered(ranked)
    answer = Answer(ask, ranked, name, service.model, _warnings(ranked))
    if ask.spans is None:
        return answer
    texts = [ask.texts[index] for index, _ in answer.found]
    return replace(answer, spans=await service.relevant_spans(ask.query, texts, ask.spans.threshold, ask.spans.most, until))


def _warnings(ranked: Any) -> list[str]:
    """What a caller has to know of an answer."""
    told = [f"document {index}: {cut} tokens were cut off" for index, cut in enumerate(ranked.truncated.tolist()) if cut]
    if not ranked.scored.all():
        told.append(
            f"the deadline came first: {int(ranked.scored.sum())} of {len(ranked.scored)} documents were scored, the rest keeps its order"
        )
    if len(ranked.order) and ranked.scale not in ("probability", "logit"):
        told.append(f"scores are on the scale '{ranked.scale}', not in [0, 1]")
    return told


def _headers(request: Request) -> dict[str, str]:
    """For dialects whose answer has no place for it."""
    facts = request.state.facts if hasattr(request.state, "facts") else {}
    spent = {name.removesuffix("_ms"): ms for name, ms in facts.items() if name.endswith("_ms")}
    timing = {"server-timing": ", ".join(f"{name};dur={ms}" for name, ms in spent.items())}
    told = timing | {
        "x-truncated-documents": facts.get("truncated", 0),
        "x-unscored-documents": facts.get("documents", 0) - facts.get("scored", 0),
    }
    return {name: str(value) for name, value in told.items() if value}


def _deadline(request: Request) -> float | None:
    """A time of `time.monotonic()`, by the header X-Deadline-Ms: from now."""
    text = request.headers.get("x-deadline-ms")
    if text is None:
        return None
    try:
        ms = float(text)
    except ValueError:
        ms = math.nan
    if not 0 < ms < math.inf:
        raise InputError("X-Deadline-Ms", got=text, expected="milliseconds above 0")
    return time.monotonic() + ms / 1e3


async def while_there(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """The work's result. Raises Gone, the work being cancelled, once the client has closed the connection."""
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        task.cancel()
        watch.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _place(parts: Sequence[int | str]) -> str:
    """Where in a body, by the names and numbers that are the caller's."""
    own = [str(part) for part in parts[1:] if isinstance(part, int) or (part.isidentifier() and part not in ("str", "dict"))]
    return ".".join(own) if own and not own[0].isdigit() else "body"


def _errors(app: FastAPI) -> None:
    def answer(status: int, message: str, kind: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse(failed(message, kind), status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        rows = dict.fromkeys(f"{_place(row['loc'])}: {row['msg']}" for row in error.errors())
        return answer(422, "; ".join(list(rows)[:5]), "validation")

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "validation")
        return answer(error.status_code, str(error.detail), kind, dict(error.headers or {}))

    @app.exception_handler(Gone)
    async def gone(_: Request, error: Gone) -> Response:
        app.state.rerank.metrics.cancelled.inc()
        return answer(499, "the client has gone", "gone")

    @app.exception_handler(OutOfTime)
    async def late(_: Request, error: OutOfTime) -> Response:
        return answer(504, "the deadline came before a document was scored", "timeout")

    @app.exception_handler(RerankError)
    async def ours(request: Request, error: RerankError) -> Response:
        if isinstance(error, Overloaded):
            app.state.rerank.metrics.shed.labels("stopping" if error.stopping else "queue").inc()
            return answer(503 if error.stopping else 429, str(error), "overloaded", {"retry-after": str(error.retry_after)})
        if isinstance(error, InputError) and not isinstance(error, NonFiniteError):
            return answer(400, str(error), "validation")
        return failure(request, error.__cause__ or error)

    @app.exception_handler(Exception)
    async def other(request: Request, error: Exception) -> Response:
        return failure(request, error)

    def failure(request: Request, error: BaseException) -> Response:
        """Its kind alone: what an error says may be of the model's files, or of another server's."""
        request.state.facts = {"failed": type(error).__name__}
        return answer(500, f"the model failed: {type(error).__name__}", "backend")


def _search_route(app: FastAPI, state: State, retriever: Stage) -> None:
    @app.post("/search")
    async def search(request: Request, body: Search) -> Response:
        state.require_ready()
        found, ranked = await while_there(request, searched(state.service, retriever, body, _deadline(request)))
        if ranked is not None:
            state.metrics.answered(ranked)
        request.state.facts = {"documents": 0 if ranked is None else len(ranked.order), "found": len(found["results"])}
        return JSONResponse({"id": request.state.id, "query": body.query, **found})


def _page(app: FastAPI) -> None:
    """The playground: three files, nothing from elsewhere."""
    policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'"
    policy += "; base-uri 'none'; frame-ancestors 'none'"
    headers = {"content-security-policy": policy, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}

    def of(name: str, kind: str) -> Callable[[Request], Response]:
        content = (PAGE / name).read_bytes()
        return lambda _: Response(content, media_type=f"{kind}; charset=utf-8", headers=headers)

    for path, name, kind in (
        ("/", "index.html", "text/html"),
        ("/page.js", "page.js", "text/javascript"),
        ("/page.css", "page.css", "text/css"),
    ):
        app.add_route(path, of(name, kind), name="page", include_in_schema=False)


def _other_routes(app: FastAPI, state: State) -> None:
    @app.get("/health")
    @app.get("/ping", include_in_schema=False)
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> Response:
        """The model is loaded and the server is not about to stop."""
        return JSONResponse({"ready": state.ready}, 200 if state.ready else 503, None if state.ready else {"retry-after": "2"})

    @app.get("/info")
    async def info() -> dict[str, Any]:
        scorer, limits = state.service.scorer, state.limits
        return {
            "model": state.service.model, "kind": type(scorer).__name__, "backend": scorer.backend, "version": __version__,
            "max_length": state.service.limit, "index": None if state.retriever is None else repr(state.retriever),
            "relevant_spans": state.service.spans is not None,
            "max_documents": limits.documents, "max_body_bytes": limits.body_bytes, "max_wait_ms": limits.wait_ms,
            "tokens_per_second": round(state.service.scheduler.pace, 1),
        }  # fmt: skip

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        state.metrics.waiting.set(state.service.scheduler.waiting)
        state.metrics.pace.set(state.service.scheduler.pace)
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
