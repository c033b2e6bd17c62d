"""Documents become vectors batch by batch; on the way to a file, batches lie in a journal, from which a build that was killed goes on.

`PATH.partial`: a head (magic, JSON of corpus and encoder, its CRC-32), then a record for each batch (rows, dim, CRC-32; tokens cut off
int32 [rows], vectors float32 [rows, dim] as the encoder gave them), synced before the next batch is encoded. Of the records, those before
the first that is damaged or not whole are kept; it and all behind it are cut off, and encoded again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpus import Corpus
from ..errors import InputError
from ..limits import limits
from ..ops import checks
from ..progress import Progress
from .documents import require_json
from .files import sync_folder
from .vector_encoder import Encoded, TextEncoder, encode_documents
from .vector_exact import unit
from .vector_faiss import KINDS, Approximate, Blocks, has_faiss, require_faiss, settings_of
from .vector_files import KEPT, METRICS

AUTO = 1 << 16  # documents up to which kind="auto" is exact, and a filter's are scanned

BATCH = 256  # documents that are encoded at a time: what a kill costs at most
MAGIC = b"RERANKVP"
_HEAD, _RECORD = struct.Struct("<8sIII"), struct.Struct("<III")  # magic, version, bytes of JSON, its crc; rows, dim, crc
_VERSION = 1
_OVER = "resume=False starts over; or remove the file."


def _inside(progress: Progress | None, done: int, total: int) -> Progress | None:
    """What an encoder reports to from within a batch."""
    return None if progress is None else lambda n, _: progress(min(done + n, total), total)


def encoded(encoder: TextEncoder, corpus: Corpus, *, done: int = 0, dim: int = 0, progress: Progress | None) -> Iterator[Encoded]:
    """(vectors float32 [m, given dim], tokens cut off int32 [m]) of the documents from `done` on. progress(done, total) counts documents.
    dim: what the first documents had, 0 where there are none."""
    total = len(corpus)
    while done < total:
        limits().check()
        rows = np.arange(done, min(done + BATCH, total))
        vectors, cut = encode_documents("VectorIndex.build", encoder, corpus.texts(rows), _inside(progress, done, total))
        if vectors.shape[1] != (dim or vectors.shape[1]):
            raise InputError("VectorIndex.build: encoder", got=f"vectors {list(vectors.shape)}", expected=f"dimension {dim}, as before")
        dim, done = vectors.shape[1], done + len(rows)
        if progress:
            progress(done, total)
        yield vectors, cut


def require(kind: str, metric: str, keep: str | None, n: int, dim: int | None, settings: Mapping[str, int]) -> str:
    """Refuses what can be refused before any document is encoded. The kind, chosen where it is "auto"."""
    checks.one_of("VectorIndex: kind", kind, ("auto", "exact", *KINDS))
    checks.one_of("VectorIndex: metric", metric, METRICS)
    if kind == "auto":
        kind = "exact" if n <= AUTO or not has_faiss() else "hnsw"
    if keep is not None or kind == "exact":
        checks.one_of("VectorIndex: keep", str(keep), KEPT)
    if dim is not None:
        checks.count("VectorIndex: dim", dim)
    settings_of(kind, n, dim, settings)
    if kind != "exact":
        require_faiss()
    return kind


def writable(path: str | Path, corpus: Corpus) -> Path:
    """Refuses a place that cannot be written, and documents that a file cannot keep."""
    place = Path(path)
    if place.is_dir() or not place.absolute().parent.is_dir():
        raise InputError(
            f"index file {path}", got="a folder" if place.is_dir() else "no such folder", expected="a place that can be written"
        )
    for document in corpus:
        require_json(document)
    return place


def cut_to(dim: int | None, given: int) -> int:
    """The dimension of what is compared, of vectors of the given one."""
    if dim is not None and checks.count("VectorIndex: dim", dim) > given:
        raise InputError("VectorIndex: dim", got=dim, expected=f"at most {given}, as the vectors have")
    return given if dim is None else dim


def prepared(vectors: NDArray[np.float32], dim: int, metric: str) -> NDArray[np.float32]:
    """Cut to dim, and for the cosine of unit length."""
    cut = np.ascontiguousarray(vectors[:, :dim])
    return unit(cut) if metric == "cosine" else cut


def counts_of(truncated: Any, n: int) -> NDArray[np.int32]:
    """What was cut off each document; none where it is not known."""
    if truncated is None:
        return np.zeros(n, np.int32)
    cut = checks.integers("VectorIndex: truncated_tokens", truncated, np.int32)
    if len(cut) != n:
        raise InputError("VectorIndex: truncated_tokens", got=f"{len(cut)} counts", expected=f"one for each of the {n} documents")
    return cut


def made(kind: str, blocks: Blocks, n: int, dim: int, settings: Mapping[str, int], threads: int | None) -> Approximate | None:
    """What finds candidates; None for kind "exact"."""
    return None if kind == "exact" else Approximate.build(kind, blocks, n, dim, settings_of(kind, n, dim, settings), threads)


class Journal:
    """`with Journal(path, key) as journal:` holds PATH.partial, alone; what it has from an earlier build under the same key stays.

    Raises InputError where another process builds the same index, for a link or a file of that name that is no journal (an empty one is
    taken), and, unless `fresh`, for one of another version, with a damaged head or with another key.
    """

    def __init__(self, path: Path, key: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.path, self._key, self._fresh = path.with_name(path.name + ".partial"), dict(key), fresh
        self._records: list[tuple[int, int]] = []  # (place of the numbers, rows)
        self.rows, self.dim, self._file = 0, 0, -1

    def __enter__(self) -> Journal:
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(self._file).st_nlink:
                raise BlockingIOError("its last owner has just removed it")
        except BlockingIOError as error:
            self._close()
            raise InputError(f"{self.path}", got="another process that writes it", expected="one build of an index at a time") from error
        except (OSError, ValueError) as error:
            self._close()
            got = "a symbolic link" if getattr(error, "errno", 0) == errno.ELOOP else str(error)
            raise InputError(f"index file {self.path}", got=got, expected="a place that can be written") from error
        try:
            self._resume()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """The file goes when the index is written, and stays when something went wrong, for the next build to go on with."""
        if kind is None or not self.rows or self._key["encoder"] is None:
            self.path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def append(self, vectors: NDArray[np.float32], cut: NDArray[np.int32]) -> None:
        body = cut.tobytes() + np.ascontiguousarray(vectors).tobytes()
        head = _RECORD.pack(*vectors.shape, zlib.crc32(body, zlib.crc32(_RECORD.pack(*vectors.shape, 0))))
        at = os.lseek(self._file, 0, os.SEEK_END)
        _write(self._file, head + body)
        os.fsync(self._file)
        self._records.append((at + _RECORD.size, len(vectors)))
        self.rows, self.dim = self.rows + len(vectors), vectors.shape[1]

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """The vectors, a batch at a time, read from the file."""
        for at, rows in self._records:
            data = os.pread(self._file, 4 * rows * self.dim, at + 4 * rows)
            yield np.frombuffer(data, np.float32).reshape(rows, self.dim)

    def truncated(self) -> NDArray[np.int32]:
        return np.concatenate([np.frombuffer(os.pread(self._file, 4 * rows, at), np.int32) for at, rows in self._records])

    def _resume(self) -> None:
        """Reads what is there, and cuts off what is not whole."""
        status, key = os.fstat(self._file), json.dumps(self._key, sort_keys=True).encode()
        head = _HEAD.pack(MAGIC, _VERSION, len(key), zlib.crc32(key)) + key
        if not stat.S_ISREG(status.st_mode) or (status.st_size and os.pread(self._file, len(MAGIC), 0) != MAGIC):
            raise InputError(f"{self.path}", got="a file of something else", expected="none, or an unfinished build")
        end = 0
        torn = os.pread(self._file, status.st_size, 0) == head[: status.st_size] if status.st_size < len(head) else False
        if not torn and not self._fresh:  # a kill that left a part of this head left nothing else
            found = self._head(status.st_size)
            if found != key:
                self._refuse(found)
            if self._key["encoder"] is not None:  # of one that does not say what it is, it may be another
                end = self._scan(_HEAD.size + len(key), status.st_size)
        os.ftruncate(self._file, end)
        if not end:
            os.lseek(self._file, 0, os.SEEK_SET)
            _write(self._file, head)
            os.fsync(self._file)
            sync_folder(self.path.parent)

    def _head(self, size: int) -> bytes:
        """The JSON of the head. Raises InputError."""
        start = os.pread(self._file, _HEAD.size, 0)
        _, version, length, crc = _HEAD.unpack(start) if len(start) == _HEAD.size else (MAGIC, _VERSION, 0, 0)
        found = os.pread(self._file, length, _HEAD.size) if _HEAD.size + length <= size else b""
        if version != _VERSION:
            got = f"an unfinished build of version {version}"
        elif not found or zlib.crc32(found) != crc:
            got = "an unfinished build whose head is damaged"
        else:
            return found
        raise InputError(f"{self.path}", got=got, expected=f"a whole head of version {_VERSION}, to go on with it", hint=_OVER)

    def _refuse(self, found: bytes) -> None:
        other = json.loads(found)
        different = [name for name in self._key if other.get(name) != self._key[name]]
        got = f"an unfinished build of other {', '.join(different)}"
        raise InputError(f"{self.path}", got=got, expected="the same corpus and encoder, to go on with it", hint=_OVER)

    def _scan(self, at: int, size: int) -> int:
        """Where the last whole record ends."""
        total = self._key["documents"]
        while at + _RECORD.size <= size:
            rows, dim, crc = _RECORD.unpack(os.pread(self._file, _RECORD.size, at))
            begin, length = at + _RECORD.size, 4 * rows * (dim + 1)
            if not 0 < rows <= total - self.rows or dim < 1 or dim != (self.dim or dim) or begin + length > size:
                break
            body = os.pread(self._file, length, begin)
            if zlib.crc32(body, zlib.crc32(_RECORD.pack(rows, dim, 0))) != crc:
                break
            self._records.append((begin, rows))
            self.rows, self.dim, at = self.rows + rows, dim, begin + length
        return at


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
