"""Which documents of a corpus a query means."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .corpus import Corpus
from .errors import InputError

Selection = Collection[str] | NDArray[np.bool_] | NDArray[np.integer[Any]]


def mask_of(name: str, chosen: Selection, corpus: Corpus, strict: bool) -> NDArray[np.bool_]:
    """bool [rows]: those that external ids, rows or a bool per row choose. Raises InputError, and UnknownIdError for an id that is not
    there if `strict`."""
    n = len(corpus)
    if not isinstance(chosen, np.ndarray) and not all(isinstance(entry, str) for entry in chosen):
        if not all(isinstance(entry, (int, np.integer, np.bool_)) for entry in chosen):
            raise InputError(name, got=f"{list(chosen)!r}", expected="ids, which are strings, rows, or a bool per row")
        chosen = np.array(list(chosen))
    if isinstance(chosen, np.ndarray) and chosen.dtype == bool:
        if chosen.shape != (n,):
            raise InputError(name, got=f"shape {list(chosen.shape)}", expected=f"a bool for each of the {n} rows")
        return np.asarray(chosen, bool)
    mask = np.zeros(n, bool)
    if isinstance(chosen, np.ndarray) and not (chosen.dtype.kind == "U" and chosen.ndim == 1):
        if chosen.dtype.kind not in "iu" or chosen.ndim != 1 or (chosen.size and not 0 <= int(chosen.min()) <= int(chosen.max()) < n):
            raise InputError(name, got=f"{chosen.dtype} {list(chosen.shape)}", expected=f"rows from 0 to {n - 1}, a bool per row, or ids")
        mask[chosen] = True
        return mask
    for doc_id in chosen:
        if strict or doc_id in corpus:
            mask[corpus.row(doc_id)] = True
    return mask
