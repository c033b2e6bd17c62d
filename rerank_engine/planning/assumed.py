"""What a placement is told: the machine, and what nobody measured."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from ..cpus import available_cpus
from ..errors import InputError
from ..ops.checks import count, finite_number
from ..sharding.scatter import EXTRA, HEDGE

SHARE = (0.0, 1.0, "a share from 0 to 1")
POSITIVE = (math.ulp(0.0), math.inf, "a finite number above 0")
# field of `Assumed` -> how messages call it, and of each of its two numbers: what it is, the least, the most, both in words
PAIRS = {
    "straggling": ("straggling (--stragglers)", (("the share of tries", *SHARE),
                   ("how many times as long they take", 1.0, math.inf, "a finite number of at least 1"))),
    "hedge": ("hedge (--hedge)", (("the quantile of the last answers", *SHARE), ("the share of second tries at most", *SHARE))),
    "failures": ("failures (--failures)", (("hours between two of a machine", *POSITIVE), ("minutes of repair", *POSITIVE))),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Machine:
    """memory: bytes; price_hour: in any currency, None: not told. Raises InputError."""

    memory: float
    processors: int
    price_hour: float | None = None

    def __post_init__(self) -> None:
        if finite_number("machine: memory", self.memory) <= 0:
            raise InputError("machine: memory", got=self.memory, expected="bytes above 0")
        count("machine: processors", self.processors)
        if self.price_hour is not None:
            finite_number("machine: price", self.price_hour, 0)

    @classmethod
    def here(cls, price_hour: float | None = None) -> Machine:
        """This one: its memory, and the processors that this process may use."""
        return cls(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), available_cpus(), price_hour)


@dataclass(frozen=True, slots=True)
class Assumed:
    """What nobody measured. shard_size: documents of a shard at most. redundancy: replicas of everything at least. filled: share of the
    memory that indexes may take. hop_ms: the network from machine to machine, one way. straggling: (share of tries, times longer); hedge:
    (quantile of the last answers after which a shard is asked again, most such tries, as a share), by default those of `Scatter`. failures:
    (hours between two of a machine, minutes of repair). partial: the share of answers without a shard that is put up with. Raises
    InputError."""

    shard_size: int = 16_000_000
    redundancy: int = 2
    filled: float = 0.8
    hop_ms: float = 0.5
    straggling: tuple[float, float] = (0.01, 5.0)
    hedge: tuple[float, float] = (HEDGE, EXTRA)
    failures: tuple[float, float] = (720.0, 10.0)
    partial: float = 0.001

    def __post_init__(self) -> None:
        count("placement: shard_size", self.shard_size)
        count("placement: redundancy", self.redundancy)
        finite_number("placement: filled", self.filled, 0.01, 1)
        finite_number("placement: partial", self.partial, 0, 1)
        finite_number("placement: hop_ms", self.hop_ms, 0)
        for field, (called, numbers) in PAIRS.items():
            pair = getattr(self, field)
            if not isinstance(pair, (tuple, list)) or len(pair) != len(numbers):
                raise InputError(f"placement: {called}", got=repr(pair), expected=" and ".join(name for name, *_ in numbers))
            for place, value, (name, low, high, allowed) in zip(("first", "second"), pair, numbers):
                _require(f"placement: {called}, its {place} number, {name}", value, low, high, allowed)


def _require(what: str, value: float, low: float, high: float, allowed: str) -> None:
    """Raises InputError, with what is allowed in words."""
    try:
        finite_number(what, value, low, high)
    except InputError as error:
        raise InputError(what, got=value, expected=allowed) from error
