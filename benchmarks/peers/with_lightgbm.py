"""LightGBM's own prediction from its text model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray


def ltr(text: str, documents: NDArray[np.float64]) -> Callable[[], Any]:
    booster = lightgbm.Booster(model_str=text)
    return lambda: booster.predict(documents, num_threads=1)
