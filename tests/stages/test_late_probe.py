"""LateInteraction by the centroids of residual codes: what it takes, finds and tells. The search itself: test_token_probe.py."""

from __future__ import annotations

import numpy as np
import pytest
from late_models import write_pylate
from models import words

import rerank_engine as rr
from rerank_engine.errors import InputError
from rerank_engine.stages import ColBERT

N = 300


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    loaded = rr.load(write_pylate(tmp_path_factory.mktemp("late")), device="cpu", threads=1)
    return ColBERT(loaded.runtime, loaded.tokenizer, loaded.config, name="bare")  # four dimensions: a byte of codes


@pytest.fixture(scope="module")
def index(model):
    corpus = rr.Corpus.from_texts([words(i, 3 + i % 5) if i % 50 else " " for i in range(N)], ids=[f"d{i}" for i in range(N)])
    return rr.TokenIndex.build(corpus, model, storage="2bit", n_centroids=32)


def test_it_finds_what_the_index_finds_and_tells_how(index, model):
    queries = ["w1 w2", " ", "w50"]
    stage = rr.LateInteraction(index, model, k=10, probe=2, candidates=40)
    rankings, vectors = stage.run(queries), model.encode_queries(["w1 w2", "w50"])
    hits = iter(index.search_explained(vectors, 10, probe=2, candidates=40))
    for query, ranking in zip(queries, rankings):
        if not query.strip():
            assert len(ranking) == 0 and ranking.facts == {}
            continue
        (rows, scores), plan = next(hits)
        assert ranking.ids.tolist() == rows.tolist() and ranking.scores.tobytes() == scores.tobytes()
        assert ranking.facts == plan.facts and plan.facts["candidates"] == 40 and not plan.facts["exhaustive"]
    assert stage("w1 w2").trace[-1].facts == rankings[0].facts


def test_exhaustive_where_it_is_asked_for_or_cheaper(index, model):
    every = rr.LateInteraction(index, model, k=10, probe=None)("w1 w2")
    auto = rr.LateInteraction(index, model, k=10)("w1 w2")
    assert every.trace[-1].facts == {"probe": None, "found": N, "candidates": N, "exhaustive": True}
    assert auto.trace[-1].facts["exhaustive"] and auto.ids.tolist() == every.ids.tolist()


def test_filters_hold_while_probing(index, model):
    allowed = [f"d{i}" for i in range(0, N, 2)]
    ranking = rr.LateInteraction(index, model, k=10, probe=1, candidates=20)(rr.Query("w1 w2", allow=allowed, deny=["d4", "d2"]))
    assert len(ranking) == 10 and set(ranking.doc_ids) <= set(allowed) - {"d2", "d4"} and not ranking.trace[-1].facts["exhaustive"]


def test_the_choice_is_shown(index, model):
    assert "exhaustive" in repr(rr.LateInteraction(index, model)) and "probe=3" in repr(rr.LateInteraction(index, model, k=9, probe=3))
    assert "exhaustive" in repr(rr.LateInteraction(index, model, probe=3))  # candidates: all there are


def test_wrong_options_are_refused_before_any_work(index, model):
    plain = rr.TokenIndex.build(index.corpus, model, storage="float16")
    with pytest.raises(InputError, match=r"LateInteraction: probe: got 2 for float16; expected an index of residual codes"):
        rr.LateInteraction(plain, model, probe=2)
    for probe in (0, "none", False):
        with pytest.raises(InputError, match="LateInteraction: probe"):
            rr.LateInteraction(index, model, probe=probe)
    with pytest.raises(InputError, match=r"LateInteraction: candidates: got 10; expected at least k, 1000"):
        rr.LateInteraction(index, model, candidates=10)
    assert len(rr.LateInteraction(plain, model, k=3)("w1")) == 3


def test_a_search_by_vectors(index, model):
    stage = rr.LateInteraction(index, model, k=4)
    [vectors] = model.encode_queries(["w1 w2"])
    found, none, nothing = stage.search([rr.Query("x")] * 3, [vectors, None, np.empty((0, 4), np.float32)])
    assert found.ids.tolist() == stage("w1 w2").ids.tolist() and len(none) == len(nothing) == 0
    other = stage.of(index.snapshot(), 2)
    assert other("w1 w2").ids.tolist() == found.ids[:2].tolist()
