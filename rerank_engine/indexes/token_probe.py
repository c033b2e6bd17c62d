"""Candidates of a search over residual codes, found by their centroids as PLAID does, and when that is worth it.

    table[c, i]   <centroid c, query token i>, once a query                                    ops.centroid_scores
    probed        of every query token the `probe` best centroids; their lists name documents   Lists
    approximate   sum over i of max over the tokens j of d of table[centroid of j, i]           ops.centroid_maxsim
    exact         the `candidates` best by that are scored from their codes                     ops.residual_maxsim

Source: Santhanam et al., "PLAID: An Efficient Engine for Late Interaction Retrieval", CIKM 2022 (its pruning of
centroids by a threshold is left out).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import choose
from ..codec import ResidualCodec, ResidualTokens
from ..errors import FileFormatError, InputError
from ..limits import limits
from ..ops import checks
from ..ops.centroid import centroid_maxsim
from ..ops.tokens import ranges
from ..ops.topk import topk
from ..trace import reach

if TYPE_CHECKING:
    from .token_members import TokenMember
    from .tokens import TokenIndex

Probe = int | str | None
PROBE, LEAST, PER_RESULT = 4, 128, 4  # centroids a query token; candidates: at least, and for each result asked for

# What the parts of a search cost, in units of one byte of codes of one token, for 32 query tokens: a token by its centroid; a centroid in
# the choice of the best ones of one query token; a value of a centroid that is multiplied. Ratios of what benchmarks/bench_residual.py,
# bench_centroid.py and bench_probe.py measure on machines with AVX2; they only matter near the size where both ways cost the same.
_CENTROID, _BEST, _PRODUCT = 5.0, 2.0, 1.0
_GAIN = 2.0  # what is approximate must cost that much less, or it is not worth its misses


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """Which documents of a member have a token of a centroid: rows[offsets[c] : offsets[c + 1]], rising, each once.

    offsets int64 [K + 1], rows int32 [pairs]: 4 bytes a distinct pair of centroid and document, at most one a token, and 8 a centroid. Made
    in memory by the first search that probes, of the ids that the index holds; about 30 bytes a token while they are made.
    """

    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]

    def of(self, centroids: NDArray[np.int64]) -> NDArray[np.int32]:
        """The documents of several centroids, one after the other."""
        starts, ends = self.offsets[centroids].tolist(), self.offsets[centroids + 1].tolist()
        return np.concatenate([self.rows[:0], *(self.rows[start:end] for start, end in zip(starts, ends))])

    @property
    def nbytes(self) -> int:
        return self.offsets.nbytes + self.rows.nbytes


def lists_of(tokens: ResidualTokens) -> Lists:
    """Raises FileFormatError for what a damaged file holds."""
    n, ids = len(tokens.codec.centroids), np.asarray(tokens.centroid_ids)
    _, lengths = ranges(tokens.offsets, None)
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < n:
        raise FileFormatError("token index", got="a centroid that the codec does not have", expected="ids of the codec's centroids")
    order = np.argsort(ids, kind="stable")  # by digits for 16 bits; the rows of a centroid stay in order
    rows = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[order]
    ids = ids[order]
    first = np.ones(len(ids), bool)
    first[1:] = (ids[1:] != ids[:-1]) | (rows[1:] != rows[:-1])
    counts = np.bincount(ids[first], minlength=n)
    return Lists(np.concatenate([np.zeros(1, np.int64), counts.cumsum()]), rows[first])


@dataclass(frozen=True, slots=True)
class Plan:
    """How one query was searched: probe centroids a query token, None for every document; documents that these gave (found) and that were
    scored exactly (candidates). reached: how many of these a deadline left time for, None where it cut nothing short."""

    probe: int | None
    candidates: int
    found: int
    reached: int | None = None

    @property
    def facts(self) -> dict[str, Any]:
        told = {} if self.reached is None else reach(self.reached, self.reached + 1)
        return {"probe": self.probe, "found": self.found, "candidates": self.candidates, "exhaustive": self.probe is None, **told}


def require(what: str, storage: str, codec: ResidualCodec | None, k: int, probe: Probe, candidates: int | None) -> None:
    """Raises InputError for options that no search can follow."""
    k = checks.count(f"{what}: k", k)
    if probe is not None and probe != "auto":
        if isinstance(probe, bool) or not isinstance(probe, (int, np.integer)) or probe < 1:
            expected = '"auto", None for every document, or an integer of at least 1: centroids a query token'
            raise InputError(f"{what}: probe", got=probe, expected=expected)
        if codec is None:
            hint = 'Build the index with storage="2bit", or leave probe at "auto": every document is scored then.'
            raise InputError(f"{what}: probe", got=f"{probe} for {storage}", expected="an index of residual codes", hint=hint)
    if candidates is not None and checks.count(f"{what}: candidates", candidates) < k:
        raise InputError(f"{what}: candidates", got=candidates, expected=f"at least k, {k}")


def planned(
    codec: ResidualCodec | None, rows: int, tokens: int, n_query: int, k: int, probe: Probe = "auto", candidates: int | None = None
) -> tuple[int | None, int]:
    """(probe, candidates) of a query of n_query tokens over `rows` documents that may be found, with `tokens` in all; (None, rows): each is
    scored. That is so, whatever is asked for, if they are no more than the candidates, and with probe="auto" where probing would not cost
    less than half. candidates: None is 4 k, at least 128.
    """
    wanted = max(LEAST, PER_RESULT * k) if candidates is None else candidates
    if codec is None or probe is None or rows <= wanted or (probe == "auto" and choose("residual") != "cpp"):
        return None, rows
    if probe != "auto":
        return min(int(probe), len(codec.centroids)), wanted
    n, blocks = min(PROBE, len(codec.centroids)), -(-n_query // 32)
    share = min(1.0, n_query * n * tokens / len(codec.centroids) / rows)  # of documents: no list is longer than its tokens
    exact = blocks * codec.bytes_per_token
    probing = share * tokens * blocks * _CENTROID + wanted * tokens / rows * exact + n_query * len(codec.centroids) * _BEST
    if tokens < len(codec.centroids):  # else scoring all of them needs the table of products too
        probing += blocks * len(codec.centroids) * codec.dim * _PRODUCT
    return (n, wanted) if probing * _GAIN < tokens * exact else (None, rows)


def candidates_of(
    members: Sequence[TokenMember],
    table: NDArray[np.float32],
    n_query: int,
    probe: int,
    n: int,
    least: int,
    wanted: NDArray[np.bool_] | None,
    num_threads: int | None,
) -> tuple[NDArray[np.int64], Plan]:
    """(rows int64 [m], rising: the n best by their centroids, how they were found) of documents that are `wanted` (None: all).

    table: float32 [K, at least n_query], what `centroid_scores` returned. Where the lists hold fewer than `least` of the documents that may
    be found, twice as many centroids are looked at, and so on. What time did not allow to be looked at is no candidate, and the plan then
    has reached 0. Raises FileFormatError, NonFiniteError.
    """
    most, total = len(table), sum(member.n_rows for member in members) if wanted is None else int(wanted.sum())
    while True:
        found, asked = found_at(members, table, n_query, probe, wanted)
        n_found = sum(map(len, found))
        if n_found >= min(least, total) or probe >= most or not asked:
            break
        probe = wider(probe, most)
    bases = np.cumsum([0, *(member.n_rows for member in members)])
    rows = np.concatenate([np.empty(0, np.int64), *(own + base for own, base in zip(found, bases.tolist()))])
    whole = True
    if n_found > n:
        scores = by_centroids(members, table, found, num_threads)
        there = ~np.isnan(scores)
        whole, rows = bool(there.all()), np.sort(topk(scores[there], n, ids=rows[there])[0])
    return rows, Plan(probe, len(rows), n_found, reached=None if whole else 0)


def wider(probe: int, most: int) -> int:
    """Centroids a query token that are looked at where `probe` of them gave too few documents."""
    return min(2 * probe, most)


def found_at(
    members: Sequence[TokenMember], table: NDArray[np.float32], n_query: int, probe: int, wanted: NDArray[np.bool_] | None
) -> tuple[list[NDArray[np.int64]], bool]:
    """Per member the rows, rising, that are in a list of the `probe` best centroids of a query token; whether there is such a centroid."""
    columns = np.ascontiguousarray(table[:, :n_query].T)
    best = np.unique(np.concatenate([np.empty(0, np.int64), *(topk(column, probe)[0] for column in columns)]))
    return [np.flatnonzero(mask) for mask in _marked(members, best, wanted)], len(best) > 0


def by_centroids(
    members: Sequence[TokenMember], table: NDArray[np.float32], found: Sequence[NDArray[np.int64]], num_threads: int | None
) -> NDArray[np.float32]:
    """float32, one a row that `found_at` gave, member by member: the approximate scores; NaN where time ran out."""
    until = limits()
    parts = [centroid_maxsim(table, m.tokens, own, num_threads=num_threads, seconds=until.left()) for m, own in zip(members, found)]
    return np.concatenate([np.empty(0, np.float32), *parts])


def _marked(members: Sequence[TokenMember], centroids: NDArray[np.int64], wanted: NDArray[np.bool_] | None) -> list[NDArray[np.bool_]]:
    """Per member a bool for each row: in a list of the centroids, and wanted."""
    masks, base = [], 0
    for member in members:
        mask = np.zeros(member.n_rows, bool)
        mask[member.lists.of(centroids)] = True
        masks.append(mask if wanted is None else mask & wanted[base : base + member.n_rows])
        base += member.n_rows
    return masks


def probe_report(
    index: TokenIndex,
    queries: Sequence[ArrayLike],
    k: int = 100,
    probes: Sequence[int] = (1, 2, 4, 8, 16, 32),
    *,
    candidates: int | None = None,
    num_threads: int | None = None,
) -> list[dict[str, Any]]:
    """What probing costs and loses on queries of one's own: a row for every document scored (probe None), then one for each of `probes`.

    Row: {"probe", "k", "recall": share of the exhaustive k best that are found, "found", "scored": shares of the documents that the lists
    gave and that were scored exactly, "cpu_ms": processor time a query, all threads, the median, "faster": the quartiles around the median
    of how many times that of the exhaustive scan it goes into}. queries: float [q, dim], encoded. Raises InputError for an index without
    centroids.
    """
    frozen, ways = index.snapshot(), [None, *(checks.count("probe_report: probes", probe) for probe in probes)]
    for way in ways:
        require("probe_report", index.storage, index.codec, k, way, candidates)
    if index.codec is None or not len(queries):
        require("probe_report", index.storage, index.codec, k, 1, candidates)
        raise InputError("probe_report: queries", got="none", expected="at least one")
    if not len(frozen):
        raise InputError("probe_report: index", got="an empty index", expected="at least one document")
    options: dict[str, Any] = {"candidates": candidates, "num_threads": num_threads}
    frozen.search_explained(queries[:1], k, probe=1, **options)  # the lists are made once, not timed
    told = np.empty((len(ways), len(queries), 4))  # recall, found, scored, ms
    for i, query in enumerate(queries):
        exact = set[int]()
        for j, way in enumerate(ways):
            begin = time.process_time()
            [((rows, _), plan)] = frozen.search_explained([query], k, probe=way, **options)
            spent, got = 1e3 * (time.process_time() - begin), set(rows.tolist())
            exact = got if way is None else exact
            told[j, i] = len(exact & got) / len(exact) if exact else 1, plan.found / len(frozen), plan.candidates / len(frozen), spent
    out = []
    for way, values in zip(ways, told):
        faster = np.percentile(told[0, :, 3] / np.maximum(values[:, 3], 1e-6), [25, 75]).tolist()
        means = dict(zip(("recall", "found", "scored"), values[:, :3].mean(0).tolist()))
        out.append({"probe": way, "k": k, **means, "cpu_ms": float(np.median(values[:, 3])), "faster": faster})
    return out
