"""How many machines a plan needs for so many queries a second, by simulation.

Queries arrive at random (a Poisson process) into one queue. A machine, or one of its processes, that is free takes the waiting ones in
their order, as many as its token budget holds, at least one, and answers them together when all are done; a batch pays what a query
costs beside its fixed part for each of its queries, and the fixed part once. A query's time is the plan's p50 with a lognormal factor
whose 95th percentile is p95 / p50.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..ops.checks import count, finite_number
from .fleet import Tier, lognormal, simulate

BATCH_TOKENS = 16_384  # by default
QUERIES = 20_000  # simulated, after those that fill the queue: a tenth as many, and what arrives in FILL of the slowest answers
FILL = 5
MOST = 4096  # machines


@dataclass(frozen=True, slots=True)
class Service:
    """One query's demand on a machine. p50_ms, p95_ms; fixed_ms: the part of p50 that a batch pays once; tokens: that its models read."""

    p50_ms: float
    p95_ms: float
    fixed_ms: float
    tokens: float


@dataclass(frozen=True)
class Capacity:
    """machines: the fewest whose responses, waiting included, keep to the target at p95; what the simulation of that many gave. enough:
    False where no number does, as the plan's own p95 is beyond it: then the fewest with which waiting adds less than 1 %."""

    machines: int
    enough: bool
    qps: float
    target_ms: float
    response_p50_ms: float
    response_p95_ms: float
    utilisation: float
    mean_batch: float
    assumptions: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        rounded = {name: round(getattr(self, name), 3) for name in ("response_p50_ms", "response_p95_ms", "utilisation", "mean_batch")}
        return {
            "machines": self.machines,
            "enough": self.enough,
            "qps": self.qps,
            "target_p95_ms": self.target_ms,
            **rounded,
            "assumptions": list(self.assumptions),
        }


def capacity(
    service: Service, *, qps: float, target_ms: float, batch_tokens: int = BATCH_TOKENS, processes: int = 1, seed: int = 0
) -> Capacity:
    """By bisection over the number of machines: more never answer later, and as many as would be busy all the time never catch up.
    processes: of a machine, each with a batch of its own, as fast as one alone. Raises InputError."""
    if finite_number("capacity: qps", qps) <= 0 or finite_number("capacity: target_ms", target_ms) <= 0:
        raise InputError("capacity", got=f"{qps:g} queries a second, {target_ms:g} ms", expected="numbers above 0")
    count("capacity: batch_tokens", batch_tokens)
    count("capacity: processes", processes)
    rng = np.random.default_rng(seed)
    fill = max(QUERIES // 10, min(QUERIES * 10, int(FILL * qps * service.p95_ms / 1e3)))
    arrivals = np.cumsum(rng.exponential(1e3 / qps, fill + QUERIES))
    times = lognormal(service.p50_ms, service.p95_ms, fill + QUERIES, rng)
    batch = max(1, int(batch_tokens // service.tokens)) if service.tokens else 1

    def run(machines: int) -> tuple[float, float, float, float]:
        return simulated(arrivals, times, service, machines * processes, batch, fill)

    floor = float(np.percentile(times, 95))
    goal = target_ms if floor <= target_ms else 1.01 * floor
    saved = min(1.0, service.fixed_ms / service.p50_ms) * (1 - 1 / batch)
    offered = qps * float(times.mean()) * (1 - saved) / 1e3 / processes  # machines that are always busy
    low, high = int(offered), int(offered) + 1
    while high <= MOST and run(high)[1] > goal:
        low, high = high, 2 * high
    if high > MOST:
        raise InputError("capacity", got=f"{qps:g} queries a second", expected=f"what {MOST} machines of this plan can answer")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if run(middle)[1] <= goal else (middle, high)
    told = run(high)
    return Capacity(high, floor <= target_ms, qps, target_ms, *told, _assumptions(service, qps, batch_tokens, batch, processes))


def simulated(
    arrivals: NDArray[np.float64], times: NDArray[np.float64], service: Service, servers: int, batch: int, fill: int
) -> tuple[float, float, float, float]:
    """(response p50, p95, ms; utilisation; mean batch) of one queue before so many servers. arrivals, times float64 [n]: ms, of a query
    alone. The first `fill` answers are left out."""
    tier = Tier("capacity", servers=servers, batch=batch, fixed=min(1.0, service.fixed_ms / service.p50_ms))
    told = simulate(arrivals, [tier], [times], fill=fill)
    return told.percentile(50), told.percentile(95), told.tiers[0].utilisation, told.tiers[0].mean_batch


def _assumptions(service: Service, qps: float, batch_tokens: int, batch: int, processes: int) -> tuple[str, ...]:
    side = "one batch at a time on a machine"
    if processes > 1:
        side = f"{processes} processes on a machine, one batch at a time each, as fast as one alone, over the same files"
    return (
        f"arrivals: Poisson, {qps:g} queries a second on average, no bursts beyond it",
        "one queue in the order of arrival before all machines, no network between",
        f"a query alone: {service.p50_ms:.4g} ms at p50, {service.p95_ms:.4g} ms at p95, lognormal; {side}",
        f"a batch: at most {batch_tokens:,} tokens of models, here {batch:,} queries, of those that wait; nobody waits for it to fill"
        if service.tokens
        else "no model reads anything: a query at a time",
        f"of a query's time {service.fixed_ms:.4g} ms are paid once a batch, all else for each of its queries",
        "answers of a batch leave together; no query fails, is repeated or found in a cache; no machine fails",
        f"{QUERIES:,} queries simulated",
    )
