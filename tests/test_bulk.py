"""Bulk re-ranking: the same bytes whatever was stopped, killed or shared out; a tiny cross-encoder, so that processes start quickly."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bulk_jobs import BUNDLED, N, in_here, job, scored, write_files
from t5_models import write_t5

import rerank_engine as rr
from rerank_engine import bulk, cli
from rerank_engine.core import LOWEST
from rerank_engine.errors import FileFormatError, InputError, MissingDependency, UnknownIdError, UnknownModelError, UnsupportedModelError

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_files(tmp_path_factory.mktemp("bulk"))


@pytest.fixture(scope="module")
def right(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What comes of one undisturbed run in this process."""
    out = tmp_path_factory.mktemp("right")
    told = bulk.rerank_run(job(files, out), each=in_here)
    assert (told["queries"], told["parts"], told["done_before"]) == (N, 6, 0)
    return (out / "run.trec").read_bytes()


def test_scores_are_those_of_the_stage(files, right, tmp_path):
    (tmp_path / "run.trec").write_bytes(right)
    found, given = rr.evaluation.read_run(tmp_path / "run.trec"), rr.evaluation.read_run(files["run"])
    corpus = rr.Corpus.from_jsonl(files["corpus"])
    stage = rr.Rescore(rr.load(files["model"], prompt="monot5", threads=1), depth=8)
    queries = bulk.read_queries(files["queries"])
    for name, documents in given.items():
        ranking = stage(queries[name], rr.Ranking.in_order(corpus, [corpus.row(document) for document in documents]))
        assert found[name] == pytest.approx(dict(zip(ranking.doc_ids, ranking.scores.tolist())), abs=1e-5)


def test_processes_give_the_same_bytes_and_a_stopped_job_goes_on(files, right, tmp_path):
    told = bulk.rerank_run(job(files, tmp_path), workers=2, threads=1)
    assert (tmp_path / "run.trec").read_bytes() == right and len({row["process"] for row in told["parts_told"]}) <= 2
    for number in (1, 4):
        job(files, tmp_path).path(number).unlink()
    seen = []
    told = bulk.rerank_run(job(files, tmp_path), each=in_here, progress=lambda done, total: seen.append((done, total)))
    assert told["done_before"] == 4 and [row["part"] for row in told["parts_told"]] == [1, 4] and seen == [(4, 6), (5, 6), (6, 6)]
    assert (tmp_path / "run.trec").read_bytes() == right
    assert bulk.rerank_run(job(files, tmp_path))["parts_told"] == []


def test_a_part_is_told_as_it_was_made(files, tmp_path):
    """Also by another process than the one that made it, and was killed before it could say so."""
    told = bulk.rerank_run(job(files, tmp_path), each=in_here)["parts_told"]
    scorer = bulk.PartScorer(job(files, tmp_path), 1)
    assert [scorer(row["part"]) for row in told] == told and all(row["pairs"] and row["seconds"] for row in told)


@pytest.mark.slow
def test_killed_workers_lose_nothing_and_repeat_no_finished_part(files, tmp_path, thorough):
    pairs = bulk.rerank_run(job(files, tmp_path / "right", part=1), each=in_here)["pairs"]
    right = (tmp_path / "right" / "run.trec").read_bytes()
    for round_ in range(20 if thorough else 2):
        out, found, chance = tmp_path / str(round_), list[dict[str, Any]](), random.Random(round_)

        def run(out: Path = out, found: list[dict[str, Any]] = found) -> None:
            found.append(bulk.rerank_run(job(files, out, part=1), workers=2, threads=1))

        thread, killed = threading.Thread(target=run), False
        thread.start()
        while thread.is_alive():
            time.sleep(0.005)
            children = multiprocessing.active_children()
            if not killed and children and len(list(out.glob("part-*.json"))) >= chance.randrange(1, 12):
                os.kill(chance.choice(children).pid or 0, signal.SIGKILL)
                killed = True
        thread.join()
        assert killed and (out / "run.trec").read_bytes() == right
        assert sorted(row["part"] for row in found[0]["parts_told"]) == list(range(N)) and found[0]["pairs"] == pairs


SCRIPT = """
import sys
from rerank_engine import bulk
if __name__ == "__main__":
    run, queries, corpus, model, out = sys.argv[1:]
    bulk.rerank_run(bulk.Job(run, queries, corpus, out, model, {"prompt": "monot5"}, part=1), workers=2, threads=1)
"""


def test_workers_end_with_their_parent(files, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    arguments = [files[name] for name in ("run", "queries", "corpus", "model")]
    command = [sys.executable, str(tmp_path / "script.py"), *arguments, str(tmp_path / "out")]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as parent:
        end = time.monotonic() + 60
        while not list((tmp_path / "out").glob("part-*.json")):
            assert time.monotonic() < end and parent.poll() is None
            time.sleep(0.01)
        told = subprocess.run(["ps", "--ppid", str(parent.pid), "-o", "pid="], capture_output=True, text=True, check=False).stdout
        parent.kill()
    children = [int(pid) for pid in told.split()]
    assert children
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_file_keeps_the_order_of_the_stage(files, tmp_path):
    """Blank documents, ties and a tail below the depth, all of which files of runs would turn round."""
    texts = {"a": "", "b": "cats", "c": "cats", "d": "", "e": "dogs w1", "f": "w2", "g": "w3"}
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"_id": key, "text": text}) + "\n" for key, text in texts.items()))
    (tmp_path / "run").write_text("".join(f"q1 Q0 {key} 1 {-i} t\n" for i, key in enumerate(texts)))
    mine = {**files, "corpus": str(tmp_path / "corpus.jsonl"), "run": str(tmp_path / "run")}
    bulk.rerank_run(job(mine, tmp_path / "out", depth=5), each=in_here)
    found = [line.split()[2] for line in (tmp_path / "out" / "run.trec").read_text().splitlines()]
    stage, corpus = rr.Rescore(rr.load(files["model"], prompt="monot5", threads=1), depth=5), rr.Corpus.from_jsonl(mine["corpus"])
    assert found == stage(bulk.read_queries(files["queries"])["q1"], corpus).doc_ids
    lowest = np.finfo(np.float32).min
    made = bulk.falling(np.array([2, 2, 1, lowest, lowest], np.float32))
    assert (np.diff(made) < 0).all() and made[2] == 1 and made[3] > 0.9


def test_a_model_that_does_not_load_says_why(files, tmp_path):
    for wrong, error in (({"options": {"prompt": "nope"}}, InputError), ({"options": {}}, UnsupportedModelError)):
        with pytest.raises(error):
            bulk.rerank_run(job(files, tmp_path / error.__name__, **wrong), workers=2, threads=1)
    with pytest.raises(UnknownModelError):
        bulk.rerank_run(job({**files, "model": "no-such-model"}, tmp_path / "model"))
    with pytest.raises(InputError, match="threads"):
        bulk.rerank_run(job(files, tmp_path / "threads"), threads=0)


def test_another_model_in_the_same_place_is_another_job(files, tmp_path):
    shutil.copytree(files["model"], tmp_path / "model")
    mine = {**files, "model": str(tmp_path / "model")}
    bulk.rerank_run(job(mine, tmp_path / "out"), each=in_here)
    write_t5(tmp_path / "model", num_layers=1)
    with pytest.raises(InputError, match=r"--model / Job.model: got files of hash \w{8}; expected files of hash \w{8}, as the folder's"):
        bulk.rerank_run(job(mine, tmp_path / "out"), each=in_here)


def test_long_options_that_begin_alike_are_told_apart(files, tmp_path):
    bulk._claim(job(files, tmp_path, options={"device": "cpu", "prompt": "x" * 200}))
    with pytest.raises(InputError) as told:
        bulk._claim(job(files, tmp_path, options={"device": "cpu", "prompt": "x" * 199 + "y"}))
    [got, expected] = re.findall(r"'x+\.\.\. \(hash (\w+)\)", str(told.value))
    assert got != expected and "--device" not in str(told.value)


def test_what_another_job_has_different_is_told_with_both_values(files, tmp_path):
    """And how to go on; every key, not the first one alone."""
    bulk._claim(job(files, tmp_path))
    with pytest.raises(InputError) as told:
        bulk._claim(job(files, tmp_path, part=50))
    same = f"{tmp_path} is of another job. --part / Job.part: got 50; expected 4, as the folder's job has it."
    assert str(told.value) == f"{same} Take another folder (--out / Job.out), or the same as before."
    with pytest.raises(InputError) as told:
        bulk._claim(job({**files, "run": files["corpus"]}, tmp_path, depth=9, options={"prompt": "x" * 200}))
    prompts = "--prompt / Job.options: got 'xxx", "); expected 'monot5', as"
    for words in ("--depth / Job.depth: got 9; expected 8, as", *prompts, "RUN / Job.run: got files of hash "):
        assert words in str(told.value)
    assert "Job.part" not in str(told.value) and "x" * 101 not in str(told.value)
    made = json.loads((tmp_path / bulk.MANIFEST).read_text())
    assert set(made) - {"id", "options"} == set(bulk.CALLED)
    (tmp_path / bulk.MANIFEST).write_text(json.dumps({"id": made["id"]}))
    with pytest.raises(InputError, match=r"--part / Job.part: got 4; expected nothing, as"):
        bulk._claim(job(files, tmp_path))


def test_ray_that_is_missing_leaves_nothing(files, tmp_path, capsys, monkeypatch):
    for name in ("ray", "ray.data"):  # so an import fails, as where it is not installed
        monkeypatch.setitem(sys.modules, name, None)
    command = ["rerank-run", files["run"], "--queries", files["queries"], "--corpus", files["corpus"], "--model", files["model"]]
    assert cli.main([*command, "--out", str(tmp_path / "out"), "--ray"]) == 2
    assert "pip install 'rerank-engine[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_lacking_is_counted(files, tmp_path):
    for extra, said in (("dX", "got no 'dX'; expected all"), ("dX dY", "got no 'dX', nor 1 more; expected all")):
        rows = "".join(f"q1 Q0 {name} 1 {-i} t\n" for i, name in enumerate(extra.split()))
        (tmp_path / "run").write_text(rows)
        with pytest.raises(UnknownIdError, match=f"documents: {said}"):
            bulk.rerank_run(job({**files, "run": str(tmp_path / "run")}, tmp_path / "out"), each=in_here)
    for names, said in (("qX", "got no 'qX'; expected all"), ("qX qY qZ", "got no 'qX', nor 2 more; expected all")):
        (tmp_path / "run").write_text("".join(f"{name} Q0 d1 1 1 t\n" for name in names.split()))
        with pytest.raises(UnknownIdError, match=f"queries: {said}"):
            bulk.rerank_run(job({**files, "run": str(tmp_path / "run")}, tmp_path / "out"), each=in_here)


def test_a_broken_part_is_named(files, tmp_path):
    bulk.rerank_run(job(files, tmp_path), each=in_here)
    for content in ("", "[]", '{"job": "other", "by": "x", "rows": {}}'):
        job(files, tmp_path).path(3).write_text(content)
        with pytest.raises(FileFormatError, match="part-000003"):
            bulk.rerank_run(job(files, tmp_path), each=in_here)


def test_two_jobs_at_once_do_not_share_a_folder(files, tmp_path):
    found, gate = [], threading.Barrier(2)

    def claim(part: int, out: Path) -> None:
        gate.wait()
        try:
            bulk._claim(job(files, out, part=part))
            found.append(part)
        except InputError:
            """The other was first."""

    for i in range(10):
        found.clear()
        threads = [threading.Thread(target=claim, args=(part, tmp_path / str(i))) for part in (1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 1


def test_half_a_part_is_none(files, right, tmp_path):
    """A file that was being written when the power went has another name, and is not looked at."""
    (tmp_path / ".part-000002.json.77").write_text('{"q8": {"d')
    bulk.rerank_run(job(files, tmp_path), each=in_here)
    assert (tmp_path / "run.trec").read_bytes() == right


def test_a_folder_is_one_jobs(files, tmp_path):
    bulk.rerank_run(job(files, tmp_path), each=in_here)
    for other, said in (({"depth": 9}, "depth"), ({"part": 5}, "part"), ({"options": {"prompt": "rankt5"}}, "options")):
        with pytest.raises(InputError, match=said):
            bulk.rerank_run(job(files, tmp_path, **other), each=in_here)
    with pytest.raises(InputError, match="JSON"):
        bulk.rerank_run(job(files, tmp_path, options={"prompt": object()}), each=in_here)
    (tmp_path / "job.json").unlink()
    with pytest.raises(InputError, match="nothing is known"):
        bulk.rerank_run(job(files, tmp_path), each=in_here)


def test_what_is_missing_is_told_before_any_work(files, tmp_path):
    (tmp_path / "run").write_text("q1 Q0 d1 1 2 t\nq1 Q0 dX 2 1 t\n")
    (tmp_path / "run2").write_text("q1 Q0 d1 1 2 t\nqX Q0 d1 2 1 t\n")
    (tmp_path / "none.json").write_text('{"q1": {}}')
    (tmp_path / "queries").write_text('{"_id": "q1", "text": ""}\n')
    out = tmp_path / "out"
    for wrong, error, said in (
        ({"run": str(tmp_path / "run")}, UnknownIdError, "dX"),
        ({"run": str(tmp_path / "run2")}, UnknownIdError, "qX"),
        ({"queries": str(tmp_path / "queries")}, FileFormatError, "text"),
        ({"run": str(tmp_path / "none.json")}, InputError, "no document"),
    ):
        with pytest.raises(error, match=said):
            bulk.rerank_run(job({**files, **wrong}, out), each=in_here)
    for wrong in ({"depth": 0}, {"part": 0}):
        with pytest.raises(InputError):
            bulk.rerank_run(job(files, out, **wrong), each=in_here)
    with pytest.raises(InputError):
        bulk.rerank_run(job(files, out), workers=0)
    assert not out.exists() or not list(out.iterdir())


def test_the_command(files, right, tmp_path, capsys):
    command = [
        "rerank-run",
        files["run"],
        "--queries",
        files["queries"],
        "--corpus",
        files["corpus"],
        "--model",
        files["model"],
        "--prompt",
    ]
    command += ["monot5", "--depth", "8", "--part", "4", "--threads", "1", "--out", str(tmp_path)]
    assert cli.main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parts"] == 6 and (tmp_path / "run.trec").read_bytes() == right
    assert cli.main(command) == 0
    assert "6 of them done before" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_forms_of_files(files, right, tmp_path, form):
    """The run comes in this form, and is read again as the run."""
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    bulk.rerank_run(job(files, tmp_path), each=in_here, form=form)
    rr.evaluation.write_run(tmp_path / "again", rr.evaluation.read_run(tmp_path / f"run.{form}"))
    assert (tmp_path / "again").read_bytes() == right
    with pytest.raises(InputError, match="form"):
        bulk.rerank_run(job(files, tmp_path), each=in_here, form="csv")


PAIRS = {"query": ["cats", "cats", "fleas"], "document": ["cats w1", None, "dogs"]}


def expected(files: dict[str, str]) -> tuple[Any, list[float]]:
    model = rr.load(files["model"], prompt="monot5")
    return model, model.predict([(q, t or "") for q, t in zip(*PAIRS.values())]).values.tolist()


def test_batches_of_columns(files):
    model, scores = expected(files)
    (found,) = bulk.score_batches([PAIRS], model)
    assert found["score"].dtype == np.float32 and found["score"].tolist() == pytest.approx(scores) and found["query"] is PAIRS["query"]
    for wrong in ({**PAIRS, "query": ["a", None, "b"]}, {**PAIRS, "document": ["a", b"b", "c"]}, {**PAIRS, "query": ["a"]}):
        with pytest.raises(InputError):
            next(bulk.score_batches([wrong], model))
    with pytest.raises(InputError, match=r"\[batch\]"):
        next(bulk.score_batches(PAIRS, model))
    with pytest.raises(InputError, match="text"):
        next(bulk.score_batches([PAIRS], model, document="text"))


def test_batches_of_pandas(files):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    model, scores = expected(files)
    found = list(bulk.score_batches([pandas.DataFrame(PAIRS)] * 2, model))
    assert len(found) == 2 and found[1]["score"].tolist() == pytest.approx(scores) and list(found[0]) == ["query", "document", "score"]


def test_batches_of_arrow(files):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    model, scores = expected(files)
    for batch in (pyarrow.table(PAIRS), pyarrow.RecordBatch.from_pydict(PAIRS)):
        (found,) = bulk.score_batches([batch], model, score="s")
        assert found.column("s").to_pylist() == pytest.approx(scores) and found.schema.names == ["query", "document", "s"]


def test_batches_in_other_processes():
    """By plain multiprocessing: each process loads the model once and has its share of the batches."""
    try:
        model = rr.load(BUNDLED)
    except MissingDependency as error:
        pytest.skip(str(error))
    batches = [{"query": ["flea bath"] * 3, "document": [f"Fleas bite {i} dogs.", "A flea bath helps.", ""]} for i in range(4)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = [batch for share in pool.map(scored, [batches[:2], batches[2:]]) for batch in share]
    for batch, got in zip(batches, found, strict=True):
        right = model.predict(list(zip(batch["query"], batch["document"]))).values
        assert got["document"] == batch["document"] and got["score"].dtype == np.float32
        assert np.array_equal(got["score"], np.maximum(right, LOWEST).astype(np.float32))
