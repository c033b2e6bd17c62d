"""Writes the models of this folder and `expected.json`; see README.md."""

import json
from pathlib import Path

import numpy as np
import xgboost

HERE = Path(__file__).parent
KINDS = {
    "rank": {"objective": "rank:ndcg", "max_depth": 3},
    "leafwise": {"objective": "rank:pairwise", "grow_policy": "lossguide", "max_leaves": 40, "max_depth": 0, "min_child_weight": 0.01},
    "logistic": {"objective": "binary:logistic", "max_depth": 3},
    "poisson": {"objective": "count:poisson", "max_depth": 2},
    "dart": {"objective": "rank:ndcg", "booster": "dart", "rate_drop": 0.4, "max_depth": 2},
    "squared": {"objective": "reg:squarederror", "max_depth": 3, "num_parallel_tree": 2, "subsample": 0.5, "base_score": 0.7},
}


def main() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(600, 6)).round(1).astype(np.float32)
    values[rng.random(values.shape) < 0.15] = np.nan
    known = np.nan_to_num(values)
    grade = np.clip(np.digitize(known[:, 0] + known[:, 1] * known[:, 2], [-0.5, 0.3, 1.2]), 0, 4)
    shown = values[:60]
    expected = {
        "xgboost": xgboost.__version__,
        "features": [[None if np.isnan(x) else float(x) for x in row] for row in shown],
        "margins": {},
    }
    for name, settings in KINDS.items():
        ranks = settings["objective"].startswith("rank:")
        data = xgboost.DMatrix(
            values, label=grade > 1 if name == "logistic" else grade, feature_names=[f"x{i}" for i in range(6)] if ranks else None
        )
        if ranks:
            data.set_group([20] * 30)
        booster = xgboost.train({**settings, "seed": 1, "nthread": 1}, data, 6)
        booster.save_model(HERE / f"xgboost-{name}.json")
        asked = xgboost.DMatrix(shown, feature_names=booster.feature_names)
        expected["margins"][name] = [float(x) for x in booster.predict(asked, output_margin=True)]
    (HERE / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main()
