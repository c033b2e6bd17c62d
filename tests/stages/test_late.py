"""MaxSim, LateInteraction and CertifiedMaxSim over an index of tokens. test_colbert.py has the encoder, test_explain.py explanations."""

from __future__ import annotations

import numpy as np
import pytest
from late_models import DIM, document_vectors, query_vectors, write_pylate
from models import words

import rerank_engine as rr
from rerank_engine.core import LOWEST
from rerank_engine.errors import InputError, UnknownIdError
from rerank_engine.stages import ColBERT

TEXTS = [words(3 * i, 1 + i % 7) for i in range(30)]
NEAR = {"float32": 1e-5, "float16": 5e-3, "int8": 0.1}
QUERIES = ["w1 w2", "w5 , w6", "w50"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return rr.load(write_pylate(tmp_path_factory.mktemp("late")), device="cpu", threads=1)


@pytest.fixture(scope="module")
def corpus():
    return rr.Corpus.from_texts([*TEXTS, words(0, 20), " "], ids=[f"d{i}" for i in range(32)])


@pytest.fixture(scope="module", params=list(NEAR))
def index(request, corpus, model):
    return rr.TokenIndex.build(corpus, model, storage=request.param)


def exact(query: str) -> np.ndarray:
    """float64 [31]: the score of every document that has tokens."""
    asked = query_vectors(query)
    return np.array([(asked @ document_vectors(text).T).max(1).sum() for text in [*TEXTS, words(0, 9)]])


def test_maxsim_scores_what_the_index_holds(index, corpus, model):
    stage = rr.Rescore(rr.MaxSim(index, model), depth=100)
    for query, ranking in zip(QUERIES, stage.run(QUERIES, [rr.Ranking.in_order(corpus)] * 3)):
        assert np.abs(ranking.scores[:31] - exact(query)[ranking.ids[:31]]).max() < NEAR[index.storage]
        assert ranking.scale == "maxsim" and ranking.ids[31] == 31 and ranking.scores[31] == np.float32(LOWEST)
        cut = ranking.columns["truncated_tokens"]
        assert {row: n for row, n in zip(ranking.ids.tolist(), cut.tolist()) if n} == {30: 11}
        assert stage(query, corpus).scores.tobytes() == ranking.scores.tobytes()


def test_maxsim_by_the_index_is_colbert_over_the_texts(corpus, model):
    index = rr.TokenIndex.build(corpus, model, storage="float32")
    ranking = rr.Ranking.in_order(corpus)
    (over_index,), (over_texts,) = (scorer.score([rr.Query("w1 w2")], [ranking]) for scorer in (rr.MaxSim(index, model), model))
    assert over_index.values.tobytes() == over_texts.values.tobytes()
    assert (over_index.columns["truncated_tokens"] == over_texts.columns["truncated_tokens"]).all()


def test_documents_of_another_corpus_are_matched_by_their_ids(index, corpus, model):
    other = rr.Corpus.from_texts(["", "x", "y"], ids=["d9", "d2", "d5"])
    for stage in (rr.Rescore(rr.MaxSim(index, model)), rr.CertifiedMaxSim(index, model, k=3)):
        ranking = stage("w1 w2", other)
        assert ranking.corpus is other and set(ranking.doc_ids) == {"d9", "d2", "d5"}
        assert np.abs(ranking.scores - exact("w1 w2")[[corpus.row(i) for i in ranking.doc_ids]]).max() < NEAR[index.storage]
        with pytest.raises(UnknownIdError, match=r"token index: got the id 'nobody'.*add the document to the token index"):
            stage("w1", rr.Corpus.from_texts(["w1"], ids=["nobody"]))


def test_late_interaction_searches_everything(index, corpus, model):
    full = rr.LateInteraction(index, model)("w1 w2")
    assert len(full) == 31 and full.corpus is corpus and full.scale == "maxsim" and full.trace[-1].n_out == 31
    assert np.abs(full.scores - exact("w1 w2")[full.ids]).max() < NEAR[index.storage]
    best = rr.LateInteraction(index, model, k=4)("w1 w2")
    assert best.ids.tolist() == full.ids[:4].tolist() and best.scores.tobytes() == full.scores[:4].tobytes()
    allowed = rr.LateInteraction(index, model)(rr.Query("w1 w2", allow=["d3", "d7"]))
    assert set(allowed.doc_ids) == {"d3", "d7"}


def test_late_interaction_in_a_batch_with_blank_queries(index, model):
    stage = rr.LateInteraction(index, model, k=5)
    rankings = stage.run(["", *QUERIES, " \n"])
    assert [len(ranking) for ranking in rankings] == [0, 5, 5, 5, 0]
    for query, ranking in zip(QUERIES, rankings[1:]):
        assert stage(query).ids.tolist() == ranking.ids.tolist()
    assert stage.run([]) == [] and [len(ranking) for ranking in stage.run([""])] == [0]


def test_certified_is_the_head_of_rescore(index, corpus, model):
    full = rr.Rescore(rr.MaxSim(index, model, precision="float32"), depth=100)("w1 w2", corpus)
    for k in (1, 5, 40):
        certified = rr.CertifiedMaxSim(index, model, k=k)("w1 w2", corpus)
        assert certified.ids.tolist() == full.ids[:k].tolist() and certified.scores.tobytes() == full.scores[:k].tobytes()
        assert certified.columns["truncated_tokens"].tolist() == full.columns["truncated_tokens"][:k].tolist()
        assert set(certified.trace[-1].facts) == {"certified", "work_saved", "approximated_tokens"}
        assert "facts" in certified.trace[-1].to_dict()


@pytest.mark.parametrize("storage", ["float32", "float16", "int8", "2bit"])
def test_certified_orders_ties_as_rescore_does_over_any_corpus(model, storage):
    """Most documents share their text with others, some have none; the rankings' corpora have them in other orders than the index."""
    model = ColBERT(model.runtime, model.tokenizer, model.config, name="bare")  # four dimensions: a byte of codes
    rng, texts = np.random.default_rng(5), [words(3 * (i % 4), 5) if i % 9 else "" for i in range(60)]
    ids = [f"d{i}" for i in range(60)]
    corpus = rr.Corpus.from_texts(texts, ids=ids)
    index = rr.TokenIndex.build(corpus, model, storage=storage, **({"n_centroids": 4} if storage == "2bit" else {}))
    rescore = rr.Rescore(rr.MaxSim(index, model, precision="float32"), depth=100)
    for _ in range(3):
        order = rng.permutation(60)[: rng.integers(30, 61)]
        other = rr.Corpus.from_texts([texts[i] for i in order], ids=[ids[i] for i in order])
        for candidates in (rr.Ranking.in_order(other, rng.permutation(len(other))), rr.Ranking.in_order(corpus, order)):
            full = rescore("w1 w2", candidates)
            for k in (1, 3, 14, 15, 29, 55, 100):
                certified = rr.CertifiedMaxSim(index, model, k=k)("w1 w2", candidates)
                assert certified.doc_ids == full.doc_ids[:k] and certified.scores.tobytes() == full.scores[:k].tobytes()
                assert certified.columns["truncated_tokens"].tolist() == full.columns["truncated_tokens"][:k].tolist()
                assert 0 <= certified.trace[-1].facts["work_saved"] <= 1
    assert len(rr.CertifiedMaxSim(index, model)("w1", rr.Ranking.in_order(other, []))) == 0


def test_documents_without_tokens_come_last(model):
    corpus = rr.Corpus.from_texts(["a", "b", "c"])
    index = rr.TokenIndex.from_embeddings(corpus, [np.empty((0, DIM)), np.array([[0.6, 0.8, 0.0]]), np.empty((0, DIM))])
    assert rr.Rescore(rr.MaxSim(index, model))("w1", corpus).doc_ids == ["1", "0", "2"]
    assert rr.CertifiedMaxSim(index, model, k=2)("w1", corpus).doc_ids == ["1", "0"]
    assert rr.LateInteraction(index, model)("w1").doc_ids == ["1"]


def test_what_runs_is_shown(index, model):
    for stage in (rr.Rescore(rr.MaxSim(index, model)), rr.LateInteraction(index, model), rr.CertifiedMaxSim(index, model)):
        assert index.storage in repr(stage) and model.model in repr(stage) and stage.backend in repr(stage)
        assert stage.backend.startswith("onnx/cpu+") and stage.name in ("MaxSim", "LateInteraction", "CertifiedMaxSim")


@pytest.mark.parametrize("query", ["", " "])
def test_a_blank_query_of_a_scorer(index, corpus, model, query):
    for stage in (rr.Rescore(rr.MaxSim(index, model)), rr.CertifiedMaxSim(index, model)):
        with pytest.raises(InputError, match="query 0: got an empty text"):
            stage(query, corpus)


def test_wrong_arguments(index, model):
    for made in (rr.MaxSim, rr.LateInteraction, rr.CertifiedMaxSim):
        with pytest.raises(InputError, match="index: got str"):
            made("index", model)
        with pytest.raises(InputError, match="encoder: got str"):
            made(index, "model")
    for made in (rr.MaxSim, rr.LateInteraction):
        with pytest.raises(InputError, match="precision: got foo; expected one of auto, int16, uint8, float32"):
            made(index, model, precision="foo")
    for k in (0, -1, True, 1.5):
        with pytest.raises(InputError, match="LateInteraction: k"):
            rr.LateInteraction(index, model, k=k)


def test_an_index_of_another_dimension(model):
    corpus = rr.Corpus.from_texts(["a"])
    index = rr.TokenIndex.from_embeddings(corpus, [np.ones((2, DIM + 1))])
    for stage in (rr.MaxSim, rr.CertifiedMaxSim, rr.LateInteraction):
        with pytest.raises(InputError, match=f"dimension {DIM}; expected {DIM + 1}"):
            stage(index, model)


def test_an_index_of_other_settings(corpus, model):
    assert model.fingerprint == model.fingerprint and len(model.fingerprint) == 16
    index = rr.TokenIndex.build(corpus, model)
    other = rr.TokenIndex.build(corpus, model)
    other.made_by = {**index.made_by, "fingerprint": "0" * 16}
    for stage in (rr.MaxSim, rr.CertifiedMaxSim, rr.LateInteraction):
        stage(index, model)
        with pytest.raises(InputError, match="which made the index"):
            stage(other, model)


def test_explanations_by_the_index(corpus, model):
    scorer = rr.MaxSim(rr.TokenIndex.build(corpus, model, storage="float32"), model)
    ranking = rr.Rescore(scorer)("w1 w2", corpus)
    by_id, text = scorer.explain("w1 w2", "d3"), corpus.texts(np.array([3]))[0]
    assert by_id == model.explain("w1 w2", text) == scorer.explain("w1 w2", ranking, 3)
    for same in (rr.LateInteraction(scorer.index, model), rr.CertifiedMaxSim(scorer.index, model)):
        assert same.explain("w1 w2", "d3") == same.explain("w1 w2", ranking, 3) == by_id
    for special in (False, True):
        assert scorer.explain("w1 w2", rr.Document("d3", "?"), special=special) == model.explain("w1 w2", text, special=special)
    with pytest.raises(UnknownIdError, match=r"token index: got the id 'nobody'"):
        scorer.explain("w1", "nobody")
    with pytest.raises(InputError, match=r"MaxSim\.explain: row: got 3 without a Ranking"):
        scorer.explain("w1", "d3", 3)
    with pytest.raises(InputError, match=r"MaxSim\.explain: document: got int"):
        scorer.explain("w1", 3)
    for row in (99, None, True):
        with pytest.raises(UnknownIdError, match=r"MaxSim\.explain: row"):
            scorer.explain("w1", ranking, row)
    with pytest.raises(InputError, match=r"ColBERT\.explain: text"):
        scorer.explain("w1", "d31")
