"""Treelite on an XGBoost JSON model: its general interpreter (GTIL), and the model as C compiled by tl2cgen with gcc.
`pip install --no-deps treelite==4.8.1 tl2cgen==1.0.0`, with scipy and packaging."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import treelite
from numpy.typing import NDArray


def gtil(text: str, documents: NDArray[np.float32]) -> Callable[[], Any]:
    model = treelite.frontend.from_xgboost_json(text)
    return lambda: treelite.gtil.predict(model, documents, nthread=1, pred_margin=True).ravel()


def compiled(text: str, documents: NDArray[np.float32]) -> Callable[[], Any]:
    import tl2cgen

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.so"
        model = treelite.frontend.from_xgboost_json(text)
        tl2cgen.export_lib(model, toolchain="gcc", libpath=path, params={"parallel_comp": 2}, verbose=False)
        predictor = tl2cgen.Predictor(path, nthread=1)
    rows = tl2cgen.DMatrix(documents)
    return lambda: predictor.predict(rows, pred_margin=True).ravel()
