"""What is built from a stream is never all in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Peak of what the process owned (without pages of mapped files, which the system takes back), in KiB, before and after a build.
BUILD = """
import json, random, sys
from pathlib import Path
import rerank_engine as rr
from rerank_engine.indexes import BM25Index, documents

def own():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))

n, size, documents.BATCH = int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
rng, written, peak = random.Random(1), 0, 0
words = [f"word{i}" for i in range(20_000)]
def source():
    global written, peak
    for i in range(n):
        text = " ".join(rng.choices(words, k=size))
        written += len(text)
        if i % 500 == 0:
            peak = max(peak, own())
        yield rr.Document(str(i), text)
start = own()
index = BM25Index.build_file(source(), sys.argv[1] + "/x", analyzer="simple")
print(json.dumps({"text": written // 1024, "own": max(peak, own()) - start, "documents": len(index)}))
"""


def built(path: Path, n: int, size: int, batch: int) -> dict[str, int]:
    command = [sys.executable, "-c", BUILD, str(path), str(n), str(size), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, int] = json.loads(done.stdout)
    return answer


def test_a_streamed_build_needs_little_more_for_many_more_documents(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc to ask for this process' memory")
    few, many = (built(tmp_path, n, 100, 1_600_000) for n in (6000, 18_000))
    assert (few["documents"], many["documents"]) == (6000, 18_000)
    assert many["own"] - few["own"] < 0.75 * (many["text"] - few["text"])  # as Python's objects, they alone would take twice their text
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
