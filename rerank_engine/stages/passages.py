"""Documents that a cross-encoder reads in passages: which there are, and how their logits become the document's.

Passages hold `window` tokens of the document each and begin `stride` apart, but for the last, which ends with the document; each is read
with the whole query. FirstP, MaxP and SumP (here its mean, so that length alone wins nothing) are Dai & Callan's (2019, "Deeper Text
Understanding for IR with Contextual Neural Language Modeling"); PARADE (Li et al. 2020) sets such rules beside learnt aggregation.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..ops.checks import count, one_of
from ..runtimes.pairs import PairTokens
from ..runtimes.tokenize import Tokens

POLICIES = ("truncate", "error", "chunk")
_TOP = re.compile(r"top([1-9][0-9]{0,5})-mean")


def require_policy(long: str, window: int | None, stride: int | None, aggregate: str) -> None:
    """Raises InputError."""
    one_of("long", long, POLICIES)
    aggregate_of(aggregate)
    for name, value in (("window", window), ("stride", stride)):
        if value is not None and long != "chunk":
            raise InputError(name, got=value, expected="none, since it is for long='chunk'", hint="Pass long='chunk'.")
        if value is not None:
            count(name, value)
    if window is not None and stride is not None and stride > window:
        raise InputError(
            "stride", got=stride, expected=f"at most the window, {window}", hint="Tokens between passages would never be read."
        )


def aggregate_of(name: str) -> int:
    """How many of the best passages count in the mean: 1 is the maximum, 0 all. "first" needs no more than the one that is read."""
    known = {"max": 1, "first": 1, "mean": 0}
    found = _TOP.fullmatch(name) if isinstance(name, str) else None
    if found is None and name not in known:
        raise InputError("aggregate", got=name, expected="max, first, mean, or top3-mean with any number")
    return int(found[1]) if found else known[name]


def aggregated(
    logits: NDArray[np.float32], done: NDArray[np.bool_], owner: NDArray[np.int64], n: int, best: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(float32 [n], bool [n]): the mean, in float64, of each document's `best` highest logits, 0 for all. One whose passages were not all
    read has NaN and False, one without any 0."""
    scored = np.bincount(owner, weights=~done, minlength=n) == 0
    order = np.lexsort((-logits.astype(np.float64), owner))
    lengths = np.bincount(owner, minlength=n)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    taken = order[place < best] if best else order
    total = np.bincount(owner[taken], weights=logits[taken].astype(np.float64), minlength=n)
    mean = total / np.maximum(np.bincount(owner[taken], minlength=n), 1)
    return np.where(scored, mean, np.nan).astype(np.float32), scored


def first_passages(whole: PairTokens, passages: PairTokens) -> PairTokens:
    """Only the first passage of each document. whole: the same pairs cut to fit, from which `dropped` counts the tokens behind it."""
    first = np.flatnonzero(np.diff(passages.owner, prepend=-1))
    ids, types = passages.tokens.ids.take(first), passages.tokens.types.take(first)
    dropped = (whole.dropped + whole.tokens.ids.lengths - ids.lengths).astype(np.int32)
    return PairTokens(Tokens(ids, types, dropped), passages.owner[first], dropped, np.ones(len(first), np.int32))
