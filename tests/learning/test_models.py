"""Models as data: LightGBM's text, XGBoost's JSON, ours; their answers equal the libraries', and damage never gets through."""

from __future__ import annotations

import contextlib
import copy
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine import errors
from rerank_engine.learning import LinearModel, TreeModel, load

DATA = Path(__file__).parent / "data"
EXPECTED = json.loads((DATA / "expected.json").read_text())
FEATURES = np.array([[np.nan if x is None else x for x in row] for row in EXPECTED["features"]], np.float32)


def lightgbm_model(seed: int = 0, trees: int = 12, categories: bool = False, groups: bool = True, **settings):
    """(booster, its training rows)."""
    lightgbm = pytest.importorskip("lightgbm")
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(800, 6)).round(2)
    x[rng.random(x.shape) < 0.2] = np.nan
    x[rng.random(x.shape) < 0.2] = 0
    if categories:
        x[:, 3] = rng.integers(-1, 70, len(x))
    known = np.nan_to_num(x)
    y = np.clip(np.digitize(known[:, 0] + known[:, 1] * known[:, 2] + known[:, 3] % 3, [-0.5, 0.5, 1.5]), 0, 4)
    settings = {"objective": "lambdarank", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, **settings}
    group = [20] * 40 if settings["objective"] == "lambdarank" else None
    y = y > 1 if settings["objective"] == "binary" else y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = lightgbm.Dataset(x, y, group=group, categorical_feature=[3] if categories else "auto", params=settings)
        return lightgbm.train(settings, data, trees), x


@pytest.mark.parametrize("name", sorted(EXPECTED["margins"]))
def test_scores_are_xgboosts(name):
    model = load(DATA / f"xgboost-{name}.json")
    assert isinstance(model, TreeModel) and model.names[0] in ("x0", "f0")
    for given in (FEATURES, FEATURES.astype(np.float64)):
        got = model.score(given)
        assert got.astype(np.float32).tolist() == np.array(EXPECTED["margins"][name], np.float32).tolist()  # to the last bit
        assert np.array_equal(model.score(given, backend="reference"), got)
    bias, added = model.contributions(FEATURES)
    assert np.allclose(bias + added.sum(axis=1), got, atol=1e-5)


@pytest.mark.parametrize("name", ["rank", "dart"])
def test_trees_up_to_the_best_iteration_count(name):
    told = json.loads((DATA / f"xgboost-{name}.json").read_text())
    whole = TreeModel.parse(json.dumps(told))
    told["learner"]["attributes"]["best_iteration"] = "2"
    best = TreeModel.parse(json.dumps(told))
    assert best.ensemble.n_trees == 3 < whole.ensemble.n_trees
    booster = told["learner"]["gradient_booster"]
    model = (booster["gbtree"] if name == "dart" else booster)["model"]
    model["trees"], model["tree_info"] = model["trees"][:3], model["tree_info"][:3]
    booster["weight_drop"] = booster.get("weight_drop", [])[:3]
    del told["learner"]["attributes"]["best_iteration"]
    assert np.array_equal(best.score(FEATURES), TreeModel.parse(json.dumps(told)).score(FEATURES))
    for wrong in ("-1", "x", []):
        told["learner"]["attributes"]["best_iteration"] = wrong
        with pytest.raises(errors.CorruptModelError):
            TreeModel.parse(json.dumps(told))


def test_a_model_that_has_scored_is_copied():
    model = load(DATA / "xgboost-rank.json")
    scores = model.score(FEATURES)
    again = copy.deepcopy(model)
    assert "native" not in vars(again.ensemble) and np.array_equal(again.score(FEATURES), scores)
    assert not again.ensemble.leaves.flags.writeable


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"use_missing": False}, {"zero_as_missing": True}, {"num_leaves": 50}, {"num_leaves": 150, "min_data_in_leaf": 1},
        {"categories": True, "num_leaves": 40, "min_data_per_group": 1, "cat_smooth": 0.1}, {"boosting": "dart"}, {"objective": "binary"},
        {"objective": "regression"}, {"objective": "rank_xendcg"}, {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
    ],
    ids=str,
)  # fmt: skip
def test_scores_are_lightgbms(settings):
    if settings.get("objective") == "rank_xendcg":
        settings = {"objective": "lambdarank", "lambdarank_norm": False}
    booster, x = lightgbm_model(**settings)
    model = TreeModel.parse(booster.model_to_string())
    rows = np.concatenate([x, np.where(np.isnan(x), 0, x)[:50], x[:40] * 1e-36, np.full((1, 6), np.inf), np.full((1, 6), -np.inf)])
    for given in (rows, rows.astype(np.float32)):
        want = booster.predict(given, raw_score=settings.get("boosting") != "rf")  # a raw score of a forest is a sum, not its mean
        assert np.array_equal(model.score(given), want)
        assert np.array_equal(model.score(given[:60], backend="reference"), want[:60])
    if settings.get("boosting") != "rf":  # its contributions are sums too
        bias, added = model.contributions(rows[:50])
        assert bias == pytest.approx(booster.predict(rows[:1], pred_contrib=True)[0, -1], abs=1e-12)
        assert np.allclose(bias + added.sum(axis=1), want[:50], atol=1e-6)
    gain = dict(zip(model.names, booster.feature_importance("gain").tolist()))
    split = dict(zip(model.names, booster.feature_importance("split").tolist()))
    assert model.importance() == pytest.approx(gain) and model.importance("split") == split
    assert list(model.importance().values()) == sorted(model.importance().values(), reverse=True)


def test_a_model_is_kept_as_data(tmp_path):
    booster, x = lightgbm_model()
    model = TreeModel.parse(booster.model_to_string(), [f"name {i}" for i in range(6)])
    model.save(tmp_path / "model.json")
    again = load(tmp_path / "model.json")
    assert again.names == model.names and np.array_equal(again.score(x), model.score(x)) and again.objective == "lambdarank"
    assert set(json.loads((tmp_path / "model.json").read_text())) == {"kind", "names", "training", "model"}
    booster.save_model(tmp_path / "lightgbm.txt")
    assert load(tmp_path / "lightgbm.txt").names == ("Column_0", "Column_1", "Column_2", "Column_3", "Column_4", "Column_5")
    assert load(tmp_path / "lightgbm.txt", "abcdef").names == tuple("abcdef")
    with pytest.raises(errors.InputError, match="6, one for each column"):
        load(tmp_path / "lightgbm.txt", ["a", "b"])
    with pytest.raises(errors.InputError, match="twice"):
        load(tmp_path / "lightgbm.txt", list("aabcde"))
    with pytest.raises(errors.InputError, match="without a library's text"):
        TreeModel(model.names, model.ensemble).save(tmp_path / "x.json")
    with pytest.raises(errors.InputError, match="cannot write"):
        model.save(tmp_path / "absent" / "model.json")


def test_what_is_no_model_is_refused(tmp_path):
    corrupt = [
        '{"learner": {}}',
        "tree\n",
        "tree\nversion=v4\n",
        '{"kind": "ltr-linear"}',
        '{"kind": "ltr-trees", "names": ["a"], "training": {}, "model": "x"}',
        '{"kind": "ltr-trees", "names": 5, "training": {}, "model": "tree\\n"}',
        '{"learner": ' + "[" * 100_000,
    ]
    other = ["", "hello", "{}", '{"kind": "bound"}', "[" * 100_000]
    for text, error in [*((text, errors.CorruptModelError) for text in corrupt), *((text, errors.FileFormatError) for text in other)]:
        (tmp_path / "model").write_text(text)
        with pytest.raises(error):
            load(tmp_path / "model")
    (tmp_path / "model").write_bytes(b"{L\x00\x00\xff\xfe")
    with pytest.raises(errors.FileFormatError, match="no text"):
        load(tmp_path / "model")
    with pytest.raises(errors.FileFormatError):
        load(tmp_path / "absent")
    with pytest.raises(errors.CorruptModelError, match="LightGBM's text or XGBoost's JSON"):
        TreeModel.parse("what")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("num_class=1", "num_class=3"), ("num_tree_per_iteration=1", "num_tree_per_iteration=3"), ("version=v4", "version=v9"),
        ("is_linear=0", "is_linear=1"),
    ],
)  # fmt: skip
def test_lightgbm_models_of_another_kind_are_refused(old, new):
    text = lightgbm_model(trees=2)[0].model_to_string()
    assert old in text
    with pytest.raises(errors.UnsupportedModelError):
        TreeModel.parse(text.replace(old, new))


OTHER_KINDS = [
    ('"name":"gbtree"', '"name":"gblinear"'),
    ('"num_class":"0"', '"num_class":"3"'),
    ('"num_target":"1"', '"num_target":"2"'),
    ('"name":"rank:ndcg"', '"name":"survival:cox"'),
    ('"split_type":[0', '"split_type":[1'),
    ('"size_leaf_vector":"1"', '"size_leaf_vector":"2"'),
    ('"feature_types":[]', '"feature_types":["c"]'),
]


@pytest.mark.parametrize(("old", "new"), OTHER_KINDS)
def test_xgboost_models_of_another_kind_are_refused(old, new):
    text = (DATA / "xgboost-rank.json").read_text()
    assert old in text
    with pytest.raises(errors.UnsupportedModelError):
        TreeModel.parse(text.replace(old, new))


def mutations(text: str, rng: np.random.Generator, n: int):
    """Characters, numbers and lines changed, removed, doubled or moved, and the text cut short."""
    numbers = [
        "-1",
        "0",
        "1",
        "2147483647",
        "2147483648",
        "-2147483649",
        "9" * 30,
        "1e400",
        "nan",
        "inf",
        "-inf",
        "",
        "x",
        "null",
        "[]",
        '"a"',
    ]
    for _ in range(n):
        characters = list(text)
        kind = int(rng.integers(5))
        if kind == 0:
            for at in rng.integers(0, len(text), rng.integers(1, 6)).tolist():
                characters[at] = chr(int(rng.integers(32, 127)))
            yield "".join(characters)
        elif kind == 1:
            yield text[: int(rng.integers(0, len(text)))]
        elif kind == 2:
            digits = [i for i, c in enumerate(text) if c.isdigit()]
            start = end = int(rng.choice(digits))
            while start > 0 and (text[start - 1].isdigit() or text[start - 1] in ".-eE"):
                start -= 1
            while end < len(text) and (text[end].isdigit() or text[end] in ".eE+-"):
                end += 1
            yield text[:start] + str(rng.choice(numbers)) + text[end:]
        elif kind == 3:
            a, b = sorted(rng.integers(0, len(text), 2).tolist())
            yield text[:a] + text[min(b, a + int(rng.integers(1, 80))) :]
        else:
            parts = text.split("\n") if "\n" in text else text.split(",")
            i, j = rng.integers(0, len(parts), 2).tolist()
            parts[i], parts[j] = parts[j], parts[i]
            yield ("\n" if "\n" in text else ",").join(parts)


@pytest.mark.parametrize("source", ["lightgbm", "lightgbm-categories", "xgboost-rank", "xgboost-leafwise", "xgboost-dart"])
def test_damage_is_refused_or_scores(source, thorough):
    """A model file that was changed anywhere is refused by our own errors, or is another model: never a crash, never a hang."""
    if source.startswith("lightgbm"):
        text = lightgbm_model(trees=3, categories="cat" in source, num_leaves=8)[0].model_to_string()
        text = text[: text.index("end of trees") + 200]
    else:
        text = (DATA / f"{source}.json").read_text()
    rng, read = np.random.default_rng(0), 0
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for changed in mutations(text, rng, 3000 if thorough else 300):
            with contextlib.suppress(errors.ModelError, errors.InputError):
                model = TreeModel.parse(changed)
                rows = rng.normal(size=(20, len(model.names)))
                got = model.score(rows)
                assert np.array_equal(got, model.score(rows, backend="reference"))
                model.contributions(rows)
                read += 1
    assert read > 0


def test_a_weighted_sum(tmp_path):
    model = LinearModel(("a", "b"), np.array([2.0, -1.0]), np.array([1.0, 0.0]), np.array([2.0, 4.0]), 0.5)
    x = np.array([[3.0, 4.0], [1.0, np.nan], [np.nan, -8.0]])
    bias, added = model.contributions(x)
    assert bias == 0.5 and added.tolist() == [[2, -1], [0, 0], [0, 2]] and model.score(x).tolist() == [1.5, 0.5, 2.5]
    assert list(model.importance()) == ["a", "b"]
    model.save(tmp_path / "m.json")
    again = load(tmp_path / "m.json")
    assert again.names == model.names and np.array_equal(again.score(x), model.score(x))
    told = json.loads((tmp_path / "m.json").read_text())
    for change in (
        {"weights": [1.0]},
        {"scale": [0.0, 1.0]},
        {"mean": ["a", 1]},
        {"bias": None},
        {"names": ["a", "a"]},
        {"weights": [[1.0, 2.0]]},
    ):
        (tmp_path / "m.json").write_text(json.dumps({**told, **change}))
        with pytest.raises(errors.CorruptModelError):
            load(tmp_path / "m.json")
    for wrong in (np.zeros(2), np.zeros((1, 3)), np.array([[np.inf, 0.0]])):
        with pytest.raises(errors.InputError, match="LinearModel: features"):
            model.score(wrong)


def test_importance_as_a_picture(tmp_path):
    model = load(DATA / "xgboost-rank.json")
    pytest.importorskip("matplotlib")
    for name, kind in (("a.png", "gain"), ("b.svg", "split")):
        model.plot_importance(tmp_path / name, kind=kind, top=3)
        assert (tmp_path / name).stat().st_size > 1000
    LinearModel(("a",), np.ones(1), np.zeros(1), np.ones(1)).plot_importance(tmp_path / "c.png")
    with pytest.raises(errors.InputError, match="one of gain, split"):
        model.plot_importance(tmp_path / "a.png", kind="weight")
    with pytest.raises(errors.InputError, match="top"):
        model.plot_importance(tmp_path / "a.png", top=0)


def test_no_code_comes_from_a_file():
    assert rr.learning.load is load  # and tests/test_layout.py: no pickle, no eval
