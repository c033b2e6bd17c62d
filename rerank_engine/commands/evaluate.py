"""`rerank-engine eval`: measures of runs, their comparison, and the diagnosis of a pipeline from the runs of its stages."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import cli, pictures
from ..errors import InputError

if TYPE_CHECKING:
    from ..corpus import Corpus
    from ..evaluation import Comparison, Qrels, Run

    Texts = tuple[dict[str, list[str]], Corpus | None]  # the answers to each query, the documents

DEFAULT = ("nDCG@10", "MRR@10", "R@100")
_OF_TEXTS = re.compile(r"(answer|distractors)@([1-9][0-9]{0,8})")


def register(commands: cli.Commands) -> None:
    sub = commands("eval", evaluate, "measure runs against relevance judgments, compare them, and find where a pipeline loses")
    sub.add_argument("qrels", metavar="QRELS", help="TREC or BEIR form, .gz or not; the folder of a BEIR collection; an id of ir_datasets")
    sub.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="TREC or BEIR form, JSON, JSON lines, Parquet. Collections: QRELS=RUN each, and their average",
    )
    sub.add_argument("--split", help="of a BEIR folder: which qrels (default: test)")
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
    from ..evaluation import diagnose_runs

    _check_options(args)
    if pairs := _pairs([args.qrels, *args.runs]):
        _collections(args, pairs)
        return
    paths = args.runs if args.compare is None or args.compare in args.runs else [args.compare, *args.runs]
    qrels, measures, texts = _judgments(args.qrels, args.measure, args.split)
    runs = {path: _run(path, args.qrels, qrels) for path in dict.fromkeys(paths)}
    values = {path: _values(run, qrels, texts, measures) for path, run in runs.items()}
    rows = [row for path in paths for row in _rows(path, runs[path], values[path], qrels, args.per_query)]
    diagnosis = comparison = None
    if args.compare is not None:
        comparison = _compare(args, values)
        told = {(row.run, row.measure): row for row in comparison.rows if row.difference is not None}
        for row in rows:
            if found := told.get((row["run"], row["measure"])):
                row |= {k: v for k, v in vars(found).items() if k not in ("run", "measure", "queries", "mean")}
                if found.measure in comparison.lower:
                    row |= {"lower_is_better": True, "compared": found.queries}
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


def _compare(args: argparse.Namespace, values: dict[str, dict[str, dict[str, float]]]) -> Comparison:
    """Of distractors, whose queries are those with documents, the ones that all runs have; fewer of them are better."""
    from ..evaluation import compare_values

    lower = [measure for measure in values[args.compare] if measure.startswith("distractors")]
    shared = {measure: set.intersection(*(set(found[measure]) for found in values.values())) for measure in lower}
    kept = {
        path: {m: {q: value for q, value in of.items() if m not in shared or q in shared[m]} for m, of in found.items()}
        for path, found in values.items()
    }
    correction = None if args.correction == "none" else args.correction or "holm"
    return compare_values(kept, args.compare, args.test or "randomization", correction, lower=lower)


def _pairs(arguments: list[str]) -> list[tuple[str, str]]:
    """(collection, run) of each, if all are written QRELS=RUN and none is a file of such a name."""
    if not all("=" in argument and not Path(argument).exists() for argument in arguments):
        return []
    return [(collection, run) for collection, _, run in (argument.partition("=") for argument in arguments)]


def _collections(args: argparse.Namespace, pairs: list[tuple[str, str]]) -> None:
    """Each collection with its run, then the plain mean of each measure that all of them have: every collection counts once."""
    if args.compare is not None or args.diagnose or args.plot:
        raise InputError("QRELS=RUN", got="--compare, --diagnose or --plot", expected="one collection for them")
    rows = []
    for collection, path in pairs:
        qrels, measures, texts = _judgments(collection, args.measure, args.split)
        run = _run(path, collection, qrels)
        found = _rows(path, run, _values(run, qrels, texts, measures), qrels, args.per_query)
        rows += [{"collection": collection} | row for row in found]
    for measure in dict.fromkeys(row["measure"] for row in rows):
        values = [row["value"] for row in rows if row["measure"] == measure]
        if len(values) == len(pairs):
            rows.append({"collection": "average", "measure": measure, "value": math.fsum(values) / len(values)})
    if args.json:
        cli.print_json(rows)
    else:
        _show(rows, args.per_query)


def _check_options(args: argparse.Namespace) -> None:
    for option, needs in (("test", "compare"), ("correction", "compare")):
        if getattr(args, option) is not None and getattr(args, needs) is None:
            raise InputError(f"--{option}", got=getattr(args, option), expected=f"--{needs} BASELINE with it")
    if args.plot:
        pictures.check("--plot", args.plot)
    if args.rel is not None and not (args.diagnose or args.plot):
        raise InputError("--rel", got=args.rel, expected="--diagnose with it", hint="For a measure write R(rel=2)@100.")
    if (args.compare is not None or args.diagnose or args.plot) and len(set(args.runs)) < len(args.runs):
        raise InputError("RUN", got="a run twice", expected="each once, to compare or to diagnose")


def _judgments(path: str, measures: list[str] | None, split: str | None) -> tuple[Qrels, list[str], Texts]:
    """The qrels; the measures, by default too; what those of texts need, which is read where one is asked for.

    What is neither there nor has an ending, as a file has one, is an id of ir_datasets.
    """
    from ..corpus import Corpus
    from ..evaluation import load_judgments, read_qrels

    if split is not None and not Path(path).is_dir():
        raise InputError("--split", got=split, expected=f"the folder of a BEIR collection, which '{path}' is not")
    if Path(path).is_file() or (Path(path).suffix and not Path(path).is_dir()):
        return read_qrels(path), measures or [*DEFAULT], ({}, None)
    _, qrels, answers = load_judgments(path, split or "test")
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
    header = [*(["collection"] if "collection" in rows[0] else []), "run", "measure", "value", "queries", "missing"]
    cli.table(header, [[f"{row[k]:.4f}" if k == "value" else row.get(k, "") for k in header] for row in rows])
    if per_query:
        named = header[:-3]
        cells = [[*(row[k] for k in named), f"{v:.4f}", q] for row in rows for q, v in row.get("per_query", {}).items()]
        cli.say()
        cli.table([*named, "value", "query"], cells)
