"""The libraries that ours is timed against, one module each; `registry` lists them."""

from benchmarks.peers.registry import ENTRIES, HERE, OURS, PEERS, Entry, installed, load, made, of

__all__ = ["ENTRIES", "HERE", "OURS", "PEERS", "Entry", "installed", "load", "made", "of"]
