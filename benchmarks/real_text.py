"""Real text as a collection of term ids with queries cut from it."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.corpora import N_QUERIES, Collection, Queries, document_frequencies
from rerank_engine import Corpus
from rerank_engine.packed import Packed
from rerank_engine.text import Analyzer

MIN_WORDS, N_STOP, SEED = 12, 60, 20261122


def collection(paths: Sequence[Path]) -> Collection:
    """BEIR folders and text files (.txt or .txt.gz, a passage a line), one behind the other, each passage once; its words in lower case.

    nat: 2 to 8 words that stand side by side in a passage, the 60 commonest words and those in fewer than 3 passages left out;
    freq: the same with the commonest left in, at least one.
    """
    analyze, vocabulary, rows, seen = Analyzer("simple"), dict[str, int](), [], set[bytes]()
    for passage in (passage for path in paths for passage in _passages(path)):
        terms = analyze(passage)
        digest = hashlib.blake2b(passage.encode(), digest_size=16).digest()
        if len(terms) >= MIN_WORDS and digest not in seen:
            seen.add(digest)
            rows.append(np.fromiter((vocabulary.setdefault(term, len(vocabulary)) for term in terms), np.int32, len(terms)))
    documents = Packed.from_rows(rows, np.int32)
    df = document_frequencies(documents.values, documents.offsets, len(vocabulary))
    name = f"real-{hashlib.blake2b(b''.join(sorted(seen)), digest_size=6).hexdigest()}"
    return Collection(name, documents, len(vocabulary), df, _queries(documents, df))


def _passages(path: Path) -> Iterator[str]:
    if path.is_dir():
        yield from Corpus.from_beir(path).texts()
        return
    with gzip.open(path, "rt", errors="replace") if path.suffix == ".gz" else path.open(errors="replace") as lines:
        yield from lines


def _queries(documents: Packed, df: np.ndarray) -> Queries:
    rng = np.random.default_rng(SEED)
    common = set(np.argsort(-df)[:N_STOP].tolist())
    natural: list[list[int]] = []
    frequent: list[list[int]] = []
    for _ in range(200 * N_QUERIES):
        if len(frequent) >= N_QUERIES and len(natural) >= N_QUERIES:
            break
        passage = documents[int(rng.integers(len(documents)))]
        n = int(rng.integers(3, 9))
        begin = int(rng.integers(0, len(passage) - n + 1))
        words = [word for word in dict.fromkeys(passage[begin : begin + n].tolist()) if df[word] >= 3]
        content = [word for word in words if word not in common]
        if len(content) >= 2:
            natural.append(content)
            if len(content) < len(words):
                frequent.append(words)
    return {"nat": natural[:N_QUERIES], "freq": frequent[:N_QUERIES]}
