"""Parquet: tables of records in and out. Needs pyarrow, which is imported here alone and only for a file that is Parquet's."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import FileFormatError, MissingDependency

MAGIC, ROWS = b"PAR1", 4096  # rows that are in memory as records at a time


def is_parquet(path: str | Path) -> bool:
    """By the first bytes. A file that cannot be read is none: whoever reads it next says why."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


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
