"""A clock of the tests' own: it stands still but for what is spent."""

from __future__ import annotations

from rerank_engine.latency import Clock


class Ticks:
    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0

    def spend(self, wall_ms: float, cpu_ms: float = 0.0) -> None:
        self.wall_s += wall_ms / 1e3
        self.cpu_s += cpu_ms / 1e3

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.wall_s, lambda: self.cpu_s)
