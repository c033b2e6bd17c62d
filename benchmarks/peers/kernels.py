"""The kernels of late-interaction-kernels and flash-maxsim, for `python -m benchmarks.kernel_report --peers`: compiled as ours are, with
every configuration that their own autotuner would try on the GPU for this query; the report keeps the one with the shortest loop.

pip install --no-deps late-interaction-kernels==0.4.5 flash-maxsim==0.3.0 (beside torch and triton). Not read from here: which
configuration their autotuner would find to be the fastest.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import triton.language as tl
from rerank_kernels.launch import Build

LIK, FLASH = "late-interaction-kernels", "flash-maxsim"
FAMILIES = {"sm_80": "a100", "sm_89": "ada", "sm_90": "hopper", "sm_100": "blackwell"}  # both peers' names for them
QUERY, DIM = 32, 128


@dataclass(frozen=True)
class PeerBuild(Build):
    """One configuration of a peer's kernel; those of one variant are its autotuner's shortlist."""

    peer: str = ""
    tile: str = ""


def builds(target: str) -> list[Build]:
    """Of their MaxSim over packed documents in fp16, and of LIK's over 2-bit residual codes; none for a GPU of another maker."""
    return [*maxsim(target), *packed(target), *residual(target)] if target in FAMILIES else []


def maxsim(target: str) -> Iterator[PeerBuild]:
    kernel = importlib.import_module("late_interaction_kernels.varlen")._varlen_fwd_kernel
    types = {"Q_ptr": "*fp16", "D_ptr": "*fp16", "cu_q_ptr": "*i32", "cu_d_ptr": "*i32", "scores_ptr": "*fp32", "argmax_ptr": "*i32"}
    types |= dict.fromkeys(("stride_q_t", "stride_d_t", "max_lq", "lq_key", "ld_key"), "i32:16")
    types |= dict.fromkeys(("Nd", "max_ld", "stride_s_n", "stride_am_n", "stride_am_d", "stride_am_l"), "i32")
    constants = {"Nq": 1, "d": DIM, "d_pad": DIM, "stride_q_k": 1, "stride_d_k": 1, "stride_s_d": 1}
    constants |= {"COMPUTE_DTYPE": tl.float16, "SAVE_ARGMAX": False}
    return shortlist(LIK, "maxsim", "varlen-fp16-d128-q32", kernel, types, constants, lik_configs(target))


def residual(target: str) -> Iterator[PeerBuild]:
    kernel = importlib.import_module("late_interaction_kernels.plaid")._maxsim_residual_varlen_kernel
    types = {"Q_ptr": "*fp16", "codes_flat_ptr": "*i32", "residuals_flat_ptr": "*u8", "cu_seqlens_d_ptr": "*i32", "centroids_ptr": "*fp16"}
    types |= {"bucket_weights_ptr": "*fp32", "out_ptr": "*fp32", "argmax_ptr": "*i32"}
    types |= dict.fromkeys(("stride_q_n", "stride_q_l", "stride_res_t", "stride_cent_c"), "i32:16")
    types |= dict.fromkeys(("Nd", "stride_out_n", "stride_am_n", "stride_am_d", "stride_am_l"), "i32")
    constants = {"Nq": 1, "Lq": QUERY, "max_Ld": 240, "d": DIM, "d_pad": DIM, "packed_dim": DIM // 4, "nbits": 2, "codes_per_byte": 4}
    constants |= dict.fromkeys(("stride_q_d", "stride_codes_t", "stride_res_p", "stride_cent_d", "stride_out_d"), 1)
    constants |= {"COMPUTE_DTYPE": tl.float16, "normalize": True, "SAVE_ARGMAX": False}
    return shortlist(LIK, "residual", "varlen-2bit-d128-q32", kernel, types, constants, lik_configs(target))


def packed(target: str) -> Iterator[PeerBuild]:
    kernel = importlib.import_module("flash_maxsim.flash_maxsim_varlen")._maxsim_packed_kernel
    types = {"Q_ptr": "*fp16", "D_ptr": "*fp16", "cu_d_ptr": "*i32", "scores_ptr": "*fp32"}
    types |= dict.fromkeys(("stride_q_n", "stride_q_l", "stride_d_t", "Lq"), "i32:16") | dict.fromkeys(("B", "stride_s_n"), "i32")
    constants = {"Nq": 1, "Lq_bucket": QUERY, "d": DIM, "d_pad": DIM, "stride_q_d": 1, "stride_d_d": 1, "stride_s_b": 1}
    module = importlib.import_module("flash_maxsim.flash_maxsim")
    configs = module._prune_configs(module._get_configs(FAMILIES[target]), {"Lq": QUERY, "d": DIM})
    return shortlist(FLASH, "maxsim", "packed-fp16-d128-q32", kernel, types, constants, configs)


def lik_configs(target: str) -> list[Any]:
    module = importlib.import_module("late_interaction_kernels._autotune")
    with patch.object(module, "detect_gpu", lambda: FAMILIES[target]):
        return list(module.prune_forward(module.forward_configs(), {"Lq": QUERY, "d_pad": DIM}))


def shortlist(
    peer: str, kernel: str, variant: str, function: Any, types: Mapping[str, str], constants: Mapping[str, Any], configs: list[Any]
) -> Iterator[PeerBuild]:
    """A smaller tile of the query than the query means that the loop over the document is run again: fewer tokens a trip."""
    for config in configs:
        query, document = config.kwargs["BLOCK_Q"], config.kwargs["BLOCK_D"]
        yield PeerBuild(
            kernel,
            variant,
            function.fn,
            types,
            {**constants, **config.kwargs},
            config.num_warps,
            config.num_stages,
            tokens=document * min(query, QUERY) // QUERY,
            peer=peer,
            tile=f"BLOCK_Q={query} BLOCK_D={document}",
        )
