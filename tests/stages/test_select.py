from __future__ import annotations

import numpy as np
import pytest
from models import words, write_encoder

import rerank_engine as rr
from rerank_engine.errors import InputError, UnknownIdError
from rerank_engine.ops import mmr

TEXTS = [words(5, 3), words(20, 27), words(9, 1), words(30, 12), words(5, 4), words(1, 2)]
CORPUS = rr.Corpus.from_texts(TEXTS, ids=list("abcdef"))


def unit(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    v = rng.normal(size=(n, dim))
    return (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return rr.load(write_encoder(tmp_path_factory.mktemp("encoder"), "mean", normalize=True), device="cpu")


INDEX = rr.VectorIndex(CORPUS, unit(np.random.default_rng(0), len(TEXTS), 4))
RANKING = rr.Ranking.sorted(CORPUS, [5, 2, 0, 3, 1], [9, 7, 4, 3, -1])


@pytest.mark.parametrize("lambda_", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("n", [None, 1, 3, 99])
def test_mmr_is_the_op_on_the_index_rows(n, lambda_):
    for relevance, values in (("score", RANKING.scores), ("min-max", (RANKING.scores + 1) / 10)):
        got = rr.MMR(INDEX, n, lambda_=lambda_, relevance=relevance)("q", RANKING)
        picks, value = mmr(values, INDEX.vectors[RANKING.ids], n or 5, lambda_=lambda_)
        assert got.ids.tolist() == RANKING.ids[picks].tolist()
        np.testing.assert_allclose(got.columns["mmr"], value, rtol=1e-6)
        assert got.scale == "rank" and got.scores.tolist() == list(range(len(picks), 0, -1))


def test_mmr_by_the_query_and_by_an_encoder(encoder):
    index = rr.VectorIndex.build(CORPUS, encoder)
    query = encoder.encode(["w5 w6"], queries=True)[0]
    want = mmr(index.vectors[RANKING.ids] @ query, index.vectors[RANKING.ids], 5)[0]
    for stage in (rr.MMR(index, relevance="query", encoder=encoder), rr.MMR(encoder, relevance="query")):
        assert stage("w5 w6", RANKING).ids.tolist() == RANKING.ids[want].tolist()
        assert "MMR(" in repr(stage) and stage.backend in repr(stage)
    assert rr.MMR(encoder, 2)("w5", CORPUS).ids[0] == 0


def test_candidates_of_another_corpus_are_found_by_their_ids():
    other = rr.Corpus.from_texts(list("uvwxy"), ids=list("fcadb"))
    ranking = rr.Ranking.sorted(other, range(5), [9, 7, 4, 3, -1])
    got, want = rr.MMR(INDEX)("q", ranking), rr.MMR(INDEX)("q", RANKING)
    assert got.doc_ids == want.doc_ids and got.columns["mmr"].tolist() == want.columns["mmr"].tolist() and got.corpus is other
    with pytest.raises(UnknownIdError, match=r"MMR: got .*the id 'new'"):
        rr.MMR(INDEX)("q", rr.Ranking.in_order(rr.Corpus.from_texts(["x"], ids=["new"])))


def test_mmr_needs_vectors():
    pytest.importorskip("faiss")
    index = rr.VectorIndex.from_vectors(CORPUS, INDEX.vectors, kind="flat", keep=None)
    with pytest.raises(InputError, match=r"MMR: got an index of keep=None.*keep='float16'"):
        rr.MMR(index)


def test_mmr_by_an_encoder_of_one_s_own():
    class Own:
        fingerprint = "own"

        def encode(self, texts, queries=False):
            return [INDEX.vectors[TEXTS.index(text)] for text in texts]

    assert rr.MMR(Own())("q", RANKING).ids.tolist() == rr.MMR(INDEX)("q", RANKING).ids.tolist()
    by = [rr.MMR(vectors, relevance="query", encoder=encoder) for vectors, encoder in ((Own(), None), (INDEX, Own()))]
    assert by[0](TEXTS[3], RANKING).ids.tolist() == by[1](TEXTS[3], RANKING).ids.tolist()
    told, other = rr.VectorIndex.build(CORPUS, Own()), Own()
    other.fingerprint = "other"
    with pytest.raises(InputError, match=r"MMR: encoder: .*which made the index"):
        rr.MMR(told, relevance="query", encoder=other)


def test_mmr_of_equal_scores_and_of_nothing():
    flat = rr.Ranking(np.arange(3), np.ones(3, np.float32), CORPUS)
    assert rr.MMR(INDEX, 1)("q", flat).ids.tolist() == [0]
    empty = rr.MMR(INDEX)("q", RANKING.head(0))
    assert len(empty) == 0 and empty.columns["mmr"].shape == (0,)
    batch = rr.MMR(INDEX).run(["q", "r"], [RANKING, RANKING.head(2)])
    assert [one.ids.tolist() for one in batch] == [rr.MMR(INDEX)("q", r).ids.tolist() for r in (RANKING, RANKING.head(2))]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: rr.MMR(np.ones((3, 2))), "a VectorIndex or an encoder"),
        (lambda: rr.MMR(INDEX, 0), "MMR: n"),
        (lambda: rr.MMR(INDEX, lambda_=1.1), "from 0 to 1"),
        (lambda: rr.MMR(INDEX, relevance="cosine"), "min-max, score, query"),
        (lambda: rr.MMR(INDEX, relevance="query"), "encodes queries"),
        (lambda: rr.MMR(INDEX, encoder="bge"), "MMR: encoder: got str"),
        (lambda: rr.MMR(INDEX)("q", ["another", "corpus"]), "another corpus"),
        (lambda: rr.MMR(INDEX).run(["q"]), "one Ranking per query"),
        (lambda: rr.LostInTheMiddle(0), "top_k"),
        (lambda: rr.LostInTheMiddle(words=-1), "words"),
    ],
)
def test_wrong_arguments(make, text):
    with pytest.raises(InputError, match=text):
        make()


@pytest.mark.parametrize(("n", "want"), [(0, []), (1, [1]), (2, [1, 2]), (3, [1, 3, 2]), (6, [1, 3, 5, 6, 4, 2]), (5, [1, 3, 5, 4, 2])])
def test_lost_in_the_middle_by_hand(n, want):
    got = rr.LostInTheMiddle()("q", rr.Ranking.in_order(CORPUS, range(n)))
    assert [row + 1 for row in got.ids.tolist()] == want
    assert got.scale == "rank" and (np.diff(got.scores) < 0).all()


def test_lost_in_the_middle_keeps_columns_with_their_documents():
    ranking = rr.Ranking(np.arange(4), np.array([4, 3, 2, 1], np.float32), CORPUS, columns={"row": np.arange(4)})
    got = rr.LostInTheMiddle(3)("q", ranking)
    assert got.columns["row"].tolist() == got.ids.tolist() == [0, 2, 1]
    assert repr(rr.LostInTheMiddle(3)) == "LostInTheMiddle(top_k=3, words=None)"


@pytest.mark.filterwarnings("ignore")
def test_peers_lost_in_the_middle_equals_haystack():
    haystack = pytest.importorskip("haystack", reason="the extra [peers] is not installed")
    rankers = pytest.importorskip("haystack.components.rankers")
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 4, 9, 30):
        texts = [" ".join(["word"] * int(rng.integers(0, 12))) for _ in range(n)]
        documents = [haystack.Document(id=str(i), content=text) for i, text in enumerate(texts)]
        for top_k in (None, 1, 2, 5, 100):
            for words_ in (None, 1, 7, 20, 60, 10_000):
                ranker = rankers.LostInTheMiddleRanker(top_k=top_k, word_count_threshold=words_)
                theirs = [int(document.id) for document in ranker.run(documents=documents)["documents"]]
                ours = rr.LostInTheMiddle(top_k, words_)("q", texts).ids.tolist()
                assert ours == theirs, (n, top_k, words_)
