"""The thread pool, from outside: none at one thread, asleep when idle, shared by callers, and alive after a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import rerank_engine as rr

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(0, 60, 400)
PACKED = rr.Packed(RNG.normal(size=(int(LENGTHS.sum()), 32)).astype(np.float32), np.concatenate([[0], LENGTHS.cumsum()]))
QUERY = RNG.normal(size=(16, 32)).astype(np.float32)

START = f"""
import os, threading, time
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np, rerank_engine as rr
rng = np.random.default_rng(0)
lengths = rng.integers(0, 60, {len(LENGTHS)})
packed = rr.Packed(rng.normal(size=(int(lengths.sum()), 32)).astype(np.float32), np.concatenate([[0], lengths.cumsum()]))
query = rng.normal(size=(16, 32)).astype(np.float32)
score = lambda threads: rr.ops.maxsim(query, packed, num_threads=threads)
"""


def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", START + textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
def test_threads_come_when_asked_for_and_no_sooner() -> None:
    counts = in_a_new_process(
        """
        count = lambda: len(os.listdir("/proc/self/task"))
        before = count()
        score(1); a = count()
        score(2); b = count()
        score(4); c = count()
        score(3); d = count()
        print(a - before, b - before, c - before, d - before)
        """
    )
    assert counts.split() == ["0", "1", "3", "3"]


def test_an_idle_pool_sleeps() -> None:
    spent = in_a_new_process(
        """
        for _ in range(20): score(4)
        begin = time.process_time(); time.sleep(0.5); print(time.process_time() - begin)
        """
    )
    assert float(spent) < 0.05


def test_the_pool_works_after_forks_while_others_use_it() -> None:
    said = in_a_new_process(
        """
        want, stop = score(1), threading.Event()
        def busy():
            while not stop.is_set(): score(3)
        workers = [threading.Thread(target=busy) for _ in range(2)]
        [w.start() for w in workers]
        codes = []
        for _ in range(10):
            child = os.fork()
            if child == 0:
                os._exit(0 if (score(3) == want).all() else 1)
            codes.append(os.waitpid(child, 0)[1])
        stop.set(); [w.join() for w in workers]
        print(codes)
        """
    )
    assert said.strip() == str([0] * 10)


def test_many_callers_at_once() -> None:
    want, right = rr.ops.maxsim(QUERY, PACKED), list[bool]()

    def call(threads: int) -> None:
        for _ in range(10):
            right.append(bool((rr.ops.maxsim(QUERY, PACKED, num_threads=threads) == want).all()))

    callers = [threading.Thread(target=call, args=(1 + i % 4,)) for i in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert right == [True] * 80
