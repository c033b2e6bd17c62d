"""A cross-encoder of a made-up network that counts what it is given; each call takes a second of a clock that stands still otherwise."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from models import tokenizer, words

import rerank_engine as rr
from rerank_engine.runtimes.tokenize import Tokenizer
from rerank_engine.stages.cross import CrossEncoder


class Counting:
    """One sequence a call, which is a second of `now`. Its logit: the sum of place * id. seen: the sequences that it was given."""

    name, device, outputs, batch_sensitive, fingerprint = "counting", "cpu", ("logits",), True, "f" * 64

    def __init__(self) -> None:
        self.now, self.seen = 0.0, list[list[int]]()

    def run(self, ids: rr.Packed, types: rr.Packed, output: str, attended: Any = None) -> np.ndarray:
        self.now += 1
        self.seen += [row.tolist() for row in ids]
        return np.array([[float((np.arange(1, len(row) + 1) * row).sum())] for row in ids], np.float32)


@pytest.fixture(name="counting")
def counting_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """make(**options): a cross-encoder of 32 tokens on one Counting runtime, whose clock is that of the limits."""
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    runtime = Counting()
    monkeypatch.setattr("rerank_engine.limits.time", SimpleNamespace(monotonic=lambda: runtime.now))
    return lambda **options: CrossEncoder(runtime, Tokenizer(tmp_path / "tokenizer.json", 32), name="counting", **options)


def lists_of(*sizes: int) -> list[rr.Ranking]:
    """Candidates that are all different and of many lengths."""
    texts = [words(7 * i, 1 + (5 * i) % 23) for i in range(sum(sizes))]
    corpus, ends = rr.Corpus.from_texts(texts), np.cumsum([0, *sizes])
    return [rr.Ranking.in_order(corpus, np.arange(a, b)) for a, b in pairwise(ends.tolist())]
