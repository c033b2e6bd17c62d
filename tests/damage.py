"""What the tests of stored indexes share: corpora, rankings that compare to the bit, and files with one byte changed."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import rerank_engine as rr
from rerank_engine.indexes import BM25Index

WORDS = [f"w{i}" for i in range(40)]
QUERIES = ["w0", "w1 w2 w39", "w0 w0 w5 zebra", "w3 w4 w5 w6 w7 w8 w9 w10 w11 w12", "", "w30 w31 w32 w33 w34 w35 w36 w37 w38"]


def make_document(number: int, version: int = 0) -> rr.Document:
    """Always the same for the same numbers; some are empty, long, or have a title and metadata."""
    rng = random.Random(1000 * number + version)
    words = rng.choices(WORDS, [1 / (i + 1) for i in range(40)], k=rng.choice([0, 1, 3, 8, 8, 8, 20, 60]))
    title = rng.choice(["", "", "w5 Title"])
    return rr.Document(f"d{number}", " ".join(words), title, {"v": version} if number % 3 else {})


def corpus(n: int) -> rr.Corpus:
    return rr.Corpus(make_document(i) for i in range(n))


def ranked(index: BM25Index, queries: Sequence[Any] = QUERIES, k: int = 1000) -> list[tuple[list[str], bytes]]:
    """Ids and the scores' bits."""
    hits, documents, _ = index.retrieve(queries, k)
    return [([documents[row].id for row in rows.tolist()], scores.tobytes()) for rows, scores in hits]


def flips(path: Path, masks: Sequence[int] = (0x01, 0x80, 0xFF)) -> Iterator[tuple[int, int]]:
    """Changes each byte of the file in turn, by each mask, while the caller looks; afterwards the file is as it was."""
    data = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for at, byte in enumerate(data):
            for mask in masks:
                os.pwrite(file.fileno(), bytes([byte ^ mask]), at)
                yield at, mask
            os.pwrite(file.fileno(), bytes([byte]), at)


def cuts(path: Path) -> Iterator[int]:
    """Cuts the file to each shorter length in turn, and makes it longer; afterwards it is as it was."""
    data = path.read_bytes()
    for more in (b"\0", b"\n", bytes(64)):
        path.write_bytes(data + more)
        yield len(data + more)
    for length in reversed(range(len(data))):
        os.truncate(path, length)
        yield length
    path.write_bytes(data)
