"""The documents of an index: read from its file when they are asked for, and joined over its parts."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpus import Corpus, Document
from ..errors import FileFormatError, InputError, UnknownIdError
from ..ops import checks
from .files import Writer

BATCH = 1 << 24  # characters of text that `add` gathers before it makes a segment of them
OVERHEAD = 500  # characters that a document counts for besides: what Python's objects take
_BATCH = 4096  # documents that are encoded at a time


def utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def string_table(strings: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """UTF-8 bytes behind one another, and offsets int64 [n + 1]."""
    encoded = [utf8(text) for text in strings]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def require_json(document: Document) -> None:
    """Raises InputError for metadata that a file cannot keep."""
    if document.metadata:
        _encoded(document)


def _encoded(document: Document) -> bytes:
    try:
        return utf8(
            json.dumps([document.text, document.title, dict(document.metadata)], ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"metadata of document '{document.id}'", got=str(error), expected="what JSON can hold") from error


def write_documents(file: Writer, documents: Iterable[Document]) -> None:
    """Sections `ids`, `documents` and their offsets, and the order of the ids, by which they are found."""
    ids, sizes = list[str](), [0]

    def bodies() -> Iterator[NDArray[np.uint8]]:
        batch = list[bytes]()
        for document in documents:
            ids.append(document.id)
            batch.append(_encoded(document))
            sizes.append(len(batch[-1]))
            if len(batch) == _BATCH:
                yield np.frombuffer(b"".join(batch), np.uint8)
                batch.clear()
        yield np.frombuffer(b"".join(batch), np.uint8)

    file.add("documents", np.uint8, bodies())
    file.add("document_offsets", np.int64, [np.cumsum(np.array(sizes, np.int64))])
    bytes_, offsets = string_table(ids)
    file.add("ids", np.uint8, [bytes_])
    file.add("id_offsets", np.int64, [offsets])
    file.add("id_order", np.uint32, [np.array(sorted(range(len(ids)), key=ids.__getitem__), np.uint32)])


class StoredCorpus(Corpus):
    """A corpus in a file of an index: nothing is read before it is asked for."""

    __slots__ = ("_bodies", "_id_table", "_ids", "_name", "_offsets")

    def __init__(self, sections: Mapping[str, NDArray[Any]], name: str) -> None:
        from .. import _native

        self._ids = _native.Strings(sections["ids"], sections["id_offsets"], sections["id_order"])
        self._id_table = sections["ids"], sections["id_offsets"]
        self._bodies, self._offsets, self._name, self._sha256 = sections["documents"], sections["document_offsets"], name, None
        if len(self._ids) != len(self._offsets) - 1 or len(sections["id_order"]) != len(self._ids):
            raise FileFormatError(name, got="documents, ids and their order of different lengths", expected="one of each per document")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> Document:
        self._require(row)
        begin, end = int(self._offsets[row]), int(self._offsets[row + 1])
        try:
            if not 0 <= begin <= end <= len(self._bodies):
                raise ValueError("it lies outside its section")
            text, title, metadata = json.loads(self._bodies[begin:end].tobytes())
            return Document(self._ids[row], text, title, metadata)
        except (ValueError, TypeError, RuntimeError, RecursionError, InputError) as error:
            got = f"a damaged document in row {row} ({error})"
            raise FileFormatError(self._name, got=got, expected="an index file as it was written", hint="Build it again.") from error

    def __iter__(self) -> Iterator[Document]:
        return map(self.__getitem__, range(len(self)))

    @property
    def ids(self) -> list[str]:
        return [self.id_of(row) for row in range(len(self))]

    def id_of(self, row: int) -> str:
        self._require(row)
        try:
            return str(self._ids[row])
        except RuntimeError as error:
            raise FileFormatError(self._name, got=f"damaged ids ({error})", expected="an index file as it was written") from error

    def row(self, doc_id: str) -> int:
        try:
            found = int(self._ids.find(doc_id)) if isinstance(doc_id, str) else -1
        except RuntimeError as error:
            raise FileFormatError(self._name, got=f"damaged ids ({error})", expected="an index file as it was written") from error
        if found < 0:
            raise UnknownIdError("Corpus", got=f"the id '{doc_id}'", expected=f"one of its {len(self)} documents' ids")
        return found

    def _ids_alike(self, other: Corpus) -> bool:
        if isinstance(other, StoredCorpus):  # quicker than their strings
            return all(np.array_equal(a, b) for a, b in zip(self._id_table, other._id_table))
        return super()._ids_alike(other)


class NumberedCorpus(Corpus):
    """n documents without texts; their ids are their rows."""

    __slots__ = ("_n",)

    def __init__(self, n: int) -> None:
        self._n, self._sha256 = n, None

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, row: int) -> Document:
        self._require(row)
        return Document(str(row), "")

    def __iter__(self) -> Iterator[Document]:
        return map(self.__getitem__, range(self._n))

    def row(self, doc_id: str) -> int:
        if isinstance(doc_id, str) and doc_id.isdecimal() and str(int(doc_id)) == doc_id and int(doc_id) < self._n:
            return int(doc_id)
        raise UnknownIdError("Corpus", got=f"the id '{doc_id}'", expected=f"a row number below {self._n}")

    @property
    def ids(self) -> list[str]:
        return list(map(str, range(self._n)))


class JoinedCorpus(Corpus):
    """The corpora of an index' parts as one. Rows of deleted documents stay, and stay readable; their ids are no longer found."""

    __slots__ = ("_bases", "_parts")

    def __init__(self, parts: Sequence[tuple[Corpus, NDArray[np.bool_] | None]]) -> None:
        self._parts, self._sha256 = tuple(parts), None
        self._bases = list(accumulate((len(corpus) for corpus, _ in parts), initial=0))

    def __len__(self) -> int:
        return self._bases[-1]

    def __getitem__(self, row: int) -> Document:
        part, local = self._place(row)
        return part[local]

    def _place(self, row: int) -> tuple[Corpus, int]:
        self._require(row)
        part = bisect_right(self._bases, row) - 1
        return self._parts[part][0], row - self._bases[part]

    def __iter__(self) -> Iterator[Document]:
        return chain.from_iterable(corpus for corpus, _ in self._parts)

    @property
    def ids(self) -> list[str]:
        return list(chain.from_iterable(corpus.ids for corpus, _ in self._parts))

    @property
    def _whole(self) -> bool:
        return all(dead is None or not dead.any() for _, dead in self._parts)

    def id_of(self, row: int) -> str:
        part, local = self._place(row)
        return part.id_of(local)

    def row(self, doc_id: str) -> int:
        for (corpus, dead), base in zip(reversed(self._parts), reversed(self._bases[:-1])):
            try:
                row = corpus.row(doc_id)
            except UnknownIdError:
                continue
            if dead is None or not dead[row]:
                return base + row
        raise UnknownIdError("Corpus", got=f"the id '{doc_id}'", expected="the id of a document that is in it")


def problem_of(corpus: Corpus) -> str:
    """Reads every document. What is wrong with their ids, or nothing. Raises FileFormatError for a document that cannot be read."""
    for row, document in enumerate(corpus):
        if document.id not in corpus or corpus.row(document.id) != row:
            return f"the id '{document.id}', which is not found by its order"
    return ""


def batches(documents: Iterable[Document], what: str = "BM25Index.add") -> Iterator[list[Document]]:
    """What `add` gathers before it makes a segment of it."""
    if isinstance(documents, Document) or not isinstance(documents, Iterable):
        raise InputError(what, got=type(documents).__name__, expected="documents", hint="Pass [document].")
    batch, size = list[Document](), 0
    for document in documents:
        checks.instance(f"{what}: document", document, Document)
        batch.append(document)
        size += len(document.text) + len(document.title) + OVERHEAD
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
