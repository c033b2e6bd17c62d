"""The same work on Ray: parts of a bulk job on the machines of a cluster. Needs ray (`pip install 'rerank-engine[ray]'`)."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from . import errors
from .bulk import Job, PartScorer
from .errors import MissingDependency, RerankError

RESTARTS = 20  # of an actor, and tries of a part, before the job fails
MANY = 16  # parts of a worker, from which on one waits at each: Ray Data sends the next up to 0.1 s after one is done


class _Actor:
    """An actor of Ray Data's pool: holds the model, takes batches of part numbers. What goes wrong is told in a row, for an error that is
    raised here reaches the driver as a text among Ray's own."""

    def __init__(self, job: Job, threads: int | None) -> None:
        self.scorer: PartScorer | Exception
        try:
            self.scorer = PartScorer(job, threads)
        except Exception as error:
            self.scorer = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        told = [self._part(int(number)) for number in batch["part"]]
        return {name: [row[name] for row in told] for name in told[0]}

    def _part(self, number: int) -> dict[str, Any]:
        try:
            if isinstance(self.scorer, Exception):
                raise self.scorer
            return {**self.scorer(number), "error": "", "said": ""}
        except Exception as error:
            nothing = {"part": number, "queries": 0, "process": 0, "pairs": 0, "seconds": 0.0}
            return {**nothing, "error": type(error).__name__, "said": str(error)}


def require_ray(part: str) -> Any:
    """The module ray, with a part of it: not ray alone, to which any folder of that name would answer. Raises MissingDependency."""
    try:
        importlib.import_module(f"ray.{part}")
    except ModuleNotFoundError as error:
        raise MissingDependency(f"ray.{part}: {error}", hint="pip install 'rerank-engine[ray]'") from error
    return importlib.import_module("ray")


def running(part: str) -> tuple[Any, bool]:
    """(the module ray, with a part of it, running; whether it is this process's own, which ends with it): as the caller has it; else
    the cluster of RAY_ADDRESS, or of a `ray start` on this machine; else one that begins here. Raises MissingDependency."""
    ray = require_ray(part)
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    node = ray._private.worker._global_node  # Ray has no public name for what `init` did; None: a client of a server of Ray's
    return ray, node is not None and node.head


def on_ray(job: Job, left: Sequence[int], workers: int, threads: int | None) -> Iterator[dict[str, Any]]:
    """`rerank_run(job, workers=, each=on_ray)`: the parts go through Ray Data's map_batches over a pool of actors, one part a batch. The
    files of the job must lie where every machine finds them under the same path. A part of an actor that died is done again by another.

    threads: processors of an actor; None: 1. Raises MissingDependency, what loading and scoring raise, and RerankError where actors die
    again and again.
    """
    ray = require_ray("data")
    with _own_end():
        try:
            for row in _parts(job, left, workers, 1 if threads is None else threads).iter_rows():
                told = {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}
                kind, said = told.pop("error"), told.pop("said")
                if kind:
                    known = getattr(errors, kind, None)
                    raise known(said) if known else RerankError(f"cluster.on_ray: part {told['part']}", got=f"{kind}: {said}")
                yield told
        except ray.exceptions.RayError as error:
            hint = f"An actor is started again {RESTARTS} times. Memory may be short: fewer workers, or more processors of each, need less."
            raise RerankError("cluster.on_ray", got=str(error).strip().split("\n")[-1], expected="parts", hint=hint) from error


def _parts(job: Job, left: Sequence[int], workers: int, processors: int) -> Any:
    """Ray's dataset of the parts, done when it is read, a block each. Of few parts none waits at an actor while another has nothing to do;
    of many the next is there when one is done."""
    import ray.data

    parts = ray.data.from_items([{"part": number} for number in left], override_num_blocks=len(left))
    parts.context.enable_progress_bars = parts.context.print_on_execution_start = False
    pool = ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2 if len(left) >= MANY * workers else 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that Ray 2.64 will take the number of restarts in another way
        return parts.map_batches(
            _Actor, fn_constructor_args=(job, processors), batch_size=1, compute=pool, num_cpus=processors, max_restarts=RESTARTS,
            max_task_retries=RESTARTS,
        )  # fmt: skip


@contextlib.contextmanager
def _own_end() -> Iterator[None]:
    """Ray as the caller has it; else it is left, or ended where it is this process's, with the job."""
    import ray

    before = ray.is_initialized()
    running("data")
    try:
        yield
    finally:
        if not before:
            ray.shutdown()
