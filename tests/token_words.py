"""What the tests of token indexes share: an encoder of words, documents, and codecs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import rerank_engine as rr
from rerank_engine.codec import ResidualCodec

DIM = 16
CODES = ("4bit", "2bit", "1bit")


def vectors(text: str) -> np.ndarray:
    """float32 [words, DIM] of unit length, always the same for a word."""
    rows = [np.random.default_rng([ord(c) for c in word]).normal(size=DIM) for word in text.split()]
    x = np.array(rows, np.float32).reshape(-1, DIM)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


class Words:
    """An encoder: a vector a word, at most 12; what is beyond counts as dropped."""

    def __init__(self) -> None:
        self.batches = list[int]()

    def encode_documents(self, texts: Sequence[str], *, progress: Any = None) -> tuple[rr.Packed, np.ndarray]:
        self.batches.append(len(texts))
        rows = [vectors(text) for text in texts]
        dropped = np.array([max(0, len(row) - 12) for row in rows], np.int32)
        return rr.Packed.from_rows([row[:12] for row in rows]), dropped


def document(i: int, version: int = 0) -> rr.Document:
    rng = np.random.default_rng(1000 * i + version)
    words = " ".join(f"w{n}" for n in rng.integers(0, 30, rng.choice([0, 1, 5, 9, 20])))
    return rr.Document(f"d{i}", words, "", {"v": version} if i % 2 else {})


def corpus(n: int = 300) -> rr.Corpus:
    return rr.Corpus(document(i) for i in range(n))


QUERY = vectors("w1 w2 w3 w4 w5")


def codec_for(storage: str) -> ResidualCodec | None:
    if storage not in CODES:
        return None
    return ResidualCodec.train(vectors(" ".join(f"w{i}" for i in range(30))), int(storage[0]), 12, backend="numpy")
