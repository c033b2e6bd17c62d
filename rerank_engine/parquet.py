"""Parquet: tables of records in and out. Needs pyarrow, which is imported here alone and only for a file that is Parquet's."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import FileFormatError, MissingDependency

MAGIC, STRUCT = b"PAR1", b"\x15"  # the first bytes and the last; what follows the first: a field of Thrift, which no text begins with
ROWS = 4096  # that are in memory as records at a time


def is_parquet(path: str | Path) -> bool:
    """By its first bytes and its last, or where the end is lost by the first alone. What is no regular file is none, for what is read of a
    pipe is gone from it; nor is what cannot be read: whoever reads it next says why."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            begin, size = file.read(5), os.fstat(file.fileno()).st_size
            file.seek(max(0, size - 4))
            whole = size >= 12 and file.read() == MAGIC
    except OSError:
        return False
    return begin[:4] == MAGIC and (whole or begin[4:] == STRUCT)


def require_parquet(what: str) -> None:
    """Raises MissingDependency where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependency(f"{what}: Parquet needs pyarrow ({error})", hint="pip install pyarrow") from error


def read_parquet(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of each row, in their order, never all in memory; a null is None. Raises FileFormatError and MissingDependency."""
    require_parquet(str(path))
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", record
    except (OSError, ValueError, pyarrow.ArrowException) as error:  # a ValueError: bytes that are not UTF-8
        raise FileFormatError(f"{path}, after row {number}", got=str(error), expected="a whole Parquet file") from error


def parquet_bytes(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """The file of a table; the same columns give the same bytes by the same pyarrow. Raises MissingDependency."""
    require_parquet("parquet_bytes")
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.table(dict(columns)), out)
    return out.getvalue()
