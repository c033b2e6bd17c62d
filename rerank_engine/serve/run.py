"""Runs the app under uvicorn: one process, stopped by SIGTERM or SIGINT with what is in flight finished."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from ..errors import InputError
from .guard import Guard


class _Server(uvicorn.Server):
    """Says that it is not ready from the signal on, not only once its connections are closed."""

    def __init__(self, config: uvicorn.Config, app: Guard) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.app.state.rerank.stop()
        super().handle_exit(sig, frame)


def bound(host: str, port: int) -> socket.socket:
    """A socket at that address, which nobody is answered at yet. port 0: any that is free. Raises InputError."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # As asyncio does for sockets of its own making: else an answer waits for the acknowledgement of its first half.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        made.bind((host, port))
    except (OSError, OverflowError) as error:
        made.close()
        hint = "Another process may have it: take another --port."
        raise InputError(
            f"{host}, port {port}", got=str(error), expected="an address of this machine and a free port", hint=hint
        ) from error
    return made


def run(app: Guard, held: socket.socket, *, stop_s: float, note: Callable[[str], None]) -> None:
    """Until a signal. held: of `bound`; note: is told the address. Logs a line of JSON a request to standard error."""
    _log_lines()
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=int(stop_s) + 1, server_header=False)
    try:
        held.listen(config.backlog)
        name, at = held.getsockname()[:2]
        note(f"rerank-engine serves {app.app.state.rerank.service.model} at http://{f'[{name}]' if ':' in name else name}:{at}")
        _Server(config, app).run(sockets=[held])
    finally:
        held.close()


def _log_lines() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("rerank_engine.serve")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
