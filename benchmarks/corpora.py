"""Collections for the speed of lexical search: a seeded synthetic one of any size, and real text from BEIR folders.

Synthetic: ranks by a Zipf-Mandelbrot law (exponent 1.05, shift 2.7) over 500,000 terms, log-normal lengths (mean about 55, 8 to 220),
a topic per document (5000 topics of 400 words) that replaces 35 % of the rarer words, and burstiness: 12 % of the content words repeat an
earlier one of their document. A term's id is its rank. Documents are made in chunks with a seed each, so that the first n documents of a
larger collection are the collection of n documents, and 5 million fit in memory. Cached as .npy below build/bench/.

    python -m benchmarks.corpora 1000000        makes the collection and prints its statistics as JSON
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank_engine.packed import Packed

CACHE = Path(__file__).resolve().parents[1] / "build" / "bench"
SEED, N_TERMS, CHUNK = 20261122, 500_000, 100_000
N_TOPICS, TOPIC_WORDS, FIRST_TOPIC_RANK, TOPIC_SHARE = 5000, 400, 150, 0.35
FIRST_CONTENT_RANK, REPEAT_SHARE = 50, 0.12
FIRST_NATURAL_RANK, N_FREQUENT, N_QUERIES = 100, 30, 1000
Queries = dict[str, list[list[int]]]


@dataclass(frozen=True)
class Collection:
    """documents: int32 term ids; df int64 [n_terms]: the documents that hold each term; queries: the sets nat and freq, as term ids."""

    name: str
    documents: Packed
    n_terms: int
    df: NDArray[np.int64]
    queries: Queries

    @property
    def n_postings(self) -> int:
        return int(self.df.sum())

    def postings(self, query: Sequence[int]) -> int:
        """The postings of a query's terms: what an exhaustive search reads."""
        return int(self.df[np.asarray(query, np.int64)].sum())

    def first(self, n: int) -> Collection:
        """The first n documents, with the same queries."""
        offsets = self.documents.offsets[: n + 1]
        tokens = self.documents.values[: offsets[-1]]
        df = document_frequencies(tokens, offsets, self.n_terms)
        return Collection(f"{self.name}-first-{n}", Packed(tokens, offsets), self.n_terms, df, self.queries)

    def texts(self) -> Iterator[str]:
        """Each document as words t<id>, for the peers that take text alone."""
        words = np.array([f"t{term}" for term in range(self.n_terms)], object)
        offsets = self.documents.offsets
        for begin in range(0, len(self.documents), 10_000):
            cuts = offsets[begin : begin + 10_001]
            chunk = words[self.documents.values[cuts[0] : cuts[-1]]].tolist()
            places = (cuts - cuts[0]).tolist()
            yield from (" ".join(chunk[a:b]) for a, b in pairwise(places))

    def statistics(self) -> dict[str, Any]:
        sets = {}
        for name, queries in self.queries.items():
            read = np.array([self.postings(query) for query in queries])
            sets[name] = {
                "queries": len(queries),
                "mean_terms": round(float(np.mean([len(query) for query in queries])), 2),
                "mean_postings": round(float(read.mean())),
                "p50_postings": round(float(np.median(read))),
                "p95_postings": round(float(np.percentile(read, 95))),
            }
        ranked = np.sort(self.df)[::-1] / len(self.documents)
        return {
            "name": self.name,
            "documents": len(self.documents),
            "tokens": len(self.documents.values),
            "postings": self.n_postings,
            "types": int((self.df > 0).sum()),
            "df_share_at_rank": {rank: round(float(ranked[rank]), 4) for rank in (0, 1, 10, 50, 100, 1000, 10_000) if rank < len(ranked)},
            "queries": sets,
        }


def synthetic(n_docs: int) -> Collection:
    """The synthetic collection of n_docs documents, made on the first call and read from the cache afterwards."""
    folder = CACHE / f"synthetic-{n_docs}"
    if not (folder / "queries.json").is_file():
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _generate(partial, n_docs)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return read(folder)


def read(folder: Path) -> Collection:
    """A collection as it is kept: tokens.npy, offsets.npy, df.npy, queries.json."""
    tokens, offsets, df = (np.load(folder / f"{name}.npy") for name in ("tokens", "offsets", "df"))
    return Collection(folder.name, Packed(tokens, offsets), len(df), df, json.loads((folder / "queries.json").read_text()))


def _generate(folder: Path, n_docs: int) -> None:
    chunks = range(-(-n_docs // CHUNK))
    lengths = np.concatenate([_lengths(chunk) for chunk in chunks])[:n_docs]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.lib.format.open_memmap(folder / "tokens.npy", "w+", np.dtype(np.int32), (int(offsets[-1]),))
    topics = _topics()
    df = np.zeros(N_TERMS, np.int64)
    for chunk in chunks:
        begin, end = chunk * CHUNK, min((chunk + 1) * CHUNK, n_docs)
        made = _tokens(chunk, topics)[: offsets[end] - offsets[begin]]
        tokens[offsets[begin] : offsets[end]] = made
        df += document_frequencies(made, offsets[begin : end + 1] - offsets[begin], N_TERMS)
    tokens.flush()
    np.save(folder / "offsets.npy", offsets)
    np.save(folder / "df.npy", df)
    documents = Packed(tokens, offsets)
    queries = {kind: _queries(documents, df, kind) for kind in ("nat", "freq")}
    (folder / "queries.json").write_text(json.dumps(queries))


def _lengths(chunk: int) -> NDArray[np.int64]:
    drawn = np.random.default_rng([SEED, chunk, 0]).lognormal(np.log(50), 0.42, CHUNK)
    return np.clip(np.rint(drawn), 8, 220).astype(np.int64)


def _cumulative(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    curve = np.cumsum(weights / weights.sum())
    curve[-1] = 1
    return curve


def _topics() -> NDArray[np.int32]:
    """[topics, words]: each topic's words, their ranks uniform on a log scale, the first the most probable."""
    low, high = np.log(FIRST_TOPIC_RANK), np.log(N_TERMS - 1)
    return np.exp(np.random.default_rng([SEED, N_TERMS]).uniform(low, high, (N_TOPICS, TOPIC_WORDS))).astype(np.int32)


def _tokens(chunk: int, topics: NDArray[np.int32]) -> NDArray[np.int32]:
    rng = np.random.default_rng([SEED, chunk, 1])
    lengths = _lengths(chunk)
    total, starts = int(lengths.sum()), np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(CHUNK, dtype=np.int32), lengths)
    zipf = _cumulative(1 / (np.arange(N_TERMS) + 2.7) ** 1.05)
    tokens = np.searchsorted(zipf, rng.random(total)).astype(np.int32)

    of_topic = np.flatnonzero((rng.random(total) < TOPIC_SHARE) & (tokens >= FIRST_TOPIC_RANK))
    topic = rng.integers(0, N_TOPICS, CHUNK)[owner[of_topic]]
    tokens[of_topic] = topics[topic, np.searchsorted(_cumulative(1 / (np.arange(TOPIC_WORDS) + 3.0)), rng.random(len(of_topic)))]

    repeats = np.flatnonzero((rng.random(total) < REPEAT_SHARE) & (tokens >= FIRST_CONTENT_RANK))
    begin = starts[owner[repeats]]  # the first word of a document repeats itself: nothing stands before it
    tokens[repeats] = tokens[begin + (rng.random(len(repeats)) * (repeats - begin)).astype(np.int64)]
    return tokens


def document_frequencies(tokens: NDArray[np.int32], offsets: NDArray[np.int64], n_terms: int, at_once: int = CHUNK) -> NDArray[np.int64]:
    df = np.zeros(n_terms, np.int64)
    for begin in range(0, len(offsets) - 1, at_once):
        cuts = offsets[begin : begin + at_once + 1]
        owner = np.repeat(np.arange(len(cuts) - 1, dtype=np.int64), np.diff(cuts))
        pairs = np.sort(owner * n_terms + tokens[cuts[0] : cuts[-1]])
        new = np.ones(len(pairs), bool)
        new[1:] = pairs[1:] != pairs[:-1]
        df += np.bincount(pairs[new] % n_terms, minlength=n_terms)
    return df


def _queries(documents: Packed, df: NDArray[np.int64], kind: str) -> list[list[int]]:
    """nat: 3 to 8 different words of one document, none of the 100 commonest, none in fewer than 5 documents, a word the likelier the more
    frequent (df ** 0.25). freq: 1 to 3 of those words, but for 2 at the least, give way to some of the 30 commonest of the collection."""
    rng = np.random.default_rng([SEED, len(documents), {"nat": 0, "freq": 1}[kind]])
    found: list[list[int]] = []
    while len(found) < N_QUERIES:
        words = np.unique(documents[int(rng.integers(len(documents)))])
        words = words[(words >= FIRST_NATURAL_RANK) & (df[words] >= 5)]
        n_frequent = int(rng.integers(1, 4)) if kind == "freq" else 0
        n_words = max(2, int(rng.integers(3, 9)) - n_frequent)
        if len(words) < n_words:
            continue
        weights = df[words] ** 0.25
        natural = rng.choice(words, n_words, replace=False, p=weights / weights.sum())
        query = np.concatenate([natural, rng.choice(N_FREQUENT, n_frequent, replace=False)])
        found.append(rng.permutation(query).tolist())
    return found


if __name__ == "__main__":
    print(json.dumps(synthetic(int(sys.argv[1])).statistics(), indent=1))
