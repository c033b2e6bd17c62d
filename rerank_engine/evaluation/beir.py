"""A test collection in BEIR's layout: corpus.jsonl(.gz), queries.jsonl(.gz), qrels/<split>.tsv."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..corpus import Corpus, first_existing, read_jsonl
from ..errors import FileFormatError
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


def load_beir(folder: str | Path, split: str = "test") -> Collection:
    """Raises FileFormatError for a missing or malformed file, or when no query is judged."""
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
    return Collection(Corpus.from_beir(root), queries, qrels, answers)
