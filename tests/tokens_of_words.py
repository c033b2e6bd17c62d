"""What the tests of token indexes share: an encoder with a vector for each word, codecs for it, and rankings that compare to the bit."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from damage import WORDS

import rerank_engine as rr
from rerank_engine.codec import ResidualCodec
from rerank_engine.indexes import TokenIndex

WORD_DIM, LONGEST = 8, 40
STORAGES = ("float32", "float16", "int8", "4bit", "2bit", "1bit")


@functools.cache
def word_vector(word: str) -> np.ndarray:
    x = np.random.default_rng(zlib.crc32(word.encode())).normal(size=WORD_DIM).astype(np.float32)
    return x / np.linalg.norm(x)


def vectors(text: str) -> np.ndarray:
    """float32 [words, WORD_DIM], of unit length, always the same for a word."""
    return np.array([word_vector(word) for word in text.split()], np.float32).reshape(-1, WORD_DIM)


class Words:
    """An encoder. A document keeps its first LONGEST words; what is behind them counts as cut off."""

    def __init__(self) -> None:
        self.batches = list[int]()

    def encode_documents(self, texts: Sequence[str], *, progress: Any = None) -> tuple[rr.Packed, np.ndarray]:
        self.batches.append(len(texts))
        rows = [vectors(text) for text in texts]
        return rr.Packed.from_rows([row[:LONGEST] for row in rows]), np.array([max(0, len(r) - LONGEST) for r in rows], np.int32)


@functools.cache
def codec_of(storage: str) -> ResidualCodec | None:
    """None for plain storage."""
    return ResidualCodec.train(vectors(" ".join(WORDS)), int(storage[0]), 6, backend="numpy") if storage.endswith("bit") else None


def ranked_tokens(index: TokenIndex, queries: Sequence[str]) -> list[tuple[list[str], bytes]]:
    """Ids and the scores' bits, of one state of the index."""
    frozen = index.snapshot()
    hits = frozen.search([vectors(query) for query in queries], 1000)
    return [([frozen.corpus[row].id for row in rows.tolist()], scores.tobytes()) for rows, scores in hits]
