"""sentence-transformers' CrossEncoder at its defaults, in torch and in onnxruntime: sorted by characters, batches of 32, padded."""

from __future__ import annotations

from typing import Any

import onnxruntime
import torch
from sentence_transformers import CrossEncoder

from benchmarks.cross import N, Side
from benchmarks.cross_models import Models


def sides(models: Models) -> dict[str, Side]:
    torch.set_num_threads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    chosen = {"file_name": "onnx/model.onnx", "export": False, "provider": "CPUExecutionProvider", "session_options": options}
    return {
        "sentence-transformers": _side(models),
        "sentence-transformers-onnx": _side(models, backend="onnx", model_kwargs=chosen),
    }


def _side(models: Models, **options: Any) -> Side:
    model = CrossEncoder(str(models.fp32), device="cpu", local_files_only=True, **options)
    # A quick run has a quarter of the pairs: in batches of a quarter, or they would be padded more than all are.
    return Side(lambda p: model.predict(p, batch_size=32 if len(p) >= N else 8, show_progress_bar=False), "float32", 1e-3)
