"""Hand-worked values, then equality with ir_measures on stored runs and on random ones full of ties, then every error."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_engine.errors import InputError, NonFiniteError
from rerank_engine.evaluation import (
    MAP,
    MRR,
    Measure,
    P,
    Recall,
    evaluate,
    evaluate_gains,
    evaluate_queries,
    nDCG,
    parse_measure,
    read_qrels,
    read_run,
)
from rerank_engine.evaluation.measures import AP, R, trec_order

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
RUNS = sorted([*DATA.glob("*/runs/*.gz"), *DATA.glob("listwise-replay/*/golden.trec.gz")])
LOG3 = math.log2(3)

# d4 and d3 tie, and the greater id goes first: d1 d4 d3 d2, with relevances 0 1 3 -1; d5 was not retrieved
QRELS = {"q": {"d1": 0, "d2": -1, "d3": 3, "d4": 1, "d5": 2}}
RUN = {"q": {"d1": 9.0, "d3": 5.0, "d4": 5.0, "d2": 1.0}}


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        (nDCG, (1 / LOG3 + 3 / 2) / (3 + 2 / LOG3 + 1 / 2)),
        (nDCG @ 2, (1 / LOG3) / (3 + 2 / LOG3)),
        (nDCG @ 100, (1 / LOG3 + 3 / 2) / (3 + 2 / LOG3 + 1 / 2)),
        (nDCG(gain="exponential") @ 3, (1 / LOG3 + 7 / 2) / (7 + 3 / LOG3 + 1 / 2)),
        (MRR, 1 / 2),
        (MRR @ 2, 1 / 2),
        (MRR @ 1, 0),
        (MRR(rel=2), 1 / 3),
        (MRR(rel=2) @ 2, 0),
        (Recall @ 2, 1 / 3),
        (Recall @ 100, 2 / 3),
        (Recall(rel=2) @ 100, 1 / 2),
        (P @ 2, 1 / 2),
        (P @ 100, 2 / 100),
        (P(rel=4) @ 2, 0),
        (MAP, (1 / 2 + 2 / 3) / 3),
        (MAP @ 2, (1 / 2) / 3),
        (MAP(rel=3), 1 / 3),
    ],
    ids=str,
)
def test_values_by_hand(measure: Measure, value: float) -> None:
    assert evaluate(QRELS, RUN, [measure])[str(measure)] == pytest.approx(value, abs=1e-15)


def test_the_mean_is_over_the_queries_of_the_qrels() -> None:
    qrels = {"found": {"a": 1}, "missed": {"a": 1}, "empty": {"a": 1}, "nothing relevant": {"a": 0, "b": -1}, "unjudged": {}}
    run = {"unknown": {"a": math.nan}, "nothing relevant": {"a": 1.0}, "found": {"a": 1}, "empty": {}, "unjudged": {"a": 1.0}}
    measures = [nDCG, MRR @ 10, Recall @ 1, P @ 1, MAP]
    assert evaluate(qrels, run, measures) == {str(m): 0.2 for m in measures}
    for values in evaluate_queries(qrels, run, measures).values():
        assert list(values.items()) == [("found", 1.0), ("missed", 0.0), ("empty", 0.0), ("nothing relevant", 0.0), ("unjudged", 0.0)]


def test_keys_are_the_texts_given() -> None:
    assert list(evaluate(QRELS, RUN, ["r@5", Recall @ 5, "Recall@5"])) == ["r@5", "Recall@5"]
    assert evaluate(QRELS, RUN, []) == {}


def test_order_is_score_then_id_descending_as_bytes() -> None:
    assert trec_order("q", {"a": 1, "b": 2.0, "c": np.float32(1), "B": 1.0, "ab": 1.0}) == ["b", "c", "ab", "a", "B"]
    ids = ["z", "é", "\uffff", "\U0001f600", "a", "ab", "Z", "10", "9", "あ"]
    assert trec_order("q", dict.fromkeys(ids, 0.0)) == sorted(ids, key=str.encode, reverse=True)
    assert trec_order("q", {"a": 0.0, "b": -0.0}) == ["b", "a"]


BEYOND_FLOAT32 = [(1 + 1e-12, 1.0), (16777217.0, 16777216.0), (1e40, 1e39), (1e-50, 0.0)]


@pytest.mark.parametrize(("higher", "lower"), BEYOND_FLOAT32)
def test_scores_compare_as_float32(higher: float, lower: float) -> None:
    """Fails once pytrec_eval takes trec_eval 10 in, which compares float64: then decide anew."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrels, run = {"q": {"a": 1}}, {"q": {"a": higher, "b": lower}}
    peer = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(run)["q"]["recip_rank"]
    assert evaluate(qrels, run, [MRR]) == {"MRR": peer} == {"MRR": 0.5}
    assert evaluate(qrels, {"q": {"a": float(np.nextafter(np.float32(1), np.float32(2))), "b": 1.0}}, [MRR]) == {"MRR": 1.0}


Q = dict[str, dict[str, int]]
S = dict[str, dict[str, float]]


def assert_equal_to_ir_measures(qrels: Q, run: S, measures: list[str], peer_run: S | None = None) -> None:
    ir_measures = pytest.importorskip("ir_measures")
    peer = ir_measures.calc([ir_measures.parse_measure(measure) for measure in measures], qrels, run if peer_run is None else peer_run)
    ours, means = evaluate_queries(qrels, run, measures), evaluate(qrels, run, measures)
    assert len(peer.per_query) == len(measures) * len(qrels)
    name = {ir_measures.parse_measure(measure): measure for measure in measures}
    for metric in peer.per_query:
        got = ours[name[metric.measure]][metric.query_id]
        assert got == pytest.approx(metric.value, rel=0, abs=1e-12), (metric.measure, metric.query_id)
    for measure, value in peer.aggregated.items():
        assert means[name[measure]] == pytest.approx(value, rel=0, abs=1e-12), measure


def without_ties(run: S) -> S:
    """The same order in distinct scores. ir_measures leaves RR@k to MS MARCO's script, which breaks ties by document id ascending."""
    return {query: {document: -float(rank) for rank, document in enumerate(trec_order(query, scores))} for query, scores in run.items()}


def test_mrr_at_k_breaks_ties_as_mrr_does_unlike_ir_measures() -> None:
    ir_measures = pytest.importorskip("ir_measures")
    qrels, run = {"q": {"b": 1}}, {"q": {"a": 1.0, "b": 1.0}}
    assert evaluate(qrels, run, ["RR", "RR@10"]) == {"RR": 1, "RR@10": 1}
    assert ir_measures.calc_aggregate([ir_measures.RR, ir_measures.RR @ 10], qrels, run) == {ir_measures.RR: 1, ir_measures.RR @ 10: 0.5}


@pytest.mark.skipif(not RUNS, reason=f"no stored runs under {DATA}")
@pytest.mark.parametrize("path", RUNS, ids=lambda path: f"{path.parts[-3]}-{path.parts[-2]}-{path.name.split('.')[0]}")
def test_stored_runs_equal_ir_measures(path: Path) -> None:
    judged = path.parents[1] if path.parent.name == "runs" else DATA / "trec-dl19-pool"  # the replayed lists are of its topics
    qrels, run = read_qrels(judged / "qrels" / "test.tsv"), read_run(path)
    measures = ["nDCG@10", "nDCG@100", "nDCG", "RR", "R@100", "R(rel=2)@100", "P@10", "AP", "AP@100", "AP(rel=2)"]
    assert_equal_to_ir_measures(qrels, run, measures)
    assert_equal_to_ir_measures(qrels, run, ["RR@10", "RR(rel=2)@10"], without_ties(run))


@pytest.mark.skipif(not RUNS, reason=f"no stored runs under {DATA}")
def test_stored_bm25_run_gives_the_published_figures() -> None:
    folder = DATA / "trec-dl19-pool"
    values = evaluate(read_qrels(folder / "qrels" / "test.tsv"), read_run(folder / "runs" / "bm25.trec.gz"), [nDCG @ 10, MRR(rel=2) @ 10])
    assert {name: round(value, 4) for name, value in values.items()} == {"nDCG@10": 0.5058, "MRR(rel=2)@10": 0.7024}


QUERIES = st.sampled_from(["q1", "q2", "q3", "é"])
DOCUMENTS = st.sampled_from(["a", "b", "ab", "B", "10", "9", "é", "\uffff", "\U0001f600", "d0", "d1", "d2", "d3"])
SCORES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5]) | st.integers(-2, 2) | st.floats(allow_nan=False, allow_infinity=False, width=32)
# one judgment of at least 0 each, since pytrec_eval reads memory that it never set when there is none
JUDGMENTS = st.builds(lambda some, last: {**some, "last": last}, st.dictionaries(DOCUMENTS, st.integers(-2, 4)), st.integers(0, 4))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    qrels=st.dictionaries(QUERIES, JUDGMENTS, min_size=1),
    run=st.dictionaries(QUERIES, st.dictionaries(DOCUMENTS | st.just("last"), SCORES)),
)
def test_random_runs_equal_ir_measures(qrels: Q, run: S) -> None:
    measures = ["nDCG", "nDCG@3", "nDCG@100", "RR", "RR(rel=3)", "R@3", "R(rel=2)@100", "P@3", "P(rel=2)@100", "AP", "AP@3", "AP(rel=2)@3"]
    assert_equal_to_ir_measures(qrels, run, measures)
    assert_equal_to_ir_measures(qrels, run, ["RR@3", "RR(rel=3)@100"], without_ties(run))


def test_exponential_gain_is_the_linear_one_of_transformed_grades() -> None:
    rng = np.random.default_rng(7)
    qrels = {"q": {f"d{i}": int(rng.integers(-1, 5)) for i in range(40)}}
    run = {"q": {f"d{i}": float(rng.integers(0, 5)) for i in range(60)}}
    transformed = {"q": {document: 2 ** max(relevance, 0) - 1 for document, relevance in qrels["q"].items()}}
    for k in (1, 10, 100):
        expected = evaluate(transformed, run, [nDCG @ k])[f"nDCG@{k}"]
        assert evaluate(qrels, run, [f"nDCG(gain=exponential)@{k}"])[f"nDCG(gain=exponential)@{k}"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "measure"),
    [
        ("nDCG@10", nDCG @ 10),
        ("NDCG @ 10", nDCG @ 10),
        ("ndcg", nDCG),
        ("nDCG(gain='exponential')@10", nDCG(gain="exponential") @ 10),
        ('ndcg(gain="exponential")', nDCG(gain="exponential")),
        ("RR", MRR),
        ("mrr@10", MRR @ 10),
        ("R@100", Recall @ 100),
        (" recall ( rel = 2 ) @ 100 ", Recall(rel=2) @ 100),
        ("p@5", P @ 5),
        ("AP", MAP),
        ("map(rel=2)@100", MAP(rel=2) @ 100),
    ],
)
def test_parse(text: str, measure: Measure) -> None:
    assert parse_measure(text) == measure


def test_str_round_trips() -> None:
    for measure, cutoff in itertools.product([nDCG, nDCG(gain="exponential"), MRR, MAP(rel=3), Recall, R(rel=2), P, AP], [1, 10, 1000]):
        assert parse_measure(str(measure @ cutoff)) == measure @ cutoff
    assert [str(m) for m in (nDCG, MRR(rel=2), MAP @ 5)] == ["nDCG", "MRR(rel=2)", "MAP@5"]
    assert str(nDCG(gain="exponential") @ 10) == "nDCG(gain='exponential')@10"
    assert str(Recall @ np.int64(10)) == "Recall@10"


@pytest.mark.parametrize("text", ["ERR@10", "success", "x", "ndcg_cut_10"])
def test_unknown_measure_lists_the_known(text: str) -> None:
    with pytest.raises(InputError, match=r"nDCG, MRR \(RR\), Recall \(R\), P or MAP \(AP\)"):
        parse_measure(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a form such as"),
        ("nDCG@", "a form such as"),
        ("nDCG@ten", "a form such as"),
        ("nDCG@" + "9" * 5000, "a form such as"),
        ("R(rel=2", "a form such as"),
        ("nDCG@0", "at least 1"),
        ("P@-5", "at least 1"),
        ("R(rel=0)@5", "at least 1"),
        ("R(rel=two)@5", "at least 1"),
        ("R(depth=2)@5", "'depth'.*rel"),
        ("nDCG(rel=2)@5", "nDCG: rel"),
        ("nDCG(gain=cubic)@5", "linear, exponential"),
        ("P(gain=exponential)@5", "P: gain"),
        ("Recall", "no cutoff.*Recall@10"),
        ("p(rel=2)", "no cutoff.*@10"),
    ],
)
def test_wrong_measures(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_measure(text)


@pytest.mark.parametrize("cutoff", [0, -1, 2.5, True, "10", None])
def test_wrong_cutoffs(cutoff: int) -> None:
    with pytest.raises(InputError, match="integer of at least 1"):
        nDCG @ cutoff
    with pytest.raises(InputError, match="integer of at least 1"):
        Recall(rel=0)
    with pytest.raises(InputError, match="nDCG, MRR"):
        Measure("ndcg")


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite(score: float) -> None:
    with pytest.raises(NonFiniteError, match="document 'bad' for query 'q'"):
        evaluate({"q": {"a": 1}}, {"q": {"a": 1.0, "bad": score, "z": 2.0}}, [MRR])


def test_wrong_inputs() -> None:
    with pytest.raises(InputError, match="no queries"):
        evaluate({}, RUN, [nDCG])
    with pytest.raises(InputError, match=r"Write \['nDCG@10'\]"):
        evaluate(QRELS, RUN, "nDCG@10")
    with pytest.raises(InputError, match="a list of measures"):
        evaluate(QRELS, RUN, nDCG @ 10)
    with pytest.raises(InputError, match="no cutoff"):
        evaluate(QRELS, RUN, [P])
    with pytest.raises(InputError, match=r"document id of query 'q': got 3.*str\(\)"):
        evaluate(QRELS, {"q": {3: 1.0}}, [nDCG])
    for score in ("1.5", None, 1j):
        with pytest.raises(InputError, match=r"scores of query 'q'.*numbers"):
            evaluate(QRELS, {"q": {"a": score}}, [nDCG])
    with pytest.raises(InputError, match=r"relevances of query 'q'.*integers"):
        evaluate({"q": {"a": 0.5}}, RUN, [nDCG])
    with pytest.raises(NonFiniteError, match=r"below 1000.*linear"):
        evaluate({"q": {"a": 2000}}, {"q": {"a": 1.0}}, [nDCG(gain="exponential")])


EVERY_MEASURE = [
    nDCG,
    nDCG @ 3,
    nDCG(gain="exponential") @ 5,
    MRR,
    MRR @ 2,
    MRR(rel=2),
    Recall @ 3,
    Recall(rel=2) @ 9,
    P @ 4,
    P @ 99,
    MAP,
    MAP @ 3,
    MAP(rel=3),
]


def matrices(qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]], extra: int) -> tuple[np.ndarray, np.ndarray]:
    """gains and judged, with `extra` zeros behind the longest."""
    lists = [[judged.get(d, 0) for d in trec_order(q, run.get(q, {}))] for q, judged in qrels.items()]
    pools = [list(judged.values()) for judged in qrels.values()]
    padded = [np.zeros((len(qrels), max(map(len, rows), default=0) + extra), np.int64) for rows in (lists, pools)]
    for matrix, rows in zip(padded, (lists, pools)):
        for i, row in enumerate(rows):
            matrix[i, : len(row)] = row
    return padded[0], padded[1]


@pytest.mark.parametrize("extra", [0, 1, 200])
@settings(derandomize=True, deadline=None, max_examples=60)
@given(data=st.data())
def test_ready_matrices_give_the_same(extra: int, data: st.DataObject) -> None:
    documents = st.sampled_from("abcdefghij")
    qrels = data.draw(st.dictionaries(st.sampled_from("qrst"), st.dictionaries(documents, st.integers(-1, 4), max_size=10), min_size=1))
    run = data.draw(st.dictionaries(st.sampled_from("qrst"), st.dictionaries(documents, st.integers(0, 5).map(float), max_size=10)))
    gains, judged = matrices(qrels, run, extra)
    got = evaluate_gains(gains, judged, EVERY_MEASURE)
    want = evaluate_queries(qrels, run, EVERY_MEASURE)
    assert list(got) == list(want)
    for name, values in want.items():
        np.testing.assert_allclose(got[name], list(values.values()), rtol=1e-14, atol=1e-15, err_msg=name)


def test_ready_matrices_equal_pytrec_eval() -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng = np.random.default_rng(0)
    run = {f"q{q}": {f"d{d}": float(s) for d, s in zip(rng.permutation(3000)[:400], rng.random(400))} for q in range(40)}
    qrels = {q: {d: int(rng.integers(0, 4)) for d in [*list(hits)[::17], "missing"]} for q, hits in run.items()}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recip_rank", "map", "recall.100"}).evaluate(run)
    gains, judged = matrices(qrels, run, 0)
    got = evaluate_gains(gains.astype(np.int8), judged, ["nDCG@10", "RR", "AP", "R@100"])
    for ours, name in zip(got.values(), ("ndcg_cut_10", "recip_rank", "map", "recall_100")):
        np.testing.assert_allclose(ours, [theirs[q][name] for q in run], rtol=1e-12)


@pytest.mark.parametrize(
    ("gains", "judged", "text"),
    [
        ([[1.0]], [[1]], "gains: got float64"),
        ([1], [[1]], "gains"),
        ([[1]], [1], "judged"),
        ([[1], [0]], [[1]], "1 queries"),
    ],
)
def test_wrong_matrices(gains: object, judged: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        evaluate_gains(gains, judged, [MAP])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="list of measures"):
        evaluate_gains([[1]], [[1]], "MAP")
    with pytest.raises(NonFiniteError, match="grades below"):
        evaluate_gains([[2000]], [[2000]], [nDCG(gain="exponential")])
    assert evaluate_gains(np.zeros((0, 5), int), np.zeros((0, 1), int), [MAP, nDCG])["MAP"].shape == (0,)
