"""How a TokenIndex is made: encoded documents become columns, batch by batch, in memory or in a file."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..codec import ResidualCodec
from ..corpus import Corpus, require_documents
from ..errors import InputError
from ..ops import checks
from ..ops.tokens import array
from ..packed import Packed
from ..progress import Progress
from .documents import require_json, write_documents
from .files import Writer
from .token_members import KIND, STORAGES, TokenFiles, TokenMember, columns_of, fingerprint, nbits_of, norms_of, require_unit

BATCH = 256  # documents that are encoded at a time
SAMPLE = 1 << 27  # numbers of the tokens that a codec is trained on, at most: half a gigabyte
Encoded = tuple[Packed, NDArray[np.int32]]  # tokens of documents, and how many of each the encoder cut off


class Encoder(Protocol):
    """What an index is built with: `rr.load` of a ColBERT model returns one."""

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> tuple[Packed, NDArray[np.int32]]: ...


def encodes(
    what: str,
    encoder: Encoder | None,
    texts: Iterable[Sequence[str]],
    *,
    progress: Progress | None = None,
    done: int = 0,
    total: int = 0,
) -> Iterator[Encoded]:
    """Batches of texts, encoded when they are asked for. progress(done, total) counts documents, from `done` on. Raises InputError at once
    for what is no encoder."""
    if not callable(getattr(encoder, "encode_documents", None)):
        expected = "one with encode_documents, such as rr.load(...) of a ColBERT model"
        raise InputError(f"{what}: encoder", got=type(encoder).__name__, expected=expected)

    def run() -> Iterator[Encoded]:
        nonlocal done
        assert encoder is not None
        for batch in texts:
            packed, dropped = encoder.encode_documents(batch, **_inside(progress, done, total))
            if len(packed) != len(batch) or len(dropped) != len(batch):
                got = f"tokens of {len(packed)} documents and {len(dropped)} counts of what was cut off"
                raise InputError(f"{what}: encoder", got=got, expected=f"{len(batch)} of each, one a text")
            done += len(batch)
            if progress:
                progress(done, total)
            yield packed, dropped

    return run()


def _inside(progress: Progress | None, done: int, total: int) -> dict[str, Progress]:
    """What tells an encoder to report from within a batch."""
    return {} if progress is None else {"progress": lambda n, _: progress(done + n, total)}


def maker_of(encoder: Encoder | None) -> dict[str, str] | None:
    """What an index keeps of its encoder, where that says what it is: {"model", "fingerprint"}."""
    fingerprint, model = getattr(encoder, "fingerprint", None), getattr(encoder, "model", "")
    place = os.path.abspath(model) if os.path.isdir(str(model)) else str(model)
    return {"model": place, "fingerprint": fingerprint} if isinstance(fingerprint, str) else None


def require_maker(what: str, maker: Mapping[str, str] | None, dim: int, encoder: Any) -> None:
    """Raises InputError for an encoder whose vectors would mean nothing to those of an index, as far as both say what they are."""
    own = getattr(encoder, "dim", dim)
    if own != dim:
        raise InputError(f"{what}: encoder", got=f"vectors of dimension {own}", expected=f"{dim}, as the index has")
    other = maker_of(encoder)
    if maker is not None and other is not None and other["fingerprint"] != maker["fingerprint"]:
        got, expected = (f"'{one['model']}' ({one['fingerprint']})" for one in (other, maker))
        hint = "Another model or settings of documents would compare what means nothing."
        raise InputError(f"{what}: encoder", got=got, expected=f"{expected}, which made the index", hint=hint)


def given(what: str, rows: Any) -> Iterator[Encoded]:
    """Token vectors that are there already, batch by batch: a Packed, or arrays [length, dim] in any iterable."""
    if isinstance(rows, str) or not isinstance(rows, Iterable):
        raise InputError(f"{what}: documents", got=type(rows).__name__, expected="a Packed, or arrays [length, dim], one a document")
    return ((packed_rows(what, batch), np.zeros(len(batch), np.int32)) for batch in batched(iter(rows)))


def packed_rows(what: str, rows: Sequence[Any]) -> Packed:
    """Documents [length, dim] behind one another; one without tokens may have any shape."""
    arrays = [array(f"{what}: tokens of a document", row) for row in rows]
    wrong = next((a for a in arrays if a.size and a.ndim != 2), None)
    dims = {a.shape[1] for a in arrays if a.size and a.ndim == 2}
    if wrong is not None or len(dims) > 1:
        got = f"shape {list(wrong.shape)}" if wrong is not None else f"dimensions {sorted(dims)}"
        raise InputError(f"{what}: tokens of a document", got=got, expected="[length, dim], with one dim for all")
    offsets = np.concatenate([[0], np.cumsum([len(a) if a.size else 0 for a in arrays])]).astype(np.int64)
    filled = [a for a in arrays if a.size]
    return Packed(np.concatenate(filled) if filled else np.empty((0, 0), np.float32), offsets)


def prepared(what: str, corpus: Corpus, storage: str, codec: ResidualCodec | None, path: str | Path | None) -> int | None:
    """Refuses what can be refused before any document is encoded. The bits of residual codes, or None."""
    require_documents(what, corpus)
    nbits = nbits_of(checks.one_of("TokenIndex: storage", storage, STORAGES))
    if codec is not None:
        require_codec(storage, getattr(codec, "dim", 0), codec)
    if path is not None:
        place = Path(path)
        if place.is_dir():
            raise InputError(f"index file {path}", got="a folder", expected="a file to write", hint="TokenIndex.create makes a folder.")
        if not place.absolute().parent.is_dir():
            raise InputError(f"index file {path}", got="no such folder", expected="a place that can be written")
        for document in corpus:
            require_json(document)
    return nbits


def sample_rows(n: int) -> NDArray[np.int64]:
    """The documents that a codec of n documents is trained on, as many as colbert-ai takes, in random order."""
    return np.random.default_rng(0).permutation(n)[: 1 + int(16 * np.sqrt(120 * n))]


class Sample:
    """Documents that a codec is trained on: no more than SAMPLE numbers and the batch that brings them there. Kept, so that a build need
    not encode them again. encoded: the documents of sample_rows(n), as far as they are asked for."""

    def __init__(self, encoded: Iterable[Encoded], n: int) -> None:
        parts, lengths, truncated, size = list[NDArray[np.float32]](), list[NDArray[np.int64]](), list[NDArray[np.int32]](), 0
        for packed, cut in encoded:
            values = tokens_of(packed, parts[0].shape[1] if parts else None)
            lengths.append(packed.lengths)
            truncated.append(cut)
            if len(values):
                require_unit(values)
                parts.append(values)
            size += values.size
            if size >= SAMPLE:
                break
        if not parts:
            raise InputError("TokenIndex: tokens", got="none in the documents of the sample", expected="some, to train a codec with")
        self.tokens, self._n = Packed(np.concatenate(parts), np.concatenate([[0], *lengths]).cumsum()), n
        self._truncated = np.concatenate(truncated)
        self._places = {row: place for place, row in enumerate(sample_rows(n)[: len(self.tokens)].tolist())}

    def codec(self, nbits: int, n_centroids: int | None) -> ResidualCodec:
        n_tokens = int(len(self.tokens.values) * self._n / len(self.tokens))
        return ResidualCodec.train(self.tokens.values, nbits, n_centroids, n_tokens=n_tokens)

    def completed(self, what: str, encoder: Encoder, corpus: Corpus, progress: Progress | None) -> Iterator[Encoded]:
        """All documents in their order, the others encoded now."""
        batches = [rows.tolist() for rows in pieces(np.arange(self._n))]
        new = ([row for row in rows if row not in self._places] for rows in batches)
        texts = (corpus.texts(np.array(rows, np.int64)) for rows in new if rows)
        encoded = encodes(what, encoder, texts, progress=progress, done=len(self._places), total=self._n)
        fresh: Iterator[tuple[NDArray[np.float32], int]] = iter(())
        for rows in batches:
            if any(row not in self._places for row in rows):
                packed, cut = next(encoded)
                fresh = zip(packed, cut.tolist())
            places = [self._places.get(row) for row in rows]
            tokens, cuts = zip(*(next(fresh) if at is None else (self.tokens[at], self._truncated[at]) for at in places))
            yield packed_rows(what, tokens), np.array(cuts, np.int32)


def tokens_of(packed: Packed, dim: int | None) -> NDArray[np.float32]:
    """float32 [total, dim], checked. dim: None while it is not known."""
    checks.instance("TokenIndex: tokens", packed, Packed)
    if not packed.values.size:
        return np.empty((0, dim or 0), np.float32)
    values = checks.floats("TokenIndex: tokens", packed.values, 2)
    if dim is not None and values.shape[1] != dim:
        raise InputError("TokenIndex: tokens", got=f"dimension {values.shape[1]}", expected=f"{dim}, as the index has")
    return values


def tokens_first(encoded: Iterator[Encoded]) -> Iterator[Encoded]:
    """The same, with documents at the beginning that have no token in one batch with the first that has: it tells the dimension."""
    empty = 0
    cut = list[NDArray[np.int32]]()
    for packed, truncated in encoded:
        if not packed.values.size:
            empty += len(packed)
            cut.append(truncated)
            continue
        offsets = np.concatenate([np.zeros(empty, np.int64), packed.offsets])
        yield Packed(packed.values, offsets), np.concatenate([*cut, truncated]).astype(np.int32)
        yield from encoded
        return
    if empty:
        yield Packed(np.empty((0, 0), np.float32), np.zeros(empty + 1, np.int64)), np.concatenate(cut)


class Columns(Iterator[dict[str, NDArray[Any]]]):
    """The columns of batches of encoded documents. When it is at its end, it knows offsets and truncated. Checks what comes."""

    def __init__(
        self,
        encoded: Iterator[Encoded],
        storage: str,
        codec: ResidualCodec | None,
        n: int,
        dim: int | None = None,
        maker: Mapping[str, str] | None = None,
    ) -> None:
        self._encoded, self._maker = encoded if dim is not None else tokens_first(encoded), maker
        self._storage, self._codec, self._n, self._dim, self._n_rows = storage, codec, n, dim, 0
        self._lengths, self._truncated = list[NDArray[np.int64]](), list[NDArray[np.int32]]()
        self._norms = list[NDArray[np.float32]]()

    def __next__(self) -> dict[str, NDArray[Any]]:
        batch = next(self._encoded, None)
        n_rows = self._n_rows + (0 if batch is None else len(batch[0]))
        if n_rows > self._n or (batch is None and n_rows < self._n):
            got = f"embeddings of {'more than ' if n_rows > self._n else ''}{min(n_rows, self._n)} documents"
            raise InputError("TokenIndex: embeddings", got=got, expected=f"{self._n}, one a document")
        if batch is None:
            raise StopIteration
        packed, truncated = batch
        values = tokens_of(packed, self._dim)
        if self._dim is None:
            if not values.size:
                raise InputError("TokenIndex: tokens", got="no token in any document", expected="some, to know the dimension by")
            require_codec(self._storage, values.shape[1], self._codec)
            self._dim = values.shape[1]
        columns = columns_of(values, self._storage, self._codec)
        self._n_rows = n_rows
        self._lengths.append(packed.lengths)
        self._truncated.append(truncated)
        self._norms.append(norms_of(columns, packed.lengths))
        return columns

    @property
    def norms(self) -> NDArray[np.float32]:
        return np.concatenate([np.empty(0, np.float32), *self._norms])

    @property
    def dim(self) -> int:
        return int(self._dim or 0)

    @property
    def offsets(self) -> NDArray[np.int64]:
        return np.concatenate([[0], *self._lengths]).cumsum().astype(np.int64)

    @property
    def truncated(self) -> NDArray[np.int32]:
        return np.concatenate([np.empty(0, np.int32), *self._truncated]).astype(np.int32)

    def member(self, corpus: Corpus) -> TokenMember:
        """All of them, in memory."""
        parts = list(self)
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return TokenMember(self._storage, self.dim, columns, self.offsets, self.truncated, self.norms, corpus, self._codec)

    @property
    def settings(self) -> dict[str, Any]:
        return {"storage": self._storage, "dim": self.dim, "codec": fingerprint(self._codec), "encoder": self._maker}

    @property
    def codec(self) -> ResidualCodec | None:
        return self._codec


def write_stream(path: Path, batches: Columns, corpus: Corpus, files: TokenFiles) -> None:
    """A file of columns as they come: the first column at once, the smaller ones by way of temporary files, so that memory stays
    bounded."""
    first = next(batches)
    leading, *others = first
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(Writer(path, KIND))
        spools = {name: stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for name in others}

        def column() -> Iterator[NDArray[Any]]:
            batch: dict[str, NDArray[Any]] | None = first
            while batch is not None:
                for name, spool in spools.items():
                    spool.write(batch[name].tobytes())
                yield batch[leading]
                batch = next(batches, None)

        file.add(leading, first[leading].dtype, column())
        for name, spool in spools.items():
            spool.seek(0)
            file.add(name, first[name].dtype, _read(spool, first[name].dtype))
        files.write_rest(file, batches.codec, batches.offsets, batches.truncated, batches.norms, batches.settings)
        write_documents(file, corpus)


def _read(spool: IO[bytes], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    while piece := spool.read(1 << 22):
        yield np.frombuffer(piece, dtype)


def require_codec(storage: str, dim: int, codec: ResidualCodec | None) -> None:
    nbits = nbits_of(storage)
    if codec is not None:
        checks.instance("TokenIndex: codec", codec, ResidualCodec)
    if (codec is None) == bool(nbits) or (codec is not None and (codec.nbits, codec.dim) != (nbits, dim)):
        expected = f"one of {nbits} bits{f' and dimension {dim}' if dim else ''}" if nbits else f"none for {storage}"
        raise InputError(
            "TokenIndex: codec", got=repr(codec), expected=expected, hint="TokenIndex.train_codec(corpus, encoder, storage) makes one."
        )


def pieces(rows: Any) -> Iterator[Any]:
    """Slices of BATCH."""
    return (rows[at : at + BATCH] for at in range(0, len(rows), BATCH))


def batched(rows: Iterator[Any]) -> Iterator[list[Any]]:
    batch = list[Any]()
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def counted(encoded: Iterable[Encoded], total: int, progress: Progress | None) -> Iterator[Encoded]:
    done = 0
    for batch in encoded:
        yield batch
        done += len(batch[0])
        if progress:
            progress(done, total)
