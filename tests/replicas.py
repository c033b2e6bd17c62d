"""Replicas of Ray Serve that descend from a process: who they are, and questions that only one document answers."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import httpx

NAMES = "amber birch cedar delta ember fjord grove heron ivory jasper karst lotus maple nickel onyx pearl quartz raven slate tulip".split()


def replicas(ancestor: int, deployment: str) -> list[int]:
    """Process ids of the replicas of a deployment that Ray, started by `ancestor`, runs."""
    parents, titles = dict[int, int](), dict[int, str]()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat, title = (folder / "stat").read_text(), (folder / "cmdline").read_text()
        except OSError:  # it ended meanwhile
            continue
        if stat.rpartition(")")[2].split()[0] != "Z":
            parents[int(folder.name)], titles[int(folder.name)] = int(stat.rpartition(")")[2].split()[1]), title
    named = [pid for pid, title in titles.items() if title.startswith("ray::ServeReplica") and f":{deployment}" in title]
    return [pid for pid in named if below(pid, ancestor, parents)]


def below(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid and pid != ancestor:
        pid = parents.get(pid, 0)
    return pid == ancestor


def question(seed: int) -> tuple[str, list[str], int]:
    """(query, six documents, which of them answers it): each is of a box of its own, whose name is the nonce."""
    rng = random.Random(seed)
    boxes = [" ".join(rng.sample(NAMES, 3)) for _ in range(6)]
    own = rng.randrange(6)
    documents = [f"The key of the box called {box} hangs on hook {rng.randrange(1000)}." for box in boxes]
    return f"Where is the key of the box called {boxes[own]}?", documents, own


def killed(ancestor: int, deployment: str, url: str, seed: int) -> int:
    """Ends one of two replicas with SIGKILL at a random moment, once both answer at `url`; its process id."""
    rng, end = random.Random(seed), time.monotonic() + 120
    while httpx.get(f"{url}/info", timeout=60).json()["replicas"] < 2:
        assert time.monotonic() < end, "the replica that was killed has no successor"
        time.sleep(0.2)
    time.sleep(rng.uniform(0.2, 1.5))
    pid = rng.choice(replicas(ancestor, deployment))
    os.kill(pid, signal.SIGKILL)
    return pid
