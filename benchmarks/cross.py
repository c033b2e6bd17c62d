"""What the cross-encoder benchmarks share: pairs of real text with lengths as they are met, and sides that score them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank_engine.demo import DATA
from rerank_engine.evaluation.beir import load_beir

Pairs = list[tuple[str, str]]
Score = Callable[[Pairs], NDArray[np.float32]]
N, SEED = 100, 7
QUERY_TOKENS, LONGEST, MOST = 8, 490, 512  # of a question, of a passage, of a pair


@dataclass(frozen=True)
class Side:
    """What scores pairs, at which precision; error: how far its scores may lie from onnxruntime's of that precision, one pair a call."""

    score: Score
    precision: str
    error: float


def passage_lengths() -> dict[str, NDArray[np.int64]]:
    """Tokens of N passages a case. marco: as MS MARCO's (log-normal around 67, a few long). var: 55 % short, 30 % middling, 15 % long."""
    rng = np.random.default_rng(SEED)

    def marco() -> int:
        length = int(np.clip(rng.lognormal(np.log(67), 0.42), 15, 480))
        return int(rng.integers(250, LONGEST)) if rng.random() < 0.015 else length

    def var() -> int:
        u = rng.random()
        return int(rng.integers(12, 60) if u < 0.55 else rng.integers(80, 200) if u < 0.85 else rng.integers(300, LONGEST))

    return {name: np.array([draw() for _ in range(N)], np.int64) for name, draw in (("marco100", marco), ("var100", var))}


def quarter(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every 4th by length, the longest with them, shuffled: as many tokens to pad as all have, at a quarter of the work."""
    chosen = np.sort(lengths)[2::4]
    chosen[-1] = lengths.max()
    return np.random.default_rng(SEED).permutation(chosen)


@cache
def source(tokenizer: Path) -> tuple[Any, list[str], list[str]]:
    """(the tokenizer, all words of the demo's passages, its questions of QUERY_TOKENS tokens)."""
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(tokenizer))
    found.no_padding()
    found.no_truncation()
    collection = load_beir(DATA)
    words = " ".join(collection.corpus.texts()).split()
    asked = [query.text for query in collection.queries]
    of_length = [text for text, e in zip(asked, found.encode_batch(asked, add_special_tokens=False)) if len(e.ids) == QUERY_TOKENS]
    return found, words, of_length


def pairs(tokenizer: Path, lengths: NDArray[np.int64], number: int, queries: int = 1) -> Pairs:
    """Runs of real text cut to these lengths, behind so many questions; another number: other texts of the same lengths.

    So no round of a benchmark meets a pair that an earlier one has scored, whatever a library remembers.
    """
    encoder, words, asked = source(tokenizer)
    rng = np.random.default_rng((SEED, number))
    chosen = rng.choice(len(asked), queries, replace=False)
    out = []
    for i, length in enumerate(lengths.tolist()):
        begin = int(rng.integers(len(words) - length))
        text = " ".join(words[begin : begin + length])
        end = encoder.encode(text, add_special_tokens=False).offsets[length - 1][1]
        out.append((asked[chosen[i * queries // len(lengths)]], text[:end]))
    return out


def pair_lengths(tokenizer: Path, given: Pairs) -> NDArray[np.int64]:
    return np.array([len(encoding.ids) for encoding in source(tokenizer)[0].encode_batch(given)], np.int64)


def described(case: str, lengths: NDArray[np.int64]) -> str:
    p50, p95, most = np.percentile(lengths, [50, 95, 100])
    padded = len(lengths) * most / lengths.sum()
    spread = f"mean {lengths.mean():.0f}, p50 {p50:.0f}, p95 {p95:.0f}, longest {most:.0f}"
    return f"{case}: {len(lengths)} pairs, {lengths.sum()} tokens, {spread}; one padded batch holds {padded:.1f}x the tokens"


def turns(names: Sequence[str], number: int) -> Iterator[str]:
    """Each name once, another first in every round."""
    first = number % len(names)
    yield from (*names[first:], *names[:first])


def timed(score: Score, given: Pairs, clock: Callable[[], float] = time.process_time) -> tuple[float, NDArray[np.float32]]:
    """(ms, scores)."""
    begin = clock()
    found = score(given)
    return (clock() - begin) * 1e3, np.asarray(found, np.float32).reshape(-1)
