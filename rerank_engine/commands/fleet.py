"""What `rerank-engine plan --qps` adds: the machines of a plan."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import cli
from ..errors import InputError
from ..ops.checks import finite_number

if TYPE_CHECKING:
    from ..planning import Capacity, Costs, Curves, Placement

# option -> what it is called in `Assumed`
ASSUMED = {"redundancy": "redundancy", "hop_ms": "hop_ms", "stragglers": "straggling", "hedge": "hedge", "failures": "failures"}
PASSED = 3  # of those that were passed over are shown
OF_QPS = ("batch_tokens", "machine_memory", "machine_processors", "machine_price", "shard_size", *ASSUMED)


def machines(sub: argparse.ArgumentParser) -> None:
    """The options."""
    sub.add_argument(
        "--qps", type=cli.number, metavar="N", help="also the machines for so many queries a second, simulated; the rest is of it"
    )
    sub.add_argument("--batch-tokens", type=int, metavar="N", help="tokens of models that a machine batches at most, where it holds all")
    sub.add_argument("--machine-memory", type=cli.number, metavar="BYTES", help="such as 256e9 (default: this machine's)")
    sub.add_argument("--machine-processors", type=int, metavar="N", help="default: what this process may use")
    sub.add_argument("--machine-price", type=cli.number, metavar="PRICE", help="an hour, in any currency (default: costs are not told)")
    sub.add_argument(
        "--shard-size", type=cli.number, metavar="N", help="documents of a shard at most; more than that are a fleet (default: 16e6)"
    )
    sub.add_argument(
        "--redundancy", type=int, metavar="N", help="replicas of everything at least; 2 and more: one may be gone (default: 2)"
    )
    sub.add_argument("--hop-ms", type=float, metavar="MS", help="the network, one way (default: 0.5)")
    sub.add_argument("--stragglers", type=float, nargs=2, metavar=("SHARE", "TIMES"), help="answers that take longer (default: 0.01 5)")
    sub.add_argument("--hedge", type=float, nargs=2, metavar=("QUANTILE", "MOST"), help="second tries at shards (default: 0.95 0.1)")
    sub.add_argument("--failures", type=float, nargs=2, metavar=("HOURS", "MINUTES"), help="between two, of repair (default: 720 10)")


def placement(args: argparse.Namespace, costs: Costs, curves: Curves) -> Placement | None:
    """None without --qps. Raises InputError."""
    from ..planning import Assumed, Machine, place
    from ..planning.shape import shape_from

    if args.qps is None:
        if given := [name for name in OF_QPS if getattr(args, name) is not None]:
            option = "--" + given[0].replace("_", "-")
            raise InputError(option, got=getattr(args, given[0]), expected="--qps with it")
        return None
    here = Machine.here(args.machine_price)
    memory = here.memory if args.machine_memory is None else args.machine_memory
    processors = here.processors if args.machine_processors is None else args.machine_processors
    machine = Machine(memory, processors, args.machine_price)
    chosen = {name: getattr(args, option) for option, name in ASSUMED.items() if getattr(args, option) is not None}
    chosen = {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}
    if args.shard_size is not None:
        chosen["shard_size"] = round(finite_number("--shard-size", args.shard_size, 1))
    shape = shape_from(args.corpus_size, args.tokens, costs.workload, args.query_tokens)
    with cli.Bar("simulated answers of shards") as progress:
        placed = place(
            shape, qps=args.qps, p95_ms=args.p95, costs=costs, quality=curves, device=args.device, machine=machine,
            assumed=Assumed(**chosen), batch_tokens=args.batch_tokens, progress=progress,
        )  # fmt: skip
    unused = tuple(ASSUMED) if placed.fleet is None else ("batch_tokens",)
    if names := ["--" + name.replace("_", "-") for name in unused if getattr(args, name) is not None]:
        why = "one machine holds all" if placed.fleet is None else "the corpus is in shards"
        cli.note(f"not used, as {why}: {', '.join(names)}")
    return placed


def told(placed: Placement) -> dict[str, Any]:
    """Of --json, beside the plan."""
    return {**({"capacity": placed.capacity.to_dict()} if placed.capacity else {}), "placement": placed.to_dict()}


def show(placed: Placement) -> None:
    if placed.capacity is not None:
        _show_capacity(placed.capacity)
    if placed.fleet is not None:
        _show_fleet(placed)
    if placed.cost_hour is not None:
        hour = placed.cost_hour
        cli.say(f"\ncost     {hour:,.2f} an hour, {hour / (placed.qps * 3600) * 1e6:,.2f} a million queries")
    show_extrapolated(placed.extrapolated, placed.plan.shape.corpus_size, "shards of " if placed.fleet else "")
    if placed.passed_over:
        cli.say("\nbetter, within the budget by itself, and not taken; smaller shards or larger machines may change that")
        for line in placed.passed_over[:PASSED]:
            cli.say(f"  - {line}")
        if (more := len(placed.passed_over) - PASSED) > 0:
            cli.say(f"  and {more} more (--json)")
    if placed.fleet is not None:
        cli.say("\nassumed:")
        for line in placed.assumptions:
            cli.say(f"  - {line}")


def show_extrapolated(lines: Sequence[str], documents: int, of: str = "") -> None:
    if lines:
        cli.say(f"\nbeyond what was calibrated, on {of}{documents:,} documents")
        for line in lines:
            cli.say(f"  - {line}")


def _show_fleet(placed: Placement) -> None:
    fleet, documents = placed.fleet, placed.plan.shape.corpus_size
    assert fleet is not None
    cli.say(f"\nthe fleet for {placed.qps:g} queries a second over {placed.shape.corpus_size:,} documents   (predicted, not measured)")
    rows = [["shards", f"{placed.shards}, each of {documents:,} documents, {fleet.shard_replicas} replicas"]]
    rows.append(["shard machines", f"{fleet.shard_machines}, each with {fleet.held} of them"])
    if fleet.front_machines:
        rows.append(["front machines", f"{fleet.front_machines}, which encode queries"])
    if fleet.rerankers:
        rows.append(["re-ranker machines", f"{fleet.reranker_machines}, {fleet.rerankers} processes together"])
    rows.append(["machines", f"{placed.machines}"])
    size = sum(placed.memory.values())
    parts = ", ".join(f"{name} {own / 1e9:,.0f}" for name, own in placed.memory.items())
    rows.append(["memory", f"{size / 1e9:,.0f} GB a copy ({parts}), {placed.copies * size / 1e9:,.0f} GB in all"])
    cli.table(("", ""), rows)
    cli.say("\nresponses, simulated, ms")
    names = ("p50_ms", "p95_ms", "p99_ms", "partial", "busy_front", "busy_shards", "busy_rerankers", "asked_again", "extra_work")
    kept = [name for name in names if name in fleet.response]
    heads = [name.replace("_ms", "").replace("_", " ") for name in kept]
    sides = [("all machines there", fleet.response), ("upper end of the plan's interval", fleet.upper)]
    sides += [("and one of each kind gone", fleet.gone)] if fleet.gone is not None else []
    cli.table(("", *heads), [[label, *(_cell(name, side[name]) for name in kept)] for label, side in sides])
    cli.say(f"some shard is without a replica, and answers are partial, {fleet.bare:.1g} of the time")


def _cell(name: str, value: float) -> str:
    return f"{value:.1f}" if name.endswith("_ms") else f"{value:.1%}"


def _show_capacity(needed: Capacity) -> None:
    told = needed.to_dict()
    cli.say(
        f"\n{needed.machines} machine{'s' * (needed.machines != 1)} for {needed.qps:g} queries a second"
        + ("" if needed.enough else ": the plan alone fills the target")
    )
    cli.say(f"  response p50 {told['response_p50_ms']:.4g} ms, p95 {told['response_p95_ms']:.4g} ms; target {needed.target_ms:g} ms")
    cli.say(f"  utilisation {needed.utilisation:.0%}, {needed.mean_batch:.2f} queries a batch\nassumed:")
    for line in needed.assumptions:
        cli.say(f"  - {line}")
