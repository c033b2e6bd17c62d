from __future__ import annotations

import json

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine import errors
from rerank_engine.learning import Feature, FeatureMatrix, Incoming, Lexical, LinearModel, Metadata, Supplied, TreeModel, Words

TEXTS = ["radio waves cross the ocean", "the ocean is deep", "radio ocean radio", "fleas bite dogs", "ocean"]
CORPUS = rr.Corpus.from_texts(TEXTS, metadata=[{"clicks": n} for n in (5, 0, 1, 9, 100)])
INDEX = rr.BM25Index.build(CORPUS)
FEATURES = [Incoming(), Metadata("clicks", log=True), Supplied("pagerank", [0.1, 0.9, 0.5, 0.2, 0.3])]
NAMES = ("score", "reciprocal_rank", "clicks:log", "pagerank")


def linear(*weights: float, names=NAMES) -> LinearModel:
    return LinearModel(names, np.array(weights, float), np.zeros(len(names)), np.ones(len(names)))


def forest() -> TreeModel:
    rng = np.random.default_rng(0)
    x = rng.random((400, 4)).astype(np.float32) * [3, 1, 5, 1]
    y = np.clip(np.digitize(x[:, 0] + x[:, 3] * x[:, 2], [2, 3.5, 5]), 0, 3)
    return rr.LTR.train(FeatureMatrix(NAMES, x, np.arange(0, 401, 20), y), trees=15, leaves=6, min_leaf=5)


def test_it_orders_by_the_model():
    stage = rr.LTR(linear(0, 0, 1, 0), FEATURES)
    ranking = (rr.BM25(INDEX) >> stage)("ocean radio")
    assert ranking.doc_ids == ["4", "0", "2", "1"] and ranking.scale == "ltr"
    assert ranking.scores.tolist() == pytest.approx(np.log1p([100, 5, 1, 0]))
    assert [step.name for step in ranking.trace] == ["BM25", "LTR"] and ranking.explain(4) == {}
    assert repr(stage) == "LTR(LinearModel(4 features), numpy)"
    assert rr.LTR(linear(0, 0, 0, 0), FEATURES)("q", CORPUS).doc_ids == ["0", "1", "2", "3", "4"]  # ties: by row


def test_names_decide_not_their_order():
    mixed = linear(1, 0, names=("pagerank", "clicks"))
    ranking = rr.LTR(mixed, [Metadata("clicks"), Supplied("pagerank", [0.1, 0.9, 0.5, 0.2, 0.3])])("q", CORPUS)
    assert ranking.doc_ids == ["1", "2", "4", "3", "0"]
    with pytest.raises(errors.InputError, match="none for clicks:log, pagerank; unknown query_length"):
        rr.LTR(linear(1, 1, 1, 1), [Incoming(), QueryLength()])
    with pytest.raises(errors.InputError, match="none for clicks; unknown clicks:log"):  # trained on one, never scored on the other
        rr.LTR(linear(1, names=("clicks",)), [Metadata("clicks", log=True)])
    for features, text in (([], "at least one"), ([rr.Top(1)], "a Feature"), ([Incoming(), Incoming()], "twice")):
        with pytest.raises(errors.InputError, match=text):
            rr.LTR(linear(1, 1, 1, 1), features)
    with pytest.raises(errors.InputError, match="TreeModel"):
        rr.LTR(7, FEATURES)


class QueryLength(Feature):
    names = ("query_length",)

    def values(self, queries, rankings):
        return [np.full((len(r), 1), len(q.text), np.float32) for q, r in zip(queries, rankings)]


def test_depth_keeps_the_tail():
    ranking = (rr.BM25(INDEX) >> rr.LTR(linear(0, 0, 0, 1), FEATURES, depth=2))("ocean radio")
    first = rr.BM25(INDEX)("ocean radio").doc_ids
    assert set(ranking.doc_ids[:2]) == set(first[:2]) and ranking.doc_ids[2:] == first[2:]
    told = (rr.BM25(INDEX) >> rr.LTR(linear(0, 0, 0, 1), FEATURES, depth=2, explain=True))("ocean radio").columns["ltr:pagerank"]
    assert not np.isnan(told[:2]).any() and len(told) == 4 and np.isnan(told[2:]).all()  # 0 would be a rank of theirs
    twice = (
        rr.BM25(INDEX) >> rr.LTR(linear(0, 0, 0, 1), FEATURES, explain=True) >> rr.LTR(linear(0, 0, 0, 1), FEATURES, depth=2, explain=True)
    )
    assert not np.isnan(twice("ocean radio").columns["ltr:pagerank"]).any()
    assert rr.LTR(linear(1, 0, 0, 0), FEATURES)("q", []).doc_ids == []
    assert "depth=2" in repr(rr.LTR(linear(1, 0, 0, 0), FEATURES, depth=2))


def test_trees_in_a_pipeline_and_from_files(tmp_path):
    pytest.importorskip("lightgbm")
    model = forest()
    stage = rr.LTR(model, FEATURES)
    assert stage.backend in ("cpp", "reference") and "15 trees" in repr(stage)
    pipeline = rr.BM25(INDEX) >> stage
    batch = pipeline.run(["ocean radio", "fleas", "zebra"])
    assert [len(r) for r in batch] == [4, 1, 0] and batch[0].doc_ids == pipeline("ocean radio").doc_ids
    before = rr.BM25(INDEX)("ocean radio")
    x = rr.LTR.matrix(FEATURES, ["ocean radio"], [before]).values
    want = dict(zip(before.ids.tolist(), model.score(x).astype(np.float32).tolist()))
    assert dict(zip(batch[0].ids.tolist(), batch[0].scores.tolist())) == want
    model.save(tmp_path / "model.json")
    (tmp_path / "lightgbm.txt").write_text(model.text)
    assert (
        rr.LTR(tmp_path / "model.json", FEATURES)("ocean", CORPUS).doc_ids
        == rr.LTR(str(tmp_path / "model.json"), FEATURES)("ocean", CORPUS).doc_ids
    )
    with pytest.raises(errors.InputError, match="none for f0"):  # a library's file has the library's names
        rr.LTR(tmp_path / "lightgbm.txt", FEATURES)
    renamed = rr.LTR(rr.learning.load(tmp_path / "lightgbm.txt", NAMES), FEATURES)
    assert renamed("ocean", CORPUS).scores.tolist() == stage("ocean", CORPUS).scores.tolist()


@pytest.mark.parametrize("kind", ["trees", "linear"])
def test_one_ranking_explained(kind):
    if kind == "trees":
        pytest.importorskip("lightgbm")
    model = forest() if kind == "trees" else linear(1, 2, 3, -4)
    stage, before = rr.LTR(model, FEATURES, explain=True), rr.BM25(INDEX)("ocean radio")
    told = stage.explain("ocean radio", before)
    after = (rr.BM25(INDEX) >> stage)("ocean radio")
    assert [row["id"] for row in told.rows] == after.doc_ids and [row["score"] for row in told.rows] == after.scores.tolist()
    for row in told.rows:
        assert set(row["features"]) == set(row["contributions"]) == set(NAMES)
        assert told.bias + sum(row["contributions"].values()) == pytest.approx(row["score"], abs=1e-5)
        assert before.ids[row["before"] - 1] == row["row"]
        assert row["features"]["clicks:log"] == pytest.approx(np.log1p(CORPUS[row["row"]].metadata["clicks"]))
        note = after.explain(row["row"])["LTR"]
        assert float(note.split(" ")[0]) == pytest.approx(row["score"], rel=1e-3) and " by " in note
        assert after.columns["ltr:clicks:log"][row["rank"] - 1] == np.float32(row["features"]["clicks:log"])
    json.dumps(told.to_dict())
    text = told.to_text(documents=2, features=3)
    assert text.startswith("'ocean radio': every score begins with") and text.count("was ") == 2 and len(text.splitlines()) == 9
    assert rr.LTR(model, FEATURES, depth=2).explain("ocean radio", before).rows[-1]["rank"] == 2
    assert len(stage.explain(rr.Query("q"), ["a"] * 5).rows) == 5
    assert stage("ocean radio", before).columns.keys() >= {f"ltr:{name}" for name in NAMES}


def test_after_the_deadline_the_old_order_stays():
    class Slow(Feature):
        names = ("slow",)

        def values(self, queries, rankings):
            import time

            time.sleep(0.02)
            return [np.arange(len(r), dtype=np.float32)[:, None] for r in rankings]

    stage = rr.LTR(linear(1, names=("slow",)), [Slow()], explain=True)
    assert stage("q", CORPUS).doc_ids == ["4", "3", "2", "1", "0"]
    for deadline in (0, 5):
        late = stage("q", CORPUS, deadline_ms=deadline)
        assert late.doc_ids == ["0", "1", "2", "3", "4"] and not late.columns["scored"].any() and late.unfinished and late.explain(0) == {}
    timely = stage("q", CORPUS, deadline_ms=60_000)
    assert timely.doc_ids == ["4", "3", "2", "1", "0"] and not timely.unfinished


def test_a_score_beyond_float32_is_refused():
    with pytest.raises((errors.NonFiniteError, OverflowError), match="float32"):
        rr.LTR(linear(0, 0, 1e300, 0), FEATURES)("q", CORPUS)


def test_it_learns_to_rank_a_real_collection(shared_data):
    """cranfield: features of BM25, of titles' and texts' words, trained on half of the queries, beat BM25's order on the others."""
    pytest.importorskip("lightgbm")
    folder = shared_data / "cranfield"
    if not folder.is_dir():
        pytest.skip("no folder shared/data/cranfield beside the checkout")
    from rerank_engine.evaluation import load_beir

    found = load_beir(folder)
    index = rr.BM25Index.build(found.corpus)
    titles = rr.BM25Index.build(rr.Corpus.from_texts([d.title for d in found.corpus], ids=found.corpus.ids))
    queries = [q for q in found.queries if found.qrels.get(q.id)]
    features = [
        Incoming(),
        Lexical(index.with_parameters(k1=0.6, b=0.9), "long"),
        Lexical(titles, "title"),
        Words(field="title", name="words"),
    ]
    candidates = rr.BM25(index, k=100).run(queries)
    matrix = rr.LTR.matrix(features, queries, candidates, found.qrels)
    train, test = matrix.take(range(0, len(queries), 2)), matrix.take(range(1, len(queries), 2))
    model = rr.LTR.train(train, kind="linear", rounds=2)
    assert test.evaluate(model.score(test.values)) > test.evaluate(test.column("score")) - 0.01
    trees = rr.LTR.train(train, trees=60, leaves=7, learning_rate=0.05, min_leaf=20)
    ranking = (rr.BM25(index, k=100) >> rr.LTR(trees, features) >> rr.Top(10))(queries[1])
    assert len(ranking) == 10
