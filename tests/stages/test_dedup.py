from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rerank_engine as rr
from rerank_engine.errors import InputError
from rerank_engine.stages.dedup import shingles

FOX = "the quick brown fox jumps over the lazy dog near the river"
TEXTS = [FOX, "another text altogether", FOX.upper() + "  ", FOX + " bank", "Another  text ALTOGETHER", "", " "]
CORPUS = rr.Corpus.from_texts(TEXTS, ids=list("abcdefg"))


def test_the_same_text():
    got = rr.Dedup()("q", CORPUS)
    assert got.doc_ids == list("abdf")
    assert got.columns["duplicates"].tolist() == [1, 1, 0, 1] and got.columns["duplicates"].dtype == np.int32
    assert got.explain(2) == {"Dedup": "duplicate of 'a' (same text)"} and got.explain(6) == {"Dedup": "duplicate of 'f' (same text)"}
    assert got.explain(0) == {} and set(got.trace[-1].notes) == {2, 4, 6}
    assert got.trace[-1].to_dict()["notes"]["4"] == "duplicate of 'b' (same text)"
    assert got.notes == {}


def test_the_best_ranked_stays_and_scores_too():
    ranking = rr.Ranking.sorted(CORPUS, [2, 0, 4], [3, 2, 1], scale="bm25")
    got = rr.Dedup()("q", ranking)
    assert got.doc_ids == ["c", "e"] and got.scores.tolist() == [3, 1] and got.scale == "bm25"
    assert got.explain(0) == {"Dedup": "duplicate of 'c' (same text)"}


def test_compatibility_forms_are_the_same_text():
    assert rr.Dedup()("q", ["\uff26ull width", "full\u00a0width", "stra\u00dfe", "STRASSE"]).ids.tolist() == [0, 2]


def jaccard(a: str, b: str, size: int) -> float:
    one, two = shingles(a, size), shingles(b, size)
    return len(one & two) / len(one | two)


def test_near_duplicates_by_shingles():
    similarity = jaccard(FOX, FOX + " bank", 3)
    assert similarity == 10 / 11
    assert rr.Dedup("shingles", 0.9)("q", CORPUS).doc_ids == list("abf")
    got = rr.Dedup("shingles", 0.95)("q", CORPUS)
    assert got.doc_ids == list("abdf")
    assert rr.Dedup("shingles", 0.9)("q", CORPUS).explain(3) == {"Dedup": "duplicate of 'a' (Jaccard 0.909)"}
    assert rr.Dedup("shingles", similarity)("q", [FOX, FOX + " bank"]).ids.tolist() == [0]
    assert repr(rr.Dedup("shingles")) == "Dedup('shingles', 0.8, size=3)"


def test_text_without_spaces_has_words_too():
    assert len(shingles("東京は日本の首都です", 3)) == 8
    assert rr.Dedup("shingles", 0.5)("q", ["東京は日本の首都です", "東京は日本の首都だ", "大阪城"]).ids.tolist() == [0, 2]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    texts=st.lists(st.lists(st.sampled_from("abc"), max_size=8).map(" ".join), max_size=12),
    threshold=st.floats(0.01, 1),
    size=st.integers(1, 4),
)
def test_shingles_equal_every_pair_compared(texts, threshold, size):
    stay: list[int] = []
    for place, text in enumerate(texts):
        if all(jaccard(text, texts[other], size) < threshold for other in stay):
            stay.append(place)
    got = rr.Dedup("shingles", threshold, size=size)("q", texts)
    assert got.ids.tolist() == stay
    assert got.columns["duplicates"].sum() == len(texts) - len(stay)


def test_near_duplicates_by_cosine():
    vectors = np.array([[1, 0], [0, 2], [3, 0.1], [1, 1], [0, 0], [0, 0], [-1, 0]], np.float32)
    index = rr.VectorIndex(CORPUS, vectors)
    got = rr.Dedup("cosine", index=index)("q", CORPUS)
    assert got.ids.tolist() == [0, 1, 3, 4, 5, 6]  # zero vectors are like nothing
    assert got.explain(2) == {"Dedup": "duplicate of 'a' (cosine 0.999)"}
    assert rr.Dedup("cosine", 0.7, index=index)("q", CORPUS).ids.tolist() == [0, 1, 4, 5, 6]
    same = rr.VectorIndex(CORPUS, np.full((7, 3), 0.3, np.float32))
    assert rr.Dedup("cosine", 1.0, index=same)("q", CORPUS).ids.tolist() == [0]
    with pytest.raises(InputError, match="another corpus"):
        rr.Dedup("cosine", index=index)("q", ["x"])


def test_nothing_and_batches():
    assert len(rr.Dedup()("q", [])) == 0
    for stage in (rr.Dedup(), rr.Dedup("shingles")):
        batch = stage.run(["q", "r"], [rr.Ranking.in_order(CORPUS), rr.Ranking.in_order(CORPUS, [6, 5])])
        assert [len(one) for one in batch] == [len(stage("q", CORPUS)), 1]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: rr.Dedup("minhash"), "text, shingles, cosine"),
        (lambda: rr.Dedup(threshold=0.5), "none with 'text'"),
        (lambda: rr.Dedup("shingles", 0), "threshold"),
        (lambda: rr.Dedup("shingles", 1.5), "threshold"),
        (lambda: rr.Dedup("shingles", size=0), "size"),
        (lambda: rr.Dedup("cosine"), "a VectorIndex"),
    ],
)
def test_wrong_arguments(make, text):
    with pytest.raises(InputError, match=text):
        make()
