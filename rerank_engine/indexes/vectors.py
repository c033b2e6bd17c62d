"""Document vectors, one a row: searched exactly, or by faiss."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..corpus import Corpus, require_documents
from ..errors import InputError
from ..ops import checks
from ..ops.topk import Hits, topk
from ..progress import Progress
from . import vector_exact, vector_files
from .files import require_sound
from .token_build import maker_of, require_maker
from .vector_build import AUTO, Journal, counts_of, cut_to, encoded, made, prepared, require, writable
from .vector_encoder import TextEncoder, normalizes, require_encoder
from .vector_exact import best_of, blocks, products, stored
from .vector_faiss import FETCH, KINDS, Approximate, Asked
from .vector_files import METRICS, Parts


class VectorIndex:
    """Search over the vectors of a corpus: the k largest inner products, or cosines.

        VectorIndex(corpus, vectors)                      exact, in memory
        VectorIndex.build(corpus, encoder, kind=...)      in memory; build(..., path=path) streams into a file, and goes on after a kill
        VectorIndex.open(path)                            a file: kept vectors are mapped

    kind: "exact" (every document is scored; the reference), and of faiss "flat" (the same answer), "ivf" (inverted lists), "hnsw" (a
    graph), "sq8" (a byte a dimension), "pq" (product codes) and "ivfpq". "auto": exact up to 65,536 documents and where faiss is not
    installed; hnsw beyond.

    keep: what vectors it keeps beside faiss's own: "float32", "float16", or None. What faiss finds is scored again by them, so that scores
    and ties are those of kind "exact" over what is kept; without them scores are faiss's, of compressed kinds approximate (`scores_exact`).
    metric "cosine": vectors and queries are brought to unit length here. dim: only the first numbers of each vector and query (Matryoshka);
    the cosine is then one of what is left. made_by: {"model", "fingerprint"} of the encoder, where that says what it is; None fits any
    encoder. truncated_tokens int32 [n]: what the encoder cut off each document, where it is known.
    """

    def __init__(
        self,
        corpus: Corpus,
        vectors: ArrayLike,
        truncated_tokens: NDArray[np.int32] | None = None,
        *,
        metric: str = "inner product",
        dim: int | None = None,
    ) -> None:
        require_documents("VectorIndex", corpus)
        checks.one_of("VectorIndex: metric", metric, METRICS)
        given = checks.floats("VectorIndex: vectors", vectors, 2)
        if len(given) != len(corpus):
            raise InputError("VectorIndex: vectors", got=f"{len(given)} vectors", expected=f"one for each of the {len(corpus)} documents")
        if not given.shape[1]:
            raise InputError("VectorIndex: vectors", got="dimension 0", expected="at least 1")
        width, cut = cut_to(dim, given.shape[1]), counts_of(truncated_tokens, len(corpus))
        self._set(Parts(corpus, prepared(given, width, metric), cut, metric, width, given.shape[1], None, None))

    @classmethod
    def _of(cls, parts: Parts) -> VectorIndex:
        made = object.__new__(cls)
        made._set(parts)
        return made

    def _set(self, parts: Parts) -> None:
        self._parts, self._asked, self._length = parts, Asked(), list[float]()
        self.corpus, self.truncated_tokens, self.made_by = parts.corpus, parts.truncated, parts.made_by

    # Making one

    @classmethod
    def build(
        cls,
        corpus: Corpus,
        encoder: TextEncoder,
        *,
        kind: str = "auto",
        metric: str | None = None,
        dim: int | None = None,
        keep: str | None = "float32",
        path: str | Path | None = None,
        resume: bool = True,
        threads: int | None = None,
        progress: Progress | None = None,
        **settings: int,
    ) -> VectorIndex:
        """Encodes every passage (title and text), 256 at a time. encoder: see TextEncoder. progress(done, total) counts documents.

        metric: None: the cosine where dim cuts vectors of an encoder that normalizes, else the inner product. path: write the index there
        and open it. Encoded batches lie in PATH.partial until it is whole: memory stays bounded (but for faiss's own index), and a build
        that was killed loses one batch at most. Another build of the same corpus with the same encoder goes on, whatever the kind; an
        unfinished build of another corpus, encoder or version is refused, and resume=False starts over, as an encoder does that tells no
        fingerprint. threads, settings: of faiss, see `from_vectors`. Raises InputError, NonFiniteError, MissingDependency.
        """
        what = "VectorIndex.build"
        require_documents(what, corpus)
        require_encoder(what, encoder)
        usual = "cosine" if dim is not None and normalizes(encoder) else "inner product"
        metric = usual if metric is None else metric
        kind = require(kind, metric, keep, len(corpus), dim, settings)
        if path is None:
            vectors, cut = map(np.concatenate, zip(*encoded(encoder, corpus, progress=progress)))
            options: Any = {"kind": kind, "metric": metric, "dim": dim, "keep": keep, "threads": threads, **settings}
            return cls.from_vectors(corpus, vectors, cut, encoder=encoder, **options)
        place, maker = writable(path, corpus), maker_of(encoder)  # type: ignore[arg-type]
        key = {"documents": len(corpus), "corpus": corpus.sha256, "encoder": maker and maker["fingerprint"]}
        with Journal(place, key, fresh=not resume) as journal:
            for vectors, cut in encoded(encoder, corpus, done=journal.rows, dim=journal.dim, progress=progress):
                cut_to(dim, vectors.shape[1])
                journal.append(vectors, cut)
            width = cut_to(dim, journal.dim)

            def ready() -> Iterator[NDArray[np.float32]]:
                return (prepared(batch, width, metric) for batch in journal.batches())

            found = made(kind, ready, len(corpus), width, settings, threads)
            parts = Parts(corpus, None, journal.truncated(), metric, width, journal.dim, maker, found)
            vector_files.write(place, parts, None if keep is None else (stored(batch, keep) for batch in ready()), keep)
        return cls.open(place)

    @classmethod
    def from_vectors(
        cls,
        corpus: Corpus,
        vectors: ArrayLike,
        truncated_tokens: NDArray[np.int32] | None = None,
        *,
        kind: str = "auto",
        metric: str = "inner product",
        dim: int | None = None,
        keep: str | None = "float32",
        threads: int | None = None,
        encoder: Any = None,
        **settings: int,
    ) -> VectorIndex:
        """From float [n, given dim], one row a document. encoder: what made them, to be told by.

        settings: nlist (lists of ivf and ivfpq; default 4 sqrt(n), with 39 vectors a list at least), links and ef_construction (of hnsw; 32
        and 200), code_bytes (a vector, of pq and ivfpq, a divisor of dim; the largest up to dim / 4). threads: of faiss; None: 1 for hnsw,
        whose links depend on chance with more, else what this process may use. Raises InputError, NonFiniteError, MissingDependency.
        """
        kind = require(kind, metric, keep, len(corpus), dim, settings)
        exact = cls(corpus, vectors, truncated_tokens, metric=metric, dim=dim)._parts
        whole: Any = exact.vectors
        found = made(kind, partial(blocks, whole), len(corpus), exact.dim, settings, threads)
        kept = None if keep is None else stored(whole, keep)
        return cls._of(replace(exact, vectors=kept, made_by=maker_of(encoder), approximate=found))

    @classmethod
    def open(cls, path: str | Path, *, in_memory: bool = False, verify: bool = False) -> VectorIndex:
        """Maps kept vectors; faiss's index is read once its checksum was found right. in_memory: reads the file instead of mapping it.
        verify: checks every byte first.

        faiss's reader believes what it reads, and a checksum finds damage, not a file made to deceive: open kinds of faiss from those whom
        you trust. Raises FileFormatError for what is no vector index or is damaged, MissingDependency.
        """
        return cls._of(vector_files.read(Path(path), verify=verify, in_memory=in_memory))

    def save(self, path: str | Path) -> None:
        """One file, whole or not at all. Raises InputError, FileFormatError (what it was opened from is damaged)."""
        place, parts = writable(path, self.corpus), replace(self._parts, made_by=self.made_by)
        require_sound([parts])
        kept = parts.vectors
        vector_files.write(place, parts, None if kept is None else [kept], None if kept is None else kept.dtype.name)

    @classmethod
    def check(cls, path: str | Path, progress: Progress | None = None) -> dict[str, Any]:
        """Reads every byte of a file and looks at every number. {"path", "documents", "dim", "kind", "metric", "keep", "bytes"}; raises
        FileFormatError for the first thing that is wrong."""
        path = Path(path)
        index = cls._of(vector_files.read(path, verify=True))
        vector_files.check(path, index._parts)
        if progress:
            progress(1, 1)
        return {"path": str(path), "documents": len(index.corpus), "dim": index.dim, "kind": index.kind, "metric": index.metric,
                "keep": index.keep, "bytes": path.stat().st_size}  # fmt: skip

    # What is in it

    @property
    def dim(self) -> int:
        return self._parts.dim

    @property
    def given_dim(self) -> int:
        """The dimension of vectors as the encoder gives them, of which the first `dim` numbers are used."""
        return self._parts.given_dim

    @property
    def metric(self) -> str:
        return self._parts.metric

    @property
    def kind(self) -> str:
        return "exact" if self._parts.approximate is None else self._parts.approximate.kind

    @property
    def keep(self) -> str | None:
        return None if self._parts.vectors is None else self._parts.vectors.dtype.name

    @property
    def vectors(self) -> NDArray[Any]:
        """float32 or float16 [n, dim], one a row of the corpus. Raises InputError where none are kept."""
        self.require_vectors("VectorIndex.vectors")
        assert self._parts.vectors is not None
        return self._parts.vectors

    def vectors_of(self, rows: ArrayLike) -> NDArray[np.float32]:
        """float32 [m, dim] of rows int64 [m], each from 0 on. Raises InputError, also where none are kept."""
        vectors, places = self.vectors, checks.integers("VectorIndex.vectors_of: rows", rows)
        if len(places) and not 0 <= places.min() <= places.max() < len(vectors):
            got = f"rows from {places.min()} to {places.max()}"
            raise InputError("VectorIndex.vectors_of", got=got, expected=f"rows from 0 to {len(vectors) - 1}")
        found: NDArray[np.float32] = vectors[places].astype(np.float32, copy=False)
        return found

    def require_vectors(self, what: str) -> None:
        """Raises InputError for an index of keep=None, in the name of what needs its vectors."""
        if self.keep is None:
            hint = "Build it with keep='float16', half the bytes of the default."
            raise InputError(what, got="an index of keep=None", expected="one that keeps its vectors", hint=hint)

    @property
    def scores_exact(self) -> bool:
        """Whether scores are inner products of the vectors that it was given, but for rounding (and for float16, where that is kept)."""
        return self.kind in ("exact", "flat", "ivf", "hnsw") or self._fetch > 0

    @property
    def scale(self) -> str:
        """What scores are: the metric; "approximate ..." where they come from faiss's codes."""
        return self.metric if self.scores_exact else f"approximate {self.metric}"

    def require_encoder(self, what: str, encoder: Any) -> None:
        """Raises InputError for an encoder of another dimension or fingerprint than the index was made with, as far as both say."""
        require_maker(what, self.made_by, self.given_dim, encoder)

    # Searching

    def with_search(self, *, nprobe: int | None = None, ef: int | None = None, rescore: int | None = None) -> VectorIndex:
        """The same index, searched otherwise. nprobe: lists that are looked at (ivf, ivfpq); ef: documents kept while the graph is walked
        (hnsw), k at least; rescore: candidates fetched for each document asked for, to be scored again by kept vectors; 0: faiss's scores.

        Defaults are in `effort`; they grow with k and with what a filter leaves out. rescore: 1 for flat, ivf and hnsw, 2 for sq8, 4 for pq
        and ivfpq; 0 where no vectors are kept. Raises InputError.
        """
        for name, value, kinds in (("nprobe", nprobe, ("ivf", "ivfpq")), ("ef", ef, ("hnsw",)), ("rescore", rescore or None, KINDS)):
            if value is not None and self.kind not in kinds:
                raise InputError(f"VectorIndex: {name}", got=f"an index of kind '{self.kind}'", expected="one of " + ", ".join(kinds))
            if value is not None:
                checks.count(f"VectorIndex: {name}", value)
        if rescore:
            self.require_vectors("VectorIndex: rescore")
        made = copy.copy(self)
        made._asked = Asked(nprobe, ef, rescore)
        return made

    @property
    def _fetch(self) -> int:
        if self.kind == "exact" or self.keep is None:
            return 0
        return FETCH[self.kind] if self._asked.rescore is None else self._asked.rescore

    def effort(self, k: int) -> dict[str, int]:
        """What a search for k documents without a filter does: {"nprobe" | "ef", "rescore"}; empty for kind "exact"."""
        approximate, k = self._parts.approximate, checks.count("VectorIndex.effort: k", k)
        if approximate is None:
            return {}
        return {**approximate.effort(min(k, approximate.n), self._asked, fetch=max(self._fetch, 1)), "rescore": self._fetch}

    def prepared(self, vectors: ArrayLike) -> NDArray[np.float32]:
        """Vectors of queries float [q, given dim] or [q, dim], as they are compared: cut, and of unit length for the cosine."""
        q = checks.floats("VectorIndex.search: queries", vectors, 2)
        if q.shape[1] not in (self.dim, self.given_dim):
            expected = f"{self.given_dim}, as the documents have"
            raise InputError("VectorIndex.search: queries", got=f"dimension {q.shape[1]}", expected=expected)
        return prepared(q, self.dim, self.metric)

    def search(
        self, queries: ArrayLike, k: int, *, filters: Sequence[NDArray[np.bool_] | None] | None = None, threads: int | None = None
    ) -> list[Hits]:
        """queries float [q, given dim]; per query (rows int64 [m], scores float32 [m]), score descending, then row ascending; m =
        min(k, n), or less where an approximate kind finds less.

        filters: per query a bool for each row that tells which may be found, or None for all; where kept vectors allow it, few are scored
        exactly. threads: None for what this process may use. A query's answer depends neither on the batch nor on threads. Raises
        InputError, NonFiniteError (products beyond float32).
        """
        return self.search_reached(queries, k, filters=filters, threads=threads)[0]

    def search_reached(
        self, queries: ArrayLike, k: int, *, filters: Sequence[NDArray[np.bool_] | None] | None = None, threads: int | None = None
    ) -> tuple[list[Hits], list[int]]:
        """`search`, and how many rows each query got to before the deadline of `rr.limited`, of which its hits are: all that it may find,
        but where time was short. A search by faiss that has begun is finished, so that it is all or none."""
        q, k = self.prepared(queries), checks.count("VectorIndex.search: k", k)
        rows, approximate = self._allowed(filters, len(q)), self._parts.approximate
        if approximate is None:
            return vector_exact.search(self.vectors, q, k, rows, threads)
        free, none = [i for i, chosen in enumerate(rows) if chosen is None], (topk(np.empty(0, np.float32), 1), 0)
        out = dict.fromkeys(range(len(q)), none)
        for places in ([free] if free else []) + [[i] for i, chosen in enumerate(rows) if chosen is not None]:
            out |= zip(places, zip(*self._approximately(approximate, q[places], k, rows[places[0]], threads, places)))
        return [hits for hits, _ in out.values()], [n for _, n in out.values()]

    def _approximately(
        self, approximate: Approximate, q: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None, threads: int | None,
        names: Sequence[int],
    ) -> tuple[list[Hits], list[int]]:  # fmt: skip
        """Of queries with the same rows; of the first ones that time allows. names: of the queries, for errors."""
        kept, fetch = self._parts.vectors, self._fetch
        if kept is None or not fetch:
            hits = approximate.search(q, k, rows, self._asked, threads)
            return hits, [approximate.n if rows is None else len(rows)] * len(hits)
        if rows is not None and len(rows) <= AUTO:
            return vector_exact.search(kept, q, k, [rows] * len(q), threads, names)
        room = vector_exact.rounding(q, kept, self._longest) if approximate.kind == "flat" else None
        found = approximate.candidates(q, k, fetch, rows, self._asked, threads, room)
        scores = [products(kept, query[None], near, threads)[0] for query, near in zip(q, found)]
        told = [len(own) if len(own) < len(near) else approximate.n if rows is None else len(rows) for own, near in zip(scores, found)]
        return [best_of(own, k, f"query {name}", near) for name, own, near in zip(names, scores, found)], told

    def _allowed(self, filters: Sequence[NDArray[np.bool_] | None] | None, n: int) -> list[NDArray[np.int64] | None]:
        masks = [None] * n if filters is None else list(filters)
        if len(masks) != n:
            raise InputError(
                "VectorIndex.search: filters", got=f"{len(masks)} filters", expected=f"one for each of the {n} queries, or None"
            )
        for mask in masks:
            if mask is not None and (np.shape(mask) != (len(self.corpus),) or np.asarray(mask).dtype != bool):
                got = f"{np.asarray(mask).dtype} {list(np.shape(mask))}"
                raise InputError("VectorIndex.search: filters", got=got, expected=f"a bool for each of the {len(self.corpus)} rows")
        return [None if mask is None else np.flatnonzero(mask) for mask in masks]

    def _longest(self) -> float:
        """Of kept vectors: computed when it is first asked for, and shared with what `with_search` made."""
        if not self._length:
            self._length.append(vector_exact.longest(self.vectors))
        return self._length[0]

    def to_gpu(self, device: int = 0) -> VectorIndex:
        """The same with faiss's index copied to a GPU once: flat, ivf and ivfpq, without filters. Not run: there was no faiss-gpu to run it
        with. Raises BackendUnavailable without faiss-gpu or that GPU, InputError for kind "exact"."""
        if self._parts.approximate is None:
            raise InputError("VectorIndex.to_gpu", got="kind 'exact'", expected="flat, ivf or ivfpq")
        made = copy.copy(self)
        made._parts = replace(self._parts, approximate=self._parts.approximate.to_gpu(device))
        return made

    def __repr__(self) -> str:
        told, approximate = [self.kind], self._parts.approximate
        if self.metric != "inner product":
            told.append(self.metric)
        if self.dim != self.given_dim:
            told.append(f"the first {self.dim} of {self.given_dim}")
        if approximate is not None:
            told += [f"{name} {value}" for name, value in (*approximate.built.items(), *self.effort(100).items())]
            told[-1] += " at k = 100"
            told += [f"keeps {self.keep or 'no vectors'}", *([] if approximate.device == "cpu" else [approximate.device])]
        elif self.keep != "float32":
            told.append(str(self.keep))
        if cut := int((self.truncated_tokens > 0).sum()):
            told.append(f"{cut} documents truncated")
        return f"VectorIndex({len(self.corpus)} x {self.dim}, {', '.join(told)})"
