"""The documents of a sharded collection: asked of the shards when they are needed, some at a time."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import ArrayLike

from ..corpus import Corpus, Document
from ..errors import ShardUnavailable, UnknownIdError
from ..limits import limits
from .scatter import Gathered, Scatter

HELD = 200_000  # documents, or ids alone, that are remembered
TOGETHER = 1024  # documents of one question


class ShardedCorpus(Corpus):
    """Rows count on from shard to shard. Ids of what a search found and documents that were read are held, the latest HELD of them.

    What a shard that does not answer has is ShardUnavailable.
    """

    __slots__ = ("_bases", "_held", "_lock", "_prints", "_scatter")

    def __init__(self, scatter: Scatter, sizes: Sequence[int]) -> None:
        self._scatter, self._bases, self._sha256 = scatter, list(accumulate(sizes, initial=0)), None
        self._held = OrderedDict[int, tuple[str, Document | None]]()
        self._rows, self._lock, self._prints = {}, threading.RLock(), list[str]()

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
        return [document.id for document in self]

    def id_of(self, row: int) -> str:
        held = self._held.get(row)
        return self[row].id if held is None else held[0]

    def row(self, doc_id: str) -> int:
        with self._lock:
            if (known := self._rows.get(doc_id)) is not None:
                return known
        told = self._gather("find", dict.fromkeys(range(len(self._scatter)), (doc_id,)))
        row = next((found for found in told.values.values() if found is not None), None)
        if row is None:
            self._require_all(told)
            raise UnknownIdError("Corpus", got=f"the id '{doc_id}'", expected=f"one of its {len(self)} documents' ids")
        self.hold([(row, doc_id, None)])
        return int(row)

    def texts(self, rows: ArrayLike | None = None) -> list[str]:
        return [document.passage for document in (self if rows is None else self.read(np.asarray(rows).tolist()))]

    def read(self, rows: Sequence[int]) -> list[Document]:
        """The documents of rows, of each shard in one question. Raises ShardUnavailable."""
        known = self._known(rows)
        self._require_all(self.fetch([row for row in rows if row not in known], known))
        return [known[row] for row in rows]

    def fetch(self, rows: Iterable[int], into: dict[int, Document] | None = None) -> Gathered:
        """Holds these rows' documents, as far as the shards answer before the deadline of `limits()`."""
        wanted = dict[int, list[int]]()
        for row in dict.fromkeys(rows):
            wanted.setdefault(self.shard_of(row), []).append(row)
        told = self._gather("documents", {shard: (own,) for shard, own in wanted.items()})
        for shard, documents in told.values.items():
            self.hold((row, document.id, document) for row, document in zip(wanted[shard], documents))
            if into is not None:
                into.update(zip(wanted[shard], documents))
        return told

    def without_text(self, rows: Sequence[int]) -> list[int]:
        """Those of the rows whose documents are not held."""
        return [row for row in rows if (self._held.get(row) or ("", None))[1] is None]

    def _known(self, rows: Sequence[int]) -> dict[int, Document]:
        out = dict[int, Document]()
        for row in rows:
            self._require(row)
            document = (self._held.get(row) or ("", None))[1]
            if document is not None:
                out[row] = document
        return out

    def hold(self, found: Iterable[tuple[int, str, Document | None]]) -> None:
        """Remembers (row, id, document or None)."""
        with self._lock:
            for row, doc_id, document in found:
                before = self._held.pop(row, None)
                self._held[row] = doc_id, document if document is not None or before is None else before[1]
                self._rows[doc_id] = row
            while len(self._held) > HELD:
                _, (doc_id, _) = self._held.popitem(last=False)
                self._rows.pop(doc_id, None)

    def _gather(self, method: str, calls: dict[int, tuple[object, ...]]) -> Gathered:
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
