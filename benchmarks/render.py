"""Writes measured figures into the documents: `python -m benchmarks.render benchmarks/results/<machine>`.

A folder need not hold every file of results: what it holds is written, and `machine.json` (or quality.json, or the newest whole run of the
latency table) says what was measured on. Of several runs of that the newest whole one is written; a folder with looks alone is an error.
In results/kernels nothing is: it holds what was compiled and what is predicted.
A table stands between `<!-- BEGIN name -->` and `<!-- END name -->`; pictures, for which it takes matplotlib, lie beside the results. A
second run changes nothing; a missing marker is an error (exit 1), and then nothing is written.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks import cross_tables, fleet_tables, latency_tables, ltr_tables, peer_tables, quality_tables, roofline, scale_tables

ROOT = Path(__file__).resolve().parents[1]
DATED = "20??-??-??*.json"  # of the latency table: benchmarks.suite


def demo_table(data: Any, about: str) -> str:
    """Mean quality per stage of the demo's pipeline."""
    lines = ["| stage | nDCG@10 | MRR@10 | answer in top 3 |", "|---|---|---|---|"]
    stages = [stage for stage in data["demo"]["stages"] if stage["name"] != "Top"]
    lines += [f"| {s['name']} | {s['ndcg@10']:.3f} | {s['mrr@10']:.3f} | {s['answer@3']:.2f} |" for s in stages]
    note = f"{data['demo']['questions']} questions (`rerank-engine demo --evaluate {data['demo']['questions']}`), {about}."
    return "\n".join([*lines, "", note])


def int8_sentence(data: Any, about: str) -> str:
    d = data["int8"]
    how = f"{d['model']} (int8), {d['pairs']} pairs in length-sorted batches of {d['batch']} against each pair alone"
    return f"Measured on {how}: logits move by up to {d['max']:.2f}, {d['mean']:.2f} on average ({about})."


def source(quality: dict[str, Any]) -> str:
    if "gpu" in quality["machine"]:
        held = quality["versions"]
        names = ("torch", "triton", "late-interaction-kernels", "flash-maxsim")
        used = ", ".join(f"{name} {held[name]}" for name in names if name in held)
        return f"{quality['date']}, {used}, {quality['machine']['gpu']}"
    named = ("lightgbm", "xgboost", "treelite", "tl2cgen", "lleaves") if "treelite" in quality["versions"] else ("onnxruntime",)
    used = [f"{name} {quality['versions'][name]}" for name in named if name in quality["versions"]]
    return ", ".join([quality["date"], *used, quality["machine"]["processor"]])


def speed_table(data: Any, about: str) -> str:
    """Ratios of a full run of bench_bm25: peers in columns."""
    rows = {(r["case"], r["metric"], r["peer"]): r for r in data if r.get("of_ours") != "postings"}
    peers = [p for p in ("bm25s-numba", "tantivy", "pisa", "pisa-u8") if any(key[2] == p for key in rows)]
    lines = [f"| | {' | '.join(peers)} |", "|---|" + "---|" * len(peers)]
    for case, metric, label in SPEED_ROWS:
        cells = [f"{rows[case, metric, peer]['ratio']:.1f}x" if (case, metric, peer) in rows else "" for peer in peers]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    documents = max(r.get("documents", 0) for r in data if r["case"] == "nat@10")
    note = f"How many times faster or smaller than the peer; {documents:,} synthetic passages, p50 of one pass over 1,000 queries"
    return "\n".join([*lines, "", f"{note}, CPU time of one thread (`python -m benchmarks.bench_bm25`), {about}."])


SPEED_ROWS = (
    ("nat@10", "cpu_ms", "top 10, natural queries"),
    ("nat@1000", "cpu_ms", "top 1,000, natural queries"),
    ("freq@10", "cpu_ms", "top 10, with frequent words"),
    ("freq@1000", "cpu_ms", "top 1,000, with frequent words"),
    ("build", "cpu_ms", "building from token ids"),
    ("size", "bytes", "bytes of the index, without documents"),
    ("open", "wall_ms", "opening"),
)


def lexical_table(data: Any, about: str) -> str:
    """nDCG@10 and R@10 by collection and method."""
    found = {(r["collection"], r["method"]): r for r in data if r["analyzer"] != "simple"}
    lines = [
        "| collection | queries | BM25 nDCG@10 | R@10 | RM3 nDCG@10 | R@10 | bm25s, same tokens, nDCG@10 |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, method), r in found.items():
        if method == "BM25":
            rm3, peer = found[name, "RM3"], found.get((name, "bm25s"))
            numbers = [r["nDCG@10"], r["R@10"], rm3["nDCG@10"], rm3["R@10"]]
            last = f"{peer['nDCG@10']:.4f}" if peer else ""
            lines.append(f"| {name} | {r['queries']} | {' | '.join(f'{x:.4f}' for x in numbers)} | {last} |")
    return "\n".join([*lines, "", f"`python -m benchmarks.quality_lexical FOLDER...`, {about}."])


def late_speed_table(data: Any, about: str) -> str:
    """Ratios of full runs of bench_maxsim and bench_residual."""
    rows = {(r["case"], r["peer"], r.get("precision", "")): r for r in data}
    lines = ["| | 1,000 documents | 100 documents |", "|---|---|---|"]
    for label, case, peer, precision in LATE_ROWS:
        cells = []
        for n in (1000, 100):
            name = case.format(n=n, tail="" if n == 1000 else f"-{n}")
            found = rows.get((name, peer, precision))
            cells.append("" if found is None else f"{100 * found['ratio']:.0f} %" if peer == "fma-peak" else f"{found['ratio']:.1f}x")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    peak = rows["floor-rerank-1000x116-q32-d128-fp32", "fma-peak", ""]
    note = f"Peak of one thread: {peak['peak_gflops']:.0f} GFLOP/s in float32 ({peak['peak_isa']}), measured in the same run"
    how = "CPU time of one thread, sides in turns (`python -m benchmarks.bench_maxsim`, `bench_residual`)"
    return "\n".join([*lines, "", f"{note}. {how}, {about}."])


_M = "rerank-{n}x116-q32-d128-"
LATE_ROWS = (
    ("float32, share of the processor's peak", "floor-" + _M + "fp32", "fma-peak", ""),
    ("float32 against maxsim-cpu", _M + "fp32", "maxsim-cpu", ""),
    ("against numkong, which is approximate", _M + "fp32", "numkong", ""),
    ("against numkong, both with AVX2 alone", "isa-" + _M + "fp32", "numkong-avx2", ""),
    ("int8 against numkong", _M + "int8", "numkong", ""),
    ("float32 against colbert-ai's segmented_maxsim", _M + "fp32", "colbert-segmented", ""),
    ("against torch, packed, scatter_reduce", _M + "fp32", "torch-scatter-reduce", ""),
    ("against torch, packed, segment_reduce", _M + "fp32", "torch-segment-reduce", ""),
    ("against PyLate's rank", _M + "fp32", "pylate-rank", ""),
    ("float16 against our float32", _M + "fp16", "own-fp32", ""),
    ("int8 against our float32", _M + "int8", "own-fp32", ""),
    *(
        (f"{nbits}-bit codes against colbert-ai, {words}", f"{nbits}bit-{form}{{tail}}", "colbert-ai", "int16")
        for nbits in (4, 2, 1)
        for form, words in (("given", "centroid products given"), ("incall", "computed in the call"))
    ),
    ("2-bit codes against our float32, products given", "2bit-given{tail}", "own-fp32", "int16"),
    ("4-bit codes against our float32, products given", "4bit-given{tail}", "own-fp32", "int16"),
    ("4-bit codes against our float32, computed in the call", "4bit-incall{tail}", "own-fp32", "int16"),
)


def late_quality_table(data: Any, about: str) -> str:
    """nDCG@10, sizes and certified work by collection and storage."""
    lines = [
        "| collection | storage | nDCG@10 | same top 10 | bytes a token | a document | certified: products saved |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in data:
        if r["storage"] == "BM25":
            lines.append(f"| {r['collection']}, {r['queries']} queries | BM25 alone | {r['ndcg@10']:.4f} | | | | |")
        else:
            sizes = f"{r['bytes_per_token']:.0f} | {r['bytes_per_document']:,}"
            lines.append(
                f"| | {r['storage']} | {r['ndcg@10']:.4f} | {100 * r['top10_equal']:.1f} % | {sizes} | {100 * r['work_saved']:.1f} % |"
            )
    text = "BM25's top 100 re-ranked by the tokens of answerai-colbert-small-v1's encoder (no projection, 384 dimensions)"
    top = "certified: the top 10 of BM25's top 1,000, equal to brute force for every query"
    return "\n".join([*lines, "", f"{text}; {top} (`python -m benchmarks.quality_late FOLDER...`), {about}."])


def kernel_table(data: Any, about: str) -> str:
    """Machine code of ours beside the peers', then of all of ours by target."""
    lines = [
        "| kernel | form | for | registers | spills | shared memory | loop: tensor-core instructions | loads | of them 16 bytes wide | "
        "bytes a token | instructions a token |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kernel in ("maxsim", "residual"):
        for target in ("sm_80", "sm_90", "sm_100"):
            for r in data:
                if (r["kernel"], r["target"]) == (kernel, target) and (r["peer"] or r["variant"] in BESIDE_PEERS):
                    whose = f"{r['peer']} {r['peer_version']}" if r["peer"] else "**ours**"
                    form = f"{kernel} {r['variant']}" + (f", {r['tile']}, {r['warps']} warps" if r["tile"] else "")
                    cells = f"{r['registers']} | {r['spills']} | {r['smem']:,} | {r['loop_mma']} | {r['loop_loads']}"
                    loads = f"{100 * r['loads_16b_share']:.0f} % | {r['bytes_per_token']:.0f}"
                    lines.append(f"| {whose} | {form} | {target} | {cells} | {loads} | {r['instr_per_token']:.1f} |")
    how = f"Compiled by Triton {data[0]['triton']} without a GPU, all in one run (`python -m benchmarks.kernel_report --record --peers`)"
    what = "static counts, not times; a token: what the loads of the loop ask for and what it issues, all warps of a block"
    theirs = "A peer's row is the one with the shortest loop of the configurations that its autotuner would try for 32 query tokens"
    note = f"{how}: {what}. {theirs}."
    return "\n".join([*lines, "", note, "", *kernel_summary([r for r in data if not r["peer"]])])


BESIDE_PEERS = ("fp16-d128-q32", *(f"2bit-{form}-d128-q32" for form in ("raw", "norm", "table", "int8")))


def kernel_summary(rows: Any) -> list[str]:
    """A line for each kernel and target."""
    lines = ["| kernel | for | forms | most registers | spills | most shared memory |", "|---|---|---|---|---|---|"]
    groups: dict[tuple[str, str], list[Any]] = {}
    for r in rows:
        groups.setdefault((r["kernel"], r["target"]), []).append(r)
    for (kernel, target), found in sorted(groups.items(), key=lambda group: group[0][0]):
        good = [r for r in found if not r["error"]]
        most = {name: max((r[name] for r in good), default=0) for name in ("registers", "smem")}
        failed = f", {len(found) - len(good)} more do not compile" if len(good) < len(found) else ""
        spills = sum(r["spills"] for r in good)
        lines.append(f"| {kernel} | {target} | {len(good)}{failed} | {most['registers']} | {spills} | {most['smem']:,} |")
    return lines


def gpu_table(data: Any, about: str) -> str:
    """Times of a call on the device, a table for each kernel; peers and the share of the predicted floor in columns."""
    lines, host = [], []
    for bench in dict.fromkeys(r["bench"] for r in data):
        found = {(r["case"], r["peer"]): r for r in data if r["bench"] == bench and r["metric"] == "us"}
        host += [r for r in data if r["bench"] == bench and r["metric"] == "host_us"]
        peers = [name for name in GPU_PEERS if any(peer == name for _, peer in found)]
        lines += [f"| {bench} | us | {' | '.join(GPU_PEERS[name] for name in peers)} |", "|---|---|" + "---|" * len(peers)]
        for case in dict.fromkeys(case for case, _ in found):
            cells = [gpu_cell(found.get((case, name)), name) for name in peers]
            ours = next(r["ours"] for (c, _), r in found.items() if c == case)
            lines.append(f"| {case} | {ours:.3g} | {' | '.join(cells)} |")
        lines.append("")
    if host:
        lines += ["| the host's time | us | a call of the wrapper, us |", "|---|---|---|"]
        lines += [f"| {r['case']} | {r['ours']:.3g} | {r['theirs']:.3g} |" for r in host] + [""]
    how = "times of the device for a call, in CUDA graphs, medians; a peer's column: how many times longer it takes"
    return "\n".join([*lines, f"`make bench-gpu`: {how}. {about}."])


def gpu_cell(row: dict[str, Any] | None, peer: str) -> str:
    return "" if row is None else f"{100 * row['ratio']:.0f} %" if peer.startswith("floor") else f"{row['ratio']:.2f}x"


# peers of benchmarks.gpu -> heads of their columns
GPU_PEERS = {
    "torch-padded": "torch, padded",
    "torch": "torch",
    "late-interaction-kernels": "late-interaction-kernels",
    "flash-maxsim": "flash-maxsim",
    "floor (predicted)": "share of the predicted floor",
}


def roofline_table(data: Any, about: str) -> str:
    return roofline.markdown(data)


def deadline_table(data: Any, about: str) -> str:
    """How many of bench_deadline's random pipelines ended in time, and what overran."""
    [r] = data
    lines = ["| | |", "|---|---|"]
    lines.append(f"| ended within the deadline + 10 ms | {100 * r['within_10ms']:.1f} % |")
    lines.append(
        f"| ended within the deadline + 10 ms + the longest call of a network in that run | {100 * r['within_10ms_and_a_call']:.1f} % |"
    )
    lines.append(f"| malformed rankings | {r['malformed']} |")
    lines.append(f"| runs that a deadline cut short | {100 * r['cut_short']:.0f} % |")
    for name, label in (("model_call_ms", "a call of a network"), ("over_ms", "beyond the deadline")):
        lines.append(f"| {label}, ms: median, 99th percentile, longest | {', '.join(f'{r[name][q]:.3g}' for q in ('p50', 'p99', 'max'))} |")
    how = f"{r['pipelines']} random pipelines and deadlines from 1 ms to 2 s over {r['documents']:,} passages, 1 or 4 questions each"
    return "\n".join([*lines, "", f"{how}, bundled models (`python -m benchmarks.bench_deadline`), {about}."])


# name of the marker -> the document, the file of results (of several the last by name), and what makes the text of it
PLACES = {
    "latency": ("README.md", DATED, latency_tables.overview),
    "latency-details": ("docs/latency.md", DATED, latency_tables.details),
    "latency-peers": ("docs/latency.md", DATED, peer_tables.peers),
    "scaling": ("docs/latency.md", DATED, peer_tables.scaling),
    "plan": ("docs/planning.md", "plan.json", latency_tables.plan),
    "fleet": ("docs/planning.md", "fleet.json", fleet_tables.agreement),
    "fleet-example": ("docs/planning.md", "placement.json", fleet_tables.example),
    "server": ("docs/serving.md", "server.json", latency_tables.server),
    "bulk": ("docs/scale.md", "bulk.json", scale_tables.bulk),
    "shards": ("docs/scale.md", "shards.json", scale_tables.shards),
    "demo": ("README.md", "quality.json", demo_table),
    "deadlines": ("docs/deadlines.md", "deadline.json", deadline_table),
    "bm25-speed": ("README.md", "bm25.json", speed_table),
    "lexical": ("docs/lexical-quality.md", "lexical.json", lexical_table),
    "int8": ("docs/numerics.md", "quality.json", int8_sentence),
    "late-speed": ("docs/late-interaction.md", "late.json", late_speed_table),
    "late-quality": ("docs/late-interaction.md", "late-quality.json", late_quality_table),
    "gpu": ("docs/gpu.md", "gpu.json", gpu_table),
    "cross-speed": ("docs/cross-encoder.md", "cross.json", cross_tables.speed),
    "cross-quality": ("docs/cross-encoder.md", "cross-quality.json", cross_tables.quality),
    "cross-gpu": ("docs/cross-encoder.md", "cross-gpu.json", cross_tables.on_gpu),
    "cascade": ("docs/cross-encoder.md", "cross-quality.json", cross_tables.cascade),
    "distil": ("docs/cross-encoder.md", "distil.json", cross_tables.distilled),
    "quality": ("README.md", "quality-table.json", quality_tables.overview),
    "quality-details": ("docs/quality.md", "quality-table.json", quality_tables.details),
    "inner": ("docs/dense.md", "inner.json", quality_tables.inner),
    "vectors": ("docs/dense.md", "vectors.json", quality_tables.vectors),
    "probed": ("docs/late-interaction.md", "probe.json", quality_tables.probed),
    "feedback": ("docs/quality.md", "quality-table.json", quality_tables.feedback),
    "ltr-speed": ("docs/learning-to-rank.md", "ltr.json", ltr_tables.speed),
    "ltr-quality": ("docs/learning-to-rank.md", "ltr-quality.json", ltr_tables.quality),
    "kernels": ("kernels/README.md", "triton-3.9.json", kernel_table),
    "roofline": ("kernels/README.md", "roofline.json", roofline_table),
}


# picture, beside the results -> the file of results, and what draws it
PLOTS = {"latency.png": (DATED, latency_tables.plot), "scaling.png": (DATED, peer_tables.plot)}


def main(folder: str, plots: bool = False) -> int:
    try:
        texts = documents(folder)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    for path, text in texts.items():
        path.write_text(text)
    for name, (file, draw) in PLOTS.items():
        if plots and (newest := last(folder, file)) is not None:
            draw(json.loads(newest.read_text()), Path(folder) / name)
    return 0


def documents(folder: str) -> dict[Path, str]:
    """The documents as they are to be. Raises ValueError for a marker that is not there once, and for looks in place of whole runs."""
    about, texts = machine(folder), dict[Path, str]()
    for name, (document, file, render) in PLACES.items():
        if (newest := last(folder, file)) is None:
            continue
        data, path = json.loads(newest.read_text()), ROOT / document
        texts[path], found = re.subn(
            rf"(<!-- BEGIN {name} -->\n).*?(<!-- END {name} -->)",
            lambda m, r=render, d=data: m[1] + r(d, about) + "\n" + m[2],
            texts[path] if path in texts else path.read_text(),
            flags=re.S,
        )
        if found != 1:
            raise ValueError(f"{document}: expected the marker '{name}' once, found it {found} times")
    return texts


def machine(folder: str) -> str:
    """What was measured on, of the first file that says it."""
    named = [path for path in (Path(folder) / "machine.json", Path(folder) / "quality.json") if path.exists()]
    if named:
        return source(json.loads(named[0].read_text()))
    newest = last(folder, DATED)
    return "nothing measured" if newest is None else source(json.loads(newest.read_text())["facts"])


def last(folder: str, file: str) -> Path | None:
    """The file; of dated ones the newest that holds a whole run. Raises ValueError where there are none but looks and runs without rows."""
    if file != DATED:
        return next(iter(Path(folder).glob(file)), None)
    dated = sorted(Path(folder).glob(file), key=lambda path: [int(number) for number in path.stem.split("-")])
    whole = [path for path in dated if (data := json.loads(path.read_text()))["rows"] and not data["quick"]]
    if dated and not whole:
        raise ValueError(f"{folder}: {dated[-1].name} is a look (--quick), or has no rows")
    return whole[-1] if whole else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], plots=True))
