"""What a Triton kernel costs, read from its machine code: compiled ahead of time for a GPU that is not here, with no driver.

`compiled` makes the binary of a Build as its wrapper would launch it. `facts` reads it: registers, spills, shared memory, tensor-core
instructions, and the hot loop, which is the innermost loop of the control flow that holds most tensor-core instructions (a kernel without
them: the longest innermost loop). Counts are static: no cache, no latency, no bank conflict. nvdisasm and cuobjdump are the ones inside
Triton's wheel. AMD: registers, spills, shared memory and matrix instructions, from the assembler text.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TENSOR_CORE = re.compile(r"[BDHIOQ]G?MMA\b|UTC\w*MMA\b")  # of a warp; of a warpgroup (G: Hopper); of tcgen05 (UTC: Blackwell)
BULK_COPY = re.compile(r"UTMALDG|UBLKCP")
WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}  # bytes of a thread's load, by the instruction's suffix
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)([^;]*)")
LABEL = re.compile(r"\s*(\.L_[\w.]+):")
TO_LABEL = re.compile(r"`\((\.L_[\w.]+)\)")


@dataclass(frozen=True)
class Instruction:
    name: str  # with its suffixes: "LDG.E.128"
    to: str | None = None  # the label that a branch goes to
    falls_through: bool = True  # whether the next instruction may follow

    @property
    def tensor_core(self) -> bool:
        return TENSOR_CORE.match(self.name) is not None

    @property
    def loaded_bytes(self) -> int:
        """What a thread loads from global memory with it; 0 for any other instruction. A bulk copy counts as 16 bytes."""
        name, *suffixes = self.name.split(".")
        if name in ("LDG", "LDGSTS"):
            return next((WIDTHS[suffix] for suffix in suffixes if suffix in WIDTHS), 4)
        return 16 if BULK_COPY.match(name) else 0


@dataclass(frozen=True)
class Loop:
    """The hot loop of a kernel, both sides of a branch in it counted."""

    instructions: int
    mma: int
    loads: int  # instructions that load from global memory
    load_bytes: int  # of one thread
    wide_bytes: int  # of those, what instructions of at least 16 bytes load, and bulk copies


@dataclass(frozen=True)
class Facts:
    registers: int  # of a thread
    spills: int  # instructions that store to or load from local memory; AMD: registers spilled
    stack: int  # bytes of a thread's stack frame
    smem: int  # bytes of shared memory of a block
    mma: int
    loop: Loop | None = None


def gpu_target(target: str) -> GPUTarget:
    """ "sm_90" or "gfx942" in Triton's terms."""
    return GPUTarget("cuda", int(target[3:]), 32) if target.startswith("sm_") else GPUTarget("hip", target, 64)


def compiled(build: Any, target: str) -> Any:
    """Triton's compiled kernel of a Build (kernels/launch.py). Whatever Triton or ptxas raises passes through.

    Pointers are 16-byte aligned. An integer of type "i32:16", which is Triton's own notation, is a multiple of 16: what a launch would find
    out of a kernel that specialises.
    """
    function = build.function
    if not isinstance(function, triton.runtime.JITFunction):
        raise TypeError(
            f"{build.kernel} {build.variant}: got a {type(function).__name__}, expected a compiled function: unset TRITON_INTERPRET"
        )
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for position, (name, parameter) in enumerate(function.signature.parameters.items()):
        if name in build.types:
            signature[name], _, multiple = build.types[name].partition(":")
            if multiple or signature[name].startswith("*"):
                attributes[position,] = [["tt.divisibility", 16]]
        elif name in build.constants or parameter.default is not parameter.empty:
            signature[name] = "constexpr"
            constants[position,] = build.constants.get(name, parameter.default)
        else:
            raise ValueError(f"{build.kernel} {build.variant}: argument {name} has neither a type nor a value")
    if unknown := (set(build.types) | set(build.constants)) - set(signature):
        raise ValueError(f"{build.kernel} {build.variant}: {function.__name__} has no argument {', '.join(sorted(unknown))}")
    options = {"num_warps": build.warps, "num_stages": build.stages}
    return triton.compile(ASTSource(function, signature, constants, attributes), target=gpu_target(target), options=options)


def facts(kernel: Any) -> Facts:
    """Reads what `compiled` gave."""
    if "amdgcn" in kernel.asm:
        return amd_facts(kernel.asm["amdgcn"], kernel.metadata.shared)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        disassembled = tool(triton.knobs.nvidia.nvdisasm.path, "-c", "-ndf", file.name)  # no data flow: it only serves older GPUs
        usage = tool(triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name)
    return nvidia_facts(disassembled, usage, kernel.metadata.shared)


def tool(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def nvidia_facts(disassembled: str, usage: str, smem: int) -> Facts:
    """From the output of `nvdisasm -c` and `cuobjdump -res-usage`; smem is in neither, since a launch asks for it."""
    found = re.search(r"REG:(\d+)\s+STACK:(\d+)", usage)
    if found is None:
        raise ValueError(f"cuobjdump: expected a line with REG and STACK, got {usage!r}")
    instructions, labels = parse(disassembled)
    names = Counter(i.name.split(".")[0] for i in instructions)
    spills, mma = names["STL"] + names["LDL"], sum(i.tensor_core for i in instructions)
    return Facts(int(found[1]), spills, int(found[2]), smem, mma, hot_loop(instructions, labels))


def amd_facts(text: str, smem: int) -> Facts:
    def number(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        if found is None:
            raise ValueError(f"the AMD assembler text has no .{name}")
        return int(found[1])

    mma = len(re.findall(r"^\s+v_(?:mfma|smfmac|wmma)_", text, re.M))
    spills = number("vgpr_spill_count") + number("sgpr_spill_count")
    return Facts(number("vgpr_count"), spills, number("private_segment_fixed_size"), smem, mma)


def parse(disassembled: str) -> tuple[list[Instruction], dict[str, int]]:
    """The instructions, and for each label the position of the instruction that follows it."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in disassembled.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := INSTRUCTION.search(line):
            predicate, name, operands = found.groups()
            to = TO_LABEL.search(operands)
            jump = name.split(".")[0]
            # "@!P0 BRA", "BRA.U !UP1, `(.L_x_3)": only under a condition
            conditional = predicate is not None or (to is not None and "," in operands[: to.start()])
            leaves = jump in ("EXIT", "RET", "BRX", "JMP", "BRA") and not conditional
            instructions.append(Instruction(name, to[1] if to and jump == "BRA" else None, not leaves))
    return instructions, labels


def hot_loop(instructions: list[Instruction], labels: Mapping[str, int]) -> Loop | None:
    """None where there is no loop."""
    loops = natural_loops(instructions, labels)
    working = [loop for loop in loops if any(instructions[i].tensor_core for i in loop)] or loops
    innermost = [loop for loop in working if not any(other < loop for other in working)]
    counted = [count(instructions[i] for i in loop) for loop in innermost]
    return max(counted, key=lambda loop: (loop.mma, loop.instructions), default=None)


def count(instructions: Iterable[Instruction]) -> Loop:
    body = list(instructions)
    loads = [i.loaded_bytes for i in body if i.loaded_bytes]
    return Loop(len(body), sum(i.tensor_core for i in body), len(loads), sum(loads), sum(n for n in loads if n >= 16))


def natural_loops(instructions: list[Instruction], labels: Mapping[str, int]) -> list[frozenset[int]]:
    """The positions of each loop's instructions. A jump to a block that dominates it closes a loop; all belongs to it that reaches the jump
    without passing through that block. (A mere jump backwards may come from a wait that stands behind the kernel's end.)

    Source: Aho, Lam, Sethi, Ullman, Compilers, 2nd edition, sections 9.6.4 and 9.6.6.
    """
    starts, before = blocks(instructions, labels)
    ends = [*starts[1:], len(instructions)]
    dominating = dominators(before)
    loops: dict[int, set[int]] = {}
    for head, comes_from in enumerate(before):
        closing = {block for block in comes_from if head in dominating[block]}
        if closing and (head == 0 or comes_from - closing):  # behind the end there is a branch to itself that nothing reaches
            loops.setdefault(head, {head}).update(*(reaching(block, head, before) for block in closing))
    return [frozenset(i for block in loop for i in range(starts[block], ends[block])) for loop in loops.values()]


def blocks(instructions: list[Instruction], labels: Mapping[str, int]) -> tuple[list[int], list[set[int]]]:
    """(the first instruction of each basic block, the blocks that may come right before each)"""
    after_jumps = (i + 1 for i, instruction in enumerate(instructions) if instruction.to or not instruction.falls_through)
    starts = sorted(start for start in {0, *labels.values(), *after_jumps} if start < len(instructions))
    number = {start: block for block, start in enumerate(starts)}
    before: list[set[int]] = [set() for _ in starts]
    for block, end in enumerate([*starts[1:], len(instructions)]):
        last = instructions[end - 1]
        if last.to and labels.get(last.to) in number:
            before[number[labels[last.to]]].add(block)
        if last.falls_through and end in number:
            before[number[end]].add(block)
    return starts, before


def dominators(before: list[set[int]]) -> list[set[int]]:
    """For each block, those that every path from the first block to it passes through."""
    found = [{0}, *({*range(len(before))} for _ in before[1:])]
    changed = True
    while changed:
        changed = False
        for block in range(1, len(before)):
            now = {block}.union(set.intersection(*(found[b] for b in before[block])) if before[block] else set())
            changed |= now != found[block]
            found[block] = now
    return found


def reaching(block: int, head: int, before: list[set[int]]) -> set[int]:
    """The blocks from which `block` is reached without passing through `head`, itself among them."""
    found, left = {head}, [block]
    while left:
        if (now := left.pop()) not in found:
            found.add(now)
            left.extend(before[now])
    return found
