"""Token indexes of other engines, read: folders of colbert-ai, and those of fast-plaid and PyLate. exports.py writes colbert-ai's.

    colbert-ai          metadata.json plan.json centroids.pt buckets.pt avg_residual.pt ivf.pid.pt
                        per chunk: {i}.codes.pt {i}.residuals.pt {i}.metadata.json doclens.{i}.json
    fast-plaid, PyLate  metadata.json centroids.npy bucket_cutoffs.npy bucket_weights.npy doclens.{i}.json
                        {i}.codes.npy {i}.residuals.npy, or (fast-plaid 1.7) the chunks behind one another in merged_codes.npy and
                        merged_residuals.npy, with a manifest that tells the rows of each
    their ids           PyLate: plaid_ids_to_documents_ids.pkl; RAGatouille, around colbert-ai: pid_docid_map.json, texts in collection.json

No byte of a folder is run: see torch_file.py for the .pt files; .npy files are read without pickle. Inverted lists (ivf) are not read.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..codec import ResidualCodec, ResidualTokens
from ..corpus import Corpus
from ..errors import FileFormatError, InputError
from ..progress import Progress
from .exports import write_colbert
from .torch_file import damaged, plain, read_pickle_of_values, read_torch

__all__ = ["Imported", "read_colbert", "read_index", "read_npy", "read_plaid", "write_colbert"]

# Of a .npy file in version 1.0, as numpy and Rust write it; numpy's own reader evaluates it as Python, with what that may raise.
_HEADER = re.compile(rb"\{'descr': '([<>|][fiu][1248])', 'fortran_order': False, 'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), \}\s*")
_IDS = "plaid_ids_to_documents_ids.pkl"  # PyLate's: number of a document -> its id
_PASSAGES, _TEXTS = "pid_docid_map.json", "collection.json"  # RAGatouille's: number of a passage -> the id of its document; its text


@dataclass(frozen=True, eq=False)
class Imported:
    """What a folder held. ids: one for each document, as text, or None where the folder has none: the documents are numbered from 0 then.

    A folder of RAGatouille has passages: where one of its documents has several, their ids are `document#0`, `document#1`, ..., else
    `document`. texts: its passages, None for a folder of any other. notes: what somebody who imports it should know, such as documents
    that were deleted.
    """

    tokens: ResidualTokens
    ids: list[str] | None
    notes: tuple[str, ...] = ()
    texts: list[str] | None = None


class _Names(NamedTuple):
    """What a folder says of its documents. kept: which of them are there, a bool for each; None: all."""

    ids: list[str] | None = None
    kept: NDArray[np.bool_] | None = None
    texts: list[str] | None = None


class _Chunk(NamedTuple):
    """A run of documents: their lengths, and how to read what belongs to their tokens."""

    lengths: list[int]
    codes: Callable[[], NDArray[Any]]
    residuals: Callable[[], NDArray[Any]]
    residuals_file: Path  # at least as long as the residuals


def read_index(path: str | Path, *, ids: bool = True, progress: Progress | None = None) -> Imported:
    """A folder of any of them: colbert-ai's, where there are files of torch."""
    return (read_colbert if any(_folder(path).glob("*.pt")) else read_plaid)(path, ids=ids, progress=progress)


def taken(tokens: ResidualTokens, rows: NDArray[np.int64]) -> ResidualTokens:
    """The documents of these rows, in this order, copied unless that leaves every token where it is."""
    lengths = tokens.lengths[rows]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    if offsets[-1] == len(tokens.centroid_ids) and (np.diff(rows) > 0).all():
        return ResidualTokens(tokens.codec, tokens.centroid_ids, tokens.residuals, tokens.inverse_norms, offsets)
    at = np.repeat(tokens.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return ResidualTokens(tokens.codec, tokens.centroid_ids[at], tokens.residuals[at], tokens.inverse_norms[at], offsets)


def tokens_of(found: Imported, corpus: Corpus) -> tuple[ResidualTokens, tuple[str, ...]]:
    """(the tokens of a corpus's documents in its order, notes): by their ids, if these are the folder's; if none of them is, or the folder
    has no ids, the corpus is taken to be in the folder's order. Raises InputError for some of the ids, or more than those."""
    if len(corpus) == len(found.tokens) and (found.ids is None or found.ids == corpus.ids):
        return found.tokens, found.notes
    rows = {doc_id: row for row, doc_id in enumerate(found.ids or ())}
    known = sum(doc_id in rows for doc_id in corpus.ids)
    if len(corpus) != len(found.tokens) or 0 < known < len(corpus):
        got = f"{len(corpus)} documents, {known} of them with an id of the folder's {len(found.tokens)}"
        expected = "the folder's documents, all under its ids, or in its order under ids of your own"
        hint = "; ".join(found.notes)
        raise InputError("TokenIndex.import_folder: corpus", got=got, expected=expected, hint=f"Of the folder: {hint}." if hint else "")
    if not known:
        return found.tokens, (*found.notes, "the ids of the corpus are none of the folder's: taken in the folder's order")
    return taken(found.tokens, np.array([rows[doc_id] for doc_id in corpus.ids], np.int64)), found.notes


def read_colbert(path: str | Path, *, ids: bool = True, progress: Progress | None = None) -> Imported:
    """A folder that colbert-ai wrote (or PyLate with use_fast=False, or RAGatouille). Needs no torch.

    ids=False leaves the files of ids and texts alone. Raises FileFormatError (something is missing, damaged or does not fit) and
    UnsafeModelError (a pickle that is more than data; it has not run).
    """
    folder = _folder(path)
    metadata = _json(folder / "metadata.json", dict)
    buckets = read_torch(folder / "buckets.pt")
    if not isinstance(buckets, (tuple, list)) or len(buckets) != 2:
        raise damaged(folder / "buckets.pt", f"a {type(buckets).__name__}", "cutoffs and weights")
    codec = _codec(folder, read_torch(folder / "centroids.pt"), *buckets)
    config = metadata.get("config")
    for key, found in (("dim", codec.dim), ("nbits", codec.nbits)):
        if isinstance(config, dict) and config.get(key, found) != found:
            raise damaged(folder / "metadata.json", f"{key} {config[key]}", f"{found}, as the centroids and buckets have")

    def chunks() -> Iterator[_Chunk]:
        for i in range(_count(folder, metadata, "num_chunks")):
            codes, residuals = folder / f"{i}.codes.pt", folder / f"{i}.residuals.pt"
            yield _Chunk(_lengths(folder, i), _loader(codes), _loader(residuals), residuals)

    return _assemble(folder, codec, list(chunks()), folder if ids else None, metadata, progress)


def read_plaid(path: str | Path, *, ids: bool = True, progress: Progress | None = None) -> Imported:
    """A folder of fast-plaid, or PyLate's around it (which has the ids in a pickle beside `fast_plaid_index`).

    ids=False leaves PyLate's file of ids alone. Raises FileFormatError and UnsafeModelError, as read_colbert does.
    """
    folder = _folder(path)
    if (folder / "fast_plaid_index").is_dir():
        folder = folder / "fast_plaid_index"
    beside = folder.parent if folder.name == "fast_plaid_index" else folder
    metadata = _json(folder / "metadata.json", dict)
    centroids, cutoffs, weights = (read_npy(folder / f"{name}.npy") for name in ("centroids", "bucket_cutoffs", "bucket_weights"))
    codec = _codec(folder, centroids, cutoffs, weights)
    if metadata.get("nbits", codec.nbits) != codec.nbits:
        raise damaged(folder / "metadata.json", f"nbits {metadata['nbits']}", f"{codec.nbits}, as bucket_weights.npy has")
    chunks = list(_plaid_chunks(folder, _count(folder, metadata, "num_chunks")))
    return _assemble(folder, codec, chunks, beside if ids else None, metadata, progress)


def _plaid_chunks(folder: Path, count: int) -> Iterator[_Chunk]:
    """A chunk's own files where they are, else its part of the merged ones."""
    names = ("codes", "residuals")
    manifests = [_json(file, dict) if (file := folder / f"merged_{name}.manifest.json").is_file() else {} for name in names]
    starts = [0, 0]
    for i in range(count):
        lengths, loaders, files = _lengths(folder, i), [], []
        for place, (name, manifest) in enumerate(zip(names, manifests)):
            own, merged = folder / f"{i}.{name}.npy", folder / f"merged_{name}.npy"
            entry = manifest.get(own.name)
            rows = entry.get("rows") if isinstance(entry, dict) else sum(lengths)
            if type(rows) is not int or rows < 0:
                raise damaged(folder / f"merged_{name}.manifest.json", f"rows {rows!r}", "a number of rows")
            if own.is_file() or not merged.is_file():
                loaders.append(_loader(own))
                files.append(own)
            else:
                loaders.append(_loader(merged, starts[place], rows))
                files.append(merged)
            starts[place] += rows
        yield _Chunk(lengths, loaders[0], loaders[1], files[1])


def _assemble(
    folder: Path, codec: ResidualCodec, chunks: list[_Chunk], ids: Path | None, metadata: dict[str, Any], progress: Progress | None
) -> Imported:
    """ids: the folder of the ids, None to leave them alone."""
    needed = dict[Path, int]()
    for i, chunk in enumerate(chunks):  # before anything of that size is allocated
        file = chunk.residuals_file
        needed[file] = needed.get(file, 0) + sum(chunk.lengths) * codec.bytes_per_token
        if (size := _size(file)) < needed[file]:
            raise damaged(file, f"{size} bytes", f"{needed[file]} at least, for the tokens that doclens.{i}.json counts")
    lengths = np.array([length for chunk in chunks for length in chunk.lengths], np.int64)
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    total = int(offsets[-1])
    counted = metadata.get("num_embeddings")  # colbert-ai's updates count wrong
    notes = [f"metadata.json counts {counted} tokens, the chunks hold {total}"] if type(counted) is int and counted != total else []
    names = _names(ids, lengths, notes) if ids is not None else _Names()
    numbers, packed = np.empty(total, codec.id_dtype), np.empty((total, codec.bytes_per_token), np.uint8)
    at = 0
    for i, chunk in enumerate(chunks):
        rows = slice(at, at + sum(chunk.lengths))
        codes, residuals = chunk.codes(), chunk.residuals()
        expected = (rows.stop - at, codec.bytes_per_token)
        if residuals.shape != expected or residuals.dtype != np.uint8 or codes.shape != expected[:1] or codes.dtype.kind not in "iu":
            got = f"codes {codes.dtype} {list(codes.shape)} and residuals {residuals.dtype} {list(residuals.shape)} in chunk {i}"
            raise damaged(folder, got, f"integers [{expected[0]}] and uint8 {list(expected)}")
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < len(codec.centroids):
            raise damaged(folder, f"codes from {codes.min()} to {codes.max()} in chunk {i}", f"0 to {len(codec.centroids) - 1}")
        numbers[rows], packed[rows] = codes, residuals
        at = rows.stop
    tokens = ResidualTokens(codec, numbers, packed, codec.inverse_norms(numbers, packed, progress=progress), offsets)
    if names.kept is not None:
        tokens = taken(tokens, np.flatnonzero(names.kept))
    return Imported(tokens, names.ids, tuple(notes), names.texts)


def _names(folder: Path, lengths: NDArray[np.int64], notes: list[str]) -> _Names:
    if (file := folder / _IDS).is_file():
        return _pylate_names(file, lengths, notes)
    if (file := folder / _PASSAGES).is_file():
        return _ragatouille_names(file, lengths, notes)
    if (other := next(folder.glob("*.sqlite"), None)) is not None:
        notes.append(f"{other.name} is not read: the documents are numbered")
    return _Names()


def _pylate_names(path: Path, lengths: NDArray[np.int64], notes: list[str]) -> _Names:
    found = read_pickle_of_values(path)
    if not isinstance(found, dict) or not all(type(key) is int and type(value) in (int, str) for key, value in found.items()):
        raise damaged(path, f"a {type(found).__name__}", "a dict from number to id")
    kept = _kept(path, found, lengths, notes)
    last = {found[row]: row for row in sorted(found)}  # an id that was added again: PyLate itself deletes the last one alone
    if len(last) < len(found):
        notes.append(f"{len(found) - len(last)} documents are left out whose ids were added again later")
        kept[:] = False
        kept[list(last.values())] = True
    ids = [str(found[row]) for row in np.flatnonzero(kept).tolist()]
    return _Names(_distinct(path, ids), None if kept.all() else kept)


def _ragatouille_names(path: Path, lengths: NDArray[np.int64], notes: list[str]) -> _Names:
    read = _json(path, dict)
    if not all(re.fullmatch(r"[0-9]{1,18}", key) and type(value) in (int, str) for key, value in read.items()):
        raise damaged(path, "entries of another kind", "an object from number to id")
    found = {int(key): str(value) for key, value in read.items()}
    kept = _kept(path, found, lengths, notes)
    rows, counts, seen = np.flatnonzero(kept).tolist(), Counter(found.values()), Counter[str]()
    ids = []
    for document in (found[row] for row in rows):
        ids.append(document if counts[document] == 1 else f"{document}#{seen[document]}")
        seen[document] += 1
    if len(counts) < len(ids):
        notes.append("passages of one document are named `document#0`, `document#1`, and so on")
    texts, file = None, path.with_name(_TEXTS)
    if not kept.all():  # RAGatouille takes deleted passages out of the texts without numbering the others again
        notes.append(f"{_TEXTS} is not read, since passages were deleted: texts are empty")
    elif file.is_file():
        texts = _json(file, list)
        if len(texts) != len(lengths) or not all(type(text) is str for text in texts):
            raise damaged(file, f"{len(texts)} entries", f"{len(lengths)} texts, one for each passage")
    return _Names(_distinct(path, ids), None if kept.all() else kept, texts)


def _kept(path: Path, found: Collection[int], lengths: NDArray[np.int64], notes: list[str]) -> NDArray[np.bool_]:
    """Which documents have an id; those that have none have been deleted, and have no tokens."""
    kept = np.zeros(len(lengths), bool)
    if wrong := [key for key in found if not 0 <= key < len(lengths)]:
        raise damaged(path, f"the number {wrong[0]} among others", f"numbers below {len(lengths)}, that of the documents")
    kept[list(found)] = True
    if (lengths[~kept] > 0).any():
        raise damaged(path, f"{len(found)} ids", f"one for each of the {len(lengths)} documents that has tokens")
    if not kept.all():
        notes.append(f"{int((~kept).sum())} deleted documents are left out")
    return kept


def _distinct(path: Path, ids: list[str]) -> list[str]:
    if len(set(ids)) < len(ids):
        twice, _ = Counter(ids).most_common(1)[0]
        raise damaged(path, f"the id '{twice}' of two documents", "every id once, also where numbers and strings read the same")
    return ids


def _codec(folder: Path, centroids: Any, cutoffs: Any, weights: Any) -> ResidualCodec:
    if not all(isinstance(array, np.ndarray) and array.dtype.kind == "f" for array in (centroids, cutoffs, weights)):
        raise damaged(folder, "centroids or buckets that are no floats", "float16 or float32")
    try:
        return ResidualCodec(centroids, cutoffs, weights)
    except InputError as error:
        raise FileFormatError(str(folder), got=str(error), expected="a residual codec") from error


def _loader(path: Path, start: int = 0, rows: int | None = None) -> Callable[[], NDArray[Any]]:
    def load() -> NDArray[Any]:
        found = read_torch(path) if path.suffix == ".pt" else read_npy(path, start, rows)
        if not isinstance(found, np.ndarray):
            raise damaged(path, f"a {type(found).__name__}", "a tensor")
        return found

    return load


def read_npy(path: Path, start: int = 0, rows: int | None = None) -> NDArray[Any]:
    """The array of a .npy file, or some of its rows; never a pickle. Raises FileFormatError."""
    try:
        with open(plain(path), "rb") as file:
            magic, version, size = struct.unpack("<6sHH", file.read(10))
            header = _HEADER.fullmatch(file.read(size))
            if magic != b"\x93NUMPY" or version != 1 or not header:
                raise ValueError("another format, or no array of numbers by rows")
            dtype = np.dtype(header[1].decode())
            shape = tuple(int(n) for n in header[2].split(b",") if n.strip())
            left = path.stat().st_size - file.tell()
            if math.prod(shape) * dtype.itemsize > left:
                raise ValueError(f"{left} bytes for {dtype} {list(shape)}")
            if rows is not None:
                if not shape or start + rows > shape[0]:
                    raise ValueError(f"{list(shape)} where rows {start} to {start + rows} are needed")
                file.seek(start * math.prod(shape[1:]) * dtype.itemsize, 1)
                shape = (rows, *shape[1:])
            return np.fromfile(file, dtype, math.prod(shape)).reshape(shape)
    except (OSError, ValueError, TypeError, OverflowError, MemoryError, struct.error) as error:
        raise damaged(path, str(error), "a .npy file of numbers") from error


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    try:
        if not (folder / "metadata.json").is_file() and not (folder / "fast_plaid_index").is_dir():
            raise FileFormatError(str(path), got="no metadata.json in it", expected="the folder of an index")
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise FileFormatError(str(path), got=str(error), expected="the folder of an index") from error
    return folder


def _json(path: Path, kind: type) -> Any:
    try:
        found = json.loads(plain(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, str(error), "a JSON file") from error
    if not isinstance(found, kind):
        raise damaged(path, f"a {type(found).__name__}", f"a {kind.__name__}")
    return found


def _count(folder: Path, metadata: dict[str, Any], key: str) -> int:
    value = metadata.get(key)
    if type(value) is not int or value < 0:
        raise damaged(folder / "metadata.json", f"{key} {value!r}", "a number of at least 0")
    return value


def _lengths(folder: Path, chunk: int) -> list[int]:
    path = folder / f"doclens.{chunk}.json"
    lengths: list[int] = _json(path, list)
    if not all(type(length) is int and 0 <= length < 1 << 31 for length in lengths):
        raise damaged(path, "lengths that are none", "numbers of tokens")
    return lengths


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise damaged(path, str(error), "a file of residuals") from error
