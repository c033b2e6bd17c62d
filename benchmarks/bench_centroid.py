"""Scores from centroids alone: 32 query tokens, ragged documents (mean 116 tokens), 16,384 centroids, products of query and centroids
given; ms of CPU per query, one thread.

Peers: numpy (gather, then maxima by `reduceat`) and torch (gather, then `segment_reduce`), as one would write PLAID's candidate stage.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import harness, late
from rerank_engine.ops import centroid_maxsim, centroid_scores


def rows(quick: bool) -> Iterator[harness.Row]:
    torch = harness.peer("torch")
    for n in (1000, 100):
        case = late.Case(n)
        tokens = case.compressed(2)
        table, ids = centroid_scores(case.query, tokens.codec.centroids, num_threads=1), tokens.centroid_ids.astype(np.int64)
        exact = np.array([table[ids[a:b]].max(0).astype(np.float64).sum() for a, b in zip(tokens.offsets, tokens.offsets[1:])])

        def ours(table=table, tokens=tokens):
            return centroid_maxsim(table, tokens, num_threads=1)

        peers = {"numpy": lambda: np.maximum.reduceat(table[ids], tokens.offsets[:-1]).sum(1)}  # noqa: B023
        if torch is not None:
            torch.set_num_threads(1)
            held = [torch.from_numpy(x) for x in (table, ids, np.diff(tokens.offsets))]
            peers["torch"] = lambda held=held: torch.segment_reduce(held[0][held[1]], "max", lengths=held[2]).sum(1).numpy()
        late.close("centroid", ours(), exact, 1e-4)
        for name, theirs in peers.items():
            late.close(name, theirs(), exact, 1e-4)
            yield harness.compare("centroid", str(n), name, ours, theirs, rounds=5 if quick else 21)


if __name__ == "__main__":
    harness.main(rows, __doc__)
