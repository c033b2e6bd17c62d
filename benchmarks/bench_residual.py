"""MaxSim over residual codes of 1, 2 and 4 bits: 32 query tokens, ragged documents (mean 116 tokens), dimension 128, 16,384 centroids; ms
of CPU per query, one thread.

Cases: Nbit-given has the products of query and centroids at hand, Nbit-incall computes them in the call (of all centroids, or of those
that a short list touches). Peer colbert-ai: decompress, normalise, multiply and take maxima, in its own C++ and torch; it needs no such
products. Peer own-fp32: ours over the vectors before compression. `precision`, `path`: what ran. The first rows of each width are the
default, int16.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import harness, late, peers
from rerank_engine.ops import centroid_scores, maxsim, residual_maxsim_explained

TOLERANCE = {"int16": 2e-3, "uint8": 2e-2, "float32": 2e-5}


def rows(quick: bool) -> Iterator[harness.Row]:
    for n in (1000, 100):
        case = late.Case(n)
        for nbits in (1, 2, 4):
            yield from of_width(case, nbits, 5 if quick else 21)


def of_width(case: late.Case, nbits: int, rounds: int) -> Iterator[harness.Row]:
    tokens, size = case.compressed(nbits), "" if case.n == 1000 else f"-{case.n}"
    exact = case.reference(tokens.codec.decode(tokens.centroid_ids, tokens.residuals))
    products = centroid_scores(case.query, tokens.codec.centroids, num_threads=1)
    sides = {entry.name: make(case.query, tokens) for entry, make in peers.installed("residual")}
    for name, theirs in sides.items():
        late.close(f"{name} {nbits} bit", theirs(), exact, 1e-3)
    sides["own-fp32"] = lambda: maxsim(case.query, case.packed, num_threads=1)
    for precision in ("int16", "uint8", "float32"):
        for form, given in (("given", products), ("incall", None)):
            if precision == "float32" and form == "given":
                continue  # it decodes, and needs no products

            def ours(precision=precision, given=given):
                return residual_maxsim_explained(case.query, tokens, centroid_scores=given, precision=precision, num_threads=1)

            done = ours()
            late.close(f"{nbits} bit {precision} {form}, {done.path}", done.scores, exact, TOLERANCE[precision])
            more = {"precision": precision, "path": done.path, "top10_equal": late.overlap(done.scores, exact), "tokens": done.tokens,
                    "centroid_products": done.centroids, "error": float(np.abs(done.scores - exact).max())}  # fmt: skip
            for name, theirs in sides.items():
                yield {**harness.compare("residual", f"{nbits}bit-{form}{size}", name, ours, theirs, rounds=rounds), **more}


if __name__ == "__main__":
    harness.main(rows, __doc__)
