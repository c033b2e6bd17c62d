"""Every Triton kernel on a CUDA device: its answers first, then its time under CUDA graphs beside torch, late-interaction-kernels and
flash-maxsim, and beside the predicted floor.

    python -m benchmarks.gpu [--quick] [--json]      on a CUDA machine: `make bench-gpu`, which writes results/<gpu>/gpu.json
    python -m benchmarks.gpu --dry-run               anywhere: tiny sizes in Triton's interpreter, answers checked, nothing timed

Cases as those of bench_maxsim and bench_residual: documents x mean tokens - query tokens - dim - storage. `us`: of the device, for a call.
A recorded graph makes `lists` calls, each on candidates of its own, which together are larger than a cache. Peers get the candidates
copied together already. "-given": the products of the query with the centroids are made before, not timed. Peer "floor (predicted)":
the ratio is the share of the data sheet's bandwidth or throughput that was reached. Metric "host_us": the host's time for a call of the
wrapper, and for a replay that brings the best 10 back. What gives a wrong answer is not timed, and the others are; exit status 1 then.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from rerank_kernels.graph import Replays
from rerank_kernels.launch import interpreting
from rerank_kernels.maxsim import maxsim

from benchmarks import gpu_parts, harness, on_gpu
from benchmarks.gpu_cases import Residual, Tokens, checked
from benchmarks.roofline import CARDS, Case

TESTS = ("tests/test_device.py", "tests/ops/test_device.py", "tests/ops/test_device_codes.py")
MAXSIM = [
    Tokens(1000, 180),
    Tokens(1000, 180, kind="int8", lists=16),
    Tokens(1000, 180, kind="fp32"),
    Tokens(1000, 180, kind="bf16"),
    Tokens(1000, 180, dim=96),
    Tokens(100, 180, lists=64),
    Tokens(10_000, 180, lists=2),
    Tokens(100, 1030, query_tokens=30),
    Tokens(1000, 1030, query_tokens=30, lists=4),
]
TOLERANCE = {"fp16": 1e-3, "fp32": 1e-3, "int8": 3e-3, "bf16": 2e-2}  # of 32 unit vectors, against float64 on what is stored
# form, whether the products of the query with the centroids are given, tolerance. docs/numerics.md: 1e-3, with a table 3e-3, on the tests'
# data; residuals that are longer are off by more. Here they are the longest: what 16,384 centroids that were drawn leave of random tokens.
RESIDUAL = [("raw", False, 2e-3), ("norm", False, 2e-3), *((f, g, t) for f, t in (("table", 3e-3), ("int8", 6e-3)) for g in (True, False))]
REFUSED: list[str] = []  # what was not timed


def right(name: str, answer: bool) -> bool:
    """What was asked, kept where it was no: a wrong answer is never timed, and stops nothing else."""
    if not answer:
        harness.note(f"refused to time {name}: its answer is wrong")
        REFUSED.append(name)
    return answer


def card() -> str | None:
    """The data sheet of this GPU in roofline.CARDS, which are of the SXM boards where there are several."""
    name = torch.cuda.get_device_name()
    return None if "PCIe" in name else next((known for known in CARDS if known.split()[0] in re.split(r"[ -]", name)), None)


def floor_us(moved: float, flops: float) -> float | None:
    known = card()
    return Case("", "", moved, flops).floor(CARDS[known])[0] if known else None


def maxsim_rows(case: Tokens, rounds: int, timed: bool) -> Iterator[harness.Row]:
    name = f"rerank-{case.documents}x{case.mean}-q{case.query_tokens}-d{case.dim}-{case.kind}"
    exact, ours = case.exact(case.rows[0]), case.ours()
    if right(name, checked(name, ours[0](), exact, TOLERANCE[case.kind])):
        peers = agreeing(case.peers(), exact)
        if timed:
            yield from on_gpu.compare("maxsim", name, ours, peers, floor_us(case.bytes, case.flops), rounds, lists=case.lists)


def agreeing(peers: dict[str, list[on_gpu.Call]], exact: torch.Tensor) -> dict[str, list[on_gpu.Call]]:
    """Those whose answers are right; they may round as they like."""
    return {peer: calls for peer, calls in peers.items() if right(peer, checked(peer, calls[0](), exact, 5e-2))}


def residual_rows(case: Residual, rounds: int, timed: bool) -> Iterator[harness.Row]:
    exact = case.exact(case.tokens.rows[0])
    peers = agreeing(case.peers(), exact)
    for form, given, tolerance in RESIDUAL:
        how = "" if form in ("raw", "norm") else "-given" if given else "-incall"
        ours, name = case.ours(form, given), f"{case.nbits}bit-{form}{how}-{case.tokens.documents}x{case.tokens.mean}"
        if right(name, checked(name, ours[0](), exact, tolerance)) and timed:
            floor = floor_us(case.bytes(form), case.tokens.flops)
            yield from on_gpu.compare("residual", name, ours, peers, floor, rounds, lists=case.tokens.lists)


def host_rows(case: Tokens, timed: bool) -> Iterator[harness.Row]:
    """The launch path: a call of the wrapper against a replay that takes arrays of the host and brings the best 10 back."""

    def score(query: torch.Tensor, weights: torch.Tensor, rows: torch.Tensor, out: torch.Tensor) -> None:
        maxsim(query, case.values, case.offsets, rows, weights=weights, out=out)

    replays = Replays(score, [case.documents], [case.query_tokens], 10, case.dim, torch.float16, case.device)
    query, rows = case.query.cpu().numpy(), case.rows[0].cpu().numpy()
    got = replays(query, rows)
    want = np.argsort(-case.exact(case.rows[0]).cpu().numpy(), kind="stable")[: len(got[0])]
    if right("replay", set(got[0].tolist()) == set(rows[want].tolist())) and timed:
        call = case.ours()[0]
        host, whole = on_gpu.host_us(call), on_gpu.host_us(lambda: replays(query, rows))
        launch = on_gpu.host_us(next(iter(replays._slots.values())).graph.replay)
        more = {"backend": "triton", "device": torch.cuda.get_device_name()}
        yield harness.row("maxsim", f"launch-{case.documents}x{case.mean}", "wrapper", "host_us", launch, host, [host / launch] * 2, **more)
        yield harness.row("maxsim", f"top10-{case.documents}x{case.mean}", "wrapper", "host_us", whole, host, [host / whole] * 2, **more)


def rows(quick: bool, dry: bool = False) -> Iterator[harness.Row]:
    rounds, device = 7 if quick else 31, on_gpu.device()

    def sized(case: Tokens) -> Tokens:
        return replace(case, documents=6, mean=min(case.mean, 40), lists=2, device=device) if dry else replace(case, device=device)

    for case in map(sized, MAXSIM):
        yield from maxsim_rows(case, rounds, not dry)
    for nbits in (1, 2, 4):
        for documents in (1000, 4000) if not dry else (6,):
            case = sized(Tokens(documents, 180, lists=64000 // documents))
            yield from residual_rows(Residual(case, nbits, 64 if dry else 16_384), rounds, not dry)
    yield from host_rows(sized(Tokens(1000, 180)), not dry)
    for part in (gpu_parts.centroid_rows, gpu_parts.attention_rows, gpu_parts.epilogue_rows):
        yield from part(device, rounds, not dry, floor_us, right)
    if REFUSED:
        sys.exit(f"benchmarks.gpu: not timed, their answers are wrong: {', '.join(REFUSED)}")


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes in Triton's interpreter: answers are checked, nothing is timed")
    parser.add_argument("--name", action="store_true", help="print what this GPU's folder of results is called, and stop")
    args = parser.parse_args()
    if args.name:
        return print(torch.cuda.get_device_name().lower().replace(" ", "-") if torch.cuda.is_available() else "no-gpu")
    if not args.dry_run:
        if not torch.cuda.is_available() or interpreting():
            sys.exit("benchmarks.gpu: no CUDA device, or TRITON_INTERPRET is set. Expected a GPU; --dry-run tries the code without one.")
        tests = subprocess.run([sys.executable, "-m", "pytest", "tests/gpu", *TESTS], stdout=sys.stderr)
        if tests.returncode:
            sys.exit("benchmarks.gpu: the kernels' tests fail on this device, so nothing is timed.")
    elif not interpreting() and not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: set TRITON_INTERPRET=1 for a dry run without a GPU.")
    harness.report(lambda: rows(args.quick, args.dry_run), args.json, {})


if __name__ == "__main__":
    main()
