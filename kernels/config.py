"""The GPU architectures that the Triton kernels are compiled and checked for, the limits of each that a launch must respect, and the static
table of tiles: which tile a kernel runs with is looked up, never tuned at run time. So the first call is as fast as the next, and a CUDA
graph can hold it. `python -m benchmarks.tune` measures on a GPU and rewrites the table.

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
DEFAULT_TARGET = "sm_90"
LIKE = {"sm_86": "sm_89", "sm_120": "sm_89", "sm_103": "sm_100"}  # run with the tiles of their nearest relative; not gated


@dataclass(frozen=True)
class Tiles:
    """document, query: tokens of a tile. document_first: whether the document's tile is the first operand of the product (wgmma wants 64
    rows there), else the query's."""

    document: int
    query: int
    warps: int
    stages: int
    document_first: bool = True


# (target, kind, dim bucket, query bucket) -> Tiles. kind: what the document's tokens are held in. A dim or query bucket stands for all up
# to it and above the one before; 0 for all that are larger. Chosen by compiled machine code (kernels/README.md), not by a clock.
# BEGIN TILES
TILES: dict[tuple[str, str, int, int], Tiles] = {
    ("sm_80", "fp16", 64, 16): Tiles(64, 16, 4, 3, False),
    ("sm_80", "fp16", 64, 32): Tiles(64, 32, 4, 3, False),
    ("sm_80", "fp16", 64, 0): Tiles(64, 64, 4, 2, False),
    ("sm_80", "fp16", 128, 16): Tiles(64, 16, 4, 3, False),
    ("sm_80", "fp16", 128, 32): Tiles(64, 32, 4, 3, False),
    ("sm_80", "fp16", 128, 0): Tiles(64, 64, 4, 2, False),
    ("sm_80", "fp16", 256, 32): Tiles(64, 32, 4, 3, False),
    ("sm_80", "fp16", 256, 0): Tiles(32, 64, 4, 2, False),
    ("sm_80", "fp16", 0, 0): Tiles(64, 32, 4, 2, False),
    ("sm_80", "fp32", 64, 0): Tiles(64, 32, 4, 3, False),
    ("sm_80", "fp32", 0, 0): Tiles(64, 32, 4, 3, False),
    ("sm_80", "int8", 128, 32): Tiles(64, 32, 4, 3, False),
    ("sm_80", "int8", 128, 0): Tiles(64, 32, 4, 3, False),
    ("sm_80", "int8", 256, 0): Tiles(64, 32, 4, 2, False),
    ("sm_80", "int8", 0, 0): Tiles(64, 32, 4, 2, False),
    ("sm_89", "fp16", 64, 16): Tiles(64, 16, 4, 2, False),
    ("sm_89", "fp16", 64, 32): Tiles(64, 32, 4, 2, False),
    ("sm_89", "fp16", 64, 0): Tiles(64, 64, 4, 2, False),
    ("sm_89", "fp16", 128, 16): Tiles(64, 16, 4, 2, False),
    ("sm_89", "fp16", 128, 32): Tiles(64, 32, 4, 2, False),
    ("sm_89", "fp16", 128, 0): Tiles(64, 64, 4, 2, False),
    ("sm_89", "fp16", 256, 32): Tiles(64, 32, 4, 2, False),
    ("sm_89", "fp16", 256, 0): Tiles(32, 64, 4, 2, False),
    ("sm_89", "fp16", 0, 0): Tiles(64, 32, 4, 2, False),
    ("sm_89", "fp32", 64, 0): Tiles(64, 32, 4, 3, False),
    ("sm_89", "fp32", 0, 0): Tiles(64, 32, 4, 3, False),
    ("sm_89", "int8", 128, 32): Tiles(64, 32, 4, 3, False),
    ("sm_89", "int8", 128, 0): Tiles(64, 32, 4, 3, False),
    ("sm_89", "int8", 256, 0): Tiles(64, 32, 4, 2, False),
    ("sm_89", "int8", 0, 0): Tiles(64, 32, 4, 2, False),
    ("sm_90", "fp16", 64, 16): Tiles(64, 16, 4, 3, False),
    ("sm_90", "fp16", 64, 32): Tiles(64, 32, 4, 3, True),
    ("sm_90", "fp16", 64, 0): Tiles(64, 64, 4, 3, True),
    ("sm_90", "fp16", 128, 16): Tiles(64, 16, 4, 3, False),
    ("sm_90", "fp16", 128, 32): Tiles(64, 32, 4, 3, True),
    ("sm_90", "fp16", 128, 0): Tiles(64, 64, 4, 3, True),
    ("sm_90", "fp16", 256, 32): Tiles(64, 32, 4, 3, True),
    ("sm_90", "fp16", 256, 0): Tiles(64, 64, 4, 2, True),
    ("sm_90", "fp16", 0, 0): Tiles(64, 32, 4, 2, True),
    ("sm_90", "fp32", 64, 0): Tiles(64, 32, 4, 3, True),
    ("sm_90", "fp32", 0, 0): Tiles(64, 32, 4, 3, True),
    ("sm_90", "int8", 128, 32): Tiles(64, 32, 4, 3, True),
    ("sm_90", "int8", 128, 0): Tiles(64, 64, 4, 3, True),
    ("sm_90", "int8", 256, 0): Tiles(64, 32, 4, 3, True),
    ("sm_90", "int8", 0, 0): Tiles(64, 32, 4, 2, True),
    ("sm_100", "fp16", 64, 16): Tiles(64, 16, 4, 3, False),
    ("sm_100", "fp16", 64, 32): Tiles(64, 32, 4, 3, False),
    ("sm_100", "fp16", 64, 0): Tiles(64, 64, 4, 2, True),
    ("sm_100", "fp16", 128, 16): Tiles(64, 16, 4, 3, False),
    ("sm_100", "fp16", 128, 32): Tiles(64, 32, 4, 3, False),
    ("sm_100", "fp16", 128, 0): Tiles(64, 64, 4, 2, True),
    ("sm_100", "fp16", 256, 32): Tiles(64, 32, 4, 2, False),
    ("sm_100", "fp16", 256, 0): Tiles(32, 32, 2, 2, False),
    ("sm_100", "fp16", 0, 0): Tiles(64, 32, 4, 2, False),
    ("sm_100", "fp32", 64, 0): Tiles(64, 32, 4, 3, False),
    ("sm_100", "fp32", 0, 0): Tiles(64, 32, 4, 3, False),
    ("sm_100", "int8", 128, 32): Tiles(64, 32, 4, 3, False),
    ("sm_100", "int8", 128, 0): Tiles(64, 32, 4, 3, False),
    ("sm_100", "int8", 256, 0): Tiles(64, 32, 4, 2, False),
    ("sm_100", "int8", 0, 0): Tiles(64, 32, 4, 2, False),
}
# END TILES


def tiles(target: str, kind: str, dim: int, query: int) -> Tiles:
    """The tiles for documents of `kind` and `dim` columns, and a query of so many tokens."""
    target = LIKE.get(target, target)
    rows = {(d, q): t for (g, k, d, q), t in TILES.items() if g == target and k == kind}

    def bucket(sizes: set[int], n: int) -> int:
        return min((size for size in sizes if size >= n), default=0)

    d = bucket({d for d, _ in rows}, dim)
    return rows[d, bucket({q for x, q in rows if x == d}, query)]
