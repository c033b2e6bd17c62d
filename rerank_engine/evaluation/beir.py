"""Test collections: folders in BEIR's layout (corpus.jsonl(.gz), queries.jsonl(.gz), qrels/<split>.tsv), or ids of ir_datasets."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..corpus import Corpus, Document, first_existing, read_jsonl
from ..errors import FileFormatError, InputError, MissingDependency
from .measures import Measure, Qrels, Run, evaluate
from .trec import read_qrels

if TYPE_CHECKING:
    from ..core import Query


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
    try:
        ir_datasets = importlib.import_module("ir_datasets")
    except ModuleNotFoundError as error:
        what = f"load_collection: '{source}' is no folder, and as an id it needs ir_datasets, which is not installed"
        raise MissingDependency(what, hint="Check the path, or: pip install ir-datasets") from error
    try:
        dataset = ir_datasets.load(str(source))
    except KeyError as error:
        raise InputError("load_collection", got=str(source), expected="a folder or an id of ir_datasets") from error
    for part in ("docs", "queries", "qrels"):
        if not getattr(dataset, f"has_{part}")():
            raise InputError("load_collection", got=f"{source}, which has no {part}", expected="documents, queries and judgments")
    return _of_ir_datasets(str(source), dataset)


def _of_ir_datasets(name: str, dataset: Any) -> Collection:
    from ..core import Query

    qrels: dict[str, dict[str, int]] = {}
    for judgment in dataset.qrels_iter():
        qrels.setdefault(judgment.query_id, {})[judgment.doc_id] = int(judgment.relevance)
    queries = [Query(_text_of(query), query.query_id) for query in dataset.queries_iter() if query.query_id in qrels]
    if not queries:
        raise InputError("load_collection", got=f"{name}: no query that the qrels judge", expected="queries and qrels with the same ids")
    titled = ((record, getattr(record, "title", "") if hasattr(record, "text") else "") for record in dataset.docs_iter())
    corpus = Corpus(Document(record.doc_id, _text_of(record), title or "") for record, title in titled)
    return Collection(corpus, queries, qrels, {str(query.id): [] for query in queries})


def _text_of(record: Any) -> str:
    """The field `text`, or what ir_datasets takes for the text of a record that has other fields, its title among them."""
    return str(record.text if hasattr(record, "text") else record.default_text())


def evaluate_collections(collections: Mapping[str, tuple[Qrels, Run]], measures: Sequence[Measure | str]) -> dict[str, dict[str, float]]:
    """Name -> measure -> value for each (qrels, run), and under "average" the plain mean over them, as BEIR averages: each counts once."""
    if not collections or "average" in collections:
        raise InputError("evaluate_collections", got="none" if not collections else "one that is called average", expected="names")
    found = {name: evaluate(qrels, run, measures) for name, (qrels, run) in collections.items()}
    names = next(iter(found.values()))
    return {**found, "average": {name: math.fsum(values[name] for values in found.values()) / len(found) for name in names}}


def load_beir(folder: str | Path, split: str = "test") -> Collection:
    """Raises FileFormatError for a missing or malformed file, or when no query is judged."""
    queries, qrels, answers = load_judgments(folder, split)
    return Collection(Corpus.from_beir(folder), queries, qrels, answers)


def load_judgments(folder: str | Path, split: str = "test") -> tuple[list[Query], dict[str, dict[str, int]], dict[str, list[str]]]:
    """The queries, qrels and answers of a BEIR folder, as in `Collection`, without its documents. Raises FileFormatError."""
    from ..core import Query

    root = Path(folder)
    qrels = read_qrels(first_existing(root, f"qrels/{split}.tsv", f"qrels/{split}.tsv.gz"))
    queries, answers = [], {}
    for where, record in read_jsonl(first_existing(root, "queries.jsonl", "queries.jsonl.gz")):
        query_id, text = record.get("_id"), record.get("text")
        if not isinstance(query_id, (str, int)) or not isinstance(text, str):
            raise FileFormatError(where, got=f"_id {query_id!r}, text {text!r}", expected="a query with _id and text")
        gold = record.get("answers") or []
        if not isinstance(gold, list):
            raise FileFormatError(where, got=f"answers {gold!r}", expected="a list of strings")
        if str(query_id) in answers:
            raise FileFormatError(where, got=f"the query '{query_id}' again", expected="every id once")
        if str(query_id) in qrels:
            queries.append(Query(text, str(query_id)))
            answers[str(query_id)] = [str(answer) for answer in gold]
    if not queries:
        raise FileFormatError(str(root), got="no query that the qrels judge", expected="queries and qrels with the same ids")
    return queries, qrels, answers
