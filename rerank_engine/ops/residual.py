"""MaxSim over ColBERTv2's residual codes, scored without decoding them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import choose, implementation
from ..cpus import resolve_threads
from ..errors import FileFormatError, InputError, NonFiniteError
from . import checks
from .tokens import array, batch_of, of_queries, picked, query_tokens, ranges

if TYPE_CHECKING:
    from ..codec import ResidualTokens
    from .device_codes import DeviceCodes

PRECISIONS = {"auto": "auto", "int16": "auto", "uint8": "auto8", "float32": "decode"}
_LANES = 32  # query tokens of a block of the kernels


@dataclass(frozen=True, slots=True, eq=False)
class ResidualScores:
    """What `residual_maxsim_explained` tells: the scores, how far each may be from that of the decoded tokens, and how they were computed.

    path: "decode" (to float32, then the product), "lookup16" or "lookup8" (tables of int16 or uint8), "dot8" (products of bytes).
    tokens: how many were scored; centroids: how many were multiplied with the query for it.
    """

    scores: NDArray[np.float32]
    bounds: NDArray[np.float32]
    path: str
    tokens: int
    centroids: int


def residual_maxsim(
    query: Any,
    documents: ResidualTokens | DeviceCodes,
    rows: Any = None,
    *,
    centroid_scores: ArrayLike | None = None,
    precision: str = "auto",
    query_mask: ArrayLike | None = None,
    query_weights: ArrayLike | None = None,
    num_threads: int | None = None,
    seconds: float = math.inf,
    whole: tuple[int, int] = (0, 0),
    backend: str = "auto",
) -> Any:
    """`maxsim` over compressed documents: token = (centroid + residual) / |centroid + residual|, so that

        <q, token> = (<q, centroid> + sum over the bytes p of its codes of table_q[p][byte p]) * inverse norm

    (Santhanam et al., NAACL 2022). table_q holds what each value of each byte adds for q, computed once per query; no token is decoded.

    query: float [q, dim], or a batch. rows, query_mask, query_weights, num_threads: as in `maxsim`. documents: on a device, DeviceCodes.
    centroid_scores: what `centroid_scores(query, codec.centroids)` returned for the query tokens that count, if it is at hand already
        (candidate generation needs it too); else the products are computed, of all centroids or, for a short list, of those in it.
    precision: "int16" sums tables of int16, "uint8" may sum bytes (faster for 4-bit codes), "float32" decodes. "auto" is "int16". A
        short list is decoded where that is cheaper. `residual_maxsim_explained` says which path ran and how far each score may be off.
        On a device "auto" and "int16" are float16 products, "uint8" may multiply bytes; "float32" is the backend torch.
    seconds: as in `maxsim`. whole: (tokens, products with centroids) of the work that these rows are a part of; the path is chosen by it,
        so that scores of parts are those of one call.
    Returns float32 [m]; for a batch a list of them. Raises InputError, NonFiniteError, FileFormatError (a centroid id out of range).
    """
    from .device_codes import DeviceCodes, of_table, residual_on_device

    if isinstance(documents, DeviceCodes):
        checks.one_of("residual_maxsim: precision", precision, tuple(PRECISIONS))
        if backend == "auto" and precision == "float32":
            backend = "torch"  # which decodes
        chosen = choose("residual", of_table(centroid_scores, backend), documents.device.type)
        return residual_on_device(query, documents, rows, centroid_scores, precision, query_mask, query_weights, chosen)
    options = {"precision": precision, "num_threads": num_threads, "backend": backend}
    if (batch := batch_of(query)) is not None:
        if not (query_mask is None and query_weights is None and centroid_scores is None):
            raise InputError("residual_maxsim", got="a mask, weights or centroid_scores for a batch", expected="them for one query")
        asked = of_queries("residual_maxsim", rows, len(batch))
        return [residual_maxsim_explained(q, documents, row, **options).scores for q, row in zip(batch, asked)]  # type: ignore[arg-type]
    told = {"centroid_scores": centroid_scores, "query_mask": query_mask, "query_weights": query_weights}
    return residual_maxsim_explained(query, documents, rows, seconds=seconds, whole=whole, **told, **options).scores  # type: ignore[arg-type]


def residual_maxsim_explained(
    query: Any,
    documents: ResidualTokens,
    rows: ArrayLike | None = None,
    *,
    centroid_scores: ArrayLike | None = None,
    precision: str = "auto",
    query_mask: ArrayLike | None = None,
    query_weights: ArrayLike | None = None,
    num_threads: int | None = None,
    seconds: float = math.inf,
    whole: tuple[int, int] = (0, 0),
    backend: str = "auto",
) -> ResidualScores:
    """`residual_maxsim` of one query, and how its scores came about."""
    from ..codec import ResidualTokens  # which needs this package

    if not isinstance(documents, ResidualTokens):
        hint = "Score token vectors with maxsim."
        raise InputError(
            "residual_maxsim: documents", got=type(documents).__name__, expected="ResidualTokens, or DeviceCodes on a device", hint=hint
        )
    path, threads = PRECISIONS[checks.one_of("residual_maxsim: precision", precision, tuple(PRECISIONS))], resolve_threads(num_threads)
    q, w = query_tokens("residual_maxsim", query, query_mask, query_weights)
    if q.shape[1] != documents.dim:
        raise InputError("residual_maxsim: query", got=f"dimension {q.shape[1]}", expected=f"{documents.dim}, as the documents have")
    given = (
        None
        if centroid_scores is None
        else _padded(checks.floats("centroid_scores", array("centroid_scores", centroid_scores), 2), q, documents)
    )
    chosen = picked("residual_maxsim", rows, len(documents))
    spans = ranges(documents.offsets, chosen)
    try:
        done: ResidualScores
        done, bad = implementation("residual", backend)(q, w, documents, *spans, given, path, threads, seconds, whole)
    except IndexError as error:
        raise FileFormatError("residual_maxsim: documents", got=str(error), expected="ids of the codec's centroids") from error
    if bad < len(spans[0]):
        row = bad if chosen is None else int(chosen[bad])
        raise NonFiniteError(f"residual_maxsim: document {row}", got="a score that is not finite", expected="finite norms and products")
    return done


def centroid_scores(query: Any, centroids: Any, *, num_threads: int | None = None, backend: str = "auto") -> Any:
    """float32 [K, q rounded up to 32]: <centroid, query token>, the columns behind the last token 0. For `residual_maxsim`, and to find
    candidates.

    query float [q, dim], centroids float [K, dim]. With DeviceCodes in place of centroids: a tensor on their device, for the same ops there
    on the same backend. Raises InputError, NonFiniteError.
    """
    from .device_codes import DeviceCodes, centroid_scores_on_device

    if isinstance(centroids, DeviceCodes):
        return centroid_scores_on_device(query, centroids, choose("centroid", backend, centroids.device.type))
    q, c = (checks.floats(f"centroid_scores: {name}", array(name, x), 2) for name, x in (("query", query), ("centroids", centroids)))
    if q.shape[1] != c.shape[1] or not q.shape[1]:
        raise InputError("centroid_scores: query", got=f"dimension {q.shape[1]}", expected=f"{c.shape[1]}, as the centroids have")
    from .. import _native

    return _native.centroid_scores(q, c, resolve_threads(num_threads))


def _padded(scores: NDArray[np.float32], q: NDArray[np.float32], documents: ResidualTokens) -> NDArray[np.float32]:
    width = -(-len(q) // _LANES) * _LANES
    if len(scores) != len(documents.codec.centroids) or scores.shape[1] not in (len(q), width):
        expected = f"[{len(documents.codec.centroids)}, {width}], as centroid_scores returns for the tokens that count"
        raise InputError("residual_maxsim: centroid_scores", got=f"shape {list(scores.shape)}", expected=expected)
    return scores if scores.shape[1] == width else np.pad(scores, ((0, 0), (0, width - len(q))))


def residual_reference(
    query: NDArray[np.float32],
    weights: NDArray[np.float32],
    documents: ResidualTokens,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    given: NDArray[np.float32] | None,
    path: str,
    threads: int,
    seconds: float = math.inf,
    whole: tuple[int, int] = (0, 0),
) -> tuple[ResidualScores, int]:
    """Decodes in float64. (what was scored, the first document that is not finite, or how many there are)"""
    codec, q, w, end = documents.codec, query.astype(np.float64), weights.astype(np.float64), time.monotonic() + seconds
    scores, bad = np.full(len(starts), -np.inf, np.float32), len(starts)
    for i, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist())):
        if time.monotonic() >= end:
            scores[i:] = np.nan
            break
        if not length:
            continue
        ids = documents.centroid_ids[start : start + length].astype(np.int64)
        if int(ids.min()) < 0 or int(ids.max()) >= len(codec.centroids):
            raise IndexError(f"a centroid id is not below the number of centroids, {len(codec.centroids)}")
        sums = codec.centroids[ids].astype(np.float64) + codec.bucket_weights[unpacked(documents, start, length)]
        with np.errstate(all="ignore"):
            tokens = sums * documents.inverse_norms[start : start + length, None].astype(np.float64)
            scores[i] = (w * (q @ tokens.T).max(1)).sum()
        if not np.isfinite(scores[i]):
            bad = min(bad, i)
    return ResidualScores(scores, np.zeros(len(starts), np.float32), "decode", int(lengths.sum()), 0), bad


def unpacked(documents: ResidualTokens, start: int, length: int) -> NDArray[np.uint8]:
    from ..codec import unpack

    return unpack(documents.residuals[start : start + length], documents.codec.nbits)


def residual_cpp(
    query: NDArray[np.float32],
    weights: NDArray[np.float32],
    documents: ResidualTokens,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    given: NDArray[np.float32] | None,
    path: str,
    threads: int,
    seconds: float = math.inf,
    whole: tuple[int, int] = (0, 0),
) -> tuple[ResidualScores, int]:
    from .. import _native

    codec = documents.codec
    scores, bad, bounds, ran, tokens, centroids = _native.residual_maxsim(
        query, weights, codec.centroids, codec.bucket_weights, codec.radius, documents.centroid_ids, documents.residuals,
        documents.inverse_norms, starts, lengths, given, path, threads, "", seconds, *whole,
    )  # fmt: skip
    return ResidualScores(scores, bounds, ran, tokens, centroids), bad
