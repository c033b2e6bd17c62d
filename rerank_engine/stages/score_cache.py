"""Scores kept by what they are scores of: the network and the tokens it read."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import final

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..ops.checks import count
from ..runtimes.base import Runtime, describe
from ..runtimes.tokenize import Tokens

# What an entry takes in CPython: the digest, the number, and their places in an OrderedDict at its emptiest. The test measures it.
ENTRY_BYTES = 320


@final
class ScoreCache:
    """Logits by a digest of (network, label, token ids and types): an exact repeat gets the very float32 of its first time.

    most: bytes, at most; the entries that were not asked for longest go first. Thread-safe; models may share one. Another file of
    weights is another network, so nothing stale is ever found. Raises InputError.
    """

    def __init__(self, most: int) -> None:
        self.most = count("cache", most)
        if self.most < ENTRY_BYTES:
            raise InputError("cache", got=self.most, expected=f"bytes, at least {ENTRY_BYTES}, which is one entry")
        self._entries: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, keys: list[bytes]) -> NDArray[np.float32]:
        """float32 [n], NaN where there is nothing."""
        found = np.full(len(keys), np.nan, np.float32)
        with self._lock:
            for i, key in enumerate(keys):
                value = self._entries.get(key)
                if value is not None:
                    found[i] = value
                    self._entries.move_to_end(key)
            known = int((~np.isnan(found)).sum())
            self.hits += known
            self.misses += len(keys) - known
        return found

    def put(self, keys: list[bytes], values: NDArray[np.float32]) -> None:
        """Keeps finite values; NaN and infinity are no scores."""
        with self._lock:
            for key, value in zip(keys, values.tolist()):
                if np.isfinite(value):
                    self._entries[key] = value
                    self._entries.move_to_end(key)
            while len(self._entries) * ENTRY_BYTES > self.most:
                self._entries.popitem(last=False)

    def __repr__(self) -> str:
        return f"ScoreCache({len(self)} of {self.most // ENTRY_BYTES} scores, {self.hits} hits, {self.misses} misses)"


def fingerprint_of(runtime: Runtime, model: str) -> str:
    """The content hash of the network's file. Raises InputError for a runtime that does not tell one: its scores cannot be kept safely."""
    told: str = getattr(runtime, "fingerprint", "")
    if not told:
        hint = "A runtime tells it as `fingerprint`, the SHA-256 of the network's file."
        raise InputError(f"model '{model}': cache", got=f"the runtime {describe(runtime)} without a fingerprint", expected="one", hint=hint)
    return told


def keys_of(fingerprint: str, how: str, tokens: Tokens) -> list[bytes]:
    """A digest a sequence. how: what else makes another score of it, such as the runtime, the form that the network runs in, the label."""
    head = hashlib.blake2b(f"{fingerprint}\0{how}\0".encode(), digest_size=16)
    keys = []
    for ids, types in zip(tokens.ids, tokens.types):
        digest = head.copy()
        digest.update(len(ids).to_bytes(8, "little") + ids.tobytes() + types.tobytes())
        keys.append(digest.digest())
    return keys
