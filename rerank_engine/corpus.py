"""A corpus: documents as rows 0..n-1, with their external string ids."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import DuplicateIdError, FileFormatError, InputError, UnknownIdError
from .parquet import is_parquet, read_parquet

ID_FIELDS = ("_id", "id", "docid")
TEXT_FIELDS = ("text", "contents")


@dataclass(frozen=True, slots=True)
class Document:
    """One document. `passage`, what models and indexes read, is title and text joined by a space."""

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("id", "text", "title"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"Document: {name}", got=getattr(self, name), expected="a string")

    @property
    def passage(self) -> str:
        return f"{self.title} {self.text}" if self.title else self.text


class Corpus:
    """Documents in a fixed order. Rankings refer to them by row; `ids` and `row` translate to and from external ids.

    An empty corpus is allowed (a request may come with no documents); an index over one is not.
    Raises DuplicateIdError when two documents share an id.
    """

    __slots__ = ("__weakref__", "_documents", "_rows", "_sha256")

    def __init__(self, documents: Iterable[Document]) -> None:
        self._documents = list(documents)
        self._rows: dict[str, int] = {}
        self._sha256: str | None = None
        for row, document in enumerate(self._documents):
            if not isinstance(document, Document):
                raise InputError(
                    "Corpus", got=type(document).__name__, expected="documents", hint="For plain strings call Corpus.from_texts."
                )
            if (first := self._rows.setdefault(document.id, row)) != row:
                raise DuplicateIdError("Corpus", got=f"the id '{document.id}' in rows {first} and {row}", expected="every id once")

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        *,
        ids: Sequence[str] | None = None,
        titles: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> Corpus:
        """texts: one string a document; ids default to the row numbers as strings. Raises InputError for columns of different length."""
        if isinstance(texts, str):
            raise InputError("Corpus.from_texts", got="one string", expected="a sequence of strings", hint="Pass [text].")
        for name, column in (("ids", ids), ("titles", titles), ("metadata", metadata)):
            if column is not None and len(column) != len(texts):
                raise InputError(
                    f"Corpus.from_texts: {name}", got=f"{len(column)} entries", expected=f"one for each of the {len(texts)} texts"
                )
        return cls(
            Document(
                str(i) if ids is None else ids[i],
                text,
                "" if titles is None else titles[i],
                {} if metadata is None else metadata[i],
            )
            for i, text in enumerate(texts)
        )

    @classmethod
    def from_jsonl(cls, path: str | Path) -> Corpus:
        """One JSON object a line, gzip or not: `text` | `contents`, optional `_id` | `id` | `docid` (string or integer) and `title`.

        A document without an id gets its row number. `metadata` is taken as it is, other fields become metadata.
        Raises FileFormatError with the line, DuplicateIdError.
        """
        return cls(_documents(read_jsonl(path)))

    @classmethod
    def from_parquet(cls, path: str | Path) -> Corpus:
        """A file of Parquet whose columns are called as the fields of `from_jsonl`. Raises FileFormatError with the row, DuplicateIdError,
        MissingDependency without pyarrow."""
        return cls(_documents(read_parquet(path)))

    @classmethod
    def from_beir(cls, folder: str | Path) -> Corpus:
        """The corpus of a BEIR folder: `corpus.jsonl`, `corpus.jsonl.gz` or `corpus.parquet` in it."""
        return cls(cls.stream(folder))

    @staticmethod
    def stream(path: str | Path) -> Iterator[Document]:
        """The documents of a file of JSON lines or Parquet, or of a BEIR folder, one after the other, never all in memory.

        Raises FileFormatError, and MissingDependency for Parquet without pyarrow."""
        path = Path(path)
        return _documents(read_records(beir_file(path, "corpus") if path.is_dir() else path))

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, row: int) -> Document:
        self._require(row)
        return self._documents[row]

    def _require(self, row: int) -> None:
        if not 0 <= row < len(self):
            raise UnknownIdError("Corpus", got=f"row {row}", expected=f"a row from 0 to {len(self) - 1}")

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents)

    def __repr__(self) -> str:
        return f"Corpus({len(self)} documents)"

    @property
    def ids(self) -> list[str]:
        """External ids in row order."""
        return [document.id for document in self]

    def id_of(self, row: int) -> str:
        """The external id of a row; what is stored in a file is not read for it. Raises UnknownIdError."""
        return self[row].id

    def ids_of(self, rows: ArrayLike) -> list[str]:
        """The external ids of rows int64 [m]. Raises UnknownIdError."""
        return [self.id_of(row) for row in np.asarray(rows, np.int64).tolist()]

    def read(self, rows: Sequence[int]) -> list[Document]:
        """The documents of rows. Raises UnknownIdError."""
        return [self[row] for row in rows]

    def row(self, doc_id: str) -> int:
        """The row of an external id. Raises UnknownIdError."""
        try:
            return self._rows[doc_id]
        except KeyError:
            raise UnknownIdError("Corpus", got=f"the id '{doc_id}'", expected=f"one of its {len(self)} documents' ids") from None

    def rows_of(self, ids: Sequence[str]) -> list[int | None]:
        """The rows of external ids, None for one that is not there."""
        return [self.row(doc_id) if doc_id in self else None for doc_id in ids]

    def __contains__(self, doc_id: object) -> bool:
        """Whether a document has this external id."""
        try:
            return isinstance(doc_id, str) and self.row(doc_id) >= 0
        except UnknownIdError:
            return False

    def texts(self, rows: ArrayLike | None = None) -> list[str]:
        """The passages (title and text) of the rows int64 [m], or of all."""
        return [document.passage for document in (self if rows is None else map(self.__getitem__, np.asarray(rows).tolist()))]

    @property
    def sha256(self) -> str:
        """A fingerprint of ids and passages in their order: what an index was built from."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            for document in self:
                for part in (document.id, document.passage):
                    data = part.encode("utf-8", "surrogatepass")
                    digest.update(len(data).to_bytes(8, "little") + data)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def _ids_alike(self, other: Corpus) -> bool:
        """Internal: whether both hold the same ids in the same rows, and none that was deleted."""
        return self._whole and other._whole and len(self) == len(other) and self.ids == other.ids

    @property
    def _whole(self) -> bool:
        """Internal: every row's id is found."""
        return True


_ALIKE: WeakKeyDictionary[Corpus, WeakKeyDictionary[Corpus, bool]] = WeakKeyDictionary()


def aligned(corpus: Corpus, other: Corpus) -> bool:
    """Whether every row of one is the same document's in the other, as in two indexes of one collection. Looked at once a pair."""
    if corpus is other:
        return True
    known = _ALIKE.setdefault(corpus, WeakKeyDictionary())
    if (found := known.get(other)) is None:
        found = known[other] = corpus._ids_alike(other)
    return found


def rows_in(corpus: Corpus, other: Corpus, rows: NDArray[np.int64], what: str, expected: str, hint: str = "") -> NDArray[np.int64]:
    """int64 [m]: the rows that `corpus` has for these documents of another one, found by their ids.

    Raises UnknownIdError for the first that it lacks, with these words of the caller's.
    """
    if aligned(corpus, other):
        return rows
    ids = other.ids_of(rows)
    found = corpus.rows_of(ids)
    if (lost := next((doc_id for doc_id, row in zip(ids, found) if row is None), None)) is not None:
        raise UnknownIdError(what, got=f"the id '{lost}'", expected=expected, hint=hint)
    return np.array(found, np.int64)


def require_documents(what: str, corpus: object) -> None:
    """What an index can be built over: a Corpus that is not empty."""
    if not isinstance(corpus, Corpus):
        raise InputError(f"{what}: corpus", got=type(corpus).__name__, expected="a Corpus")
    if len(corpus) == 0:
        raise InputError(what, got="an empty corpus", expected="at least one document")


def document_from_json(record: Mapping[str, Any], row: int, where: str) -> Document:
    doc_id = next((record[name] for name in ID_FIELDS if name in record), row)
    text = next((record[name] for name in TEXT_FIELDS if name in record), None)
    if isinstance(doc_id, bool) or not isinstance(doc_id, (str, int)):
        raise FileFormatError(where, got=f"the id {doc_id!r}", expected=f"a string or an integer under one of {', '.join(ID_FIELDS)}")
    if not isinstance(text, str):
        raise FileFormatError(where, got=f"the text {text!r}", expected=f"a string under one of {', '.join(TEXT_FIELDS)}")
    title, metadata = record.get("title") or "", record.get("metadata")
    if not isinstance(title, str):
        raise FileFormatError(where, got=f"the title {title!r}", expected="a string")
    if not isinstance(metadata, dict):
        metadata = {k: v for k, v in record.items() if k not in (*ID_FIELDS, *TEXT_FIELDS, "title")}
    return Document(str(doc_id), text, title, metadata)


def first_existing(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileFormatError(str(folder), got="none of " + ", ".join(names), expected="one of them", hint="Is the path right?")


def beir_file(folder: Path, name: str) -> Path:
    """The records of that name in a BEIR folder. Raises FileFormatError."""
    return first_existing(folder, f"{name}.jsonl", f"{name}.jsonl.gz", f"{name}.parquet")


def read_text(path: str | Path) -> str:
    """A whole UTF-8 file, gzip or not (told by its first bytes). Raises FileFormatError."""
    try:
        data = Path(path).read_bytes()
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError) as error:  # gzip.BadGzipFile is an OSError
        raise FileFormatError(str(path), got=str(error), expected="a readable file") from error
    except UnicodeDecodeError as error:
        raise FileFormatError(str(path), got=f"bytes that are not UTF-8 at {error.start}", expected="UTF-8 text") from error
    except Exception as error:  # zlib.error
        raise FileFormatError(str(path), got=f"a broken gzip file ({error})", expected="gzip or plain text") from error


def read_lines(path: str | Path) -> Iterator[str]:
    """The lines of a UTF-8 file, gzip or not, as they are read. Raises FileFormatError."""
    number = 0
    try:
        with open(path, "rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"  # a pipe has no way back
            with gzip.open(raw) if packed else raw as data, io.TextIOWrapper(data, "utf-8-sig", newline="\n") as text:
                for line in text:
                    number += 1
                    yield line
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise FileFormatError(str(path), got=str(error), expected="a readable file") from error
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}, after line {number}", got="bytes that are not UTF-8", expected="UTF-8 text") from error


def _documents(records: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Document]:
    return (document_from_json(record, row, where) for row, (where, record) in enumerate(records))


def read_records(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of the rows of Parquet or the lines of JSON; the first bytes decide. Raises FileFormatError and MissingDependency."""
    return read_parquet(path) if is_parquet(path) else read_jsonl(path)


def read_jsonl(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) for each line that is not blank. Raises FileFormatError with path and line."""
    return parse_jsonl(read_lines(path), str(path))


def parse_jsonl(lines: Iterable[str], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # the latter: brackets nested thousands deep
            raise FileFormatError(where, got=f"broken JSON ({error})", expected="one JSON object a line") from error
        if not isinstance(record, dict):
            raise FileFormatError(where, got=type(record).__name__, expected="a JSON object")
        yield where, record
