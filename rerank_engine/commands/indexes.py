"""`rerank-engine index`, `search` and `check`: of BM25 here, of other kinds in modules of their own."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from .. import cli
from ..corpus import Corpus
from ..errors import InputError
from ..ops.checks import count
from . import tokens
from .folders import add_documents, is_filled


def register(commands: cli.Commands) -> None:
    sub = commands("index", index, "build a BM25 index: one file, or a folder that takes changes; or, with --tokens, a token index")
    sub.add_argument("corpus", metavar="CORPUS", help="JSON lines (.jsonl, .gz) or the folder of a BEIR collection")
    sub.add_argument("output", metavar="INDEX", help="the file to write; with --folder, a folder to create or to add to")
    sub.add_argument("--folder", action="store_true", help="an index that takes more documents later")
    sub.add_argument("--update", action="store_true", help="with --folder: replace documents that are there already")
    sub.add_argument("--analyzer", help="a language such as english or zh, simple, lucene-english ... (default: english)")
    sub.add_argument("--variant", help="lucene (default), robertson, atire, bm25l or bm25+")
    sub.add_argument("--k1", type=float, help="default: 1.2")
    sub.add_argument("--b", type=float, help="default: 0.75")
    sub.add_argument("--forward", action="store_true", help="keep each document's terms: feedback then reads no texts")
    sub.add_argument("--no-codes", action="store_true", help="a byte per posting less, slower searches")
    sub.add_argument("--tokens", metavar="MODEL", help="a token index by this late-interaction model instead")
    sub.add_argument("--storage", help="of tokens: float32, float16 (default), int8, 4bit, 2bit or 1bit")
    sub.add_argument("--threads", type=int, help="threads of that model (default: what this process may use)")

    sub = commands("search", search, "search a BM25 index, or a token index by the model that made it")
    sub.add_argument("index", metavar="INDEX", help="a file or a folder")
    sub.add_argument("query", metavar="QUERY")
    sub.add_argument("-k", type=int, default=10, help="results (default: 10)")
    sub.add_argument("--variant", help="of BM25, instead of the index' own; so for --k1 and --b")
    sub.add_argument("--k1", type=float)
    sub.add_argument("--b", type=float)
    sub.add_argument("--model", help="of a token index (default: the one that made it)")
    sub.add_argument("--threads", type=int, help="threads of that model and of scoring (default: what this process may use)")
    sub.add_argument("--rm3", action="store_true", help="expand the query by feedback from the first results")
    sub.add_argument("--explain", action="store_true", help="each term's part in each score; of a token index, a heat map")
    sub.add_argument("--html", metavar="FILE", help="of a token index: write a page with a heat map of each result")

    sub = commands("check", check, "read every byte of an index and say whether it is whole")
    sub.add_argument("index", metavar="INDEX", help="a file or a folder")


def index(args: argparse.Namespace) -> None:
    from ..indexes import BM25Index

    given = {name: getattr(args, name) for name in ("analyzer", "variant", "k1", "b") if getattr(args, name) is not None}
    if args.update and not args.folder:
        raise InputError("--update", got="an index in one file", expected="--folder")
    if args.tokens is not None:
        if given or args.forward or args.no_codes:
            raise InputError("--tokens", got="settings of a BM25 index", expected="only --storage with it")
        return tokens.index(args)
    if args.storage is not None:
        raise InputError("--storage", got=args.storage, expected="--tokens MODEL with it")
    if args.threads is not None:
        raise InputError("--threads", got="a BM25 index", expected="--tokens MODEL with it")
    options = {**given, "forward": args.forward, "codes": not args.no_codes}
    documents, output = Corpus.stream(args.corpus), Path(args.output)
    if args.folder:
        exists = is_filled(args, bool(given or args.forward or args.no_codes))
        target = BM25Index.open(output) if exists else BM25Index.create(output, **options)
        add_documents(target, documents, args, exists)
    else:
        with cli.Bar("documents") as progress:
            BM25Index.build_file(documents, output, progress=progress, **options)
    made = BM25Index.open(output)
    summary = {"index": str(output), "documents": len(made), "postings": made.n_postings}
    cli.print_json(summary) if args.json else cli.say(made)


def search(args: argparse.Namespace) -> None:
    from ..core import Query
    from ..indexes import BM25Index
    from ..indexes.token_members import is_token_index
    from ..stages import BM25, RM3

    count("-k", args.k)
    if is_token_index(args.index):
        return tokens.search(args)
    for option in ("model", "threads", "html"):
        if getattr(args, option) is not None:
            raise InputError(f"--{option}", got="a BM25 index", expected="a token index, or none of it")
    opened = BM25Index.open(args.index, variant=args.variant, k1=args.k1, b=args.b)
    first = BM25(opened, k=args.k)
    stage, query = RM3(first) if args.rm3 else first, Query(args.query)
    if isinstance(stage, RM3):
        query = replace(query, terms=stage.expand([query], first.with_k(stage.fb_docs).run([query]))[0])
    ranking = first(query)
    results = [
        {"rank": place, "id": document.id, "score": float(score), "text": document.passage}
        | ({"terms": opened.explain(query, document.id)["terms"]} if args.explain else {})
        for place, (score, document) in enumerate(zip(ranking.scores, ranking.documents), 1)
    ]
    if args.json:
        terms = {"terms": query.terms} if query.terms is not None else {}
        cli.print_json({"query": args.query, "index": str(args.index), "results": results, **terms})
        return
    if query.terms is not None:
        cli.say("terms: " + ", ".join(f"{term} {weight:.3f}" for term, weight in query.terms.items()) + "\n")
    cli.table(
        ["rank", "score", "id", "document"],
        [[r["rank"], f"{r['score']:.4f}", r["id"], cli.clip(str(r["text"]), query=args.query)] for r in results],
    )
    for document in ranking.documents if args.explain else []:
        cli.say(f"\n{document.id}")
        terms = opened.explain(query, document.id)["terms"]
        keys = ("idf", "f", "weight", "score")
        cli.table(["term", "tf", "df", *keys], [[t["term"], t["tf"], t["df"], *(f"{t[key]:.4f}" for key in keys)] for t in terms])


def check(args: argparse.Namespace) -> None:
    from ..indexes import BM25Index, TokenIndex
    from ..indexes.token_members import is_token_index

    with cli.Bar("segments") as progress:
        found = (TokenIndex if is_token_index(args.index) else BM25Index).check(args.index, progress)
    cli.print_json({**found, "ok": True}) if args.json else cli.say("whole: " + ", ".join(f"{key} {value}" for key, value in found.items()))
