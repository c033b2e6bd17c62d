"""`rerank-engine serve --ray`."""

from __future__ import annotations

import argparse
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

from .. import cli
from ..api import DEFAULT_MODEL
from ..errors import InputError
from .serve import opened


def serve_on_ray(args: argparse.Namespace, guarded: dict[str, Any]) -> None:
    """Until a signal. Raises InputError before Ray is started, MissingDependency, what `deploy` raises."""
    from ..cluster import require_ray, running
    from ..serve.on_ray import APP, deploy, finish

    if args.threads is not None:
        raise InputError("--threads", got=args.threads, expected="--cpus with --ray", hint="A replica's model has as many threads as it.")
    models, ray = named(args), require_ray("serve")
    try:
        host, port = deploy(models, host=args.host, port=args.port, **guarded)
        try:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # after Ray, which sets its own
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            cli.note(
                f"rerank-engine serves {', '.join(models)} at {address}, each by {args.replicas or 1} replicas; logs: Ray's session folder"
            )
            threading.Event().wait()
        except KeyboardInterrupt:
            finish()
        finally:
            if not running("serve")[1]:  # a cluster, which stays
                ray.serve.delete(APP)
    finally:
        ray.shutdown()  # ends Ray where it was started here


def named(args: argparse.Namespace) -> dict[str, Any]:
    """The models by the names that requests call them: their folders' or their own. Files are found from any working directory."""
    from ..serve.on_ray import Model

    names, args = [_absolute(name) for name in args.model or [DEFAULT_MODEL]], argparse.Namespace(**vars(args))
    args.index, args.spans = [str(Path(path).absolute()) for path in args.index or ()], args.spans and _absolute(args.spans)
    told = {"replicas": args.replicas, "max_replicas": args.max_replicas, "cpus": args.cpus, "gpus": args.gpus}
    given = {key: value for key, value in told.items() if value is not None}
    made = {Path(name).name if Path(name).is_dir() else name: Model(partial(opened, args, name), **given) for name in names}
    if len(made) != len(names):
        raise InputError("--model", got=", ".join(names), expected="different names")
    return made


def _absolute(name: str) -> str:
    return str(Path(name).absolute()) if Path(name).is_dir() else name
