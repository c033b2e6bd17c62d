"""Shards on the machines of a cluster: each replica an actor of Ray. Needs ray (`pip install 'rerank-engine[ray]'`)."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ..cluster import running
from ..errors import InputError, ShardUnavailable
from ..ops import checks
from ..text import AnalyzerLike
from . import manifest
from .index import ShardedIndex
from .scatter import Failure
from .shard import BM25, Shard

NAMESPACE = "rerank_engine"
AGAIN_S = 1.0  # before a shard that could not be opened is tried again


class Holder:
    """What an actor runs. A shard that cannot be opened says so when it is asked, and is tried again, for files may come back."""

    def __init__(self, kind: str, place: manifest.Place, threads: int | None, options: dict[str, Any]) -> None:
        self._made = functools.partial(Shard, place.path, place.base, kind=kind, threads=threads, **options)
        self._shard: Shard | None = None
        self._lock, self._next, self._why = threading.Lock(), 0.0, ""
        self._open()

    def _open(self) -> None:
        with self._lock:
            if self._shard is None and time.monotonic() >= self._next:
                try:
                    self._shard = self._made()
                except Exception as error:
                    self._next, self._why = time.monotonic() + AGAIN_S, str(error)

    def answer(self, method: str, arguments: tuple[Any, ...], expected: str | None, seconds: float) -> Any:
        if self._shard is None:
            self._open()
        if self._shard is None:
            return Failure(ShardUnavailable(self._why))
        return self._shard.answer(method, arguments, expected, seconds)


class Actor:
    """A replica in another process."""

    def __init__(self, handle: Any, name: str) -> None:
        self.handle, self.name = handle, name

    def ask(self, method: str, arguments: tuple[Any, ...], expected: str | None, seconds: float) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            reference = self.handle.answer.remote(method, arguments, expected, seconds)
            future = reference.future()
            future.reference = reference  # type: ignore[attr-defined]
        except Exception as error:  # of an actor that is known to be dead
            future.set_exception(error)
        return future

    def forget(self, future: Future[Any]) -> None:
        """Ray does not begin what is still waiting at the actor."""
        import ray.actor

        with contextlib.suppress(Exception):  # of an actor that is gone
            ray.cancel(future.reference)  # type: ignore[attr-defined]


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
    name: the actors outlive this process, and the next one that asks for this name finds them as they were begun (`stop_shards` ends
    them); those of another content are refused. in_memory: reads the files instead of mapping them. options: of ShardedIndex. Starts Ray on
    this machine where it is not running.
    Raises MissingDependency, InputError, FileFormatError, ShardUnavailable.
    """
    replicas, concurrency = checks.count("shards_on_ray: replicas", replicas), checks.count("shards_on_ray: concurrency", concurrency)
    cpus = checks.finite_number("shards_on_ray: cpus", cpus, 0)
    if name is not None and (not name or "/" in name):
        raise InputError("shards_on_ray: name", got=repr(name), expected="a name without /")
    kind, places = manifest.places(folder)
    ray, _ = running("actor")
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
            held[-1].append(Actor(handle, f"{Path(place.path).name}, replica {copy}"))
    return ShardedIndex(held, places=places, analyzer=analyzer, **options)


def stop_shards(name: str) -> int:
    """Ends the actors of a name; how many there were. Raises MissingDependency."""
    (ray, _), ended = running("actor"), 0
    for listed in ray.util.list_named_actors(all_namespaces=True):
        if listed["namespace"] == NAMESPACE and listed["name"].startswith(f"{name}/"):
            with contextlib.suppress(ValueError):  # it has ended meanwhile
                ray.kill(ray.get_actor(listed["name"], namespace=NAMESPACE))
                ended += 1
    return ended
