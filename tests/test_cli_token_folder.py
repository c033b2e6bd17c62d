"""Token indexes on the command line with an encoder of words: one file, or a folder that takes changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_cli_index import fails, run
from tokens_of_words import Words, codec_of, vectors

from rerank_engine import cli
from rerank_engine.commands import tokens
from rerank_engine.indexes import TokenIndex

RECORDS = [{"_id": "a", "text": "red apple", "title": "Fruit"}, {"_id": "b", "text": "green apple pie"}, {"_id": "c", "text": "blue sky"}]
MORE = [{"_id": "a", "text": "a pear"}, {"_id": "d", "text": "red wine"}]


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "late_model", lambda name, threads: Words())


def jsonl(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    return jsonl(tmp_path / "corpus.jsonl", RECORDS)


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "index")


@pytest.mark.parametrize("storage", [None, "2bit"])
@pytest.mark.parametrize("folder", [[], ["--folder"]])
def test_index_search_check(capsys: pytest.CaptureFixture[str], corpus: str, out: str, folder: list[str], storage: str | None) -> None:
    made = run(capsys, "index", corpus, out, "--tokens", "m", *folder, *(["--storage", storage] if storage else []))
    assert (made["index"], made["documents"], made["tokens"], made["storage"]) == (out, 3, 8, storage or "float16")
    [(rows, _)] = TokenIndex.open(out).search([vectors("red apple")], 1)
    assert rows.tolist() == [0]
    checked = run(capsys, "check", out)
    assert (checked["ok"], checked["documents"], checked["tokens"]) == (True, 3, 8)
    assert cli.main(["check", out]) == 0
    assert "{" not in capsys.readouterr().out


def test_a_folder_takes_more(capsys: pytest.CaptureFixture[str], corpus: str, out: str, tmp_path: Path) -> None:
    run(capsys, "index", corpus, out, "--tokens", "m", "--folder", "--storage", "1bit")
    more = jsonl(tmp_path / "more.jsonl", MORE)
    assert "the id 'a'" in fails(capsys, "index", more, out, "--tokens", "m", "--folder")
    assert "settings for a new one" in fails(capsys, "index", more, out, "--tokens", "m", "--folder", "--storage", "2bit")
    assert "the id 'a'" in fails(
        capsys, "index", more, out, "--tokens", "m", "--folder", "--storage", "1bit"
    )  # its own storage may be named
    assert "--model" in fails(capsys, "search", out, "red apple")  # an encoder that does not say what it is
    assert run(capsys, "index", more, out, "--tokens", "m", "--folder", "--update")["documents"] == 4
    assert TokenIndex.open(out, verify=True).corpus.row("d") >= 0


@pytest.mark.parametrize("options", [[], ["--folder"], ["--tokens", "m"], ["--tokens", "m", "--folder"]])
def test_the_bar_is_closed_before_the_result_is_printed(monkeypatch: pytest.MonkeyPatch, corpus: str, out: str, options: list[str]) -> None:
    bars, seen = list[cli.Bar](), list[bool]()

    class Kept(cli.Bar):
        def __init__(self, unit: str) -> None:
            super().__init__(unit)
            bars.append(self)

    monkeypatch.setattr(cli, "Bar", Kept)
    monkeypatch.setattr(cli, "print_json", lambda value: seen.extend(bar.shown is None or bar.shown.disable for bar in bars))
    assert cli.main(["index", corpus, out, *options, "--json"]) == 0
    assert seen == [True]


def test_what_fails_leaves_nothing(capsys: pytest.CaptureFixture[str], corpus: str, out: str, tmp_path: Path) -> None:
    for options, said in ((["--tokens", "m", "--no-codes"], "BM25"), (["--tokens", "m", "--update"], "--folder")):
        assert said in fails(capsys, "index", corpus, out, *options)
    broken = jsonl(tmp_path / "broken.jsonl", [*RECORDS, RECORDS[0]])
    for folder in ([], ["--folder"]):
        assert "the id 'a'" in fails(capsys, "index", broken, out, "--tokens", "m", *folder)
    assert not Path(out).exists()
    run(capsys, "index", corpus, out, "--tokens", "m")
    TokenIndex.create(tmp_path / "f", dim=8)
    assert "kind 'token-codec'" in fails(capsys, "check", str(codec_file(tmp_path)))
    assert run(capsys, "check", str(tmp_path / "f"))["documents"] == 0
    Path(out).write_bytes(Path(out).read_bytes()[:-1])
    assert "damaged" in fails(capsys, "check", out)


def codec_file(folder: Path) -> Path:
    TokenIndex.create(folder / "c", codec=codec_of("2bit"), storage="2bit")
    return folder / "c" / "codec"
