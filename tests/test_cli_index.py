"""The commands around a BM25 index: index, search, check."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rerank_engine import cli
from rerank_engine.indexes import BM25Index

RECORDS: list[dict[str, Any]] = [
    {"_id": "a", "text": "red apple", "title": "Fruit"},
    {"_id": "b", "text": "green apple pie 北京"},
    {"_id": "c", "text": "blue sky", "year": 1},
]
MORE: list[dict[str, Any]] = [{"_id": "a", "text": "a pear"}, {"_id": "d", "text": "red wine"}]


def jsonl(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    return jsonl(tmp_path / "corpus.jsonl", RECORDS)


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "index")


def run(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    assert cli.main([*args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def fails(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Standard error of a command that ends with 2 and says one line."""
    assert cli.main(list(args)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("rerank-engine: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("folder", [[], ["--folder"]])
def test_index_search_check(capsys: pytest.CaptureFixture[str], corpus: str, out: str, folder: list[str]) -> None:
    made = run(capsys, "index", corpus, out, *folder)
    assert made == {"index": out, "documents": 3, "postings": BM25Index.open(out).n_postings}
    found = run(capsys, "search", out, "red apples", "-k", "2")
    assert found["query"] == "red apples"
    assert found["index"] == out
    assert [set(result) for result in found["results"]] == [{"rank", "id", "score", "text"}] * 2
    assert [(r["rank"], r["id"], r["text"]) for r in found["results"]] == [(1, "a", "Fruit red apple"), (2, "b", "green apple pie 北京")]
    assert found["results"][0]["score"] > found["results"][1]["score"] > 0
    assert run(capsys, "search", out, "zebra")["results"] == run(capsys, "search", out, "")["results"] == []
    checked = run(capsys, "check", out)
    assert set(checked) == {"path", "segments", "documents", "deleted", "terms", "postings", "bytes", "ok"}
    assert (checked["ok"], checked["documents"], checked["segments"]) == (True, 3, 1)
    for command in (["search", out, "red"], ["check", out], ["search", out, "nothing at all"]):
        assert cli.main(command) == 0
        assert "{" not in capsys.readouterr().out


def test_explain_and_rm3(capsys: pytest.CaptureFixture[str], corpus: str, out: str) -> None:
    run(capsys, "index", corpus, out, "--forward")
    [first, second] = run(capsys, "search", out, "red apple", "--explain")["results"]
    assert set(first["terms"][0]) == {"term", "tf", "df", "idf", "f", "weight", "score"}
    for result in (first, second):
        assert [term["term"] for term in result["terms"]] == ["red", "appl"]
        assert sum(term["score"] for term in result["terms"]) == pytest.approx(result["score"], rel=1e-6)
    expanded = run(capsys, "search", out, "red apple", "--rm3", "--explain")
    assert expanded["terms"] == pytest.approx({"red": 0.5 / 1, "appl": 0.5}, rel=1)
    assert [result["id"] for result in expanded["results"]] == ["a", "b"]
    assert run(capsys, "search", out, "", "--rm3")["results"] == []
    assert cli.main(["search", out, "red apple", "--rm3", "--explain"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("terms: ")
    assert "idf" in text


def test_update(capsys: pytest.CaptureFixture[str], corpus: str, out: str, tmp_path: Path) -> None:
    run(capsys, "index", corpus, out, "--folder", "--analyzer", "simple")
    more = jsonl(tmp_path / "more.jsonl", MORE)
    assert "the id 'a'" in fails(capsys, "index", more, out, "--folder")
    assert run(capsys, "check", out)["documents"] == 3
    assert run(capsys, "index", more, out, "--folder", "--update")["documents"] == 4
    assert [r["id"] for r in run(capsys, "search", out, "red")["results"]] == ["d"]
    assert run(capsys, "check", out)["deleted"] == 1
    assert "no settings" in fails(capsys, "index", more, out, "--folder", "--update", "--k1", "2")
    assert "--folder" in fails(capsys, "index", more, str(tmp_path / "file"), "--update")
    assert BM25Index.open(out).analyzer.name == "simple"
    writer = BM25Index.open(out)
    writer.delete(["d"])
    assert "a second writer" in fails(capsys, "index", more, out, "--folder", "--update")


def test_settings_and_sources(capsys: pytest.CaptureFixture[str], tmp_path: Path, out: str) -> None:
    (tmp_path / "beir").mkdir()
    lines = "\ufeff" + "\n\n".join(map(json.dumps, RECORDS))
    (tmp_path / "beir" / "corpus.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    settings = ["--analyzer", "simple", "--variant", "bm25+", "--k1", "0.9", "--b", "0.4", "--no-codes"]
    assert run(capsys, "index", str(tmp_path / "beir"), out, *settings)["documents"] == 3
    index = BM25Index.open(out)
    assert (index.analyzer.name, str(index.parameters), index.codes) == ("simple", "bm25+, k1=0.9, b=0.4, delta=1", False)
    run(capsys, "index", str(tmp_path / "beir"), out)  # a file is replaced
    assert BM25Index.open(out).analyzer.name == "english"
    for wrong, message in (
        ("--k1=-1", "k1"),
        ("--b=2", "b: got"),
        ("--variant=bm26", "lucene"),
        ("--analyzer=klingon", "analyzer"),
        ("--k1=nan", "k1"),
    ):
        for folder in ([], ["--folder"]):
            assert message in fails(capsys, "index", str(tmp_path / "beir"), str(tmp_path / "new"), wrong, *folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["beir", "index"]
    assert BM25Index.check(out)["documents"] == 3


@pytest.mark.parametrize("folder", [[], ["--folder"]])
def test_a_bad_corpus_leaves_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path, out: str, folder: list[str]) -> None:
    good = json.dumps({"_id": "x", "text": "fine"})
    cases = {
        good + "\n\n" + "{": "line 3: got broken JSON",
        good + "\n[1]": "line 2: got list",
        good + '\n{"_id": "y"}': "line 2: got the text None",
        good + "\n" + good: "the id 'x'",
        good + '\n{"_id": "\\ud800", "text": 5}': "line 2: got the text 5",
        good + "\n\x00": "line 2: got broken JSON",
    }
    for text, message in cases.items():
        (tmp_path / "bad.jsonl").write_text(text)
        assert message in fails(capsys, "index", str(tmp_path / "bad.jsonl"), out, *folder)
        assert [p.name for p in tmp_path.iterdir()] == ["bad.jsonl"]
    (tmp_path / "bad.jsonl").write_bytes(good.encode() + b'\n{"text": "\xff"}')
    assert "UTF-8" in fails(capsys, "index", str(tmp_path / "bad.jsonl"), out, *folder)
    (tmp_path / "bad.jsonl").write_bytes(gzip.compress(good.encode() * 99)[:-9])
    assert "bad.jsonl" in fails(capsys, "index", str(tmp_path / "bad.jsonl"), out, *folder)
    assert "No such file" in fails(capsys, "index", str(tmp_path / "none.jsonl"), out, *folder)
    assert "corpus.jsonl" in fails(capsys, "index", str(tmp_path), out, *folder)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.jsonl"]
    BM25Index.create(out).commit()
    (tmp_path / "bad.jsonl").write_text(good + "\n{")
    assert "line 2" in fails(capsys, "index", str(tmp_path / "bad.jsonl"), out, "--folder")
    assert BM25Index.check(out)["documents"] == 0  # what was there before is there still


@pytest.mark.parametrize("folder", [[], ["--folder"]])
def test_check_and_search_of_what_is_damaged(capsys: pytest.CaptureFixture[str], corpus: str, out: str, folder: list[str]) -> None:
    run(capsys, "index", corpus, out, *folder)
    [path] = Path(out).glob("*.segment") if folder else [Path(out)]
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    message = fails(capsys, "check", out)
    assert path.name in message
    assert "a damaged file: " in message
    assert "Build it again" in message
    path.write_bytes(data[:-1])
    for command in (["check", out], ["search", out, "red"]):
        assert f"it has {len(data) - 1} bytes where {len(data)} were written" in fails(capsys, *command)
    path.unlink()
    assert "No such file" in fails(capsys, "search", out, "red")


def test_wrong_paths_and_arguments(capsys: pytest.CaptureFixture[str], corpus: str, out: str, tmp_path: Path) -> None:
    for command in (["search", out, "q"], ["check", out], ["check", corpus], ["search", corpus, "q"], ["search", str(tmp_path), "q"]):
        fails(capsys, *command)
    assert "another kind of file" in fails(capsys, "check", corpus)
    assert "manifest.json" in fails(capsys, "check", str(tmp_path))
    for target in (str(tmp_path), corpus + "/x", str(tmp_path / "no" / "x")):
        fails(capsys, "index", corpus, target)
    for target in (corpus, corpus + "/x", str(tmp_path)):
        fails(capsys, "index", corpus, target, "--folder")
    run(capsys, "index", corpus, out)
    assert "at least 1" in fails(capsys, "search", out, "q", "-k", "0")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.jsonl", "index"]


def test_progress_goes_to_standard_error(corpus: str, out: str) -> None:
    command = [sys.executable, "-m", "rerank_engine.cli"]
    for args in (["index", corpus, out, "--json"], ["check", out, "--json"]):
        done = subprocess.run([*command, *args], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["documents"] == 3
        assert "Traceback" not in done.stderr
    done = subprocess.run([*command, "index", corpus + "x", out], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("rerank-engine: ")
