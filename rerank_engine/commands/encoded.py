"""Vector indexes and impact indexes, for `rerank-engine index` and `search`: texts as single vectors, or as weights of words."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import cli
from ..corpus import Corpus
from ..errors import InputError
from ..ops import checks
from .folders import add_documents, is_filled
from .kinds import IMPACTS, VECTORS, model_for
from .results import results_of, show, show_terms


def index_vectors(args: argparse.Namespace) -> None:
    from ..indexes import VectorIndex
    from ..indexes.vector_faiss import KINDS
    from ..indexes.vector_files import KEPT

    kind = checks.one_of("--kind", args.kind or "auto", ("auto", "exact", *KINDS))
    dim = None if args.dim is None else checks.count("--dim", args.dim)
    keep = checks.one_of("--keep", args.keep or "float32", KEPT)
    encoder = encoder_of(VECTORS, args.vectors, args.threads)
    documents, unfinished = Corpus(Corpus.stream(args.corpus)), Path(f"{args.output}.partial")
    if unfinished.is_file():
        cli.note(f"found an unfinished build, {unfinished}: it goes on if corpus and model are the same")
    with cli.Bar("documents") as progress:
        made = VectorIndex.build(
            documents, encoder, kind=kind, dim=dim, keep=keep, path=args.output, threads=args.threads, progress=progress
        )
    summary = {"index": str(args.output), "documents": len(documents), "dim": made.dim, "kind": made.kind, "metric": made.metric}
    cli.print_json(summary) if args.json else cli.say(made)


def index_impacts(args: argparse.Namespace) -> None:
    from ..indexes.impacts import ImpactIndex
    from ..indexes.vector_build import writable

    exists = args.folder and is_filled(args, False)
    if exists:
        ImpactIndex.open(args.output)  # what is none is refused before the model is loaded
    encoder = encoder_of(IMPACTS, args.sparse, args.threads)
    if args.folder:
        made = ImpactIndex.open(args.output, encoder=encoder) if exists else ImpactIndex.create(args.output, encoder)
        add_documents(made, Corpus.stream(args.corpus), args, exists)
    else:
        documents = Corpus(Corpus.stream(args.corpus))
        writable(args.output, documents)
        with cli.Bar("documents") as progress:
            made = ImpactIndex.build(documents, encoder, progress=progress)
        made.save(args.output)
    summary = {"index": str(args.output), "documents": len(made), "postings": made.n_postings}
    cli.print_json(summary) if args.json else cli.say(made)


def search_vectors(args: argparse.Namespace) -> None:
    from ..indexes import VectorIndex
    from ..stages import Dense

    cli.require_text("QUERY", args.query)
    opened = VectorIndex.open(args.index)
    encoder = encoder_of(VECTORS, model_for(args, opened.made_by, VECTORS), args.threads)
    show(args, results_of(Dense(opened, encoder, k=args.k, threads=args.threads)(args.query)))


def search_impacts(args: argparse.Namespace) -> None:
    from ..indexes.impacts import ImpactIndex
    from ..stages.splade import SPLADE

    cli.require_text("QUERY", args.query)
    opened = ImpactIndex.open(args.index)
    encoder = encoder_of(IMPACTS, model_for(args, opened.made_by, IMPACTS), args.threads)
    stage = SPLADE(opened, encoder, k=args.k, threads=args.threads)
    ranking = stage(args.query)
    told = [{"terms": stage.explain(args.query, document.id)["terms"]} for document in (ranking.documents if args.explain else [])]
    results = results_of(ranking, told)
    show(args, results)
    if args.explain and not args.json:
        show_terms(results, ["term"], ["query", "document", "score"])


def encoder_of(kind: str, name: str, threads: int | None) -> Any:
    """The model that makes and searches indexes of a kind. Raises InputError for a model of another family, and what `rr.load` raises."""
    from ..runtimes import load
    from ..stages import BiEncoder
    from ..stages.splade import SparseEncoder

    family, expected = {
        VECTORS: (BiEncoder, "a bi-encoder, such as bge-small-en-v1.5"),
        IMPACTS: (SparseEncoder, "a sparse encoder, such as splade-tiny"),
    }[kind]
    model = load(name, threads=threads)
    if not isinstance(model, family):
        raise InputError("model", got=repr(model), expected=expected)
    return model
