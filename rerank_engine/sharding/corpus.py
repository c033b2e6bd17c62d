"""The documents of a sharded collection: asked of the shards when they are needed, some at a time."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import ArrayLike

from ..corpus import Corpus, Document
from ..errors import DuplicateIdError, ShardUnavailable, UnknownIdError
from ..limits import limits
from .scatter import Gathered, Scatter

HELD = 200_000  # ids, and documents, that are remembered
TOGETHER = 1024  # documents of one question


class ShardedCorpus(Corpus):
    """Rows count on from shard to shard. What was read is held, ids and documents, the latest HELD of each.

    What a shard that does not answer has is ShardUnavailable. An id that two shards have is DuplicateIdError once both are read.
    """

    __slots__ = ("_bases", "_lock", "_names", "_prints", "_scatter", "_texts")

    def __init__(self, scatter: Scatter, sizes: Sequence[int]) -> None:
        self._scatter, self._bases, self._sha256 = scatter, list(accumulate(sizes, initial=0)), None
        self._names, self._rows, self._texts = dict[int, str](), {}, dict[int, Document]()
        self._lock, self._prints = threading.Lock(), list[str]()

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
        return self.ids_of(np.arange(len(self)))

    def id_of(self, row: int) -> str:
        return self.ids_of([row])[0]

    def ids_of(self, rows: ArrayLike) -> list[str]:
        wanted, held = np.asarray(rows, np.int64).tolist(), self._names
        known = {row: held[row] for row in wanted if row in held}
        for start in range(0, len(wanted), TOGETHER):
            lacking = [row for row in wanted[start : start + TOGETHER] if row not in known]
            self._require_all(self.fetch((), lacking, names=known))
        return [known[row] for row in wanted]

    def row(self, doc_id: str) -> int:
        if (known := self._rows.get(doc_id)) is not None:
            return known
        told = self._gather("find", dict.fromkeys(range(len(self._scatter)), (doc_id,)))
        row = next((found for found in told.values.values() if found is not None), None)
        if row is None:
            self._require_all(told)
            raise UnknownIdError("Corpus", got=f"the id '{doc_id}'", expected=f"one of its {len(self)} documents' ids")
        self._hold({row: doc_id}, {})
        return int(row)

    def texts(self, rows: ArrayLike | None = None) -> list[str]:
        return [document.passage for document in (self if rows is None else self.read(np.asarray(rows).tolist()))]

    def read(self, rows: Sequence[int]) -> list[Document]:
        """The documents of rows, of each shard in one question. Raises ShardUnavailable."""
        held = self._texts
        known = {row: held[row] for row in rows if row in held}
        self._require_all(self.fetch([row for row in rows if row not in known], documents=known))
        return [known[row] for row in rows]

    def fetch(
        self,
        rows: Iterable[int],
        named: Iterable[int] = (),
        *,
        documents: dict[int, Document] | None = None,
        names: dict[int, str] | None = None,
    ) -> Gathered:
        """Holds the documents of rows, and the ids of `named`, as far as the shards answer before the deadline of `limits()`; and puts them
        into `documents` and `names`."""
        calls = dict[int, tuple[list[int], list[int]]]()
        for place, wanted in enumerate((rows, named)):
            for row in dict.fromkeys(wanted):
                calls.setdefault(self.shard_of(row), ([], []))[place].append(row)
        told = self._gather("read", calls)
        for shard, (found, ids) in told.values.items():
            read, listed = dict(zip(calls[shard][0], found)), dict(zip(calls[shard][1], ids))
            listed |= {row: document.id for row, document in read.items()}
            self._hold(listed, read)
            if documents is not None:
                documents |= read
            if names is not None:
                names |= listed
        return told

    def lacking(self, rows: Sequence[int], texts: bool) -> list[int]:
        """Those of the rows whose documents, or whose ids alone, are not held."""
        held = self._texts if texts else self._names
        return [row for row in rows if row not in held]

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

    def _gather(self, method: str, calls: Mapping[int, tuple[object, ...]]) -> Gathered:
        return self._scatter.gather(method, calls.__getitem__, shards=calls, until=limits().deadline) if calls else Gathered()

    def _require_all(self, told: Gathered) -> None:
        for shard, why in told.missing.items():
            raise ShardUnavailable(f"shard {shard} of {len(self._scatter)}", got=why, expected="an answer")

    def _ids_alike(self, other: Corpus) -> bool:
        """Two collections in shards of the same ranges are compared by the hashes of their ids; others are taken for different."""
        if not isinstance(other, ShardedCorpus):
            return False
        return self._bases == other._bases and self._fingerprints() == other._fingerprints()

    def _fingerprints(self) -> list[str]:
        if not self._prints:
            told = self._gather("fingerprint", dict.fromkeys(range(len(self._scatter)), ()))
            self._require_all(told)
            self._prints = [told.values[shard] for shard in range(len(self._scatter))]
        return self._prints
