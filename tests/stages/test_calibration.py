from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from counting import counting_fixture  # noqa: F401
from models import words

import rerank_engine as rr
from rerank_engine.errors import FileFormatError, InputError, MissingDependency
from rerank_engine.stages.calibration import Activate, Calibration, sigmoid

RNG = np.random.default_rng(1)
X = RNG.normal(0, 4, 2000)
RELEVANT = RNG.random(2000) < sigmoid(0.7 * X - 1)


@pytest.fixture(params=["isotonic", "platt"])
def made(request):
    pytest.importorskip("sklearn")
    return Calibration.fit(X, RELEVANT, method=request.param, fingerprint="abc", label=2)


def test_probabilities_are_those_of_the_labels(made):
    grid = np.linspace(-6, 8, 29)
    assert np.abs(made(grid) - sigmoid(0.7 * grid - 1)).max() < 0.1
    assert (np.diff(made(np.linspace(-100, 100, 5000))) >= 0).all() and made(grid).dtype == np.float64
    assert abs(made(X).mean() - RELEVANT.mean()) < 1e-3, "calibrated in the large"
    assert (made.pairs, made.relevant, made.fingerprint, made.label) == (2000, int(RELEVANT.sum()), "abc", 2)


def test_platt_finds_slope_and_intercept():
    pytest.importorskip("sklearn")
    made = Calibration.fit(X, RELEVANT, method="platt")
    assert made.x == pytest.approx([-1, 0.7], abs=0.2)
    apart = Calibration.fit([-2.0, -1.0, 1.0, 2.0], [False, False, True, True], method="platt")
    assert 0.5 < apart(2.0) < 0.9, "Platt's targets: four pairs prove little"


def test_isotonic_is_what_scikit_learn_predicts():
    sklearn = pytest.importorskip("sklearn.isotonic")
    other = sklearn.IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(X, RELEVANT)
    grid = np.linspace(-20, 20, 999)
    assert np.abs(Calibration.fit(X, RELEVANT)(grid) - other.predict(grid)).max() < 1e-12


def test_saved_and_loaded(made, tmp_path):
    made.save(tmp_path / "c.json")
    again = Calibration.load(tmp_path / "c.json")
    assert again(X).tolist() == made(X).tolist() and again.to_dict() == made.to_dict()
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]
    made.save(tmp_path / "c.json")
    with pytest.raises(InputError, match="cannot write"):
        made.save(tmp_path / "no" / "c.json")


@pytest.mark.parametrize(
    "change",
    [
        {"method": "magic"},
        {"x": [1.0, 0.0]},
        {"x": [0.0, float("nan")]},
        {"y": [0.0, 2.0]},
        {"y": [0.5, 0.1]},
        {"y": [0.5]},
        {"x": []},
        {"x": "ab"},
        {"x": [[0.0, 1.0]]},
        {"pairs": "many"},
        {"label": True},
        {"kind": "bound"},
    ],
)
def test_a_file_that_is_none(tmp_path, change):
    good = {"kind": "calibration", "method": "isotonic", "x": [0.0, 1.0], "y": [0.1, 0.9]}
    good |= {"fingerprint": "", "label": 0, "pairs": 4, "relevant": 2}
    path = tmp_path / "c.json"
    path.write_text(json.dumps(good))
    assert Calibration.load(path)(0.5) == pytest.approx(0.5)
    path.write_text(json.dumps({**good, **change}))
    with pytest.raises(FileFormatError):
        Calibration.load(path)
    path.write_text(json.dumps({key: good[key] for key in good if key not in change}))
    with pytest.raises(FileFormatError):
        Calibration.load(path)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_file_that_is_no_json(tmp_path, data):
    (tmp_path / "c.json").write_bytes(data)
    with pytest.raises(FileFormatError):
        Calibration.load(tmp_path / "c.json")


def test_pairs_that_teach_nothing():
    for x, labels in (([], []), ([1.0, 2.0], [True, True]), ([1.0, np.nan, 2.0, 3.0], [True, False, True, False])):
        with pytest.raises(InputError):
            Calibration.fit(x, labels)
    with pytest.raises(InputError):
        Calibration.fit([1.0, 2.0, 3.0, 4.0], [True, False])
    with pytest.raises(InputError):
        Calibration.fit(X, RELEVANT, method="beta")


def test_a_model_that_ranks_the_wrong_way():
    pytest.importorskip("sklearn")
    with pytest.raises(InputError, match="lower logits"):
        Calibration.fit(-X, RELEVANT, method="platt")


def test_without_scikit_learn(monkeypatch):
    made = Calibration("isotonic", np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert made(0.25) == 0.25, "applying one needs nothing"
    with pytest.raises(MissingDependency, match="scikit-learn"):
        Calibration.fit(X, RELEVANT)


def test_activate_keeps_the_order_of_a_thousand_saturated_logits():
    logits = np.float32(40) + np.arange(1000, dtype=np.float32)[::-1]
    rows = np.random.default_rng(0).permutation(1000)
    ranking = rr.Ranking(rows, logits, rr.Corpus.from_texts(["x"] * 1000), "logit")
    mapped = Activate("sigmoid")("q", ranking)
    assert mapped.ids.tolist() == rows.tolist() and mapped.scale == "probability" and set(mapped.scores.tolist()) == {1.0}
    assert (np.diff(mapped.columns["logit"]) < 0).all()


@pytest.mark.parametrize("start", [-20.0, -1.5, 0.25, 9.0, 60.0])
def test_activate_keeps_the_order_of_neighbouring_floats(made, start):
    logits = (np.float32(start) + np.arange(500) * np.spacing(np.float32(abs(start)))).astype(np.float32)[::-1]
    rows = np.random.default_rng(3).permutation(500)
    for mapping in ("sigmoid", made):
        mapped = Activate(mapping)("q", rr.Ranking(rows, logits, rr.Corpus.from_texts(["x"] * 500), "logit"))
        rr.Ranking(mapped.ids, mapped.scores, mapped.corpus)  # it refuses a rising score
        assert mapped.ids.tolist() == rows.tolist() and mapped.columns["logit"].tolist() == logits.tolist()
        want = sigmoid(logits) if mapping == "sigmoid" else made(logits)
        assert np.abs(mapped.scores - want).max() <= 2.0**-24, "the mapping, rounded once"


def test_the_calibration_belongs_to_a_network_and_to_how_it_reads(counting, tmp_path):
    model = counting(folder=tmp_path)
    Calibration("platt", np.array([0.0, 1.0]), np.empty(0), "f" * 64).save(tmp_path / "calibration.json")
    short = model.shortened(3)
    assert model.calibration is not None and short.calibration is None and model.shortened(3).calibration is None
    same = counting(folder=tmp_path)
    same.runtime.fingerprint = "f" * 64 + "/float16"
    assert same.calibration is not None, "the same weights, run in another way"
    other = counting(folder=tmp_path)
    other.runtime.fingerprint = "e" * 64
    with pytest.raises(InputError, match="of another network"):
        _ = other.calibration
    with pytest.raises(InputError, match="of another network or label"):
        _ = counting(folder=tmp_path, label=1).calibration


def test_calibrate_on_candidates_counts_what_is_not_judged(counting, tmp_path):
    pytest.importorskip("sklearn")
    model = counting(folder=tmp_path)
    texts = [words(i, 1 + i % 9) for i in range(30)] + [" "]
    ranking = rr.Ranking.in_order(rr.Corpus.from_texts(texts))
    logits = model.predict([("w1", text) for text in texts[:30]]).values
    qrels = {"a": {str(i): 2 for i in np.argsort(-logits)[:10].tolist()} | {"30": 2}, "b": {}}
    queries = [rr.Query("w1", "a"), rr.Query("w1", "b"), rr.Query("w1", "unknown")]
    made = model.calibrate(queries, ranking.corpus, qrels, candidates=[ranking] * 3, method="platt", rel=2, save=tmp_path / "own.json")
    assert (made.pairs, made.relevant) == (60, 10), "blank passages and queries without judgments are left out"
    assert Calibration.load(tmp_path / "own.json").to_dict() == made.to_dict() and not (tmp_path / "calibration.json").exists()
    with pytest.raises(InputError, match="0 relevant"):
        model.calibrate(queries, ranking.corpus, qrels, candidates=[ranking] * 3, rel=3)
    with pytest.raises(InputError, match="one ranking per query"):
        model.calibrate(queries, ranking.corpus, qrels, candidates=[ranking])


def test_activate_wants_logits():
    with pytest.raises(InputError, match="scale 'rank'"):
        Activate()("q", ["a", "b"])
    with pytest.raises(InputError):
        Activate("softmax")
    assert len(Activate()("q", [])) == 0
