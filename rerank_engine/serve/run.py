"""Runs the app under uvicorn: one process, stopped by SIGTERM or SIGINT with what is in flight finished."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from .guard import Guard


class _Server(uvicorn.Server):
    """Says that it is not ready from the signal on, not only once its connections are closed."""

    def __init__(self, config: uvicorn.Config, app: Guard) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.app.state.rerank.stop()
        super().handle_exit(sig, frame)


def run(app: Guard, *, host: str, port: int, stop_s: float, note: Callable[[str], None]) -> None:
    """Until a signal. port 0: any that is free; note: is told the address. Logs a line of JSON a request to standard error."""
    _log_lines()
    config = uvicorn.Config(
        app, host=host, port=port, log_config=None, access_log=False, timeout_graceful_shutdown=int(stop_s) + 1, server_header=False
    )
    held = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=config.backlog)
    # As asyncio does for sockets of its own making: else an answer waits for the acknowledgement of its first half.
    held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
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
