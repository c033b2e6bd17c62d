"""Timing on a CUDA device. A side of a comparison is a list of calls on data of their own, so that nothing is in a cache from the call
before, recorded as one CUDA graph. Times are of the device, between events, and the sides take turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import harness

Call = Callable[[], Any]
Calls = Sequence[Call]


def device() -> torch.device:
    """Of a CUDA machine its first GPU; else the CPU, where kernels run in the interpreter: to try what is written here, not for times."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Side:
    """How the calls are made again: by a graph, or, where they refuse to be recorded (a look at the device from the host), one by one."""

    def __init__(self, name: str, calls: Calls, must_record: bool = False) -> None:
        self.name, self.calls, self.how, self._graph = name, calls, "cuda graph", None
        for call in calls:  # compiles, and tunes where a peer does
            call()
        torch.cuda.synchronize()
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for call in calls:
                    call()
            self._graph = graph
        except RuntimeError as error:
            if must_record:
                raise
            self.how = "launched one by one"
            harness.note(f"{name}: not recorded as a graph ({str(error).splitlines()[0]})")
            torch.cuda.synchronize()

    def us(self) -> float:
        """Of one call, once."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        if self._graph is None:
            for call in self.calls:
                call()
        else:
            self._graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e3 / len(self.calls)


def compare(
    bench: str, case: str, ours: Calls, peers: dict[str, Calls], floor_us: float | None, rounds: int, **more: Any
) -> list[harness.Row]:
    """A row for each peer, and one for the predicted floor, whose ratio is the share of it that was reached."""
    mine = Side("ours", ours, must_record=True)
    sides = {name: Side(name, calls) for name, calls in peers.items()}
    times: dict[str, list[float]] = {name: [] for name in ("ours", *sides)}
    for number in range(rounds + 3):
        for name, side in sorted({"ours": mine, **sides}.items(), reverse=bool(number % 2)):
            if (us := side.us()) and number >= 3:  # the first rounds warm up
                times[name].append(us)
    mean = statistics.median(times["ours"])
    on = {"backend": "triton", "device": torch.cuda.get_device_name(), "how": mine.how, **more}
    found = []
    for name, side in sides.items():
        spread = np.percentile([b / a for a, b in zip(times["ours"], times[name])], [25, 75]).tolist()
        theirs = statistics.median(times[name])
        found.append(harness.row(bench, case, name, "us", mean, theirs, spread, **{**on, "theirs_how": side.how}))
    if floor_us is not None:
        spread = np.percentile([floor_us / x for x in times["ours"]], [25, 75]).tolist()
        found.append(harness.row(bench, case, "floor (predicted)", "us", mean, floor_us, spread, **on))
    return found


def host_us(call: Callable[[], Any], times: int = 200) -> float:
    """What a call costs the host until it returns, the device being idle; the median."""
    import time

    spent = []
    for _ in range(times):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        spent.append((time.perf_counter() - begin) * 1e6)
    torch.cuda.synchronize()
    return statistics.median(spent)
