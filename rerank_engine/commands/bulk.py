"""`rerank-engine rerank-run`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import cli


def register(commands: cli.Commands) -> None:
    sub = commands("rerank-run", rerank_run, "re-rank a whole run over a collection, in parts that survive a stop")
    sub.add_argument("run", metavar="RUN", help="TREC's columns, BEIR's table, JSON, JSON lines or Parquet")
    sub.add_argument("--queries", required=True, metavar="FILE", help="JSON lines or Parquet with _id and text, or a BEIR folder")
    sub.add_argument("--corpus", required=True, metavar="FILE", help="JSON lines or Parquet, or a BEIR folder")
    sub.add_argument("--out", required=True, metavar="FOLDER", help="of the parts and of run.trec; the same again goes on where it was")
    sub.add_argument("--format", choices=("trec", "jsonl", "parquet"), default="trec", help="of the run in the end (default: trec)")
    sub.add_argument("--model", help="a folder, a bundled name or a hub name (default: ms-marco-MiniLM-L-12-v2)")
    sub.add_argument("--depth", type=int, default=100, help="documents of a list that are re-ranked (default: 100)")
    sub.add_argument("--part", type=int, default=50, metavar="N", help="queries of a part (default: 50)")
    sub.add_argument("--workers", type=int, default=1, metavar="N", help="processes, each with the model (default: 1)")
    sub.add_argument("--threads", type=int, help="of each (default: an equal share of the processors; on Ray 1)")
    sub.add_argument("--runtime", choices=("onnx", "torch", "tensorrt"), help="what runs the model (default: the best that does here)")
    sub.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU if there is one")
    sub.add_argument("--precision", choices=("float32", "float16", "bfloat16"), help="default: the file's, or half on a GPU")
    sub.add_argument("--prompt", help="how a decoder or a T5 was trained to be asked (see rr.load)")
    sub.add_argument("--ray", action="store_true", help="on Ray: a pool of actors, on as many machines as it has")


def rerank_run(args: argparse.Namespace) -> None:
    from .. import bulk
    from ..api import DEFAULT_MODEL

    names = ("runtime", "device", "precision", "prompt")
    options: dict[str, Any] = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    files = {name: str(Path(getattr(args, name)).absolute()) for name in ("run", "queries", "corpus", "out")}
    model = args.model or DEFAULT_MODEL
    model = str(Path(model).absolute()) if Path(model).is_dir() else model
    job = bulk.Job(**files, model=model, options=options, depth=args.depth, part=args.part)
    each = None
    if args.ray:
        from ..cluster import on_ray, require_ray

        require_ray("data")  # before the folder is claimed for these options
        each = on_ray
    with cli.Bar("parts") as bar:
        told = bulk.rerank_run(job, workers=args.workers, threads=args.threads, progress=bar, each=each, form=args.format)
    if args.json:
        cli.print_json(told)
        return
    rows = [[row["part"], row["queries"], row["pairs"], f"{row['seconds']:.1f}", row["process"]] for row in told["parts_told"]]
    cli.table(["part", "queries", "pairs", "s", "process"], sorted(rows))
    cli.say(f"{told['run']}: {told['queries']} queries in {told['parts']} parts, {told['done_before']} of them done before")
