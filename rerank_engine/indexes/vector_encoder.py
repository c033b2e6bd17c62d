"""What makes vectors of texts: `rr.load` of a bi-encoder, or any object with its method `encode`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..ops import checks
from ..progress import Progress

Encoded = tuple[NDArray[np.float32], NDArray[np.int32]]


class TextEncoder(Protocol):
    """encode(texts, queries=False): float [n, dim], one row a text; queries tells questions from documents.

    Read where it has them: `normalize` (True: its vectors have unit length, so that products are cosines), `name` or `model` (str, for
    the repr), `backend` (str), `dim`, `fingerprint` (str: stands for how documents become vectors; an index refuses another one, and an
    unfinished build goes on only where there is one), and `encode_counted(texts, progress=)`, which gives (vectors, tokens cut off int32
    [n]) of documents in place of `encode`.
    """

    def encode(self, texts: Sequence[str], *, queries: bool = False) -> NDArray[np.float32]: ...


def require_encoder(what: str, encoder: object) -> None:
    """Raises InputError for what has no such method: its parameter `queries` tells it from those of other libraries."""
    encode = getattr(encoder, "encode", None)
    if isinstance(encoder, type) or not callable(encode) or "queries" not in inspect.signature(encode).parameters:
        expected = "one with encode(texts, queries=...), such as rr.load(...) of a bi-encoder"
        hint = "Models of other libraries want a class of a few lines around them, see TextEncoder."
        raise InputError(f"{what}: encoder", got=type(encoder).__name__, expected=expected, hint=hint)


def encode(what: str, encoder: TextEncoder, texts: Sequence[str], *, queries: bool = False) -> NDArray[np.float32]:
    """float32 [n, dim], one row a text. Raises InputError and NonFiniteError for other answers of the encoder."""
    return _checked(what, encoder.encode(texts, queries=queries), len(texts))


def encode_documents(what: str, encoder: TextEncoder, texts: Sequence[str], progress: Progress | None = None) -> Encoded:
    """(vectors float32 [n, dim], tokens cut off int32 [n]; zeros where the encoder does not count them)."""
    counted = getattr(encoder, "encode_counted", None)
    if counted is None:
        return encode(what, encoder, texts), np.zeros(len(texts), np.int32)
    vectors, cut = counted(texts, **({} if progress is None else {"progress": progress}))
    cut = checks.integers(f"{what}: encoder: tokens cut off", cut, np.int32)
    if len(cut) != len(texts):
        raise InputError(f"{what}: encoder", got=f"{len(cut)} counts of what was cut off", expected=f"{len(texts)}, one a text")
    return _checked(what, vectors, len(texts)), cut


def _checked(what: str, given: Any, n: int) -> NDArray[np.float32]:
    try:
        array = np.asarray(given)
    except (RuntimeError, TypeError, ValueError) as error:  # rows of different length; a tensor elsewhere than in memory
        raise InputError(f"{what}: encoder", got=str(error), expected="float32 [n, dim], one row a text") from error
    vectors = checks.floats(f"{what}: encoder", array, 2)
    if len(vectors) != n or not vectors.shape[1]:
        raise InputError(f"{what}: encoder", got=f"vectors {list(vectors.shape)}", expected=f"{n} vectors, one a text")
    return vectors


def normalizes(encoder: object) -> bool:
    return getattr(encoder, "normalize", False) is True


def name_of(encoder: object) -> str:
    told = (getattr(encoder, name, None) for name in ("name", "model"))
    return next((name for name in told if isinstance(name, str)), type(encoder).__name__)


def backend_of(encoder: object) -> str:
    backend = getattr(encoder, "backend", "")
    return backend if isinstance(backend, str) else ""
