"""Token indexes, for `rerank-engine index` and `search`: built by a late-interaction model, searched and explained by it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from .. import cli
from ..corpus import Corpus
from ..errors import InputError
from .folders import add_documents, is_filled
from .kinds import TOKENS, model_for
from .results import results_of, show


def index(args: argparse.Namespace) -> None:
    from ..indexes import TokenIndex

    storage, output = args.storage or "float16", args.output
    exists = args.folder and is_filled(args, False)
    there = TokenIndex.open(output) if exists else None
    if there is not None and args.storage not in (None, there.storage):
        is_filled(args, True)
    encoder = late_model(args.tokens, args.threads)
    if there is not None:
        there.require_encoder("--tokens", encoder)
        made, there.encoder = there, encoder
        add_documents(made, Corpus.stream(args.corpus), args, exists)
    else:
        documents = Corpus(Corpus.stream(args.corpus))
        if args.folder:
            codec = None
            if storage.endswith("bit"):
                with cli.Bar("documents for the codec") as progress:
                    codec = TokenIndex.train_codec(documents, encoder, storage, progress=progress)
            made = TokenIndex.create(output, encoder, storage=storage, codec=codec)
            add_documents(made, documents, args, exists)
        else:
            with cli.Bar("documents") as progress:
                made = TokenIndex.build(documents, encoder, storage=storage, path=output, progress=progress)
    summary = {"index": str(output), "documents": len(made), "tokens": made.n_tokens, "storage": made.storage, "bytes": made.nbytes}
    cli.print_json(summary) if args.json else cli.say(made)


def search(args: argparse.Namespace) -> None:
    from ..indexes import TokenIndex
    from ..stages import LateInteraction
    from ..stages.explain import page

    cli.require_text("QUERY", args.query)
    opened = TokenIndex.open(args.index)
    encoder = late_model(model_for(args, opened.made_by, TOKENS), args.threads)
    stage = LateInteraction(opened, encoder, k=args.k, num_threads=args.threads)
    ranking = stage(args.query)
    told = [stage.explain(args.query, document) for document in (ranking.documents if args.explain or args.html else [])]
    results = results_of(ranking, [{"explanation": explanation.to_dict()} for explanation in told] if args.explain else ())
    if args.html:
        headed = ((f"{r['rank']}. {r['id']}", explanation) for r, explanation in zip(results, told))
        Path(args.html).write_text(page(args.query, headed), encoding="utf-8")
    show(args, results)
    if args.explain and told and not args.json:
        colors = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        cli.say("\n" + ("the darker its ground, the more" if colors else "[in brackets]: what") + " a word adds to the score")
        for document, explanation in zip(ranking.documents, told):
            cli.say(f"\n{document.id}\n{explanation.to_terminal(colors)}")


def late_model(name: str, threads: int | None) -> Any:
    from ..runtimes import load
    from ..stages import ColBERT

    model = load(name, threads=threads)
    if not isinstance(model, ColBERT):
        raise InputError("model", got=repr(model), expected="a late-interaction model, such as answerai-colbert-small-v1")
    return model
