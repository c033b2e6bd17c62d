"""Shards on the machines of a cluster: each replica an actor of Ray. Needs ray (`pip install 'rerank-engine[ray]'`)."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ..cluster import running
from ..errors import FileFormatError
from ..ops import checks
from ..text import AnalyzerLike
from . import manifest
from .index import ShardedIndex
from .scatter import Failure
from .shard import BM25, Shard

NAMESPACE = "rerank_engine"


class Holder:
    """What an actor runs. A shard that cannot be opened says so when it is asked, by any machine."""

    def __init__(self, kind: str, place: manifest.Place, threads: int | None, options: dict[str, Any]) -> None:
        self._shard: Shard | None = None
        try:
            shard = Shard(place.path, place.base, kind=kind, threads=threads, **options)
            if len(shard.index.corpus) != place.rows:
                got = f"{len(shard.index.corpus)} rows"
                raise FileFormatError(place.path, got=got, expected=f"{place.rows}, as {manifest.FILE} says")
            self._shard = shard
        except Exception as error:
            self._broken = Failure(error)

    def answer(self, method: str, arguments: tuple[Any, ...]) -> Any:
        return self._broken if self._shard is None else self._shard.answer(method, arguments)


class Actor:
    """A replica in another process."""

    def __init__(self, handle: Any, name: str) -> None:
        self.handle, self.name = handle, name

    def ask(self, method: str, arguments: tuple[Any, ...]) -> Future[Any]:
        try:
            future: Future[Any] = self.handle.answer.remote(method, arguments).future()
        except Exception as error:  # of an actor that is known to be dead
            future = Future()
            future.set_exception(error)
        return future


def shards_on_ray(
    folder: str | Path,
    *,
    replicas: int = 1,
    cpus: float = 1.0,
    threads: int | None = 1,
    concurrency: int = 4,
    memory: float | None = None,
    name: str | None = None,
    in_memory: bool = False,
    analyzer: AnalyzerLike | None = None,
    **options: Any,
) -> ShardedIndex:
    """The shards of a folder (`sharding.split`, `join`), each in `replicas` actors, spread over the machines of the cluster, which find the
    files under the same path. One that dies is started again by Ray; until then its other replicas answer, or its part is missing.

    cpus, memory (bytes): that Ray sets aside for each actor. threads: of a search; concurrency: searches of an actor at the same time.
    name: the actors outlive this process, and the next one that asks for this name finds them (`stop_shards` ends them). in_memory: reads
    the files instead of mapping them. options: of ShardedIndex. Starts Ray on this machine where it is not running.
    Raises MissingDependency, InputError, FileFormatError, ShardUnavailable.
    """
    replicas, concurrency = checks.count("shards_on_ray: replicas", replicas), checks.count("shards_on_ray: concurrency", concurrency)
    cpus = checks.finite_number("shards_on_ray: cpus", cpus, 0)
    kind, places = manifest.places(folder)
    ray = started()
    opening: dict[str, Any] = {"in_memory": in_memory} | ({"analyzer": analyzer} if kind == BM25 and analyzer is not None else {})
    resources: dict[str, Any] = {"num_cpus": cpus} | ({} if memory is None else {"memory": memory})
    asked = {"max_restarts": -1, "max_concurrency": concurrency, "scheduling_strategy": "SPREAD", **resources}
    shared = {} if name is None else {"namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    actor, held = ray.remote(Holder), list[list[Actor]]()
    for number, place in enumerate(places):
        held.append([])
        for copy in range(replicas):
            own = shared and {**shared, "name": f"{name}/{number}/{copy}"}
            handle = actor.options(**asked, **own).remote(kind, place, threads, opening)
            held[-1].append(Actor(handle, f"replica {copy}"))
    return ShardedIndex(held, analyzer=analyzer, **options)


def stop_shards(name: str) -> int:
    """Ends the actors of a name; how many there were. Raises MissingDependency."""
    ray, ended = started(), 0
    for listed in ray.util.list_named_actors(all_namespaces=True):
        if listed["namespace"] == NAMESPACE and listed["name"].startswith(f"{name}/"):
            ray.kill(ray.get_actor(listed["name"], namespace=NAMESPACE))
            ended += 1
    return ended


def started() -> Any:
    """Ray, running, see `cluster.running`. Raises MissingDependency."""
    return running("actor")[0]
