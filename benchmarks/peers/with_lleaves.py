"""lleaves: a LightGBM text model compiled by LLVM. `pip install lleaves==1.3.0 'llvmlite<0.44'`: newer llvmlite lacks what it calls."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lleaves
import numpy as np
from numpy.typing import NDArray


def ltr(text: str, documents: NDArray[np.float64]) -> Callable[[], Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.txt"
        path.write_text(text)
        model = lleaves.Model(model_file=str(path))
        model.compile()
    return lambda: model.predict(documents, n_jobs=1)
