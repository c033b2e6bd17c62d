"""What a placement is told: the machine, and what nobody measured."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..cpus import available_cpus
from ..errors import InputError
from ..ops.checks import count, finite_number
from ..sharding.scatter import EXTRA, HEDGE


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
        for share in (*self.hedge, self.straggling[0]):
            finite_number("placement: hedge, stragglers", share, 0, 1)
        for value in (self.straggling[1], *self.failures):
            if finite_number("placement: failures, stragglers", value) <= 0:
                raise InputError("placement: failures, stragglers", got=value, expected="hours, minutes and times above 0")
