"""The latency table of README.md and docs/latency.md, and its picture, of what `rerank-engine bench --out` or `make bench` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rerank_engine.latency.results import place
from rerank_engine.latency.rows import FEW, MEASURED, NOT_SAID


def overview(data: Any, about: str) -> str:
    """A row each: the published range, ours, and what ran."""
    lines = ["| | published | ours, p50 / p95 | | documents | what ran | threads |", "|---|---|---|---|---|---|---|"]
    for row in data["rows"]:
        low, high = row["published_ms"]
        head = f"| {row['label']} | {ms(low)} to {ms(high)}{published_on(row)} "
        if row["verdict"] in MEASURED:
            ran = f"{row['model']}, {row['backend']} on {row['device']}"
            numbers = " / ".join(filter(None, (ms(row["p50_ms"]), tail(row, "p95_ms"))))
            lines.append(f"{head}| {numbers} | {row['verdict']} | {row['documents']:,} | {ran} | {row['threads']} |")
        else:
            lines.append(f"{head}| | {row['verdict']} | {row['documents']:,} | {row['why']} | |")
    return "\n".join([*lines, "", f"One query at a time, text in, ranked list out; passages of 100 to 200 tokens. {source(data)}"])


def details(data: Any, about: str) -> str:
    """Every way that was measured, with its parts."""
    lines = [
        "| way | p50 | rounds' medians, quartiles | p95 | p99 | CPU time | calls | parts, p50 | with |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        if row["verdict"] not in MEASURED:
            lines.append(f"| {row['row']} | {row['verdict']}: {row['why']} | | | | | | | |")
            continue
        for way in (row, *row.get("variants", ())):
            spread = " to ".join(ms(x) for x in way["spread_ms"]) if way["rounds"] > 1 else "one round"
            parts = ", ".join(f"{name} {ms(part['p50_ms'])}" for name, part in way["parts"].items())
            settings = ", ".join(
                f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in way["settings"].items()
            )
            numbers = f"{tail(way, 'p95_ms')} | {tail(way, 'p99_ms')} | {ms(way['cpu_ms'])} | {way['calls']:,}"
            lines.append(f"| {way['way']} | {ms(way['p50_ms'])} | {spread} | {numbers} | {parts} | {settings} |")
        if "why" in row:
            lines.append(f"| {row['row']}, further ways | not measured: {row['why']} | | | | | | | |")
    few = f"p95 and p99 of fewer than {FEW} calls say nothing, and are left out."
    picture = f"![published ranges, and p50 to p95 here](../benchmarks/results/{place('', data['facts']).parent.name}/latency.png)"
    return "\n".join([*lines, "", f"{few} {source(data)}", "", picture])


def server(data: Any, about: str) -> str:
    """Loads of bench_server by server, then what many clients and a connection cost."""
    lines = [
        "| load | server | short, p50 / p95 / p99 ms | long, p50 / p95 | in time: documents a second | requests a second | turned away |",
        "|---|---|---|---|---|---|---|",
    ]
    loads = [r for r in data if "of_ours" in r]
    for load in dict.fromkeys(r["case"] for r in loads):
        found = [r for r in loads if r["case"] == load]
        for name, told in (("ours", found[0]["of_ours"]), *((r["peer"], r["of_theirs"]) for r in found)):
            short = " / ".join(f"{told[f'short_p{q}_ms']:,.0f}" for q in (50, 95, 99))
            long = " / ".join(f"{told[f'long_p{q}_ms']:,.0f}" for q in (50, 95))
            counts = f"{told['goodput']:.0f} | {told['requests_in_time']:.1f} | {told['turned_away']} of {told['requests']}"
            lines.append(f"| {load} | {name} | {short} | {long} | {counts} |")
    lines += ["", "| 320 documents, 32 clients of 10 at a time | s | of one client's throughput | of the scorer's without a server |"]
    lines += ["|---|---|---|---|"]
    beside = {(r["case"], r["peer"]): r for r in data if "of_ours" not in r}
    for case in dict.fromkeys(case for case, peer in beside if peer == "one client"):
        one, bare = beside[case, "one client"], beside[case, "no server"]
        lines.append(f"| {case.removeprefix('32 clients, ')} | {one['ours']:.3g} | {one['ratio']:.3f} | {bare['ratio']:.3f} |")
    alone = next(r for r in data if r["case"] == "overhead")
    how = "`python -m benchmarks.bench_server` says how it is measured; a capacity of 500 documents a second"
    return "\n".join([*lines, "", f"A request at one connection takes {alone['ours']:.2g} ms beside its document, p50. {how}, {about}."])


def plan(data: Any, about: str) -> str:
    """Budgets of bench_plan: what was planned, what came of it, and how many were kept."""
    *rows, whole = data
    lines = [
        "| budget, p95 | plan | predicted p50 / p95 | realised p50 / p95 | p50 off | nDCG@10 expected / reached |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        if "plan" not in r:
            lines.append(f"| {ms(float(r['case'].partition('<=')[2]))} | none: {r['why']} | | | | |")
            continue
        predicted = f"{ms(r['predicted_p50_ms'])} / {ms(r['predicted_p95_ms'])}"
        reached = f"{r['expected']['ndcg@10']:.4f} / {r['ndcg@10']:.4f}"
        realised = f"{ms(r['realised_p50_ms'])} / {ms(r['ours'])}"
        lines.append(f"| {ms(r['theirs'])} | {r['plan']} | {predicted} | {realised} | {100 * r['p50_off']:+.0f} % | {reached} |")
    near = f"{whole['within_20_percent']} of {sum('plan' in r for r in rows)} p50 lie within 20 % of the predicted one"
    kept = f"{whole['ours']} of {whole['theirs']} budgets were kept at p95; {near}"
    first = rows[0]
    how = f"{first['collection']}, {first['queries']} queries one at a time, {first['threads']} threads (`python -m benchmarks.bench_plan`)"
    return "\n".join([*lines, "", f"{kept}. {how}, {about}."])


def tail(way: Any, key: str) -> str:
    """A far percentile, "" where there were too few calls for it."""
    return ms(way[key]) if way["calls"] >= FEW else ""


def published_on(row: Any) -> str:
    return "" if row["published_on"] == NOT_SAID else f" ({row['published_on']})"


def source(data: Any) -> str:
    facts, machine = data["facts"], data["facts"]["machine"]
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("onnxruntime", "faiss-cpu") if name in facts["versions"])
    load = f"load {data['load_before']} before and {data['load_after']} after"
    where = f"{machine.get('gpu') or machine['processor']}, {data['threads']} threads, {load}"
    command = "rerank-engine bench" + (" --quick" if data["quick"] else "")
    later = "; ".join(f"{name}: {when}" for name, when in data.get("amended", {}).items())
    told = f"`{command}`, {facts['date']}, {', '.join(filter(None, (facts['git'], versions)))}, {where}."
    return told + (f" Measured later: {later}." if later else "")


def ms(value: float) -> str:
    """Three digits, in ms or s."""
    return f"{value / 1e3:.3g} s" if value >= 1e3 else f"{value:.3g} ms"


def plot(data: Any, path: Path) -> None:
    """Published ranges as bars and ours as lines from p50 to p95, ms on a log axis. Raises ModuleNotFoundError without matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = data["rows"][::-1]
    figure = Figure(figsize=(8, 0.55 * len(rows) + 1.2), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="ms a query, end to end", title=machine_of(data))
    for at, row in enumerate(rows):
        low, high = row["published_ms"]
        axes.barh(at, high - low, left=low, height=0.55, color="#c8d3e0", label="published" if at == 0 else None)
        if row["verdict"] in MEASURED:
            ends = [row["p50_ms"], row["p95_ms" if row["calls"] >= FEW else "p50_ms"]]
            axes.plot(
                ends, [at, at], color="#b3361b", linewidth=2, solid_capstyle="butt", label="ours, p50 to p95" if _first(rows, at) else None
            )
            axes.plot(ends[:1], [at], "o", color="#b3361b", markersize=6)
        else:
            axes.annotate("not measured", (low, at), (4, 0), textcoords="offset points", va="center", fontsize=8, color="#555555")
    axes.set_yticks(range(len(rows)), [row["label"] + published_on(row) for row in rows], fontsize=8)
    axes.grid(axis="x", which="major", color="#dddddd")
    axes.set_axisbelow(True)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.08), ncols=2, frameon=False, fontsize=8)
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})


def machine_of(data: Any) -> str:
    machine = data["facts"]["machine"]
    return f"{machine.get('gpu') or machine['processor']}, {data['threads']} threads, {data['facts']['date']}"


def _first(rows: Any, at: int) -> bool:
    return all(row["verdict"] not in MEASURED for row in rows[:at])
