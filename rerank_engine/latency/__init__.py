"""The latency table, measured on the machine at hand: `rerank-engine bench`."""

from .rows import ROWS, LatencyRow, verdict
from .timing import Clock, Samples, timed

__all__ = ["ROWS", "Clock", "LatencyRow", "Samples", "timed", "verdict"]
