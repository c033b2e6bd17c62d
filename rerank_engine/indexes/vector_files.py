"""The file of a VectorIndex: kept vectors, faiss's bytes, what the encoder cut off, the documents."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpus import Corpus
from ..errors import FileFormatError
from ..ops.inner import Vectors
from .documents import StoredCorpus, problem_of, write_documents
from .files import Stored, Writer, open_file
from .token_members import reading
from .vector_exact import blocks
from .vector_faiss import KINDS, SETTINGS, Approximate

KIND = "vector-index"
METRICS = ("inner product", "cosine")
KEPT = ("float32", "float16")


@dataclass(frozen=True, eq=False)
class Parts:
    """What an index is made of. vectors: float32 or float16 [n, dim], or None where only faiss has them; truncated int32 [n]; given_dim:
    of the vectors before they were cut to dim; made_by: see token_build.maker_of; verify: see files.Stored."""

    corpus: Corpus
    vectors: Vectors | None
    truncated: NDArray[np.int32]
    metric: str
    dim: int
    given_dim: int
    made_by: Mapping[str, str] | None
    approximate: Approximate | None
    verify: Callable[[], None] | None = None


def write(path: Path, parts: Parts, vectors: Iterable[Vectors] | None, dtype: str | None) -> None:
    """vectors: pieces of `dtype` that follow one another, in place of parts.vectors; None: none are kept."""
    with Writer(path, KIND) as file:
        file.meta = {name: getattr(parts, name) for name in ("metric", "dim", "given_dim")}
        file.meta |= {"encoder": parts.made_by, "keep": dtype, "kind": "exact"}
        if vectors is not None:
            file.add("vectors", dtype, vectors)
        if parts.approximate is not None:
            data = parts.approximate.to_bytes()
            file.add("faiss", np.uint8, [data])
            file.meta |= {"kind": parts.approximate.kind, "built": dict(parts.approximate.built), "faiss_crc32": zlib.crc32(data.data)}
        file.add("truncated", np.int32, [parts.truncated])
        write_documents(file, parts.corpus)


def read(path: Path, *, verify: bool = False, in_memory: bool = False) -> Parts:
    """Raises FileFormatError for what contradicts itself, MissingDependency for faiss's bytes without faiss."""
    stored = open_file(path, KIND, verify=verify, in_memory=in_memory)
    with reading(path):
        return _parts(path, stored)


def _parts(path: Path, stored: Stored) -> Parts:
    meta, sections = stored.meta, stored.sections
    metric, dim, given, keep, kind, made_by = (meta[name] for name in ("metric", "dim", "given_dim", "keep", "kind", "encoder"))
    if metric not in METRICS or type(dim) is not int or type(given) is not int or not 1 <= dim <= given:
        raise ValueError(f"{metric!r} of dimension {dim!r} of {given!r}")
    if kind not in ("exact", *KINDS) or keep not in (None, *KEPT) or (kind == "exact" and keep is None):
        raise ValueError(f"kind {kind!r} with vectors {keep!r}")
    if made_by is not None and not all(type(made_by[key]) is str for key in ("model", "fingerprint")):
        raise TypeError("an encoder that is none")
    corpus, truncated, vectors = StoredCorpus(sections, str(path)), sections["truncated"], None
    n = len(corpus)
    if n < 1 or truncated.dtype != np.int32 or len(truncated) != n:
        raise ValueError(f"{n} documents with {len(truncated)} counts of what was cut off")
    if keep is not None:
        flat = sections["vectors"]
        if flat.dtype != keep or len(flat) != n * dim:
            raise ValueError(f"{len(flat)} {flat.dtype} for {n} vectors of dimension {dim}")
        vectors = flat.reshape(n, dim)
    approximate = None if kind == "exact" else _approximate(path, sections["faiss"], meta, dim, n)
    return Parts(corpus, vectors, truncated, metric, dim, given, made_by, approximate, stored.verify)


def _approximate(path: Path, section: NDArray[Any], meta: Mapping[str, Any], dim: int, n: int) -> Approximate:
    """faiss's reader believes what it reads, so it gets a copy in memory whose checksum was found right, never the file. That keeps damage
    out, not malice: who can write the file can write its checksum."""
    kind, built = meta["kind"], dict(meta["built"])
    if section.dtype != np.uint8 or set(built) != set(SETTINGS[kind]) or not all(type(number) is int for number in built.values()):
        raise ValueError(f"settings {built!r} of kind {kind!r}")
    data = section.copy()
    if zlib.crc32(data.data) != meta["faiss_crc32"]:
        got, hint = "a damaged file: the checksum of faiss's bytes is wrong", "Build it again."
        raise FileFormatError(str(path), got=got, expected="an index file as it was written", hint=hint)
    return Approximate.from_bytes(kind, data, built, dim, n, str(path))


def check(path: Path, parts: Parts) -> None:
    """Looks at every number and document. Raises FileFormatError."""
    problem = ""
    if (parts.truncated < 0).any():
        problem = "documents that lost less than no token"
    elif parts.vectors is not None and not all(np.isfinite(block).all() for block in blocks(parts.vectors)):
        problem = "vectors that are not finite"
    problem = problem or problem_of(parts.corpus)
    if problem:
        raise FileFormatError(str(path), got=f"a damaged index: {problem}", expected="an index as it was written", hint="Build it again.")
