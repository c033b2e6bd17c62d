"""`rerank-engine eval` of several collections, of splits, of ids, and its comparison where less is better."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rerank_engine import cli


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two collections, `one` with answers, and runs; the working folder is where they are."""
    monkeypatch.chdir(tmp_path)
    for name, n in (("one", 4), ("two", 2)):
        folder = tmp_path / name
        (folder / "qrels").mkdir(parents=True)
        (folder / "corpus.jsonl").write_text("".join(json.dumps({"_id": f"d{i}", "text": f"text {i}"}) + "\n" for i in range(4)))
        queries = ({"_id": f"q{i}", "text": "x", "answers": [str(i)] if name == "one" else []} for i in range(n))
        (folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
        for split, moved in (("test", 0), ("dev", 1)):
            judged = "".join(f"q{i}\td{(i + moved) % 4}\t1\n" for i in range(n))
            (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    (tmp_path / "first.trec").write_text("".join(f"q{q} Q0 d0 1 1 t\n" for q in range(4)))
    (tmp_path / "best.trec").write_text("".join(f"q{q} Q0 d{q} 1 1 t\n" for q in range(3)))
    return tmp_path


def run_json(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    assert cli.main(["eval", *args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_several_collections_and_their_average(capsys: pytest.CaptureFixture[str], work: Path) -> None:
    rows = run_json(capsys, "one=first.trec", "two=best.trec", "-m", "P@1", "-m", "MRR")
    assert rows[0] == {"collection": "one", "run": "first.trec", "measure": "P@1", "value": 0.25, "queries": 4, "missing": 0}
    assert [row["value"] for row in rows] == [0.25, 0.25, 1.0, 1.0, 0.625, 0.625]
    assert rows[4] == {"collection": "average", "measure": "P@1", "value": 0.625}, "each collection counts once, whatever its queries"
    names = [(row["collection"], row["measure"]) for row in run_json(capsys, "one=first.trec", "two=best.trec")]
    assert ("one", "answer@3") in names and ("average", "answer@3") not in names and ("average", "R@100") in names
    assert cli.main(["eval", "one=first.trec", "two=best.trec", "-m", "P@1", "--per-query"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"average +P@1 +0\.6250", shown) and re.search(r"two +best.trec +P@1 +1\.0000 +q1", shown)


def test_a_file_may_have_an_equals_sign_in_its_name(capsys: pytest.CaptureFixture[str], work: Path) -> None:
    (work / "first.trec").rename(work / "k=3.trec")
    assert [row["value"] for row in run_json(capsys, "one", "k=3.trec", "-m", "P@1")] == [0.25]
    (work / "one" / "qrels" / "test.tsv").rename(work / "a=b.tsv")
    assert [row["value"] for row in run_json(capsys, "a=b.tsv", "k=3.trec", "-m", "P@1")] == [0.25]


def test_a_split_of_a_folder(capsys: pytest.CaptureFixture[str], work: Path) -> None:
    assert [row["value"] for row in run_json(capsys, "one", "best.trec", "-m", "P@1")] == [0.75]
    assert [row["value"] for row in run_json(capsys, "one", "best.trec", "-m", "P@1", "--split", "dev")] == [0.0]
    assert run_json(capsys, "one=best.trec", "two=first.trec", "-m", "P@1", "--split", "dev")[-1]["value"] == 0.0


def test_an_id_of_ir_datasets(capsys: pytest.CaptureFixture[str], work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judgment, query = SimpleNamespace(query_id="q0", doc_id="d0", relevance=1), SimpleNamespace(query_id="q0", text="x")
    dataset = SimpleNamespace(
        has_queries=lambda: True, has_qrels=lambda: True, qrels_iter=lambda: [judgment], queries_iter=lambda: [query]
    )  # it has no documents, which nobody needs
    monkeypatch.setitem(sys.modules, "ir_datasets", SimpleNamespace(load=lambda name: {"some/set": dataset}[name]))
    rows = run_json(capsys, "some/set", "first.trec", "-m", "P@1", "-m", "distractors@1")
    assert [(row["value"], row["queries"]) for row in rows] == [(1.0, 1), (0.0, 1)]
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    assert cli.main(["eval", "some/set", "first.trec"]) == 2
    assert "pip install ir-datasets" in capsys.readouterr().err


def test_distractors_are_compared_and_fewer_are_better(capsys: pytest.CaptureFixture[str], work: Path) -> None:
    rows = run_json(capsys, "one", "first.trec", "best.trec", "-m", "distractors@1", "--compare", "first.trec")
    assert rows[1].items() >= {"difference": pytest.approx(-2 / 3), "wins": 2, "ties": 1, "losses": 0}.items()
    assert rows[1]["lower_is_better"] and rows[1]["compared"] == 3 and rows[0]["queries"] == 4, "of the queries that both runs have"
    assert "lower_is_better" not in rows[0]
    assert cli.main(["eval", "one", "first.trec", "best.trec", "-m", "distractors@1", "--compare", "first.trec"]) == 0
    assert re.search(r"distractors@1 \(lower is better\) +best.trec .* 2/1/0", capsys.readouterr().out)
    (work / "other.trec").write_text("q3 Q0 d0 1 1 t\n")
    assert cli.main(["eval", "one", "other.trec", "best.trec", "-m", "distractors@1", "--compare", "best.trec"]) == 2
    assert "distractors@1: got 0 queries" in capsys.readouterr().err


def test_what_is_refused(capsys: pytest.CaptureFixture[str], work: Path) -> None:
    for arguments, said in (
        (["one=first.trec", "two=best.trec", "--diagnose"], "one collection"),
        (["one=first.trec", "two=best.trec", "--compare", "first.trec"], "one collection"),
        (["one/qrels/test.tsv", "first.trec", "--split", "dev"], "--split"),
        (["one", "first.trec", "--split", "none"], "none.tsv"),
        (["one=first.trec", "none.tsv=first.trec"], "none.tsv"),
        (["none.tsv", "first.trec"], "No such file"),
    ):
        assert cli.main(["eval", *arguments]) == 2, arguments
        captured = capsys.readouterr()
        assert captured.out == "" and said in captured.err, captured.err
