"""What latencies are measured on: text, questions, vectors and terms made of the 1,000 real passages that ship with the demo.

Nothing but the package is read, and equal arguments give equal data on every machine. Item i does not depend on how many are asked for.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..demo import DATA, shipped_vectors
from ..errors import InputError
from ..evaluation import Collection, load_beir
from ..indexes import BM25Index
from ..ops.checks import count
from ..packed import Packed
from ..text import Analyzer

# Of the demo's passages: BERT's wordpieces a word, terms (without stop words, stemmed) a wordpiece.
PIECES_PER_WORD, TERMS_PER_PIECE = 1.313, 0.529
SHORTEST, LONGEST = 2 / 3, 4 / 3  # of the mean length: 100 to 200 tokens around 150
# A Zipf-Mandelbrot law p(r) ~ (r + SHIFT) ** -EXPONENT over N_TERMS ranks, by least squares of log p over the demo's 1,500 commonest terms.
N_TERMS, EXPONENT, SHIFT = 1_000_000, 1.3, 80.0
TOPIC_SHARE = 0.3  # of a document's terms, those of one real passage
REPEAT_SHARE = (
    0.16  # of a document's terms, those that repeat an earlier one: 77 % are then distinct, as in the demo's passages of this length
)
BLOCK = 100_000  # documents made at a time: about 0.4 GB of working memory at 150 tokens
_NOISE = 0.15  # length of the part of a vector that follows no real one


def passages(n: int, tokens: int = 150, seed: int = 0) -> list[str]:
    """n texts whose lengths lie evenly between 2/3 and 4/3 of `tokens` wordpieces (estimated by their words).

    The first 1,000 begin with the demo's passages, in its order, and go on with sentences of others; the rest are sentences of several. A
    text is cut at a word. Raises InputError.
    """
    count("passages: n", n)
    count("passages: tokens", tokens)
    texts, sentences = _collection().corpus.texts(), _sentences()
    return [_passage(i, texts, sentences, tokens, seed) for i in range(n)]


def _passage(i: int, texts: Sequence[str], sentences: Sequence[str], tokens: int, seed: int) -> str:
    rng = np.random.default_rng([seed, i])
    wanted = max(1, round(tokens * rng.uniform(SHORTEST, LONGEST) / PIECES_PER_WORD))
    words = texts[i].split() if i < len(texts) else []
    while len(words) < wanted:
        words += sentences[int(rng.integers(len(sentences)))].split()
    return " ".join(words[:wanted])


def queries(n: int) -> list[str]:
    """n of the demo's questions, which its passages answer, in a fixed shuffle. Raises InputError for more than there are (1,190)."""
    asked = _collection().queries
    if count("queries: n", n) > len(asked):
        raise InputError("queries: n", got=n, expected=f"at most {len(asked)}, the demo's questions")
    return [asked[i].text for i in np.random.default_rng(0).permutation(len(asked))[:n]]


def vectors(n: int, dim: int = 384, seed: int = 0) -> NDArray[np.float32]:
    """float32 [n, dim] of unit length: mixtures of three of the demo's vectors (bge-small-en-v1.5), so that its questions have neighbours.

    The weights of a mixture are Dirichlet(3, 1, 1), and a random direction of length 0.15 is added. dim: the first numbers of each, at
    most 384. Made in blocks: about 0.1 GB of working memory besides what is returned. Raises InputError.
    """
    real = shipped_vectors(_collection()).vectors.astype(np.float32)
    if count("vectors: dim", dim) > real.shape[1]:
        raise InputError("vectors: dim", got=dim, expected=f"at most {real.shape[1]}, the dimension of the demo's vectors")
    real, out = np.ascontiguousarray(real[:, :dim]), np.empty((count("vectors: n", n), dim), np.float32)
    for block in range(-(-n // BLOCK)):
        rng = np.random.default_rng([seed, block])
        chosen, weights = rng.integers(len(real), size=(BLOCK, 3)), rng.dirichlet((3, 1, 1), BLOCK).astype(np.float32)
        for begin in range(0, min(BLOCK, n - block * BLOCK), BLOCK // 10):
            here = slice(begin, begin + BLOCK // 10)
            made = np.einsum("mj,mjd->md", weights[here], real[chosen[here]])
            made += rng.standard_normal(made.shape, np.float32) * np.float32(_NOISE / np.sqrt(dim))
            made /= np.linalg.norm(made, axis=1, keepdims=True)
            at = block * BLOCK + begin
            out[at : at + len(made)] = made[: n - at]
    return out


@dataclass(frozen=True, eq=False)
class Lexical:
    """A collection for lexical search as terms. documents: int32 ids of terms; analyze: from a text to them, unknown words left out;
    queries: texts."""

    documents: Packed
    analyze: Callable[[str], list[int]]
    queries: Sequence[str]

    def index(self) -> BM25Index:
        """Searches by texts, as any BM25Index does."""
        return BM25Index.from_tokens(self.documents, analyzer=self.analyze)


def lexical(n: int, tokens: int = 150, n_queries: int = 1000, seed: int = 0) -> Lexical:
    """n documents of about `tokens` wordpieces as their stemmed terms, with the demo's questions.

    A document takes 30 % of its terms from one real passage, its topic, and the others from a Zipf-Mandelbrot law fitted to the demo's,
    whose first ranks are the demo's terms by their frequency; 16 % repeat an earlier one. What is frequent in real text is frequent here,
    terms of a topic meet, and the vocabulary grows with the collection. Lengths as in `passages`. Memory: 4 bytes a term, about 320 MB for
    a million documents of 150 tokens, and 0.4 GB while it is made. Raises InputError.
    """
    count("lexical: n", n)
    count("lexical: tokens", tokens)
    analyzer, texts = Analyzer("english"), _collection().corpus.texts()
    rows = [analyzer(text) for text in texts]
    ranked = sorted(Counter(term for row in rows for term in row).items(), key=lambda item: (-item[1], item[0]))
    ids = {term: rank for rank, (term, _) in enumerate(ranked)}
    topics = Packed.from_rows([[ids[term] for term in row] for row in rows], np.int32)
    blocks = [_block([seed, block], tokens, topics, min(BLOCK, n - block * BLOCK)) for block in range(-(-n // BLOCK))]
    lengths = np.concatenate([block.lengths for block in blocks])
    values = np.concatenate([block.values for block in blocks])
    documents = Packed(values, np.concatenate([[0], np.cumsum(lengths)]))
    return Lexical(documents, lambda text: [ids[term] for term in analyzer(text) if term in ids], queries(n_queries))


def _block(seed: list[int], tokens: int, topics: Packed, n: int) -> Packed:
    """The first n documents of a block."""
    rng = np.random.default_rng(seed)
    lengths = np.maximum(1, np.rint(tokens * TERMS_PER_PIECE * rng.uniform(SHORTEST, LONGEST, BLOCK))).astype(np.int64)
    topic = rng.integers(len(topics), size=BLOCK)
    total = int(lengths.sum())
    # the inverse of the law's continuous distribution function
    low, high = SHIFT ** (1 - EXPONENT), (N_TERMS + SHIFT) ** (1 - EXPONENT)
    drawn = (low + rng.random(total) * (high - low)) ** (1 / (1 - EXPONENT)) - SHIFT
    values = np.minimum(drawn, N_TERMS - 1).astype(np.int32)
    own = np.flatnonzero(rng.random(total) < TOPIC_SHARE)
    of = np.repeat(topic, lengths)[own]
    values[own] = topics.values[topics.offsets[of] + (rng.random(len(own)) * topics.lengths[of]).astype(np.int64)]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    again = np.flatnonzero(rng.random(total) < REPEAT_SHARE)
    begin = np.repeat(offsets[:-1], lengths)[again]  # a document's first term repeats itself: nothing stands before it
    values[again] = values[begin + (rng.random(len(again)) * (again - begin)).astype(np.int64)]
    return Packed(values, offsets).part(0, n)


@functools.cache
def _collection() -> Collection:
    return load_beir(DATA)


@functools.cache
def _sentences() -> list[str]:
    """Of all passages, in their order; a sentence ends at a full stop, a question or exclamation mark before a blank and a capital."""
    return [s for text in _collection().corpus.texts() for s in re.split(r"(?<=[.!?])\s+(?=[A-Z0-9\"(])", text) if s]
