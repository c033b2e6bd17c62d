"""The same work on Ray: parts of a bulk job on the machines of a cluster. Needs ray (`pip install 'rerank-engine[ray]'`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .bulk import Job, PartScorer
from .errors import MissingDependency

RESTARTS = 20  # of an actor, and tries of a part, before the job fails


class _Actor:
    """An actor of Ray Data's pool: holds the model, takes batches of part numbers."""

    def __init__(self, job: Job, threads: int | None) -> None:
        self.scorer = PartScorer(job, threads)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        told = [self.scorer(int(number)) for number in batch["part"]]
        return {name: [row[name] for row in told] for name in told[0]}


def on_ray(job: Job, left: Sequence[int], workers: int, threads: int | None) -> Iterator[dict[str, Any]]:
    """`rerank_run(job, workers=, each=on_ray)`: the parts go through Ray Data's map_batches over a pool of actors, one part a batch. The
    files of the job must lie where every machine finds them under the same path. A part of an actor that died is done again by another.

    threads: processors of an actor; None: 1. Raises MissingDependency.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingDependency("cluster.on_ray: ray is not installed", hint="pip install 'rerank-engine[ray]'") from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    processors = 1 if threads is None else threads
    parts = ray.data.from_items([{"part": number} for number in left], override_num_blocks=len(left))
    done = parts.map_batches(
        _Actor, fn_constructor_args=(job, processors), batch_size=1, concurrency=workers, num_cpus=processors, max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
    )  # fmt: skip
    for row in done.iter_rows():
        yield {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}
