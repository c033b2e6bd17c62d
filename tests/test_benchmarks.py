"""The machinery that figures come from: the same collection every time, answers that are really checked, each query timed once."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("benchmarks") is None:
    sys.path.append(str(ROOT))

from benchmarks import bench_bulk, corpora, oracle, real_text, single_pass  # noqa: E402
from rerank_engine.ops import topk  # noqa: E402


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CACHE": tmp_path, "CHUNK": 200, "N_QUERIES": 20}.items():
        monkeypatch.setattr(corpora, name, value)


@pytest.mark.usefixtures("small")
def test_a_collection_begins_as_the_smaller_one_and_is_read_back_the_same() -> None:
    whole, part, again = corpora.synthetic(500), corpora.synthetic(300), corpora.synthetic(300)
    assert len(whole.documents) == 500
    first = whole.first(300)
    for collection in (part, again):
        assert np.array_equal(collection.documents.values, first.documents.values)
        assert np.array_equal(collection.documents.offsets, first.documents.offsets)
        assert np.array_equal(collection.df, first.df)
    assert part.queries == again.queries
    lengths = whole.documents.lengths
    assert lengths.min() >= 8 and lengths.max() <= 220 and 45 < lengths.mean() < 65
    distinct = sum(len(set(row.tolist())) for row in whole.documents)
    assert whole.n_postings == distinct == sum(whole.postings([t]) for t in np.flatnonzero(whole.df))
    for kind, least in {"nat": 3, "freq": 3}.items():
        assert len(whole.queries[kind]) == 20
        assert all(least <= len(query) <= 8 and len(set(query)) == len(query) for query in whole.queries[kind])
    assert all(min(query) >= 100 for query in whole.queries["nat"])
    assert all(min(query) < 30 for query in whole.queries["freq"])
    assert next(whole.texts()).split() == [f"t{term}" for term in whole.documents[0]]


@pytest.mark.usefixtures("small")
def test_the_oracle_is_bm25_and_refuses_what_is_wrong() -> None:
    collection = corpora.synthetic(300)
    query = collection.queries["freq"][0]
    scores = oracle.Oracle(collection, [query]).scores(query)
    lengths = collection.documents.lengths
    for row in (0, 7, 299):
        words, want = collection.documents[row].tolist(), 0.0
        for term in query:
            idf = np.log(1 + (300 - collection.df[term] + 0.5) / (collection.df[term] + 0.5))
            tf = words.count(term)
            want += idf * tf / (tf + 1.2 * (1 - 0.75 + 0.75 * lengths[row] / lengths.mean()))
        assert scores[row] == pytest.approx(want, rel=1e-12)
    rows, found = oracle.best(scores, 20)
    matching = np.flatnonzero(scores)
    want_rows, _ = topk(scores[matching].astype(np.float32), 20)
    assert set(rows.tolist()) == set(matching[want_rows].tolist())
    assert oracle.is_exact((rows, found), scores, 20, ordered=True)
    assert oracle.overlap((rows, found), scores, 20) == 1
    swapped = rows.copy()
    swapped[[0, 5]] = swapped[[5, 0]]
    assert not oracle.is_exact((swapped, found), scores, 20, ordered=False)
    assert not oracle.is_exact((rows, found * 1.001), scores, 20, ordered=False)
    assert not oracle.is_exact((rows[:19], found[:19]), scores, 20, ordered=False)
    assert not oracle.is_exact((np.repeat(rows[:1], 20), np.repeat(found[:1], 20)), scores, 20, ordered=False)
    assert oracle.overlap((rows[:10], found[:10]), scores, 20) == pytest.approx(0.5, abs=0.1)


def test_each_query_is_timed_once_a_side_in_turns() -> None:
    calls: list[tuple[str, int]] = []
    times = single_pass.single_pass({name: lambda i, name=name: calls.append((name, i)) for name in "ab"}, 60, budget_s=9)
    assert sorted(calls) == sorted((name, i) for name in "ab" for i in range(60))
    assert [name for name, i in calls if i % single_pass.BLOCK == 0] == ["a", "b", "b", "a", "a", "b"]
    assert len(times["a"]) == len(times["b"]) == 60
    stopped = single_pass.single_pass({"a": lambda i: sum(range(20_000)), "b": lambda i: None}, 60, budget_s=5e-3)
    assert len(stopped["a"]) == single_pass.BLOCK and len(stopped["b"]) == 60
    row = single_pass.compared(np.array([1.0, 1, 2, 9]), np.array([3.0, 3, 3]))
    assert (row["ours"], row["theirs"], row["queries"]) == (1, 3, 3)


def test_the_cost_model_finds_the_costs_in_spite_of_a_disturbance() -> None:
    rng = np.random.default_rng(0)
    postings, documents = rng.integers(1000, 1_000_000, 3000), rng.choice([100_000, 1_000_000], 3000)
    ms = 0.02 + 2e-6 * postings + 1e-7 * documents
    ms[rng.choice(3000, 60)] += 30
    (fixed, a_posting, a_document), fit = single_pass.linear_cost(ms, postings, documents, bins=48)
    assert a_posting == pytest.approx(2e-6, rel=0.02) and a_document == pytest.approx(1e-7, rel=0.1)
    assert fixed == pytest.approx(0.02, abs=0.01) and fit > 0.97


def test_real_text_becomes_ids_and_queries(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(200)]
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(words, 20).tolist()) for _ in range(300)]
    (tmp_path / "a.txt").write_text("\n".join([*lines, lines[0], "too short"]))
    collection = real_text.collection([tmp_path / "a.txt"])
    assert len(collection.documents) == 300 and collection.n_terms == 200
    assert collection.name == real_text.collection([tmp_path / "a.txt"]).name
    assert all(len(query) >= 2 for kind in ("nat", "freq") for query in collection.queries[kind])


def test_a_bulk_job_takes_from_its_first_part_begun_to_its_last_done() -> None:
    """Not each worker's own rate: one that came late, or had little to do, is no faster machine."""

    def part(process: int, pairs: int, seconds: float) -> dict[str, float]:
        return {"process": process, "pairs": pairs, "seconds": seconds}

    came = [(12.0, 3.0, part(1, 10, 2.0)), (13.5, 4.5, part(1, 10, 1.5)), (15.0, 9.0, part(2, 40, 4.0)), (16.0, 7.0, part(1, 30, 2.0))]
    assert bench_bulk.spent(came) == (6.0, 4.0 / 40)
    wall, cpu = bench_bulk.spent(came[2:])  # of each worker one part
    assert wall == 5.0 and np.isnan(cpu)
