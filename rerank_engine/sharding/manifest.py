"""The files of a sharded collection: a folder with an index for each range of documents, and `shards.json`, which says their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..corpus import Corpus
from ..errors import FileFormatError, InputError
from ..indexes import VectorIndex
from ..indexes.segmented import SegmentedIndex, without
from ..ops.checks import count
from ..progress import Progress
from ..stored import read_json, write_json
from .shard import OPEN, Index, kind_of

FILE, KIND = "shards.json", "rerank-engine shards"


@dataclass(frozen=True, slots=True)
class Place:
    """Of a shard: its file or folder, the row of the collection that its first one is, how many it has."""

    path: str
    base: int
    rows: int


def split(index: Index, folder: str | Path, shards: int, *, progress: Progress | None = None) -> Path:
    """Writes an index as so many shards of equal ranges of its documents, in their order, into a new folder. Deleted documents are left
    out. progress(done, shards).

    Raises InputError: more shards than documents, a folder that is not empty, a vector index of faiss (build one a shard, and `join` them).
    """
    kind, shards, target = kind_of(index), count("split: shards", shards), Path(folder)
    if shards > len(index.corpus):
        raise InputError("split: shards", got=shards, expected=f"at most {len(index.corpus)}, the documents")
    if isinstance(index, VectorIndex) and index.kind != "exact":
        raise InputError(
            "split", got=f"a vector index of kind '{index.kind}'", expected="kind 'exact'", hint="Build one a shard; `join` them."
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"folder {target}", got="something that is there already", expected="a new or empty folder")
    target.mkdir(parents=True, exist_ok=True)
    frozen: Any = index if isinstance(index, VectorIndex) else index.snapshot()
    if isinstance(frozen, SegmentedIndex):
        live = [row for member, base in _bases(frozen) for row in (np.flatnonzero(~member.dead) + base if member.dead is not None
                else np.arange(base, base + member.n_rows)).tolist()]  # fmt: skip
    else:
        live = list(range(len(frozen.corpus)))
    edges, files = np.linspace(0, len(live), shards + 1).astype(int).tolist(), list[str]()
    for number, (start, end) in enumerate(pairwise(edges)):
        files.append(f"shard-{number:05d}.index")
        _part(frozen, live[start:end], live).save(target / files[-1])
        if progress:
            progress(number + 1, shards)
    _write(target, kind, files, [end - start for start, end in pairwise(edges)])
    return target


def _bases(index: Any) -> list[tuple[Any, int]]:
    out, base = [], 0
    for member in index._members:
        out.append((member, base))
        base += member.n_rows
    return out


def _part(index: Any, rows: Sequence[int], live: Sequence[int]) -> Any:
    """An index of these rows alone, which follow one another among the live ones."""
    if isinstance(index, VectorIndex):
        parts, own = index._parts, slice(rows[0], rows[-1] + 1)
        corpus = Corpus(parts.corpus[row] for row in rows)
        kept = None if parts.vectors is None else parts.vectors[own]
        return VectorIndex._of(replace(parts, corpus=corpus, vectors=kept, truncated=parts.truncated[own]))
    made = index.snapshot()
    made._set(without(made._members, [row for row in live if not rows[0] <= row <= rows[-1]]))
    return made


def join(folder: str | Path, files: Sequence[str], *, kind: str) -> Path:
    """Makes one collection of indexes that lie in a folder, in this order: writes its manifest. kind: "bm25", "vectors" or "tokens".

    An id may be in one of them alone; those of tokens in residual codes share a codec. Raises InputError, and what opening them raises.
    """
    if kind not in OPEN:
        raise InputError("join: kind", got=repr(kind), expected=", ".join(OPEN))
    if isinstance(files, str) or not files:
        raise InputError("join: files", got=repr(files), expected="the names of one file at least")
    sizes = [len(OPEN[kind](Path(folder) / name).corpus) for name in files]
    _write(Path(folder), kind, files, sizes)
    return Path(folder)


def _write(folder: Path, kind: str, files: Sequence[str], rows: Sequence[int]) -> None:
    listed = [{"file": name, "rows": n} for name, n in zip(files, rows)]
    write_json(folder / FILE, {"kind": KIND, "index": kind, "shards": listed})


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
            name, rows = entry["file"], entry["rows"]
            if type(name) is not str or type(rows) is not int or rows < 1 or Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"the shard {entry!r}")
            out.append(Place(str((Path(folder) / name).absolute()), base, rows))
            base += rows
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(str(path), got=f"a damaged manifest ({error})", expected="one as `split` writes it") from error
    return kind, out
