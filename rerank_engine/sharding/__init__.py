"""A collection in shards: document ranges, each an index of its own, searched as one.

split, join        files of shards and their manifest          manifest.py
ShardedIndex       asks the shards, merges their answers        index.py
Found, LateSearch  what came; tokens, in two questions          late.py
Shard, Here        what holds a shard, and a thread that does   shard.py
Scatter            deadlines, second tries, failures            scatter.py
ShardedCorpus      the documents, fetched when asked for        corpus.py

Shards on machines of a cluster: rerank_engine.sharding.on_ray.
"""

from .index import ShardedIndex
from .manifest import join, split

__all__ = ["ShardedIndex", "join", "split"]
