"""`rerank-engine rerank`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .. import cli
from ..corpus import Corpus, document_from_json, parse_jsonl, read_text
from ..errors import InputError
from ..ops.checks import count
from ..parquet import is_parquet


def register(commands: cli.Commands) -> None:
    sub = commands("rerank", rerank, "order documents for a query with a cross-encoder or a late-interaction model")
    sub.add_argument("--model", help="a folder, a bundled name or a hub name (default: ms-marco-MiniLM-L-12-v2)")
    sub.add_argument("--threads", type=int, help="threads of the model (default: what this process may use)")
    sub.add_argument("--runtime", choices=("onnx", "torch", "tensorrt"), help="what runs the model (default: the best that does here)")
    sub.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU if there is one")
    sub.add_argument("--precision", choices=("float32", "float16", "bfloat16"), help="default: the file's, or half on a GPU")
    sub.add_argument("--prompt", help="how a decoder or a T5 was trained to be asked: qwen3, monot5, rankt5, ... (see rr.load)")
    sub.add_argument("--query", required=True)
    sub.add_argument(
        "--documents", required=True, metavar="FILE", help="JSON lines (.jsonl, .gz), Parquet, or text with one document a line; - reads it"
    )
    sub.add_argument("--top-n", type=int, metavar="N", help="results to print (default: all)")
    sub.add_argument(
        "--activation", choices=("none", "sigmoid"), default="none", help="none: the model's scores; sigmoid: of logits, 0 to 1"
    )


def rerank(args: argparse.Namespace) -> None:
    from ..api import DEFAULT_MODEL, named_model, rerank
    from ..runtimes import load
    from ..stages import ColBERT

    cli.require_text("--query", args.query)
    documents, name = read_documents(args.documents), DEFAULT_MODEL if args.model is None else args.model
    if args.top_n is not None:
        count("--top-n", args.top_n)
    given = {key: getattr(args, key) for key in ("threads", "runtime", "device", "precision", "prompt") if getattr(args, key) is not None}
    model: Any = load(name, **given) if given else named_model(name)
    results = rerank(args.query, documents, model, args.top_n, activation=args.activation)
    own = "maxsim" if isinstance(model, ColBERT) else "logit" if args.activation == "none" else "probability"
    scale = results[0].scale if results else own
    if args.json:
        rows = [{"index": r.index, "id": r.document.id, "score": r.score, "truncated_tokens": r.truncated_tokens} for r in results]
        cli.print_json({"model": name, "scale": scale, "results": rows})
        return
    cli.table(
        ["rank", "index", scale, "truncated", "document"],
        [
            [
                i,
                r.index,
                f"{r.score:.4f}" if r.document.passage.strip() else cli.NO_TEXT,
                r.truncated_tokens or "",
                cli.clip(r.document.passage),
            ]
            for i, r in enumerate(results, 1)
        ],
    )


def read_documents(source: str) -> Corpus:
    """Parquet, JSON lines or plain lines: by the file's ending, else by the first characters."""
    if is_parquet(source):
        return Corpus.from_parquet(source)
    if source == "-" and sys.stdin is None:
        raise InputError("--documents -", got="no standard input", expected="text on it")
    text = sys.stdin.read() if source == "-" else read_text(source)
    name = source.lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson", ".json")) or (not name.endswith(".txt") and text.lstrip().startswith("{")):
        return Corpus(document_from_json(record, row, where) for row, (where, record) in enumerate(parse_jsonl(text.split("\n"), source)))
    return Corpus.from_texts([line for line in text.splitlines() if line.strip()])
