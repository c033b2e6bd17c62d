"""Adapters that have a library's calls without the library: sentence-transformers and FlagEmbedding."""

from __future__ import annotations

import numpy as np
import pytest
from words_scorer import Words

from rerank_engine.adapters.flag_embedding import FlagReranker
from rerank_engine.adapters.sentence_transformers import CrossEncoder
from rerank_engine.errors import InputError
from rerank_engine.stages.cross import sigmoid

QUERY, TEXTS = "green tea health", ["black coffee", "green tea is good for health", "tea"]
PAIRS = [(QUERY, text) for text in TEXTS]
LOGITS = np.array([0.0, 3.0, 1.0])


def test_predict_gives_sigmoids_by_default():
    model = CrossEncoder(Words())
    found = model.predict(PAIRS)
    assert found.dtype == np.float32 and found == pytest.approx(sigmoid(LOGITS), abs=1e-6)
    assert model.predict([list(pair) for pair in PAIRS], batch_size=2, show_progress_bar=False) == pytest.approx(found)
    assert model.predict(PAIRS, activation_fn="none").tolist() == LOGITS.tolist()
    assert model.predict(PAIRS, activation_fn=lambda x: 2 * x).tolist() == (2 * LOGITS).tolist()


def test_predict_of_one_pair_is_a_scalar():
    assert np.ndim(CrossEncoder(Words()).predict(PAIRS[1])) == 0
    assert isinstance(CrossEncoder(Words()).predict(PAIRS, convert_to_numpy=False), list)


def test_rank():
    found = CrossEncoder(Words()).rank(QUERY, TEXTS, top_k=2, return_documents=True)
    assert [(row["corpus_id"], row["text"]) for row in found] == [(1, TEXTS[1]), (2, TEXTS[2])]
    assert found[0]["score"] == pytest.approx(sigmoid(np.array([3.0]))[0])
    assert [row["corpus_id"] for row in CrossEncoder(Words()).rank("q", ["50", "70", "60"])] == [1, 2, 0]  # saturated


def test_what_is_not_there_is_told():
    for wrong in ({"automodel_args": {}}, {"trust_remote_code": True}):
        with pytest.raises(InputError):
            CrossEncoder(Words(), **wrong)
    with pytest.raises(InputError):
        CrossEncoder(Words()).predict(PAIRS, apply_softmax=True)


def test_flag_embedding():
    model = FlagReranker(Words(), use_fp16=True)
    assert model.compute_score(PAIRS) == LOGITS.tolist()
    assert model.compute_score(PAIRS[1]) == [3.0]
    assert model.compute_score(PAIRS, normalize=True) == pytest.approx(sigmoid(LOGITS).tolist())
    with pytest.raises(InputError):
        FlagReranker(Words(), peft=True)


@pytest.mark.filterwarnings("ignore")
def test_in_the_evaluation_of_sentence_transformers():
    """Its re-ranking evaluator takes any model that predicts."""
    evaluation = pytest.importorskip("sentence_transformers.cross_encoder.evaluation", reason="sentence-transformers is not installed")
    samples = [{"query": QUERY, "positive": [TEXTS[1]], "documents": TEXTS}]
    made = evaluation.CrossEncoderRerankingEvaluator(samples, show_progress_bar=False, write_csv=False, name="words")
    assert made(CrossEncoder(Words()))["words_mrr@10"] == 1.0


def test_the_real_one_agrees_with_sentence_transformers():
    """Where it is installed: the same folder, the same pairs, on float32 weights it is compared in test_cross_peers."""
    pytest.importorskip("onnxruntime", reason="runs a real model")
    from rerank_engine.errors import MissingDependency

    try:
        model = CrossEncoder("ms-marco-MiniLM-L-12-v2")
    except MissingDependency as error:
        pytest.skip(str(error))
    found = model.rank("how do I get rid of fleas", ["Paris is the capital of France.", "A flea bath helps."])
    assert [row["corpus_id"] for row in found] == [1, 0] and 0 < found[1]["score"] < found[0]["score"] < 1
