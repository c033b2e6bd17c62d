"""The index of late interaction: every token vector of every document, plain or compressed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..codec import ResidualCodec, ResidualTokens
from ..corpus import Corpus, Document, require_documents
from ..errors import FileFormatError, InputError, UnsafeModelError
from ..ops import checks
from ..ops.certified import CertifiedTop
from ..ops.tokens import picked
from ..ops.topk import Hits
from ..packed import Packed
from ..progress import Progress
from . import token_build, token_search
from .documents import batches
from .folder import Folder, parts_of
from .segmented import SegmentedIndex, checked, joined, without
from .token_build import Encoded, Encoder, Sample, encodes, given, maker_of, pieces, prepared, require_maker, sample_rows
from .token_members import CODES, STORAGES, TokenFiles, TokenMember, fingerprint, member_of, write_codec
from .token_probe import Plan, Probe


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    members: tuple[TokenMember, ...]
    corpus: Corpus


class TokenIndex(SegmentedIndex):
    """The tokens of a corpus, scored by MaxSim: `rr.MaxSim(index, encoder)` re-ranks with it, `rr.LateInteraction` searches it.

        TokenIndex.build(corpus, encoder)         in memory; .save(path) writes one file. build(..., path=path) streams into the file
        TokenIndex.open(path)                     a file, mapped: ready at once, whatever its size
        TokenIndex.create(folder), .open(folder)  add, delete; commit() makes them last, all or nothing

    storage, bytes a token of dimension d: "float32" 4d, "float16" 2d, "int8" d + 4, "4bit" d/2 + 6, "2bit" d/4 + 6, "1bit" d/8 + 6: the
    last three are ColBERTv2's residual codes (8 instead of 6 from 65,537 centroids on), and need tokens of unit length.
    """

    kind: TokenFiles

    def __init__(
        self,
        parts: Sequence[TokenMember],
        storage: str,
        dim: int,
        codec: ResidualCodec | None = None,
        *,
        encoder: Encoder | None = None,
        folder: Folder | None = None,
        files: TokenFiles | None = None,
        made_by: dict[str, str] | None = None,
    ) -> None:
        super().__init__(folder)
        self.made_by = made_by  # {"model", "fingerprint"} of the encoder, where that says what it is
        self.storage, self.dim, self.codec, self.encoder = storage, dim, codec, encoder
        self.kind = files or TokenFiles()
        self._codec_print = fingerprint(codec)
        self._set(parts)

    # Making one

    @classmethod
    def build(
        cls,
        corpus: Corpus,
        encoder: Encoder,
        *,
        storage: str = "float16",
        n_centroids: int | None = None,
        codec: ResidualCodec | None = None,
        path: str | Path | None = None,
        progress: Progress | None = None,
    ) -> TokenIndex:
        """Encodes every passage (title and text), a batch at a time. progress(done, total) counts documents.

        path: write the index there as it is made, so that memory stays bounded, and map it. For residual codes a codec is given, or trained
        first, on about 16 sqrt(120 n) documents as colbert-ai does, of half a gigabyte at most; n_centroids: as in ResidualCodec.train.
        Raises InputError (an unknown storage, an empty corpus, no encoder; tokens of several dimensions, or, for codes, not of unit length)
        and NonFiniteError.
        """
        what, told = "TokenIndex.build", {"progress": progress, "total": len(corpus)}
        nbits = prepared(what, corpus, storage, codec, path)
        if nbits and codec is None:
            rows = pieces(sample_rows(len(corpus)))
            sample = Sample(encodes(what, encoder, (corpus.texts(part) for part in rows), **told), len(corpus))  # type: ignore[arg-type]
            codec = sample.codec(nbits, n_centroids)
            encoded = sample.completed(what, encoder, corpus, progress)
        else:
            texts = (corpus.texts(rows) for rows in pieces(np.arange(len(corpus))))
            encoded = encodes(what, encoder, texts, **told)  # type: ignore[arg-type]
        index = cls._made(corpus, encoded, storage, codec, path, maker_of(encoder))
        index.encoder = encoder
        return index

    @classmethod
    def from_embeddings(
        cls,
        corpus: Corpus,
        documents: Any,
        *,
        storage: str = "float16",
        n_centroids: int | None = None,
        codec: ResidualCodec | None = None,
        path: str | Path | None = None,
        progress: Progress | None = None,
    ) -> TokenIndex:
        """From token vectors: a Packed, or arrays [length, dim], one a document, in any iterable. The rest as for `build`.

        A codec is trained on what is given; for an iterator, which can be read once, it must be given. Raises InputError.
        """
        nbits = prepared("TokenIndex.from_embeddings", corpus, storage, codec, path)
        encoded = given("TokenIndex.from_embeddings", documents)
        if isinstance(documents, (Packed, list, tuple)) and len(documents) != len(corpus):
            got = f"embeddings of {len(documents)} documents"
            raise InputError("TokenIndex.from_embeddings", got=got, expected=f"{len(corpus)}, one a document")
        if nbits and codec is None:
            if not isinstance(documents, (Packed, list, tuple)):
                got, expected = "an iterator and no codec", "a codec, or a Packed or a list"
                raise InputError(
                    "TokenIndex.from_embeddings: codec", got=got, expected=expected, hint="ResidualCodec.train makes one of a sample."
                )
            chosen = sample_rows(len(corpus)).tolist()
            codec = Sample(given("TokenIndex.from_embeddings", (documents[i] for i in chosen)), len(corpus)).codec(nbits, n_centroids)
        return cls._made(corpus, token_build.counted(encoded, len(corpus), progress), storage, codec, path)

    @classmethod
    def from_residual_tokens(cls, tokens: ResidualTokens, corpus: Corpus) -> TokenIndex:
        """Of tokens that are compressed already, such as those of an index that ColBERT or PLAID wrote (rerank_engine.indexes.imports)."""
        checks.instance("TokenIndex.from_residual_tokens: tokens", tokens, ResidualTokens)
        require_documents("TokenIndex.from_residual_tokens", corpus)
        member = member_of(tokens, corpus)
        return cls([member], member.storage, member.dim, member.codec)

    @classmethod
    def import_folder(cls, path: str | Path, corpus: Corpus | None = None, *, notes: list[str] | None = None) -> TokenIndex:
        """An index folder of colbert-ai, RAGatouille, fast-plaid or PyLate, see rerank_engine.indexes.imports.

        corpus: its documents, in any order under the folder's ids, or in the folder's order under others. Without it, ids are those that
        the folder knows, or row numbers, and texts are RAGatouille's passages, or empty. notes: gets what should be known of the import,
        such as deleted documents that were left out. Raises FileFormatError, UnsafeModelError, InputError (a corpus that does not fit).
        """
        from .imports import read_index, tokens_of

        if corpus is not None:
            require_documents("TokenIndex.import_folder", corpus)
        told: tuple[str, ...] = ()
        try:
            found = read_index(path)
        except UnsafeModelError as error:  # of ids that are more than data, a corpus can do without; of tokens, this raises again
            if corpus is None:
                raise
            found, told = read_index(path, ids=False), (f"ids are not read, the corpus is taken in the folder's order ({error})",)
        if corpus is None:
            ids = found.ids or list(map(str, range(len(found.tokens))))
            corpus, tokens, more = Corpus.from_texts(found.texts or [""] * len(ids), ids=ids), found.tokens, found.notes
        else:
            tokens, more = tokens_of(found, corpus)
        if notes is not None:
            notes.extend((*told, *more))
        return cls.from_residual_tokens(tokens, corpus)

    @classmethod
    def train_codec(
        cls, corpus: Corpus, encoder: Encoder, storage: str, *, n_centroids: int | None = None, progress: Progress | None = None
    ) -> ResidualCodec:
        """The codec that `build` trains for this corpus and storage: for `create`. progress(done, total) counts documents that are encoded
        for it, which may be fewer than total. Raises InputError, NonFiniteError."""
        what = "TokenIndex.train_codec"
        nbits = prepared(what, corpus, checks.one_of(f"{what}: storage", storage, CODES), None, None)
        rows = sample_rows(len(corpus))
        sample = encodes(what, encoder, (corpus.texts(part) for part in pieces(rows)), progress=progress, total=len(rows))
        return Sample(sample, len(corpus)).codec(int(nbits or 0), n_centroids)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        encoder: Encoder | None = None,
        *,
        dim: int | None = None,
        storage: str = "float16",
        codec: ResidualCodec | None = None,
    ) -> TokenIndex:
        """An empty index in a new or empty folder: `add` to it, then `commit`. encoder: to add texts with.

        Residual codes need their codec (`train_codec`, or the codec of another index), which the folder keeps once for all its segments.
        dim: of the tokens; None: as the codec's, or as the encoder's. Raises InputError.
        """
        checks.one_of("TokenIndex: storage", storage, STORAGES)
        if codec is not None or storage in CODES:
            token_build.require_codec(storage, getattr(codec, "dim", 0) if dim is None else dim, codec)
        if dim is None:
            if codec is None and encoder is None:
                raise InputError("TokenIndex.create: dim", got="none", expected="the dimension of the tokens, or an encoder")
            dim = codec.dim if codec is not None else int(next(encodes("TokenIndex.create", encoder, [["a"]]))[0].values.shape[-1])
        checks.count("TokenIndex.create: dim", dim)
        index = cls([], storage, dim, codec, encoder=encoder, files=TokenFiles(codec), made_by=maker_of(encoder))
        first = None if codec is None else lambda path: write_codec(path, codec)
        index._folder = Folder.create(Path(folder), index._settings(), index.kind, first)
        return index

    @classmethod
    def open(cls, path: str | Path, *, encoder: Encoder | None = None, in_memory: bool = False, verify: bool = False) -> TokenIndex:
        """A file or a folder; maps it, without reading the tokens. encoder: to add texts with. in_memory: reads the files instead of
        mapping them. verify: checks every byte first. Raises FileFormatError for what is no token index or is damaged."""
        path = Path(path)
        files = TokenFiles.of_folder(path, verify=verify, in_memory=in_memory)
        parts, settings, folder = parts_of(path, files, verify=verify, in_memory=in_memory)
        try:
            storage, dim = settings["storage"], settings["dim"]
            codec = files.codec if folder is not None else parts[0].codec
            if storage not in STORAGES or type(dim) is not int or any((part.storage, part.dim) != (storage, dim) for part in parts):
                raise ValueError(f"{storage!r} of dimension {dim!r}")
            if (codec is None) == storage.endswith("bit") or settings["codec"] != fingerprint(codec):
                raise ValueError("another codec than the tokens were made with")
            made_by = settings["encoder"]
            if made_by is not None and not all(type(made_by[key]) is str for key in ("model", "fingerprint")):
                raise TypeError("an encoder that is none")
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(str(path), got=f"a damaged index ({error})", expected="a token index as it was written") from error
        if encoder is not None:
            require_maker("TokenIndex.open", made_by, dim, encoder)
        files = files if folder is not None else TokenFiles()
        return cls(parts, storage, dim, codec, encoder=encoder, folder=folder, files=files, made_by=made_by)

    @classmethod
    def _made(
        cls,
        corpus: Corpus,
        encoded: Iterator[Encoded],
        storage: str,
        codec: ResidualCodec | None,
        path: str | Path | None,
        made_by: dict[str, str] | None = None,
    ) -> TokenIndex:
        columns = token_build.Columns(encoded, storage, codec, len(corpus), maker=made_by)
        if path is None:
            member = columns.member(corpus)
            return cls([member], storage, member.dim, codec, made_by=made_by)
        token_build.write_stream(Path(path), columns, corpus, TokenFiles())
        return cls.open(path)

    @property
    def _file_kind(self) -> TokenFiles:
        return TokenFiles()

    def _settings(self) -> dict[str, Any]:
        return {"storage": self.storage, "dim": self.dim, "codec": self._codec_print, "encoder": self.made_by}

    def require_encoder(self, what: str, encoder: Any) -> None:
        """Raises InputError for an encoder of another dimension, or of another model or settings of documents than the index was made with,
        as far as both say what they are."""
        require_maker(what, self.made_by, self.dim, encoder)

    def _set(self, parts: Sequence[TokenMember]) -> None:
        whole = len(parts) == 1 and parts[0].dead is None
        self._state = _State(tuple(parts), parts[0].documents if whole else joined(parts))

    # What is in it

    @property
    def corpus(self) -> Corpus:
        return self._state.corpus

    @property
    def _members(self) -> tuple[TokenMember, ...]:
        return self._state.members

    @property
    def n_tokens(self) -> int:
        """How many tokens it holds, those of deleted documents among them."""
        return sum(member.n_tokens for member in self._members)

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens, without texts and codec."""
        return sum(column.nbytes for member in self._members for column in (*member.columns.values(), member.offsets))

    @property
    def truncated_tokens(self) -> NDArray[np.int32]:
        """int32, one a row of the corpus: the tokens that the encoder cut off."""
        return np.concatenate([np.empty(0, np.int32), *(member.truncated for member in self._members)])

    def tokens(self, row: int) -> NDArray[np.float32]:
        """float32 [length, dim] of a row of the corpus, decoded. Raises InputError."""
        state = self._state
        picked("TokenIndex.tokens", [row], len(state.corpus))
        for member in state.members:
            if row < member.n_rows:
                break
            row -= member.n_rows
        return member.decoded(row)

    def stats(self) -> dict[str, Any]:
        """{"documents", "deleted", "segments", "tokens", "dim", "storage", "centroids", "bytes", "bytes_per_token", "bytes_per_document"};
        bytes: as `nbytes`, per token and document of those that are there, deleted or not."""
        parts = self._members
        rows, live, tokens = (sum(getattr(member, name) for member in parts) for name in ("n_rows", "n_live", "n_tokens"))
        size = sum(column.nbytes for member in parts for column in (*member.columns.values(), member.offsets))
        return {
            "documents": live,
            "deleted": rows - live,
            "segments": len(parts),
            "tokens": tokens,
            "dim": self.dim,
            "storage": self.storage,
            "centroids": 0 if self.codec is None else len(self.codec.centroids),
            "bytes": size,
            "bytes_per_token": size / max(tokens, 1),
            "bytes_per_document": size / max(rows, 1),
        }

    # Scoring and searching

    def score(
        self,
        query: Any,
        rows: ArrayLike | None = None,
        *,
        query_mask: ArrayLike | None = None,
        query_weights: ArrayLike | None = None,
        precision: str = "auto",
        num_threads: int | None = None,
        backend: str = "auto",
    ) -> NDArray[np.float32]:
        """MaxSim of a query float [q, dim] with rows of the corpus, float32 [m], in their order; None: with all. No token is copied.

        precision: of residual codes, see rr.ops.residual_maxsim. Rows of deleted documents are scored as any; what the deadline of
        `rr.limited` left has NaN. Raises InputError, NonFiniteError.
        """
        options: dict[str, Any] = {"query_mask": query_mask, "query_weights": query_weights, "num_threads": num_threads}
        return token_search.score(self._members, query, rows, precision=precision, backend=backend, **options)

    def search(
        self,
        queries: Sequence[Any],
        k: int,
        *,
        filters: Sequence[NDArray[np.bool_] | None] | None = None,
        num_threads: int | None = None,
        precision: str = "auto",
        probe: Probe = "auto",
        candidates: int | None = None,
    ) -> list[Hits]:
        """The hits of `search_explained`, with the same options."""
        options: dict[str, Any] = {"filters": filters, "num_threads": num_threads, "precision": precision, "candidates": candidates}
        return [hits for hits, _ in self.search_explained(queries, k, probe=probe, **options)]

    def search_explained(
        self,
        queries: Sequence[Any],
        k: int,
        *,
        filters: Sequence[NDArray[np.bool_] | None] | None = None,
        num_threads: int | None = None,
        precision: str = "auto",
        probe: Probe = "auto",
        candidates: int | None = None,
    ) -> list[tuple[Hits, Plan]]:
        """Per query float [q, dim]: (rows int64 [m], scores float32 [m]), m = min(k, n), best first, ties by row; and how it was searched.

        filters: per query a bool for each row that tells which may be found, or None for all. Documents without tokens are not found.
        probe: centroids of residual codes looked at a query token (see token_probe); None: every document is scored; "auto": what costs
        less. candidates: scored exactly then; None: 4 k, at least 128. Raises InputError, NonFiniteError, FileFormatError.
        """
        options: dict[str, Any] = {"filters": filters, "num_threads": num_threads, "precision": precision}
        return token_search.search(self._members, queries, k, codec=self.codec, probe=probe, candidates=candidates, **options)

    def top(
        self,
        query: Any,
        k: int,
        rows: ArrayLike | None = None,
        *,
        query_mask: ArrayLike | None = None,
        query_weights: ArrayLike | None = None,
        num_threads: int | None = None,
    ) -> CertifiedTop:
        """The k best of rows of the corpus (None: of all that are not deleted), certified: see rr.ops.certified_top."""
        options: dict[str, Any] = {"query_mask": query_mask, "query_weights": query_weights, "num_threads": num_threads}
        return token_search.top(self._members, query, k, rows, **options)

    # Changing it

    def add(self, documents: Iterable[Document], *, progress: Progress | None = None) -> int:
        """Encodes documents and adds them behind those that are there, all or none of them. Returns how many.

        In a folder what is added goes to disk batch by batch, so memory stays bounded. progress(done, 0) is called now and then. Raises
        DuplicateIdError, InputError (no encoder, another dimension), NonFiniteError.
        """
        make = self._maker("add", progress)
        with self._changing(), self._adopting():
            parts, n = self._added(self._members, batches(documents, "TokenIndex.add"), make, progress)
            self._set(parts)
        return n

    def add_embeddings(self, documents: Sequence[Document], embeddings: Any) -> int:
        """Adds documents whose token vectors are there: a Packed, or arrays [length, dim] in any iterable. The rest as for `add`."""
        new = Corpus(documents)
        if hasattr(embeddings, "__len__") and len(embeddings) != len(new):
            got = f"{len(new)} documents and {len(embeddings)} rows"
            raise InputError("TokenIndex.add_embeddings", got=got, expected="one row a document")
        encoded = given("TokenIndex.add_embeddings", embeddings)
        if not len(new) and next(encoded, None) is not None:
            raise InputError("TokenIndex.add_embeddings", got="no document and some rows", expected="one row a document")
        with self._changing():
            parts, n = self._added(self._members, [list(new)] if len(new) else [], lambda batch: self._member(batch, encoded), None)
            self._set(parts)
        return n

    def update(self, documents: Iterable[Document], *, progress: Progress | None = None) -> int:
        """Replaces the documents that have these ids, and adds those that are new, behind all others. All or none of them."""
        make = self._maker("update", progress)
        with self._changing(), self._adopting():
            new, state = Corpus(documents), self._state
            rows = [state.corpus.row(document.id) for document in new if document.id in state.corpus]
            parts, n = self._added(without(state.members, rows), batches(new, "TokenIndex.update"), make, progress)
            self._set(parts)
        return n

    def rollback(self) -> None:
        super().rollback()
        assert self._folder is not None
        self.made_by = self._folder.settings["encoder"]

    @contextlib.contextmanager
    def _adopting(self) -> Iterator[None]:
        """The encoder of the first documents of an index is the one that made it, unless they fail."""
        before = self.made_by
        if before is None and not self._members:
            self.made_by = maker_of(self.encoder)
        try:
            yield
        except BaseException:
            self.made_by = before
            raise

    def _maker(self, verb: str, progress: Progress | None) -> Callable[[list[Document]], TokenMember]:
        what, encoder, done = f"TokenIndex.{verb}", self.encoder, 0
        if encoder is None:
            hint = "Pass encoder= to `open` or `create`, or use add_embeddings."
            raise InputError(what, got="no encoder", expected="one", hint=hint)
        self.require_encoder(what, encoder)

        def make(batch: list[Document]) -> TokenMember:
            nonlocal done
            encoded = encodes(what, encoder, pieces([document.passage for document in batch]), progress=progress, done=done)
            done += len(batch)
            return self._member(batch, encoded)

        return make

    def _member(self, batch: list[Document], encoded: Iterator[Encoded]) -> TokenMember:
        columns, corpus = token_build.Columns(encoded, self.storage, self.codec, len(batch), self.dim, self.made_by), Corpus(batch)
        if self._folder is None or len(batch) <= token_build.BATCH:
            return columns.member(corpus)
        path = self._folder.new_file()
        token_build.write_stream(path, columns, corpus, self.kind)
        return self.kind.read(path, name=path.name)[0]

    @classmethod
    def check(cls, path: str | Path, progress: Progress | None = None) -> dict[str, Any]:
        """Reads every byte of a file or folder and looks at every number. {"path", "segments", "documents", "deleted", "tokens", "storage",
        "bytes"}; raises FileFormatError, which names the file, for the first thing that is wrong."""
        path = Path(path)
        cls.open(path)  # what its parts say of each other
        parts, size = checked(path, TokenFiles.of_folder(path, verify=True), progress)
        live, rows = sum(part.n_live for part in parts), sum(part.n_rows for part in parts)
        tokens, storage = sum(part.n_tokens for part in parts), parts[0].storage if parts else "none"
        return {"path": str(path), "segments": len(parts), "documents": live, "deleted": rows - live, "tokens": tokens, "storage": storage,
                "bytes": size}  # fmt: skip

    def __repr__(self) -> str:
        told = self.stats()
        codec = f", {told['centroids']} centroids" if self.codec is not None else ""
        parts = f", {told['segments']} segments" if told["segments"] != 1 else ""
        per = f", {told['bytes_per_token']:.1f} bytes a token, {told['bytes_per_document']:.0f} a document" if told["tokens"] else ""
        return f"TokenIndex({told['documents']} documents, {told['tokens']} tokens x {self.dim}, {self.storage}{codec}{parts}{per})"
