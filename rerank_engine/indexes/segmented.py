"""What indexes of several members have in common: their documents change, in memory or in a folder, all or nothing."""

from __future__ import annotations

import contextlib
import copy
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..corpus import Corpus, Document
from ..errors import DuplicateIdError, InputError
from ..progress import Progress
from .documents import JoinedCorpus, require_json
from .folder import Folder, Kind, parts_of, to_merge

SPILL = 1000  # documents from which on what is added to a folder goes to disk at once

Self = TypeVar("Self", bound="SegmentedIndex")


class SegmentedIndex(ABC):
    """Members that never change, and the rows deleted from them. An update makes new ones: searches under way keep theirs."""

    kind: Kind  # how its members are read, written and merged
    _folder: Folder | None = None

    def __init__(self, folder: Folder | None) -> None:
        self._folder, self._lock = folder, threading.RLock()

    @property
    @abstractmethod
    def corpus(self) -> Corpus:
        """The documents by the rows that `search` returns. Updates make a new one; rankings keep theirs."""

    @property
    @abstractmethod
    def _members(self) -> Sequence[Any]: ...

    @abstractmethod
    def _set(self, parts: Sequence[Any]) -> None: ...

    @abstractmethod
    def _settings(self) -> dict[str, Any]: ...

    @property
    def _file_kind(self) -> Kind:
        """As `kind`, for a file that lies by itself."""
        return self.kind

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _require_changeable(self) -> None:  # noqa: B027 - most indexes can
        """Raises InputError for an index that cannot be changed."""

    def __len__(self) -> int:
        """The number of documents, without deleted ones."""
        return sum(member.n_live for member in self._members)

    def snapshot(self: Self) -> Self:
        """The index as it is now, for searches that belong together: updates of the other do not change it. It has no folder."""
        frozen = copy.copy(self)
        frozen._folder = None
        return frozen

    def delete(self, ids: Collection[str]) -> None:
        """Deletes documents by id, all or none of them. Raises UnknownIdError."""
        if isinstance(ids, str):
            raise InputError(f"{self._name}.delete", got="one string", expected="a collection of ids", hint="Pass [id].")
        with self._changing():
            self._set(without(self._members, [self.corpus.row(doc_id) for doc_id in ids]))

    def commit(self) -> None:
        """Makes the changes since `open` or the last commit last. A crash meets the state before or after it, never between.

        Merges segments that have become many or half empty. Raises InputError for an index that has no folder.
        """
        if self._folder is None:
            expected = "one that was created in a folder or opened from one"
            raise InputError(f"{self._name}.commit", got="an index without a folder", expected=expected, hint="Use save(path).")
        with self._lock:
            self._set(self._folder.commit(self._members, self._settings()))

    def rollback(self) -> None:
        """Forgets the changes since `open` or the last commit, and lets another writer in."""
        if self._folder is None:
            raise InputError(f"{self._name}.rollback", got="an index without a folder", expected="one that has commits to go back to")
        with self._lock:
            self._set(self._folder.rollback())

    def merge(self) -> None:
        """Makes one segment of all. In a folder: on disk, to be committed."""
        with self._changing():
            if len(self._members) > 1 or any(member.dead is not None for member in self._members):
                self._set([self._merged(self._members)])

    def save(self, path: str | Path) -> None:
        """Writes one file that `open` maps. It appears whole or not at all. Deleted documents are left out."""
        self._require_changeable()
        parts = self._members
        if not len(self):
            raise InputError(f"{self._name}.save", got="an empty index", expected="at least one document")
        if len(parts) == 1 and parts[0].dead is None:
            self._file_kind.write(Path(path), parts[0], self._settings())
        else:
            self._file_kind.merge(parts, Path(path), self._settings())

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        self._require_changeable()
        with self._lock:
            if self._folder is None:
                yield
                return
            with self._folder.attempt():
                yield

    def _added(
        self, parts: Sequence[Any], batches: Iterable[list[Document]], make: Callable[[list[Document]], Any], progress: Progress | None
    ) -> tuple[list[Any], int]:
        """The members with those that `make` makes of the batches, merged where they have become many, and how many documents came."""
        out, known, n = list(parts), joined(parts), 0
        seen: set[str] = set()
        for batch in batches:
            for document in batch:
                if document.id in seen or document.id in known:
                    raise DuplicateIdError(
                        f"{self._name}.add",
                        got=f"the id '{document.id}'",
                        expected="ids that are new",
                        hint="Use update, or delete it first.",
                    )
                seen.add(document.id)
                if self._folder is not None:
                    require_json(document)
            made = make(batch)
            if self._folder is not None and made.file is None and len(batch) >= SPILL:
                made = self._folder.spill(made, self._settings())
            out.append(made)
            n += len(batch)
            while (run := to_merge([member.n_live for member in out])) is not None:
                out[run] = [self._merged(out[run])]
            if progress:
                progress(n, 0)
        return out, n

    def _merged(self, parts: Sequence[Any]) -> Any:
        on_disk = self._folder is not None and sum(member.n_live for member in parts) >= SPILL
        return self.kind.merge(parts, self._folder.new_file() if self._folder is not None and on_disk else None, self._settings())


def joined(parts: Sequence[Any]) -> JoinedCorpus:
    return JoinedCorpus([(member.documents, member.dead) for member in parts])


def without(parts: Sequence[Any], rows: Sequence[int]) -> list[Any]:
    """The members without some rows of the corpus; members that have none left go."""
    out, base = [], 0
    for member in parts:
        own = [row - base for row in rows if base <= row < base + member.n_rows]
        changed = member.delete(own) if own else member
        if changed.n_live:
            out.append(changed)
        base += member.n_rows
    return out


def checked(path: Path, kind: Kind, progress: Progress | None) -> tuple[list[Any], int]:
    """Reads every byte of a file or folder, and what it says. (its members, bytes of its files); raises FileFormatError."""
    parts, _, _ = parts_of(path, kind, verify=True)
    for done, member in enumerate(parts, 1):
        kind.check(member, str(path if member.file is None else path / member.file))
        if progress:
            progress(done, len(parts))
    return parts, sum(map(_size, path.iterdir() if path.is_dir() else [path]))


def _size(path: Path) -> int:
    """Bytes of a file; 0 for what is none, or is gone since its folder was read, as the files of an older commit may be."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
