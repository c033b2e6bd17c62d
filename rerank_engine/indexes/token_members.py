"""One member of a TokenIndex: the tokens of its documents as columns, one entry a token, and the rows deleted from them."""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codec import ResidualCodec, ResidualTokens
from ..corpus import Corpus, Document
from ..errors import FileFormatError, InputError
from ..ops.certified import token_norms
from ..ops.maxsim import quantize_int8
from ..ops.tokens import PackedTokens, ranges
from ..packed import Packed
from .documents import StoredCorpus, problem_of, write_documents
from .files import Stored, Writer, open_file, require_sound
from .token_probe import Lists, lists_of

KIND, DEAD_KIND, CODEC_KIND, CODEC_FILE = "token-segment", "token-deleted", "token-codec", "codec"
CODES = ("4bit", "2bit", "1bit")
STORAGES = ("float32", "float16", "int8", *CODES)
_CODEC = ("centroids", "bucket_cutoffs", "bucket_weights")
_BLOCK = 1 << 22  # values that `check` looks at at a time


def nbits_of(storage: str) -> int | None:
    """The bits of residual codes, or None for plain vectors."""
    return int(storage[0]) if storage.endswith("bit") else None


def layout(storage: str, dim: int, codec: ResidualCodec | None) -> dict[str, tuple[Any, int]]:
    """Per column its dtype and how many values a token has."""
    if codec is not None:
        return {"residuals": (np.uint8, codec.bytes_per_token), "centroid_ids": (codec.id_dtype, 1), "inverse_norms": (np.float32, 1)}
    return {"values": (storage, dim), **({"scales": (np.float32, 1)} if storage == "int8" else {})}


def columns_of(tokens: NDArray[np.float32], storage: str, codec: ResidualCodec | None) -> dict[str, NDArray[Any]]:
    """Tokens float32 [n, dim] as they are stored. Raises InputError for codes of tokens that are not of unit length, NonFiniteError."""
    if codec is not None:
        require_unit(tokens)
        ids, residuals, inverse_norms = codec.encode(tokens)
        return {"residuals": residuals, "centroid_ids": ids, "inverse_norms": inverse_norms}
    if storage == "int8":
        values, scales = quantize_int8(tokens)
        return {"values": values, "scales": scales}
    with np.errstate(over="ignore"):
        stored = tokens.astype(storage)
    if storage == "float16" and not np.isfinite(stored).all():
        raise InputError("TokenIndex: float16", got="a value beyond 65504", expected="vectors of about unit length")
    return {"values": stored}


def require_unit(tokens: NDArray[np.float32]) -> None:
    norms = np.sqrt(np.einsum("td,td->t", tokens, tokens))
    if (np.abs(norms - 1) > 1e-2).any():
        got, expected = f"a token of length {norms[np.abs(norms - 1).argmax()]:.4g}", "unit length, which is all they keep"
        raise InputError("TokenIndex: residual codes", got=got, expected=expected, hint="Normalise the tokens.")


def norms_of(columns: Mapping[str, NDArray[Any]], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
    """Of documents with these lengths, whose tokens the columns hold: see `TokenMember`; none for codes."""
    if "values" not in columns:
        return np.empty(0, np.float32)
    return token_norms(Packed(columns["values"], np.concatenate([[0], lengths.cumsum()])), columns.get("scales"))


@dataclass(frozen=True, eq=False)
class TokenMember:
    """columns: see `layout`; offsets int64 [n + 1]; truncated int32 [n]: tokens that the encoder cut off; norms float32 [n]: the
    length of the longest token, or a little more, empty for residual codes, whose tokens are of length 1; dead: bool [n] or None;
    verify: see files.Stored; kept: what was made of the tokens, under `making`; both last through deletions."""

    storage: str
    dim: int
    columns: Mapping[str, NDArray[Any]]
    offsets: NDArray[np.int64]
    truncated: NDArray[np.int32]
    norms: NDArray[np.float32]
    documents: Corpus
    codec: ResidualCodec | None = None
    dead: NDArray[np.bool_] | None = None
    file: str | None = None
    dead_file: str | None = None
    verify: Callable[[], None] | None = None
    kept: dict[str, Lists] = field(default_factory=dict, repr=False)
    making: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def n_rows(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_live(self) -> int:
        return self.n_rows - (0 if self.dead is None else int(self.dead.sum()))

    @property
    def n_tokens(self) -> int:
        return int(self.offsets[-1])

    def delete(self, rows: Sequence[int]) -> TokenMember:
        dead = np.zeros(self.n_rows, bool) if self.dead is None else self.dead.copy()
        dead[list(rows)] = True
        return replace(self, dead=dead, dead_file=None)

    @cached_property
    def tokens(self) -> PackedTokens | ResidualTokens:
        """What the ops score."""
        if self.codec is not None:
            ids, norms = self.columns["centroid_ids"], self.columns["inverse_norms"]
            return ResidualTokens(self.codec, ids, self.columns["residuals"], norms, self.offsets)
        return PackedTokens(self.columns["values"], self.columns.get("scales", np.empty(0, np.float32)), self.offsets)

    @property
    def lists(self) -> Lists:
        """Of residual codes: the documents of each centroid, deleted ones among them; made when first asked for, once, while others that
        ask for them wait. Raises FileFormatError."""
        with self.making:
            if "lists" not in self.kept:
                assert isinstance(self.tokens, ResidualTokens)
                self.kept["lists"] = lists_of(self.tokens)
            return self.kept["lists"]

    def decoded(self, row: int) -> NDArray[np.float32]:
        """float32 [length, dim]. Raises FileFormatError for what a damaged file holds."""
        [start], [length] = ranges(self.offsets, np.array([row]))
        span = slice(int(start), int(start + length))
        if self.codec is not None:
            ids = self.columns["centroid_ids"][span]
            if length and not 0 <= int(ids.min()) <= int(ids.max()) < len(self.codec.centroids):
                raise FileFormatError("token index", got="a centroid that the codec does not have", expected="ids of the codec's centroids")
            return self.codec.decode(ids, self.columns["residuals"][span])
        values: NDArray[np.float32] = self.columns["values"][span].astype(np.float32)
        return values * self.columns["scales"][span, None] if "scales" in self.columns else values


def member_of(tokens: ResidualTokens, corpus: Corpus) -> TokenMember:
    """Of tokens that are compressed already, one document a row of the corpus. Raises InputError."""
    what = "TokenIndex.from_residual_tokens"
    if len(corpus) != len(tokens):
        raise InputError(what, got=f"{len(tokens)} documents for a corpus of {len(corpus)}", expected="one each")
    ids, n = tokens.centroid_ids, len(tokens.codec.centroids)
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < n:  # the cast below would wrap them
        got = f"centroid ids from {ids.min()} to {ids.max()}"
        raise InputError(what, got=got, expected=f"0 to {n - 1}, of the codec's centroids")
    columns = {"residuals": tokens.residuals, "centroid_ids": ids.astype(tokens.codec.id_dtype, copy=False),
               "inverse_norms": tokens.inverse_norms}  # fmt: skip
    lost, norms = np.zeros(len(corpus), np.int32), np.empty(0, np.float32)
    return TokenMember(f"{tokens.codec.nbits}bit", tokens.dim, columns, tokens.offsets, lost, norms, corpus, tokens.codec)


def fingerprint(codec: ResidualCodec | None) -> int | None:
    """Tells one codec from another: the codes of one mean nothing to another."""
    if codec is None:
        return None
    crc = 0
    for name in _CODEC:
        crc = zlib.crc32(np.ascontiguousarray(getattr(codec, name)).view(np.uint8).data, crc)
    return crc


def codec_of(sections: Mapping[str, NDArray[Any]], dim: int) -> ResidualCodec:
    return ResidualCodec(sections["centroids"].reshape(-1, dim), sections["bucket_cutoffs"], sections["bucket_weights"])


def write_codec(folder: Path, codec: ResidualCodec) -> None:
    with Writer(folder / CODEC_FILE, CODEC_KIND) as file:
        for name in _CODEC:
            file.add(name, np.float32, [getattr(codec, name)])
        file.meta = {"dim": codec.dim, "codec": fingerprint(codec)}


class TokenFiles:
    """How members are read, written and merged. codec: the one that all of them share, which lies in their folder once; None for plain
    vectors, and for a file by itself, which holds its own."""

    def __init__(self, codec: ResidualCodec | None = None) -> None:
        self.codec = codec

    @classmethod
    def of_folder(cls, folder: Path, *, verify: bool = False, in_memory: bool = False) -> TokenFiles:
        """With the codec of a folder, where it has one."""
        path = folder / CODEC_FILE
        if not path.exists():
            return cls()
        stored = open_file(path, CODEC_KIND, verify=verify, in_memory=in_memory)
        with reading(path):
            return cls(codec_of(stored.sections, stored.meta["dim"]))

    def write(self, path: Path, member: TokenMember, settings: dict[str, Any]) -> None:
        """A member without deleted rows as a file."""
        assert member.dead is None
        require_sound([member])
        with Writer(path, KIND) as file:
            for name, column in member.columns.items():
                file.add(name, column.dtype, [column])
            self.write_rest(file, member.codec, member.offsets, member.truncated, member.norms, settings)
            write_documents(file, member.documents)

    def write_rest(
        self,
        file: Writer,
        codec: ResidualCodec | None,
        offsets: NDArray[np.int64],
        truncated: NDArray[np.int32],
        norms: NDArray[np.float32],
        settings: dict[str, Any],
    ) -> None:
        """What follows the columns, always in one order; the documents come last."""
        file.add("offsets", np.int64, [offsets])
        file.add("truncated", np.int32, [truncated])
        file.add("norms", np.float32, [norms])
        for name in _CODEC if codec is not None and self.codec is None else ():
            file.add(name, np.float32, [getattr(codec, name)])
        file.meta = {"settings": settings}

    def read(
        self, path: Path, *, name: str | None = None, verify: bool = False, in_memory: bool = False
    ) -> tuple[TokenMember, dict[str, Any]]:
        """A member and the settings of its index, without reading its tokens. Raises FileFormatError for a file that contradicts itself."""
        stored = open_file(path, KIND, verify=verify, in_memory=in_memory)
        with reading(path):
            settings = dict(stored.meta["settings"])
            return _member(path, stored, settings, name, self.codec), settings

    def write_dead(self, path: Path, member: TokenMember) -> None:
        assert member.dead is not None
        with Writer(path, DEAD_KIND) as file:
            file.add("dead", np.uint8, [np.packbits(member.dead, bitorder="little")])
            file.meta = {"segment": member.file}

    def read_dead(self, path: Path, member: TokenMember, name: str, *, verify: bool = False, in_memory: bool = False) -> TokenMember:
        stored = open_file(path, DEAD_KIND, verify=True, in_memory=in_memory)  # it is small, and is not verified again when it is merged
        bits = stored.sections.get("dead")
        if stored.meta.get("segment") != member.file or bits is None or bits.dtype != np.uint8 or len(bits) != (member.n_rows + 7) // 8:
            raise FileFormatError(str(path), got="deletions of another segment", expected=f"those of {member.file}")
        return replace(member, dead=np.unpackbits(bits, count=member.n_rows, bitorder="little").view(bool), dead_file=name)

    def merge(self, members: Sequence[TokenMember], path: Path | None, settings: dict[str, Any]) -> TokenMember:
        """One member with the live documents of several that follow one another, in memory, or in a file, run by run."""
        require_sound(members)
        first, runs = members[0], [(member, *run) for member in members for run in _live_runs(member)]

        def pieces(column: str) -> Iterator[NDArray[Any]]:
            for member, begin, end in runs:
                yield member.columns[column][int(member.offsets[begin]) : int(member.offsets[end])]

        for member in members:
            ranges(member.offsets, None)
        lengths = [np.diff(member.offsets[begin : end + 1]) for member, begin, end in runs]
        offsets = np.concatenate([np.zeros(1, np.int64), *lengths]).cumsum()
        truncated = np.concatenate([member.truncated[begin:end] for member, begin, end in runs])
        norms = np.concatenate([member.norms[begin:end] for member, begin, end in runs])
        if path is None:
            columns = {name: np.concatenate(list(pieces(name))) for name in first.columns}
            return TokenMember(first.storage, first.dim, columns, offsets, truncated, norms, Corpus(_live(members)), first.codec)
        with Writer(path, KIND) as file:
            for name, column in first.columns.items():
                file.add(name, column.dtype, pieces(name))
            self.write_rest(file, first.codec, offsets, truncated, norms, settings)
            write_documents(file, _live(members))
        return self.read(path, name=path.name)[0]

    def check(self, member: TokenMember, name: str) -> None:
        """Looks at every number and document. Raises FileFormatError."""
        problem = ""
        if (member.offsets[1:] < member.offsets[:-1]).any():
            problem = "offsets that step back"
        elif not (np.isfinite(member.norms) & (member.norms >= 0)).all():
            problem = "norms out of range"
        elif (member.truncated < 0).any():
            problem = "documents that lost less than no token"
        problem = problem or _column_problem(member) or _norms_problem(member) or problem_of(member.documents)
        if problem:
            raise FileFormatError(name, got=f"a damaged index: {problem}", expected="an index as it was written", hint="Build it again.")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """What contradicts itself in a file becomes FileFormatError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:  # an InputError of the codec is a ValueError
        raise FileFormatError(str(path), got=f"a damaged index ({error})", expected="an index file as it was written") from error


def _member(path: Path, stored: Stored, settings: Mapping[str, Any], name: str | None, codec: ResidualCodec | None) -> TokenMember:
    storage, dim, sections = settings["storage"], settings["dim"], stored.sections
    if storage not in STORAGES or type(dim) is not int or dim < 1:
        raise ValueError(f"storage {storage!r} of dimension {dim!r}")
    if not nbits_of(storage):
        codec = None
    elif codec is None:
        codec = codec_of(sections, dim)
    if codec is not None and (codec.nbits, codec.dim) != (nbits_of(storage), dim):
        raise ValueError(f"a codec of {codec.nbits} bits and dimension {codec.dim} for {storage} of dimension {dim}")
    offsets, truncated, documents = sections["offsets"], sections["truncated"], StoredCorpus(sections, str(path))
    norms = sections["norms"]
    if norms.dtype != np.float32 or len(norms) != (len(documents) if codec is None else 0):
        raise ValueError(f"{len(norms)} norms for {len(documents)} documents")
    if offsets.dtype != np.int64 or truncated.dtype != np.int32 or not len(offsets) == len(documents) + 1 == len(truncated) + 1:
        raise ValueError(f"{len(documents)} documents with {len(offsets)} offsets")
    columns = {}
    for column, (dtype, width) in layout(storage, dim, codec).items():
        flat = sections[column]
        if flat.dtype != dtype or len(flat) != int(offsets[-1]) * width:
            raise ValueError(f"{len(flat)} {flat.dtype} in {column} for {int(offsets[-1])} tokens")
        columns[column] = flat.reshape(-1, width) if column in ("values", "residuals") else flat
    if offsets[0] != 0:
        raise ValueError("offsets that do not start at 0")
    return TokenMember(storage, dim, columns, offsets, truncated, norms, documents, codec, file=name, verify=stored.verify)


def _live_runs(member: TokenMember) -> Iterator[tuple[int, int]]:
    """(begin, end) of rows that follow one another and are not deleted."""
    live = np.ones(member.n_rows, bool) if member.dead is None else ~member.dead
    edges = np.flatnonzero(np.diff(np.concatenate([[False], live, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist())


def _live(members: Sequence[TokenMember]) -> Iterator[Document]:
    for member in members:
        yield from member.documents if member.dead is None else compress(member.documents, (~member.dead).tolist())


def _column_problem(member: TokenMember) -> str:
    for name, values in member.columns.items():
        step = max(1, _BLOCK // max(1, values[:1].size))
        for at in range(0, member.n_tokens, step):
            block = values[at : at + step]
            if name == "centroid_ids" and member.codec is not None:
                right = int(block.min()) >= 0 and int(block.max()) < len(member.codec.centroids)
            else:
                right = block.dtype.kind != "f" or (bool(np.isfinite(block).all()) and (name == "values" or bool((block >= 0).all())))
            if not right:
                return f"{name} out of range"
    return ""


def _norms_problem(member: TokenMember) -> str:
    """Norms that are too small would drop documents from a certified top k; the last bits depend on the machine that wrote them."""
    if member.codec is None and (member.norms < norms_of(member.columns, np.diff(member.offsets)) * (1 - 2.0**-11)).any():
        return "norms that are not those of the tokens"
    return ""
