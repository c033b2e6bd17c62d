"""The inverted index behind BM25: segments of postings with their vocabulary and documents, in memory, in one file, or in a folder that
takes additions and deletions."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..backends import choose
from ..core import Query
from ..corpus import Corpus, Document, require_documents
from ..errors import FileFormatError, InputError, RerankError
from ..ops import checks
from ..ops.bm25 import BM25Parameters, Searcher
from ..ops.postings import damaged
from ..ops.topk import Hits
from ..packed import Packed
from ..progress import Progress
from ..text import Analyzer, AnalyzerLike
from . import members
from .documents import NumberedCorpus, batches
from .folder import Folder, Kind, parts_of
from .members import Member
from .queries import filtered, lookup, run, terms_of
from .segmented import SegmentedIndex, checked, joined, without


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """What a search reads; an update makes a new one, and searches under way keep theirs."""

    members: tuple[Member, ...]
    searcher: Searcher
    corpus: Corpus


class BM25Index(SegmentedIndex):
    """A corpus, searchable by BM25 and its variants. Searches may run in any number of threads, also during updates.

        BM25Index.build(corpus)                   in memory; .save(path) writes one file
        BM25Index.open(path)                      a file, mapped: ready at once, whatever its size
        BM25Index.create(folder), .open(folder)   add, delete, update; commit() makes them last, all or nothing

    k1, b and the variant (see rr.ops.bm25) belong to the search: `open` takes others than the index was built with.
    """

    kind = cast(Kind, members)

    def __init__(
        self,
        parts: Sequence[Member],
        analyzer: Analyzer,
        parameters: BM25Parameters,
        settings: Mapping[str, Any],
        *,
        folder: Folder | None = None,
    ) -> None:
        super().__init__(folder)
        self.analyzer, self.parameters = analyzer, parameters
        self._stored = BM25Parameters(**settings["parameters"]) if "parameters" in settings else parameters  # what a file keeps
        self.codes, self.forward, self.backend = bool(settings["codes"]), bool(settings["forward"]), str(settings["backend"])
        self._set(parts)

    @classmethod
    def build(
        cls,
        corpus: Corpus,
        *,
        analyzer: AnalyzerLike = "english",
        variant: str = "lucene",
        k1: float = 1.2,
        b: float = 0.75,
        delta: float | None = None,
        codes: bool = True,
        forward: bool = False,
        backend: str = "auto",
        progress: Progress | None = None,
    ) -> BM25Index:
        """Analyses every passage (title and text). progress(done, total) is called every 1,000 documents and at the end.

        codes: an impact code of one byte per posting, which searches are several times faster with. forward: lists from documents to their
        terms, about 2 bytes per posting, which feedback reads instead of analysing texts again.
        Raises InputError for an empty corpus or parameters out of range, before the work.
        """
        require_documents("BM25Index.build", corpus)
        index = cls._empty(analyzer, BM25Parameters(variant, k1, b, delta), codes, forward, backend)
        texts = (index.analyzer(document.passage) for document in corpus)
        index._set([index._member(corpus, texts, progress)])
        return index

    @classmethod
    def build_file(cls, documents: Iterable[Document], path: str | Path, *, progress: Progress | None = None, **options: Any) -> BM25Index:
        """One file from documents that are read once and never all in memory; then it is opened. options: as for `create`."""
        path = Path(path)
        if path.is_dir():
            raise InputError(f"index file {path}", got="a folder", expected="a file to write")
        try:
            folder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
        except (OSError, ValueError) as error:  # ValueError: NUL in the path
            raise InputError(f"index file {path}", got=str(error), expected="a place that can be written") from error
        with folder as scratch:
            index = cls.create(Path(scratch) / "parts", **options)
            index.add(documents, progress=progress)
            index.save(path)
            index._folder = None
        return cls.open(path, analyzer=options.get("analyzer"))

    @classmethod
    def from_tokens(cls, rows: Sequence[Sequence[Any]] | Packed, corpus: Corpus | None = None, **options: Any) -> BM25Index:
        """From terms that are there already: per document strings, or integers, which are term ids (best Packed int32, without gaps).

        Queries are then sequences of such terms, or texts whose words are terms. corpus: the documents behind the rows; without it, ids are
        row numbers and texts empty. options: those of `build`; the analyzer, of queries alone, splits at spaces. Raises InputError.
        """
        if isinstance(rows, str) or (not isinstance(rows, Packed) and any(isinstance(row, str) for row in rows)):
            raise InputError("BM25Index.from_tokens", got="a string where terms belong", expected="a sequence of terms per document")
        documents = NumberedCorpus(len(rows)) if corpus is None else corpus
        require_documents("BM25Index.from_tokens", documents)
        if len(documents) != len(rows):
            got = f"{len(rows)} rows and {len(documents)} documents"
            raise InputError("BM25Index.from_tokens", got=got, expected="one row per document")
        own = {name: options.pop(name) for name in ("variant", "k1", "b", "delta") if name in options}
        progress = options.pop("progress", None)
        analyzer = options.pop("analyzer", "whitespace")
        settings = {"codes": True, "forward": False, "backend": "auto", **options}
        index = cls._empty(analyzer, BM25Parameters(**own), **settings)
        index._set([index._member(documents, rows, progress)])
        return index

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        analyzer: AnalyzerLike = "english",
        variant: str = "lucene",
        k1: float = 1.2,
        b: float = 0.75,
        delta: float | None = None,
        codes: bool = True,
        forward: bool = False,
    ) -> BM25Index:
        """An empty index in a new or empty folder: `add` to it, then `commit`."""
        index = cls._empty(analyzer, BM25Parameters(variant, k1, b, delta), codes, forward, "cpp")
        index._folder = Folder.create(Path(folder), index._settings(), cls.kind)
        return index

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        variant: str | None = None,
        k1: float | None = None,
        b: float | None = None,
        delta: float | None = None,
        analyzer: AnalyzerLike | None = None,
        in_memory: bool = False,
        verify: bool = False,
    ) -> BM25Index:
        """A file or a folder; maps it, which takes milliseconds. variant, k1, b, delta: instead of those it was built with.

        analyzer: needed only where the index was built with a function of yours; it must be the same. in_memory: reads the files instead of
        mapping them, which survives their being cut short. verify: checks every byte first, as `BM25Index.check` does.
        Raises FileFormatError for what is no index of texts or is damaged, InputError for another analyzer.
        """
        parts, settings, folder = parts_of(Path(path), cls.kind, verify=verify, in_memory=in_memory)
        try:
            cls._require_kind(path, settings)
            stored = settings["parameters"]
            given = {"variant": variant, "k1": k1, "b": b, "delta": delta}
            chosen = {**stored, **{name: value for name, value in given.items() if value is not None}}
            if variant is not None and delta is None and variant != stored["variant"]:
                chosen["delta"] = None
            text = Analyzer.from_config(settings["analyzer"], analyzer)
            return cls(parts, text, BM25Parameters(**chosen), {**settings, "backend": "cpp"}, folder=folder)
        except (KeyError, TypeError) as error:
            raise FileFormatError(
                str(path), got=f"settings that cannot be read ({error})", expected="an index as it was written"
            ) from error

    @classmethod
    def _require_kind(cls, path: str | Path, settings: Mapping[str, Any]) -> None:
        """Raises FileFormatError for an index of impacts, whose files are of the same kind: texts would mean nothing to it."""
        if "impacts" in settings:
            hint = "ImpactIndex.open(path, encoder=encoder) opens it."
            raise FileFormatError(str(path), got="an index of impacts", expected="an index of texts", hint=hint)

    @classmethod
    def _empty(cls, analyzer: AnalyzerLike, parameters: BM25Parameters, codes: bool, forward: bool, backend: str) -> BM25Index:
        return cls([], Analyzer(analyzer), parameters, {"codes": codes, "forward": forward, "backend": choose("bm25", backend)})

    def _settings(self) -> dict[str, Any]:
        parameters = dataclasses.asdict(self._stored)
        return {"analyzer": self.analyzer.config, "parameters": parameters, "codes": self.codes, "forward": self.forward}

    def _rows(self, batch: Sequence[Document]) -> members.Rows:
        """The terms of documents that are added."""
        return (self.analyzer(document.passage) for document in batch)

    def _member(self, documents: Corpus, rows: members.Rows, progress: Progress | None = None) -> Member:
        stored = {name: getattr(self._stored, name) for name in ("k1", "b", "variant")}
        options = {"codes": self.codes, "forward": self.forward, "backend": self.backend, **stored}
        return members.make(documents, rows, options, progress)

    def _set(self, parts: Sequence[Member]) -> None:
        searcher = Searcher([member.part for member in parts], self.parameters, self.backend)
        whole = len(parts) == 1 and parts[0].part.dead is None
        corpus = parts[0].documents if whole else joined(parts)
        self._state = _State(tuple(parts), searcher, corpus)

    # What is in it

    @property
    def corpus(self) -> Corpus:
        """The documents by the rows that `search` returns. Updates make a new one; rankings keep theirs."""
        return self._state.corpus

    @property
    def _members(self) -> tuple[Member, ...]:
        return self._state.members

    @property
    def searcher(self) -> Searcher:
        """What searches it now, by term ids; see rr.ops."""
        return self._state.searcher

    @property
    def n_postings(self) -> int:
        return sum(member.part.segment.n_postings for member in self._state.members)

    def with_parameters(self, **changes: Any) -> BM25Index:
        """A snapshot that searches with another variant, k1, b or delta; over the same corpus, so that the two can be fused."""
        other = self.snapshot()
        fresh: dict[str, Any] = {"delta": None} if "variant" in changes else {}  # each variant has a delta of its own
        other.parameters = dataclasses.replace(self.parameters, **{**fresh, **changes})
        parts = [member.part for member in self._state.members]
        other._state = dataclasses.replace(self._state, searcher=Searcher(parts, other.parameters, self.backend))
        return other

    def document_frequency(self, terms: Sequence[Any]) -> list[int]:
        """How many documents hold each term (analysed terms)."""
        ids, searcher = lookup(self._state.members, terms), self._state.searcher
        out = np.zeros(len(terms), np.int64)
        for part, row in zip(searcher.parts, ids):
            known = np.flatnonzero(row >= 0)
            out[known] += part.document_frequency(row[known])
        return out.tolist()

    def document_terms(self, rows: Sequence[int] | NDArray[np.int64]) -> list[dict[Any, int]]:
        """The terms of these rows with their frequencies: from forward lists where the index has them, else by analysing the texts."""
        out: list[dict[Any, int]] = []
        state = self._state
        bases = np.cumsum([0, *(len(member.part.segment) for member in state.members)])
        for row in np.asarray(rows, np.int64).tolist():
            place = int(np.searchsorted(bases, row, "right")) - 1
            member = state.members[place]
            if member.part.segment.has_forward:
                [(ids, counts)] = member.part.segment.terms_of(np.array([row - bases[place]]))
                with members.reading():
                    names = ids.tolist() if member.terms is None else [member.terms[i] for i in ids.tolist()]
                out.append(dict(zip(names, counts.tolist())))
            else:
                found: dict[Any, int] = {}
                for term in self.analyzer(state.corpus[row].passage):
                    found[term] = found.get(term, 0) + 1
                out.append(found)
        return out

    def document_lengths(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [m]: how many terms these rows have, as the index counted them. No text is read."""
        lengths = [member.part.segment.lengths for member in self._state.members]
        found: NDArray[np.int64] = np.concatenate(lengths).astype(np.int64)[np.asarray(rows, np.int64)]
        return found

    # Searching

    def search(self, queries: Sequence[str | Query | Sequence[Any]], k: int, *, threads: int | None = 1) -> list[Hits]:
        """Per query (rows int64 [m], scores float32 [m]) of `corpus`, m <= k, best first. A query: a text, a Query, or a sequence of terms.

        A query without known terms finds nothing; at the deadline of `rr.limited` the hits are those of the rows it got to. Raises
        InputError.
        """
        return self.retrieve(queries, k, threads=threads)[0]

    def retrieve(
        self, queries: Sequence[str | Query | Sequence[Any]], k: int, *, threads: int | None = 1
    ) -> tuple[list[Hits], Corpus, list[int]]:
        """`search`, the corpus that its rows are of, which an update meanwhile does not change, and how many of its rows each
        query got to."""
        if isinstance(queries, (str, Query)):
            raise InputError(f"{self._name}.search: queries", got="one query", expected="a sequence of them", hint="Pass [query].")
        k, state = checks.count("BM25: k", k), self._state
        batch = [terms_of(query, self.analyzer) for query in queries]
        if not [query for query in queries if isinstance(query, Query) and not (query.allow is None and query.deny is None)]:
            found, reached = run(state.members, state.searcher, batch, k, None, threads)
            return found, state.corpus, reached
        out: list[Hits] = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(batch)
        reached = [0] * len(batch)
        for mask, places in filtered(queries, state.corpus):
            for i, hits, n in zip(places, *run(state.members, state.searcher, [batch[i] for i in places], k, mask, threads)):
                out[i], reached[i] = hits, n
        return out, state.corpus, reached

    def explain(self, query: str | Query, doc_id: str) -> dict[str, Any]:
        """Where a document's score comes from: {"score", "id", "length", "mean_length", "documents", "parameters", "terms": [{"term",
        "tf", "df", "idf", "f", "weight", "score"}, ...]}; score = weight * idf * f, and their sum. Raises UnknownIdError."""
        state = self._state
        row = state.corpus.row(doc_id)
        terms, weights, _ = terms_of(query, self.analyzer)
        try:
            length, found = state.searcher.explain(lookup(state.members, terms), row)
        except (ArithmeticError, ValueError) as error:  # of a df that cannot be
            raise error if isinstance(error, RerankError) else damaged(error) from error
        known = any(tf for tf, *_ in found)
        rows = [
            {"term": t, "tf": tf, "df": df, "idf": idf, "f": f, "weight": w, "score": w * idf * f if known else 0.0}
            for t, w, (tf, df, idf, f) in zip(terms, weights or [1.0] * len(terms), found)
        ]
        searcher = state.searcher
        return {
            "id": doc_id,
            "score": sum(r["score"] for r in rows),
            "length": length,
            "mean_length": searcher.n_tokens / max(searcher.n_docs, 1),
            "documents": searcher.n_docs,
            "parameters": str(self.parameters),
            "terms": rows,
        }

    # Changing it

    def add(self, documents: Iterable[Document], *, progress: Progress | None = None) -> int:
        """Adds documents behind those that are there, all or none of them; searches find them from now on. Returns how many.

        Reads the documents once, in batches: in a folder what is added goes to disk batch by batch, so memory stays bounded.
        progress(done, 0) is called after each batch. Raises DuplicateIdError for an id that is there or comes twice.
        """
        with self._changing():
            parts, n = self._added(self._members, batches(documents, f"{self._name}.add"), self._make, progress)
            self._set(parts)
        return n

    def update(self, documents: Iterable[Document], *, progress: Progress | None = None) -> int:
        """Replaces the documents that have these ids, and adds those that are new, behind all others. All or none of them."""
        with self._changing():
            new, state = Corpus(documents), self._state
            rows = [state.corpus.row(document.id) for document in new if document.id in state.corpus]
            parts, n = self._added(without(state.members, rows), batches(new, f"{self._name}.update"), self._make, progress)
            self._set(parts)
        return n

    def _require_changeable(self) -> None:
        if self.backend != "cpp":
            got = f"an index of the backend {self.backend}"
            raise InputError(f"{self._name}: saving and changing", got=got, expected="one of cpp", hint='Build it with backend="cpp".')

    def _make(self, batch: list[Document]) -> Member:
        made = self._member(Corpus(batch), self._rows(batch))
        if len({member.terms is None for member in (*self._members, made) if member.part.segment.n_terms}) > 1:
            got, expected = ("strings", "integers") if made.terms is not None else ("integers", "strings")
            raise InputError("BM25Index.add: terms", got=got, expected=f"{expected}, of which the index is made")
        return made

    @classmethod
    def check(cls, path: str | Path, progress: Progress | None = None) -> dict[str, Any]:
        """Reads every byte of a file or folder and decodes every list. {"path", "segments", "documents", "deleted", "terms", "postings",
        "bytes"}; raises FileFormatError, which names the file, for the first thing that is wrong, and for an index of impacts."""
        cls._require_kind(path, parts_of(Path(path), cls.kind, verify=False)[1])
        parts, size = checked(Path(path), cls.kind, progress)
        segments = [member.part.segment for member in parts]
        live = sum(member.n_live for member in parts)
        return {
            "path": str(path),
            "segments": len(parts),
            "documents": live,
            "deleted": sum(map(len, segments)) - live,
            "terms": sum(segment.n_terms for segment in segments),
            "postings": sum(segment.n_postings for segment in segments),
            "bytes": size,
        }

    def __repr__(self) -> str:
        n_terms = sum(member.part.segment.n_terms for member in self._state.members)
        parts = f", {len(self._state.members)} segments" if len(self._state.members) != 1 else ""
        return (
            f"BM25Index({len(self)} documents, {n_terms} terms, {self.n_postings} postings{parts}, {self.analyzer.name}, {self.parameters})"
        )
