"""Pairs of query and document as tokens, at little cost: each text is tokenised once, and pairs are put together from ids.

A tokenizer treats the two texts of a pair apart and then joins their ids by its template, `[CLS] query [SEP] document [SEP]`. So does this
file: the template is learnt from pairs that the tokenizer has encoded, and whether joining gives what encoding gives is tried before it is
relied on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, UnsupportedModelError
from ..packed import Packed
from .tokenize import Tokenizer, Tokens, no_token, query_too_long

CACHE_BYTES = 64 << 20
ENTRY = 256  # bytes of a cached text beside its ids: key, array header, places in the dictionary
SHARE = 16  # the cache holds a text whole when it takes no more than this part of it
PROBES = (
    ("what is it", "It is that: a longer text, with more of all."),
    ("a", "b c"),
    ("B", "a, a"),
    ("the", ""),
    ("", "the"),
    ("é 漢字", "naïve 🙂 🙂"),
    (" two  spaces ", " and\nlines\t "),
    ("the", "the"),
)
POLICIES = ("truncate", "error", "chunk")


@dataclass(frozen=True, slots=True, eq=False)
class PairTokens:
    """tokens: m sequences; owner int64 [m]: the pair that a sequence is of, never falling; dropped int32 [n]: tokens cut off each document;
    chunks int32 [n]: sequences of each pair, 1 where a document is whole or cut."""

    tokens: Tokens
    owner: NDArray[np.int64]
    dropped: NDArray[np.int32]
    chunks: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class _Template:
    """What stands before, between and behind the two texts (ids and types), which of them is first, and the type of each one's tokens."""

    special: tuple[tuple[tuple[int, int], ...], ...]
    query_first: bool
    types: tuple[int, int]  # the query's, the document's

    @property
    def size(self) -> int:
        return sum(map(len, self.special))


class PairTokenizer:
    """`Tokenizer.encode_pairs`, equal to it bit for bit, with a query encoded once and documents remembered.

    cache_bytes: memory for tokens of texts seen before, 0 for none. A text is found by the BLAKE2b digest of its content; the one that was
    not used for longest goes first. Of a very long text only what a pair can hold is kept, with its number of tokens. Any thread may call.
    concatenates: False when this tokenizer's pairs are not what joining gives: then pairs are encoded whole and nothing is remembered.
    """

    def __init__(self, tokenizer: Tokenizer, cache_bytes: int = CACHE_BYTES) -> None:
        if isinstance(cache_bytes, bool) or not isinstance(cache_bytes, int) or cache_bytes < 0:
            raise InputError("PairTokenizer: cache_bytes", got=cache_bytes, expected="a number of bytes, 0 for no cache")
        self.tokenizer, self._cache = tokenizer, _Cache(cache_bytes)
        self._template = _learn(tokenizer)
        self.concatenates = self._template is not None

    @property
    def cached_bytes(self) -> int:
        return self._cache.size

    def encode(
        self, pairs: Sequence[tuple[str, str]], *, long: str = "truncate", window: int | None = None, stride: int | None = None
    ) -> PairTokens:
        """Tokens of (query, document) pairs. What is too long is always the document; a query is never cut.

        long: what becomes of a document that does not fit. "truncate": its end is dropped and counted. "error": InputError says which and
        by how much. "chunk": it becomes several sequences of `window` tokens (of the document; no more than fit beside the query, by
        default as many) that start `stride` apart (half a window by default); the last ends where the document ends, as long as the others.
        Raises InputError (not strings, a lone surrogate, no such policy), QueryTooLongError, UnsupportedModelError.
        """
        _check(long, window, stride)
        if self._template is None:
            if long == "chunk":
                hint = "Its pairs are more than its texts joined; use 'truncate'."
                raise UnsupportedModelError("long='chunk' with this tokenizer", got="no template of its own", expected="one", hint=hint)
            tokens = self.tokenizer.encode_pairs(pairs)
            if long == "error":
                refuse(tokens.dropped)
            n = len(pairs)
            return PairTokens(tokens, np.arange(n), tokens.dropped, np.ones(n, np.int32))
        if long != "chunk":
            window = stride = None
        texts = self._texts(pairs, whole=long == "chunk")
        most, spans, dropped = self.tokenizer.max_length, list[tuple[int, int, int]](), np.zeros(len(pairs), np.int32)
        for i, (query, document) in enumerate(texts):
            if not (used := query.total + self._template.size) + document.total:
                raise no_token(i)
            room = most - used
            if document.total > room and room < 1:
                raise query_too_long(i, pairs[i], used, most)
            if long != "chunk":
                dropped[i] = max(0, document.total - room)
                spans.append((i, 0, min(document.total, room)))
            else:
                spans += [(i, *span) for span in _windows(document.total, room, window, stride)]
        if long == "error":
            refuse(dropped)
        return self._join(texts, spans, dropped)

    def _texts(self, pairs: Sequence[tuple[str, str]], whole: bool) -> list[tuple[_Text, _Text]]:
        """The tokens of every query and document. whole: all of them; else as many as a pair can hold."""
        known, keys, missing = dict[str, _Text](), dict[str, bytes](), list[str]()
        for i, pair in enumerate(pairs):
            for text in pair:
                if not isinstance(text, str):
                    raise InputError(f"text of input {i}", got=type(text).__name__, expected="a string")
                if text in keys:
                    continue
                try:
                    keys[text] = blake2b(text.encode(), digest_size=16).digest()
                except UnicodeEncodeError as error:
                    self.tokenizer.explain(pairs, error)
                    raise
                found = self._cache.get(keys[text])
                if found is None or len(found.ids) < (found.total if whole else min(found.total, self.tokenizer.max_length)):
                    missing.append(text)
                else:
                    known[text] = found
        for text, ids in zip(missing, self.tokenizer.plain(missing) if missing else ()):
            known[text] = _Text(ids, len(ids))
            self._cache.put(keys[text], known[text], self.tokenizer.max_length)
        return [(known[query], known[document]) for query, document in pairs]

    def _join(self, texts: list[tuple[_Text, _Text]], spans: list[tuple[int, int, int]], dropped: NDArray[np.int32]) -> PairTokens:
        """The sequences of (pair, start, end): the query, the template's special tokens, and that span of the document."""
        assert self._template is not None
        template = self._template
        special = [np.array(part, np.int64).reshape(-1, 2) for part in template.special]
        lengths = [template.size + texts[i][0].total + end - start for i, start, end in spans]
        offsets = np.zeros(len(spans) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        ids, types = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.int64)
        for at, (i, start, end) in zip(offsets.tolist(), spans):
            parts = [(texts[i][0].ids, template.types[0]), (texts[i][1].ids[start:end], template.types[1])]
            for k, (own, kind) in enumerate(parts if template.query_first else parts[::-1]):
                stop = at + len(special[k])
                ids[at:stop], types[at:stop] = special[k].T
                at = stop + len(own)
                ids[stop:at], types[stop:at] = own, kind
            ids[at : at + len(special[2])], types[at : at + len(special[2])] = special[2].T
        owner = np.array([i for i, _, _ in spans], np.int64)
        chunks = np.bincount(owner, minlength=len(texts)).astype(np.int32)
        cut = dropped if len(spans) == len(texts) else np.zeros(len(spans), np.int32)
        return PairTokens(Tokens(Packed(ids, offsets), Packed(types, offsets), cut), owner, dropped, chunks)

    def __repr__(self) -> str:
        return f"PairTokenizer({'joined' if self.concatenates else 'encoded whole'}, {self._cache.most >> 20} MiB)"


@dataclass(frozen=True, slots=True, eq=False)
class _Text:
    """ids: the first tokens of a text, at least as many as a pair can hold; total: how many it has."""

    ids: NDArray[np.integer[Any]]
    total: int


class _Cache:
    """Texts by digest, the least recently used forgotten first, `most` bytes at most."""

    def __init__(self, most: int) -> None:
        self.most, self.size = most, 0
        self._entries, self._lock = OrderedDict[bytes, _Text](), Lock()

    def get(self, key: bytes) -> _Text | None:
        with self._lock:
            if (found := self._entries.get(key)) is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: bytes, text: _Text, enough: int) -> None:
        """Keeps a text, cut to `enough` tokens if it would push out too many others whole.

        In the smallest type that holds the ids, as bytes: up to half a kilobyte Python has memory of its own for those, while an array of
        numpy's would lie in the heap between the blocks of two calls of the network, and keep it from shrinking.
        """
        kind = np.min_scalar_type(int(text.ids.max(initial=0)))
        if len(text.ids) * kind.itemsize + ENTRY > self.most // SHARE:
            text = _Text(text.ids[:enough], text.total)
        text = _Text(np.frombuffer(text.ids.astype(kind).tobytes(), kind), text.total)
        size = text.ids.nbytes + ENTRY
        if size > self.most // SHARE:
            return
        with self._lock:
            if (old := self._entries.pop(key, None)) is not None:
                self.size -= old.ids.nbytes + ENTRY
            self._entries[key] = text
            self.size += size
            while self.size > self.most:
                self.size -= self._entries.popitem(last=False)[1].ids.nbytes + ENTRY


def _learn(tokenizer: Tokenizer) -> _Template | None:
    """The template of the tokenizer's pairs, or None if one of the probes is not what its texts make when they are joined."""
    encoded = [tokenizer.raw_pair(*probe) for probe in PROBES]
    plain = [(a.tolist(), b.tolist()) for a, b in ((tokenizer.plain([q])[0], tokenizer.plain([d])[0]) for q, d in PROBES)]
    for (ids, types, whose), (query, document) in zip(encoded, plain):
        if not query or not document or whose.count(0) != len(query) or whose.count(1) != len(document):
            continue
        first, second = sorted((0, 1), key=whose.index)
        a, b = whose.index(first), whose.index(second)
        c, d = a + whose.count(first), b + whose.count(second)
        both = list(zip(ids, types))
        template = _Template(
            (tuple(both[:a]), tuple(both[c:b]), tuple(both[d:])), first == 0, (types[whose.index(0)], types[whose.index(1)])
        )
        return template if all(_joined(template, *texts) == full for texts, full in zip(plain, encoded)) else None
    return None


def _joined(template: _Template, query: list[int], document: list[int]) -> tuple[list[int], list[int], list[int]]:
    """(ids, types, whose) as the template joins them: the specification of `_join`, for one pair."""
    texts = [[(token, template.types[0], 0) for token in query], [(token, template.types[1], 1) for token in document]]
    before, between, behind = ([(token, kind, -1) for token, kind in part] for part in template.special)
    first, second = texts if template.query_first else texts[::-1]
    rows = [*before, *first, *between, *second, *behind]
    return [token for token, _, _ in rows], [kind for _, kind, _ in rows], [whose for _, _, whose in rows]


def _windows(total: int, room: int, window: int | None, stride: int | None) -> list[tuple[int, int]]:
    """(start, end) of the windows of a document: all of one length, none further than `stride` from the one before, every token in one."""
    size = room if window is None else min(window, room)
    if total <= size:
        return [(0, total)]
    step = min(stride or max(1, size // 2), size)
    steps = -(-(total - size) // step)
    return [(start, start + size) for start in (min(k * step, total - size) for k in range(steps + 1))]


def _check(long: str, window: int | None, stride: int | None) -> None:
    if long not in POLICIES:
        raise InputError("long", got=long, expected=" or ".join(f"'{policy}'" for policy in POLICIES))
    for name, value in (("window", window), ("stride", stride)):
        if value is None:
            continue
        if long != "chunk":
            raise InputError(name, got=value, expected="None", hint="It belongs to long='chunk'.")
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise InputError(name, got=value, expected="a number of document tokens, 1 or more")
    if window is not None and stride is not None and stride > window:
        raise InputError("stride", got=stride, expected=f"at most {window}, the window", hint="A longer one would leave tokens out.")


def refuse(dropped: NDArray[np.int32]) -> None:
    """Raises InputError for the first document that lost a token."""
    if dropped.any():
        i = int(np.flatnonzero(dropped)[0])
        hint = "long='truncate' cuts it and counts what it cut; long='chunk' reads it in parts."
        raise InputError(f"document of input {i}", got=f"{dropped[i]} tokens too many", expected="a document that fits", hint=hint)
