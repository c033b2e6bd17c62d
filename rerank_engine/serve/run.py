"""Runs the app under uvicorn: one process, stopped by SIGTERM or SIGINT with what is in flight finished."""

from __future__ import annotations

import errno
import logging
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from ..errors import InputError
from .guard import Guard

BACKLOG = 2048


class _Server(uvicorn.Server):
    """Says that it is not ready from the signal on, not only once its connections are closed."""

    def __init__(self, config: uvicorn.Config, app: Guard) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.app.state.rerank.stop()
        super().handle_exit(sig, frame)


def bound(host: str, port: int) -> socket.socket:
    """A socket at that address; who connects waits until `run` answers. port 0: any that is free. Raises InputError."""
    try:
        made = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        hint = "Another process has it: take another --port." if getattr(error, "errno", None) == errno.EADDRINUSE else ""
        raise InputError(
            f"{host}, port {port}", got=str(error), expected="an address of this machine and a free port", hint=hint
        ) from error
    # As asyncio does for sockets of its own making: else an answer waits for the acknowledgement of its first half.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def config(app: Any, stop_s: float) -> uvicorn.Config:
    """h11 reads the requests, which bounds their headers; uvloop runs the loop where it is installed."""
    return uvicorn.Config(
        app, http="h11", log_config=None, access_log=False, timeout_graceful_shutdown=int(stop_s) + 1, server_header=False
    )


def run(app: Guard, held: socket.socket, *, stop_s: float, note: Callable[[str], None]) -> None:
    """Until a signal. held: of `bound`; note: is told the address. Logs a line of JSON a request to standard error."""
    log_lines()
    try:
        name, at = held.getsockname()[:2]
        note(f"rerank-engine serves {app.app.state.rerank.service.model} at http://{f'[{name}]' if ':' in name else name}:{at}")
        _Server(config(app, stop_s), app).run(sockets=[held])
    finally:
        held.close()


def log_lines() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("rerank_engine.serve")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
