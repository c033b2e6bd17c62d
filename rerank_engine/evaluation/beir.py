"""Test collections: folders in BEIR's layout, or ids of ir_datasets.

A folder holds corpus and queries, each as .jsonl, .jsonl.gz or .parquet, and qrels/<split>.tsv(.gz)."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..corpus import Corpus, Document, beir_file, first_existing, read_records
from ..errors import FileFormatError, InputError, MissingDependency
from ..ops.checks import instance
from .measures import Measure, Qrels, Run, evaluate
from .trec import read_qrels, read_run

if TYPE_CHECKING:
    from ..core import Query

QUERY_IDS, QUERY_TEXTS = ("_id", "id", "query_id", "qid"), ("text", "query")


@dataclass(frozen=True)
class Collection:
    """queries: the judged ones, in file order; answers: per query id, for question answering collections; qrels as in `evaluate`."""

    corpus: Corpus
    queries: list[Query]
    qrels: dict[str, dict[str, int]]
    answers: dict[str, list[str]]


def load_collection(source: str | Path, split: str = "test") -> Collection:
    """A collection from a BEIR folder, or from an id of the package ir_datasets, such as "beir/scifact/test" (which may download it).

    split: of a folder; an id names its own. Raises what `load_beir` raises, MissingDependency, and InputError for an unknown id or one
    without documents, queries or judgments.
    """
    if Path(source).is_dir():
        return load_beir(source, split)
    dataset = _dataset("load_collection", str(source), ("docs", "queries", "qrels"))
    queries, qrels = _judged(str(source), dataset)
    titled = ((record, getattr(record, "title", "") if hasattr(record, "text") else "") for record in dataset.docs_iter())
    corpus = Corpus(Document(record.doc_id, _text_of(record), title or "") for record, title in titled)
    return Collection(corpus, queries, qrels, {str(query.id): [] for query in queries})


def _dataset(what: str, name: str, parts: Sequence[str]) -> Any:
    """The ir_datasets dataset of that id, which has these parts."""
    try:
        ir_datasets = importlib.import_module("ir_datasets")
    except ModuleNotFoundError as error:
        if error.name != "ir_datasets":  # it is there, and broken
            raise
        told = f"{what}: '{name}' is no folder, and as an id it needs ir_datasets, which is not installed"
        raise MissingDependency(told, hint="Check the path, or: pip install ir-datasets") from error
    try:
        dataset = ir_datasets.load(name)
    except KeyError as error:
        raise InputError(what, got=name, expected="a folder or an id of ir_datasets") from error
    for part in parts:
        if not getattr(dataset, f"has_{part}")():
            raise InputError(what, got=f"{name}, which has no {part}", expected=f"an id with {', '.join(parts)}")
    return dataset


def _judged(name: str, dataset: Any) -> tuple[list[Query], dict[str, dict[str, int]]]:
    """The judged queries and the judgments."""
    from ..core import Query

    qrels: dict[str, dict[str, int]] = {}
    for judgment in dataset.qrels_iter():
        qrels.setdefault(judgment.query_id, {})[judgment.doc_id] = int(judgment.relevance)
    queries = [Query(_text_of(query), query.query_id) for query in dataset.queries_iter() if query.query_id in qrels]
    if not queries:
        raise InputError(name, got="no query that the qrels judge", expected="queries and qrels with the same ids")
    return queries, qrels


def _text_of(record: Any) -> str:
    """The field `text`, or what ir_datasets takes for the text of a record that has other fields, its title among them."""
    return str(record.text if hasattr(record, "text") else record.default_text())


def evaluate_collections(
    collections: Mapping[str, tuple[Qrels | str | Path, Run | str | Path]], measures: Sequence[Measure | str], split: str = "test"
) -> dict[str, dict[str, float]]:
    """Name -> measure -> value for each (qrels, run), and under "average" the plain mean over them, as BEIR averages: each counts once.

    For qrels a BEIR folder (its `split`) or an id of ir_datasets may stand, for a run its file. Raises as `evaluate`, `load_judgments` and
    `read_run` do, and InputError for no collections or one called "average".
    """
    instance("evaluate_collections", collections, Mapping)
    if not collections or "average" in collections:
        raise InputError("evaluate_collections", got="none" if not collections else "one that is called average", expected="names")
    found = {}
    for name, (judged, ranked) in collections.items():
        qrels = judged if isinstance(judged, Mapping) else load_judgments(judged, split)[1]
        found[name] = evaluate(qrels, ranked if isinstance(ranked, Mapping) else read_run(ranked), measures)
    names = next(iter(found.values()))
    return {**found, "average": {name: math.fsum(values[name] for values in found.values()) / len(found) for name in names}}


def load_beir(folder: str | Path, split: str = "test") -> Collection:
    """Raises FileFormatError for a missing or malformed file, or when no query is judged."""
    queries, qrels, answers = _folder_judgments(Path(folder), split)
    return Collection(Corpus.from_beir(folder), queries, qrels, answers)


def load_judgments(source: str | Path, split: str = "test") -> tuple[list[Query], dict[str, dict[str, int]], dict[str, list[str]]]:
    """The queries, qrels and answers of a BEIR folder or an id of ir_datasets, as in `Collection`, without the documents. Raises as
    `load_collection` does."""
    if Path(source).is_dir():
        return _folder_judgments(Path(source), split)
    queries, qrels = _judged(str(source), _dataset("load_judgments", str(source), ("queries", "qrels")))
    return queries, qrels, {str(query.id): [] for query in queries}


def _folder_judgments(root: Path, split: str) -> tuple[list[Query], dict[str, dict[str, int]], dict[str, list[str]]]:
    from ..core import Query

    qrels = read_qrels(first_existing(root, f"qrels/{split}.tsv", f"qrels/{split}.tsv.gz"))
    queries, answers = [], {}
    for where, query_id, text, record in query_records(root):
        gold = record.get("answers") or []
        if not isinstance(gold, list):
            raise FileFormatError(where, got=f"answers {gold!r}", expected="a list of strings")
        if query_id in qrels:  # of others nothing is asked, not even that they come once
            if query_id in answers:
                raise FileFormatError(where, got=f"the query '{query_id}' again", expected="every id once")
            queries.append(Query(text, query_id))
            answers[query_id] = [str(answer) for answer in gold]
    if not queries:
        raise FileFormatError(str(root), got="no query that the qrels judge", expected="queries and qrels with the same ids")
    return queries, qrels, answers


def query_records(path: str | Path) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """(place, id, text, record) of each query of a file of JSON lines or Parquet, or of a BEIR folder: `_id` | `id` | `query_id` | `qid`
    (string or integer) and `text` | `query`; the same id as often as it comes. Raises FileFormatError and MissingDependency."""
    root = Path(path)
    for where, record in read_records(beir_file(root, "queries") if root.is_dir() else root):
        query_id, text = (next((record[name] for name in names if name in record), None) for names in (QUERY_IDS, QUERY_TEXTS))
        if isinstance(query_id, bool) or not isinstance(query_id, (str, int)) or not isinstance(text, str):
            raise FileFormatError(where, got=f"_id {query_id!r}, text {text!r}", expected="a query with _id and text")
        yield where, str(query_id), text, record
