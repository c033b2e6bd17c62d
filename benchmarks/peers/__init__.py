"""The search libraries that ours is timed against, one module each behind one protocol (base.py)."""

from __future__ import annotations

import importlib

from benchmarks.harness import note
from benchmarks.peers.base import Peer

PEERS = {
    "ours": ("ours", "Ours"),
    "bm25s-numba": ("with_bm25s", "Numba"),
    "bm25s-numpy": ("with_bm25s", "Numpy"),
    "tantivy": ("with_tantivy", "Tantivy"),
    "pisa": ("with_pisa", "Pisa"),
    "pisa-u8": ("with_pisa", "PisaQuantized"),
    "rank-bm25": ("with_rank_bm25", "RankBM25"),
}


def load(name: str) -> Peer | None:
    """The peer of that name, or None with a note where its library is not installed."""
    module, kind = PEERS[name]
    try:
        made: Peer = getattr(importlib.import_module(f"benchmarks.peers.{module}"), kind)()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("benchmarks", "rerank_engine")):
            raise
        note(f"skipped: {name} ({error})")
        return None
    made.name = name
    return made
