"""`rerank-engine shard`, and `search` and `check` of a folder of shards."""

from __future__ import annotations

import argparse
from typing import Any

from .. import cli
from ..core import Stage
from ..errors import InputError
from . import kinds
from .results import results_of, show


def register(commands: cli.Commands) -> None:
    sub = commands("shard", shard, "split an index into shards, which are searched as one, here or on the machines of a cluster")
    sub.add_argument("index", metavar="INDEX", help="a file or a folder: of BM25, of vectors of kind exact, or of tokens")
    sub.add_argument("output", metavar="FOLDER", help="a new or empty folder: of an index a shard, and shards.json")
    sub.add_argument("--shards", type=int, required=True, metavar="N", help="of equal ranges of the documents")


def shard(args: argparse.Namespace) -> None:
    from ..indexes import BM25Index, TokenIndex, VectorIndex
    from ..sharding.manifest import is_sharded, places, split

    if is_sharded(args.index):
        hint = "Shard the index that they were made of, into a new folder."
        raise InputError("shard: INDEX", got=f"'{args.index}', a folder of shards already", expected="one index", hint=hint)
    kind = kinds.kind_at(args.index)
    family: Any = {kinds.BM25: BM25Index, kinds.VECTORS: VectorIndex, kinds.TOKENS: TokenIndex}.get(kind)
    if family is None:
        raise InputError("shard: INDEX", got=kind, expected="a BM25, vector or token index")
    with cli.Bar("shards") as progress:
        made = split(family.open(args.index), args.output, args.shards, progress=progress)
    rows = [{"shard": number, "first_row": place.base, "documents": place.rows, "file": place.path}
            for number, place in enumerate(places(made)[1])]  # fmt: skip
    if args.json:
        cli.print_json({"folder": str(made), "shards": rows})
        return
    cli.table(["shard", "first row", "documents", "file"], [list(row.values()) for row in rows])


def stage_over(path: str, k: int, threads: int | None, model: str | None = None, **parameters: Any) -> Stage:
    """A folder of shards, searched by threads of this process. model: of vectors or tokens, by default what made them; parameters: of
    BM25."""
    from ..sharding import ShardedIndex
    from ..stages.sharded import Sharded
    from .encoded import encoder_of
    from .tokens import late_model

    index, encoder = ShardedIndex.open(path, threads=threads), None
    if index.kind == "bm25":
        given = {name: value for name, value in parameters.items() if value is not None}
        return Sharded(index.with_parameters(**given) if given else index, k)
    kind = kinds.VECTORS if index.kind == "vectors" else kinds.TOKENS
    name = kinds.model_for(argparse.Namespace(model=model), index.made_by, kind)
    encoder = late_model(name, threads) if kind == kinds.TOKENS else encoder_of(kind, name, threads)
    return Sharded(index, k, encoder=encoder)


def search(args: argparse.Namespace) -> None:
    from ..sharding.manifest import places

    kind = {"bm25": kinds.BM25, "vectors": kinds.VECTORS, "tokens": kinds.TOKENS}[places(args.index)[0]]
    for name in ("rm3", "explain", "html"):
        if getattr(args, name):
            raise InputError(f"--{name}", got="a folder of shards", expected="one index with it")
    kinds.require_options(args, kind, kinds.SEARCH_OPTIONS, building=False)
    if kind != kinds.BM25:
        cli.require_text("QUERY", args.query)
    parameters = {name: getattr(args, name) for name in ("variant", "k1", "b")}
    ranking = stage_over(args.index, args.k, args.threads, args.model, **parameters)(args.query)
    facts = {name: told for name, told in ranking.trace[0].facts.items() if name in ("missing", "approximate", "stopped")}
    for shard, why in facts.get("missing", {}).items():
        cli.note(f"shard {shard} is missing: {why}")
    show(args, results_of(ranking), facts)


def check(args: argparse.Namespace) -> None:
    """Every shard, read whole."""
    from ..indexes import BM25Index, TokenIndex, VectorIndex
    from ..sharding.manifest import places, require_unchanged

    kind, listed = places(args.index)
    family: Any = {"bm25": BM25Index, "vectors": VectorIndex, "tokens": TokenIndex}[kind]
    with cli.Bar("shards") as progress:
        found = []
        for place in listed:
            found.append(family.check(place.path))
            require_unchanged(place)
            progress(len(found), len(listed))
    told = {"path": str(args.index), "shards": len(found)} | {name: sum(one[name] for one in found) for name in ("documents", "bytes")}
    cli.print_json({**told, "ok": True}) if args.json else cli.say("whole: " + ", ".join(f"{key} {value}" for key, value in told.items()))
