"""Sparse vectors of documents in the inverted index of BM25: weights as integer counts, searched by the variant "impact" (see rr.ops.bm25).

    impact(d, t) = round(scale * weight(d, t)), ties to even; one of 0 is left out
    score(q, d)  = sum over t of weight(q, t) * impact(d, t) / scale

An impact is at most 1 / (2 scale) off its weight, so a score is at most sum over t of weight(q, t) / (2 scale) off the inner product of the
weights; the order is exactly that of the impacts. Impacts below 255 are one byte, by which searches prune; with the scale of 64 those are
weights up to 3.97. Larger ones are kept as they are, and prune less. Source of the scheme: Mackenzie, Trotman and Lin 2021.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ..backends import choose
from ..core import Query
from ..corpus import Corpus, Document, require_documents
from ..errors import FileFormatError, InputError
from ..ops import checks
from ..ops.bm25 import VARIANTS, BM25Parameters
from ..ops.topk import Hits
from ..packed import Packed
from ..progress import Progress
from ..text import Analyzer
from . import members
from .folder import Folder, parts_of
from .inverted import BM25Index
from .members import Counted
from .token_build import maker_of, require_maker

if TYPE_CHECKING:
    from ..stages.splade import Sparse, SparseEncoder

SCALE = 64.0
SPACES = Analyzer("whitespace")  # of queries as texts, which nothing asks here; files keep its name
PIECE = 1024  # documents that are encoded at a time


class _Postings(BM25Index):
    """The postings of impacts. made: {"encoder", "top_terms", "threshold"}, as files keep it; encoder: needed to add documents."""

    def __init__(self, *own: Any, made: Mapping[str, Any], encoder: SparseEncoder | None, **more: Any) -> None:
        super().__init__(*own, **more)
        self.made, self.encoder = dict(made), encoder

    @property
    def _name(self) -> str:
        return "ImpactIndex"

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "impacts": self.made}

    @classmethod
    def _require_kind(cls, path: str | Path, settings: Mapping[str, Any]) -> None:
        """`ImpactIndex.open` has looked."""

    def _rows(self, batch: Corpus | Sequence[Document]) -> Counted:
        return self.counted(batch)

    def counted(self, documents: Corpus | Sequence[Document], progress: Progress | None = None) -> Counted:
        """What the index keeps of documents."""
        assert self.encoder is not None
        found, dropped, done = list[tuple[NDArray[np.int32], NDArray[np.int64]]](), list[NDArray[np.int32]](), 0
        for part in _pieces(documents):
            pruned = {name: self.made[name] for name in ("top_terms", "threshold")}
            encoded, cut = self.encoder.encode_counted([document.passage for document in part], **pruned)
            found += [self._impacts(*row) for row in encoded]
            dropped.append(cut)
            done += len(part)
            if progress:
                progress(done, len(documents))
        terms = Packed.from_rows([ids for ids, _ in found], np.int32)
        counts = np.concatenate([np.empty(0, np.int64), *(counts for _, counts in found)])
        return Counted(terms, counts, np.concatenate([np.empty(0, np.int32), *dropped]))

    def _impacts(self, ids: NDArray[np.int32], weights: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        impacts = np.rint(weights.astype(np.float64) * self.parameters.k1).astype(np.int64)
        return ids[impacts > 0], impacts[impacts > 0]


class ImpactIndex:
    """A corpus as sparse vectors, searchable by inner product: a BM25Index of impacts, with what it has to know of its encoder.

        ImpactIndex.build(corpus, encoder)                 in memory; .save(path) writes one file
        ImpactIndex.open(path, encoder=encoder)            a file, mapped, or a folder; the encoder is needed to add documents
        ImpactIndex.create(folder, encoder)                add, delete, update; commit() makes them last, all or nothing

    scale: see above. top_terms, threshold: what the encoder keeps of a document (see SparseEncoder.encode_counted). Another encoder than
    the one that made an index is refused, as far as both say what they are.
    """

    def __init__(self, index: _Postings) -> None:
        """Made by `build`, `create` and `open`."""
        self._index = index
        if index.encoder is not None:
            self.require_encoder("ImpactIndex", index.encoder)

    @classmethod
    def build(
        cls,
        corpus: Corpus,
        encoder: SparseEncoder,
        *,
        scale: float = SCALE,
        top_terms: int | None = None,
        threshold: float = 0.0,
        codes: bool = True,
        backend: str = "auto",
        progress: Progress | None = None,
    ) -> ImpactIndex:
        """Encodes every passage (title and text), some at a time. progress(done, total) counts documents. codes: see BM25Index.build.
        Raises InputError for an empty corpus or options out of range, before the work."""
        require_documents("ImpactIndex.build", corpus)
        index = cls._empty(encoder, scale, top_terms, threshold, codes, backend)
        index._index._set([index._index._member(corpus, index._index.counted(corpus, progress))])
        return index

    @classmethod
    def create(
        cls,
        folder: str | Path,
        encoder: SparseEncoder,
        *,
        scale: float = SCALE,
        top_terms: int | None = None,
        threshold: float = 0.0,
        codes: bool = True,
    ) -> ImpactIndex:
        """An empty index in a new or empty folder: `add` to it, then `commit`."""
        index = cls._empty(encoder, scale, top_terms, threshold, codes, "cpp")
        index._index._folder = Folder.create(Path(folder), index._index._settings(), members)
        return index

    @classmethod
    def open(cls, path: str | Path, *, encoder: SparseEncoder | None = None, in_memory: bool = False, verify: bool = False) -> ImpactIndex:
        """A file or a folder; maps it. in_memory: reads the files instead. verify: checks every byte first, as `check` does.
        Raises FileFormatError for what is no index of impacts or is damaged, InputError for another encoder."""
        parts, settings, folder = parts_of(Path(path), BM25Index.kind, verify=verify, in_memory=in_memory)
        try:
            made, parameters = settings["impacts"], BM25Parameters(**settings["parameters"])
            by = made["encoder"]
            right = by is None or all(type(by[key]) is str for key in ("model", "fingerprint"))
            right = right and dataclasses.astuple(parameters) == ("impact", parameters.k1, 0.0, VARIANTS["impact"])
            right = right and type(settings["codes"]) is bool and settings["forward"] is False and settings["analyzer"] == SPACES.config
            if not right or any(part.truncated is None or part.terms is not None for part in parts):
                raise ValueError("not what an index of impacts is made of")
            _pruning(made["top_terms"], made["threshold"])
        except (KeyError, TypeError, ValueError, InputError) as error:
            got = f"an index that is not of impacts, or is damaged ({error})"
            raise FileFormatError(str(path), got=got, expected="an index of impacts as it was written") from error
        return cls(_Postings(parts, SPACES, parameters, {**settings, "backend": "cpp"}, folder=folder, made=made, encoder=encoder))

    @classmethod
    def _empty(
        cls, encoder: SparseEncoder, scale: float, top_terms: int | None, threshold: float, codes: bool, backend: str
    ) -> ImpactIndex:
        from ..stages.splade import SparseEncoder

        checks.instance("ImpactIndex: encoder", encoder, SparseEncoder)
        parameters = BM25Parameters("impact", checks.finite_number("ImpactIndex: scale", scale, 1e-3, 1e6), 0.0)
        made = {"encoder": maker_of(cast(Any, encoder)), **_pruning(top_terms, threshold)}
        settings = {"codes": codes, "forward": False, "backend": choose("bm25", backend)}
        return cls(_Postings([], SPACES, parameters, settings, made=made, encoder=encoder))

    # What is in it

    @property
    def encoder(self) -> SparseEncoder | None:
        """What documents are added with."""
        return self._index.encoder

    @property
    def scale(self) -> float:
        return self._index.parameters.k1

    @property
    def parameters(self) -> BM25Parameters:
        return self._index.parameters

    @property
    def backend(self) -> str:
        return self._index.backend

    @property
    def corpus(self) -> Corpus:
        """The documents by the rows that `search` returns. Updates make a new one; rankings keep theirs."""
        return self._index.corpus

    @property
    def truncated_tokens(self) -> NDArray[np.int32]:
        """int32 [rows]: tokens that the encoder cut off the end of each document, deleted ones too."""
        parts = [np.empty(0, np.int32)]
        for member in self._index._members:
            assert member.truncated is not None
            parts.append(member.truncated)
        return parts[1] if len(parts) == 2 else np.concatenate(parts)

    @property
    def n_postings(self) -> int:
        return self._index.n_postings

    @property
    def made_by(self) -> dict[str, str] | None:
        """{"model", "fingerprint"} of the encoder, where that says what it is."""
        made: dict[str, str] | None = self._index.made["encoder"]
        return made

    def __len__(self) -> int:
        """The number of documents, without deleted ones."""
        return len(self._index)

    def snapshot(self) -> ImpactIndex:
        """The index as it is now, for searches that belong together."""
        return ImpactIndex(self._index.snapshot())

    def require_encoder(self, what: str, encoder: SparseEncoder) -> None:
        """Raises InputError for an encoder whose weights would mean nothing to those of the index."""
        require_maker(what, self.made_by, 0, encoder)

    # Searching

    def search(
        self, queries: Sequence[Sparse], k: int, *, filters: Sequence[Query | None] | None = None, threads: int | None = 1
    ) -> list[Hits]:
        """Per query (rows int64 [m], scores float32 [m]) of `corpus`, m <= k, best first; only documents with at least one of its terms.

        queries: (term ids, weights float32) as the encoder gives them. filters: for each a Query, whose `allow` and `deny` hold, or None.
        Scores are float64 sums in the order of the terms, rounded once. Raises InputError, NonFiniteError.
        """
        return self.search_reached(queries, k, filters=filters, threads=threads)[0]

    def search_reached(
        self, queries: Sequence[Sparse], k: int, *, filters: Sequence[Query | None] | None = None, threads: int | None = 1
    ) -> tuple[list[Hits], list[int]]:
        """`search`, and how many rows each query got to: all of them, but for the deadline of `rr.limited`."""
        checks.count("ImpactIndex.search: k", k)
        hits, _, reached = self._index.retrieve(self._queries(queries, filters), k, threads=threads)
        return hits, reached

    @staticmethod
    def _queries(queries: Sequence[Sparse], filters: Sequence[Query | None] | None) -> list[Query]:
        asked = [None] * len(queries) if filters is None else filters
        if len(asked) != len(queries):
            raise InputError(
                "ImpactIndex.search: filters", got=f"{len(asked)} entries", expected=f"one for each of the {len(queries)} queries"
            )
        made = []
        for (ids, weights), given in zip(queries, asked):
            names = checks.integers("ImpactIndex.search: terms", ids).tolist()
            terms: dict[Any, float] = dict(zip(names, checks.floats("ImpactIndex.search: weights", weights, 1).tolist()))
            query = Query("") if given is None else given
            checks.instance("ImpactIndex.search: filters", query, Query)
            if len(terms) != len(ids) or len(ids) != len(weights):
                raise InputError(
                    "ImpactIndex: a query", got=f"{len(ids)} terms, {len(weights)} weights", expected="distinct terms, a weight each"
                )
            made.append(Query(query.text, terms=terms, allow=query.allow, deny=query.deny))
        return made

    def explain(self, query: Sparse, doc_id: str) -> dict[str, Any]:
        """{"id", "score", "terms": [{"term": id, "query", "document", "score"}, ...]}: the terms that the query and the document share, the
        largest product first; score = the query's weight * the document's. Raises UnknownIdError."""
        told = self._index.explain(self._queries([query], None)[0], doc_id)
        rows = [
            {"term": row["term"], "query": row["weight"], "document": row["f"], "score": row["score"]} for row in told["terms"] if row["tf"]
        ]
        return {"id": doc_id, "score": told["score"], "terms": sorted(rows, key=lambda row: (-row["score"], row["term"]))}

    # Changing and keeping it

    def add(self, documents: Iterable[Document], *, progress: Progress | None = None) -> int:
        """Encodes and adds documents behind those that are there; as BM25Index.add. Raises InputError without an encoder."""
        self._require_own()
        return self._index.add(documents, progress=progress)

    def update(self, documents: Iterable[Document], *, progress: Progress | None = None) -> int:
        """Replaces the documents that have these ids, and adds those that are new; as BM25Index.update."""
        self._require_own()
        return self._index.update(documents, progress=progress)

    def _require_own(self) -> None:
        if self.encoder is None:
            hint = "ImpactIndex.open(path, encoder=encoder)"
            raise InputError("ImpactIndex: adding documents", got="an index without its encoder", expected="one opened with it", hint=hint)

    def delete(self, ids: Collection[str]) -> None:
        """Deletes documents by id, all or none of them. Raises UnknownIdError."""
        self._index.delete(ids)

    def commit(self) -> None:
        """Makes the changes last, all or nothing; as BM25Index.commit."""
        self._index.commit()

    def rollback(self) -> None:
        """Forgets the changes since `open` or the last commit."""
        self._index.rollback()

    def merge(self) -> None:
        """Makes one segment of all."""
        self._index.merge()

    def save(self, path: str | Path) -> None:
        """Writes one file that `open` maps. It appears whole or not at all."""
        self._index.save(path)

    @classmethod
    def check(cls, path: str | Path, progress: Progress | None = None) -> dict[str, Any]:
        """Reads every byte and decodes every list; as BM25Index.check."""
        cls.open(path)
        return _Postings.check(path, progress)

    def __repr__(self) -> str:
        made_by = "" if self.made_by is None else f", {self.made_by['model']}"
        return f"ImpactIndex({len(self)} documents, {self.n_postings} postings{made_by}, {self.parameters})"


def _pruning(top_terms: int | None, threshold: float) -> dict[str, Any]:
    most = None if top_terms is None else checks.count("ImpactIndex: top_terms", top_terms)
    return {"top_terms": most, "threshold": checks.finite_number("ImpactIndex: threshold", threshold, 0)}


def _pieces(documents: Corpus | Sequence[Document]) -> Iterator[list[Document]]:
    for start in range(0, len(documents), PIECE):
        yield [documents[row] for row in range(start, min(start + PIECE, len(documents)))]
