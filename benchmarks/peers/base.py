"""What a benchmark asks of every search library.

Timed: build, open, search, batch. Not timed: giving the library its own form of the documents (`form`) and of a query (`ask`), and turning
what it found into arrays (`answer`), so that each is timed on what it takes and gives natively.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpora import Collection

K1, B = 1.2, 0.75
Answer = tuple[NDArray[np.int64], NDArray[np.float64]]


class Peer:
    name = ""
    takes = "ids"  # what `build` is given: token ids or text
    index_of: str | None = None  # the peer whose saved index serves this one too
    exact = True  # our formula in at least float32: held to the float64 answer; otherwise to MIN_OVERLAP of it

    def form(self, collection: Collection) -> Any:
        """The documents in the form that `build` takes."""
        raise NotImplementedError

    def build(self, documents: Any) -> None:
        """From documents to an index that can be searched."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Into an empty folder, for `open`; a library that builds on disk does nothing here."""
        raise NotImplementedError

    def open(self, folder: Path, mapped: bool = True) -> None:
        """A saved index, where the library has the choice mapped or read into memory."""
        raise NotImplementedError

    def size(self, folder: Path) -> int:
        """Bytes on disk of what a search needs, a vocabulary of strings not counted."""
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    def ask(self, query: Sequence[int]) -> Any:
        """The query in the form that `search` takes."""
        return list(query)

    def search(self, asked: Any, k: int) -> Any:
        raise NotImplementedError

    def answer(self, found: Any) -> Answer:
        """(rows, scores) of what `search` returned."""
        rows, scores = found
        return np.asarray(rows, np.int64), np.asarray(scores, np.float64)

    def batch(self, asked: Sequence[Any], k: int, threads: int) -> Any:
        """Many queries in one call on so many threads, in the library's own way."""
        raise NotImplementedError

    def native(self, asked: Any, k: int) -> Callable[[], Any] | None:
        """The compiled call within `search`, with its arguments ready: what is left is the library's Python. None: not to be separated."""
        return None

    def __repr__(self) -> str:
        return self.name
