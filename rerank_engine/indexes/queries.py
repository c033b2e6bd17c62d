"""From queries to what the searcher takes: term ids in every member, weights, required terms, filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core import Query
from ..corpus import Corpus
from ..limits import limits
from ..ops import checks
from ..ops.bm25 import Searcher
from ..ops.topk import Hits
from ..text import Analyzer
from .members import Member

Terms = tuple[
    list[Any], list[float] | None, list[bool] | None
]  # of a query: terms, weights (None: 1 each), which are required (None: none)


def terms_of(query: str | Query | Sequence[Any], analyzer: Analyzer) -> Terms:
    if not isinstance(query, Query):
        return list(analyzer(query) if isinstance(query, str) else query), None, None
    terms = list(analyzer(query.text) if query.terms is None else query.terms)
    weights = None if query.terms is None else [float(weight) for weight in query.terms.values()]
    must = dict.fromkeys(term for text in query.must for term in analyzer(text))
    missing = [term for term in must if term not in terms]
    terms += missing
    if weights is not None:
        weights += [1.0] * len(missing)
    return terms, weights, [term in must for term in terms] if must else None


def lookup(members: Sequence[Member], terms: Sequence[Any]) -> NDArray[np.int32]:
    """int32 [members, n]."""
    if len(members) == 1:
        return members[0].lookup(terms)[None]
    return np.stack([member.lookup(terms) for member in members]) if members else np.empty((0, len(terms)), np.int32)


def filtered(queries: Sequence[Any], corpus: Corpus) -> list[tuple[NDArray[np.bool_] | None, list[int]]]:
    """The queries' places, those with the same filter together. Each mask is made once, and only for queries that have one."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, query in enumerate(queries):
        key = (id(query.allow), id(query.deny)) if isinstance(query, Query) else (id(None), id(None))
        groups.setdefault(key, []).append(place)
    masks = (queries[places[0]].allowed(corpus) if isinstance(queries[places[0]], Query) else None for places in groups.values())
    return list(zip(masks, groups.values()))


def distinct(asked: Terms) -> Terms:
    """Each term once, in its first place, with its repeats' weights together: what a shard can be asked that does not know them all."""
    terms, weights, required = asked
    places = dict[Any, int]()
    for term in terms:
        places.setdefault(term, len(places))
    if len(places) == len(terms):
        return asked
    sums, must = [0.0] * len(places), [False] * len(places)
    for term, weight, needed in zip(terms, weights or [1.0] * len(terms), required or [False] * len(terms)):
        sums[places[term]] += weight
        must[places[term]] |= needed
    return list(places), sums, None if required is None else must


def run(
    members: Sequence[Member],
    searcher: Searcher,
    batch: Sequence[Terms],
    k: int,
    mask: NDArray[np.bool_] | None,
    threads: int | None,
    df: NDArray[np.int64] | None = None,
    floors: NDArray[np.float32] | None = None,
) -> tuple[list[Hits], list[int]]:
    """What `Searcher.search_reached` finds in the time that `limits()` leaves."""
    flat, ends, weights, required, weighted, demanding = list[Any](), [0], None, None, False, False
    for terms, w, must in batch:
        flat += terms
        ends.append(len(flat))
        weighted, demanding = weighted or w is not None, demanding or must is not None
    if weighted:
        weights = checks.floats("BM25: weights", [x for terms, w, _ in batch for x in (w or [1.0] * len(terms))], 1)
    if demanding:
        required = np.array([x for terms, _, must in batch for x in (must or [False] * len(terms))], bool)
    offsets = np.array(ends, np.int64)
    return searcher.search_reached(lookup(members, flat), offsets, k, weights, required, mask, threads, limits().left(), df, floors)
