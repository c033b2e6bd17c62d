"""The gate on machine code: what is read from an assembly listing, and which facts of a kernel break which rule."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the kernels need torch (CPU build: pip install torch==2.13.0+cpu) and triton")
pytest.importorskip("triton", reason="the kernels need triton")
ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("benchmarks") is None:
    sys.path.append(str(ROOT))

from rerank_kernels.launch import Build  # noqa: E402

from benchmarks import kernel_report, machine_code  # noqa: E402

USAGE = "Resource usage:\n Common:\n  GLOBAL:0\n Function f:\n  REG:48 STACK:16 SHARED:1024 LOCAL:0 CONSTANT[0]:592\n"


def listing(text: str) -> str:
    """As nvdisasm prints it, from lines such as "@P0 BRA L1" and "L1:"."""
    lines = []
    for number, line in enumerate(line.strip() for line in text.strip().splitlines()):
        to = line.split()[-1]
        if line.endswith(":"):
            lines.append(f".L_x_{line[1:]}")
        elif "BRA" in line:
            lines.append(f"        /*{number * 16:04x}*/              {line.removesuffix(to)}`(.L_x_{to[1:]}) ;")
        else:
            lines.append(f"        /*{number * 16:04x}*/                   {line} ;")
    return "\n".join(lines)


def facts(text: str) -> machine_code.Facts:
    return machine_code.nvidia_facts(listing(text), USAGE, 4096)


NESTED = """
    LDC R1, c[0x0][0x28]
    STL [R1], R2
    LDG.E.128 R4, desc[UR4][R2.64]
    L1:
    IADD3 R0, R0, 0x1, RZ
    L2:
    LDGSTS.E.BYPASS.LTC128B.128 [R4], desc[UR4][R2.64]
    LDG.E R4, desc[UR4][R2.64]
    LDG.E.U16.CONSTANT R4, desc[UR4][R2.64]
    HMMA.16816.F32 R4, R8, R12, R4
    @!P0 BRA L5
    HMMA.16816.F32 R4, R8, R12, R4
    L5:
    BRA.U !UP0, L2
    HMMA.16816.F32 R4, R8, R12, R4
    @P1 BRA L1
    LDL R2, [R1]
    EXIT
    L3:
    BRA L3
    NOP
"""


def test_the_hot_loop_is_the_innermost_one_with_tensor_cores() -> None:
    found = facts(NESTED)
    assert (found.registers, found.stack, found.smem, found.spills, found.mma) == (48, 16, 4096, 2, 3)
    assert found.loop == machine_code.Loop(instructions=7, mma=2, loads=3, load_bytes=16 + 4 + 2, wide_bytes=16)


def test_a_wait_behind_the_end_belongs_to_its_loop_and_makes_none_of_its_own() -> None:
    """Blackwell's listings: the branch back from the wait spans all that lies between, the loop's rest and what follows it."""
    found = facts("""
        L1:
        UTCHMMA gdesc[UR4], gdesc[UR6], tmem[UR8]
        SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2
        @!P0 BRA L7
        L2:
        LDS R4, [R2]
        BRA.U UP0, L1
        UTCHMMA gdesc[UR4], gdesc[UR6], tmem[UR8]
        FADD R1, R1, R2
        EXIT
        L7:
        SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2
        @!P0 BRA L7
        BRA L2
    """)
    assert found.mma == 2
    assert found.loop == machine_code.Loop(instructions=8, mma=1, loads=0, load_bytes=0, wide_bytes=0)


def test_without_tensor_cores_the_longest_loop_counts_and_without_a_loop_none() -> None:
    found = facts("""
        L1:
        LDG.E.64 R4, desc[UR4][R2.64]
        @P0 BRA L1
        L2:
        FADD R1, R1, R2
        FADD R1, R1, R2
        UBLKCP [UR4], [UR6], UR8
        @P0 BRA L2
        EXIT
    """)
    assert found.loop == machine_code.Loop(instructions=4, mma=0, loads=1, load_bytes=16, wide_bytes=16)
    assert facts("FADD R1, R1, R2\n@P0 BRA L1\nFADD R1, R1, R2\nL1:\nEXIT\nL2:\nBRA L2").loop is None


@pytest.mark.parametrize("name", ["HMMA.16816.F32", "IMMA.16832.S8.S8", "HGMMA.64x32x16.F32", "QGMMA.64x32x32", "IGMMA.64x8x32", "UTCQMMA"])
def test_tensor_core_instructions_of_every_kind_are_seen(name: str) -> None:
    assert facts(f"{name} R4, R8\nEXIT").mma == 1


@pytest.mark.parametrize("name", ["IMAD.MOV.U32", "FMNMX", "UTMALDG.2D", "HMNMX2", "HADD2", "UTCBAR"])
def test_nothing_else_is_taken_for_one(name: str) -> None:
    assert facts(f"{name} R4, R8\nEXIT").mma == 0


def test_amd_is_read_from_the_assembler_text() -> None:
    text = """
	v_mfma_f32_32x32x8_f16 v[2:17], v[34:35], v[106:107], 0
	v_max_f32_e32 v2, v2, v3
    .vgpr_count:     130
    .vgpr_spill_count: 2
    .sgpr_spill_count: 1
    .private_segment_fixed_size: 12
    """
    assert machine_code.amd_facts(text, 32768) == machine_code.Facts(130, 3, 12, 32768, 1)


def test_a_build_that_does_not_fit_its_kernel_is_refused() -> None:
    build = Build("maxsim", "x", lambda x: x, {}, {}, 4, 3)
    with pytest.raises(TypeError, match="unset TRITON_INTERPRET"):
        machine_code.compiled(build, "sm_90")


def row(**changed: Any) -> kernel_report.Row:
    build = Build("maxsim", "fp16-d128-q32", None, {}, {}, warps=4, stages=3, tokens=64)
    loop = machine_code.Loop(instructions=128, mma=8, loads=8, load_bytes=128, wide_bytes=128)
    made = kernel_report.row_of(build, changed.pop("target", "sm_90"), machine_code.Facts(96, 0, 0, 57_344, 8, loop), None)
    return {**made, **changed}


def problems(changed: dict[str, Any], before: dict[str, Any] | None = None) -> list[str]:
    return list(kernel_report.problems(row(**changed), None if before is None else row(**before)))


def test_a_row_holds_what_follows_from_the_facts() -> None:
    made = row()
    assert list(made)[:10] == [
        "kernel",
        "variant",
        "target",
        "registers",
        "spills",
        "smem",
        "mma",
        "loads_16b_share",
        "instr_per_token",
        "peer",
    ]
    assert made["instr_per_token"] == 128 * 4 / 64 and made["loads_16b_share"] == 1 and made["peer"] is None
    assert made["bytes_per_token"] == 128 * 32 * 4 / 64  # each of 128 threads, 64 tokens: 256 bytes, which is d = 128 in fp16
    assert made["predicted_issue_floor_us"] == pytest.approx(180_000 * 8 / (132 * 4 * 1830), abs=0.01)
    without = kernel_report.row_of(
        Build("topk", "k10", None, {}, {}, 4, 1, tensor_cores=False), "gfx942", machine_code.Facts(9, 0, 0, 0, 0), None
    )
    assert without["instr_per_token"] is without["loads_16b_share"] is without["predicted_issue_floor_us"] is None


@pytest.mark.parametrize(
    ("changed", "before", "said"),
    [
        ({}, None, None),
        ({}, {}, None),
        ({"spills": 4}, None, "got spills = 4, expected at most 0"),
        ({"smem": 232_448}, None, None),
        ({"smem": 232_449}, None, "got smem = 232,449, expected at most 232,448"),
        ({"smem": 102_000, "target": "sm_89"}, None, "got smem = 102,000, expected at most 101,376"),
        ({"registers": 256}, None, "got registers = 256, expected at most 255"),
        ({"mma": 0}, None, "got no tensor-core instruction"),
        ({"mma": 0, "tensor_cores": False}, None, None),
        ({"instr_per_token": 9.01}, None, "expected at most 9.0 (its bar)"),
        ({"instr_per_token": None}, None, "got None loop instructions a token"),
        ({"instr_per_token": 9.01, "target": "sm_80"}, None, None),
        ({"instr_per_token": 8.1}, {}, "got 8.1 loop instructions a token, expected at most 8.0 (the record)"),
        ({"instr_per_token": 7.9}, {}, None),
        ({"loads_16b_share": 0.5}, {}, "got 0.5 of the bytes in loads of 16 bytes, expected at least 1.0"),
        ({"loads_16b_share": None}, {}, "got None of the bytes"),
        ({"error": "PTXASError: no"}, None, "got PTXASError: no, expected it to compile"),
        ({"error": "PassManager: no", "target": "gfx942"}, None, None),  # what never did
        ({"error": "PassManager: no", "target": "gfx942"}, {}, "expected it to compile"),
        ({"spills": 4, "target": "gfx942"}, {}, None),
    ],
)
def test_every_rule_of_the_gate(changed: dict[str, Any], before: dict[str, Any] | None, said: str | None) -> None:
    found = problems(changed, before)
    assert (len(found) == 1 and said in found[0]) if said else not found


def test_a_form_that_the_record_does_not_know_and_one_that_is_gone_are_violations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_report, "BARS", {("maxsim", "fp16-d128-q32", "sm_90"): 9.0})
    recorded = {kernel_report.of(r): r for r in (row(), row(variant="older"))}
    assert list(kernel_report.violations([row(), row(variant="newer")], recorded, whole=[])) == [
        f"maxsim newer on sm_90: not in the record, {kernel_report.HOW_TO_RECORD}"
    ]
    (gone,) = kernel_report.violations([row()], recorded, whole=["sm_90"])
    assert gone.startswith("maxsim older on sm_90: got no such form")
    assert not list(kernel_report.violations([row()], recorded, whole=["sm_80"]))
    (bar,) = kernel_report.violations([row(variant="renamed")], None, whole=["sm_90"])
    assert bar.startswith("maxsim fp16-d128-q32 on sm_90: got no such form")


def test_without_a_record_the_gate_says_so_and_keeps_the_hard_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernel_report, "RESULTS", tmp_path)
    monkeypatch.setattr(kernel_report, "BARS", {})
    assert kernel_report.check([row()], whole=["sm_90"]) == 0
    assert "no record for Triton" in capsys.readouterr().err
    assert kernel_report.check([row(spills=1)], whole=["sm_90"]) == 1
    assert "maxsim fp16-d128-q32 on sm_90: got spills = 1" in capsys.readouterr().err
    kernel_report.record([row()])
    assert kernel_report.check([row(instr_per_token=8.5)], whole=["sm_90"]) == 1
    kernel_report.record([row(), row(peer="theirs")])
    with pytest.raises(SystemExit, match="--peers"):
        kernel_report.record([row()])


def test_of_a_peers_shortlist_the_shortest_loop_without_spills_is_kept() -> None:
    theirs = [
        row(peer="theirs", tile=tile, **more)
        for tile, more in (
            ("a", {"instr_per_token": 20.0}),
            ("b", {"instr_per_token": 5.0, "spills": 2}),
            ("c", {"instr_per_token": 12.0}),
            ("d", {"error": "OutOfResources", "instr_per_token": None, "spills": None}),
        )
    ]
    assert [(r["peer"], r["tile"]) for r in kernel_report.best_of_shortlists([row(), row(), *theirs])] == [
        (None, None),
        (None, None),
        ("theirs", "c"),
    ]


@pytest.mark.parametrize("path", sorted(kernel_report.RESULTS.glob("triton-*.json")), ids=lambda path: path.stem)
def test_what_is_committed_passes_the_gate_and_is_one_run_with_the_peers(path: Path) -> None:
    rows = json.loads(path.read_text())
    assert list(kernel_report.violations([r for r in rows if not r["peer"]], None, whole=["sm_90"])) == []
    assert {r["peer"] for r in rows} == {None, "late-interaction-kernels", "flash-maxsim"}
    assert {".".join(r["triton"].split(".")[:2]) for r in rows} == {path.stem.removeprefix("triton-")}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The report in a process where kernels are compiled, as Triton decides when it is imported."""
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.kernel_report", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True)


def test_one_form_is_really_compiled() -> None:
    code = """
import json
from dataclasses import asdict
from rerank_kernels import maxsim
from benchmarks import kernel_report, machine_code
build = next(build for build in maxsim.builds("sm_90") if build.variant == "fp16-d128-q32")
row = kernel_report.row_of(build, "sm_90", machine_code.facts(machine_code.compiled(build, "sm_90")), None)
print(json.dumps([row, list(kernel_report.problems(row, None))]))
"""
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    found, broken = json.loads(done.stdout)
    assert broken == []
    assert found["mma"] == found["loop_mma"] == 8 and found["bytes_per_token"] == 256 and found["loads_16b_share"] == 1


def test_it_refuses_to_run_in_the_interpreter() -> None:
    done = run("--json", TRITON_INTERPRET="1")
    assert done.returncode == 2 and done.stdout == "" and "unset it" in done.stderr


def test_what_cannot_be_is_refused() -> None:
    assert "expected one of sm_80" in run("--targets", "sm_75").stderr
    assert "leave out" in run("--record", "--only", "maxsim").stderr
