"""Weights out of a .safetensors file: a length, a JSON header, raw numbers. Read here in full view, since such a file comes from outside.

Layout: uint64 n (little endian), n bytes of JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {...}}, then the
numbers, whose offsets count from the header's end. The tensors lie behind one another and fill the file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptModelError

_FLOATS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_LARGEST_HEADER = 100_000_000  # bytes, as the format says


def read_tensors(path: Path, names: Collection[str]) -> dict[str, NDArray[np.float32]]:
    """Those of the tensors `names` that the file holds, as float32 (F16 and BF16 are widened, which is exact).

    Nothing else of the file is read but its header. Raises CorruptModelError: no such file, one that breaks the layout, another dtype,
    NaN or infinity.
    """
    try:
        with path.open("rb") as file:
            header, start, size = _header(path, file)
            _check(path, header, size)
            return {name: _tensor(path, file, name, header[name], start) for name in names if name in header}
    except OSError as error:
        raise CorruptModelError(str(path), got=str(error), expected="a readable .safetensors file") from error


def tensor_names(path: Path) -> list[str]:
    """What the file's header names. Raises CorruptModelError."""
    try:
        with path.open("rb") as file:
            header, _, size = _header(path, file)
            _check(path, header, size)
            return list(header)
    except OSError as error:
        raise CorruptModelError(str(path), got=str(error), expected="a readable .safetensors file") from error


def _broken(path: Path, got: str, expected: str = "a .safetensors file") -> CorruptModelError:
    return CorruptModelError(str(path), got=got, expected=expected)


def _header(path: Path, file: BinaryIO) -> tuple[dict[str, Any], int, int]:
    """(the header, where the numbers start, how many bytes of them there are)"""
    total, head = os.fstat(file.fileno()).st_size, file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or length > min(total - 8, _LARGEST_HEADER):
        raise _broken(path, f"a header of {length} bytes in a file of {total}")
    try:
        header = json.loads(file.read(length).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"a header that does not parse ({error})") from error
    if not isinstance(header, dict):
        raise _broken(path, f"a header that is a {type(header).__name__}")
    header.pop("__metadata__", None)
    return header, 8 + length, total - 8 - length


def _check(path: Path, header: dict[str, Any], size: int) -> None:
    """Every tensor lies within the file, has the bytes that its shape needs, and shares none with another."""
    spans = []
    for name, entry in header.items():
        entry = entry if isinstance(entry, dict) else {}
        shape, offsets = entry.get("shape"), entry.get("data_offsets")
        # At most 8 dimensions: the product of a long shape takes minutes.
        if not (_naturals(shape, 8) and _naturals(offsets, 2) and len(offsets) == 2 and offsets[0] <= offsets[1] <= size):
            raise _broken(path, f"tensor '{name}' with shape {shape!r} at {offsets!r} of {size} bytes")
        wanted = _BYTES.get(str(entry.get("dtype")))
        if wanted is not None and math.prod(shape) * wanted != offsets[1] - offsets[0]:
            raise _broken(path, f"tensor '{name}', {entry['dtype']} {shape}, in {offsets[1] - offsets[0]} bytes")
        spans.append(tuple(offsets))
    spans.sort()
    if [begin for begin, _ in spans] != [0, *(end for _, end in spans)][:-1] or (spans[-1][1] if spans else 0) != size:
        raise _broken(path, f"tensors that overlap or leave bytes over in {size} bytes")


def _naturals(values: Any, most: int) -> TypeGuard[list[int]]:
    return isinstance(values, list) and len(values) <= most and all(type(value) is int and 0 <= value < 1 << 62 for value in values)


def _tensor(path: Path, file: BinaryIO, name: str, entry: dict[str, Any], start: int) -> NDArray[np.float32]:
    if (dtype := str(entry.get("dtype"))) not in _FLOATS:
        raise _broken(path, f"tensor '{name}' of {dtype}", "one of " + ", ".join(_FLOATS))
    begin, end = entry["data_offsets"]
    file.seek(start + begin)
    data = file.read(end - begin)
    if len(data) != end - begin:  # cut short meanwhile
        raise _broken(path, f"the end of the file within tensor '{name}'")
    raw = np.frombuffer(data, _FLOATS[dtype]).reshape(entry["shape"])
    values = (raw.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else raw.astype(np.float32)
    if not np.isfinite(values).all():
        raise _broken(path, f"NaN or infinity in tensor '{name}'", "finite weights")
    return values
