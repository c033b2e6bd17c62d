"""The tables of docs/cross-encoder.md, of results of bench_cross_encoder (`speed`) and of quality_cross (`quality`, `cascade`)."""

from __future__ import annotations

from typing import Any

MIXES = ("marco100", "var100")
PEERS = {
    "sentence-transformers": "against sentence-transformers, torch, at its defaults",
    "sentence-transformers-onnx": "against sentence-transformers, ONNX, at its defaults",
    "flashrank-style-float32": "against one padded batch, as FlashRank runs it, float32",
    "flashrank-style-int8": "our int8 against one padded batch, int8",
    "openvino-sorted4": "against OpenVINO, sorted, four a call",
    "onnxruntime-1by1-float32": "against onnxruntime, one by one, float32",
    "onnxruntime-1by1-int8": "our int8 against onnxruntime, one by one, int8",
}


def speed(data: Any, about: str) -> str:
    """Ratios of a full run: the mixes of lengths in columns, then what has no peer."""
    rows = {(r["case"], r["peer"]): r for r in data}
    lines = ["| | lengths as MS MARCO's | of high variance |", "|---|---|---|"]
    own = {r["peer"]: f"against our {r['theirs_backend']}, {r['precision']}" for r in data if "theirs_backend" in r}
    for peer, label in {**PEERS, **own}.items():
        ratios = [rows[mix, peer]["ratio"] if (mix, peer) in rows else None for mix in MIXES]
        if any(ratios):
            lines.append(f"| {label} | {' | '.join('' if ratio is None else f'{ratio:.2f}x' for ratio in ratios)} |")
    floors = [rows[f"floor-{mix}", "fma-peak"] for mix in MIXES]
    for label, key in (
        ("float32: share of the processor's peak", "ratio"),
        ("the same with all rows of the last layer counted", "share_all_rows"),
    ):
        lines.append(f"| {label} | {' | '.join(f'{100 * r[key]:.0f} %' for r in floors)} |")
    return "\n".join([*lines, "", f"{'; '.join(_said(data, rows))}. {_HOW}, {about}."])


_HOW = "CPU time of one thread, tokenising included, sides in turns (`python -m benchmarks.bench_cross_encoder`)"


def _said(data: Any, rows: dict[tuple[str, str], Any]) -> list[str]:
    ours = {r["precision"]: r["backend"] for r in data if r["case"] in MIXES}
    peak, cost = rows[f"floor-{MIXES[0]}", "fma-peak"], 1 / rows["cost-per-flop", "marco100"]["ratio"]
    said = [
        "Ours: " + " and ".join(f"{how} ({precision})" for precision, how in ours.items()),
        f"peak of one thread: {peak['peak_gflops']:.0f} GFLOP/s ({peak['peak_isa']})",
        f"on the mix of high variance an operation costs {cost:.2f} times what it costs on the other",
    ]
    for r in data:
        if r["case"].startswith("threads-"):
            said.append(f"{r['case'][8:]} pairs on 2 threads, wall-clock time against one: {r['ratio']:.2f}x ({r['precision']})")
        if r["case"].startswith("memory-"):
            said.append(f"memory after {r['calls']:,} calls of varied shapes: {r['growth_percent']:+.1f} % ({r['peer'].rsplit('-', 1)[1]})")
    return said


def quality(data: Any, about: str) -> str:
    """What re-ranking the first documents of the first stage reaches."""
    lines = [
        "| collection | re-ranked | first stage | nDCG@10 | gain, 95 % of bootstraps | floor | pairs cut |",
        "|---|---|---|---|---|---|---|",
    ]
    floors = [r for r in data if r["kind"] == "floor"]
    for r in floors:
        low, high = r["gain_95"]
        gain = f"{r['gain']:+.4f} ({low:+.4f} to {high:+.4f})"
        name = f"{r['collection']}, {r['queries']} queries, up to {r['max_tokens']} tokens a pair"
        held = f"{r['floor']:.4f}" if "floor" in r else ""
        cells = f"{r['first_stage']:.4f} | {r['ndcg@10']:.4f} | {gain} | {held} | {100 * r['pairs_truncated']:.0f} %"
        lines.append(f"| {name} | the first {r['depth']} | {cells} |")
    note = f"First stage: BM25; the model in {floors[0]['precision']}, nDCG@10"
    return "\n".join([*lines, "", f"{note} (`python -m benchmarks.quality_cross FOLDER...`), {about}."])


def cascade(data: Any, about: str) -> str:
    """nDCG@10 against the tokens that the cross-encoder reads: settings in rows, collections in columns."""
    points = {(r["collection"], r["setting"]): r for r in data if r["kind"] == "curve"}
    names, settings = (list(dict.fromkeys(key[i] for key in points)) for i in (0, 1))
    lines = ["| |" + "".join(f" {name}: tokens | nDCG@10 | lost |" for name in names), "|---|" + "---|---|---|" * len(names)]
    for setting in settings:
        cells = []
        for name in names:
            r = points.get((name, setting))
            cells.append(" | | |" if r is None else f" {100 * r['tokens_share']:.0f} % | {r['ndcg@10']:.4f} | {r['lost']:+.4f} |")
        lines.append(f"| {setting} |" + "".join(cells))
    note = "The first 100 of BM25; tokens of the cross-encoder, as a share of those of all pairs; lost: against all re-ranked"
    return "\n".join([*lines, "", f"{note} (`python -m benchmarks.quality_cross FOLDER...`), {about}."])


def distilled(data: Any, about: str) -> str:
    """What examples/distil.py reported."""
    names = {"bm25": "BM25", "before": "the student before", "after": "the student after", "teacher": "the teacher"}
    found = data["nDCG@10"]
    lines = ["| | nDCG@10 |", "|---|---|", *(f"| {label} | {found[name]:.4f} |" for name, label in names.items())]
    against = {row["run"]: row for row in data["against_after"]}
    told = "; ".join(
        f"{names[name]} against after: {row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]" for name, row in against.items()
    )
    what = f"{data['collection']}, {data['held_out_queries']} held-out queries, the first {data['depth']} of BM25 re-ranked"
    what += f"; {data['pairs']:,} pairs"
    how = f"{what}, {data['minutes']:.0f} minutes on {data['threads']} threads; student {data['student']}, teacher {data['teacher']}"
    return "\n".join([*lines, "", f"{how}. 95 % intervals of the difference: {told}. {about}."])


GPU_PEERS = {
    "transformers-padded": "transformers, sorted, 32 a batch",
    "transformers-one-batch": "transformers, one batch",
    "sentence-transformers": "sentence-transformers",
    "floor (predicted)": "share of the predicted floor",
}


def on_gpu(data: Any, about: str) -> str:
    """Milliseconds of a call, peers in columns."""
    lines = [f"| | ms | {' | '.join(GPU_PEERS.values())} |", "|---|---|" + "---|" * len(GPU_PEERS)]
    for case in dict.fromkeys(r["case"] for r in data):
        found = {r["peer"]: r for r in data if r["case"] == case}
        cells = [
            ""
            if peer not in found
            else f"{100 * found[peer]['ratio']:.0f} %"
            if peer.startswith("floor")
            else f"{found[peer]['ratio']:.1f}x"
            for peer in GPU_PEERS
        ]
        lines.append(f"| {case} | {next(iter(found.values()))['ours']:.3g} | {' | '.join(cells)} |")
    how = "wall time of a call, medians; a peer's column: how many times longer it takes"
    return "\n".join([*lines, "", f"`python -m benchmarks.cross_gpu`: {how}. {about}."])
