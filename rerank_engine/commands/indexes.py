"""`rerank-engine index`, `search` and `check`: of BM25 here, of other kinds in modules of their own."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from .. import cli
from ..corpus import Corpus
from ..errors import InputError
from ..ops.checks import count
from . import encoded, kinds, sharded, tokens
from .folders import add_documents, is_filled
from .results import results_of, show, show_terms


def register(commands: cli.Commands) -> None:
    sub = commands("index", index, "build an index: of BM25, or by a model, with --tokens, --vectors or --sparse")
    sub.add_argument("corpus", metavar="CORPUS", help="JSON lines (gzipped or not), Parquet, or the folder of a BEIR collection")
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
    sub.add_argument("--vectors", metavar="MODEL", help="a vector index by this bi-encoder instead; a build that was stopped goes on")
    sub.add_argument("--kind", help="of vectors: auto (default), exact, or of faiss flat, ivf, hnsw, pq, ivfpq or sq8")
    sub.add_argument("--dim", type=int, metavar="N", help="of vectors: keep the first N numbers of each (Matryoshka models)")
    sub.add_argument("--keep", metavar="DTYPE", help="of vectors: float32 (default) or float16, half the bytes, rounded")
    sub.add_argument("--sparse", metavar="MODEL", help="an impact index by this sparse encoder (SPLADE) instead")
    sub.add_argument("--threads", type=int, help="of that model and of faiss (default: what this process may use, but 1 for hnsw's graph)")

    sub = commands("search", search, "search an index: of BM25, or by the model that made it")
    sub.add_argument("index", metavar="INDEX", help="a file or a folder, also of shards")
    sub.add_argument("query", metavar="QUERY")
    sub.add_argument("-k", type=int, default=10, help="results (default: 10)")
    sub.add_argument("--variant", help="of BM25, instead of the index' own; so for --k1 and --b")
    sub.add_argument("--k1", type=float)
    sub.add_argument("--b", type=float)
    sub.add_argument("--model", help="of an index that a model made (default: that one, if it is bundled or a folder)")
    sub.add_argument("--threads", type=int, help="of that model, and of scoring tokens or impacts (default: what this process may use)")
    sub.add_argument("--rm3", action="store_true", help="expand the query by feedback from the first results")
    sub.add_argument("--explain", action="store_true", help="each term's part in each score; of a token index, a heat map; not of vectors")
    sub.add_argument("--html", metavar="FILE", help="of a token index: write a page with a heat map of each result")

    sub = commands("check", check, "read every byte of an index and say whether it is whole")
    sub.add_argument("index", metavar="INDEX", help="a file or a folder")


def index(args: argparse.Namespace) -> None:
    kind = kinds.asked_kind(args)
    kinds.require_options(args, kind, kinds.INDEX_OPTIONS, building=True)
    if args.update and not args.folder:
        raise InputError("--update", got="an index in one file", expected="--folder")
    build = {kinds.TOKENS: tokens.index, kinds.VECTORS: encoded.index_vectors, kinds.IMPACTS: encoded.index_impacts}
    build.get(kind, index_bm25)(args)


def index_bm25(args: argparse.Namespace) -> None:
    from ..indexes import BM25Index

    given = {name: getattr(args, name) for name in ("analyzer", "variant", "k1", "b") if getattr(args, name) is not None}
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
    from ..sharding.manifest import is_sharded

    count("-k", args.k)
    if is_sharded(args.index):
        sharded.search(args)
        return
    kind = kinds.kind_at(args.index)
    kinds.require_options(args, kind, kinds.SEARCH_OPTIONS, building=False)
    by = {kinds.TOKENS: tokens.search, kinds.VECTORS: encoded.search_vectors, kinds.IMPACTS: encoded.search_impacts}
    by.get(kind, search_bm25)(args)


def search_bm25(args: argparse.Namespace) -> None:
    from ..core import Query
    from ..indexes import BM25Index
    from ..stages import BM25, RM3

    opened = BM25Index.open(args.index, variant=args.variant, k1=args.k1, b=args.b)
    first = BM25(opened, k=args.k)
    stage, query = RM3(first) if args.rm3 else first, Query(args.query)
    if isinstance(stage, RM3):
        query = replace(query, terms=stage.expand([query], first.with_k(stage.fb_docs).run([query]))[0])
    ranking = first(query)
    told = [{"terms": opened.explain(query, document.id)["terms"]} for document in (ranking.documents if args.explain else [])]
    results = results_of(ranking, told)
    if query.terms is not None and not args.json:
        cli.say("terms: " + ", ".join(f"{term} {weight:.3f}" for term, weight in query.terms.items()) + "\n")
    show(args, results, {} if query.terms is None else {"terms": query.terms})
    if args.explain and not args.json:
        show_terms(results, ["term", "tf", "df"], ["idf", "f", "weight", "score"])


def check(args: argparse.Namespace) -> None:
    from ..indexes import BM25Index, TokenIndex, VectorIndex
    from ..indexes.impacts import ImpactIndex
    from ..sharding.manifest import is_sharded

    if is_sharded(args.index):
        sharded.check(args)
        return
    by = {kinds.TOKENS: TokenIndex.check, kinds.VECTORS: VectorIndex.check, kinds.IMPACTS: ImpactIndex.check}
    with cli.Bar("segments") as progress:
        found = by.get(kinds.kind_at(args.index), BM25Index.check)(args.index, progress)
    cli.print_json({**found, "ok": True}) if args.json else cli.say("whole: " + ", ".join(f"{key} {value}" for key, value in found.items()))
