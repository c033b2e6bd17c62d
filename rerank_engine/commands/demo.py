"""`rerank-engine demo`."""

from __future__ import annotations

import argparse
from typing import Any

from .. import cli


def register(commands: cli.Commands) -> None:
    sub = commands("demo", demo, "retrieve and re-rank real Wikipedia passages with real models")
    sub.add_argument("query", nargs="?", metavar="QUERY", help="a question (default: a sample one)")
    sub.add_argument("--evaluate", type=int, metavar="N", help="judge every stage over N questions with known answers")
    sub.add_argument("--threads", type=int, help="threads of the models (default: what this process may use)")


def demo(args: argparse.Namespace) -> None:
    from ..demo import SAMPLE, load_demo

    if args.query is not None:
        cli.require_text("QUERY", args.query)
    runner = load_demo(args.threads)
    questions = None if args.evaluate is None else runner.questions(args.evaluate)
    query = args.query or SAMPLE
    ranking = runner.search(query)
    results: list[dict[str, Any]] = [
        {"rank": place, "id": document.id, "score": float(score), "text": document.passage, "stage_ranks": ranking.stage_ranks(row)}
        for place, (row, score, document) in enumerate(zip(ranking.ids.tolist(), ranking.scores, ranking.documents), 1)
    ]
    stages = [step.to_dict() for step in ranking.trace]
    if questions is not None:
        with cli.Bar("questions") as progress:
            stages = runner.evaluate(questions, progress)
    if args.json:
        cli.print_json({"query": query, "results": results, "stages": stages})
        return
    cli.say(
        f"{query}\n\n{len(ranking.corpus):,} Wikipedia passages; score: logit; BM25 to CrossEncoder: rank after each stage (-: not found)\n"
    )
    columns = [name for name in dict.fromkeys(name for r in results for name in r["stage_ranks"]) if name != "Top"]
    cli.table(
        ["rank", "score", *columns, "passage"],
        [
            [r["rank"], f"{r['score']:.3f}", *(r["stage_ranks"].get(c, "-") for c in columns), cli.clip(r["text"], query=query)]
            for r in results
        ],
    )
    cli.say()
    keys = ["name", "backend", "n_in", "n_out", "ms", *(k for k in ("ndcg@10", "mrr@10", "answer@3") if k in stages[0])]
    cli.table(keys, [[f"{s[k]:.4f}" if "@" in k else f"{s[k]:.1f}" if k == "ms" else s[k] for k in keys] for s in stages])
    total = sum(s["ms"] for s in stages)
    cli.say(
        f"\n{total:.0f} ms of work in all, of which the branches of Fuse may go on at the same time"
        + (f"; quality and median times over {args.evaluate} questions" if args.evaluate else ", without loading")
    )
