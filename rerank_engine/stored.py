"""What is learned is stored as JSON: data, never code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from .errors import FileFormatError, InputError

LARGEST_FILE = 16 << 20  # bytes: an isotonic fit has two numbers a step


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """As a whole or not at all. Raises InputError for a place that cannot be written."""
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{uuid4().hex}.tmp")
    try:
        try:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}", got=str(error.strerror), expected="a file name in a folder that can be written") from error


def read_json(path: str | Path, *kinds: str, largest: int = LARGEST_FILE) -> dict[str, Any]:
    """Raises FileFormatError for anything but an object of one of these kinds, and for a file of more bytes than `largest`."""
    named = " or ".join(kinds)
    try:
        with open(path, "rb") as file:
            data = file.read(largest + 1)
        if len(data) > largest:
            raise ValueError(f"more than {largest} bytes")
        told = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError(str(path), got=str(error), expected=f"the JSON of a {named}") from error
    if not isinstance(told, dict) or told.get("kind") not in kinds:
        raise FileFormatError(str(path), got="other JSON", expected=f'an object with "kind": "{named}"')
    return told
