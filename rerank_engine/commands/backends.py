"""`rerank-engine backends`."""

from __future__ import annotations

import argparse

from .. import cli


def register(commands: cli.Commands) -> None:
    commands("backends", backends, "what can run on this machine, found by trying it")


def backends(args: argparse.Namespace) -> None:
    from ..backends import report

    rows = report()
    if args.json:
        cli.print_json(rows)
    else:
        what = [[r["kind"], r["name"], r["variant"], "ok" if r["ok"] else "no", r["reason"] or r["detail"]] for r in rows]
        cli.table(["kind", "name", "variant", "", "why"], what)
