"""Collections: BEIR folders, ids of ir_datasets by a stand-in and by the package itself, and the average over several."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rerank_engine.bulk import read_queries
from rerank_engine.errors import FileFormatError, InputError, MissingDependency
from rerank_engine.evaluation import Collection, evaluate, evaluate_collections, load_beir, load_collection, load_judgments


def write_folder(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "a", "title": "T", "text": "x"}\n{"_id": "b", "text": "y"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "one", "answers": ["x"]}\n{"_id": "q2", "text": "two"}\n')
    for split in ("test", "dev"):
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{'q1' if split == 'test' else 'q2'}\ta\t1\n")
    return folder


def test_a_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "c")
    collection = load_collection(folder)
    assert [(q.id, q.text) for q in collection.queries] == [("q1", "one")] and collection.answers == {"q1": ["x"]}
    assert collection.corpus.ids == ["a", "b"] and collection.qrels == {"q1": {"a": 1}}
    assert load_collection(str(folder), "dev").qrels == load_beir(folder, "dev").qrels == {"q2": {"a": 1}}
    (folder / "corpus.jsonl").unlink()
    assert load_judgments(folder)[1:] == ({"q1": {"a": 1}}, {"q1": ["x"]})
    with pytest.raises(FileFormatError, match="corpus"):
        load_collection(folder)


def test_a_query_may_come_again_where_nothing_judges_it(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "c")
    with open(folder / "queries.jsonl", "a") as file:
        file.write('{"_id": "q2", "text": "two again"}\n')
    assert [(q.id, q.text) for q in load_beir(folder).queries] == [("q1", "one")]
    with pytest.raises(FileFormatError, match="line 3: got the query 'q2' again"):
        load_beir(folder, "dev")
    with pytest.raises(FileFormatError, match="line 3: got the query 'q2' again"):
        read_queries(str(folder))


class Dataset(SimpleNamespace):
    """As much of ir_datasets as is asked for. kinds: what it has."""

    kinds = ("docs", "queries", "qrels")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("has_"):
            return lambda: name[4:] in self.kinds
        raise AttributeError(name)

    def docs_iter(self) -> list[Any]:
        full = SimpleNamespace(doc_id="d3", default_text=lambda: "Title and body")
        return [SimpleNamespace(doc_id="d1", title="T", text="x"), SimpleNamespace(doc_id="d2", text="y"), full]

    def queries_iter(self) -> list[Any]:
        several = SimpleNamespace(query_id="2", default_text=lambda: "two")
        return [SimpleNamespace(query_id="1", text="one"), several, SimpleNamespace(query_id="3", text="unjudged")]

    def qrels_iter(self) -> list[Any]:
        return [SimpleNamespace(query_id=q, doc_id=d, relevance=r) for q, d, r in (("1", "d1", 1), ("2", "d9", 2), ("1", "d2", 0))]


def test_an_id_of_ir_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Dataset:
        if name != "some/set":
            raise KeyError(name)
        return Dataset()

    monkeypatch.setitem(sys.modules, "ir_datasets", SimpleNamespace(load=load))
    collection = load_collection("some/set")
    assert isinstance(collection, Collection) and collection.qrels == {"1": {"d1": 1, "d2": 0}, "2": {"d9": 2}}
    assert [(q.id, q.text) for q in collection.queries] == [("1", "one"), ("2", "two")] and collection.answers == {"1": [], "2": []}
    assert [(d.id, d.title, d.text) for d in collection.corpus] == [("d1", "T", "x"), ("d2", "", "y"), ("d3", "", "Title and body")]
    assert load_judgments("some/set")[1:] == (collection.qrels, collection.answers)
    assert evaluate_collections({"x": ("some/set", {"1": {"d1": 1.0}})}, ["P@1"])["average"] == {"P@1": 0.5}
    with pytest.raises(InputError, match="got other/set; expected a folder or an id"):
        load_collection("other/set")
    monkeypatch.setattr(Dataset, "kinds", ("docs", "queries"))
    with pytest.raises(InputError, match="no qrels"):
        load_collection("some/set")


def test_without_the_package_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingDependency, match=r"'beir/x' is no folder.*pip install ir-datasets"):
        load_collection("beir/x")


def test_a_broken_package_is_not_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ir_datasets.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ir_datasets", raising=False)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        load_collection("beir/x")


def test_the_real_ir_datasets(tmp_path: Path) -> None:
    ir_datasets = pytest.importorskip("ir_datasets", reason="ir_datasets is not installed")
    (tmp_path / "docs.tsv").write_text("d1\tred apple\nd2\tblue sky\n")
    (tmp_path / "queries.tsv").write_text("1\tapple\n2\tsky\n")
    (tmp_path / "qrels").write_text("1 0 d1 1\n")
    made = ir_datasets.create_dataset(*(str(tmp_path / name) for name in ("docs.tsv", "queries.tsv", "qrels")))
    ir_datasets.registry.register("rerank-engine-test", made)
    collection = load_collection("rerank-engine-test")
    assert (
        collection.qrels == {"1": {"d1": 1}}
        and [q.text for q in collection.queries] == ["apple"]
        and collection.corpus.texts() == ["red apple", "blue sky"]
    )
    with pytest.raises(InputError, match="no-such"):
        load_collection("no-such/dataset")


def test_the_average_counts_each_collection_once() -> None:
    qrels, run = {"q1": {"a": 1}, "q2": {"a": 1}}, {"q1": {"a": 1.0}}
    one, two = (qrels, run), ({"q1": {"a": 1}}, run)
    found = evaluate_collections({"one": one, "two": two}, ["nDCG@10", "R@5"])
    assert list(found) == ["one", "two", "average"] and found["one"] == evaluate(*one, ["nDCG@10", "R@5"])
    assert found["average"] == {"nDCG@10": 0.75, "R@5": 0.75}, json.dumps(found)
    for wrong in ({}, {"average": one}):  # type: ignore[var-annotated]
        with pytest.raises(InputError, match="names"):
            evaluate_collections(wrong, ["MRR"])


def test_collections_by_their_folders_and_files(tmp_path: Path) -> None:
    folder, run = write_folder(tmp_path / "c"), tmp_path / "run.txt"
    run.write_text("q1 Q0 b 1 2.0 t\nq1 Q0 a 2 1.0 t\nq2 Q0 a 1 1.0 t\n")
    found = evaluate_collections({"c": (folder, str(run)), "again": (str(folder), {"q1": {"a": 1.0}})}, ["MRR"])
    assert found == {"c": {"MRR": 0.5}, "again": {"MRR": 1.0}, "average": {"MRR": 0.75}}
    assert evaluate_collections({"c": (folder, run)}, ["MRR"], split="dev")["average"] == {"MRR": 1.0}
    with pytest.raises(FileFormatError, match=r"none\.txt"):
        evaluate_collections({"c": (folder, tmp_path / "none.txt")}, ["MRR"])
