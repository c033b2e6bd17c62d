"""The recipes of docs/scale.md run as they are written, on one machine: commands and Python, in their order, in one folder."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import rerank_engine as rr
from rerank_engine.demo.pipeline import DATA
from rerank_engine.evaluation.trec import write_run

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "scale.md").read_text()
BLOCKS = re.findall(r"^## ([^\n]*)|^```(python)?\n(.*?)^```", PAGE, re.S | re.M)
COMMAND = [sys.executable, "-m", "rerank_engine.cli"]


def recipes() -> dict[str, list[tuple[str, str]]]:
    """Section -> its blocks, (language or "", text)."""
    found: dict[str, list[tuple[str, str]]] = {}
    section = ""
    for title, language, text in BLOCKS:
        section = title or section
        if text:
            found.setdefault(section, []).append((language, text))
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the recipes speak of: 200 passages of the demo's collection, three of its questions, and a run of BM25."""
    folder = tmp_path_factory.mktemp("recipes")
    collection = rr.load_collection(DATA)
    corpus = rr.Corpus([document for _, document in zip(range(200), collection.corpus)])
    queries = collection.queries[:3]
    lines = (json.dumps({"_id": document.id, "title": document.title, "text": document.text}) for document in corpus)
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    (folder / "queries.jsonl").write_text("\n".join(json.dumps({"_id": query.id, "text": query.text}) for query in queries))
    found = rr.BM25(rr.BM25Index.build(corpus), k=10).run(queries)
    write_run(folder / "run.trec", {str(q.id): dict(zip(r.doc_ids, r.scores.tolist())) for q, r in zip(queries, found)})
    return folder


@pytest.fixture(autouse=True)
def started(ray, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a recipe starts is a Ray of its own, as on a reader's machine."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def lines(text: str) -> Iterator[list[str]]:
    """Commands of a block, a list of words each; a backslash at the end goes on."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] != "pip":
            yield words


def commands(words: list[str], folder: Path) -> None:
    assert words[0] == "rerank-engine", words
    run([*COMMAND, *words[1:]], folder)


def test_every_section_of_the_page_is_run() -> None:
    assert set(recipes()) == set(SECTIONS)


SECTIONS = (
    "A whole run, in parts that survive a stop",
    "The same on Ray",
    "Batches of your own: Spark, Dask, loops",
    "A collection in shards",
    "The server on Ray",
)


def test_a_whole_run_by_processes_and_on_ray_is_the_same_bytes(place: Path) -> None:
    made = []
    for section in SECTIONS[:2]:
        [(_, text)] = [block for block in recipes()[section] if "rerank-run" in block[1]]
        for words in lines(text):
            commands(words, place)
        made.append((place / "reranked" / "run.trec").read_bytes())
        (place / "reranked").rename(place / f"reranked-{len(made)}")
    assert made[0] == made[1] and made[0].count(b"\n") == 30


def test_batches(place: Path) -> None:
    [(_, code)] = [block for block in recipes()[SECTIONS[2]] if block[0]]
    assert len(run([sys.executable, "-c", code], place).strip().strip("[]").split()) == 2


def test_shards(place: Path) -> None:
    told = recipes()[SECTIONS[3]]
    for words in lines(told[0][1]):
        commands(words, place)
    out = run([sys.executable, "-c", told[1][1]], place)
    assert "'shards': 4" in out.splitlines()[-1]


def test_the_server(place: Path) -> None:
    told = recipes()[SECTIONS[4]]
    serve, curl = list(lines(told[0][1]))
    server = subprocess.Popen([*COMMAND, *serve[1:]], cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_until_it_says_so(server)
        body = curl[curl.index("-d") + 1].encode()
        asked = urllib.request.Request("http://" + curl[2], body, {"content-type": "application/json"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert json.load(answer)["results"][0]["index"] == 1
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    run([sys.executable, "-c", told[1][1]], place)


def wait_until_it_says_so(server: subprocess.Popen[str]) -> None:
    """The command tells on standard error that it serves: only then a signal ends it gently."""
    assert server.stderr is not None
    seen = []
    for line in server.stderr:
        seen.append(line)
        if "rerank-engine serves" in line:
            threading.Thread(target=server.stderr.read, daemon=True).start()  # so that it never waits for a reader
            return
    raise AssertionError("".join(seen))
