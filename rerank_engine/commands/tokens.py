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
    from ..runtimes.files import BUNDLED
    from ..stages import LateInteraction
    from ..stages.explain import page

    if args.rm3 or args.variant or args.k1 is not None or args.b is not None:
        raise InputError("search", got="a token index and settings of BM25", expected="none of --rm3, --variant, --k1, --b")
    cli.require_text("QUERY", args.query)
    opened = TokenIndex.open(args.index)
    made_by = (opened.made_by or {}).get("model", "")
    if args.model is None and made_by not in BUNDLED and not os.path.isdir(made_by):  # a name in a file of others downloads nothing
        hint = f"It was made by '{made_by}'." if made_by else ""
        raise InputError("search", got="a token index whose model is not at hand", expected="--model", hint=hint)
    encoder = late_model(args.model or made_by, args.threads)
    stage = LateInteraction(opened, encoder, k=args.k, num_threads=args.threads)
    ranking = stage(args.query)
    told = [stage.explain(args.query, document) for document in (ranking.documents if args.explain or args.html else [])]
    results: list[dict[str, Any]] = [
        {"rank": place, "id": document.id, "score": float(score), "text": document.passage}
        | ({"explanation": told[place - 1].to_dict()} if args.explain else {})
        for place, (score, document) in enumerate(zip(ranking.scores, ranking.documents), 1)
    ]
    if args.html:
        headed = ((f"{r['rank']}. {r['id']}", explanation) for r, explanation in zip(results, told))
        Path(args.html).write_text(page(args.query, headed), encoding="utf-8")
    if args.json:
        cli.print_json({"query": args.query, "index": str(args.index), "results": results})
        return
    rows = [[r["rank"], f"{r['score']:.4f}", r["id"], cli.clip(str(r["text"]), query=args.query)] for r in results]
    cli.table(["rank", "score", "id", "document"], rows)
    if args.explain and told:
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
