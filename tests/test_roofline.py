"""Predicted floors against numbers worked out by hand."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("benchmarks") is None:
    sys.path.append(str(ROOT))

from benchmarks import roofline  # noqa: E402

ROWS = {(row["group"], row["case"], row["card"]): row for row in roofline.predicted(roofline.CARDS)}
COLBERT = "ColBERT, top 1000 x 180 tokens, "
TWO_BIT = COLBERT + "2 bit, i32 id"


@pytest.mark.parametrize(
    ("case", "card", "us", "bound"),
    [
        # 1000 x 180 x 256 B + 32 x 256 B + 4000 B = 46,092,192 B at 3.35 TB/s; 2 x 180,000 x 32 x 128 = 1.475 GFLOP at 989 T: 1.49 us
        (COLBERT + "fp16", "H100 SXM", 13.759, "bytes"),
        (COLBERT + "fp16", "H200", 9.603, "bytes"),
        (COLBERT + "fp16", "A100 80 GB", 22.605, "bytes"),
        (COLBERT + "fp16", "L4", 153.64, "bytes"),
        (COLBERT + "fp16", "T4", 144.04, "bytes"),
        (COLBERT + "fp16", "B200", 5.7615, "bytes"),
        (TWO_BIT, "H100 SXM", 1.938, "bytes"),
        (TWO_BIT, "A100 80 GB", 4.726, "tensor cores"),  # 1.475 GFLOP at 312 T
        # 100 x 210 tokens x 6 layers x (2 x 12 x 384^2 + 4 x 210 x 384) = 486.5 GFLOP at 989 T
        ("cross-encoder MiniLM-L6, top 100 x 210 tokens", "H100 SXM", 491.96, "tensor cores"),
        # 1000 x 210 x 24 x (24 x 1024^2 + 4 x 210 x 1024) = 131.2 TFLOP at 65 T: two seconds
        ("cross-encoder BERT-large, top 1000 x 210 tokens", "T4", 2.018e6, "tensor cores"),
        # 12 x 12 x 768^2 x 2 B = 169.9 MB at 3.35 TB/s
        ("encoding a query of 32 tokens, BERT-base", "H100 SXM", 50.71, "bytes"),
    ],
)
def test_floors_of_the_latency_table(case: str, card: str, us: float, bound: str) -> None:
    row = ROWS["latency table", case, card]
    assert row["floor_us"] == pytest.approx(us, rel=1e-3) and row["bound_by"] == bound


def test_each_row_is_labelled_predicted_and_nothing_is_measured() -> None:
    for row in ROWS.values():
        assert row["predicted"] is True and row["floor_us"] > 0 and row["bytes"] > 0
        assert not {"ms", "us", "p50_ms", "cpu_ms", "measured_us"} & set(row)
    assert {card for _, _, card in ROWS} == {"A100 80 GB", "H100 SXM", "H200", "L4", "T4", "B200"}
    table = roofline.markdown(list(ROWS.values()))
    assert "predicted" in table.splitlines()[0] and "nothing is measured" in table


def test_a_card_is_given_by_bandwidth_and_throughput(capsys: pytest.CaptureFixture[str]) -> None:
    roofline.main(["--json", "--bandwidth", "1000", "--tflops", "100", "--name", "a card"])
    rows = json.loads(capsys.readouterr().out)
    row = next(row for row in rows if row["card"] == "a card" and row["case"] == COLBERT + "fp16")
    assert row["floor_us"] == pytest.approx(46.09, rel=1e-3)
    roofline.main([])
    assert "| H100 SXM |" in capsys.readouterr().out
    for wrong in (["--bandwidth", "1000"], ["--tflops", "1"], ["--bandwidth", "-1", "--tflops", "1"]):
        with pytest.raises(SystemExit):
            roofline.main(wrong)
    assert "both above 0" in capsys.readouterr().err


def test_the_issue_floor_is_instructions_by_schedulers() -> None:
    # 180,000 tokens x 12.4 instructions / (132 multiprocessors x 4 schedulers x 1,830 a us)
    assert roofline.issue_floor_us("sm_90", 180_000, 12.4) == pytest.approx(2.31, abs=0.005)
    assert set(roofline.CLOCK_GHZ) == set(roofline.TARGETS)


def test_the_committed_floors_are_those_of_today() -> None:
    committed = (ROOT / "benchmarks" / "results" / "kernels" / "roofline.json").read_text()
    assert committed == roofline.json_lines(list(ROWS.values())) + "\n", "python -m benchmarks.roofline --json > that file"
