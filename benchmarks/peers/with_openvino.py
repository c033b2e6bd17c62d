"""OpenVINO on the plain float32 graph: pairs sorted by length, four a call."""

from __future__ import annotations

import numpy as np
import openvino
from numpy.typing import NDArray

from benchmarks.cross import Pairs, Score
from benchmarks.cross_models import Models
from benchmarks.peers.with_onnxruntime import padded, read_tokenizer

BATCH = 4


def float32(models: Models) -> Score:
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(models.graph("float32"), "CPU", settings).create_infer_request()
    tokenizer = read_tokenizer(models.tokenizer)

    def score(pairs: Pairs) -> NDArray[np.float32]:
        encodings = tokenizer.encode_batch(pairs)
        order = np.argsort([len(encoding.ids) for encoding in encodings], kind="stable")
        out = np.empty(len(pairs), np.float32)
        for rows in (order[at : at + BATCH] for at in range(0, len(order), BATCH)):
            out[rows] = request.infer(padded([encodings[row] for row in rows]))[0].reshape(-1)
        return out

    return score
