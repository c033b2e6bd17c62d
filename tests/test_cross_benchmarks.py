"""The machinery behind the cross-encoder's figures: the same pairs every time, work counted right, wrong answers refused, honest tables."""

from __future__ import annotations

import importlib.util
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("benchmarks") is None:
    sys.path.append(str(ROOT))

from benchmarks import bench_cross_encoder as bench  # noqa: E402
from benchmarks import cross, cross_cascade, cross_models, cross_tables  # noqa: E402
from rerank_engine import Corpus, Query, Ranking  # noqa: E402


@pytest.fixture
def tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that takes each word for a token, without special tokens; questions of 5 words, so that the demo has some."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(cross, "QUERY_TOKENS", 5)
    return tmp_path / "tokenizer.json"


def test_pairs_have_the_lengths_asked_for_and_other_texts_each_round(tokenizer: Path) -> None:
    lengths = cross.passage_lengths()
    assert {name: len(found) for name, found in lengths.items()} == {"marco100": 100, "var100": 100}
    assert all(np.array_equal(found, cross.passage_lengths()[name]) for name, found in lengths.items())
    marco, var = lengths["marco100"], lengths["var100"]
    assert 65 < marco.mean() < 90 and marco.max() > 400 and np.std(var) > 1.5 * np.std(marco)
    few = cross.quarter(marco)
    assert len(few) == 25 and few.max() == marco.max()
    assert len(few) * few.max() / few.sum() == pytest.approx(100 * marco.max() / marco.sum(), rel=0.1)
    first, again, other = (cross.pairs(tokenizer, few, number) for number in (1, 1, 2))
    assert first == again and not set(first) & set(other)
    assert np.array_equal(cross.pair_lengths(tokenizer, first), cross.QUERY_TOKENS + few)
    assert len({query for query, _ in first}) == 1
    two = [query for query, _ in cross.pairs(tokenizer, few, 1, queries=2)]
    assert len(set(two)) == 2 and two == sorted(two, key=two.index)


def test_work_is_counted_as_a_loop_over_layers_does() -> None:
    lengths, h, f = np.array([3, 1, 7]), cross_models.HIDDEN, cross_models.INTERMEDIATE
    every, first = 0, 0
    for layer in range(cross_models.LAYERS):
        for n in lengths.tolist():
            rows = 1 if layer == cross_models.LAYERS - 1 else n
            for total, m in ((0, n), (1, rows)):
                work = 2 * 2 * n * h * h + 2 * 2 * m * h * h + 2 * m * 2 * h * f + 2 * 2 * m * n * h  # k v; q out; feed-forward; attention
                every, first = (every + work, first) if total == 0 else (every, first + work)
    assert cross_models.gflop(lengths) == pytest.approx(every / 1e9, rel=1e-12)
    assert cross_models.gflop(lengths, first_rows=True) == pytest.approx(first / 1e9, rel=1e-12)


def test_a_quantised_graph_becomes_a_plain_one_with_named_weights() -> None:
    pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    table, weight = rng.integers(0, 255, (10, 6), np.uint8), rng.integers(-127, 127, (6, 4)).astype(np.int8)
    scales, bias = rng.uniform(0.01, 0.02, 4).astype(np.float32), rng.standard_normal(4).astype(np.float32)
    arrays = {
        "words.weight_quantized": table, "words.weight_scale": np.float32(0.02), "words.weight_zero_point": np.uint8(128),
        "onnx::MatMul_1_quantized": weight, "onnx::MatMul_1_scale": scales, "onnx::MatMul_1_zero_point": np.zeros(4, np.int8),
        "dense.bias": bias,
    }  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["words.weight_quantized", "input_ids"], ["g_quantized"]),
        helper.make_node("DequantizeLinear", ["g_quantized", "words.weight_scale", "words.weight_zero_point"], ["g"]),
        helper.make_node("DynamicQuantizeLinear", ["g"], ["q", "q_scale", "q_zero"]),
        helper.make_node("Mul", ["q_scale", "onnx::MatMul_1_scale"], ["scales"]),
        helper.make_node("MatMulInteger", ["q", "onnx::MatMul_1_quantized", "q_zero", "onnx::MatMul_1_zero_point"], ["product"]),
        helper.make_node("Cast", ["product"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["cast", "scales"], ["scaled"]),
        helper.make_node("Add", ["dense.bias", "scaled"], ["logits"]),
    ]
    given = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n"])]
    out = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])]
    graph = helper.make_graph(nodes, "g", given, out, [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()])
    plain, state = cross_models.dequantised(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8))
    words, dense = (table.astype(np.float32) - 128) * np.float32(0.02), weight.astype(np.float32) * scales
    assert {name: array.shape for name, array in state.items()} == {"words.weight": (10, 6), "dense.weight": (4, 6), "dense.bias": (4,)}
    assert np.array_equal(state["words.weight"], words) and np.array_equal(state["dense.weight"], dense.T)
    assert [node.op_type for node in plain.graph.node] == ["Gather", "MatMul", "Add"]
    session = ort.InferenceSession(plain.SerializeToString(), providers=["CPUExecutionProvider"])
    ids = np.array([3, 0, 9])
    assert np.allclose(session.run(None, {"input_ids": ids})[0], words[ids] @ dense + bias, atol=1e-6)


class Fake:
    """Scores by length, and works a little: no timing may be nothing."""

    def __init__(self, precision: str, form: str = "", wrong: float = 0.0, device: str = "cpu") -> None:
        self.runtime = SimpleNamespace(name="fake", device=device, form=form, batch_sensitive=precision == "int8")
        self.wrong = wrong

    def predict(self, pairs: cross.Pairs) -> Any:
        assert sum(range(20_000)) > 0
        return SimpleNamespace(values=np.array([len(text) + self.wrong for _, text in pairs], np.float32))


@pytest.fixture
def speed(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bench.Speed]:
    def make(**changes: Fake) -> bench.Speed:
        own = {"ours-float32": Fake("float32", "packed"), "ours-int8": Fake("int8"), "own-torch": Fake("float32", "packed"), **changes}
        models = cross_models.Models(tokenizer.parent, tokenizer.parent)
        exact = Fake("float32")
        make = lambda models: lambda pairs: exact.predict(pairs).values  # noqa: E731
        entries = {p: bench.peers.Entry(f"{bench.REFERENCE}{p}", p, "", "") for p in ("float32", "int8")}
        monkeypatch.setattr(bench, "load", lambda models, name: own[name])
        monkeypatch.setattr(bench.peers, "installed", lambda kind: [(entries[kind], make)])
        monkeypatch.setattr(bench.peak, "fma", lambda flops: ("none", lambda: sum(range(20_000))))
        return bench.Speed(models, Namespace(rounds=2, quick=True, own=list(own), peers=None))

    return make


def test_rows_of_the_benchmark(speed: Callable[..., bench.Speed]) -> None:
    made = speed(**{"own-onnx-plain": Fake("float32", "as published")})
    rows = list(made.rows())
    assert [(r["case"], r["peer"]) for r in rows if "100" in r["case"][-3:] and "floor" not in r["case"]] == [
        (case, peer)
        for case in ("marco100", "var100")
        for peer in ("own-onnx-plain", f"{bench.REFERENCE}float32", f"{bench.REFERENCE}int8")
    ]  # own-torch runs as ours does here, so it has no row
    assert {r["metric"] for r in rows} == {"cpu_ms", "ms_per_gflop"} and all(r["verified"] and r["rounds"] == 2 for r in rows)
    by = {(r["case"], r["peer"]): r for r in rows}
    assert by["marco100", f"{bench.REFERENCE}int8"]["backend"] == "fake/cpu"
    floor = by["floor-marco100", "fma-peak"]
    assert (
        floor["backend"] == "fake/cpu (packed)" and floor["counted"] == "last layer: first rows" and floor["gflop"][0] < floor["gflop"][1]
    )
    assert floor["share_all_rows"] / floor["ratio"] == pytest.approx(floor["gflop"][1] / floor["gflop"][0], rel=0.3)
    assert "| against our fake/cpu (as published), float32 |" in cross_tables.speed(rows, "today")


@pytest.mark.parametrize(("side", "wrong"), [("ours-float32", 0.01), ("ours-int8", 0.01), ("own-torch", float("nan"))])
def test_a_wrong_answer_ends_the_benchmark(speed: Callable[..., bench.Speed], side: str, wrong: float) -> None:
    made = speed(**{side: Fake("int8" if side == "ours-int8" else "float32", "other", wrong)})
    with pytest.raises(SystemExit):
        list(made.rows())


def test_ours_that_cannot_be_loaded_is_no_row_that_is_missing_quietly(speed: Callable[..., bench.Speed], monkeypatch: Any) -> None:
    speed()
    monkeypatch.setattr(bench, "load", lambda models, name: (_ for _ in ()).throw(bench.BackendUnavailable("none here")))
    with pytest.raises(SystemExit):
        bench.Speed(cross_models.Models(ROOT, ROOT), Namespace(rounds=1, quick=True, own=["ours-float32"], peers=None))


def test_the_curve_counts_tokens_and_what_is_lost() -> None:
    corpus = Corpus.from_texts([f"passage {i}" for i in range(40)])
    queries = [Query("a", "1"), Query("b", "2")]
    rankings = [Ranking.in_order(corpus, np.arange(40)), Ranking.in_order(corpus, np.arange(40)[::-1])]
    scores = [np.arange(40, dtype=np.float32), np.arange(40, dtype=np.float32)]  # the last of each list is the best
    tokens = [np.full(40, 10), np.full(40, 30)]
    cheap = [np.arange(40, dtype=np.float32), -np.arange(40, dtype=np.float32)]  # right for the first query, wrong for the second
    qrels = {"1": {corpus[39].id: 1}, "2": {corpus[0].id: 1}}
    found = cross_cascade.Candidates("toy", qrels, queries, rankings)
    rows = {r["setting"]: r for r in cross_cascade.curve(found, scores, tokens, cheap)}
    assert rows["all"]["ndcg@10"] == 1 and rows["all"]["lost"] == 0 and rows["all"]["tokens_share"] == 1
    assert rows["first stage"]["ndcg@10"] == 0 and rows["cheap alone"]["ndcg@10"] == 0.5
    half = rows["first 50%"]
    assert half["tokens_share"] == 0.5 and half["ndcg@10"] == half["lost"] == 0.5
    text = cross_tables.cascade([{"kind": "floor"}, *rows.values()], "today")
    assert text.splitlines()[0] == "| | toy: tokens | nDCG@10 | lost |" and "| first 50% | 50 % | 0.5000 | +0.5000 |" in text


def test_the_curve_has_stops_that_were_calibrated_on_other_queries() -> None:
    rng, n = np.random.default_rng(0), 60
    corpus = Corpus.from_texts([f"passage {i}" for i in range(50)])
    queries, rankings = [Query("a", str(i)) for i in range(n)], [Ranking.in_order(corpus)] * n
    cheap = [np.sort(rng.standard_normal(50).astype(np.float32))[::-1] for _ in queries]
    scores = [row + rng.normal(0, 0.1, 50).astype(np.float32) for row in cheap]  # the cheap order is nearly right: few need be read
    qrels = {query.id: {corpus[int(row.argmax())].id: 1} for query, row in zip(queries, scores)}
    found = cross_cascade.Candidates("toy", qrels, queries, rankings)
    rows = list(cross_cascade.curve(found, scores, [np.full(50, 10)] * n, cheap))
    stops = [r for r in rows if r["how"] == "cascade"]
    assert len(stops) == len(cross_cascade.DELTAS) and all(r["tokens_share"] < 0.6 and r["lost"] < 0.005 for r in stops)
    shares = [r["tokens_share"] for r in stops]
    assert shares == sorted(shares, reverse=True)  # who accepts to miss more reads less
    assert all(r["tokens_share"] <= cross_cascade.BUDGET for r in rows if r["how"] == "cascade-budget")
