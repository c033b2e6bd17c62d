"""Parquet wherever JSON lines are read: corpora, queries, runs, BEIR folders; and runs written as Parquet. Needs pyarrow (`make ray`)."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rerank_engine as rr
from rerank_engine import bulk, cli
from rerank_engine.commands.rerank import read_documents
from rerank_engine.corpus import Corpus, Document
from rerank_engine.errors import FileFormatError, MissingDependency
from rerank_engine.evaluation import load_collection, read_run, write_run
from rerank_engine.parquet import is_parquet, read_parquet

DOCUMENTS = [{"_id": "a", "title": "T", "text": "a flea bath", "year": 2020}, {"_id": "b", "title": None, "text": "a rose", "year": None}]
RUN = {"q2": {"b": 1.5, "a": -0.25}, "q1": {"a": 3.0}}


@pytest.fixture
def table(tmp_path: Path) -> Any:
    """Writes records as Parquet and gives the path."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: make ray")
    from pyarrow import parquet

    def write(name: str, records: list[dict[str, Any]]) -> Path:
        parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / name, row_group_size=2)
        return tmp_path / name

    return write


def test_a_corpus(table: Any) -> None:
    path = table("any.name", DOCUMENTS)
    assert list(Corpus.stream(path)) == list(Corpus.from_parquet(str(path))) == [
        Document("a", "a flea bath", "T", {"year": 2020}), Document("b", "a rose", "", {"year": None})
    ]  # fmt: skip
    many = table("many", [{"docid": i, "contents": f"w{i}", "metadata": {"i": i}} for i in range(10_000)])
    corpus = Corpus.from_parquet(many)
    assert corpus.ids[9_999] == "9999" and corpus[5_000] == Document("5000", "w5000", "", {"i": 5000})
    with pytest.raises(FileFormatError, match="row 2: got the id None"):
        Corpus.from_parquet(table("null", [{"_id": "a", "text": "x"}, {"_id": None, "text": "x"}]))


def test_runs(table: Any, tmp_path: Path) -> None:
    rows = [(q, d, s) for q, found in RUN.items() for d, s in found.items()]
    assert read_run(table("scores", [{"qid": q, "docno": d, "score": s, "rank": 1} for q, d, s in rows])) == RUN
    assert read_run(table("ranks", [{"query_id": 1, "doc_id": d, "rank": r} for r, d in enumerate("ba", 1)])) == {"1": {"b": -1, "a": -2}}
    for _ in range(2):
        write_run(tmp_path / "run.parquet", RUN)
        data = (tmp_path / "run.parquet").read_bytes()
    assert read_run(tmp_path / "run.parquet") == RUN and (tmp_path / "run.parquet").read_bytes() == data
    assert [record for _, record in read_parquet(tmp_path / "run.parquet")][1] == {
        "query_id": "q2",
        "doc_id": "a",
        "rank": 2,
        "score": -0.25,
    }
    for records, said in (
        ([{"qid": "q", "docno": "d", "score": None}], "row 1: got None"),
        ([{"qid": "q", "docno": "d", "score": 1.0}] * 2, "row 2: duplicate"),
        ([{"qid": "q", "score": 1.0}], "row 1: id: .*docno"),
        ([{"qid": "q", "docno": "d", "score": float("nan")}], "row 1: got nan"),
    ):
        with pytest.raises(FileFormatError, match=said):
            read_run(table("wrong", records))


def test_a_broken_file(table: Any, tmp_path: Path) -> None:
    whole = table("whole", [{"_id": str(i), "text": f"w{i}" * 50} for i in range(1000)]).read_bytes()
    for data in (b"PAR1\x15", whole[: len(whole) // 2], whole[:100] + b"\xff" * 500 + whole[600:], whole[:-8] + b"\x00" * 8):
        (tmp_path / "broken").write_bytes(data)
        assert is_parquet(tmp_path / "broken")
        with pytest.raises(FileFormatError, match="broken, after row 0: got"):
            Corpus(Corpus.stream(tmp_path / "broken"))
    assert not is_parquet(tmp_path / "none") and not is_parquet(tmp_path)


def test_a_text_that_begins_as_parquet_does(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("PAR1 Q0 d 1 0.5 PAR1\n")
    assert read_run(tmp_path / "run") == {"PAR1": {"d": 0.5}}


@pytest.fixture
def piped() -> Iterator[Callable[[bytes], str]]:
    """Writes bytes, as many as a pipe holds, and gives the path at which they are read once."""
    ends = list[int]()

    def write(data: bytes) -> str:
        ends.append((pair := os.pipe())[0])
        os.write(pair[1], data)
        os.close(pair[1])
        return f"/dev/fd/{pair[0]}"

    yield write
    for end in ends:
        os.close(end)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="this system has no /dev/fd")
def test_what_comes_through_a_pipe_is_whole(piped: Callable[[bytes], str]) -> None:
    lines = [f"q1 Q0 d{i} {i} {-i} t\n" for i in range(1000)]
    assert read_run(piped("".join(lines).encode())) == {"q1": {f"d{i}": -i for i in range(1000)}}
    texts = [json.dumps({"_id": f"d{i}", "text": f"w{i}"}) + "\n" for i in range(1000)]
    for data in ("".join(texts).encode(), gzip.compress("".join(texts).encode())):
        assert read_documents(piped(data)).ids == [f"d{i}" for i in range(1000)]
        assert [document.text for document in Corpus.stream(piped(data))] == [f"w{i}" for i in range(1000)]


def test_a_beir_folder(table: Any, tmp_path: Path) -> None:
    table("corpus.parquet", DOCUMENTS)
    table("queries.parquet", [{"_id": "q1", "text": "one", "answers": ["x"]}, {"_id": "q2", "text": "two", "answers": None}])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\ta\t1\n")
    found = load_collection(tmp_path)
    assert found.corpus.ids == ["a", "b"] and [query.id for query in found.queries] == ["q1"] and found.answers == {"q1": ["x"]}
    assert bulk.read_queries(str(tmp_path)) == {"q1": "one", "q2": "two"}
    assert bulk.read_queries(str(table("pyterrier", [{"qid": 1, "query": "one"}]))) == {"1": "one"}


def test_commands(table: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, run = str(table("c.parquet", DOCUMENTS)), str(table("r.parquet", [{"qid": "q1", "docno": "a", "score": 1.0}]))
    (tmp_path / "qrels").write_text("q1 0 a 1\n")
    assert cli.main(["eval", str(tmp_path / "qrels"), run, "-m", "nDCG@10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["value"] == 1
    assert cli.main(["index", corpus, str(tmp_path / "c.bm25")]) == 0
    assert rr.BM25(rr.BM25Index.open(tmp_path / "c.bm25"), k=2)("rose").doc_ids == ["b"]


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "file").write_bytes(b"PAR1\x15 and more")
    for read in (Corpus.from_parquet, lambda path: next(Corpus.stream(path)), read_run, bulk.read_queries):
        with pytest.raises(MissingDependency, match="pip install pyarrow"):
            read(tmp_path / "file")
    with pytest.raises(MissingDependency, match="pip install pyarrow"):
        write_run(tmp_path / "run.parquet", RUN)
    assert not (tmp_path / "run.parquet").exists()
