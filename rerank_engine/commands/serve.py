"""`rerank-engine serve`."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import cli
from ..core import Stage
from ..errors import InputError
from ..ops.checks import count, finite_number

RETRIEVED = 1000  # documents of a retriever's list


def register(commands: cli.Commands) -> None:
    sub = commands("serve", serve, "answer re-ranking requests over HTTP: the APIs of Cohere, Jina, Voyage, TEI, vLLM and infinity")
    sub.add_argument(
        "--model", action="append", help="a folder, a bundled name or a hub name (default: ms-marco-MiniLM-L-12-v2); several with --ray"
    )
    sub.add_argument("--spans", metavar="MODEL", help="a late-interaction model that finds relevant_spans for a cross-encoder")
    sub.add_argument(
        "--index", action="append", metavar="INDEX", help="search this index at /search, then the model re-ranks; several are fused"
    )
    sub.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    sub.add_argument("--port", type=int, default=8000, help="default: 8000; 0: any that is free")
    sub.add_argument(
        "--keys", metavar="FILE", help="bearer tokens that let in, one a line, # before a comment; without it everybody is let in"
    )
    sub.add_argument("--threads", type=int, help="threads of the model (default: what this process may use)")
    sub.add_argument("--runtime", choices=("onnx", "torch", "tensorrt"), help="what runs the model (default: the best that does here)")
    sub.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU if there is one")
    sub.add_argument("--precision", choices=("float32", "float16", "bfloat16"), help="default: the file's, or half on a GPU")
    sub.add_argument("--prompt", help="how a decoder or a T5 was trained to be asked: qwen3, monot5, rankt5, ... (see rr.load)")
    sub.add_argument(
        "--long", choices=("truncate", "error", "chunk"), help="what becomes of a document that does not fit (default: truncate)"
    )
    sub.add_argument("--max-documents", type=int, default=10_000, metavar="N", help="of a request (default: 10000)")
    sub.add_argument("--max-body-mb", type=int, default=16, metavar="N", help="of a request (default: 16)")
    sub.add_argument(
        "--max-wait-ms", type=float, default=5_000, metavar="MS", help="work that may wait; more is turned away (default: 5000)"
    )
    sub.add_argument("--wave-ms", type=float, default=50, metavar="MS", help="work that is done at a time (default: 50)")
    sub.add_argument("--ray", action="store_true", help="on Ray Serve: replicas of each model, and several models by a request's `model`")
    sub.add_argument("--replicas", type=int, metavar="N", help="with --ray: of each model (default: 1)")
    sub.add_argument("--max-replicas", type=int, metavar="N", help="with --ray: as many as the work that waits takes, up to so many")
    sub.add_argument("--cpus", type=float, help="with --ray: processors of a replica, and threads of its model (default: 1)")
    sub.add_argument("--gpus", type=float, help="with --ray: GPUs of a replica, or a share of one (default: none)")


def serve(args: argparse.Namespace) -> None:
    from ..serve import Limits
    from ..serve.run import bound

    keys = read_keys(args.keys)
    limits = Limits(
        documents=count("--max-documents", args.max_documents),
        body_bytes=count("--max-body-mb", args.max_body_mb) << 20,
        wait_ms=finite_number("--max-wait-ms", args.max_wait_ms, 0),
        wave_ms=finite_number("--wave-ms", args.wave_ms, 0),
    )
    hosts = ("localhost", "127.0.0.1", "[::1]") if args.host in ("localhost", "127.0.0.1", "::1") else ()
    guarded = {"keys": keys, "hosts": hosts, "limits": limits}
    if args.ray:
        from .serve_on_ray import serve_on_ray

        serve_on_ray(args, guarded)
        return
    for name in ("replicas", "max_replicas", "cpus", "gpus"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')}", got=getattr(args, name), expected="--ray with it")
    if len(args.model or ()) > 1:
        raise InputError("--model", got=", ".join(args.model), expected="one", hint="Several are served with --ray.")
    held = bound(args.host, args.port)
    with held:
        _serve(args, held, guarded)


def _serve(args: argparse.Namespace, held: socket.socket, guarded: dict[str, Any]) -> None:
    from ..serve import create_app
    from ..serve.run import run

    (name,) = args.model or [None]
    app = create_app(**opened(args, name, args.threads), **guarded)
    run(app, held, stop_s=guarded["limits"].stop_s, note=cli.note)


def opened(args: argparse.Namespace, name: str | None, threads: int | None) -> dict[str, Any]:
    """What `create_app` serves: the model of that name, what finds spans, what /search asks; None without."""
    scorer, spans = models(args, name, threads)
    return {"scorer": scorer, "spans": spans, "retriever": retriever(args.index or [], threads)}


def models(args: argparse.Namespace, name: str | None, threads: int | None) -> Any:
    """(the scorer, what finds spans, None without)"""
    from ..api import DEFAULT_MODEL
    from ..core import Scorer
    from ..runtimes import load
    from ..stages import ColBERT

    given = {key: getattr(args, key) for key in ("runtime", "device", "precision", "prompt", "long") if getattr(args, key) is not None}
    scorer = load(name or DEFAULT_MODEL, threads=threads, **given)
    if not isinstance(scorer, Scorer):
        raise InputError("--model", got=repr(scorer), expected="a cross-encoder or a late-interaction model")
    spans = None if args.spans is None else load(args.spans, threads=threads)
    if not isinstance(spans, (ColBERT, type(None))):
        raise InputError("--spans", got=repr(spans), expected="a late-interaction model")
    return scorer, spans


def retriever(paths: Sequence[str], threads: int | None) -> Stage | None:
    """What finds documents in these indexes, each by the model that made it; the lists of several are fused. None for none."""
    from ..stages import Fuse

    stages = [searching(path, threads) for path in paths]
    return None if not stages else stages[0] if len(stages) == 1 else Fuse(*stages, top=RETRIEVED)


def searching(path: str, threads: int | None) -> Stage:
    from ..indexes import BM25Index, ImpactIndex, TokenIndex, VectorIndex
    from ..sharding.manifest import is_sharded
    from ..stages import BM25, SPLADE, Dense, LateInteraction
    from . import kinds, sharded
    from .encoded import encoder_of
    from .tokens import late_model

    if is_sharded(path):
        return sharded.stage_over(path, RETRIEVED, threads)
    kind = kinds.kind_at(path)
    if kind == kinds.BM25:
        return BM25(BM25Index.open(path), k=RETRIEVED)
    family: Any = {kinds.TOKENS: TokenIndex, kinds.VECTORS: VectorIndex, kinds.IMPACTS: ImpactIndex}[kind]
    opened = family.open(path)
    name = kinds.model_for(argparse.Namespace(model=None), opened.made_by, kind)
    if kind == kinds.TOKENS:
        return LateInteraction(opened, late_model(name, threads), k=RETRIEVED, num_threads=threads)
    encoder = encoder_of(kind, name, threads)
    return (
        Dense(opened, encoder, k=RETRIEVED, threads=threads)
        if kind == kinds.VECTORS
        else SPLADE(opened, encoder, k=RETRIEVED, threads=threads)
    )


def read_keys(path: str | None) -> list[str]:
    """Of a file, or of $RERANK_ENGINE_KEYS, separated by commas. Raises InputError where there is none."""
    try:
        told = os.environ.get("RERANK_ENGINE_KEYS") if path is None else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--keys {path}", got=str(error), expected="a text file that can be read") from error
    if told is None:
        return []
    keys = [
        key.strip() for key in (told.split(",") if path is None else told.splitlines()) if key.strip() and not key.strip().startswith("#")
    ]
    if not keys:
        what = "RERANK_ENGINE_KEYS" if path is None else f"--keys {path}"
        raise InputError(what, got="no token", expected="one at least", hint="Without any, leave it out: then everybody is let in.")
    return keys
