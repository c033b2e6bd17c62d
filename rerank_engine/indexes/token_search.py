"""Scoring and searching the members of a TokenIndex, as they were at one moment. Rows count over all of them, deleted ones included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import choose
from ..codec import ResidualCodec, ResidualTokens
from ..errors import FileFormatError, InputError, NonFiniteError
from ..limits import limits
from ..ops import checks
from ..ops.certified import CertifiedTop, certified_top
from ..ops.maxsim import maxsim
from ..ops.residual import centroid_scores, residual_maxsim
from ..ops.tokens import array, batch_of, picked, ranges
from ..ops.topk import Hits, topk
from .token_members import TokenMember
from .token_probe import Plan, Probe, candidates_of, planned, require

_BLOCK = 1 << 16  # tokens that are looked at at a time


def score(
    members: Sequence[TokenMember],
    query: Any,
    rows: ArrayLike | None,
    *,
    precision: str = "auto",
    centroids: Any = None,
    whole: tuple[int, int] = (0, 0),
    **options: Any,
) -> NDArray[np.float32]:
    """See TokenIndex.score. centroids: the query's products with all centroids, where they are known. whole: see `residual_maxsim`."""
    until = limits()
    if batch_of(query) is not None:
        raise InputError("TokenIndex: query", got="a batch", expected="float [q, dim], one query")
    chosen = picked("TokenIndex.score", rows, sum(member.n_rows for member in members))

    def of(member: TokenMember, own: NDArray[np.int64] | None) -> NDArray[np.float32]:
        tokens = member.tokens
        try:
            if isinstance(tokens, ResidualTokens):
                told: dict[str, Any] = {"precision": precision, "centroid_scores": centroids, "whole": whole}
                found = residual_maxsim(query, tokens, own, seconds=until.left(), **told, **options)
            else:
                found = maxsim(query, tokens, own, seconds=until.left(), **options)
        except NonFiniteError as error:
            raise _blamed(member, own, error) from error
        return cast(NDArray[np.float32], found)

    if len(members) == 1:
        return of(members[0], chosen)
    if chosen is None:
        return np.concatenate([np.empty(0, np.float32), *(of(member, None) for member in members)])
    out, base = np.empty(len(chosen), np.float32), 0
    for member in members:
        here = (chosen >= base) & (chosen < base + member.n_rows)
        if here.any():
            out[here] = of(member, chosen[here] - base)
        base += member.n_rows
    return out


def _blamed(member: TokenMember, rows: NDArray[np.int64] | None, error: NonFiniteError) -> FileFormatError | NonFiniteError:
    """No index is made of tokens that are not finite: one that has them is damaged. Else it is the query's fault."""
    starts, lengths = ranges(member.offsets, rows)
    floats = [column for column in member.columns.values() if column.dtype.kind == "f"]
    blocks = (slice(at, min(at + _BLOCK, a + n)) for a, n in zip(starts.tolist(), lengths.tolist()) for at in range(a, a + n, _BLOCK))
    if np.isfinite(member.norms).all() and all(np.isfinite(column[block]).all() for block in blocks for column in floats):
        return error
    return FileFormatError("token index", got=f"a damaged index ({error})", expected="finite tokens", hint="Build it again.")


def search(
    members: Sequence[TokenMember],
    queries: Sequence[Any],
    k: int,
    *,
    codec: ResidualCodec | None,
    filters: Sequence[NDArray[np.bool_] | None] | None = None,
    num_threads: int | None = None,
    precision: str = "auto",
    probe: Probe = "auto",
    candidates: int | None = None,
) -> list[tuple[Hits, Plan]]:
    """See TokenIndex.search_explained."""
    what, n = "TokenIndex.search", sum(member.n_rows for member in members)
    require(what, members[0].storage if members else "an empty index", codec, k, probe, candidates)
    masks = _masks(what, queries, n, filters)
    live, out = live_rows(members), list[tuple[Hits, Plan]]()
    for query, mask in zip(queries, masks):
        if limits().out_of_time():
            out.append((topk(np.empty(0, np.float32), k), Plan(None, 0, 0, reached=0)))
            continue
        wanted = live if mask is None else mask if live is None else mask & live
        rows = np.arange(n) if wanted is None else np.flatnonzero(wanted)
        shape = () if batch_of(query) is not None else array(f"{what}: query", query).shape
        n_query = shape[0] if len(shape) == 2 else 0  # `score` refuses what is no query
        tokens = sum(member.n_tokens for member in members) if wanted is None else int(lengths_of(members, rows).sum())
        way, most = planned(codec, len(rows), tokens, n_query, k, probe, candidates)
        if way is not None and codec is not None and n_query:
            table: Any = centroid_scores(query, codec.centroids, num_threads=num_threads)
            rows, plan = candidates_of(members, table, n_query, way, most, k, wanted, num_threads)
            tokens = int(lengths_of(members, rows).sum())
        else:
            table, plan = _centroids(members, query, len(rows), num_threads) if n_query else None, Plan(None, len(rows), len(rows))
        whole = work_of(codec, tokens, way is not None)
        options: dict[str, Any] = {"num_threads": num_threads, "precision": precision, "centroids": table, "whole": whole}
        scores = score(members, query, None if len(rows) == n else rows, **options)
        found = scores > -np.inf  # not those without tokens, nor, NaN, those that time did not allow
        late = np.isnan(scores)
        if late.any() or plan.reached is not None:  # nor is a choice of candidates whole that time cut short
            plan = replace(plan, reached=len(scores) - int(late.sum()))
        out.append((topk(scores[found], k, ids=rows[found]), plan))
    return out


def _masks(what: str, queries: Sequence[Any], n: int, filters: Sequence[Any] | None) -> list[NDArray[np.bool_] | None]:
    """The filter of each query. Raises InputError."""
    if isinstance(queries, np.ndarray) and queries.ndim != 3:
        raise InputError(f"{what}: queries", got="one query", expected="a sequence of them", hint="Pass [query].")
    masks = [None] * len(queries) if filters is None else list(filters)
    if len(masks) != len(queries):
        raise InputError(f"{what}: filters", got=f"{len(masks)} filters", expected=f"{len(queries)}, one a query")
    for mask in masks:
        if mask is not None and (getattr(mask, "dtype", None), getattr(mask, "shape", None)) != (np.dtype(bool), (n,)):
            raise InputError(f"{what}: filters", got=repr(mask), expected=f"bool [{n}], one a row, or None")
    return masks


def lengths_of(members: Sequence[TokenMember], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [m]: tokens of these rows."""
    out, base = np.empty(len(rows), np.int64), 0
    for member in members:
        here = (rows >= base) & (rows < base + member.n_rows)
        own = rows[here] - base
        out[here] = member.offsets[own + 1] - member.offsets[own]
        base += member.n_rows
    return out


def work_of(codec: ResidualCodec | None, tokens: int, probed: bool) -> tuple[int, int]:
    """(tokens, products with centroids) by which a search chooses how it scores: of all that it scores, however it is spread over members
    or shards. probed: the products are there already."""
    return (0, 0) if codec is None else (tokens, 0 if probed else min(tokens, len(codec.centroids)))


def live_rows(members: Sequence[TokenMember]) -> NDArray[np.bool_] | None:
    """bool [rows]: which are not deleted; None for all of them."""
    if all(member.dead is None for member in members):
        return None
    return np.concatenate([np.ones(member.n_rows, bool) if member.dead is None else ~member.dead for member in members])


def _centroids(members: Sequence[TokenMember], query: Any, n_rows: int, num_threads: int | None) -> NDArray[np.float32] | None:
    """What several members would each compute again, if they have enough to score for all centroids to be worth it."""
    if len(members) < 2 or members[0].codec is None or choose("residual") != "cpp":
        return None
    mean = sum(member.n_tokens for member in members) / sum(member.n_rows for member in members)
    codec = members[0].codec
    return centroid_scores(query, codec.centroids, num_threads=num_threads) if n_rows * mean >= len(codec.centroids) else None


def top(
    members: Sequence[TokenMember],
    query: Any,
    k: int,
    rows: ArrayLike | None,
    **options: Any,
) -> CertifiedTop:
    """See TokenIndex.top."""
    base, parts, n_tokens = 0, list[CertifiedTop](), list[int]()
    checks.count("TokenIndex.top: k", k)
    chosen = picked("TokenIndex.top", rows, sum(member.n_rows for member in members))
    for member in members:
        own = np.flatnonzero(~member.dead) if member.dead is not None else np.arange(member.n_rows)
        if chosen is not None:
            own = chosen[(chosen >= base) & (chosen < base + member.n_rows)] - base
        try:
            norms = None if member.codec is not None else member.norms
            found = certified_top(query, member.tokens, k, own, norms=norms, seconds=limits().left(), **options)
        except NonFiniteError as error:
            raise _blamed(member, own, error) from error
        parts.append(replace(found, rows=found.rows + base))
        n_tokens.append(int(ranges(member.offsets, own)[1].sum()))
        base += member.n_rows
    ids = np.concatenate([np.empty(0, np.int64), *(part.rows for part in parts)])
    scores = np.concatenate([np.empty(0, np.float32), *(part.scores for part in parts)])
    saved = sum(part.work_saved * n for part, n in zip(parts, n_tokens)) / max(sum(n_tokens), 1)
    best = topk(scores, k, ids=ids)
    late = [part.reached for part in parts if part.reached is not None]
    certified = any(part.certified for part in parts) and not late
    whole = len(scores) if late else None  # scored in full, of all members
    return CertifiedTop(*(best if not late else topk(scores, max(len(scores), 1), ids=ids)), certified, saved,
                        sum(part.approximated for part in parts), whole)  # fmt: skip
