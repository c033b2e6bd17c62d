"""MaxSim of one query of 32 tokens with ragged documents (lognormal lengths, mean 116, cap 300) of dimension 128; ms of CPU per query,
one thread.

Cases: fp32, fp16 and int8 storage, 1000 and 100 documents; peers get fp32 in the form that suits them, made beforehand. `floor-...` with
the peer fma-peak: the time that as many operations take at the processor's peak, so the ratio is the share of the peak. `isa-...`: ours
against ours compiled for another instruction set. `own-fp32`: ours in another storage against ours in fp32. `threads-2`: CPU time of two
threads, whose ratio is that of one thread to it. numkong is approximate, in bytes where the processor multiplies them; numkong-avx2: both
sides kept to AVX2. colbert-segmented is colbert-ai's C++, whose maximum starts at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks import harness, late, peak, peers
from rerank_engine import _native
from rerank_engine.ops import maxsim, quantize_int8
from rerank_engine.packed import Packed


def rows(quick: bool) -> Iterator[harness.Row]:
    gb = {size: peak.read_gb_per_s(size) for size in (1 << 27, 1 << 19)}
    harness.note(f"reading: {gb[1 << 27]:.1f} GB/s from memory, {gb[1 << 19]:.1f} GB/s from the cache")
    for n in (1000, 100):
        yield from of_size(late.Case(n), quick)


def of_size(case: late.Case, quick: bool) -> Iterator[harness.Row]:
    rounds = 5 if quick else 21
    half = Packed(case.values.astype(np.float16), case.offsets)
    bytes_, scales = quantize_int8(case.values)
    int8 = Packed(bytes_, case.offsets)
    ours: dict[str, Callable[[], np.ndarray]] = {
        "fp32": lambda: maxsim(case.query, case.packed, num_threads=1),
        "fp16": lambda: maxsim(case.query, half, num_threads=1),
        "int8": lambda: maxsim(case.query, int8, scales=scales, num_threads=1),
    }
    late.close("ours fp32", ours["fp32"](), case.exact, 1e-5)
    late.close("ours fp16", ours["fp16"](), case.exact, 5e-3)
    late.close("ours int8", ours["int8"](), case.exact, 5e-2)
    isa, at_peak = peak.fma(case.flops)
    for storage, call in ours.items():
        row = harness.compare("maxsim", f"floor-{case.name}-{storage}", "fma-peak", call, at_peak, rounds=rounds)
        yield {**row, "peak_gflops": round(case.flops / row["theirs"] / 1e6, 1), "peak_isa": isa}
    for storage in ("fp16", "int8"):
        yield harness.compare("maxsim", f"{case.name}-{storage}", "own-fp32", ours[storage], ours["fp32"], rounds=rounds)
    yield from own(case, ours["fp32"], rounds)
    for entry, make in peers.installed("maxsim"):
        name, call = entry.name, make(case.query, case.packed)
        late.close(name, call(), case.exact, entry.error)
        row = harness.compare("maxsim", f"{case.name}-fp32", name, ours["fp32"], call, rounds=rounds)
        yield {**row, "top10_equal": late.overlap(call(), case.exact)}
        if name == "numkong":  # which computes in bytes: beside it ours from bytes, whose error is a fiftieth of its
            row = harness.compare("maxsim", f"{case.name}-int8", name, ours["int8"], call, rounds=rounds)
            yield {**row, "top10_equal": late.overlap(call(), case.exact)}


def own(case: late.Case, best: Callable[[], np.ndarray], rounds: int) -> Iterator[harness.Row]:
    """Ours on two threads, and compiled for other instruction sets."""
    harness.verify("two threads", bool((maxsim(case.query, case.packed, num_threads=2) == best()).all()))
    two = harness.compare(
        "maxsim", f"threads-2-{case.name}-fp32", "own-1-thread", lambda: maxsim(case.query, case.packed, num_threads=2), best, rounds=rounds
    )
    yield {**two, "threads": 2}
    given = (
        case.query,
        np.ones(len(case.query), np.float32),
        case.values,
        np.empty(0, np.float32),
        case.offsets[:-1].copy(),
        np.diff(case.offsets),
        1,
    )
    calls = {isa: lambda isa=isa: _native.maxsim(*given, isa) for isa in _native.usable_isas()}
    for isa, call in calls.items():
        late.close(f"ours {isa}", call()[0], case.exact, 1e-5)
        yield harness.compare("maxsim", f"isa-{case.name}-fp32", f"own-{isa}", best, call, rounds=rounds)
    if "avx2" in calls and (kong := harness.peer("benchmarks.peers.with_numkong")) is not None:
        with kong.only_avx2():
            theirs = kong.maxsim(case.query, case.packed)
            late.close("numkong, AVX2", theirs(), case.exact, kong.ERROR)
            yield harness.compare("maxsim", f"isa-{case.name}-fp32", "numkong-avx2", calls["avx2"], theirs, rounds=rounds)


if __name__ == "__main__":
    harness.main(rows, __doc__)
