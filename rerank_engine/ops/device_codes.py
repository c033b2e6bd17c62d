"""Residual codes on tensors of a device: what holds them, and the backends `triton` and `torch` of the ops residual and centroid."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backends import implementation
from ..codec import ResidualCodec, ResidualTokens
from ..errors import InputError
from . import checks
from .device import best_sums, by_query, in_one_launch, query_on, require_finite, rows_on, weights_on
from .tensors import copied, device_named, require_offsets, require_one_device, require_torch
from .tokens import batch_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class DeviceCodes:
    """Residual codes on a device, as they are in an index: the kernels read ColBERT's bytes. `DeviceCodes.of` copies ResidualTokens there.

    centroid_ids: uint16 or int32 [total]; residuals: uint8 [total, dim * nbits / 8]; inverse_norms: float32 [total], or None, and lengths
    are computed; offsets: int64 [n + 1]. All contiguous, on one device. The kernels hold 2 more bytes a token for inverse norms, and the
    centroids as float16; the backend torch holds those as float32. Raises InputError.
    """

    codec: ResidualCodec
    centroid_ids: torch.Tensor
    residuals: torch.Tensor
    inverse_norms: torch.Tensor | None
    offsets: torch.Tensor

    def __post_init__(self) -> None:
        torch, what = require_torch(), "DeviceCodes"
        checks.instance(f"{what}: codec", self.codec, ResidualCodec)
        total, width = len(self.centroid_ids), self.codec.bytes_per_token
        expected: dict[str, tuple[tuple[int, ...], tuple[Any, ...]]] = {
            "centroid_ids": ((total,), (torch.uint16, torch.int32)),
            "residuals": ((total, width), (torch.uint8,)),
            "inverse_norms": ((total,), (torch.float32,)),
        }
        for name, (shape, types) in expected.items():
            given = getattr(self, name)
            if name == "inverse_norms" and given is None:
                continue
            checks.instance(f"{what}: {name}", given, torch.Tensor)
            if given.dtype not in types or tuple(given.shape) != shape or not given.is_contiguous():
                got = f"{given.dtype} {list(given.shape)}" + ("" if given.is_contiguous() else ", not contiguous")
                raise InputError(f"{what}: {name}", got=got, expected=f"contiguous {' or '.join(map(str, types))} {list(shape)}")
        checks.instance(f"{what}: offsets", self.offsets, torch.Tensor)
        held = [self.centroid_ids, self.residuals, self.offsets, *([] if self.inverse_norms is None else [self.inverse_norms])]
        require_one_device(what, held)
        require_offsets(what, self.offsets, total)

    @classmethod
    def of(cls, documents: ResidualTokens, device: Any, *, norms: bool = True) -> DeviceCodes:
        """norms=False leaves the inverse norms behind: 6 bytes a token less, and a slower kernel. Raises InputError, NonFiniteError."""
        device = device_named("DeviceCodes.of", device)
        checks.instance("DeviceCodes.of: documents", documents, ResidualTokens)
        n, ids = len(documents.codec.centroids), documents.centroid_ids
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < n:
            raise InputError("DeviceCodes.of: centroid ids", got=f"from {ids.min()} to {ids.max()}", expected=f"from 0 to {n - 1}")
        checks.all_finite("DeviceCodes.of: inverse_norms", documents.inverse_norms)
        held = copied(documents.inverse_norms, device) if norms else None
        return cls(documents.codec, copied(ids, device), copied(documents.residuals, device), held, copied(documents.offsets, device))

    @property
    def device(self) -> torch.device:
        return self.residuals.device

    @property
    def dim(self) -> int:
        return self.codec.dim

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"DeviceCodes({len(self)} documents, {len(self.centroid_ids)} tokens on {self.device}, {self.codec!r})"

    @functools.cached_property
    def kernel_codes(self) -> Any:
        """What rerank_kernels.residual scores, made when it is first needed. Ids, residuals and offsets are these tensors."""
        from rerank_kernels.codes import Codes

        return Codes.of(*self.tables[:2], self.centroid_ids, self.residuals, self.offsets, self.inverse_norms)

    @functools.cached_property
    def tables(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(centroids float32, bucket weights float32, what each byte decodes to: int64 [256, codes of a byte]) on the device"""
        from ..codec import unpack

        every = unpack(np.arange(256, dtype=np.uint8)[:, None], self.codec.nbits).astype(np.int64)
        centroids, weights, codes = (copied(x, self.device) for x in (self.codec.centroids, self.codec.bucket_weights, every))
        return centroids, weights, codes


def residual_on_device(
    query: Any, documents: DeviceCodes, rows: Any, table: Any, precision: str, mask: Any, weights: Any, backend: str
) -> Any:
    """`residual_maxsim` of documents on a device: float32 tensors there."""
    name, device = "residual_maxsim", documents.device
    run = functools.partial(implementation("residual", backend, device.type), precision=precision)
    if (batch := batch_of(query)) is not None:
        if not (mask is None and weights is None and table is None):
            raise InputError(name, got="a mask, weights or centroid_scores for a batch", expected="them for one query")
        return in_one_launch(name, batch, rows, documents, run)
    q = query_on(name, query, documents.dim, device)
    chosen = rows_on(name, rows, len(documents), device)
    w = weights_on(name, mask, weights, len(q), device)
    held = None if table is None else require_table(name, table, documents, backend, len(q)).values
    return require_finite(name, run(q, w, documents, chosen, table=held), chosen, documents.offsets)


def residual_triton(
    query: torch.Tensor,
    weights: torch.Tensor | None,
    documents: DeviceCodes,
    rows: torch.Tensor,
    *,
    precision: str,
    table: Any = None,
    **pairs: Any,
) -> torch.Tensor:
    """The query, centroids and bucket weights are float16, sums float32; "uint8" multiplies bytes where norms are held, of one query."""
    from rerank_kernels.residual import residual_maxsim

    if precision == "float32":
        hint = "The backends 'auto' and 'torch' decode to float32."
        raise InputError("residual_maxsim: precision", got="float32", expected="auto, int16 or uint8", hint=hint)
    form = "int8" if precision == "uint8" and documents.inverse_norms is not None and not pairs else "auto"
    scores: torch.Tensor = residual_maxsim(query, documents.kernel_codes, rows, form=form, table=table, weights=weights, **pairs)
    return scores


def residual_torch(
    query: torch.Tensor,
    weights: torch.Tensor | None,
    documents: DeviceCodes,
    rows: torch.Tensor,
    *,
    precision: str,
    table: Any = None,
    **pairs: Any,
) -> torch.Tensor:
    """Decodes to float32, block by block, whatever the precision."""
    if pairs:
        return by_query(lambda q, some: residual_torch(q, None, documents, some, precision=precision), query, rows, **pairs)
    centroids, bucket_weights, codes = documents.tables

    def similarities(tokens: torch.Tensor) -> torch.Tensor:
        values = bucket_weights[codes[documents.residuals[tokens].long()].flatten(1)]
        values += centroids[_ids(documents, tokens)]
        norms = documents.inverse_norms
        return (values @ query.float().T) * (1 / values.norm(dim=1) if norms is None else norms[tokens])[:, None]

    return best_sums(similarities, len(query), weights, documents.offsets, rows)


def _ids(documents: DeviceCodes, tokens: torch.Tensor) -> torch.Tensor:
    """int64: torch indexes no uint16, so it is read as int16 and its sign is undone."""
    torch = require_torch()
    ids = documents.centroid_ids
    return ids[tokens].long() if ids.dtype != torch.uint16 else ids.view(torch.int16)[tokens].long() & 0xFFFF


@dataclass(frozen=True, eq=False)
class DeviceTable:
    """The products of a query with the centroids on a device, as one backend holds them. Made by `centroid_scores(query, DeviceCodes)`."""

    backend: str
    n_query: int
    values: torch.Tensor


def of_table(table: Any, backend: str) -> str:
    """ "auto" is the backend that made the table, if there is one."""
    return table.backend if backend == "auto" and isinstance(table, DeviceTable) else backend


def centroid_scores_on_device(query: Any, documents: DeviceCodes, backend: str) -> DeviceTable:
    q = query_on("centroid_scores", query, documents.dim, documents.device)
    if backend == "triton":
        from rerank_kernels.residual import query_table

        return DeviceTable(backend, len(q), query_table(q, documents.kernel_codes))
    return DeviceTable(backend, len(q), documents.tables[0] @ q.float().T)


def require_table(name: str, table: Any, documents: DeviceCodes, backend: str, n_query: int | None = None) -> DeviceTable:
    """Raises InputError unless it is the table of these documents, for this backend and query."""
    what, n = f"{name}: centroid_scores", len(documents.codec.centroids)
    checks.instance(what, table, DeviceTable)
    rows, device = len(table.values) - (table.backend == "triton"), table.values.device
    if (table.backend, rows, device) != (backend, n, documents.device) or n_query not in (None, table.n_query):
        got = f"one of {table.n_query} query tokens and {rows} centroids for {table.backend} on {device}"
        expected = f"{n} centroids for {backend} on {documents.device}" + ("" if n_query is None else f", {n_query} query tokens")
        raise InputError(what, got=got, expected=expected, hint="Make it with centroid_scores(query, documents, backend=...).")
    return table  # type: ignore[no-any-return]


def centroid_on_device(table: Any, documents: DeviceCodes, rows: Any, weights: Any, backend: str) -> torch.Tensor:
    """`centroid_maxsim` of documents on a device."""
    name = "centroid_maxsim"
    n = require_table(name, table, documents, backend).n_query
    w = weights_on(name, None, weights, n, documents.device)
    chosen = rows_on(name, rows, len(documents), documents.device)
    run = implementation("centroid", backend, documents.device.type)
    return require_finite(name, run(table.values, n, w, documents, chosen), chosen, documents.offsets)


def centroid_triton(table: torch.Tensor, n: int, weights: torch.Tensor | None, documents: DeviceCodes, rows: torch.Tensor) -> torch.Tensor:
    from rerank_kernels.centroid import centroid_maxsim

    scores: torch.Tensor = centroid_maxsim(table, n, documents.centroid_ids, documents.offsets, rows, weights=weights)
    return scores / documents.kernel_codes.scale


def centroid_torch(table: torch.Tensor, n: int, weights: torch.Tensor | None, documents: DeviceCodes, rows: torch.Tensor) -> torch.Tensor:
    return best_sums(lambda tokens: table[_ids(documents, tokens), :n], n, weights, documents.offsets, rows)
