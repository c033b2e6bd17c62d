"""From an index to a GPU, and the best of a list of candidates there by one CUDA graph: what a service calls for each query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .backends import choose
from .codec import ResidualTokens
from .errors import BackendUnavailable, InputError, NonFiniteError
from .ops import checks
from .ops.device_codes import DeviceCodes
from .ops.tensors import DeviceTokens, copied, require_torch
from .ops.tokens import PackedTokens, array, picked, query_tokens
from .packed import Packed

if TYPE_CHECKING:
    from .indexes import TokenIndex


def to_device(
    documents: Packed | ResidualTokens | TokenIndex, device: Any, *, dtype: Any = None, norms: bool = True
) -> DeviceTokens | DeviceCodes:
    """Documents copied to a device, for `rr.ops` and `DeviceReranker`: DeviceTokens of vectors, DeviceCodes of residual codes.

    Of a TokenIndex, of a file or in memory, all segments together; rows are those of its corpus, deleted ones among them. dtype: what
    floats are held in there (torch.float16, ...); norms: see `DeviceCodes.of`. Raises InputError, NonFiniteError, MissingDependency.
    """
    from .indexes import TokenIndex

    if dtype is not None and not isinstance(documents, Packed) and getattr(documents, "storage", "codes") not in ("float32", "float16"):
        got = f"{dtype} for {getattr(documents, 'storage', 'residual codes')}"
        raise InputError("to_device: dtype", got=got, expected="None: it is for documents held as floats")
    if isinstance(documents, Packed):
        return DeviceTokens.of(documents, device, dtype=dtype)
    if isinstance(documents, ResidualTokens):
        return DeviceCodes.of(documents, device, norms=norms)
    if not isinstance(documents, TokenIndex):
        expected, hint = "a Packed, ResidualTokens or TokenIndex", "Open a file with TokenIndex.open(path)."
        raise InputError("to_device: documents", got=type(documents).__name__, expected=expected, hint=hint)
    parts = [member.tokens for member in documents._members]
    if not parts:
        raise InputError("to_device: documents", got="an index without documents", expected="at least one")
    if isinstance(parts[0], ResidualTokens):
        codes = [DeviceCodes.of(part, device, norms=norms) for part in parts if isinstance(part, ResidualTokens)]
        held = None if codes[0].inverse_norms is None else _joined([x.inverse_norms for x in codes])
        ids = _joined([x.centroid_ids for x in codes])
        return DeviceCodes(codes[0].codec, ids, _joined([x.residuals for x in codes]), held, _offsets(parts, codes[0].device))
    given = [part for part in parts if isinstance(part, PackedTokens)]
    made = [
        DeviceTokens.of(Packed(x.values, x.offsets), device, dtype=dtype, scales=x.scales if len(x.scales) else None)
        for x in given
        if len(x.values) or len(given) == 1
    ]
    scales = None if made[0].scales is None else _joined([x.scales for x in made])
    return DeviceTokens(_joined([x.values for x in made]), _offsets(parts, made[0].device), scales)


def _joined(parts: Sequence[Any]) -> Any:
    """One tensor; torch.cat knows no uint16."""
    torch = require_torch()
    if len(parts) == 1:
        return parts[0]
    narrow = parts[0].dtype == torch.uint16
    whole = torch.cat([part.view(torch.int16) if narrow else part for part in parts])
    return whole.view(torch.uint16) if narrow else whole


def _offsets(parts: Sequence[PackedTokens | ResidualTokens], device: Any) -> Any:
    """int64 [all documents + 1] of parts behind one another, on the device."""
    return copied(np.cumsum(np.concatenate([[0], *(np.diff(part.offsets) for part in parts)]), dtype=np.int64), device)


class DeviceReranker:
    """Scores candidates of documents on a device and brings the k best back, ties by row, by replaying a CUDA graph that is recorded here.

    A replay spares the host the launches: it writes the query and the rows into buffers and starts one graph. Graphs are recorded for some
    sizes; a call takes the least that holds it. One caller at a time.

    documents: DeviceTokens or DeviceCodes. k: how many come back. candidates, query_tokens: the sizes, of which the largest are the limits.
    precision: "uint8" may multiply bytes of DeviceCodes, which are float16 else (see `residual_maxsim`).
    Raises InputError, BackendUnavailable (there is no `triton` here).
    """

    def __init__(
        self,
        documents: DeviceTokens | DeviceCodes,
        k: int = 10,
        *,
        candidates: Sequence[int] = (128, 256, 512, 1024),
        query_tokens: Sequence[int] = (32,),
        precision: str = "auto",
    ) -> None:
        what = "DeviceReranker"
        if not isinstance(documents, (DeviceTokens, DeviceCodes)):
            raise InputError(f"{what}: documents", got=type(documents).__name__, expected="DeviceTokens or DeviceCodes")
        self.documents, self.k = documents, checks.count(f"{what}: k", k)
        self.candidates, self.query_tokens = _sizes(f"{what}: candidates", candidates), _sizes(f"{what}: query_tokens", query_tokens)
        checks.one_of(f"{what}: precision", precision, ("auto", "uint8"))
        if k > 1024:
            raise InputError(f"{what}: k", got=k, expected="at most 1024")
        try:
            choose("residual" if isinstance(documents, DeviceCodes) else "maxsim", "triton", documents.device.type)
        except BackendUnavailable as error:
            hint = "Where Triton's kernels do not run, score with rr.ops.maxsim or residual_maxsim and take rr.ops.topk."
            raise BackendUnavailable(f"{what} replays Triton's kernels: {error}", hint=hint) from error
        self._empty = (documents.offsets[1:] == documents.offsets[:-1]).cpu().numpy()
        torch = require_torch()
        dtype = torch.float32
        if isinstance(documents, DeviceTokens) and documents.values.dtype in (torch.float16, torch.float32):
            dtype = documents.values.dtype  # what the query becomes anyway: the less is copied
        score = _codes(documents, precision) if isinstance(documents, DeviceCodes) else _tokens(documents)
        from rerank_kernels.graph import Replays

        self._replays = Replays(score, self.candidates, self.query_tokens, self.k, documents.dim, dtype, documents.device)

    def __call__(
        self, query: ArrayLike, rows: ArrayLike, query_weights: ArrayLike | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(rows int64, scores float32) of the k best of the rows, as many as there are, best first.

        query: float [q, dim] on the host. rows: integers [m]. query_weights: float [q]. Raises InputError, NonFiniteError.
        """
        what = "DeviceReranker"
        q, w = query_tokens(what, query, None, query_weights)
        if q.shape[1] != self.documents.dim or len(q) > self.query_tokens[-1]:
            expected = f"[at most {self.query_tokens[-1]}, {self.documents.dim}]"
            hint = "Longer queries need a larger size in query_tokens=." if q.shape[1] == self.documents.dim else ""
            raise InputError(f"{what}: query", got=f"shape {list(q.shape)}", expected=expected, hint=hint)
        chosen = picked(what, array(f"{what}: rows", rows), len(self.documents))
        assert chosen is not None
        if len(chosen) > self.candidates[-1]:
            expected = f"at most {self.candidates[-1]}"
            raise InputError(f"{what}: rows", got=f"{len(chosen)} rows", expected=expected, hint="More need a larger size in candidates=.")
        best, scores = self._replays(q, chosen, None if query_weights is None else w)
        wrong = ~np.isfinite(scores) & ~(np.isneginf(scores) & self._empty[best])  # NaN is sorted to the front, where it is seen
        if wrong.any():
            expected = "finite numbers in the document and the query, in float16 where the document is"
            raise NonFiniteError(f"{what}: document {best[wrong][0]}", got=f"a score of {scores[wrong][0]}", expected=expected)
        return best, scores

    def __repr__(self) -> str:
        return f"DeviceReranker({self.documents!r}, k={self.k}, candidates={self.candidates}, query_tokens={self.query_tokens})"


def _sizes(name: str, sizes: Sequence[int]) -> list[int]:
    if not isinstance(sizes, Sequence) or not len(sizes):
        raise InputError(name, got=sizes, expected="some sizes to record graphs for")
    return sorted({checks.count(name, n) for n in sizes})


def _tokens(documents: DeviceTokens) -> Any:
    from rerank_kernels.maxsim import maxsim

    def score(query: Any, weights: Any, rows: Any, out: Any) -> None:
        maxsim(query, documents.values, documents.offsets, rows, scales=documents.scales, weights=weights, out=out)

    return score


def _codes(documents: DeviceCodes, precision: str) -> Any:
    from rerank_kernels.residual import residual_maxsim

    codes = documents.kernel_codes
    form = "int8" if precision == "uint8" and documents.inverse_norms is not None else "auto"

    def score(query: Any, weights: Any, rows: Any, out: Any) -> None:
        residual_maxsim(query, codes, rows, form=form, weights=weights, out=out)

    return score
