"""The rerank server under load: `python -m benchmarks.bench_server [--quick] [--json]`.

Requests come at random times that do not wait for answers (open loop, Poisson), and latency counts from when a request should have been
sent, so that a server that stalls cannot hide it (no coordinated omission). Most are short, some are long: LENGTHS. Three servers take the
same arrivals over real connections from a process of their own, with the same scorer, which sleeps for MS a document so that the capacity
is known:

ours               rerank_engine.serve, --max-wait-ms 1000
one at a time      a request is scored whole, the next waits; nothing is turned away
permits a text     as TEI admits: a permit for each text, 512 in all, or 429; then batches in the order of arrival

Loads are shares of the capacity. In time is an answer within SLO and what its own documents take; goodput: documents a second of answers
in time. short: latency of requests of at most 5 documents, long: of 200 and more. A
row a load and peer: "ours" and "theirs" are the p95 of short requests, ms; ratio: theirs / ours; the rest beside them. "32 clients":
seconds for 320 documents where each client sends 10 at a time, one request after the other, against one client that sends them all in one
request, and against the scorer without a server. "overhead": of a request of one document beside its scoring, client
included, at one connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import rerank_engine as rr
from benchmarks import harness
from benchmarks.judged import collection
from benchmarks.live_server import served
from rerank_engine.core import Query, Ranking, Scorer, Scores
from rerank_engine.corpus import Corpus
from rerank_engine.serve import Limits, create_app

MS = 2.0  # of a document
SLO = 1.0  # s beside the scoring of its own documents
LENGTHS = ((0.80, 1, 5), (0.15, 20, 60), (0.05, 200, 500))  # share, documents from, to
MODEL, PASSAGES = "ms-marco-MiniLM-L-12-v2", Path(__file__).parents[2] / "shared" / "data" / "trec-dl19-pool"
LOADS = (0.5, 0.9, 2.0)
PERMITS, BATCH = 512, 32


class Sleeping(Scorer):
    """ms a document; the score is the number in its text."""

    model = "sleeping"

    def __init__(self, ms: float = MS) -> None:
        self.ms = ms
        self.spent = list[float]()  # ms of each call

    def score(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Scores]:
        start = time.perf_counter()
        time.sleep(self.ms * sum(map(len, rankings)) / 1e3)
        rows = [row.corpus.texts(row.ids) for row in rankings]
        self.spent.append(1e3 * (time.perf_counter() - start))
        return [Scores(np.array([float(text) if text.isdigit() else 0.0 for text in row], np.float32), "logit") for row in rows]


def one_at_a_time(scorer: Scorer) -> Starlette:
    held = asyncio.Lock()

    async def rerank(request: Request) -> JSONResponse:
        body = await request.json()
        async with held:
            return JSONResponse(await asyncio.to_thread(_scored, scorer, body["texts"]))

    return Starlette(routes=[Route("/rerank", rerank, methods=["POST"])])


def permits_a_text(scorer: Scorer) -> Starlette:
    """Texts wait one by one in the order of their arrival; a request that finds too few permits fails as a whole."""
    free, waiting, running = PERMITS, list[tuple[str, asyncio.Future[float]]](), False

    async def work() -> None:
        nonlocal running
        while waiting:
            batch = [waiting.pop(0) for _ in range(min(BATCH, len(waiting)))]
            rows = await asyncio.to_thread(_scored, scorer, [text for text, _ in batch])
            for row in rows:
                batch[row["index"]][1].set_result(row["score"])
        running = False

    async def rerank(request: Request) -> JSONResponse:
        nonlocal free, running
        texts = (await request.json())["texts"]
        if len(texts) > free:
            return JSONResponse({"error": "Model is overloaded"}, 429)
        free -= len(texts)
        try:
            futures = [asyncio.get_running_loop().create_future() for _ in texts]
            waiting.extend(zip(texts, futures))
            if not running:
                running = True
                asyncio.ensure_future(work())  # noqa: RUF006
            scores = await asyncio.gather(*futures)
        finally:
            free += len(texts)
        return JSONResponse(sorted(({"index": i, "score": score} for i, score in enumerate(scores)), key=lambda row: -row["score"]))

    return Starlette(routes=[Route("/rerank", rerank, methods=["POST"])])


def _scored(scorer: Scorer, texts: list[str]) -> list[dict[str, Any]]:
    values = scorer.score([Query("q")], [Ranking.in_order(Corpus.from_texts(texts))])[0].values
    return sorted(({"index": i, "score": float(v)} for i, v in enumerate(values)), key=lambda row: -row["score"])


def arrivals(load: float, seconds: float, seed: int = 0) -> list[tuple[float, list[str]]]:
    """(second, texts) of each request. Every text is a number of its own, so that an answer proves whose it is."""
    rng, numbers = np.random.default_rng(seed), itertools.count()
    shares, low, high = (np.array(column) for column in zip(*LENGTHS))
    rate = load * 1e3 / MS / float(shares @ (low + high) / 2)  # requests a second
    times = np.cumsum(rng.exponential(1 / rate, int(rate * seconds * 1.5) + 10))
    kinds = rng.choice(len(LENGTHS), len(times), p=shares)
    return [
        (t, [str(next(numbers)) for _ in range(rng.integers(low[k], high[k] + 1))]) for t, k in zip(times.tolist(), kinds) if t < seconds
    ]


def sent(url: str, asked: Sequence[tuple[float, list[str]]]) -> list[tuple[int, int, float]]:
    """(documents, status, seconds from when it should have been sent) of each request; status 0: a wrong answer, or none."""
    return asyncio.run(_sent(url, asked))


async def _sent(url: str, asked: Sequence[tuple[float, list[str]]]) -> list[tuple[int, int, float]]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        begin = time.perf_counter()

        async def one(at: float, texts: list[str]) -> tuple[int, int, float]:
            await asyncio.sleep(max(0.0, begin + at - time.perf_counter()))
            try:
                answer = await client.post("/rerank", json={"query": "q", "texts": texts, "raw_scores": True})
                right = answer.status_code != 200 or [row["index"] for row in answer.json()] == list(range(len(texts)))[::-1]
                status = answer.status_code if right else 0
            except httpx.HTTPError:
                status = 0
            return len(texts), status, time.perf_counter() - begin - at

        return list(await asyncio.gather(*(one(at, texts) for at, texts in asked)))


def _in_turn(url: str, asked: Sequence[Sequence[list[str]]]) -> float:
    """Seconds until all are answered: each client sends its requests one after the other, on a connection of its own that is there."""

    async def one(client: httpx.AsyncClient, rows: Sequence[list[str]]) -> None:
        for texts in rows:
            answer = await client.post("/rerank", json={"query": "q", "texts": texts})
            assert sorted(row["index"] for row in answer.raise_for_status().json()) == list(range(len(texts)))

    async def all_of_them() -> float:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=120, verify=False)) for _ in asked]
            await asyncio.gather(*(client.get("/health") for client in clients))
            begin = time.perf_counter()
            await asyncio.gather(*map(one, clients, asked))
            return time.perf_counter() - begin

    return asyncio.run(all_of_them())


def _one_by_one(url: str, times: int) -> list[float]:
    """ms of each of so many requests of one document."""
    took = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(times):
            start = time.perf_counter()
            client.post("/rerank", json={"query": "q", "texts": ["1"]}).raise_for_status()
            took.append(1e3 * (time.perf_counter() - start))
    return took


def told(found: Sequence[tuple[int, int, float]], seconds: float) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """(what is told of a run, the seconds of each short request that was answered)"""
    n, status, took = (np.array(column) for column in zip(*found))
    done = status == 200
    in_time = done & (took <= SLO + MS * n / 1e3)
    short, long = done & (n <= LENGTHS[0][2]), done & (n >= LENGTHS[-1][1])
    ms = {
        f"{name}_p{q}_ms": round(1e3 * float(np.percentile(took[kept], q)), 1)
        for name, kept in (("short", short), ("long", long))
        for q in (50, 95, 99)
        if kept.any()
    }
    return {
        "requests": len(found), "answered": int(done.sum()), "turned_away": int((status == 429).sum() + (status == 503).sum()),
        "lost_or_wrong": int((status == 0).sum()), "goodput": round(float(n[in_time].sum() / seconds), 1),
        "requests_in_time": round(float(in_time.sum() / seconds), 1), **ms,
    }, took[short]  # fmt: skip


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as clients:
        yield from _open_loop(clients, quick)
        yield from _side_by_side(clients, Sleeping(), [str(i) for i in range(320)], 2 if quick else 5, 3 if quick else 9)
        if PASSAGES.exists():
            passages = collection(PASSAGES).corpus.texts(np.arange(320))
            yield from _side_by_side(clients, rr.load(MODEL), passages, 1, 1 if quick else 5)
        else:
            harness.note(f"skipped: {MODEL}, for there is no {PASSAGES}")
        yield _overhead(clients, 50 if quick else 500)


def _open_loop(clients: Executor, quick: bool) -> Iterator[dict[str, Any]]:
    seconds = 5 if quick else 20
    made: dict[str, Callable[[], Any]] = {
        "ours": lambda: create_app(Sleeping(), limits=Limits(wait_ms=1e3 * SLO)),
        "one at a time": lambda: one_at_a_time(Sleeping()),
        "permits a text": lambda: permits_a_text(Sleeping()),
    }
    peak = 0.0
    for load in LOADS:
        asked, by = arrivals(load, seconds), dict[str, tuple[dict[str, Any], NDArray[np.float64]]]()
        for name, make in made.items():
            with served(make()) as url:
                clients.submit(sent, url, arrivals(0.3, 1, seed=1)).result()  # the pace is known
                by[name] = told(clients.submit(sent, url, asked).result(), seconds)
            harness.note(f"{load}x {name}: {by[name][0]}")
        ours, short = by.pop("ours")
        peak = max(peak, ours["goodput"])
        for name, (theirs, other) in by.items():
            a, b = ours["short_p95_ms"], theirs.get("short_p95_ms")
            yield {
                "bench": "server", "case": f"{load:g}x", "peer": name, "metric": "short_p95_ms", "ours": a, "theirs": b,
                "ratio": None if b is None else round(b / a, 2), "spread": _spread(short, other), "verified": ours["lost_or_wrong"] == 0,
                **({"why": "it answered no short request"} if b is None else {}), "goodput_of_peak": round(ours["goodput"] / peak, 3),
                "of_ours": ours, "of_theirs": theirs,
            }  # fmt: skip


def _spread(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> list[float]:
    """The quartiles of the ratio of their p95, by the bootstrap."""
    if not (len(ours) and len(theirs)):
        return []
    rng = np.random.default_rng(0)
    a, b = (np.percentile(rng.choice(times, (500, len(times))), 95, axis=1) for times in (ours, theirs))
    return [round(float(x), 2) for x in np.percentile(b / a, [25, 75])]


def _side_by_side(clients: Executor, scorer: Scorer, texts: Sequence[str], rounds: int, times: int) -> Iterator[dict[str, Any]]:
    """Seconds for all the texts: of as many clients as there are tens of them, of one client, and of the scorer without a server."""
    scored, name = Ranking.in_order(Corpus.from_texts(list(texts))), getattr(scorer, "model", scorer.name)

    def library(_: int) -> float:
        begin = time.perf_counter()
        for _ in range(rounds):
            scorer.score([Query("q")], [scored])
        return time.perf_counter() - begin

    with served(create_app(scorer)) as url:

        def server(of: int) -> float:
            parts = [list(texts[i : i + of]) for i in range(0, len(texts), of)]
            return clients.submit(_in_turn, url, [[part] * rounds for part in parts]).result()

        ways = ((server, 10), (server, len(texts)), (library, len(texts)))
        server(len(texts)), server(10)
        took = np.array([[way(of) for way, of in ways] for _ in range(times)]) / rounds
    ours, *others = np.median(took, axis=0).tolist()
    for i, (peer, theirs) in enumerate(zip(("one client", "no server"), others), 1):
        spread = np.percentile(took[:, i] / took[:, 0], [25, 75]).round(3).tolist()
        yield _row(f"32 clients, {name}", peer, "seconds", round(ours, 4), round(theirs, 4), round(theirs / ours, 4), spread)


def _overhead(clients: Executor, times: int) -> dict[str, Any]:
    """What a request costs beside its scoring, at one connection."""
    scorer = Sleeping()
    with served(create_app(scorer)) as url:
        took = np.array(clients.submit(_one_by_one, url, times).result())
    spent = np.array(scorer.spent[-times:])
    a, b = float(np.median(took - spent)), float(np.median(spent))
    spread = np.percentile(spent / (took - spent), [25, 75]).round(3).tolist()
    return _row("overhead", "the scoring itself", "p50_ms", round(a, 3), round(b, 3), round(b / a, 3), spread)


def _row(case: str, peer: str, metric: str, ours: float, theirs: float, ratio: float, spread: list[float]) -> dict[str, Any]:
    return {
        "bench": "server", "case": case, "peer": peer, "metric": metric, "ours": ours, "theirs": theirs, "ratio": ratio, "spread": spread,
        "verified": True,
    }  # fmt: skip


def main() -> None:
    parser = harness.arguments(__doc__)
    args = parser.parse_args()
    harness.report(lambda: rows(args.quick), args.json, {})


if __name__ == "__main__":
    main()
