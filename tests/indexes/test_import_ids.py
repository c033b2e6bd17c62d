"""Ids, texts and corpora of index folders of other engines."""

from __future__ import annotations

import json
import pickle  # noqa: TID251  # what other engines keep their ids in
import shutil
from pathlib import Path

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine.errors import FileFormatError, InputError, UnsafeModelError
from rerank_engine.indexes.imports import read_colbert, read_index, read_plaid

DATA = Path(__file__).parent / "data"
IDS = "plaid_ids_to_documents_ids.pkl"


@pytest.fixture
def colbert(tmp_path):
    return Path(shutil.copytree(DATA / "colbert", tmp_path / "colbert"))


@pytest.fixture
def pylate(tmp_path):
    return Path(shutil.copytree(DATA / "pylate", tmp_path / "pylate"))


def test_ids(pylate, colbert):
    def ids(text):
        return b"\x80\x02}(" + text + b"u."

    ten = b"".join(b"K" + bytes([row]) + b"K" + bytes([row + 100]) for row in range(19))
    (colbert / IDS).write_bytes(ids(ten + b"K\x13X\x01\x00\x00\x00x"))
    assert read_colbert(colbert).ids == [*map(str, range(100, 119)), "x"] and read_colbert(colbert, ids=False).ids is None
    (colbert / IDS).write_bytes(ids(ten))
    with pytest.raises(FileFormatError, match="has tokens"):
        read_colbert(colbert)
    last = json.loads((colbert / "doclens.2.json").read_text())
    (colbert / "doclens.2.json").write_text(json.dumps([*last[:-2], sum(last[-2:]), 0]))  # a passage that was removed has no tokens
    found = read_colbert(colbert)
    assert len(found.tokens) == len(found.ids) == 19 and found.notes == ("1 deleted documents are left out",)
    for wrong in (b"\x80\x02].", ids(b"K\x00K\x00K\x20K\x00"), ids(b"K\x00]"), ids(b"X\x01\x00\x00\x00xK\x00"), b"", b"junk"):
        (pylate / IDS).write_bytes(wrong)
        with pytest.raises(FileFormatError):
            read_plaid(pylate)
    (pylate / IDS).unlink()
    (pylate / "plaid_ids_to_documents_ids.sqlite").touch()
    assert read_plaid(pylate / "fast_plaid_index").notes == ("plaid_ids_to_documents_ids.sqlite is not read: the documents are numbered",)


def dump(folder, ids, protocol=4):
    (folder / IDS).write_bytes(pickle.dumps(ids, protocol))


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_ids_that_are_numbers_and_strings_of_numpy(pylate, protocol):
    ids = [np.int64(-7), np.uint8(200), np.str_("ab"), np.str_("ä🐟"), np.str_(""), np.array([5], ">i4")[0], "x", 10**30]
    dump(pylate, dict(enumerate([*ids, *map(np.int32, range(1000, 1012))])), protocol)
    assert read_plaid(pylate).ids == ["-7", "200", "ab", "ä🐟", "", "5", "x", "1" + "0" * 30, *map(str, range(1000, 1012))]


def test_an_id_that_was_added_again_counts_where_it_came_last(pylate):
    whole = read_plaid(pylate).tokens
    dump(pylate, {row: f"doc-{row % 15}" for row in range(20)})
    found, notes = read_plaid(pylate), []
    assert found.ids == [f"doc-{row % 15}" for row in range(5, 20)] and found.notes == (
        "5 documents are left out whose ids were added again later",
    )
    assert np.array_equal(found.tokens.decode().values, whole.decode(range(5, 20)).values)
    index = rr.TokenIndex.import_folder(pylate, notes=notes)
    query = np.eye(3, 16, dtype=np.float32)
    assert np.array_equal(index.score(query), rr.ops.residual_maxsim(query, whole)[5:]) and notes == list(found.notes)
    dump(pylate, {**{row: row for row in range(19)}, 19: "0"})
    with pytest.raises(FileFormatError, match="the id '0' of two documents"):
        read_plaid(pylate)


def test_numbers_too_large_to_print(pylate):
    for protocol in (2, 4):
        dump(pylate, {10**4000: "x"}, protocol)
        with pytest.raises(FileFormatError):
            read_plaid(pylate)


def ragatouille(folder, documents, texts=None):
    (folder / "pid_docid_map.json").write_text(json.dumps(documents))
    if texts is not None:
        (folder / "collection.json").write_text(json.dumps(texts))


def test_a_folder_of_ragatouille(colbert):
    texts, notes = [f"text {row}" for row in range(20)], []
    ragatouille(colbert, {str(row): "a" if row in (3, 7, 8) else f"d{row}" for row in range(20)}, texts)
    index = rr.TokenIndex.import_folder(colbert, notes=notes)
    want = [f"d{row}" for row in range(20)]
    want[3], want[7], want[8] = "a#0", "a#1", "a#2"
    assert index.corpus.ids == want and [document.text for document in index.corpus] == texts
    assert notes == ["passages of one document are named `document#0`, `document#1`, and so on"]
    assert read_colbert(colbert, ids=False).texts is None
    ragatouille(colbert, dict.fromkeys(map(str, range(20)), 5))
    assert read_index(colbert).ids == [f"5#{row}" for row in range(20)]
    ragatouille(colbert, {str(row): ["a", "a", "a#1"][min(row, 2)] + "x" * max(0, row - 2) for row in range(20)})
    with pytest.raises(FileFormatError, match="the id 'a#1' of two documents"):
        read_index(colbert)
    right = {str(row): f"d{row}" for row in range(20)}
    wrong_maps = ({**right, "x": "y"}, {**right, "5": None}, {**right, "20": "y"}, {**right, "-1": "y"}, {"0": "y"}, [])
    wrong_texts = (texts[1:], [*texts[1:], 5], {})
    for documents, wrong in (*((right, wrong) for wrong in wrong_texts), *((wrong, texts) for wrong in wrong_maps)):
        ragatouille(colbert, documents, wrong)
        with pytest.raises(FileFormatError):
            read_index(colbert)
    (colbert / "collection.json").unlink()
    ragatouille(colbert, right)
    assert read_index(colbert).texts is None and read_index(colbert).ids == list(right.values())


def test_a_folder_of_ragatouille_from_which_passages_were_deleted(colbert):
    """It leaves the others their numbers, but not their places among the texts."""
    last = json.loads((colbert / "doclens.2.json").read_text())
    (colbert / "doclens.2.json").write_text(json.dumps([*last[:-2], 0, sum(last[-2:])]))
    ragatouille(colbert, {str(row): f"d{row}" for row in range(20) if row != 18}, ["text"] * 19)
    found = read_index(colbert)
    assert found.ids == [f"d{row}" for row in range(20) if row != 18] and found.texts is None
    assert found.notes == ("1 deleted documents are left out", "collection.json is not read, since passages were deleted: texts are empty")
    assert set(rr.TokenIndex.import_folder(colbert).corpus.texts()) == {""}


def test_a_corpus_for_a_folder_with_ids(pylate):
    whole, query, ids = read_plaid(pylate), np.eye(3, 16, dtype=np.float32), [f"doc-{row}" for row in range(20)]
    want = rr.ops.residual_maxsim(query, whole.tokens)
    for order in (range(20), np.random.default_rng(0).permutation(20).tolist()):
        corpus, notes = rr.Corpus.from_texts([f"text {row}" for row in order], ids=[ids[row] for row in order]), []
        index = rr.TokenIndex.import_folder(pylate, corpus, notes=notes)
        assert index.corpus is corpus and notes == [] and np.array_equal(index.score(query), want[list(order)])
    notes = []
    index = rr.TokenIndex.import_folder(pylate, rr.Corpus.from_texts([""] * 20), notes=notes)
    assert np.array_equal(index.score(query), want)
    assert notes == ["the ids of the corpus are none of the folder's: taken in the folder's order"]
    for wrong in (ids[:19], [*ids, "x"], [*ids[:19], "x"]):
        with pytest.raises(InputError, match="of them with an id of the folder's 20; expected the folder's documents"):
            rr.TokenIndex.import_folder(pylate, rr.Corpus.from_texts([""] * len(wrong), ids=wrong))
    with pytest.raises(InputError, match="a Corpus"):
        rr.TokenIndex.import_folder(pylate, [])


def test_ids_that_are_more_than_data_are_not_needed_with_a_corpus(pylate, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (pylate / IDS).write_bytes(b"cos\nsystem\n(X\x0c\x00\x00\x00touch hackedtR.")
    with pytest.raises(UnsafeModelError):
        rr.TokenIndex.import_folder(pylate)
    notes = []
    index = rr.TokenIndex.import_folder(pylate, rr.Corpus.from_texts(["x"] * 20), notes=notes)
    assert len(index) == 20 and len(notes) == 1 and "ids are not read" in notes[0] and not (tmp_path / "hacked").exists()
