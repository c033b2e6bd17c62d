"""Every form of qrels and runs, the round trip of a run, and every way in which a file can be wrong."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_engine.errors import FileFormatError, InputError, NonFiniteError
from rerank_engine.evaluation import read_qrels, read_run, write_run

HEADER = "query-id\tcorpus-id\tscore\n"
QRELS = {"q1": {"d1": 1, "d2": -1}, "q2": {"é": 3}}
RUN = {"q1": {"d1": 1.5, "d2": -2e-3}, "q2": {"é": 3.0}}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def to_file(content: str | bytes) -> Path:
        path = tmp_path / "file"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to_file


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "q1 0 d1 1\nq1 0 d2 -1\nq2 0 é 3\n",
        "\n  q1\t0\td1\t1\r\n\r\nq2 Q0 é +3\nq1  0   d2 -1",
        HEADER + "q1\td1\t1\nq1\td2\t-1\nq2\té\t3\n",
        "\ufeff\n" + HEADER.replace("\n", "\r\n") + "q1\td1\t1\r\nq1\td2\t-1\r\n\r\nq2\té\t3",
    ],
)
def test_qrels(write: Callable[[str | bytes], Path], text: str, zipped: bool) -> None:
    path = write(gzip.compress(text.encode()) if zipped else text)
    assert read_qrels(path) == read_qrels(str(path)) == QRELS


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "q1 Q0 d1 1 1.5 tag\nq1 Q0 d2 2 -2e-3 tag\nq2 Q0 é 1 3 tag\n",
        "q2\tQ0\té\tx\t3.\tt\r\n\nq1 0 d2 0 -0.002 t\nq1 Q0 d1 99 +1.5 t",
        HEADER + "q1\td1\t1.5\nq1\td2\t-0.002\nq2\té\t3\n",
        ' \n{"q1": {"d1": 1.5, "d2": -2e-3}, "q2": {"\\u00e9": 3}}',
        "\ufeff" + json.dumps(RUN, ensure_ascii=False, indent=1),
        "".join(json.dumps({"qid": q, "docno": d, "score": s}) + "\n" for q in RUN for d, s in RUN[q].items()),
        "\n".join(
            json.dumps({"score": s, "rank": 0, "doc_id": d, "query_id": q}, ensure_ascii=False) + "\r\n"
            for q in RUN
            for d, s in RUN[q].items()
        ),
    ],
)
def test_runs(write: Callable[[str | bytes], Path], text: str, zipped: bool) -> None:
    path = write(gzip.compress(text.encode()) if zipped else text)
    assert read_run(path) == read_run(str(path)) == RUN


def test_ids_of_a_table_may_hold_spaces_and_those_of_trec_any_other_space(write: Callable[[str | bytes], Path]) -> None:
    assert read_qrels(write(HEADER + "a query\ta document\t1\n")) == {"a query": {"a document": 1}}
    assert read_qrels(write("q\u00a01 0 d\u2028\x85 1\n")) == {"q\u00a01": {"d\u2028\x85": 1}}


def test_json_lines_are_written_and_ranks_stand_for_scores(write: Callable[[str | bytes], Path], tmp_path: Path) -> None:
    for name in ("run.jsonl", "run.jsonl.gz"):
        write_run(tmp_path / name, RUN)
        assert read_run(tmp_path / name) == RUN
    assert json.loads((tmp_path / "run.jsonl").read_text().splitlines()[1]) == {
        "query_id": "q1",
        "doc_id": "d2",
        "rank": 2,
        "score": -0.002,
    }
    assert read_run(write('{"query_id": 7, "doc_id": 1, "rank": 2}\n{"query_id": 7, "doc_id": 2, "rank": 1}')) == {"7": {"1": -2, "2": -1}}
    assert read_run(write('{"qid": {"docid": 1}}')) == {"qid": {"docid": 1.0}}
    assert read_run(write('{"from": {"x": 1}, "tags": {}, "qid": "}{", "docid": "d", "score": 1}')) == {"}{": {"d": 1.0}}


def test_a_query_id_may_start_with_a_brace(tmp_path: Path) -> None:
    run = {"{1}": {"{": 1.0}, '"': {'"': 2.0}}
    write_run(tmp_path / "run", run)
    assert read_run(tmp_path / "run") == run


def test_written_lines_are_in_trec_evals_order(tmp_path: Path) -> None:
    run = {"q1": {"a": 1.0, "b": 1 + 1e-12, "c": 2, "é": 1.0}, "q2": {"a": np.float32(0.1)}, "q3": {}}
    write_run(tmp_path / "run", run, tag="me")
    assert (tmp_path / "run").read_text(encoding="utf-8").splitlines() == [
        "q1 Q0 c 1 2.0 me",
        "q1 Q0 é 2 1.0 me",
        "q1 Q0 b 3 1.000000000001 me",
        "q1 Q0 a 4 1.0 me",
        "q2 Q0 a 1 0.10000000149011612 me",
    ]


WORDS = st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"], exclude_characters='\ufeff"'), min_size=1, max_size=4)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    run=st.dictionaries(
        WORDS, st.dictionaries(WORDS, st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5), min_size=1, max_size=3
    )
)
def test_round_trip(run: dict[str, dict[str, float]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("run.trec", "run.trec.gz"):
        write_run(folder / name, run)
        assert read_run(folder / name) == run
    assert gzip.decompress((folder / "run.trec.gz").read_bytes()) == (folder / "run.trec").read_bytes()
    assert sorted(os.listdir(folder)) == ["run.trec", "run.trec.gz"]


def test_a_written_run_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.gz"
    write_run(path, RUN)
    before = path.read_bytes()
    write_run(path, RUN)
    assert path.read_bytes() == before  # no time of writing inside

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(InputError, match="No space left"):
        write_run(path, {"q": {"d": 1.0}})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.gz"]


@pytest.mark.parametrize("word", ["", "a b", " a", "a\t", "a\n", "a\u00a0b", "\ufeffa", "\ud800"])
def test_write_refuses_ids_that_are_not_one_column(tmp_path: Path, word: str) -> None:
    for what, run, tag in [("query id", {word: {"d": 1.0}}, "t"), ("document id", {"q": {word: 1.0}}, "t"), ("tag", RUN, word)]:
        with pytest.raises(InputError, match=f"run: {what}"):
            write_run(tmp_path / "run", run, tag)
    assert not os.listdir(tmp_path)


def test_write_refuses_what_is_no_run(tmp_path: Path) -> None:
    for score in (math.nan, math.inf):
        with pytest.raises(NonFiniteError, match="document 'd' for query 'q'"):
            write_run(tmp_path / "run", {"q": {"d": score}})
    for empty in ({}, {"q": {}}):
        with pytest.raises(InputError, match="no documents"):
            write_run(tmp_path / "run", empty)
    (tmp_path / "file").touch()
    for place in (tmp_path / "no" / "run", tmp_path / "file" / "run", tmp_path):
        with pytest.raises(InputError, match="cannot write"):
            write_run(place, RUN)
    assert os.listdir(tmp_path) == ["file"]


BROKEN_FILES = [
    (b"", "empty file"),
    (b" \n\r\n", "empty file"),
    (b"\xef\xbb\xbf", "empty file"),
    (gzip.compress(b""), "empty file"),
    (HEADER.encode(), "no lines after the header"),
    (gzip.compress(b"q 0 d 1\n" * 999)[:-9], "corrupt gzip"),
    (b"\x1f\x8b not gzip at all", "corrupt gzip"),
    (gzip.compress(b"q 0 d 1\n", mtime=0)[:12] + b"\xff" * 20, "corrupt gzip"),
    (b"q 0 d 1\nq 0 \xe9 1\n", "line 2: not UTF-8: got byte 0xe9"),
    (b"q\td\t1\n", "line 1: wrong columns: got 3 columns.*header line"),
    (HEADER.encode() + b"q\td\t1\nq\td2\n", "line 3: wrong columns: got 2"),
    (HEADER.encode() + b"q d 1\n", "line 2: wrong columns: got 1"),
    (HEADER.encode() + b"\td\t1\n", "line 2: wrong columns.*not empty"),
    (HEADER.encode() + b"q\td\t1\n\nq\td\t2\n", "line 4: duplicate: got document 'd' twice for query 'q'"),
]


@pytest.mark.parametrize("read", [read_qrels, read_run])
@pytest.mark.parametrize(("content", "message"), BROKEN_FILES)
def test_broken_files(write: Callable[[str | bytes], Path], read: Callable[[Path], object], content: bytes, message: str) -> None:
    path = write(content)
    with pytest.raises(FileFormatError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("read", [read_qrels, read_run])
def test_missing_files(tmp_path: Path, read: Callable[[Path], object]) -> None:
    for path, message in [(tmp_path / "none", "No such file"), (tmp_path, "Is a directory")]:
        with pytest.raises(FileFormatError, match=f"cannot read {path}.*{message}"):
            read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q 0 d 1\nq 0 d2\n", "line 2: wrong columns: got 3 columns, 'q 0 d2'; expected 4"),
        ("q Q0 d 1 2.5 tag\n", "line 1: wrong columns: got 6"),
        ('{"q": {"d": 1}}', "line 1: wrong columns"),
        ("q 0 d 1\nq 0 d 1\n", "line 2: duplicate"),
        ("\nq 0 d one\n", "line 2: relevance: got 'one'; expected a whole number"),
        ("q 0 d 1.0\n", "line 1: relevance"),
        ("q 0 d 1_0\n", "line 1: relevance"),
        (HEADER + "q\td\t\u0663\n", "line 2: relevance"),
        ("q 0 d 1" + "0" * 400, "line 1: relevance"),
    ],
)
def test_broken_qrels(write: Callable[[str | bytes], Path], content: str, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        read_qrels(write(content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q 0 d 1\n", "line 1: wrong columns: got 4 columns, 'q 0 d 1'; expected 6"),
        ("q Q0 d 1 1 t\nq Q0 d 2 0 t\n", "line 2: duplicate"),
        ("q Q0 d 1 high t\n", "line 1: score: got 'high'; expected a finite number"),
        ("q Q0 d 1 1_0.5 t\n", "line 1: score"),
        *[(f"q Q0 d 1 1 t\nq Q0 e 2 {score} t\n", f"line 2: score: got '{score}'") for score in ("nan", "NaN", "inf", "-inf", "1e999")],
        (HEADER + "q\td\tnan\n", "line 2: score"),
        ("{}", "wrong columns"),
        ('{\n"q": }', "line 2: not JSON"),
        ('{"q": ' * 99999, "not JSON"),
        ('{"q": {"d": 1' + "0" * 5000 + "}}", "not JSON"),
        ('{"q": 1}', "line 1: id: got None, of fields q; expected .* query_id, qid, query-id"),
        ('{\n"q": 1}', "query 'q'.*document: score"),
        ('{"query": "q", "doc_id": "d", "score": 1}', "line 1: id: got None, of fields query, doc_id, score; expected .* query_id"),
        ('{"qid": "q", "docid": "d", "score": 1}\n{"qid": "q", "docid": "e", "rank": 1}', "line 2: mixed: got a rank; expected a score"),
        ('{"qid": "q", "docid": "d", "rank": 1}\n{"qid": "r", "docid": "e", "score": 1}', "line 2: mixed: got a score; expected a rank"),
        ('{"qid": "q", "docid": "d", "score": 1}\n{"qid": "q", "docid": "d", "score": 2}', "line 2: duplicate"),
        ('{"qid": "q", "docid": "d", "score": "1"}', "line 1: got '1'; expected a score"),
        ('{"qid": "q", "docid": "d", "score": null, "rank": 1}', "line 1: got None; expected a score"),
        ('{"qid": "q", "docid": "d", "score": 1}\n{"qid": "q", "docid": 1.5}', "line 2: id: got 1.5"),
        ('{"qid": "q", "docid": "", "score": 1}', "line 1: id: got ''"),
        ('{"qid": "q", "document": "d", "score": 1}', "line 1: id: got None, of fields qid, document, score; expected .* docno"),
        ('{"qid": "q", "docid": "d", "score": 1}\n{', "line 2: got broken JSON"),
        ('{"q": {"d": 1}, "q": {"e": 1}}', "duplicate: got the key 'q' twice"),
        ('{"q": {"d": 1, "d": 1}}', "duplicate: got the key 'd' twice"),
        *[
            (f'{{"q": {{"d": {score}}}}}', "document 'd'.*finite number")
            for score in ("NaN", "-Infinity", "1e999", "1" + "0" * 400, "true", "null", '"1"', "[1]")
        ],
    ],
    ids=lambda value: str(value)[:40],
)
def test_broken_runs(write: Callable[[str | bytes], Path], content: str, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        read_run(write(content))


def test_write_run_follows_a_link_and_refuses_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    write_run(tmp_path / "link.txt", {"q": {"d": 1.0}})
    assert (tmp_path / "link.txt").is_symlink()
    assert read_run(tmp_path / "real.txt") == {"q": {"d": 1.0}}
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a plain file"):
        write_run(tmp_path / "pipe", {"q": {"d": 1.0}})
    assert (tmp_path / "pipe").is_fifo()
