"""The tables of the README and of docs/quality.md, of results of quality_table, that of probed search, of bench_probe,
and that of kinds of vector indexes, of bench_vectors."""

from __future__ import annotations

from typing import Any

HOW = "`make quality`"


def overview(data: Any, about: str) -> str:
    """nDCG@10: methods in rows, collections in columns."""
    rows = {(r["method"], r["collection"]): r for r in data}
    methods, names = (list(dict.fromkeys(key[i] for key in rows)) for i in (0, 1))
    queries = {name: next(r for r in data if r["collection"] == name)["queries"] for name in names}
    lines = ["| nDCG@10 | " + " | ".join(f"{name} ({queries[name]})" for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    for method in methods:
        cells = [f"{rows[method, name]['ndcg@10']:.3f}" if (method, name) in rows else "" for name in names]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"In brackets: queries. {HOW}, {about}."])


def details(data: Any, about: str) -> str:
    """A table a collection."""
    lines = []
    for name in dict.fromkeys(r["collection"] for r in data):
        found = [r for r in data if r["collection"] == name]
        first = found[0]
        sampled = "" if first["queries"] == first["of"] else f" of {first['of']:,}"
        graded = f"; MRR and R count what is judged {first['relevant']} or better" if first["relevant"] > 1 else ""
        lines += [f"### {name}", "", f"{first['documents']:,} documents, {first['queries']} queries{sampled}{graded}.", ""]
        lines += ["| | nDCG@10 | 95 % | gain | 95 % | MRR@10 | R@100 | CPU ms a query |", "|---|---|---|---|---|---|---|---|"]
        for r in found:
            low, high = r["ndcg@10_95"]
            gain = f"{r['gain']:+.4f} | {r['gain_95'][0]:+.3f} to {r['gain_95'][1]:+.3f}"
            ms = f"{r['ms']:.3g}" if r["ms"] else ""
            cells = f"{r['ndcg@10']:.4f} | {low:.3f} to {high:.3f} | {gain} | {r['mrr@10']:.4f} | {r['recall@100']:.4f} | {ms}"
            lines.append(f"| {r['method']} | {cells} |")
        if "answer@3" in first:
            lines += ["", "| | an answer among the first 3 passages | of these 3, only distract |", "|---|---|---|"]
            lines += [f"| {r['method']} | {100 * r['answer@3']:.1f} % | {100 * r['distractors@3']:.1f} % |" for r in found]
        lines.append("")
    return "\n".join([*lines, f"{HOW}, {about}."])


def feedback(data: Any, about: str) -> str:
    """What each kind of feedback adds to the retriever that it asks again."""
    rows = {(r["collection"], r["method"]): r for r in data}
    pairs = (("RM3", "BM25"), ("VectorPRF", "dense"), ("ColBERTPRF", "late interaction"))
    lines = ["| nDCG@10, R@100 gained | " + " | ".join(f"{one} over {other}" for one, other in pairs) + " |", "|---|---|---|---|"]
    for name in dict.fromkeys(r["collection"] for r in data):
        cells = []
        for one, other in pairs:
            a, b = rows.get((name, one)), rows.get((name, other))
            cells.append("" if a is None or b is None else ", ".join(f"{a[key] - b[key]:+.4f}" for key in ("ndcg@10", "recall@100")))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{HOW}, {about}."])


def probed(data: Any, about: str) -> str:
    """Search by centroids against scoring every document: recall and time, a row for each number of centroids."""
    lines = ["| | centroids a query token | recall | documents in the lists | scored | CPU ms | against all scored |", "|---" * 7 + "|"]
    for r in data:
        case, probe = r["case"].split("@")
        chosen = " (`auto`)" if r["auto"] else ""
        shares = f"{r['recall']:.3f} | {100 * r['found']:.0f} % | {100 * r['scored']:.1f} %"
        lines.append(f"| {case} | {probe}{chosen} | {shares} | {r['ours']:.3g} | {r['ratio']:.1f}x |")
    how = "recall: the share of the k best that scoring all of them gives; one thread, medians over the queries, both ways in turns"
    return "\n".join([*lines, "", f"2-bit codes (`python -m benchmarks.bench_probe FOLDER`): {how}, {about}."])


def inner(data: Any, about: str) -> str:
    """A row a batch and type of bench_inner: ours, and how many times as long others and the limits take."""
    cases: dict[str, dict[str, Any]] = {}
    for r in data:
        cases.setdefault(r["case"], {})[r["peer"]] = r
    lines = ["| | CPU ms | numpy | torch | reading the bytes | the multiply-adds |", "|---|---|---|---|---|---|"]
    for case, found in cases.items():
        cells = [f"{found[peer]['ratio']:.2f}x" if peer in found else "" for peer in ("numpy", "torch", "read", "peak")]
        lines.append(f"| {case} | {found['numpy']['ours']:.3g} | {' | '.join(cells)} |")
    how = (
        "queries x vectors of 384 dimensions, one thread, medians; Nx: takes N times as long as ours, limits measured in the same run; "
        "float16: numpy widens 512 rows at a time, torch rounds queries and answers to it"
    )
    return "\n".join([*lines, "", f"{how} (`python -m benchmarks.bench_inner`), {about}."])


def vectors(data: Any, about: str) -> str:
    """Kinds of VectorIndex against the exact one: recall, settings and time."""
    lines = ["| | recall@100 | settings | CPU ms a query | against exact |", "|---|---|---|---|---|"]
    for r in data:
        if r["peer"] == "exact":
            settings = ", ".join(f"{name} {value}" for name, value in r["settings"].items())
            lines.append(f"| {r['case']} | {r['recall@100']:.4f} | {settings} | {r['ours']:.3g} | {r['ratio']:.1f}x |")
    how = "100 results, one thread, medians; demo and scifact: vectors of bge-small; clusters: made ones"
    return "\n".join([*lines, "", f"{how} (`python -m benchmarks.bench_vectors FOLDER`), {about}."])
