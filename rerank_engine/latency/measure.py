"""The latency table measured on this machine: text in, ranked list out, a query at a time, and the parts of each row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..errors import BackendUnavailable, InputError, MissingDependency, RerankError
from ..progress import Progress
from . import facts
from .listwise import listwise
from .prepare import Effort, NotMeasured, Prepared, Shared, Ways, bm25, cross_encoder, dense, late
from .results import SCHEMA
from .rows import ROWS, LatencyRow, verdict
from .timing import Clock, Samples, percentiles, timed

QUICK = Effort(corpus=100_000, queries=100, rounds=5, least=2, seconds=6, total=150, centroids=1024, variants=False)
FULL = Effort(corpus=1_000_000, queries=200, rounds=5, least=10, seconds=60, total=1300, centroids=None, variants=True)
SLOWEST = "cross-encoder@1000"  # is measured last, in the time that the others leave
PREPARE: Ways = {
    "bm25": bm25,
    "bi-encoder-ann": dense,
    "cross-encoder@100": cross_encoder,
    "cross-encoder@1000": cross_encoder,
    "colbert-maxsim@1000": late,
    "llm-listwise@20": listwise,
}
Bars = Callable[[str], AbstractContextManager[Progress]]  # from what is counted to a bar


def no_bars(what: str) -> AbstractContextManager[Progress]:
    return nullcontext(lambda done, total: None)


def rows_named(names: Iterable[str] | None) -> list[LatencyRow]:
    """The rows of these names in the table's order; None: all. Raises InputError for a name that it lacks."""
    wanted = [row.name for row in ROWS] if names is None else list(names)
    for name in wanted:
        if name not in [row.name for row in ROWS]:
            raise InputError("row", got=name, expected="one of " + ", ".join(row.name for row in ROWS))
    return [row for row in ROWS if row.name in wanted]


def bench(
    rows: Sequence[LatencyRow] = ROWS,
    *,
    quick: bool = False,
    threads: int | None = None,
    bars: Bars = no_bars,
    clock: Clock | None = None,
    ways: Ways = PREPARE,
) -> dict[str, Any]:
    """Results in the form of `results.py`, without micro rows. threads: see `facts.pinned`; None: what this process may use. ways: how each
    row's work is done."""
    clock = Clock() if clock is None else clock
    with facts.pinned(threads) as working:
        about, before, shared = facts.facts(), facts.load(), Shared(QUICK if quick else FULL, bars, clock)
        order = sorted(rows, key=lambda row: row.name == SLOWEST)
        measured = {row.name: row_of(row, shared, working, ways) for row in order}
    return {
        "schema": SCHEMA,
        "facts": about,
        "load_before": before,
        "load_after": facts.load(),
        "threads": working,
        "quick": quick,
        "rows": [measured[row.name] for row in rows],
        "micro": [],
    }


def row_of(row: LatencyRow, shared: Shared, threads: int, ways: Ways = PREPARE) -> dict[str, Any]:
    """{"row", "label", "published_ms", "published_on", "verdict", "way": how its work was done, the numbers of `timing.percentiles`,
    "queries", "pace_ms": of the machine before and after (`timing.Pace`), "parts": {name: the same numbers},
    "documents", "tokens": of one on average, "backend", "device", "model",
    "settings": {...}, "threads", "variants": [the same, from "way" on, of other ways]}.

    "verdict" compares p50_ms. Where it is "not measured" there is "why", and the numbers are None: whatever keeps a row from being measured
    keeps no other one. After a way that was measured "why" says why no more followed.
    """
    made: dict[str, Any] = {"row": row.name, "label": row.label, "published_ms": list(row.published_ms), "published_on": row.published_on}
    done, why = list[dict[str, Any]](), {}
    try:
        for prepared in ways[row.name](row, shared):
            done.append(_numbers(prepared, shared, threads))
    except (NotMeasured, MissingDependency, BackendUnavailable) as error:
        why = {"why": str(error)}
    except (RerankError, MemoryError, RuntimeError, OSError) as error:
        why = {"why": f"{type(error).__name__}: {error}"}
    made |= why
    if not done:
        nothing = dict.fromkeys(("p50_ms", "p95_ms", "p99_ms", "cpu_ms", "backend", "device", "model"))
        return {**made, "documents": row.documents, "verdict": verdict(row, None), **nothing, "threads": threads}
    first, *variants = done
    made |= {"verdict": verdict(row, first["p50_ms"]), **first}
    return {**made, "variants": variants} if variants else made


def _numbers(prepared: Prepared, shared: Shared, threads: int) -> dict[str, Any]:
    clock, places = shared.clock, range(len(prepared.queries))
    n_queries, rounds = _size(shared, _estimate(prepared, clock), len(places))
    places = places[:n_queries]

    def stop() -> bool:
        return shared.seconds_left() <= 0

    pace = [shared.pace.ms()]
    with shared.bars(f"calls of {prepared.name}") as progress:
        samples = timed(prepared.run, places, rounds, warm_up=0, clock=clock, progress=progress, stop=stop)
    pace.append(shared.pace.ms())
    parts = {name: timed(call, places, samples.rounds, clock=clock, stop=stop) for name, call in prepared.parts.items()}
    return {
        "way": prepared.name,
        **percentiles(samples),
        "queries": n_queries,
        "pace_ms": pace,
        "parts": {**{name: percentiles(part) for name, part in parts.items()}, prepared.rest: {"p50_ms": _rest(samples, parts.values())}},
        **prepared.told,
        "threads": prepared.threads or threads,
    }


def _estimate(prepared: Prepared, clock: Clock) -> float:
    """Seconds that a query takes, by the warm-up: once more where it is quick, since the first call also pays for what is made once."""
    spent = 0.0
    for _ in range(2):
        begin = clock.wall()
        if prepared.warm_up is None:
            prepared.run(0)
        else:
            prepared.warm_up()
        spent = clock.wall() - begin
        if spent > 1:
            break
    return max(spent * prepared.warm_up_share, 1e-6)


def _size(shared: Shared, estimate: float, most: int) -> tuple[int, int]:
    """(queries, rounds) of effort.least to effort.seconds: fewer queries first, then fewer rounds, two if time allows it. Quick calls get
    more rounds: what a machine is up to changes within seconds. Raises NotMeasured."""
    effort, left = shared.effort, shared.seconds_left()
    if estimate > left:
        raise NotMeasured(f"a query takes about {estimate:.3g} s here, and this run has {max(left, 0):.0f} s left")
    calls = int(min(effort.seconds, left) / estimate)
    rounds = min(effort.rounds, max(calls, 2 if 2 * estimate <= left else 1))
    queries = max(1, min(most, effort.queries, calls // rounds))
    return queries, max(rounds, min(calls // queries, int(effort.least / (estimate * queries))))


def _rest(samples: Samples, parts: Iterable[Samples]) -> float:
    """ms of the median call that no part accounts for."""
    return round(max(0.0, samples.p50 - sum(part.p50 for part in parts)), 4)
