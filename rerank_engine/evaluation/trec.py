"""Files of judgments and runs: TREC's columns and BEIR's forms, gzipped or not. The content decides, never the name.

    qrels  TREC   query 0 document relevance                  split at white space
           BEIR   query-id <tab> corpus-id <tab> score        after a header line
    run    TREC   query Q0 document rank score tag            split at white space; the rank is not read, as in trec_eval
           BEIR   query-id <tab> corpus-id <tab> score        after a header line
           JSON   {query: {document: score}}
           lines  {"query_id": ..., "doc_id": ..., "score": ...}, a line of JSON or a row of Parquet; other names are in QUERY_FIELDS and
                  DOCUMENT_FIELDS, ids are strings or integers; without a score the rank is read, 1 the best

Text is UTF-8. Blank lines are skipped. What is wrong with a file raises FileFormatError with its path and line: missing, empty,
corrupt gzip, not UTF-8, wrong columns, a value that is no finite number, a document twice for one query.
"""

from __future__ import annotations

import codecs
import gzip
import json
import math
import os
import re
import sys
import zlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

from ..corpus import parse_jsonl
from ..errors import FileFormatError, InputError
from ..parquet import is_parquet, parquet_bytes, read_parquet
from .measures import Run, trec_order

V = TypeVar("V", int, float)
StrPath = str | os.PathLike[str]


class _Form(NamedTuple):
    """What the lines of a table look like, and where in them the document and its value stand; the query is always first."""

    columns: str
    width: int
    separator: bytes | None  # None: any ASCII white space, C's isspace
    document: int
    value: int


_TREC_QRELS = _Form("query 0 document relevance", 4, None, 2, 3)
_TREC_RUN = _Form("query Q0 document rank score tag", 6, None, 2, 4)
_BEIR = _Form("query-id <tab> corpus-id <tab> score", 3, b"\t", 1, 2)
_COLUMNS = ("query_id", "doc_id", "rank", "score")
_JSON = "{query: {document: score}}"
QUERY_FIELDS, DOCUMENT_FIELDS = ("query_id", "qid", "query-id"), ("doc_id", "docno", "docid", "corpus-id")
_JSON_START = re.compile(rb'\s*\{\s*"')  # a brace alone may start the id of a query
_ROW = 1 << 16  # bytes that a row of JSON lines may have: a longer line is a run in one piece, which is not parsed twice


def read_qrels(path: StrPath) -> dict[str, dict[str, int]]:
    """Query id -> document id -> relevance, from a TREC file or a BEIR table."""
    return _read_table(path, _load(path), _TREC_QRELS, int)


def read_run(path: StrPath) -> dict[str, dict[str, float]]:
    """Query id -> document id -> score, from any of the forms above. Raises MissingDependency for Parquet without pyarrow."""
    if is_parquet(os.fspath(path)):
        return _read_records(path, read_parquet(os.fspath(path)))
    data = _load(path)
    if _is_lines(data):
        return _read_records(path, parse_jsonl(data.decode().split("\n"), str(path)))
    return _read_json(path, data) if _JSON_START.match(data) else _read_table(path, data, _TREC_RUN, float)


def _is_lines(data: bytes) -> bool:
    """Whether the first line is a row: a JSON object with a value that is no object, as every value of a run is."""
    first = data.lstrip().split(b"\n", 1)[0]
    try:
        row = json.loads(first) if first.startswith(b"{") and len(first) < _ROW else None
    except (ValueError, RecursionError):  # a run over several lines, a broken one, a table
        return False
    return isinstance(row, dict) and not all(isinstance(value, dict) for value in row.values())


def write_run(path: StrPath, run: Run, tag: str = "rerank_engine") -> None:
    """Writes ranks from 1 in trec_eval's order, and scores that read back the same. The name decides: .jsonl and .parquet hold query_id,
    doc_id, rank and score; any other TREC's six columns. .gz behind .jsonl or TREC's compresses.

    The file appears whole or not at all. Raises InputError (nothing to write, ids or a tag that are empty or hold white space, a place that
    cannot be written), NonFiniteError (a NaN or infinite score) and MissingDependency (Parquet without pyarrow).
    """
    tag, name = _word("tag", tag), os.fspath(path)
    rows = [
        (_word("query id", query), _word("document id", document), rank, float(scores[document]))
        for query, scores in run.items()
        for rank, document in enumerate(trec_order(query, scores), 1)
    ]
    if not rows:
        raise InputError(f"run for {path}", got="no documents", expected="at least one", hint="An empty file would not read as a run.")
    if name.endswith(".parquet"):
        data = parquet_bytes(dict(zip(_COLUMNS, zip(*rows))))
    elif name.removesuffix(".gz").endswith(".jsonl"):
        data = "".join(json.dumps(dict(zip(_COLUMNS, row))) + "\n" for row in rows).encode()
    else:
        data = "".join(f"{query} Q0 {document} {rank} {score!r} {tag}\n" for query, document, rank, score in rows).encode()
    # mtime=0 so that the same run gives the same bytes
    _write_whole(Path(path), gzip.compress(data, compresslevel=6, mtime=0) if name.endswith(".gz") else data)


def _word(what: str, text: str) -> str:
    """`text`, if every reader takes it as one column: Python's split at any Unicode white space, C's only at ASCII's.

    U+FEFF is a zero-width space, and at the start of a file the mark that readers drop.
    """
    if text.split() != [text] or text.startswith("\ufeff"):
        raise InputError(f"run: {what}", got=repr(text), expected="text without white space", hint="TREC's columns are split there.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"run: {what}", got=repr(text), expected="text that UTF-8 can hold", hint="Remove the lone surrogate.") from error
    return text


def _write_whole(target: Path, data: bytes) -> None:
    target = Path(os.path.realpath(target))  # a link stays one, and what it points to is written
    if target.exists() and not target.is_file():
        raise InputError(f"cannot write {target}", got="a folder, a pipe or a device", expected="a plain file")
    temporary = target.parent / f".{uuid4().hex}.tmp"
    try:
        try:
            temporary.write_bytes(data)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        hint = "Make the folder, or choose one that can be written."
        raise InputError(f"cannot write {target}", got=error.strerror, expected="a file name in a folder that exists", hint=hint) from error


def _load(path: StrPath) -> bytes:
    """The file's bytes, unzipped, known to be UTF-8, without a byte order mark, with more in them than white space."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        hint = "Check the path."
        raise FileFormatError(f"cannot read {path}", got=error.strerror, expected="a file that can be read", hint=hint) from error
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise FileFormatError(f"{path}: corrupt gzip", got=str(error), expected="a whole gzip file", hint="Copy it again.") from error
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        got = f"byte 0x{data[error.start]:02x}"
        raise FileFormatError(f"{path}, line {line}: not UTF-8", got=got, expected="UTF-8 text", hint="Convert it first.") from error
    data = data.removeprefix(codecs.BOM_UTF8)
    if not data.strip():
        raise FileFormatError(f"{path}: empty file", got="no lines", expected="at least one", hint="Check what wrote it.")
    return data


def _read_table(path: StrPath, data: bytes, form: _Form, kind: type[V]) -> dict[str, dict[str, V]]:
    lines = data.split(b"\n")
    skipped = 0
    first = next(i for i, line in enumerate(lines) if line.strip())
    if _is_header(lines[first]):
        form, skipped = _BEIR, first + 1
    table: dict[str, dict[str, V]] = {}
    for number, line in enumerate(islice(lines, skipped, None), skipped + 1):
        if not line.strip():
            continue
        fields = line.rstrip(b"\r").split(form.separator)
        if len(fields) != form.width or b"" in fields:
            got = f"{len(fields)} columns, {line.decode().strip()!r}"
            hint = "A file of three columns must start with a header line and be split at tabs."
            expected = f"{form.width} that are not empty: {form.columns}"
            raise FileFormatError(f"{path}, line {number}: wrong columns", got=got, expected=expected, hint=hint)
        query, document = fields[0].decode(), fields[form.document].decode()
        documents = table.setdefault(query, {})
        if document in documents:
            got = f"document {document!r} twice for query {query!r}"
            raise FileFormatError(f"{path}, line {number}: duplicate", got=got, expected="each once", hint="Remove one.")
        documents[document] = _number(kind, fields[form.value], path, number)
    if not table:
        raise FileFormatError(f"{path}: no lines after the header", expected="at least one", hint="Check what wrote it.")
    return table


def _is_header(line: bytes) -> bool:
    fields = line.split(b"\t")
    if len(fields) != 3:
        return False
    try:
        float(fields[2])
    except ValueError:
        return True
    return False


def _number(kind: type[V], field: bytes, path: StrPath, line: int) -> V:
    try:
        value = kind(field)
        # Python reads 1_000 as a number; no other reader of these files does
        if math.isfinite(value) and b"_" not in field:
            return value
    except (ValueError, OverflowError):
        pass
    what, expected = ("relevance", "a whole number") if kind is int else ("score", "a finite number")
    raise FileFormatError(f"{path}, line {line}: {what}", got=repr(field.decode()), expected=expected, hint="Correct or remove the line.")


def _read_json(path: StrPath, data: bytes) -> dict[str, dict[str, float]]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for key, value in pairs:
            if key in table:
                raise FileFormatError(f"{path}: duplicate", got=f"the key {key!r} twice", expected="each once", hint="Remove one.")
            table[key] = value
        return table

    try:
        run = json.loads(data, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        what = f"{path}, line {error.lineno}: not JSON"
        raise FileFormatError(what, got=error.msg, expected=_JSON, hint="What starts with a brace and a quote is read as JSON.") from error
    except (RecursionError, ValueError) as error:
        raise FileFormatError(f"{path}: not JSON", got=str(error), expected=_JSON, hint="Check what wrote it.") from error
    return {query: _scores(path, query, scores) for query, scores in run.items()}


def _scores(path: StrPath, query: str, scores: object) -> dict[str, float]:
    if not isinstance(scores, dict):
        raise FileFormatError(f"{path}: query {query!r}", got=repr(scores), expected=_JSON, hint="Check what wrote it.")
    return {document: _finite(f"{path}: query {query!r}, document {document!r}", score) for document, score in scores.items()}


def _finite(where: str, score: object) -> float:
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not abs(score) <= sys.float_info.max:
        raise FileFormatError(where, got=repr(score), expected="a score that is a finite number", hint="Correct or remove it.")
    return float(score)


def _read_records(path: StrPath, records: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    by = ""
    for where, record in records:
        query, document = (_id(where, record, names) for names in (QUERY_FIELDS, DOCUMENT_FIELDS))
        documents = table.setdefault(query, {})
        if document in documents:
            got = f"document {document!r} twice for query {query!r}"
            raise FileFormatError(f"{where}: duplicate", got=got, expected="each once", hint="Remove one.")
        own = "rank" if "score" not in record and "rank" in record else "score"
        by = by or own
        if own != by:
            raise FileFormatError(f"{where}: mixed", got=f"a {own}", expected=f"a {by}, as the rows before have", hint="Give all a score.")
        documents[document] = -_finite(where, record[own]) if own == "rank" else _finite(where, record.get(own))
    if not table:
        raise FileFormatError(f"{path}: no rows", expected="at least one", hint="Check what wrote it.")
    return table


def _id(where: str, record: dict[str, Any], names: tuple[str, ...]) -> str:
    found = next((record[name] for name in names if name in record), None)
    if isinstance(found, bool) or not isinstance(found, (str, int)) or found == "":
        got = f"{found!r}, of fields {', '.join(record)[:200]}"
        raise FileFormatError(f"{where}: id", got=got, expected=f"a string or an integer under one of {', '.join(names)}")
    return str(found)
