"""Postings of tokenised documents: the plain form that the reference reads, and the packed segment that the C++ core searches."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import choose
from ..errors import FileFormatError, InputError
from ..packed import Packed
from . import checks

# The arrays of a packed segment with their dtypes; csrc/postings.hpp says what lies in them. The forward lists are optional.
SECTIONS = {
    "terms": np.dtype(np.uint8),
    "blocks": np.dtype(np.uint8),
    "payload": np.dtype(np.uint8),
    "lengths": np.dtype(np.uint32),
    "dense_terms": np.dtype(np.uint32),
    "dense": np.dtype(np.uint8),
}
FORWARD = {"forward_offsets": np.dtype(np.int64), "forward": np.dtype(np.uint8)}
META = ("n_postings", "shortest", "longest", "k1", "b", "mean", "codes")


@dataclass(frozen=True, slots=True, eq=False)
class Postings:
    """Compressed sparse rows: term t stands in documents rows[term_offsets[t]:term_offsets[t + 1]], counts times each.

    term_offsets int64 [n_terms + 1]; rows uint32 [n_postings], ascending within a term; counts uint32 [n_postings], at least 1.
    """

    term_offsets: NDArray[np.int64]
    rows: NDArray[np.uint32]
    counts: NDArray[np.uint32]

    @classmethod
    def of(cls, documents: Packed, n_terms: int, counts: NDArray[np.uint32] | None = None) -> Postings:
        """Counts with numpy alone: what packed segments are checked against."""
        owner = np.repeat(np.arange(len(documents)), documents.lengths)
        pairs, place = np.unique(documents.values.astype(np.int64) * len(documents) + owner, return_inverse=True)
        found = np.bincount(place, counts, minlength=len(pairs))
        term_offsets = np.zeros(n_terms + 1, np.int64)
        np.cumsum(np.bincount(pairs // len(documents), minlength=n_terms), out=term_offsets[1:])
        return cls(term_offsets, (pairs % len(documents)).astype(np.uint32), found.astype(np.uint32))


class Segment:
    """Postings and lengths of documents 0..n-1 over term ids 0..n_terms-1; never changes.

    `Segment.build` makes one. Packed (backend cpp): blocks of 128 bit-packed postings with (tf, length) maxima, one impact code of a byte
    per posting where codes=True, optional forward lists (document -> terms); `sections` and `meta` are its arrays and numbers as a file
    keeps them. Plain (backend reference): `postings()` alone. k1, b and the variant of a search are not part of it.
    """

    def __init__(
        self, lengths: NDArray[np.uint32], *, sections: Mapping[str, NDArray[Any]] | None, meta: Mapping[str, Any], plain: Postings | None
    ) -> None:
        self.lengths, self.sections, self.meta, self._plain = lengths, sections, meta, plain

    @classmethod
    def build(
        cls,
        documents: Packed,
        n_terms: int,
        *,
        codes: bool = True,
        forward: bool = False,
        k1: float = 1.2,
        b: float = 0.75,
        variant: str = "lucene",
        counts: ArrayLike | None = None,
        backend: str = "auto",
    ) -> Segment:
        """documents: int32 term ids of each document, each id in [0, n_terms). codes=False saves a byte per posting and searches slower.
        k1, b, variant: what the codes are made for. They bound the scores of other parameters too, but the further off, the less tightly.
        counts: uint32 [total], for how many tokens each id stands, at least 1; by default 1. Not with forward lists.

        Raises InputError for an empty corpus, an id outside, 2^30 documents and more, or a document of 2^32 tokens and more.
        """
        if isinstance(n_terms, bool) or not isinstance(n_terms, (int, np.integer)) or not 0 <= n_terms < 2**31:
            raise InputError("bm25: n_terms", got=n_terms, expected="an integer of at least 0, below 2^31")
        checks.instance("bm25: documents", documents, Packed)
        if not 0 < len(documents) <= 2**30:
            got = "an empty corpus" if len(documents) == 0 else f"{len(documents)} documents"
            raise InputError("bm25: documents", got=got, expected="1 to 2^30 documents", hint="Larger corpora take several segments.")
        tokens = checks.integers("bm25: document tokens", documents.values, np.int32)
        check_ids("bm25: document tokens", tokens, n_terms)
        lengths, many = documents.lengths.astype(np.uint32), None
        if counts is not None:
            lengths, many = _counted(documents, counts, forward)
        if choose("bm25", backend) == "reference":
            meta = {"n_postings": 0, "codes": False}
            return cls(lengths, sections=None, meta=meta, plain=Postings.of(Packed(tokens, documents.offsets), int(n_terms), many))
        from .. import _native

        how = coding(k1, b, variant), (bool(codes), bool(forward)), () if many is None else (many,)
        made = _native.write_segment(tokens, documents.offsets, int(n_terms), *how[0], *how[1], *how[2])
        return cls.of(made["sections"], made["meta"])

    @classmethod
    def of(cls, sections: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> Segment:
        """A packed segment from its arrays, of memory or of a mapped file."""
        return cls(sections["lengths"], sections=sections, meta=meta, plain=None)

    @functools.cached_property
    def native(self) -> Any:
        """The C++ view of the arrays. What is read is checked as it is read, so opening costs nothing."""
        from .. import _native

        if self.sections is None:
            raise InputError("bm25", got="a plain segment", expected="a packed one", hint='Build it with backend="cpp".')
        return _native.Segment(dict(self.sections), dict(self.meta))

    def postings(self) -> Postings:
        """All of it in the plain form. Raises FileFormatError when the segment is damaged."""
        if self._plain is not None:
            return self._plain
        try:
            return Postings(*self.native.decode())
        except RuntimeError as error:
            raise damaged(error) from error

    def document_frequency(self, terms: NDArray[Any]) -> NDArray[np.int64]:
        """int64 [n]: how many documents hold each term id."""
        if self.sections is None:
            return np.asarray(np.diff(self.postings().term_offsets)[terms])
        df = self.sections["terms"].view(np.uint32)[::4]  # the first field of each entry; its top bit is a flag
        return np.asarray(df[terms] & np.uint32(0x7FFFFFFF), np.int64)

    def frequency(self, term: int, row: int) -> int:
        """How often a term stands in a document."""
        if self._plain is None:
            try:
                return int(self.native.frequency(term, row))
            except RuntimeError as error:
                raise damaged(error) from error
        places = slice(self._plain.term_offsets[term], self._plain.term_offsets[term + 1])
        at = np.flatnonzero(self._plain.rows[places] == row)
        return int(self._plain.counts[places][at[0]]) if len(at) else 0

    def terms_of(self, rows: NDArray[np.int64]) -> list[tuple[NDArray[np.uint32], NDArray[np.uint32]]]:
        """(term ids ascending, counts) of each document, from the forward lists."""
        try:
            offsets, terms, counts = self.native.forward(np.ascontiguousarray(rows, np.int64))
        except RuntimeError as error:
            raise damaged(error) from error
        return [(terms[a:b], counts[a:b]) for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist())]

    @property
    def has_forward(self) -> bool:
        return self.sections is not None and "forward" in self.sections

    @property
    def n_terms(self) -> int:
        return len(self._plain.term_offsets) - 1 if self._plain is not None else len(self.sections["terms"]) // 16  # type: ignore[index]

    @property
    def n_postings(self) -> int:
        return len(self._plain.rows) if self._plain is not None else int(self.meta["n_postings"])

    @property
    def nbytes(self) -> int:
        """Bytes of the packed arrays."""
        return sum(section.nbytes for section in (self.sections or {}).values())

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.lengths)


def _counted(documents: Packed, counts: ArrayLike, forward: bool) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """(lengths, counts), both uint32."""
    many = checks.integers("bm25: counts", counts)
    if many.shape != documents.values.shape or (many.size and not 1 <= int(many.min()) <= int(many.max()) < 2**32):
        got = f"{many.size} from {many.min(initial=1)} to {many.max(initial=1)}"
        raise InputError("bm25: counts", got=got, expected=f"{documents.values.size}, one a token, from 1 to 2^32 - 1")
    if forward:
        raise InputError("bm25: forward lists", got="counts", expected="tokens alone", hint="Take forward=False.")
    lengths = np.diff(np.concatenate(([0], np.cumsum(many)))[documents.offsets])
    if int(lengths.max(initial=0)) >= 2**32:
        raise InputError("bm25: counts of a document", got=f"{lengths.max()} together", expected="less than 2^32")
    return lengths.astype(np.uint32), many.astype(np.uint32)


def coding(k1: float, b: float, variant: str = "lucene") -> tuple[float, float]:
    """The k1 and b that impact codes are made with: those of the index; codes need a k1 that is not next to 0. (0, 0): codes that are the
    counts themselves, for the variant "impact"."""
    return (0.0, 0.0) if variant == "impact" else (max(float(k1), 0.01), float(b))


def check_ids(name: str, ids: NDArray[Any], end: int) -> None:
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= end):
        raise InputError(name, got=f"ids from {ids.min()} to {ids.max()}", expected=f"term ids from 0 to {end - 1}")


def damaged(error: Exception) -> FileFormatError:
    """What to raise when the core finds that the bytes of a segment contradict themselves."""
    return FileFormatError("index", got=f"damaged postings ({error})", expected="an index as it was written", hint="Build it again.")
