from __future__ import annotations

import numpy as np
import pytest
from models import DIM, words, write_encoder

import rerank_engine as rr
from rerank_engine.errors import InputError, NonFiniteError, UnknownIdError

TEXTS = [words(5, 3), words(20, 7), words(9, 1), words(30, 12), words(5, 3), "w0", words(0, 40)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return rr.load(write_encoder(tmp_path_factory.mktemp("e"), "mean", normalize=True), device="cpu")


@pytest.fixture(scope="module")
def index(encoder):
    return rr.VectorIndex.build(rr.Corpus.from_texts(TEXTS), encoder)


def test_the_order_and_scores_are_those_of_a_search(encoder, index):
    found = rr.Dense(index, encoder)("w1 w2")
    ranked = rr.Rescore(rr.Similarity(index, encoder))("w1 w2", rr.Ranking.in_order(index.corpus))
    assert ranked.ids.tolist() == found.ids.tolist() and ranked.scores.tobytes() == found.scores.tobytes() and ranked.scale == "cosine"
    assert ranked.columns["truncated_tokens"].tolist() == found.columns["truncated_tokens"].tolist() != [0] * len(TEXTS)


def test_candidates_of_another_corpus_are_found_by_their_ids(encoder, index):
    scorer, other = rr.Similarity(index, encoder), rr.Corpus.from_texts([TEXTS[3], TEXTS[1]], ids=["3", "1"])
    queries = [rr.Query("w1 w2"), rr.Query(""), rr.Query("w9")]
    lists = [rr.Ranking.in_order(other), rr.Ranking.in_order(rr.Corpus([])), rr.Ranking.in_order(index.corpus)]
    scores = scorer.score(queries, lists)
    assert [len(entry.values) for entry in scores] == [2, 0, len(TEXTS)]
    own = scorer.score([queries[0]], [rr.Ranking.in_order(index.corpus)])[0]
    assert scores[0].values.tolist() == own.values[[3, 1]].tolist()
    with pytest.raises(UnknownIdError):
        scorer.score([queries[0]], [rr.Ranking.in_order(rr.Corpus.from_texts(["x"], ids=["new"]))])


def test_what_it_refuses(encoder, index):
    some = rr.Ranking.in_order(index.corpus)
    with pytest.raises(InputError, match="empty text"):
        rr.Similarity(index, encoder).score([rr.Query(" ")], [some])
    with pytest.raises(InputError, match=f"dimension {DIM}; expected 5"):
        rr.Similarity(rr.VectorIndex(index.corpus, np.ones((len(TEXTS), 5))), encoder).score([rr.Query("w1")], [some])
    with pytest.raises(NonFiniteError):
        huge = np.full((len(TEXTS), DIM), np.finfo(np.float32).max)
        huge *= np.sign(encoder.encode(["w1"], queries=True)[0])
        rr.Similarity(rr.VectorIndex(index.corpus, huge), encoder).score([rr.Query("w1")], [some])
    with pytest.raises(InputError):
        rr.Similarity(encoder, index)  # type: ignore[arg-type]


def test_an_index_without_vectors_is_refused_at_once(encoder):
    pytest.importorskip("faiss")
    index = rr.VectorIndex.build(rr.Corpus.from_texts(TEXTS), encoder, kind="flat", keep=None)
    with pytest.raises(InputError, match=r"Similarity: got an index of keep=None.*keep='float16'"):
        rr.Similarity(index, encoder)


@pytest.mark.parametrize(("metric", "dim", "scale"), [("inner product", None, "cosine"), ("inner product", 2, "inner product"),
                                                      ("cosine", 2, "cosine")])  # fmt: skip
def test_the_scale_is_what_the_scores_are(encoder, metric, dim, scale):
    index = rr.VectorIndex.build(rr.Corpus.from_texts(TEXTS), encoder, metric=metric, dim=dim)
    found = rr.Dense(index, encoder)("w1 w2")
    ranked = rr.Rescore(rr.Similarity(index, encoder))("w1 w2", rr.Ranking.in_order(index.corpus))
    assert found.scale == ranked.scale == scale and ranked.scores.tobytes() == found.scores.tobytes()
    query = encoder.encode(["w1 w2"], queries=True)[0, :dim].astype(np.float64)
    vectors = encoder.encode([TEXTS[row] for row in found.ids])[:, :dim].astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    assert np.allclose(found.scores * (1 if scale == "cosine" else 1 / lengths), vectors @ query / lengths, atol=1e-6)


class Own:
    normalize = True

    def encode(self, texts, queries=False):
        return [[1.0, 0.0] if queries == text.startswith("a") else [0.6, 0.8] for text in texts]


def test_an_encoder_of_one_s_own():
    index = rr.VectorIndex.build(rr.Corpus.from_texts(["a", "b"]), Own())
    stage = rr.Rescore(rr.Similarity(index, Own()))
    ranked = stage("a", rr.Ranking.in_order(index.corpus))
    assert ranked.doc_ids == ["1", "0"] and ranked.scores.tolist() == pytest.approx([1, 0.6]) and ranked.scale == "cosine"
    assert "Own" in repr(stage)
