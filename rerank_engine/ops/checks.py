"""Checks that the ops share: each gives one clear error before any work is done."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, NonFiniteError


def count(name: str, value: int) -> int:
    """A positive integer such as k. A k above the number of candidates is fine: all of them come back."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(name, got=value, expected="an integer of at least 1")
    return int(value)


def finite_number(name: str, value: float, low: float = -np.inf, high: float = np.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputError(name, got=value, expected="a number")
    try:
        number = float(value)
    except OverflowError:  # an int beyond float64
        number = math.inf
    if not math.isfinite(number) or not low <= number <= high:
        raise InputError(name, got=value, expected="a finite number" if low == -np.inf else f"a number from {low:g} to {high:g}")
    return number


def floats(name: str, array: Any, ndim: int, *, finite: bool = True) -> NDArray[np.float32]:
    """Contiguous, aligned float32 of `ndim` dimensions with finite values; other numbers are converted, the rest is refused.

    finite=False leaves the look at every float32 to the caller, which must find NaN and infinity by what it computes.
    """
    a = np.asarray(array)
    if a.dtype.kind not in "fiu":
        raise InputError(name, got=f"dtype {a.dtype}", expected="float32 (float16, float64 and integers are converted)")
    if a.ndim != ndim:
        raise InputError(name, got=f"shape {list(a.shape)}", expected=f"{ndim} dimension{'s' if ndim > 1 else ''}")
    if a.dtype == np.float32:
        if finite:
            all_finite(name, a)
        return contiguous(a, np.float32)
    all_finite(name, a)
    with np.errstate(over="ignore"):
        out = contiguous(a, np.float32)
    if a.dtype.kind == "f" and not np.isfinite(out).all():
        raise NonFiniteError(name, got="a value beyond float32", expected=f"numbers up to {np.finfo(np.float32).max:.3g}")
    return out


def all_finite(name: str, a: NDArray[Any]) -> None:
    if a.dtype.kind == "f" and not np.isfinite(a).all():
        bad = np.argwhere(~np.isfinite(a))[0].tolist()
        raise NonFiniteError(
            name, got=f"{a[tuple(bad)]} at {bad}", expected="finite numbers", hint="NaN and infinity have no place in an order."
        )


def integers(name: str, array: Any, dtype: type[np.signedinteger[Any]] = np.int64) -> NDArray[Any]:
    """Contiguous, aligned 1-d array of `dtype`; any integer dtype whose values fit is converted, floats are refused."""
    a = np.asarray(array)
    if a.size == 0 and a.ndim == 1:
        return np.empty(0, dtype)
    if a.dtype.kind not in "iu":
        raise InputError(name, got=f"dtype {a.dtype}", expected=f"{np.dtype(dtype)}")
    if a.ndim != 1:
        raise InputError(name, got=f"shape {list(a.shape)}", expected="1 dimension")
    info = np.iinfo(dtype)
    if a.dtype != dtype and (int(a.min()) < info.min or int(a.max()) > info.max):
        raise InputError(name, got=f"values from {a.min()} to {a.max()}", expected=f"values that fit {np.dtype(dtype)}")
    return contiguous(a, dtype)


def contiguous(a: NDArray[Any], dtype: Any = None) -> NDArray[Any]:
    out = np.ascontiguousarray(a, dtype=dtype)
    return out if out.flags.aligned else out.copy()


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise InputError(name, got=value, expected="one of " + ", ".join(known))
    return value


def overflow(name: str) -> NonFiniteError:
    """What to raise for the OverflowError by which a backend refuses a result beyond float32: no non-finite number leaves the engine."""
    expected = f"results up to {np.finfo(np.float32).max:.3g}"
    return NonFiniteError(name, got="a value beyond float32", expected=expected, hint="Scale the inputs or the weights down.")


def narrow(values: Any) -> NDArray[np.float32]:
    """float64 results of a reference, rounded once. Raises OverflowError when one is not finite in float32 (see `overflow`)."""
    with np.errstate(over="ignore"):
        out = np.asarray(values, np.float64).astype(np.float32)
    if not np.isfinite(out).all():
        raise OverflowError("a score is beyond float32")
    return out


def instance(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise InputError(name, got=type(value).__name__, expected=f"a {kind.__name__}")
