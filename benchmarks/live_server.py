"""A server in a thread of this process, for tests and measurements that need a real connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from rerank_engine.serve.run import bound, config


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Its address while it runs."""
    held = bound("127.0.0.1", 0)
    server = uvicorn.Server(config(app, stop_s=4))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [held]})
    thread.start()
    end = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive() and time.monotonic() < end
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        held.close()
