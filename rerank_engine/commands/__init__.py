"""The commands of `rerank-engine`, a module for each group. `register` puts a group's commands and their options on the parser.

A command takes the parsed arguments, calls the library, and shows what it got by what `rerank_engine.cli` has for that.
"""

from . import backends, bench, bulk, demo, evaluate, indexes, plan, rerank, serve, sharded

GROUPS = (demo, indexes, sharded, rerank, bulk, serve, evaluate, bench, plan, backends)

__all__ = ["GROUPS"]
