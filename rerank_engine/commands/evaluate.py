"""`rerank-engine eval`: measures of runs, their comparison, and the diagnosis of a pipeline from the runs of its stages."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import cli
from ..errors import InputError

if TYPE_CHECKING:
    from ..corpus import Corpus
    from ..evaluation import Qrels, Run

    Texts = tuple[dict[str, list[str]], Corpus | None]  # the answers to each query, the documents

DEFAULT = ("nDCG@10", "MRR@10", "R@100")
_OF_TEXTS = re.compile(r"(answer|distractors)@([1-9][0-9]{0,8})")


def register(commands: cli.Commands) -> None:
    sub = commands("eval", evaluate, "measure runs against relevance judgments, compare them, and find where a pipeline loses")
    sub.add_argument("qrels", metavar="QRELS", help="TREC or BEIR form, .gz or not, or the folder of a BEIR collection")
    sub.add_argument("runs", metavar="RUN", nargs="+", help="TREC or BEIR form, .gz or not")
    sub.add_argument(
        "-m",
        "--measure",
        action="append",
        metavar="MEASURE",
        help="may repeat; default: nDCG@10, MRR@10, R@100; also R(rel=2)@100, P@5, MAP, RBP(p=0.9), ERR@20, Judged@10 ...; "
        "answer@3 (a gold answer is in the first 3; by default where a folder has answers) and distractors@3",
    )
    sub.add_argument("--per-query", action="store_true", help="the value of every query too")
    sub.add_argument("--compare", metavar="BASELINE", help="a run to compare the others with")
    sub.add_argument("--test", choices=("randomization", "t"), help="of --compare: the paired test (default: randomization)")
    sub.add_argument("--correction", choices=("holm", "bonferroni", "none"), help="of --compare, over the runs (default: holm)")
    sub.add_argument("--diagnose", action="store_true", help="take the runs for the stages of a pipeline, the retriever first")
    sub.add_argument("--rel", type=int, help="of --diagnose: the least relevance of a relevant document (default: 1)")
    sub.add_argument("--plot", metavar="FILE", help="draw the diagnosis into a picture (.png, .svg, .pdf)")


def evaluate(args: argparse.Namespace) -> None:
    from ..evaluation import compare_values, diagnose_runs

    _check_options(args)
    paths = args.runs if args.compare is None or args.compare in args.runs else [args.compare, *args.runs]
    qrels, measures, texts = _judgments(args.qrels, args.measure)
    runs = {path: _run(path, args.qrels, qrels) for path in dict.fromkeys(paths)}
    values = {path: _values(run, qrels, texts, measures) for path, run in runs.items()}
    rows = [row for path in paths for row in _rows(path, runs[path], values[path], qrels, args.per_query)]
    diagnosis = comparison = None
    if args.compare is not None:
        correction = None if args.correction == "none" else args.correction or "holm"
        better = {path: {m: v for m, v in found.items() if not m.startswith("distractors")} for path, found in values.items()}
        comparison = compare_values(better, args.compare, args.test or "randomization", correction)
        told = {(row.run, row.measure): vars(row) for row in comparison.rows if row.difference is not None}
        for row in rows:
            row |= {k: v for k, v in told.get((row["run"], row["measure"]), {}).items() if k not in ("run", "measure", "queries", "mean")}
    if args.diagnose or args.plot:
        judged = next((m for m in measures if not _OF_TEXTS.fullmatch(m)), DEFAULT[0])
        names = [Path(path).name for path in args.runs]
        labels = names if len(set(names)) == len(names) else args.runs
        diagnosis = diagnose_runs(qrels, {label: runs[path] for label, path in zip(labels, args.runs)}, measure=judged, rel=args.rel)
        last = next((row for row in rows if (row["run"], row["measure"]) == (args.runs[-1], judged)), rows[-1])
        last["diagnosis"] = diagnosis.to_dict(args.per_query)
        if args.plot:
            diagnosis.plot(args.plot)
    if args.json:
        cli.print_json(rows)
        return
    _show(rows, args.per_query)
    for header, cells in [*([comparison.table()] if comparison else []), *(diagnosis.tables() if diagnosis else [])]:
        cli.say()
        cli.table(header, cells)


def _check_options(args: argparse.Namespace) -> None:
    for option, needs in (("test", "compare"), ("correction", "compare")):
        if getattr(args, option) is not None and getattr(args, needs) is None:
            raise InputError(f"--{option}", got=getattr(args, option), expected=f"--{needs} BASELINE with it")
    if args.rel is not None and not (args.diagnose or args.plot):
        raise InputError("--rel", got=args.rel, expected="--diagnose with it", hint="For a measure write R(rel=2)@100.")
    if (args.compare is not None or args.diagnose or args.plot) and len(set(args.runs)) < len(args.runs):
        raise InputError("RUN", got="a run twice", expected="each once, to compare or to diagnose")


def _judgments(path: str, measures: list[str] | None) -> tuple[Qrels, list[str], Texts]:
    """The qrels; the measures, by default too; what those of texts need, which is read where one is asked for."""
    from ..corpus import Corpus
    from ..evaluation import load_judgments, read_qrels

    if not Path(path).is_dir():
        return read_qrels(path), measures or [*DEFAULT], ({}, None)
    _, qrels, answers = load_judgments(path)
    answered = any(answers.values())
    chosen = measures or [*DEFAULT, *(["answer@3"] if answered else [])]
    wanted = answered and any(map(_OF_TEXTS.fullmatch, chosen))
    return qrels, chosen, (answers, Corpus.from_beir(path) if wanted else None)


def _run(path: str, judged_by: str, qrels: Qrels) -> Run:
    from ..evaluation import read_run

    run = read_run(path)
    if all(query not in run for query in qrels):
        got = f"no query that {judged_by} judges (it has {next(iter(run))!r}, the other {next(iter(qrels))!r})"
        raise InputError(path, got=got, expected="the same query ids in both")
    return run


def _values(run: Run, qrels: Qrels, texts: Texts, measures: list[str]) -> dict[str, dict[str, float]]:
    """Measure -> query -> value, in the order of the measures. Those of texts count the queries that have what they are about."""
    from ..evaluation import answers_found, distractor_shares, evaluate_queries

    found = evaluate_queries(qrels, run, [measure for measure in measures if not _OF_TEXTS.fullmatch(measure)])
    answers, corpus = texts
    for measure in measures:
        if match := _OF_TEXTS.fullmatch(measure):
            kind, k = match[1], int(match[2])
            if kind == "distractors":
                found[measure] = distractor_shares(qrels, run, k, answers, corpus)
            elif not any(answers.values()):
                raise InputError(measure, got="no answers", expected="QRELS to be the folder of a collection whose queries have answers")
            else:
                found[measure] = {query: float(hit) for query, hit in answers_found(answers, run, k, corpus).items()}
    return {measure: found[measure] for measure in measures}


def _rows(path: str, run: Run, values: dict[str, dict[str, float]], qrels: Qrels, per_query: bool) -> list[dict[str, Any]]:
    missing = sum(query not in run for query in qrels)
    return [
        {"run": path, "measure": name, "value": math.fsum(found.values()) / len(found), "queries": len(found), "missing": missing}
        | ({"per_query": found} if per_query else {})
        for name, found in values.items()
    ]


def _show(rows: list[dict[str, Any]], per_query: bool) -> None:
    header = ["run", "measure", "value", "queries", "missing"]
    cli.table(header, [[r["run"], r["measure"], f"{r['value']:.4f}", r["queries"], r["missing"]] for r in rows])
    if per_query:
        cli.say()
        cli.table(
            ["run", "measure", "value", "query"], [[r["run"], r["measure"], f"{v:.4f}", q] for r in rows for q, v in r["per_query"].items()]
        )
