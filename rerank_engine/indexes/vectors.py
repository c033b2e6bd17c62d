"""Document vectors, one a row, searched exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..corpus import Corpus, require_documents
from ..errors import InputError
from ..ops import checks
from ..ops.topk import Hits, topk
from ..progress import Progress

if TYPE_CHECKING:
    from ..stages.dense import BiEncoder


class VectorIndex:
    """Exact inner-product search over float32 vectors [n, dim]; the cosine, when they have unit length.

    truncated_tokens int32 [n]: what the encoder cut off each document, where it is known.
    """

    def __init__(self, corpus: Corpus, vectors: ArrayLike, truncated_tokens: NDArray[np.int32] | None = None) -> None:
        require_documents("VectorIndex", corpus)
        self.corpus, self.vectors = corpus, checks.floats("VectorIndex: vectors", vectors, 2)
        self.truncated_tokens = np.zeros(len(corpus), np.int32) if truncated_tokens is None else truncated_tokens
        if len(self.vectors) != len(corpus):
            raise InputError(
                "VectorIndex: vectors", got=f"{len(self.vectors)} vectors", expected=f"one for each of the {len(corpus)} documents"
            )

    @classmethod
    def build(cls, corpus: Corpus, encoder: BiEncoder, *, progress: Progress | None = None) -> VectorIndex:
        """Encodes every passage (title and text)."""
        require_documents("VectorIndex.build", corpus)
        return cls(corpus, *encoder.encode_counted(corpus.texts(), progress=progress))

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def search(self, queries: ArrayLike, k: int, *, filters: Sequence[NDArray[np.bool_] | None] | None = None) -> list[Hits]:
        """queries float32 [q, dim]; per query (rows int64 [m], scores float32 [m]), m = min(k, n), score descending, then row ascending.

        filters: per query a bool for each row that tells which may be found, or None for all.

        One inner product a document, so that a score depends neither on the batch nor on the row: a matrix product sums the last rows of
        a block in another order, and equal documents would not tie. Raises InputError, NonFiniteError (products beyond float32).
        """
        q: NDArray[Any] = checks.floats("VectorIndex.search: queries", queries, 2)
        if q.shape[1] != self.dim:
            raise InputError("VectorIndex.search: queries", got=f"dimension {q.shape[1]}", expected=f"{self.dim}, as the documents have")
        with np.errstate(over="ignore", invalid="ignore"):  # topk refuses what is not finite
            scores = [np.matmul(self.vectors[:, None, :], row[:, None])[:, 0, 0] for row in q]
        rows = [None if mask is None else np.flatnonzero(mask) for mask in filters or [None] * len(q)]
        return [topk(row if kept is None else row[kept], k, ids=kept) for row, kept in zip(scores, rows)]

    def __repr__(self) -> str:
        cut = int((self.truncated_tokens > 0).sum())
        return f"VectorIndex({len(self.vectors)} x {self.dim}, exact{f', {cut} documents truncated' if cut else ''})"
