"""The approximate kinds of a VectorIndex: what faiss is asked for, and what it answers. The only file that knows faiss.

Source: Douze et al., The Faiss library (2024); HNSW: Malkov and Yashunin (2018); PQ: Jegou, Douze and Schmid (2011).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpus import resolve_threads
from ..errors import BackendUnavailable, FileFormatError, InputError, MissingDependency
from ..limits import limits, pieces
from ..ops import checks
from ..ops.topk import Hits, topk

KINDS = ("flat", "ivf", "hnsw", "pq", "ivfpq", "sq8")
# What each kind is built with, and the class of faiss that it is.
SETTINGS: dict[str, tuple[str, ...]] = {
    "flat": (),
    "ivf": ("nlist",),
    "hnsw": ("links", "ef_construction"),
    "pq": ("code_bytes",),
    "ivfpq": ("nlist", "code_bytes"),
    "sq8": (),
}
CLASSES = {"flat": "IndexFlatIP", "ivf": "IndexIVFFlat", "hnsw": "IndexHNSWFlat", "pq": "IndexIVFPQ", "ivfpq": "IndexIVFPQ",
           "sq8": "IndexScalarQuantizer"}  # fmt: skip
FETCH = {"flat": 1, "ivf": 1, "hnsw": 1, "sq8": 2, "pq": 4, "ivfpq": 4}  # candidates fetched for each that is asked for, to be scored again
Blocks = Callable[[], Iterable[NDArray[np.float32]]]
_WORDS = 256  # of a code of one byte
_TOGETHER = 16  # queries of a call: from 20 on, faiss multiplies matrices, whose sums depend on the batch
_GRAPH_EF, _LISTS_HOLD = 256, 24  # see `effort`
_SPARE = 16


def require_faiss() -> Any:
    """The module faiss. Raises MissingDependency."""
    try:
        import faiss
    except ModuleNotFoundError as error:
        if error.name != "faiss":  # it is there, and broken
            raise
        hint = "pip install 'rerank-engine[faiss]', or take kind='exact'."
        raise MissingDependency("VectorIndex", got="no faiss", expected="faiss, for every kind but 'exact'", hint=hint) from error
    return faiss


def has_faiss() -> bool:
    try:
        require_faiss()
    except MissingDependency:
        return False
    return True


@contextmanager
def threads_of(faiss: Any, threads: int | None) -> Iterator[None]:
    """faiss takes its threads from the calling thread's OpenMP setting: set inside, and put back."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(resolve_threads(threads))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def settings_of(kind: str, n: int, dim: int | None, given: Mapping[str, Any]) -> dict[str, int]:
    """What an index of n vectors is built with: as given, else nlist 4 sqrt(n) with 39 vectors a list at least, links 32,
    ef_construction 200, code_bytes the largest divisor of dim up to dim / 4. dim: None while it is not known. Raises InputError."""
    allowed = SETTINGS.get(kind, ())
    if unknown := sorted(set(given) - set(allowed)):
        expected = ", ".join(allowed) or "none"
        raise InputError(f"VectorIndex: settings of kind '{kind}'", got=", ".join(unknown), expected=expected)
    usual = {
        "nlist": max(1, min(round(4 * math.sqrt(n)), n // 39)),
        "links": 32,
        "ef_construction": 200,
        "code_bytes": max(m for m in range(1, max(1, (dim or 1) // 4) + 1) if not (dim or 1) % m),
    }
    chosen = {name: checks.count(f"VectorIndex: {name}", given.get(name, usual[name])) for name in allowed}
    if chosen.get("nlist", 1) > n:
        raise InputError("VectorIndex: nlist", got=chosen["nlist"], expected=f"at most {n}, the documents")
    if dim is not None and dim % chosen.get("code_bytes", 1):
        raise InputError("VectorIndex: code_bytes", got=chosen["code_bytes"], expected=f"a divisor of {dim}, the dimension")
    if "code_bytes" in chosen and n < _WORDS:
        got, hint = f"{n} documents for kind '{kind}'", "So few are searched exactly at once: kind='exact'."
        raise InputError("VectorIndex", got=got, expected=f"at least {_WORDS}, to learn codes from", hint=hint)
    return chosen


@dataclass(frozen=True, slots=True)
class Asked:
    """How a search goes, where the caller says so: lists that are looked at, documents kept while the graph is walked, candidates fetched
    for each that is asked for (0: faiss's own scores)."""

    nprobe: int | None = None
    ef: int | None = None
    rescore: int | None = None


@dataclass(frozen=True, eq=False)
class Approximate:
    """A faiss index of n vectors under inner products. built: what it was built with."""

    kind: str
    index: Any
    built: Mapping[str, int]
    dim: int
    n: int
    device: str = "cpu"

    @classmethod
    def build(cls, kind: str, blocks: Blocks, n: int, dim: int, built: Mapping[str, int], threads: int | None) -> Approximate:
        """blocks(): float32 [m, dim] in the order of rows, called twice: to learn from a sample, and to add all.

        threads: None: 1 for hnsw, whose links depend on chance with more; for other kinds what this process may use.
        """
        faiss = require_faiss()
        with threads_of(faiss, 1 if kind == "hnsw" and threads is None else threads):
            index = _empty(faiss, kind, dim, built)
            if not index.is_trained:
                index.train(_sample(blocks(), n, max(64 * built.get("nlist", 1), 1 << 16)))
            for block in blocks():
                index.add(np.ascontiguousarray(block))
        return cls(kind, index, built, dim, n)

    def effort(self, k: int, asked: Asked, share: float = 1.0, fetch: int = 1) -> dict[str, int]:
        """How much is looked at for the k best of a share of the documents: nprobe lists, or ef documents kept while the graph is walked.

        As asked, else ef = max(256, 2 k) / share, and as many lists as hold about 24 k / share documents, 2 sqrt(nlist) at least.
        """
        if self.kind == "hnsw":
            return {"ef": min(self.n, max(k * fetch, asked.ef or math.ceil(max(_GRAPH_EF, 2 * k) / share)))}
        if "nlist" in self.built:
            lists = self.built["nlist"]
            usual = max(2 * math.sqrt(lists), _LISTS_HOLD * k / share * lists / self.n)
            return {"nprobe": min(lists, asked.nprobe or math.ceil(usual))}
        return {}

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        rows: NDArray[np.int64] | None,
        asked: Asked,
        threads: int | None,
        *,
        fetch: int = 1,
        spare: int = 0,
    ) -> list[Hits]:
        """Per query up to fetch * k + spare documents among the rows (None: all) and faiss's scores, best first, ties by row; for the first
        queries alone, where the deadline of `limits()` comes before the others' turn. A call of faiss that has begun is finished."""
        faiss, out = require_faiss(), list[Hits]()
        most = self.n if rows is None else len(rows)
        if not most:
            return [topk(np.empty(0, np.float32), k) for _ in queries]
        parameters = self._parameters(faiss, self.effort(min(k, most), asked, most / self.n, fetch), rows)
        with threads_of(faiss, threads):
            for part in pieces(len(queries), 1, _TOGETHER):
                scores, ids = self.index.search(np.ascontiguousarray(queries[part]), min(fetch * k + spare, most), params=parameters)
                out += [topk(s[i >= 0], fetch * k + spare, ids=i[i >= 0]) for s, i in zip(scores, ids)]
        return out

    def candidates(
        self,
        queries: NDArray[np.float32],
        k: int,
        fetch: int,
        rows: NDArray[np.int64] | None,
        asked: Asked,
        threads: int | None,
        room: NDArray[np.float64] | None,
    ) -> list[NDArray[np.int64]]:
        """Per query rows int64, rising, to be scored again: fetch * k of them. room float64 [q], for kind flat: how far faiss's score of a
        document may be from ours; then all that can be among the k best, however many tie there."""
        hits = self.search(queries, k, rows, asked, threads, fetch=fetch, spare=0 if room is None else _SPARE)
        most = self.n if rows is None else len(rows)
        for i in range(0 if room is None else len(hits)):
            spare = _SPARE
            while (
                room is not None
                and not limits().out_of_time()
                and len(hits[i][0]) < most
                and hits[i][1][-1] >= hits[i][1][k - 1] - 2 * room[i]
            ):
                spare *= 4
                hits[i : i + 1] = self.search(queries[i : i + 1], k, rows, asked, threads, fetch=fetch, spare=spare) or hits[i : i + 1]
        return [np.sort(ids) for ids, _ in hits]

    def _parameters(self, faiss: Any, effort: Mapping[str, int], rows: NDArray[np.int64] | None) -> Any:
        given: dict[str, Any] = {}
        if rows is not None:
            if self.device != "cpu":
                raise InputError("VectorIndex.search: filters", got="an index on a GPU", expected="none, or an index on the CPU")
            mask = np.zeros(self.n, bool)
            mask[rows] = True
            given["sel"] = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=effort["ef"], **given)
        if self.kind in ("ivf", "pq", "ivfpq"):
            return faiss.SearchParametersIVF(nprobe=effort.get("nprobe", 1), **given)
        return faiss.SearchParameters(**given)

    def to_bytes(self) -> NDArray[np.uint8]:
        if self.device != "cpu":
            raise InputError("VectorIndex.save", got="an index on a GPU", expected="the one on the CPU that it was made from")
        data: NDArray[np.uint8] = require_faiss().serialize_index(self.index)
        return data

    @classmethod
    def from_bytes(cls, kind: str, data: NDArray[np.uint8], built: Mapping[str, int], dim: int, n: int, name: str) -> Approximate:
        """data: bytes in memory whose checksum was right. Raises FileFormatError for what is no such index."""
        faiss = require_faiss()
        try:
            index = faiss.deserialize_index(data)
        except RuntimeError as error:
            hint = "Another version of faiss may have written it: build it again."
            raise FileFormatError(name, got=f"what faiss {faiss.__version__} cannot read", expected="its index", hint=hint) from error
        found = (type(index).__name__, index.d, index.ntotal, index.metric_type)
        if found != (CLASSES[kind], dim, n, faiss.METRIC_INNER_PRODUCT):
            raise FileFormatError(
                name, got="{} of dimension {} with {} vectors, metric {}".format(*found), expected=f"kind '{kind}' of {n}"
            )
        return cls(kind, index, built, dim, n)

    def to_gpu(self, device: int) -> Approximate:
        """Not run: written by faiss's documentation, on a machine without faiss-gpu. Raises BackendUnavailable."""
        faiss = require_faiss()
        if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus() > device:
            raise BackendUnavailable("VectorIndex.to_gpu", got="a faiss without that GPU", expected="faiss-gpu and a CUDA device")
        try:
            moved = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device, self.index)
        except RuntimeError as error:
            raise BackendUnavailable("VectorIndex.to_gpu", got=f"kind '{self.kind}' ({error})", expected="flat, ivf or ivfpq") from error
        return replace(self, index=moved, device=f"cuda:{device}")


def _empty(faiss: Any, kind: str, dim: int, built: Mapping[str, int]) -> Any:
    metric = faiss.METRIC_INNER_PRODUCT
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "sq8":
        return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, metric)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, built["links"], metric)
        index.hnsw.efConstruction = built["ef_construction"]
        return index
    nlist = built.get("nlist", 1)  # pq is ivfpq with one list: faiss's IndexPQ takes no filter
    if kind == "ivf":
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, nlist, metric)
    else:
        index = faiss.IndexIVFPQ(faiss.IndexFlatIP(dim), dim, nlist, built["code_bytes"], 8, metric)
        index.pq.cp.min_points_per_centroid = 1  # below its 39 faiss prints a warning
    index.cp.min_points_per_centroid = 1
    return index


def _sample(blocks: Iterable[NDArray[np.float32]], n: int, most: int) -> NDArray[np.float32]:
    """`most` of the rows at random, the same ones each time, or all."""
    chosen = np.sort(np.random.default_rng(0).permutation(n)[:most])
    parts, first = list[NDArray[np.float32]](), 0
    for block in blocks:
        low, high = np.searchsorted(chosen, (first, first + len(block)))
        parts.append(block[chosen[low:high] - first])
        first += len(block)
    return np.concatenate(parts)
