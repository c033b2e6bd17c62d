"""`rerank-engine bench`: the latency table on this machine, and what moved between two runs of it."""

from __future__ import annotations

import argparse
from typing import Any

from .. import cli
from ..errors import InputError

TAILS = ("p95_ms", "p99_ms")


def register(commands: cli.Commands) -> None:
    sub = commands("bench", bench, "measure the field's latency table on this machine, on data that ships with the package")
    sub.add_argument("--quick", action="store_true", help="smaller collections and fewer calls: under 3 minutes")
    sub.add_argument("--rows", metavar="ROW,...", help="only these: bm25, bi-encoder-ann, cross-encoder@100, ... (default: all)")
    sub.add_argument("--threads", type=int, metavar="N", help="of this process's processors (default: all that it may use)")
    sub.add_argument("--out", metavar="FILE", help="write the results, with what they were measured on, as JSON")
    sub.add_argument("--compare", nargs=2, metavar=("A", "B"), help="measure nothing: print what moved beyond noise from file A to file B")


def bench(args: argparse.Namespace) -> None:
    from ..latency import measure, results

    if args.compare:
        if args.quick or args.rows or args.threads or args.out:
            raise InputError("bench --compare", got="options of a measurement", expected="two files alone")
        show_moved(args)
        return
    rows = measure.rows_named(None if args.rows is None else [name.strip() for name in args.rows.split(",")])
    if args.out is not None:
        results.require_place(args.out)
    found = measure.bench(rows, quick=args.quick, threads=args.threads, bars=cli.Bar)
    if args.out is not None:
        results.save(args.out, found)
    cli.print_json(found["rows"]) if args.json else show(found)


def show(found: dict[str, Any]) -> None:
    from ..latency.rows import FEW

    cells = []
    for row in found["rows"]:
        low, high = row["published_ms"]
        few = row["p50_ms"] is not None and row["calls"] < FEW
        numbers = ["" if few and key in TAILS else f"{row[key]:.2f}" for key in ("p50_ms", *TAILS, "cpu_ms") if row[key] is not None]
        where = f"{row['backend']}, {row['model']}, {row['threads']} thread{'s' * (row['threads'] > 1)}" if numbers else row["why"]
        cells.append([row["row"], f"{low:g}-{high:g}", *(numbers or [""] * 4), row["verdict"], f"{row['documents']:,}", where])
    cli.table(["row", "published ms", "p50", "p95", "p99", "cpu", "verdict", "documents", "what ran"], cells)
    cli.say()
    parts = [
        [way["way"], part, f"{ms['p50_ms']:.2f}", *([f"{x:.2f}" for x in ms["spread_ms"]] if "spread_ms" in ms else ["", ""])]
        for row in found["rows"]
        if row["p50_ms"] is not None
        for way in (row, *row.get("variants", ()))
        for part, ms in (("all", way), *way["parts"].items())
    ]
    cli.table(["of", "part", "p50 ms", "rounds' quartiles", ""], parts)
    machine = found["facts"]["machine"]
    cli.say(
        "\nms a query, text in, ranked list out; cpu: of all threads; verdict: p50 against the published range, an order of magnitude"
        f"\np95, p99: of {FEW} calls or more; rounds' quartiles: of the medians of rounds"
        f"\n{machine['processor']}, {found['threads']} threads, load {found['load_before']} before and {found['load_after']} after"
    )


def show_moved(args: argparse.Namespace) -> None:
    from ..latency import moved, results

    found = moved.compare(*(results.load(path) for path in args.compare))
    if args.json:
        cli.print_json(found)
        return
    for line in found["unlike"]:
        cli.say(line)
    if found["moved"]:
        cells = [
            [m["change"], m["what"], m["metric"], *("" if x is None else f"{x:.4g}" for x in (m["before"], m["after"], m["ratio"]))]
            for m in found["moved"]
        ]
        cli.table(["", "what", "metric", "before", "after", "after/before"], cells)
    cli.say(f"{len(found['moved'])} of {found['compared']} numbers moved beyond their spreads and 10 %")
