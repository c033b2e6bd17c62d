"""Does the simulated fleet wait as a real one does? `python -m benchmarks.bench_fleet [--deployment ray|plain] [--sleeping] [--json]`.

The deployment is two replicas on this machine: "ray", what `rerank-engine serve --ray --replicas 2` deploys, or "plain", two of the server
and a client that sends to the less busy one. Each replica is the cross-encoder on one thread, or with --sleeping a scorer that sleeps MS a
document, which leaves the processors alone: then what others do on the machine matters less, and no slice is left out. What the
simulation is given does not come from what is compared:

    work      of each request of a pool: its time when it is the only one, less `hop`; and how single runs scatter about that
    hop       of a request of one blank document, which asks the model nothing: client, proxy, front; it takes a processor while it lasts
    capacity  requests a second, until all are answered, where OVER times as many come as replicas answer that do not hinder each other
    crowding  by what factor work takes longer while the other replica is busy, too: the one with which the simulation of those very
              arrivals takes as long for all of them

Then requests come at random times that do not wait for answers (Poisson), at three shares of the capacity, from a process of its own; a
time counts from when a request should have been sent. All of it is cut into slices in turns, so that what the
machine does meanwhile hits all alike. A slice is left out, before anybody looks at its times, where other processes took more than
FOREIGN of the processors. The simulation gets the same arrivals and requests ("ours"), and others of the same rate ("fresh").

A row a level: "theirs" measured p95, ms, of all its requests pooled, "ours" the simulated one of the same arrivals, the mean over draws
that are as large; "ratio" theirs / ours, "spread" its quartiles by the bootstrap over slices, "verified": within 15 %. Beside them the
percentiles of both sides pooled, and as medians of the slices', which a stall of the machine does not decide; what was fitted, and how
the machine was: "foreign", the share of the processors that others took, "nice".
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

import rerank_engine as rr
from benchmarks import harness
from benchmarks.bench_server import Sleeping
from rerank_engine.cpus import available_cpus
from rerank_engine.latency.workload import passages, queries
from rerank_engine.planning.fleet import Tier, simulate
from rerank_engine.serve.run import bound

LEVELS = (0.3, 0.5, 0.7)  # of the capacity
WITHIN = 0.15
REPLICAS, MODEL = 2, "ms-marco-MiniLM-L-12-v2"
WAVE_MS, MS = (50.0, 60.0), 20.0  # of the model and of what sleeps; a document that sleeps, also a blank one
POOL, DOCUMENTS, TOKENS = 60, (3, 9), 40  # requests, documents of one, tokens of a document
SLICE_S = (12.0, 30.0)  # of the model and of what sleeps
OVER, OVER_S, MOST_CROWDING = 1.5, 8.0, 4.0  # of a slice with more than is answered
FOREIGN = 0.05  # of the processors' time
PROBE_S, PATIENCE_S = 1.0, 1800.0  # a slice begins after so long a look at a quiet machine; the longest wait for one
FRESH = 100  # slices of other arrivals
Floats = NDArray[np.float64]


def pool() -> list[dict[str, Any]]:
    rng, texts = np.random.default_rng(0), passages(POOL * DOCUMENTS[1], TOKENS)
    counts = rng.integers(DOCUMENTS[0], DOCUMENTS[1] + 1, POOL)
    taken = [texts[i * DOCUMENTS[1] :][:n] for i, n in enumerate(counts)]
    return [{"query": query, "documents": own} for query, own in zip(queries(POOL), taken)]


DOCUMENTS_IN_ALL = sum(len(body["documents"]) for body in pool())
BLANK = {"query": "nothing", "documents": [""]}


# The client, in a process of its own.


async def _ask(client: httpx.AsyncClient, urls: Sequence[str], load: list[int], body: dict[str, Any]) -> None:
    """To the less busy of the addresses, as this client sees it; of equal ones any."""
    at = min(range(len(urls)), key=lambda i: (load[i], random.random()))
    load[at] += 1
    answer = await client.post(f"{urls[at]}/rerank", json=body)
    load[at] -= 1
    if answer.status_code != 200 or len(answer.json()["results"]) != len(body["documents"]):
        raise RuntimeError(f"{answer.status_code}: {answer.text[:200]}")


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None, max_keepalive_connections=200))


def open_loop(urls: Sequence[str], bodies: Sequence[dict[str, Any]], arrivals: Sequence[float]) -> list[float]:
    """ms of each, from its arrival (s)."""

    async def run() -> list[float]:
        async with _client() as client:
            start, load = time.perf_counter() + 0.2, [0] * len(urls)

            async def one(body: dict[str, Any], at: float) -> float:
                await asyncio.sleep(max(0.0, start + at - time.perf_counter()))
                await _ask(client, urls, load, body)
                return 1e3 * (time.perf_counter() - start - at)

            return await asyncio.gather(*(one(body, at) for body, at in zip(bodies, arrivals)))

    return asyncio.run(run())


def in_turn(url: str, bodies: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    """(request, ms) of one client that sends one after the other."""

    async def run() -> list[tuple[int, float]]:
        found = list[tuple[int, float]]()
        async with _client() as client:
            for i, body in enumerate(bodies):
                start = time.perf_counter()
                await _ask(client, [url], [0], body)
                found.append((i, 1e3 * (time.perf_counter() - start)))
        return found

    return asyncio.run(run())


# The machine.


def _stat(path: Path) -> list[str]:
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return []


def own_ticks(roots: Sequence[int]) -> int:
    """Processor time of these processes and all below them."""
    told = {int(path.name): _stat(path / "stat") for path in Path("/proc").iterdir() if path.name.isdigit()}
    own, grown = set(roots), True
    while grown:
        more = {pid for pid, row in told.items() if row and int(row[1]) in own} - own
        own, grown = own | more, bool(more)
    return sum(int(told[pid][11]) + int(told[pid][12]) for pid in own if told.get(pid))


def all_ticks() -> int:
    user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return user + nice + system + irq + soft + steal


@contextlib.contextmanager
def watched(told: list[float]) -> Iterator[None]:
    """Appends the share of the processors' time that went to others meanwhile."""
    roots, start = [os.getpid()], time.perf_counter()
    before = all_ticks() - own_ticks(roots)
    yield
    passed = (time.perf_counter() - start) * os.sysconf("SC_CLK_TCK") * (os.cpu_count() or 1)
    told.append(max(0.0, all_ticks() - own_ticks(roots) - before) / passed)


def sleeping(_: int) -> dict[str, Any]:
    """What a replica of Ray's is made of."""
    return {"scorer": Sleeping(MS)}


def served(port: int, asleep: bool, wave_ms: float) -> None:
    """A server, until SIGTERM. In a process of its own."""
    from rerank_engine.serve import create_app
    from rerank_engine.serve.run import run

    scorer = Sleeping(MS) if asleep else rr.load(MODEL, threads=1)
    with bound("127.0.0.1", port) as held:
        run(create_app(scorer, limits=_limits(wave_ms)), held, stop_s=4, note=harness.note)


def _limits(wave_ms: float) -> Any:
    from rerank_engine.serve import Limits

    return Limits(wave_ms=wave_ms, wait_ms=1e6)


@contextlib.contextmanager
def deployed(how: str, asleep: bool, wave_ms: float) -> Iterator[list[str]]:
    """The addresses while it runs."""
    ports = []
    for _ in range(1 if how == "ray" else REPLICAS):
        with bound("127.0.0.1", 0) as held:
            ports.append(held.getsockname()[1])
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    with _on_ray(ports[0], asleep, wave_ms) if how == "ray" else _plain(ports, asleep, wave_ms):
        end = time.monotonic() + 180
        while not all(map(_ready, urls)):
            if time.monotonic() > end:
                raise SystemExit("the deployment did not start")
            time.sleep(0.5)
        yield urls


@contextlib.contextmanager
def _on_ray(port: int, asleep: bool, wave_ms: float) -> Iterator[None]:
    import ray
    from ray import serve

    from rerank_engine.serve.on_ray import Model, deploy

    ray.init(address="local", num_cpus=REPLICAS, include_dashboard=False, log_to_driver=False)
    try:
        model = Model(sleeping, replicas=REPLICAS) if asleep else Model(MODEL, replicas=REPLICAS)
        deploy({"fleet": model}, port=port, limits=_limits(wave_ms))
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


@contextlib.contextmanager
def _plain(ports: Sequence[int], asleep: bool, wave_ms: float) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=served, args=(port, asleep, wave_ms)) for port in ports]
    for process in started:
        process.start()
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.join(60)


def _ready(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/ready", timeout=5).status_code == 200
    return False


# What is measured, slice by slice.


Slice = tuple[Floats, NDArray[np.int64], Floats]  # arrivals s, requests, ms


@dataclass
class Slices:
    """alone: (request, ms); blank: ms; over: with more than is answered; loaded: of each level. foreign: of those that count, the share of
    the processors that others took; left_out: slices that do not."""

    alone: list[tuple[int, float]] = field(default_factory=list)
    blank: list[float] = field(default_factory=list)
    over: list[Slice] = field(default_factory=list)
    loaded: dict[float, list[Slice]] = field(default_factory=lambda: {level: [] for level in LEVELS})
    foreign: list[float] = field(default_factory=list)
    left_out: int = 0


@dataclass(frozen=True)
class Fit:
    """hop ms; work float64 [POOL] ms; scatter float64 [n]: single runs over their request's work; crowding; wave_ms: the server's."""

    wave_ms: float
    hop: float
    work: Floats
    scatter: Floats
    crowding: float = 1.0

    def tier(self) -> Tier:
        """Waves hold whole documents, as the server's do."""
        return Tier(
            "replicas", replicas=REPLICAS, wave_ms=self.wave_ms, piece_ms=float(self.work.sum()) / DOCUMENTS_IN_ALL, hop_ms=self.hop / 2,
            crowding=self.crowding, processors=available_cpus(),
        )  # fmt: skip

    def draw(self, requests: NDArray[np.int64], rng: np.random.Generator) -> Floats:
        return np.asarray(self.work[requests] * rng.choice(self.scatter, len(requests)), np.float64)

    def crowded(self, over: Sequence[Slice]) -> Fit:
        """With the crowding that makes the simulated slices last as long as the measured ones, by bisection from 1 to MOST_CROWDING."""
        low, high = 1.0, MOST_CROWDING
        measured = sum(lasted(arrivals, ms) for arrivals, _, ms in over)
        while high - low > 1e-3:
            middle = (low + high) / 2
            made = simulated(replace(self, crowding=middle), over, 2)
            ours = sum(float(np.mean([lasted(one[0], ms) for ms in draws])) for one, draws in zip(over, made))
            low, high = (middle, high) if ours < measured else (low, middle)
        if high == MOST_CROWDING:
            raise SystemExit(f"replicas hinder each other more than {MOST_CROWDING}-fold: something else is wrong")
        return replace(self, crowding=low)


def lasted(arrivals: Floats, ms: Floats) -> float:
    """s from the first arrival until all are answered."""
    return float((arrivals + ms / 1e3).max() - arrivals.min())


def capacity(over: Sequence[Slice]) -> float:
    """Requests a second."""
    return sum(len(ms) for *_, ms in over) / sum(lasted(arrivals, ms) for arrivals, _, ms in over)


def alone(slices: Slices, wave_ms: float) -> Fit:
    """What calls without load say."""
    hop, told = float(np.median(slices.blank)), np.array(slices.alone, np.float64)
    work = np.array([np.median(told[told[:, 0] == i, 1]) for i in range(POOL)]) - hop
    return Fit(wave_ms, hop, work, (told[:, 1] - hop) / work[told[:, 0].astype(int)])


class Bench:
    def __init__(self, clients: Executor, urls: Sequence[str], foreign: float, blank_ms: float) -> None:
        self.blank_ms = blank_ms  # that the scorer takes for a blank document
        self.clients, self.urls, self.bodies, self.slices, self.seed, self.most = clients, urls, pool(), Slices(), 0, foreign

    def _quiet(self, function: Any, *args: Any) -> Any:
        """The slice's answer, again until the machine was quiet."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            seen = list[float]()
            with watched(seen):
                time.sleep(PROBE_S)
            if seen[-1] > self.most:
                continue
            with watched(seen):
                found = self.clients.submit(function, *args).result()
            if seen[-1] <= self.most:
                self.slices.foreign.append(seen[-1])
                return found
            self.slices.left_out += 1
        raise SystemExit("this machine is not quiet")

    def unloaded(self) -> None:
        """About 15 s: each request alone at each replica, and blank ones."""
        self.slices.alone += self._quiet(in_turn, self.urls[0], self.bodies)
        self.slices.blank += [ms - self.blank_ms for _, ms in self._quiet(in_turn, self.urls[0], [BLANK] * 60)]
        self.slices.alone += self._quiet(in_turn, self.urls[-1], self.bodies)

    def loaded(self, into: list[Slice], rate: float, seconds: float) -> None:
        self.seed += 1
        rng = np.random.default_rng(self.seed)
        arrivals = drawn(rng, rate, seconds)
        asked = rng.integers(POOL, size=len(arrivals))
        ms = self._quiet(open_loop, self.urls, [self.bodies[i] for i in asked], arrivals.tolist())
        into.append((arrivals, asked, np.array(ms)))

    def over(self, fitted: Fit) -> None:
        """About 15 s."""
        self.loaded(self.slices.over, OVER * 1e3 * REPLICAS / float(fitted.work.mean() * fitted.scatter.mean()), OVER_S)


def simulated(fitted: Fit, slices: Sequence[Slice], draws: int = 5) -> list[list[Floats]]:
    """ms of the requests of each slice, so many times, by simulations of the same arrivals with draws of the scatter of their own."""
    made = []
    for number, (arrivals, asked, _) in enumerate(slices):
        runs = []
        for draw in range(draws):
            work = fitted.draw(asked, np.random.default_rng([number, draw]))
            runs.append(simulate(1e3 * arrivals, [fitted.tier()], [work], seed=number * draws + draw).responses)
        made.append(runs)
    return made


def fresh_slices(rate: float, seconds: float, n: int) -> list[Slice]:
    rng, found = np.random.default_rng(0), list[Slice]()
    for _ in range(n):
        arrivals = drawn(rng, rate, seconds)
        found.append((arrivals, rng.integers(POOL, size=len(arrivals)), arrivals))
    return found


def drawn(rng: np.random.Generator, rate: float, seconds: float) -> Floats:
    """float64 [requests]: s, a Poisson process."""
    arrivals = np.cumsum(rng.exponential(1 / rate, int(rate * seconds * 2) + 20))
    return arrivals[arrivals < seconds]


def figures(sides: Sequence[Sequence[Floats]]) -> Floats:
    """float64 [slices, 3]: p50, p95, p99 of each, the mean over its draws: of samples as large as what was measured."""
    return np.array([np.mean([np.percentile(ms, [50, 95, 99]) for ms in draws], axis=0) for draws in sides])


def pooled(sides: Sequence[Sequence[Floats]]) -> Floats:
    """float64 [3]: p50, p95, p99 of all slices' requests together, the mean over the draws."""
    return np.asarray(figures([[np.concatenate(draw) for draw in zip(*sides)]])[0])


def row(level: float, fitted: Fit, slices: Slices, how: str, rate: float, seconds: float) -> dict[str, Any]:
    own = slices.loaded[level]
    measured, made = [[ms] for _, _, ms in own], simulated(fitted, own)
    theirs, ours = figures(measured), figures(made)
    whole, all_ours = pooled(measured), pooled(made)
    fresh = figures(simulated(fitted, fresh_slices(rate, seconds, FRESH), 1))
    chosen = np.random.default_rng(0).integers(len(own), size=(500, len(own)))
    ratios = [pooled([measured[i] for i in pick])[1] / pooled([made[i] for i in pick])[1] for pick in chosen]
    p_theirs, p_ours, p_fresh = (np.median(side, axis=0).round(2).tolist() for side in (theirs, ours, fresh))
    return {
        "bench": "fleet", "case": f"{level:g} of capacity", "peer": "measured", "metric": "p95_ms",
        "ours": round(float(all_ours[1]), 2), "theirs": round(float(whole[1]), 2), "ratio": round(float(whole[1] / all_ours[1]), 4),
        "spread": [round(float(x), 4) for x in np.percentile(ratios, [25, 75])],
        "verified": bool(abs(all_ours[1] / whole[1] - 1) <= WITHIN), "pooled_off": [round(float(x), 4) for x in all_ours / whole - 1],
        "pooled_simulated_p50_p95_p99": all_ours.round(2).tolist(), "pooled_measured_p50_p95_p99": whole.round(2).tolist(),
        "simulated_p50_p95_p99": p_ours, "measured_p50_p95_p99": p_theirs,
        "fresh_p50_p95_p99": p_fresh, "off": [round(a / b - 1, 4) for a, b in zip(p_ours, p_theirs)],
        "fresh_off": [round(a / b - 1, 4) for a, b in zip(p_fresh, p_theirs)],
        "slices_p95": [[round(float(x), 1) for x in side[:, 1]] for side in (ours, theirs)],
        "requests": sum(len(ms) for _, _, ms in own), "slices": len(own), "slice_s": seconds, "requests_a_second": round(rate, 2),
        "deployment": how, "capacity": round(capacity(slices.over), 2),
        "hop_ms": round(fitted.hop, 2), "work_ms": round(float(fitted.work.mean()), 2),
        "crowding": round(fitted.crowding, 4), "scatter_p95": round(float(np.percentile(fitted.scatter, 95)), 3),
        "left_out": slices.left_out, "foreign": round(float(np.median(slices.foreign)), 4), "processors": available_cpus(),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
    }  # fmt: skip


def rows(how: str, asleep: bool, quick: bool, requests: int, minutes: float) -> Iterator[dict[str, Any]]:
    context, wave_ms, slice_s = multiprocessing.get_context("spawn"), WAVE_MS[asleep], SLICE_S[asleep]
    with ProcessPoolExecutor(1, mp_context=context) as clients, deployed(how, asleep, wave_ms) as urls:
        bench = Bench(clients, urls, np.inf if asleep else FOREIGN, MS if asleep else 0.0)
        for url in (urls[0], urls[-1]):
            clients.submit(in_turn, url, bench.bodies).result()
        bench.unloaded()
        first = alone(bench.slices, wave_ms)
        for _ in range(1 if quick else 3):
            bench.over(first)
        most = capacity(bench.slices.over)  # for the levels; what is simulated is fitted to all such slices, at the end
        harness.note(f"capacity {most:.1f} a second: work {first.work.mean():.1f} ms, hop {first.hop:.1f}")
        wanted = {level: 1 if quick else int(np.ceil(requests / (level * most * slice_s))) for level in LEVELS}
        turn, end = 0, time.monotonic() + 60 * minutes
        while any(wanted.values()):
            for level in [level for level in LEVELS if wanted[level]]:
                bench.loaded(bench.slices.loaded[level], level * most, slice_s)
                wanted[level] -= 1
                turn += 1
                if turn % 6 == 0:
                    bench.unloaded()
                    bench.over(first)
                    harness.note(f"{turn} slices, {bench.slices.left_out} left out")
            if time.monotonic() > end:
                break
        fitted = alone(bench.slices, wave_ms).crowded(bench.slices.over)
    for level in LEVELS:
        yield row(level, fitted, bench.slices, f"{how}, {'a scorer that sleeps' if asleep else MODEL}", level * most, slice_s)


def main() -> None:
    parser: argparse.ArgumentParser = harness.arguments(__doc__)
    parser.add_argument("--deployment", choices=("ray", "plain"), default="ray")
    parser.add_argument("--sleeping", action="store_true", help="a scorer that sleeps in place of the cross-encoder")
    parser.add_argument("--requests", type=int, default=2000, metavar="N", help="of a level, at least (default: 2000)")
    parser.add_argument("--minutes", type=float, default=60, metavar="N", help="with fewer requests after so long (default: 60)")
    args = parser.parse_args()
    harness.report(lambda: rows(args.deployment, args.sleeping, args.quick, args.requests, args.minutes), args.json, {})


if __name__ == "__main__":
    main()
