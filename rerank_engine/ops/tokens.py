"""What the late-interaction ops take as queries and documents, turned into the one form that their backends read. Nothing is copied that is
float32, float16 or int8 and contiguous already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import FileFormatError, InputError, NonFiniteError
from ..packed import Packed
from . import checks

STORED = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.int8))


@dataclass(frozen=True, slots=True, eq=False)
class TokenSpans:
    """Documents as spans of rows: document i is values[starts[i] : starts[i] + lengths[i]], times its scales for int8.

    values: float32, float16 or int8 [total, dim]; or one such array a document (then starts are 0). starts, lengths: int64 [n].
    """

    values: NDArray[Any] | list[NDArray[Any]]
    scales: NDArray[np.float32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    dim: int

    def __len__(self) -> int:
        return len(self.starts)

    def pick(self, rows: NDArray[np.int64] | None) -> TokenSpans:
        if rows is None:
            return self
        values = [self.values[i] for i in rows.tolist()] if isinstance(self.values, list) else self.values
        return TokenSpans(values, self.scales, self.starts[rows], self.lengths[rows], self.dim)

    def document(self, i: int) -> NDArray[np.float32]:
        """float32 [length, dim], decoded."""
        span = slice(int(self.starts[i]), int(self.starts[i] + self.lengths[i]))
        values = self.values[i] if isinstance(self.values, list) else self.values[span]
        decoded = values.astype(np.float32)
        return decoded * self.scales[span, None] if len(self.scales) else decoded


def array(name: str, given: Any) -> NDArray[Any]:
    """A numpy view of an array of any library on the CPU (DLPack), or an array of what numpy understands."""
    if not isinstance(given, np.ndarray) and hasattr(given, "__dlpack__"):
        try:
            return np.from_dlpack(given)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:  # each library has its own
            hint = "For a torch tensor: x.detach().float().cpu(); bfloat16 has no counterpart in numpy."
            raise InputError(
                name, got=f"{type(given).__name__} that numpy cannot view ({error})", expected="numbers on the CPU", hint=hint
            ) from error
    try:
        return np.asarray(given)
    except (TypeError, ValueError) as error:  # ragged lists, objects that refuse
        raise InputError(name, got=f"{type(given).__name__} ({error})", expected="an array of numbers") from error


def stored(name: str, given: Any, ndim: int = 2) -> NDArray[Any]:
    """Token vectors in a type that the kernels read; other floats become float32."""
    a = array(name, given)
    if a.dtype not in STORED:
        with np.errstate(over="ignore"):  # the kernels find what is not finite, where it is scored
            return checks.floats(name, a.astype(np.float32) if a.dtype.kind == "f" else a, ndim, finite=False)
    if a.ndim != ndim:
        raise InputError(name, got=f"shape {list(a.shape)}", expected=f"{ndim} dimensions, the last of them the vectors'")
    return checks.contiguous(a)


@dataclass(frozen=True, slots=True, eq=False)
class PackedTokens:
    """A Packed with its scales: spans are made of the rows asked for, so that the size of the store does not count."""

    values: NDArray[Any]
    scales: NDArray[np.float32]
    offsets: NDArray[np.int64]

    @property
    def dim(self) -> int:
        return int(self.values.shape[1])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def pick(self, rows: NDArray[np.int64] | None) -> TokenSpans:
        return TokenSpans(self.values, self.scales, *ranges(self.offsets, rows), self.dim)


def ranges(offsets: NDArray[np.int64], rows: NDArray[np.int64] | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(starts, lengths) of rows, or of all. Raises FileFormatError for offsets that step back, as those of a damaged file may."""
    starts, ends = (offsets[:-1], offsets[1:]) if rows is None else (offsets[rows], offsets[rows + 1])
    if len(starts) and ((ends < starts).any() or int(starts.min()) < 0 or int(ends.max()) > int(offsets[-1])):
        raise FileFormatError("token offsets", got="a step back", expected="offsets that rise from 0", hint="Check the index.")
    return np.ascontiguousarray(starts), ends - starts


def batch_of(query: Any) -> list[Any] | None:
    """The queries of a batch, a Packed or a list of arrays [q, dim]; None for one query."""
    if isinstance(query, Packed) or (isinstance(query, (list, tuple)) and query and all(getattr(q, "ndim", 0) == 2 for q in query)):
        return list(query)
    return None


def query_tokens(
    name: str, query: Any, mask: ArrayLike | None, weights: ArrayLike | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(tokens float32 [q, dim], weights float32 [q]) of the query tokens that take part."""
    q = checks.floats(f"{name}: query", array(f"{name}: query", query), 2)
    w = np.ones(len(q), np.float32) if weights is None else checks.floats(f"{name}: query_weights", array(name, weights), 1)
    if len(w) != len(q):
        raise InputError(f"{name}: query_weights", got=f"{len(w)} weights", expected=f"{len(q)}, one a query token")
    if mask is None:
        return q, w
    keep = array(f"{name}: query_mask", mask)
    if keep.shape != (len(q),) or keep.dtype.kind not in "biu":
        raise InputError(
            f"{name}: query_mask", got=f"{keep.dtype} {list(keep.shape)}", expected=f"bool [{len(q)}], True where a token counts"
        )
    return np.ascontiguousarray(q[keep != 0]), np.ascontiguousarray(w[keep != 0])


def documents(name: str, given: Any, scales: ArrayLike | None, mask: ArrayLike | None) -> PackedTokens | TokenSpans:
    """From a Packed, a list of arrays, or a padded array [n, longest, dim] with its mask. Raises InputError, NonFiniteError."""
    what = f"{name}: documents"
    if isinstance(given, PackedTokens):
        return given
    if hasattr(given, "residuals"):
        raise InputError(what, got="residual codes", expected="token vectors", hint="Score codes with residual_maxsim.")
    if isinstance(given, Packed) and not given.values.size and given.values.ndim == 1:
        return PackedTokens(np.empty((0, 0), np.float32), np.empty(0, np.float32), given.offsets)  # of documents without a token
    if isinstance(given, Packed):
        if mask is not None:
            raise InputError(f"{name}: document_mask", got="one for packed documents", expected="None: they hold no padding")
        values = stored(what, given.values)
        if (values.dtype == np.int8) != (scales is not None):
            got = "int8 without scales" if scales is None else f"scales for {values.dtype}"
            raise InputError(f"{name}: scales", got=got, expected="float32 [tokens] for int8 documents, None for others")
        s = np.empty(0, np.float32) if scales is None else checks.floats(f"{name}: scales", array(name, scales), 1, finite=False)
        if scales is not None and len(s) != len(values):
            raise InputError(f"{name}: scales", got=f"{len(s)} scales", expected=f"{len(values)}, one a token")
        return PackedTokens(values, s, given.offsets)
    if scales is not None:
        raise InputError(f"{name}: scales", got="scales of documents that are not packed", expected="a Packed of int8 values with scales")
    if not (isinstance(given, (list, tuple)) and (not given or not np.isscalar(given[0]))) or mask is not None:
        return _padded(name, stored(what, given, 3), mask)
    rows = [stored(f"{what}: document {i}", row) for i, row in enumerate(given)]
    kinds = {row.dtype for row in rows}
    if np.dtype(np.int8) in kinds:
        raise InputError(what, got="a list of int8 arrays", expected="a Packed of int8 values with scales")
    if len(kinds) > 1:
        rows = [row.astype(np.float32) for row in rows]
    dims = {row.shape[1] for row in rows}
    if len(dims) > 1:
        raise InputError(what, got=f"dimensions {sorted(dims)}", expected="one dimension")
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return TokenSpans(rows, np.empty(0, np.float32), np.zeros(len(rows), np.int64), lengths, dims.pop() if dims else 0)


def _padded(name: str, padded: NDArray[Any], mask: ArrayLike | None) -> TokenSpans:
    n, longest, dim = padded.shape
    if mask is None:
        hint = "Pass document_mask, or a Packed: padding that is not masked can win."
        raise InputError(f"{name}: documents", got="a padded array without a mask", expected="document_mask bool [n, longest]", hint=hint)
    if padded.dtype == np.int8:
        raise InputError(f"{name}: documents", got="padded int8", expected="a Packed of int8 values with scales")
    keep = array(f"{name}: document_mask", mask)
    if keep.shape != (n, longest) or keep.dtype.kind not in "biu":
        raise InputError(f"{name}: document_mask", got=f"{keep.dtype} {list(keep.shape)}", expected=f"bool [{n}, {longest}]")
    keep = keep != 0
    lengths, none = keep.sum(1, dtype=np.int64), np.empty(0, np.float32)
    if (keep == (np.arange(longest) < lengths[:, None])).all():  # padding at the end only: the tokens stay where they are
        return TokenSpans(padded.reshape(n * longest, dim), none, np.arange(n, dtype=np.int64) * longest, lengths, dim)
    return TokenSpans(padded[keep], none, np.cumsum(lengths) - lengths, lengths, dim)


def picked(name: str, rows: ArrayLike | None, n: int) -> NDArray[np.int64] | None:
    """The rows that are asked for, checked; None for all. A row may come twice."""
    if rows is None:
        return None
    chosen = checks.integers(f"{name}: rows", array(f"{name}: rows", rows))
    if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < n:
        bad = chosen[(chosen < 0) | (chosen >= n)][0]
        raise InputError(f"{name}: rows", got=f"row {bad}", expected=f"rows from 0 to {n - 1}")
    return chosen


def of_queries(name: str, rows: Any, n: int) -> Sequence[Any]:
    """For a batch: the rows of each of its n queries, from a sequence of arrays, a Packed, or one array for all."""
    if not isinstance(rows, (list, tuple, Packed)) or not len(rows) or np.isscalar(rows[0]):
        return [rows] * n
    if len(rows) != n:
        raise InputError(f"{name}: rows", got=f"rows of {len(rows)} queries", expected=f"those of {n}, or one array for all")
    return list(rows)


def refuse_non_finite(name: str, documents: TokenSpans, i: int, rows: NDArray[np.int64] | None = None) -> None:
    """Raises NonFiniteError: document i of those scored, which are these rows, has a product that is not finite. Says whether its tokens
    are at fault."""
    with np.errstate(over="ignore"):
        tokens = documents.document(i)
    at = np.argwhere(~np.isfinite(tokens))
    if len(at):
        what = f"{name}: document {i if rows is None else rows[i]}"
        raise NonFiniteError(what, got=f"{tokens[tuple(at[0])]} at {at[0].tolist()}", expected="finite numbers")
    raise checks.overflow(f"{name}: products of tokens")
