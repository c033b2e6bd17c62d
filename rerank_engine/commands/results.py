"""What `rerank-engine search` found, of whatever kind of index."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from .. import cli
from ..core import Ranking


def results_of(ranking: Ranking, more: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """A dict for each document, best first. more: what else is told of each, if anything."""
    found = zip(ranking.scores.tolist(), ranking.documents, more or [{}] * len(ranking))
    return [
        {"rank": place, "id": document.id, "score": score, "text": document.passage, **told}
        for place, (score, document, told) in enumerate(found, 1)
    ]


def show(args: argparse.Namespace, results: Sequence[Mapping[str, Any]], facts: Mapping[str, Any] | None = None) -> None:
    """A table; with --json, all of it and the facts."""
    if args.json:
        cli.print_json({"query": args.query, "index": str(args.index), "results": results, **(facts or {})})
        return
    rows = [[r["rank"], f"{r['score']:.4f}", r["id"], cli.clip(str(r["text"]), query=args.query)] for r in results]
    cli.table(["rank", "score", "id", "document"], rows)


def show_terms(results: Sequence[Mapping[str, Any]], whole: Sequence[str], real: Sequence[str]) -> None:
    """The terms of each result: columns of strings and whole numbers, then of real ones."""
    for result in results:
        cli.say(f"\n{result['id']}")
        rows = [[*(term[key] for key in whole), *(f"{term[key]:.4f}" for key in real)] for term in result["terms"]]
        cli.table([*whole, *real], rows)
