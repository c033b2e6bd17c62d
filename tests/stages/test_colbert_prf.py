"""ColBERT-PRF against its formulas, written out plainly, and what it does with lists that come in."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from late_models import DIM, VOCABULARY, D, write_pylate
from models import CLS, SEP, words

import rerank_engine as rr
from rerank_engine.errors import InputError, UnknownIdError
from rerank_engine.stages.colbert_prf import ColBERTPRF, Expansion, means_of, token_ids, voted, with_expansion

N = 60
QUERIES = ["w1 w2", "w40 w5", "w50"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return rr.load(write_pylate(tmp_path_factory.mktemp("late")), device="cpu", threads=1)


@pytest.fixture(scope="module")
def corpus():
    return rr.Corpus.from_texts([f"w{i % 9} , {words(i, 2 + i % 6)}" if i % 20 else "" for i in range(N)], ids=[f"d{i}" for i in range(N)])


@pytest.fixture(scope="module", params=["float32", "2bit"])
def late(request, corpus, model):
    encoder = model
    if request.param == "2bit":  # four dimensions: a byte of codes
        encoder = rr.stages.ColBERT(model.runtime, model.tokenizer, model.config, name="bare")
    options = {"n_centroids": 16} if request.param == "2bit" else {}
    return rr.LateInteraction(rr.TokenIndex.build(corpus, encoder, storage=request.param, **options), encoder, k=20)


def sigma_of(late) -> dict[int, float]:
    df = Counter(t for ids in token_ids(late.encoder, late.index.corpus.texts()) for t in set(ids.tolist()))
    return {t: float(np.log((N - N // 20 + 1) / (n + 1))) for t, n in df.items()}  # blank documents have no tokens, and do not count


def expected(late, rows, clusters, fb_embs, beta):
    """(vectors, tokens, weights), one cluster after the other."""
    vectors = np.concatenate([late.index.tokens(row) for row in rows])
    ids = np.concatenate(token_ids(late.encoder, late.index.corpus.texts(rows)))
    sigma, out = sigma_of(late), []
    telling = [i for i in range(len(ids)) if sigma[ids[i]] > 0]
    for mean in means_of(vectors, min(clusters, len(vectors))):
        near = sorted(telling, key=lambda i: (-np.float32(vectors[i] @ mean), i))[:10]
        votes = Counter(ids[i] for i in near)
        token = max(votes, key=lambda t: (votes[t], -[ids[i] for i in near].index(t)))
        out.append((sigma[token], mean, token))
    out = sorted(out, key=lambda entry: -entry[0])[:fb_embs]
    return np.array([mean for _, mean, _ in out]), [t for _, _, t in out], [beta * s for s, _, _ in out]


def test_tokens_stand_beside_their_vectors(late):
    index, texts = late.index, late.index.corpus.texts()
    for row, ids in enumerate(token_ids(late.encoder, texts)):
        assert len(ids) == len(index.tokens(row)) and (len(ids) == 0) == (not texts[row])


@pytest.mark.parametrize(("fb_docs", "clusters", "fb_embs", "beta"), [(3, 24, 10, 1.0), (2, 3, 2, 0.5), (1, 40, 40, 2.0)])
def test_it_searches_with_what_the_formulas_add(late, fb_docs, clusters, fb_embs, beta):
    stage = ColBERTPRF(late, fb_docs=fb_docs, clusters=clusters, fb_embs=fb_embs, beta=beta)
    first, again = late.run(QUERIES), stage.run(QUERIES)
    for query, ranking, added, before in zip(QUERIES, again, stage.expand(first), first):
        vectors, tokens, weights = expected(late, before.ids[:fb_docs].tolist(), clusters, fb_embs, beta)
        assert np.allclose(added.weights, weights, rtol=1e-6) and added.tokens.tolist() == tokens
        assert np.array_equal(added.vectors, vectors)
        [asked] = late.encoder.encode_queries([query])
        new = np.concatenate([asked, (vectors * np.array(weights, np.float32)[:, None])])
        [(rows, scores)] = late.index.search([new], late.k)
        assert ranking.ids.tolist() == rows.tolist() and np.allclose(ranking.scores, scores, rtol=1e-5)
        assert ranking.facts == {"probe": None, "found": N, "candidates": N, "exhaustive": True, "added": len(weights)}
    assert [r.ids.tolist() for r in stage.run(QUERIES)] == [r.ids.tolist() for r in again]  # nothing is left to chance


def test_scaled_vectors_are_weighted_maxima(late):
    [added] = ColBERTPRF(late).expand(late.run(["w1 w2"]))
    [query] = late.encoder.encode_queries(["w1 w2"])
    weights = np.concatenate([np.ones(len(query)), added.weights])
    plain = late.index.score(np.concatenate([query, added.vectors]), query_weights=weights, precision="float32")
    scaled = late.index.score(with_expansion(query, added), precision="float32")
    there = plain > -np.inf
    assert np.allclose(plain[there], scaled[there], rtol=1e-5, atol=1e-5) and len(added.weights) > 3


def test_re_ranking_keeps_the_first_list_and_scores_it_again(late):
    stage = ColBERTPRF(late, rerank=True)
    for query, before, ranking in zip(QUERIES, late.run(QUERIES), stage.run(QUERIES)):
        assert sorted(ranking.ids.tolist()) == sorted(before.ids.tolist())
        [added] = stage.expand([before])
        [asked] = late.encoder.encode_queries([query])
        scores = late.index.score(with_expansion(asked, added), before.ids)
        order = np.lexsort((before.ids, -scores))
        assert ranking.ids.tolist() == before.ids[order].tolist() and ranking.scores.tobytes() == scores[order].tobytes()
        assert ranking.facts["added"] == len(added.weights) and len(ranking.columns["truncated_tokens"]) == len(ranking)


def test_a_list_that_comes_in_gives_the_feedback(late, corpus):
    given = rr.Ranking.in_order(corpus, [7, 13, 5, 44])
    for rerank in (False, True):
        stage = ColBERTPRF(late, incoming=True, rerank=rerank)
        assert not stage.retrieves and "incoming" in repr(stage)
        ranking = stage("w1 w2", given)
        [added] = stage.expand([given])
        [asked] = late.encoder.encode_queries(["w1 w2"])
        scores = late.index.score(with_expansion(asked, added))
        assert np.allclose(ranking.scores, scores[ranking.ids], rtol=1e-5) and len(ranking) == (4 if rerank else 20)
        other = rr.Corpus.from_texts([corpus[row].text for row in (5, 44, 7, 13)], ids=["d5", "d44", "d7", "d13"])
        elsewhere = stage("w1 w2", rr.Ranking.in_order(other, [2, 3, 0, 1]))
        assert elsewhere.doc_ids == ranking.doc_ids and elsewhere.scores.tobytes() == ranking.scores.tobytes()
        assert elsewhere.corpus is (other if rerank else late.index.corpus)
        with pytest.raises(UnknownIdError, match="the id 'nobody'"):
            stage("w1", rr.Ranking.in_order(rr.Corpus.from_texts(["w1"], ids=["nobody"])))


def test_without_feedback_the_query_is_searched_as_it_is(late, corpus):
    stage = ColBERTPRF(late, incoming=True)
    nothing = rr.Ranking.in_order(corpus, [])
    assert stage("w1 w2", nothing).ids.tolist() == late("w1 w2").ids.tolist()
    assert len(stage("", nothing)) == 0 and stage.run([], []) == []
    blank, found = ColBERTPRF(late).run([" ", "w1"])
    assert len(blank) == 0 and blank.facts == {"added": 0} and len(found) == 20
    only_empty = rr.Ranking.in_order(corpus, [0, 20])  # documents without tokens
    assert stage("w1 w2", only_empty).ids.tolist() == late("w1 w2").ids.tolist()


def test_filters_hold_for_both_searches(late):
    allowed = ["d3", "d4", "d5"]
    ranking = ColBERTPRF(late)(rr.Query("w1 w2", allow=allowed))
    assert sorted(ranking.doc_ids) == allowed


def test_document_frequencies_of_a_sample_and_of_a_changed_index(corpus, model):
    index = rr.TokenIndex.build(corpus, model, storage="float32")
    stage = ColBERTPRF(rr.LateInteraction(index, model, k=5), df_documents=10)
    [before] = stage.expand(rr.LateInteraction(index, model, k=5).run(["w1 w2"]))
    rows = np.array([i for i in range(N) if i % 20])[np.linspace(0, N - 4, 10).astype(int)]
    df = Counter(t for ids in token_ids(model, corpus.texts(rows)) for t in set(ids.tolist()))
    assert np.allclose(before.weights, [np.log(11 / (df[t] + 1)) for t in before.tokens.tolist()])
    index.add([rr.Document(f"new{i}", "w1 w2") for i in range(500)])
    [after] = ColBERTPRF(rr.LateInteraction(index, model, k=5)).expand(rr.LateInteraction(index, model, k=5).run(["w1 w2"]))
    again = ColBERTPRF(rr.LateInteraction(index, model, k=5))
    again._known = stage._known  # of another state of the index: not used
    [fresh] = again.expand(rr.LateInteraction(index, model, k=5).run(["w1 w2"]))
    assert fresh.weights.tolist() == after.weights.tolist() != before.weights.tolist()


def test_deleted_and_blank_documents_do_not_count(corpus, model):
    kept = [i for i in range(N) if i % 3 or i % 20 == 0]
    index = rr.TokenIndex.build(corpus, model, storage="float32")
    stage = ColBERTPRF(rr.LateInteraction(index, model, k=5))
    [whole] = stage.expand(stage.retriever.run(["w1 w2"]))
    index.delete([f"d{i}" for i in range(N) if i not in kept])
    fresh = rr.TokenIndex.build(rr.Corpus(corpus[i] for i in kept if i % 20), model, storage="float32")  # blank ones have no tokens
    other = ColBERTPRF(rr.LateInteraction(fresh, model, k=5))
    [changed], [rebuilt] = (each.expand(each.retriever.run(["w1 w2"])) for each in (stage, other))
    assert changed.tokens.tolist() == rebuilt.tokens.tolist() and changed.weights.tolist() == rebuilt.weights.tolist()
    assert changed.weights.max() != whole.weights.max()


def test_of_given_clusters_it_adds_what_pyterrier_colbert_adds(model, monkeypatch):
    """Its formulas written out (ColbertPRF.transform_query, FaissNNTerm.get_nearest_tokens_for_embs), over an index whose documents are all
    feedback, so that the 10 nearest tokens of the index are those of the feedback. Special tokens lie where no cluster is: there they would
    take a place among the 10 and have no vote."""
    rng, words_of = np.random.default_rng(5), [[1, 2, 3, 1], [4, 1, 5], [2, 2, 6, 7, 8], [9], [1, 3, 9, 10]]
    texts = [" ".join(f"w{w}" for w in row) for row in words_of]
    tids = [t for row in words_of for t in (CLS, D, *(VOCABULARY[f"w{w}"] for w in row), SEP)]
    owner = np.repeat(np.arange(5), [len(row) + 3 for row in words_of])
    special = np.isin(tids, [CLS, D, SEP])
    vectors = np.where(special[:, None], -1, 1) * np.abs(rng.normal(size=(len(tids), DIM)))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    centroids = (0.9 * vectors[~special][::2] + 0.05).astype(np.float32)[:8]

    n_docs, scored = 5, []
    df = {t: len({d for d, own in zip(owner, tids) if own == t}) for t in tids}
    for centroid in centroids:
        nearest = np.argsort(-(vectors @ centroid), kind="stable")[:10]
        frequencies: dict[int, int] = {}
        for i in nearest:
            frequencies[tids[i]] = frequencies.get(tids[i], 0) + 1
        assert not special[nearest].any()
        likely = max(frequencies, key=lambda t: frequencies[t])  # the first of equal ones: insertion was from the nearest on
        scored.append((centroid, likely, np.log((1.0 + n_docs) / (df[likely] + 1))))
    scored = sorted(scored, key=lambda entry: -entry[2])[:6]

    index = rr.TokenIndex.from_embeddings(rr.Corpus.from_texts(texts), [vectors[owner == d] for d in range(5)], storage="float32")
    monkeypatch.setattr("rerank_engine.stages.colbert_prf.means_of", lambda feedback, k: centroids)
    stage = ColBERTPRF(rr.LateInteraction(index, model, k=5), fb_docs=5, clusters=8, fb_embs=6, beta=0.7)
    [added] = stage.expand([rr.Ranking.in_order(index.corpus, range(5))])
    assert added.tokens.tolist() == [t for _, t, _ in scored] and len(set(added.tokens.tolist())) > 1
    assert np.allclose(added.weights, [0.7 * score for _, _, score in scored], rtol=1e-6)
    assert np.array_equal(added.vectors, np.array([centroid for centroid, _, _ in scored]))
    [query] = model.encode_queries(["w1 w2"])
    weights = np.concatenate([np.ones(len(query)), 0.7 * np.array([score for _, _, score in scored])])
    asked = np.concatenate([query, added.vectors])
    want = [float((weights * (asked @ vectors[owner == d].T).max(1)).sum()) for d in range(5)]
    got = stage("w1 w2")
    assert np.allclose(got.scores, np.array(want)[got.ids], rtol=1e-5)


def test_texts_that_are_not_those_of_the_vectors(model):
    index = rr.TokenIndex.from_embeddings(rr.Corpus.from_texts(["w1 w2 w3", "w4"]), [np.eye(3, DIM), np.eye(1, DIM)])
    with pytest.raises(InputError, match=r"ColBERTPRF: got 4 vectors for .* tokens; expected one a token"):
        ColBERTPRF(rr.LateInteraction(index, model))("w1")


def test_clusters_of_equal_and_of_far_tokens():
    far = np.repeat(np.eye(4, dtype=np.float32), [5, 1, 2, 3], axis=0)
    assert sorted(means_of(far, 4).tolist()) == sorted(np.eye(4).tolist())
    assert len(means_of(np.repeat(np.eye(1, 4, dtype=np.float32), 6, axis=0), 3)) == 1
    near = np.array([[1, 0], [0.8, 0.6]], np.float32)
    assert np.allclose(means_of(near, 1), [[0.9, 0.3]])  # not of unit length


def test_votes():
    ids = np.array([7, 8, 8, 7, 9, *[5] * 20])
    products = np.array([0.9, 0.8, 0.7, 0.6, 0.95, *[0.1] * 20], np.float32)
    assert voted(ids, products) == 5  # five of the ten nearest
    assert ids[voted(ids[:5], products[:5])] == 7 and voted(ids[:3], products[:3]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"fb_docs": 0}, "fb_docs"), ({"clusters": 1.5}, "clusters"), ({"fb_embs": 25}, "at most clusters, 24"), ({"beta": -1}, "beta")],
)
def test_wrong_arguments(late, options, message):
    with pytest.raises(InputError, match=message):
        ColBERTPRF(late, **options)
    with pytest.raises(InputError, match="retriever: got str"):
        ColBERTPRF("late")


def test_what_runs_is_shown(late):
    stage = ColBERTPRF(late, rerank=True)
    assert repr(late) in repr(stage) and "rerank" in repr(stage) and "beta=1" in repr(stage) and stage.backend == late.backend
    assert stage("w1").trace[-1].facts["added"] > 0
    assert isinstance(stage.expand([late("w1")])[0], Expansion)
