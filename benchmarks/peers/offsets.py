"""Does a kernel find a document that begins beyond 2^31 elements of the store? `python -m benchmarks.peers.offsets`

Token 16,777,216 of 128 dimensions is where row * stride leaves int32: 4.3 GB in fp16, 93,000 documents of 180 tokens. Each kernel scores
one document at a near token and at a far one, in Triton's interpreter, in a process of its own: a wrapped address is read out of the
store's memory and ends the process, or gives a wrong score. The store is virtual memory, of which only the document is ever touched.
Needs the peers (benchmarks/peers/kernels.py says how). Not part of CI. Exit status 1 where ours is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

NEAR, FAR = 1000, (1 << 24) + 1000
TOKENS, DIM, QUERY = 40, 128, 32
SLACK = 64  # tokens of the store behind the document


def ours(query: Any, store: Any, first: int) -> float:
    import torch
    from rerank_kernels.maxsim import maxsim

    offsets = torch.tensor([first, first + TOKENS])
    return float(maxsim(query, store, offsets, torch.zeros(1, dtype=torch.int32)))


def lik_varlen(query: Any, store: Any, first: int) -> float:
    """late-interaction-kernels 0.4.5: the kernel of maxsim_varlen."""
    import torch
    import triton.language as tl
    from late_interaction_kernels.varlen import _varlen_fwd_kernel

    out, none = torch.full((1, 1), float("nan")), torch.zeros(1, dtype=torch.int32)
    documents, queries = (torch.tensor(span, dtype=torch.int32) for span in ((first, first + TOKENS), (0, QUERY)))
    sizes = dict(Nq=1, Nd=1, max_lq=QUERY, max_ld=TOKENS, lq_key=QUERY, ld_key=64, d=DIM, d_pad=DIM)
    strides = dict(stride_q_t=DIM, stride_q_k=1, stride_d_t=DIM, stride_d_k=1, stride_s_n=1, stride_s_d=1)
    strides |= dict(stride_am_n=0, stride_am_d=0, stride_am_l=0)
    form = dict(BLOCK_Q=32, BLOCK_D=32, COMPUTE_DTYPE=tl.float16, SAVE_ARGMAX=False)
    _varlen_fwd_kernel.fn[(1,)](query, store, queries, documents, out, none, **sizes, **strides, **form)
    return float(out)


def flash_rerank(query: Any, store: Any, first: int) -> float:
    """flash-maxsim 0.3.0: the kernel of rerank_direct."""
    import torch
    from flash_maxsim.flash_maxsim_rerank import _maxsim_rerank_kernel

    out = torch.full((1,), float("nan"))
    starts, lengths = torch.tensor([first], dtype=torch.int32), torch.tensor([TOKENS], dtype=torch.int32)
    sizes = dict(B=1, Lq=QUERY, Lq_bucket=32, max_Ld_bucket=64, d=DIM, d_pad=DIM)
    strides = dict(stride_q_t=DIM, stride_q_d=1, stride_d_t=DIM, stride_d_d=1)
    _maxsim_rerank_kernel.fn[(1,)](query, store, starts, lengths, out, **sizes, **strides, BLOCK_Q=32, BLOCK_D=32)
    return float(out)


SIDES: dict[str, Callable[[Any, Any, int], float]] = {
    "rerank_kernels.maxsim": ours,
    "late-interaction-kernels varlen": lik_varlen,
    "flash-maxsim rerank": flash_rerank,
}


def score(side: str, first: int) -> dict[str, float]:
    """{"got", "want"} of one document at token `first`; want: in float64."""
    import torch

    torch.manual_seed(0)
    store = torch.empty(first + TOKENS + SLACK, DIM, dtype=torch.float16)
    query, document = (torch.nn.functional.normalize(torch.randn(n, DIM), dim=-1).half() for n in (QUERY, TOKENS))
    store[first : first + TOKENS] = document
    want = float((query.double() @ document.double().T).amax(1).sum())
    return {"got": SIDES[side](query, store, first), "want": want}


def outcome(side: str, first: int) -> str:
    """ "right", or what went wrong."""
    command = [sys.executable, "-m", "benchmarks.peers.offsets", "--side", side, "--token", str(first)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"})
    if done.returncode < 0:
        return f"killed by {signal.Signals(-done.returncode).name}"
    if done.returncode > 0:
        return f"failed: {done.stderr.strip().splitlines()[-1]}"
    found = json.loads(done.stdout)
    right = abs(found["got"] - found["want"]) < 1e-3
    return "right" if right else f"wrong: got {found['got']:.4f}, expected {found['want']:.4f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=SIDES, help="run one kernel in this process and print what it scores")
    parser.add_argument("--token", type=int, default=FAR)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(score(args.side, args.token)))
        return 0
    print(f"{'kernel':<34}{f'document at token {NEAR:,}':<30}document at token {FAR:,} (element {FAR * DIM:,})")
    found = {side: (outcome(side, NEAR), outcome(side, FAR)) for side in SIDES}
    for side, (near, far) in found.items():
        print(f"{side:<34}{near:<30}{far}")
    return int(found["rerank_kernels.maxsim"] != ("right", "right"))


if __name__ == "__main__":
    sys.exit(main())
