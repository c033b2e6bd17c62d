"""BM25 as a stage: weighted, required and filtered, alone, in a pipeline and beside Dense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models import words, write_encoder

import rerank_engine as rr
from rerank_engine.errors import InputError, NonFiniteError, UnknownIdError

TEXTS = ["red apple", "green apple pie", "blue sky", "red red sky apple", "apple"]
CORPUS = rr.Corpus.from_texts(TEXTS, ids=list("abcde"))
INDEX = rr.BM25Index.build(CORPUS)


@pytest.fixture(params=["one segment", "three segments", "reference"])
def stage(request: pytest.FixtureRequest) -> rr.BM25:
    if request.param == "three segments":
        index = rr.BM25Index.build(rr.Corpus(list(CORPUS)[:2]))
        index.add([CORPUS[2]])
        index.add([CORPUS[3], CORPUS[4]])
        return rr.BM25(index, k=10)
    return rr.BM25(rr.BM25Index.build(CORPUS, backend="cpp" if request.param == "one segment" else "reference"), k=10)


def found(stage: rr.Stage, text: str, **query: Any) -> list[str]:
    return stage(rr.Query(text, **query)).doc_ids


def test_plain(stage: rr.BM25) -> None:
    ranking = stage("red apple")
    assert ranking.doc_ids == ["a", "d", "e", "b"]
    assert ranking.scale == "bm25"
    assert ranking.corpus is stage.index.corpus
    assert [found(stage, text) for text in ("", "the", "zebra")] == [[], [], []]
    assert rr.BM25(stage.index, k=2)("red apple").doc_ids == ["a", "d"]
    assert stage.with_k(1)("red apple").doc_ids == ["a"]
    batch = stage.run(["sky", rr.Query("sky", must=("red",)), rr.Query("sky", deny=["c"]), "red apple"])
    assert [r.doc_ids for r in batch] == [found(stage, "sky"), found(stage, "sky", must=("red",)), ["d"], ranking.doc_ids]


def test_terms_with_weights_go_in_place_of_the_text(stage: rr.BM25) -> None:
    assert found(stage, "blue", terms={"red": 1.0}) == ["a", "d"] or found(stage, "blue", terms={"red": 1.0}) == ["d", "a"]
    one, two = stage(rr.Query("", terms={"sky": 1.0})), stage(rr.Query("", terms={"sky": 2.0}))
    np.testing.assert_allclose(two.scores, 2 * one.scores, rtol=1e-6)
    assert found(stage, "x", terms={"sky": 1.0, "red": 10.0})[0] in "ad"
    assert found(stage, "x", terms={"sky": 10.0, "red": 0.1})[:2] in (["c", "d"], ["d", "c"])
    assert found(stage, "apple", terms={}) == []
    assert (stage(rr.Query("", terms={"red": 1, "appl": 1})).scores == stage("red apple").scores).all()


def test_must(stage: rr.BM25) -> None:
    assert found(stage, "apple", must=("red",)) == ["a", "d"]
    assert stage(rr.Query("apple", must=("red",))).scores.tolist() == stage("red apple").scores.tolist()[:2]
    assert (stage(rr.Query("red apple", must=("red",))).scores == stage("red apple").scores[:2]).all()
    assert found(stage, "", must=("sky", "APPLES")) == ["d"]
    assert found(stage, "apple", must=("blue sky",)) == ["c"]
    assert found(stage, "apple", must=("zebra",)) == []
    assert found(stage, "apple", must=("red zebra",)) == []
    assert found(stage, "sky", must=("the",)) == found(stage, "sky")  # nothing is left of a stop word
    assert set(found(stage, "x", terms={"apple": 1.0}, must=("sky",))) == {"c", "d"}


def test_allow_and_deny(stage: rr.BM25) -> None:
    everything = found(stage, "red apple")
    row = stage.index.corpus.row
    for allow in (["d", "e", "c"], {"e", "d"}, [row("d"), row("e")], np.array([row("e"), row("d")]), np.isin(list("abcde"), ["d", "e"])):
        assert found(stage, "red apple", allow=allow) == ["d", "e"]
        assert found(stage, "red apple", deny=allow) == ["a", "b"]
        assert found(stage, "red apple", allow=allow, deny=["d", "gone already"]) == ["e"]
    assert found(stage, "red apple", allow=[]) == []
    assert found(stage, "red apple", deny=()) == everything
    assert found(stage, "red apple", allow=np.array([], np.int64)) == []
    assert found(rr.BM25(stage.index, k=1), "red apple", deny=["a"]) == ["d"]  # filtered before, not after the cut
    assert (stage(rr.Query("red apple", allow=["d"])).scores == stage("red apple").scores[1]).all()  # N and df stay
    assert found(stage, "apple", must=("red",), deny=["a"]) == ["d"]


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"terms": ["a"]}, InputError, "Query: terms"),
    ({"terms": {"a": "x"}}, InputError, "Query: terms"),
    ({"terms": {"a": float("nan")}}, NonFiniteError, "weights"),
    ({"terms": {"a": 1e300}}, NonFiniteError, "weights"),
    ({"terms": {1: 1.0}}, InputError, "strings"),
    ({"must": "red"}, InputError, "Query: must"),
    ({"must": None}, InputError, "Query: must"),
    ({"must": [1]}, InputError, "Query: must"),
    ({"allow": "a"}, InputError, "one string"),
    ({"deny": b"a"}, InputError, "one string"),
    ({"allow": 5}, InputError, "a collection of ids"),
    ({"deny": iter("a")}, InputError, "a collection of ids"),
    ({"allow": ["nope"]}, UnknownIdError, "'nope'"),
    ({"allow": [99]}, InputError, "rows from 0 to 4"),
    ({"allow": [-1]}, InputError, "rows from 0 to 4"),
    ({"deny": [99]}, InputError, "rows from 0 to 4"),
    ({"deny": ["a", 1]}, InputError, "ids, which are strings"),
    ({"deny": [["a"]]}, InputError, "ids, which are strings"),
    ({"deny": [1.0]}, InputError, "ids, which are strings"),
    ({"deny": [None]}, InputError, "ids, which are strings"),
    ({"allow": [True, False]}, InputError, "each of the 5 rows"),
    ({"allow": np.ones(4, bool)}, InputError, "each of the 5 rows"),
    ({"allow": np.ones((5, 1), bool)}, InputError, "each of the 5 rows"),
    ({"allow": np.array([0.0])}, InputError, "rows from 0 to 4"),
    ({"allow": np.array([["a"]])}, InputError, "rows from 0 to 4"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD, ids=[str(options) for options, _, _ in BAD])
def test_bad_queries(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rr.BM25(INDEX)(rr.Query("red", **options))


def test_in_a_pipeline_and_beside_dense(tmp_path_factory: pytest.TempPathFactory) -> None:
    texts = [words(5, 3), words(5, 9), words(20, 27), words(9, 1), "w3"]
    corpus = rr.Corpus.from_texts(texts, ids=list("abcde"))
    encoder = rr.load(write_encoder(tmp_path_factory.mktemp("encoder"), "mean"), device="cpu")
    index = rr.BM25Index.build(corpus, analyzer="simple")
    lexical, dense = rr.BM25(index, k=5), rr.Dense(rr.VectorIndex.build(corpus, encoder), encoder, k=5)
    both = rr.Fuse(lexical, dense) >> rr.Top(3)
    ranking = both(rr.Query("w3 w5", deny=["b"]))
    assert "b" not in ranking.doc_ids
    assert set(both(rr.Query("w3 w5", allow=["b", "a"])).doc_ids) == {"a", "b"}
    assert [step.name for step in ranking.trace] == ["BM25", "Dense", "Fuse", "Top"]
    assert ranking.trace[0].backend == index.backend
    assert (rr.BM25(index, k=5) >> rr.Top(1))("w3").doc_ids == lexical("w3").doc_ids[:1]
    index.add([rr.Document("f", "w3")])
    assert {"e", "f"} <= set(rr.Fuse(lexical, dense)("w3").doc_ids)  # the corpus is another one now: joined by id
