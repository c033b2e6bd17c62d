"""Packed (ragged) arrays: the canonical input of every op. Padding exists only at the edge of a library that wants it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """n rows of different lengths behind one another.

    values: any dtype [total, ...]; offsets: int64 [n + 1], from 0 to total, never falling. Row i is values[offsets[i]:offsets[i + 1]].
    Raises InputError when the two do not fit together.
    """

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        values, offsets = np.asarray(self.values), np.asarray(self.offsets)
        if values.ndim < 1:
            raise InputError("Packed: values", got="a scalar", expected="an array [total, ...]")
        if offsets.ndim != 1 or offsets.size == 0 or offsets.dtype.kind not in "iu":
            raise InputError("Packed: offsets", got=f"{offsets.dtype} {list(offsets.shape)}", expected="int64 [n + 1]")
        offsets = np.ascontiguousarray(offsets, dtype=np.int64)
        if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
            raise InputError(
                "Packed: offsets",
                got=f"first {offsets[0]}, last {offsets[-1]} for {len(values)} values",
                expected="a start at 0, an end at the number of values, and no step back",
            )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "offsets", offsets)

    @classmethod
    def from_rows(cls, rows: Sequence[Any], dtype: Any = None) -> Packed:
        """Concatenates rows (arrays or sequences); `dtype` is needed when there may be no row at all."""
        arrays = [np.asarray(row, dtype=dtype) for row in rows]
        offsets = np.zeros(len(arrays) + 1, np.int64)
        np.cumsum([len(a) for a in arrays], out=offsets[1:])
        return cls(np.concatenate(arrays) if arrays else np.empty(0, dtype or np.float32), offsets)

    def take(self, rows: NDArray[np.int64]) -> Packed:
        """The rows of these numbers, in this order."""
        lengths = self.lengths[rows]
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        at = np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Packed(self.values[at], offsets)

    def part(self, start: int, end: int) -> Packed:
        """Rows start to end - 1, as a view."""
        offsets = self.offsets[start : end + 1]
        return Packed(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [n]: the number of values of each row."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        """A view of one row."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of a Packed with {len(self)} rows")
        row %= len(self)
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        return f"Packed({len(self)} rows, {len(self.values)} x {list(self.values.shape[1:])} {self.values.dtype})"
