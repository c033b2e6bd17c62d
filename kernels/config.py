"""The GPU architectures that the Triton kernels are compiled and checked for, and the limits of each that a launch must respect.

Figures are NVIDIA's: the CUDA programming guide's table of compute capabilities (shared memory, registers) and the data sheets
(processors, bandwidth, dense tensor throughput without sparsity).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    example: str
    multiprocessors: int
    shared_memory_bytes: int  # per thread block, at most
    registers: int  # 32-bit, per multiprocessor
    memory_gb_per_s: float
    fp16_tflops: float  # dense tensor cores


TARGETS: dict[str, Target] = {
    "sm_80": Target("A100 80 GB", 108, 166_912, 65_536, 2039, 312),
    "sm_89": Target("L4", 58, 101_376, 65_536, 300, 121),
    "sm_90": Target("H100 SXM", 132, 232_448, 65_536, 3350, 989),
    "sm_100": Target("B200", 148, 232_448, 65_536, 8000, 2250),
}
