"""The command line: the shapes that others read, and errors without a traceback."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from late_models import write_pylate

from rerank_engine import cli
from rerank_engine.demo import DATA, load_demo
from rerank_engine.errors import MissingDependency
from rerank_engine.runtimes.files import resolve


def run_json(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    assert cli.main([*args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def models() -> None:
    try:
        resolve("ms-marco-MiniLM-L-12-v2")
    except MissingDependency as error:
        pytest.skip(str(error))


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\ta\t1\nq2\tb\t1\n")
    (tmp_path / "run.txt").write_text("q1 Q0 a 1 2.0 t\nq1 Q0 b 2 1.0 t\nq2 Q0 a 1 2.0 t\nq2 Q0 b 2 1.0 t\n")
    return str(tmp_path / "qrels.tsv"), str(tmp_path / "run.txt")


def test_eval(capsys: pytest.CaptureFixture[str], files: tuple[str, str]) -> None:
    qrels, run = files
    rows = run_json(capsys, "eval", qrels, run, run, "-m", "MRR@10", "-m", "P@1")
    assert rows[0] == {"run": run, "measure": "MRR@10", "value": 0.75, "queries": 2, "missing": 0}
    assert [row["value"] for row in rows] == [0.75, 0.5, 0.75, 0.5]
    assert cli.main(["eval", qrels, run]) == 0
    assert "nDCG@10" in capsys.readouterr().out
    Path(run).write_text("other Q0 a 1 2.0 t\n")
    assert cli.main(["eval", qrels, run]) == 2
    assert "'other'" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path: Path) -> tuple[str, str, str]:
    """A collection with answers, and the runs of a retriever and of a re-ranker over it."""
    (tmp_path / "c" / "qrels").mkdir(parents=True)
    (tmp_path / "c" / "corpus.jsonl").write_text("".join(json.dumps({"_id": f"d{i}", "text": f"text of {i}"}) + "\n" for i in range(6)))
    queries = ({"_id": f"q{i}", "text": "what", "answers": [str(i)]} for i in range(4))
    (tmp_path / "c" / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(4))
    (tmp_path / "c" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    first = "".join(f"q{q} Q0 d{d} 0 {6 - d} t\n" for q in range(4) for d in range(3))  # d0 d1 d2 for every query
    (tmp_path / "first.trec").write_text(first)
    (tmp_path / "final.trec").write_text(
        "".join(f"q{q} Q0 d{d} 0 {d == q} t\n".replace("True", "1").replace("False", "0") for q in range(3) for d in (0, 1))
    )
    return str(tmp_path / "c"), str(tmp_path / "first.trec"), str(tmp_path / "final.trec")


def test_eval_of_a_folder_counts_answers(capsys: pytest.CaptureFixture[str], folder: tuple[str, str, str]) -> None:
    collection, first, final = folder
    rows = run_json(capsys, "eval", collection, first, final)
    assert [row["measure"] for row in rows[:4]] == ["nDCG@10", "MRR@10", "R@100", "answer@3"]
    assert rows[3] == {"run": first, "measure": "answer@3", "value": 0.75, "queries": 4, "missing": 0}
    assert (rows[7]["value"], rows[7]["missing"]) == (0.5, 1)
    rows = run_json(capsys, "eval", collection, first, "-m", "answer@1", "-m", "distractors@3", "-m", "Judged@3", "--per-query")
    assert [row["value"] for row in rows] == pytest.approx([0.25, 0.75, 0.25])
    assert rows[0]["per_query"] == {"q0": 1.0, "q1": 0.0, "q2": 0.0, "q3": 0.0}
    assert cli.main(["eval", collection, first, "--per-query", "-m", "MRR"]) == 0
    assert re.search(r"first.trec +MRR +0\.5000 +q1", capsys.readouterr().out)
    Path(collection, "corpus.jsonl").unlink()
    assert len(run_json(capsys, "eval", collection, first, "-m", "MRR", "-m", "R@3")) == 2, "texts are read for what needs them alone"


@pytest.mark.parametrize("options", [[], ["--test", "t", "--correction", "bonferroni"], ["--correction", "none"]])
def test_eval_compares(capsys: pytest.CaptureFixture[str], folder: tuple[str, str, str], options: list[str]) -> None:
    collection, first, final = folder
    rows = run_json(capsys, "eval", collection, final, "--compare", first, "-m", "P@1", "-m", "answer@1", "-m", "distractors@1", *options)
    assert [(row["run"], row["measure"]) for row in rows] == [(r, m) for r in (first, final) for m in ("P@1", "answer@1", "distractors@1")]
    assert "difference" not in rows[0] and rows[5]["lower_is_better"] and (rows[5]["compared"], rows[5]["wins"]) == (3, 1)
    assert (
        rows[3].items()
        >= {"value": 0.5, "queries": 4, "difference": 0.25, "wins": 1, "ties": 3, "losses": 0, "p_corrected": rows[3]["p"]}.items()
    )
    assert rows[4]["difference"] == 0.25 and rows[3]["low"] <= 0.25 <= rows[3]["high"]
    assert rows[3]["p"] == (pytest.approx(0.391, abs=1e-3) if "t" in options else 1.0)
    assert cli.main(["eval", collection, first, final, "--compare", first, "-m", "P@1", *options]) == 0
    assert re.search(r"P@1 +\S+final.trec +0\.5000 +\+0\.2500 .* 1/3/0", capsys.readouterr().out)


def test_eval_diagnoses(capsys: pytest.CaptureFixture[str], folder: tuple[str, str, str]) -> None:
    collection, first, final = folder
    rows = run_json(capsys, "eval", collection, first, final, "-m", "answer@3", "-m", "nDCG@1", "-m", "MRR", "--diagnose", "--per-query")
    assert [i for i, row in enumerate(rows) if "diagnosis" in row] == [4], "on the last run's row of the measure diagnosed"
    told = rows[4]["diagnosis"]
    assert (rows[4]["run"], rows[4]["measure"], told["measure"], told["rel"]) == (final, "nDCG@1", "nDCG@1", 1)
    assert told["fates"] == {"not retrieved": 1, "cut at final.trec": 1, "delivered": 2}
    assert [stage["value"] for stage in told["stages"]] == [row["value"] for row in rows if row["measure"] == "nDCG@1"]
    assert told["ceilings"] == {"first.trec": dict.fromkeys(["10", "20", "50", "100", "1000"], 0.75)} and told["per_query"]["q2"][
        "values"
    ] == [0, 0]
    assert cli.main(["eval", collection, first, final, "--diagnose", "--rel", "2"]) == 0
    assert "relevant documents (0)" in capsys.readouterr().out


def test_eval_draws_the_diagnosis(capsys: pytest.CaptureFixture[str], folder: tuple[str, str, str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture is matplotlib's")
    collection, first, final = folder
    assert run_json(capsys, "eval", collection, first, final, "--plot", str(tmp_path / "p.png"))[4]["diagnosis"]["relevant"] == 4
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_eval_refuses_what_does_not_go_together(capsys: pytest.CaptureFixture[str], folder: tuple[str, str, str]) -> None:
    collection, first, final = folder
    qrels = str(Path(collection, "qrels", "test.tsv"))
    for arguments, said in (
        ([collection, first, "--test", "t"], "--compare BASELINE"),
        ([collection, first, "--rel", "2"], "--diagnose"),
        ([collection, first, "--compare", first], "runs: got 1"),
        ([collection, first, first, "--diagnose"], "a run twice"),
        ([qrels, first, "-m", "answer@3"], "answers"),
        ([collection, first, "-m", "answer@0"], "unknown measure"),
        ([collection, first, final, "-m", "Judged@3", "--diagnose"], "Judged"),
        ([collection, first, "--compare", "none.trec"], "none.trec"),
    ):
        assert cli.main(["eval", *arguments]) == 2, arguments
        captured = capsys.readouterr()
        assert captured.out == "" and said in captured.err and captured.err.count("\n") == 1, captured.err


def test_backends(capsys: pytest.CaptureFixture[str]) -> None:
    rows = run_json(capsys, "backends")
    assert {"kind": "op", "name": "topk", "variant": "reference", "ok": True, "reason": "", "detail": ""} in rows
    assert cli.main(["backends"]) == 0
    assert "reference" in capsys.readouterr().out


def test_rerank_by_late_interaction(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, texts = write_pylate(tmp_path / "model"), ["w1 w2", "w3 w4", " ".join(["w5"] * 20), ""]
    (tmp_path / "docs.txt").write_text("\n".join(texts[:3]))
    options = ["--query", "w3 w4", "--documents", str(tmp_path / "docs.txt"), "--model", str(folder)]
    found = run_json(capsys, "rerank", *options)
    assert found["scale"] == "maxsim" and found["model"] == str(folder) and len(found["results"]) == 3
    assert {r["index"]: r["truncated_tokens"] for r in found["results"]} == {0: 0, 1: 0, 2: 11}
    assert cli.main(["rerank", *options]) == 0 and "maxsim" in capsys.readouterr().out
    assert cli.main(["rerank", *options, "--activation", "sigmoid"]) == 2
    assert "expected logits" in capsys.readouterr().err


def test_rerank_says_what_it_can_do_and_refuses_nothing_to_ask(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, documents = str(write_pylate(tmp_path / "model")), tmp_path / "docs.jsonl"
    documents.write_text("")
    options = ["rerank", "--documents", str(documents), "--model", folder]
    assert run_json(capsys, *options, "--query", "w1") == {"model": folder, "scale": "maxsim", "results": []}
    for wrong, said in ((["--query", " "], "--query: got an empty text"), (["--query", "w1", "--top-n", "0"], "--top-n: got 0"),
                        (["--query", "w1", "--threads", "0"], "threads: got 0")):  # fmt: skip
        assert cli.main([*options, *wrong]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["rerank", "--help"])
    assert "late-interaction model" in " ".join(capsys.readouterr().out.split())


def test_a_document_without_text_has_no_score_in_the_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_text('{"text": "w1 w2"}\n{"text": " "}\n{"text": "w3"}\n')
    options = ["rerank", "--query", "w1", "--documents", str(tmp_path / "docs.jsonl"), "--model", str(write_pylate(tmp_path / "model"))]
    assert run_json(capsys, *options, "--threads", "1")["results"][-1]["score"] == pytest.approx(-3.4028235e38)
    assert cli.main(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r" +3 +1 +no text", lines[3]) and max(map(len, lines)) < 60
    assert [len(re.match(r".*(?:maxsim|no text|\.\d{4})", line)[0]) for line in lines] == [len("rank  index  no text")] * 4  # type: ignore[index]


@pytest.fixture
def tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """A search of a token index by a model of words, but for the query."""
    model = str(write_pylate(tmp_path / "model"))
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps({"_id": f"d<{i}>", "text": f"w{i} w2, w{i + 1}"}) + "\n" for i in range(4)))
    made = ["index", str(tmp_path / "docs.jsonl"), str(tmp_path / "t"), "--tokens", model, "--storage", "float32"]
    assert run_json(capsys, *made, "--threads", "1")["documents"] == 4
    return ["search", str(tmp_path / "t"), "--model", model]


def test_heat_maps_are_coloured_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tokens: list[str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert cli.main([*tokens, "w1 w2", "--explain", "--threads", "1"]) == 0
    plain = capsys.readouterr().out
    assert plain.count("[in brackets]: what a word adds to the score") == 1 and re.search(r"\[w\d\]", plain) and "\x1b" not in plain
    assert plain.count("special tokens and punctuation, not shown: ") == 4
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert cli.main([*tokens, "w1 w2", "--explain"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("the darker its ground, the more a word adds to the score") == 1 and "\x1b[30;48;5;" in shown
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli.main([*tokens, "w1 w2", "--explain"]) == 0 and capsys.readouterr().out == plain
    assert cli.main([*tokens, "w1 w2"]) == 0 and "special tokens" not in capsys.readouterr().out


def test_heat_maps_as_a_page(capsys: pytest.CaptureFixture[str], tmp_path: Path, tokens: list[str]) -> None:
    place = tmp_path / "page.html"
    found = run_json(capsys, *tokens, "w1 <b>", "-k", "3", "--html", str(place))
    assert len(found["results"]) == 3 and "explanation" not in found["results"][0]
    page = place.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "<title>w1 &lt;b&gt;</title>" in page and page.count("<h2>") == 3
    assert f"<h2>1. {found['results'][0]['id'].replace('<', '&lt;').replace('>', '&gt;')}</h2>" in page and "<b>w1 &lt;b&gt;</b>" in page
    assert cli.main([*tokens, "w1", "--html", str(tmp_path / "no" / "page.html")]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([""], "QUERY: got an empty text"),
        (["w1", "-k", "0"], "-k: got 0; expected an integer"),
        (["w1", "--threads", "0"], "threads: got 0"),
    ],
)
def test_searches_of_tokens_that_are_refused(capsys: pytest.CaptureFixture[str], tokens: list[str], args: list[str], message: str) -> None:
    assert cli.main([*tokens, *args]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1) and message in captured.err and "LateInteraction" not in captured.err


def test_a_bm25_index_has_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_text('{"_id": "a", "text": "w1"}\n')
    made = ["index", str(tmp_path / "docs.jsonl"), str(tmp_path / "b")]
    assert cli.main([*made, "--threads", "1"]) == 2 and "--threads: got a BM25 index" in capsys.readouterr().err
    assert cli.main(made) == 0
    for option in (["--threads", "1"], ["--html", str(tmp_path / "page.html")]):
        assert cli.main(["search", str(tmp_path / "b"), "w1", *option]) == 2
        assert f"{option[0]}: got a BM25 index" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_a_bar_counts_from_its_start_and_is_closed(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    with cli.Bar("documents") as progress:
        pass
    with pytest.raises(KeyError), cli.Bar("documents"):
        raise KeyError
    assert capsys.readouterr().err == "", "nothing to show: an error has its line to itself"
    with cli.Bar("documents") as progress:
        progress.shown.start_t = progress.shown.last_print_t = progress.shown.start_t - 10
        progress(50, 0)
    shown = capsys.readouterr().err
    assert re.search(r"50 documents \[00:10, +(?:5\.0|4\.9)\d documents/s\]", shown) and shown.endswith("\n")


@pytest.mark.usefixtures("models")
def test_rerank(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["Paris is in France.", "Fleas bite dogs.", "word " * 700]
    (tmp_path / "docs.txt").write_text("\n".join(texts))
    (tmp_path / "docs.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    query = ["--query", "what bites dogs"]
    plain = run_json(capsys, "rerank", *query, "--documents", str(tmp_path / "docs.txt"))
    assert plain["scale"] == "logit"
    assert plain["model"] == "ms-marco-MiniLM-L-12-v2"
    assert plain["results"][0]["index"] == 1
    assert {r["index"]: r["truncated_tokens"] > 0 for r in plain["results"]} == {0: False, 1: False, 2: True}
    assert run_json(capsys, "rerank", *query, "--documents", str(tmp_path / "docs.jsonl")) == plain
    (tmp_path / "docs.NDJSON").write_text((tmp_path / "docs.jsonl").read_text())
    assert run_json(capsys, "rerank", *query, "--documents", str(tmp_path / "docs.NDJSON")) == plain
    (tmp_path / "docs.json").write_text(json.dumps(texts))
    assert cli.main(["rerank", *query, "--documents", str(tmp_path / "docs.json")]) == 2
    assert "expected a JSON object" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(texts)))
    some = run_json(capsys, "rerank", *query, "--documents", "-", "--top-n", "2", "--activation", "sigmoid")
    assert some["scale"] == "probability"
    assert len(some["results"]) == 2
    assert all(0 <= r["score"] <= 1 for r in some["results"])
    assert cli.main(["rerank", *query, "--documents", str(tmp_path / "docs.txt")]) == 0
    assert "Fleas" in capsys.readouterr().out


@pytest.mark.usefixtures("models")
def test_demo_search(capsys: pytest.CaptureFixture[str]) -> None:
    answer = run_json(capsys, "demo", "Who was the final Prime Minister of East Germany?")
    assert answer["query"] == "Who was the final Prime Minister of East Germany?"
    assert [r["rank"] for r in answer["results"]] == list(range(1, 11))
    assert set(answer["results"][0]) == {"rank", "id", "score", "text", "stage_ranks"}
    assert "Maizière" in answer["results"][0]["text"]
    assert set(answer["results"][0]["stage_ranks"]) == {"BM25", "Dense", "Fuse", "CrossEncoder", "Top"}
    assert [set(s) - {"facts"} for s in answer["stages"]] == [{"stage", "name", "backend", "n_in", "n_out", "ms"}] * 5
    assert [(s["n_in"], s["n_out"]) for s in answer["stages"]][-1] == (answer["stages"][2]["n_out"], 10)


@pytest.mark.slow
@pytest.mark.usefixtures("models")
def test_demo_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    answer = run_json(capsys, "demo", "--evaluate", "3")
    assert {"ndcg@10", "mrr@10", "answer@3"} <= set(answer["stages"][0])
    assert all(0 <= s["ndcg@10"] <= 1 for s in answer["stages"])


@pytest.mark.usefixtures("models")
def test_demo_collection_is_what_its_readme_says() -> None:
    collection = load_demo().collection
    assert len(collection.corpus) == 1000
    assert sum(doc.id.startswith("p") for doc in collection.corpus) == 240
    assert len(collection.queries) == 1190
    assert all(collection.answers[str(query.id)] for query in collection.queries)
    readme = (DATA / "README.md").read_text()
    for word in ("CC BY-SA 4.0", "XQuAD", "2WikiMultihopQA", "Wikipedia"):
        assert word in readme


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["eval", "none.tsv", "none.txt"], "No such file"),
        (["rerank", "--query", "q", "--documents", "none.txt"], "No such file"),
        (["demo", "--evaluate", "0"], "at least 1"),
        (["demo", "--evaluate", "2000"], "at most 1190"),
        (["demo", " "], "an empty text"),
    ],
)
def test_errors_are_one_line_and_exit_2(capsys: pytest.CaptureFixture[str], args: list[str], message: str) -> None:
    assert cli.main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("rerank-engine: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_installed_command_runs() -> None:
    done = subprocess.run([str(Path(sys.executable).parent / "rerank-engine"), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("rerank-engine 0.")


def test_the_package_runs_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "rerank_engine", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("rerank-engine 0.")
    done = subprocess.run([sys.executable, "-m", "rerank_engine", "demo", " "], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("rerank-engine: ")


def test_rerank_by_a_model_that_is_asked_in_words(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    from t5_models import write_t5

    write_t5(tmp_path)
    (tmp_path / "documents.txt").write_text("cats\nfleas\n")
    told = run_json(
        capsys, "rerank", "--model", str(tmp_path), "--prompt", "monot5", "--query", "fleas", "--documents", str(tmp_path / "documents.txt")
    )
    assert told["scale"] == "logit" and sorted(row["index"] for row in told["results"]) == [0, 1]
    assert cli.main(["rerank", "--model", str(tmp_path), "--query", "q", "--documents", str(tmp_path / "documents.txt")]) != 0
    assert "monot5" in capsys.readouterr().err
