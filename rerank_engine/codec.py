"""ColBERTv2's residual compression: a token vector as a centroid and 1, 2 or 4 bits a dimension for the rest (Santhanam et al., NAACL
2022)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError
from .kmeans import kmeans
from .ops import checks
from .ops.tokens import picked
from .packed import Packed
from .progress import Progress

NBITS = (1, 2, 4)
_BLOCK = 1 << 22  # values that are held at a time


@dataclass(frozen=True, slots=True, eq=False)
class ResidualCodec:
    """code[k] = how many bucket_cutoffs lie below (token - centroid)[k]; token ~ (centroid + bucket_weights[code]) / its length.

    centroids float32 [K, dim]; bucket_cutoffs float32 [2^nbits - 1], rising; bucket_weights float32 [2^nbits]. dim * nbits is a multiple
    of 8.
    Raises InputError, NonFiniteError.
    """

    centroids: NDArray[np.float32]
    bucket_cutoffs: NDArray[np.float32]
    bucket_weights: NDArray[np.float32]
    nbits: int = field(init=False)
    radius: float = field(init=False)  # the length of the longest centroid

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "centroids", checks.floats("ResidualCodec: centroids", self.centroids, 2))
        put(self, "bucket_cutoffs", checks.floats("ResidualCodec: bucket_cutoffs", self.bucket_cutoffs, 1))
        put(self, "bucket_weights", checks.floats("ResidualCodec: bucket_weights", self.bucket_weights, 1))
        n = len(self.bucket_weights)
        if n not in [1 << nbits for nbits in NBITS] or len(self.bucket_cutoffs) != n - 1:
            got = f"{n} weights and {len(self.bucket_cutoffs)} cutoffs"
            raise InputError("ResidualCodec", got=got, expected="2, 4 or 16 bucket_weights and one bucket_cutoff less")
        if (np.diff(self.bucket_cutoffs) < 0).any():
            raise InputError("ResidualCodec: bucket_cutoffs", got=f"{self.bucket_cutoffs.tolist()}", expected="numbers that rise")
        put(self, "nbits", n.bit_length() - 1)
        squares = np.einsum("kd,kd->k", self.centroids, self.centroids, dtype=np.float64)
        put(self, "radius", float(np.sqrt(squares.max(initial=0))))
        if not len(self.centroids) or self.dim == 0 or self.dim * self.nbits % 8:
            got = f"{len(self.centroids)} centroids of dimension {self.dim} at {self.nbits} bits"
            raise InputError("ResidualCodec: centroids", got=got, expected="at least one, of whole bytes of codes")

    @property
    def dim(self) -> int:
        return int(self.centroids.shape[1])

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token's residual codes."""
        return self.dim * self.nbits // 8

    @property
    def id_dtype(self) -> Any:
        return np.uint16 if len(self.centroids) <= 1 << 16 else np.int32

    @classmethod
    def train(
        cls,
        tokens: ArrayLike,
        nbits: int,
        n_centroids: int | None = None,
        *,
        n_tokens: int | None = None,
        iterations: int = 8,
        seed: int = 0,
        backend: str = "auto",
        centroids: ArrayLike | None = None,
        progress: Progress | None = None,
    ) -> ResidualCodec:
        """Centroids by k-means, buckets by the quantiles of the residuals of tokens that were held out (5 %, at most 50,000).

        tokens: float [n, dim], a sample, usually of unit length. n_centroids: 2^floor(log2(16 sqrt(n_tokens))) by default, at most the
        number of tokens; n_tokens: how many the whole collection has, n by default. backend: "faiss", "numpy" or "auto", the first that
        is there. centroids: those of another codec, such as one of other bits, in place of k-means and all that is
        said of it. Raises InputError, NonFiniteError.
        """
        if nbits not in NBITS:
            raise InputError("ResidualCodec.train: nbits", got=nbits, expected="1, 2 or 4")
        x = checks.floats("ResidualCodec.train: tokens", tokens, 2)
        if not len(x):
            raise InputError("ResidualCodec.train: tokens", got="none", expected="at least one")
        if x.shape[1] == 0 or x.shape[1] * nbits % 8:
            raise InputError("ResidualCodec.train: tokens", got=f"dimension {x.shape[1]}", expected=f"one of whole bytes at {nbits} bits")
        if n_centroids is None:
            n_centroids = 1 << int(np.log2(16 * np.sqrt(max(n_tokens or 0, len(x)))))
        shuffled = np.random.default_rng(seed).permutation(len(x))
        held_out = max(1, min(len(x) // 20, 50_000))
        if centroids is None:
            learned = x[np.sort(shuffled[held_out:])] if len(x) > held_out else x
            k = min(checks.count("ResidualCodec.train: n_centroids", n_centroids), len(learned))
            made = kmeans(learned, k, iterations=iterations, seed=seed, backend=backend, progress=progress)
        else:
            made = checks.floats("ResidualCodec.train: centroids", centroids, 2)
            if not len(made) or made.shape[1] != x.shape[1]:
                raise InputError("ResidualCodec.train: centroids", got=f"shape {list(made.shape)}", expected=f"[at least 1, {x.shape[1]}]")
        sample = x[np.sort(shuffled[:held_out])]
        residuals = sample - made[nearest(sample, made)]
        steps = np.arange(1 << nbits) / (1 << nbits)
        cutoffs = np.quantile(residuals, steps[1:]).astype(np.float32)
        weights = np.quantile(residuals, steps + 0.5 / (1 << nbits)).astype(np.float32)
        return cls(made, cutoffs, weights)

    def encode(self, tokens: ArrayLike, *, progress: Progress | None = None) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float32]]:
        """(centroid ids uint16 or int32 [n], residuals uint8 [n, dim * nbits / 8], inverse norms float32 [n]) of tokens float [n, dim]."""
        x = checks.floats("ResidualCodec.encode: tokens", tokens, 2)
        if x.shape[1] != self.dim:
            raise InputError("ResidualCodec.encode: tokens", got=f"dimension {x.shape[1]}", expected=f"{self.dim}")
        ids, codes = np.empty(len(x), self.id_dtype), np.empty((len(x), self.bytes_per_token), np.uint8)
        for at in range(0, len(x), step := max(1, _BLOCK // self.dim)):
            block = x[at : at + step]
            near = nearest(block, self.centroids)
            ids[at : at + step] = near
            codes[at : at + step] = pack(np.searchsorted(self.bucket_cutoffs, block - self.centroids[near]).astype(np.uint8), self.nbits)
            if progress:
                progress(min(at + step, len(x)), len(x))
        return ids, codes, self.inverse_norms(ids, codes)

    def _sums(self, ids: NDArray[Any], codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        sums: NDArray[np.float32] = self.centroids[ids] + self.bucket_weights[unpack(codes, self.nbits)]
        return sums

    def inverse_norms(
        self, centroid_ids: NDArray[Any], residuals: NDArray[np.uint8], *, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """float32 [n]: 1 / |centroid + residual|. A sum of length 0 has 0."""
        out = np.empty(len(centroid_ids), np.float32)
        for at in range(0, len(out), step := max(1, _BLOCK // self.dim)):
            sums = self._sums(centroid_ids[at : at + step], residuals[at : at + step]).astype(np.float64)
            norms = np.sqrt((sums * sums).sum(1))
            out[at : at + step] = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 1e-30)
            if progress:
                progress(min(at + step, len(out)), len(out))
        return out

    def decode(self, centroid_ids: NDArray[Any], residuals: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 [n, dim], of unit length."""
        return self._sums(centroid_ids, residuals) * self.inverse_norms(centroid_ids, residuals)[:, None]

    def __repr__(self) -> str:
        return f"ResidualCodec({len(self.centroids)} centroids x {self.dim}, {self.nbits} bit)"


@dataclass(frozen=True, slots=True, eq=False)
class ResidualTokens:
    """Compressed tokens of n documents behind one another: what `rr.ops.residual_maxsim` scores.

    centroid_ids uint16 or int32 [total]; residuals uint8 [total, dim * nbits / 8], as ColBERT and PLAID write them; inverse_norms float32
    [total]; offsets int64 [n + 1]. Shapes and types are checked here, centroid ids when they are used. Raises InputError.
    """

    codec: ResidualCodec
    centroid_ids: NDArray[Any]
    residuals: NDArray[np.uint8]
    inverse_norms: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        total, what = len(self.centroid_ids), "ResidualTokens"
        if self.centroid_ids.dtype not in (np.uint16, np.int32) or self.centroid_ids.ndim != 1:
            raise InputError(f"{what}: centroid_ids", got=f"{self.centroid_ids.dtype}", expected="uint16 or int32 [total]")
        if self.residuals.dtype != np.uint8 or self.residuals.shape != (total, self.codec.bytes_per_token):
            got = f"{self.residuals.dtype} {list(self.residuals.shape)}"
            raise InputError(f"{what}: residuals", got=got, expected=f"uint8 [{total}, {self.codec.bytes_per_token}]")
        if self.inverse_norms.dtype != np.float32 or self.inverse_norms.shape != (total,):
            raise InputError(f"{what}: inverse_norms", got=f"{list(self.inverse_norms.shape)}", expected=f"float32 [{total}]")
        offsets = self.offsets  # whether they rise is seen when they are used: a mapped file is not read here
        if offsets.dtype != np.int64 or offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or offsets[-1] != total:
            raise InputError(f"{what}: offsets", got=f"{offsets.dtype} {list(offsets.shape)}", expected=f"int64 [n + 1] from 0 to {total}")
        put = object.__setattr__
        for name in ("centroid_ids", "residuals", "inverse_norms"):
            put(self, name, checks.contiguous(getattr(self, name)))

    @classmethod
    def encode(cls, documents: Packed, codec: ResidualCodec, *, progress: Progress | None = None) -> ResidualTokens:
        checks.instance("ResidualTokens.encode: documents", documents, Packed)
        return cls(codec, *codec.encode(documents.values, progress=progress), documents.offsets)

    @property
    def dim(self) -> int:
        return self.codec.dim

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def decode(self, rows: ArrayLike | None = None) -> Packed:
        """The documents, or some of them, as float32 tokens of unit length."""
        asked = picked("ResidualTokens.decode", rows, len(self))
        chosen = np.arange(len(self)) if asked is None else asked
        parts = [slice(self.offsets[row], self.offsets[row + 1]) for row in chosen.tolist()]
        decoded = [self.codec.decode(self.centroid_ids[part], self.residuals[part]) for part in parts]
        return Packed.from_rows(decoded) if decoded else Packed(np.empty((0, self.dim), np.float32), np.zeros(1, np.int64))

    def __repr__(self) -> str:
        return f"ResidualTokens({len(self)} documents, {len(self.centroid_ids)} tokens, {self.codec!r})"


def nearest(tokens: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """int64 [n]: the centroid of the largest inner product with each token, the first of equal ones. In blocks: memory stays bounded."""
    step = max(1, _BLOCK // max(len(centroids), tokens.shape[1]))
    parts = [(tokens[at : at + step] @ centroids.T).argmax(1) for at in range(0, len(tokens), step)]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def pack(codes: NDArray[np.uint8], nbits: int) -> NDArray[np.uint8]:
    """Codes uint8 [n, dim] to bytes as ColBERT writes them: each code's lowest bit first, into a byte from its highest bit on."""
    bits = (codes[:, :, None] >> np.arange(nbits, dtype=np.uint8)) & 1
    return np.packbits(bits.reshape(len(codes), codes.shape[1] * nbits), axis=1)


def unpack(residuals: NDArray[np.uint8], nbits: int) -> NDArray[np.uint8]:
    """Codes uint8 [n, dim] from bytes [n, dim * nbits / 8]: the reverse of `pack`."""
    every = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).reshape(256, 8 // nbits, nbits)
    table = (every << np.arange(nbits, dtype=np.uint8)).sum(2, dtype=np.uint8)
    codes: NDArray[np.uint8] = table[residuals].reshape(len(residuals), residuals.shape[1] * 8 // nbits)
    return codes
