"""Vector and impact indexes on the command line, by tiny models with numbers of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from models import states_of, write_encoder
from sparse_models import sparse_encoder
from test_cli_index import fails, run

from rerank_engine import cli
from rerank_engine.commands import encoded
from rerank_engine.corpus import Corpus
from rerank_engine.indexes import VectorIndex
from rerank_engine.indexes.impacts import ImpactIndex
from rerank_engine.runtimes import load
from rerank_engine.stages.splade import SPLADE

TEXTS = ["w1 w2", "w3 w4 w5", "w6", "w7 w8"]
ENCODER_OF = encoded.encoder_of


def write_corpus(path: Path, texts: list[str], first: int = 0) -> str:
    path.write_text("".join(json.dumps({"_id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts, first)))
    return str(path)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    return write_corpus(tmp_path / "corpus.jsonl", TEXTS)


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "index")


@pytest.fixture
def dense(tmp_path: Path) -> str:
    pytest.importorskip("onnxruntime", reason="the model is an ONNX file")
    return str(write_encoder(tmp_path / "dense"))


@pytest.fixture
def sparse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `--sparse table-0` loads: weights that a table says, so no runtime is needed."""
    made = sparse_encoder(tmp_path / "sparse")

    def encoder_of(kind: str, name: str, threads: int | None) -> object:
        return made if name == made.model else ENCODER_OF(kind, name, threads)

    monkeypatch.setattr(encoded, "encoder_of", encoder_of)
    return made.model


def test_vectors(capsys: pytest.CaptureFixture[str], corpus: str, out: str, dense: str) -> None:
    made = run(capsys, "index", corpus, out, "--vectors", dense, "--threads", "1")
    assert made == {"index": out, "documents": 4, "dim": 3, "kind": "exact", "metric": "inner product"}
    found = run(capsys, "search", out, "w1 w2", "-k", "3")  # the folder of its model is here
    means = np.stack([states_of(text).mean(0) for text in TEXTS])
    scores = means @ means[0]
    assert [r["id"] for r in found["results"]] == [f"d{i}" for i in np.argsort(-scores, kind="stable")[:3]]
    assert [r["score"] for r in found["results"]] == pytest.approx(sorted(scores.tolist(), reverse=True)[:3], rel=1e-5)
    assert [set(r) for r in found["results"]] == [{"rank", "id", "score", "text"}] * 3
    assert (checked := run(capsys, "check", out))["ok"] and (checked["documents"], checked["kind"]) == (4, "exact")
    for command in (["search", out, "w1"], ["check", out], ["index", corpus, out, "--vectors", dense]):
        assert cli.main(command) == 0
        assert "{" not in capsys.readouterr().out


def test_a_kind_and_a_dimension(capsys: pytest.CaptureFixture[str], corpus: str, out: str, dense: str) -> None:
    pytest.importorskip("faiss", reason="approximate kinds are faiss's")
    made = run(capsys, "index", corpus, out, "--vectors", dense, "--kind", "hnsw", "--dim", "2")
    assert (made["kind"], made["dim"]) == ("hnsw", 2)
    assert VectorIndex.open(out).given_dim == 3 and len(run(capsys, "search", out, "w1")["results"]) == 4
    assert "at most 3" in fails(capsys, "index", corpus, out + "2", "--vectors", dense, "--dim", "4")


def test_vectors_of_half_the_bytes(capsys: pytest.CaptureFixture[str], corpus: str, out: str, dense: str) -> None:
    for options, kept in ((["--keep", "float16"], "float16"), (["--keep", "float32"], "float32"), ([], "float32")):
        run(capsys, "index", corpus, out, "--vectors", dense, *options)
        assert VectorIndex.open(out).keep == kept == run(capsys, "check", out)["keep"]


def test_a_build_that_was_stopped_goes_on(capsys: pytest.CaptureFixture[str], tmp_path: Path, out: str, dense: str) -> None:
    texts = [f"w{i % 60} w{i % 7}" for i in range(300)]
    corpus, encoder, stopped = write_corpus(tmp_path / "c.jsonl", texts), load(dense, threads=1), list[int]()

    def stop(done: int, total: int) -> None:
        stopped.append(done)
        if done > 256:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        VectorIndex.build(Corpus(Corpus.stream(corpus)), encoder, path=out, progress=stop)
    other = write_corpus(tmp_path / "other.jsonl", texts[1:])
    assert cli.main(["index", other, out, "--vectors", dense]) == 2 and "unfinished build of other" in capsys.readouterr().err
    assert cli.main(["index", corpus, out, "--vectors", dense, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["documents"] == 300 and f"found an unfinished build, {out}.partial" in captured.err
    assert not Path(out + ".partial").exists() and run(capsys, "check", out)["documents"] == 300
    assert "unfinished" not in (cli.main(["index", corpus, out, "--vectors", dense]), capsys.readouterr().err)[1]


@pytest.mark.parametrize("folder", [[], ["--folder"]])
def test_impacts(capsys: pytest.CaptureFixture[str], corpus: str, out: str, sparse: str, folder: list[str]) -> None:
    made = run(capsys, "index", corpus, out, "--sparse", sparse, *folder)
    index, encoder = ImpactIndex.open(out), encoded.encoder_of(encoded.IMPACTS, sparse, None)
    assert made == {"index": out, "documents": 4, "postings": index.n_postings}
    assert "whose model is not at hand" in (message := fails(capsys, "search", out, "w1 w2")) and sparse in message
    found = run(capsys, "search", out, "w1 w2", "--model", sparse, "--explain", "-k", "2")["results"]
    ranking = SPLADE(index, encoder, k=2)("w1 w2")
    assert [(r["id"], r["score"]) for r in found] == list(zip(ranking.doc_ids, ranking.scores.tolist()))
    for result in found:
        assert {"term", "query", "document", "score"} == set(result["terms"][0]) and isinstance(result["terms"][0]["term"], str)
        assert sum(term["score"] for term in result["terms"]) == pytest.approx(result["score"], rel=1e-6)
        assert all(term["query"] * term["document"] == pytest.approx(term["score"]) for term in result["terms"])
    assert cli.main(["search", out, "w1 w2", "--model", sparse, "--explain"]) == 0
    shown = capsys.readouterr().out
    assert "{" not in shown and f"\n{found[0]['id']}\nterm" in shown and f"{found[0]['terms'][0]['score']:.4f}" in shown
    checked = run(capsys, "check", out)
    assert (checked["ok"], checked["documents"], checked["postings"]) == (True, 4, index.n_postings)


def test_an_impact_folder_takes_more(capsys: pytest.CaptureFixture[str], tmp_path: Path, corpus: str, out: str, sparse: str) -> None:
    run(capsys, "index", corpus, out, "--sparse", sparse, "--folder")
    more = write_corpus(tmp_path / "more.jsonl", ["w9", "w10 w11"], first=3)
    assert "the id 'd3'" in fails(capsys, "index", more, out, "--sparse", sparse, "--folder")
    assert run(capsys, "index", more, out, "--sparse", sparse, "--folder", "--update")["documents"] == 5
    run(capsys, "index", corpus, out + "b", "--folder")
    assert "not of impacts" in fails(capsys, "index", more, out + "b", "--sparse", sparse, "--folder")
    fails(capsys, "index", corpus, str(tmp_path / "none" / "x"), "--sparse", sparse)
    fails(capsys, "index", write_corpus(tmp_path / "nan.jsonl", ["nan"]), str(tmp_path / "new"), "--sparse", sparse, "--folder")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vectors", "m", "--tokens", "n"], "index: got --tokens and --vectors; expected one of them"),
        (
            ["--vectors", "m", "--folder"],
            "--folder: got a vector index (--vectors MODEL); expected a BM25 index, a token index (--tokens MODEL) or",
        ),
        (["--vectors", "m", "--update"], "--update: got a vector index"),
        (
            ["--vectors", "m", "--storage", "2bit"],
            "--storage: got a vector index (--vectors MODEL); expected a token index (--tokens MODEL)",
        ),
        (["--vectors", "m", "--kind", "tree"], "--kind: got tree; expected one of auto, exact"),
        (["--vectors", "m", "--dim", "0"], "--dim: got 0"),
        (["--vectors", "m", "--keep", "int8"], "--keep: got int8; expected one of float32, float16"),
        (["--keep", "float16"], "--keep: got a BM25 index; expected a vector index (--vectors MODEL) with it"),
        (["--sparse", "m", "--dim", "2"], "--dim: got an impact index (--sparse MODEL); expected a vector index (--vectors MODEL)"),
        (["--sparse", "m", "--no-codes"], "--no-codes: got an impact index"),
        (["--sparse", "m", "--update"], "--update: got an index in one file"),
        (["--kind", "hnsw"], "--kind: got a BM25 index; expected a vector index (--vectors MODEL) with it"),
        (["--vectors", "no-such-model"], "no-such-model"),
        (["--sparse", "{dense}"], "expected a sparse encoder"),
    ],
)
def test_builds_that_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, corpus: str, out: str, dense: str, options: list[str], message: str
) -> None:
    assert message in fails(capsys, "index", corpus, out, *(option.format(dense=dense) for option in options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "dense"]


def test_searches_that_are_refused(capsys: pytest.CaptureFixture[str], corpus: str, out: str, dense: str, sparse: str) -> None:
    run(capsys, "index", corpus, out + "v", "--vectors", dense)
    run(capsys, "index", corpus, out + "s", "--sparse", sparse)
    run(capsys, "index", corpus, out + "f", "--sparse", sparse, "--folder")
    for place, kind in (("v", "a vector index"), ("s", "an impact index"), ("f", "an impact index")):
        for option in (["--k1", "1"], ["--variant", "bm25+"], ["--rm3"], ["--html", "x"]):
            assert f"{option[0]}: got {kind}; expected a" in fails(capsys, "search", out + place, "w1", *option)
        assert "QUERY: got an empty text" in fails(capsys, "search", out + place, " ")
        assert "threads: got 0" in fails(capsys, "search", out + place, "w1", "--threads", "0", "--model", dense)
    assert "--explain: got a vector index" in fails(capsys, "search", out + "v", "w1", "--explain")
    assert "expected a sparse encoder" in fails(capsys, "search", out + "s", "w1", "--model", dense)
    Path(out + "v").write_bytes(Path(out + "v").read_bytes()[:-1])
    for command in (["check", out + "v"], ["search", out + "v", "w1"]):
        assert "damaged" in fails(capsys, *command)
