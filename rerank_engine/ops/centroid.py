"""Scores from the centroids of residual codes alone, the candidate stage of PLAID: no residual is read."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import choose, implementation
from ..cpus import resolve_threads
from ..errors import FileFormatError, InputError, NonFiniteError
from . import checks
from .tokens import array, picked, ranges

if TYPE_CHECKING:
    from ..codec import ResidualTokens


def centroid_maxsim(
    centroid_scores: Any,
    documents: Any,
    rows: Any = None,
    *,
    query_weights: ArrayLike | None = None,
    num_threads: int | None = None,
    seconds: float = math.inf,
    backend: str = "auto",
) -> Any:
    """score(d) = sum over query tokens i of weight_i * max over the tokens j of d of table[centroid of j, i]

    (Santhanam et al., CIKM 2022, "centroid interaction"). A document without tokens scores -inf.

    centroid_scores: the table float32 [K, q rounded up to 32] that `centroid_scores(query, codec.centroids)` returns.
    documents: ResidualTokens, of which the centroid ids are read; or DeviceCodes, whose table `centroid_scores(query, documents)` makes.
    rows: integers [m], as in `maxsim`.
    query_weights: float [q]; None counts every column 1 (those behind the query's last token are 0 and add nothing).
    num_threads, seconds: as in `maxsim`.
    Returns float32 [m]. Raises InputError, NonFiniteError, FileFormatError (a centroid id out of range).
    """
    from ..codec import ResidualTokens  # which needs this package
    from .device_codes import DeviceCodes, centroid_on_device, of_table

    name = "centroid_maxsim"
    if isinstance(documents, DeviceCodes):
        chosen_backend = choose("centroid", of_table(centroid_scores, backend), documents.device.type)
        return centroid_on_device(centroid_scores, documents, rows, query_weights, chosen_backend)
    if not isinstance(documents, ResidualTokens):
        raise InputError(f"{name}: documents", got=type(documents).__name__, expected="ResidualTokens, or DeviceCodes on a device")
    table = checks.floats(f"{name}: centroid_scores", array(name, centroid_scores), 2)
    if len(table) != len(documents.codec.centroids) or not table.shape[1] or table.shape[1] % 32:
        expected = f"[{len(documents.codec.centroids)}, query tokens rounded up to 32], as centroid_scores returns"
        raise InputError(f"{name}: centroid_scores", got=f"shape {list(table.shape)}", expected=expected)
    weights = np.ones(table.shape[1], np.float32)
    if query_weights is not None:
        weights = checks.floats(f"{name}: query_weights", array(name, query_weights), 1)
        if len(weights) > table.shape[1]:
            raise InputError(f"{name}: query_weights", got=f"{len(weights)} weights", expected=f"at most {table.shape[1]}, one a column")
    chosen = picked(name, rows, len(documents))
    run, threads = implementation("centroid", backend), resolve_threads(num_threads)
    try:
        scores, bad = run(table, weights, documents, *ranges(documents.offsets, chosen), threads, seconds)
    except IndexError as error:
        raise FileFormatError(f"{name}: documents", got=str(error), expected="ids of the codec's centroids") from error
    if bad < len(scores):
        row = bad if chosen is None else int(chosen[bad])
        raise NonFiniteError(f"{name}: document {row}", got="a score beyond float32", expected="finite sums")
    return scores


def centroid_reference(
    table: NDArray[np.float32],
    weights: NDArray[np.float32],
    documents: ResidualTokens,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    threads: int,
    seconds: float = math.inf,
) -> tuple[NDArray[np.float32], int]:
    """(scores, the first document that is not finite, or how many there are)"""
    scores, end = np.full(len(starts), -np.inf, np.float32), time.monotonic() + seconds
    for i, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist())):
        if time.monotonic() >= end:
            scores[i:] = np.nan
            break
        if not length:
            continue
        ids = documents.centroid_ids[start : start + length].astype(np.int64)
        if int(ids.min()) < 0 or int(ids.max()) >= len(table):
            raise IndexError(f"a centroid id is not below the number of centroids, {len(table)}")
        best = table[ids].max(0)[: len(weights)].astype(np.float64)
        with np.errstate(over="ignore"):
            scores[i] = (weights.astype(np.float64) * best).sum()
        if not np.isfinite(scores[i]):
            return scores, i
    return scores, len(scores)


def centroid_cpp(
    table: NDArray[np.float32],
    weights: NDArray[np.float32],
    documents: ResidualTokens,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    threads: int,
    seconds: float = math.inf,
) -> tuple[NDArray[np.float32], int]:
    from .. import _native

    return _native.centroid_maxsim(table, weights, documents.centroid_ids, starts, lengths, threads, seconds)
