from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from rerank_engine import BM25Index, Corpus, Document
from rerank_engine.corpus import aligned, rows_in
from rerank_engine.errors import DuplicateIdError, FileFormatError, InputError, UnknownIdError


def test_from_texts() -> None:
    corpus = Corpus.from_texts(["x", "y"], titles=["", "T"], metadata=[{"a": 1}, {}])
    assert corpus.ids == ["0", "1"]
    assert corpus.texts() == ["x", "T y"]
    assert corpus.texts([1, 1, 0]) == ["T y", "T y", "x"]
    assert corpus[0].metadata == {"a": 1}
    assert corpus.row("1") == 1
    assert len(Corpus.from_texts([])) == 0


def test_sha256_depends_on_ids_texts_and_order_and_on_nothing_else() -> None:
    base = Corpus.from_texts(["x", "y"])
    assert base.sha256 == Corpus.from_texts(["x", "y"], metadata=[{"k": 1}, {}]).sha256
    others = [Corpus.from_texts(["y", "x"]), Corpus.from_texts(["xy", ""]), Corpus.from_texts(["x", "y"], ids=["0", "2"])]
    assert len({base.sha256, *(other.sha256 for other in others)}) == 4


@pytest.mark.parametrize("compress", [False, True])
def test_from_jsonl_reads_the_fields_of_the_field(tmp_path: Path, compress: bool) -> None:
    records = [
        {"_id": "p", "title": "T", "text": "x", "year": 2020},
        {"id": 7, "contents": "é", "metadata": {"lang": "fr"}},
        {"text": "no id"},
    ]
    data = ("\n".join(map(json.dumps, records)) + "\n\n").encode()
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(gzip.compress(data) if compress else data)
    corpus = Corpus.from_jsonl(path)
    assert corpus.ids == ["p", "7", "2"]
    assert corpus[0] == Document("p", "x", "T", {"year": 2020})
    assert corpus[1].metadata == {"lang": "fr"}
    assert corpus[1].text == "é"


def test_other_names_are_metadata(tmp_path: Path) -> None:
    """Pieces of a document name it, each the same, and have no id of their own."""
    (tmp_path / "c.jsonl").write_text('{"text": "a", "doc_id": "d", "docno": 1}\n{"text": "b", "doc_id": "d", "docno": 1}\n')
    corpus = Corpus.from_jsonl(tmp_path / "c.jsonl")
    assert corpus.ids == ["0", "1"] and corpus[1].metadata == {"doc_id": "d", "docno": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "broken JSON"),
        ("[1]", "got list"),
        ("[" * 100_000, "broken JSON"),
        ('{"_id": null, "text": "x"}', "id None"),
        ('{"_id": true, "text": "x"}', "id True"),
        ('{"_id": "a"}', "the text None"),
        ('{"_id": "a", "text": 5}', "the text 5"),
        ('{"_id": "a", "text": "x", "title": 5}', "the title 5"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": "ok", "text": "fine"}\n' + line)
    with pytest.raises(FileFormatError, match=message) as error:
        Corpus.from_jsonl(path)
    assert "line 2" in str(error.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="No such file"):
        Corpus.from_jsonl(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"_id": "a", "text": "\xe9"}')
    with pytest.raises(FileFormatError, match="UTF-8"):
        Corpus.from_jsonl(tmp_path / "latin.jsonl")
    whole = gzip.compress(b'{"_id": "a", "text": "x"}\n' * 100)
    for name, data in (("cut", whole[:-20]), ("flipped", whole[:15] + b"\xff" * 8 + whole[23:])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FileFormatError):
            Corpus.from_jsonl(tmp_path / name)
    with pytest.raises(FileFormatError, match=r"corpus\.jsonl"):
        Corpus.from_beir(tmp_path)


def test_wrong_arguments() -> None:
    with pytest.raises(DuplicateIdError, match="rows 0 and 2"):
        Corpus.from_texts(["x", "y", "z"], ids=["a", "b", "a"])
    with pytest.raises(InputError, match="one string"):
        Corpus.from_texts("text")
    with pytest.raises(InputError, match="2 entries"):
        Corpus.from_texts(["x"], ids=["a", "b"])
    with pytest.raises(InputError, match="text: got 5"):
        Corpus.from_texts([5])  # type: ignore[list-item]
    with pytest.raises(InputError, match="from_texts"):
        Corpus(["x"])  # type: ignore[list-item]
    with pytest.raises(UnknownIdError, match="'q'"):
        Corpus.from_texts(["x"]).row("q")
    with pytest.raises(UnknownIdError, match="row -1"):
        Corpus.from_texts(["x"]).texts([-1])
    assert Corpus.from_texts(["x", "y"], ids=np.array(["a", "b"])).ids == ["a", "b"]
    with pytest.raises(KeyError):
        Corpus.from_texts(["x"]).row("q")


def test_real_collections_load(shared_data: Path) -> None:
    corpus = Corpus.from_beir(shared_data / "scifact")
    assert len(corpus) == 5183
    assert all(corpus.row(doc_id) == row for row, doc_id in enumerate(corpus.ids))


def test_corpora_of_the_same_ids_in_the_same_rows_are_aligned(tmp_path):
    documents = [Document(f"d{i}", f"text {i}") for i in range(5)]
    one, other, turned = Corpus(documents), Corpus(documents), Corpus(documents[::-1])
    for name, corpus, how in (("a", one, {}), ("b", one, {"analyzer": "english"}), ("c", turned, {})):
        BM25Index.build(corpus, **how).save(tmp_path / name)
    a, b, c = (BM25Index.open(tmp_path / name).corpus for name in "abc")
    folder = BM25Index.create(tmp_path / "folder")
    for half in (documents[:3], documents[3:]):
        folder.add(half)
        folder.commit()
    joined = folder.corpus
    folder.delete(["d4"])
    folder.commit()
    same = [(one, other), (a, b), (one, a), (joined, one), (joined, a)]
    unlike = [(one, turned), (a, c), (one, Corpus(documents[:4])), (folder.corpus, one), (a, folder.corpus)]
    for pairs, expected in ((same, True), (unlike, False)):
        for left, right in pairs:
            assert aligned(left, right) is aligned(right, left) is expected
            assert aligned(left, right) is expected  # remembered
    for left, right in [*same, *unlike[:2]]:
        assert [left.id_of(row) for row in rows_in(left, right, np.arange(5), "q", "w")] == [right.id_of(row) for row in range(5)]
    with pytest.raises(UnknownIdError):  # deleted there
        rows_in(folder.corpus, one, np.arange(5), "q", "w")
