"""The files of a sharded collection: a folder with an index for each range of documents, and `shards.json`, which says their order."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ..corpus import Corpus
from ..errors import DuplicateIdError, FileFormatError, InputError
from ..indexes import VectorIndex
from ..indexes.folder import content_of
from ..indexes.segmented import without
from ..ops.checks import count
from ..progress import Progress
from ..stored import read_json, write_json
from .shard import OPEN, Index, Shard, kind_of

FILE, KIND = "shards.json", "rerank-engine shards"


@dataclass(frozen=True, slots=True)
class Place:
    """Of a shard: its file or folder, the row of the collection that its first one is, how many it has; content, ids: hashes of what it
    holds and of its documents' ids in their order."""

    path: str
    base: int
    rows: int
    content: str
    ids: str


def split(index: Index, folder: str | Path, shards: int, *, progress: Progress | None = None) -> Path:
    """Writes an index as so many shards of equal ranges of its documents, in their order, into a new folder, which appears whole or not at
    all. Deleted documents are left out. progress(done, shards).

    Raises InputError: more shards than documents, a folder that is not empty, a vector index of faiss (build one a shard, and `join` them).
    """
    kind, shards, target = kind_of(index), count("split: shards", shards), Path(folder)
    if isinstance(index, VectorIndex) and index.kind != "exact":
        raise InputError(
            "split", got=f"a vector index of kind '{index.kind}'", expected="kind 'exact'", hint="Build one a shard; `join` them."
        )
    frozen: Any = index if isinstance(index, VectorIndex) else index.snapshot()
    live = _live(frozen)
    if shards > len(live):
        raise InputError("split: shards", got=shards, expected=f"at most {len(live)}, the documents")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"folder {target}", got="something that is there already", expected="a new or empty folder")
    edges = np.linspace(0, len(live), shards + 1).astype(int).tolist()
    names, scratch = [f"shard-{number:05d}.index" for number in range(shards)], target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        scratch.mkdir(parents=True)
        for number, (start, end) in enumerate(pairwise(edges)):
            _part(frozen, live[start:end], live).save(scratch / names[number])
            if progress:
                progress(number + 1, shards)
        join(scratch, names, kind=kind)
        if target.exists():
            target.rmdir()
        scratch.rename(target)
    except OSError as error:
        raise InputError(f"folder {target}", got=str(error), expected="a place that can be written") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _live(index: Any) -> NDArray[np.int64]:
    """int64: the rows that are not deleted."""
    if isinstance(index, VectorIndex):
        return np.arange(len(index.corpus))
    masks = [np.ones(member.n_rows, bool) if member.dead is None else ~member.dead for member in index._members]
    return np.flatnonzero(np.concatenate([np.empty(0, bool), *masks]))


def _part(index: Any, rows: NDArray[np.int64], live: NDArray[np.int64]) -> Any:
    """An index of these rows alone, which follow one another among the live ones."""
    if isinstance(index, VectorIndex):
        parts, own = index._parts, slice(int(rows[0]), int(rows[-1]) + 1)
        corpus = Corpus(parts.corpus[row] for row in rows.tolist())
        kept = None if parts.vectors is None else parts.vectors[own]
        return VectorIndex._of(replace(parts, corpus=corpus, vectors=kept, truncated=parts.truncated[own]))
    made = index.snapshot()
    made._set(without(made._members, live[(live < rows[0]) | (live > rows[-1])].tolist()))
    return made


def join(folder: str | Path, files: Sequence[str], *, kind: str) -> Path:
    """Makes one collection of indexes that lie in a folder, in this order: writes its manifest. kind: "bm25", "vectors" or "tokens".

    Again after a shard was written anew. Raises DuplicateIdError, InputError (names outside the folder, indexes of different settings, or,
    of tokens in residual codes, of different codecs), and what opening them raises.
    """
    if kind not in OPEN:
        raise InputError("join: kind", got=repr(kind), expected=", ".join(OPEN))
    if isinstance(files, str) or not files or not all(_inside(name) for name in files):
        raise InputError("join: files", got=repr(files), expected="names of files in the folder, one at least")
    shards, first, seen = list[dict[str, Any]](), None, list[tuple[Corpus, NDArray[np.uint64]]]()
    for name in files:
        shard = Shard(Path(folder) / name, kind=kind)
        made, corpus = shard.about()["made"], shard.index.corpus
        first = made if first is None else first
        if made != first or not len(corpus):
            got, expected = (f"{made}", f"{first}, as '{files[0]}'") if len(corpus) else ("no document", "one at least")
            raise InputError(f"join: '{name}'", got=got, expected=expected)
        whole, each = _hashes(corpus)
        shards.append({"file": name, "rows": len(corpus), "content": shard.content, "ids": whole})
        seen.append((corpus, each))
    _require_distinct(seen)
    write_json(Path(folder) / FILE, {"kind": KIND, "index": kind, "shards": shards})
    return Path(folder)


def _inside(name: object) -> bool:
    return isinstance(name, str) and bool(name) and not Path(name).is_absolute() and ".." not in Path(name).parts


def _hashes(corpus: Corpus) -> tuple[str, NDArray[np.uint64]]:
    """Of all ids in their order, and uint64 [n] of each."""
    whole, each = hashlib.blake2b(digest_size=16), bytearray()
    for row in range(len(corpus)):
        own = hashlib.blake2b(corpus.id_of(row).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        whole.update(own)
        each += own
    return whole.hexdigest(), np.frombuffer(bytes(each), np.uint64)


def _require_distinct(shards: Sequence[tuple[Corpus, NDArray[np.uint64]]]) -> None:
    """Raises DuplicateIdError for an id that is in two of them. Hashes that meet are looked at."""
    values, counts = np.unique(np.concatenate([each for _, each in shards]), return_counts=True)
    seen = dict[str, int]()
    for number, (corpus, each) in enumerate(shards):
        for row in np.flatnonzero(np.isin(each, values[counts > 1])).tolist():
            if (other := seen.setdefault(corpus.id_of(row), number)) != number:
                got = f"the id '{corpus.id_of(row)}' in files {other} and {number}"
                raise DuplicateIdError("join", got=got, expected="every id once")


def is_sharded(path: str | Path) -> bool:
    return (Path(path) / FILE).is_file()


def places(folder: str | Path) -> tuple[str, list[Place]]:
    """(kind of index, where each shard lies). Raises FileFormatError."""
    path = Path(folder) / FILE
    told, base, out = read_json(path, KIND), 0, list[Place]()
    try:
        kind = told["index"]
        if kind not in OPEN or not told["shards"]:
            raise ValueError(f"shards of {kind!r}")
        for entry in told["shards"]:
            name, rows, content, ids = (entry[key] for key in ("file", "rows", "content", "ids"))
            if not _inside(name) or type(rows) is not int or rows < 1 or not all(isinstance(one, str) for one in (content, ids)):
                raise ValueError(f"the shard {entry!r}")
            out.append(Place(str((Path(folder) / name).absolute()), base, rows, content, ids))
            base += rows
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(str(path), got=f"a damaged manifest ({error})", expected="one as `split` writes it") from error
    return kind, out


def require_unchanged(place: Place) -> None:
    """Raises FileFormatError for a shard that was written since its manifest was: its rows would be others."""
    if content_of(Path(place.path)) != place.content:
        hint = "Put the file back; where it was built anew on purpose, sharding.join writes the manifest again."
        raise FileFormatError(place.path, got="another content", expected=f"what {FILE} says", hint=hint)
