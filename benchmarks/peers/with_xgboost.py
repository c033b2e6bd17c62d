"""XGBoost's own prediction in place from its JSON model. `pip install --no-deps xgboost==3.2.0`, with scipy: plainly installed it brings
CUDA's communication library along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray


def ltr(text: str, documents: NDArray[np.float32]) -> Callable[[], Any]:
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(text, "utf-8"))
    booster.set_param({"nthread": 1})
    return lambda: booster.inplace_predict(documents, predict_type="margin")
