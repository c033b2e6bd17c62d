"""The documents of a sharded collection: asked of the shards when they are needed, some at a time."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from numpy.typing import ArrayLike

from ..corpus import Corpus, Document
from ..errors import DuplicateIdError, ShardUnavailable, UnknownIdError
from .scatter import Gathered, Scatter

HELD = 200_000  # ids, and documents, that are remembered
TOGETHER = 1024  # documents that are asked for at a time where all are read


@dataclass
class Read:
    """By row; missing: why a shard's are not there."""

    documents: dict[int, Document] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)


class ShardedCorpus(Corpus):
    """Rows count on from shard to shard. What was read is held, ids and documents, at most HELD of each.

    What a shard that does not answer has is ShardUnavailable. An id that two shards have is DuplicateIdError where both are met.
    prints: a hash of each shard's ids, where they are known.
    """

    __slots__ = ("_bases", "_lock", "_names", "_prints", "_scatter", "_texts")

    def __init__(self, scatter: Scatter, sizes: Sequence[int], prints: Sequence[str] | None = None) -> None:
        self._scatter, self._bases, self._sha256 = scatter, list(accumulate(sizes, initial=0)), None
        self._names, self._rows, self._texts = dict[int, str](), {}, dict[int, Document]()
        self._lock, self._prints = threading.Lock(), None if prints is None else list(prints)

    def __len__(self) -> int:
        return self._bases[-1]

    def shard_of(self, row: int) -> int:
        self._require(row)
        return bisect_right(self._bases, row) - 1

    def __getitem__(self, row: int) -> Document:
        return self.read([row])[0]

    def __iter__(self) -> Iterator[Document]:
        for start in range(0, len(self), TOGETHER):
            yield from self.read(range(start, min(len(self), start + TOGETHER)))

    @property
    def ids(self) -> list[str]:
        return [
            doc_id for start in range(0, len(self), TOGETHER) for doc_id in self.ids_of(np.arange(start, min(len(self), start + TOGETHER)))
        ]

    def id_of(self, row: int) -> str:
        return self.ids_of([row])[0]

    def ids_of(self, rows: ArrayLike) -> list[str]:
        wanted = np.asarray(rows, np.int64).tolist()
        read = self._all(self.fetch((), wanted))
        return [read.names[row] for row in wanted]

    def row(self, doc_id: str) -> int:
        row = self.rows_of([doc_id])[0]
        if row is None:
            raise UnknownIdError("Corpus", got=f"the id '{doc_id}'", expected=f"one of its {len(self)} documents' ids")
        return row

    def rows_of(self, ids: Sequence[str]) -> list[int | None]:
        known = self._rows
        found = {doc_id: known[doc_id] for doc_id in ids if doc_id in known}
        unknown = [doc_id for doc_id in dict.fromkeys(ids) if doc_id not in found]
        if unknown:

            def enough(values: Mapping[int, Mapping[str, int]]) -> bool:
                return sum(map(len, values.values())) >= len(unknown)

            told = self._scatter.gather("find", lambda _: (unknown,), enough=enough)
            for rows in told.values.values():
                found |= rows
                self._hold({row: doc_id for doc_id, row in rows.items()}, {})
            if not enough(told.values):
                self._require_shards(told.missing)
        return [found.get(doc_id) for doc_id in ids]

    def texts(self, rows: ArrayLike | None = None) -> list[str]:
        return [document.passage for document in (self if rows is None else self.read(np.asarray(rows).tolist()))]

    def read(self, rows: Sequence[int]) -> list[Document]:
        """The documents of rows, of each shard in one question. Raises ShardUnavailable."""
        read = self._all(self.fetch(rows))
        return [read.documents[row] for row in rows]

    def fetch(self, rows: Iterable[int], named: Iterable[int] = ()) -> Read:
        """The documents of rows, and the ids of `named`: what is held, and the rest as far as the shards answer in time."""
        out, calls = Read(), dict[int, tuple[list[int], list[int]]]()
        texts, names = self._texts, self._names  # these dicts only grow; others take their place when they are full
        for row in dict.fromkeys(rows):
            if (document := texts.get(row)) is not None:
                out.documents[row] = document
            else:
                calls.setdefault(self.shard_of(row), ([], []))[0].append(row)
        for row in dict.fromkeys(named):
            if (name := names.get(row)) is not None:
                out.names[row] = name
            else:
                calls.setdefault(self.shard_of(row), ([], []))[1].append(row)
        told = self._scatter.gather("read", calls.__getitem__, shards=calls) if calls else Gathered()
        for shard, (found, ids) in told.values.items():
            read, listed = dict(zip(calls[shard][0], found)), dict(zip(calls[shard][1], ids))
            out.documents |= read
            out.names |= listed
            self._hold(listed | {row: document.id for row, document in read.items()}, read)
        out.missing = told.missing
        return out

    def _hold(self, names: Mapping[int, str], documents: Mapping[int, Document]) -> None:
        with self._lock:
            for row, doc_id in names.items():
                if (other := self._rows.get(doc_id, row)) != row:
                    raise DuplicateIdError("shards", got=f"the id '{doc_id}' in rows {other} and {row}", expected="every id once")
            self._names.update(names)
            self._rows.update((doc_id, row) for row, doc_id in names.items())
            self._texts.update(documents)
            if len(self._names) > HELD:  # in new dicts: who reads the old ones finds what was in them
                self._names = dict(list(self._names.items())[-HELD // 2 :])
                self._rows = {doc_id: row for row, doc_id in self._names.items()}
            if len(self._texts) > HELD:
                self._texts = dict(list(self._texts.items())[-HELD // 2 :])

    def _all(self, read: Read) -> Read:
        self._require_shards(read.missing)
        return read

    def _require_shards(self, missing: Mapping[int, str]) -> None:
        for shard, why in missing.items():
            raise ShardUnavailable(f"shard {shard} of {len(self._scatter)}", got=why, expected="an answer")

    @property
    def _whole(self) -> bool:
        """Not to be compared id by id, which would read all of them."""
        return False

    def _ids_alike(self, other: Corpus) -> bool:
        """Two collections in shards of the same ranges, by the hashes of their ids; others count as different."""
        if not isinstance(other, ShardedCorpus) or self._prints is None:
            return False
        return self._bases == other._bases and self._prints == other._prints
