"""The server on Ray Serve: replicas of models, each this package's whole app with its own scheduler, behind a front that tries again.

Serve places replicas, starts new ones for those that died, replaces them one after the other when a new version is deployed, and adds more
when work waits. It batches nothing and queues nothing: tokens are counted where they are spent, in the replica's scheduler.
Needs ray, 2.60 or newer (`pip install 'rerank-engine[ray]'`).
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from .. import __version__
from ..cluster import require_ray, running
from ..errors import BackendUnavailable, InputError, ModelError
from ..ops.checks import count, finite_number
from .app import Limits, State, create_app
from .deaths import Died
from .front import PATIENCE_S, Answer, Front, OneId, Peer, Unavailable, called, in_time
from .guard import Guard, Message
from .metrics import Metrics
from .run import bound, log_lines

APP = "rerank-engine"
ONGOING = 100_000  # requests that Serve lets into a replica: its own admission decides, by tokens
WAITING = 1_000  # requests that wait in a front for a replica that is not there yet
SHARE = 0.2  # of what a replica lets wait: so much waiting is work for another
TOLD_S = 5.0  # that a replica may take to tell of itself
DRAIN_S = 30.0  # that a replica which is replaced may take for what it has; then the front has another do it
POLL_S = 0.25
QUIET = {"log_level": "WARNING", "enable_access_log": False}


@dataclass(frozen=True)
class Model:
    """A model that is served, and what each of its replicas takes.

    source: what `rr.load` takes, with `options`; or a function that is called in the replica with a number of threads and gives
    `create_app`'s arguments: {"scorer": ..., "spans": ..., "retriever": ...}.
    replicas, max_replicas: so many, or as many between the two as the work that waits takes; up_s, down_s: for so long it must have, before
    one is added or taken away. cpus: processors, and threads of the model; gpus: a share of one, or whole ones. Raises InputError.
    """

    source: str | Callable[[int], Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    replicas: int = 1
    max_replicas: int | None = None
    cpus: float = 1
    gpus: float = 0
    up_s: float = 10
    down_s: float = 120

    def __post_init__(self) -> None:
        count("replicas", self.replicas)
        if self.max_replicas is not None and count("max_replicas", self.max_replicas) < self.replicas:
            raise InputError("max_replicas", got=self.max_replicas, expected=f"{self.replicas} or more, as many as replicas")
        for name in ("cpus", "gpus", "up_s", "down_s"):
            finite_number(name, getattr(self, name), 0)
        if self.cpus == 0:
            raise InputError("cpus", got=0, expected="a number above 0")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise InputError("gpus", got=self.gpus, expected="a share of one, such as 0.25, or a whole number")

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))

    def opened(self) -> Mapping[str, Any]:
        if callable(self.source):
            return self.source(self.threads)
        from ..runtimes import load

        return {"scorer": load(self.source, threads=self.threads, **self.options)}


def desired(context: Any) -> tuple[int, dict[str, Any]]:
    """The autoscaling policy: what all replicas have to do, in replicas (see `work`), rounded up; Serve keeps to the bounds and the delays.
    context: its AutoscalingContext. Returns (replicas, a state: none)."""
    work = sum((context.aggregated_metrics or {}).get("work", {}).values())
    return max(1, math.ceil(work - 1e-6)), {}


def work(waiting: int, pace: float, busy: float, wait_s: float) -> float:
    """What a replica has to do, in replicas: `busy`, the share of its time in use, in [0, 1], and its queue: `waiting` tokens / those that
    it does, at `pace` tokens a second, in SHARE of the wait_s that callers may wait. One that keeps up, however busy, needs no second; two
    that one could replace have below 1 together."""
    most = pace * max(0.1, SHARE * wait_s)
    return min(1.0, max(0.0, busy)) + (waiting / most if most else 0.0)


class Replica:
    """Serve's deployment of one model: the app, called in this process."""

    def __init__(self, model: Model, limits: Limits) -> None:
        log_lines()
        self.app, self.wait_s = create_app(**model.opened(), limits=limits), limits.wait_ms / 1e3
        self.state: State = self.app.app.state.rerank
        self.state.start()
        self._seen = (time.monotonic(), self.state.service.scheduler.worked)

    async def ask(self, scope: Message, body: bytes) -> Answer:
        return await called(self.app, scope, body)

    async def tell(self, path: str) -> tuple[str, Answer]:
        return _replica_name(), await called(self.app.app, _get(path), b"")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """By Serve, every few seconds."""
        scheduler, then = self.state.service.scheduler, self._seen
        self._seen = now = (time.monotonic(), scheduler.worked)
        busy = (now[1] - then[1]) / max(1e-6, now[0] - then[0])
        return {"work": work(scheduler.waiting, scheduler.pace, busy, self.wait_s)}

    def __del__(self) -> None:
        """By Serve, once what was in flight is answered and nothing more comes."""
        if hasattr(self, "state"):
            self.state.stop()
            self.state.service.close()


class Ingress:
    """Serve's deployment of the front: stateless, and as light as a proxy."""

    def __init__(self, models: Mapping[str, Any], keys: Sequence[str], hosts: Sequence[str], limits: Limits) -> None:
        from ray import serve

        log_lines()
        self.metrics = Metrics()
        fronts = Replicas(serve.get_deployment_handle("front", serve.get_replica_context().app_name))
        self.front = Front({name: Replicas(handle) for name, handle in models.items()}, self.metrics, fronts)
        self._guard = Guard(self.front, keys=keys, hosts=hosts, most_bytes=limits.body_bytes, metrics=self.metrics)

    def __serve_build_asgi_app__(self) -> OneId:
        return OneId(self._guard)

    async def tell(self, path: str) -> tuple[str, Answer]:
        return _replica_name(), (200, [], self.metrics.text())

    async def finish(self, most_s: float) -> None:
        await self.front.finish(most_s)


class Replicas(Peer):
    """Those behind a handle of Serve's."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    async def ask(self, scope: Message, body: bytes) -> Answer:
        from ray import exceptions as ray_exceptions
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        response = self.handle.ask.remote(scope, body)
        try:
            answer: Answer = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except (BackPressureError, DeploymentUnavailableError) as error:
            raise Unavailable("no replica is there for it") from error
        except (ray_exceptions.RayTaskError, ray_exceptions.TaskCancelledError):
            raise
        except ray_exceptions.RayError as error:
            raise Died("the replica that worked on it was lost, and so were those that tried again", _ended(error)) from error
        return answer

    async def tell(self, path: str) -> AsyncGenerator[tuple[str, Answer], None]:
        from ray.serve.exceptions import DeploymentUnavailableError

        asked = self.handle.broadcast("tell", path)._fetch_replica_results_async()  # in public there are all of them or none
        try:
            results = await asyncio.wait_for(asked, TOLD_S)
        except (TimeoutError, asyncio.TimeoutError, DeploymentUnavailableError):
            return
        async with aclosing(in_time((one.get_async() for one in results), TOLD_S)) as told:
            async for row in told:
                yield row


def _ended(error: Any) -> str:
    """The process that is known to have ended, by what Ray says of a request; "" for none."""
    from ray import exceptions as ray_exceptions

    if isinstance(error, ray_exceptions.ActorDiedError):
        return str(error.actor_id or "")
    return uuid.uuid4().hex if isinstance(error, (ray_exceptions.OutOfMemoryError, ray_exceptions.WorkerCrashedError)) else ""


def build(
    models: Mapping[str, Model],
    *,
    keys: Sequence[str] = (),
    hosts: Sequence[str] = (),
    limits: Limits | None = None,
    fronts: int = 1,
) -> Any:
    """A Serve application, for `serve.run`, or `serve build` and a cluster's config. models: by the name that requests call them, the first
    for those that name none; where there is one, `model` is not looked at. keys, hosts, limits: `create_app`'s, the first two kept by the
    front. fronts: how many of them. Raises MissingDependency, InputError."""
    require_ray("serve")
    from ray import serve

    if not models:
        raise InputError("build: models", got="none", expected="one at least")
    held, safe = limits or Limits(), [name.replace("/", "--") for name in models]
    if len({*safe, "front"}) != len(safe) + 1 or any(not name or "#" in name for name in safe):
        raise InputError("build: models", got=repr(list(models)), expected="different names without '#', none of them 'front'")
    bound = {
        name: serve.deployment(Replica, name=own, **_options(model)).bind(model, held) for own, (name, model) in zip(safe, models.items())
    }
    front = serve.deployment(
        serve.ingress()(Ingress), name="front", num_replicas=count("fronts", fronts), max_ongoing_requests=ONGOING,
        ray_actor_options={"num_cpus": 0}, max_surge_percent=100, **_waits(PATIENCE_S),
    )  # fmt: skip
    kept = repr((__version__, list(models), sorted(keys), sorted(hosts), held))  # a front that has all this stays while models are replaced
    front = front.options(version=hashlib.sha256(kept.encode()).hexdigest(), _internal=True)
    return front.bind(bound, list(keys), list(hosts), held)


def _options(model: Model) -> dict[str, Any]:
    """Of a model's deployment."""
    scale: dict[str, Any] = {"num_replicas": model.replicas}
    if model.max_replicas is not None:
        from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

        policy = AutoscalingPolicy(policy_function=f"{__name__}:desired")
        times = {"upscale_delay_s": model.up_s, "downscale_delay_s": model.down_s, "look_back_period_s": max(15.0, model.up_s)}
        bounds = {"min_replicas": model.replicas, "max_replicas": model.max_replicas}
        scale = {"autoscaling_config": AutoscalingConfig(**bounds, **times, policy=policy)}
    resources = {"num_cpus": model.cpus, **({"num_gpus": model.gpus} if model.gpus else {})}
    return {
        **scale, **_waits(DRAIN_S), "ray_actor_options": resources, "max_ongoing_requests": ONGOING, "max_queued_requests": WAITING,
        "max_constructor_retry_count": 3,
    }  # fmt: skip


def _waits(most_s: float) -> dict[str, float]:
    """A replica that is to go gets no more requests, finishes what it has, and only then stops."""
    return {"graceful_shutdown_timeout_s": most_s, "graceful_shutdown_wait_loop_s": 0.5, "health_check_period_s": 3.0}


def deploy(
    models: Mapping[str, Model],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    timeout_s: float = 300.0,
    **options: Any,
) -> tuple[str, int]:
    """Runs `build(models, **options)` on the Ray of `cluster.running`, and returns when all replicas are ready: the host and port at which
    Serve listens, those that are asked for unless it did so before. port 0: any that is free. Again with other models, options or code:
    replicas are replaced one after the other, and requests go on.

    Raises BackendUnavailable for what finds no place within timeout_s, at once on a Ray of this process's own; ModelError for a model that
    does not load; InputError for a port that is taken; what `build` raises. A first deployment that failed is taken back.
    """
    app, before = build(models, **options), require_ray("serve").is_initialized()
    ray, own = running("serve")
    from ray import serve

    try:
        if own and (lack := _lack(models)):  # it is this machine, and does not grow
            raise _no_place(lack)
        at = _listens() or _free(host, port)
    except BaseException:
        if not before:
            ray.shutdown()
        raise
    serve.start(http_options={"host": at[0], "port": at[1]}, logging_config=QUIET)
    new = APP not in serve.status().applications
    target = serve.RunTarget(target=app, name=APP, route_prefix="/", logging_config=QUIET)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    try:
        _wait(models, time.monotonic() + timeout_s, new)
        return at
    except BaseException:
        if new:
            serve.delete(APP, _blocking=False)
        raise


def _listens() -> tuple[str, int] | None:
    """Host and port of Serve on this Ray; None where it does not run."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else (client.http_config.host, client.http_config.port)


def _free(host: str, port: int) -> tuple[str, int]:
    """The same, with a port for 0. Raises InputError where it is taken: Serve's own proxy would say so in its log."""
    with bound(host, port) as held:
        name, number = held.getsockname()[:2]
    return name, number


def finish(most_s: float = DRAIN_S) -> None:
    """Nothing more is taken: 503, and `/ready` says so; returns once what is in flight is answered, or that time is over. For the end,
    before the application is deleted: by itself Serve answers 404 to what comes while one goes."""
    from ray import serve

    serve.get_deployment_handle("front", APP).broadcast("finish", most_s).results(timeout_s=most_s + TOLD_S, return_exceptions=True)


def _wait(models: Mapping[str, Model], end: float, new: bool) -> None:
    from ray import serve

    while True:
        told = serve.status().applications[APP]
        if told.status == "RUNNING":
            return
        slow = {name: one.message.strip() for name, one in told.deployments.items() if one.status != "HEALTHY"}
        if told.status == "DEPLOY_FAILED":
            got = "; ".join(f"{name}: {said.splitlines()[-1]}" for name, said in slow.items() if said)
            raise ModelError(
                "a replica did not start",
                got=got or told.message,
                expected="models that load on every machine of the cluster",
                hint="" if new else _runs(told),
            )
        if time.monotonic() > end:
            got = _lack(models) or "; ".join(f"{name}: {said or 'not ready'}" for name, said in slow.items())
            raise _no_place(got, "" if new else _runs(told))
        time.sleep(POLL_S)


def _runs(told: Any) -> str:
    """After an update that failed. told: Serve's status of the application."""
    rows = ", ".join(f"{one.replica_states.get('RUNNING', 0)} of {name}" for name, one in told.deployments.items())
    return f"Replicas that run, of this version or the one before: {rows}. Deploy again what loads."


def _lack(models: Mapping[str, Model]) -> str:
    """What the cluster has too little of, "" where it has enough."""
    import ray

    has, told = ray.cluster_resources(), []
    for kind, name in (("CPU", "cpus"), ("GPU", "gpus")):
        needed = sum(model.replicas * getattr(model, name) for model in models.values())
        if needed > has.get(kind, 0.0):
            told.append(f"{needed:g} {kind} needed, {has.get(kind, 0.0):g} there")
    return "; ".join(told)


def _no_place(got: str, more: str = "") -> BackendUnavailable:
    hint = f"Take fewer replicas, --cpus or --gpus, or add machines to the cluster. {more}".strip()
    return BackendUnavailable("no place on Ray for all replicas", got=got, expected="room for each of them in time", hint=hint)


def _replica_name() -> str:
    from ray import serve

    return str(serve.get_replica_context().replica_id.unique_id)


def _get(path: str) -> Message:
    at = {"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": []}
    return {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http", **at}
