"""What a call of a network costs, and the cheapest way to cut sequences into calls.

cost(call) = call + token * tokens + square * pairs of tokens that attention compares, over all sequences of the call. What padding adds
counts where the runtime computes it. The unit is free: only ratios decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

UNITS = 64  # neighbours that together are shorter than this part of the largest call, and cost less than a call, are one for the search
ROWS = 1024  # rows of the table of costs that are held at a time


@dataclass(frozen=True, slots=True)
class Cost:
    """call: overhead of one call; token: of a token in the linear layers; square: of a pair of tokens in attention; any one unit.

    padded: the linear layers compute padding too. ragged: attention does not; else it pads to the longest sequence of the call.
    most: tokens of one call with the padding that it computes, at most; a single longer sequence is run all the same.
    """

    call: float = 0.0
    token: float = 1.0
    square: float = 0.0
    padded: bool = True
    ragged: bool = False
    most: int = 2048

    def __post_init__(self) -> None:
        for name in ("call", "token", "square"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"Cost: {name}", got=value, expected="a finite number, 0 or more")
        if isinstance(self.most, bool) or not isinstance(self.most, (int, np.integer)) or self.most < 1:
            raise InputError("Cost: most", got=self.most, expected="a number of tokens, 1 or more")

    def of(self, lengths: NDArray[np.int64]) -> float:
        """The predicted cost of one call with these sequences."""
        if not len(lengths):
            return 0.0
        block = len(lengths) * int(lengths.max())
        tokens = block if self.padded else int(lengths.sum())
        pairs = int((lengths.astype(np.float64) ** 2).sum()) if self.ragged else block * int(lengths.max())
        return self.call + self.token * tokens + self.square * pairs

    def size(self, lengths: NDArray[np.int64]) -> int:
        """The tokens of a call that `most` bounds: those of the padded block, without padding where the runtime never makes one."""
        return int(lengths.sum()) if self.ragged and not self.padded else len(lengths) * int(lengths.max(initial=0))


# (runtime, device) -> cost; "" is any other runtime. The unit is a token's linear layers, 12 layers' worth of 12 h^2 for a hidden size h:
# attention's two products of s x s x h make `square` 1 / 6h, more where softmax is slow. On a CPU a call costs no more than a few tokens,
# so padding is soon worth a call of its own, and activations that leave the caches cost more than a call saves: calls stay small. A GPU
# has to be filled: there a call costs thousands of tokens.
COSTS = {
    ("onnx", "cpu"): Cost(call=6, square=6e-4, most=512),
    ("onnx", "cuda"): Cost(call=2048, square=1e-4, most=16_384),
    ("", "cpu"): Cost(call=8, square=6e-4, most=512),
    ("", "cuda"): Cost(call=2048, square=1e-4, most=16_384),
}


def default_cost(name: str, device: str) -> Cost:
    """The cost of a runtime that brings none of its own."""
    kind = "cuda" if device.startswith("cuda") else "cpu"
    return COSTS.get((name, kind), COSTS["", kind])


def greedy(lengths: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """(start, end) of runs of sequences, whose lengths must not rise: rows * longest <= most, or one row. No run could take a row more."""
    runs, start, sizes = [], 0, lengths.tolist()
    while start < len(sizes):
        end = min(start + max(1, most // max(sizes[start], 1)), len(sizes))
        runs.append((start, end))
        start = end
    return runs


def cheapest(lengths: NDArray[np.int64], cost: Cost) -> list[tuple[int, int]]:
    """(start, end) of the calls with the smallest predicted cost together, over all cuts of the sequences, longest first, into runs.

    lengths: int64 [n], never rising. A run keeps to `cost.most` or is one sequence. Of equal plans the one whose first calls are larger.
    Dynamic programming over the place of the next cut: best(i) = min over ends j of cost(i..j) + best(j). Sequences of few tokens move in
    groups, so that the search stays linear in n; a group costs less than a call, so a plan loses less than a call for each of its cuts.
    """
    small = cost.most // UNITS
    units = greedy(lengths, int(min(small, cost.call / cost.token)) if cost.token else small)
    starts = np.array([start for start, _ in units], np.int64)
    n, longest = len(units), lengths[starts]
    count = np.append(starts, len(lengths))  # sequences before each unit
    tokens = np.append(0, np.cumsum(lengths))[count]
    squares = np.append(0.0, np.cumsum(lengths.astype(np.float64) ** 2))[count]
    never_padded = cost.ragged and not cost.padded
    within = tokens[:-1] + cost.most if never_padded else count[:-1] + cost.most // np.maximum(longest, 1)
    furthest = np.searchsorted(tokens if never_padded else count, within, side="right") - 1
    reach = np.maximum(furthest - np.arange(n), 1)  # units that a call from here can take
    width = int(reach.max(initial=1))
    best, taken = np.zeros(n + 1 + width), np.zeros(n, np.int64)
    steps = np.arange(width, 0, -1)  # the longest run first: argmin takes the first of equals
    for low in range((n - 1) // ROWS * ROWS, -1, -ROWS) if n else ():
        rows = np.arange(low, min(low + ROWS, n))[:, None]
        ends = np.minimum(rows + steps, n)
        many, wide = count[ends] - count[rows], longest[rows]
        linear = many * wide if cost.padded else tokens[ends] - tokens[rows]
        attention = squares[ends] - squares[rows] if cost.ragged else many * wide.astype(np.float64) ** 2
        table = cost.call + cost.token * linear + cost.square * attention
        table[steps > reach[rows]] = np.inf
        for i in range(len(rows) - 1, -1, -1):
            row = low + i
            sums = table[i] + best[row + 1 : row + 1 + width][::-1]
            at = int(sums.argmin())
            best[row], taken[row] = sums[at], width - at
    calls, row = [], 0
    while row < n:
        end = row + int(taken[row])
        calls.append((int(count[row]), int(count[end])))
        row = end
    return calls
