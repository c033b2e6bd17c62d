"""`rerank-engine calibrate` and `rerank-engine plan`: what stages cost here, and the pipeline that a latency budget buys."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .. import cli, pictures
from ..errors import InputError
from .fleet import machines, placement, show, show_extrapolated, told

if TYPE_CHECKING:
    from ..planning import Plan

SHOWN = 12  # rows of a frontier
DRIFT = 0.15  # of the machine's pace: more than that is worth saying


def register(commands: cli.Commands) -> None:
    sub = commands("calibrate", calibrate, "time each stage on this machine, about a minute, and keep what it costs for `plan`")
    sub.add_argument("--out", metavar="FILE", help="default: rerank_engine/costs.json in the user's config directory")
    sub.add_argument("--quick", action="store_true", help="fewer sizes: half the time")
    sub.add_argument("--float32", action="store_true", help="also the cross-encoder at float32, where its file is int8")
    sub.add_argument("--threads", type=int, help="of the models (default: what this process may use)")
    sub.add_argument("--model", action="append", default=[], metavar="KIND=NAME", help="another model for cross, dense, late or splade")
    sub = commands("plan", plan, "choose the stages, depths and precision of the best expected nDCG@10 within a latency budget")
    sub.add_argument("--p95", type=float, required=True, metavar="MS", help="the budget: 95 of 100 queries are answered within it")
    sub.add_argument("--corpus-size", type=cli.number, required=True, metavar="N", help="documents, such as 1e6")
    sub.add_argument("--tokens", type=cli.number, required=True, metavar="N", help="word pieces of a passage on average")
    sub.add_argument("--query-tokens", type=cli.number, metavar="N", help="of a query (default: what calibration saw)")
    sub.add_argument("--quality", metavar="FILE", help="rows of benchmarks.quality_table (default: the table that ships with the package)")
    sub.add_argument("--collection", action="append", metavar="NAME", help="of the quality rows, may repeat (default: the mean of all)")
    sub.add_argument("--costs", metavar="FILE", help="of `rerank-engine calibrate` (default: the user's)")
    sub.add_argument("--any-machine", action="store_true", help="take costs of another machine")
    sub.add_argument("--device", default="cpu", metavar="NAME", help="a GPU for the models, such as H100: predicted, not measured")
    machines(sub)
    sub.add_argument("--plot", metavar="FILE", help="draw the frontier (.png, .svg, .pdf)")


def calibrate(args: argparse.Namespace) -> None:
    from ..planning import calibrate as run

    chosen = dict(pair.split("=", 1) if "=" in pair else (pair, "") for pair in args.model)
    if bad := [kind for kind, name in chosen.items() if not name]:
        raise InputError("--model", got=", ".join(bad), expected="KIND=NAME")
    with cli.Bar("groups of stages") as progress:
        costs = run(threads=args.threads, quick=args.quick, float32=args.float32, models=chosen, progress=progress)
    path = costs.save(args.out)
    if costs.drift > DRIFT:
        cli.note(
            f"the machine's own pace moved by {costs.drift:.0%} meanwhile, which widens every interval of a plan: repeat when it is quiet"
        )
    if args.json:
        cli.print_json({"path": str(path), **costs.to_dict()})
        return
    units = ("fixed ms", "ms a query token", "a document", "a token", "a million searched", "branches x")
    header = ("stage", "precision", *units, "p95/p50", "error", "backend")
    terms = ("fixed_ms", "per_query_token_ms", "per_document_ms", "per_token_ms", "per_corpus_ms", "per_branch_ms")
    rows = [
        [s.stage, s.precision, *(f"{getattr(s, t):.4g}" for t in terms), f"{s.spread:.2f}", f"{s.error:.2f}", s.backend]
        for s in costs.stages
    ]
    cli.table(header, rows)
    cli.say(f"\n{path}")


def plan(args: argparse.Namespace) -> None:
    from ..planning import Costs, Curves
    from ..planning import plan as make
    from ..planning.plan import extrapolated

    if args.plot:
        pictures.check("--plot", args.plot)
    costs, curves = Costs.load(args.costs, any_machine=args.any_machine), Curves.load(args.quality, args.collection)
    placed = placement(args, costs, curves)
    given = {"corpus_size": args.corpus_size, "tokens": args.tokens, "query_tokens": args.query_tokens, "device": args.device}
    made = placed.plan if placed is not None else make(p95_ms=args.p95, quality=curves, costs=costs, **given)
    if args.plot:
        made.plot(args.plot)
    if args.json:
        more = told(placed) if placed else {"extrapolated": list(extrapolated(made.chosen, costs, made.shape))}
        cli.print_json({**made.to_dict(), **more})
        return
    if placed and placed.fleet is not None:
        cli.say(f"one of {placed.shards} shards, of {made.shape.corpus_size:,} documents, nobody else asking; the fleet is below\n")
    _show(made)
    if placed:
        show(placed)
    else:
        show_extrapolated(extrapolated(made.chosen, costs, made.shape), made.shape.corpus_size)


def _show(plan: Plan) -> None:
    told, where = plan.to_dict(), "predicted, not measured, for" if plan.predicted else "calibrated on"
    cli.say(f"{told['name']}   ({where} {plan.device})")
    for which in ("p50", "p95"):
        low, high = told[f"predicted_{which}_ms_95"]
        cli.say(f"  {which}      {told[f'predicted_{which}_ms']:.4g} ms   95 %: {low:.4g} to {high:.4g}")
    expected = told["expected"]
    low, high = expected["ndcg@10_95"]
    how = "measured" if expected["measured"] else "between measured depths"
    cli.say(f"  nDCG@10  {expected['ndcg@10']:.4f}     95 %: {low:.4f} to {high:.4f}   {how}; {', '.join(plan.collections)}")
    if plan.cut_tokens >= 0.5:
        whole, limit = plan.shape.tokens, plan.shape.limit
        cli.say(f"  cut      {plan.cut_tokens:.0f} of a passage's {whole:g} tokens, for the cross-encoder reads {limit} of a pair")
    cli.say("\nwhere the time goes")
    cli.table(("stage", "ms"), [[part["stage"], f"{part['ms']:.3f}"] for part in told["stages"]])
    cli.say(f"\nthe frontier; within {plan.budget_ms:g} ms at p95:")
    names = [row["name"] for row in told["given_up"]]
    rows = told["frontier"][:SHOWN] if len(told["frontier"]) <= SHOWN else _around(told["frontier"], told["name"])
    cli.table(("p50 ms", "p95 ms", "nDCG@10", "within", "configuration"), [_cells(row, row["name"] not in names) for row in rows])
    if told["given_up"]:
        best = told["given_up"][-1]
        cli.say(f"\ngiven up: {best['gain']:.4f} nDCG@10, by '{best['name']}' at {best['p95_ms']:,.0f} ms")


def _around(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    at = next(i for i, row in enumerate(rows) if row["name"] == name)
    start = max(0, min(at - SHOWN // 2, len(rows) - SHOWN))
    return rows[start : start + SHOWN]


def _cells(row: dict[str, Any], within: bool) -> list[str]:
    mark = "" if row["measured"] else "~"
    return [f"{row['p50_ms']:.2f}", f"{row['p95_ms']:.2f}", f"{mark}{row['ndcg@10']:.4f}", "yes" if within else "no", row["name"]]
