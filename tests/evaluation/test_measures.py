"""Hand-worked values, then equality with ir_measures on stored runs and on random ones full of ties, then every error."""

from __future__ import annotations

import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_engine.errors import InputError, NonFiniteError
from rerank_engine.evaluation import (
    ERR,
    MAP,
    MRR,
    RBP,
    Judged,
    Measure,
    P,
    Recall,
    Success,
    evaluate,
    evaluate_gains,
    evaluate_queries,
    nDCG,
    parse_measure,
    read_qrels,
    read_run,
)
from rerank_engine.evaluation.measures import AP, R, trec_order
from rerank_engine.ops.fuse import fuse

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
        (Success @ 1, 0),
        (Success @ 2, 1),
        (Success(rel=3) @ 2, 0),
        (Judged, 4 / 4),
        (Judged @ 100, 4 / 4),
        (RBP, 0.2 * (0.8 + 3 * 0.64)),
        (RBP(p=0.5), 0.5 * (0.5 + 3 * 0.25)),
        (RBP(rel=1), 0.2 * (0.8 + 0.64)),
        (RBP(rel=2, p=0.9) @ 3, 0.1 * 0.81),
        (RBP(rel=2) @ 2, 0),
        (ERR, 1 / 16 / 2 + 15 / 16 * 7 / 16 / 3),
        (ERR @ 2, 1 / 16 / 2),
    ],
    ids=str,
)
def test_values_by_hand(measure: Measure, value: float) -> None:
    assert evaluate(QRELS, RUN, [measure])[str(measure)] == pytest.approx(value, abs=1e-15)


def test_the_mean_is_over_the_queries_of_the_qrels() -> None:
    qrels = {"found": {"a": 1}, "missed": {"a": 1}, "empty": {"a": 1}, "nothing relevant": {"a": 0, "b": -1}, "unjudged": {}}
    run = {"unknown": {"a": math.nan}, "nothing relevant": {"a": 1.0}, "found": {"a": 1}, "empty": {}, "unjudged": {"a": 1.0}}
    measures = [nDCG, MRR @ 10, Recall @ 1, P @ 1, MAP, Success @ 1]
    assert evaluate(qrels, run, measures) == {str(m): 0.2 for m in measures}
    assert evaluate(qrels, run, [RBP, ERR, Judged @ 2]) == pytest.approx({"RBP": 0.2 / 5, "ERR": 1 / 16 / 5, "Judged@2": 2 / 5})
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


def test_judged_counts_what_was_judged_not_what_is_relevant() -> None:
    qrels, run = {"q": {"a": 0, "b": -2}}, {"q": {"c": 3.0, "b": 2.0, "x": 1.0, "a": 0.5}}
    assert evaluate(qrels, run, ["Judged@1", "Judged@2", "Judged@3", "Judged"]) == pytest.approx(
        {"Judged@1": 0, "Judged@2": 1 / 2, "Judged@3": 1 / 3, "Judged": 2 / 4}
    )


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
    measures = ["nDCG@10", "nDCG@100", "nDCG", "RR", "R@100", "R(rel=2)@100", "P@10", "AP", "AP@100", "AP(rel=2)", "Success(rel=2)@1"]
    assert_equal_to_ir_measures(qrels, run, [*measures, "Success@5"])
    assert_equal_to_ir_measures(qrels, run, ["RR@10", "RR(rel=2)@10", "Judged@10", "Judged@1000", "Judged"], without_ties(run))
    assert_equal_to_formulas_in_plain_python(qrels, run)


def assert_equal_to_formulas_in_plain_python(qrels: Q, run: S) -> None:
    """RBP and ERR as loops: what ir_measures needs for them is a further package, and a Perl script that prints five decimals."""
    got = evaluate_queries(qrels, run, ["RBP", "RBP(p=0.95,rel=2)@50", "ERR@20"])
    for query, judged in qrels.items():
        graded = binary = err = 0.0
        unread = 1.0
        for i, document in enumerate(trec_order(query, run.get(query, {}))):
            grade = max(judged.get(document, 0), 0)
            graded += 0.2 * 0.8**i * grade
            binary += 0.05 * 0.95**i * (grade >= 2 and i < 50)
            stop = (2**grade - 1) / 16
            err += unread * stop / (i + 1) * (i < 20)
            unread *= 1 - stop
        values = [values[query] for values in got.values()]
        np.testing.assert_allclose(values, [graded, binary, err], rtol=0, atol=1e-12)


@pytest.mark.skipif(not RUNS, reason=f"no stored runs under {DATA}")
@pytest.mark.parametrize("name", ["trec-dl19-pool", "trec-dl21-pool"])
def test_stored_runs_equal_gdeval_to_its_five_decimals(name: str) -> None:
    """ERR and the exponential gain, by the script of TREC's web tracks."""
    ir_measures = pytest.importorskip("ir_measures")
    if shutil.which("perl") is None:
        pytest.skip("gdeval is a script in Perl, which is not installed")
    qrels = read_qrels(DATA / name / "qrels" / "test.tsv")
    for path in sorted((DATA / name / "runs").glob("*.gz")):
        run = without_ties(read_run(path))  # it breaks ties as trec_eval does, but compares the scores as they are written
        measures = [ir_measures.parse_measure(text) for text in ("ERR@10", "ERR@100", "nDCG(dcg='exp-log2')@10")]
        ours = evaluate_queries(qrels, run, [str(measure) for measure in measures])
        for metric in ir_measures.iter_calc(measures, qrels, run):
            assert ours[str(metric.measure)][metric.query_id] == pytest.approx(metric.value, rel=0, abs=5.0001e-6), metric


@pytest.mark.skipif(not RUNS, reason=f"no stored runs under {DATA}")
def test_stored_runs_equal_ir_measures_rbp() -> None:
    ir_measures = pytest.importorskip("ir_measures")
    pytest.importorskip("cwl", reason="ir_measures leaves RBP to cwl-eval, which is not installed")
    for folder in (DATA / "trec-dl19-pool", DATA / "trec-dl21-pool"):
        qrels = read_qrels(folder / "qrels" / "test.tsv")
        for path in sorted((folder / "runs").glob("*.gz")):
            run = without_ties(read_run(path))
            measures = [ir_measures.parse_measure(text) for text in ("RBP(rel=1)", "RBP(p=0.9,rel=2)")]
            ours = evaluate_queries(qrels, run, ["RBP(rel=1)", "RBP(p=0.9,rel=2)"])
            for metric in ir_measures.iter_calc(measures, qrels, run):
                name = "RBP(rel=1)" if metric.measure == measures[0] else "RBP(p=0.9,rel=2)"
                assert ours[name][metric.query_id] == pytest.approx(metric.value, rel=0, abs=1e-12), metric


@pytest.mark.skipif(not RUNS, reason=f"no stored runs under {DATA}")
def test_stored_runs_give_the_published_figures() -> None:
    folder = DATA / "trec-dl19-pool"
    qrels, runs = read_qrels(folder / "qrels" / "test.tsv"), {p.name.split(".")[0]: read_run(p) for p in (folder / "runs").glob("*.gz")}
    assert round(evaluate(qrels, runs["bm25"], [MRR(rel=2) @ 10])["MRR(rel=2)@10"], 4) == 0.7024
    runs["RRF60"] = fused_by_rrf([runs["bm25"], runs["tasb"], runs["spladepp"]])
    # repllama's scores are cut to three decimals and tie: 0.7439 by its ranks, less by its scores, as trec_eval orders
    runs["repllama, ranks"] = {q: {d: -float(place) for place, d in enumerate(scores)} for q, scores in runs["repllama"].items()}
    expected = {"bm25": 0.5058, "tasb": 0.7210, "spladepp": 0.7308, "repllama, ranks": 0.7439, "repllama": 0.7384, "RRF60": 0.7263}
    assert {name: round(evaluate(qrels, runs[name], [nDCG @ 10])["nDCG@10"], 4) for name in expected} == expected


def fused_by_rrf(runs: list[S]) -> S:
    """By our own op, over rows in the order of trec_eval; what it gives is again a run."""
    fused = {}
    for query in sorted(set().union(*runs)):
        orders = [trec_order(query, run.get(query, {})) for run in runs]
        ids = sorted(set().union(*orders))
        rows = {document: row for row, document in enumerate(ids)}
        lists = [(np.array([rows[d] for d in order], np.int64), -np.arange(len(order), dtype=np.float32)) for order in orders]
        hits = fuse([lists], method="rrf", k=60)[0]
        fused[query] = {ids[row]: float(score) for row, score in zip(*hits)}
    return fused


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
        ("nDCG(dcg='exp-log2')@10", nDCG(gain="exponential") @ 10),
        ("nDCG(dcg='log2')", nDCG),
        ("RBP(p=0.9)", RBP(p=0.9)),
        ("rbp(rel=1, p=.5)@20", RBP(rel=1, p=0.5) @ 20),
        ("Judged@10", Judged @ 10),
        ("ERR@20", ERR @ 20),
        ("Success(rel=2)@1", Success(rel=2) @ 1),
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
    assert [str(m) for m in (RBP, RBP(rel=1), RBP(p=0.9, rel=2) @ 5)] == ["RBP", "RBP(rel=1)", "RBP(p=0.9,rel=2)@5"]
    for measure in (RBP(p=1 / 3), RBP(p=1e-7), RBP(rel=1, p=0.999), ERR @ 3, Judged, Success @ 1):
        assert parse_measure(str(measure)) == measure


def test_a_default_spelled_out_is_the_same_measure() -> None:
    assert MRR(rel=1) == MRR and RBP(p=0.8) == RBP and nDCG(gain="linear") == nDCG and len({MRR, MRR(rel=1)}) == 1
    assert RBP(rel=1) != RBP, "without rel the grades count"


@pytest.mark.parametrize("text", ["NERR8@10", "bpref", "x", "ndcg_cut_10"])
def test_unknown_measure_lists_the_known(text: str) -> None:
    with pytest.raises(InputError, match=r"nDCG, MRR \(RR\), Recall \(R\), P, MAP \(AP\), Success, Judged, RBP or ERR"):
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
        ("nDCG(dcg=exp)", "'dcg'"),
        ("nDCG(rel)", "rel: got"),
        ("R()@5", "''"),
        ("R(rel=1,rel=2)@5", "'rel'.*once"),
        ("RBP(p=1)", "RBP: p"),
        ("RBP(p=0.0)", "RBP: p"),
        ("RBP(p=nan)", "p: got nan"),
        ("RBP(p=-0.5)", "p: got -0.5"),
        ("ERR(rel=1)@5", "ERR: rel.*no parameter"),
        ("Judged(p=0.5)", "Judged: p"),
        ("Success", "no cutoff.*Success@10"),
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
    with pytest.raises(InputError, match=r"ERR: got relevance 5; expected grades to 4"):
        evaluate({"q": {"a": 5}}, RUN, [ERR])
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
    Success @ 2,
    RBP,
    RBP(rel=2, p=0.6) @ 3,
    ERR @ 3,
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
    with pytest.raises(InputError, match="may be judged or not"):
        evaluate_gains([[1]], [[1]], ["Judged@1"])
    with pytest.raises(NonFiniteError, match="grades below"):
        evaluate_gains([[2000]], [[2000]], [nDCG(gain="exponential")])
    assert evaluate_gains(np.zeros((0, 5), int), np.zeros((0, 1), int), [MAP, nDCG])["MAP"].shape == (0,)
