"""One member of a BM25 index: a segment of postings with its vocabulary, its documents and the rows deleted from it."""

from __future__ import annotations

import contextlib
import operator
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpus import Corpus, Document
from ..errors import FileFormatError, InputError
from ..ops.bm25 import Part
from ..ops.postings import FORWARD, META, SECTIONS, Segment, coding, damaged
from ..packed import Packed
from ..progress import Progress
from .documents import StoredCorpus, problem_of, string_table, write_documents
from .files import Stored, Writer, open_file, require_sound

KIND, DEAD_KIND = "bm25-segment", "bm25-deleted"
_PIECE = 1 << 24  # bytes of payload that a merge keeps in memory at a time


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """Documents as term ids with counts: terms int32 of each document, counts int64 [total], at least 1; truncated int32 [n]: tokens that
    each document lost before it became these."""

    terms: Packed
    counts: NDArray[np.int64]
    truncated: NDArray[np.int32]


Rows = Iterable[Sequence[Any]] | Packed | Counted


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """terms: sorted strings, term id = place; None where integers of the caller's are the terms. truncated: int32 [n] of what was made of
    `Counted` documents. file, dead_file: names in the folder; verify: see files.Stored."""

    part: Part
    terms: Any
    documents: Corpus
    term_arrays: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None
    file: str | None = None
    dead_file: str | None = None
    verify: Callable[[], None] | None = None
    truncated: NDArray[np.int32] | None = None

    @property
    def n_rows(self) -> int:
        return len(self.part.segment)

    @property
    def dead(self) -> NDArray[np.bool_] | None:
        return self.part.dead

    @property
    def n_live(self) -> int:
        return self.n_rows - (0 if self.part.dead is None else int(self.part.dead.sum()))

    def lookup(self, terms: Sequence[Any]) -> NDArray[np.int32]:
        """Term ids int32 [n], -1 for terms that no document holds."""
        if not len(terms) or not self.part.segment.n_terms:
            return np.full(len(terms), -1, np.int32)
        try:
            if self.terms is not None:
                found: NDArray[np.int32] = self.terms.find_all(list(terms))
                return found
            ids = np.array([int(term) if isinstance(term, str) else operator.index(term) for term in terms], np.int64)
        except RuntimeError as error:
            raise damaged(error) from error
        except (TypeError, ValueError, OverflowError) as error:
            expected = "integers, of which the index is made" if self.terms is None else "strings"
            raise InputError("BM25: terms", got=f"{list(terms)!r}", expected=expected) from error
        ids[ids.view(np.uint64) >= self.part.segment.n_terms] = -1  # negative ones are large without a sign
        return ids.astype(np.int32)

    def delete(self, rows: Iterable[int]) -> Member:
        """The same without these rows. Reads the member's postings once, to know each term's df without them."""
        dead = np.zeros(len(self.part.segment), bool) if self.part.dead is None else self.part.dead.copy()
        dead[list(rows)] = True
        part = Part(self.part.segment, dead)
        with reading():
            counts = part.segment.native.dead_frequencies(part.dead_bits)
        return replace(self, part=replace(part, dead_df=counts), dead_file=None)


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """What the core says of bytes that contradict themselves becomes FileFormatError."""
    try:
        yield
    except (RuntimeError, UnicodeDecodeError, IndexError, ArithmeticError) as error:
        raise damaged(error) from error


def strings(bytes_: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Any:
    from .. import _native

    return _native.Strings(bytes_, offsets, np.empty(0, np.uint32))


def make(documents: Corpus, rows: Rows, options: Mapping[str, Any], progress: Progress | None = None) -> Member:
    """From documents and the terms of each: strings, or integers that are term ids already. options: those of Segment.build."""
    if isinstance(rows, Counted):
        n_terms = int(rows.terms.values.max(initial=-1)) + 1
        segment = Segment.build(rows.terms, n_terms, counts=rows.counts, **options)
        return Member(Part(segment), None, documents, truncated=rows.truncated)
    if isinstance(rows, Packed):
        return Member(Part(Segment.build(rows, int(rows.values.max(initial=-1)) + 1, **options)), None, documents)
    tokens, lengths, vocabulary, ids = array("i"), array("q"), dict[str, int](), None
    for done, row in enumerate(rows, 1):
        if ids is None and len(row):
            ids = not isinstance(row[0], str)
        try:
            tokens.extend(row if ids else [vocabulary.setdefault(term, len(vocabulary)) for term in row])
        except (TypeError, OverflowError) as error:
            raise _bad_terms(str(error)) from error
        lengths.append(len(row))
        if progress and (done % 1000 == 0 or done == len(documents)):
            progress(done, len(documents))
    values = np.frombuffer(tokens, np.int32) if tokens else np.empty(0, np.int32)
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.frombuffer(lengths, np.int64) if lengths else [], out=offsets[1:])
    if ids:
        n_terms = int(values.max()) + 1
        if values.min() < 0:
            raise _bad_terms(str(values.min()))
        return Member(Part(Segment.build(Packed(values, offsets), n_terms, **options)), None, documents)
    try:
        ordered = sorted(vocabulary)  # by code point, which is the order of their UTF-8
    except TypeError as error:
        raise _bad_terms(str(error)) from error
    place = np.empty(len(ordered), np.int32)
    place[[vocabulary[term] for term in ordered]] = np.arange(len(ordered), dtype=np.int32)
    segment = Segment.build(Packed(place[values], offsets), len(ordered), **options)
    arrays = string_table(ordered)
    return Member(Part(segment), strings(*arrays) if segment.sections is not None else _Dictionary(ordered), documents, arrays)


def _bad_terms(got: str) -> InputError:
    return InputError("BM25Index: terms of a document", got=got, expected="strings in all documents, or integers of at least 0 in all")


class _Dictionary:
    """The vocabulary where the C++ core is not to be used."""

    def __init__(self, terms: Sequence[str]) -> None:
        self.terms, self._ids = terms, {term: i for i, term in enumerate(terms)}

    def __len__(self) -> int:
        return len(self.terms)

    def __getitem__(self, i: int) -> str:
        return self.terms[i]

    def find_all(self, terms: Sequence[str]) -> NDArray[np.int32]:
        return np.array([self._ids.get(term, -1) for term in terms], np.int32)


def write(path: Path, member: Member, settings: dict[str, Any]) -> None:
    """A member without deleted rows as a file."""
    segment = member.part.segment
    assert segment.sections is not None and member.part.dead is None
    require_sound([member])
    with Writer(path, KIND) as file:
        file.add("payload", np.uint8, [segment.sections["payload"]])
        _add_rest(file, segment.sections, segment.meta, member.term_arrays, settings, member.truncated)
        write_documents(file, member.documents)


def _add_rest(
    file: Writer,
    sections: Mapping[str, Any],
    meta: Mapping[str, Any],
    arrays: Any,
    settings: dict[str, Any],
    truncated: NDArray[np.int32] | None,
) -> None:
    """What follows the payload, which is there first as a merge writes it while it goes; always in one order."""
    for name, dtype in (SECTIONS | FORWARD).items():
        if name in sections and name != "payload":
            file.add(name, dtype, [sections[name]])
    if arrays is not None:
        file.add("vocabulary", np.uint8, [arrays[0]])
        file.add("vocabulary_offsets", np.int64, [arrays[1]])
    if truncated is not None:
        file.add("truncated", np.int32, [truncated])
    file.meta = {"segment": {key: meta[key] for key in META}, "settings": settings}


def read(path: Path, *, name: str | None = None, verify: bool = False, in_memory: bool = False) -> tuple[Member, dict[str, Any]]:
    """A member and the settings of its index. Raises FileFormatError for a file that contradicts itself."""
    stored = open_file(path, KIND, verify=verify, in_memory=in_memory)
    try:
        return _member(path, stored, name), dict(stored.meta["settings"])
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise FileFormatError(str(path), got=f"a damaged index ({error})", expected="an index file as it was written") from error


def _member(path: Path, stored: Stored, name: str | None) -> Member:
    sections, meta = stored.sections, stored.meta["segment"]
    wanted = {**SECTIONS, **(FORWARD if "forward" in sections else {})}
    for key, dtype in wanted.items():
        if sections[key].dtype != dtype:
            raise TypeError(f"the section {key} is of {sections[key].dtype}")
    segment = Segment.of({key: sections[key] for key in wanted}, {key: meta[key] for key in META})
    _ = segment.native  # what can be checked without reading the postings is checked as this is made
    documents = StoredCorpus(sections, str(path))
    if len(documents) != len(segment):
        raise ValueError(f"{len(documents)} documents and {len(segment)} lengths")
    arrays = None
    if "vocabulary" in sections:
        arrays = (sections["vocabulary"], sections["vocabulary_offsets"])
        if len(arrays[1]) - 1 != segment.n_terms:
            raise ValueError(f"{len(arrays[1]) - 1} strings for {segment.n_terms} terms")
    truncated = sections.get("truncated")
    if truncated is not None and (truncated.dtype != np.int32 or len(truncated) != len(segment)):
        raise ValueError(f"{len(truncated)} counts of dropped tokens for {len(segment)} documents")
    terms = None if arrays is None else strings(*arrays)
    return Member(Part(segment), terms, documents, arrays, name, verify=stored.verify, truncated=truncated)


def write_dead(path: Path, member: Member) -> None:
    with Writer(path, DEAD_KIND) as file:
        file.add("dead", np.uint8, [member.part.dead_bits])
        file.add("dead_df", np.int32, [member.part.dead_counts])
        file.meta = {"segment": member.file}


def read_dead(path: Path, member: Member, name: str, *, verify: bool = False, in_memory: bool = False) -> Member:
    stored = open_file(path, DEAD_KIND, verify=True, in_memory=in_memory)  # it is small, and is not verified again when it is merged
    segment, sections = member.part.segment, stored.sections
    right = {"dead": ((len(segment) + 7) // 8, np.dtype(np.uint8)), "dead_df": (segment.n_terms, np.dtype(np.int32))}
    if stored.meta.get("segment") != member.file or any(
        k not in sections or (len(sections[k]), sections[k].dtype) != v for k, v in right.items()
    ):
        raise FileFormatError(str(path), got="deletions of another segment", expected=f"those of {member.file}")
    dead = np.unpackbits(sections["dead"], count=len(segment), bitorder="little").view(bool)
    return replace(member, part=Part(segment, dead, sections["dead_df"]), dead_file=name)


def merge(members: Sequence[Member], path: Path | None, settings: dict[str, Any]) -> Member:
    """One member with the live documents of several that follow one another, in memory, or in a file, piece by piece."""
    from .. import _native

    require_sound(members)
    parts = [member.part for member in members]
    codes = all(bool(part.segment.meta["codes"]) for part in parts)
    forward = all(part.segment.has_forward for part in parts)
    with reading():
        arrays, places, n_terms = _merged_terms(members)
        sources = [(p.segment.native, p.dead_bits, at) for p, at in zip(parts, places)]
        k1, b = coding(*(settings["parameters"][name] for name in ("k1", "b", "variant")))
        work = _native.Merge(sources, n_terms, k1, b, codes, forward)

    truncated = _truncated(members)

    def pieces() -> Iterator[NDArray[np.uint8]]:
        while (piece := work.step(_PIECE)) is not None:
            yield piece

    try:
        if path is None:
            payload = np.concatenate(list(pieces()))
            made = work.finish()
            segment = Segment.of({**made["sections"], "payload": payload}, made["meta"])
            terms = None if arrays is None else strings(*arrays)
            return Member(Part(segment), terms, Corpus(_live(members)), arrays, truncated=truncated)
        with Writer(path, KIND) as file:
            file.add("payload", np.uint8, pieces())
            made = work.finish()
            _add_rest(file, made["sections"], made["meta"], arrays, settings, truncated)
            write_documents(file, _live(members))
    except RuntimeError as error:
        raise damaged(error) from error
    return read(path, name=path.name)[0]


def _truncated(members: Sequence[Member]) -> NDArray[np.int32] | None:
    """Of the live documents of all; None where a member does not say."""
    found = [(m.truncated, m.part.dead) for m in members if m.truncated is not None]
    return np.concatenate([a if dead is None else a[~dead] for a, dead in found]) if len(found) == len(members) else None


def _live(members: Sequence[Member]) -> Iterator[Document]:
    for member in members:
        dead = member.part.dead
        yield from member.documents if dead is None else compress(member.documents, (~dead).tolist())


def _merged_terms(members: Sequence[Member]) -> tuple[tuple[Any, Any] | None, list[NDArray[np.uint32]], int]:
    """Strings of the merged vocabulary (None for integer terms), for each member where its terms have gone, and how many there are.

    Terms that only deleted documents held are left out, so that a merged index is the one that a fresh build makes.
    """
    from .. import _native

    used = [_used(member) for member in members]
    if any(member.terms is None for member in members):  # the others, if any, have no terms
        n_terms = max(int(np.flatnonzero(u)[-1]) + 1 if u.any() else 0 for u in used)
        return None, [np.where(u, np.arange(len(u)), 0xFFFFFFFF).astype(np.uint32) for u in used], n_terms
    bytes_, offsets, places = _native.merge_strings([m.terms for m in members], [u.view(np.uint8) for u in used])
    return (bytes_, offsets), places, len(offsets) - 1


def _used(member: Member) -> NDArray[np.bool_]:
    return member.part.document_frequency(np.arange(member.part.segment.n_terms)) > 0


def check(member: Member, name: str) -> None:
    """Decodes every list, every string and every document. Raises FileFormatError."""
    segment = member.part.segment
    postings = segment.postings()
    problem = ""
    if len(postings.rows) != segment.n_postings:
        problem = f"{len(postings.rows)} postings where {segment.n_postings} were written"
    lengths = np.bincount(postings.rows, postings.counts, minlength=len(segment))
    if not problem and (lengths != segment.lengths).any():
        problem = "documents whose length is not the number of their tokens"
    try:
        names = [] if member.terms is None else [member.terms[i] for i in range(len(member.terms))]
        if any(a >= b for a, b in pairwise(names)):
            problem = "terms that are not in order"
        if segment.has_forward:
            segment.terms_of(np.arange(len(segment)))
    except (RuntimeError, UnicodeDecodeError) as error:
        problem = str(error)
    dead = member.part.dead_bits
    if not problem and len(dead) and (segment.native.dead_frequencies(dead) != member.part.dead_counts).any():
        problem = "counts of deleted documents that are not those of the documents"
    problem = problem or problem_of(member.documents)
    if problem:
        raise FileFormatError(name, got=f"a damaged index: {problem}", expected="an index as it was written", hint="Build it again.")
