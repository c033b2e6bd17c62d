"""What the GPU benchmark compares is tried without a GPU: every case and answer, nothing timed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from device import DEVICE

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(DEVICE.type == "cuda", reason="`make bench-gpu` runs all of it on a GPU")
def test_every_case_gives_the_answer_in_a_dry_run() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu", "--dry-run"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("rerank-6x40-q32-d128-int8", "1bit-raw-6x40", "4bit-int8-incall-6x40", "centroid"):
        assert f"{name}: largest error" in done.stderr


def test_without_a_gpu_it_says_so() -> None:
    if DEVICE.type == "cuda":
        pytest.skip("there is one")
    for module in ("benchmarks.gpu", "benchmarks.tune"):
        done = subprocess.run([sys.executable, "-m", module], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and "no CUDA device" in done.stderr


def test_what_is_wrong_is_refused_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import gpu, on_gpu
    from benchmarks.gpu_cases import Residual, Tokens

    refused: list[str] = []
    monkeypatch.setattr(gpu, "REFUSED", refused)
    monkeypatch.setattr(gpu, "RESIDUAL", [("raw", False, -1.0), ("norm", False, 2e-3)])
    monkeypatch.setattr(gpu, "floor_us", lambda moved, flops: None)
    monkeypatch.setattr(on_gpu, "compare", lambda bench, case, *args, **more: [{"case": case}])
    tiny = Residual(Tokens(3, 9, lists=1, device=DEVICE), 2, 16)
    assert [row["case"] for row in gpu.residual_rows(tiny, 1, True)] == ["2bit-norm-3x9"]
    assert refused == ["2bit-raw-3x9"]


def test_a_table_of_tiles_is_rewritten_whole_and_nothing_else() -> None:
    from rerank_kernels.config import TILES, Tiles

    from benchmarks.tune import CONFIG, candidates, rewritten

    source = CONFIG.read_text()
    assert rewritten(source, TILES) == source
    key = ("sm_90", "fp16", 128, 32)
    changed = rewritten(source, {**TILES, key: Tiles(32, 32, 2, 4, False)})
    lines = [(a, b) for a, b in zip(source.splitlines(), changed.splitlines()) if a != b]
    assert len(lines) == 1 and lines[0][1] == '    ("sm_90", "fp16", 128, 32): Tiles(32, 32, 2, 4, False),'
    tried = list(candidates(TILES[key]))
    assert tried[0] == TILES[key] and len(set(tried)) == len(tried) > 20 and {t.query for t in tried} == {32}
