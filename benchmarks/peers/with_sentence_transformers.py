"""sentence-transformers' CrossEncoder at its defaults, in torch, onnxruntime and OpenVINO: sorted by characters, batches of 32, padded."""

from __future__ import annotations

from typing import Any

import onnxruntime
import torch
from sentence_transformers import CrossEncoder

from benchmarks.cross import N, Score
from benchmarks.cross_models import Models


def in_torch(models: Models) -> Score:
    return _score(models)


def in_onnx(models: Models) -> Score:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    chosen = {"file_name": "onnx/model.onnx", "export": False, "provider": "CPUExecutionProvider", "session_options": options}
    return _score(models, backend="onnx", model_kwargs=chosen)


def in_openvino(models: Models) -> Score:
    """It makes OpenVINO's graph of the weights, each time that it is loaded."""
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    return _score(models, backend="openvino", model_kwargs={"export": True, "ov_config": settings})


def _score(models: Models, **options: Any) -> Score:
    torch.set_num_threads(1)
    model = CrossEncoder(str(models.fp32), device="cpu", local_files_only=True, **options)
    # A quick run has a part of the pairs: in batches of a quarter, or they would be padded more than all are.
    return lambda p: model.predict(p, batch_size=32 if len(p) >= N else 8, show_progress_bar=False)
