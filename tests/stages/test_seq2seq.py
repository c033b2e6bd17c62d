"""MonoT5, RankT5 and DuoT5 against transformers on small random checkpoints, and DuoT5's aggregations against a plain reference."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from t5_models import first_logits, generated_logits, transformers, write_t5

import rerank_engine as rr
from rerank_engine.core import LOWEST
from rerank_engine.errors import CorruptModelError, InputError, NonFiniteError, QueryTooLongError, UnsupportedModelError
from rerank_engine.runtimes.t5_prompts import T5Prompt
from rerank_engine.runtimes.tokenize import Tokenizer
from rerank_engine.stages import seq2seq
from rerank_engine.stages.calibration import sigmoid
from rerank_engine.stages.seq2seq import AGGREGATIONS, duo_scores

QUERY = "w1 w2"
TEXTS = ["w3 w4 w5", "w9", " ".join(["w7 w8"] * 30), "a rose is: a rose", "w3 w4 w5", "w50"]
FAMILIES = ("t5", "mt5")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    path = tmp_path_factory.mktemp(request.param)
    return request.param, path, write_t5(path, request.param)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    write_t5(path, "t5", num_layers=1, num_decoder_layers=1)
    return path


def load(path: Path, prompt: Any, **options: Any) -> Any:
    return rr.load(path, prompt=prompt, device="cpu", threads=1, **options)


def asked(path: Path, texts: list[str]) -> list[np.ndarray]:
    """Token ids by transformers' own tokenizer."""
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"))
    return [np.array(theirs(text)["input_ids"], np.int64) for text in texts]


@pytest.mark.parametrize("logits_of", [first_logits, generated_logits])
def test_monot5_and_rankt5_are_what_transformers_says(folder: tuple[str, Path, Any], logits_of: Any) -> None:
    family, path, model = folder
    mono, rank = load(path, "monot5"), load(path, "rankt5")
    assert isinstance(mono, rr.MonoT5) and isinstance(rank, rr.RankT5)
    yes, no = (mono.tokenizer.token_id(token) for token in (("▁true", "▁false") if family == "t5" else ("▁yes", "▁no")))
    logits = logits_of(model, asked(path, [f"Query: {QUERY} Document: {text} Relevant:" for text in TEXTS]))
    scores = mono.predict([(QUERY, text) for text in TEXTS])
    assert scores.scale == "logit" and scores.values.dtype == np.float32 and np.ptp(scores.values) > 0.1
    np.testing.assert_allclose(scores.values, logits[:, yes] - logits[:, no], atol=1e-4)
    both = np.exp(logits[:, [yes, no]].astype(np.float64))
    np.testing.assert_allclose(sigmoid(scores.values), both[:, 0] / both.sum(1), atol=1e-4)  # the paper's softmax over the two
    logits = logits_of(model, asked(path, [f"Query: {QUERY} Document: {text}" for text in TEXTS]))
    found = rank.predict([(QUERY, text) for text in TEXTS]).values
    np.testing.assert_allclose(found, logits[:, rank.tokenizer.token_id("<extra_id_10>")], atol=1e-4)


@pytest.mark.parametrize("logits_of", [first_logits, generated_logits])
def test_duot5_compares_as_transformers_does(folder: tuple[str, Path, Any], logits_of: Any) -> None:
    family, path, model = folder
    duo = load(path, "duot5")
    assert isinstance(duo, rr.PairwiseT5)
    yes, no = (duo.tokenizer.token_id(token) for token in (("▁true", "▁false") if family == "t5" else ("▁yes", "▁no")))
    triples = [(QUERY, a, b) for a, b in permutations(TEXTS[:4], 2)]
    logits = logits_of(model, asked(path, [f"Query: {q} Document0: {a} Document1: {b} Relevant:" for q, a, b in triples]))
    found = duo.compare(triples)
    np.testing.assert_allclose(found.logits, logits[:, yes] - logits[:, no], atol=1e-4)
    assert found.done.all() and not found.dropped.any()
    table = np.zeros((4, 4), np.float32)
    table[~np.eye(4, dtype=bool)] = logits[:, yes] - logits[:, no]
    for aggregation in AGGREGATIONS:
        ranking = rr.DuoT5(duo, aggregation=aggregation)(QUERY, TEXTS[:4])
        wanted = reference(table, aggregation)
        np.testing.assert_allclose(ranking.scores, sorted(wanted, reverse=True), rtol=1e-4, atol=1e-4)
        assert ranking.scale == f"duo {aggregation}"
        gaps = -np.diff(sorted(wanted, reverse=True))
        if (gaps > 1e-3).all():
            assert ranking.ids.tolist() == sorted(range(4), key=lambda i: -wanted[i])


def reference(x: Any, aggregation: str) -> list[float]:
    """The papers' sums, written as they stand."""
    n, scores = len(x), []
    for i in range(n):
        total, p_min, p_max = 0.0, math.inf, -math.inf
        for j in range(n):
            if i == j:
                continue
            p, turned = 1 / (1 + math.exp(-float(x[i][j]))), 1 / (1 + math.exp(-float(x[j][i])))
            p_min, p_max = min(p_min, p), max(p_max, p)
            if aggregation == "sum":
                total += p
            elif aggregation == "sum-log":
                total += math.log(p)
            elif aggregation == "sym-sum":
                total += p + (1 - turned)
            elif aggregation == "sym-sum-log":
                total += math.log(p) + math.log(1 - turned)
            elif aggregation == "binary":
                total += p > 0.5
        scores.append({"min": p_min, "max": p_max}.get(aggregation, total))
    return scores


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.integers(2, 12), st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1.0, 4.0]))
def test_aggregations_are_the_papers(aggregation: str, n: int, seed: int, spread: float) -> None:
    x = np.random.default_rng(seed).normal(0, spread, (n, n)).astype(np.float32)
    np.testing.assert_allclose(duo_scores(x, aggregation), reference(x, aggregation), rtol=1e-9)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_aggregations_at_their_ends(aggregation: str) -> None:
    """Nothing is lost where a probability is 0 or 1 in float64, nor looked for on the diagonal."""
    x = np.array([[np.nan, 800, 900], [-800, np.inf, 1000], [-900, -1000, 0]], np.float32)
    scores = duo_scores(x, aggregation)
    assert np.isfinite(scores).all() and scores.argmax() == 0 and scores[0] >= scores[1] >= scores[2]
    if aggregation.endswith("log"):
        assert scores[0] > scores[1] > scores[2]
    assert duo_scores(np.zeros((1, 1)), aggregation).tolist() == [0.0] and duo_scores(np.zeros((0, 0)), aggregation).shape == (0,)


def test_matrices_that_are_none() -> None:
    for bad, error in ((np.zeros((2, 3)), InputError), (np.zeros(4), InputError), (np.full((2, 2), np.nan), NonFiniteError)):
        with pytest.raises(error):
            duo_scores(bad, "sum")
    with pytest.raises(InputError, match="sym-sum"):
        duo_scores(np.zeros((2, 2)), "median")


def test_the_order_of_documents_changes_no_score(tiny: Path) -> None:
    order = np.random.default_rng(3).permutation(len(TEXTS))
    for prompt in ("monot5", "rankt5"):
        model = load(tiny, prompt)
        straight = model.predict([(QUERY, text) for text in TEXTS]).values
        assert model.predict([(QUERY, TEXTS[i]) for i in order]).values.tobytes() == straight[order].tobytes()
    duo = rr.DuoT5(load(tiny, "duot5"), aggregation="sum-log")
    straight, moved = (duo(QUERY, [TEXTS[i] for i in rows]) for rows in (range(4), [2, 0, 3, 1]))
    assert [TEXTS[i] for i in straight.ids] == [[TEXTS[i] for i in (2, 0, 3, 1)][i] for i in moved.ids]
    np.testing.assert_allclose(straight.scores, moved.scores, rtol=1e-6)


def test_blank_documents_are_not_run(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mono, duo = load(tiny, "monot5"), load(tiny, "duot5")
    assert mono.predict([(QUERY, "w1"), (QUERY, " \n")]).values[1] == LOWEST
    ranking = rr.DuoT5(duo)(QUERY, ["", "w9", "\t", "w3 w4"])
    assert ranking.ids.tolist()[2:] == [0, 2] and ranking.trace[-1].facts["pairs"] == 2 and (np.diff(ranking.scores) < 0).all()
    monkeypatch.setattr(mono.runtime, "run", None)
    monkeypatch.setattr(duo.runtime, "run", None)
    assert mono.predict([(QUERY, "")]).values.tolist() == [LOWEST]
    for texts in (["", " "], ["", "w1"], ["w1"], []):  # nothing to compare
        alone = rr.DuoT5(duo)(QUERY, texts)
        assert sorted(alone.ids.tolist()) == list(range(len(texts))) and alone.trace[-1].facts == {"pairs": 0, "tokens": 0}
        assert "w1" not in texts or alone.ids[0] == texts.index("w1")


def test_truncation_is_counted_and_spares_the_query(tiny: Path) -> None:
    mono, duo = load(tiny, "monot5", max_length=24), load(tiny, "duot5", max_length=32)
    long, short = " ".join(["w7"] * 40), "w3 w4"
    scores = mono.predict([(QUERY, long), (QUERY, short)])
    fits = 24 - len(asked(tiny, [f"Query: {QUERY} Document: Relevant:"])[0])
    assert scores.columns["truncated_tokens"].tolist() == [40 - fits, 0]
    np.testing.assert_allclose(scores.values[0], mono.predict([(QUERY, " ".join(["w7"] * fits))]).values[0], rtol=1e-5)
    assert mono.count_tokens([rr.Query(QUERY)], [rr.Ranking.in_order(rr.Corpus.from_texts([long]))])[0].tolist() == [24]
    ranking = rr.DuoT5(duo, depth=3)(QUERY, [long, short, long, long])
    room = 32 - len(asked(tiny, [f"Query: {QUERY} Document0: Document1: Relevant:"])[0])
    cut = dict(zip(ranking.ids.tolist(), ranking.columns["truncated_tokens"].tolist()))
    assert cut == {0: 40 - room // 2, 1: 0, 2: 40 - room // 2, 3: 0}
    for model, prompt in ((mono, "monot5"), (duo, "duot5")):
        with pytest.raises(QueryTooLongError):
            rr.rerank(long, [short, "w9"], model if prompt == "monot5" else rr.DuoT5(model))
        with pytest.raises(InputError, match="tokens too many"):
            strict = load(tiny, prompt, max_length=32, long="error")
            rr.rerank(QUERY, [short, long], strict if prompt == "monot5" else rr.DuoT5(strict))


def test_duot5_orders_the_head_and_leaves_the_rest(tiny: Path) -> None:
    corpus = rr.Corpus.from_texts([f"w{i} w{(7 * i) % 60}" for i in range(8)])
    came = rr.Ranking.in_order(corpus)._with(columns={"truncated_tokens": np.arange(8, dtype=np.int32), "year": np.arange(8)})
    duo = rr.DuoT5(load(tiny, "duot5"), depth=5)
    (made, other) = duo.run([QUERY, "w5"], [came, came.head(3)])
    assert sorted(made.ids[:5].tolist()) == [0, 1, 2, 3, 4] and made.ids[5:].tolist() == [5, 6, 7]
    assert made.columns["year"].tolist() == made.ids.tolist() and made.columns["truncated_tokens"].tolist() == [0] * 5 + [5, 6, 7]
    assert (np.diff(made.scores) <= 0).all() and made.facts["pairs"] == 20 and other.facts["pairs"] == 6 and "scored" not in made.columns
    alone = duo.run(["w5"], [came.head(3)])[0]
    assert alone.ids.tolist() == other.ids.tolist()
    np.testing.assert_allclose(alone.scores, other.scores, rtol=1e-6)
    assert (
        repr(duo) == f"DuoT5(PairwiseT5({tiny}, torch/cpu (packed)), depth=5, aggregation='sym-sum')"
        and duo.backend == "torch/cpu (packed)"
    )


class Table:
    """A model of comparisons that are known: of w<i> and w<j>, seconds of a clock each."""

    name, device, outputs, batch_sensitive, fingerprint = "table", "cpu", ("logits",), True, ""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.tokenizer = 0.0, Tokenizer(folder / "tokenizer.json", 64)
        monkeypatch.setattr("rerank_engine.limits.time", SimpleNamespace(monotonic=lambda: self.now))
        self.model = rr.PairwiseT5(self, self.tokenizer, name="table")  # type: ignore[arg-type]

    def run(self, ids: rr.Packed, types: rr.Packed, output: str, attended: Any = None) -> np.ndarray:
        self.now += 1
        words = [[self.tokenizer.token(token) for token in row.tolist()] for row in ids]
        numbers = [[int(word[2:]) for word in row if word.startswith("▁w")][1:] for row in words]
        return np.array([[float(second - first)] for first, second in numbers], np.float32)


def test_ties_keep_the_old_order(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of equal documents, and of a count of wins: the smaller number wins every comparison."""
    duo = rr.DuoT5(Table(tiny, monkeypatch).model, aggregation="binary")
    assert duo("w50", ["w4", "w2", "w4", "w1", "w2"]).ids.tolist() == [3, 1, 4, 0, 2]
    corpus = rr.Corpus.from_texts(["w4", "w4", "w4"])
    assert duo("w50", rr.Ranking.in_order(corpus, [2, 0, 1])).ids.tolist() == [2, 0, 1]


@pytest.mark.parametrize("seconds", range(14))
def test_a_deadline_leaves_whole_comparisons_of_the_first(tiny: Path, monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """A second each, of 4 documents: 1 of 2 after 2, 3 after 6, all after 12."""
    duo = rr.DuoT5(Table(tiny, monkeypatch).model, depth=4, aggregation="sum")
    texts = ["w9", "w8", "w7", "w6", "w5"]
    ranking = duo("w50", texts, deadline_ms=1e3 * seconds)
    reached = max(m for m in range(5) if m == 0 or (m > 1 and m * (m - 1) <= seconds) or m * (m - 1) < 0)
    want = [*range(reached - 1, -1, -1), *range(reached, 5)]
    assert ranking.ids.tolist() == want and (np.diff(ranking.scores) <= 0).all()
    facts = ranking.trace[-1].facts
    assert facts.get("reached") == (None if reached == 4 else reached) and ranking.trace[-1].finished == (reached == 4)
    assert ranking.columns["scored"].tolist() == [True] * reached + [False] * (5 - reached)
    assert seconds == 0 or facts["pairs"] == min(seconds, 12)
    direct = duo.run(["w50"], [rr.Ranking.in_order(rr.Corpus.from_texts(texts))], deadline_ms=0)[0]
    assert direct.facts == {"finished": False, "reached": 0} and direct.ids.tolist() == [0, 1, 2, 3, 4]
    if reached == 0:
        assert ranking.scale == "rank" and ranking.scores.tolist() == [5, 4, 3, 2, 1]


def test_a_deadline_of_monot5_reads_from_the_top(tiny: Path) -> None:
    model = load(tiny, "monot5")
    with rr.limited(deadline_ms=0):
        nothing = rr.Rescore(model)(QUERY, TEXTS)
    assert nothing.ids.tolist() == list(range(len(TEXTS))) and not nothing.columns["scored"].any()
    timed = rr.Rescore(model)(QUERY, TEXTS, deadline_ms=3.6e6)
    assert timed.ids.tolist() == rr.Rescore(model)(QUERY, TEXTS).ids.tolist() and timed.columns["scored"].all()


def test_progress_is_told_and_equal_comparisons_are_run_once(tiny: Path) -> None:
    seen: list[tuple[int, int]] = []
    duo = rr.DuoT5(load(tiny, "duot5"))
    with rr.limited(progress=lambda done, total: seen.append((done, total))):
        ranking = duo(QUERY, ["w1", "w2", "w1"])
    assert seen[-1] == (3, 3) and ranking.facts == {} and ranking.trace[-1].facts["pairs"] == 6


def test_the_engine_takes_them_as_it_takes_any_scorer(tiny: Path) -> None:
    mono = load(tiny, "monot5", cache=1 << 16)
    found = rr.rerank(QUERY, TEXTS, mono, 3, activation="sigmoid")
    assert len(found) == 3 and all(result.scale == "probability" and 0 < result.score < 1 for result in found)
    assert mono.predict([(QUERY, TEXTS[0])]).facts == {"tokens": 0, "cached": 1}
    cascade = rr.Cascade([load(tiny, "rankt5"), mono], keep=0.5)(QUERY, TEXTS)
    assert sorted(cascade.ids.tolist()) == list(range(len(TEXTS)))
    assert repr(mono).startswith("MonoT5(") and repr(load(tiny, "rankt5")).startswith("RankT5(")


def test_a_server_and_adapters_take_them_too(tiny: Path) -> None:
    testing = pytest.importorskip("starlette.testclient", reason="the server needs the extra [serve]")
    from rerank_engine.adapters.scoring import pair_scores
    from rerank_engine.serve import create_app

    model = load(tiny, "monot5", max_length=24)
    long = " ".join(["w7"] * 40)
    wanted = model.predict([(QUERY, text) for text in ("w9", long)]).values
    with testing.TestClient(create_app(model)) as client:
        found = client.post("/v1/rerank", json={"model": "m", "query": QUERY, "documents": ["w9", long]}).json()["results"]
    told = {row["index"]: row["relevance_score"] for row in found}
    np.testing.assert_allclose([told[0], told[1]], sigmoid(wanted), rtol=1e-5)
    assert model.counted([rr.Query(QUERY)], [rr.Ranking.in_order(rr.Corpus.from_texts([long]))])[0][0].tolist() == [24]
    np.testing.assert_allclose(pair_scores(model, [(QUERY, "w9"), ("w5", "w9")], "sigmoid")[0], sigmoid(wanted[0]), rtol=1e-5)


def test_one_cache_keeps_prompts_and_answers_apart(tiny: Path) -> None:
    from rerank_engine.stages.score_cache import ScoreCache

    cache = ScoreCache(1 << 16)
    scores = [load(tiny, "monot5", cache=cache, answers=pair).predict([(QUERY, "w9")]) for pair in (("▁true", "▁false"), ("▁yes", "▁no"))]
    assert scores[0].facts["cached"] == scores[1].facts["cached"] == 0 and scores[0].values != scores[1].values


def test_a_prompt_of_ones_own(folder: tuple[str, Path, Any]) -> None:
    _, path, model = folder
    own = load(path, T5Prompt("Document: {document} Query: {query}", ("▁w5",)))
    assert isinstance(own, rr.RankT5)
    logits = first_logits(model, asked(path, [f"Document: w9 Query: {QUERY}"]))
    np.testing.assert_allclose(own.predict([(QUERY, "w9")]).values, logits[:, own.tokenizer.token_id("▁w5")], atol=1e-4)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda path: load(path, "bart"), InputError, "monot5, rankt5, duot5"),
        (lambda path: rr.load(path, device="cpu"), UnsupportedModelError, "writes text.*prompt="),
        (lambda path: load(path, "monot5", answers=("▁sim", "▁não")), InputError, "▁sim"),
        (lambda path: load(path, "monot5", label=1), InputError, "options: got label"),
        (lambda path: load(path, "duot5", cache=1 << 20), InputError, "cache"),
        (lambda path: load(path, "monot5", long="chunk"), InputError, "long"),
        (lambda path: load(path, "duot5", long="chunk"), InputError, "long"),
        (lambda path: load(path, "monot5", max_length=1 << 20), InputError, "from 8 to 2048"),
        (lambda path: load(path, "monot5").predict([(QUERY,)]), InputError, r"MonoT5\.predict: pair 0"),
        (lambda path: load(path, "rankt5").predict([(" ", "w1")]), InputError, r"RankT5\.predict: query of pair 0"),
        (lambda path: load(path, "duot5").compare([(QUERY, "w1")]), InputError, r"PairwiseT5\.compare: triple 0"),
        (lambda path: load(path, "duot5").compare("w1"), InputError, "triples"),
        (lambda path: rr.DuoT5(load(path, "duot5"))("", ["w1", "w2"]), InputError, "query of triple 0: got an empty text"),
        (lambda path: rr.DuoT5(load(path, "monot5")), InputError, "DuoT5: model: got MonoT5"),
        (lambda path: rr.DuoT5(load(path, "duot5"), depth=0), InputError, "depth"),
        (lambda path: rr.DuoT5(load(path, "duot5"), aggregation="mean"), InputError, "aggregation.*sym-sum-log"),
        (lambda path: rr.Rescore(load(path, "duot5")), InputError, "Rescore"),
        (lambda path: rr.MonoT5(Table, None, name="x", prompt=T5Prompt("{query} {document}", ("a",))), InputError, "MonoT5: prompt"),  # type: ignore[arg-type]
    ],
)
def test_what_is_refused(tiny: Path, call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(tiny)


def test_numbers_that_are_none_name_their_input(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duo = load(tiny, "duot5")
    monkeypatch.setattr(duo.runtime, "run", lambda ids, types, output, attended=None: np.full((len(ids), 1), np.nan, np.float32))
    with pytest.raises(NonFiniteError, match="output of input 0"):
        rr.DuoT5(duo)(QUERY, ["w1", "w2"])


def test_weights_of_another_tokenizer(tmp_path: Path) -> None:
    write_t5(tmp_path, "t5", num_layers=1, vocab_size=60)
    with pytest.raises(CorruptModelError, match="for 60 embeddings"):
        load(tmp_path, "monot5")


def test_queries_are_compared_some_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same order whatever is batched together, and after the deadline no further tokens are made."""
    write_t5(tmp_path)
    model = rr.load(tmp_path, prompt="duot5")
    stage = rr.DuoT5(model, depth=4)
    lists = [rr.Ranking.in_order(rr.Corpus.from_texts([f"cats {i} {j}" for j in range(3 + i)])) for i in range(4)]
    queries = ["fleas", "cats", "fleas cats", "dogs"]
    whole = [one.ids.tolist() for one in stage.run(queries, lists)]
    sizes = []
    compare = model.compare
    monkeypatch.setattr(model, "compare", lambda triples, **how: sizes.append(len(triples)) or compare(triples, **how))
    monkeypatch.setattr(seq2seq, "TOGETHER", 20)
    assert [one.ids.tolist() for one in stage.run(queries, lists)] == whole and sizes == [6, 12, 12, 12]
    sizes.clear()
    late = stage.run(queries, lists, deadline_ms=0)
    assert not sizes and all(len(one) == len(given) and not one.columns["scored"].any() for one, given in zip(late, lists))


def test_a_prompt_takes_its_number_of_answers(tmp_path: Path) -> None:
    write_t5(tmp_path)
    for prompt, answers in (("monot5", ("▁true",)), ("duot5", ("▁true",)), ("rankt5", ("▁true", "▁false"))):
        with pytest.raises(InputError, match="as many as"):
            rr.load(tmp_path, prompt=prompt, answers=answers)
