from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import QUERIES, corpus, ranked

import rerank_engine as rr
from rerank_engine.errors import FileFormatError, InputError, UnknownIdError
from rerank_engine.evaluation.beir import load_beir

TEXTS = ["the red apple", "green apples and red apples", "a blue sky", ""]
CORPUS = rr.Corpus.from_texts(TEXTS, titles=["", "Fruit", "", ""])


def test_search_analyses_queries_as_documents() -> None:
    index = rr.BM25Index.build(CORPUS)
    (rows, scores), (none, _), (empty, _), (stop, _) = index.search(["APPLES!", "zebra", "", "the and a"], 10)
    assert rows.tolist() == [0, 1]
    assert none.size == empty.size == stop.size == 0
    idf, mean = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5)), (2 + 5 + 2 + 0) / 4
    assert scores[1] == pytest.approx(idf * 2 / (2 + 1.2 * (0.25 + 0.75 * 5 / mean)), rel=1e-6)
    assert "4 documents" in repr(index)


def test_titles_count_and_k_cuts() -> None:
    index = rr.BM25Index.build(CORPUS)
    assert index.search(["fruit"], 5)[0][0].tolist() == [1]
    assert index.search(["red"], 1)[0][0].size == 1


def test_progress_and_custom_analyzers() -> None:
    seen: list[tuple[int, int]] = []
    corpus = rr.Corpus.from_texts([f"w{i}" for i in range(2500)])
    index = rr.BM25Index.build(corpus, analyzer=str.split, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1000, 2500), (2000, 2500), (2500, 2500)]
    assert index.search(["w7"], 3)[0][0].tolist() == [7]
    assert rr.BM25Index.build(CORPUS, analyzer="simple").search(["the"], 3)[0][0].tolist() == [0]


def test_a_corpus_without_any_term_is_searched_in_vain() -> None:
    index = rr.BM25Index.build(rr.Corpus.from_texts(["", "the"]))
    assert index.search(["the apple"], 3)[0][0].size == 0


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_backends_agree_on_a_real_collection(shared_data: Path, backend: str) -> None:
    collection = load_beir(shared_data / "cranfield")
    queries = [query.text for query in collection.queries[:20]]
    want = rr.BM25Index.build(collection.corpus, backend="reference").search(queries, 50)
    for (rows, scores), (rows2, scores2) in zip(
        rr.BM25Index.build(collection.corpus, backend=backend).search(queries, 50, threads=2), want
    ):
        np.testing.assert_allclose(scores, scores2, rtol=1e-5)
        moved = rows != rows2
        assert np.allclose(scores[moved], scores2[moved], rtol=1e-6)


# Floors: bm25s with its own tokeniser reaches these +- 0.02 (k1 = 1.5, b = 0.75, Snowball stemmer).
FLOORS = {"scifact": 0.6863, "cranfield": 0.3824, "cisi": 0.3956, "vaswani": 0.4280, "rag-xquad-en": 0.9263, "trec-dl19-pool": 0.4074}


@pytest.mark.parametrize("name", FLOORS)
def test_quality_on_real_collections(shared_data: Path, name: str) -> None:
    collection = load_beir(shared_data / name)
    bm25 = rr.BM25(rr.BM25Index.build(collection.corpus, k1=1.5), k=10, threads=2)
    rankings = bm25.run(collection.queries)
    run = {str(q.id): dict(zip(r.doc_ids, r.scores.tolist())) for q, r in zip(collection.queries, rankings)}
    assert rr.evaluate(collection.qrels, run, ["nDCG@10"])["nDCG@10"] == pytest.approx(FLOORS[name], abs=0.02)


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match="empty corpus"):
        rr.BM25Index.build(rr.Corpus.from_texts([]))
    with pytest.raises(InputError, match="k1"):
        rr.BM25Index.build(CORPUS, k1=-1)
    with pytest.raises(InputError, match="analyzer"):
        rr.BM25Index.build(CORPUS, analyzer="nope")


OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "robertson": {"variant": "robertson", "k1": 0.9, "b": 0.4},
    "bm25l": {"variant": "bm25l", "delta": 0.3},
    "bm25+": {"variant": "bm25+"},
    "atire, no codes": {"variant": "atire", "codes": False},
    "forward": {"forward": True},
    "simple": {"analyzer": "simple", "k1": 0, "b": 0},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_saved_and_opened_it_is_the_same_index(tmp_path: Path, name: str) -> None:
    documents = corpus(300)
    built = rr.BM25Index.build(documents, **OPTIONS[name])
    built.save(tmp_path / "x")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    streamed = rr.BM25Index.build_file(iter(documents), tmp_path / "y", **OPTIONS[name])
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x", "y"]
    opened = [rr.BM25Index.open(tmp_path / "x", in_memory=a, verify=b) for a in (False, True) for b in (False, True)]
    for index in [streamed, *opened]:
        assert ranked(index) == ranked(built)
        assert repr(index) == repr(built)
        assert (len(index), index.n_postings, index.parameters) == (300, built.n_postings, built.parameters)
        assert (index.codes, index.forward) == (built.codes, built.forward)
        assert index.document_frequency(["w0", "w39", "nope"]) == built.document_frequency(["w0", "w39", "nope"])
        assert index.document_terms([0, 7, 299]) == built.document_terms([0, 7, 299])
        assert list(index.corpus) == list(documents)
        assert index.corpus.ids == documents.ids
        assert index.corpus.sha256 == documents.sha256
        assert all(index.corpus.row(doc_id) == row for row, doc_id in enumerate(documents.ids))
        assert index.explain("w0 w5", "d7") == built.explain("w0 w5", "d7")
    opened[0].save(tmp_path / "z")
    assert (tmp_path / "z").read_bytes() == (tmp_path / "x").read_bytes()
    assert rr.BM25Index.check(tmp_path / "x") == {
        "path": str(tmp_path / "x"),
        "segments": 1,
        "documents": 300,
        "deleted": 0,
        "terms": 41,
        "postings": built.n_postings,
        "bytes": (tmp_path / "x").stat().st_size,
    }


def test_opened_with_other_parameters_it_is_an_index_built_with_them(tmp_path: Path) -> None:
    documents = corpus(200)
    rr.BM25Index.build(documents, variant="bm25l", k1=1.5, delta=0.7).save(tmp_path / "x")
    for given in (
        {},
        {"k1": 0.4},
        {"b": 0.1},
        {"delta": 0.1},
        {"variant": "lucene"},
        {"variant": "bm25+"},
        {"variant": "bm25+", "delta": 0.2, "b": 1},
    ):
        keep = {"variant": "bm25l", "k1": 1.5, "b": 0.75, **({} if "variant" in given else {"delta": 0.7})}
        want = rr.BM25Index.build(documents, **{**keep, **given})
        index = rr.BM25Index.open(tmp_path / "x", **given)
        assert index.parameters == want.parameters
        assert ranked(index) == ranked(want)
    for wrong, message in (({"k1": -1}, "k1"), ({"variant": "bm26"}, "variant"), ({"b": "x"}, "b: got x"), ({"k1": 0}, "k1")):
        with pytest.raises(InputError, match=message):
            rr.BM25Index.open(tmp_path / "x", **wrong)


def letters(text: str) -> list[str]:
    return list(text.replace(" ", ""))


def test_the_analyzer_is_verified_when_an_index_is_opened(tmp_path: Path) -> None:
    rr.BM25Index.build(CORPUS, analyzer="simple").save(tmp_path / "x")
    assert rr.BM25Index.open(tmp_path / "x").analyzer.name == "simple"
    assert rr.BM25Index.open(tmp_path / "x", analyzer="simple").search(["the"], 3)[0][0].tolist() == [0]
    for other in ("english", letters):
        with pytest.raises(InputError, match="with which the index was built"):
            rr.BM25Index.open(tmp_path / "x", analyzer=other)
    rr.BM25Index.build(CORPUS, analyzer=letters).save(tmp_path / "y")
    with pytest.raises(InputError, match=r"letters.*Pass that function"):
        rr.BM25Index.open(tmp_path / "y")
    with pytest.raises(InputError, match="with which the index was built"):
        rr.BM25Index.open(tmp_path / "y", analyzer=str.split)
    assert rr.BM25Index.open(tmp_path / "y", analyzer=letters).search(["k"], 3)[0][0].tolist() == [2]
    custom = rr.text.Analyzer("simple", stop_words=["red"])
    rr.BM25Index.build(CORPUS, analyzer=custom).save(tmp_path / "z")
    assert rr.BM25Index.open(tmp_path / "z").search(["red"], 3)[0][0].size == 0
    with pytest.raises(InputError):
        rr.BM25Index.open(tmp_path / "z", analyzer="simple")


STRINGS = [["a", "b", "a"], [], ["b", "é", "\ud800"]]
IDS: list[Any] = [[0, 1, 0], [], np.array([1, 7, 3], np.int16)]


@pytest.mark.parametrize("forward", [False, True])
def test_terms_that_are_there_already(tmp_path: Path, forward: bool) -> None:
    for rows, queries in ((STRINGS, [["b"], ["a", "\ud800"], "é b", [], ""]), (IDS, [[1], np.array([0, 3]), "7 1", [], ""])):
        built = rr.BM25Index.from_tokens(rows, forward=forward, k1=2)
        assert ranked(built, queries)[0][0] == ["0", "2"]
        assert ranked(built, queries)[2][0] == ["2", "0"]
        assert built.document_frequency(queries[0]) == [2]
        assert not forward or built.document_terms([0, 1]) == [{rows[0][0]: 2, rows[0][1]: 1}, {}]
        built.save(tmp_path / "x")
        assert rr.BM25Index.check(tmp_path / "x")["postings"] == 5
        opened = rr.BM25Index.open(tmp_path / "x")
        assert ranked(opened, queries) == ranked(built, queries)
    named = rr.BM25Index.from_tokens([["x"]], rr.Corpus.from_texts(["text"], ids=["n"]), analyzer="simple")
    assert ranked(named, ["X"])[0][0] == ["n"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("text", "a string where terms belong"),
        (["red apple", "pear"], "a string where terms belong"),
        ([["a"], [1]], "strings in all documents, or integers"),
        ([[1], ["a"]], "strings in all documents, or integers"),
        ([[1.5]], "strings in all documents, or integers"),
        ([[-1]], "integers of at least 0"),
        ([[2**40]], "integers of at least 0"),
        ([[None]], "strings in all documents, or integers"),
        ([], "empty corpus"),
    ],
)
def test_terms_that_are_none(rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rr.BM25Index.from_tokens(rows)


def test_queries_of_another_kind_of_terms() -> None:
    strings, ids = rr.BM25Index.from_tokens(STRINGS), rr.BM25Index.from_tokens(IDS)
    for index, query in ((strings, [1]), (ids, "apple"), (ids, [1.5]), (ids, [2**70]), (ids, [None])):
        with pytest.raises(InputError, match="BM25: terms"):
            index.search([query], 5)
    assert ids.search([[-1, 10**6]], 5)[0][0].size == 0
    with pytest.raises(InputError, match="2 rows and 1 documents"):
        rr.BM25Index.from_tokens([["a"], ["b"]], rr.Corpus.from_texts(["x"]))
    with pytest.raises(InputError, match="strings; expected integers"):
        ids.add([rr.Document("new", "apple")])
    assert len(ids) == 3


ODD = [
    rr.Document("é", "Zoë ñandú 北京", "Título", {"a": [1, {"b": None}], "é": "ü", "f": 1.5, "t": True}),
    rr.Document("", "", "", {}),
    rr.Document("\ud800", "lone \udfff surrogate \x00 NUL", "\ud83d"),
    rr.Document("😀", "\ud83d\ude00 is two code points here", "\U0001f600 is one"),
    rr.Document("\x00", "  spaces\t\n ", "", {"deep": [[[[]]]]}),
    rr.Document("a b\n", '"quotes" \\ and \u2028'),
    rr.Document("\uffff", "x" * 100_000),
    rr.Document("\U0010ffff", "only a text"),
]


def test_documents_come_back_as_they_were(tmp_path: Path) -> None:
    documents = rr.Corpus(ODD)
    index = rr.BM25Index.build(documents, analyzer=str.split)
    index.save(tmp_path / "x")
    folder = rr.BM25Index.create(tmp_path / "folder", analyzer=str.split)
    for document in ODD:
        folder.add([document])
    folder.commit()
    for path in (tmp_path / "x", tmp_path / "folder"):
        opened = rr.BM25Index.open(path, analyzer=str.split)
        assert list(opened.corpus) == ODD
        assert opened.corpus.ids == documents.ids
        assert [opened.corpus.row(document.id) for document in ODD] == list(range(len(ODD)))
        assert ranked(opened, ["\udfff", "\x00", "\U0001f600", "\ud83d\ude00", "北京"]) == ranked(
            index, ["\udfff", "\x00", "\U0001f600", "\ud83d\ude00", "北京"]
        )
        for unknown in ("nope", "e", "\ud801", "\x00\x00", "a b"):
            assert unknown not in opened.corpus
            with pytest.raises(UnknownIdError):
                opened.corpus.row(unknown)
        for row in (-1, len(ODD)):
            with pytest.raises(UnknownIdError, match=f"row {row}"):
                opened.corpus[row]
        rr.BM25Index.check(path)


def test_metadata_that_no_file_can_hold(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    folder = rr.BM25Index.create(tmp_path / "folder")
    for bad in ({"x": {1}}, {"x": loop}, {"x": deep}, {(1, 2): "x"}, {"x": b"bytes"}):
        document = rr.Document("bad", "text", metadata=bad)
        with pytest.raises(InputError, match="metadata of document 'bad'"):
            rr.BM25Index.build(rr.Corpus([document])).save(tmp_path / "x")
        with pytest.raises(InputError, match="metadata of document 'bad'"):
            folder.add([rr.Document("good", "text"), document])
        assert len(folder) == 0
    folder.commit()
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_wrong_places_and_paths(tmp_path: Path) -> None:
    index = rr.BM25Index.build(CORPUS)
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "none" / "x", "", "a\0b", tmp_path / "file" / "x"):
        with pytest.raises(InputError):
            index.save(path)
        with pytest.raises(InputError):
            rr.BM25Index.build_file(CORPUS, path)
    for path in (tmp_path / "file", tmp_path / "none", tmp_path, "a\0b"):
        with pytest.raises(FileFormatError):
            rr.BM25Index.open(path)
        with pytest.raises(FileFormatError):
            rr.BM25Index.check(path)
    for path in (tmp_path / "file", tmp_path / "file" / "x", tmp_path):
        with pytest.raises(InputError):
            rr.BM25Index.create(path)
    with pytest.raises(InputError, match="empty index"):
        rr.BM25Index.build_file([], tmp_path / "x")
    with pytest.raises(InputError, match="of the backend reference"):
        rr.BM25Index.build(CORPUS, backend="reference").save(tmp_path / "x")
    with pytest.raises(InputError, match="without a folder"):
        index.commit()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_explain_adds_up_to_the_score(backend: str) -> None:
    documents = corpus(60)
    for variant in ("lucene", "robertson", "atire", "bm25l", "bm25+"):
        index = rr.BM25Index.build(documents, variant=variant, backend=backend)
        for query in (*QUERIES, rr.Query("x", terms={"w0": 2.0, "w7": -0.5})):
            rows, scores = index.search([query], 20)[0]
            for row, score in zip(rows.tolist(), scores.tolist()):
                found = index.explain(query, documents[row].id)
                assert found["score"] == pytest.approx(score, rel=1e-6, abs=1e-6)
                assert found["documents"] == 60
                assert found["length"] == len(documents[row].passage.split())


def test_parameters_belong_to_the_search_and_a_commit_does_not_keep_them(tmp_path: Path) -> None:
    index = rr.BM25Index.create(tmp_path / "index", k1=0.9, b=0.4)
    index.add([rr.Document(str(i), "apple " * (i + 1) + "pear") for i in range(5)])
    index.commit()
    other = rr.BM25Index.open(tmp_path / "index", variant="bm25+", k1=2.0)
    other.add([rr.Document("x", "apple")])
    other.commit()
    again = rr.BM25Index.open(tmp_path / "index")
    assert str(again.parameters) == str(index.parameters) == "lucene, k1=0.9, b=0.4"
    built = rr.BM25Index.build(rr.Corpus(again.corpus), variant="bm25+", k1=2.0, b=0.4)
    changed = again.with_parameters(variant="bm25+", k1=2.0)
    assert changed.search(["apple pear"], 9)[0][1].tolist() == built.search(["apple pear"], 9)[0][1].tolist()
    fused = rr.Fuse(rr.BM25(again), rr.BM25(changed))("pear")
    assert len(fused) == 5 and again.parameters.variant == "lucene"


def test_impact_codes_are_made_for_the_parameters_of_the_index() -> None:
    corpus = rr.Corpus.from_texts(["apple " * (i % 7 + 1) + "pear " * (i % 3) for i in range(300)])
    meta = rr.BM25Index.build(corpus, k1=0.9, b=0.4).searcher.parts[0].segment.meta
    assert (meta["k1"], meta["b"]) == (0.9, 0.4)


def test_a_failed_change_lets_the_next_writer_in(tmp_path: Path) -> None:
    index = rr.BM25Index.create(tmp_path / "index")
    index.add([rr.Document("a", "apple")])
    index.commit()
    with pytest.raises(rr.errors.DuplicateIdError):
        index.add([rr.Document("a", "again")])
    other = rr.BM25Index.open(tmp_path / "index")
    other.delete(["a"])
    with pytest.raises(rr.errors.InputError, match="second writer"):
        index.delete(["a"])


def test_queries_with_one_filter_run_together() -> None:
    index = rr.BM25Index.build(rr.Corpus.from_texts(["apple", "apple pear", "pear", "apple fig"]))
    allow, deny = ["0", "1"], ["1"]
    queries = [
        rr.Query("apple", allow=allow),
        rr.Query("pear"),
        rr.Query("pear", allow=allow),
        rr.Query("apple", deny=deny),
        rr.Query("apple", allow=allow, deny=deny),
        "fig",
    ]
    assert [rows.tolist() for rows, _ in index.search(queries, 9)] == [[0, 1], [2, 1], [1], [0, 3], [0], [3]]
